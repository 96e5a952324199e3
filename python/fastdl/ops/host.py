"""Operations that are computed on the CPU wherever their tensors are."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from fastdl.errors import LinAlgError, warn_caller
from fastdl.kernels import capture, on_device
from fastdl.tensor import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def on_host(function: Function) -> Function:
    """A function that has no version for a GPU: tensors there are copied to the CPU, results and gradients back.

    For rare operations, and those whose result has no fixed size. Every such copy waits for the GPU: the first call
    says so, and while a graph is recorded, where nothing may wait, it is an error.
    """

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        where = _device((*args, *options.values()))
        name = function.__name__.lstrip("_")
        if where is not None:
            if capture.active:
                raise RuntimeError(
                    f"{name}: is computed on the CPU, which a graph cannot record; compute it before, "
                    "outside of the graph"
                )
            if function not in _told:
                _told.add(function)
                warn_caller(f"{name} has no CUDA kernel: computed on the CPU, with copies there and back")
            args = tuple(_moved(a, "cpu") for a in args)
            options = {name: _moved(value, "cpu") for name, value in options.items()}
        try:
            result = function(*args, **options)
        except np.linalg.LinAlgError as error:  # NumPy's own where a decomposition did not converge
            if isinstance(error, LinAlgError):
                raise
            raise LinAlgError(f"{name}: {error}") from None
        return result if where is None else _moved(result, where)

    return run  # type: ignore[return-value]


_told: set[Any] = set()


def _device(values: Any) -> Any:
    """The device of the first tensor on a GPU, None if all are on the CPU."""
    for value in values:
        if isinstance(value, Tensor):
            if on_device(value._data):
                return value.device
        elif isinstance(value, (list, tuple)) and (found := _device(value)) is not None:
            return found
    return None


def _moved(value: Any, where: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(where)
    if isinstance(value, (list, tuple)):
        parts = [_moved(v, where) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value

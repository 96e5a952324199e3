"""Finding where NaN comes from: ``detect_anomaly`` makes backward check every gradient."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any

import numpy as np

from fastdl.dtypes import DIFFERENTIABLE
from fastdl.kernels.sparse import SparseArray

__all__ = ["detect_anomaly", "is_anomaly_enabled", "set_detect_anomaly"]


class _State:
    enabled: bool = False
    check_nan: bool = True


state = _State()


def is_anomaly_enabled() -> bool:
    """Does backward check gradients for NaN?"""
    return state.enabled


class set_detect_anomaly:
    """Switch the check on or off: as a function or a context manager. See ``torch.autograd.set_detect_anomaly``."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = state.enabled, state.check_nan
        state.enabled, state.check_nan = bool(mode), bool(check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        state.enabled, state.check_nan = self._before


class detect_anomaly:
    """Inside the block backward stops with an error at the first operation whose gradient has a NaN.

    See ``torch.autograd.detect_anomaly``.

    Example:
        >>> import fastdl, warnings
        >>> warnings.simplefilter("ignore")
        >>> x = fastdl.zeros(1, requires_grad=True)
        >>> with fastdl.autograd.detect_anomaly():
        ...     (x / x).sum().backward()
        Traceback (most recent call last):
        ...
        RuntimeError: Function 'DivBackward' returned nan values in its 1th output.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self._check_nan = check_nan
        self._before: list[tuple[bool, bool]] = []
        warnings.warn(
            "Anomaly Detection has been enabled: backward is slower; use it to debug only", stacklevel=2
        )

    def __enter__(self) -> None:
        self._before.append((state.enabled, state.check_nan))
        state.enabled, state.check_nan = True, self._check_nan

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        state.enabled, state.check_nan = self._before.pop()


def check(node: Any, result: Any) -> None:
    """Raise if a gradient that ``node`` returned has a NaN."""
    for i, grad in enumerate(result if isinstance(result, tuple) else (result,)):
        if grad.__class__ is SparseArray:
            grad = grad.values._data
        if grad is not None and grad.dtype.kind in DIFFERENTIABLE and np.isnan(grad).any():
            raise RuntimeError(f"Function '{node.name()}' returned nan values in its {i}th output.")

"""The kernel contract's implementations, and the choice between them.

A *backend* is a module that offers the contract: the functions of :mod:`fastdl.kernels.reference`, with the same
arguments and results. ``cpu`` is the extension module, which runs the kernels of one instruction-set level
(:mod:`fastdl.kernels.level`); ``reference`` is NumPy; ``cuda`` works on CuPy's arrays and is imported by
:mod:`fastdl.devices` when the first of them is made.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastdl.kernels.level import ALL_LEVELS as ALL_LEVELS
from fastdl.kernels.level import levels as levels
from fastdl.kernels.level import load as load
from fastdl.kernels.level import load_best
from fastdl.kernels.meta import MetaArray as MetaArray
from fastdl.kernels.meta import MetaKernels

# A backend is typed Any: its functions are checked by the contract test, not by mypy.
Backend = Any

cpu: Backend = load_best()
_forced: Backend | None = None


class _Precisions:
    """How precisely the ``cuda`` backend computes products of float32 arrays: ``"highest"``, or TF32 otherwise."""

    matmul = "highest"
    convolution = "highest"


precisions = _Precisions()


class _Capture:
    active = False
    streams: dict[
        Any, Any
    ]  # of generators: what the recording draws from them (fastdl.random.RecordedStream)


capture = _Capture()
"""Whether a CUDA graph is being recorded: :mod:`fastdl.cuda` says so."""


class RecordedSeed:
    """Takes a seed's place in a CUDA graph: two words on the device, a seed and what is added to the offset.

    ``set_random_state`` of the backend sets them before each replay.
    """

    __slots__ = ("state",)

    def __init__(self, state: Any) -> None:
        self.state = state


class Remembered(list[Any]):
    """Arrays that a caller passes again and again: a backend keeps here what it has found out about them."""

    __slots__ = ("plan",)

    def __init__(self, arrays: Any) -> None:
        super().__init__(arrays)
        self.plan: Any = None


class NoDeviceArray:
    """The class of no array, until a GPU is in use: `select` then answers as if there were none."""


_device_class: type = NoDeviceArray
_device_backend: Backend = None


def select(array: Any) -> Backend:
    """The backend that computes on ``array``; None stands for an array on the CPU."""
    if array.__class__ is _device_class:
        return _device_backend
    if array.__class__ is MetaArray:
        return MetaKernels(_forced or cpu)
    return _forced or cpu


def set_device_backend(array_class: type, backend: Backend) -> None:
    """From now on ``backend`` computes on arrays of ``array_class`` (CuPy's)."""
    global _device_class, _device_backend
    _device_class, _device_backend = array_class, backend


def device_backend() -> Backend:
    """The backend that :func:`set_device_backend` named."""
    return _device_backend


def is_array(value: Any) -> bool:
    """Is this an array, on whatever device, rather than a number?"""
    return isinstance(value, np.ndarray) or value.__class__ in (_device_class, MetaArray)


def on_device(array: Any) -> bool:
    """Does this array lie in a GPU's memory?"""
    return array.__class__ is _device_class


def fill_with_zeros(arrays: list[Any]) -> None:
    """Make every element of all these floating-point arrays 0: on a GPU in few launches for all of them."""
    there = [a for a in arrays if on_device(a)]
    if there:
        _device_backend.zero_arrays(there)
    for a in arrays:
        if not on_device(a):
            a.fill(0)


def is_writable(array: Any) -> bool:
    """May the array's memory be written to? CuPy does not mark expanded views; their strides give them away."""
    if on_device(array):
        return array.size == 0 or not any(
            [stride == 0 and extent > 1 for stride, extent in zip(array.strides, array.shape, strict=True)]
        )
    return array.flags.writeable  # type: ignore[no-any-return]


def strided(array: Any, shape: Any, strides: Any) -> Any:
    """A view with any strides (in bytes), writable if ``array`` is."""
    if on_device(array):
        return array_module(array).lib.stride_tricks.as_strided(array, shape, strides)
    if array.__class__ is MetaArray:
        return MetaArray(strided(array.zeros, shape, strides))
    return select(array).strided(array, shape, strides)


def add_at(array: Any, key: Any, values: Any) -> None:
    """``array[key] += values`` of integers on a GPU, where the key may name an element several times.

    CuPy adds in any order, which must not matter.
    """
    if array.dtype.itemsize < 4:  # CuPy adds nothing narrower
        wide = array.astype(np.int32)
        array_module(array).add.at(wide, key, values.astype(np.int32))
        array[...] = wide.astype(array.dtype)
    else:
        array_module(array).add.at(array, key, values)


def select_either(x: Any, y: Any) -> Backend:
    """The backend for two operands, of which one may be a number."""
    return select(x if is_array(x) else y)


def array_module(array: Any) -> Any:
    """The module NumPy, or CuPy for an array on a GPU: for the few functions that do not find it by themselves."""
    return sys.modules[_device_class.__module__.partition(".")[0]] if on_device(array) else np


def array(value: Any, like: Any = None, dtype: Any = None) -> Any:
    """``value`` (a number, a NumPy array, an array already) as an array where ``like`` lies.

    NumPy's reductions and indexing return scalars where CuPy's return arrays of 0 dimensions; this makes both arrays.
    """
    if on_device(value) or value.__class__ is MetaArray:
        return value if dtype is None else value.astype(dtype, copy=False)
    if on_device(like):
        return np.asarray(value, dtype, like=like)
    return np.asarray(value, dtype)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run operations on another CPU backend inside a ``with`` block; process-wide. Tensors on a GPU keep theirs.

    Args:
        name: ``"reference"`` (NumPy, to debug a model), ``"cpu"`` (the default), or ``"cpu:<level>"``.

    Example:
        >>> import fastdl
        >>> with fastdl.use_backend("reference"):
        ...     fastdl.nn.functional.relu(fastdl.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    global _forced
    if name == "reference":
        backend: Backend = importlib.import_module("fastdl.kernels.reference")
    elif name == "cpu":
        backend = cpu
    elif name.startswith("cpu:"):
        backend = load(name.removeprefix("cpu:"))
    else:
        raise ValueError(f"use_backend: name must be 'reference', 'cpu' or 'cpu:<level>', got {name!r}")
    previous, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = previous

"""What differs between a GPU and its emulation: the extension module, new arrays, addresses, streams.

CuPy arrays go to ``fastdl._cuda``. NumPy arrays, and those of a stand-in for CuPy, go to the emulated extension once
:func:`emulate` has been given one (tests do that), so the same wrappers are tested without a GPU. Nothing here needs
CuPy until a CuPy array comes.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from ctypes import CDLL, c_void_p, cast
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import capture

Array = Any  # cupy.ndarray, or numpy.ndarray under emulation

_WORKSPACE = 32 << 20  # bytes, what cuBLAS recommends for Hopper
_NOT_READY = 600  # cudaErrorNotReady

# Element types as the extension numbers them (csrc/cuda/types.h).
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "float64": 3}
# Operations that report labels or indices out of range (csrc/cuda: Report).
OPERATIONS = {
    1: ("cross_entropy", "target"),
    2: ("nll_loss", "target"),
    3: ("embedding", "index"),
    4: ("embedding_backward", "index"),
    5: ("gather", "index"),
    6: ("gather_backward", "index"),
    7: ("ctc_loss", "targets"),
    8: ("scatter", "index"),
    9: ("multi_margin_loss", "target"),
    10: ("multilabel_margin_loss", "target"),
    11: ("lu_solve", "(pivots - 1)"),
    20: ("max_unpool", "indices"),
    21: ("max_unpool_backward", "indices"),
    22: ("adaptive_max_pool_backward", "indices"),
}


class Runtime:
    """One extension and the arrays it works on."""

    def __init__(self, extension: ModuleType) -> None:
        self.extension: Any = extension
        self.emulated = hasattr(extension, "set_order")


class Report:
    """Four words that kernels write to and the host reads, see :func:`raise_reports`."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.words = np.frombuffer(memory, np.uint64, 4)
        self.words[...] = 0
        self.__array_interface__ = self.words.__array_interface__
        self.data = SimpleNamespace(ptr=self.words.__array_interface__["data"][0])


class _Emulated(Runtime):
    ndarray = np.ndarray

    def __init__(self, extension: ModuleType) -> None:
        super().__init__(extension)
        self.words = Report(bytearray(32))

    def empty(self, shape: Any, dtype: Any) -> Array:
        """Filled with NaN (-1 in integers), so that what nobody writes is seen."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(255)
        return array

    def from_host(self, array: Any) -> Array:
        return array

    def zeros(self, shape: Any, dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def pointer(self, array: Array | None) -> int:
        return 0 if array is None else int(array.__array_interface__["data"][0])

    def pointers(self, arrays: Sequence[Array]) -> list[int]:
        return [self.pointer(array) for array in arrays]

    def stream(self) -> int:
        return 0

    def to_host(self, array: Array) -> Any:
        return array

    def device(self) -> int:
        return 0

    def finishes_within(self, seconds: float) -> bool:
        return True

    def capturing(self) -> bool:
        return False

    def report(self) -> Report:
        return self.words

    def reports(self) -> list[Report]:
        return [self.words]


class _CuPy(Runtime):
    def __init__(self) -> None:
        super().__init__(_stand_in or importlib.import_module("fastdl._cuda"))
        self.cupy = cupy = importlib.import_module("cupy")
        self.words: dict[int, Report] = {}
        self._blas: Any = None
        # What is called for every operation, without looking it up each time.
        self.ndarray = self.empty = cupy.ndarray  # an array that is not initialised, by its shape and dtype
        self._current_stream = cupy.cuda.get_current_stream
        self._get_device = cupy.cuda.runtime.getDevice

    def from_host(self, array: Any) -> Array:
        return self.cupy.asarray(array)

    def zeros(self, shape: Any, dtype: Any) -> Array:
        return self.cupy.zeros(shape, dtype)

    def pointer(self, array: Array | None) -> int:
        return 0 if array is None else array.data.ptr

    def pointers(self, arrays: Sequence[Array]) -> list[int]:
        return [array.data.ptr for array in arrays]

    def cublas(self) -> tuple[Any, int]:
        """cuBLAS's products, and the handle of the current device and thread."""
        try:
            handle = self.cupy.cuda.get_cublas_handle()
            if self._blas is None:
                self._blas = self._load_cublas(handle)
        except ImportError as error:
            raise RuntimeError(
                "matrix products on CUDA are cuBLAS's, which CuPy does not find; install CUDA's libraries: "
                f"pip install 'cupy-cuda13x[ctk]' ({error})"
            ) from None
        return self._blas, handle

    def _load_cublas(self, handle: int) -> Any:
        version = self.cupy.cuda.cublas.getVersion(handle)
        library = CDLL(f"libcublas.so.{version // 10000}")  # which CuPy has loaded
        names = "SetStream_v2", "SetWorkspace_v2", "GemmEx", "GemmStridedBatchedEx"
        functions = [getattr(library, f"cublas{name}") for name in names]
        return self.extension.Blas(*[cast(function, c_void_p).value for function in functions])

    def cublas_workspace(self) -> Array | None:
        """Memory for a product that is being recorded: without it cuBLAS would record an allocation for each."""
        return self.empty(_WORKSPACE, np.dtype(np.uint8)) if capture.active else None

    def to_host(self, array: Array) -> Any:
        return self.cupy.asnumpy(array)

    def device(self) -> int:
        """The current device's number."""
        return self._get_device()  # type: ignore[no-any-return]

    def finishes_within(self, seconds: float) -> bool:
        """Is the current stream done, with or without an error, before so many seconds have passed?"""
        query, stream = self.cupy.cuda.runtime.streamQuery, self.stream()
        end = time.monotonic() + seconds
        while query(stream) == _NOT_READY:
            if time.monotonic() > end:
                return False
            time.sleep(1e-4)
        return True

    def capturing(self) -> bool:
        """Is the current stream being recorded? Then nothing may wait for it."""
        return bool(self._current_stream().is_capturing())

    def stream(self) -> int:
        return self._current_stream().ptr  # type: ignore[no-any-return]

    def report(self) -> Report:
        """Words in the host's memory that the device writes to: the host reads them without a copy."""
        device = self.device()
        if device not in self.words:
            self.words[device] = Report(self.cupy.cuda.alloc_pinned_memory(32))
        return self.words[device]

    def reports(self) -> list[Report]:
        return list(self.words.values())


@cache
def _cupy() -> _CuPy:
    return _CuPy()


_emulated: _Emulated | None = None
_stand_in: ModuleType | None = None  # the extension, if not fastdl._cuda


def emulate(extension: ModuleType | None, numpy: bool = True) -> None:
    """Send NumPy arrays (``numpy=False``: those of a stand-in for CuPy only) to this build of the kernels for the CPU.

    With None as the extension NumPy arrays are refused again.
    """
    global _emulated, _stand_in
    _cupy.cache_clear()
    _stand_in = extension
    _emulated = None if extension is None or not numpy else _Emulated(extension)


def of(array: Array) -> Any:
    """The runtime that works on ``array``."""
    if isinstance(array, np.ndarray):
        if _emulated is None:
            raise ArgumentError(
                "a CUDA kernel received an array in the CPU's memory; move it with .to('cuda'): all arrays of an "
                "operation must be on one device"
            )
        return _emulated
    return _cupy()


def default() -> Any:
    """The runtime of functions that make arrays from nothing."""
    return _emulated or _cupy()


def empty(shape: Any, dtype: Any) -> Array:
    """An uninitialised array."""
    return default().empty(shape, dtype)


def raise_reports() -> None:
    """Raise what kernels have reported since the last call: a label or an index out of range.

    To be called where the host has just waited for the device (a copy to the CPU, ``synchronize``): the report is in
    the host's memory, looking at it costs nothing, and kernels themselves never wait. What an operation with a bad
    index computed is unspecified, but it touched no memory that was not its own.
    """
    for report in default().reports():
        words = report.words
        if not words[0]:
            continue
        operation, position, value, extent = (int(w) for w in words.astype(np.int64).tolist())
        words[...] = 0
        name, argument = OPERATIONS[operation]
        raise IndexError(
            f"{name}: {argument}[{position}] (flattened) = {value} is out of range [0, {extent}); reported when the "
            "device was next waited for, which may be long after the call"
        )


_numbers: dict[Any, int] = {}  # of the dtypes that have come: their names take long to make


def code(op: str, first: Array, *others: Array) -> int:
    """The extension's number of the arrays' common element type."""
    dtype = first.dtype
    number = _numbers.get(dtype)
    if number is None:
        if dtype.name not in DTYPES:
            raise DtypeError(f"{op}: input must be float32, float16, bfloat16 or float64, got {dtype.name}")
        number = _numbers[dtype] = DTYPES[dtype.name]
    for other in others:
        if other.dtype != dtype:
            raise DtypeError(f"{op}: arrays must have one dtype, got {dtype.name} and {other.dtype.name}")
    return number


def compute_dtype(dtype: Any) -> Any:
    """What values of a dtype are computed and summed in."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def strides(array: Array, shape: Sequence[int]) -> tuple[int, ...]:
    """Byte strides of ``array`` as if broadcast to ``shape``."""
    result: tuple[int, ...] = array.strides
    if array.shape != shape:
        lead = len(shape) - array.ndim
        result = (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(array.shape, result, strict=True))
    return result


def operand(runtime: Any, x: Any, shape: Sequence[int]) -> Any:
    """An argument of the extension's elementwise functions: a number, or an array broadcast to ``shape``."""
    if isinstance(x, runtime.ndarray):
        return runtime.pointer(x), x.strides if x.shape == shape else strides(x, shape)
    return float(x)


def contiguous(x: Array) -> Array:
    """x itself in C order, or a copy."""
    return x if x.flags.c_contiguous else copy(x)


def copy(x: Array) -> Array:
    """A copy in C order."""
    if x.ndim > 6 or x.dtype.itemsize not in (1, 2, 4, 8):  # beyond csrc/cuda/map.h
        return x.copy(order="C")
    runtime, shape, item = of(x), x.shape, x.dtype.itemsize
    y = runtime.empty(shape, x.dtype)
    pointer = runtime.pointer
    runtime.extension.copy(item, shape, (pointer(y), y.strides), (pointer(x), x.strides), runtime.stream())
    return y


def copy_to(y: Array, x: Array) -> None:
    """``y[...] = x``, of one dtype, by the kernel: at most 6 axes, elements of 1, 2, 4 or 8 bytes."""
    runtime, shape = of(x), y.shape
    runtime.extension.copy(
        x.dtype.itemsize, shape, operand(runtime, y, shape), operand(runtime, x, shape), runtime.stream()
    )


def same_shape(op: str, a: Array, b: Array, names: str) -> None:
    if a.shape != b.shape:
        raise ArgumentError(f"{op}: {names} differ in shape: {a.shape} and {b.shape}")


def axis(op: str, dim: int, ndim: int) -> int:
    if not 0 <= dim < ndim:
        raise IndexError(f"{op}: dim {dim} is out of range for {ndim} dimensions")
    return dim

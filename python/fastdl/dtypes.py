"""Element types and devices: what a tensor may hold, and where.

A dtype is NumPy's (``fastdl.float32 == numpy.dtype("float32")``), so arrays and tensors speak of the same thing.
NumPy has no bfloat16; ``fastdl.bfloat16`` is the dtype of the package ml_dtypes, which JAX and CuPy use too. It is
imported when bfloat16 is first asked for or met, and nothing else needs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, overload

import numpy as np

float16 = np.dtype(np.float16)
float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
int8 = np.dtype(np.int8)
int16 = np.dtype(np.int16)
int32 = np.dtype(np.int32)
int64 = np.dtype(np.int64)
uint8 = np.dtype(np.uint8)
uint16 = np.dtype(np.uint16)
uint32 = np.dtype(np.uint32)
uint64 = np.dtype(np.uint64)
complex64 = np.dtype(np.complex64)
complex128 = np.dtype(np.complex128)
bool_ = np.dtype(np.bool_)  # fastdl.bool

if TYPE_CHECKING:
    dtype = np.dtype[Any]
else:
    dtype = np.dtype  # isinstance(x, fastdl.dtype)

package = "fastdl"
"""What dtypes, layouts and types of tensors print before the dot; under PyTorch's name ``torch`` (as_torch.py)."""
classes: Any = (np.dtype,)
"""What a dtype that a program passes is an instance of; under PyTorch's name there is a second class."""


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple, also in print, that can count. See ``torch.Size``.

    Example:
        >>> import fastdl
        >>> fastdl.ones(2, 3, 4).shape[:-1].numel()
        6
    """

    __slots__ = ()

    def __new__(cls, sizes: Iterable[SupportsIndex] = ()) -> Self:
        try:
            return super().__new__(cls, map(index, sizes))  # a tensor of one integer is one, too
        except TypeError:
            raise TypeError(f"Size: expected integers, got {sizes!r}") from None

    def numel(self) -> int:
        """The number of elements: the product of the extents."""
        return prod(self)

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> Size: ...
    def __getitem__(self, key: Any, /) -> Any:
        part = tuple.__getitem__(self, key)
        return tuple.__new__(Size, part) if part.__class__ is tuple else part

    def __add__(self, other: tuple[int, ...], /) -> Size:  # type: ignore[override]
        return Size(tuple.__add__(self, other))


FLOATING = "fV"
"""The kinds of floating-point dtypes: NumPy's own are "f", and bfloat16, foreign to NumPy, is "V"."""


DIFFERENTIABLE = "fVc"
"""The kinds of dtypes that gradients have: floating-point and complex numbers."""


def real_dtype(dtype: Any) -> Any:
    """The dtype of a complex number's parts; of other dtypes themselves."""
    if dtype.kind != "c":
        return dtype
    return float32 if dtype.itemsize == 8 else float64


def complex_dtype(dtype: Any) -> Any:
    """The complex dtype whose parts have a floating-point dtype; of half precision complex64, as none is narrower."""
    return complex128 if dtype is float64 or dtype is complex128 else complex64


def is_half(dtype: Any) -> bool:
    """float16 or bfloat16?"""
    return dtype.itemsize == 2 and dtype.kind in FLOATING


def is_common_integer(dtype: Any) -> bool:
    """One of the integers that the CPU's kernels know: int8 to int64 and uint8."""
    return dtype is int64 or dtype is uint8 or dtype is int32 or dtype is int16 or dtype is int8


SUPPORTED = (
    float32,
    float64,
    float16,
    int64,
    int32,
    int16,
    int8,
    uint8,
    uint16,
    uint32,
    uint64,
    bool_,
    complex64,
    complex128,
)
canonical: dict[Any, dtype] = {d: d for d in SUPPORTED}
"""A dtype that went through a pickle or a foreign library is equal to the usual object but is another one; inside
tensors it is always the usual one, so that operations may compare dtypes with `is`."""
_by_key: dict[Any, dtype] = {d: d for d in SUPPORTED}
_by_key.update({d.type: d for d in SUPPORTED})
# dtype=float is float64, as in NumPy and torch
_by_key.update({float: float64, int: int64, bool: bool_, complex: complex128})
_default: dtype = float32


def _bfloat16() -> dtype | None:
    """ml_dtypes' bfloat16, from now on a supported dtype; None if that package is not installed."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return None
    d: dtype = np.dtype(bfloat16)
    canonical[d] = _by_key[d] = _by_key[bfloat16] = d
    return d


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        d = _bfloat16()
        if d is None:
            raise AttributeError(f"fastdl.bfloat16: {_NO_BFLOAT16}")
        globals()[name] = d  # found at once from now on
        return d
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_NO_BFLOAT16 = "NumPy has no bfloat16; the package ml_dtypes brings it: pip install ml_dtypes"


def known_dtype(d: Any) -> dtype | None:
    """The supported dtype that a NumPy dtype equals, or None."""
    found = canonical.get(d)
    if found is None and d.name == "bfloat16":
        found = _bfloat16()
    return found


_OF_ML_DTYPES = 2  # NumPy's word for dtypes of other packages


class _Limits:
    """What finfo and iinfo share: bits, the least and the greatest number, the name of the dtype; how they print."""

    bits: int
    min: Any
    max: Any
    dtype: str
    _printed: tuple[str, ...] = "min", "max"

    def __repr__(self) -> str:
        limits = ", ".join(f"{n}={getattr(self, n):g}" for n in self._printed)
        return f"{type(self).__name__}({limits}, dtype={self.dtype})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__


class finfo(_Limits):
    """The limits of a floating-point dtype as Python numbers, by default of the default dtype. See ``torch.finfo``.

    Of a complex dtype: those of its parts.

    Example:
        >>> import fastdl
        >>> fastdl.finfo(fastdl.float16).max
        65504.0
    """

    _printed = "resolution", "min", "max", "eps", "smallest_normal", "tiny"

    def __init__(self, type: Any = None) -> None:
        d = getattr(type, "dtype", type)
        if not (isinstance(d, np.dtype) and d.isbuiltin == _OF_ML_DTYPES):  # float8, which no tensor has
            d = _default if type is None else real_dtype(as_dtype("finfo", type))
        if d.kind not in FLOATING:
            raise TypeError(f"finfo: only floating-point dtypes have one, got {d}; use iinfo()")
        limits = floating_info(d)
        self.bits = int(limits.bits)
        self.eps, self.resolution = float(limits.eps), float(f"1e-{limits.precision}")
        self.min, self.max = float(limits.min), float(limits.max)
        self.tiny = self.smallest_normal = float(limits.smallest_normal)
        self.dtype = d.name


class iinfo(_Limits):
    """The limits of an integer dtype. See ``torch.iinfo``.

    Example:
        >>> import fastdl
        >>> fastdl.iinfo(fastdl.int8)
        iinfo(min=-128, max=127, dtype=int8)
    """

    def __init__(self, type: Any) -> None:
        d = as_dtype("iinfo", type)
        if d.kind not in "iu":
            raise TypeError(
                f"iinfo: only integer dtypes have one, got {d}" + "; use finfo()" * (d.kind != "b")
            )
        limits = np.iinfo(d)
        self.bits, self.min, self.max, self.dtype = limits.bits, int(limits.min), int(limits.max), d.name


@cache
def floating_info(d: dtype) -> Any:
    """``numpy.finfo``, for bfloat16 as well."""
    if d.isbuiltin == _OF_ML_DTYPES:
        from ml_dtypes import finfo

        return finfo(d)
    return np.finfo(d)


_KINDS = "b uifVc"  # two by two: bool, integers, floating-point (V: bfloat16) and complex numbers


def can_store(source: dtype, target: dtype) -> bool:
    """May values of ``source`` be stored in place as ``target``: with their kind (complex, float, int, bool) kept?"""
    return _KINDS.index(source.kind) // 2 <= _KINDS.index(target.kind) // 2


def get_default_dtype() -> dtype:
    """The dtype of tensors made from Python floats; float32 unless changed."""
    return _default


def set_default_dtype(d: Any, /) -> None:
    """Set the dtype that creation functions use for floating-point values; see ``torch.set_default_dtype``.

    Example:
        >>> import fastdl
        >>> fastdl.set_default_dtype(fastdl.float64)
        >>> fastdl.tensor([0.5]).dtype
        dtype('float64')
        >>> fastdl.set_default_dtype(fastdl.float32)
    """
    global _default
    wanted = as_dtype("set_default_dtype", d)
    if wanted.kind not in FLOATING:
        raise TypeError(
            f"set_default_dtype: only floating-point types are supported as the default type, got {wanted}"
        )
    _default = wanted


def as_dtype(op: str, d: Any) -> dtype:
    """``d`` (a dtype, a NumPy or Python type, or a name) as one of the supported dtypes, or a TypeError."""
    try:
        known = _by_key.get(d)
    except TypeError:  # unhashable
        known = None
    if known is not None:
        return known
    if isinstance(d, str) and d == "bfloat16":
        known = _bfloat16()
        if known is None:
            raise TypeError(f"{op}: {_NO_BFLOAT16}")
    elif d is not None:
        try:
            known = known_dtype(np.dtype(d).newbyteorder("="))
        except TypeError:
            known = None
    if known is None:
        raise TypeError(f"{op}: dtype {d!r} is not supported; use one of {', '.join(map(str, SUPPORTED))}")
    return known


class device:
    """Where a tensor lives: ``"cpu"``, or ``"cuda"`` for the current GPU and ``"cuda:1"`` for a certain one.

    See :func:`fastdl.cuda.is_available`.

    Example:
        >>> import fastdl
        >>> fastdl.device("cuda:1").index
        1
        >>> fastdl.zeros(2).device == fastdl.device("cpu")
        True
    """

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, type: Any, index: int | None = None) -> None:
        if isinstance(type, device):
            type, index = type.type, type.index if index is None else index
        if isinstance(type, int) and not isinstance(type, bool):  # torch's short form: the number of a GPU
            type, index = "cuda", type
        if not isinstance(type, str):
            raise TypeError(f"device: expected a string such as 'cpu', got {type!r}")
        kind, colon, number = type.partition(":")
        if colon:
            if index is not None or not number.isdigit():
                raise RuntimeError(f"device: invalid device string {type!r}; expected e.g. 'cpu' or 'cuda:0'")
            index = int(number)
        if kind not in ("cpu", "cuda", "meta", "mps"):
            raise RuntimeError(f"device: unknown device type {kind!r}; expected 'cpu' or 'cuda'")
        self.type = kind
        self.index = index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, device):
            return NotImplemented
        return self.type == other.type and self.index == other.index

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __repr__(self) -> str:
        return (
            f"device(type={self.type!r})"
            if self.index is None
            else f"device(type={self.type!r}, index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __enter__(self) -> device:
        """Make tensors and modules here if no other device is given."""
        from fastdl.devices import resolve

        defaults.append(resolve("device", self))
        return self

    def __exit__(self, *exception: object) -> None:
        defaults.pop()

    def __reduce__(self) -> Any:
        return device, (self.type, self.index)


CPU, META = device("cpu"), device("meta")
defaults = [CPU]
"""Where tensors are made if no device is given: the last one, of ``with device:`` inside ``set_default_device``."""

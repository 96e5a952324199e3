"""What tensors hold: arrays of the dtypes there are, copied, assigned and added in pooled memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.dtypes import (
    FLOATING,
    SUPPORTED,
    canonical,
    complex64,
    float32,
    float64,
    int64,
    is_half,
    known_dtype,
)
from fastdl.kernels import MetaArray, on_device, select
from fastdl.kernels.sparse import SparseArray, added

_uint16 = np.dtype(np.uint16)
_ZERO = np.zeros((), float32)  # of 0 dimensions


def pooled_copy(array: Any, dtype: Any = None) -> Any:
    """A C-order copy in pooled memory, native byte order, ``dtype`` or the array's own."""
    own = array.dtype
    if (own is float32 or own is float64 or own is int64) and (dtype is None or dtype is own):
        return select(array).contiguous(array)  # the common case, without a look into tables
    if array.__class__ is MetaArray:
        return MetaArray(np.zeros(array.shape, dtype or array.dtype))
    own = canonical.get(array.dtype)
    if dtype is None:
        dtype = own or canonical[array.dtype.newbyteorder("=")]
    if own is dtype:
        if array.dtype.kind == "V":  # bfloat16: its bits
            return select(array).contiguous(array.view(_uint16)).view(dtype)
        return select(array).contiguous(array if array.dtype is own else array.view(own))
    if array.dtype.kind == "c" and dtype.kind not in "cb":
        return pooled_copy(array.real, dtype)
    if array.__class__ is np.ndarray:
        if dtype.kind != "c":
            converted = select(array).convert(array, dtype)
            if converted is not None:
                return converted
        elif dtype is complex64 and own is float32:
            kernels = select(array)
            return kernels.complex_join(array, _ZERO, kernels.empty(array.shape, dtype))
    if dtype.itemsize == 2 and dtype.kind in FLOATING and (own is float64 or is_half(own)):
        return pooled_copy(pooled_copy(array, float32), dtype)  # rounded twice, as PyTorch's are
    copy = select(array).empty(array.shape, dtype)
    with np.errstate(all="ignore"):  # float to int out of range: what C gives
        np.copyto(copy, array, casting="unsafe")
    return copy


def assign(to: Any, array: Any) -> None:
    """``to[...] = array``, with any broadcasting and conversion. Large ones are worth every thread."""
    if to.__class__ is MetaArray:
        return
    dtype = to.dtype
    if to.size >= 4096 and dtype is array.dtype and not (on_device(to) or on_device(array)):
        kernels = select(to)
        if array.shape != to.shape:
            array = np.broadcast_to(array, to.shape)
        if kernels.copy_into(to, array):
            return
        if to.size >= 32768 and (dtype is float32 or dtype is float64):
            bits = f"i{dtype.itemsize}"  # in which no kernel flushes denormal numbers
            kernels.bitwise_or_forward(array.view(bits), 0, to.view(bits))
            return
    if dtype == array.dtype:
        to[...] = array
        return
    if array.dtype.kind == "c" and dtype.kind not in "cb":
        array = array.real
    elif array.__class__ is np.ndarray is to.__class__ and dtype.kind != "c":
        out = to if to.shape == array.shape and to.flags.c_contiguous else None
        converted = select(array).convert(array, dtype, out)
        if converted is not None:
            if out is None:
                assign(to, converted)
            return
    with np.errstate(all="ignore"):  # float to int out of range: what C gives
        np.copyto(to, array, casting="unsafe")


def add_arrays(x: Any, y: Any, out: Any) -> Any:
    """x + y of one shape, written to ``out``: gradients that meet. Large ones are worth every thread.

    Where one is sparse the result is an array of its own, or ``out``.
    """
    if x.__class__ is SparseArray or y.__class__ is SparseArray:
        return added(x, y, out)
    dtype = out.dtype
    if out.size >= 32768 and (dtype is float32 or dtype is float64) and x.dtype is dtype and y.dtype is dtype:
        return select(out).add_forward(x, y, out)
    if (on_device(out) or dtype.itemsize == 2) and x.dtype == dtype == y.dtype and dtype.kind in FLOATING:
        return select(out).add_forward(x, y, out)  # a launch takes CuPy longer, as half precision takes NumPy
    if (
        out.size >= 32768
        and dtype is complex64
        and x.dtype is dtype
        and y.dtype is dtype
        and not on_device(out)
    ):
        return select(out).complex_add(x, y, out)
    return np.add(x, y, out=out)


def check_array(op: str, array: Any) -> Any:
    """The array, if a tensor can hold it: no objects, strings, dates, foreign byte order."""
    dtype = known_dtype(array.dtype)
    if dtype is not None:
        return array if dtype is array.dtype else array.view(dtype)
    if array.dtype.newbyteorder("=") in canonical:
        raise TypeError(
            f"{op}: the array's byte order ({array.dtype.str}) is not this machine's; convert it with "
            "array.astype(array.dtype.newbyteorder('='))"
        )
    hint = " (is it a ragged list?)" if array.dtype.kind == "O" else ""
    raise TypeError(
        f"{op}: an array of dtype {array.dtype} cannot be a tensor{hint}; supported: {', '.join(map(str, SUPPORTED))}"
    )

"""Arithmetic on arrays of any dtype, below autograd: kernels for floating-point numbers, NumPy into pooled
memory otherwise.

Operands are arrays of one dtype (or Python numbers); operations convert to the common dtype first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.arrays import assign, pooled_copy
from fastdl.dtypes import (
    DIFFERENTIABLE,
    FLOATING,
    bool_,
    complex128,
    float32,
    float64,
    floating_info,
    int64,
    is_common_integer,
    is_half,
    real_dtype,
)
from fastdl.errors import ArgumentError
from fastdl.kernels import MetaArray, array, is_array, on_device, select
from fastdl.ops.axes import kept_shape


def empty(shape: Any, dtype: Any, like: Any = None) -> Any:
    """An uninitialised array in pooled memory, on the device of the array ``like`` (None: on the CPU)."""
    return select(like).empty(shape, dtype)


def memory_order(x: Any) -> Any:
    """The axes by which ``x.transpose(axes)`` is in C order, for a dense array that is not; else None."""
    if x.flags.c_contiguous or x.size == 0:
        return None
    axes = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    return axes if x.transpose(axes).flags.c_contiguous else None


def empty_as_it_lies(x: Any) -> Any:
    """An uninitialised array of the shape and dtype of ``x``, and in its order in memory if that is dense."""
    order = memory_order(x)
    if order is None:
        return empty(x.shape, x.dtype, x)
    return empty([x.shape[axis] for axis in order], x.dtype, x).transpose(np.argsort(order))


def filler(op: str, value: Any, dtype: Any) -> Any:
    """A number as an array of ``dtype`` can hold it: integers drop fractions, unsigned ones wrap negative integers."""
    if value.__class__ is int and 0 <= value < 128:  # every dtype holds it
        return value
    if value.__class__ is complex and dtype.kind == "b":
        return value != 0
    if value.__class__ is complex and dtype.kind != "c":
        if value.imag:
            raise RuntimeError(f"{op}: value cannot be converted to dtype {dtype} without overflow: {value}")
        value = value.real
    if dtype.kind not in "iu":
        if not abs(value) < SMALL and dtype.kind != "b":
            _check_range(op, value, dtype)
            return float(value) if value.__class__ is int else value  # ml_dtypes takes none beyond 64 bits
        return value
    info = np.iinfo(dtype)
    if info.min <= value <= info.max:
        return int(value)
    if dtype.kind == "u" and isinstance(value, (int, np.integer)) and -info.max - 1 <= value < 0:
        return int(value) + info.max + 1
    raise RuntimeError(f"{op}: {value} does not fit into dtype {dtype}")


def any_true(array: Any) -> bool:
    """Is an element of the array true? Of one without values none is."""
    return array.__class__ is not MetaArray and bool(array.any())


SMALL = 65504  # every floating-point dtype holds what is smaller


def _check_range(op: str, value: complex, dtype: Any) -> None:
    """Refuse a finite number that would become infinite."""
    if value == math.inf or value == -math.inf:
        return
    if dtype.kind not in DIFFERENTIABLE or dtype.itemsize == (16 if dtype.kind == "c" else 8):
        return
    most = float(floating_info(real_dtype(dtype)).max)
    if any([math.isfinite(part) and abs(part) > most for part in (value.real, value.imag)]):
        raise RuntimeError(f"{op}: value cannot be converted to type {dtype} without overflow: {value}")


def zeros(shape: Any, dtype: Any, like: Any = None) -> Any:
    """An array of zeros in pooled memory, on the device of the array ``like`` (None: on the CPU)."""
    if not on_device(like):
        return select(like).zeros(shape, dtype)
    return full(shape, 0, dtype, like)


def full(shape: Any, value: Any, dtype: Any, like: Any = None) -> Any:
    """An array of one value in pooled memory, where ``like`` is (CuPy refuses np.ones and np.full with like=)."""
    array = select(like).empty(shape, dtype)
    fill(array, value)
    return array


def eye(n: int, dtype: Any, like: Any = None) -> Any:
    """The unit matrix in pooled memory, on the device of the array ``like``."""
    array = zeros((n, n), dtype, like)
    array.reshape(-1)[:: n + 1] = 1
    return array


def cast(array: Any, dtype: Any) -> Any:
    """``array`` in another dtype, itself if it has it.

    Values are converted as C does (truncated, wrapped).
    """
    if array.dtype is dtype or array.dtype == dtype:
        return array
    return pooled_copy(array, dtype)


WORD = 1 << 63
"""int64 holds the integers in [-WORD, WORD)."""


def operand(value: Any, dtype: Any) -> Any:
    """An operand for a computation in ``dtype``: arrays converted, numbers kept for the kernels, wrapped
    for NumPy and CuPy (as a scalar, which both take)."""
    if is_array(value):
        return cast(value, dtype)
    if dtype.kind in FLOATING:
        return value
    if dtype.kind in "iu" and value.__class__ is int:
        return dtype.type(wrapped(value, dtype))
    if (
        dtype.kind == "c"
        and value.__class__ in (int, float, complex)
        and abs(value.real) + abs(value.imag) < 1e38
    ):
        return dtype.type(value)
    with np.errstate(over="ignore"):  # infinite then
        return np.asarray(value).astype(dtype)[()]


def wrapped(value: Any, dtype: Any) -> int:
    """A Python number as an integer dtype holds it: without its fraction, modulo 2^bits."""
    if value.__class__ is int and 0 <= value < 128:
        return value
    bits: int = 8 * dtype.itemsize
    low = int(value) & ((1 << bits) - 1)
    return low - (1 << bits) if dtype.kind == "i" and low >> (bits - 1) else low


def has_integer_kernels(x: Any) -> bool:
    """Is this an array on the CPU of a dtype that the kernels on integers know?"""
    return is_common_integer(x.dtype) and not on_device(x)


def broadcast_shape(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that ``shapes`` broadcast to; a ValueError that names the axis if they do not."""
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    result: list[int] = []
    for shape in shapes:
        result[:0] = [1] * (len(shape) - len(result))
        for i in range(-len(shape), 0):
            if shape[i] != 1 and shape[i] != result[i]:
                if result[i] != 1:
                    raise ArgumentError(
                        f"{op}: shapes {' and '.join(map(str, shapes))} do not broadcast: axis {i} has "
                        f"{result[i]} and {shape[i]} (axes are matched from the right; extents must be "
                        "equal or 1)"
                    )
                result[i] = shape[i]
    return tuple(result)


_KIND = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}


def check_kind(op: str, dtype: Any, out: Any) -> None:
    """Refuse to store a result of ``dtype`` in the array ``out`` where its kind would be lost: PyTorch's rule."""
    if _KIND[dtype.kind] > _KIND[out.dtype.kind]:
        raise RuntimeError(
            f"{op}: the result has dtype {dtype} and cannot be stored in place in a tensor of dtype "
            f"{out.dtype}; use {op}(x, y) instead of the in-place form, or convert the tensor first"
        )


_LOUD = frozenset(["divide", "floor_divide", "remainder", "fmod", "power"])


def by_numpy(op: str, ufunc: Any, dtype: Any, out: Any, *operands: Any) -> Any:
    """``ufunc(*operands)`` as ``dtype``, in pooled memory or ``out``."""
    shapes = [o.shape if is_array(o) else () for o in operands]
    shape = shapes[0]
    if shapes.count(shape) != len(shapes):
        shape = broadcast_shape(op, *shapes)
    if out is None:
        out = select(operands[0] if on_device(operands[0]) else operands[-1]).empty(shape, dtype)
    elif out.shape != shape:
        raise ArgumentError(f"{op}: the result has shape {shape}, but out has shape {out.shape}")
    else:
        check_kind(op, dtype, out)
    if (
        dtype.kind in "biu"
        and ufunc.__name__ not in _LOUD
        and getattr(operands[0], "dtype", dtype).kind in "biu"
    ):
        ufunc(*operands, out=out, casting="unsafe")  # nothing to warn of
    else:
        with np.errstate(all="ignore"):
            ufunc(*operands, out=out, casting="unsafe")
    return out


def integer_product(a: Any, b: Any) -> Any:
    """``numpy.matmul`` of integers, which adds up one number after the other.

    Where no sum leaves the integers that floats or doubles hold, their kernel gives the same.
    """
    k = a.shape[-1]
    if (
        a.__class__ is np.ndarray is b.__class__
        and min(a.ndim, b.ndim) > 1
        and a.size * b.shape[-1] > 1 << 15
    ):
        if a.dtype.kind == b.dtype.kind == "b" or not b.size:
            return np.matmul(a, b)
        size = [max(int(x.max()), -int(x.min())) for x in (a, b)]
        largest = k * size[0] * size[1]
        if largest < 1 << 53:
            wide = float32 if largest < 1 << 24 else float64
            product = select(a).matmul(cast(a, wide), cast(b, wide))
            return cast(cast(product, int64), np.result_type(a, b))
    return np.matmul(a, b)


def fill(out: Any, value: Any) -> None:
    """Every element of an array becomes ``value``."""
    if out.__class__ is MetaArray:
        return
    if out.size < 1024 or on_device(out) or out.dtype.kind == "c":
        out.fill(value)
    else:
        select(out).fill(out, value)


def written(kernel: Callable[..., None], array: Any, *arguments: Any) -> Any:
    """``kernel(array, ...)``, which writes to its first argument in C order, on an array of any strides."""
    if array.flags.c_contiguous:
        kernel(array, *arguments)
    else:
        copy = pooled_copy(array)
        kernel(copy, *arguments)
        assign(array, copy)
    return array


def joined(kernel: str, array: Any, dim: int, index: Any, source: Any, *rest: Any) -> Any:
    """``kernel(array, dim, index, source)``, one that joins ``source`` to elements of the CPU's ``array``.

    Kernels know float32, float64 and int64; narrower integers wrap as their own arithmetic does.
    """
    dtype = array.dtype
    if dtype.kind == "c":
        for part, of in ((array.real, source.real), (array.imag, source.imag)):
            joined(kernel, part, dim, index, of, *rest)
        return array
    if dtype is float32 or dtype is float64 or dtype is int64:
        return written(getattr(select(array), kernel), array, dim, index, source, *rest)
    in_rows = array.ndim > 1 and dim == 0 and array.size >= 8 * array.shape[0]
    if kernel == "index_add" and dtype.kind in FLOATING and in_rows and not on_device(array):
        return written(select(array).index_add, array, dim, index, source)  # rounded once as well
    wide = float32 if dtype.kind in "fV" else int64
    copy = pooled_copy(array, wide)
    getattr(select(copy), kernel)(copy, dim, index, cast(source, wide), *rest)
    assign(array, cast(copy, dtype))
    return array


def added_to_rows(have: Any, dim: int, index: Any, rows: Any) -> bool:
    """Were ``rows`` added to the entries ``index`` of ``have`` along ``dim``, as ``Op.adds_into`` wants it?

    Only on the CPU, in the kernel's dtypes, and where few entries are meant: for many the gradient of the whole, with
    its work shared out by what the indices are, is as good.
    """
    dtype = have.dtype
    if (
        have.__class__ is not np.ndarray
        or not (dtype is float32 or dtype is float64)
        or rows.dtype is not dtype
    ):
        return False
    if 2 * index.size > have.shape[dim] or not have.flags.c_contiguous:
        return False
    select(have).index_add(have, dim, index, rows)
    return True


def in_float32(kernel: Callable[..., Any], array: Any, *arguments: Any) -> Any:
    """``kernel(array, ...)``, which adds up elements; of half precision in float32, where sums do not get stuck.

    A GPU's kernels do so by themselves.
    """
    dtype = array.dtype
    if dtype.itemsize > 2 or on_device(array):
        return kernel(array, *arguments)
    return cast(kernel(cast(array, float32), *arguments), dtype)


def sum_to(array: Any, shape: tuple[int, ...]) -> Any:
    """Sum over what broadcasting from ``shape`` repeated: the gradient of broadcasting.

    The array itself or a new one, never a view of it: the engine may change a gradient that it owns (``Op.hands_on``).
    """
    if array.shape == shape:
        return array
    dtype = array.dtype
    if dtype is float32 or dtype is float64 or (dtype.kind in FLOATING and not on_device(array)):
        return select(array).sum_to(array, shape)
    if dtype.kind == "c" and not on_device(array):
        pairs = array[..., None].view(array.real.dtype)
        return select(array).sum_to(pairs, (*shape, 2)).view(dtype)[..., 0]
    lead = array.ndim - len(shape)
    repeated = tuple(range(lead)) + tuple(
        [i + lead for i, extent in enumerate(shape) if extent == 1 and array.shape[i + lead] != 1]
    )
    kept = [1 if i in repeated else extent for i, extent in enumerate(array.shape)]
    return np.sum(array, repeated, keepdims=True, out=empty(kept, dtype, array)).reshape(shape)


def fit(grad: Any, like: tuple[tuple[int, ...], Any]) -> Any:
    """The gradient for an input of shape and dtype ``like`` that was broadcast and converted."""
    shape, dtype = like
    if grad.shape != shape:
        grad = sum_to(grad, shape)
    if grad.dtype is not dtype:
        grad = cast(grad, dtype)
    return grad


def contiguous(array: Any, dtype: Any = None) -> Any:
    """The array in C order and ``dtype`` (its own if None); itself if it is that already."""
    if dtype is not None:
        array = cast(array, dtype)
    return array if array.flags.c_contiguous else pooled_copy(array)


def concat_arrays(arrays: Any, dim: int) -> Any:
    """Arrays of one dtype, one after the other along ``dim``."""
    dtype = arrays[0].dtype
    if dtype is not complex128:
        return select(arrays[0]).concat(arrays, dim)
    # The kernel moves numbers of at most 8 bytes: both parts.
    return concat_arrays([a[..., None].view(float64) for a in arrays], dim).view(dtype)[..., 0]


def count_true(mask: Any, axes: Any, keepdim: bool = False) -> Any:
    """How many elements are not zero (True) over ``axes`` (None: all), int64."""
    if on_device(mask):
        if mask.dtype is bool_ and mask.size < 2**31 and mask.ndim <= 5:  # within the kernel's limits
            return select(mask).count_true(mask, axes, keepdim)
    elif axes is None or len(axes) == 1:
        dtype = mask.dtype
        if dtype.kind in FLOATING or is_common_integer(dtype):
            mask = select(mask).ne_forward(mask, 0)
        elif dtype is not bool_:
            mask = by_numpy("count_nonzero", np.not_equal, bool_, None, mask, 0)
        return select(mask).count_true(mask, None if axes is None else axes[0], keepdim)
    counts = array(np.count_nonzero(mask, axis=axes), mask, int64)
    return counts.reshape(kept_shape(mask.shape, axes)) if keepdim else counts


def places(array: Any) -> tuple[Any, ...]:
    """The indices of elements that are not zero, one array per axis; a number counts as one element."""
    array = array if array.ndim else array.reshape(1)
    if on_device(array):
        return tuple(np.nonzero(array))
    found = select(array).nonzero(as_bool(array))
    return tuple([pooled_copy(found[:, i]) for i in range(array.ndim)])


def as_bool(array: Any) -> Any:
    """True where not zero."""
    if array.dtype is bool_:
        return array
    if is_half(array.dtype) and array.__class__ is np.ndarray:
        return select(array).ne_forward(array, 0.0)
    return cast(array, bool_)

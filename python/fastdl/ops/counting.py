"""Places and counts: where elements are not zero, how many there are of each, between which bounds they lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.dtypes import FLOATING, float32, float64, int32, int64
from fastdl.errors import ArgumentError, not_for_complex
from fastdl.kernels import array, on_device, select
from fastdl.ops.arrays import as_bool, cast, full, places, zeros
from fastdl.ops.common import as_array
from fastdl.ops.gather import check_range
from fastdl.tensor import Tensor

_ONE = np.asarray(1)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of elements that are not zero: an (n, ndim) tensor, or one tensor per axis. See ``torch.nonzero``."""
    x = input._data
    if as_tuple:
        return tuple([Tensor._wrap(index) for index in places(x)])
    if on_device(x) or x.ndim == 0:
        return Tensor._wrap(pooled_copy(np.argwhere(x)))
    return Tensor._wrap(select(x).nonzero(as_bool(x)))


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first ``size`` rows of :func:`nonzero`, filled up with ``fill_value``; see ``torch.nonzero_static``.

    Example:
        >>> import fastdl
        >>> fastdl.nonzero_static(fastdl.tensor([0, 3, 4]), size=3)
        tensor([[ 1],
                [ 2],
                [-1]])
    """
    if not isinstance(size, (int, np.integer)):
        raise TypeError(f"nonzero_static: size must be an int, got {type(size).__name__}")
    if size < 0:
        raise ArgumentError(f"nonzero_static: size must be 0 or more, got {size}")
    found = nonzero(input)._data[:size]
    rows = full((size, found.shape[1]), fill_value, found.dtype, found)
    rows[: len(found)] = found
    return Tensor._wrap(rows)


def argwhere(input: Tensor) -> Tensor:
    """The indices of elements that are not zero, one in a row; see ``torch.argwhere``."""
    return nonzero(input)  # type: ignore[no-any-return]


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often every integer from 0 on occurs, or the sum of its weights; see ``torch.bincount``."""
    array = input._data
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RuntimeError(
            f"bincount: expects a one-dimensional integer tensor, got shape {array.shape}, dtype {array.dtype}"
        )
    if array.size and array.min() < 0:
        raise RuntimeError("bincount: the integers must not be negative")
    if minlength < 0:
        raise RuntimeError(f"bincount: minlength must not be negative, got {minlength}")
    if weights is None:
        return Tensor._wrap(np.bincount(array, minlength=minlength))
    if weights._data.shape != array.shape:
        raise RuntimeError(f"bincount: weights have shape {weights.shape}, the integers {array.shape}")
    counts = _weighed(array, weights._data, minlength)
    return Tensor._wrap(counts.astype(np.float32) if weights.dtype == np.float32 else counts)


def _weighed(x: Any, weights: Any, minlength: int) -> Any:
    """The sums of the weights of every integer; on a GPU in a fixed order, where CuPy adds in any."""
    if not on_device(x):
        return np.bincount(x, weights, minlength)
    if weights.dtype.kind == "c":
        raise not_for_complex("bincount")
    count = max(minlength, int(x.max()) + 1 if x.size else 0)
    return select(x).index_select_backward(cast(weights, float64), 0, cast(x, int64), count)


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """Integers as rows with a single 1; the classes are counted if not given. See ``torch.nn.functional.one_hot``.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.one_hot(fastdl.tensor([0, 2]))
        tensor([[1, 0, 0],
                [0, 0, 1]])
    """
    array = input._data
    if array.dtype != int64:
        raise RuntimeError(f"one_hot: expects an int64 tensor, got dtype {array.dtype}")
    if num_classes == -1:
        if array.size == 0:
            raise RuntimeError("one_hot: num_classes must be given for an empty tensor")
        num_classes = int(array.max()) + 1
    if num_classes < 1:
        raise RuntimeError(f"one_hot: num_classes must be at least 1, got {num_classes}")
    result = zeros((*array.shape, num_classes), int64, array)
    if on_device(array):
        check_range("one_hot", array, num_classes, "label")
        result.reshape(-1, num_classes)[np.arange(array.size, like=array), array.reshape(-1)] = 1
    else:
        try:
            select(array).scatter(result, array.ndim, array[..., None], _ONE)
        except IndexError:
            check_range("one_hot", array, num_classes, "label")
    return Tensor._wrap(result)


def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where values would have to be inserted to keep rows sorted; see ``torch.searchsorted``."""
    if side not in (None, "left", "right") or (side == "left" and right):
        raise RuntimeError(
            f"searchsorted: side must be 'left' or 'right' and agree with right, got {side!r}, {right}"
        )
    side = "right" if right or side == "right" else "left"
    rows, values = sorted_sequence._data, as_array("searchsorted", input)
    if "c" in (rows.dtype.kind, values.dtype.kind):
        raise not_for_complex("searchsorted", "they have no order")
    if not isinstance(input, Tensor):
        values = array(values, rows)
    if sorter is not None:
        rows = np.take_along_axis(rows, sorter._data, -1)
    if rows.ndim == 0 or (
        rows.ndim > 1 and (values.ndim != rows.ndim or values.shape[:-1] != rows.shape[:-1])
    ):
        raise RuntimeError(
            "searchsorted: sorted_sequence must have one dimension, or the shape of input but in the last one; got "
            f"{rows.shape} and {values.shape}"
        )
    # NumPy knows no common dtype of bfloat16 and others; float32 holds all numbers of half precision.
    both = [float32 if d.kind in FLOATING and d.itemsize == 2 else d for d in (rows.dtype, values.dtype)]
    dtype = np.result_type(*both)
    if dtype.kind not in FLOATING:
        dtype = int64
    places = select(rows).searchsorted(cast(rows, dtype), cast(values, dtype), side == "right")
    return Tensor._wrap(cast(places, int32) if out_int32 else places)


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The bucket between ``boundaries`` (sorted) that each value falls into; see ``torch.bucketize``."""
    if boundaries._data.ndim != 1:
        raise RuntimeError(f"bucketize: boundaries must have one dimension, got shape {boundaries.shape}")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)

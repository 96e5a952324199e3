"""Reductions over runs of elements that stand one after the other; see ``torch.segment_reduce``."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.devices import to_host
from fastdl.dtypes import FLOATING, int64
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array, on_device, select
from fastdl.ops.arrays import full
from fastdl.ops.axes import normal_axis
from fastdl.ops.elementwise import where
from fastdl.ops.parts import narrow
from fastdl.ops.placement import scatter_reduce
from fastdl.ops.views import expand, reshape
from fastdl.tensor import Tensor

__all__ = ["segment_reduce"]

_EMPTY = {"sum": 0.0, "mean": nan, "max": -inf, "min": inf, "prod": 1.0}
_NAMES = {"max": "amax", "min": "amin"}


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Any = None,
) -> Tensor:
    """``reduce`` of every segment of ``data`` along ``axis``: "sum", "mean", "max", "min" or "prod".

    Args:
        data: floating-point, (B..., N, ...) with N along ``axis``.
        lengths: integers (B..., S): how many elements each of S segments has, one after the other.
        offsets: integers (B..., S + 1) instead: where each begins, and where the last ends.
        unsafe: do not ask that the lengths add up to N.
        initial: what each segment begins with; an empty one is 0, NaN, -inf, inf or 1 without.

    Returns:
        (B..., S, ...).

    Example:
        >>> import fastdl
        >>> fastdl.segment_reduce(fastdl.tensor([1.0, 2.0, 3.0]), "sum", lengths=fastdl.tensor([2, 1]))
        tensor([3., 3.])
    """
    op = "segment_reduce"
    reduce = {name: short for short, name in _NAMES.items()}.get(reduce, reduce)
    if reduce not in _EMPTY:
        raise ArgumentError(f"{op}: reduce must be one of sum, mean, max, min, prod, got {reduce!r}")
    if data._data.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: data must be floating-point, got {data.dtype}; convert with .float()")
    if indices is not None:
        raise NotImplementedError(f"{op}: indices is not there, in PyTorch either; use lengths or offsets")
    given = lengths if offsets is None else offsets
    if given is None or (lengths is not None and offsets is not None):
        raise ArgumentError(f"{op}: give lengths or offsets, one of the two")
    if given._data.dtype.kind not in "iu":
        raise DtypeError(f"{op}: lengths and offsets must be integers, got {given.dtype}")
    axis = normal_axis(op, axis, data.ndim)
    places = to_host(given._data).astype(int64)
    if places.ndim != axis + 1 or places.shape[:-1] != data.shape[:axis]:
        raise ArgumentError(
            f"{op}: lengths and offsets have the axes of data before axis {axis}, {tuple(data.shape[:axis])}, and one "
            f"for the segments, got {places.shape}"
        )
    count = data.shape[axis]
    if offsets is None:
        edges = np.zeros((*places.shape[:-1], places.shape[-1] + 1), int64)
        places.cumsum(-1, out=edges[..., 1:])
    else:
        edges, places = places, np.diff(places)
        if not places.shape[-1]:
            edges = np.zeros((*places.shape[:-1], 1), int64)
    if places.min(initial=0) < 0:
        raise ArgumentError(f"{op}: no segment may have a negative length, got {given.tolist()}")
    whole = offsets is None and not unsafe
    last = edges[..., -1]
    if ((last != count) if whole else (last > count) | (edges[..., 0] < 0)).any():
        raise ArgumentError(
            f"{op}: the segments must make up the {count} elements along axis {axis}, got {given.tolist()}"
        )
    if not on_device(data._data):
        return SegmentReduce.apply(data, offsets=edges, reduce=reduce, initial=initial)  # type: ignore[no-any-return]
    begins = edges[..., :-1]
    return _composed(data, reduce, axis, begins, places, initial)


class SegmentReduce(Op):
    """One pass over the data; ``offsets``: where each segment begins, and where the last one ends."""

    floats_only = True
    saves, saves_output = (0,), True

    def forward(self, x: Any, offsets: Any, reduce: str, initial: Any) -> Any:
        self.x, self.offsets, self.reduce, self.initial = x, offsets, reduce, initial
        self.start = float(_EMPTY["sum" if reduce == "mean" else reduce] if initial is None else initial)
        self.y = select(x).segment_forward(x, offsets, reduce, self.start, initial is not None)
        return self.y

    def backward(self, grad: Any) -> Any:
        return select(grad).segment_backward(grad, self.x, self.y, self.offsets, self.reduce, self.start)

    def backward_graph(self, grad: Tensor) -> Any:
        axis, begins, places = self.offsets.ndim - 1, self.offsets[..., :-1], np.diff(self.offsets)

        def composed(x: Any) -> Tensor:
            return _composed(x, self.reduce, axis, begins, places, self.initial)

        return replay(self, grad, composed, self.x)


def _composed(data: Tensor, reduce: str, axis: int, begins: Any, places: Any, initial: Any) -> Tensor:
    """The same by :func:`scatter_reduce`: on a GPU, and for second derivatives."""
    count, segments = data.shape[axis], places.shape[-1]
    # What belongs to no segment goes to one more, which is cut off.
    owner = np.full((*places.shape[:-1], count), segments, int64)
    for index in np.ndindex(*places.shape[:-1]):
        own = np.repeat(np.arange(segments), places[index])
        owner[index][begins[index][0] if segments else 0 :][: len(own)] = own
    shape = (*data.shape[:axis], segments + 1, *data.shape[axis + 1 :])
    extreme = reduce in ("max", "min")
    begun = initial is not None and not extreme
    start = initial if begun else _EMPTY["sum" if reduce == "mean" else reduce]
    into = Tensor._wrap(full(shape, start, data._data.dtype, data._data))
    behind = [1] * (data.ndim - axis - 1)
    owners = reshape(Tensor._wrap(array(owner, data._data)), *owner.shape, *behind)
    to = expand(owners, *data.shape)
    how = "sum" if reduce == "mean" else _NAMES.get(reduce, reduce)
    result = narrow(scatter_reduce(into, axis, to, data, how), axis, 0, segments)
    if (
        extreme and initial is not None
    ):  # a number, which has no share of the gradient where it equals elements
        result = where(result < initial if reduce == "max" else result > initial, initial, result)
    if reduce == "mean":
        sizes = reshape(Tensor._wrap(array(places, data._data)).to(data.dtype), *places.shape, *behind)
        empty = sizes == 0
        result = result / sizes.masked_fill(empty, 1)
        if initial is None:
            result = result.masked_fill(empty, nan)
    return result

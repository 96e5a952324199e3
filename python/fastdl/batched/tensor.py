"""``BatchedTensor``: a tensor that looks like one slice and stands for all; and what is asked of nested arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastdl import _graph
from fastdl.kernels.batched import BatchedArray, NotAtOnce
from fastdl.ops.views import expand, reshape
from fastdl.stand_in import StandInTensor
from fastdl.tensor import Tensor

NONE = -1  # the level of what is not sliced


class BatchedTensor(StandInTensor):
    """One slice as the mapped function sees it. Its history is that of the tensor with all slices."""

    _data: BatchedArray

    def __init__(self, *data: Any) -> None:
        raise TypeError("BatchedTensor: is made by vmap")

    def detach(self) -> Any:
        """The slices outside the graph."""
        return made(self._data.level, self._data.values.detach())

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Ask for the slices' gradients."""
        self._data.values.requires_grad_(requires_grad)
        return self

    def __len__(self) -> int:
        if not self._data.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])

    def __repr__(self) -> str:
        return f"BatchedTensor(level={self._data.level}, {self._data.values!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise NotAtOnce("vmap: a copy is of one slice")


_graph.add_stand_in(BatchedArray, BatchedTensor)


def made(level: int, values: Any) -> Any:
    """The tensors whose slices along axis 0 these are."""
    if isinstance(values, tuple):
        return tuple([made(level, v) for v in values])
    return Tensor._wrap(BatchedArray(values, level))


def values_at(level: int, t: Any) -> Any:
    """The tensor with all slices of ``t``, or None where it has none of this level."""
    array = t._data if isinstance(t, Tensor) else t
    return array.values if array.__class__ is BatchedArray and array.level == level else None


def size_at(level: int, value: Any) -> int:
    """How many slices there are: that of any tensor in ``value``."""
    for leaf in leaves(value):
        values = values_at(level, leaf)
        if values is not None:
            return values._data.shape[0]  # type: ignore[no-any-return]
    raise NotAtOnce("vmap: nothing is sliced here")


def leaves(value: Any) -> Iterator[Any]:
    """The tensors and arrays of slices in nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor) or value.__class__ is BatchedArray:
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)


def level_of(value: Any) -> int:
    """The innermost level of slices in ``value``; NONE where there are none."""
    level = NONE
    for leaf in leaves(value):
        array = leaf._data if isinstance(leaf, Tensor) else leaf
        if array.__class__ is BatchedArray and array.level > level:
            level = array.level
    return level


def sliced_in(value: Any) -> bool:
    """Are there slices in ``value``?"""
    return level_of(value) != NONE


def everywhere(level: int, size: int, t: Any) -> Any:
    """The tensor with all slices of ``t``, which is the same in all where it has none."""
    values = values_at(level, t)
    return expand(t, size, *t._data.shape) if values is None else values


def aligned(level: int, t: Any, ndim: int) -> Any:
    """The same for broadcasting with slices of ``ndim`` axes. What has no slices broadcasts as it is."""
    values = values_at(level, t)
    if values is None or t._data.ndim == ndim:
        return t if values is None else values
    shape = values._data.shape
    return reshape(values, (shape[0], *(1,) * (ndim - t._data.ndim), *shape[1:]))

"""From a list of samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from fastdl.dtypes import get_default_dtype
from fastdl.kernels import select
from fastdl.ops.join import stack
from fastdl.tensor import Tensor

__all__ = ["default_collate", "default_convert"]

default_collate_fn_map: dict[Any, Any] = {}
"""Users' classes -> ``function(batch, *, collate_fn_map)``, which :func:`default_collate` calls."""


def _stack_arrays(arrays: list[Any]) -> Tensor:
    first = arrays[0]
    for i, array in enumerate(arrays):
        if array.shape != first.shape:
            raise RuntimeError(
                f"default_collate: stack expects each tensor to be equal size, but got {list(first.shape)} at entry 0 "
                f"and {list(array.shape)} at entry {i}; pad the samples, or pass a collate_fn"
            )
    out = select(first).empty((len(arrays), *first.shape), np.result_type(*{a.dtype for a in arrays}))
    for i, array in enumerate(arrays):
        out[i] = array
    return Tensor._wrap(out)


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack the samples of a batch, inside whatever dicts, tuples and lists they are.

    Tensors and NumPy arrays are stacked along a new first axis; floats become a float64 tensor, ints an int64 one; text
    and bytes stay as they are; a list of dicts becomes a dict of batches, a list of tuples a list of batches (named
    tuples keep their type). See ``torch.utils.data.default_collate``.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def _check_alike(batch: Sequence[Any], kinds: Any) -> None:
    for one in batch:
        if not isinstance(one, kinds):
            raise TypeError(
                f"default_collate: samples must be of one kind, got {type(batch[0]).__name__} and "
                f"{type(one).__name__}; pass a collate_fn"
            )


def _numbers(batch: Sequence[Any]) -> Any:
    """The samples as one array; NumPy would take text, None and dates, too."""
    _check_alike(batch, (int, float, complex, np.number, np.bool_, Tensor))
    numbers = np.array(batch)
    if numbers.dtype.kind in "OMm":
        raise TypeError(f"default_collate: numbers must fit a dtype, got {numbers.dtype}; pass a collate_fn")
    return numbers


def collate(batch: Sequence[Any], *, collate_fn_map: Mapping[Any, Any] | None = None) -> Any:
    """:func:`default_collate` where samples of the map's classes are collated by its functions."""
    sample = batch[0]
    for kind, function in (collate_fn_map or {}).items():
        if isinstance(sample, kind):
            return function(batch, collate_fn_map=collate_fn_map)
    if isinstance(sample, (str, bytes)):  # NumPy's too
        return batch
    if isinstance(sample, Tensor):
        _check_alike(batch, Tensor)
        if any(t._requires_grad for t in batch):
            return stack(list(batch))
        return _stack_arrays([t._data for t in batch])
    if isinstance(sample, np.ndarray):
        if sample.dtype.kind not in "fiub":
            raise TypeError(
                f"default_collate: arrays must hold numbers or booleans, got dtype {sample.dtype}; pass a collate_fn"
            )
        _check_alike(batch, (np.ndarray, np.generic, Tensor))
        return _stack_arrays(list(batch))
    if isinstance(sample, (np.number, np.bool_)):
        return Tensor._wrap(_numbers(batch))
    if isinstance(sample, float):
        return Tensor._wrap(_numbers(batch).astype(np.float64, copy=False))
    if isinstance(sample, int):
        values = _numbers(batch)
        return Tensor._wrap(values.astype(get_default_dtype()) if values.dtype.kind == "f" else values)
    if isinstance(sample, Mapping):
        return _mapping(
            sample, {key: collate([s[key] for s in batch], collate_fn_map=collate_fn_map) for key in sample}
        )
    if isinstance(sample, Sequence):
        lengths = [len(s) for s in batch]
        if min(lengths) != max(lengths):
            raise RuntimeError(
                f"default_collate: each element in list of batch should be of equal size, got lengths {lengths}; "
                "pass a collate_fn"
            )
        columns = [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch, strict=True)]
        return type(sample)(*columns) if hasattr(sample, "_fields") else columns
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found "
        f"{type(sample).__name__}; pass a collate_fn"
    )


def _mapping(like: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """The items as the class of ``like``; a dict if it cannot be made of them."""
    if like.__class__ is dict:
        return items
    try:
        if isinstance(like, MutableMapping):  # a copy keeps what else there is (a defaultdict's factory)
            made = copy(like)
            made.update(items)
            return made
        return type(like)(items)  # type: ignore[call-arg]
    except TypeError:
        return items


def default_convert(data: Any) -> Any:
    """NumPy arrays as tensors (sharing memory), inside whatever dicts, tuples and lists they are."""
    if isinstance(data, np.ndarray):
        return Tensor._wrap(data) if data.dtype.kind in "fiub" else data
    if isinstance(data, np.generic):
        return Tensor._wrap(np.array(data)) if data.dtype.kind in "fiub" else data
    if isinstance(data, Mapping):
        return _mapping(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple):
        columns = [default_convert(value) for value in data]
        return type(data)(*columns) if hasattr(data, "_fields") else columns
    if isinstance(data, list):
        return [default_convert(value) for value in data]
    return data

"""Fetching: from the indices of a batch to the batch. Done in the loader itself or in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastdl.kernels import select
from fastdl.tensor import Tensor
from fastdl.utils.data.collate import default_collate, default_collate_fn_map
from fastdl.utils.data.dataset import Subset, TensorDataset

Fetch = Callable[[Any], Any]


def make_fetch(dataset: Any, collate: Callable[[Any], Any], batched: bool, iterable: bool) -> Fetch:
    """A function from what the sampler yields to what the loader yields.

    For a stream it is given how many samples to take (None: one, unbatched) and raises StopIteration at the end.
    """
    if iterable:
        return _StreamFetch(iter(dataset), collate)
    if not batched:
        return lambda index: collate(dataset[index])
    if collate is default_collate and not default_collate_fn_map:
        rows = _row_source(dataset)
        if rows is not None:
            return rows
    fetch_many = getattr(dataset, "__getitems__", None)

    def fetch(indices: Any) -> Any:
        if isinstance(indices, np.ndarray):
            indices = indices.tolist()
        if fetch_many is not None:
            return collate(fetch_many(indices))
        return collate([dataset[i] for i in indices])

    return fetch


class _StreamFetch:
    def __init__(self, stream: Iterator[Any], collate: Callable[[Any], Any]) -> None:
        self.stream = stream
        self.collate = collate
        self.ended = False

    def __call__(self, request: Any) -> Any:
        if self.ended:
            raise StopIteration
        if request is None:
            return self.collate(next(self.stream))
        size, drop_last = request
        samples = []
        for sample in self.stream:
            samples.append(sample)
            if len(samples) == size:
                break
        else:
            self.ended = True
            if not samples or drop_last:
                raise StopIteration
        return self.collate(samples)


def _row_source(dataset: Any) -> Fetch | None:
    """For a TensorDataset, or a Subset of one: fetch by indexing whole tensors, which is what default_collate would
    build from the rows one by one."""
    positions = None
    if type(dataset) is Subset:
        positions = np.asarray(dataset.indices)
        if positions.ndim != 1 or positions.dtype.kind not in "iu":
            return None
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or any(t._requires_grad for t in dataset.tensors):
        return None
    tensors, n = dataset.tensors, len(dataset)

    def fetch(indices: Any) -> list[Tensor]:
        rows = np.asarray(indices, np.intp)
        if positions is not None:
            rows = positions[rows]
        low, high = rows.min(initial=0), rows.max(initial=-1)
        if low < -n or high >= n:
            bad = int(low if low < -n else high)
            raise IndexError(f"DataLoader: index {bad} is out of range: the dataset has {n} samples")
        if low < 0:
            rows = rows % n
        batch = []
        for t in tensors:
            array = t._data
            out = select(array).empty((len(rows), *array.shape[1:]), array.dtype)
            np.take(array, rows, axis=0, out=out, mode="clip")  # in range, as checked: unbuffered
            batch.append(Tensor._wrap(out))
        return batch

    return fetch

"""``DataLoader``: batches of a dataset, in order or shuffled, fetched here or by workers. See ``torch.utils.data``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, Literal, Self

from fastdl.random import default_generator
from fastdl.utils.data.collate import default_collate, default_convert
from fastdl.utils.data.dataset import IterableDataset
from fastdl.utils.data.fetch import make_fetch
from fastdl.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from fastdl.utils.data.worker import Pool, Settings

__all__ = ["DataLoader"]


class DataLoader:
    """Iterates over a dataset in batches.

    Args:
        dataset: a :class:`Dataset` (samples by index) or :class:`IterableDataset` (a stream).
        batch_size: samples per batch (default 1); None yields single samples.
        shuffle: another random order in every epoch (default False).
        sampler: an iterable of indices, instead of ``shuffle``.
        batch_sampler: an iterable of lists of indices, instead of all options that make them.
        num_workers: how many workers fetch ahead; 0 (default): the loader itself fetches.
        collate_fn: makes a batch of a list of samples (default: :func:`default_collate`).
        pin_memory: accepted for compatibility.
        drop_last: drop an incomplete last batch (default False).
        timeout: seconds to wait for a worker's batch; 0: no limit.
        worker_init_fn: called in every worker with its number, after seeding, before fetching.
        multiprocessing_context: start method of worker processes: a name or a ``multiprocessing`` context.
        generator: source of the order and of the workers' seeds (default: the library's own generator).
        prefetch_factor: batches that every worker fetches in advance (default 2).
        persistent_workers: keep the workers between epochs (default False).
        in_order: accepted for compatibility; batches always come in order.
        worker_kind: ``"process"`` (default) or ``"thread"``: threads share the dataset and cost nothing to start, and
            serve best when fetching spends its time in NumPy or in reading files.

    Example:
        >>> import fastdl
        >>> from fastdl.utils.data import DataLoader
        >>> [batch.tolist() for batch in DataLoader(range(5), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    __initialized = False

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        worker_kind: Literal["process", "thread"] = "process",
    ) -> None:
        if not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
            raise TypeError(
                "DataLoader: dataset must have __getitem__ and __len__, or be an IterableDataset, got "
                f"{type(dataset).__name__}"
            )
        if num_workers < 0:
            raise ValueError(
                "num_workers option should be non-negative; use num_workers=0 to disable multiprocessing."
            )
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError("prefetch_factor option could only be specified with num_workers > 0")
        if prefetch_factor is not None and prefetch_factor <= 0:
            raise ValueError("prefetch_factor option should be positive")
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers option needs num_workers > 0")
        if multiprocessing_context is not None and num_workers == 0:
            raise ValueError("multiprocessing_context can only be used with num_workers > 0")
        if worker_kind not in ("process", "thread"):
            raise ValueError(f"worker_kind must be 'process' or 'thread', got {worker_kind!r}")
        self._stream = isinstance(dataset, IterableDataset)
        if self._stream and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "DataLoader with IterableDataset: expected unspecified shuffle, sampler and batch_sampler options: "
                "a stream has its own order"
            )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
            )
        if sampler is None:
            if self._stream:
                sampler = repeat(None)
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.in_order = in_order
        self.worker_kind = worker_kind
        self.persistent_workers = persistent_workers
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn
        self._pool: Pool | None = None
        self.__initialized = True

    def __setattr__(self, name: str, value: Any) -> None:
        fixed = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")
        if self.__initialized and name in fixed:
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def _requests(self) -> Iterator[Any]:
        """What the fetching side is asked for, one request per batch."""
        sampler, batches = self.sampler, self.batch_sampler
        if self._stream:
            return repeat(None if batches is None else (self.batch_size, self.drop_last))
        if batches is None:
            return iter(sampler)
        if type(batches) is BatchSampler and type(batches.sampler) in (SequentialSampler, RandomSampler):
            return self._slices(batches.sampler, batches)  # not self.sampler: batches may be the caller's
        return iter(batches)

    @staticmethod
    def _slices(sampler: Any, batches: BatchSampler) -> Iterator[Any]:
        """The same batches of indices, as pieces of one array."""
        order, size = sampler._order(), batches.batch_size
        stop = len(order) - len(order) % size if batches.drop_last else len(order)
        for begin in range(0, stop, size):
            yield order[begin : begin + size]

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            return _OwnIterator(self)
        return _WorkerIterator(self)

    def _iterate_here(self) -> Iterator[Any]:
        batched = self.batch_sampler is not None
        fetch = make_fetch(self.dataset, self.collate_fn, batched, self._stream)
        if not self._stream:
            for request in self._requests():
                yield fetch(request)
            return
        request = None if not batched else (self.batch_size, self.drop_last)
        while True:
            try:
                batch = fetch(request)
            except StopIteration:
                return
            yield batch

    def _make_pool(self) -> Pool:
        settings = Settings(
            self.dataset,
            self.collate_fn,
            self.batch_sampler is not None,
            self._stream,
            self.num_workers,
            self.worker_init_fn,
            self.worker_kind == "thread",
        )
        return Pool(settings, self.multiprocessing_context, self.prefetch_factor or 2, self.timeout)

    def __len__(self) -> int:
        if self._stream:
            n = len(self.dataset)
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]


class _DatasetKind:
    """PyTorch's numbers of the two kinds of datasets."""

    Map = 0
    Iterable = 1


class _Iterator:
    """One epoch."""

    _loader: DataLoader

    def __iter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return len(self._loader)


class _OwnIterator(_Iterator):
    """One epoch without workers."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._batches = loader._iterate_here()

    def __next__(self) -> Any:
        return next(self._batches)


class _WorkerIterator(_Iterator):
    """One epoch with workers. They end with the iterator, or, if persistent, with the loader."""

    def __init__(self, loader: DataLoader) -> None:
        pool = loader._pool
        if pool is None or not pool.workers:
            pool = loader._make_pool()
            if loader.persistent_workers:
                loader._pool = pool
                weakref.finalize(loader, pool.close)
        self._finalizer = None if loader.persistent_workers else weakref.finalize(self, pool.close)
        self._loader = loader
        self._pool = pool
        generator = default_generator if loader.generator is None else loader.generator
        seed, offset = generator.draw()
        base = (seed + 0x9E3779B97F4A7C15 * (offset + 1)) % 2**63  # one base per epoch; worker i adds i
        self._results = pool.run(loader._requests(), base)

    def __next__(self) -> Any:
        try:
            return next(self._results)
        except StopIteration:
            if self._finalizer is not None:
                self._finalizer()
            raise
        except BaseException:  # an error or Ctrl-C: the next epoch starts with new workers
            self._pool.close()
            self._loader._pool = None
            raise


# PyTorch's names of these: packages ask which of them an iterator is.
_BaseDataLoaderIter, _SingleProcessDataLoaderIter, _MultiProcessingDataLoaderIter = (
    _Iterator,
    _OwnIterator,
    _WorkerIterator,
)

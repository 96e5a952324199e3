"""Samplers: the order in which a :class:`DataLoader` visits a dataset; see ``torch.utils.data``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import cycle, islice
from typing import Any, Generic, TypeVar

import numpy as np

from fastdl.kernels import select
from fastdl.random import Generator, default_generator
from fastdl.tensor import Tensor

__all__ = [
    "BatchSampler",
    "DistributedSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
]

T = TypeVar("T", covariant=True)


def _draw(generator: Any) -> tuple[int, int]:
    return (default_generator if generator is None else generator).draw()


class Sampler(Generic[T]):
    """Base class: subclasses define ``__iter__`` over indices (or lists of them), and usually ``__len__``."""

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError("Subclasses of Sampler should implement __iter__.")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ... in order."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def _order(self) -> Any:
        return np.arange(len(self.data_source))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Indices in random order, another in every epoch.

    Args:
        data_source: the dataset.
        replacement: draw each index independently (default False: a permutation).
        num_samples: how many (default: as many as the dataset has).
        generator: the source of random numbers (default: the library's own).
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Any = None,
    ) -> None:
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got replacement={replacement}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if not isinstance(self.num_samples, int) or self.num_samples <= 0:
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={self.num_samples}"
            )

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def _order(self) -> Any:
        n, wanted = len(self.data_source), self.num_samples
        kernels = select(None)
        if n == 0 or wanted == 0:
            return np.empty(0, np.int64)
        if self.replacement:
            return kernels.random_integers((wanted,), 0, n, *_draw(self.generator))
        rounds = -(-wanted // n)
        orders = [kernels.random_permutation(n, *_draw(self.generator)) for _ in range(rounds)]
        return (orders[0] if rounds == 1 else np.concatenate(orders))[:wanted]

    def __iter__(self) -> Iterator[int]:
        yield from self._order().tolist()

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in random order."""

    def __init__(self, indices: Sequence[int], generator: Any = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in select(None).random_permutation(len(self.indices), *_draw(self.generator)).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices 0 .. len(weights) - 1 drawn with probabilities proportional to ``weights``.

    Args:
        weights: not negative, not all zero; need not sum to 1.
        num_samples: how many.
        replacement: whether an index may come again (default True).
        generator: the source of random numbers (default: the library's own).
    """

    def __init__(
        self, weights: Any, num_samples: int, replacement: bool = True, generator: Any = None
    ) -> None:
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={num_samples}"
            )
        if not isinstance(replacement, bool):
            raise ValueError(f"replacement should be a boolean value, but got replacement={replacement}")
        values = np.asarray(weights._data if isinstance(weights, Tensor) else weights, np.float64)
        if values.ndim != 1:
            raise ValueError(f"weights should be a 1d sequence but given weights have shape {values.shape}")
        if not (values >= 0).all() or not 0 < values.sum() < np.inf:
            raise ValueError("weights should be finite, not negative, and not all zero")
        if not replacement and np.count_nonzero(values) < num_samples:
            raise ValueError(
                f"cannot draw {num_samples} samples without replacement from {np.count_nonzero(values)} "
                "indices whose weight is not zero"
            )
        self.weights = values
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(_draw(self.generator))
        p = self.weights / self.weights.sum()
        yield from rng.choice(len(p), self.num_samples, self.replacement, p).tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Groups what another sampler yields into lists of ``batch_size``; ``drop_last`` drops an incomplete last one."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(
                f"batch_size should be a positive integer value, but got batch_size={batch_size}"
            )
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last should be a boolean value, but got drop_last={drop_last}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


class DistributedSampler(Sampler[int]):
    """Every ``num_replicas``-th index, beginning with ``rank``: one share of a dataset, all shares of one length.

    Args:
        dataset: what is divided.
        num_replicas: how many shares. There is no group of processes to ask, so it must be given, and ``rank``, too.
        rank: which one, from 0.
        shuffle: visit the dataset in random order, another one after every :meth:`set_epoch` (default True).
        seed: of that order; the same for all shares.
        drop_last: leave out what the shares do not divide, instead of beginning again at the front (default False).

    Example:
        >>> from fastdl.utils.data import DistributedSampler
        >>> [list(DistributedSampler(range(5), 2, rank, shuffle=False)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None or rank is None:
            raise RuntimeError(
                "DistributedSampler: give num_replicas and rank; there is no group of processes to ask for them"
            )
        if not 0 <= rank < num_replicas:
            raise ValueError(f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]")
        self.dataset, self.num_replicas, self.rank = dataset, num_replicas, rank
        self.shuffle, self.seed, self.drop_last, self.epoch = shuffle, seed, drop_last, 0
        count = len(dataset)
        self.num_samples = count // num_replicas if drop_last else -(-count // num_replicas)
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        order = range(len(self.dataset))
        if self.shuffle:
            generator = Generator().manual_seed(self.seed + self.epoch)
            order = select(None).random_permutation(len(order), *generator.draw()).tolist()
        return islice(cycle(order), self.rank, self.total_size, self.num_replicas)

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: call it at the beginning of every epoch."""
        self.epoch = epoch

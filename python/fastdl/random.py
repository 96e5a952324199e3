"""Random state: a :class:`Generator` is a seed and a count of the random operations done with it.

Kernels draw with Philox, a function of (seed, offset, position): every random operation takes the generator's
seed and the next offset, and what it draws depends on nothing else. The same seed gives the same numbers and
dropout masks on every backend, for any number of threads. (They are not PyTorch's numbers: its generator is
another.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastdl.devices import to_host
from fastdl.dtypes import device as make_device
from fastdl.kernels import RecordedSeed, capture, cpu, device_backend
from fastdl.tensor import Tensor

__all__ = [
    "Generator",
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]

_DEFAULT_SEED = 67280421310721  # of a Generator that nobody seeded, as in torch
_LIMIT = 1 << 64


class RecordedStream:
    """What a recorded graph draws from one generator: ``used`` offsets from ``start`` on, others in every replay.

    Recording moves the generator on as running would, so that :func:`fork_rng` and checkpoints find the same offsets
    again, and moves it back at the end. A replay takes the generator's next ``used`` offsets.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator, self.start, self.used = generator, generator.get_state(), 0
        self.seed, self.offset = generator._seed, generator._offset
        self.state = device_backend().empty((2,), np.dtype(np.uint64))

    def end(self) -> None:
        """Recording is over."""
        self.generator.set_state(self.start)

    def replay(self) -> None:
        """Let the graph draw the generator's next numbers."""
        device_backend().set_random_state(self.state, *self.generator.reserve(self.used))


class Generator:
    """A source of random numbers with a state of its own; see ``torch.Generator``.

    Args:
        device: accepted for compatibility: a generator serves every device, with the same numbers.

    Example:
        >>> import fastdl
        >>> g = fastdl.Generator().manual_seed(5)
        >>> g.draw(), g.draw()
        ((5, 0), (5, 1))
    """

    __slots__ = ("_lock", "_offset", "_seed", "device")

    def __init__(self, device: Any = "cpu") -> None:
        self.device = make_device("cpu" if device is None else device)
        self._lock = threading.Lock()
        self._seed = _DEFAULT_SEED
        self._offset = 0

    def draw(self, recordable: bool = False) -> tuple[Any, int]:
        """The (seed, offset) of one random operation; the next call gives another offset.

        Args:
            recordable: the numbers are made on a GPU, by kernels that a CUDA graph can record.
        """
        if capture.active:
            if recordable:
                return self.record()
            raise RuntimeError(
                "this random operation (numbers drawn on the CPU?) inside a CUDA graph would draw the same numbers in "
                "every replay; keep it outside of the capture, or call eval() on the model"
            )
        with self._lock:
            offset = self._offset
            self._offset = offset + 1
            return self._seed, offset

    def reserve(self, count: int) -> tuple[int, int]:
        """The (seed, offset) of the first of ``count`` random operations."""
        with self._lock:
            offset = self._offset
            self._offset = offset + count
            return self._seed, offset

    def record(self) -> tuple[RecordedSeed, int]:
        """What stands for (seed, offset) in the CUDA graph that is being recorded."""
        stream = capture.streams.get(self)
        if stream is None:
            stream = capture.streams[self] = RecordedStream(self)
        seed, offset = self.reserve(1)
        place = offset - stream.offset
        if seed != stream.seed or place < 0:
            raise RuntimeError(
                "a CUDA graph draws from its generator's state at the time of a replay: it cannot seed the generator "
                "itself. Call manual_seed() outside of the capture"
            )
        stream.used = max(stream.used, place + 1)
        return RecordedSeed(stream.state), place

    def manual_seed(self, seed: int) -> Generator:
        """Start again from ``seed``, an integer in [-2^63, 2^64); negative ones count from 2^64.

        Returns itself.
        """
        number = int(seed)
        if not -(_LIMIT >> 1) <= number < _LIMIT:
            raise ValueError(f"manual_seed: seed must be in [-2**63, 2**64), got {seed}")
        with self._lock:
            self._seed = number % _LIMIT
            self._offset = 0
        return self

    def seed(self) -> int:
        """Start again from a seed that the operating system makes up, and return it."""
        number = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(number)
        return number

    def initial_seed(self) -> int:
        """The seed last set."""
        return self._seed

    def get_state(self) -> Tensor:
        """Seed and offset as a tensor of 16 bytes, for :meth:`set_state`."""
        with self._lock:
            state = self._seed.to_bytes(8, "little") + self._offset.to_bytes(8, "little")
        array = cpu.empty((16,), np.dtype(np.uint8))
        array[...] = np.frombuffer(state, np.uint8)
        return Tensor._wrap(array)

    def set_state(self, new_state: Tensor) -> Generator:
        """Continue where the generator stood when :meth:`get_state` was called."""
        array = to_host(new_state._data) if isinstance(new_state, Tensor) else np.asarray(new_state)
        if array.dtype != np.uint8 or array.shape != (16,):
            raise TypeError(
                "set_state: new_state must be a uint8 tensor of 16 elements as get_state() returns it, "
                f"got {array.dtype} of shape {array.shape}"
            )
        state = array.tobytes()
        with self._lock:
            self._seed = int.from_bytes(state[:8], "little")
            self._offset = int.from_bytes(state[8:], "little")
        return self

    def clone_state(self) -> Generator:
        """A new generator in the same state."""
        clone = Generator(self.device)
        clone.set_state(self.get_state())
        return clone

    def __reduce__(self) -> Any:
        return _restore, (str(self.device), self.get_state()._data.tobytes())

    def __repr__(self) -> str:
        return f"<fastdl.Generator seed={self._seed} offset={self._offset}>"


def _restore(device: str, state: bytes) -> Generator:
    generator = Generator(device)
    generator.set_state(Tensor._wrap(np.frombuffer(state, np.uint8)))
    return generator


default_generator = Generator()
"""The generator of every random operation that is given no other;

seeded by the operating system at import.
"""
default_generator.seed()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator; see ``torch.manual_seed``.

    Example:
        >>> import fastdl
        >>> x = fastdl.ones(1000)
        >>> _ = fastdl.manual_seed(0)
        >>> first = fastdl.nn.functional.dropout(x)
        >>> _ = fastdl.manual_seed(0)
        >>> bool((first.numpy() == fastdl.nn.functional.dropout(x).numpy()).all())
        True
    """
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator with a number that the operating system makes up; see ``torch.seed``."""
    return default_generator.seed()


def initial_seed() -> int:
    """The default generator's seed; see ``torch.initial_seed``."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state, a tensor of bytes; see ``torch.get_rng_state``."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Put the default generator into a state that :func:`get_rng_state` returned;

    see ``torch.set_rng_state``.
    """
    default_generator.set_state(new_state)


@contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, *, device_type: str = "cuda") -> Iterator[None]:
    """On leaving the ``with`` block the default generator is as it was before; see ``torch.random.fork_rng``.

    Args:
        devices, device_type: accepted for compatibility; there is one generator.
        enabled: False: do nothing.
    """
    state = default_generator.get_state()
    try:
        yield
    finally:
        if enabled:
            default_generator.set_state(state)

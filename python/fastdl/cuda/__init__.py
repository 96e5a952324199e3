"""GPUs: which there are, which is current, their streams, memory and graphs; the names of ``torch.cuda``.

Tensors on a GPU hold CuPy's arrays, and CuPy's current device, current stream and memory pool are the ones used here:
code that mixes fastdl with CuPy needs no synchronisation. Nothing is imported before a GPU is asked for. Without one,
:func:`is_available` is False, :func:`unavailable_reason` says why, and everything else raises RuntimeError with that.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from fastdl import devices
from fastdl.cuda import amp
from fastdl.cuda.graphs import (
    CUDAGraph,
    graph,
    graph_pool_handle,
    is_current_stream_capturing,
    make_graphed_callables,
)
from fastdl.cuda.memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    memory_summary,
    reset_peak_memory_stats,
)
from fastdl.cuda.streams import (
    Event,
    ExternalStream,
    Stream,
    StreamContext,
    current_stream,
    default_stream,
    stream,
    synchronize,
)
from fastdl.cuda.typed import *
from fastdl.cuda.typed import __all__ as _types
from fastdl.random import default_generator
from fastdl.tensor import Tensor

# What CuPy raises is one, with the sizes: it is caught by `except fastdl.cuda.OutOfMemoryError`, as programs have it.
OutOfMemoryError = MemoryError

__all__ = [
    "CUDAGraph",
    "Event",
    "ExternalStream",
    "OutOfMemoryError",
    "Stream",
    "StreamContext",
    "amp",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "graph",
    "graph_pool_handle",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_current_stream_capturing",
    "is_initialized",
    "make_graphed_callables",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "memory_summary",
    "reset_peak_memory_stats",
    "seed",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "stream",
    "synchronize",
    "unavailable_reason",
    *_types,
]


def unavailable_reason() -> str:
    """Why no GPU can be used, in one sentence with the remedy; empty if one can."""
    return devices.missing() or ""


def is_available() -> bool:
    """Can tensors live on a GPU? See :func:`unavailable_reason`.

    Example:
        >>> import fastdl
        >>> device = "cuda" if fastdl.cuda.is_available() else "cpu"
        >>> fastdl.zeros(2, device=device).shape
        (2,)
    """
    return devices.missing() is None


def is_initialized() -> bool:
    """Has a GPU been used yet?"""
    return devices.is_initialized()


def device_count() -> int:
    """The number of usable GPUs."""
    return devices.cupy().cuda.runtime.getDeviceCount() if is_available() else 0


def current_device() -> int:
    """The number of the GPU that ``device="cuda"`` means."""
    return devices.cupy().cuda.Device().id  # type: ignore[no-any-return]


def set_device(device: Any) -> None:
    """Make another GPU the current one; :class:`device` does it for a ``with`` block."""
    devices.cupy().cuda.Device(devices.index("set_device", device)).use()


class device:
    """``with fastdl.cuda.device(1):`` another GPU is the current one inside."""

    def __init__(self, device: Any) -> None:
        self.idx = devices.index("device", device)
        self._entered: list[Any] = []

    def __enter__(self) -> device:
        selected = devices.cupy().cuda.Device(self.idx)
        selected.__enter__()
        self._entered.append(selected)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.pop().__exit__(*exception)


def get_device_properties(device: Any = None) -> Any:
    """Name, capability, memory and multiprocessors of a GPU, as attributes named like PyTorch's."""
    found = devices.cupy().cuda.runtime.getDeviceProperties(devices.index("get_device_properties", device))
    name = found["name"]
    return SimpleNamespace(
        name=name.decode() if isinstance(name, bytes) else str(name),
        major=found["major"],
        minor=found["minor"],
        total_memory=found["totalGlobalMem"],
        multi_processor_count=found["multiProcessorCount"],
        L2_cache_size=found["l2CacheSize"],
    )


def get_device_name(device: Any = None) -> str:
    """The name of a GPU."""
    return get_device_properties(device).name  # type: ignore[no-any-return]


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a GPU, e.g. (9, 0)."""
    properties = get_device_properties(device)
    return properties.major, properties.minor


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Do the current GPU's tensor cores compute in bfloat16 (capability 8.0 and higher)?"""
    return is_available() and get_device_capability()[0] >= 8


# One generator serves all devices: a number drawn depends on its seed and on how many operations drew before, not on
# where it is drawn, so that a program gives the same numbers wherever its tensors are.


def manual_seed(seed: int) -> None:
    """Seed the generator, which is the same for all devices: :func:`fastdl.manual_seed`.

    As in PyTorch this may be called without a GPU; then nothing happens.
    """
    if is_available():
        default_generator.manual_seed(seed)


manual_seed_all = manual_seed


def seed() -> None:
    """Seed the generator with a number that the operating system makes up, if there is a GPU."""
    if is_available():
        default_generator.seed()


def initial_seed() -> int:
    """The generator's seed."""
    return default_generator.initial_seed()


def get_rng_state(device: Any = "cuda") -> Tensor:
    """The generator's state, as :func:`fastdl.get_rng_state` gives it."""
    return default_generator.get_state()


def get_rng_state_all() -> list[Tensor]:
    """The generator's state, once for each GPU."""
    return [default_generator.get_state() for _ in range(device_count())]


def set_rng_state_all(new_states: Iterable[Tensor]) -> None:
    """Put the generator into the state of a list that :func:`get_rng_state_all` returned; nothing if it is empty."""
    for state in new_states:
        default_generator.set_state(state)


def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
    """Put the generator into a state that :func:`get_rng_state` returned."""
    default_generator.set_state(new_state)

"""``profile`` and ``record_function`` under their older path, ``torch.autograd.profiler``."""

from __future__ import annotations

from typing import Any, Self

from fastdl import profiler
from fastdl.profiler import EventList, FunctionEvent, FunctionEventAvg, ProfilerActivity, record_function

__all__ = [
    "EventList",
    "FunctionEvent",
    "FunctionEventAvg",
    "emit_nvtx",
    "profile",
    "record_function",
]


class emit_nvtx:
    """A block whose operations the vendor's profiler would see by name. Accepted, and without effect."""

    def __init__(self, enabled: bool = True, record_shapes: bool = False) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


class profile(profiler.profile):
    """The profiler with its older arguments. See ``torch.autograd.profiler.profile``.

    Args:
        enabled: False: nothing is measured.
        use_cuda, use_device: whether the device's time is measured (``use_device="cuda"``).
        record_shapes, profile_memory: as for :class:`fastdl.profiler.profile`; what else PyTorch takes is accepted.
    """

    def __init__(
        self,
        enabled: bool = True,
        *,
        use_cuda: bool = False,
        use_device: str | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        **ignored: Any,
    ) -> None:
        on_device = use_cuda or use_device == "cuda"
        kinds = {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if on_device else set())
        super().__init__(activities=kinds, record_shapes=record_shapes, profile_memory=profile_memory)
        self.enabled = enabled

    def start(self) -> None:
        if self.enabled:
            super().start()

    def stop(self) -> None:
        if self.enabled:
            super().stop()

    @property
    def function_events(self) -> EventList:
        """Every call."""
        return self.events()

    @property
    def self_cpu_time_total(self) -> float:
        """The time that all took, in microseconds."""
        return self.events().self_cpu_time_total

    def table(self, *args: Any, **options: Any) -> str:
        """The calls as a table."""
        return self.events().table(*args, **options)

    def total_average(self) -> FunctionEventAvg:
        """All calls as one."""
        return self.events().total_average()

    def __str__(self) -> str:
        return "<unfinished profiler>" if self._events is None else str(self._events)

"""What the stand-in for CuPy (``fake_cupy.py``) has of CUDA: devices, streams and graphs, events, memory pools.

Work is done when it is called. What is captured is a list of functions, which a launch calls again.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    current = 0
    count = 2

    def __init__(self, device: Any = None) -> None:
        self.id = Device.current if device is None else int(getattr(device, "id", device))
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *exception: object) -> None:
        Device.current = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def use(self) -> None:
        Device.current = self.id

    def synchronize(self) -> None:
        waits()

    mem_info = (3 << 30, 4 << 30)


class Graph:
    def __init__(self, tape: list[Any]) -> None:
        self.tape = tape

    def launch(self, stream: Any = None) -> None:
        for step in self.tape:
            step()


def waits() -> None:
    """What follows needs the host to wait: an error while a graph is captured, which becomes invalid."""
    if Stream.capturing:
        Stream.invalid = True
        raise CUDARuntimeError(
            "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
        )


class Stream:
    capturing = invalid = False
    stack: ClassVar[list[Any]] = []
    tape: ClassVar[list[Any]] = []

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.ptr = 0 if null else id(self)
        self.device_id = Device.current

    @classmethod
    def from_external(cls, obj: Any) -> Stream:
        version, ptr = obj.__cuda_stream__()
        if version != 0:
            raise ValueError(f"unsupported version {version} of the CUDA stream protocol")
        stream = cls()
        stream.ptr, stream.device_id = ptr, -1
        return stream

    def __enter__(self) -> Stream:
        Stream.stack.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        Stream.stack.pop()

    def use(self) -> Stream:
        Stream.stack[:] = [self]
        return self

    def synchronize(self) -> None:
        waits()

    done = True

    def record(self, event: Any = None) -> Any:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        pass

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream cannot be captured")
        Stream.capturing, Stream.invalid = True, False
        Stream.tape = []  # type: ignore[misc]

    def end_capture(self) -> Graph:
        Stream.capturing = False
        if Stream.invalid:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture"
            )
        return Graph(Stream.tape)

    def is_capturing(self) -> bool:
        return Stream.capturing


Stream.null = Stream(null=True)  # type: ignore[attr-defined]


class Event:
    clock = 0.0

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.at: float | None = None
        self.timed = not disable_timing

    def record(self, stream: Any = None) -> None:
        Event.clock += 0.5
        self.at = Event.clock

    def synchronize(self) -> None:
        pass

    done = True


class MemoryPool:
    def __init__(self) -> None:
        self.used = 0

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return 2 * self.used

    def free_all_blocks(self) -> None:
        self.used = 0

    def malloc(self, size: int) -> Any:
        raise AssertionError("the stand-in does not allocate by itself")


class PinnedMemory(np.ndarray):
    """What ``alloc_pinned_memory`` returns: a buffer with an address."""

    @property
    def ptr(self) -> int:
        return self.__array_interface__["data"][0]  # type: ignore[no-any-return]


class MemoryHook:
    def __enter__(self) -> Any:
        MemoryHook.active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        MemoryHook.active.remove(self)

    active: ClassVar[list[Any]] = []


pool = MemoryPool()


def _get_elapsed_time(start: Event, end: Event) -> float:
    return end.at - start.at  # type: ignore[operator]


def _properties(device_id: int) -> dict[str, Any]:
    return {
        "name": b"Stand-in GPU",
        "major": 9,
        "minor": 0,
        "totalGlobalMem": 4 << 30,
        "multiProcessorCount": 132,
        "l2CacheSize": 64 << 10,
    }

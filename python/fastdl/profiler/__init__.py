"""How long operations take: ``profile``, ``record_function``, ``schedule``; see ``torch.profiler``.

Example:
    >>> import fastdl
    >>> from fastdl.profiler import profile, record_function
    >>> with profile() as prof:
    ...     with record_function("forward"):
    ...         y = fastdl.ones(8, 8) @ fastdl.ones(8, 8)
    >>> sorted(e.key for e in prof.key_averages() if e.key in ("forward", "matmul"))
    ['forward', 'matmul']
    >>> print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=5))  # doctest: +SKIP
"""

from __future__ import annotations

import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from enum import Enum, IntEnum
from types import TracebackType
from typing import Any, Self

from fastdl import cuda
from fastdl.errors import ArgumentError, warn_caller
from fastdl.profiler.averages import EventList, FunctionEvent, FunctionEventAvg
from fastdl.profiler.recorder import Event, Recorder

__all__ = [
    "EventList",
    "FunctionEvent",
    "FunctionEventAvg",
    "ProfilerAction",
    "ProfilerActivity",
    "kineto_available",
    "profile",
    "record_function",
    "schedule",
    "supported_activities",
    "tensorboard_trace_handler",
]


class ProfilerActivity(IntEnum):
    """What is measured: time on the CPU, and on the GPU by events on its stream."""

    CPU = 0
    XPU = 1
    MTIA = 2
    CUDA = 3
    HPU = 4
    PrivateUse1 = 5


class ProfilerAction(Enum):
    """What a profiler does in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


_RECORDS = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


def kineto_available() -> bool:
    """True: :class:`profile` is there."""
    return True


def supported_activities() -> set[ProfilerActivity]:
    """What can be measured here."""
    return {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if cuda.is_available() else set())


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0, skip_first_wait: int = 0
) -> Callable[[int], ProfilerAction]:
    """Cycles of ``wait`` steps without, ``warmup`` steps before and ``active`` steps with recording.

    Args:
        wait, warmup, active: lengths in steps; ``active`` at least 1.
        repeat: how many cycles; 0: until the end.
        skip_first: steps before the first cycle.
        skip_first_wait: 1: the first cycle begins without its ``wait``.

    Example:
        >>> plan = schedule(wait=1, warmup=1, active=2)
        >>> [plan(step).name for step in range(5)]
        ['NONE', 'WARMUP', 'RECORD', 'RECORD_AND_SAVE', 'NONE']
    """
    if min(wait, warmup, repeat, skip_first) < 0 or active < 1:
        raise ArgumentError(
            "schedule: Invalid profiler schedule arguments: wait, warmup, repeat and skip_first must not be negative "
            f"and active must be at least 1, got wait={wait}, warmup={warmup}, active={active}, repeat={repeat}, "
            f"skip_first={skip_first}"
        )
    if warmup == 0:
        warn_caller("Profiler won't be using warmup, this can skew profiler results")
    length = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        if step < 0:
            raise ArgumentError(f"schedule: Step must be non-negative. Got {step}.")
        step -= skip_first
        if step < 0:
            return ProfilerAction.NONE
        if skip_first_wait:
            step += wait
        place = step % length
        if (repeat and step // length >= repeat) or place < wait:
            return ProfilerAction.NONE
        if place < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if place < length - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


def _always(step: int) -> ProfilerAction:
    return ProfilerAction.RECORD


def tensorboard_trace_handler(
    dir_name: str, worker_name: str | None = None, use_gzip: bool = False
) -> Callable[[Any], None]:
    """An ``on_trace_ready`` that writes each trace to a file of its own in ``dir_name``."""

    def handler(prof: Any) -> None:
        os.makedirs(dir_name, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        name = f"{worker}.{time.time_ns()}.pt.trace.json{'.gz' if use_gzip else ''}"
        prof.export_chrome_trace(os.path.join(dir_name, name))

    return handler


class record_function(ContextDecorator):
    """A name for what runs inside the block or the decorated function; without a profiler it costs next to nothing.

    Example:
        >>> @record_function("loss")
        ... def loss(x):
        ...     return (x * x).sum()
    """

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self.args = name, args
        self._open: list[tuple[Recorder, Event] | None] = []

    def __enter__(self) -> Self:
        recorder = Recorder.active
        self._open.append(
            None if recorder is None else (recorder, recorder.open(self.name, "user_annotation"))
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened = self._open.pop()
        if opened is not None:
            opened[0].close(opened[1])


class profile:
    """Measures operations between ``start()`` and ``stop()``, or in a ``with`` block. See ``torch.profiler.profile``.

    While it records every operation takes some microseconds more; before and after it nothing does. Nodes of the graph
    are recorded in backward, steps of optimizers and batches of a DataLoader by PyTorch's names for them.

    Args:
        activities: a set of :class:`ProfilerActivity`; default: all that there are. With CUDA each operation has events
            on the current stream around it.
        schedule: step -> :class:`ProfilerAction`, as :func:`schedule` makes it; :meth:`step` goes on by one.
        on_trace_ready: called with the profiler when a recording is complete.
        record_shapes: keep the shapes of inputs.
        profile_memory: note by how much the memory of tensors on the CPU grew in each call.
        with_stack, with_flops, with_modules, experimental_config, execution_trace_observer, acc_events,
            custom_trace_id_callback, post_processing_timeout_s: accepted for code written for PyTorch, without effect.
        use_cuda: the older way to ask for CUDA.
    """

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[[Any], Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        with_modules: bool = False,
        experimental_config: Any = None,
        execution_trace_observer: Any = None,
        acc_events: bool = False,
        use_cuda: bool | None = None,
        custom_trace_id_callback: Any = None,
        post_processing_timeout_s: float | None = None,
    ) -> None:
        wanted = supported_activities() if activities is None else set(activities)
        if use_cuda is not None:
            wanted = wanted | {ProfilerActivity.CUDA} if use_cuda else wanted - {ProfilerActivity.CUDA}
        if not wanted or not all([isinstance(a, ProfilerActivity) for a in wanted]):
            raise ArgumentError(
                f"profile: activities must be ProfilerActivity.CPU, ProfilerActivity.CUDA or both, got {activities!r}"
            )
        self.activities = wanted
        self.record_shapes, self.profile_memory = record_shapes, profile_memory
        self.schedule, self.on_trace_ready = schedule or _always, on_trace_ready
        self.step_num = 0
        self.current_action = self.schedule(0)
        self._record_steps = schedule is not None
        self._recorder: Recorder | None = None
        self._step: record_function | None = None
        self._events: EventList | None = None

    @property
    def _device(self) -> bool:
        return ProfilerActivity.CUDA in self.activities and cuda.is_available()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin, with the schedule's first action."""
        if self.current_action in _RECORDS:
            self._begin()
        self._enter_step()

    def stop(self) -> None:
        """End; an unfinished recording is complete."""
        self._leave_step()
        self._end()

    def step(self) -> None:
        """The schedule's next step."""
        self._leave_step()
        before = self.current_action
        self.step_num += 1
        self.current_action = self.schedule(self.step_num)
        if before is ProfilerAction.RECORD_AND_SAVE:
            self._end()
        if self.current_action in _RECORDS:
            if self._recorder is None:
                self._begin()
        elif self._recorder is not None:
            warn_caller("Incorrect schedule: RECORD followed by no RECORD_AND_SAVE")
            self._end()
        self._enter_step()

    def _enter_step(self) -> None:
        if self._record_steps and self._recorder is not None:
            self._step = record_function(f"ProfilerStep#{self.step_num}")
            self._step.__enter__()

    def _leave_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def _begin(self) -> None:
        recorder = Recorder(self.record_shapes, self.profile_memory, self._device)
        recorder.start()
        self._recorder = recorder
        self._abandoned = weakref.finalize(self, recorder.stop)  # started, never stopped, dropped

    def _end(self) -> None:
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        self._abandoned.detach()
        recorder.stop()
        options = {"device": self._device, "memory": self.profile_memory}
        self._events = EventList([FunctionEvent(event) for event in recorder.events], **options)
        if self.on_trace_ready is not None:
            self.on_trace_ready(self)

    def events(self) -> EventList:
        """Every call of the last complete recording, in the order in which they began."""
        if self._events is None:
            raise ArgumentError(
                "profile: nothing was recorded yet: the events are there after the with block, stop(), or the last "
                "active step of the schedule"
            )
        return self._events

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """The calls by name (and shapes of inputs), for ``.table(sort_by=..., row_limit=...)``."""
        return self.events().key_averages(group_by_input_shape, group_by_stack_n)

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the last recording to a JSON file for chrome://tracing or Perfetto."""
        self.events().export_chrome_trace(path)

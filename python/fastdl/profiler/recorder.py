"""What is switched in while a profiler records, and what is then called: events with times, shapes and memory.

Nothing asks whether a profiler is active. Starting one puts timed functions in the place of the operations' entrances
(``Op.apply``, the public functions, a tensor's methods, the engine's walk), stopping it puts back what was there; a
timed function that somebody kept calls what it stands for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from heapq import heappop
from time import perf_counter_ns
from typing import Any

from fastdl import cuda, functions
from fastdl._graph import FunctionCall
from fastdl.autograd import engine
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError
from fastdl.runtime import memory_stats
from fastdl.tensor import Tensor

_NAMED = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SOURCES = re.compile(r"fastdl.(ops.(?!query|axes)\w+|creation|sequences|methods|matrices|published).py$")


class Event:
    """One call: times in nanoseconds, what its inner calls took, shapes and memory if asked for."""

    __slots__ = (
        "children",
        "end",
        "inner",
        "inner_memory",
        "key",
        "kind",
        "marks",
        "memory",
        "parent",
        "shapes",
        "start",
        "thread",
    )

    def __init__(self, key: str, kind: str, shapes: Any, parent: Event | None) -> None:
        self.key, self.kind, self.shapes, self.parent = key, kind, shapes, parent
        self.thread = threading.get_ident()
        self.inner = self.inner_memory = self.memory = 0
        self.children: list[Event] = []
        self.marks: tuple[Any, Any] | None = None
        self.start = self.end = 0

    @property
    def device_ns(self) -> int:
        """Nanoseconds between the marks on the GPU's stream; 0 without."""
        return int(self.marks[0].elapsed_time(self.marks[1]) * 1e6) if self.marks else 0


class Recorder:
    """The events of one recording. At most one records at a time."""

    active: Recorder | None = None

    def __init__(self, shapes: bool = False, memory: bool = False, device: bool = False) -> None:
        self.events: list[Event] = []
        self.shapes, self.memory, self.device = shapes, memory, device
        self._local = threading.local()
        self._before: list[tuple[Any, str, Any, Any]] = []

    @property
    def stack(self) -> list[Event]:
        """This thread's open events."""
        stack: list[Event] | None = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        return stack

    def open(self, key: str, kind: str = "cpu_op", inputs: Any = ()) -> Event:
        """A new event inside of this thread's last open one."""
        stack = self.stack
        shapes = [_shape(x) for x in inputs] if self.shapes else None
        event = Event(key, kind, shapes, stack[-1] if stack else None)
        stack.append(event)
        if self.device:
            event.marks = (cuda.Event(enable_timing=True), cuda.Event(enable_timing=True))
            event.marks[0].record()
        if self.memory:
            event.memory = memory_stats()["in_use"]
        event.start = perf_counter_ns()
        return event

    def close(self, event: Event) -> None:
        """The end of ``event``, and of what is still open inside of it."""
        event.end = perf_counter_ns()
        stack = self.stack
        if event not in stack:
            return
        while stack[-1] is not event:
            self.close(stack[-1])
        stack.pop()
        if self.memory:
            event.memory = memory_stats()["in_use"] - event.memory
        if event.marks is not None:
            event.marks[1].record()
        if event.parent is not None:
            event.parent.inner += event.end - event.start
            event.parent.inner_memory += event.memory
            event.parent.children.append(event)
        self.events.append(event)

    def start(self) -> None:
        """Switch the timed functions in."""
        if Recorder.active is not None:
            raise ArgumentError(
                "profile: Profiler is already enabled: one records at a time; stop() the other one first"
            )
        Recorder.active = self
        for owner, name, instead in _entrances():
            self._before.append((owner, name, vars(owner).get(name), instead))
            setattr(owner, name, instead)

    def stop(self) -> None:
        """Put back what was there, and close what is open."""
        if Recorder.active is not self:
            return
        Recorder.active = None
        for owner, name, before, instead in reversed(self._before):
            if vars(owner).get(name) is not instead:
                continue  # somebody has put something else there meanwhile
            if before is None:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._before.clear()
        while self.stack:
            self.close(self.stack[0])
        if self.device:
            cuda.synchronize()
        self.events.sort(key=lambda event: event.start)


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, (list, tuple)) and value and all([isinstance(v, Tensor) for v in value]):
        return [list(v.shape) for v in value]
    return []


def name_of(cls: type) -> str:
    """``"log_softmax"`` of ``LogSoftmax``."""
    return _NAMED.sub("_", cls.__name__.lstrip("_")).lower()


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, with an event for every call while a recorder is active."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        recorder = Recorder.active
        if recorder is None:
            return function(*args, **options)
        event = recorder.open(name, inputs=args)
        try:
            return function(*args, **options)
        finally:
            recorder.close(event)

    return call


def _apply(cls: type[Op], *inputs: Any, **options: Any) -> Any:
    """Op.apply; within a function of the same name it is that function's event."""
    apply, recorder = super(Op, cls).apply, Recorder.active  # type: ignore[misc]
    if recorder is None:
        return apply(*inputs, **options)
    name, stack = name_of(cls), recorder.stack
    if stack and stack[-1].key.strip("_").replace("_", "") == name.replace("_", ""):
        return apply(*inputs, **options)
    event = recorder.open(name, inputs=inputs)
    try:
        return apply(*inputs, **options)
    finally:
        recorder.close(event)


def _walk(run: Callable[..., Any]) -> Callable[..., Any]:
    """The engine's walk: closes the event of its last node."""

    def call(*args: Any) -> Any:
        recorder = Recorder.active
        if recorder is None:
            return run(*args)
        event = recorder.open("backward", "walk")
        try:
            return run(*args)
        finally:
            recorder.close(event)

    return call


def _next_node(pop: Callable[..., Any]) -> Callable[..., Any]:
    """The engine's next node: ends the event of the one before and begins its own.

    What follows until then is its backward, and handing on and adding up its gradients.
    """

    def call(heap: Any) -> Any:
        item = pop(heap)
        recorder = Recorder.active
        if recorder is not None and recorder.stack:
            if recorder.stack[-1].kind == "backward":
                recorder.close(recorder.stack[-1])
            recorder.open(item[1].name(), "backward")
        return item

    return call


def _step(step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        return timed(f"Optimizer.step#{type(self).__name__}.step", step)(self, *args, **options)

    return call


def _batches(iterate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(iterate)
    def call(self: Any) -> Iterator[Any]:
        batches = iterate(self)
        end = object()
        following = timed("enumerate(DataLoader)#__next__", lambda: next(batches, end))
        while (batch := following()) is not end:
            yield batch

    return call


def _is_operation(name: str, value: Any) -> Any:
    if name in _QUERIES or isinstance(value, type) or not callable(value):
        return False
    known = name in vars(functions) or (name[-1] == "_" and name[:-1] in vars(functions))
    code = getattr(value, "__code__", None)  # published functions call "fastdl" their module
    return (
        isinstance(value, FunctionCall) or known or (code and _SOURCES.search(code.co_filename) is not None)
    )


def _entrances() -> list[tuple[Any, str, Any]]:
    """(owner, name, what takes its place) for all that is timed, as it is now: programs put in their own functions."""
    import fastdl
    from fastdl.nn import functional
    from fastdl.optim.optimizer import Optimizer
    from fastdl.utils.data.dataloader import DataLoader

    # apply_itself is what autocast and what a kernel refused come back to.
    made: list[tuple[Any, str, Any]] = [(Op, name, classmethod(_apply)) for name in ("apply", "apply_itself")]
    made.append((engine, "_run", _walk(engine._run)))
    made.append((engine, "heappop", _next_node(heappop)))
    made.append((Optimizer, "step", _step(Optimizer.step)))
    made.append((DataLoader, "__iter__", _batches(DataLoader.__iter__)))
    for owner in (fastdl, functional, Tensor):
        for name, value in list(vars(owner).items()):
            shown = _SPECIAL.get(name, name)
            if shown[0] != "_" and _is_operation(shown, value):
                made.append((owner, name, timed(shown, value)))
    return made


_OPERATORS = """getitem setitem abs neg pos invert add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv
    floordiv mod pow rpow ipow matmul rmatmul and or xor lshift rshift eq ne lt le gt ge"""
_SPECIAL = {f"__{name}__": name for name in _OPERATORS.split()}
_QUERIES = {n for n in vars(functions) if n.startswith(("is_", "get_", "set_"))} | {"numel", "dim", "size"}

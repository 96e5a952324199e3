"""Events as tables, averages by name, and traces that a browser shows (chrome://tracing, Perfetto)."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.profiler.recorder import Event

__all__ = ["EventList", "FunctionEvent", "FunctionEventAvg"]


class _Times:
    """Numbers by PyTorch's names, in microseconds; ``cuda_*`` are the device's."""

    key: str
    count: int
    cpu_time_total: float
    self_cpu_time_total: float
    device_time_total: float
    self_device_time_total: float
    cpu_memory_usage: int
    self_cpu_memory_usage: int
    input_shapes: Any

    @property
    def cpu_time(self) -> float:
        """The average time of a call."""
        return self.cpu_time_total / self.count if self.count else 0.0

    @property
    def device_time(self) -> float:
        """The average time of a call on the device."""
        return self.device_time_total / self.count if self.count else 0.0

    cuda_time = device_time

    @property
    def cuda_time_total(self) -> float:
        """``device_time_total``, by its older name."""
        return self.device_time_total

    @property
    def self_cuda_time_total(self) -> float:
        """``self_device_time_total``, by its older name."""
        return self.self_device_time_total


class FunctionEvent(_Times):
    """One call of an operation."""

    count = 1

    def __init__(self, event: Event) -> None:
        self.key = self.name = event.key
        self.kind, self.thread = event.kind, event.thread
        self.start_ns, self.end_ns = event.start, event.end
        self.cpu_time_total = (event.end - event.start) / 1e3
        self.self_cpu_time_total = self.cpu_time_total - event.inner / 1e3
        device = event.device_ns
        self.device_time_total = device / 1e3
        self.self_device_time_total = max(device - sum([c.device_ns for c in event.children]), 0) / 1e3
        self.cpu_memory_usage = event.memory
        self.self_cpu_memory_usage = event.memory - event.inner_memory
        self.input_shapes = event.shapes
        self.top_level = event.parent is None

    def __repr__(self) -> str:
        return f"<FunctionEvent {self.name} cpu_time={_time(self.cpu_time_total)}>"


class FunctionEventAvg(_Times):
    """All calls of one name."""

    _SUMS = (
        "count",
        "cpu_time_total",
        "self_cpu_time_total",
        "device_time_total",
        "self_device_time_total",
        "cpu_memory_usage",
        "self_cpu_memory_usage",
    )

    def __init__(self, key: str, input_shapes: Any = None) -> None:
        self.key, self.input_shapes = key, input_shapes
        self.count = self.cpu_memory_usage = self.self_cpu_memory_usage = 0
        self.cpu_time_total = self.self_cpu_time_total = 0.0
        self.device_time_total = self.self_device_time_total = 0.0
        self.top_level = False

    def add(self, other: Any) -> None:
        """Count ``other`` in."""
        for name in self._SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.top_level = self.top_level or other.top_level

    def __repr__(self) -> str:
        return (
            f"<FunctionEventAvg key={self.key} self_cpu_time={_time(self.self_cpu_time_total)} "
            f"cpu_time={_time(self.cpu_time)} count={self.count}>"
        )


def _time(us: float) -> str:
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{us / size:.3f}{unit}"
    return f"{us:.3f}us"


def _size(size: float) -> str:
    for unit, step in (("GB", 30), ("MB", 20), ("KB", 10)):
        if abs(size) >= 1 << step:
            return f"{size / (1 << step):.2f} {unit}"
    return f"{size:.0f} B"


_COLUMNS = """count cpu_time cpu_time_total self_cpu_time_total cuda_time cuda_time_total self_cuda_time_total
    device_time device_time_total self_device_time_total cpu_memory_usage self_cpu_memory_usage"""
_SORTS = _COLUMNS.split()


class EventList(list[Any]):
    """Events or averages, as a list that prints as a table."""

    def __init__(self, items: Iterable[Any] = (), *, device: bool = False, memory: bool = False) -> None:
        super().__init__(items)
        self._device, self._memory = device, memory

    def key_averages(
        self, group_by_input_shape: bool = False, group_by_stack_n: int = 0, **_: Any
    ) -> EventList:
        """One :class:`FunctionEventAvg` for every name, or for every name and its inputs' shapes."""
        found: dict[Any, FunctionEventAvg] = {}
        for event in self:
            shapes = event.input_shapes if group_by_input_shape else None
            key = event.key, json.dumps(shapes)
            if key not in found:
                found[key] = FunctionEventAvg(event.key, shapes)
            found[key].add(event)
        return EventList(found.values(), device=self._device, memory=self._memory)

    def total_average(self) -> FunctionEventAvg:
        """All of them as one."""
        total = FunctionEventAvg("Total")
        for event in self:
            total.add(event)
        return total

    @property
    def self_cpu_time_total(self) -> float:
        """The time that all took, in microseconds."""
        return float(sum([event.self_cpu_time_total for event in self]))

    def table(
        self,
        sort_by: str | None = None,
        row_limit: int = 100,
        max_src_column_width: int = 75,
        max_name_column_width: int = 55,
        max_shapes_column_width: int = 80,
        header: str | None = None,
        top_level_events_only: bool = False,
    ) -> str:
        """The events as text.

        Args:
            sort_by: a column, largest first: ``"cpu_time_total"``, ``"self_cpu_time_total"``, ``"count"``,
                ``"cuda_time_total"``, ...; None: as they came.
            row_limit: how many rows are shown; -1: all.
            max_src_column_width: accepted for code written for PyTorch; there is no column of sources.
            max_name_column_width, max_shapes_column_width: where texts are cut.
            header: a line above.
            top_level_events_only: leave out what was called by another event alone.
        """
        rows = list(self)
        if sort_by is not None:
            if sort_by not in _SORTS:
                raise ArgumentError(f"table: sort_by must be one of {', '.join(_SORTS)}, got {sort_by!r}")
            rows.sort(key=lambda event: getattr(event, sort_by), reverse=True)
        if top_level_events_only:
            rows = [row for row in rows if row.top_level]
        total, on_device = self.self_cpu_time_total, sum([e.self_device_time_total for e in self])
        shapes = any([row.input_shapes for row in rows])
        names = ["Name", "Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg"]
        names += ["CPU Mem", "Self CPU Mem"] if self._memory else []
        names += ["Self CUDA", "Self CUDA %", "CUDA total", "CUDA time avg"] if self._device else []
        names += ["# of Calls"] + (["Input Shapes"] if shapes else [])
        cells = [names]
        for row in rows[: None if row_limit < 0 else row_limit]:
            line = [_cut(row.key, max_name_column_width)]
            line += [_share(row.self_cpu_time_total, total), _time(row.self_cpu_time_total)]
            line += [_share(row.cpu_time_total, total), _time(row.cpu_time_total), _time(row.cpu_time)]
            if self._memory:
                line += [_size(row.cpu_memory_usage), _size(row.self_cpu_memory_usage)]
            if self._device:
                line += [_time(row.self_device_time_total), _share(row.self_device_time_total, on_device)]
                line += [_time(row.device_time_total), _time(row.device_time)]
            line.append(str(row.count))
            if shapes:
                line.append(_cut(str(row.input_shapes or []), max_shapes_column_width))
            cells.append(line)
        widths = [max([len(line[i]) for line in cells]) + 2 for i in range(len(names))]
        rule = "  ".join(["-" * width for width in widths])
        lines = ["  ".join([c.rjust(w) for c, w in zip(line, widths, strict=True)]) for line in cells]
        text = [rule, lines[0], rule, *lines[1:], rule, f"Self CPU time total: {_time(total)}"]
        if header is not None:
            text[:0] = ["=" * len(rule), header]
        if self._device:
            text.append(f"Self CUDA time total: {_time(on_device)}")
        return "\n".join([*text, ""])

    def __str__(self) -> str:
        return self.table()

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the events to a JSON file that chrome://tracing and Perfetto show; ``.gz`` is compressed."""
        items = [
            {
                "ph": "X",
                "cat": event.kind,
                "name": event.name,
                "pid": os.getpid(),
                "tid": event.thread,
                "ts": event.start_ns / 1e3,
                "dur": (event.end_ns - event.start_ns) / 1e3,
                "args": {} if event.input_shapes is None else {"Input Dims": event.input_shapes},
            }
            for event in self
        ]
        text = json.dumps({"schemaVersion": 1, "displayTimeUnit": "ms", "traceEvents": items})
        name = os.fspath(path)
        with gzip.open(name, "wt") if name.endswith(".gz") else open(name, "w") as file:
            file.write(text)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "--"


def _cut(text: str, width: int) -> str:
    return text if width <= 3 or len(text) <= width else text[: width - 3] + "..."

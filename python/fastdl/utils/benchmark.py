"""Timing pieces of code and comparing them in a table; see ``torch.utils.benchmark``.

For whole families of fastdl beside PyTorch there is ``fastdl bench``.
"""

from __future__ import annotations

import timeit as _timeit
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from fastdl import cuda
from fastdl.runtime import get_num_threads, set_num_threads

__all__ = ["Compare", "Measurement", "TaskSpec", "Timer"]

_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def _unit(seconds: float) -> tuple[str, float]:
    return next((unit for unit in _UNITS if seconds >= unit[1]), _UNITS[-1])


@dataclass(frozen=True)
class TaskSpec:
    """What was measured, and what it is called in tables."""

    stmt: str
    setup: str
    label: str | None = None
    sub_label: str | None = None
    description: str | None = None
    env: str | None = None
    num_threads: int = 1

    @property
    def title(self) -> str:
        """The label, or the statement."""
        if self.label is not None:
            return self.label + (f": {self.sub_label}" if self.sub_label else "")
        return self.sub_label or self.stmt


@dataclass
class Measurement:
    """Times of one :class:`Timer`: ``raw_times`` in seconds, each of ``number_per_run`` executions."""

    number_per_run: int
    raw_times: list[float]
    task_spec: TaskSpec
    metadata: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def times(self) -> list[float]:
        """Seconds of one execution, for each run."""
        return [t / self.number_per_run for t in self.raw_times]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.times))

    @property
    def median(self) -> float:
        """Their median: the number to compare."""
        return float(np.median(self.times))

    @property
    def iqr(self) -> float:
        """The distance of the quartiles."""
        return float(np.subtract(*np.percentile(self.times, [75, 25])))

    @property
    def has_warnings(self) -> bool:
        """Do the quartiles lie further apart than a tenth of the median?"""
        return self.iqr > 0.1 * self.median

    @property
    def significant_figures(self) -> int:
        """How many digits of the median the spread leaves: 1 to 4."""
        spread = max(self.iqr / max(len(self.times), 1) ** 0.5 / 1.35, 1e-12)
        return int(np.clip(np.floor(np.log10(max(self.median, 1e-12) / spread)), 1, 4))

    @property
    def num_threads(self) -> int:
        """How many threads computed."""
        return self.task_spec.num_threads

    @property
    def as_row_name(self) -> str:
        """What stands before a table's row."""
        return self.task_spec.sub_label or self.task_spec.stmt

    @staticmethod
    def merge(measurements: Iterable[Measurement]) -> list[Measurement]:
        """One measurement for all runs of the same task."""
        by_task: dict[TaskSpec, Measurement] = {}
        for m in measurements:
            if m.task_spec not in by_task:
                by_task[m.task_spec] = Measurement(1, [], m.task_spec)
            by_task[m.task_spec].raw_times += m.times
        return list(by_task.values())

    def __repr__(self) -> str:
        spec, (unit, scale) = self.task_spec, _unit(self.median)
        lines = [f"<{type(self).__name__}> {spec.title}"]
        if spec.description:
            lines.append(spec.description)
        if spec.setup not in ("", "pass"):
            lines.append(f"setup: {spec.setup}")
        lines.append(f"  Median: {self.median / scale:.2f} {unit}")
        lines.append(f"  IQR:    {self.iqr / scale:.2f} {unit}")
        runs = len(self.raw_times)
        lines.append(
            f"  {runs} measurement{'s' * (runs > 1)}, {self.number_per_run} run{'s' * (self.number_per_run > 1)} per "
            f"measurement, {self.num_threads} thread{'s' * (self.num_threads > 1)}"
        )
        if self.has_warnings:
            lines.append(
                "  The quartiles lie more than a tenth of the median apart: other work disturbed the machine."
            )
        return "\n".join(lines)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = get_num_threads()
    set_num_threads(count)
    try:
        yield
    finally:
        set_num_threads(before)


def _clock() -> float:
    """Seconds, once the GPU has done what it was given."""
    if cuda.is_available():
        cuda.synchronize()
    return perf_counter()


class Timer:
    """Measures a statement; see ``torch.utils.benchmark.Timer``.

    Args:
        stmt, setup: Python code; ``setup`` runs once before each measurement.
        timer: a clock in seconds. Default: the wall clock, after work on a GPU is done.
        globals: names that the code may use.
        label, sub_label, description, env: what :class:`Compare` sorts by: tables, rows, columns, and kinds of rows.
        num_threads: of fastdl while measuring; 1, as PyTorch's, for results that are easy to compare.

    Example:
        >>> import fastdl
        >>> from fastdl.utils.benchmark import Timer
        >>> measured = Timer("x + x", globals={"x": fastdl.ones(64)}).timeit(100)
        >>> measured.median > 0
        True
    """

    def __init__(
        self,
        stmt: str = "pass",
        setup: str = "pass",
        global_setup: str = "",
        timer: Callable[[], float] = _clock,
        globals: dict[str, Any] | None = None,
        label: str | None = None,
        sub_label: str | None = None,
        description: str | None = None,
        env: str | None = None,
        num_threads: int = 1,
        language: Any = "python",
    ) -> None:
        if global_setup or str(language) not in ("python", "Language.PYTHON", "py"):
            raise ValueError(
                f"Timer: statements are in Python, and set up by setup=; got language {language!r}, global_setup "
                f"{global_setup!r}"
            )
        names = {} if globals is None else dict(globals)
        if "fastdl" not in names:
            import fastdl

            names["fastdl"] = fastdl
        self._spec = TaskSpec(stmt, setup, label, sub_label, description, env, int(num_threads))
        self._timer = _timeit.Timer(stmt, setup, timer, names)

    def _run(self, number: int) -> float:
        return max(self._timer.timeit(number), 1e-9)

    def timeit(self, number: int = 1_000_000) -> Measurement:
        """One measurement of ``number`` executions, after a hundredth of them to warm up."""
        with _threads(self._spec.num_threads):
            self._run(max(number // 100, 2))
            return Measurement(number, [self._run(number)], self._spec)

    def repeat(self, repeat: int = -1, number: int = -1) -> None:
        """Not implemented, as in PyTorch: :meth:`blocked_autorange` repeats."""
        raise NotImplementedError("Timer.repeat: use blocked_autorange()")

    def autorange(self, callback: Any = None) -> None:
        """Not implemented, as in PyTorch: see :meth:`blocked_autorange`."""
        raise NotImplementedError("Timer.autorange: use blocked_autorange()")

    def _block_size(self, least: float) -> int:
        """Executions that together take so long that reading the clock does not count."""
        overhead = float(np.median([_timeit.Timer("pass").timeit(1) for _ in range(5)]))
        number = 1
        while True:
            seconds = self._run(number)
            if (seconds > least / 1000 and overhead / seconds < 1e-4) or seconds > least / 10:
                return number
            number *= 10

    def blocked_autorange(
        self, callback: Callable[[int, float], Any] | None = None, min_run_time: float = 0.2
    ) -> Measurement:
        """Measurements of as many executions as are needed for exact times, for ``min_run_time`` seconds."""
        return self._measure(min_run_time, callback, lambda found, total: total >= min_run_time)

    def _measure(
        self, least: float, callback: Any, done: Callable[[Measurement, float], bool]
    ) -> Measurement:
        """Runs of equal blocks until they are ``done``, which sees them and their seconds together."""
        with _threads(self._spec.num_threads):
            number = self._block_size(least)
            found, total = Measurement(number, [], self._spec), 0.0
            while not done(found, total):
                seconds = self._run(number)
                if callback is not None:
                    callback(number, seconds)
                total += seconds
                found.raw_times.append(seconds)
            return found

    def adaptive_autorange(
        self,
        threshold: float = 0.1,
        *,
        min_run_time: float = 0.01,
        max_run_time: float = 10.0,
        callback: Callable[[int, float], Any] | None = None,
    ) -> Measurement:
        """Measurements until the quartiles lie within ``threshold`` of the median, or for ``max_run_time`` seconds."""

        def done(found: Measurement, total: float) -> bool:
            steady = len(found.raw_times) > 3 and total >= min_run_time
            return total >= max_run_time or (steady and found.iqr < threshold * found.median)

        return self._measure(min_run_time, callback, done)


class Compare:
    """A table of measurements: a label a table, a sub-label a row, a description a column.

    See ``torch.utils.benchmark.Compare``.
    """

    def __init__(self, results: Iterable[Measurement]) -> None:
        self._results: list[Measurement] = []
        self._trim = self._colour = self._warn = False
        self.extend_results(results)

    def extend_results(self, results: Iterable[Measurement]) -> None:
        """Add measurements."""
        for result in results:
            if not isinstance(result, Measurement):
                raise ValueError(f"Compare: expects measurements of Timer, got {type(result).__name__}")
            self._results.append(result)

    def trim_significant_figures(self) -> None:
        """Print only the digits that the spread leaves."""
        self._trim = True

    def colorize(self, rowwise: bool = False) -> None:
        """Mark the shortest time of each row (of each column unless ``rowwise``) by an asterisk."""
        self._colour, self._rowwise = True, rowwise

    def highlight_warnings(self) -> None:
        """Mark times whose quartiles lie far apart by an exclamation mark."""
        self._warn = True

    def print(self) -> None:
        """Print the tables."""
        print(str(self))

    def __str__(self) -> str:
        merged = Measurement.merge(self._results)
        labels = list(dict.fromkeys(m.task_spec.label for m in merged))
        return "\n\n".join(self._table([m for m in merged if m.task_spec.label == label]) for label in labels)

    def _table(self, results: list[Measurement]) -> str:
        columns = list(dict.fromkeys(m.task_spec.description for m in results))
        rows = list(dict.fromkeys((m.num_threads, m.task_spec.env, m.as_row_name) for m in results))
        unit, scale = _unit(min(m.median for m in results))
        cells = {
            ((m.num_threads, m.task_spec.env, m.as_row_name), m.task_spec.description): m for m in results
        }
        best: set[int] = set()
        if self._colour:
            groups = (
                [[cells[r, c] for c in columns if (r, c) in cells] for r in rows]
                if self._rowwise
                else [[cells[r, c] for r in rows if (r, c) in cells] for c in columns]
            )
            best = {id(min(group, key=lambda m: m.median)) for group in groups if len(group) > 1}

        def text(m: Measurement | None) -> str:
            if m is None:
                return ""
            value = m.median / scale
            if self._trim:
                digits = m.significant_figures - 1 - int(np.floor(np.log10(value)))
                value = round(value, digits)
            return f"{value:.6g}" + "*" * (id(m) in best) + "!" * (self._warn and m.has_warnings)

        names = [name if env is None else f"({env}) {name}" for _, env, name in rows]
        body = [[text(cells.get((row, column))) for column in columns] for row in rows]
        heads = [column or "" for column in columns]
        first = max(map(len, [*names, "10 threads"]))
        widths = [max(map(len, [head, *[line[i] for line in body]])) for i, head in enumerate(heads)]
        lines = [
            results[0].task_spec.label or "",
            " " * first + "".join(f" | {head:>{width}}" for head, width in zip(heads, widths, strict=True)),
        ]
        threads = None
        for (count, _, _), name, line in zip(rows, names, body, strict=True):
            if count != threads:
                threads = count
                heading = f"{count} thread{'s' * (count > 1)}: "
                lines.append(heading.ljust(len(lines[1]), "-"))
            lines.append(
                f"{name:<{first}}"
                + "".join(f" | {c:>{width}}" for c, width in zip(line, widths, strict=True))
            )
        return "\n".join([*lines, f"Times are in {unit}."])

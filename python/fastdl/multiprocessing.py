"""Processes: Python's ``multiprocessing``, and :func:`spawn` and its siblings; see ``torch.multiprocessing``.

Tensors go through queues and pipes by their values, as NumPy's arrays do: the receiver has a copy, and no memory is
shared.
"""

from __future__ import annotations

import multiprocessing as _standard
import signal as _signal
import traceback as _traceback
from collections.abc import Callable, Sequence
from multiprocessing import *  # noqa: F403
from multiprocessing import connection as _connection
from time import monotonic as _now
from typing import Any

__all__ = [
    *_standard.__all__,
    "ProcessContext",
    "ProcessException",
    "ProcessExitedException",
    "ProcessRaisedException",
    "SpawnContext",
    "get_all_sharing_strategies",
    "get_sharing_strategy",
    "set_sharing_strategy",
    "spawn",
    "start_processes",
]

_strategy = "file_descriptor"


def get_all_sharing_strategies() -> set[str]:
    """The names that :func:`set_sharing_strategy` takes."""
    return {"file_descriptor", "file_system"}


def get_sharing_strategy() -> str:
    """What was set last; see :func:`set_sharing_strategy`."""
    return _strategy


def set_sharing_strategy(new_strategy: str) -> None:
    """Accepted and without effect: no memory is shared."""
    global _strategy
    if new_strategy not in get_all_sharing_strategies():
        raise ValueError(
            f"set_sharing_strategy: must be 'file_descriptor' or 'file_system', got {new_strategy!r}"
        )
    _strategy = new_strategy


class ProcessException(Exception):
    """One of several processes failed."""

    def __init__(self, msg: str, error_index: int, pid: int) -> None:
        super().__init__(msg)
        self.msg, self.error_index, self.pid = msg, error_index, pid


class ProcessRaisedException(ProcessException):
    """Its function raised; the message has the traceback."""


class ProcessExitedException(ProcessException):
    """It ended by a signal, or with an exit status that is not 0."""

    def __init__(
        self, msg: str, error_index: int, error_pid: int, exit_code: int, signal_name: str | None = None
    ) -> None:
        super().__init__(msg, error_index, error_pid)
        self.exit_code, self.signal_name = exit_code, signal_name


def _run(fn: Callable[..., Any], i: int, args: Sequence[Any], errors: Any) -> None:
    try:
        fn(i, *args)
    except KeyboardInterrupt:
        pass  # the parent has it, too
    except Exception:
        errors.send(_traceback.format_exc()[-10_000:])  # more than a pipe holds would wait for a reader
        raise SystemExit(1) from None


class ProcessContext:
    """The processes that :func:`start_processes` started."""

    def __init__(self, processes: Sequence[Any], errors: Sequence[Any]) -> None:
        self.processes, self._errors = list(processes), list(errors)
        self._running = {process.sentinel: i for i, process in enumerate(processes)}

    def pids(self) -> list[int]:
        """Their numbers."""
        return [process.pid for process in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait until one or more have ended, at most ``timeout`` seconds. True if none runs any more.

        If one has failed the others are ended, after ``grace_period`` seconds in which they may end themselves.

        Raises:
            ProcessRaisedException: if a process's function raised.
            ProcessExitedException: if a process ended otherwise with a status that is not 0.
        """
        failed = None
        for sentinel in _connection.wait(list(self._running), timeout) if self._running else ():
            i = self._running.pop(sentinel)
            self.processes[i].join()
            if self.processes[i].exitcode != 0 and failed is None:
                failed = i
        if failed is None:
            return not self._running
        until = _now() + (grace_period or 0)
        for process in self.processes:
            if grace_period:
                process.join(max(0.0, until - _now()))
            if process.is_alive():
                process.terminate()
        for process in self.processes:
            process.join()
        self._running.clear()
        self._raise(failed)
        return True

    def _raise(self, i: int) -> None:
        process, errors = self.processes[i], self._errors[i]
        try:
            text = errors.recv() if errors.poll() else ""
        except EOFError:  # it ended without a word
            text = ""
        if text:
            text = f"\n\n-- Process {i} terminated with the following error:\n{text}"
            raise ProcessRaisedException(text, i, process.pid)
        code = process.exitcode
        if code < 0:
            name = _signal.Signals(-code).name
            raise ProcessExitedException(
                f"process {i} terminated with signal {name}", i, process.pid, code, name
            )
        raise ProcessExitedException(f"process {i} terminated with exit code {code}", i, process.pid, code)


SpawnContext = ProcessContext


def start_processes(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Run ``fn(i, *args)`` in ``nprocs`` processes, i from 0 on; wait for all, or return them (``join=False``).

    When one fails the others are ended and its error is raised. See ``torch.multiprocessing.start_processes``.
    """
    if nprocs < 1:
        raise ValueError(f"start_processes: nprocs must be 1 or more, got {nprocs}")
    context: Any = _standard.get_context(start_method)
    processes, errors = [], []
    for i in range(nprocs):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(fn, i, args, send), daemon=daemon)
        process.start()
        send.close()
        processes.append(process)
        errors.append(receive)
    started = ProcessContext(processes, errors)
    if not join:
        return started
    while not started.join():
        pass
    return None


def spawn(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """:func:`start_processes` with fresh interpreters. ``fn`` must be a function of a module, ``args`` picklable.

    A program that spawns protects its own start: ``if __name__ == "__main__":``.
    """
    return start_processes(fn, args, nprocs, join, daemon, start_method)

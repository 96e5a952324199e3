"""Workers: processes or threads that fetch batches ahead, each with a queue of tasks and a queue of results.

Tasks are dealt out in turn and results taken in the same order, so that batches come out as the sampler ordered them
whoever is faster. Messages carry the epoch: results that a persistent worker still had to deliver when its loader was
started anew are recognised and dropped. A process ends when it is told to, or when its parent is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import random
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from fastdl.random import default_generator
from fastdl.utils.data.fetch import make_fetch

__all__ = ["WorkerInfo", "get_worker_info"]


@dataclass
class WorkerInfo:
    """What :func:`get_worker_info` tells a worker about itself."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_local = threading.local()


def get_worker_info() -> WorkerInfo | None:
    """In a worker its number (``id``), how many there are, its seed and its dataset; None elsewhere."""
    return getattr(_local, "info", None)


@dataclass
class Settings:
    """What every worker of a loader is told."""

    dataset: Any
    collate: Callable[[Any], Any]
    batched: bool
    iterable: bool
    workers: int
    init: Callable[[int], Any] | None
    threads: bool


class _End:
    """The result of a stream that has no more samples."""


class _Text(str):
    """Text that KeyError, too, prints as it is."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass
class _Failure:
    """An exception of a worker, carried to the loader as text: exceptions themselves may not pickle."""

    kind: type[BaseException]
    text: str

    @staticmethod
    def of(error: BaseException, where: str) -> _Failure:
        trace = "".join(traceback.format_exception(error))
        return _Failure(type(error), f"Caught {type(error).__name__} in {where}.\nOriginal {trace}")

    def raise_again(self) -> None:
        try:
            error = self.kind(_Text(self.text))
        except TypeError:  # its constructor wants something else
            error = RuntimeError(self.text)
        raise error from None


def _work(
    settings: Settings, number: int, receive: Callable[[], Any], send: Callable[[int, Any], None]
) -> None:
    """The loop of a worker. A task: (epoch, None, seed) starts an epoch, (epoch, request) fetches, None ends it."""
    where = f"DataLoader worker {'thread' if settings.threads else 'process'} {number}"
    fetch: Callable[[Any], Any] | None = None
    failure: _Failure | None = None
    first = True
    while (task := receive()) is not None:
        epoch = task[0]
        try:
            if len(task) == 3:
                failure = None
                seed = task[2] + number
                _local.info = WorkerInfo(number, settings.workers, seed, settings.dataset)
                if first and not settings.threads:  # threads share the program's generators
                    random.seed(seed)
                    np.random.seed(seed % 2**32)  # noqa: NPY002 - what datasets written for PyTorch use
                    default_generator.manual_seed(seed)
                if first and settings.init is not None:
                    settings.init(number)
                first = False
                fetch = make_fetch(settings.dataset, settings.collate, settings.batched, settings.iterable)
                continue
            if failure is not None:
                send(epoch, failure)
                continue
            assert fetch is not None
            send(epoch, fetch(task[1]))
        except StopIteration:
            send(epoch, _End() if settings.iterable else _Failure(RuntimeError, f"StopIteration in {where}"))
        except Exception as error:  # whatever it is, the loader raises it
            failed = _Failure.of(error, where)
            if len(task) == 3:
                failure = failed
            else:
                send(epoch, failed)


def _process_main(settings: Settings, number: int, tasks: Any, results: Any, parent: int) -> None:
    # Ctrl-C reaches the whole group; the loader's process decides what it means.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def receive() -> Any:
        while not tasks.poll(5.0):
            if os.getppid() != parent:
                return None
        try:
            return tasks.recv()
        except EOFError:
            return None

    def send(epoch: int, result: Any) -> None:
        # Pickled here, not in the queue's thread, where an error would be lost.
        try:
            data = bytes(ForkingPickler.dumps(result))
        except Exception as error:  # the loader raises it
            failure = (
                result if isinstance(result, _Failure) else _Failure.of(error, f"DataLoader worker {number}")
            )
            data = bytes(ForkingPickler.dumps(_Failure(RuntimeError, failure.text)))
        results.put((epoch, data))

    _work(settings, number, receive, send)
    results.cancel_join_thread()


class _Process:
    def __init__(self, settings: Settings, number: int, context: Any) -> None:
        reader, self._tasks = context.Pipe(duplex=False)
        self._results = context.Queue()
        self.process = context.Process(
            target=_process_main, args=(settings, number, reader, self._results, os.getpid()), daemon=True
        )
        self.process.start()
        reader.close()

    def send(self, task: Any) -> None:
        with suppress(OSError):  # a dead worker: receive() will say so
            self._tasks.send(task)

    def receive(self, seconds: float | None) -> tuple[int, Any]:
        ready = wait([self._results._reader, self.process.sentinel], seconds)
        if not ready:
            raise TimeoutError
        if self._results._reader not in ready:
            self.process.join()
            raise RuntimeError(
                f"DataLoader worker (pid {self.process.pid}) exited unexpectedly with exit code "
                f"{self.process.exitcode}. num_workers=0 runs the same code in this process, for debugging"
            )
        epoch, data = self._results.get()
        return epoch, pickle.loads(data)

    def close(self) -> None:
        self.send(None)
        self._tasks.close()

    def join(self, seconds: float) -> None:
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self._results.close()
        self.process.close()


class _Thread:
    def __init__(self, settings: Settings, number: int) -> None:
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=_work,
            args=(
                settings,
                number,
                self._tasks.get,
                lambda epoch, result: self._results.put((epoch, result)),
            ),
            daemon=True,
        )
        self.thread.start()

    def send(self, task: Any) -> None:
        self._tasks.put(task)

    def receive(self, seconds: float | None) -> tuple[int, Any]:
        try:
            return self._results.get(timeout=seconds)  # type: ignore[no-any-return]
        except queue.Empty:
            raise TimeoutError from None

    def close(self) -> None:
        self.send(None)

    def join(self, seconds: float) -> None:
        if self.thread is not threading.current_thread():
            self.thread.join(seconds)


class Pool:
    """The workers of a loader: deals out requests, returns results in order."""

    def __init__(self, settings: Settings, context: Any, ahead: int, timeout: float) -> None:
        self.owner = os.getpid()
        self._ahead = ahead * settings.workers
        self._timeout = timeout or None
        self._epoch = 0
        self.workers: list[_Process | _Thread] = []
        if isinstance(context, str) or context is None:
            context = multiprocessing.get_context(context)
        for number in range(settings.workers):
            self.workers.append(
                _Thread(settings, number) if settings.threads else _Process(settings, number, context)
            )

    def run(self, requests: Any, seed: int) -> Any:
        """Yield the results of the requests, in order, fetched ``ahead`` per worker in advance."""
        self._epoch += 1
        epoch = self._epoch
        for worker in self.workers:
            worker.send((epoch, None, seed))
        active = list(self.workers)
        pending: list[_Process | _Thread] = []
        turn = 0
        more = True
        while True:
            while more and active and len(pending) < self._ahead:
                try:
                    request = next(requests)
                except StopIteration:
                    more = False
                    break
                worker = active[turn % len(active)]
                turn = (turn + 1) % len(active)
                worker.send((epoch, request))
                pending.append(worker)
            if not pending:
                return
            worker = pending.pop(0)
            if worker not in active:
                continue
            result = self._result_of(worker, epoch)
            if isinstance(result, _End):
                turn -= active.index(worker) < turn
                active.remove(worker)
                continue
            if isinstance(result, _Failure):
                result.raise_again()
            yield result

    def _result_of(self, worker: _Process | _Thread, epoch: int) -> Any:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                got, result = worker.receive(left)
            except TimeoutError:
                raise RuntimeError(f"DataLoader timed out after {self._timeout} seconds") from None
            if got == epoch:
                return result

    def close(self) -> None:
        """End the workers; a forked copy of the loader leaves those of its parent alone."""
        if os.getpid() != self.owner:
            return
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join(5.0)

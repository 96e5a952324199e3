"""Values that come later; see ``torch.futures``. Here a thread of the program's own sets them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, Generic, TypeVar

from fastdl.errors import ArgumentError

__all__ = ["Future", "collect_all", "wait_all"]

T = TypeVar("T")


class Future(Generic[T]):
    """A value that :meth:`set_result` gives once, and :meth:`wait` waits for; see ``torch.futures.Future``.

    ``devices`` is accepted: values are used where they are.

    Example:
        >>> from fastdl.futures import Future
        >>> later = Future()
        >>> doubled = later.then(lambda done: 2 * done.wait())
        >>> later.set_result(21)
        >>> doubled.wait()
        42
    """

    def __init__(self, *, devices: Any = None) -> None:
        self._future: futures.Future[T] = futures.Future()

    def done(self) -> bool:
        """Is there a value or an error?"""
        return self._future.done()

    def wait(self) -> T:
        """The value, when it is there; an error that was set is raised."""
        return self._future.result()

    def value(self) -> T:
        """The value, which must be there: a RuntimeError if it is not."""
        if not self.done():
            raise RuntimeError("Future.value: there is no value yet; call wait()")
        return self.wait()

    def set_result(self, result: T) -> None:
        """Give the value. A second one is a RuntimeError."""
        try:
            self._future.set_result(result)
        except futures.InvalidStateError:
            raise RuntimeError("Future.set_result: the value was set already") from None

    def set_exception(self, result: BaseException) -> None:
        """Give an error, which :meth:`wait` raises."""
        if not isinstance(result, Exception):
            raise ArgumentError(
                f"Future.set_exception: result must be an Exception, got {type(result).__name__}"
            )
        try:
            self._future.set_exception(result)
        except futures.InvalidStateError:
            raise RuntimeError("Future.set_exception: the value was set already") from None

    def then(self, callback: Callable[[Future[T]], Any]) -> Future[Any]:
        """A future of ``callback(self)``, which is called when the value is there: at once, if it is already."""
        after: Future[Any] = Future()

        def go_on(done: Future[T]) -> None:
            try:
                result = callback(done)
            except Exception as error:  # whatever the callback raises is its value's
                after.set_exception(error)
            else:
                after.set_result(result)

        self.add_done_callback(go_on)
        return after

    def add_done_callback(self, callback: Callable[[Future[T]], Any]) -> None:
        """Call ``callback(self)`` when the value is there. Its errors are logged."""
        self._future.add_done_callback(lambda _: callback(self))


def collect_all(futures: Iterable[Future[Any]]) -> Future[list[Future[Any]]]:
    """A future of the list of ``futures``, when all have a value or an error.

    Example:
        >>> from fastdl.futures import Future, collect_all
        >>> parts = [Future(), Future()]
        >>> both = collect_all(parts)
        >>> for part in parts:
        ...     part.set_result(1)
        >>> [part.wait() for part in both.wait()]
        [1, 1]
    """
    parts = list(futures)
    everything: Future[list[Future[Any]]] = Future()
    if not parts:
        everything.set_result(parts)
        return everything
    lock, missing = threading.Lock(), len(parts)

    def count(_: Any) -> None:
        nonlocal missing
        with lock:
            missing -= 1
            last = missing == 0
        if last:
            everything.set_result(parts)

    for part in parts:
        part.add_done_callback(count)
    return everything


def wait_all(futures: Iterable[Future[Any]]) -> list[Any]:
    """The values of all. The first error there is is raised, after all are done."""
    return [part.wait() for part in collect_all(futures).wait()]

"""Whether operations record a graph: ``no_grad``, ``enable_grad``, ``set_grad_enabled``; per thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import wraps
from inspect import isgeneratorfunction
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from fastdl._graph import GradMode

P = ParamSpec("P")
R = TypeVar("R")


class _Mode(GradMode, threading.local):
    autocast: dict[str, Any] | None = None
    """Device type -> (dtype, whether parameters are converted once), inside of :class:`fastdl.amp.autocast`."""


mode = _current = _Mode()


def is_grad_enabled() -> bool:
    """Is the graph being recorded in this thread?"""
    return mode.enabled  # type: ignore[no-any-return]


class set_grad_enabled:
    """Switch recording on or off: as a function, a context manager or a decorator. See ``torch.set_grad_enabled``."""

    def __init__(self, mode: bool) -> None:
        self._previous: list[bool] = []
        self._enabled = _truth("set_grad_enabled", mode)
        self._before = _current.enabled
        _current.enabled = self._enabled

    def __enter__(self) -> None:
        self._previous.append(self._before)
        mode.enabled = self._enabled

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.enabled = self._previous.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        mode.enabled = self._before
        return _decorate(function, self._enabled)


def _truth(op: str, mode: Any) -> bool:
    if not isinstance(mode, (bool, np.bool_)):
        raise TypeError(f"{op}: mode must be a bool, got {type(mode).__name__}; use bool(x)")
    return bool(mode)


class set_multithreading_enabled:
    """Accepted and without effect: backward runs in the thread that calls it, its kernels use all threads.

    A function or a context manager. See ``torch.autograd.set_multithreading_enabled``.
    """

    def __init__(self, mode: bool) -> None:
        self.mode = _truth("set_multithreading_enabled", mode)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        return None


class _Switch:
    """A context manager and decorator that sets the mode for a block; reusable and re-entrant."""

    _enabled: bool

    def __init__(self) -> None:
        self._previous: list[bool] = []

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        if function is not None:  # used as a bare decorator: @no_grad
            return _decorate(function, cls._enabled)
        return super().__new__(cls)

    def __enter__(self) -> None:
        self._previous.append(mode.enabled)
        mode.enabled = self._enabled

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.enabled = self._previous.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return _decorate(function, self._enabled)


class no_grad(_Switch):
    """Inside the block (or decorated function) operations record nothing.

    Example:
        >>> import fastdl
        >>> x = fastdl.ones(2, requires_grad=True)
        >>> with fastdl.no_grad():
        ...     y = x * 2
        >>> y.requires_grad
        False
    """

    _enabled = False


class enable_grad(_Switch):
    """Inside the block operations record again, even within ``no_grad``."""

    _enabled = True


class inference_mode(_Switch):
    """The same as :class:`no_grad` here; ``inference_mode(False)`` records. See ``torch.inference_mode``."""

    def __new__(cls, mode: Any = True) -> Any:
        return _decorate(mode, False) if callable(mode) else object.__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self._enabled = not mode


def _decorate(function: Callable[P, R], enabled: bool) -> Callable[P, R]:
    if isgeneratorfunction(function):

        @wraps(function)
        def generate(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast(R, _generate(cast(Any, function)(*args, **kwargs), enabled))

        return generate

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        previous = mode.enabled
        mode.enabled = enabled
        try:
            return function(*args, **kwargs)
        finally:
            mode.enabled = previous

    return wrapper


def _generate(generator: Generator[Any, Any, Any], enabled: bool) -> Generator[Any, Any, Any]:
    """What ``generator`` yields; the mode is set while its code runs, and as it was while its user's does."""
    resume: Callable[[Any], Any] = generator.send
    value: Any = None
    while True:
        previous = mode.enabled
        mode.enabled = enabled
        try:
            item = resume(value)
        except StopIteration as end:
            return end.value
        finally:
            mode.enabled = previous
        try:
            value = yield item
            resume = generator.send
        except BaseException as error:  # thrown in by the user, or close(): the generator's to handle
            resume, value = generator.throw, error

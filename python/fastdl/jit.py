"""What ``torch.jit`` marks and compiles runs as it is here: decorators and functions that return what they are given.

Example:
    >>> import fastdl
    >>> @fastdl.jit.script
    ... def double(x):
    ...     return 2 * x
    >>> double(fastdl.ones(2))
    tensor([2., 2.])
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

from fastdl.absent import NO_SCRIPT
from fastdl.nn.modules.module import Module

__all__ = [
    "Attribute",
    "Error",
    "Final",
    "ScriptFunction",
    "ScriptModule",
    "TracerWarning",
    "annotate",
    "export",
    "freeze",
    "ignore",
    "interface",
    "is_scripting",
    "is_tracing",
    "isinstance",
    "optimize_for_inference",
    "script",
    "script_if_tracing",
    "script_method",
    "trace",
    "trace_module",
    "unused",
]

T = TypeVar("T")
Error = RuntimeError  # what a compiled function would raise


class ScriptModule(Module):
    """A module written to be compiled, with its methods under :func:`script_method`: one like all others."""


class TracerWarning(UserWarning):
    """What tracing would warn of, for filters."""


class Attribute:
    """A value and its type, for the compiler. See ``torch.jit.Attribute``."""

    def __new__(cls, value: Any, type: Any) -> Any:
        """The value itself, as which a compiled module has it."""
        return value


class ScriptFunction:
    """What a compiled function would be, for ``isinstance``; :func:`script` makes none."""


def script(obj: T, *args: Any, **options: Any) -> T:
    """The function, class or module itself."""
    return obj


def trace(func: T, example_inputs: Any = None, **options: Any) -> T:
    """The function or module itself, which goes on to decide by the values it sees."""
    return func


def freeze(mod: Module, *args: Any, **options: Any) -> Module:
    """The module itself, which must be in evaluation mode, as in PyTorch."""
    if mod.training:
        raise RuntimeError("freeze: the module must be in evaluation mode; call .eval() on it")
    return mod


def export(fn: T) -> T:
    """The method itself."""
    return fn


unused = script_method = script_if_tracing = optimize_for_inference = interface = export
_overload = _overload_method = _script_if_tracing = export


def trace_module(mod: T, inputs: Any = None, **options: Any) -> T:
    """The module itself."""
    return mod


def isinstance(obj: Any, target_type: Any) -> bool:
    """Is ``obj`` of the type: one like ``list[int]`` or ``Optional[Tensor]``, whose elements are looked at, too?

    Example:
        >>> import fastdl
        >>> fastdl.jit.isinstance([1, 2], list[int]), fastdl.jit.isinstance([1, "a"], list[int])
        (True, False)
    """
    if builtins.isinstance(target_type, tuple):
        return any(isinstance(obj, kind) for kind in target_type)
    kind, of = get_origin(target_type), get_args(target_type)
    if kind is None:
        return builtins.isinstance(obj, type(None) if target_type is None else target_type)
    if kind in (Union, UnionType):
        return any(isinstance(obj, one) for one in of)
    if not builtins.isinstance(obj, kind):
        return False
    if kind is dict:
        return all(isinstance(key, of[0]) and isinstance(value, of[1]) for key, value in obj.items())
    if kind is tuple:
        return len(obj) == len(of) and all(isinstance(part, one) for part, one in zip(obj, of, strict=True))
    return all(isinstance(part, of[0]) for part in obj)


def ignore(drop: Any = False, **options: Any) -> Any:
    """The method itself, as ``@ignore`` and as ``@ignore(drop=True)``."""
    if callable(drop):
        return drop
    marked: Callable[[Any], Any] = export
    return marked


def annotate(the_type: Any, the_value: T) -> T:
    """The value."""
    return the_value


def is_scripting() -> bool:
    """False."""
    return False


def is_tracing() -> bool:
    """False."""
    return False


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"module 'fastdl.jit' has no attribute {name!r}{NO_SCRIPT}")

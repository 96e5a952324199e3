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

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastdl.nn.modules.module import Module

__all__ = [
    "Final",
    "ScriptFunction",
    "ScriptModule",
    "annotate",
    "export",
    "freeze",
    "ignore",
    "is_scripting",
    "is_tracing",
    "optimize_for_inference",
    "script",
    "script_if_tracing",
    "script_method",
    "trace",
    "unused",
]

T = TypeVar("T")


class ScriptModule(Module):
    """A module written to be compiled, with its methods under :func:`script_method`: one like all others."""


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


unused = script_method = script_if_tracing = optimize_for_inference = export


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
    raise AttributeError(
        f"module 'fastdl.jit' has no attribute {name!r}: models run as they are; save the state_dict, and make the "
        "model where it is loaded (docs/differences.md)"
    )

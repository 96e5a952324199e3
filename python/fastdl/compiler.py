"""What programs say to a compiler (``torch.compiler``): here nothing is compiled, and what is given is returned."""

from __future__ import annotations

from typing import Any

__all__ = [
    "allow_in_graph",
    "assume_constant_result",
    "cudagraph_mark_step_begin",
    "disable",
    "is_compiling",
    "is_dynamo_compiling",
    "is_exporting",
    "reset",
]


def disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """The function itself, as ``@disable`` and as ``@disable(recursive=False)``."""
    return allow_in_graph if fn is None else fn


def allow_in_graph(fn: Any) -> Any:
    """The function itself."""
    return fn


def is_compiling() -> bool:
    """False."""
    return False


is_dynamo_compiling = is_exporting = is_compiling
assume_constant_result = allow_in_graph


def reset() -> None:
    """Does nothing."""


cudagraph_mark_step_begin = reset

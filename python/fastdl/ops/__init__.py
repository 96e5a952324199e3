"""Differentiable operations: checks with teaching messages, and an Op with forward and backward together.

``ops.namespace.name`` is what :func:`fastdl.library.custom_op` registered as ``"namespace::name"``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def __getattr__(name: str) -> Any:
    from fastdl.library import registered

    found = registered(name)
    if not found:
        raise AttributeError(f"module 'fastdl.ops' has no attribute {name!r}")
    return SimpleNamespace(**found)

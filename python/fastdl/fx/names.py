"""By which names the public functions are known."""

from __future__ import annotations

import builtins
import math
import operator
from functools import cache
from typing import Any

import fastdl
from fastdl import seldom

BUILTINS = {id(f): name for name, f in vars(builtins).items() if callable(f)}
OPERATORS = {id(getattr(operator, name)): f"operator.{name}" for name in operator.__all__}


@cache
def public() -> dict[int, tuple[str, Any]]:
    """id -> name and function, of what the public modules have. Asked for before anything is traced."""
    modules = (fastdl, fastdl.nn.functional, fastdl.linalg, fastdl.special, fastdl.fft)
    found = {id(f): (f"math.{name}", f) for name, f in vars(math).items() if callable(f)}
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and not isinstance(value, type):
                found.setdefault(id(value), (f"{module.__name__}.{name}", value))
    found[id(seldom._assert)] = ("fastdl._assert", seldom._assert)
    return found


public()


def name_of(function: Any) -> str | None:
    """The name by which a program finds a public function, or one of Python's."""
    name, value = public().get(id(function), ("", None))
    if value is function and value is not None:
        return name
    return OPERATORS.get(id(function)) or BUILTINS.get(id(function))

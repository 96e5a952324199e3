"""What is wrong with an argument, judged by its annotation; asked only when a call has failed.

Arguments that Python or PyTorch would accept are never blamed, and annotations without a rule here are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import Signature
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.tensor import Tensor

__all__ = ["explanation"]


def _is_integer(value: Any) -> bool:
    return hasattr(type(value), "__index__")


def _are_integers(value: Any) -> bool:
    if isinstance(value, (str, dict)) or not isinstance(value, Iterable):
        return False
    return all([item is None or _is_integer(item) for item in value])


# A part of an annotation: (whether a value is of that kind, what it is called).
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_integer, "an int"),
    "float": (lambda value: hasattr(type(value), "__float__") or _is_integer(value), "a number"),
    "str": (lambda value: isinstance(value, str), "a str"),
    "None": (lambda value: value is None, "None"),
    "Ints": (lambda value: _is_integer(value) or _are_integers(value), "an int or a tuple of ints"),
    "IntOrInts": (lambda value: _is_integer(value) or _are_integers(value), "an int or a tuple of ints"),
    "Shape": (lambda value: _is_integer(value) or _are_integers(value), "an int or a tuple of ints"),
    "Sequence[int]": (_are_integers, "a tuple of ints"),
    "tuple[int, ...]": (_are_integers, "a tuple of ints"),
    "tuple[int, int]": (_are_integers, "two ints"),
    "Sequence[float]": (lambda value: isinstance(value, (tuple, list)), "a tuple of numbers"),
    "tuple[float, ...]": (lambda value: isinstance(value, (tuple, list)), "a tuple of numbers"),
    "Tensor": (lambda value: isinstance(value, Tensor), "a Tensor"),
}


def _fault(annotation: str, value: Any) -> str | None:
    """What the annotation asks for, if ``value`` is something else; None if it fits, or if there is no rule for it."""
    kinds = [_KINDS.get(part) for part in annotation.split(" | ")]
    if None in kinds or any([kind[0](value) for kind in kinds if kind]):
        return None
    return " or ".join(dict.fromkeys([kind[1] for kind in kinds if kind]))


def _came(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if value is None else f"{text} ({type(value).__name__})"


def explanation(op: str, call: dict[str, Any], signature: Signature, error: Exception) -> Exception | None:
    """An error that names the first argument of ``call`` that does not fit its annotation; None if all do."""
    negative = "negative dimension" in str(error)
    for name, value in call.items():
        parameter = signature.parameters[name]
        annotation = str(parameter.annotation)
        rule = _fault(annotation, value)
        if rule is not None:
            whole = isinstance(value, float) and value.is_integer()
            hint = f"; use {name}=int(x)" if whole else ""
            if value is None and parameter.default is not parameter.empty:
                hint = f"; leave it out for its default, {parameter.default!r}"
            return TypeError(f"{op}: {name} must be {rule}, got {_came(value)}{hint}")
        sizes = value if isinstance(value, (tuple, list)) else (value,)
        if "int" in annotation and negative and any([_is_integer(n) and int(n) < 0 for n in sizes]):
            return ArgumentError(f"{op}: {name} is a size and must not be negative, got {value}")
    return None

"""What was wrong with a layer's arguments, said when its constructor failed; nothing is checked where it does not.

A constructor's annotations are the rules: where one raised what does not name the layer, the first argument that is not
of its kind is named instead. Arguments that Python or PyTorch would take are never looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.tensor import Tensor

__all__ = ["explained"]


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
    "Sequence[int]": (_are_integers, "a tuple of ints"),
    "tuple[int, ...]": (_are_integers, "a tuple of ints"),
    "tuple[int, int]": (_are_integers, "two ints"),
    "tuple[float, ...]": (lambda value: isinstance(value, (tuple, list)), "a tuple of numbers"),
    "Tensor": (lambda value: isinstance(value, Tensor), "a Tensor"),
}


def _fault(annotation: str, value: Any) -> str | None:
    """What an argument must be, if ``value`` is none of it; None where it is, or nothing is known."""
    kinds = [_KINDS.get(part) for part in annotation.split(" | ")]
    if None in kinds or any([kind[0](value) for kind in kinds if kind]):
        return None
    return " or ".join(dict.fromkeys([kind[1] for kind in kinds if kind]))


def _came(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if value is None else f"{text} ({type(value).__name__})"


def _explanation(layer: str, call: dict[str, Any], signature: Any, error: Exception) -> Exception | None:
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
            return TypeError(f"{layer}: {name} must be {rule}, got {_came(value)}{hint}")
        sizes = value if isinstance(value, (tuple, list)) else (value,)
        if "int" in annotation and negative and any([_is_integer(n) and int(n) < 0 for n in sizes]):
            return ArgumentError(f"{layer}: {name} is a size and must not be negative, got {value}")
    return None


def explained(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor, whose errors name the layer, the argument, what it must be and what came."""

    @wraps(init)
    def construct(self: Any, *args: Any, **options: Any) -> None:
        try:
            init(self, *args, **options)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            own = next(c.__name__ for c in type(self).__mro__ if c.__module__.startswith("fastdl.nn."))
            inner = getattr(
                error, "of_the_base", False
            )  # said already, from a signature without these defaults
            if str(error).startswith(f"{own}:") and not inner:
                raise
            signature = inspect.signature(init)
            try:
                call = signature.bind(self, *args, **options).arguments
            except TypeError:  # too many or too few: Python's own message names them
                raise error from None
            call.pop("self")
            better = _explanation(own, call, signature, error)
            if better is None:
                raise
            better.__dict__["of_the_base"] = True
            raise better from (error.__cause__ if inner else error)

    return construct

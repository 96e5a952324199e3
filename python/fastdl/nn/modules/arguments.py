"""What was wrong with a layer's arguments, said when its constructor failed; nothing is checked where it does not.

A constructor's annotations are the rules: where one raised what does not name the layer, the first argument that is not
of its kind is named instead. Arguments that Python or PyTorch would take are never looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from fastdl.arguments import explanation

__all__ = ["explained"]


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
            better = explanation(own, call, signature, error)
            if better is None:
                raise
            better.__dict__["of_the_base"] = True
            raise better from (error.__cause__ if inner else error)

    return construct

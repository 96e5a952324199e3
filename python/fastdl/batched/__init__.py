"""All slices of :func:`fastdl.func.vmap` at once: what functions and operations do with tensors of many slices.

While a function is mapped its tensors hold a ``BatchedArray`` (kernels/batched.py): they look like one slice, and the
slices lie along the first axis of another tensor. An operation that meets one is computed by its rule (rules.py,
layers.py, functions.py) on all slices. What has no rule, or takes arrays itself, fails, and is computed slice by slice
(slices.py): an operation where it stands, a public function or a method as a whole, and if that does not help, the
mapped function. So rules are about speed only.

Gradients are those of the tensors with all slices: no slice depends on another, so the gradient of the sum of all
results is that of every slice, side by side.

Rules are imported when something is mapped for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fastdl.batched.tensor import NONE, aligned, level_of, made
from fastdl.batched.tensor import sliced_in as has_slices
from fastdl.kernels.batched import NotAtOnce
from fastdl.tensor import Tensor

__all__ = [
    "applied_to_slices",
    "called_with_slices",
    "changed",
    "has_slices",
    "in_step",
    "known_rules",
    "one_by_one",
]


@cache
def known_rules() -> tuple[dict[Any, Callable[..., Any]], dict[str, Callable[..., Any]]]:
    """Those of operations, by class, and of functions, by name. Sliced tensors have their methods from now on."""
    from fastdl.batched.functions import FUNCTIONS
    from fastdl.batched.layers import LAYERS
    from fastdl.batched.rules import RULES
    from fastdl.batched.slices import attach

    attach(FUNCTIONS)
    return {**RULES, **LAYERS}, FUNCTIONS


def one_by_one(function: Any, args: Any, options: dict[str, Any]) -> Any:
    """The results of ``function`` for every slice of the innermost level, joined."""
    from fastdl.batched import slices

    return slices.one_by_one(function, args, options)


def applied_to_slices(cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """``cls.apply(*inputs, **options)`` for all slices; NotImplemented where there are none."""
    from fastdl.batched.rules import Refused

    level = level_of((inputs, options))
    if level == NONE:
        return NotImplemented
    if options.get("out") is not None:
        raise NotAtOnce("vmap: every slice would be written into one tensor")
    by_class = known_rules()[0]
    for base in cls.__mro__:
        rule = by_class.get(base)
        if rule is not None:
            try:
                return rule(level, cls, inputs, options)
            except Refused:
                break
    return one_by_one(cls.apply, inputs, options)


def changed(name: str, self: Tensor, args: Any, options: dict[str, Any]) -> Any:
    """A method that changes a sliced tensor, by its rule."""
    rule = known_rules()[1].get(name)
    if rule is None:
        raise NotAtOnce(f"vmap: {name} takes the slices one by one")
    return rule(self, *args, **options)


def called_with_slices(function: Any, args: Any, options: dict[str, Any]) -> Any:
    """A public function, which refused them."""
    if options.get("out") is not None or options.get("inplace") or function.__name__[-1] == "_":
        raise NotAtOnce("vmap: what is changed in place is left to the mapped function as a whole")
    rule = known_rules()[1].get(function.__name__)
    if rule is not None:
        try:
            return rule(*args, **options)
        except NotAtOnce:
            pass
    return one_by_one(function, args, options)


def in_step(function: Callable[..., Any], *operands: Any) -> Any:
    """``function`` of operands that broadcast, and no gradients."""
    level = level_of(operands)
    ndim = max([t._data.ndim for t in operands if isinstance(t, Tensor)])
    return made(level, function(*[aligned(level, t, ndim) if isinstance(t, Tensor) else t for t in operands]))

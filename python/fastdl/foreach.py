"""``torch._foreach_*``, by which optimizers of other packages step: a function for every tensor of a list.

Names that end with ``_`` write into the tensors and return their list, others a tuple. What stands beside the list is
one number or tensor for all, or a list with one for each.

Example:
    >>> import fastdl
    >>> weights, steps = [fastdl.ones(2), fastdl.zeros(1)], [fastdl.ones(2), fastdl.ones(1)]
    >>> fastdl._foreach_add_(weights, steps, alpha=-0.5)
    [tensor([0.5000, 0.5000]), tensor([-0.5000])]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from fastdl import linalg
from fastdl.errors import not_a_tensor
from fastdl.functions import pow as power
from fastdl.tensor import Tensor

__all__ = ["named"]

_ALONE = [
    "abs",
    "acos",
    "asin",
    "atan",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "floor",
    "frac",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "neg",
    "reciprocal",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
]
_BESIDE = {name: name for name in ["add", "sub", "mul", "div", "pow"]} | {
    "clamp_max": "minimum",
    "clamp_min": "maximum",
    "maximum": "maximum",
    "minimum": "minimum",
}


def _each(value: Any) -> Iterable[Any]:
    """A value per tensor: those of a list, or the one for all."""
    return value if isinstance(value, (list, tuple)) else repeat(value)


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, of a list of tensors that is not empty (or, ``pow`` alone, of a number and such a list)."""

    def checked(self: Any, *others: Any, **options: Any) -> Any:
        tensors = others[0] if others and isinstance(self, (int, float, complex)) else self
        if not isinstance(tensors, (list, tuple)):
            raise TypeError(f"{name}: expects a list or tuple of Tensors, got {type(tensors).__name__}")
        if not tensors:
            raise RuntimeError(f"{name}: Tensor list must have at least one tensor.")
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor):
                raise not_a_tensor(name, f"self[{i}]", tensor)
        results = function(self, *others, **options)
        return self if name.endswith("_") else tuple(results)

    return checked


def _same_length(name: str, tensors: Any, *others: Any) -> None:
    for other in others:
        if isinstance(other, (list, tuple)) and len(other) != len(tensors):
            raise RuntimeError(
                f"{name}: the lists must have the same length, got {len(tensors)} and {len(other)}"
            )


def _alone(name: str, method: str) -> Callable[..., list[Tensor]]:
    def function(self: Any) -> list[Tensor]:
        return [getattr(tensor, method)() for tensor in self]

    return function


def _in_place(method: str) -> Callable[[Tensor, Any], Tensor]:
    """``method`` into its first operand."""
    if method not in ("maximum", "minimum"):
        return getattr(Tensor, method + "_")  # type: ignore[no-any-return]
    clamp = Tensor.clamp_max_ if method == "minimum" else Tensor.clamp_min_
    return lambda tensor, other: clamp(tensor, other)


def _beside(name: str, method: str, into: bool) -> Callable[..., list[Tensor]]:
    if into:
        call = _in_place(method)
    elif method in ("maximum", "minimum"):
        call = Tensor.clamp_max if method == "minimum" else Tensor.clamp_min
    else:
        call = getattr(Tensor, method)

    def function(self: Any, other: Any, **options: Any) -> list[Tensor]:
        if method == "pow" and not isinstance(self, (list, tuple)):  # a number to the power of each
            return [power(self, exponent) for exponent in other]
        if isinstance(other, Tensor) and other.ndim:
            raise RuntimeError(
                f"{name}: a tensor for all must have 0 dimensions, got shape {tuple(other.shape)}"
            )
        _same_length(name, self, other)
        return [call(tensor, beside, **options) for tensor, beside in zip(self, _each(other), strict=False)]

    return function


def _with_products(name: str, method: str) -> Callable[..., list[Tensor]]:
    call = getattr(Tensor, method)

    def function(self: Any, tensor1: Any, tensor2: Any, value: Any = 1, scalars: Any = None) -> list[Tensor]:
        value = value if scalars is None else scalars
        if isinstance(value, Tensor):
            if value.ndim != 1:
                raise RuntimeError(f"{name}: a tensor of factors must have 1 dimension, got {value.ndim}")
            value = value.tolist()
        _same_length(name, self, tensor1, tensor2, value)
        parts = zip(self, tensor1, tensor2, _each(value), strict=False)
        return [call(tensor, a, b, value=factor) for tensor, a, b, factor in parts]

    return function


def _lerp(name: str, method: str) -> Callable[..., list[Tensor]]:
    call = getattr(Tensor, method)

    def function(self: Any, tensors1: Any, weight: Any) -> list[Tensor]:
        _same_length(name, self, tensors1, weight)
        return [call(tensor, end, w) for tensor, end, w in zip(self, tensors1, _each(weight), strict=False)]

    return function


def _copy_(self: Any, src: Any, non_blocking: bool = False) -> list[Tensor]:
    _same_length("_foreach_copy_", self, src)
    return [tensor.copy_(source) for tensor, source in zip(self, src, strict=True)]


def _norm(self: Any, ord: Any = 2, dtype: Any = None) -> list[Tensor]:
    return [linalg.vector_norm(tensor, ord, dtype=dtype) for tensor in self]


_SINGLE: dict[str, Callable[..., list[Tensor]]] = {
    "copy_": _copy_,
    "norm": _norm,
    "zero_": lambda self: [tensor.zero_() for tensor in self],
    "clone": lambda self: [tensor.clone() for tensor in self],
    "max": lambda self: [tensor.max() for tensor in self],
}


def named(name: str) -> Callable[..., list[Tensor]] | None:
    """The function ``_foreach_...`` of that name, or None."""
    short = name.removeprefix("_foreach_")
    method, into = short.removesuffix("_"), short.endswith("_")
    if short in _SINGLE:
        function = _SINGLE[short]
    elif method in _ALONE:
        function = _alone(name, short)
    elif method in _BESIDE:
        function = _beside(name, _BESIDE[method], into)
    elif method in ("addcmul", "addcdiv"):
        function = _with_products(name, short)
    elif method == "lerp":
        function = _lerp(name, short)
    else:
        return None
    function = _checked(name, function)
    function.__name__ = function.__qualname__ = name
    return function

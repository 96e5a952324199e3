"""Functions of one tensor whose derivative is a formula of other functions, to any order.

``Evaluated`` has them computed in double precision, ``Special`` and ``OfSecond`` by the kernel of that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.autograd.mode import no_grad
from fastdl.autograd.op import Op
from fastdl.dtypes import float64
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import cast
from fastdl.ops.common import floating
from fastdl.tensor import Tensor


class Formula(Op):
    """y = f(x); ``slope`` computes dy/dx of a tensor, in operations."""

    saves = (0,)
    x: Any
    slope: Callable[[Tensor], Tensor] | None

    def backward(self, grad: Any) -> Any:
        with no_grad():
            return self.backward_graph(Tensor._wrap(grad))._data

    def backward_graph(self, grad: Tensor) -> Any:
        if self.slope is None:
            raise NotImplementedError(
                "special: this function has no derivative here; detach() its input, or compute without it"
            )
        x = self.saved_input(0, self.x) if self.edges is not None else Tensor._wrap(self.x)
        return grad * self.slope(x)


class Evaluated(Formula):
    """f is ``function`` of float64 arrays."""

    def forward(
        self, x: Any, function: Callable[[Any], Any], slope: Callable[[Tensor], Tensor] | None = None
    ) -> Any:
        self.x, self.slope = x, slope
        with np.errstate(over="ignore"):  # infinite in a narrower dtype
            return cast(function(cast(x, float64)), x.dtype)


class Special(Formula):
    """f is the kernel ``label``."""

    def forward(self, x: Any, label: str, slope: Callable[[Tensor], Tensor]) -> Any:
        self.x, self.slope, self.label = x, slope, label
        return getattr(select(x), label + "_forward")(x)

    def backward(self, grad: Any) -> Any:
        if on_device(grad) and self.label != "trigamma":  # in one pass
            return select(grad).special_backward(self.label, grad, self.x)
        return super().backward(grad)


class OfSecond(Formula):
    """f is the kernel ``label`` of two arrays, of which the first, ``given``, is a constant."""

    def forward(self, x: Any, label: str, given: Any, slope: Callable[[Tensor], Tensor]) -> Any:
        self.x, self.slope, self.label = x, slope, label
        return getattr(select(x), label + "_forward")(given, x)


def evaluated(
    function: Callable[[Any], Any], x: Tensor, slope: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``function`` of a floating-point tensor; see :class:`Evaluated`."""
    return Evaluated.apply(x, function=function, slope=slope)  # type: ignore[no-any-return]


def special(label: str, input: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """The kernel ``label`` of a tensor, integers as the default dtype; see :class:`Special`."""
    return Special.apply(floating(input), label=label, slope=slope)  # type: ignore[no-any-return]


def of_second(label: str, given: Tensor, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """The kernel ``label`` of two tensors of one floating dtype; see :class:`OfSecond`."""
    return OfSecond.apply(x, label=label, given=given._data, slope=slope)  # type: ignore[no-any-return]

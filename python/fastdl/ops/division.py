"""Division with a whole quotient: ``//``, ``%``, ``fmod`` and truncation. Integers refuse a divisor of 0."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from fastdl.dtypes import FLOATING, is_half
from fastdl.kernels import is_array, on_device, select, select_either
from fastdl.ops.arrays import by_numpy, has_integer_kernels, zeros
from fastdl.ops.binary import Binary, Saving
from fastdl.ops.out import into
from fastdl.tensor import Tensor


def _check_integers(op: str, x: Any, y: Any, dtype: Any) -> None:
    if dtype.kind == "b":
        raise RuntimeError(f"{op}: not defined for bool tensors; convert them to integers first")
    if not is_array(y):
        zero = not y
    elif y.size > 4096 and has_integer_kernels(y):
        zero = select(y).eq_forward(y, 0).any()
    else:
        zero = not y.all()
    if zero and dtype.kind in "iu" and np.size(x):
        raise RuntimeError(f"{op}: division by zero; integer tensors have no infinity to answer with")


class FloorDivide(Binary):
    kernel = "floor_divide_forward"
    integers = True
    ufunc: ClassVar[Any] = np.floor_divide

    def check(self, x: Any, y: Any, dtype: Any) -> None:
        _check_integers(self.label, x, y, dtype)

    def backward(self, grad: Any) -> Any:
        zero = zeros(grad.shape, grad.dtype, grad)
        return self.give(zero, zero)

    def backward_graph(self, grad: Any) -> Any:
        zero = Tensor._wrap(zeros(grad._data.shape, grad._data.dtype, grad._data))
        return self.give_graph(zero, zero)

    aliases_grad = True


class Remainder(Saving):
    """Python's %: the result has the sign of y. z = x - y floor(x / y)."""

    kernel = "remainder_forward"
    integers = True
    ufunc: ClassVar[Any] = np.remainder
    aliases_grad = True
    round = "floor_forward"

    def check(self, x: Any, y: Any, dtype: Any) -> None:
        _check_integers(self.label, x, y, dtype)

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        if True not in self.needs:
            return Binary.forward(self, x, y, value, out)
        x, y, dtype = self.prepare(x, y, value)
        if self.needs[1]:
            self.saves = (0, 1)
            self.x, self.y = x, y
        return self.compute(x, y, dtype, out)

    def backward(self, grad: Any) -> Any:
        grad_y = None
        if self.needs[1]:
            kernels = select(grad)
            quotient = getattr(kernels, self.round)(kernels.div_forward(self.x, self.y))
            grad_y = kernels.neg_forward(kernels.mul_forward(grad, quotient))
        return self.give(grad, grad_y)

    def backward_graph(self, grad: Any) -> Any:
        def grad_y() -> Any:
            kernels = select(self.x)
            quotient = getattr(kernels, self.round)(kernels.div_forward(self.x, self.y))
            return -grad * Tensor._wrap(quotient)

        return self.give_graph(grad, grad_y)

    flat = MappingProxyType({1: (0, 1)})


class Fmod(Remainder):
    """C's fmod: the result has the sign of x. z = x - y trunc(x / y)."""

    kernel, ufunc = "fmod_forward", np.fmod
    round = "trunc_forward"


def _truncated(x: Any, y: Any, out: Any, casting: str = "unsafe") -> Any:
    quotient = np.floor_divide(x, y)  # not yet into out, which may be x
    # Floor and truncation differ by one where the signs differ and something remains.
    np.add(quotient, ((x < 0) != (y < 0)) & (quotient * y != x), out=out, casting=casting)  # type: ignore[call-overload]
    return out


class TruncDivide(FloorDivide):
    """The quotient without its fraction."""

    kernel = "trunc_divide_forward"
    ufunc = staticmethod(_truncated)

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        if x is None or x.dtype.kind in FLOATING:
            return self.compute(*self.prepare(x, y, value), out)
        return super().forward(x, y, value, out)

    def compute(self, x: Any, y: Any, dtype: Any, out: Any) -> Any:
        if dtype.kind not in FLOATING:
            return super().compute(x, y, dtype, out)
        if out is not None and out.dtype is not dtype:
            return into(self.label, out, self.compute(x, y, dtype, None))
        kernels, device = select_either(x, y), on_device(x) or on_device(y)
        # In half precision PyTorch rounds the quotient of two tensors before it is truncated, not that by a number.
        half, by_number = is_half(dtype), 0 in (np.ndim(x), np.ndim(y))
        if half and by_number and device:
            return by_numpy(self.label, self.ufunc, dtype, out, x, y)
        if device or (half and not by_number):
            quotient = kernels.div_forward(x, y, out)
            return kernels.trunc_forward(quotient, quotient)
        return kernels.trunc_divide_forward(x, y, out)

"""Operations on two operands: arithmetic with broadcasting and promotion, between tensors and numbers on
either side.

Every operation is an Op applied as ``Op.apply(x, y)``, ``Op.apply(x, None, value=2)`` or ``Op.apply(None, y,
value=2)``; ``out=array`` writes the result there (in-place operations).
"""

from __future__ import annotations

from math import log as _log
from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.graph import fitted
from fastdl.autograd.op import ComplexOperand, Op
from fastdl.dtypes import FLOATING, bool_, float32, float64, is_common_integer
from fastdl.kernels import array, is_array, on_device, select, select_either
from fastdl.ops.arrays import (
    by_numpy,
    cast,
    fit,
    full,
    has_integer_kernels,
    operand,
    wrapped,
)
from fastdl.ops.out import into
from fastdl.ops.promotion import common_dtype, floating_dtype
from fastdl.tensor import Tensor

SAVED: dict[tuple[bool, ...], tuple[int, ...]] = {
    (False, False): (),
    (True, False): (1,),
    (False, True): (0,),
    (True, True): (0, 1),
}
"""What a product keeps, by which of its factors need a gradient: that of one takes the other."""
SAVED_BEHIND = {
    (c, *needs): tuple([i + 1 for i in kept]) for needs, kept in SAVED.items() for c in (False, True)
}
"""The same of a product that is added to the first input."""


class Binary(Op):
    """Two operands; subclasses name kernel and NumPy function and add the gradient."""

    kernel: ClassVar[str]
    by_number: ClassVar[str] = ""  # the kernel for a number on the right, if that is another one
    label: ClassVar[str]
    ufunc: ClassVar[Any]
    floating: ClassVar[bool] = False  # integers are converted to the default dtype
    integers: ClassVar[bool] = False  # the CPU's kernel takes integers, too
    logic: ClassVar[str] = ""  # the kernel for bools
    likes: tuple[Any, Any]  # shape and dtype of each input; None for numbers

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "kernel"):
            cls.label = cls.kernel.removesuffix("_forward")

    def prepare(self, x: Any, y: Any, value: Any) -> tuple[Any, Any, Any]:
        """Both operands in the common dtype, and that dtype."""
        if y is None:
            dtype = x.dtype
            self.likes = (x.shape, dtype), None
            if dtype is float32 or dtype is float64:
                return x, value, dtype
            y = value
        elif x is None:
            dtype = y.dtype
            self.likes = None, (y.shape, dtype)
            if dtype is float32 or dtype is float64:
                return value, y, dtype
            x = value
        else:
            dtype = x.dtype
            self.likes = (x.shape, dtype), (y.shape, y.dtype)
            if dtype is y.dtype and (dtype is float32 or dtype is float64):
                return x, y, dtype
        if not (y.__class__ is int and is_common_integer(dtype)):
            dtype = common_dtype(x, y)
        if dtype.kind == "c":
            raise ComplexOperand
        if self.floating:
            dtype = floating_dtype(dtype)
        self.check(x, y, dtype)
        return operand(x, dtype), operand(y, dtype), dtype

    def check(self, x: Any, y: Any, dtype: Any) -> None:
        """Refuse what the operation does not define; called only where dtypes differ or are not float."""

    def compute(self, x: Any, y: Any, dtype: Any, out: Any) -> Any:
        if out is not None and out.dtype is not dtype:
            return into(self.label, out, self.compute(x, y, dtype, None))
        if dtype.kind in FLOATING or (self.integers and self.whole(x, y, dtype)):
            return getattr(select_either(x, y), self.kernel)(x, y, out)
        return by_numpy(self.label, self.ufunc, dtype, out, x, y)

    def whole(self, x: Any, y: Any, dtype: Any) -> bool:
        """Are these operands of a kernel on integers?"""
        return is_common_integer(dtype) and not (on_device(x) or on_device(y))

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        if x is not None:  # the common cases, without the calls below
            dtype = x.dtype
            if self.integers and dtype.kind in "iu":
                if (
                    (out is None or out.dtype is dtype)
                    and has_integer_kernels(x)
                    and (value.__class__ is int if y is None else y.dtype is dtype and not on_device(y))
                ):
                    other = wrapped(value, dtype) if y is None else y
                    self.check(x, other, dtype)
                    return getattr(select(x), self.kernel)(x, other, out)
            elif dtype is bool_:
                if self.logic and y is not None and y.dtype is bool_ and out is None and not on_device(x):
                    return getattr(select(x), self.logic)(x, y)
            elif (dtype is float32 or dtype is float64) and (out is None or out.dtype is dtype):
                if y is None:
                    self.likes = (x.shape, dtype), None
                    return getattr(select(x), self.kernel)(x, value, out)
                if dtype is y.dtype:
                    if True in self.needs:
                        self.likes = (x.shape, dtype), (y.shape, dtype)
                    return getattr(select(x), self.kernel)(x, y, out)
        elif self.integers and value.__class__ is int and out is None and has_integer_kernels(y):
            self.check(value, y, y.dtype)
            return getattr(select(y), self.kernel)(wrapped(value, y.dtype), y)
        return self.compute(*self.prepare(x, y, value), out)

    def give(self, grad_x: Any, grad_y: Any) -> tuple[Any, Any]:
        """The gradients of those inputs that need one, in their shapes and dtypes."""
        x, y = self.likes
        needs = self.needs
        return fit(grad_x, x) if needs[0] else None, fit(grad_y, y) if needs[1] else None

    def give_graph(self, grad_x: Any, grad_y: Any) -> tuple[Any, Any]:
        """:meth:`give` for tensors; a gradient may be a function, called where it is needed."""
        grads = [
            fitted(g() if callable(g) else g, like) if need else None
            for g, like, need in zip((grad_x, grad_y), self.likes, self.needs, strict=True)
        ]
        return grads[0], grads[1]

    def operand_graph(self, i: int, value: Any) -> Any:
        """Operand ``i``, kept as ``value`` in the common dtype, as a tensor of the graph; a number stays one."""
        like = self.likes[i]
        if like is None:
            return value if not isinstance(value, np.ndarray) else Tensor._wrap(value)
        if value.dtype is like[1]:
            return self.saved_input(i, value)
        return self.saved_input(i, cast(value, like[1])).to(value.dtype)


class Add(Binary):
    release = Op.stay
    kernel, ufunc, logic = "add_forward", np.add, "bitwise_or_forward"
    integers = True
    aliases_grad = hands_on = True

    def backward(self, grad: Any) -> Any:
        return self.give(grad, grad)

    def backward_graph(self, grad: Any) -> Any:
        return self.give_graph(grad, grad)


class Sub(Binary):
    release = Op.stay
    kernel, ufunc = "sub_forward", np.subtract
    integers = True
    aliases_grad = hands_on = True

    def check(self, x: Any, y: Any, dtype: Any) -> None:
        if any(is_array(o) and o.dtype.kind == "b" for o in (x, y)):
            raise RuntimeError(
                "sub: bool tensors cannot be subtracted; use logical_xor (^) or logical_not (~)"
            )

    def backward(self, grad: Any) -> Any:
        x, y = self.likes
        needs = self.needs
        grad_y = None
        if needs[1]:
            grad_y = negative(fit(grad, y))
        return fit(grad, x) if needs[0] else None, grad_y

    def backward_graph(self, grad: Any) -> Any:
        return self.give_graph(grad, lambda: -grad)


def negative(array: Any) -> Any:
    if array.dtype.kind in FLOATING:
        return select(array).neg_forward(array)
    return by_numpy("neg", np.negative, array.dtype, None, array)


class Saving(Binary):
    """A binary operation whose gradient for one input needs the other."""

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        needs = self.needs
        if out is None and True not in needs:
            return super().forward(x, y, value)
        self.saves = SAVED[needs]
        if x is not None and out is None:  # the common cases, without the calls below
            dtype = x.dtype
            if (dtype is float32 or dtype is float64) and (y is None or dtype is y.dtype):
                self.likes = (x.shape, dtype), None if y is None else (y.shape, dtype)
                other = value if y is None else y
                if needs[1]:
                    self.x = x
                if needs[0]:
                    self.y = other
                return getattr(select(x), self.kernel)(x, other)
        x, y, dtype = self.prepare(x, y, value)
        if needs[1]:
            self.x = x
        if needs[0]:
            self.y = y
        return self.compute(x, y, dtype, out)


class Mul(Saving):
    kernel, ufunc, logic = "mul_forward", np.multiply, "bitwise_and_forward"
    integers = True

    def backward(self, grad: Any) -> Any:
        x, y = self.likes
        need_x, need_y = self.needs
        kernels = select(grad)
        if need_x and need_y and grad.shape == x[0] == y[0]:
            return self.give(*kernels.mul_backward(grad, self.x, self.y))
        grad_x = grad_y = None
        if need_x:
            grad_x = _product_to(kernels, grad, self.y, x)
        if need_y:
            grad_y = _product_to(kernels, grad, self.x, y)
        return grad_x, grad_y

    def backward_graph(self, grad: Any) -> Any:
        return self.give_graph(
            lambda: grad * self.operand_graph(1, self.y), lambda: grad * self.operand_graph(0, self.x)
        )


def _product_to(kernels: Any, grad: Any, factor: Any, like: Any) -> Any:
    """grad * factor, summed over what broadcasting repeated, without the product in memory."""
    if grad.shape == like[0] or not is_array(factor) or grad.dtype.itemsize == 2:
        return fit(kernels.mul_forward(grad, factor), like)
    return fit(kernels.sum_product_to(grad, factor, like[0]), like)


class Div(Binary):
    kernel, ufunc = "div_forward", np.true_divide
    floating = True

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        x, y, dtype = self.prepare(x, y, value)
        needs = self.needs
        if needs[1]:  # not the quotient, which may be changed in place
            self.saves = (0, 1)
            self.x, self.y = x, y
        elif needs[0]:
            self.saves = (1,)
            self.y = y
        return self.compute(x, y, dtype, out)

    def backward(self, grad: Any) -> Any:
        x, y = self.likes
        need_x, need_y = self.needs
        kernels = select(grad)
        if not need_y:
            return self.give(kernels.div_forward(grad, self.y), None)
        if need_x and grad.shape == x[0] == y[0]:
            return self.give(*kernels.div_backward(grad, self.x, self.y))
        # -(sum of grad x) / y / y: y is the same wherever the sum runs.
        grad_x = fit(kernels.div_forward(grad, self.y), x) if need_x else None
        share = _product_to(kernels, grad, self.x, (y[0], grad.dtype))
        for _ in range(2):
            kernels.div_forward(share, self.y, share)
        return grad_x, fit(kernels.neg_forward(share, share), y)

    def backward_graph(self, grad: Any) -> Any:
        grad_x = grad / self.operand_graph(1, self.y)
        return self.give_graph(
            grad_x, lambda: -grad_x * (self.operand_graph(0, self.x) / self.operand_graph(1, self.y))
        )


class Maximum(Saving):
    kernel = "maximum_forward"
    integers = True
    ufunc: ClassVar[Any] = np.maximum

    def backward(self, grad: Any) -> Any:
        return self.give(*getattr(select(grad), f"{self.label}_backward")(grad, self.x, self.y))

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        self.x, self.y, dtype = self.prepare(x, y, value)
        self.saves = (0, 1)
        return self.compute(self.x, self.y, dtype, out)

    def backward_graph(self, grad: Any) -> Any:
        # Who wins is constant: the gradient of 1 says it, ties and broadcasting included.
        ones = full(grad._data.shape, 1, grad._data.dtype, grad._data)
        share = getattr(select(ones), f"{self.label}_backward")(ones, self.x, self.y)
        return self.give_graph(grad * Tensor._wrap(share[0]), lambda: grad * Tensor._wrap(share[1]))


class Minimum(Maximum):
    kernel, ufunc = "minimum_forward", np.minimum


def _power(x: Any, exponent: int) -> Any:
    """Integers to a power of at least 2, by squares."""
    product = select(x).mul_forward
    power = None
    while exponent > 1:
        if exponent & 1:
            power = x if power is None else product(power, x)
        x = product(x, x)
        exponent >>= 1
    return x if power is None else product(power, x)


class Pow(Binary):
    kernel, by_number, ufunc = "pow_forward", "pow_scalar_forward", np.power

    def check(self, x: Any, y: Any, dtype: Any) -> None:
        if dtype.kind in "iu" and not is_array(y) and y < 0:
            raise RuntimeError(
                "pow: integers to negative integer powers are not integers; convert the base to float first"
            )

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        if (
            value.__class__ is int
            and 1 < value < 64
            and out is None
            and x is not None
            and has_integer_kernels(x)
        ):
            return _power(x, value)
        x, y, dtype = self.prepare(x, y, value)
        need_x, need_y = self.needs
        if need_x or need_y:
            self.saves = (0, 1)
            self.x, self.y = x, y
        kernel = dtype.kind in FLOATING
        if kernel and not is_array(y) and (out is None or out.dtype is dtype):
            return select(x).pow_scalar_forward(x, y, out)
        if dtype.kind == "i" and (np.any(np.less(y, 0)) if is_array(y) else y < 0):
            return self.integer(x, y, out)
        z = self.compute(x, y, dtype, out)
        if need_y:
            self.saves_output = True
            self.z = z
        return z

    def integer(self, x: Any, y: Any, out: Any) -> Any:
        """Negative integer powers: 1 / x ** -y towards zero."""
        negative = np.less(y, 0)  # before ``out``, which may share y's memory, is written to
        power = by_numpy("pow", np.power, x.dtype, out, x, np.abs(y))
        inverse = np.where(np.abs(power) == 1, power, 0)
        np.copyto(power, inverse, where=negative)
        return power

    def backward(self, grad: Any) -> Any:
        kernels = select(grad)
        x, y = self.x, self.y
        if not is_array(y):
            return self.give(kernels.pow_scalar_backward(grad, x, y), None)
        grad_x = grad_y = None
        if self.needs[0]:  # grad y x ** (y - 1), and 0 where y is 0
            slope = kernels.mul_forward(y, kernels.pow_forward(x, kernels.sub_forward(y, 1.0)))
            grad_x = kernels.where_forward(kernels.eq_forward(y, 0.0), 0.0, kernels.mul_forward(grad, slope))
        if self.needs[1]:  # grad z log(x), and 0 where 0 ** y is flat
            if is_array(x):
                slope = kernels.mul_forward(self.z, kernels.log_forward(x))
                flat = kernels.eq_forward(x, 0.0) & kernels.ge_forward(y, 0.0)
                grad_y = kernels.where_forward(flat, 0.0, kernels.mul_forward(grad, slope))
            elif x == 0:
                grad_y = kernels.mul_forward(grad, np.where(y >= 0, 0.0, -np.inf).astype(grad.dtype))
            else:
                slope = _log(x) if x > 0 else float("nan")
                grad_y = kernels.mul_forward(grad, kernels.mul_forward(self.z, slope))
        return self.give(grad_x, grad_y)

    def backward_graph(self, grad: Any) -> Any:
        x, y = self.operand_graph(0, self.x), self.operand_graph(1, self.y)
        if not isinstance(y, Tensor):
            return self.give_graph(grad * (x ** (y - 1) * y) if y != 0 else grad * 0, None)

        def grad_x() -> Any:
            flat = y == 0
            return grad * (y * x ** y.masked_fill(flat, 1.0).sub(1.0)).masked_fill(flat, 0.0)

        def grad_y() -> Any:
            z = self.saved_output(self.z)
            if isinstance(x, Tensor):
                flat = (x == 0) & (y >= 0)
                return grad * (z * x.masked_fill(flat, 1.0).log()).masked_fill(flat, 0.0)
            if x == 0:
                return grad * Tensor._wrap(np.where(self.y >= 0, 0.0, -np.inf).astype(self.y.dtype))
            return grad * (z * (_log(x) if x > 0 else float("nan")))

        return self.give_graph(grad_x, grad_y)


class Atan2(Saving):
    """The angle of the point (y, x)."""

    kernel, ufunc = "atan2_forward", np.arctan2
    floating = True

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        x, y, dtype = self.prepare(x, y, value)
        like = x if is_array(x) else y
        self.x, self.y = array(x, like, dtype), array(y, like, dtype)
        self.saves = (0, 1)
        return self.compute(self.x, self.y, dtype, out)

    def backward(self, grad: Any) -> Any:
        kernels = select(grad)
        square = kernels.add_forward(kernels.mul_forward(self.x, self.x), kernels.mul_forward(self.y, self.y))
        part = kernels.div_forward(grad, square)
        part = kernels.where_forward(
            kernels.eq_forward(square, 0.0), 0.0, part
        )  # the origin has no direction
        return self.give(
            kernels.mul_forward(part, self.y), kernels.neg_forward(kernels.mul_forward(part, self.x))
        )

    def backward_graph(self, grad: Any) -> Any:
        x, y = self.operand_graph(0, self.x), self.operand_graph(1, self.y)
        square = x * x + y * y
        part = (grad / square).masked_fill(square == 0, 0.0)
        return self.give_graph(lambda: part * y, lambda: -(part * x))


class Hypot(Saving):
    kernel, ufunc = "hypot_forward", np.hypot

    def check(self, x: Any, y: Any, dtype: Any) -> None:
        if dtype.kind not in FLOATING:
            raise RuntimeError(f"hypot: defined for floating-point tensors, got {dtype}")

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        self.x, self.y, dtype = self.prepare(x, y, value)
        self.saves = tuple([i for i, need in enumerate(self.needs) if need])
        self.saves_output = True
        self.z = self.compute(self.x, self.y, dtype, out)
        return self.z

    def backward(self, grad: Any) -> Any:
        kernels = select(grad)
        part = kernels.div_forward(grad, self.z)
        return self.give(kernels.mul_forward(part, self.x), kernels.mul_forward(part, self.y))

    def backward_graph(self, grad: Any) -> Any:
        part = grad / self.saved_output(self.z)
        return self.give_graph(
            lambda: part * self.operand_graph(0, self.x), lambda: part * self.operand_graph(1, self.y)
        )

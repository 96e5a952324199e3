"""Selection and three-operand arithmetic, and in one place all elementwise operations: the names of
``torch.*``."""

from __future__ import annotations

import builtins
from functools import cache, lru_cache
from math import inf
from typing import Any, ClassVar

import numpy as np

from fastdl._graph import plain
from fastdl.autograd.graph import fitted, linear_backward
from fastdl.autograd.mode import mode
from fastdl.autograd.op import NoKernel, Op
from fastdl.dtypes import (
    DIFFERENTIABLE,
    FLOATING,
    bool_,
    complex64,
    float32,
    float64,
    get_default_dtype,
    int64,
    is_common_integer,
    is_half,
    uint8,
)
from fastdl.errors import ArgumentError, not_a_tensor
from fastdl.kernels import array, is_array, on_device, select
from fastdl.ops.arithmetic import *
from fastdl.ops.arithmetic import add, maximum, minimum, mul, number, older_order
from fastdl.ops.arrays import broadcast_shape, cast, empty, filler, fit, has_integer_kernels, operand, places
from fastdl.ops.cast import to
from fastdl.ops.compare import *
from fastdl.ops.compare import gt, isnan, logical_or, lt
from fastdl.ops.out import apply_into, into, store
from fastdl.ops.promotion import common_dtype, is_kernel_dtype
from fastdl.ops.unary import *
from fastdl.tensor import Tensor


class Where(Op):
    """z = condition ? x : y. x or y may be a number (then None here, and in ``values``)."""

    saves = (0,)
    takes_complex = True
    likes: Any

    def forward(self, condition: Any, x: Any, y: Any, values: tuple[Any, Any] = (None, None)) -> Any:
        self.condition = condition
        if True in self.needs:
            self.likes = tuple([None if a is None else (a.shape, a.dtype) for a in (x, y)])
        elif x is not None and y is not None and x.dtype is y.dtype and x.dtype.kind == "f":
            return select(condition).where_forward(condition, x, y)
        elif x is None or y is None:  # a number beside floats is one of them
            given, number = (y, values[0]) if x is None else (x, values[1])
            if given is None and number.__class__ is float and values[1].__class__ is float:
                default = get_default_dtype()
                given = x = array(filler("where", number, default), condition, default)
                number = values[1]
            if given is not None and given.dtype.kind == "f" and number.__class__ in (float, int):
                number = filler("where", number, given.dtype)
                return select(condition).where_forward(
                    condition, number if x is None else x, number if y is None else y
                )
        x, y = values[0] if x is None else x, values[1] if y is None else y
        dtype: Any = getattr(x, "dtype", None)
        if dtype is None or dtype is not getattr(y, "dtype", None):
            dtype = common_dtype(x, y)
            x, y = [
                operand(side, dtype) if is_array(side) else filler("where", side, dtype) for side in (x, y)
            ]
        if dtype.kind in FLOATING or (
            (dtype is bool_ or is_common_integer(dtype)) and not on_device(condition)
        ):
            if not (is_array(x) or is_array(y)):
                x = array(x, condition, dtype)
            return select(condition).where_forward(condition, x, y)
        if dtype is complex64 and not on_device(condition):  # by their bytes
            x, y = [np.asarray(side, dtype).view(int64) for side in (x, y)]
            return select(condition).where_forward(condition, x, y).view(dtype)
        z = empty(broadcast_shape("where", condition.shape, np.shape(x), np.shape(y)), dtype, condition)
        np.copyto(z, y)
        np.copyto(z, x, where=condition)
        return z

    def backward(self, grad: Any) -> Any:
        x, y = self.likes
        _, need_x, need_y = self.needs
        if grad.dtype.kind == "c":
            zero = Tensor._wrap(np.zeros((), grad.dtype, like=grad))
            of, grad = Tensor._wrap(self.condition), Tensor._wrap(grad)
            return (
                None,
                fit(where(of, grad, zero)._data, x) if need_x else None,
                fit(where(of, zero, grad)._data, y) if need_y else None,
            )
        kernels = select(grad)
        if need_x and need_y:
            grad_x, grad_y = kernels.where_backward(grad, self.condition)
            return None, fit(grad_x, x), fit(grad_y, y)
        if need_x:
            return None, fit(kernels.where_forward(self.condition, grad, 0.0), x), None
        return None, None, fit(kernels.where_forward(self.condition, 0.0, grad), y)

    def backward_graph(self, grad: Tensor) -> Any:
        condition = self.saved_input(0, self.condition)
        _, need_x, need_y = self.needs
        return (
            None,
            fitted(where(condition, grad, 0.0), self.likes[0]) if need_x else None,
            fitted(where(condition, 0.0, grad), self.likes[1]) if need_y else None,
        )


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where ``condition`` is True, ``other`` elsewhere; both may be tensors or numbers. See
    ``torch.where``.

    With the condition alone: the indices of its True elements, one tensor per axis.

    Example:
        >>> import fastdl
        >>> x = fastdl.Tensor([-1.0, 2.0])
        >>> fastdl.where(x > 0, x, 0.0).tolist()
        [0.0, 2.0]
    """
    if not isinstance(condition, Tensor):
        raise not_a_tensor("where", "condition", condition)
    if input is None and other is None:
        return tuple([Tensor._wrap(index) for index in places(condition._data)])
    if condition._data.dtype is uint8:
        condition = Tensor._wrap(cast(condition._data, bool_))
    if condition._data.dtype is not bool_:
        raise RuntimeError(
            f"where: condition must be a bool tensor, got {condition._data.dtype}; compare it, e.g. x > 0"
        )
    if input.__class__ is Tensor is other.__class__:
        return Where.apply(condition, input, other)
    tensors, values = [], []
    for name, side in (("input", input), ("other", other)):
        tensors.append(side if isinstance(side, Tensor) else None)
        values.append(None if isinstance(side, Tensor) else number("where", side, name))
    return Where.apply(condition, *tensors, values=tuple(values))


def where_method(input: Tensor, condition: Tensor, other: Any) -> Tensor:
    """``input`` where ``condition`` is True, ``other`` elsewhere. See ``torch.Tensor.where``."""
    return where(condition, input, other)  # type: ignore[no-any-return]


@lru_cache(256)
def _within(dtype: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
    """Bounds as integers of ``dtype``, which limit them as those given."""
    limits = np.iinfo(dtype)
    return tuple([builtins.min(builtins.max(bound, limits.min), limits.max) for bound in (lower, upper)])


_WHOLE = frozenset((int, type(None)))  # bounds that make integers nothing else
_REAL = _WHOLE | {float}  # and floats


class Clamp(Op):
    """min(max(x, lower), upper) with numbers as bounds; the gradient passes where lower <= x <= upper."""

    saves = (0,)

    def forward(self, x: Any, min: Any, max: Any, out: Any = None) -> Any:
        dtype = x.dtype
        whole = dtype.kind == "i" and min.__class__ in _WHOLE and max.__class__ in _WHOLE
        if not (dtype is float32 or dtype is float64 or whole):
            dtype = common_dtype(x, *[b for b in (min, max) if b is not None])
        lower, upper = -inf if min is None else min, inf if max is None else max
        self.x, self.bounds, self.dtype = x, (lower, upper), x.dtype
        if dtype is not x.dtype:
            x = cast(x, dtype)
        if out is not None and out.dtype is not dtype:
            return into("clamp", out, self.compute(x, dtype, None))
        return self.compute(x, dtype, out)

    def compute(self, x: Any, dtype: Any, out: Any) -> Any:
        lower, upper = self.bounds
        if dtype.kind in FLOATING:
            return select(x).clamp_forward(x, lower, upper, out)
        if has_integer_kernels(x):
            return select(x).clamp_forward(x, *_within(dtype, lower, upper), out)
        result = empty(x.shape, dtype, x) if out is None else out
        np.copyto(result, x)
        info = np.iinfo(dtype) if dtype.kind != "b" else None
        low, high = (0, 1) if info is None else (info.min, info.max)
        lower, upper = builtins.max(lower, low), builtins.min(upper, high)
        for bound, limit in ((np.maximum, lower), (np.minimum, upper)):  # CuPy's clip casts nothing
            bound(result, limit, out=result, casting="unsafe")
        return result

    def backward(self, grad: Any) -> Any:
        lower, upper = self.bounds
        return select(grad).clamp_backward(grad, self.x, lower, upper)

    linear = backward  # which elements pass is constant

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def clamp(input: Tensor, min: Any = None, max: Any = None, *, out: Any = None) -> Tensor:
    """``input`` limited to [min, max]; each bound may be a number, a tensor or None. NaN stays NaN. See
    ``torch.clamp``.

    Where min > max the result is max.
    """
    if not isinstance(input, Tensor):
        raise not_a_tensor("clamp", "input", input)
    if min is None and max is None:
        raise ArgumentError("clamp: at least one of min and max must be given")
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        result = input
        if all([bound is None or isinstance(bound, Tensor) for bound in (min, max)]) and not (
            mode.enabled and any([t is not None and t._requires_grad for t in (input, min, max)])
        ):  # with a gradient these would share ties
            result = input if min is None else maximum(input, min)
            result = result if max is None else minimum(result, max)
            return result if out is None else store("clamp", out, result)
        if min is not None:
            min = (
                min
                if isinstance(min, Tensor)
                else Tensor._wrap(np.asarray(min, input._data.dtype, like=input._data))
            )
            result = where(logical_or(lt(result, min), isnan(min)), min, result)
        if max is not None:
            max = (
                max
                if isinstance(max, Tensor)
                else Tensor._wrap(np.asarray(max, input._data.dtype, like=input._data))
            )
            result = where(logical_or(gt(result, max), isnan(max)), max, result)
        return result if out is None else store("clamp", out, result)
    min = min if min is None else number("clamp", min, "min")
    max = max if max is None else number("clamp", max, "max")
    if min != min or max != max:  # a bound that is NaN makes all NaN
        min = max = float("nan")
        input = mul(input, min)
    x = input._data
    dtype = x.dtype
    if (out is None or (out is input and x.size)) and plain(input):  # no node where nothing is recorded
        lower, upper = -inf if min is None else min, inf if max is None else max
        if dtype.kind in FLOATING:
            known = min.__class__ in _REAL and max.__class__ in _REAL
        else:
            known = (
                dtype.kind in "iu"
                and min.__class__ in _WHOLE
                and max.__class__ in _WHOLE
                and has_integer_kernels(x)
            )
            if known:
                lower, upper = _within(dtype, lower, upper)
        if known:
            result = select(x).clamp_forward(x, lower, upper, None if out is None else x)
            if out is None:
                return Tensor._wrap(result)
            out._bump_version()
            return out
    return apply_into(out, Clamp, input, min=min, max=max)


def clamp_min(input: Tensor, min: Any, *, out: Any = None) -> Tensor:
    """max(input, min). See ``torch.clamp_min``."""
    return clamp(input, min=min, out=out)


def clamp_max(input: Tensor, max: Any, *, out: Any = None) -> Tensor:
    """min(input, max). See ``torch.clamp_max``."""
    return clamp(input, max=max, out=out)


clip = clamp


@cache
def _read(reads: tuple[tuple[int, ...], ...], needs: tuple[bool, ...]) -> tuple[int, ...]:
    """The inputs that the gradients of those with ``needs`` take."""
    return tuple(sorted({i for need, others in zip(needs, reads, strict=True) if need for i in others}))


class Ternary(Op):
    """Three tensors in a common floating dtype, and a number."""

    reads: ClassVar[tuple[tuple[int, ...], ...]]
    """For each input the inputs that its gradient takes."""

    def prepare(self, op: str, *arrays: Any) -> Any:
        x, y, z = arrays
        dtype = x.dtype
        if dtype is y.dtype is z.dtype and is_kernel_dtype(dtype):
            if True in self.needs:
                self.likes = [(a.shape, a.dtype) for a in arrays]
                self.keep(arrays)
            return arrays
        self.likes = [(a.shape, a.dtype) for a in arrays]
        dtype = common_dtype(*arrays)
        if is_half(dtype) and True in self.needs:
            raise NoKernel(
                f"{op}: the gradients take several steps, which half precision would round one by one"
            )
        if dtype.kind not in FLOATING:
            raise RuntimeError(
                f"{op}: defined for floating-point tensors, got " + ", ".join([str(a.dtype) for a in arrays])
            )
        arrays = tuple([cast(a, dtype) for a in arrays])
        self.keep(arrays)
        return arrays

    def keep(self, arrays: tuple[Any, ...]) -> None:
        self.saves = saves = _read(self.reads, self.needs)
        self.arrays: list[Any] = [a if i in saves else None for i, a in enumerate(arrays)]

    def computed(self, op: str, kernel: Any, arrays: Any, value: float, out: Any) -> Any:
        """What the kernel gives, converted where ``out`` is of another dtype."""
        if out is None or out.dtype is arrays[0].dtype:
            return kernel(*arrays, value, out)
        return into(op, out, kernel(*arrays, value))

    def give(self, *grads: Any) -> Any:
        return tuple(
            [
                fit(g, like) if need else None
                for g, like, need in zip(grads, self.likes, self.needs, strict=True)
            ]
        )

    def give_graph(self, *grads: Any) -> Any:
        """:meth:`give` for functions that return tensors."""
        return tuple(
            [
                fitted(g(), like) if need else None
                for g, like, need in zip(grads, self.likes, self.needs, strict=True)
            ]
        )

    def operand_graph(self, i: int) -> Tensor:
        array, dtype = self.arrays[i], self.likes[i][1]
        if array.dtype is dtype:
            return self.saved_input(i, array)
        return self.saved_input(i, cast(array, dtype)).to(array.dtype)


class Addcmul(Ternary):
    """x + value y z"""

    reads = (), (2,), (1,)

    def forward(self, x: Any, y: Any, z: Any, value: float, out: Any = None) -> Any:
        self.value = value
        arrays = self.prepare("addcmul", x, y, z)
        return self.computed("addcmul", select(x).addcmul_forward, arrays, value, out)

    def backward(self, grad: Any) -> Any:
        _, y, z = self.arrays
        multiply = select(grad).mul_forward
        scaled = None if y is None and z is None else multiply(grad, self.value)
        return self.give(
            grad, None if z is None else multiply(scaled, z), None if y is None else multiply(scaled, y)
        )

    def backward_graph(self, grad: Tensor) -> Any:
        return self.give_graph(
            lambda: grad,
            lambda: grad * self.operand_graph(2) * self.value,
            lambda: grad * self.operand_graph(1) * self.value,
        )

    aliases_grad = True


class Addcdiv(Ternary):
    """x + value y / z"""

    reads = (), (2,), (1, 2)

    def forward(self, x: Any, y: Any, z: Any, value: float, out: Any = None) -> Any:
        self.value = value
        arrays = self.prepare("addcdiv", x, y, z)
        return self.computed("addcdiv", select(x).addcdiv_forward, arrays, value, out)

    def backward(self, grad: Any) -> Any:
        _, y, z = self.arrays
        k = select(grad)
        grad_y = grad_z = None
        if z is not None:
            grad_y = k.div_forward(k.mul_forward(grad, self.value), z)
        if y is not None:
            grad_z = k.neg_forward(k.mul_forward(grad_y, k.div_forward(y, z)))
        return self.give(grad, grad_y, grad_z)

    def backward_graph(self, grad: Tensor) -> Any:
        if self.arrays[2] is None:
            return self.give_graph(lambda: grad, None, None)
        z = self.operand_graph(2)
        grad_y = grad * self.value / z
        return self.give_graph(lambda: grad, lambda: grad_y, lambda: -grad_y * (self.operand_graph(1) / z))

    aliases_grad = True


class Lerp(Ternary):
    """x + w (y - x)"""

    reads = (2,), (2,), (0, 1)

    def forward(self, x: Any, y: Any, w: Any, value: float | None = None, out: Any = None) -> Any:
        fixed = w is None
        if fixed and x.dtype is y.dtype and x.dtype.kind == "f" and True not in self.needs:
            return select(x).lerp_forward(x, y, value, out)
        if fixed:
            w = np.asarray(value, x.dtype, like=x)
        x, y, w = self.prepare("lerp", x, y, w)
        if fixed:  # the gradients are w's alone
            self.saves, self.arrays = (), [None, None, w]
        return select(x).lerp_forward(x, y, w, out)

    def backward(self, grad: Any) -> Any:
        x, y, w = self.arrays
        k = select(grad)
        grad_y = None if w is None else k.mul_forward(grad, w)
        grad_w = k.mul_forward(grad, k.sub_forward(y, x)) if self.needs[2] else None
        return self.give(k.sub_forward(grad, grad_y) if self.needs[0] else None, grad_y, grad_w)

    def backward_graph(self, grad: Tensor) -> Any:
        grad_y: Any = None if self.arrays[2] is None else grad * self.operand_graph(2)
        return self.give_graph(
            lambda: grad - grad_y,
            lambda: grad_y,
            lambda: grad * (self.operand_graph(1) - self.operand_graph(0)),
        )


def _at_once(kernel: str, out: Any, value: Any, *tensors: Tensor) -> Tensor | None:
    """The kernel on floating-point tensors of one dtype and a number, where nothing is recorded, into the first of them
    if that is ``out``; else None, and nothing has happened."""
    if not plain(*tensors) or value.__class__ not in (int, float):
        return None
    arrays = [t._data for t in tensors]
    x = arrays[0]
    for each in arrays:
        if each.dtype is not x.dtype:
            return None
    if x.dtype.kind not in FLOATING:
        return None
    if out is None:
        return Tensor._wrap(getattr(select(x), kernel)(*arrays, value))
    if out is not tensors[0] or not x.size:
        return None
    getattr(select(x), kernel)(*arrays, value, x)
    out._bump_version()
    return out


def addcmul(
    input: Tensor, tensor1: Tensor, tensor2: Tensor, *older: Tensor, value: float = 1, out: Any = None
) -> Tensor:
    """input + value * tensor1 * tensor2, in one pass. See ``torch.addcmul``."""
    if older:  # (input, value, tensor1, tensor2)
        older_order("addcmul", tensor1, (tensor2, *older), 2, "input, tensor1, tensor2, *, value=1")
        value, tensor1, (tensor2,) = tensor1, tensor2, older  # type: ignore[assignment]
    if input._data.dtype.kind not in DIFFERENTIABLE:
        dtype = input._data.dtype
        if not (dtype is tensor1._data.dtype is tensor2._data.dtype):
            dtype = common_dtype(input._data, tensor1._data, tensor2._data)
            if dtype.kind in "iu":
                tensor1, tensor2 = to(tensor1, dtype), to(tensor2, dtype)
        if dtype.kind in "iu":
            return add(input, mul(mul(tensor1, tensor2), filler("addcmul", value, dtype)), out=out)
    result = _at_once("addcmul_forward", out, value, input, tensor1, tensor2)
    return apply_into(out, Addcmul, input, tensor1, tensor2, value=value) if result is None else result


def addcdiv(
    input: Tensor, tensor1: Tensor, tensor2: Tensor, *older: Tensor, value: float = 1, out: Any = None
) -> Tensor:
    """input + value * tensor1 / tensor2, in one pass. See ``torch.addcdiv``."""
    if older:  # (input, value, tensor1, tensor2)
        older_order("addcdiv", tensor1, (tensor2, *older), 2, "input, tensor1, tensor2, *, value=1")
        value, tensor1, (tensor2,) = tensor1, tensor2, older  # type: ignore[assignment]
    result = _at_once("addcdiv_forward", out, value, input, tensor1, tensor2)
    return apply_into(out, Addcdiv, input, tensor1, tensor2, value=value) if result is None else result


def lerp(input: Tensor, end: Tensor, weight: Any, *, out: Any = None) -> Tensor:
    """input + weight * (end - input); ``weight`` is a number or a tensor. See ``torch.lerp``."""
    if isinstance(weight, Tensor):
        return apply_into(out, Lerp, input, end, weight)
    result = _at_once("lerp_forward", out, weight, input, end)
    if result is not None:
        return result
    return apply_into(out, Lerp, input, end, None, value=number("lerp", weight, "weight"))

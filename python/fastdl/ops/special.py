"""Functions of one and two operands that are composed of others: logarithms of sums, angles, signs, missing values.

Gamma, Bessel and error functions have files of their own.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import (
    DIFFERENTIABLE,
    FLOATING,
    bool_,
    complex128,
    float32,
    float64,
    floating_info,
    get_default_dtype,
    int64,
    is_half,
    real_dtype,
)
from fastdl.kernels import array, on_device, select
from fastdl.ops.arithmetic import div, maximum, minimum, mul, pow, sub
from fastdl.ops.arrays import cast, full, has_integer_kernels, sum_to, zeros
from fastdl.ops.bessel import i0
from fastdl.ops.binary import Binary
from fastdl.ops.cast import to
from fastdl.ops.common import check_tensors, floating
from fastdl.ops.compare import eq, isnan, isneginf, isposinf
from fastdl.ops.complex import check_real
from fastdl.ops.elementwise import where
from fastdl.ops.error_functions import erfc, erfinv
from fastdl.ops.evaluated import special
from fastdl.ops.extreme import orderable, sortable
from fastdl.ops.gamma import digamma, igamma, igammac, lgamma, mvlgamma, polygamma
from fastdl.ops.out import constant, store
from fastdl.ops.promotion import common_dtype
from fastdl.ops.unary import _exp2, cos, log
from fastdl.printing import named_lines
from fastdl.tensor import Tensor


def exp2(input: Tensor) -> Tensor:
    """2 to the power of input. See ``torch.exp2``.

    Example:
        >>> import fastdl
        >>> fastdl.exp2(fastdl.tensor([0.0, 3.0])).tolist()
        [1.0, 8.0]
    """
    return _exp2(input)


def sinc(input: Tensor) -> Tensor:
    """sin(pi x) / (pi x), 1 at 0. See ``torch.sinc``."""
    return special("sinc", input, _sinc_slope)


def _sinc_slope(x: Tensor) -> Tensor:
    """(cos(pi x) - sinc(x)) / x, 0 at 0."""
    zero = eq(x, 0)
    slope = div(sub(cos(mul(x, math.pi)), sinc(x)), where(zero, 1.0, x))
    return where(zero, 0.0, slope)  # type: ignore[no-any-return]


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), with x limited to [eps, 1 - eps] if ``eps`` is given and not negative. See ``torch.logit``."""
    return Logit.apply(floating(input), eps=None if eps is not None and eps < 0 else eps)  # type: ignore[no-any-return]


class Logit(Op):
    """The gradient is g / (x (1 - x)), NaN outside of [0, 1]; with a limit 0 beyond it instead."""

    saves = (0,)

    def forward(self, x: Any, eps: float | None) -> Any:
        self.x, self.eps = x, eps
        k = select(x)
        return k.logit_forward(x) if eps is None else k.logit_forward(k.clamp_forward(x, eps, 1 - eps))

    def backward(self, grad: Any) -> Any:
        k, x = select(grad), self.x
        if on_device(grad):
            found = k.special_backward("logit", grad, x)
        else:
            found = k.logit_backward(grad, x)
        return found if self.eps is None else k.where_forward(self._beyond(), 0.0, found)

    def _beyond(self) -> Any:
        k, x, eps = select(self.x), self.x, self.eps or 0.0
        below, above = k.lt_forward(x, eps), k.gt_forward(x, 1 - eps)
        return below | above if on_device(x) else k.bitwise_or_forward(below, above)

    def backward_graph(self, grad: Tensor) -> Any:
        x = self.saved_input(0, self.x)
        found = grad / (x * (1.0 - x))
        return found.masked_fill(Tensor._wrap(self._beyond()), math.nan if self.eps is None else 0.0)


def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians. See ``torch.deg2rad``."""
    return mul(floating(input), math.pi / 180)


def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees. See ``torch.rad2deg``."""
    return mul(floating(input), 180 / math.pi)


class LogAddExp(Op):
    """max(x, y) + log(1 + exp(-|x - y|)); the gradients are the softmax of both."""

    saves = (0, 1)

    def forward(self, x: Any, y: Any) -> Any:
        self.likes = (x.shape, y.shape)
        self.x, self.y = x, y
        return select(x).logaddexp_forward(x, y)

    def backward(self, grad: Any) -> Any:
        of_x, of_y = select(grad).logaddexp_backward(grad, self.x, self.y)
        return sum_to(of_x, self.likes[0]), sum_to(of_y, self.likes[1])

    def backward_graph(self, grad: Tensor) -> Any:
        share = (self.saved_input(0, self.x) - self.saved_input(1, self.y)).sigmoid()
        x, y = self.likes
        return (grad * share).sum_to_size(x), (grad * (1 - share)).sum_to_size(y)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """log(exp(input) + exp(other)) without overflow. See ``torch.logaddexp``."""
    x, y = _same("logaddexp", input, other)
    return LogAddExp.apply(x, y)  # type: ignore[no-any-return]


def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """log2(2^input + 2^other) without overflow. See ``torch.logaddexp2``."""
    x, y = _same("logaddexp2", input, other)
    return mul(logaddexp(mul(x, math.log(2)), mul(y, math.log(2))), 1 / math.log(2))


def _same(op: str, input: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(input, Tensor) and isinstance(other, Tensor):
        dtype = input._data.dtype
        if dtype is other._data.dtype and dtype.kind in FLOATING:
            return input, other
    check_tensors(op, input=input, other=other)
    dtype = common_dtype(input._data, other._data)
    if dtype.kind not in DIFFERENTIABLE:
        dtype = get_default_dtype()
    return to(input, dtype), to(other, dtype)


class XLogY(Binary):
    """x log(y), 0 where x is 0 and y not NaN."""

    kernel, ufunc, floating = "xlogy_forward", None, True
    shift: ClassVar[float] = 0.0  # log(shift + y)

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        self.saves = tuple([i for i, given in enumerate((x, y)) if given is not None])
        self.x, self.y, dtype = self.prepare(x, y, value)
        return self.compute(self.x, self.y, dtype, out)

    def backward(self, grad: Any) -> Any:
        k, x, y = select(grad), self.x, self.y
        grad_x = grad_y = None
        if self.needs[0]:
            grad_x = k.where_forward(self.unused(), 0.0, getattr(k, self.kernel)(grad, y))
        if self.needs[1]:
            grad_y = k.div_forward(k.mul_forward(grad, x), k.add_forward(y, self.shift) if self.shift else y)
        return self.give(grad_x, grad_y)

    def unused(self) -> Any:
        """Where x is 0 and the logarithm not finite: it would be the gradient of x."""
        return array((self.x == 0) & (self.y <= -self.shift), None, bool_)

    def backward_graph(self, grad: Tensor) -> Any:
        x, y = self.operand_graph(0, self.x), self.operand_graph(1, self.y)
        unused = Tensor._wrap(self.unused())
        return self.give_graph(
            lambda: _product_with_log(self.label, type(self), grad, y).masked_fill(unused, 0.0),
            lambda: grad * x / (y + self.shift),
        )


class XLog1PY(XLogY):
    kernel, shift = "xlog1py_forward", 1.0


def _product_with_log(op: str, kind: type[XLogY], input: Any, other: Any) -> Tensor:
    if isinstance(other, Tensor):
        if isinstance(input, Tensor):
            return kind.apply(input, other)  # type: ignore[no-any-return]
        return kind.apply(None, other, value=input)  # type: ignore[no-any-return]
    check_tensors(op, input=input)
    return kind.apply(input, None, value=other)  # type: ignore[no-any-return]


def xlogy(input: Any, other: Any) -> Tensor:
    """input * log(other), 0 where input is 0 and other not NaN. See ``torch.xlogy``."""
    return _product_with_log("xlogy", XLogY, input, other)


def xlog1py(input: Any, other: Any) -> Tensor:
    """input * log(1 + other), 0 where input is 0 and other not NaN. See ``torch.special.xlog1py``."""
    return _product_with_log("xlog1py", XLog1PY, input, other)


def entr(input: Tensor) -> Tensor:
    """-x log(x), 0 at 0, minus infinity below: what a probability adds to an entropy. See ``torch.special.entr``.

    Example:
        >>> import fastdl
        >>> fastdl.special.entr(fastdl.tensor([0.0, 1.0, -1.0])).tolist()
        [0.0, -0.0, -inf]
    """
    return special("entr", input, lambda x: sub(-1.0, log(x)))


class CopySign(Op):
    """|x| with the sign of y; the gradient of x changes sign where x does."""

    flat = MappingProxyType({0: (0, 1)})

    def forward(self, x: Any, y: Any) -> Any:
        self.likes = (x.shape, y.shape)
        result = select(x).copysign_forward(x, y)
        if self.needs[0]:  # the result has the sign of y
            self.x, self.y, self.saves, self.saves_output = x, result, (0,), True
        return result

    def backward(self, grad: Any) -> Any:
        k, of_x = select(grad), None
        if self.needs[0]:
            slope = k.mul_forward(k.sign_forward(self.x), k.copysign_forward(1.0, self.y))
            of_x = sum_to(k.mul_forward(grad, slope), self.likes[0])
        return of_x, zeros(self.likes[1], grad.dtype, grad) if self.needs[1] else None

    def backward_graph(self, grad: Tensor) -> Any:
        of_x = of_y = None
        if self.needs[0]:
            slope = Tensor._wrap(np.sign(self.x) * np.copysign(1, self.y))
            of_x = (grad * slope).sum_to_size(self.likes[0])
        if self.needs[1]:
            of_y = Tensor._wrap(zeros(self.likes[1], grad._data.dtype, grad._data))
        return of_x, of_y


def copysign(input: Tensor, other: Any) -> Tensor:
    """The size of ``input`` with the sign of ``other``, a tensor or a number. See ``torch.copysign``."""
    check_tensors("copysign", input=input)
    if not isinstance(other, Tensor):
        input = floating(input)
        other = Tensor._wrap(array(other, input._data, input._data.dtype))
    return CopySign.apply(*_same("copysign", input, other))  # type: ignore[no-any-return]


class Fmax(Binary):
    """The larger of both, the number where one is NaN; the first of equals has the gradient."""

    kernel, saves = "fmax_forward", (0, 1)
    ufunc: ClassVar[Any] = np.fmax

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        self.x, self.y, dtype = self.prepare(x, y, value)
        return self.compute(self.x, self.y, dtype, out)

    def first(self) -> Any:
        """Is it the first of both?"""
        k = select(self.x)
        ordered = k.ge_forward if self.kernel == "fmax_forward" else k.le_forward
        return ordered(self.x, self.y) | k.ne_forward(self.y, self.y)

    def backward(self, grad: Any) -> Any:
        where = select(grad).where_forward
        first = self.first()
        return self.give(where(first, grad, 0.0), where(first, 0.0, grad))

    def backward_graph(self, grad: Tensor) -> Any:
        first = self.first()
        return self.give_graph(
            grad.masked_fill(Tensor._wrap(~first), 0.0), grad.masked_fill(Tensor._wrap(first), 0.0)
        )


class Fmin(Fmax):
    kernel, ufunc = "fmin_forward", np.fmin


def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of both; of a number and NaN the number. See ``torch.fmax``."""
    check_tensors("fmax", input=input, other=other)
    if not (input.is_floating_point() or other.is_floating_point()):
        return maximum(input, other)
    return Fmax.apply(input, other)  # type: ignore[no-any-return]


def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of both; of a number and NaN the number. See ``torch.fmin``."""
    check_tensors("fmin", input=input, other=other)
    if not (input.is_floating_point() or other.is_floating_point()):
        return minimum(input, other)
    return Fmin.apply(input, other)  # type: ignore[no-any-return]


def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below zero (and for NaN), ``values`` at zero, 1 above. See ``torch.heaviside``."""
    check_tensors("heaviside", input=input, values=values)
    check_real("heaviside", input, values)
    if input._data.dtype != values._data.dtype:
        raise RuntimeError(
            f"heaviside: input and values must have one dtype, got {input.dtype} and {values.dtype}"
        )
    x = input._data
    if x.dtype.kind in FLOATING:
        return Tensor._wrap(select(x).heaviside_forward(x, values._data))
    if has_integer_kernels(x) and not on_device(values._data):
        k = select(x)
        return Tensor._wrap(k.where_forward(k.eq_forward(x, 0), values._data, k.clamp_forward(x, 0, 1)))
    return Tensor._wrap(array(np.where(x == 0, values._data, (x > 0).astype(x.dtype))))


def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent in float64, or complex128. See ``torch.float_power``."""
    kinds = [v.is_complex() if isinstance(v, Tensor) else v.__class__ is complex for v in (input, exponent)]
    wide, number = (complex128, complex) if True in kinds else (float64, float)
    base, power = [to(v, wide) if isinstance(v, Tensor) else number(v) for v in (input, exponent)]
    return pow(base, power)


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """input * 2^other. See ``torch.ldexp``."""
    if input._data.dtype.kind in FLOATING and other._data.dtype.kind not in DIFFERENTIABLE:
        other = to(other, input._data.dtype)
    return mul(input, pow(2.0, other))


class MantissaExponent(NamedTuple):
    """input = mantissa * 2^exponent."""

    mantissa: Tensor
    exponent: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def frexp(input: Tensor) -> MantissaExponent:
    """Mantissa in [0.5, 1) and exponent (int32) of every element. See ``torch.frexp``."""
    mantissa, exponent = np.frexp(_floating("frexp", input))
    places = Tensor._wrap(array(exponent, None, np.int32))
    if input._requires_grad and mode.enabled:
        scale = np.ldexp(input.dtype.type(1), -exponent)
        return MantissaExponent(mul(input, Tensor._wrap(array(scale))), places)
    return MantissaExponent(Tensor._wrap(array(mantissa)), places)


class NextAfter(Op):
    """The gradient passes to the first operand where the two differ; that of the other is 0."""

    def forward(self, x: Any, y: Any) -> Any:
        self.shapes_in = x.shape, y.shape
        if True in self.needs:
            self.moves = array(x != y, x)
        if x.dtype is float32 or x.dtype is float64:
            return select(x).nextafter_forward(x, y)
        return array(np.nextafter(x, y))

    def backward(self, grad: Any) -> Any:
        of_x, of_y = self.shapes_in
        found = select(grad).where_forward(self.moves, grad, 0.0)
        return sum_to(found, of_x), zeros(of_y, grad.dtype, grad)

    def backward_graph(self, grad: Tensor) -> Any:
        of_x, of_y = self.shapes_in
        found = where(Tensor._wrap(self.moves), grad, 0.0)
        return found.sum_to_size(of_x), Tensor._wrap(zeros(of_y, grad._data.dtype, grad._data))


def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next number after input in the direction of other. See ``torch.nextafter``."""
    check_tensors("nextafter", input=input, other=other)
    dtype = common_dtype(input._data, other._data)
    x, y = to(input, dtype), to(other, dtype)
    _floating("nextafter", x)
    return NextAfter.apply(x, y)  # type: ignore[no-any-return]


def _floating(op: str, input: Tensor) -> Any:
    check_tensors(op, input=input)
    if input._data.dtype.kind not in FLOATING:
        raise RuntimeError(f"{op}: defined for floating-point tensors, got {input.dtype}")
    return input._data


def gcd(input: Tensor, other: Tensor) -> Tensor:
    """The greatest common divisor of integers. See ``torch.gcd``."""
    return _integers("gcd", np.gcd, input, other)


def lcm(input: Tensor, other: Tensor) -> Tensor:
    """The least common multiple of integers. See ``torch.lcm``."""
    return _integers("lcm", np.lcm, input, other)


def _integers(op: str, ufunc: Any, input: Tensor, other: Tensor) -> Tensor:
    check_tensors(op, input=input, other=other)
    dtype = common_dtype(input._data, other._data)
    if dtype.kind not in "iu":
        raise RuntimeError(f"{op}: defined for integer tensors, got {input.dtype} and {other.dtype}")
    return Tensor._wrap(array(ufunc(cast(input._data, dtype), cast(other._data, dtype))))


def nan_to_num(
    input: Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """NaN replaced by ``nan`` (0), infinities by ``posinf`` and ``neginf`` (the largest and smallest number).

    See ``torch.nan_to_num``.
    """
    x = input._data
    if x.dtype.kind == "c":
        from fastdl.ops.complex import complex, imag, real

        if x.__class__ is np.ndarray and math.isfinite(_largest(x[..., None].view(real_dtype(x.dtype)))):
            result = input
        else:
            result = complex(*[nan_to_num(part(input), nan, posinf, neginf) for part in (real, imag)])
    elif x.dtype.kind not in FLOATING or (x.__class__ is np.ndarray and math.isfinite(_largest(x))):
        result = input  # the usual case
    else:
        limits = floating_info(x.dtype)
        result = where(isnan(input), 0.0 if nan is None else float(nan), input)
        result = where(isposinf(input), float(limits.max) if posinf is None else float(posinf), result)
        result = where(isneginf(input), float(limits.min) if neginf is None else float(neginf), result)
    if out is not None:
        return store("nan_to_num", constant(out), result)
    return result.clone() if result is input else result


def _largest(x: Any) -> Any:
    """max |x|: NaN or infinite if any element is."""
    if is_half(x.dtype) and not on_device(x):
        x = cast(x, float32)
    if x.size and (x.dtype is float32 or x.dtype is float64):
        return select(x).norm_forward(x, math.inf)
    return np.max(np.abs(x), initial=0)


def isreal(input: Tensor) -> Tensor:
    """True where the imaginary part is 0, and everywhere in real tensors. See ``torch.isreal``."""
    if input._data.dtype.kind == "c":
        return eq(input.imag, 0)
    return Tensor._wrap(full(input._data.shape, True, bool_, input._data))


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Which elements are among ``test_elements``. See ``torch.isin``."""
    like = next((v._data for v in (elements, test_elements) if isinstance(v, Tensor)), None)
    first, second = [v._data if isinstance(v, Tensor) else array(v, like) for v in (elements, test_elements)]
    keys = sortable(second) if first.dtype is second.dtype and second.size else None
    if keys is None or on_device(first):
        return Tensor._wrap(array(np.isin(orderable(first), orderable(second), assume_unique, invert)))
    k, dtype = select(keys), keys.dtype if keys.dtype.kind in FLOATING else int64
    known, wanted = cast(k.sort_forward(keys.reshape(-1), keys.size, False)[0], dtype), cast(first, dtype)
    places = k.searchsorted(known, wanted, False)
    np.minimum(places, known.size - 1, out=places)
    return Tensor._wrap((k.ne_forward if invert else k.eq_forward)(known[places], wanted))


__all__ = [
    "copysign",
    "deg2rad",
    "digamma",
    "erfc",
    "erfinv",
    "exp2",
    "float_power",
    "fmax",
    "fmin",
    "frexp",
    "gcd",
    "heaviside",
    "i0",
    "igamma",
    "igammac",
    "isin",
    "isreal",
    "lcm",
    "ldexp",
    "lgamma",
    "logaddexp",
    "logaddexp2",
    "logit",
    "mvlgamma",
    "nan_to_num",
    "nextafter",
    "polygamma",
    "rad2deg",
    "sinc",
    "xlogy",
]

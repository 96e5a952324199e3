"""Elementwise arithmetic with broadcasting: x and y are arrays of one float dtype, or one of them a Python
number.

``out=`` is an array to write into. Backward functions return gradients of the broadcast shape.
"""

from __future__ import annotations

from math import erf as _erf
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = [
    "abs_backward",
    "abs_forward",
    "acos_backward",
    "acos_forward",
    "acosh_backward",
    "acosh_forward",
    "add_forward",
    "addcdiv_forward",
    "addcmul_forward",
    "asin_backward",
    "asin_forward",
    "asinh_backward",
    "asinh_forward",
    "atan2_forward",
    "atan_backward",
    "atan_forward",
    "atanh_backward",
    "atanh_forward",
    "ceil_forward",
    "clamp_backward",
    "clamp_forward",
    "cos_backward",
    "cos_forward",
    "cosh_backward",
    "cosh_forward",
    "div_backward",
    "div_forward",
    "eq_forward",
    "erf_backward",
    "erf_forward",
    "exp_backward",
    "exp_forward",
    "expm1_backward",
    "expm1_forward",
    "floor_divide_forward",
    "floor_forward",
    "fmod_forward",
    "frac_forward",
    "ge_forward",
    "gt_forward",
    "hypot_forward",
    "le_forward",
    "lerp_forward",
    "log1p_backward",
    "log1p_forward",
    "log2_backward",
    "log2_forward",
    "log10_backward",
    "log10_forward",
    "log_backward",
    "log_forward",
    "lt_forward",
    "maximum_backward",
    "maximum_forward",
    "minimum_backward",
    "minimum_forward",
    "mul_backward",
    "mul_forward",
    "ne_forward",
    "neg_forward",
    "pow_forward",
    "pow_scalar_backward",
    "pow_scalar_forward",
    "reciprocal_backward",
    "reciprocal_forward",
    "remainder_forward",
    "round_forward",
    "rsqrt_backward",
    "rsqrt_forward",
    "sign_forward",
    "sin_backward",
    "sin_forward",
    "sinh_backward",
    "sinh_forward",
    "sqrt_backward",
    "sqrt_forward",
    "square_backward",
    "square_forward",
    "sub_forward",
    "tan_backward",
    "tan_forward",
    "trunc_forward",
    "where_backward",
    "where_forward",
]


def _store(result: Any, out: Array | None) -> Array:
    if out is None:
        return np.asarray(result)
    out[...] = result
    return out


def add_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.add(x, y), out)


def sub_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.subtract(x, y), out)


def mul_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.multiply(x, y), out)


def div_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.true_divide(x, y), out)


def fmod_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.fmod(x, y), out)


def pow_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.power(x, y), out)


def maximum_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.maximum(x, y), out)


def minimum_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.minimum(x, y), out)


def atan2_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.arctan2(x, y), out)


def hypot_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.hypot(x, y), out)


def floor_divide_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The largest integer not above x / y, exactly; x / y where y is 0 (of integers 0)."""
    if (x if isinstance(x, np.ndarray) else y).dtype.kind in "iu":
        with np.errstate(all="ignore"):
            return _store(np.floor_divide(x, y), out)
    remainder = np.fmod(x, y)
    quotient = (x - remainder) / y - ((remainder != 0) & (np.signbit(remainder) != np.signbit(y)))
    quotient = np.where(quotient == 0, np.copysign(0, np.true_divide(x, y)), np.rint(quotient))
    return _store(np.where(np.equal(y, 0), np.true_divide(x, y), quotient).astype(remainder.dtype), out)


def remainder_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x - y floor(x / y): the sign of y."""
    remainder = np.fmod(x, y)
    wrong = (remainder != 0) & (np.less(y, 0) != (remainder < 0))
    return _store(np.where(wrong, remainder + y, remainder).astype(remainder.dtype), out)


def eq_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.equal(x, y), out)


def ne_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.not_equal(x, y), out)


def lt_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.less(x, y), out)


def le_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.less_equal(x, y), out)


def gt_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.greater(x, y), out)


def ge_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    return _store(np.greater_equal(x, y), out)


def neg_forward(x: Array, out: Array | None = None) -> Any:
    return _store(-x, out)


def abs_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.abs(x), out)


def sign_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.where(np.isnan(x), 0, np.sign(x)).astype(x.dtype) + x.dtype.type(0), out)


def floor_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.floor(x), out)


def ceil_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.ceil(x), out)


def round_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.rint(x), out)


def trunc_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.trunc(x), out)


def frac_forward(x: Array, out: Array | None = None) -> Any:
    """What trunc leaves."""
    with np.errstate(invalid="ignore"):  # infinities
        return _store(x - np.trunc(x), out)


def square_forward(x: Array, out: Array | None = None) -> Any:
    return _store(x * x, out)


def sqrt_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.sqrt(x), out)


def rsqrt_forward(x: Array, out: Array | None = None) -> Any:
    return _store(1 / np.sqrt(x), out)


def reciprocal_forward(x: Array, out: Array | None = None) -> Any:
    return _store(1 / x, out)


def exp_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.exp(x), out)


def expm1_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.expm1(x), out)


def log_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.log(x), out)


def log1p_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.log1p(x), out)


def log2_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.log2(x), out)


def log10_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.log10(x), out)


def sin_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.sin(x), out)


def cos_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.cos(x), out)


def tan_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.tan(x), out)


def asin_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.arcsin(x), out)


def acos_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.arccos(x), out)


def atan_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.arctan(x), out)


def sinh_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.sinh(x), out)


def cosh_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.cosh(x), out)


def asinh_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.arcsinh(x), out)


def acosh_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.arccosh(x), out)


def atanh_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.arctanh(x), out)


def erf_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.vectorize(_erf, otypes=[x.dtype])(x), out)


def abs_backward(grad_y: Array, x: Array) -> Any:
    return grad_y * np.where(x > 0, 1, np.where(x < 0, -1, 0)).astype(x.dtype)


def square_backward(grad_y: Array, x: Array) -> Any:
    return grad_y * (2 * x)


def sqrt_backward(grad_y: Array, y: Array) -> Any:
    return grad_y / (2 * y)


def rsqrt_backward(grad_y: Array, y: Array) -> Any:
    return -0.5 * grad_y * y**3


def reciprocal_backward(grad_y: Array, y: Array) -> Any:
    return -grad_y * (y * y)


def exp_backward(grad_y: Array, y: Array) -> Any:
    return grad_y * y


def expm1_backward(grad_y: Array, y: Array) -> Any:
    return grad_y * (y + 1)


def log_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / x


def log1p_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / (x + 1)


def log2_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / (x * x.dtype.type(np.log(2.0)))


def log10_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / (x * x.dtype.type(np.log(10.0)))


def sin_backward(grad_y: Array, x: Array) -> Any:
    return grad_y * np.cos(x)


def cos_backward(grad_y: Array, x: Array) -> Any:
    return -grad_y * np.sin(x)


def tan_backward(grad_y: Array, y: Array) -> Any:
    return grad_y * (1 + y * y)


def asin_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / np.sqrt(1 - x * x)


def acos_backward(grad_y: Array, x: Array) -> Any:
    return -grad_y / np.sqrt(1 - x * x)


def atan_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / (1 + x * x)


def sinh_backward(grad_y: Array, x: Array) -> Any:
    return grad_y * np.cosh(x)


def cosh_backward(grad_y: Array, x: Array) -> Any:
    return grad_y * np.sinh(x)


def asinh_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / np.sqrt(x * x + 1)


def acosh_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / np.sqrt(x * x - 1)


def atanh_backward(grad_y: Array, x: Array) -> Any:
    return grad_y / (1 - x * x)


def erf_backward(grad_y: Array, x: Array) -> Any:
    return grad_y * (x.dtype.type(2 / np.sqrt(np.pi)) * np.exp(-x * x))


def mul_backward(grad: Array, x: Any, y: Any) -> Any:
    """grad_x and grad_y of x * y."""
    return grad * y, grad * x


def div_backward(grad: Array, x: Any, y: Any) -> Any:
    """grad_x and grad_y of x / y."""
    return grad / y, -(grad / y) * (x / y)


def maximum_backward(grad: Array, x: Any, y: Any) -> Any:
    """To the larger one; a tie shares it; NaN on either side: to both."""
    shared = np.where(np.equal(x, y), grad / 2, grad)
    return np.where(np.less(x, y), 0, shared).astype(grad.dtype), np.where(
        np.greater(x, y), 0, shared
    ).astype(grad.dtype)


def minimum_backward(grad: Array, x: Any, y: Any) -> Any:
    """As maximum_backward, for the smaller one."""
    return maximum_backward(grad, np.negative(x), np.negative(y))


def pow_scalar_forward(x: Array, exponent: float, out: Array | None = None) -> Any:
    return _store(np.power(x, x.dtype.type(exponent)), out)


def pow_scalar_backward(grad_y: Array, x: Array, exponent: float) -> Any:
    if exponent == 0:
        return np.zeros_like(grad_y * x)
    return grad_y * (x.dtype.type(exponent) * np.power(x, x.dtype.type(exponent - 1)))


def clamp_forward(x: Array, lower: float, upper: float, out: Array | None = None) -> Any:
    """min(max(x, lower), upper); NaN stays NaN."""
    return _store(np.minimum(np.maximum(x, lower), upper).astype(x.dtype), out)


def clamp_backward(grad_y: Array, x: Array, lower: float, upper: float) -> Any:
    return np.where((x >= lower) & (x <= upper), grad_y, 0).astype(x.dtype)


def where_forward(condition: Array, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    dtype = x.dtype if isinstance(x, np.ndarray) else y.dtype
    return np.where(condition, x, y).astype(dtype)


def where_backward(grad: Array, condition: Array) -> Any:
    """grad_x and grad_y."""
    return np.where(condition, grad, 0).astype(grad.dtype), np.where(condition, 0, grad).astype(grad.dtype)


def addcmul_forward(x: Any, y: Any, z: Any, value: float, out: Array | None = None) -> Any:
    """x + value y z."""
    return _store(x + value * y * z, out)


def addcdiv_forward(x: Any, y: Any, z: Any, value: float, out: Array | None = None) -> Any:
    """x + value y / z."""
    return _store(x + value * y / z, out)


def lerp_forward(x: Any, y: Any, z: Any, out: Array | None = None) -> Any:
    """x + z (y - x), exactly y for z = 1."""
    return _store(np.where(np.abs(z) < 0.5, x + z * (y - x), y - (y - x) * (1 - z)), out)

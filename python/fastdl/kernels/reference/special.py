"""Special functions of float arrays, computed in double: series and known functions, slow and plain. Beside them the
elementwise arithmetic that has no kernel for a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.kernels.reference.elementwise import _store

Array = np.ndarray[Any, Any]

__all__ = [
    "bitwise_and_forward",
    "bitwise_or_forward",
    "bitwise_xor_forward",
    "copysign_forward",
    "digamma_forward",
    "entr_forward",
    "erfc_forward",
    "erfcx_forward",
    "erfinv_forward",
    "exp2_backward",
    "exp2_forward",
    "fmax_forward",
    "fmin_forward",
    "heaviside_forward",
    "i0_forward",
    "i0e_forward",
    "i1_forward",
    "i1e_forward",
    "left_shift_forward",
    "lgamma_forward",
    "log_ndtr_forward",
    "logaddexp_backward",
    "logaddexp_forward",
    "logit_forward",
    "ndtr_forward",
    "ndtri_forward",
    "nextafter_forward",
    "right_shift_forward",
    "sinc_forward",
    "trigamma_forward",
    "trunc_divide_forward",
    "xlog1py_forward",
    "xlogy_forward",
]

_ROOT_PI = math.sqrt(math.pi)


def _compute(function: Callable[[Array], Any], x: Array, out: Array | None) -> Array:
    with np.errstate(all="ignore"):
        result = np.asarray(function(x.astype(np.float64)), x.dtype).reshape(x.shape)
    if out is None:
        return result
    out[...] = result
    return out


def _by_element(function: Callable[[float], float], x: Array) -> Array:
    return np.fromiter(map(function, x.reshape(-1).tolist()), np.float64, x.size).reshape(x.shape)


def lgamma_forward(x: Array, out: Array | None = None) -> Array:
    """log |gamma(x)|; infinite at the poles 0, -1, -2, ..."""

    def of(v: float) -> float:
        return math.inf if v == -math.inf or (v <= 0 and v == math.floor(v)) else math.lgamma(v)

    return _compute(lambda x: _by_element(of, x), x, out)


def digamma_forward(x: Array, out: Array | None = None) -> Array:
    """The derivative of lgamma: -inf at 0 (inf at -0), NaN at the other poles."""
    return _compute(_digamma, x, out)


def trigamma_forward(x: Array, out: Array | None = None) -> Array:
    """The derivative of digamma: infinite at the poles."""
    return _compute(_trigamma, x, out)


def erfc_forward(x: Array, out: Array | None = None) -> Array:
    """1 - erf(x), also where erf is close to 1."""
    return _compute(_erfc, x, out)


def erfcx_forward(x: Array, out: Array | None = None) -> Array:
    """exp(x^2) erfc(x), which does not vanish for large x."""
    return _compute(_erfcx, x, out)


def erfinv_forward(x: Array, out: Array | None = None) -> Array:
    """The y whose erf is x; infinite at -1 and 1, NaN beyond."""
    return _compute(_erfinv, x, out)


def ndtr_forward(x: Array, out: Array | None = None) -> Array:
    """The normal distribution's cumulative probability, erfc(-x / sqrt(2)) / 2."""
    return _compute(lambda x: _erfc(-x * math.sqrt(0.5)) / 2, x, out)


def entr_forward(x: Array, out: Array | None = None) -> Array:
    """-x log(x), 0 at 0, minus infinity below."""
    return _compute(lambda x: np.where(x < 0, -math.inf, np.where(x == 0, 0, -x * np.log(x))), x, out)


def logit_forward(x: Array, out: Array | None = None) -> Array:
    """log(x / (1 - x)), NaN outside of [0, 1]; around 1/2 by 2 x - 1, which is exact there."""
    return _compute(
        lambda x: np.where(abs(x - 0.5) < 0.25, np.log1p((2 * x - 1) / (1 - x)), np.log(x / (1 - x))), x, out
    )


def sinc_forward(x: Array, out: Array | None = None) -> Array:
    """sin(pi x) / (pi x), 1 at 0."""
    return _compute(np.sinc, x, out)


def log_ndtr_forward(x: Array, out: Array | None = None) -> Array:
    """log(ndtr(x)), also where that is too small for a number."""
    return _compute(_log_ndtr, x, out)


def ndtri_forward(x: Array, out: Array | None = None) -> Array:
    """The y whose ndtr is x; infinite at 0 and 1, NaN beyond."""
    return _compute(_ndtri, x, out)


def i0_forward(x: Array, out: Array | None = None) -> Array:
    """The modified Bessel function of the first kind, of order 0."""
    return _compute(lambda x: _bessel(x, 0) * np.exp(np.abs(x)), x, out)


def i0e_forward(x: Array, out: Array | None = None) -> Array:
    """exp(-|x|) i0(x)."""
    return _compute(lambda x: _bessel(x, 0), x, out)


def i1_forward(x: Array, out: Array | None = None) -> Array:
    """The modified Bessel function of the first kind, of order 1."""
    return _compute(lambda x: _bessel(x, 1) * np.exp(np.abs(x)), x, out)


def i1e_forward(x: Array, out: Array | None = None) -> Array:
    """exp(-|x|) i1(x)."""
    return _compute(lambda x: _bessel(x, 1), x, out)


def logaddexp_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """log(exp(x) + exp(y)) without overflow."""
    return _store(np.logaddexp(x, y), out)


def logaddexp_backward(grad: Array, x: Any, y: Any) -> Any:
    """grad_x and grad_y: the shares of both in the sum, halves where they are equal."""
    with np.errstate(all="ignore"):
        share = np.where(np.equal(x, y), 0.5, 1 / (1 + np.exp(np.subtract(y, x)))).astype(grad.dtype)
    return grad * share, grad - grad * share


def copysign_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """|x| with the sign of y."""
    return _store(np.copysign(x, y), out)


def nextafter_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The next number after x in the direction of y."""
    return _store(np.nextafter(x, y), out)


def fmax_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The larger; of a number and NaN the number."""
    return _store(np.fmax(x, y), out)


def fmin_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The smaller; of a number and NaN the number."""
    return _store(np.fmin(x, y), out)


def _product_with(function: Callable[[Any], Any], x: Any, y: Any, out: Array | None) -> Any:
    with np.errstate(all="ignore"):
        product = np.where(np.equal(x, 0), np.multiply(x, 0), x * function(y))
    return _store(np.where(np.isnan(y), y, product).astype(product.dtype), out)


def xlogy_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x log(y); 0 where x is 0 and y not NaN."""
    return _product_with(np.log, x, y, out)


def xlog1py_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x log(1 + y); 0 where x is 0 and y not NaN."""
    return _product_with(np.log1p, x, y, out)


def heaviside_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """0 where x is below zero or NaN, y where it is zero, 1 above."""
    return _store(np.where(np.equal(x, 0), y, np.greater(x, 0)).astype(np.result_type(x, y)), out)


def exp2_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.exp2(x), out)


def exp2_backward(grad_y: Array, y: Array) -> Any:
    return grad_y * (y.dtype.type(np.log(2.0)) * y)


def trunc_divide_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x / y towards zero; of integers by zero 0."""
    if (x if isinstance(x, np.ndarray) else y).dtype.kind in "iu":
        with np.errstate(all="ignore"):
            quotient = np.floor_divide(x, y)
            rounded = ((np.less(x, 0)) != (np.less(y, 0))) & (np.fmod(x, y) != 0)
            return _store((quotient + rounded).astype(quotient.dtype), out)
    return _store(np.trunc(np.true_divide(x, y)), out)


def left_shift_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x 2^y of integers, modulo 2^bits; 0 where y is negative or no bit would stay."""
    return _store(np.left_shift(x, y), out)


def right_shift_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x / 2^y of integers, rounded down; 0 or -1 where y is negative or no bit would stay."""
    return _store(np.right_shift(x, y), out)


def bitwise_and_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """Bits set in both, of bools or int64."""
    return _store(np.bitwise_and(x, y), out)


def bitwise_or_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """Bits set in either."""
    return _store(np.bitwise_or(x, y), out)


def bitwise_xor_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """Bits set in exactly one."""
    return _store(np.bitwise_xor(x, y), out)


# --------------------------------------------------------------------------------- double precision, on arrays


def _digamma(x: Array) -> Array:
    """Reflected to x > 0, moved up to x >= 10 by digamma(x) = digamma(x + 1) - 1 / x, then the asymptotic series."""
    pole = (x <= 0) & (x == np.floor(x))
    low = x < 0.5
    y = np.where(low, 1 - x, x)
    result = np.zeros_like(y)
    for _ in range(10):
        small = y < 10
        result = np.where(small, result - 1 / y, result)
        y = np.where(small, y + 1, y)
    z = 1 / (y * y)
    series = z * (
        1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * (691 / 32760 - z / 12)))))
    )
    result = result + np.log(y) - 0.5 / y - series
    result = np.where(low, result - np.pi / np.tan(np.pi * x), result)
    return np.where(pole, np.where(x == 0, np.copysign(np.inf, -x), np.nan), result)


def _trigamma(x: Array) -> Array:
    """As _digamma: trigamma(x) = trigamma(x + 1) + 1 / x^2; for low x (pi / sin(pi x))^2 - trigamma(1 - x)."""
    low = x < 0.5
    y = np.where(low, 1 - x, x)
    result = np.zeros_like(y)
    for _ in range(10):
        small = y < 10
        result = np.where(small, result + 1 / (y * y), result)
        y = np.where(small, y + 1, y)
    z = 1 / (y * y)
    series = z * (
        1 / 6 - z * (1 / 30 - z * (1 / 42 - z * (1 / 30 - z * (5 / 66 - z * (691 / 2730 - z * 7 / 6)))))
    )
    result = result + (1 + 0.5 / y + series) / y
    return np.where(low, (np.pi / np.sin(np.pi * x)) ** 2 - result, result)


def _erfc(x: Array) -> Array:
    return _by_element(math.erfc, x)


def _erfcx(x: Array) -> Array:
    """The product as it stands below 2; beyond it the continued fraction 1 / (x + (1/2) / (x + (2/2) / (x + ...)))."""
    near = np.minimum(x, 2.0)
    product = np.exp(near * near) * _erfc(near)
    far = np.maximum(x, 2.0)
    fraction = far
    for k in range(100, 0, -1):
        fraction = far + 0.5 * k / fraction
    return np.where(x < 2.0, product, 1 / (_ROOT_PI * fraction))


def _erfinv(x: Array) -> Array:
    """Newton's steps on erf from x; on the tail's logarithm where erf is close to 1."""
    near = np.where(np.abs(x) < 0.5, x, 0.0)
    y = near
    for _ in range(6):
        y = y - (_by_element(math.erf, y) - near) / (2 / _ROOT_PI * np.exp(-y * y))
    far = np.copysign(_ndtri((1 - np.abs(x)) / 2) * math.sqrt(0.5), x)
    return np.where(np.abs(x) < 0.5, y, far)


def _log_ndtr(x: Array) -> Array:
    below = np.log(_erfcx(-np.minimum(x, -1.0) * math.sqrt(0.5)) / 2) - np.minimum(x, -1.0) ** 2 / 2
    above = np.log1p(-0.5 * _erfc(np.maximum(x, -1.0) * math.sqrt(0.5)))
    return np.where(x < -1.0, below, above)


def _ndtri(p: Array) -> Array:
    """Newton's steps on the logarithm of the smaller tail, which is concave: no overshoot."""
    tail = np.clip(np.where(p < 0.5, p, 1 - p), 5e-324, 0.5)
    wanted = np.log(tail)
    x = -np.sqrt(-2 * wanted)
    for _ in range(8):
        x = x - (_log_ndtr(x) - wanted) * _erfcx(-x * math.sqrt(0.5)) * math.sqrt(math.pi / 2)
    x = np.where(p < 0.5, x, -x)
    return np.where((p > 0) & (p < 1), x, np.where(p == 0, -np.inf, np.where(p == 1, np.inf, np.nan)))


def _bessel(x: Array, order: int) -> Array:
    """exp(-|x|) times the power series sum of (x / 2)^(2k + v) / (k! (k + v)!), whose terms are all positive, up to
    |x| = 20; beyond it the asymptotic one, 1 - (m - 1) / (8x) + (m - 1) (m - 9) / (2! (8x)^2) - ... over sqrt(2 pi x)
    with m = 4 v^2."""
    size = np.abs(x)
    near = np.minimum(size, 20.0)
    term = total = (near / 2) ** order
    for k in range(1, 60):
        term = term * (near * near / 4) / (k * (k + order))
        total = total + term
    far = np.maximum(size, 20.0)
    term = series = np.ones_like(far)
    for k in range(1, 30):
        term = term * -((4 * order - (2 * k - 1) ** 2) / (8 * k * far))
        series = series + term
    result = np.where(size <= 20.0, total * np.exp(-near), series / np.sqrt(2 * math.pi * far))
    return np.where(np.signbit(x), -result, result) if order else result

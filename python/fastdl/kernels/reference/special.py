"""Special functions of float arrays, computed in double: series and known functions, slow and plain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.kernels.reference.elementwise import _store

Array = np.ndarray[Any, Any]

__all__ = [
    "digamma_forward",
    "entr_forward",
    "erfc_forward",
    "erfcx_forward",
    "erfinv_forward",
    "i0_forward",
    "i0e_forward",
    "i1_forward",
    "i1e_forward",
    "igamma_forward",
    "igammac_forward",
    "lgamma_forward",
    "log_ndtr_forward",
    "logit_backward",
    "logit_forward",
    "ndtr_forward",
    "ndtri_forward",
    "sinc_forward",
    "trigamma_forward",
    "xlog1py_forward",
    "xlogy_forward",
    "zeta_forward",
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


def logit_backward(grad_y: Array, x: Array) -> Array:
    """grad_y / (x (1 - x)), NaN outside of [0, 1]."""
    with np.errstate(all="ignore"):
        return np.where((x >= 0) & (x <= 1), grad_y / (x * (1 - x)), np.nan).astype(x.dtype)


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


def _compute_pair(function: Callable[[Array, Array], Any], x: Any, y: Any) -> Array:
    dtype = (x if isinstance(x, np.ndarray) else y).dtype
    wide = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    with np.errstate(all="ignore"):
        return np.asarray(function(*wide), dtype).reshape(wide[0].shape)


def igamma_forward(x: Any, y: Any) -> Array:
    """The regularised lower incomplete gamma function P(x, y)."""
    return _compute_pair(lambda a, x: _regularised(a, x, lgamma_forward(a), False), x, y)


def igammac_forward(x: Any, y: Any) -> Array:
    """The upper one, 1 - P(x, y)."""
    return _compute_pair(lambda a, x: _regularised(a, x, lgamma_forward(a), True), x, y)


def zeta_forward(x: Any, y: Any) -> Array:
    """Hurwitz' zeta function, the sum over k >= 0 of (k + y)^-x."""
    return _compute_pair(_zeta, x, y)


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


# B_2, B_4, ... of Bernoulli's numbers.
_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)


def _zeta(s: Any, q: Any) -> Any:
    """Terms one by one until k + q >= 24, then Euler and Maclaurin's formula for the rest.

    Infinite at s = 1 and the poles q = 0, -1, ...; NaN for s < 1, and for other q < 0 unless s is an integer.
    """
    s, q = np.broadcast_arrays(s, q)
    total, y = np.zeros(q.shape), q.astype(np.float64)
    while np.any(small := y < 24):
        total = np.where(small, total + y**-s, total)
        y = np.where(small, y + 1, y)
    result = total + y ** (1 - s) / (s - 1) + 0.5 * y**-s
    factor = s * y ** (-s - 1) / 2  # s (s + 1) ... (s + 2j - 2) y^(-s - 2j + 1) / (2j)!
    for j, bernoulli in enumerate(_BERNOULLI, 1):
        result = result + bernoulli * factor
        factor = factor * (s + 2 * j - 1) * (s + 2 * j) / ((2 * j + 1) * (2 * j + 2) * y * y)
    result = np.where((q <= 0) & (s != np.floor(s)), np.nan, result)
    result = np.where((q <= 0) & (q == np.floor(q)), np.inf, result)
    return np.where(s > 1, result, np.where(s == 1, np.inf, np.nan))


# From here on the integral has all digits with _NODES nodes; series and fraction take about 6 sqrt(a) steps.
_LARGE = 30.0
_NODES = 40


def _upper_of_small(a: Any, x: Any) -> Any:
    """Q(a, x) for a < 0.1, x < a + 1: -expm1(t) - e^t a s, where 1 - P would cancel.

    t = log(x^a / gamma(1 + a)), s the sum over n > 0 of (-x)^n / (n! (a + n)).
    """
    power, total = 1.0, 0.0
    for n in range(1, 19):
        power = power * -x / n
        total = total + power / (a + n)
    series = 0.0  # of -log(gamma(1 + a)) / a: Euler's constant, then zeta(k) / k with signs in turn
    for k in range(15, 1, -1):
        series = (-1) ** (k - 1) * _zeta(np.array([float(k)]), np.array([1.0])) / k + a * series
    t = a * (np.log(x) + np.euler_gamma + a * series)
    return -np.expm1(t) - np.exp(t) * (a * total)


def _regularised(a: Any, x: Any, gammas: Any, upper: bool) -> Any:
    """P(a, x), or Q = 1 - P: P's power series for x < a + 1, Q's continued fraction (Lentz) beyond.

    W. Gautschi, "A computational procedure for incomplete gamma functions" (1979). Large a are integrated.
    """
    large = (a >= _LARGE) & (x > 0) & np.isfinite(a) & np.isfinite(x)
    if large.any():
        result = np.empty(a.shape)
        result[large] = _integrated(a[large], x[large], upper)
        result[~large] = _regularised(a[~large], x[~large], gammas[~large], upper)
        return result
    valid = (a >= 0) & (x >= 0)
    a, x = np.where(valid, a, 1.0), np.where(valid, x, 1.0)
    front = np.exp(a * np.log(x) - x - gammas)
    low = x < a + 1
    inside = np.where(low & (x > 0), x, 0.0)
    term = total = np.where(a > 0, 1 / a, 0.0)
    n = np.array(a)
    while np.any(np.abs(term) > 1e-17 * np.abs(total)):
        n = n + 1
        term = term * inside / n
        total = total + term
    p = front * total
    z = np.where(low | ~np.isfinite(x), a + 2, x)
    b = z + 1 - a
    c, d = np.full(b.shape, 1e300), 1 / b
    fraction, k = d, 0
    while True:
        k += 1
        step = k * (a - k)
        b = b + 2
        d = 1 / (step * d + b)
        c = b + step / c
        fraction = fraction * d * c
        if not np.any(np.abs(d * c - 1) > 1e-15) or k > 10000:
            break
    q = front * fraction
    result = np.where(low, 1 - p, q) if upper else np.where(low, p, 1 - q)
    if upper:
        result = np.where(low & (a < 0.1) & (x > 0), _upper_of_small(a, x), result)
    bottom, top = (1.0, 0.0) if upper else (0.0, 1.0)
    result = np.where(x == 0, np.where(a == 0, np.nan, bottom), result)
    result = np.where((a == 0) & (x > 0), top, np.where(np.isposinf(x), top, result))
    result = np.where(np.isposinf(a), np.where(np.isposinf(x), np.nan, bottom), result)
    return np.where(valid, result, np.nan)


def _integrated(a: Any, x: Any, upper: bool) -> Any:
    """P(a, x) or 1 - P for large a, the smaller of them by Gauss and Legendre's rule.

    With t = a (1 + u), t^(a-1) e^-t / gamma(a) dt = sqrt(a / 2 pi) / g(a) e^(a (log(1+u) - u)) / (1+u) du, where
    log g is Stirling's series. From u = x / a - 1 outward, until the integrand has fallen by e^-40.
    """
    start = (x - a) / a
    outward = np.where(start >= 0, 1.0, -1.0)
    # a (log(1+u) - u) has the slope -a u / (1+u) and the curvature -a / (1+u)^2, least where u is greatest.
    slope = a * np.abs(start) / (1 + start)
    curvature = a / (1 + start + np.where(start >= 0, 1.5 * np.sqrt(80 / a), 0.0)) ** 2
    width = 80 / (slope + np.sqrt(slope * slope + 80 * curvature))
    width = np.where(start >= 0, width, np.minimum(width, 1 + start))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    total = np.zeros(a.shape)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        u = start + outward * width * node
        total += weight * np.exp(a * (np.log1p(u) - u)) / (1 + u)
    r = 1 / (a * a)
    stirling = (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680 - r / 1188)))) / a
    tail = np.minimum(width * total * np.sqrt(a / (2 * np.pi)) * np.exp(-stirling), 1.0)
    return np.where((start >= 0) == upper, tail, 1 - tail)

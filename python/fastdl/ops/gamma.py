"""The gamma function's relatives: its logarithm and that one's derivatives, incomplete integrals, zeta."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.dtypes import float64
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.activation import floating
from fastdl.ops.arithmetic import add, mul
from fastdl.ops.cast import to
from fastdl.ops.common import check_tensors
from fastdl.ops.evaluated import evaluated, special
from fastdl.ops.host import on_host
from fastdl.ops.promotion import common_dtype
from fastdl.ops.views import broadcast_tensors
from fastdl.tensor import Tensor


def lgamma(input: Tensor) -> Tensor:
    """The logarithm of the absolute value of the gamma function. See ``torch.lgamma``."""
    return special("lgamma", input, digamma)


def digamma(input: Tensor) -> Tensor:
    """The derivative of :func:`lgamma`. See ``torch.digamma``."""
    return special("digamma", input, lambda x: polygamma(1, x))


def polygamma(n: int, input: Tensor) -> Tensor:
    """The n-th derivative of :func:`digamma`. See ``torch.polygamma``.

    Example:
        >>> import fastdl
        >>> round(fastdl.polygamma(1, fastdl.tensor(1.0)).item(), 4)  # pi^2 / 6
        1.6449
    """
    check_tensors("polygamma", input=input)
    if n < 0:
        raise ArgumentError(f"polygamma: n must not be negative, got {n}")
    if n == 0:
        return digamma(input)
    if n == 1:
        return special("trigamma", input, lambda x: polygamma(2, x))
    return _higher_polygamma(n, floating(input))


@on_host
def _higher_polygamma(n: int, input: Tensor) -> Tensor:
    factor = math.factorial(n) * (-1) ** (n + 1)
    return evaluated(lambda x: factor * _zeta(np.float64(n + 1), x), input, lambda x: polygamma(n + 1, x))


def polygamma_method(input: Tensor, n: int) -> Tensor:
    """The n-th derivative of :func:`digamma`. See ``torch.Tensor.polygamma``."""
    return polygamma(n, input)


def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension ``p``, for input > (p - 1) / 2.

    log(C) + sum over j < p of lgamma(x - j / 2) with log(C) = p (p - 1) / 4 log(pi). See ``torch.mvlgamma``.
    """
    check_tensors("mvlgamma", input=input)
    if p < 1:
        raise ArgumentError(f"mvlgamma: p must be at least 1, got {p}")
    x = floating(input)
    result = lgamma(x)
    for j in range(1, p):
        result = add(result, lgamma(add(x, -j / 2)))
    return add(result, p * (p - 1) / 4 * math.log(math.pi))


@on_host
def zeta(input: Any, other: Any) -> Tensor:
    """Hurwitz' zeta function: the sum over k >= 0 of (k + other)^-input. See ``torch.special.zeta``.

    Differentiable by ``other`` alone, as in PyTorch.

    Example:
        >>> import fastdl
        >>> round(fastdl.special.zeta(fastdl.tensor(2.0), 1.0).item(), 4)
        1.6449
    """
    s, q = _pair("zeta", input, other)
    exponent = s.detach()
    values = exponent._data.astype(float64)
    return evaluated(
        lambda x: _zeta(values, x), q, lambda x: mul(mul(exponent, -1.0), zeta(exponent + 1.0, x))
    )


@on_host
def igamma(input: Tensor, other: Tensor) -> Tensor:
    """The regularised lower incomplete gamma function P(a, x): the integral of t^(a-1) e^-t from 0 to x, over gamma(a).

    ``input`` is a, ``other`` x. Differentiable by x alone, as in PyTorch. See ``torch.igamma``.

    Example:
        >>> import fastdl
        >>> round(fastdl.igamma(fastdl.tensor(1.0), fastdl.tensor(2.0)).item(), 4)  # 1 - exp(-2)
        0.8647
    """
    return _incomplete("igamma", input, other, False)


@on_host
def igammac(input: Tensor, other: Tensor) -> Tensor:
    """1 - :func:`igamma`, also where that is close to 1. See ``torch.igammac``."""
    return _incomplete("igammac", input, other, True)


def _pair(op: str, first: Any, second: Any) -> tuple[Tensor, Tensor]:
    """Two operands, one a tensor, in a common floating dtype and shape."""
    if not isinstance(first, Tensor):
        check_tensors(op, other=second)
        first = Tensor._wrap(np.asarray(first, floating(second)._data.dtype))
    if not isinstance(second, Tensor):
        second = Tensor._wrap(np.asarray(second, floating(first)._data.dtype))
    dtype = floating(Tensor._wrap(np.empty(0, common_dtype(first._data, second._data))))._data.dtype
    a, b = broadcast_tensors(to(first, dtype), to(second, dtype))
    return a, b


def _incomplete(op: str, input: Tensor, other: Tensor, upper: bool) -> Tensor:
    check_tensors(op, input=input, other=other)
    if input.requires_grad:
        raise NotImplementedError(
            f"{op}: is not differentiable by its first argument, a (nor in PyTorch); detach() it"
        )
    a, x = _pair(op, input, other)
    shape = a._data.astype(float64)
    gammas = select(shape).lgamma_forward(shape)
    sign = -1.0 if upper else 1.0

    def slope(x: Tensor) -> Tensor:
        density = add(mul(add(a, -1.0), x.log()), mul(add(x, Tensor._wrap(gammas).to(x.dtype)), -1.0))
        return mul(density.exp(), sign)

    return evaluated(lambda x: _regularised(shape, x, gammas, upper), x, slope)


# --------------------------------------------------------------------------------- double precision, on arrays


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
    total, y = np.zeros(q.shape), q.astype(float64)
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

"""The gamma function's relatives: its logarithm and that one's derivatives, incomplete integrals, zeta."""

from __future__ import annotations

import math
from typing import Any

from fastdl.devices import device_of
from fastdl.dtypes import CPU
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.arithmetic import add, mul, sub
from fastdl.ops.arrays import full
from fastdl.ops.cast import to
from fastdl.ops.common import check_tensors, floating
from fastdl.ops.evaluated import evaluated, of_second, special
from fastdl.ops.promotion import common_dtype, floating_dtype
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
    factor = float(math.factorial(n) * (-1) ** (n + 1))

    def value(x: Any) -> Any:
        k = select(x)
        return k.mul_forward(k.zeta_forward(float(n + 1), x), factor)

    return evaluated(value, floating(input), lambda x: polygamma(n + 1, x))


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
    x = floating(input).contiguous()
    result = lgamma(x)
    for j in range(1, p):
        result = add(result, lgamma(add(x, -j / 2)))
    return add(result, p * (p - 1) / 4 * math.log(math.pi))


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
    return of_second("zeta", exponent, q, lambda x: mul(mul(exponent, -1.0), zeta(exponent + 1.0, x)))


def igamma(input: Tensor, other: Tensor) -> Tensor:
    """The regularised lower incomplete gamma function P(a, x): the integral of t^(a-1) e^-t from 0 to x, over gamma(a).

    ``input`` is a, ``other`` x. Differentiable by x alone, as in PyTorch. See ``torch.igamma``.

    Example:
        >>> import fastdl
        >>> round(fastdl.igamma(fastdl.tensor(1.0), fastdl.tensor(2.0)).item(), 4)  # 1 - exp(-2)
        0.8647
    """
    return _incomplete("igamma", input, other, False)


def igammac(input: Tensor, other: Tensor) -> Tensor:
    """1 - :func:`igamma`, also where that is close to 1. See ``torch.igammac``."""
    return _incomplete("igammac", input, other, True)


def _pair(op: str, first: Any, second: Any) -> tuple[Tensor, Tensor]:
    """Two operands, one a tensor, in a common floating dtype and shape, and on one device."""
    if not isinstance(first, Tensor):
        check_tensors(op, other=second)
        first = _beside(second, first)
    if not isinstance(second, Tensor):
        second = _beside(first, second)
    dtype = floating_dtype(common_dtype(first._data, second._data))
    pair = [to(first, dtype), to(second, dtype)]
    devices = {device_of(t._data) for t in pair} - {CPU}
    if devices:  # numbers may come from the CPU
        pair = [to(t, *devices) if t._data.ndim == 0 else t for t in pair]
        if device_of(pair[0]._data) is not device_of(pair[1]._data):
            raise RuntimeError(
                f"{op}: Expected all tensors to be on the same device, but found {first.device} and {second.device}; "
                "move them with .to(device)"
            )
    a, b = broadcast_tensors(*pair)
    return a, b


def _beside(tensor: Tensor, number: Any) -> Tensor:
    """A number as a tensor for a computation with ``tensor``."""
    return Tensor._wrap(full((), number, floating_dtype(tensor._data.dtype), tensor._data))


def _incomplete(op: str, input: Tensor, other: Tensor, upper: bool) -> Tensor:
    check_tensors(op, input=input, other=other)
    if input.requires_grad:
        raise NotImplementedError(
            f"{op}: is not differentiable by its first argument, a (nor in PyTorch); detach() it"
        )
    a, x = _pair(op, input, other)
    sign = -1.0 if upper else 1.0

    def slope(x: Tensor) -> Tensor:
        density = sub(sub(mul(add(a, -1.0), x.log()), x), lgamma(a))
        return mul(density.exp(), sign)

    return of_second(op, a, x, slope)

"""Activation functions: y = f(x) elementwise, and grad_x = grad_y * f'(x).

``out``, in C order, of x's shape and dtype: y's memory, which may be that of x.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.kernels.reference.vector_math import erf, sigmoid

Array = Any  # numpy.ndarray; NumPy's own annotations make Any of most expressions

__all__ = [
    f"{name}_{way}"
    for name in (
        *("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "mish", "elu", "softplus"),
        *("hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "tanhshrink", "softsign"),
        *("logsigmoid", "threshold", "prelu", "glu"),
    )
    for way in ("forward", "backward")
]

_quiet = np.errstate(all="ignore")  # overflow to infinity and inf * 0 = NaN are results, not accidents


def _into(out: Array | None, y: Array) -> Array:
    if out is None:
        return y
    out[...] = y
    return out


@_quiet
def relu_forward(x: Array, out: Array | None = None) -> Array:
    """y = max(x, 0); NaN stays NaN."""
    return _into(out, np.maximum(x, 0))


@_quiet
def relu_backward(grad_y: Array, y: Array) -> Array:
    """grad_x = 0 where y <= 0, else grad_y."""
    return np.where(y <= 0, 0, grad_y).astype(y.dtype)


@_quiet
def leaky_relu_forward(x: Array, negative_slope: float, out: Array | None = None) -> Array:
    return _into(out, np.where(x > 0, x, x * negative_slope))


@_quiet
def leaky_relu_backward(grad_y: Array, x: Array, negative_slope: float) -> Array:
    return np.where(x > 0, grad_y, grad_y * negative_slope)


@_quiet
def sigmoid_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, sigmoid(x))


@_quiet
def sigmoid_backward(grad_y: Array, y: Array) -> Array:
    return grad_y * y * (1 - y)


@_quiet
def tanh_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, np.tanh(x))


@_quiet
def tanh_backward(grad_y: Array, y: Array) -> Array:
    return grad_y * (1 - y * y)


@_quiet
def gelu_forward(x: Array, out: Array | None = None) -> Array:
    """y = x * Phi(x), Phi the normal distribution function."""
    return _into(out, x * 0.5 * (1 + erf(x * math.sqrt(0.5))))


@_quiet
def gelu_backward(grad_y: Array, x: Array) -> Array:
    distribution = 0.5 * (1 + erf(x * math.sqrt(0.5)))
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return grad_y * (distribution + x * density)


_GELU_CUBIC = 0.044715
_GELU_FACTOR = math.sqrt(2 / math.pi)


@_quiet
def gelu_tanh_forward(x: Array, out: Array | None = None) -> Array:
    """y = x/2 * (1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2/pi) * (x + 0.044715 x^3)."""
    return _into(out, x * sigmoid(2 * _GELU_FACTOR * (x + _GELU_CUBIC * x**3)))


@_quiet
def gelu_tanh_backward(grad_y: Array, x: Array) -> Array:
    x = np.clip(x, -32, 32)  # saturated there
    s = sigmoid(2 * _GELU_FACTOR * (x + _GELU_CUBIC * x**3))
    return grad_y * (s + x * s * (1 - s) * 2 * _GELU_FACTOR * (1 + 3 * _GELU_CUBIC * x * x))


@_quiet
def silu_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, x * sigmoid(x))


@_quiet
def silu_backward(grad_y: Array, x: Array) -> Array:
    s = sigmoid(x)
    return grad_y * s * (1 + x * (1 - s))


@_quiet
def mish_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, x * np.tanh(np.logaddexp(x, 0)))


@_quiet
def mish_backward(grad_y: Array, x: Array) -> Array:
    x = np.minimum(x, 40)  # saturated there
    t = np.tanh(np.logaddexp(x, 0))
    return grad_y * (t + x * (1 - t * t) * sigmoid(x))


@_quiet
def elu_forward(x: Array, alpha: float, scale: float, input_scale: float, out: Array | None = None) -> Array:
    """y = scale * (x if x > 0 else alpha * (exp(input_scale * x) - 1)): ELU, CELU and SELU."""
    return _into(out, np.where(x > 0, x * scale, np.expm1(x * input_scale) * (alpha * scale)))


@_quiet
def elu_backward(grad_y: Array, x: Array, alpha: float, scale: float, input_scale: float) -> Array:
    return grad_y * np.where(x > 0, scale, np.exp(x * input_scale) * (alpha * scale * input_scale)).astype(
        x.dtype
    )


@_quiet
def softplus_forward(x: Array, beta: float, threshold: float, out: Array | None = None) -> Array:
    """y = log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold."""
    return _into(out, np.where(x * beta > threshold, x, np.logaddexp(x * beta, 0) / beta))


@_quiet
def softplus_backward(grad_y: Array, x: Array, beta: float, threshold: float) -> Array:
    return np.where(x * beta > threshold, grad_y, grad_y * sigmoid(x * beta))


@_quiet
def hardtanh_forward(x: Array, min_val: float, max_val: float, out: Array | None = None) -> Array:
    return _into(out, np.clip(x, min_val, max_val))


@_quiet
def hardtanh_backward(grad_y: Array, x: Array, min_val: float, max_val: float) -> Array:
    return np.where((x <= min_val) | (x >= max_val), 0, grad_y)


@_quiet
def hardsigmoid_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, np.clip(x + 3, 0, 6) / 6)


@_quiet
def hardsigmoid_backward(grad_y: Array, x: Array) -> Array:
    return np.where((x > -3) & (x < 3), grad_y / 6, 0)


@_quiet
def hardswish_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, x * np.clip(x + 3, 0, 6) / 6)


@_quiet
def hardswish_backward(grad_y: Array, x: Array) -> Array:
    return np.where(x <= -3, 0, np.where(x >= 3, grad_y, grad_y * (x / 3 + 0.5)))


@_quiet
def hardshrink_forward(x: Array, lambd: float, out: Array | None = None) -> Array:
    return _into(out, np.where((x >= -lambd) & (x <= lambd), 0, x))


@_quiet
def hardshrink_backward(grad_y: Array, x: Array, lambd: float) -> Array:
    return np.where((x >= -lambd) & (x <= lambd), 0, grad_y)


@_quiet
def softshrink_forward(x: Array, lambd: float, out: Array | None = None) -> Array:
    return _into(out, np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, x * 0)))


@_quiet
def softshrink_backward(grad_y: Array, x: Array, lambd: float) -> Array:
    return np.where((x >= -lambd) & (x <= lambd), 0, grad_y)


@_quiet
def tanhshrink_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, x - np.tanh(x))


@_quiet
def tanhshrink_backward(grad_y: Array, x: Array) -> Array:
    return grad_y * np.tanh(x) ** 2


@_quiet
def softsign_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, x / (1 + np.abs(x)))


@_quiet
def softsign_backward(grad_y: Array, x: Array) -> Array:
    return grad_y / (1 + np.abs(x)) ** 2


@_quiet
def logsigmoid_forward(x: Array, out: Array | None = None) -> Array:
    return _into(out, -np.logaddexp(-x, 0))


@_quiet
def logsigmoid_backward(grad_y: Array, x: Array) -> Array:
    return grad_y * sigmoid(-x)


@_quiet
def threshold_forward(x: Array, threshold: float, value: float, out: Array | None = None) -> Array:
    return _into(out, np.where(x <= threshold, value, x).astype(x.dtype))


@_quiet
def threshold_backward(grad_y: Array, x: Array, threshold: float, value: float) -> Array:
    return np.where(x <= threshold, 0, grad_y)


def _per_channel(weight: Array, x: Array) -> Array:
    """``weight`` in a shape that broadcasts along axis 1 of ``x`` (one weight: everywhere)."""
    return weight if weight.size == 1 or x.ndim < 2 else weight.reshape(-1, *[1] * (x.ndim - 2))


@_quiet
def prelu_forward(x: Array, weight: Array) -> Array:
    """y = x where x > 0, else weight[c] * x; c counts axis 1, a single weight serves all."""
    y: Array = np.where(x > 0, x, x * _per_channel(weight, x)).reshape(x.shape)
    return y


@_quiet
def prelu_backward(
    grad_y: Array, x: Array, weight: Array, need_x: bool = True, need_weight: bool = True
) -> tuple[Array | None, Array | None]:
    """grad_weight[c] = sum of grad_y * x over x <= 0 in channel c."""
    grad_x = grad_weight = None
    if need_x:
        grad_x = np.where(x > 0, grad_y, grad_y * _per_channel(weight, x)).reshape(x.shape)
    if need_weight:
        product = np.where(x > 0, 0, grad_y * x)
        axes = tuple(axis for axis in range(x.ndim) if axis != 1 or weight.size == 1)
        grad_weight = product.sum(axis=axes).reshape(weight.shape).astype(x.dtype)
    return grad_x, grad_weight


@_quiet
def glu_forward(x: Array, dim: int) -> Array:
    """y = a * sigmoid(b), where a and b are the halves of x along ``dim``."""
    a, b = np.split(x, 2, axis=dim)
    return a * sigmoid(b)


@_quiet
def glu_backward(grad_y: Array, x: Array, dim: int) -> Array:
    a, b = np.split(x, 2, axis=dim)
    s = sigmoid(b)
    return np.concatenate([grad_y * s, grad_y * a * s * (1 - s)], axis=dim)

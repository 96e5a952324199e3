"""Activation functions; see :mod:`fastdl.kernels.reference.activation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, operand
from fastdl.kernels.cuda.reduce import sum_to

__all__ = [
    f"{name}_{way}"
    for name in (
        *("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "mish", "elu", "softplus"),
        *("hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "tanhshrink", "softsign"),
        *("logsigmoid", "threshold", "prelu", "glu"),
    )
    for way in ("forward", "backward")
]


def _forward(
    op: str, x: Array, out: Array | None = None, a: float = 0.0, b: float = 0.0, c: float = 0.0
) -> Array:
    runtime = device.of(x)
    if out is None:
        number = device.code(op, x)
        y = runtime.empty(x.shape, x.dtype)
    else:
        number = device.code(op, x, out)
        device.same_shape(f"{op}_forward", x, out, "x and out")
        y = out
    runtime.extension.activation_forward(
        op,
        number,
        x.shape,
        operand(runtime, y, x.shape),
        operand(runtime, x, x.shape),
        float(a),
        float(b),
        float(c),
        runtime.stream(),
    )
    return y


def _backward(op: str, grad_y: Array, saved: Array, a: float = 0.0, b: float = 0.0, c: float = 0.0) -> Array:
    number = device.code(op, grad_y, saved)
    device.same_shape(f"{op}_backward", grad_y, saved, "grad_y and the saved array")
    runtime = device.of(saved)
    grad_x = runtime.empty(saved.shape, saved.dtype)
    runtime.extension.activation_backward(
        op,
        number,
        saved.shape,
        operand(runtime, grad_x, saved.shape),
        operand(runtime, grad_y, saved.shape),
        operand(runtime, saved, saved.shape),
        float(a),
        float(b),
        float(c),
        runtime.stream(),
    )
    return grad_x


def _plain(op: str, reads_output: bool = False) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Forward and backward of a function without parameters."""

    def forward(x: Array, out: Array | None = None) -> Array:
        return _forward(op, x, out)

    def backward(grad_y: Array, x: Array) -> Array:
        return _backward(op, grad_y, x)

    def backward_from_output(grad_y: Array, y: Array) -> Array:
        return _backward(op, grad_y, y)

    return forward, backward_from_output if reads_output else backward


relu_forward, relu_backward = _plain("relu", reads_output=True)
sigmoid_forward, sigmoid_backward = _plain("sigmoid", reads_output=True)
tanh_forward, tanh_backward = _plain("tanh", reads_output=True)
gelu_forward, gelu_backward = _plain("gelu")
gelu_tanh_forward, gelu_tanh_backward = _plain("gelu_tanh")
silu_forward, silu_backward = _plain("silu")
mish_forward, mish_backward = _plain("mish")
hardsigmoid_forward, hardsigmoid_backward = _plain("hardsigmoid")
hardswish_forward, hardswish_backward = _plain("hardswish")
tanhshrink_forward, tanhshrink_backward = _plain("tanhshrink")
softsign_forward, softsign_backward = _plain("softsign")
logsigmoid_forward, logsigmoid_backward = _plain("logsigmoid")


def leaky_relu_forward(x: Array, negative_slope: float, out: Array | None = None) -> Array:
    return _forward("leaky_relu", x, out, negative_slope)


def leaky_relu_backward(grad_y: Array, x: Array, negative_slope: float) -> Array:
    return _backward("leaky_relu", grad_y, x, negative_slope)


def elu_forward(x: Array, alpha: float, scale: float, input_scale: float, out: Array | None = None) -> Array:
    return _forward("elu", x, out, alpha, scale, input_scale)


def elu_backward(grad_y: Array, x: Array, alpha: float, scale: float, input_scale: float) -> Array:
    return _backward("elu", grad_y, x, alpha, scale, input_scale)


def softplus_forward(x: Array, beta: float, threshold: float, out: Array | None = None) -> Array:
    return _forward("softplus", x, out, beta, threshold)


def softplus_backward(grad_y: Array, x: Array, beta: float, threshold: float) -> Array:
    return _backward("softplus", grad_y, x, beta, threshold)


def hardtanh_forward(x: Array, min_val: float, max_val: float, out: Array | None = None) -> Array:
    return _forward("hardtanh", x, out, min_val, max_val)


def hardtanh_backward(grad_y: Array, x: Array, min_val: float, max_val: float) -> Array:
    return _backward("hardtanh", grad_y, x, min_val, max_val)


def hardshrink_forward(x: Array, lambd: float, out: Array | None = None) -> Array:
    return _forward("hardshrink", x, out, lambd)


def hardshrink_backward(grad_y: Array, x: Array, lambd: float) -> Array:
    return _backward("hardshrink", grad_y, x, lambd)


def softshrink_forward(x: Array, lambd: float, out: Array | None = None) -> Array:
    return _forward("softshrink", x, out, lambd)


def softshrink_backward(grad_y: Array, x: Array, lambd: float) -> Array:
    return _backward("softshrink", grad_y, x, lambd)


def threshold_forward(x: Array, threshold: float, value: float, out: Array | None = None) -> Array:
    return _forward("threshold", x, out, threshold, value)


def threshold_backward(grad_y: Array, x: Array, threshold: float, value: float) -> Array:
    return _backward("threshold", grad_y, x, threshold, value)


def _pair(op: str, x: Array, y: Array) -> Array:
    """op of x and y, y broadcast to x."""
    runtime, number = device.of(x), device.code(op, x, y)
    out = runtime.empty(x.shape, x.dtype)
    runtime.extension.activation_pair(
        op,
        number,
        x.shape,
        operand(runtime, out, x.shape),
        operand(runtime, x, x.shape),
        operand(runtime, y, x.shape),
        runtime.stream(),
    )
    return out


def _triple(op: str, out: Array, x: Array, y: Array, z: Array) -> Array:
    """op of x, y and z (broadcast to x), into ``out``."""
    runtime, number = device.of(x), device.code(op, x, y, z)
    runtime.extension.activation_triple(
        op,
        number,
        x.shape,
        operand(runtime, out, x.shape),
        operand(runtime, x, x.shape),
        operand(runtime, y, x.shape),
        operand(runtime, z, x.shape),
        runtime.stream(),
    )
    return out


def _per_channel(weight: Array, x: Array) -> Any:
    """``weight`` in a shape that broadcasts along axis 1 of ``x`` (one weight: everywhere)."""
    if weight.size == 1:
        return weight.reshape((1,) * x.ndim)
    if x.ndim < 2 or weight.size != x.shape[1]:
        channels = x.shape[1] if x.ndim > 1 else 1
        raise ArgumentError(f"prelu: {weight.size} weights for {channels} channels (or one weight for all)")
    return weight.reshape(-1, *[1] * (x.ndim - 2))


def prelu_forward(x: Array, weight: Array) -> Array:
    return _pair("prelu", x, _per_channel(weight, x))


def prelu_backward(
    grad_y: Array, x: Array, weight: Array, need_x: bool = True, need_weight: bool = True
) -> tuple[Array | None, Array | None]:
    device.same_shape("prelu_backward", grad_y, x, "grad_y and x")
    per_channel = _per_channel(weight, x)
    grad_x = grad_weight = None
    if need_x:
        grad_x = _triple("prelu_x", device.of(x).empty(x.shape, x.dtype), grad_y, x, per_channel)
    if need_weight:
        grad_weight = sum_to(_pair("prelu_weight", grad_y, x), per_channel.shape).reshape(weight.shape)
    return grad_x, grad_weight


def _halves(op: str, x: Array, dim: int) -> tuple[Array, Array]:
    device.axis(op, dim, x.ndim)
    if x.shape[dim] % 2:
        raise ArgumentError(f"{op}: dimension {dim} must have an even size, got {x.shape[dim]}")
    half = x.shape[dim] // 2
    before = (slice(None),) * dim
    return x[(*before, slice(None, half))], x[(*before, slice(half, None))]


def glu_forward(x: Array, dim: int) -> Array:
    return _pair("glu", *_halves("glu", x, dim))


def glu_backward(grad_y: Array, x: Array, dim: int) -> Array:
    a, b = _halves("glu_backward", x, dim)
    device.same_shape("glu_backward", grad_y, a, "grad_y and half of x")
    runtime = device.of(x)
    grad_x = runtime.empty(x.shape, x.dtype)
    grad_a, grad_b = _halves("glu_backward", grad_x, dim)
    number = device.code("glu_backward", grad_y, x)
    runtime.extension.activation_pair(
        "glu",
        number,
        a.shape,
        operand(runtime, grad_a, a.shape),
        operand(runtime, grad_y, a.shape),
        operand(runtime, b, a.shape),
        runtime.stream(),
    )
    _triple("glu_b", grad_b, grad_y, a, b)
    return grad_x

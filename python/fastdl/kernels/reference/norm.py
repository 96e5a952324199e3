"""Normalisation: batch, layer and RMS, group, local response. Statistics are float64 whatever x is."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray; NumPy's own annotations make Any of most expressions

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "group_norm_backward",
    "group_norm_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "local_response_norm_backward",
    "local_response_norm_forward",
    "rms_norm_backward",
    "rms_norm_forward",
    "update_running",
]


def _normalised(x: Array, mean: Array, var: Array, eps: float) -> Array:
    return (x.astype(np.float64) - mean) / np.sqrt(var + eps)


def _affine(h: Array, weight: Array | None, bias: Array | None, shape: Any, dtype: Any) -> Array:
    """h * weight + bias in x's dtype; weight and bias in a shape that broadcasts."""
    if weight is not None:
        h = h * weight.reshape(shape)
    if bias is not None:
        h = h + bias.reshape(shape)
    return h.astype(dtype)


def _backward(
    grad_y: Array, h: Array, weight: Array | None, r: Array, shape: Any, over: Any, centred: bool = True
) -> Array:
    """The gradient through statistics taken over the axes ``over``; r = 1 / sqrt(var + eps)."""
    g = grad_y.astype(np.float64)
    if weight is not None:
        g = g * weight.reshape(shape)
    mean_g = g.mean(over, keepdims=True) if centred else 0.0
    return r * (g - mean_g - h * (g * h).mean(over, keepdims=True))


def _per_channel(x: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape in which one number per channel broadcasts, and the axes besides the channels."""
    return (-1, *[1] * (x.ndim - 2)), (0, *range(2, x.ndim))


def batch_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """y, mean and biased variance of x (N, C, ...) for each channel."""
    shape, over = _per_channel(x)
    mean, var = x.mean(over, np.float64), x.astype(np.float64).var(over)
    h = _normalised(x, mean.reshape(shape), var.reshape(shape), eps)
    return _affine(h, weight, bias, shape, x.dtype), mean, var


def batch_norm_inference(
    x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    """y from given statistics."""
    shape, _ = _per_channel(x)
    h = _normalised(x, mean.astype(np.float64).reshape(shape), var.astype(np.float64).reshape(shape), eps)
    return _affine(h, weight, bias, shape, x.dtype)


def batch_norm_backward(
    grad_y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    training: bool,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Array | None, Array | None, Array | None]:
    """``training``: mean and var are the batch's own, and gradients flow through them."""
    shape, over = _per_channel(x)
    h = _normalised(x, mean.reshape(shape), var.reshape(shape), eps)
    r = 1 / np.sqrt(var.reshape(shape) + eps)
    grad_x = None
    if need_x and training:
        grad_x = _backward(grad_y, h, weight, r, shape, over).astype(x.dtype)
    elif need_x:
        grad_x = (grad_y * r * (1 if weight is None else weight.reshape(shape))).astype(x.dtype)
    grad_weight = (grad_y * h).sum(over).astype(x.dtype) if need_weight else None
    grad_bias = grad_y.sum(over, np.float64).astype(x.dtype) if need_bias else None
    return grad_x, grad_weight, grad_bias


def update_running(
    running_mean: Array | None,
    running_var: Array | None,
    mean: Array,
    var: Array,
    momentum: float,
    unbias: float,
    batches: Array | None,
) -> None:
    """One more batch, in place: running = (1 - momentum) running + momentum * statistic, the variance times
    ``unbias``; ``batches`` (int64, one number) counts. What is None is left out."""
    for running, statistic in ((running_mean, mean), (running_var, var * unbias)):
        if running is not None:
            running[...] = (1 - momentum) * running.astype(np.float64) + momentum * statistic
    if batches is not None:
        batches += 1


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, length: int, eps: float
) -> tuple[Array, Array, Array]:
    """y, mean and biased variance of every run of ``length`` elements."""
    rows = x.reshape(-1, length)
    mean, var = rows.mean(1, np.float64), rows.astype(np.float64).var(1)
    h = _normalised(rows, mean[:, None], var[:, None], eps)
    return _affine(h, weight, bias, -1, x.dtype).reshape(x.shape), mean, var


def layer_norm_backward(
    grad_y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    length: int,
    eps: float,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Array | None, Array | None, Array | None]:
    g = grad_y.reshape(-1, length)
    h = _normalised(x.reshape(-1, length), mean[:, None], var[:, None], eps)
    r = 1 / np.sqrt(var[:, None] + eps)
    grad_x = _backward(g, h, weight, r, -1, 1).astype(x.dtype).reshape(x.shape) if need_x else None
    grad_weight = (g * h).sum(0).astype(x.dtype) if need_weight else None
    grad_bias = g.sum(0, np.float64).astype(x.dtype) if need_bias else None
    return grad_x, grad_weight, grad_bias


def rms_norm_forward(x: Array, weight: Array | None, length: int, eps: float) -> tuple[Array, Array]:
    """y = x / sqrt(mean(x^2) + eps) * weight over runs of ``length`` elements, and the mean squares."""
    rows = x.reshape(-1, length)
    square = (rows.astype(np.float64) ** 2).mean(1)
    h = _normalised(rows, 0.0, square[:, None], eps)
    return _affine(h, weight, None, -1, x.dtype).reshape(x.shape), square


def rms_norm_backward(
    grad_y: Array,
    x: Array,
    weight: Array | None,
    square: Array,
    length: int,
    eps: float,
    need_x: bool,
    need_weight: bool,
) -> tuple[Array | None, Array | None]:
    g = grad_y.reshape(-1, length)
    h = _normalised(x.reshape(-1, length), 0.0, square[:, None], eps)
    r = 1 / np.sqrt(square[:, None] + eps)
    grad_x = _backward(g, h, weight, r, -1, 1, False).astype(x.dtype).reshape(x.shape) if need_x else None
    return grad_x, (g * h).sum(0).astype(x.dtype) if need_weight else None


def _grouped(x: Array, groups: int) -> tuple[Array, tuple[int, ...]]:
    """x as (N, G, C / G, rest), and the shape in which one number per channel broadcasts with that."""
    n, channels = x.shape[:2]
    rest = int(np.prod(x.shape[2:], dtype=np.int64))
    return x.reshape(n, groups, channels // groups, rest), (groups, channels // groups, 1)


def group_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """y, mean and biased variance (N, G) of x (N, C, ...), channels taken in ``groups`` groups."""
    blocks, shape = _grouped(x, groups)
    mean, var = blocks.mean((2, 3), np.float64), blocks.astype(np.float64).var((2, 3))
    h = _normalised(blocks, mean[:, :, None, None], var[:, :, None, None], eps)
    return _affine(h, weight, bias, shape, x.dtype).reshape(x.shape), mean, var


def group_norm_backward(
    grad_y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    groups: int,
    eps: float,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Array | None, Array | None, Array | None]:
    blocks, shape = _grouped(x, groups)
    g = grad_y.reshape(blocks.shape)
    h = _normalised(blocks, mean[:, :, None, None], var[:, :, None, None], eps)
    r = 1 / np.sqrt(var[:, :, None, None] + eps)
    grad_x = _backward(g, h, weight, r, shape, (2, 3)).astype(x.dtype).reshape(x.shape) if need_x else None
    grad_weight = (g * h).sum((0, 3)).reshape(-1).astype(x.dtype) if need_weight else None
    grad_bias = g.sum((0, 3), np.float64).reshape(-1).astype(x.dtype) if need_bias else None
    return grad_x, grad_weight, grad_bias


def _window_sum(v: Array, before: int, after: int) -> Array:
    """Sum over the channels c - before .. c + after (axis 1), those that exist."""
    channels = v.shape[1]
    total = np.zeros_like(v)
    for c in range(channels):
        total[:, c] = v[:, max(0, c - before) : c + after + 1].sum(1)
    return total


def local_response_norm_forward(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """y = x * (k + alpha / size * sum of x^2 over ``size`` neighbouring channels) ** -beta."""
    d = k + alpha / size * _window_sum(x * x, size // 2, (size - 1) // 2)
    return x * d**-beta


def local_response_norm_backward(
    grad_y: Array, x: Array, size: int, alpha: float, beta: float, k: float
) -> Array:
    d = k + alpha / size * _window_sum(x * x, size // 2, (size - 1) // 2)
    inner = _window_sum(grad_y * x * d ** (-beta - 1), (size - 1) // 2, size // 2)
    return grad_y * d**-beta - 2 * alpha * beta / size * x * inner

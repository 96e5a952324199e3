"""Convolution and its transpose; see :mod:`fastdl.kernels.reference.conv`. The algorithms are in
:mod:`fastdl.kernels.cuda.conv_problem`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.conv_problem import Convolution, Shared, find
from fastdl.kernels.cuda.device import Array, contiguous
from fastdl.kernels.cuda.hopper import family, half_types

__all__ = ["conv_backward", "conv_forward", "conv_transpose_backward", "conv_transpose_forward"]

Ints = Sequence[int]
Gradients = tuple[Array | None, Array | None, Array | None]


def _trials(runtime: Any) -> list[tuple[Convolution, Array, Array, Array]]:
    """Problems for a trial, with x, weights and y's gradient: all types; tiles of each size and more than one for each
    multiprocessor, with ragged edges; strides and dilation."""
    trials = []
    for dtype in (*half_types(), np.dtype(np.float32)):
        rng = np.random.default_rng(0)
        for images, out_channels, stride, dilation in (
            (runtime.extension.multiprocessors() + 1, 64, (1, 1), (1, 1)),
            (runtime.extension.multiprocessors() + 1, 192, (1, 2), (2, 1)),
            (1 + runtime.extension.multiprocessors() // 4, 192, (1, 1), (1, 1)),
        ):
            shapes = (images, 64, 17, 17), (out_channels, 64, 3, 3)
            problem = runtime.extension.conv_problem("conv", *shapes, stride, (1, 1), dilation, 1)
            y = (images, out_channels, *problem.outputs[1:])
            x, weight, grad_y = (
                runtime.from_host(rng.standard_normal(s, np.float32).astype(dtype)) for s in (*shapes, y)
            )
            number = device.code("conv", x)
            c = Convolution(runtime, "conv", number, dtype, number == 0, "auto", problem)
            trials.append((c, x, weight, grad_y))
    return trials


@family("conv")
def _problem(runtime: Any) -> list[Array]:
    results = []
    for c, x, weight, grad_y in _trials(runtime):
        results.append(c.gather(c.empty(grad_y.shape), x, weight, None, False, {}))
        results.append(c.gather(c.empty(x.shape), grad_y, weight, None, True, {}))
    return results


@family("conv_grad_weight")
def _problem_of_weights(runtime: Any) -> list[Array]:
    trials = [t for t in _trials(runtime) if t[1].dtype.itemsize == 2]
    return [c.sum_pixels(c.empty(weight.shape), grad_y, x, {}) for c, x, weight, grad_y in trials]


def _bias(op: str, bias: Array | None, like: Array, channels: int) -> Array | None:
    if bias is None:
        return None
    if bias.shape != (channels,):
        raise ArgumentError(f"{op}: bias must have one entry per output channel")
    device.code(op, like, bias)
    return contiguous(bias)


def _ones(stride: Ints) -> Ints:
    return (1,) * len(stride)


def conv_forward(
    x: Array, weight: Array, bias: Array | None, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Array:
    op = "conv_forward"
    c = find(op, "conv_problem", x, weight, stride, padding, dilation, groups)
    bias = _bias(op, bias, x, c.out_channels)
    if (seen := c.thinned(x.ndim - 2)) is not None:
        return conv_forward(x[seen], weight, bias, _ones(stride), padding, dilation, groups)
    x, weight = contiguous(x), contiguous(weight)
    return c.forward(c.empty(c.image(False, x.ndim - 2)), x, weight, bias, {})


def conv_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    needs: Sequence[bool] = (True, True, True),
) -> Gradients:
    op = "conv_backward"
    c = find(op, "conv_problem", x, weight, stride, padding, dilation, groups)
    device.code(op, x, grad_y)
    if grad_y.shape != c.image(False, x.ndim - 2):
        raise ArgumentError(f"{op}: grad_y has the wrong shape")
    if (seen := c.thinned(x.ndim - 2)) is not None:
        grads = conv_backward(grad_y, x[seen], weight, _ones(stride), padding, dilation, groups, needs)
        if grads[0] is None:
            return grads
        grad_x = c.runtime.zeros(x.shape, x.dtype)
        device.copy_to(grad_x[seen], grads[0])
        return grad_x, *grads[1:]
    grad_y, x, weight = contiguous(grad_y), contiguous(x), contiguous(weight)
    shared: Shared = {}
    return (
        c.grad_x(c.empty(x.shape), grad_y, weight, None, shared) if needs[0] else None,
        c.grad_weight(c.empty(weight.shape), grad_y, x, shared) if needs[1] else None,
        c.grad_bias(grad_y) if needs[2] else None,
    )


def conv_transpose_forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
) -> Array:
    op = "conv_transpose_forward"
    c = find(op, "conv_transpose_problem", x, weight, stride, padding, output_padding, dilation, groups)
    bias = _bias(op, bias, x, c.in_channels)
    x, weight = contiguous(x), contiguous(weight)
    return c.grad_x(c.empty(c.image(True, x.ndim - 2)), x, weight, bias, {})


def conv_transpose_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    needs: Sequence[bool] = (True, True, True),
) -> Gradients:
    op = "conv_transpose_backward"
    options = stride, padding, dilation, groups, grad_y.shape
    c = find(op, "conv_transpose_gradient_problem", x, weight, *options)
    device.code(op, x, grad_y)
    grad_y, x, weight = contiguous(grad_y), contiguous(x), contiguous(weight)
    shared: Shared = {}
    return (  # x and grad_y have the roles of the problem's y and x
        c.forward(c.empty(x.shape), grad_y, weight, None, shared) if needs[0] else None,
        c.grad_weight(c.empty(weight.shape), x, grad_y, shared) if needs[1] else None,
        c.grad_bias(grad_y) if needs[2] else None,
    )

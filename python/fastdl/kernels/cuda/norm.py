"""Normalisation; see :mod:`fastdl.kernels.reference.norm`. Statistics are float64 whatever x is."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous
from fastdl.kernels.cuda.elementwise import convert

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

_DOUBLE = np.dtype(np.float64)


def _parameter(op: str, name: str, parameter: Array | None, size: int, dtype: Any) -> Array | None:
    if parameter is None:
        return None
    if parameter.size != size or parameter.dtype != dtype:
        raise ArgumentError(
            f"{op}: {name} must have {size} elements of {dtype}, got {parameter.shape} of {parameter.dtype}"
        )
    return contiguous(parameter)


def _statistic(op: str, name: str, statistic: Array, size: int) -> Array:
    if statistic.size != size or statistic.dtype != _DOUBLE:
        raise ArgumentError(
            f"{op}: {name} must have {size} elements of float64, got {statistic.shape} of {statistic.dtype}"
        )
    return contiguous(statistic)


class _Rows:
    """Rows of a tensor, each normalised by itself: layer, RMS and group norm."""

    def __init__(
        self, op: str, x: Array, rows: int, length: int, groups: int, inner: int, eps: float
    ) -> None:
        self.op, self.number, self.runtime, self.x = op, device.code(op, x), device.of(x), contiguous(x)
        self.problem = (rows, length, groups, inner, eps)
        self.rows, self.channels, self.eps = rows, groups * (length // inner if inner else 0), eps
        if inner == 1 and groups == 1:  # layer norm: the rows are the batch, statistics are theirs
            self.parameters = (rows, length, 1, 1, max(length, 1))
        else:
            self.parameters = (rows // groups, self.channels, inner, groups, max(self.channels // groups, 1))

    def planes(self) -> tuple[Any, Array | None]:
        """The problem as planes of channels, and scratch if it is computed by these: group norm of long rows."""
        if self.parameters[2] == 1:  # layer norm, among others: it pays for no question
            return None, None
        extension = self.runtime.extension
        problem = extension.ChannelNorm(*self.parameters, self.eps)
        size = extension.group_norm_scratch(self.number, problem)
        return problem, self.runtime.empty(size, np.dtype(np.uint8)) if size else None

    def forward(
        self, weight: Array | None, bias: Array | None, centred: bool, shape: tuple[int, ...]
    ) -> tuple[Array, Array | None, Array]:
        runtime, x = self.runtime, self.x
        weight = _parameter(self.op, "weight", weight, self.channels, x.dtype)
        bias = _parameter(self.op, "bias", bias, self.channels, x.dtype)
        y = runtime.empty(x.shape, x.dtype)
        mean = runtime.empty(shape, _DOUBLE) if centred else None
        var = runtime.empty(shape, _DOUBLE)
        addresses = [runtime.pointer(a) for a in (y, mean, var, x, weight, bias)]
        problem, scratch = self.planes() if centred else (None, None)
        if scratch is None:
            runtime.extension.row_norm_forward(self.number, *addresses, *self.problem, runtime.stream())
        else:
            runtime.extension.group_norm_forward(
                self.number, *addresses, problem, runtime.pointer(scratch), runtime.stream()
            )
        return y, mean, var

    def backward(
        self,
        grad_y: Array,
        weight: Array | None,
        mean: Array | None,
        var: Array,
        need_x: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> tuple[Array | None, Array | None, Array | None]:
        device.code(self.op, self.x, grad_y)
        device.same_shape(self.op, grad_y, self.x, "grad_y and x")
        runtime, x, grad_y = self.runtime, self.x, contiguous(grad_y)
        weight = _parameter(self.op, "weight", weight, self.channels, x.dtype)
        mean = None if mean is None else _statistic(self.op, "mean", mean, self.rows)
        var = _statistic(self.op, "var", var, self.rows)
        pointer = runtime.pointer
        grad_x = grad_weight = grad_bias = None
        problem, scratch = self.planes() if mean is not None else (None, None)
        if scratch is not None:
            results = [
                runtime.empty(shape, x.dtype) if need else None
                for shape, need in (
                    (x.shape, need_x),
                    (self.channels, need_weight),
                    (self.channels, need_bias),
                )
            ]
            addresses = [pointer(a) for a in (*results, grad_y, x, weight, mean, var)]
            runtime.extension.group_norm_backward(
                self.number, *addresses, problem, pointer(scratch), runtime.stream()
            )
            return results[0], results[1], results[2]
        if need_x:
            grad_x = runtime.empty(x.shape, x.dtype)
            if need_weight or need_bias:
                size = runtime.extension.row_norm_scratch(self.number, *self.problem)
                if size:  # one pass for all gradients
                    scratch = runtime.empty(size, np.dtype(np.uint8))
                    grad_weight = runtime.empty(self.channels, x.dtype) if need_weight else None
                    grad_bias = runtime.empty(self.channels, x.dtype) if need_bias else None
            runtime.extension.row_norm_backward(
                self.number,
                pointer(grad_x),
                pointer(grad_weight),
                pointer(grad_bias),
                pointer(grad_y),
                pointer(x),
                pointer(weight),
                pointer(mean),
                pointer(var),
                *self.problem,
                pointer(scratch),
                runtime.stream(),
            )
        if scratch is None and (need_weight or need_bias):
            problem = runtime.extension.ChannelNorm(*self.parameters, self.eps)
            grad_weight, grad_bias, _ = _channel_gradients(
                self.number, runtime, grad_y, x, mean, var, problem, self.channels, need_weight, need_bias
            )
        return grad_x, grad_weight, grad_bias


def _channel_gradients(
    number: int,
    runtime: Any,
    grad_y: Array,
    x: Array,
    mean: Array | None,
    var: Array,
    problem: Any,
    channels: int,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Array | None, Array | None, Array]:
    grad_weight = runtime.empty(channels, x.dtype) if need_weight else None
    grad_bias = runtime.empty(channels, x.dtype) if need_bias else None
    scratch = runtime.empty(runtime.extension.channel_scratch(number, problem), np.dtype(np.uint8))
    pointer = runtime.pointer
    runtime.extension.channel_gradients(
        number,
        pointer(grad_weight),
        pointer(grad_bias),
        pointer(grad_y),
        pointer(x),
        pointer(mean),
        pointer(var),
        problem,
        pointer(scratch),
        runtime.stream(),
    )
    return grad_weight, grad_bias, scratch


def _layer(op: str, x: Array, length: int, eps: float) -> _Rows:
    if length < 1 or x.size % length:
        raise ArgumentError(f"{op}: rows of {length} elements do not divide {x.size}")
    return _Rows(op, x, x.size // length, length, 1, 1, eps)


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, length: int, eps: float
) -> tuple[Array, Array, Array]:
    rows = _layer("layer_norm", x, length, eps)
    y, mean, var = rows.forward(weight, bias, True, (rows.rows,))
    return y, mean, var


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
    rows = _layer("layer_norm_backward", x, length, eps)
    return rows.backward(grad_y, weight, mean, var, need_x, need_weight, need_bias)


def rms_norm_forward(x: Array, weight: Array | None, length: int, eps: float) -> tuple[Array, Array]:
    rows = _layer("rms_norm", x, length, eps)
    y, _, square = rows.forward(weight, None, False, (rows.rows,))
    return y, square


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
    rows = _layer("rms_norm_backward", x, length, eps)
    return rows.backward(grad_y, weight, None, square, need_x, need_weight, False)[:2]


def _group(op: str, x: Array, groups: int, eps: float) -> _Rows:
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ArgumentError(f"{op}: groups must divide the channels, got {groups} for x of shape {x.shape}")
    inner = prod(x.shape[2:])
    return _Rows(op, x, x.shape[0] * groups, x.shape[1] // groups * inner, groups, inner, eps)


def group_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    y, mean, var = _group("group_norm", x, groups, eps).forward(weight, bias, True, (x.shape[0], groups))
    return y, mean, var


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
    rows = _group("group_norm_backward", x, groups, eps)
    return rows.backward(grad_y, weight, mean, var, need_x, need_weight, need_bias)


def _channels(op: str, x: Array, eps: float) -> tuple[Any, Any, int]:
    if x.ndim < 2:
        raise ArgumentError(f"{op}: x must be (N, C, ...), got shape {x.shape}")
    runtime = device.of(x)
    return (
        runtime,
        runtime.extension.ChannelNorm(x.shape[0], x.shape[1], prod(x.shape[2:]), 0, 1, eps),
        x.shape[1],
    )


def batch_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    op, x = "batch_norm", contiguous(x)
    number = device.code(op, x)
    runtime, problem, channels = _channels(op, x, eps)
    weight = _parameter(op, "weight", weight, channels, x.dtype)
    bias = _parameter(op, "bias", bias, channels, x.dtype)
    y, mean, var = (
        runtime.empty(x.shape, x.dtype),
        runtime.empty(channels, _DOUBLE),
        runtime.empty(channels, _DOUBLE),
    )
    pointer, scratch = runtime.pointer, _scratch(runtime, number, problem)
    runtime.extension.batch_norm_forward(
        number,
        pointer(y),
        pointer(mean),
        pointer(var),
        pointer(x),
        pointer(weight),
        pointer(bias),
        problem,
        pointer(scratch),
        runtime.stream(),
    )
    return y, mean, var


def _scratch(runtime: Any, number: int, problem: Any) -> Array | None:
    size = runtime.extension.batch_norm_scratch(number, problem)
    return runtime.empty(size, np.dtype(np.uint8)) if size else None


def batch_norm_inference(
    x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    op, x = "batch_norm", contiguous(x)
    number = device.code(op, x)
    runtime, problem, channels = _channels(op, x, eps)
    mean, var = (_statistic(op, n, convert(s, _DOUBLE), channels) for n, s in (("mean", mean), ("var", var)))
    weight = _parameter(op, "weight", weight, channels, x.dtype)
    bias = _parameter(op, "bias", bias, channels, x.dtype)
    y = runtime.empty(x.shape, x.dtype)
    pointer = runtime.pointer
    runtime.extension.norm_apply(
        number,
        pointer(y),
        pointer(x),
        pointer(mean),
        pointer(var),
        pointer(weight),
        pointer(bias),
        problem,
        runtime.stream(),
    )
    return y


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
    op = "batch_norm_backward"
    number = device.code(op, x, grad_y)
    device.same_shape(op, grad_y, x, "grad_y and x")
    x, grad_y = contiguous(x), contiguous(grad_y)
    runtime, problem, channels = _channels(op, x, eps)
    weight = _parameter(op, "weight", weight, channels, x.dtype)
    mean, var = _statistic(op, "mean", mean, channels), _statistic(op, "var", var, channels)
    grad_x = runtime.empty(x.shape, x.dtype) if need_x else None
    grad_weight = runtime.empty(channels, x.dtype) if need_weight else None
    grad_bias = runtime.empty(channels, x.dtype) if need_bias else None
    pointer, scratch = runtime.pointer, _scratch(runtime, number, problem)
    runtime.extension.batch_norm_backward(
        number,
        pointer(grad_x),
        pointer(grad_weight),
        pointer(grad_bias),
        pointer(grad_y),
        pointer(x),
        pointer(weight),
        pointer(mean),
        pointer(var),
        training,
        problem,
        pointer(scratch),
        runtime.stream(),
    )
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
    op = "update_running"
    running = [r for r in (running_mean, running_var) if r is not None]
    if any([r.size != mean.size or not r.flags.c_contiguous for r in running]) or mean.size != var.size:
        raise ArgumentError(f"{op}: running and batch's statistics must be dense and of one size")
    runtime = device.of(mean)
    pointer = runtime.pointer
    runtime.extension.update_running(
        device.code(op, *running) if running else 0,
        pointer(running_mean),
        pointer(running_var),
        pointer(mean),
        pointer(var),
        mean.size,
        momentum,
        unbias,
        pointer(batches),
        runtime.stream(),
    )


def _local(op: str, x: Array, size: int) -> tuple[int, int, int, int]:
    if x.ndim < 2 or size < 1:
        raise ArgumentError(f"{op}: x must be (N, C, ...) and size positive, got {x.shape} and {size}")
    return x.shape[0], x.shape[1], prod(x.shape[2:]), size


def local_response_norm_forward(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    op, x = "local_response_norm", contiguous(x)
    runtime, number = device.of(x), device.code(op, x)
    y = runtime.empty(x.shape, x.dtype)
    runtime.extension.local_response_forward(
        number, runtime.pointer(y), runtime.pointer(x), *_local(op, x, size), alpha, beta, k, runtime.stream()
    )
    return y


def local_response_norm_backward(
    grad_y: Array, x: Array, size: int, alpha: float, beta: float, k: float
) -> Array:
    op = "local_response_norm_backward"
    number = device.code(op, x, grad_y)
    device.same_shape(op, grad_y, x, "grad_y and x")
    runtime, x, grad_y = device.of(x), contiguous(x), contiguous(grad_y)
    grad_x = runtime.empty(x.shape, x.dtype)
    scratch = runtime.empty(2 * x.size, device.compute_dtype(x.dtype))
    runtime.extension.local_response_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        runtime.pointer(x),
        runtime.pointer(scratch),
        *_local(op, x, size),
        alpha,
        beta,
        k,
        runtime.stream(),
    )
    return grad_x

"""Losses that compare arrays element by element; see :mod:`fastdl.kernels.reference.pointwise_loss`.

binary_cross_entropy does not raise for an input outside of [0, 1] as on the CPU: its loss is NaN.
"""

from __future__ import annotations

import math
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, operand

__all__ = [
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "binary_cross_entropy_with_logits_backward",
    "binary_cross_entropy_with_logits_forward",
    "gaussian_nll_loss_backward",
    "gaussian_nll_loss_backward_variance",
    "gaussian_nll_loss_forward",
    "hinge_embedding_loss_backward",
    "hinge_embedding_loss_forward",
    "huber_loss_backward",
    "huber_loss_forward",
    "kl_div_backward",
    "kl_div_forward",
    "l1_loss_backward",
    "l1_loss_forward",
    "margin_ranking_loss_backward",
    "margin_ranking_loss_forward",
    "mse_loss_backward",
    "mse_loss_forward",
    "poisson_nll_loss_backward",
    "poisson_nll_loss_forward",
    "smooth_l1_loss_backward",
    "smooth_l1_loss_forward",
    "soft_margin_loss_backward",
    "soft_margin_loss_forward",
]


def _problem(
    op: str,
    arrays: tuple[Array | None, ...],
    first: bool,
    second: bool,
    number: float,
) -> tuple[Any, int, Any]:
    x: Any = arrays[0]
    given = [a for a in arrays if a is not None]
    code, runtime = device.code(op, *given), device.of(x)
    for a in given[1:]:
        lead = x.ndim - a.ndim
        if lead < 0 or any(n not in (1, m) for n, m in zip(a.shape, x.shape[lead:], strict=True)):
            raise ArgumentError(f"{op}: shape {a.shape} does not broadcast to the input's {x.shape}")
    operands = [1.0 if a is None else operand(runtime, a, x.shape) for a in (*arrays, None, None)[:4]]
    problem = runtime.extension.LossProblem(op, code, x.shape, *operands, first, second, float(number))
    return runtime, code, problem


def _forward(
    op: str,
    reduction: str,
    *arrays: Array | None,
    first: bool = False,
    second: bool = False,
    number: float = 0.0,
) -> Array:
    runtime, code, problem = _problem(op, arrays, first, second, number)
    x: Any = arrays[0]
    if reduction == "none":
        losses = runtime.empty(x.shape, x.dtype)
        runtime.extension.pointwise_loss_values(
            code, operand(runtime, losses, x.shape), problem, runtime.stream()
        )
        return losses
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"{op}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    loss = runtime.empty((), x.dtype)
    scratch = runtime.empty(runtime.extension.pointwise_loss_scratch(), float)
    scale = 1.0 if reduction == "sum" else 1 / x.size if x.size else math.nan
    runtime.extension.pointwise_loss_sum(
        code, runtime.pointer(loss), runtime.pointer(scratch), problem, scale, runtime.stream()
    )
    return loss


def _backward(
    op: str,
    reduction: str,
    grad_loss: Array,
    *arrays: Array | None,
    first: bool = False,
    number: float = 0.0,
) -> Array:
    runtime, code, problem = _problem(op, arrays, first, False, number)
    x: Any = arrays[0]
    expected = x.shape if reduction == "none" else ()
    if grad_loss.shape != expected:
        raise ArgumentError(f"{op}_backward: grad_loss must have shape {expected}, got {grad_loss.shape}")
    device.code(op, x, grad_loss)
    grad_x = runtime.empty(x.shape, x.dtype)
    runtime.extension.pointwise_loss_backward(
        code,
        operand(runtime, grad_x, x.shape),
        operand(runtime, grad_loss, x.shape),
        problem,
        1 / x.size if reduction == "mean" and x.size else 1.0,
        runtime.stream(),
    )
    return grad_x


def mse_loss_forward(x: Array, target: Array, reduction: str) -> Array:
    return _forward("mse_loss", reduction, x, target)


def mse_loss_backward(grad_loss: Array, x: Array, target: Array, reduction: str) -> Array:
    return _backward("mse_loss", reduction, grad_loss, x, target)


def l1_loss_forward(x: Array, target: Array, reduction: str) -> Array:
    return _forward("l1_loss", reduction, x, target)


def l1_loss_backward(grad_loss: Array, x: Array, target: Array, reduction: str) -> Array:
    return _backward("l1_loss", reduction, grad_loss, x, target)


def smooth_l1_loss_forward(x: Array, target: Array, beta: float, reduction: str) -> Array:
    return _forward("smooth_l1_loss", reduction, x, target, number=beta)


def smooth_l1_loss_backward(grad_loss: Array, x: Array, target: Array, beta: float, reduction: str) -> Array:
    return _backward("smooth_l1_loss", reduction, grad_loss, x, target, number=beta)


def huber_loss_forward(x: Array, target: Array, delta: float, reduction: str) -> Array:
    return _forward("huber_loss", reduction, x, target, number=delta)


def huber_loss_backward(grad_loss: Array, x: Array, target: Array, delta: float, reduction: str) -> Array:
    return _backward("huber_loss", reduction, grad_loss, x, target, number=delta)


def binary_cross_entropy_forward(x: Array, target: Array, weight: Array | None, reduction: str) -> Array:
    return _forward("binary_cross_entropy", reduction, x, target, weight)


def binary_cross_entropy_backward(
    grad_loss: Array, x: Array, target: Array, weight: Array | None, reduction: str
) -> Array:
    return _backward("binary_cross_entropy", reduction, grad_loss, x, target, weight)


def binary_cross_entropy_with_logits_forward(
    x: Array, target: Array, weight: Array | None, pos_weight: Array | None, reduction: str
) -> Array:
    return _forward("binary_cross_entropy_with_logits", reduction, x, target, weight, pos_weight)


def binary_cross_entropy_with_logits_backward(
    grad_loss: Array, x: Array, target: Array, weight: Array | None, pos_weight: Array | None, reduction: str
) -> Array:
    return _backward("binary_cross_entropy_with_logits", reduction, grad_loss, x, target, weight, pos_weight)


def kl_div_forward(x: Array, target: Array, log_target: bool, reduction: str) -> Array:
    return _forward("kl_div", reduction, x, target, first=log_target)


def kl_div_backward(grad_loss: Array, x: Array, target: Array, log_target: bool, reduction: str) -> Array:
    return _backward("kl_div", reduction, grad_loss, x, target, first=log_target)


def poisson_nll_loss_forward(
    x: Array, target: Array, log_input: bool, full: bool, eps: float, reduction: str
) -> Array:
    return _forward("poisson_nll_loss", reduction, x, target, first=log_input, second=full, number=eps)


def poisson_nll_loss_backward(
    grad_loss: Array, x: Array, target: Array, log_input: bool, eps: float, reduction: str
) -> Array:
    return _backward("poisson_nll_loss", reduction, grad_loss, x, target, first=log_input, number=eps)


def gaussian_nll_loss_forward(
    x: Array, target: Array, var: Array, full: bool, eps: float, reduction: str
) -> Array:
    return _forward("gaussian_nll_loss", reduction, x, target, var, first=full, number=eps)


def gaussian_nll_loss_backward(
    grad_loss: Array, x: Array, target: Array, var: Array, eps: float, reduction: str
) -> Array:
    return _backward("gaussian_nll_loss", reduction, grad_loss, x, target, var, number=eps)


def gaussian_nll_loss_backward_variance(
    grad_loss: Array, x: Array, target: Array, var: Array, eps: float, reduction: str
) -> Array:
    return _backward("gaussian_nll_loss_variance", reduction, grad_loss, x, target, var, number=eps)


def soft_margin_loss_forward(x: Array, target: Array, reduction: str) -> Array:
    return _forward("soft_margin_loss", reduction, x, target)


def soft_margin_loss_backward(grad_loss: Array, x: Array, target: Array, reduction: str) -> Array:
    return _backward("soft_margin_loss", reduction, grad_loss, x, target)


def hinge_embedding_loss_forward(x: Array, target: Array, margin: float, reduction: str) -> Array:
    return _forward("hinge_embedding_loss", reduction, x, target, number=margin)


def hinge_embedding_loss_backward(
    grad_loss: Array, x: Array, target: Array, margin: float, reduction: str
) -> Array:
    return _backward("hinge_embedding_loss", reduction, grad_loss, x, target, number=margin)


def margin_ranking_loss_forward(x1: Array, x2: Array, target: Array, margin: float, reduction: str) -> Array:
    return _forward("margin_ranking_loss", reduction, x1, x2, target, number=margin)


def margin_ranking_loss_backward(
    grad_loss: Array, x1: Array, x2: Array, target: Array, margin: float, reduction: str
) -> Array:
    return _backward("margin_ranking_loss", reduction, grad_loss, x1, x2, target, number=margin)

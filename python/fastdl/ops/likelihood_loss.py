"""Losses of distributions, element by element: Kullback-Leibler divergence, Poisson and Gaussian log-likelihood.

Each is one kernel call each way, reduction included; the kernels are in the family ``pointwise_loss``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError, warn_caller
from fastdl.kernels import array, select
from fastdl.ops.arithmetic import number
from fastdl.ops.arrays import full as filled
from fastdl.ops.arrays import sum_to
from fastdl.ops.common import floating
from fastdl.ops.pointwise_loss import PointwiseLoss, unbroadcast
from fastdl.ops.reduction import check_reduction, kept, matching_target, promoted, reduce_graph, same_dtype
from fastdl.tensor import Tensor


class KlDiv(PointwiseLoss):
    kernel = "kl_div"

    def forward(self, x: Any, target: Any, *, options: tuple[Any, ...]) -> Any:
        if not self.needs[1]:
            self.saves = (1,)  # the gradient of x does not depend on x
        return super().forward(x, target, options=options)

    def slope_of_target(self, x: Any, target: Any) -> Any:
        if self.options[0]:
            return np.exp(target) * (target - x + 1)
        return np.where(target == 0, -x, np.log(target) + 1 - x)  # NaN where the loss is

    def losses(self, x: Any, target: Any) -> Any:
        if self.options[0]:
            return target.exp() * (target - x)
        nothing = target == 0
        return (target * target.masked_fill(nothing, 1.0).log()).masked_fill(nothing, 0.0) - target * x


class KlDivBatchMean(KlDiv):
    """The sum over all elements divided by the size of the batch."""

    def forward(self, x: Any, target: Any, *, options: tuple[Any, ...]) -> Any:
        loss = super().forward(x, target, options=options)
        self.batch = loss.dtype.type(self.x.shape[0] if self.x.ndim else 1)
        with np.errstate(invalid="ignore"):  # an empty batch has no mean
            return array(loss / self.batch)

    def backward(self, grad_loss: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return super().backward(array(grad_loss / self.batch))

    def backward_graph(self, grad_loss: Tensor) -> Any:
        return super().backward_graph(grad_loss / float(self.batch))


class PoissonNllLoss(PointwiseLoss):
    kernel = "poisson_nll_loss"

    def gradient_options(self) -> tuple[Any, ...]:
        log_input, _, eps, reduction = self.options
        return log_input, eps, reduction

    def slope_of_target(self, x: Any, target: Any) -> Any:
        log_input, full, eps, _ = self.options
        slope = -x if log_input else -np.log(x + x.dtype.type(eps))
        return slope + np.where(target > 1, np.log(target) + 0.5 / target, 0) if full else slope

    def losses(self, x: Any, target: Any) -> Any:
        log_input, full, eps, _ = self.options
        losses = x.exp() - target * x if log_input else x - target * (x + eps).log()
        if not full:
            return losses
        small = target <= 1
        t = target.masked_fill(small, 2.0)
        stirling = t * t.log() - t + (t * (2 * math.pi)).log() * 0.5
        return losses + stirling.masked_fill(small, 0.0)


class GaussianNllLoss(Op):
    floats_only = True

    def forward(self, x: Any, target: Any, var: Any, *, full: bool, eps: float, reduction: str) -> Any:
        x, target, var = kept(self, x, target, var)
        self.shapes_in = (x.shape, target.shape, var.shape)
        if not x.shape == target.shape == var.shape:
            x, target, var = np.broadcast_arrays(x, target, var)
        self.arrays, self.options = (x, target, var), (eps, reduction)
        return select(x).gaussian_nll_loss_forward(x, target, var, full, eps, reduction)

    def backward(self, grad_loss: Any) -> Any:
        kernels = select(grad_loss)
        grad_x = grad_target = grad_var = None
        if self.needs[0] or self.needs[1]:
            grad = kernels.gaussian_nll_loss_backward(grad_loss, *self.arrays, *self.options)
            if self.needs[1]:
                grad_target = sum_to(-grad, self.shapes_in[1])
            if self.needs[0]:
                grad_x = sum_to(grad, self.shapes_in[0])
        if self.needs[2]:
            grad_var = kernels.gaussian_nll_loss_backward_variance(grad_loss, *self.arrays, *self.options)
            grad_var = sum_to(grad_var, self.shapes_in[2])
        return grad_x, grad_target, grad_var

    def backward_graph(self, grad_loss: Tensor) -> Any:
        eps, reduction = self.options

        def composed(x: Any, target: Any, var: Any) -> Any:
            # Where eps replaces var the gradient still goes to var.
            v = var + Tensor._wrap(np.maximum(var._data, var._data.dtype.type(eps)) - var._data)
            return reduce_graph((v.log() + (x - target).square() / v) * 0.5, reduction)

        inputs = [unbroadcast(a, s) for a, s in zip(self.arrays, self.shapes_in, strict=True)]
        return replay(self, grad_loss, composed, *inputs)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """t (log t - x) for log-probabilities x: the divergence of the target's distribution from the input's.

    Args:
        input: log-probabilities.
        target: probabilities, or log-probabilities with ``log_target``.
        reduction: ``"batchmean"`` (the sum divided by the first dimension: the mathematical definition),
            ``"mean"`` (over all elements), ``"sum"`` or ``"none"``.

    See ``torch.nn.functional.kl_div``.
    """
    op = "kl_div"
    input, target = promoted(input, target)
    if reduction == "batchmean" and size_average is None and reduce is None:
        target = matching_target(op, input, target)
        return KlDivBatchMean.apply(input, target, options=(log_target, "sum"))  # type: ignore[no-any-return]
    reduction = check_reduction(op, size_average, reduce, reduction)
    if reduction == "mean":
        warn_caller(
            "kl_div: reduction='mean' divides by the number of elements and is not the divergence; "
            "'batchmean' is"
        )
    target = matching_target(op, input, target)
    return KlDiv.apply(input, target, options=(log_target, reduction))  # type: ignore[no-any-return]


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """exp(x) - t x with ``log_input``, else x - t log(x + eps); ``full`` adds Stirling's log(t!) where t > 1.
    See ``torch.nn.functional.poisson_nll_loss``."""
    op = "poisson_nll_loss"
    reduction = check_reduction(op, size_average, reduce, reduction)
    input, target = promoted(floating(input), target)
    target = matching_target(op, input, target, convert=True)
    return PoissonNllLoss.apply(  # type: ignore[no-any-return]
        input, target, options=(log_input, full, eps, reduction)
    )


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log v + (x - t)^2 / v) / 2 with v = max(var, eps); ``full`` adds log(2 pi) / 2.

    ``var`` is a number or a tensor of input's shape, of input's shape without the last dimension, or with one
    dimension 1. See ``torch.nn.functional.gaussian_nll_loss``.
    """
    op = "gaussian_nll_loss"
    reduction = check_reduction(op, None, None, reduction)
    if isinstance(var, Tensor):
        input, target, var = promoted(input, target, var)
    else:
        input, target = promoted(input, target)
    target = matching_target(op, input, target, convert=True)
    shape = input._data.shape
    if isinstance(var, Tensor):
        variance = var
        same_dtype(op, "var", var, input)
    else:
        variance = Tensor._wrap(filled(shape, number(op, var, "var"), input._data.dtype, input._data))
    v = variance._data
    if v.shape != shape:
        if v.shape == shape[:-1]:
            variance = variance.unsqueeze(-1)
        elif v.ndim != len(shape) or [b for a, b in zip(shape, v.shape, strict=True) if a != b] != [1]:
            raise ArgumentError(
                f"{op}: var must have input's shape {shape}, or one dimension 1, or the last one missing, got {v.shape}"
            )
    if np.any(v < 0):
        raise ArgumentError(f"{op}: var must not be negative, its smallest entry is {v.min()}")
    return GaussianNllLoss.apply(  # type: ignore[no-any-return]
        input, target, variance, full=full, eps=eps, reduction=reduction
    )

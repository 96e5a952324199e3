"""Losses that compare tensors element by element; see ``torch.nn.functional``.

Each is one kernel call each way, reduction included. Shapes that differ are broadcast.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, real_dtype
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array, select
from fastdl.ops.activation import floating, logsigmoid
from fastdl.ops.arithmetic import number, sub
from fastdl.ops.arrays import full as filled
from fastdl.ops.arrays import sum_to, zeros
from fastdl.ops.cast import cast, to
from fastdl.ops.promotion import promote_types
from fastdl.ops.reduction import (
    REDUCTIONS,
    check_reduction,
    reduce_graph,
    same_dtype,
    upstream,
)
from fastdl.tensor import Tensor


class PointwiseLoss(Op):
    """A loss of ``x`` and ``target`` with the options of its kernel; the target is a constant unless a
    subclass
    says otherwise."""

    kernel: ClassVar[str]
    saves = (0, 1)

    def forward(self, x: Any, target: Any, *, options: tuple[Any, ...]) -> Any:
        self.shapes_in = (x.shape, target.shape)
        if x.shape != target.shape:
            x, target = np.broadcast_arrays(x, target)
        self.x, self.target, self.options = x, target, options
        return getattr(select(x), f"{self.kernel}_forward")(x, target, *options)

    def backward(self, grad_loss: Any) -> Any:
        grad_x = grad_target = None
        if self.needs[0] or self.symmetric:
            grad = getattr(select(grad_loss), f"{self.kernel}_backward")(
                grad_loss, self.x, self.target, *self.gradient_options()
            )
            if self.needs[1] and self.symmetric:
                out = select(grad).empty(grad.shape, grad.dtype) if self.needs[0] else grad
                grad_target = sum_to(np.negative(grad, out=out), self.shapes_in[1])
            if self.needs[0]:
                grad_x = sum_to(grad, self.shapes_in[0])
        if self.needs[1] and not self.symmetric:
            g = upstream(grad_loss, self.x.shape, self.options[-1])
            with np.errstate(all="ignore"):  # infinite slopes at the ends of the domain
                slope = self.slope_of_target(self.x, self.target)
            grad_target = sum_to(array(g * slope, None, self.x.dtype), self.shapes_in[1])
        return grad_x, grad_target

    def backward_graph(self, grad_loss: Tensor) -> Any:
        if self.needs[1] and not self.symmetric:
            self.slope_of_target(self.x, self.target)  # raises where that is not defined

        def composed(x: Any, target: Any) -> Any:
            return reduce_graph(self.losses(x, target), self.options[-1])

        # The inputs as they were given, before broadcasting.
        return replay(self, grad_loss, composed, *self.inputs())

    def inputs(self) -> tuple[Any, Any]:
        of_x, of_target = self.shapes_in
        return _unbroadcast(self.x, of_x), _unbroadcast(self.target, of_target)

    def losses(self, x: Any, target: Any) -> Any:
        """The loss of every element, in operations."""
        raise NotImplementedError(f"{self.kernel}: has no second derivative (create_graph=True)")

    symmetric: ClassVar[bool] = False
    """Whether the loss depends on x - target only, so that the target's gradient is the negative of x's."""

    def gradient_options(self) -> tuple[Any, ...]:
        return self.options  # type: ignore[no-any-return]

    def slope_of_target(self, x: Any, target: Any) -> Any:
        raise RuntimeError(f"{self.kernel}: the gradient for target is not defined; use target.detach()")


def _unbroadcast(array: Any, shape: tuple[int, ...]) -> Any:
    """What was broadcast from ``shape``."""
    if array.shape == shape:
        return array
    lead = array.ndim - len(shape)
    return array[(0,) * lead + tuple([slice(0, 1) if n == 1 else slice(None) for n in shape])]


class MseLoss(PointwiseLoss):
    kernel = "mse_loss"
    symmetric = True

    def losses(self, x: Any, target: Any) -> Any:
        return (x - target).square()


class L1Loss(PointwiseLoss):
    kernel = "l1_loss"
    symmetric = True

    def losses(self, x: Any, target: Any) -> Any:
        return (x - target).abs()


class SmoothL1Loss(PointwiseLoss):
    kernel = "smooth_l1_loss"
    symmetric = True

    def losses(self, x: Any, target: Any) -> Any:
        beta, d = self.options[0], (x - target).abs()
        return (d * d * (0.5 / beta)).where(d < beta, d - 0.5 * beta)


class HuberLoss(PointwiseLoss):
    kernel = "huber_loss"
    symmetric = True

    def losses(self, x: Any, target: Any) -> Any:
        delta, d = self.options[0], (x - target).abs()
        return (d * d * 0.5).where(d <= delta, (d - 0.5 * delta) * delta)


class KlDiv(PointwiseLoss):
    kernel = "kl_div"

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


class SoftMarginLoss(PointwiseLoss):
    kernel = "soft_margin_loss"

    def losses(self, x: Any, target: Any) -> Any:
        return -logsigmoid(target * x)


class HingeEmbeddingLoss(PointwiseLoss):
    kernel = "hinge_embedding_loss"

    def slope_of_target(self, x: Any, target: Any) -> Any:
        return np.zeros_like(target)  # the loss only asks whether it is 1 or -1

    def losses(self, x: Any, target: Any) -> Any:
        beyond = (self.options[0] - x).clamp(min=0).masked_fill(target == 1, 0.0)
        return beyond + x.masked_fill(target == -1, 0.0)


class GaussianNllLoss(Op):
    saves = (0, 1, 2)

    def forward(self, x: Any, target: Any, var: Any, *, full: bool, eps: float, reduction: str) -> Any:
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

        inputs = [_unbroadcast(a, s) for a, s in zip(self.arrays, self.shapes_in, strict=True)]
        return replay(self, grad_loss, composed, *inputs)


class MarginRankingLoss(Op):
    saves = (0, 1, 2)

    def forward(self, x1: Any, x2: Any, target: Any, *, margin: float, reduction: str) -> Any:
        self.shapes_in = (x1.shape, x2.shape, target.shape)
        if not x1.shape == x2.shape == target.shape:
            x1, x2, target = np.broadcast_arrays(x1, x2, target)
        self.arrays, self.options = (x1, x2, target), (margin, reduction)
        return select(x1).margin_ranking_loss_forward(x1, x2, target, margin, reduction)

    def backward(self, grad_loss: Any) -> Any:
        grad = select(grad_loss).margin_ranking_loss_backward(grad_loss, *self.arrays, *self.options)
        grad_target = None
        if self.needs[2]:
            x1, x2, target = self.arrays
            margin, reduction = self.options
            difference = x2 - x1
            g = upstream(grad_loss, target.shape, reduction) * (margin + target * difference >= 0)
            grad_target = sum_to(array(g * difference, None, target.dtype), self.shapes_in[2])
        return (
            sum_to(grad, self.shapes_in[0]) if self.needs[0] else None,
            sum_to(-grad, self.shapes_in[1]) if self.needs[1] else None,
            grad_target,
        )

    def backward_graph(self, grad_loss: Tensor) -> Any:
        margin, reduction = self.options

        def composed(x1: Any, x2: Any, target: Any) -> Any:
            return reduce_graph((margin - target * (x1 - x2)).clamp(min=0), reduction)

        inputs = [_unbroadcast(a, s) for a, s in zip(self.arrays, self.shapes_in, strict=True)]
        return replay(self, grad_loss, composed, *inputs)


# ------------------------------------------------------------------------------------------ checks


def _pair(op: str, input: Tensor, target: Tensor, convert: bool = False, warn: bool = False) -> Tensor:
    """The target, of input's dtype and of a shape that broadcasts with it."""
    x, t = input._data, target._data
    if x.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: input must be float32 or float64, got {x.dtype}")
    if t.dtype != x.dtype:
        if not (convert and t.dtype.kind in "biu"):
            same_dtype(op, "target", target, input)
        target = cast(target, x.dtype)
    if x.shape != t.shape:
        try:
            np.broadcast_shapes(x.shape, t.shape)
        except ValueError:
            raise ArgumentError(
                f"{op}: input of shape {x.shape} and target of shape {t.shape} do not broadcast"
            ) from None
        if warn:
            warnings.warn(
                f"{op}: target of shape {t.shape} is broadcast against input of shape {x.shape}; if that is "
                "not meant, make their shapes equal",
                stacklevel=3,
            )
    return target


def _reduction(op: str, size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is None and reduce is None and reduction in REDUCTIONS:
        return reduction
    return check_reduction(op, size_average, reduce, reduction)


def _repeated(op: str, name: str, weight: Tensor | None, input: Tensor) -> Tensor | None:
    """A weight whose shape ends input's shape (read as it is) or broadcasts to it (spread out)."""
    if weight is None:
        return None
    same_dtype(op, name, weight, input)
    w, x = weight._data, input._data
    if w.shape == x.shape[x.ndim - w.ndim :] and w.ndim <= x.ndim:
        return weight
    try:
        fits = np.broadcast_shapes(w.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentError(f"{op}: {name} of shape {w.shape} must broadcast to input's shape {x.shape}")
    return Tensor._wrap(np.broadcast_to(w, x.shape))


# ------------------------------------------------------------------------------------------ functions


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(x - t)^2, reduced. See ``torch.nn.functional.mse_loss``.

    Args:
        input, target: of one shape (others broadcast, with a warning) and one dtype.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight: factors of input's shape; ``"mean"`` then divides by their sum.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.mse_loss(fastdl.tensor([1.0, 2.0]), fastdl.tensor([1.0, 4.0]))
        tensor(2.)
    """
    return _symmetric("mse_loss", MseLoss, input, target, (), size_average, reduce, reduction, weight)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """abs(x - t), reduced; the slope at 0 is 0. See ``torch.nn.functional.l1_loss`` and :func:`mse_loss`."""
    if input.is_complex() or target.is_complex():  # the distance is real
        input, target = (
            (input - target).abs(),
            Tensor._wrap(zeros((), real_dtype(input._data.dtype), input._data)),
        )
    return _symmetric("l1_loss", L1Loss, input, target, (), size_average, reduce, reduction, weight)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d^2 / (2 beta) for d = abs(x - t) < beta, else d - beta / 2.
    See ``torch.nn.functional.smooth_l1_loss``."""
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    node, options = (L1Loss, ()) if beta == 0 else (SmoothL1Loss, (beta,))
    return _symmetric("smooth_l1_loss", node, input, target, options, size_average, reduce, reduction, None)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """d^2 / 2 for d = abs(x - t) <= delta, else delta (d - delta / 2). With ``weight`` "mean" still divides
    by the number of elements. See ``torch.nn.functional.huber_loss``."""
    if delta <= 0:
        raise ArgumentError(f"huber_loss: delta must be positive, got {delta}")
    return _symmetric("huber_loss", HuberLoss, input, target, (delta,), None, None, reduction, weight)


def _symmetric(
    op: str,
    node: type[PointwiseLoss],
    input: Tensor,
    target: Tensor,
    options: tuple[Any, ...],
    size_average: bool | None,
    reduce: bool | None,
    reduction: str,
    weight: Tensor | None,
) -> Tensor:
    reduction = _reduction(op, size_average, reduce, reduction)
    if input._data.dtype is not target._data.dtype:
        dtype = promote_types(input._data.dtype, target._data.dtype)
        input, target = to(input, dtype), to(target, dtype)
    if node is L1Loss and weight is None and reduction != "mean" and input._data.dtype.kind in "iu":
        return reduce_graph(sub(input, target).abs(), reduction)  # type: ignore[no-any-return]
    target = _pair(op, input, target, warn=True)
    if weight is None:
        return node.apply(input, target, options=(*options, reduction))  # type: ignore[no-any-return]
    if weight._data.shape != input._data.shape:
        raise ArgumentError(
            f"{op}: weight must have input's shape {input._data.shape}, got {weight._data.shape}"
        )
    same_dtype(op, "weight", weight, input)
    losses = node.apply(input, target, options=(*options, "none")) * weight
    if reduction == "none":
        return losses  # type: ignore[no-any-return]
    if reduction == "mean" and node is HuberLoss:
        return losses.mean()  # type: ignore[no-any-return]
    return losses.sum() / weight.sum() if reduction == "mean" else losses.sum()  # type: ignore[no-any-return]


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
    if reduction == "batchmean" and size_average is None and reduce is None:
        target = _pair(op, input, target)
        return KlDivBatchMean.apply(input, target, options=(log_target, "sum"))  # type: ignore[no-any-return]
    reduction = _reduction(op, size_average, reduce, reduction)
    if reduction == "mean":
        warnings.warn(
            "kl_div: reduction='mean' divides by the number of elements and is not the divergence; "
            "'batchmean' is",
            stacklevel=2,
        )
    target = _pair(op, input, target)
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
    reduction = _reduction(op, size_average, reduce, reduction)
    input = floating(input)
    target = _pair(op, input, target, convert=True)
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
    reduction = _reduction(op, None, None, reduction)
    target = _pair(op, input, target, convert=True)
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


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """log(1 + exp(-t x)) for targets -1 and 1, without overflow.
    See ``torch.nn.functional.soft_margin_loss``."""
    op = "soft_margin_loss"
    reduction = _reduction(op, size_average, reduce, reduction)
    target = _pair(op, input, target, convert=True)
    return SoftMarginLoss.apply(input, target, options=(reduction,))  # type: ignore[no-any-return]


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """x where t = 1, max(0, margin - x) where t = -1. See ``torch.nn.functional.hinge_embedding_loss``."""
    op = "hinge_embedding_loss"
    reduction = _reduction(op, size_average, reduce, reduction)
    target = _pair(op, input, target, convert=True)
    return HingeEmbeddingLoss.apply(input, target, options=(margin, reduction))  # type: ignore[no-any-return]


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, margin - t (x1 - x2)) for targets -1 and 1. See ``torch.nn.functional.margin_ranking_loss``."""
    op = "margin_ranking_loss"
    reduction = _reduction(op, size_average, reduce, reduction)
    ndims = [t._data.ndim for t in (input1, input2, target)]
    if len(set(ndims)) > 1:
        raise ArgumentError(
            f"{op}: input1, input2 and target must have as many dimensions as each other, got shapes "
            f"{input1._data.shape}, {input2._data.shape}, {target._data.shape}"
        )
    input1, input2 = floating(input1), floating(input2)
    same_dtype(op, "input2", input2, input1)
    target = _pair(op, input1, target, convert=True)
    _pair(op, input1, input2)
    return MarginRankingLoss.apply(  # type: ignore[no-any-return]
        input1, input2, target, margin=margin, reduction=reduction
    )

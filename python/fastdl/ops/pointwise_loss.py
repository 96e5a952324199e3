"""Losses that compare tensors element by element; see ``torch.nn.functional``.

Each is one kernel call each way, reduction included. Shapes that differ are broadcast.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, real_dtype
from fastdl.errors import ArgumentError
from fastdl.kernels import array, select
from fastdl.ops.activation import logsigmoid
from fastdl.ops.arithmetic import sub
from fastdl.ops.arrays import sum_to, zeros
from fastdl.ops.cast import to
from fastdl.ops.common import floating
from fastdl.ops.promotion import promote_types
from fastdl.ops.reduction import (
    check_reduction,
    kept,
    matching_target,
    promoted,
    reduce_graph,
    same_dtype,
    upstream,
)
from fastdl.tensor import Tensor


class PointwiseLoss(Op):
    """A loss of ``x`` and ``target`` with the options of its kernel; the target is a constant unless a
    subclass says otherwise."""

    floats_only = True

    kernel: ClassVar[str]
    saves: tuple[int, ...] = (0, 1)

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
        return unbroadcast(self.x, of_x), unbroadcast(self.target, of_target)

    def losses(self, x: Any, target: Any) -> Any:
        """The loss of every element, in operations."""
        raise NotImplementedError(f"{self.kernel}: has no second derivative (create_graph=True)")

    symmetric: ClassVar[bool] = False
    """Whether the loss depends on x - target only, so that the target's gradient is the negative of x's."""

    def gradient_options(self) -> tuple[Any, ...]:
        return self.options  # type: ignore[no-any-return]

    def slope_of_target(self, x: Any, target: Any) -> Any:
        raise RuntimeError(f"{self.kernel}: the gradient for target is not defined; use target.detach()")


def unbroadcast(array: Any, shape: tuple[int, ...]) -> Any:
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


class SoftMarginLoss(PointwiseLoss):
    kernel = "soft_margin_loss"

    def losses(self, x: Any, target: Any) -> Any:
        return -logsigmoid(target * x)


class HingeEmbeddingLoss(PointwiseLoss):
    kernel = "hinge_embedding_loss"
    saves = ()

    def forward(self, x: Any, target: Any, *, options: tuple[Any, ...]) -> Any:
        return super().forward(*kept(self, x, target), options=options)

    def slope_of_target(self, x: Any, target: Any) -> Any:
        return np.zeros_like(target)  # the loss only asks whether it is 1 or -1

    def losses(self, x: Any, target: Any) -> Any:
        beyond = (self.options[0] - x).clamp(min=0).masked_fill(target == 1, 0.0)
        return beyond + x.masked_fill(target == -1, 0.0)


class MarginRankingLoss(Op):
    floats_only = True

    def forward(self, x1: Any, x2: Any, target: Any, *, margin: float, reduction: str) -> Any:
        x1, x2, target = kept(self, x1, x2, target)
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

        inputs = [unbroadcast(a, s) for a, s in zip(self.arrays, self.shapes_in, strict=True)]
        return replay(self, grad_loss, composed, *inputs)


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
    loss = _symmetric("huber_loss", HuberLoss, input, target, (delta,), None, None, reduction, weight)
    kind = input._data.dtype  # not the promoted one, in PyTorch
    same = kind.kind not in FLOATING or loss._data.dtype is kind or mode.autocast is not None
    return loss if same else to(loss, kind)


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
    reduction = check_reduction(op, size_average, reduce, reduction)
    if input._data.dtype is not target._data.dtype:
        dtype = promote_types(input._data.dtype, target._data.dtype)
        input, target = to(input, dtype), to(target, dtype)
    if node is L1Loss and weight is None and reduction != "mean" and input._data.dtype.kind in "iu":
        return reduce_graph(sub(input, target).abs(), reduction)  # type: ignore[no-any-return]
    target = matching_target(op, input, target, warn=True)
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
    reduction = check_reduction(op, size_average, reduce, reduction)
    x, target = promoted(input, target)
    target = matching_target(op, x, target, convert=True)
    loss = SoftMarginLoss.apply(x, target, options=(reduction,))
    return loss if x is input else to(loss, input._data.dtype)


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
    reduction = check_reduction(op, size_average, reduce, reduction)
    x, target = promoted(input, target)
    target = matching_target(op, x, target, convert=True)
    loss = HingeEmbeddingLoss.apply(x, target, options=(margin, reduction))
    return loss if x is input else to(loss, input._data.dtype)


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
    reduction = check_reduction(op, size_average, reduce, reduction)
    ndims = [t._data.ndim for t in (input1, input2, target)]
    if len(set(ndims)) > 1:
        raise ArgumentError(
            f"{op}: input1, input2 and target must have as many dimensions as each other, got shapes "
            f"{input1._data.shape}, {input2._data.shape}, {target._data.shape}"
        )
    input1, input2, target = promoted(floating(input1), floating(input2), target)
    target = matching_target(op, input1, target, convert=True)
    matching_target(op, input1, input2)
    return MarginRankingLoss.apply(  # type: ignore[no-any-return]
        input1, input2, target, margin=margin, reduction=reduction
    )

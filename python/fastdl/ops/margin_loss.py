"""Losses that compare scores of classes with a margin, and the multi-label cross entropy; see
``torch.nn.functional``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, int64
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array, select
from fastdl.ops.activation import logsigmoid
from fastdl.ops.arrays import cast, contiguous, full
from fastdl.ops.binary_cross_entropy import binary_cross_entropy_with_logits, check_same_shape
from fastdl.ops.reduction import (
    check_reduction,
    is_learned,
    matching_target,
    promoted,
    reduce_graph,
    reduce_losses,
    refuse_learned,
    same_dtype,
    spread_weight,
    upstream,
    upstream_graph,
)
from fastdl.tensor import Tensor


class MultiMarginLoss(Op):
    floats_only = True
    saves = (0, 1, 2)

    def forward(self, x: Any, target: Any, weight: Any, *, p: int, margin: float, reduction: str) -> Any:
        self.shape, self.reduction, self.target_shape = x.shape, reduction, target.shape
        self.x = x.reshape(-1, x.shape[-1] if x.ndim else 1)
        self.options = cast(target.reshape(-1), int64), weight, p, margin
        losses = select(x).multi_margin_loss_forward(self.x, *self.options)
        return reduce_losses(losses.reshape(target.shape), reduction)

    def backward(self, grad_loss: Any) -> Any:
        g = contiguous(upstream(grad_loss, self.target_shape, self.reduction).reshape(-1))
        grad = select(grad_loss).multi_margin_loss_backward(g, self.x, *self.options)
        return grad.reshape(self.shape), None, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        index, weight, p, margin = self.options
        places = Tensor._wrap(index.reshape(-1, 1))

        def composed(x: Any, *_: Any) -> Any:
            rows = x.reshape(self.x.shape)
            gap = (rows - rows.gather(1, places) + margin).clamp(min=0).scatter(1, places, 0.0)
            losses = (gap if p == 1 else gap.square()).sum(1) / self.x.shape[1]
            if weight is not None:
                losses = losses * Tensor._wrap(weight[index])
            return reduce_graph(losses.reshape(self.target_shape), self.reduction)

        return replay(self, grad_loss, composed, self.x.reshape(self.shape), None, None)


class MultilabelMarginLoss(Op):
    floats_only = True
    saves = (0, 1)

    def forward(self, x: Any, target: Any, *, reduction: str) -> Any:
        self.shape, self.reduction = x.shape, reduction
        rows = (-1, x.shape[-1] if x.ndim else 1)
        self.arrays = x.reshape(rows), cast(target.reshape(rows), int64)
        losses = select(x).multilabel_margin_loss_forward(*self.arrays)
        return reduce_losses(losses.reshape(x.shape[:-1]), reduction)

    def backward(self, grad_loss: Any) -> Any:
        g = contiguous(upstream(grad_loss, self.shape[:-1], self.reduction).reshape(-1))
        return self._gradient(g), None

    def _gradient(self, g: Any) -> Any:
        return select(g).multilabel_margin_loss_backward(g, *self.arrays).reshape(self.shape)

    def backward_graph(self, grad_loss: Tensor) -> Any:
        x = self.arrays[0]
        g = upstream_graph(grad_loss, self.shape[:-1], self.reduction)  # which gaps are open is constant
        slope = Tensor._wrap(self._gradient(full((len(x),), 1, x.dtype, x)))
        return (g.unsqueeze(-1) if self.shape else g) * slope, None


class MultilabelSoftMarginLoss(Op):
    """The mean over classes of binary cross entropies with logits."""

    floats_only = True

    saves = (0, 1, 2)

    def forward(self, x: Any, target: Any, weight: Any, *, reduction: str) -> Any:
        self.arrays, self.reduction = (x, target, weight, None), reduction
        loss = select(x).binary_cross_entropy_with_logits_forward(*self.arrays, reduction)
        if reduction == "mean":
            return loss
        classes = x.dtype.type(x.shape[-1] if x.ndim else 1)
        return array((loss.sum(-1) if reduction == "none" and x.ndim else loss) / classes)

    def backward(self, grad_loss: Any) -> Any:
        x = self.arrays[0]
        if self.reduction != "mean":
            grad_loss = grad_loss / x.dtype.type(x.shape[-1] if x.ndim else 1)
            if self.reduction == "none" and x.ndim:
                grad_loss = np.broadcast_to(grad_loss[..., None], x.shape)
        grad_x = select(grad_loss).binary_cross_entropy_with_logits_backward(
            array(grad_loss), *self.arrays, self.reduction
        )
        return grad_x, None, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        x, target, weight, _ = self.arrays

        def composed(x: Any, *_: Any) -> Any:
            t = Tensor._wrap(target)
            losses = (1 - t) * x - logsigmoid(x)
            if weight is not None:
                losses = losses * Tensor._wrap(weight)
            return reduce_graph(losses.mean(-1) if x.ndim else losses, self.reduction)

        return replay(self, grad_loss, composed, x, None, None)


def _classes(op: str, input: Tensor) -> tuple[int, ...]:
    x = input._data
    if x.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: input must be float32 or float64, got {x.dtype}")
    if x.ndim > 2 or (x.ndim and x.shape[-1] == 0):
        raise ArgumentError(f"{op}: input must be (N, C) or (C) with at least one class, got shape {x.shape}")
    return x.shape  # type: ignore[no-any-return]


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """w_t sum over c != t of max(0, margin - x_t + x_c)^p / C, p = 1 or 2, for scores (N, C) and class
    indices (N). See ``torch.nn.functional.multi_margin_loss``."""
    op = "multi_margin_loss"
    reduction = check_reduction(op, size_average, reduce, reduction)
    if p not in (1, 2):
        raise ArgumentError(f"{op}: p must be 1 or 2, got {p}")
    shape = _classes(op, input)
    t = target._data
    if t.dtype.kind not in "iu":
        raise DtypeError(f"{op}: target of class indices must be an integer tensor, got {t.dtype}")
    if t.shape != shape[:-1] and not (len(shape) < 2 and t.size == 1):
        raise ArgumentError(f"{op}: target must have shape {shape[:-1]} for input {shape}, got {t.shape}")
    classes = shape[-1] if shape else 1
    if weight is not None:
        refuse_learned(op, "weight", weight)
        same_dtype(op, "weight", weight, input)
        if weight._data.shape != (classes,):
            raise ArgumentError(f"{op}: weight must have shape ({classes},), got {weight._data.shape}")
    return MultiMarginLoss.apply(  # type: ignore[no-any-return]
        input, target, weight, p=p, margin=margin, reduction=reduction
    )


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Sum over labels j and other classes i of max(0, 1 - (x_j - x_i)) / C, for scores (N, C) and rows of
    labels (N, C) that end at the first -1. See ``torch.nn.functional.multilabel_margin_loss``."""
    op = "multilabel_margin_loss"
    reduction = check_reduction(op, size_average, reduce, reduction)
    shape = _classes(op, input)
    t = target._data
    if t.dtype.kind not in "iu":
        raise DtypeError(f"{op}: target of class indices must be an integer tensor, got {t.dtype}")
    if t.shape != shape:
        raise ArgumentError(
            f"{op}: target must have input's shape {shape}, labels padded with -1; got {t.shape}"
        )
    return MultilabelMarginLoss.apply(input, target, reduction=reduction)  # type: ignore[no-any-return]


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over classes (the last dimension) of -w (t log sigmoid(x) + (1 - t) log sigmoid(-x)).
    See ``torch.nn.functional.multilabel_soft_margin_loss``."""
    op = "multilabel_soft_margin_loss"
    reduction = check_reduction(op, size_average, reduce, reduction)
    check_same_shape(op, input, target)
    if weight is None:
        input, target = promoted(input, target)
    else:
        input, target, weight = promoted(input, target, weight)
        if is_learned(weight):
            target = matching_target(op, input, target, convert=True)
            losses = binary_cross_entropy_with_logits(input, target, reduction="none") * weight
            return reduce_graph(losses.mean(-1), reduction)  # type: ignore[no-any-return]
    return MultilabelSoftMarginLoss.apply(  # type: ignore[no-any-return]
        input,
        matching_target(op, input, target, convert=True),
        spread_weight(op, "weight", weight, input),
        reduction=reduction,
    )

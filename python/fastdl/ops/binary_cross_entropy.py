"""Binary cross entropy, of probabilities and of logits; see ``torch.nn.functional``."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.graph import replay
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.activation import logsigmoid
from fastdl.ops.cast import to
from fastdl.ops.reduction import (
    check_reduction,
    matching_target,
    promoted,
    reduce_graph,
    spread_weight,
    upstream,
    upstream_graph,
)
from fastdl.tensor import Tensor


def _of_target(slope: Tensor, weight: Any, grad_loss: Any, reduction: str) -> Any:
    """The target's gradient, from how the losses change with it."""
    if weight is not None:
        slope = slope * Tensor._wrap(weight)
    return (slope * Tensor._wrap(upstream(grad_loss, slope.shape, reduction)))._data


class BinaryCrossEntropy(Op):
    floats_only = True
    saves = (0, 1, 2)

    def forward(self, x: Any, target: Any, weight: Any, *, reduction: str) -> Any:
        self.x, self.target, self.weight, self.reduction = x, target, weight, reduction
        return select(x).binary_cross_entropy_forward(x, target, weight, reduction)

    def backward(self, grad_loss: Any) -> Any:
        x, target, weight, reduction = self.x, self.target, self.weight, self.reduction
        grad_x = grad_target = None
        if self.needs[0]:
            grad_x = select(grad_loss).binary_cross_entropy_backward(grad_loss, x, target, weight, reduction)
        if self.needs[1]:
            p = Tensor._wrap(x)
            grad_target = _of_target((-p).log1p() - p.log(), weight, grad_loss, reduction)
        return grad_x, grad_target, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        x, target = self.saved_input(0, self.x), self.saved_input(1, self.target)
        g = upstream_graph(grad_loss, self.x.shape, self.reduction)
        if self.weight is not None:
            g = g * Tensor._wrap(self.weight)
        return (
            g * (x - target) / ((1 - x) * x).clamp(min=1e-12) if self.needs[0] else None,
            g * ((-x).log1p() - x.log()) if self.needs[1] else None,
            None,
        )


class BinaryCrossEntropyWithLogits(Op):
    floats_only = True
    saves = (0, 1, 2, 3)

    def forward(self, x: Any, target: Any, weight: Any, pos_weight: Any, *, reduction: str) -> Any:
        self.arrays, self.reduction = (x, target, weight, pos_weight), reduction
        return select(x).binary_cross_entropy_with_logits_forward(*self.arrays, reduction)

    def backward(self, grad_loss: Any) -> Any:
        x, _, weight, pos_weight = self.arrays
        grad_x = grad_target = None
        if self.needs[0]:
            grad_x = select(grad_loss).binary_cross_entropy_with_logits_backward(
                grad_loss, *self.arrays, self.reduction
            )
        if self.needs[1]:  # -x + (p - 1) softplus(-x)
            logits = Tensor._wrap(x)
            slope = -logits
            if pos_weight is not None:
                slope = slope + (1 - Tensor._wrap(pos_weight)) * logsigmoid(logits)
            grad_target = _of_target(slope, weight, grad_loss, self.reduction)
        return grad_x, grad_target, None, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        x, target, weight, pos_weight = self.arrays

        def composed(x: Any, target: Any, *_: Any) -> Any:
            # As softplus(-x) without the point from which on F.softplus is taken as straight.
            factor = 1 if pos_weight is None else target * Tensor._wrap(pos_weight - 1) + 1
            losses = (1 - target) * x - logsigmoid(x) * factor
            if weight is not None:
                losses = losses * Tensor._wrap(weight)
            return reduce_graph(losses, self.reduction)

        return replay(self, grad_loss, composed, x, target, None, None)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-w (t log x + (1 - t) log(1 - x)) for probabilities x; logarithms end at -100.

    Args:
        input: probabilities in [0, 1]; ValueError otherwise.
        target: of input's shape and dtype.
        weight: factors that broadcast to input's shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    See ``torch.nn.functional.binary_cross_entropy``; for logits use :func:`binary_cross_entropy_with_logits`.
    """
    op = "binary_cross_entropy"
    reduction = check_reduction(op, size_average, reduce, reduction)
    check_same_shape(op, input, target)
    return BinaryCrossEntropy.apply(  # type: ignore[no-any-return]
        input,
        matching_target(op, input, target),
        spread_weight(op, "weight", weight if weight is None else _as_input(weight, input), input),
        reduction=reduction,
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-w (p t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), computed without overflow.

    Args:
        input: logits of any shape.
        target: of input's shape; its dtype is the result's.
        weight: factors that broadcast to input's shape.
        pos_weight: factors p of the positive term, likewise; usually one per class, the last dimension.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    See ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Example:
        >>> import fastdl
        >>> F = fastdl.nn.functional
        >>> F.binary_cross_entropy_with_logits(fastdl.tensor([0.0, 0.0]), fastdl.tensor([0.0, 1.0]))
        tensor(0.6931)
    """
    op = "binary_cross_entropy_with_logits"
    reduction = check_reduction(op, size_average, reduce, reduction)
    check_same_shape(op, input, target)
    x, t = input, target
    if x._data.dtype is not t._data.dtype:
        x, t = promoted(x, t)
    if weight is not None:
        weight = _as_input(weight, x)
    if pos_weight is not None:
        pos_weight = _as_input(pos_weight, x)
    loss = BinaryCrossEntropyWithLogits.apply(
        x,
        matching_target(op, x, t),
        spread_weight(op, "weight", weight, x),
        spread_weight(op, "pos_weight", pos_weight, x),
        reduction=reduction,
    )
    return loss if t is target else to(loss, target._data.dtype)


def _as_input(weight: Tensor, input: Tensor) -> Tensor:
    """The weight in the dtype of the input, unless autocast chooses it."""
    dtype = input._data.dtype
    return weight if weight._data.dtype is dtype or mode.autocast is not None else to(weight, dtype)


def check_same_shape(op: str, input: Tensor, target: Tensor) -> None:
    x, t = input._data, target._data
    if x.shape != t.shape:
        hint = ". Use target.reshape(input.shape)" if x.size == t.size else ""
        raise ArgumentError(f"{op}: target must have input's shape {x.shape}, got {t.shape}{hint}")

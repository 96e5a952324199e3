"""Classification losses over logits or log-probabilities; see ``torch.nn.functional``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import OF_ITSELF, Op
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array as as_array
from fastdl.kernels import select
from fastdl.ops.reduction import (
    REDUCTIONS,
    check_reduction,
    is_learned,
    promoted,
    reduce_graph,
    refuse_learned,
    same_dtype,
)
from fastdl.ops.softmax import LogSoftmax, Softmax
from fastdl.tensor import Tensor


def _class_dim(x: Any) -> tuple[Any, int]:
    """The logits and their class dimension: as they stand, or, if the classes lie last in memory, moved
    there."""
    if x.ndim > 2 and not x.flags.c_contiguous:
        moved = np.moveaxis(x, 1, -1)
        if moved.flags.c_contiguous:
            return moved, x.ndim - 1
    return x, 1 if x.ndim > 1 else 0


def _class_dim_back(grad: Any, dim: int) -> Any:
    return np.moveaxis(grad, dim, 1) if dim > 1 else grad


class CrossEntropy(Op):
    saves = (0, 1, 2)

    def forward(
        self, x: Any, target: Any, weight: Any, *, ignore_index: int, smoothing: float, reduction: str
    ) -> Any:
        x, dim = _class_dim(x)
        if target.dtype != np.int64:
            target = target.astype(np.int64)
        self.x, self.target, self.weight = x, target, weight
        self.options = options = (dim, ignore_index, smoothing, reduction)
        loss, self.statistics, self.normaliser = select(x).cross_entropy_forward(x, target, weight, *options)
        return loss

    def backward(self, grad_loss: Any) -> Any:
        grad = select(grad_loss).cross_entropy_backward(
            grad_loss, self.x, self.target, self.weight, self.statistics, self.normaliser, *self.options
        )
        return _class_dim_back(grad, self.options[0]), None, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        """g (softmax(x)_c sum_k w_k q_k - w_c q_c), with the weights w q constant."""
        dim, ignore_index, smoothing, reduction = self.options
        target, axis = self.target, 1 if self.x.ndim > 1 else 0
        x, dtype = self.saved_input(0, _class_dim_back(self.x, dim)), self.x.dtype
        if dtype.itemsize == 2:  # in float32
            x, grad_loss = x.float(), grad_loss.float()
        q = _per_class(target, self.weight, self.x.shape[dim], x._data.dtype, ignore_index, smoothing)
        total = Tensor._wrap(q.sum(axis, keepdims=True))
        g = _upstream_graph(grad_loss, self.normaliser, reduction, axis, target == ignore_index)
        return (g * (Softmax.apply(x, dim=axis) * total - Tensor._wrap(q))).to(dtype), None, None


def _per_class(
    target: Any, weight: Any, classes: int, dtype: Any, ignore_index: int, smoothing: float
) -> Any:
    """w_c q_c for every position, the classes as axis 1 (0 for a single position); zero where ignored."""
    counted = target != ignore_index
    index = np.where(counted, target, 0)
    q = (1 - smoothing) * (index[..., None] == np.arange(classes, like=target)) + smoothing / max(classes, 1)
    if weight is not None:
        q = q * weight
    return np.moveaxis((q * counted[..., None]).astype(dtype), -1, 1 if target.ndim else 0)


def _upstream_graph(grad_loss: Any, normaliser: Any, reduction: str, axis: int, ignored: Any) -> Any:
    """The gradient of every position's loss, with an axis for the classes: 0 where ``ignored``, though all are."""
    g = grad_loss / Tensor._wrap(as_array(normaliser)) if reduction == "mean" else grad_loss
    g = g.unsqueeze(axis) if reduction == "none" else g
    return g.masked_fill(Tensor._wrap(np.expand_dims(ignored, axis)), 0)


class CrossEntropyProbabilities(Op):
    floats_only = True
    saves = (0, 1, 2)

    def forward(self, x: Any, target: Any, weight: Any, *, smoothing: float, reduction: str) -> Any:
        x, dim = _class_dim(x)
        self.x, self.weight = x, weight
        self.target = target = np.moveaxis(target, 1, -1) if dim > 1 else target
        self.options = options = (dim, smoothing, reduction)
        loss, self.statistics = select(x).cross_entropy_probabilities_forward(x, target, weight, *options)
        return loss

    def backward(self, grad_loss: Any) -> Any:
        grad_x = grad_target = None
        if self.needs[0]:
            grad_x = select(grad_loss).cross_entropy_probabilities_backward(
                grad_loss, self.x, self.target, self.weight, self.statistics, *self.options
            )
            grad_x = _class_dim_back(grad_x, self.options[0])
        if self.needs[1]:
            grad_target = _class_dim_back(self._grad_target(grad_loss), self.options[0])
        return grad_x, grad_target, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        dim, *options = self.options

        def composed(x: Any, target: Any, _: Any) -> Any:
            weight = None if self.weight is None else Tensor._wrap(self.weight)
            return _of_probabilities(x, target, weight, *options)

        x, target = _class_dim_back(self.x, dim), _class_dim_back(self.target, dim)
        return replay(self, grad_loss, composed, x, target, None)

    def _grad_target(self, grad_loss: Any) -> Any:
        """-(1 - s) g w_c log softmax(x)_c"""
        dim, smoothing, reduction = self.options
        grad = select(grad_loss).log_softmax_forward(self.x, dim)
        if reduction == "none":
            g = np.expand_dims(grad_loss, dim)
        elif reduction == "mean":
            g = grad_loss * grad.dtype.type(grad.shape[dim] / max(grad.size, 1))
        else:
            g = grad_loss
        grad *= g * grad.dtype.type(smoothing - 1)
        if self.weight is not None:
            grad *= self.weight.reshape((-1,) + (1,) * (grad.ndim - 1 - dim))
        return grad


def _of_probabilities(x: Any, target: Any, weight: Any, smoothing: float, reduction: str) -> Any:
    """The loss in operations, to be differentiated twice, or by the weight."""
    axis = 1 if x.ndim > 1 else 0
    q = target * (1 - smoothing) + smoothing / max(x.shape[axis], 1)
    if weight is not None:
        q = q * weight.reshape(-1, *[1] * (x.ndim - 1 - axis))
    return reduce_graph(-(q * LogSoftmax.apply(x, dim=axis)).sum(axis), reduction)


class NllLoss(Op):
    flat = OF_ITSELF
    saves = (1, 2)

    def forward(self, x: Any, target: Any, weight: Any, *, ignore_index: int, reduction: str) -> Any:
        x, dim = _class_dim(x)
        if target.dtype != np.int64:
            target = target.astype(np.int64)
        self.target, self.weight, self.classes = target, weight, x.shape[dim]
        self.options = options = (dim, ignore_index, reduction)
        loss, self.normaliser = select(x).nll_loss_forward(x, target, weight, *options)
        return loss

    def backward(self, grad_loss: Any) -> Any:
        grad = select(grad_loss).nll_loss_backward(
            grad_loss, self.target, self.weight, self.normaliser, self.classes, *self.options
        )
        return _class_dim_back(grad, self.options[0]), None, None

    def backward_graph(self, grad_loss: Tensor) -> Any:
        _dim, ignore_index, reduction = self.options
        q = _per_class(self.target, self.weight, self.classes, grad_loss._data.dtype, ignore_index, 0.0)
        axis, ignored = 1 if self.target.ndim else 0, self.target == ignore_index
        g = _upstream_graph(grad_loss, self.normaliser, reduction, axis, ignored)
        return g * Tensor._wrap(-q), None, None


def _check_input(op: str, input: Tensor, weight: Tensor | None) -> None:
    x = input._data
    if x.ndim == 0:
        raise ArgumentError(
            f"{op}: input must be (C), (N, C) or (N, C, d1, ...) with C classes, got shape ()"
        )
    if x.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: input must be float32 or float64, got {x.dtype}")
    if weight is not None:
        classes = x.shape[1 if x.ndim > 1 else 0]
        if weight._data.shape != (classes,):
            raise ArgumentError(
                f"{op}: weight must have shape ({classes},), one entry per class of input {x.shape}, got "
                f"{weight._data.shape}"
            )
        same_dtype(op, "weight", weight, input)


def _check_indices(op: str, x: Any, target: Any, or_else: str) -> None:
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if target.dtype.kind not in "iu":
        hint = ". Use target.to(fastdl.int64)" if target.shape == expected else ""
        raise DtypeError(f"{op}: target of class indices must be an integer tensor, got {target.dtype}{hint}")
    if target.shape != expected:
        if target.size == int(np.prod(expected)) and target.ndim == len(expected) + 1:
            or_else = f". For one label per row drop the extra dimension: target.reshape{expected}"
        raise ArgumentError(
            f"{op}: target must have shape {expected}, input's {x.shape} without the class dimension, got "
            f"{target.shape}{or_else}"
        )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross entropy between logits and class indices or class probabilities.

    ``loss = -sum_c w_c q_c log softmax(x)_c``, where q is 1 at the target (or the given probabilities), mixed
    with the uniform distribution: ``(1 - label_smoothing) q + label_smoothing / C``. See
    ``torch.nn.functional.cross_entropy``.

    Args:
        input: logits (C), (N, C) or (N, C, d1, ...), float32 or float64.
        target: integer class indices of shape () or (1), (N), or (N, d1, ...); or probabilities of input's shape.
        weight: one factor per class (C).
        ignore_index: targets with this index neither count nor receive a gradient.
        reduction: ``"mean"`` (over indices: divided by the sum of the counted targets' weights; over
            probabilities: by the number of positions), ``"sum"``, or ``"none"``.
        label_smoothing: in [0, 1].

    Raises IndexError for a target out of range, ValueError and TypeError for shapes and dtypes that do not
    fit.

    Example:
        >>> import fastdl
        >>> F = fastdl.nn.functional
        >>> F.cross_entropy(fastdl.tensor([[0.0, 0.0], [0.0, 0.0]]), fastdl.tensor([0, 1]))
        tensor(0.6931)
    """
    if size_average is not None or reduce is not None or reduction not in REDUCTIONS:
        reduction = check_reduction("cross_entropy", size_average, reduce, reduction)
    probabilities = target._data.shape == input._data.shape
    if probabilities and weight is not None:
        input, target, weight = promoted(input, target, weight)
    elif probabilities and target._data.dtype is not input._data.dtype:
        input, target = promoted(input, target)
    _check_input("cross_entropy", input, weight)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"cross_entropy: label_smoothing must lie in [0, 1], got {label_smoothing}")
    x, t = input._data, target._data
    if probabilities:
        if t.dtype.kind not in FLOATING:
            raise DtypeError(
                f"cross_entropy: target has input's shape {x.shape}, which means class probabilities, so it "
                f"must be floating point, got {t.dtype}. Class indices would have shape "
                f"{x.shape[:1] + x.shape[2:]}"
            )
        if ignore_index >= 0:
            raise ArgumentError(
                f"cross_entropy: ignore_index is for targets of class indices, got {ignore_index} with probabilities; "
                "give positions to ignore a row of zeros"
            )
        if is_learned(weight):
            return _of_probabilities(input, target, weight, label_smoothing, reduction)  # type: ignore[no-any-return]
        return CrossEntropyProbabilities.apply(  # type: ignore[no-any-return]
            input, target, weight, smoothing=label_smoothing, reduction=reduction
        )
    if weight is not None:
        refuse_learned("cross_entropy", "weight", weight)
    if x.ndim == 1 and t.shape == (1,):
        target = target.reshape(())
    _check_indices("cross_entropy", x, target._data, f". Class probabilities would have shape {x.shape}")
    return CrossEntropy.apply(  # type: ignore[no-any-return]
        input, target, weight, ignore_index=ignore_index, smoothing=label_smoothing, reduction=reduction
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log likelihood: ``-w_t x_t`` for log-probabilities x and class indices t.

    Shapes, ``weight``, ``ignore_index`` and ``reduction`` as in :func:`cross_entropy`, which equals
    ``nll_loss(log_softmax(input, 1), target)``. See ``torch.nn.functional.nll_loss``.

    Example:
        >>> import fastdl
        >>> F = fastdl.nn.functional
        >>> F.nll_loss(fastdl.tensor([[-0.5, -1.0]]), fastdl.tensor([1]))
        tensor(1.)
    """
    if size_average is not None or reduce is not None or reduction not in REDUCTIONS:
        reduction = check_reduction("nll_loss", size_average, reduce, reduction)
    _check_input("nll_loss", input, weight)
    if weight is not None:
        refuse_learned("nll_loss", "weight", weight)
    if input._data.ndim == 1 and target._data.shape == (1,):
        target = target.reshape(())
    _check_indices("nll_loss", input._data, target._data, "")
    return NllLoss.apply(  # type: ignore[no-any-return]
        input, target, weight, ignore_index=ignore_index, reduction=reduction
    )

"""Similarities and distances of corresponding vectors, and the losses made of them; see
``torch.nn.functional``."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array, select
from fastdl.ops.arithmetic import div
from fastdl.ops.arrays import empty, sum_to
from fastdl.ops.cast import to
from fastdl.ops.common import axis, floating
from fastdl.ops.elementwise import clamp
from fastdl.ops.reduce import vector_norm
from fastdl.ops.reduction import (
    REDUCTIONS,
    check_reduction,
    promoted,
    reduce_graph,
    reduce_losses,
    same_dtype,
    upstream,
)
from fastdl.ops.views import broadcast_tensors, reshape
from fastdl.tensor import Tensor


def _broadcast(op: str, x1: Any, x2: Any) -> tuple[Any, Any]:
    if x1.shape == x2.shape:
        return x1, x2
    try:
        first, second = np.broadcast_arrays(x1, x2)
    except ValueError:
        raise ArgumentError(f"{op}: shapes {x1.shape} and {x2.shape} do not broadcast") from None
    return first, second


class CosineSimilarity(Op):
    floats_only = True
    saves = (0, 1)

    def forward(self, x1: Any, x2: Any, *, dim: int, eps: float) -> Any:
        self.given, self.shapes_in = (x1, x2), (x1.shape, x2.shape)
        x1, x2 = _broadcast("cosine_similarity", x1, x2)
        self.dim = dim
        self.x1, self.x2 = np.moveaxis(x1, dim, -1), np.moveaxis(x2, dim, -1)
        k = select(x1)
        sums = k.row_products_forward(self.x1, self.x2)
        self.dot, self.norms, self.eps = sums[0, ...], sums[1:], sums.dtype.type(eps)
        k.sqrt_forward(self.norms, self.norms)
        self.lengths = k.clamp_forward(self.norms, eps, inf)
        product = k.mul_forward(self.lengths[0, ...], self.lengths[1, ...])
        return k.div_forward(self.dot, product, product)

    @np.errstate(all="ignore")
    def backward(self, grad: Any) -> Any:
        # cos = dot / (l1 l2): d cos / d(x . x) = -cos / (2 l^2), nothing where eps replaced the length.
        grad_sums = empty((3, *grad.shape), grad.dtype, grad)
        product = self.lengths[0] * self.lengths[1]
        grad_sums[0] = grad / product
        share = grad * (self.dot / product) * grad.dtype.type(-0.5)
        grad_sums[1:] = np.where(self.norms > self.eps, share / (self.lengths * self.lengths), 0)
        grads = select(grad).row_products_backward(grad_sums, self.x1, self.x2, self.needs)
        return tuple(
            [
                None if g is None else sum_to(np.moveaxis(g, -1, self.dim), shape)
                for g, shape in zip(grads, self.shapes_in, strict=True)
            ]
        )

    def backward_graph(self, grad: Tensor) -> Any:
        def composed(x1: Any, x2: Any) -> Any:
            x1, x2 = broadcast_tensors(x1, x2)
            lengths = [vector_norm(x, 2, self.dim, True).clamp(min=float(self.eps)) for x in (x1, x2)]
            return (x1 * x2 / (lengths[0] * lengths[1])).sum(self.dim)

        return replay(self, grad, composed, *self.given)


class PairwiseDistance(Op):
    floats_only = True
    saves, saves_output = (0, 1), True

    def forward(self, x1: Any, x2: Any, *, p: float, eps: float, keepdim: bool) -> Any:
        self.given = x1, x2
        self.shapes_in, self.options, self.keepdim = (x1.shape, x2.shape), (p, eps), keepdim
        self.x1, self.x2 = _broadcast("pairwise_distance", x1, x2)
        self.distance = select(x1).pairwise_distance_forward(self.x1, self.x2, p, eps)
        return self.distance[..., None] if keepdim else self.distance

    def backward(self, grad: Any) -> Any:
        grad = select(grad).pairwise_distance_backward(
            grad[..., 0] if self.keepdim else grad, self.x1, self.x2, self.distance, *self.options
        )
        return (
            sum_to(grad, self.shapes_in[0]) if self.needs[0] else None,
            sum_to(-grad, self.shapes_in[1]) if self.needs[1] else None,
        )

    def backward_graph(self, grad: Tensor) -> Any:
        p, eps = self.options

        def composed(x1: Any, x2: Any) -> Any:
            return vector_norm(x1 - x2 + eps, p, -1, self.keepdim)

        return replay(self, grad, composed, *self.given)


class CosineEmbeddingLoss(Op):
    floats_only = True
    saves = (0, 1, 2)

    def forward(self, x1: Any, x2: Any, target: Any, *, margin: float, reduction: str) -> Any:
        self.x1, self.x2, self.reduction = x1, x2, reduction
        dot, square1, square2 = select(x1).row_products_forward(x1, x2)
        dtype = dot.dtype.type
        self.square1, self.square2 = square1 + dtype(1e-12), square2 + dtype(1e-12)
        self.length = np.sqrt(self.square1 * self.square2)
        self.cosine = cosine = dot / self.length
        together, apart = target == 1, target == -1
        losses = np.where(together, 1 - cosine, 0) + np.where(apart, np.maximum(cosine - dtype(margin), 0), 0)
        self.slope = np.where(together, -1, 0) + np.where(apart & (cosine >= dtype(margin)), 1, 0)
        return reduce_losses(array(losses, None, dot.dtype), reduction)

    def backward(self, grad_loss: Any) -> Any:
        g = upstream(grad_loss, self.cosine.shape, self.reduction) * self.slope
        grad_sums = empty((3, *self.cosine.shape), grad_loss.dtype, grad_loss)
        grad_sums[0] = g / self.length
        grad_sums[1] = g * self.cosine / (-2 * self.square1)
        grad_sums[2] = g * self.cosine / (-2 * self.square2)
        return (
            *select(grad_loss).row_products_backward(grad_sums, self.x1, self.x2, self.needs[:2]),
            None,
        )

    def backward_graph(self, grad_loss: Tensor) -> Any:
        slope = Tensor._wrap(
            array(self.slope, self.x1, grad_loss._data.dtype)
        )  # of the loss for the cosine: constant

        def composed(x1: Any, x2: Any, _: Any) -> Any:
            squares = ((x1 * x1).sum(-1) + 1e-12) * ((x2 * x2).sum(-1) + 1e-12)
            return reduce_graph((x1 * x2).sum(-1) * squares.rsqrt() * slope, self.reduction)

        return replay(self, grad_loss, composed, self.x1, self.x2, None)


class TripletMarginLoss(Op):
    floats_only = True
    saves = (0, 1, 2)

    def forward(
        self, a: Any, p: Any, n: Any, *, margin: float, norm: float, eps: float, swap: bool, reduction: str
    ) -> Any:
        self.given, self.shapes_in = (a, p, n), (a.shape, p.shape, n.shape)
        if not a.shape == p.shape == n.shape:
            a, p, n = np.broadcast_arrays(a, p, n)
        self.arrays, self.norm, self.reduction = (a, p, n), (norm, eps), reduction
        distance = select(a).pairwise_distance_forward
        self.near, self.far = distance(a, p, norm, eps), distance(a, n, norm, eps)
        self.other, far = None, self.far
        if swap:
            self.other = distance(p, n, norm, eps)
            far = np.minimum(self.far, self.other)
        losses = self.near - far + self.near.dtype.type(margin)
        self.active = losses >= 0
        return reduce_losses(np.maximum(losses, 0), reduction)

    def backward(self, grad_loss: Any) -> Any:
        k = select(grad_loss)
        gradient = k.pairwise_distance_backward
        a, p, n = self.arrays
        g = upstream(grad_loss, self.active.shape, self.reduction)
        g = array(np.where(self.active, g, 0), None, grad_loss.dtype)
        grad_a = gradient(g, a, p, self.near, *self.norm)
        grad_p = k.neg_forward(grad_a)
        g_far, g_other = g, None
        if self.other is not None:  # equal distances share the gradient
            half = grad_loss.dtype.type(0.5)
            g_far = np.where(self.far < self.other, g, np.where(self.far == self.other, g * half, 0))
            g_other = array(g - g_far, None, g.dtype)
        away = gradient(array(-g_far, None, g.dtype), a, n, self.far, *self.norm)
        grad_n = k.neg_forward(away)
        grad_a = k.add_forward(grad_a, away, grad_a)
        if g_other is not None:
            away = gradient(k.neg_forward(g_other), p, n, self.other, *self.norm)
            grad_p, grad_n = k.add_forward(grad_p, away, grad_p), k.sub_forward(grad_n, away, grad_n)
        grads = zip((grad_a, grad_p, grad_n), self.shapes_in, self.needs, strict=True)
        return tuple([sum_to(grad, shape) if need else None for grad, shape, need in grads])

    def backward_graph(self, grad_loss: Tensor) -> Any:
        norm, eps = self.norm

        def composed(a: Any, p: Any, n: Any) -> Any:
            near, far = vector_norm(a - p + eps, norm, -1), vector_norm(a - n + eps, norm, -1)
            if self.other is not None:
                far = far.minimum(vector_norm(p - n + eps, norm, -1))
            inactive = Tensor._wrap(~self.active)
            return reduce_graph((near - far).masked_fill(inactive, 0.0), self.reduction)

        return replay(self, grad_loss, composed, *self.given)


# ------------------------------------------------------------------------------------------ functions


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along ``dim``; shapes broadcast.
    See ``torch.nn.functional.cosine_similarity``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([[1.0, 0.0]])
        >>> fastdl.nn.functional.cosine_similarity(x, fastdl.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([1., 0.])
    """
    op = "cosine_similarity"
    x1, x2 = promoted(x1, x2)
    same_dtype(op, "x2", x2, x1)
    if x1._data.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: x1 must be float32 or float64, got {x1._data.dtype}")
    ndim = max(x1._data.ndim, x2._data.ndim)
    if ndim == 0:  # a row of one element
        return reshape(cosine_similarity(reshape(x1, (1,)), reshape(x2, (1,)), dim, eps), ())
    return CosineSimilarity.apply(x1, x2, dim=axis(op, dim, ndim), eps=eps)  # type: ignore[no-any-return]


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """|x1 - x2 + eps|_p over the last dimension; shapes broadcast.
    See ``torch.nn.functional.pairwise_distance``."""
    op = "pairwise_distance"
    x1, x2 = promoted(floating(x1), floating(x2))
    same_dtype(op, "x2", x2, x1)
    if max(x1._data.ndim, x2._data.ndim) == 0:
        raise ArgumentError(f"{op}: x1 and x2 must have at least one dimension")
    if p < 0 or x1._data.dtype.kind == "c":
        return vector_norm(x1 - x2 + eps, p, -1, keepdim)
    return PairwiseDistance.apply(x1, x2, p=float(p), eps=eps, keepdim=keepdim)  # type: ignore[no-any-return]


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos(x1, x2) where the target is 1, max(0, cos - margin) where it is -1.

    Inputs (N, D) with targets (N), or (D) with (). See ``torch.nn.functional.cosine_embedding_loss``.
    """
    op = "cosine_embedding_loss"
    if size_average is not None or reduce is not None or reduction not in REDUCTIONS:
        reduction = check_reduction(op, size_average, reduce, reduction)
    input1, input2 = promoted(floating(input1), floating(input2))
    same_dtype(op, "input2", input2, input1)
    a, b, t = input1._data, input2._data, target._data
    if t.ndim > 1 or a.ndim != t.ndim + 1 or a.shape != b.shape or a.shape[:-1] != t.shape:
        raise ArgumentError(
            f"{op}: inputs must be (N, D) with target (N), or (D) with target (), got "
            f"{a.shape}, {b.shape} and {t.shape}"
        )
    if t.dtype.kind in FLOATING and t.dtype is not a.dtype:  # half precision beside another dtype has no rule
        target = to(target, a.dtype)
    return CosineEmbeddingLoss.apply(  # type: ignore[no-any-return]
        input1, input2, target, margin=margin, reduction=reduction
    )


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with :func:`pairwise_distance` d over the
    last dimension; ``swap`` takes d(positive, negative) if it is smaller. See
    ``torch.nn.functional.triplet_margin_loss``.
    """
    op = "triplet_margin_loss"
    if size_average is not None or reduce is not None or reduction not in REDUCTIONS:
        reduction = check_reduction(op, size_average, reduce, reduction)
    if margin <= 0:
        raise ArgumentError(f"{op}: margin must be positive, got {margin}")
    shapes = [t._data.shape for t in (anchor, positive, negative)]
    if not len(shapes[0]) == len(shapes[1]) == len(shapes[2]) >= 1:
        raise ArgumentError(
            f"{op}: anchor, positive and negative must have as many dimensions, at least one; got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ArgumentError(
            f"{op}: anchor, positive and negative of shapes {shapes[0]}, {shapes[1]} and {shapes[2]} do not broadcast"
        ) from None
    anchor, positive, negative = promoted(floating(anchor), floating(positive), floating(negative))
    same_dtype(op, "positive", positive, anchor)
    same_dtype(op, "negative", negative, anchor)
    if p < 0 or anchor._data.dtype.kind == "c":

        def distance(x1: Tensor, x2: Tensor) -> Tensor:
            return pairwise_distance(x1, x2, p, eps)

        return triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=distance,
            margin=margin,
            swap=swap,
            reduction=reduction,
        )
    return TripletMarginLoss.apply(  # type: ignore[no-any-return]
        anchor, positive, negative, margin=margin, norm=float(p), eps=eps, swap=swap, reduction=reduction
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Any = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """:func:`triplet_margin_loss` with any distance of two tensors.
    See ``torch.nn.functional.triplet_margin_with_distance_loss``."""
    op = "triplet_margin_with_distance_loss"
    if reduction not in REDUCTIONS:
        reduction = check_reduction(op, None, None, reduction)
    if margin <= 0:
        raise ArgumentError(f"{op}: margin must be positive, got {margin}")
    distance = pairwise_distance if distance_function is None else distance_function
    near: Any = distance(anchor, positive)
    far: Any = distance(anchor, negative)
    if swap:
        far = far.minimum(distance(positive, negative))
    losses = (near - far + margin).clamp(min=0)
    if reduction == "none":
        return losses  # type: ignore[no-any-return]
    return losses.mean() if reduction == "mean" else losses.sum()  # type: ignore[no-any-return]


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    """Vectors along ``dim`` divided by their p-norm, or by ``eps`` if that is larger.

    See ``torch.nn.functional.normalize``.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.normalize(fastdl.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    return div(input, clamp(vector_norm(input, p, dim, True), min=eps), out=out)

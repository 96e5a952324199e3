"""Similarities and distances of corresponding vectors, and the losses made of them; see
``torch.nn.functional``."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array, on_device, select
from fastdl.ops.activation import floating
from fastdl.ops.arithmetic import div, sub
from fastdl.ops.arrays import empty, sum_to, zeros
from fastdl.ops.cast import to
from fastdl.ops.common import axis
from fastdl.ops.elementwise import clamp, where
from fastdl.ops.gather import index_select
from fastdl.ops.promotion import is_kernel_dtype
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
from fastdl.ops.views import broadcast_tensors, reshape, unsqueeze
from fastdl.sequences import triu_indices
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
        dot, square1, square2 = select(x1).row_products_forward(self.x1, self.x2)
        self.norm1, self.norm2, self.eps = np.sqrt(square1), np.sqrt(square2), dot.dtype.type(eps)
        self.length1, self.length2 = np.maximum(self.norm1, self.eps), np.maximum(self.norm2, self.eps)
        self.dot = dot
        return array(dot / (self.length1 * self.length2))

    def backward(self, grad: Any) -> Any:
        # cos = dot / (l1 l2): d cos / d(x . x) = -cos / (2 l^2), nothing where eps replaced the length.
        grad_sums = empty((3, *grad.shape), grad.dtype, grad)
        lengths = self.length1 * self.length2
        grad_sums[0] = grad / lengths
        share = grad * (self.dot / lengths) * grad.dtype.type(-0.5)
        grad_sums[1] = np.where(self.norm1 > self.eps, share / (self.length1 * self.length1), 0)
        grad_sums[2] = np.where(self.norm2 > self.eps, share / (self.length2 * self.length2), 0)
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
        gradient = select(grad_loss).pairwise_distance_backward
        a, p, n = self.arrays
        g = upstream(grad_loss, self.active.shape, self.reduction)
        g = array(np.where(self.active, g, 0), None, grad_loss.dtype)
        grad_a = gradient(g, a, p, self.near, *self.norm)
        grad_p, grad_n = -grad_a, np.zeros_like(grad_a)
        g_far, g_other = g, None
        if self.other is not None:  # equal distances share the gradient
            half = grad_loss.dtype.type(0.5)
            g_far = np.where(self.far < self.other, g, np.where(self.far == self.other, g * half, 0))
            g_other = array(g - g_far, None, g.dtype)
        away = gradient(array(-g_far, None, g.dtype), a, n, self.far, *self.norm)
        grad_a += away
        grad_n -= away
        if g_other is not None:
            away = gradient(-g_other, p, n, self.other, *self.norm)
            grad_p += away
            grad_n -= away
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


def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """The p-norm distances of all pairs of rows: ``(*, P, M)`` and ``(*, R, M)`` give ``(*, P, R)``.

    Differences are computed one by one, which is accurate also for close rows; Euclidean distances of more than 25 rows
    of more than 8 numbers come from one matrix product instead, unless ``compute_mode`` is
    ``"donot_use_mm_for_euclid_dist"`` (always with ``"use_mm_for_euclid_dist"``). See
    ``torch.cdist``.
    """
    if x1._data.ndim < 2 or x2._data.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ArgumentError(
            f"cdist: expects (*, P, M) and (*, R, M) with one M, got shapes {x1.shape} and {x2.shape}"
        )
    if p < 0:
        raise ArgumentError(f"cdist: p must not be negative, got {p}")
    if compute_mode not in _MODES:
        raise ArgumentError(f"cdist: compute_mode must be one of {', '.join(_MODES)}, got {compute_mode!r}")
    many = max(x1.shape[-2], x2.shape[-2]) > 25 and x1.shape[-1] > 8
    product = many if compute_mode == _MODES[0] else compute_mode == _MODES[1]
    a, b = x1._data, x2._data
    if p == 2 and product and min(*x1.shape[-2:], x2.shape[-2]) > 0:
        if a.dtype is b.dtype and is_kernel_dtype(a.dtype):
            return Euclidean.apply(x1, x2)  # type: ignore[no-any-return]
        return _euclidean(x1, x2)
    if (
        a.dtype is b.dtype
        and is_kernel_dtype(a.dtype)
        and a.shape[:-2] == b.shape[:-2]
        and a.shape[-1] > 0
        and not (on_device(a) or on_device(b))
    ):
        return Cdist.apply(x1, x2, p=float(p))  # type: ignore[no-any-return]
    return _norms(x1, x2, p)


def _norms(x1: Tensor, x2: Tensor, p: float) -> Tensor:
    """:func:`cdist` composed of all differences and their norms."""
    differences = sub(unsqueeze(x1, -2), unsqueeze(x2, -3))
    if p == float("inf") and x1.shape[-1] == 0:
        p = 1.0
    return vector_norm(differences, p, -1)


class Cdist(Op):
    """The distances of all pairs without their differences in memory."""

    floats_only = True

    saves = (0, 1)
    saves_output = True

    def forward(self, x1: Any, x2: Any, *, p: float) -> Any:
        self.given, self.p = (x1, x2), p
        self.x1, self.x2 = (x.reshape(prod(x.shape[:-2]), *x.shape[-2:]) for x in (x1, x2))
        shape = (*x1.shape[:-1], x2.shape[-2])
        self.distance = select(x1).cdist_forward(self.x1, self.x2, p).reshape(shape)
        return self.distance

    def backward(self, grad: Any) -> Any:
        grad = grad.reshape(self.x1.shape[0], *grad.shape[-2:])
        distance = self.distance.reshape(grad.shape)
        kernel = select(grad).cdist_backward
        x1, x2 = self.given
        grad_x1 = grad_x2 = None
        if self.needs[0]:
            grad_x1 = kernel(grad, self.x1, self.x2, distance, self.p).reshape(x1.shape)
        if self.needs[1]:
            grad, distance = grad.swapaxes(1, 2), distance.swapaxes(1, 2)
            grad_x2 = kernel(grad, self.x2, self.x1, distance, self.p).reshape(x2.shape)
        return grad_x1, grad_x2

    def backward_graph(self, grad: Tensor) -> Any:
        return replay(self, grad, lambda x1, x2: _norms(x1, x2, self.p), *self.given)


class Euclidean(Op):
    """sqrt(a . a + b . b - 2 a . b) of all pairs of rows, less the second ones' mean: close rows cancel less.

    With w = g / distance (0 where that is 0): grad_a = a sum(w) - w b, and grad_b likewise with w transposed.
    """

    floats_only = True
    saves, saves_output = (0, 1), True

    def forward(self, x1: Any, x2: Any) -> Any:
        k, self.given = select(x1), (x1, x2)
        center = k.mean_forward(x2, (x2.ndim - 2,), True)
        center = k.where_forward(
            k.eq_forward(k.mul_forward(center, 0.0), 0.0), center, 0.0
        )  # NaN stays in its row
        self.a, self.b = a, b = k.sub_forward(x1, center), k.sub_forward(x2, center)
        lengths = [k.sum_forward(k.mul_forward(rows, rows), (rows.ndim - 1,), True) for rows in (a, b)]
        y = k.matmul(a, b.swapaxes(-1, -2), lengths[0], -2.0, 1.0)
        k.clamp_forward(k.add_forward(y, lengths[1].swapaxes(-1, -2), y), 0.0, inf, y)
        self.distance = k.sqrt_forward(y, y)
        return y

    def backward(self, grad: Any) -> Any:
        k, distance = select(grad), self.distance
        w = k.where_forward(k.eq_forward(distance, 0.0), 0.0, k.div_forward(grad, distance))
        grads = []
        for need, own, other, x in zip(
            self.needs, (self.a, self.b), (self.b, self.a), self.given, strict=True
        ):
            if need:
                sums = k.sum_forward(w, (w.ndim - 1,), True)
                y = k.matmul(w, other, k.mul_forward(own, sums), -1.0, 1.0)
                grads.append(sum_to(y, x.shape))
            else:
                grads.append(None)
            w = w.swapaxes(-1, -2)
        return tuple(grads)

    def backward_graph(self, grad: Tensor) -> Any:
        return replay(self, grad, _euclidean, *self.given)


class Pdist(Op):
    """The distances of all rows of one matrix."""

    floats_only = True

    saves, saves_output = (0,), True

    def forward(self, x: Any, *, p: float) -> Any:
        self.x, self.p = x, p
        self.distance = select(x).pdist_forward(x, p)
        return self.distance

    def backward(self, grad: Any) -> Any:
        kernel = select(grad).cdist_backward
        x = self.x[None]
        return kernel(self._all(grad), x, x, self._all(self.distance), self.p)[0]

    def _all(self, pairs: Any) -> Any:
        """What belongs to rows i < j, for every i and j: (1, n, n), 0 on the diagonal."""
        count = len(self.x)
        first, second = select(pairs).triangle_places(count, count, 1, False)
        whole = zeros((1, count, count), pairs.dtype, pairs)
        whole[0, first, second] = whole[0, second, first] = pairs
        return whole

    def backward_graph(self, grad: Tensor) -> Any:
        first, second = triu_indices(len(self.x), len(self.x), 1)

        def composed(x: Any) -> Any:
            return vector_norm(sub(index_select(x, 0, first), index_select(x, 0, second)), self.p, -1)

        return replay(self, grad, composed, self.x)


_MODES = (
    "use_mm_for_euclid_dist_if_necessary",
    "use_mm_for_euclid_dist",
    "donot_use_mm_for_euclid_dist",
)


def _euclidean(x1: Tensor, x2: Tensor) -> Tensor:
    """sqrt(x1 . x1 + x2 . x2 - 2 x1 . x2), with gradient zero where that is zero."""
    # Moving all rows changes no distance; without what they share, less cancels.
    center = x2.detach().mean(-2, True)
    center = where(center.isfinite(), center, 0.0)
    x1, x2 = sub(x1, center), sub(x2, center)
    lengths: Any = unsqueeze((x1 * x1).sum(-1), -1) + unsqueeze((x2 * x2).sum(-1), -2)
    squares = lengths - 2 * (x1 @ x2.transpose(-1, -2))
    same = squares <= 0  # not of NaN
    distances: Tensor = squares.masked_fill(same, 1).sqrt().masked_fill(same, 0)
    return distances


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of rows i < j, one after the other. See ``torch.nn.functional.pdist``."""
    if input._data.ndim != 2:
        raise ArgumentError(f"pdist: expects a matrix, got shape {input.shape}")
    if p < 0:
        raise ArgumentError(f"pdist: p must not be negative, got {p}")
    x = input._data
    if is_kernel_dtype(x.dtype) and not on_device(x):
        return Pdist.apply(input, p=float(p))  # type: ignore[no-any-return]
    count = input.shape[0]
    first, second = triu_indices(count, count, 1, device=input.device)
    distances = cdist(input, input, p, _MODES[2])
    return index_select(distances.reshape(count * count), 0, first * count + second)

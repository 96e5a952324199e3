"""Distances of all pairs of rows: of two matrices (``cdist``) or of one (``pdist``)."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError
from fastdl.kernels import on_device, select
from fastdl.ops.arithmetic import sub
from fastdl.ops.arrays import sum_to, zeros
from fastdl.ops.elementwise import where
from fastdl.ops.gather import index_select
from fastdl.ops.masks import put
from fastdl.ops.promotion import is_kernel_dtype
from fastdl.ops.reduce import vector_norm
from fastdl.ops.views import unsqueeze
from fastdl.sequences import triu_indices
from fastdl.tensor import Tensor


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
    if a.dtype is b.dtype and is_kernel_dtype(a.dtype) and a.shape[:-2] == b.shape[:-2] and a.shape[-1] > 0:
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
        x = self.x[None]
        above = ~np.tri(len(self.x), dtype=np.bool_)
        grad, distance = [self._all(pairs, above) for pairs in (grad, self.distance)]
        return select(grad).cdist_backward(grad, x, x, distance, self.p)[0]

    def _all(self, pairs: Any, above: Any) -> Any:
        """What belongs to rows i < j, for every i and j: (1, n, n), 0 on the diagonal."""
        half = put(zeros(above.shape, pairs.dtype, pairs), above, pairs)
        return select(pairs).add_forward(half, half.T)[None]

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

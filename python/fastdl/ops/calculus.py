"""Differences, derivatives and integrals of samples along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, bool_
from fastdl.kernels import select
from fastdl.ops.arithmetic import add, div, mul, sub
from fastdl.ops.arrays import by_numpy, has_integer_kernels, zeros
from fastdl.ops.axes import normal_axes, normal_axis
from fastdl.ops.join import cat
from fastdl.ops.parts import narrow, select_dim
from fastdl.ops.reduce import sum
from fastdl.ops.views import reshape
from fastdl.tensor import Tensor


def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbours along ``dim``, ``n`` times over. See ``torch.diff``.

    Example:
        >>> import fastdl
        >>> fastdl.diff(fastdl.tensor([1, 3, 6])).tolist()
        [2, 3]
    """
    if input._data.ndim == 0:
        raise RuntimeError("diff: expects a tensor of at least 1 dimension")
    if n < 0:
        raise RuntimeError(f"diff: n must not be negative, got {n}")
    axis = normal_axis("diff", dim, input._data.ndim)
    if n == 0:
        return input.clone()
    parts = [p for p in (prepend, input, append) if p is not None]
    result = cat(parts, axis) if len(parts) > 1 else input
    return Diff.apply(result, n=n, axis=axis)  # type: ignore[no-any-return]


class Diff(Op):
    """Differences of neighbours, ``n`` times over; of bools whether they differ."""

    takes_complex = True

    def forward(self, x: Any, n: int, axis: int) -> Any:
        self.shape, self.n, self.axis = x.shape, n, axis
        before = (slice(None),) * axis
        self.later, self.earlier = (*before, slice(1, None)), (*before, slice(None, -1))
        return self.linear(x)

    def linear(self, x: Any) -> Any:
        for _ in range(self.n):
            later, earlier = x[self.later], x[self.earlier]
            if x.dtype.kind in FLOATING or has_integer_kernels(x):
                x = select(x).sub_forward(later, earlier)
            else:
                ufunc = np.not_equal if x.dtype is bool_ else np.subtract
                x = by_numpy("diff", ufunc, x.dtype, None, later, earlier)
        return x

    @np.errstate(all="ignore")
    def backward(self, grad: Any) -> Any:
        if grad.size == 0:
            return zeros(self.shape, grad.dtype, grad)
        for _ in range(self.n):
            extents = list(grad.shape)
            extents[self.axis] += 1
            whole = zeros(extents, grad.dtype, grad)
            whole[self.later] = grad
            earlier = whole[self.earlier]
            if grad.dtype.kind in FLOATING:
                select(grad).sub_forward(earlier, grad, earlier)
            else:
                earlier -= grad
            grad = whole
        return grad

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def trapezoid(y: Tensor, x: Any = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The integral of samples ``y`` along ``dim`` by the trapezoidal rule, at places ``x`` or ``dx`` apart.

    See ``torch.trapezoid``.
    """
    axis = normal_axis("trapezoid", dim, y._data.ndim)
    if x is None and y.shape[axis] > 1:  # inner samples count twice
        y = y if y._data.dtype.kind in DIFFERENTIABLE else y.float()
        ends = add(select_dim(y, axis, 0), select_dim(y, axis, -1))
        result = sub(sum(y, axis), mul(ends, 0.5))
        return result if dx is None else mul(result, dx)
    return sum(_trapezoids("trapezoid", y, x, dx, dim), dim)


def cumulative_trapezoid(y: Tensor, x: Any = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The running integral by the trapezoidal rule. See ``torch.cumulative_trapezoid``."""
    return _trapezoids("cumulative_trapezoid", y, x, dx, dim).cumsum(dim)


def _trapezoids(op: str, y: Tensor, x: Any, dx: Any, dim: int) -> Tensor:
    if x is not None and dx is not None:
        raise RuntimeError(f"{op}: give either x or dx, not both")
    axis = normal_axis(op, dim, y._data.ndim)
    if y._data.dtype.kind not in DIFFERENTIABLE:
        y = y.float() if x is None or x._data.dtype.kind not in DIFFERENTIABLE else y.to(x.dtype)
    count = max(y.shape[axis] - 1, 0)
    means = div(add(narrow(y, axis, 0, count), narrow(y, axis, min(1, y.shape[axis]), count)), 2)
    if x is None:
        return mul(means, 1 if dx is None else dx)
    if x.ndim == 1:
        steps = diff(x)
        return mul(means, reshape(steps, [-1 if i == axis else 1 for i in range(y.ndim)]))
    return mul(means, diff(x, dim=dim))


def gradient(input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> tuple[Tensor, ...]:
    """The derivative of samples along every axis of ``dim`` (all of them), a tensor for each.

    Inside by central differences of second order; at both ends by one-sided ones of order ``edge_order`` (1 or 2).

    Args:
        spacing: how far apart samples are: a number, one for each axis, or for each axis a tensor of their places.

    See ``torch.gradient``.

    Example:
        >>> import fastdl
        >>> fastdl.gradient(fastdl.tensor([1.0, 4.0, 9.0, 16.0]))[0].tolist()
        [3.0, 4.0, 6.0, 7.0]
    """
    ndim = input._data.ndim
    axes = normal_axes("gradient", dim, ndim) or tuple(range(ndim))
    if edge_order not in (1, 2):
        raise RuntimeError(f"gradient: edge_order must be 1 or 2, got {edge_order}")
    for axis in axes:
        if input.shape[axis] <= edge_order:
            raise RuntimeError(
                f"gradient: each dimension must have more than edge_order ({edge_order}) samples, got {input.shape}"
            )
    if isinstance(spacing, Sequence) or (isinstance(spacing, Tensor) and spacing.ndim):
        steps = [spacing] if isinstance(spacing, Tensor) else list(spacing)
    else:
        steps = [1 if spacing is None else spacing] * len(axes)
    if len(steps) != len(axes):
        raise RuntimeError(f"gradient: spacing has {len(steps)} entries for {len(axes)} axes")
    x = input if input._data.dtype.kind in DIFFERENTIABLE else input.float()
    return tuple([_derivative(x, axis, step, edge_order) for axis, step in zip(axes, steps, strict=True)])


def _derivative(x: Tensor, axis: int, spacing: Any, edge_order: int) -> Tensor:
    count = x.shape[axis]
    if not (isinstance(spacing, Tensor) and spacing.ndim):
        return _even_derivative(x, axis, spacing, edge_order)
    slopes = diff(x, dim=axis)
    if spacing.shape != (count,):
        raise RuntimeError(f"gradient: expects {count} places along axis {axis}, got shape {spacing.shape}")
    gaps = reshape(diff(spacing), [-1 if i == axis else 1 for i in range(x.ndim)])
    slopes = slopes / gaps
    gaps = gaps.expand([count - 1 if i == axis else 1 for i in range(x.ndim)])
    first, last = narrow(slopes, axis, 0, 1), narrow(slopes, axis, count - 2, 1)
    if count == 2:
        return cat([first, last], axis)
    # A parabola through three neighbours: slopes of both sides, each weighted by the other side's gap.
    left, right = narrow(slopes, axis, 0, count - 2), narrow(slopes, axis, 1, count - 2)
    before, after = narrow(gaps, axis, 0, count - 2), narrow(gaps, axis, 1, count - 2)
    both = before + after
    if edge_order == 2:  # the same parabola's slope at its ends
        bend = (right - left) / both
        first = first - narrow(bend, axis, 0, 1) * narrow(gaps, axis, 0, 1)
        last = last + narrow(bend, axis, count - 3, 1) * narrow(gaps, axis, count - 2, 1)
    parts = [first, (left * after + right * before) / both, last]
    return cat(parts, axis)


def _even_derivative(x: Tensor, axis: int, step: Any, edge_order: int) -> Tensor:
    """Of samples ``step`` apart."""
    count = x.shape[axis]
    at = [narrow(x, axis, i if i >= 0 else count + i, 1) for i in (0, 1, -2, -1)]
    if edge_order == 1:
        first, last = sub(at[1], at[0]), sub(at[3], at[2])
    else:  # the slopes of parabolas through three samples
        third = narrow(x, axis, 2, 1), narrow(x, axis, count - 3, 1)
        first = sub(mul(sub(at[1], at[0]), 2), mul(sub(third[0], at[0]), 0.5))
        last = sub(mul(sub(at[3], at[2]), 2), mul(sub(at[3], third[1]), 0.5))
    parts = [div(first, step), div(last, step)]
    if count > 2:
        inner = sub(narrow(x, axis, 2, count - 2), narrow(x, axis, 0, count - 2))
        parts.insert(1, div(inner, mul(step, 2) if isinstance(step, Tensor) else 2 * step))
    return cat(parts, axis)


__all__ = ["cumulative_trapezoid", "diff", "gradient", "trapezoid"]

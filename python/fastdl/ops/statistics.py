"""Descriptions of data: quantiles, modes, covariances, running extremes."""

from __future__ import annotations

from math import ceil, floor, prod
from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.autograd.graph import linear_backward, replay
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, bool_, float32, float64, int64
from fastdl.errors import ArgumentError, warn_caller
from fastdl.kernels import array, on_device, select
from fastdl.ops.arithmetic import add, div, mul, sub
from fastdl.ops.arrays import cast, contiguous, count_true, full, in_float32, zeros
from fastdl.ops.axes import normal_axes, normal_axis
from fastdl.ops.cast import to
from fastdl.ops.compare import eq, isnan
from fastdl.ops.complex import check_real, complex, conj, imag, real
from fastdl.ops.elementwise import clamp, lerp, where
from fastdl.ops.extreme import Median, ValuesIndices, argmax, at_places, kth_place, pick, sortable
from fastdl.ops.gather import gather
from fastdl.ops.join import stack
from fastdl.ops.linear import matmul
from fastdl.ops.order import sort
from fastdl.ops.parts import diagonal, select_dim
from fastdl.ops.reduce import Reduction, mean, sum, vector_norm
from fastdl.ops.unary import sqrt
from fastdl.ops.views import movedim, reshape, squeeze, unsqueeze
from fastdl.tensor import Tensor


class NanSum(Reduction):
    saves = (0,)

    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        self.x = x
        return select(x).nansum_forward(x, axes, keepdim)

    def backward(self, grad: Any) -> Any:
        k = select(grad)
        return k.where_forward(k.eq_forward(self.x, self.x), self.with_axes(grad), 0.0)

    def backward_graph(self, grad: Tensor) -> Any:
        return where(Tensor._wrap(self.x == self.x), self.spread_graph(grad), 0.0)


def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over ``dim`` with NaN counted as 0. See ``torch.nansum``.

    Example:
        >>> import fastdl
        >>> fastdl.nansum(fastdl.tensor([1.0, float("nan"), 2.0])).item()
        3.0
    """
    if dtype is not None:
        input = to(input, dtype)
    x = input._data
    if x.dtype.kind in FLOATING:
        return NanSum.apply(input, axes=normal_axes("nansum", dim, x.ndim, keepdim), keepdim=keepdim)  # type: ignore[no-any-return]
    return sum(input, dim, keepdim, dtype=dtype)


def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean over ``dim`` of what is not NaN. See ``torch.nanmean``."""
    if input._data.dtype.kind not in FLOATING:
        raise RuntimeError(f"nanmean: defined for floating-point tensors, got {input.dtype}")
    counts = sum(eq(input.detach(), input.detach()), dim, keepdim)
    return div(nansum(input, dim, keepdim, dtype=dtype), counts)


def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the middle elements that are not NaN; with ``dim`` values and indices. See ``torch.nanmedian``."""
    x = input._data
    if dim is None:
        return Median.apply(input, skip=True) if x.size else input.median()
    axis = normal_axis("nanmedian", dim, x.ndim, keepdim)
    if x.ndim == 0:
        return pick(input, x.copy(), zeros((), int64, x), 0)
    if x.shape[axis] == 0:
        raise IndexError(f"nanmedian: dim {dim} of a tensor of shape {x.shape} is empty")
    extent = x.shape[axis]
    present = None
    if x.dtype.kind in FLOATING:
        present = extent - count_true(isnan(input.detach())._data, (axis,), True)
    if present is None or (not on_device(x) and (present == extent).all()):
        return at_places(input, kth_place(x, (extent - 1) // 2, axis), axis, keepdim)
    middle = np.maximum(present - 1, 0) // 2  # NaN comes last
    order = sort(input.detach(), axis).indices._data
    return at_places(input, select(x).gather_forward(order, axis, middle), axis, keepdim)


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The values below which the shares ``q`` (in [0, 1]) of the elements along ``dim`` lie; NaN if there is one.

    ``q`` is a number or a one-dimensional tensor, which becomes the first axis. Between two elements ``interpolation``
    decides: linear, lower, higher, midpoint or nearest. See ``torch.quantile``.

    Example:
        >>> import fastdl
        >>> fastdl.quantile(fastdl.tensor([1.0, 2.0, 4.0]), 0.75).item()
        3.0
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """:func:`quantile` of what is not NaN. See ``torch.nanquantile``."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


def _quantile(
    op: str, input: Tensor, q: Any, dim: Any, keepdim: bool, interpolation: str, skip: bool
) -> Tensor:
    dtype = input._data.dtype
    if dtype.kind not in FLOATING:
        raise RuntimeError(f"{op}: input must be a floating-point tensor, got {dtype}")
    if interpolation not in _INTERPOLATIONS:
        raise RuntimeError(
            f"{op}: interpolation must be one of {', '.join(_INTERPOLATIONS)}, got {interpolation!r}"
        )
    if isinstance(q, Tensor) and q._data.dtype != dtype:
        raise RuntimeError(f"{op}: q must have input's dtype {dtype}, got {q.dtype}")
    learned = isinstance(q, Tensor) and q.requires_grad and interpolation == "linear"
    # Places are counted in the input's precision, as PyTorch does: 0.1 of 5 steps is one half, not a bit more.
    precision = np.promote_types(dtype, np.float32)
    if isinstance(q, Tensor) and on_device(q._data) and on_device(input._data):  # nobody looks at its values
        shares, right = cast(q._data, precision), True
    else:
        shares = np.asarray(q.cpu()._data if isinstance(q, Tensor) else q, precision)
        right = bool(((shares >= 0) & (shares <= 1)).all())
    if shares.ndim > 1 or not right:
        raise RuntimeError(f"{op}: q must be a number or a one-dimensional tensor, in [0, 1], got {q}")
    if input.numel() == 0:
        raise RuntimeError(f"{op}: input must not be empty, got shape {input.shape}")
    ndim = input._data.ndim
    if dim is None or ndim == 0:
        rows, axis, shape = reshape(input, (1, input.numel())), 0, (1,) * ndim if keepdim else ()
    else:
        axis = normal_axis(op, dim, ndim, keepdim)
        rows = movedim(input, axis, -1)
        shape = rows.shape[:-1]
        rows = reshape(rows, (-1, rows.shape[-1]))
        if keepdim:
            shape = (*shape[:axis], 1, *shape[axis:])
    ordered = sort(rows, 1).values
    count = rows.shape[1]
    if shares.__class__ is np.ndarray and not (skip or learned):  # known places
        steps = shares.dtype.type(count - 1)
        if on_device(ordered._data):  # without a look at NaN, which comes last, as that would wait
            largest = select_dim(ordered, 1, -1)
            missing = isnan(largest)
            found = [
                where(missing, largest, _between(ordered, float(share * steps), interpolation))
                for share in shares.reshape(-1)
            ]
            return reshape(stack(found), (*shares.shape, *shape))
        if not (shares.ndim or np.isnan(ordered._data[:, -1]).any()):
            return reshape(_between(ordered, float(shares * steps), interpolation), shape)
    # Places along the sorted rows, one column for each share; a row with a NaN (sorted last) has only that.
    x = ordered._data
    kernels = select(x)
    last = full((rows.shape[0], 1), count - 1, int64, x)
    if skip:
        last = np.maximum(last - count_true(isnan(ordered.detach())._data, (1,), True), 0)
    steps = cast(last, shares.dtype)
    places = cast(kernels.mul_forward(array(shares, x).reshape(1, -1), steps), float64)
    if not skip:
        places = kernels.where_forward(isnan(ordered.detach()[:, -1:])._data, float(count - 1), places)
    if interpolation == "nearest":
        places = kernels.round_forward(places)
    below, above = [cast(f(places), int64) for f in (kernels.floor_forward, kernels.ceil_forward)]
    result = gather(ordered, 1, Tensor._wrap(above if interpolation == "higher" else below))
    if interpolation in ("linear", "midpoint"):
        between = (above - below) * 0.5 if interpolation == "midpoint" else places - below
        weight = Tensor._wrap(cast(between, dtype))
        if learned:  # the place between the two neighbours moves with q
            row = reshape(q.to(input.device), (1, -1))
            weight = add(weight, mul(sub(row, row.detach()), Tensor._wrap(cast(last, dtype))))
        # An element itself also where it is infinite, of which no part can be taken.
        part = lerp(result, gather(ordered, 1, Tensor._wrap(above)), weight)
        result = where(Tensor._wrap(below == above), result, part)
    if shares.ndim == 0:
        return reshape(result, shape)
    return reshape(movedim(result, 1, 0), (shares.size, *shape))


def _between(ordered: Tensor, place: float, interpolation: str) -> Tensor:
    """The value at ``place`` of every sorted row, between two elements unless it is a whole number."""
    if interpolation == "nearest":
        place = round(place)
    below, above = floor(place), ceil(place)
    if interpolation == "lower":
        above = below
    if interpolation == "higher":
        below = above
    low = select_dim(ordered, 1, below)
    if below == above:
        return low.contiguous()
    return lerp(low, select_dim(ordered, 1, above), 0.5 if interpolation == "midpoint" else place - below)


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The most frequent element along ``dim`` (the smallest of equals), and its last place. See ``torch.mode``."""
    x = input._data
    axis = normal_axis("mode", dim, x.ndim, keepdim)
    if x.ndim == 0:
        return pick(input, x.copy(), zeros((), int64, x), 0)
    if x.shape[axis] == 0:
        raise IndexError(f"mode: dim {dim} of a tensor of shape {x.shape} is empty")
    keys = sortable(x, on_gpu=True)
    if keys is not None and x.shape[axis] < 2**31 and not on_device(x):
        places = select(keys).mode_index(keys.swapaxes(axis, -1))
        places = contiguous(places.reshape(*places.shape, 1).swapaxes(axis, -1))
        return at_places(input, places, axis, keepdim)
    # Sorted stably, equal elements follow each other, and the last one of a run is the last one of the row, too.
    rows = x if keys is None else keys
    ordered, order = sort(Tensor._wrap(rows.swapaxes(axis, -1)))
    same = eq(ordered[..., :-1], ordered[..., 1:])._data
    along = np.arange(x.shape[axis], like=x)
    start = zeros(ordered.shape, int64, x)
    start[..., 1:] = np.where(same, 0, along[1:])
    start, _ = select(x).running_max(start, x.ndim - 1)
    longest = argmax(Tensor._wrap(along - start), -1, True)  # the end of the first of equally long runs
    places = select(x).gather_forward(order._data, x.ndim - 1, longest._data)
    return at_places(input, contiguous(places.swapaxes(axis, -1)), axis, keepdim)


def _running_extreme(op: str, kernel: str, input: Tensor, dim: int) -> ValuesIndices:
    x = input._data
    axis = normal_axis(op, dim, x.ndim)
    if x.ndim == 0:
        return pick(input, x.copy(), zeros((), int64, x), 0)
    dtype = x.dtype
    kept = dtype is float32 or dtype is float64
    wide = x if kept else cast(x, float32 if dtype.kind in FLOATING else int64)
    values, indices = getattr(select(x), kernel)(wide, axis)
    return pick(input, cast(values, dtype), indices, axis, RunningPick)


class RunningPick(Op):
    """Values found by the caller; an element may have been picked several times."""

    def forward(self, x: Any, values: Any, indices: Any, axis: int) -> Any:
        self.shape, self.indices, self.axis = x.shape, indices, axis
        return values

    def backward(self, grad: Any) -> Any:
        return in_float32(select(grad).gather_backward, grad, self.axis, self.indices, self.shape[self.axis])

    def linear(self, x: Any) -> Any:
        return np.take_along_axis(x, self.indices, self.axis)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def cummax(input: Tensor, dim: int) -> ValuesIndices:
    """The largest element so far along ``dim``, and where it was (the last of equals). See ``torch.cummax``."""
    return _running_extreme("cummax", "running_max", input, dim)


def cummin(input: Tensor, dim: int) -> ValuesIndices:
    """The smallest element so far along ``dim``, and where it was (the last of equals). See ``torch.cummin``."""
    return _running_extreme("cummin", "running_min", input, dim)


class LogCumSumExp(Op):
    floats_only = True
    saves, saves_output = (0,), True

    def forward(self, x: Any, axis: int) -> Any:
        self.x, self.axis = x, axis
        self.y = select(x).running_logsumexp(x, axis) if x.ndim else x.copy()
        return self.y

    def backward(self, grad: Any) -> Any:
        # sum over later j of grad[j] exp(x - y[j]): a running log-sum-exp from the end, of positive and of negative
        # gradients by themselves
        if grad.ndim == 0:
            return grad.copy()
        k, dtype, x, y = select(grad), grad.dtype, self.x, self.y
        if dtype.itemsize == 2:  # on a GPU: y would not tell apart what differs by log(grad)
            grad, x = cast(grad, float32), cast(x, float32)
            y = k.running_logsumexp(x, self.axis)

        def part(g: Any) -> Any:
            shares = k.running_logsumexp(k.sub_forward(k.log_forward(g), y), self.axis, True)
            return k.exp_forward(k.add_forward(shares, x, shares), shares)

        result = part(k.maximum_forward(grad, 0.0))
        losses = k.maximum_forward(k.neg_forward(grad), 0.0)
        # The GPU is not waited for.
        if on_device(grad) or losses.any():
            result = k.sub_forward(result, part(losses), result)
        return cast(result, dtype)

    def backward_graph(self, grad: Tensor) -> Any:
        if grad.ndim == 0:
            return grad
        axis = self.axis
        x, y = self.saved_input(0, self.x).unsqueeze(axis + 1), self.saved_output(self.y).unsqueeze(axis)
        later = np.arange(grad.shape[axis], like=grad._data)
        shape = [1] * x.ndim
        shape[axis], shape[axis + 1] = -1, later.size
        earlier = Tensor._wrap((later[:, None] > later).reshape(shape))
        shares = (x - y).masked_fill(earlier, -np.inf).exp()
        return (shares * grad.unsqueeze(axis)).sum(axis + 1)


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """log of the running sums of exp along ``dim``, without overflow. See ``torch.logcumsumexp``."""
    if input._data.dtype.kind not in DIFFERENTIABLE:
        raise RuntimeError(f"logcumsumexp: defined for floating-point and complex tensors, got {input.dtype}")
    return LogCumSumExp.apply(input, axis=normal_axis("logcumsumexp", dim, input._data.ndim))  # type: ignore[no-any-return]


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariance matrix of variables in rows and observations in columns. See ``torch.cov``."""
    if input._data.ndim > 2:
        raise RuntimeError(f"cov: expects a tensor of at most 2 dimensions, got shape {input.shape}")
    rows = input if input._data.ndim == 2 else reshape(input, (1, input.numel()))
    if rows._data.dtype.kind == "b":
        raise RuntimeError("cov: not defined for bool tensors")
    if rows._data.dtype.kind not in DIFFERENTIABLE:
        rows = rows.float()
    weights = _weights(rows, fweights, aweights)
    if weights is None:
        centred = sub(rows, mean(rows, 1, True))
        degrees: Any = max(rows.shape[1] - correction, 0)
        weighted = centred
    else:
        total = sum(weights)
        centred = sub(rows, div(sum(mul(rows, weights), 1, True), total))
        weighted = mul(centred, weights)
        degrees = total
        if correction:
            lost = 1 if aweights is None else div(sum(mul(weights, aweights)), total)
            degrees = sub(total, mul(lost, correction) if isinstance(lost, Tensor) else lost * correction)
        degrees = clamp(degrees, min=0)
    if not degrees:
        warn_caller(
            "cov(): degrees of freedom is <= 0. Correction should be strictly less than the number of observations."
        )
    return squeeze(div(matmul(weighted, conj(centred.t())), degrees))


def _weights(rows: Tensor, fweights: Tensor | None, aweights: Tensor | None) -> Tensor | None:
    for name, w in (("fweights", fweights), ("aweights", aweights)):
        if w is not None and (w.ndim > 1 or w.numel() != rows.shape[1]):
            raise RuntimeError(
                f"cov: {name} must have one entry for each of {rows.shape[1]} columns, got {w.shape}"
            )
        if w is not None and (w._data < 0).any():
            raise RuntimeError(f"cov: {name} must not be negative, got {w.min().item()}")
    if fweights is not None and fweights._data.dtype.kind not in "iu":
        raise RuntimeError(f"cov: fweights count observations and must be integers, got {fweights.dtype}")
    given = [w for w in (fweights, aweights) if w is not None]
    return None if not given else given[0] if len(given) == 1 else mul(given[0], given[1])


def corrcoef(input: Tensor) -> Tensor:
    """The matrix of correlation coefficients of variables in rows. See ``torch.corrcoef``."""
    c = cov(input)
    if c._data.ndim == 0:
        return div(c, c)
    deviation = sqrt(real(diagonal(c)))
    result = div(div(c, unsqueeze(deviation, 1)), unsqueeze(deviation, 0))
    if result._data.dtype.kind != "c":
        return clamp(result, -1, 1)
    return complex(*[clamp(part(result), -1, 1) for part in (real, imag)])


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """Elements (with ``dim`` slices) that differ from the one before. See ``torch.unique_consecutive``."""
    check_real("unique_consecutive", input)
    x = input._data
    axis = 0 if dim is None else normal_axis("unique_consecutive", dim, x.ndim)
    rows = x.reshape(-1) if dim is None else np.moveaxis(x, axis, 0)
    flat = rows.reshape(len(rows), prod(rows.shape[1:]))
    new = full((len(rows),), True, bool_, x)
    new[1:] = (flat[1:] != flat[:-1]).any(1)
    kept = rows[new] if dim is None else np.moveaxis(rows[new], 0, axis)
    results = [Tensor._wrap(contiguous(kept))]
    if return_inverse:
        places = (np.cumsum(new) - 1).astype(int64)
        results.append(Tensor._wrap(places.reshape(x.shape) if dim is None else places))
    if return_counts:
        results.append(Tensor._wrap(np.diff(np.append(np.flatnonzero(new), len(rows))).astype(int64)))
    return results[0] if len(results) == 1 else tuple(results)


def msort(input: Tensor) -> Tensor:
    """The values sorted along the first axis. See ``torch.msort``."""
    return sort(input, 0).values


def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal. See ``torch.trace``."""
    if input._data.ndim != 2:
        raise RuntimeError(f"trace: expects a matrix, got shape {input.shape}")
    if not plain(input):
        return sum(diagonal(input))
    entries = input._data.diagonal()
    if entries.dtype is float32 or entries.dtype is float64:  # no node where nothing is recorded
        return Tensor._wrap(select(entries).sum_forward(entries, None, False))
    return sum(Tensor._wrap(entries))


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other. See ``torch.dist``."""
    return vector_norm(sub(input, other), p)


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Slices along ``dim`` whose p-norm exceeds ``maxnorm`` scaled down to it. See ``torch.renorm``."""
    if maxnorm < 0:
        raise ArgumentError(f"renorm: maxnorm must not be negative, got {maxnorm}")
    axis = normal_axis("renorm", dim, input._data.ndim)
    others = tuple([i for i in range(input._data.ndim) if i != axis])
    if not others:
        raise RuntimeError(f"renorm: expects at least 2 dimensions, got shape {input.shape}")
    input = input.contiguous()  # the result is in C order, as PyTorch's
    if p == 2 and input._data.dtype.kind in FLOATING:
        return Renorm.apply(input, p=2.0, axes=others, limit=float(maxnorm))  # type: ignore[no-any-return]
    lengths = vector_norm(input, p, others, True)
    return mul(input, where(lengths > maxnorm, div(maxnorm, add(lengths, 1e-7)), 1.0))


class Renorm(Op):
    """y = x s with s = limit / (|x| + 1e-7) where |x| > limit, else 1.

    grad_x = g s - x (g . x) s / ((|x| + 1e-7) |x|), the last term where s is not 1.
    """

    floats_only = True
    saves = (0,)

    def forward(self, x: Any, p: float, axes: Any, limit: float) -> Any:
        k = select(x)
        self.x, self.axes, self.limit = x, axes, limit
        self.lengths = k.norm_forward(x, p, axes, True)
        self.longer = k.gt_forward(self.lengths, limit)
        self.raised = k.add_forward(self.lengths, 1e-7)
        self.scale = k.where_forward(self.longer, k.div_forward(limit, self.raised), 1.0)
        return k.mul_forward(x, self.scale)

    def backward(self, grad: Any) -> Any:
        k = select(grad)
        dots = k.sum_forward(k.mul_forward(grad, self.x), self.axes, True)
        share = k.div_forward(k.mul_forward(dots, self.scale), k.mul_forward(self.raised, self.lengths))
        share = k.where_forward(self.longer, share, 0.0)
        return k.addcmul_forward(k.mul_forward(grad, self.scale), self.x, share, -1.0)

    def backward_graph(self, grad: Tensor) -> Any:
        def composed(x: Any) -> Any:
            lengths = vector_norm(x, 2, self.axes, True)
            return x * where(lengths > self.limit, self.limit / (lengths + 1e-7), 1.0)

        return replay(self, grad, composed, self.x)


__all__ = [
    "corrcoef",
    "cov",
    "cummax",
    "cummin",
    "dist",
    "logcumsumexp",
    "mode",
    "msort",
    "nanmean",
    "nanmedian",
    "nanquantile",
    "nansum",
    "quantile",
    "renorm",
    "trace",
    "unique_consecutive",
]

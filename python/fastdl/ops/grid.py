"""Sampling images at any places: ``affine_grid`` and ``grid_sample``."""

from __future__ import annotations

import itertools
import math
from types import MappingProxyType
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.engine import stand_in
from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.devices import to_device
from fastdl.dtypes import FLOATING, bool_
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import select
from fastdl.ops.arithmetic import add, div, mul, remainder, sub
from fastdl.ops.arrays import full
from fastdl.ops.compare import gt, logical_and, lt
from fastdl.ops.elementwise import clamp, where
from fastdl.ops.gather import gather
from fastdl.ops.linear import matmul
from fastdl.ops.reduction import same_dtype
from fastdl.ops.special import nan_to_num
from fastdl.ops.unary import abs, floor
from fastdl.ops.views import reshape, unsqueeze
from fastdl.sequences import linspace
from fastdl.tensor import Tensor

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """Where the pixels of a transformed image come from: the ``grid`` of :func:`grid_sample`.

    Args:
        theta: affine matrices, ``(N, 2, 3)`` for images and ``(N, 3, 4)`` for volumes.
        size: of the output, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        align_corners: whether -1 and 1 are the centres of the corner pixels, not their outer edges.

    Returns:
        ``(N, H, W, 2)`` or ``(N, D, H, W, 3)``: x, y(, z) in [-1, 1]. See ``torch.nn.functional.affine_grid``.
    """
    extents = tuple(size)[2:]
    rank = len(extents)
    if rank not in (2, 3) or theta.shape != (size[0], rank, rank + 1):
        raise ArgumentError(
            "affine_grid: theta must be (N, 2, 3) with size (N, C, H, W), or (N, 3, 4) with size (N, C, D, H, W); "
            f"got {theta.shape} and {tuple(size)}"
        )
    if theta.dtype.kind not in FLOATING:
        raise DtypeError(f"affine_grid: theta must be floating-point, got {theta.dtype}; use theta.float()")
    if min(size) <= 0:
        raise ArgumentError(f"affine_grid: size must be positive, got {tuple(size)}")
    # x first, and what the last column of theta is added with.
    points = np.ones((*extents, rank + 1), theta.dtype)
    for i, extent in enumerate(extents):
        line = np.zeros(1, theta.dtype)
        if extent > 1:
            line = linspace(-1, 1, extent, dtype=theta.dtype, device="cpu")._data
        if not align_corners:
            line = line * theta.dtype.type(extent - 1) / theta.dtype.type(extent)
        points[..., rank - 1 - i] = line.reshape(extent, *[1] * (rank - 1 - i))
    points = points.reshape(math.prod(extents), rank + 1)
    moved = matmul(unsqueeze(Tensor._wrap(to_device(points, theta.device)), 0), theta.mT)
    return reshape(moved, (size[0], *extents, rank))


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``input`` at the places of ``grid``, between pixels interpolated.

    Args:
        input: ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        grid: ``(N, H_out, W_out, 2)`` or ``(N, D_out, H_out, W_out, 3)``: x, y(, z), -1 and 1 at the image's ends.
        mode: bilinear, nearest or (images only) bicubic.
        padding_mode: what lies outside: zeros, the border's values, or the image reflected.
        align_corners: whether -1 and 1 are the centres of the corner pixels, not their outer edges.

    Returns:
        ``(N, C, H_out, W_out)`` or ``(N, C, D_out, H_out, W_out)``. See ``torch.nn.functional.grid_sample``.
    """
    shape, places = input._data.shape, grid._data.shape
    rank = len(shape) - 2
    if mode not in _MODES or padding_mode not in _PADDINGS:
        raise ValueError(
            f"grid_sample: mode must be one of {', '.join(_MODES)} and padding_mode one of {', '.join(_PADDINGS)}, got "
            f"{mode!r} and {padding_mode!r}"
        )
    if rank not in (2, 3) or len(places) != rank + 2 or places[-1] != rank or places[0] != shape[0]:
        raise ArgumentError(
            "grid_sample: expects input (N, C, H, W) with grid (N, H_out, W_out, 2), or (N, C, D, H, W) with "
            f"(N, D_out, H_out, W_out, 3), got {shape} and {places}"
        )
    same_dtype("grid_sample", "grid", grid, input)
    if mode == "bicubic" and rank == 3:
        raise ArgumentError("grid_sample: mode 'bicubic' needs a 4-D input")
    if 0 in shape[2:]:
        raise ArgumentError(f"grid_sample: only batch and channels of the input may be empty, got {shape}")
    align_corners = bool(align_corners)
    return GridSample.apply(  # type: ignore[no-any-return]
        input, grid, mode=mode, padding=padding_mode, align_corners=align_corners
    )


class GridSample(Op):
    floats_only = True
    saves = (0, 1)

    def forward(self, x: Any, grid: Any, **options: Any) -> Any:
        self.x, self.grid, self.options = x, grid, options
        return select(x).grid_sample_forward(x, grid, **options)

    def backward(self, grad_y: Any) -> Any:
        want_x, want_grid = self.needs
        return select(grad_y).grid_sample_backward(
            grad_y, self.x, self.grid, **self.options, want_x=want_x, want_grid=want_grid
        )

    def backward_graph(self, grad_y: Tensor) -> Any:
        of_x, of_grid = replay(
            self, grad_y, lambda x, grid: _composed(x, grid, *self.options.values()), self.x, self.grid
        )
        if self.options["mode"] == "nearest":  # the grid matters in steps only
            self.flat = MappingProxyType({0: (1,)})
            of_grid = Tensor._wrap(stand_in(self.grid.shape, self.grid.dtype, self.grid))
        return of_x, of_grid


def _composed(input: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    """The same of other operations, for second derivatives."""
    rank = input.ndim - 2
    extents = input.shape[2:]
    places = []
    for i, extent in enumerate(extents):
        x = grid[..., rank - 1 - i]
        if align_corners:
            x = mul(add(x, 1), (extent - 1) / 2)
        else:
            x = div(sub(mul(add(x, 1), extent), 1), 2)
        if rank == 3:  # a place that is not finite is outside of a volume, or at the end of the axis
            values = x._data
            lost = np.isnan(values) if padding_mode == "border" else ~np.isfinite(values)
            x = where(Tensor._wrap(lost), -2.0 if padding_mode == "zeros" else extent - 1.0, x)
        places.append(x if mode == "bicubic" else _padded(x, extent, padding_mode, align_corners))
    taps = [_taps(x, mode) for x in places]
    flat = reshape(input, (*input.shape[:2], math.prod(extents)))
    total: Any = None
    for corner in itertools.product(*taps):
        weight: Any = None
        index = np.zeros(grid.shape[:-1], np.int64, like=grid._data)
        inside = full(grid.shape[:-1], True, bool_, grid._data)
        for (at, share), extent in zip(corner, extents, strict=True):
            if mode == "bicubic":
                at = _padded(at, extent, padding_mode, align_corners)
            with np.errstate(invalid="ignore"):
                position = np.nan_to_num(at._data, nan=-1.0)
                inside &= (position >= 0) & (position <= extent - 1)
                index = index * extent + np.clip(position, 0, extent - 1).astype(np.int64)
            if share is not None:
                weight = share if weight is None else mul(weight, share)
        values = _at(flat, index)
        keep = Tensor._wrap(inside[:, None].astype(input.dtype))
        values = mul(values, keep if weight is None else mul(unsqueeze(weight, 1), keep))
        total = values if total is None else add(total, values)
    return total  # type: ignore[no-any-return]


def _at(flat: Tensor, index: Any) -> Tensor:
    """(N, C, P) at the places (N, *out) gives (N, C, *out)."""
    n, c = flat.shape[:2]
    places = math.prod(index.shape[1:])
    rows = Tensor._wrap(pooled_copy(np.broadcast_to(index.reshape(n, 1, places), (n, c, places))))
    return reshape(gather(flat, 2, rows), (n, c, *index.shape[1:]))


def _padded(x: Tensor, extent: int, padding: str, align_corners: bool) -> Tensor:
    """Places moved into the image, except for zeros."""
    if padding == "border":
        return _clipped(x, extent - 1)
    if padding == "zeros":
        return x
    low, span = (0.0, extent - 1.0) if align_corners else (-0.5, float(extent))
    if span == 0:
        return mul(x, 0)
    offset = abs(sub(x, low))
    turns = floor(div(offset.detach(), span))
    rest = sub(offset, mul(turns, span))
    back = remainder(turns, 2) == 1
    return _clipped(add(where(back, sub(span, rest), rest), low), extent - 1)


def _clipped(x: Tensor, high: int) -> Tensor:
    """Limited to [0, high]; unlike ``clamp`` without a gradient at the limits themselves, as in PyTorch."""
    limited = clamp(nan_to_num(x.detach(), 0.0), 0, high)  # NaN is in the corner, as in the kernel
    return where(logical_and(gt(x, 0), lt(x, high)), x, limited)  # type: ignore[no-any-return]


def _taps(x: Tensor, mode: str) -> list[tuple[Tensor, Any]]:
    """Pixels (as floats) and their shares along one axis."""
    if mode == "nearest":
        return [(Tensor._wrap(np.rint(x._data)), None)]
    first = floor(x.detach())
    t = sub(x, first)
    if mode == "bilinear":
        return [(first, sub(1, t)), (add(first, 1), t)]
    a = -0.75  # the cubic convolution of Keys, with PyTorch's parameter

    def near(s: Tensor) -> Tensor:
        return add(mul(mul(sub(mul(s, a + 2), a + 3), s), s), 1)

    def far(s: Tensor) -> Tensor:
        return sub(mul(add(mul(sub(mul(s, a), 5 * a), s), 8 * a), s), 4 * a)

    shares = [far(add(t, 1)), near(t), near(sub(1, t)), far(sub(2, t))]
    return [(add(first, i - 1), share) for i, share in enumerate(shares)]

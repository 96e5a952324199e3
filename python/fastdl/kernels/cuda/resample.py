"""Interpolation, sampling at any places, padding, unfold/fold, pixel shuffling; see
:mod:`fastdl.kernels.reference.resample`.

Backward gathers everywhere, so it has the same bits every time. Tables of interpolation are made on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous
from fastdl.kernels.cuda.elementwise import convert
from fastdl.kernels.cuda.embedding import embedding_backward

Sizes = Sequence[int]
Pairs = Sequence[tuple[int, int]]

__all__ = [
    "fold_forward",
    "grid_sample_backward",
    "grid_sample_forward",
    "interpolate_backward",
    "interpolate_forward",
    "pad_backward",
    "pad_forward",
    "pixel_shuffle_forward",
    "pixel_unshuffle_forward",
    "unfold_forward",
]

_LARGEST = 2**31
_MODES = ("nearest", "nearest-exact", "linear", "cubic", "lanczos")
_PAD_MODES = ("constant", "reflect", "replicate", "circular", "roll")
_PAD_AXES = 4  # at once


def _interpolate(
    op: str,
    x: Array,
    other: Sizes,
    scale: Sequence[float],
    mode: str,
    align_corners: bool,
    antialias: bool,
    backward: bool,
) -> Array:
    rank = len(other)
    if not 1 <= rank <= 3 or x.ndim < rank or len(scale) != rank:
        raise ArgumentError(f"{op}: needs 1 to 3 spatial axes and one scale for each")
    if mode not in _MODES:
        raise ArgumentError(
            f"{op}: mode must be nearest, nearest-exact, linear, cubic or lanczos, got {mode}"
        )
    if mode.startswith("nearest") if antialias else mode == "lanczos":
        raise ArgumentError(
            f"{op}: antialias goes with linear, cubic and lanczos, and lanczos with nothing else"
        )
    leading, spatial = x.shape[: x.ndim - rank], x.shape[x.ndim - rank :]
    if min(*spatial, *other) < 1 or max(*spatial, *other) >= _LARGEST:
        raise ArgumentError(f"{op}: spatial sizes must lie in [1, 2^31)")
    if any(s != 0 and not 1e-9 <= s <= 1e9 for s in scale):
        raise ArgumentError(f"{op}: scale must be 0 or lie in [1e-9, 1e9]")
    number, runtime, x = device.code(op, x), device.of(x), contiguous(x)
    y = runtime.empty((*leading, *other), x.dtype)
    before, after = (other, spatial) if backward else (spatial, other)
    # Depth and height that are not there are axes of one place.
    axes = [("nearest", 1, 1, 0.0, False, False)] * (3 - rank)
    axes += [
        (mode, n, out, float(s), align_corners, antialias)
        for n, out, s in zip(before, after, scale, strict=True)
    ]
    extension = runtime.extension
    plans = [extension.ResamplePlan(*axis) for axis in axes]
    tables = runtime.empty(extension.interpolate_bytes(number, *plans), np.dtype(np.uint8))
    extension.interpolate(
        number,
        runtime.pointer(y),
        runtime.pointer(x),
        prod(leading),
        *plans,
        backward,
        runtime.pointer(tables),
        runtime.stream(),
    )
    return y


def interpolate_forward(
    x: Array, output: Sizes, scale: Sequence[float], mode: str, align_corners: bool, antialias: bool
) -> Array:
    return _interpolate("interpolate_forward", x, output, scale, mode, align_corners, antialias, False)


def interpolate_backward(
    grad_y: Array, size: Sizes, scale: Sequence[float], mode: str, align_corners: bool, antialias: bool
) -> Array:
    return _interpolate("interpolate_backward", grad_y, size, scale, mode, align_corners, antialias, True)


_GRID_MODES = ("bilinear", "nearest", "bicubic")
_GRID_PADDINGS = ("zeros", "border", "reflection")


def _grid_problem(
    op: str, runtime: Any, x: Array, grid: Array, mode: str, padding: str, align_corners: bool
) -> Any:
    rank = x.ndim - 2
    if rank not in (2, 3) or grid.ndim != x.ndim or grid.shape[-1] != rank or len(grid) != len(x):
        raise ArgumentError(
            f"{op}: x must be (N, C, H, W) with grid (N, H_out, W_out, 2), or each with one axis more, got "
            f"{x.shape} and {grid.shape}"
        )
    if min(x.shape[2:]) < 1 or prod(x.shape[2:]) >= _LARGEST:
        raise ArgumentError(f"{op}: spatial sizes of x must be at least 1 and their product below 2^31")
    if mode not in _GRID_MODES or (mode == "bicubic" and rank == 3):
        raise ArgumentError(f"{op}: mode must be bilinear, nearest or, for images, bicubic, got {mode}")
    if padding not in _GRID_PADDINGS:
        raise ArgumentError(f"{op}: padding must be zeros, border or reflection, got {padding}")
    return runtime.extension.GridProblem(
        *x.shape[:2], prod(grid.shape[1:-1]), list(x.shape[2:]), mode, padding, align_corners
    )


def grid_sample_forward(x: Array, grid: Array, mode: str, padding: str, align_corners: bool) -> Array:
    op = "grid_sample_forward"
    number, runtime = device.code(op, x, grid), device.of(x)
    problem = _grid_problem(op, runtime, x, grid, mode, padding, align_corners)
    x, grid = contiguous(x), contiguous(grid)
    y = runtime.empty((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
    pointer = runtime.pointer
    runtime.extension.grid_sample(number, pointer(y), pointer(x), pointer(grid), problem, runtime.stream())
    return y


def grid_sample_backward(
    grad_y: Array,
    x: Array,
    grid: Array,
    mode: str,
    padding: str,
    align_corners: bool,
    want_x: bool,
    want_grid: bool,
) -> tuple[Array | None, Array | None]:
    op = "grid_sample_backward"
    number, runtime = device.code(op, grad_y, x, grid), device.of(x)
    problem = _grid_problem(op, runtime, x, grid, mode, padding, align_corners)
    if grad_y.shape != (*x.shape[:2], *grid.shape[1:-1]):
        raise ArgumentError(f"{op}: grad_y must have the result's shape, got {grad_y.shape}")
    grid, pointer = contiguous(grid), runtime.pointer
    grad_x = grad_grid = None
    if want_grid:
        grad_grid, grad_y, x = runtime.empty(grid.shape, grid.dtype), contiguous(grad_y), contiguous(x)
        addresses = pointer(grad_grid), pointer(grad_y), pointer(x), pointer(grid)
        runtime.extension.grid_sample_grad_grid(number, *addresses, problem, runtime.stream())
    if want_x:  # the gradient of a table of pixels, whose rows are the channels
        n, channels = x.shape[:2]
        points, pixels = prod(grid.shape[1:-1]), prod(x.shape[2:])
        entries = n * points * problem.taps
        pixel, point = (runtime.empty(entries, np.dtype(np.int64)) for _ in range(2))
        weight = runtime.empty(entries, device.compute_dtype(x.dtype))
        addresses = pointer(pixel), pointer(point), pointer(weight), pointer(grid)
        runtime.extension.grid_sample_entries(number, *addresses, problem, runtime.stream())
        rows = convert(contiguous(grad_y.reshape(n, channels, points).swapaxes(1, 2)), weight.dtype)
        rows = rows.reshape(n * points, channels)
        table = embedding_backward(rows, pixel, point, weight, n * pixels + 1, n * pixels, False)
        images = table[: n * pixels].reshape(n, pixels, channels).swapaxes(1, 2)
        grad_x = convert(contiguous(images), x.dtype).reshape(x.shape)
    return grad_x, grad_grid


def _padded(op: str, size: Sizes, padding: Pairs) -> tuple[int, ...]:
    if len(padding) != len(size):
        raise ArgumentError(f"{op}: needs one pair of paddings for each axis")
    if any(abs(p) >= _LARGEST for pair in padding for p in pair):
        raise ArgumentError(f"{op}: padding must lie between -2^31 and 2^31")
    shape = tuple(n + before + after for n, (before, after) in zip(size, padding, strict=True))
    if min(shape, default=0) < 0:
        raise ArgumentError(f"{op}: padding cuts off more than there is")
    return shape


def _pad_axes(op: str, size: Sizes, padding: Pairs, mode: str) -> list[list[int]]:
    """(in, out, before, after) of the axes, neighbours without padding merged."""
    if mode not in _PAD_MODES:
        raise ArgumentError(f"{op}: mode must be constant, reflect, replicate, circular or roll, got {mode}")
    axes: list[list[int]] = []
    for n, (before, after) in zip(size, padding, strict=True):
        if mode == "roll":
            if after != -before or not 0 <= before <= n:
                raise ArgumentError(f"{op}: mode roll takes (n, -n) of an axis")
            after = 0  # the kernel goes round before it cuts
        elif mode != "constant" and n + before + after > 0:
            # Circular padding takes what negative padding leaves of the axis.
            left = n + min(before, 0) + min(after, 0) if mode == "circular" else n - (mode == "reflect")
            if max(before, after) > left and not (mode == "replicate" and n > 0):
                raise ArgumentError(f"{op}: the input is too small for padding of mode {mode}")
        if axes and (before, after) == (0, 0) and axes[-1][2:] == [0, 0]:
            axes[-1] = [axes[-1][0] * n, axes[-1][1] * n, 0, 0]
        elif axes and (before, after) == (0, 0) and mode == "constant":
            axes[-1] = [a * n for a in axes[-1]]
        else:
            axes.append([n, n if mode == "roll" else n + before + after, before, after])
    return axes


def _numbers(axes: list[list[int]]) -> list[int]:
    return [v for axis in [[1, 1, 0, 0]] * (_PAD_AXES - len(axes)) + axes for v in axis]


def _single(padding: Pairs, axis: int) -> list[tuple[int, int]]:
    """The padding of one axis alone."""
    return [pair if a == axis else (0, 0) for a, pair in enumerate(padding)]


def pad_forward(x: Array, padding: Pairs, mode: str, value: float) -> Array:
    op = "pad_forward"
    device.code(op, x)
    padding = [(int(before), int(after)) for before, after in padding]
    shape = _padded(op, x.shape, padding)
    runtime, x = device.of(x), contiguous(x)
    if 0 in shape:
        return runtime.empty(shape, x.dtype)
    axes = _pad_axes(op, x.shape, padding, mode)
    if len(axes) > _PAD_AXES:
        for axis in range(x.ndim):
            x = pad_forward(x, _single(padding, axis), mode, value)
        return x
    y = runtime.empty(shape, x.dtype)
    bits = int.from_bytes(np.asarray(value, x.dtype).tobytes(), "little")
    mode = "circular" if mode == "roll" else mode
    runtime.extension.pad(
        x.dtype.itemsize, runtime.pointer(y), runtime.pointer(x), _numbers(axes), mode, bits, runtime.stream()
    )
    return y


def pad_backward(grad_y: Array, size: Sizes, padding: Pairs, mode: str) -> Array:
    op = "pad_backward"
    number = device.code(op, grad_y)
    padding = [(int(before), int(after)) for before, after in padding]
    if mode == "constant":
        raise ArgumentError(f"{op}: constant padding is undone by padding with the negative amounts")
    if min(size, default=0) < 0:
        raise ArgumentError(f"{op}: sizes must not be negative")
    if _padded(op, size, padding) != grad_y.shape:
        raise ArgumentError(f"{op}: grad_y does not have the padded shape")
    runtime, grad_y = device.of(grad_y), contiguous(grad_y)
    if grad_y.size == 0:
        return runtime.zeros(tuple(size), grad_y.dtype)
    axes = _pad_axes(op, size, padding, mode)
    if len(axes) > _PAD_AXES:
        for axis in range(grad_y.ndim):
            before = (*grad_y.shape[:axis], size[axis], *grad_y.shape[axis + 1 :])
            grad_y = pad_backward(grad_y, before, _single(padding, axis), mode)
        return grad_y
    grad_x = runtime.empty(tuple(size), grad_y.dtype)
    runtime.extension.pad_backward(
        number, runtime.pointer(grad_x), runtime.pointer(grad_y), _numbers(axes), mode, runtime.stream()
    )
    return grad_x


def _windows(
    op: str, size: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> tuple[list[int], int, int]:
    """The axes of a PoolProblem, the windows and the taps of each."""
    if any(len(v) != 2 for v in (size, kernel, dilation, padding, stride)):
        raise ArgumentError(f"{op}: needs two spatial axes and two numbers for each option")
    axes, windows = [1, 1, 1, 1, 0, 1], 1
    for n, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True):
        if not all(1 <= v < _LARGEST for v in (k, s, d)):
            raise ArgumentError(f"{op}: kernel, stride and dilation must lie in [1, 2^31)")
        if not 1 <= n < _LARGEST or not 0 <= p < _LARGEST:
            raise ArgumentError(f"{op}: sizes must lie in [1, 2^31)")
        room = n + 2 * p - (k - 1) * d - 1
        if room < 0:
            raise ArgumentError(f"{op}: the window is larger than the padded image")
        axes += [n, room // s + 1, k, s, p, d]
        windows *= room // s + 1
    return axes, windows, prod(kernel)


def unfold_forward(x: Array, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Array:
    op = "unfold_forward"
    number = device.code(op, x)
    if x.ndim not in (3, 4):
        raise ArgumentError(f"{op}: input must have 3 or 4 axes")
    *leading, channels, height, width = x.shape
    axes, windows, taps = _windows(op, (height, width), kernel, dilation, padding, stride)
    runtime, x = device.of(x), contiguous(x)
    y = runtime.empty((*leading, channels * taps, windows), x.dtype)
    problem = runtime.extension.PoolProblem(prod(leading) * channels, axes)
    runtime.extension.unfold(number, runtime.pointer(y), runtime.pointer(x), problem, runtime.stream())
    return y


def fold_forward(
    x: Array, output: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> Array:
    op = "fold_forward"
    number = device.code(op, x)
    if x.ndim not in (2, 3):
        raise ArgumentError(f"{op}: input must have 2 or 3 axes")
    axes, windows, taps = _windows(op, output, kernel, dilation, padding, stride)
    if x.shape[-2] % taps or x.shape[-1] != windows:
        raise ArgumentError(
            f"{op}: input must have channels * kernel taps rows and one column for each window"
        )
    leading, channels = x.shape[:-2], x.shape[-2] // taps
    runtime, x = device.of(x), contiguous(x)
    y = runtime.empty((*leading, channels, *output), x.dtype)
    problem = runtime.extension.PoolProblem(prod(leading) * channels, axes)
    runtime.extension.fold(number, runtime.pointer(y), runtime.pointer(x), problem, runtime.stream())
    return y


def pixel_shuffle_forward(x: Array, factor: int) -> Array:
    op = "pixel_shuffle_forward"
    device.code(op, x)
    if x.ndim < 3 or not 1 <= factor < 2**15 or x.shape[-3] % factor**2:
        raise ArgumentError(f"{op}: input needs 3 axes and channels divisible by the factor squared")
    *leading, channels, height, width = x.shape
    channels //= factor**2
    blocks = contiguous(x).reshape(prod(leading), channels, factor, factor, height, width)
    y = device.copy(blocks.transpose(0, 1, 4, 2, 5, 3))
    return y.reshape(*leading, channels, height * factor, width * factor)


def pixel_unshuffle_forward(x: Array, factor: int) -> Array:
    op = "pixel_unshuffle_forward"
    device.code(op, x)
    if x.ndim < 3 or not 1 <= factor < 2**15 or x.shape[-2] % factor or x.shape[-1] % factor:
        raise ArgumentError(f"{op}: input needs 3 axes, height and width divisible by the factor")
    *leading, channels, height, width = x.shape
    height, width = height // factor, width // factor
    blocks = contiguous(x).reshape(prod(leading), channels, height, factor, width, factor)
    y = device.copy(blocks.transpose(0, 1, 3, 5, 2, 4))
    return y.reshape(*leading, channels * factor**2, height, width)

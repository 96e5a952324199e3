"""Matrix products: cuBLAS, by the binding that CuPy has. NumPy's under emulation.

Not CuPy's ``a @ b``: CuPy 14 copies transposed operands of batches, computes batches of float16 in float32, refuses
those of bfloat16, and takes one matrix for a whole batch item by item. cuBLAS takes transposed operands as they are.

It counts columns first: what lies in memory as the rows of y = a b are the columns of y^T = b^T a^T, so operands change
places and nothing moves. A matrix needs one axis of neighbours; batches need equal steps from one matrix to the next,
0 where one is used by all.
"""

from __future__ import annotations

import itertools
from ctypes import addressof, c_double, c_float
from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels import precisions
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array

# Of each dtype, as the extension numbers them: cuBLAS's numbers of it and of what is computed in, and zero and one,
# which lie in the host's memory and are read during a call.
_FLOAT32, _FLOAT64 = (c_float(0), c_float(1)), (c_double(0), c_double(1))
_KINDS = {0: (0, 68, _FLOAT32), 1: (2, 68, _FLOAT32), 2: (14, 68, _FLOAT32), 3: (1, 70, _FLOAT64)}
_IN_TF32 = 77
_DEFAULT_ALGORITHM = -1


def product(op: str, a: Array, b: Array, alpha: float = 1.0) -> Array:
    """``alpha * a @ b`` of one dtype, the axes before the last two broadcast; sums in float32 or float64."""
    number = device.code(op, a, b)
    a_shape, b_shape = a.shape, b.shape
    if len(a_shape) < 2 or len(b_shape) < 2 or a_shape[-1] != b_shape[-2]:
        raise ArgumentError(f"{op}: shapes {a_shape} and {b_shape} cannot be multiplied")
    if isinstance(a, np.ndarray):
        compute = device.compute_dtype(a.dtype)
        y = np.matmul(a.astype(compute, copy=False), b.astype(compute, copy=False))
        return (y if alpha == 1 else alpha * y).astype(a.dtype, copy=False)
    if len(a_shape) > 2 and len(b_shape) == 2:  # one long product
        return product(op, rows_of(a), b, alpha).reshape(*a_shape[:-1], b_shape[1])
    batch: tuple[int, ...] = ()
    if len(b_shape) > 2:
        try:
            batch = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
        except ValueError:
            raise ArgumentError(f"{op}: shapes {a_shape} and {b_shape} do not broadcast") from None
    runtime = device.of(a)
    shape = (*batch, a_shape[-2], b_shape[-1])
    if alpha == 0 or a_shape[-1] == 0:
        return runtime.zeros(shape, a.dtype)
    y = runtime.empty(shape, a.dtype)
    if 0 not in shape:
        _multiply(runtime, number, y, a, b, batch, alpha)
    return y


def _multiply(
    runtime: Any, number: int, y: Array, a: Array, b: Array, batch: tuple[int, ...], alpha: float
) -> None:
    a, turn_a, step_a = _matrix(a)
    b, turn_b, step_b = _matrix(b)
    kind, compute, (zero, factor) = _KINDS[number]
    if number == 0 and precisions.matmul != "highest":
        compute = _IN_TF32
    if alpha != 1:
        factor = type(zero)(alpha)
    rows, inner = a.shape[-2:]
    columns = b.shape[-1]
    cublas, handle = runtime.cublas()
    if not batch:
        _call(
            *(runtime, cublas, "gemmEx"),
            *(handle, turn_b, turn_a, columns, rows, inner, addressof(factor)),
            *(runtime.pointer(b), kind, step_b, runtime.pointer(a), kind, step_a),
            *(addressof(zero), runtime.pointer(y), kind, columns, compute, _DEFAULT_ALGORITHM),
        )
        return
    axes = _batch_axes(batch, y, a, b)
    if len(axes) > 1:  # dense operands may be one batch
        a, b = (x if x.flags.c_contiguous else device.copy(x) for x in (a, b))
        turn_a, step_a, turn_b, step_b = 0, inner, 0, columns
        axes = _batch_axes(batch, y, a, b)
    axes.sort()
    count, *steps = axes.pop() if axes else (1, 0, 0, 0)
    to_step, left_step, right_step = (step // a.itemsize for step in steps)
    for place in itertools.product(*(range(extent) for extent, *_ in axes)):
        to, left, right = (
            runtime.pointer(x) + sum(i * axis[which] for i, axis in zip(place, axes, strict=True))
            for which, x in enumerate((y, a, b), 1)
        )
        _call(
            *(runtime, cublas, "gemmStridedBatchedEx"),
            *(handle, turn_b, turn_a, columns, rows, inner, addressof(factor)),
            *(right, kind, step_b, right_step, left, kind, step_a, left_step),
            *(addressof(zero), to, kind, columns, to_step, count, compute, _DEFAULT_ALGORITHM),
        )


def _call(runtime: Any, cublas: Any, name: str, *arguments: Any) -> None:
    try:
        getattr(cublas, name)(*arguments)
    except NotImplementedError:  # CuPy's binding refuses a stream that is being recorded; cuBLAS does not
        runtime.recorded_cublas(name)(*arguments)


def _matrix(x: Array) -> tuple[Array, int, int]:
    """x or a copy of it, whether rows are the axis of neighbours, and the step along the other axis in elements."""
    (rows, columns), (down, across), item = x.shape[-2:], x.strides[-2:], x.itemsize
    if (across == item or columns == 1) and (rows == 1 or down >= columns * item):
        return x, 0, columns if rows == 1 else down // item
    if (down == item or rows == 1) and (columns == 1 or across >= rows * item):
        return x, 1, rows if columns == 1 else across // item
    return device.copy(x), 0, columns


def _batch_axes(batch: tuple[int, ...], *arrays: Array) -> list[tuple[int, ...]]:
    """Extent and the arrays' steps in bytes of the batch's axes; such that make equal steps are one."""
    axes: list[tuple[int, ...]] = []
    lead = len(batch)
    steps = [device.strides(x, (*batch, *x.shape[-2:]))[:lead] for x in arrays] if lead else []
    for axis in zip(batch, *steps, strict=True):
        if axis[0] == 1:
            continue
        if axes and all(s == t * axis[0] for s, t in zip(axes[-1][1:], axis[1:], strict=True)):
            axis = (axes.pop()[0] * axis[0], *axis[1:])
        axes.append(axis)
    return axes


def rows_of(x: Array) -> Array:
    """x as a matrix: its last axis, and all others as one."""
    return x if x.ndim == 2 else device.contiguous(x).reshape(prod(x.shape[:-1]), x.shape[-1])

"""Matrix products: cuBLAS, by the binding that CuPy has. NumPy's under emulation.

Not CuPy's ``a @ b``: CuPy 14 copies transposed operands of batches, computes batches of float16 in float32, refuses
those of bfloat16, and takes one matrix for a whole batch item by item. cuBLAS takes transposed operands as they are.

It counts columns first: what lies in memory as the rows of y = a b are the columns of y^T = b^T a^T, so operands change
places and nothing moves. A matrix needs one axis of neighbours; batches need equal steps from one matrix to the next,
0 where one is used by all.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels import precisions
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array

Matrix = tuple[
    Array, tuple[int, ...], tuple[int, ...]
]  # an array's memory as rows and columns: shape, strides


def rows_of(x: Array) -> Matrix:
    """x as a matrix: its last axis, and all others as one."""
    shape = x.shape
    if len(shape) == 2:
        return x, shape, x.strides
    x = device.contiguous(x)
    item = x.itemsize
    return x, (prod(shape[:-1]), shape[-1]), (shape[-1] * item, item)


def turned(matrix: Matrix) -> Matrix:
    """The transposed matrix."""
    x, (rows, columns), (down, across) = matrix
    return x, (columns, rows), (across, down)


def multiply(
    runtime: Any, number: int, shape: tuple[int, ...], left: Matrix, right: Matrix, alpha: float = 1.0
) -> Array:
    """``alpha * left @ right`` as an array of ``shape``: two matrices that fit, of the dtype with that number."""
    a, a_shape, a_strides = left
    b, b_shape, b_strides = right
    if isinstance(a, np.ndarray):
        x, w = (np.lib.stride_tricks.as_strided(*matrix, writeable=False) for matrix in (left, right))
        return _on_host(x, w, alpha).reshape(shape)
    if alpha == 0 or a_shape[1] == 0:
        return runtime.zeros(shape, a.dtype)
    y = runtime.empty(shape, a.dtype)
    if a_shape[0] == 0 or b_shape[1] == 0:
        return y
    blas, handle = runtime.cublas()
    workspace = runtime.cublas_workspace()
    pointer = runtime.pointer
    if not blas.matrix(
        *(handle, number, precisions.matmul != "highest", alpha, pointer(y)),
        *(pointer(a), a_shape, a_strides, pointer(b), b_shape, b_strides),
        *(pointer(workspace), 0 if workspace is None else workspace.size, runtime.stream()),
    ):
        return multiply(runtime, number, shape, _dense(left), _dense(right), alpha)
    return y


def _dense(matrix: Matrix) -> Matrix:
    """The matrix with neighbours side by side, copied unless its array is dense."""
    x, shape, strides = matrix
    if x.flags.c_contiguous:
        return matrix
    rows = rows_of(device.copy(x))
    return rows if (shape, strides) == (x.shape, x.strides) else turned(rows)


def _on_host(a: Array, b: Array, alpha: float) -> Array:
    compute = device.compute_dtype(a.dtype)
    y = np.matmul(a.astype(compute, copy=False), b.astype(compute, copy=False))
    return (y if alpha == 1 else alpha * y).astype(a.dtype, copy=False)


def product(op: str, a: Array, b: Array, alpha: float = 1.0) -> Array:
    """``alpha * a @ b`` of one dtype, the axes before the last two broadcast; sums in float32 or float64."""
    number = device.code(op, a, b)
    a_shape, b_shape = a.shape, b.shape
    if len(a_shape) < 2 or len(b_shape) < 2 or a_shape[-1] != b_shape[-2]:
        raise ArgumentError(f"{op}: shapes {a_shape} and {b_shape} cannot be multiplied")
    if isinstance(a, np.ndarray):
        return _on_host(a, b, alpha)
    runtime = device.of(a)
    shape = (*a_shape[:-1], b_shape[-1])
    if len(b_shape) == 2:  # one long product
        return multiply(runtime, number, shape, rows_of(a), (b, b_shape, b.strides), alpha)
    try:
        batch = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    except ValueError:
        raise ArgumentError(f"{op}: shapes {a_shape} and {b_shape} do not broadcast") from None
    shape = (*batch, *shape[-2:])
    if alpha == 0 or a_shape[-1] == 0:
        return runtime.zeros(shape, a.dtype)
    y = runtime.empty(shape, a.dtype)
    if 0 not in shape:
        _multiply_batch(runtime, number, y, a, b, batch, alpha)
    return y


def _multiply_batch(
    runtime: Any, number: int, y: Array, a: Array, b: Array, batch: tuple[int, ...], alpha: float
) -> None:
    a, turn_a, row_a = _matrix(a)
    b, turn_b, row_b = _matrix(b)
    rows, inner = a.shape[-2:]
    columns = b.shape[-1]
    axes = _batch_axes(batch, y, a, b)
    if len(axes) > 1:  # dense operands may be one batch
        a, b = (x if x.flags.c_contiguous else device.copy(x) for x in (a, b))
        turn_a, row_a, turn_b, row_b = False, inner, False, columns
        axes = _batch_axes(batch, y, a, b)
    axes.sort()
    count, *steps = axes.pop() if axes else (1, 0, 0, 0)
    to_step, left_step, right_step = (step // a.itemsize for step in steps)
    for place in itertools.product(*(range(extent) for extent, *_ in axes)):
        to, left, right = (
            runtime.pointer(x) + sum(i * axis[which] for i, axis in zip(place, axes, strict=True))
            for which, x in enumerate((y, a, b), 1)
        )
        _call_batch(
            *(runtime, number, precisions.matmul != "highest", alpha, (rows, inner, columns), count),
            *(to, to_step, left, turn_a, row_a, left_step, right, turn_b, row_b, right_step),
        )


def _call_batch(runtime: Any, *arguments: Any, beta: float = 0.0) -> None:
    blas, handle = runtime.cublas()
    workspace = runtime.cublas_workspace()
    size = 0 if workspace is None else workspace.size
    blas.batch(handle, *arguments, runtime.pointer(workspace), size, runtime.stream(), beta)


def _matrix(x: Array) -> tuple[Array, bool, int]:
    """x or a copy of it, whether rows are the axis of neighbours, and the step along the other axis in elements."""
    (rows, columns), (down, across), item = x.shape[-2:], x.strides[-2:], x.itemsize
    if (across == item or columns == 1) and (rows == 1 or down >= columns * item):
        return x, False, columns if rows == 1 else down // item
    if (down == item or rows == 1) and (columns == 1 or across >= rows * item):
        return x, True, rows if columns == 1 else across // item
    return device.copy(x), False, columns


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


def multiply_dense(
    runtime: Any,
    number: int,
    y: Array,
    left: Array,
    right: Array,
    sizes: tuple[int, int, int],
    *,
    turned: tuple[bool, bool] = (False, False),
    count: int = 1,
    steps: tuple[int, int, int] = (0, 0, 0),
    starts: tuple[int, int, int] = (0, 0, 0),
    tf32: bool = False,
    beta: float = 0.0,
) -> None:
    """``y = left @ right + beta * y`` of matrices without gaps in dense arrays: rows, summands and columns, in
    ``sizes``; ``turned`` ones lie transposed. ``count`` of them, ``steps`` apart in y, left and right, from ``starts``
    on, in elements. The sum is rounded once."""
    rows, inner, columns = sizes
    left_row, right_row = rows if turned[0] else inner, inner if turned[1] else columns
    if not isinstance(y, np.ndarray):
        pointer, item = runtime.pointer, y.itemsize
        _call_batch(
            *(runtime, number, tf32, 1.0, sizes, count, pointer(y) + starts[0] * item, steps[0]),
            *(pointer(left) + starts[1] * item, turned[0], left_row, steps[1]),
            *(pointer(right) + starts[2] * item, turned[1], right_row, steps[2]),
            beta=beta,
        )
        return

    def matrices(x: Array, which: int, rows: int, columns: int, turned: bool) -> Array:
        if turned:
            return matrices(x, which, columns, rows, False).swapaxes(-1, -2)
        strides = [n * x.itemsize for n in (steps[which], columns, 1)]
        return np.lib.stride_tricks.as_strided(
            x.reshape(-1)[starts[which] :], (count, rows, columns), strides
        )

    to = matrices(y, 0, rows, columns, False)
    wide = device.compute_dtype(y.dtype)
    a = matrices(left, 1, rows, inner, turned[0]).astype(wide, copy=False)
    product = np.matmul(a, matrices(right, 2, inner, columns, turned[1]).astype(wide, copy=False))
    to[...] = product + beta * to.astype(wide) if beta else product

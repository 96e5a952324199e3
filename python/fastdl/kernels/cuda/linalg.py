"""LU decompositions and triangular systems; see :mod:`fastdl.kernels.reference.linalg`.

Pivots are checked on the device, as labels are in :mod:`fastdl.kernels.cuda.embedding`: one that is no row is reported
when the device is next waited for, and exchanges nothing.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array

__all__ = ["lu_factor", "lu_permutation", "lu_solve", "lu_unpack", "triangular_solve"]

_INT32 = np.dtype(np.int32)
# As the extension numbers them (csrc/cuda/linalg.h).
_FIELDS = {np.dtype(t): i for i, t in enumerate((np.float32, np.float64, np.complex64, np.complex128))}


def _field(op: str, a: Array) -> int:
    field = _FIELDS.get(a.dtype)
    if field is None:
        raise DtypeError(f"{op}: input must be float32, float64, complex64 or complex128, got {a.dtype.name}")
    if a.ndim < 2:
        raise ArgumentError(f"{op}: expects matrices (..., m, n), got shape {a.shape}")
    if max(a.shape[-2:]) >= 2**21:
        raise ArgumentError(f"{op}: matrices must have fewer than 2^21 rows and columns, got {a.shape[-2:]}")
    return field


def lu_factor(a: Array, pivot: bool) -> tuple[Array, Array, Array]:
    field, runtime = _field("lu_factor", a), device.of(a)
    batch, (rows, columns) = a.shape[:-2], a.shape[-2:]
    packed = device.copy(a)
    pivots = runtime.empty((*batch, min(rows, columns)), _INT32)
    info = runtime.zeros(batch, _INT32)
    pointer, size = runtime.pointer, runtime.extension.lu_scratch(field, prod(batch), rows, columns)
    scratch = runtime.empty(size, np.dtype(np.uint8)) if size else None
    runtime.extension.lu_factor(
        *(field, pointer(packed), prod(batch), rows, columns, pivot),
        *(pointer(pivots), pointer(info), pointer(scratch), runtime.stream()),
    )
    return packed, pivots, info


def lu_unpack(packed: Array) -> tuple[Array, Array]:
    _field("lu_unpack", packed)
    steps = min(packed.shape[-2:])
    lower = np.tril(packed[..., :steps], -1)
    _set_diagonal(lower)
    return lower, np.triu(packed[..., :steps, :])


def lu_permutation(pivots: Array, packed: Array) -> Array:
    # The exchanges backwards, as each is its own transpose.
    op, batch, rows = "lu_permutation", packed.shape[:-2], packed.shape[-2]
    permutation = _identity(packed, (*batch, rows, rows))
    _exchange(op, _pivots(op, pivots, packed), permutation, True)
    return permutation


def lu_solve(packed: Array, pivots: Array, b: Array | None, transposed: bool) -> Array:
    op = "lu_solve"
    x, pivots = _right_sides(op, packed, b), _pivots(op, pivots, packed)
    if pivots.shape[-1] != packed.shape[-1]:
        raise ArgumentError(f"{op}: pivots must be (..., n), got {pivots.shape} for factors {packed.shape}")
    if transposed:  # A^T = U^T L^T P^T
        packed = packed.swapaxes(-1, -2)
    else:
        _exchange(op, pivots, x, False)
    _substitute(op, packed, x, upper=False, unit=not transposed)
    _substitute(op, packed, x, upper=True, unit=transposed)
    if transposed:
        _exchange(op, pivots, x, True)
    return x


def triangular_solve(a: Array, b: Array | None, upper: bool, unit: bool) -> Array:
    op = "triangular_solve"
    x = _right_sides(op, a, b)
    _substitute(op, a, x, upper, unit)
    return x


def _set_diagonal(matrices: Array) -> None:
    """Ones."""
    rows, columns = matrices.shape[-2:]
    if matrices.size:
        flat = matrices.reshape(prod(matrices.shape[:-2]), rows * columns)
        flat[:, : min(rows, columns) * columns : columns + 1] = 1


def _identity(like: Array, shape: tuple[int, ...]) -> Array:
    result = device.of(like).zeros(shape, like.dtype)
    _set_diagonal(result)
    return result


def _pivots(op: str, pivots: Array, packed: Array) -> Array:
    if pivots.dtype != _INT32:
        raise DtypeError(f"{op}: pivots must be int32, got {pivots.dtype}")
    if pivots.shape[:-1] != packed.shape[:-2] or pivots.ndim == 0 or pivots.shape[-1] > packed.shape[-2]:
        raise ArgumentError(
            f"{op}: pivots must be (..., min(m, n)) for factors (..., m, n), got {pivots.shape} for {packed.shape}"
        )
    return pivots


def _right_sides(op: str, a: Array, b: Array | None) -> Array:
    """A copy of ``b``, or the identity, for every matrix of the batch: the solution's place."""
    _field(op, a)
    if a.shape[-1] != a.shape[-2]:
        raise ArgumentError(f"{op}: a must hold square matrices, got shape {a.shape}")
    if b is None:
        return _identity(a, a.shape)
    if b.dtype != a.dtype:
        raise DtypeError(f"{op}: b must be {a.dtype.name}, got {b.dtype.name}")
    if b.ndim < 2 or b.shape[-2] != a.shape[-1]:
        raise ArgumentError(f"{op}: b must have as many rows as a, got {b.shape} for {a.shape}")
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ArgumentError(f"{op}: batch dimensions do not broadcast, got {a.shape} and {b.shape}") from None
    return device.copy(np.broadcast_to(b, (*batch, *b.shape[-2:])))


def _spread(x: Array, batch: tuple[int, ...], axes: int) -> tuple[Array, int]:
    """``x``, whose last ``axes`` axes belong together, for a batch that it is broadcast to: with one axis for the
    batch, and the elements from one to the next."""
    inner = x.shape[x.ndim - axes :]
    if prod(x.shape[: x.ndim - axes]) == 1:
        return x.reshape(1, *inner), 0
    flat = np.broadcast_to(x, (*batch, *inner)).reshape(prod(batch), *inner)
    return flat, flat.strides[0] // flat.itemsize


def _exchange(op: str, pivots: Array, x: Array, backwards: bool) -> None:
    runtime, batch, (rows, columns) = device.of(x), x.shape[:-2], x.shape[-2:]
    flat, step = _spread(device.contiguous(pivots), batch, 1)
    runtime.extension.exchange_rows(
        *(_field(op, x), runtime.pointer(x), prod(batch), rows, columns),
        *(runtime.pointer(flat), step, pivots.shape[-1], backwards),
        *(runtime.pointer(runtime.report()), runtime.stream()),
    )


def _substitute(op: str, a: Array, x: Array, upper: bool, unit: bool) -> None:
    runtime, batch, (n, columns) = device.of(x), x.shape[:-2], x.shape[-2:]
    flat, step = _spread(a, batch, 2)
    row, column = (s // a.itemsize for s in flat.strides[-2:])
    runtime.extension.triangular_solve(
        *(_field(op, a), (runtime.pointer(flat), step, row, column), upper, unit, n),
        *(runtime.pointer(x), prod(batch), columns, runtime.stream()),
    )

"""Products and distances of corresponding rows, and of all pairs; see :mod:`fastdl.kernels.reference.distance`."""

from __future__ import annotations

from math import prod
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

__all__ = [
    "cdist_backward",
    "cdist_forward",
    "pairwise_distance_backward",
    "pairwise_distance_forward",
    "row_products_backward",
    "row_products_forward",
]


def _rows(op: str, x1: Array, x2: Array) -> tuple[int, Any, tuple[int, int], Array, Array]:
    """The number of the dtype, the runtime, how many rows there are and their length, both arrays in C order."""
    number = device.code(op, x1, x2)
    device.same_shape(op, x1, x2, "x1 and x2")
    if x1.ndim == 0:
        raise ArgumentError(f"{op}: rows need at least one dimension")
    return number, device.of(x1), (prod(x1.shape[:-1]), x1.shape[-1]), contiguous(x1), contiguous(x2)


def row_products_forward(x1: Array, x2: Array) -> Array:
    number, runtime, rows, x1, x2 = _rows("row_products", x1, x2)
    sums = runtime.empty((3, *x1.shape[:-1]), x1.dtype)
    pointers = [runtime.pointer(a) for a in (sums, x1, x2)]
    runtime.extension.row_products_forward(number, *pointers, *rows, runtime.stream())
    return sums


def row_products_backward(
    grad_sums: Array, x1: Array, x2: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    op = "row_products_backward"
    number, runtime, rows, x1, x2 = _rows(op, x1, x2)
    device.code(op, x1, grad_sums)
    if grad_sums.shape != (3, *x1.shape[:-1]):
        raise ArgumentError(f"{op}: grad_sums must have shape {(3, *x1.shape[:-1])}, got {grad_sums.shape}")
    grad_sums = contiguous(grad_sums)
    grad_x1, grad_x2 = (runtime.empty(x1.shape, x1.dtype) if need else None for need in needs)
    pointers = [runtime.pointer(a) for a in (grad_x1, grad_x2, grad_sums, x1, x2)]
    runtime.extension.row_products_backward(number, *pointers, *rows, runtime.stream())
    return grad_x1, grad_x2


def pairwise_distance_forward(x1: Array, x2: Array, p: float, eps: float) -> Array:
    number, runtime, rows, x1, x2 = _rows("pairwise_distance", x1, x2)
    distance = runtime.empty(x1.shape[:-1], x1.dtype)
    pointers = [runtime.pointer(a) for a in (distance, x1, x2)]
    runtime.extension.pairwise_distance_forward(number, *pointers, p, eps, *rows, runtime.stream())
    return distance


def pairwise_distance_backward(
    grad_distance: Array, x1: Array, x2: Array, distance: Array, p: float, eps: float
) -> Array:
    op = "pairwise_distance_backward"
    number, runtime, rows, x1, x2 = _rows(op, x1, x2)
    device.code(op, x1, grad_distance, distance)
    device.same_shape(op, grad_distance, distance, "grad_distance and distance")
    if distance.shape != x1.shape[:-1]:
        raise ArgumentError(f"{op}: distance must have shape {x1.shape[:-1]}, got {distance.shape}")
    grad_distance, distance = contiguous(grad_distance), contiguous(distance)
    grad_x1 = runtime.empty(x1.shape, x1.dtype)
    pointers = [runtime.pointer(a) for a in (grad_x1, grad_distance, x1, x2, distance)]
    runtime.extension.pairwise_distance_backward(number, *pointers, p, eps, *rows, runtime.stream())
    return grad_x1


def _pairs(op: str, x1: Array, x2: Array) -> tuple[int, Any, tuple[int, ...], Array, Array]:
    """As :func:`_rows`, of all pairs: sizes are batch, rows of x1, rows of x2, length."""
    number = device.code(op, x1, x2)
    if x1.ndim != 3 or x2.ndim != 3 or x1.shape[0] != x2.shape[0] or x1.shape[2] != x2.shape[2]:
        raise ArgumentError(
            f"{op}: x1 and x2 must have shapes (N, P, M) and (N, R, M), got {x1.shape} and {x2.shape}"
        )
    sizes = (*x1.shape[:2], x2.shape[1], x1.shape[2])
    return number, device.of(x1), sizes, contiguous(x1), contiguous(x2)


def cdist_forward(x1: Array, x2: Array, p: float) -> Array:
    if p < 0:
        raise ArgumentError(f"cdist: p must not be negative, got {p}")
    number, runtime, sizes, x1, x2 = _pairs("cdist", x1, x2)
    distance = runtime.empty(sizes[:3], x1.dtype)
    pointers = [runtime.pointer(a) for a in (distance, x1, x2)]
    runtime.extension.cdist_forward(number, *pointers, p, *sizes, runtime.stream())
    return distance


def cdist_backward(grad_distance: Array, x1: Array, x2: Array, distance: Array, p: float) -> Array:
    op = "cdist_backward"
    number, runtime, sizes, x1, x2 = _pairs(op, x1, x2)
    device.code(op, x1, grad_distance, distance)
    if grad_distance.shape != sizes[:3] or distance.shape != sizes[:3]:
        raise ArgumentError(
            f"{op}: grad_distance and distance must have shape {sizes[:3]}, got {grad_distance.shape} and "
            f"{distance.shape}"
        )
    grad_distance, distance = contiguous(grad_distance), contiguous(distance)
    grad_x1 = runtime.empty(x1.shape, x1.dtype)
    pointers = [runtime.pointer(a) for a in (grad_x1, grad_distance, x1, x2, distance)]
    runtime.extension.cdist_backward(number, *pointers, p, *sizes, runtime.stream())
    return grad_x1

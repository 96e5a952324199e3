"""Sorting along the last axis; see :mod:`fastdl.kernels.reference.order`."""

from __future__ import annotations

from math import prod

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array

__all__ = ["sort_forward"]

_BYTES = np.dtype(np.uint8)
# As the extension numbers them (csrc/cuda/sort.h).
_KEYS = {np.dtype(t): i for i, t in enumerate((np.float32, np.float64, np.int32, np.int64))}


def sort_forward(x: Array, k: int, descending: bool) -> tuple[Array, Array]:
    key = _KEYS.get(x.dtype)
    if key is None:
        raise DtypeError(f"sort: x must be float32, float64, int32 or int64, got {x.dtype.name}")
    if x.ndim == 0 or not 0 <= k <= x.shape[-1]:
        raise ArgumentError(f"sort: k must be in [0, n], n the last extent, got {k} for shape {x.shape}")
    runtime, x = device.of(x), device.contiguous(x)
    rows, n = prod(x.shape[:-1]), x.shape[-1]
    values = runtime.empty((*x.shape[:-1], k), x.dtype)
    indices = runtime.empty(values.shape, np.dtype(np.int64))
    problem = runtime.extension.Sort(rows, n, k, descending)
    size = runtime.extension.sort_scratch(key, problem)
    scratch, pointer = runtime.empty(size, _BYTES) if size else None, runtime.pointer
    runtime.extension.sort(
        *(key, pointer(values), pointer(indices), pointer(x), problem, pointer(scratch), runtime.stream())
    )
    return values, indices

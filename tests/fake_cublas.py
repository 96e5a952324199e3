"""cuBLAS of the stand-in for CuPy (``fake_cupy.py``): its products as C functions on the host's memory, by NumPy."""

from __future__ import annotations

import ctypes
import importlib
import types
from typing import Any

import numpy as np

from fake_cuda import CUDARuntimeError

multiplied_in: list[int] = []  # cuBLAS's numbers of what products were computed in
streams: list[int] = []  # that products were computed in
workspaces: list[int] = []  # bytes that cuBLAS was given for products
_functions: list[Any] = []  # that live as long as their addresses are known


def _gemm_batched(
    handle: int, turn_a: int, turn_b: int, m: int, n: int, k: int, alpha: int,
    a: int, a_type: int, a_ld: int, a_step: int, b: int, b_type: int, b_ld: int, b_step: int, beta: int,
    c: int, c_type: int, c_ld: int, c_step: int, count: int, compute: int, algorithm: int,
) -> None:  # fmt: skip
    """``c = alpha op(a) op(b) + beta c`` of ``count`` matrices, all as columns, in the host's memory."""
    scalar = ctypes.c_double if compute == 70 else ctypes.c_float
    wide = np.float64 if compute == 70 else np.float32
    factors = scalar.from_address(alpha).value, scalar.from_address(beta).value

    def matrices(start: int, kind: int, ld: int, step: int, rows: int, columns: int) -> Any:
        if ld < max(1, rows):
            raise CUDARuntimeError("CUBLAS_STATUS_INVALID_VALUE")
        dtype = np.dtype(
            {0: "f4", 1: "f8", 2: "f2"}.get(kind) or importlib.import_module("ml_dtypes").bfloat16
        )
        reach = ((count - 1) * step + (columns - 1) * ld + rows) * dtype.itemsize
        flat = np.frombuffer((ctypes.c_ubyte * reach).from_address(start), dtype)
        steps = [s * dtype.itemsize for s in (step, 1, ld)]
        return np.lib.stride_tricks.as_strided(flat, (count, rows, columns), steps)

    def run() -> None:
        left = matrices(a, a_type, a_ld, a_step, *((k, m) if turn_a else (m, k))).astype(wide)
        right = matrices(b, b_type, b_ld, b_step, *((n, k) if turn_b else (k, n))).astype(wide)
        to = matrices(c, c_type, c_ld, c_step, m, n)
        with np.errstate(all="ignore"):
            product = np.matmul(left.mT if turn_a else left, right.mT if turn_b else right)
            to[...] = factors[0] * product + (factors[1] * to.astype(wide) if factors[1] else 0)

    multiplied_in.append(compute)
    run()


def _gemm(
    handle: int, turn_a: int, turn_b: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, a_ld: int,
    b: int, b_type: int, b_ld: int, beta: int, c: int, c_type: int, c_ld: int, compute: int, algorithm: int,
) -> None:  # fmt: skip
    _gemm_batched(
        handle, turn_a, turn_b, m, n, k, alpha, a, a_type, a_ld, 0, b, b_type, b_ld, 0, beta, c, c_type, c_ld, 0, 1,
        compute, algorithm,
    )  # fmt: skip


def _library(name: str) -> types.SimpleNamespace:
    """cuBLAS as a shared library: functions with addresses. Streams and workspaces change nothing."""
    assert name == "libcublas.so.13"
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong

    def function(run: Any, *kinds: Any) -> Any:
        def call(*arguments: Any) -> int:
            run(*arguments)
            return 0

        made = ctypes.CFUNCTYPE(integer, *kinds)(call)
        _functions.append(made)
        return made

    matrix, one = [pointer, integer, integer], [pointer, *[integer] * 5, pointer]
    many = [pointer, integer, integer, long]
    return types.SimpleNamespace(
        cublasSetStream_v2=function(lambda handle, stream: streams.append(stream or 0), pointer, pointer),
        cublasSetWorkspace_v2=function(
            lambda handle, memory, size: workspaces.append(size), pointer, pointer, ctypes.c_size_t
        ),
        cublasGemmEx=function(_gemm, *one, *matrix, *matrix, pointer, *matrix, integer, integer),
        cublasGemmStridedBatchedEx=function(
            _gemm_batched, *one, *many, *many, pointer, *many, integer, integer, integer
        ),
    )

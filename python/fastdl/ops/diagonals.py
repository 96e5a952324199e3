"""Diagonals and triangles of matrices: kept, or made."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.op import Op
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import contiguous, zeros
from fastdl.ops.common import axis
from fastdl.ops.out import constant, store
from fastdl.ops.promotion import is_kernel_dtype
from fastdl.ops.views import reshape
from fastdl.tensor import Tensor


class Triangle(Op):
    """One side of a diagonal; the other becomes zero."""

    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, diagonal: int, lower: bool) -> Any:
        self.diagonal, self.lower = diagonal, lower
        return triangle(x, diagonal, lower)

    def backward(self, grad: Any) -> Any:
        return triangle(grad, self.diagonal, self.lower)

    def backward_graph(self, grad: Tensor) -> Any:
        return Triangle.apply(grad, diagonal=self.diagonal, lower=self.lower)


def triangle(x: Any, diagonal: int, lower: bool, out: Any = None) -> Any:
    """One side of an array's diagonal, the other side zero; ``out`` may be ``x`` itself."""
    if not on_device(x) and x.itemsize <= 8:
        kernel = select(x).triangle
        if out is not None and out.flags.c_contiguous:
            return kernel(x, diagonal, lower, out)
        result = kernel(x, diagonal, lower)
    else:
        result = _masked(x, diagonal, lower)
    if out is not None:
        assign(out, result)
    return result


def _masked(x: Any, diagonal: int, lower: bool) -> Any:
    rows, columns = x.shape[-2:]
    last = diagonal if lower else diagonal - 1  # row i keeps (or loses) columns up to i + last
    kept = np.tri(rows, columns, last, dtype=np.bool_, like=x)
    if is_kernel_dtype(x.dtype):
        return select(x).where_forward(kept, *((x, 0.0) if lower else (0.0, x)))
    out = pooled_copy(x)
    np.copyto(out, x.dtype.type(0), where=~kept if lower else kept)
    return out


def tril(input: Tensor, diagonal: int = 0, *, out: Tensor | None = None) -> Tensor:
    """The lower triangle of the last two axes, the rest zero; see ``torch.tril``."""
    if input._data.ndim < 2:
        raise RuntimeError(f"tril: expects at least 2 dimensions, got shape {input.shape}")
    return _side("tril", input, int(diagonal), True, out)


def triu(input: Tensor, diagonal: int = 0, *, out: Tensor | None = None) -> Tensor:
    """The upper triangle of the last two axes, the rest zero; see ``torch.triu``."""
    if input._data.ndim < 2:
        raise RuntimeError(f"triu: expects at least 2 dimensions, got shape {input.shape}")
    return _side("triu", input, int(diagonal), False, out)


def _side(op: str, input: Tensor, diagonal: int, lower: bool, out: Tensor | None) -> Tensor:
    if out is input and plain(input) and out._data.size:  # no node where nothing is recorded
        triangle(input._data, diagonal, lower, input._data)
        out._bump_version()
        return out
    side: Tensor = Triangle.apply(input, diagonal=diagonal, lower=lower)
    return side if out is None else store(op, constant(out), side)


class DiagonalEmbed(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, offset: int) -> Any:
        self.offset = offset
        n = x.shape[-1] + abs(offset)
        whole = zeros((*x.shape[:-1], n, n), x.dtype, x)
        self._band(whole)[...] = x
        return whole

    def _band(self, whole: Any) -> Any:
        n = whole.shape[-1]
        first = self.offset if self.offset >= 0 else -self.offset * n
        flat = whole.reshape(*whole.shape[:-2], n * n)
        return flat[..., first :: n + 1][..., : n - abs(self.offset)]

    def backward(self, grad: Any) -> Any:
        return pooled_copy(self._band(contiguous(grad)))

    def backward_graph(self, grad: Tensor) -> Any:
        return grad.diagonal(self.offset, -2, -1)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The last axis as a diagonal of a new pair of axes, zero elsewhere; see ``torch.diag_embed``."""
    if input._data.ndim < 1:
        raise RuntimeError("diag_embed: expects at least 1 dimension")
    ndim = input._data.ndim + 1
    a, b = axis("diag_embed", dim1, ndim, "dim1", 1), axis("diag_embed", dim2, ndim, "dim2", 1)
    if a == b:
        raise RuntimeError(f"diag_embed: dim1 and dim2 must differ, got {dim1} and {dim2}")
    result = DiagonalEmbed.apply(input, offset=int(offset))
    return result if (a, b) == (ndim - 2, ndim - 1) else result.movedim((-2, -1), (a, b))  # type: ignore[no-any-return]


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix with a vector as its diagonal, or the diagonal of a matrix; see ``torch.diag``."""
    if input._data.ndim == 1:
        return diag_embed(input, diagonal)
    if input._data.ndim != 2:
        raise RuntimeError(f"diag: expects a vector or matrix, got shape {input.shape}")
    return input.diagonal(diagonal).clone()


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements as its diagonal; see ``torch.diagflat``."""
    return diag_embed(reshape(input, (input.numel(),)), offset)

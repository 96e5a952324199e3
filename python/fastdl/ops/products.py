"""Products of vectors and tensors, made of matrix products and broadcasting; combinations and block matrices."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.kernels import array, on_device, select
from fastdl.ops import arrays
from fastdl.ops.arithmetic import add, mul, pow
from fastdl.ops.axes import normal_axis
from fastdl.ops.binary import SAVED, SAVED_BEHIND
from fastdl.ops.common import axes
from fastdl.ops.complex import conj
from fastdl.ops.join import common_dtype
from fastdl.ops.linear import dot, matmul, outer
from fastdl.ops.reduce import sum as sum_over
from fastdl.ops.views import permute, reshape, unsqueeze
from fastdl.tensor import Tensor


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor._wrap(arrays.zeros(shape, like._data.dtype, like._data))


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last axis of both. See ``torch.inner``.

    Example:
        >>> import fastdl
        >>> fastdl.inner(fastdl.tensor([1, 2]), fastdl.tensor([3, 4])).item()
        11
    """
    if input._data.ndim == 0 or other._data.ndim == 0:
        return mul(input, other)
    if input.shape[-1] != other.shape[-1]:
        raise RuntimeError(
            f"inner: the last dimensions must be equal, got shapes {input.shape} and {other.shape}"
        )
    if input._data.ndim == 1 == other._data.ndim:
        return dot(input, other)
    return tensordot(input, other, ([-1], [-1]))


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over several axes: ``dims`` last of ``a`` and first of ``b``, or a pair of lists of axes.

    See ``torch.tensordot``.
    """
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, (tuple, list)):
        if len(dims) != 2:
            raise RuntimeError(f"tensordot: dims must be a number or two lists of axes, got {dims}")
        first, second = [[d] if isinstance(d, int) else list(d) for d in dims]
    else:
        if not 0 <= dims <= min(a._data.ndim, b._data.ndim):
            raise RuntimeError(
                f"tensordot: dims must be in [0, {min(a._data.ndim, b._data.ndim)}], got {dims}"
            )
        first, second = list(range(a._data.ndim - dims, a._data.ndim)), list(range(dims))
    summed_a, summed_b = axes("tensordot", first, a._data.ndim), axes("tensordot", second, b._data.ndim)
    shape_a, shape_b = a._data.shape, b._data.shape
    for i, j in zip(
        summed_a, summed_b, strict=False
    ):  # an extent of 1 broadcasts, that is, the other is summed
        if shape_a[i] == 1 and shape_b[j] != 1:
            b = sum_over(b, j, True, dtype=b._data.dtype)
            shape_b = b._data.shape
        elif shape_b[j] == 1 and shape_a[i] != 1:
            a = sum_over(a, i, True, dtype=a._data.dtype)
            shape_a = a._data.shape
    if [shape_a[i] for i in summed_a] != [shape_b[i] for i in summed_b]:
        raise RuntimeError(
            f"tensordot: shapes {shape_a} and {shape_b} do not agree along axes {first} and {second}"
        )
    rest_a = tuple([i for i in range(len(shape_a)) if i not in summed_a])
    rest_b = tuple([i for i in range(len(shape_b)) if i not in summed_b])
    rows, columns = [shape_a[i] for i in rest_a], [shape_b[i] for i in rest_b]
    length = prod([shape_a[i] for i in summed_a])
    left = _as_matrix(a, rest_a + summed_a, (prod(rows), length))
    right = _as_matrix(b, summed_b + rest_b, (length, prod(columns)))
    return reshape(matmul(left, right), (*rows, *columns))


def _as_matrix(t: Tensor, order: tuple[int, ...], shape: tuple[int, int]) -> Tensor:
    if order != tuple(range(len(order))):
        t = permute(t, order)
    return t if t._data.shape == shape else reshape(t, shape)


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The sum of products of two vectors, of complex ones of the first's conjugate. See ``torch.vdot``."""
    return dot(conj(input), other)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2). See ``torch.addr``."""
    if (
        beta == 1
        and input._data.dtype is vec1._data.dtype is vec2._data.dtype
        and input._data.dtype.kind == "f"
        and vec1._data.ndim == vec2._data.ndim == 1
        and alpha.__class__ is not complex
        and arrays.broadcast_shape("addr", input._data.shape, (vec1.shape[0], vec2.shape[0]))
        == (vec1.shape[0], vec2.shape[0])
    ):
        return AddOuter.apply(input, vec1, vec2, alpha=alpha)  # type: ignore[no-any-return]
    product = outer(vec1, vec2)
    if alpha != 1:
        product = mul(product, alpha)
    return product if beta == 0 else add(input if beta == 1 else mul(input, beta), product)


class AddOuter(Op):
    """x + alpha u v^T, in one pass."""

    aliases_grad = True

    def forward(self, x: Any, u: Any, v: Any, alpha: float) -> Any:
        self.u, self.v, self.alpha, self.like = u, v, alpha, x.shape
        self.saves = SAVED_BEHIND[self.needs]
        return select(x).addcmul_forward(x, u[:, None], v, alpha)

    def backward(self, grad: Any) -> Any:
        k, alpha = select(grad), self.alpha
        grad_u = k.matmul(grad, self.v[:, None])[:, 0] if self.needs[1] else None
        grad_v = k.matmul(self.u[None], grad)[0] if self.needs[2] else None
        return (
            arrays.sum_to(grad, self.like) if self.needs[0] else None,
            grad_u if grad_u is None or alpha == 1 else k.mul_forward(grad_u, alpha),
            grad_v if grad_v is None or alpha == 1 else k.mul_forward(grad_v, alpha),
        )

    def backward_graph(self, grad: Tensor) -> Any:
        u, v = self.saved_input(1, self.u), self.saved_input(2, self.v)
        return (
            grad.sum_to_size(self.like) if self.needs[0] else None,
            matmul(grad, v) * self.alpha if self.needs[1] else None,
            matmul(u, grad) * self.alpha if self.needs[2] else None,
        )


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product of vectors of three elements along ``dim``; by default the first axis of extent 3.

    See ``torch.cross``.
    """
    x, y = input._data.shape, other._data.shape
    if len(x) != len(y):
        raise RuntimeError(
            f"cross: both must have as many dimensions, got shapes {input.shape} and {other.shape}"
        )
    if dim is None:
        if 3 not in x:
            raise RuntimeError(f"cross: no dimension of extent 3 in shape {input.shape}")
        dim = x.index(3)
    axis = normal_axis("cross", dim, len(x))
    if not x or x[axis] != 3 or y[axis] != 3:
        raise RuntimeError(f"cross: dim {dim} must have extent 3, got shapes {input.shape} and {other.shape}")
    try:
        arrays.broadcast_shape("cross", x, y)
    except ValueError:
        raise RuntimeError(f"cross: shapes {input.shape} and {other.shape} do not broadcast") from None
    if input._data.dtype != other._data.dtype:
        dtype = common_dtype((input, other))
        input, other = input.to(dtype), other.to(dtype)
    return Cross.apply(input, other, axis=axis)  # type: ignore[no-any-return]


class Cross(Op):
    """Of gradients g the cross product of y and g, and of g and x; all of them conjugated."""

    takes_complex = True

    def forward(self, x: Any, y: Any, axis: int) -> Any:
        self.x, self.y, self.axis, self.saves = x, y, axis, SAVED[self.needs]
        return _cross(x, y, axis)

    def backward(self, grad: Any) -> Any:
        x, y = self.x, self.y
        return (
            arrays.sum_to(_cross(y.conj(), grad, self.axis), x.shape) if self.needs[0] else None,
            arrays.sum_to(_cross(grad, x.conj(), self.axis), y.shape) if self.needs[1] else None,
        )

    def backward_graph(self, grad: Tensor) -> Any:
        x, y = self.saved_input(0, self.x), self.saved_input(1, self.y)
        return (
            Cross.apply(conj(y), grad, axis=self.axis).sum_to_size(x.shape) if self.needs[0] else None,
            Cross.apply(grad, conj(x), axis=self.axis).sum_to_size(y.shape) if self.needs[1] else None,
        )


def _cross(x: Any, y: Any, axis: int) -> Any:
    if x.shape == y.shape and x.dtype.kind == "f" and x.itemsize > 2 and not on_device(x):
        return select(x).cross_forward(x, y, axis)
    result = arrays.empty(arrays.broadcast_shape("cross", x.shape, y.shape), x.dtype, x)
    at = [(*(slice(None),) * axis, i, ...) for i in range(3)]  # views, of vectors too
    first, second = [x[place] for place in at], [y[place] for place in at]
    for place, i, j in zip(at, (1, 2, 0), (2, 0, 1), strict=True):
        part = result[place]
        np.multiply(first[i], second[j], out=part)
        part -= first[j] * second[i]
    return result


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product. See ``torch.kron``."""
    ndim = max(input._data.ndim, other._data.ndim)
    x = (1,) * (ndim - input._data.ndim) + tuple(input.shape)
    y = (1,) * (ndim - other._data.ndim) + tuple(other.shape)
    left = reshape(input, [v for n in x for v in (n, 1)])
    right = reshape(other, [v for n in y for v in (1, n)])
    return reshape(mul(left, right), [n * m for n, m in zip(x, y, strict=True)])


def chain_matmul(*matrices: Any) -> Tensor:
    """The product of matrices in the cheapest order. See ``torch.chain_matmul``."""
    if len(matrices) == 1 and isinstance(matrices[0], (tuple, list)):
        matrices = tuple(matrices[0])
    if not matrices:
        raise RuntimeError("chain_matmul: expects at least one matrix")
    sizes = [m.shape[0] for m in matrices] + [matrices[-1].shape[1]]
    count = len(matrices)
    best: dict[tuple[int, int], tuple[int, int]] = {(i, i): (0, i) for i in range(count)}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            best[i, j] = min(
                (best[i, k][0] + best[k + 1, j][0] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                for k in range(i, j)
            )

    def product(i: int, j: int) -> Tensor:
        if i == j:
            return matrices[i]  # type: ignore[no-any-return]
        k = best[i, j][1]
        return matmul(product(i, k), product(k + 1, j))

    return product(0, count - 1)


def block_diag(*tensors: Any) -> Tensor:
    """Matrices along the diagonal, zero elsewhere; vectors count as rows. See ``torch.block_diag``."""
    if not tensors:
        return Tensor._wrap(np.empty((1, 0), np.float32))
    for t in tensors:
        if t._data.ndim > 2:
            raise RuntimeError(f"block_diag: expects tensors of at most 2 dimensions, got shape {t.shape}")
    return BlockDiagonal.apply(*tensors, dtype=common_dtype(tensors))  # type: ignore[no-any-return]


class BlockDiagonal(Op):
    takes_complex = True

    def forward(self, *blocks: Any, dtype: Any) -> Any:
        self.likes = [(b.shape, b.dtype) for b in blocks]
        self.at, row, column = [], 0, 0
        matrices = [b if b.ndim == 2 else b.reshape(1, -1) for b in blocks]
        for height, width in [m.shape for m in matrices]:
            self.at.append((slice(row, row + height), slice(column, column + width)))
            row, column = row + height, column + width
        result = arrays.zeros((row, column), dtype, blocks[0])
        for place, matrix in zip(self.at, matrices, strict=True):
            result[place] = matrix
        return result

    def backward(self, grad: Any) -> Any:
        return tuple(
            [
                grad[place].astype(dtype).reshape(shape)
                for place, (shape, dtype) in zip(self.at, self.likes, strict=True)
            ]
        )

    def backward_graph(self, grad: Tensor) -> Any:
        return tuple(
            [
                grad[place].to(dtype).reshape(shape)
                for place, (shape, dtype) in zip(self.at, self.likes, strict=True)
            ]
        )


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of ``r`` elements of a vector, one in a row. See ``torch.combinations``."""
    if input._data.ndim != 1:
        raise RuntimeError(f"combinations: expects a one-dimensional tensor, got shape {input.shape}")
    if r < 0:
        raise RuntimeError(f"combinations: r must not be negative, got {r}")
    if r == 0:
        return _zeros(input, (0,))
    # Choices of k + 1 from those of k: each is followed by all places from its last one (or behind it) to the end.
    n, behind = input.numel(), not with_replacement
    columns = [np.arange(n)]
    for _ in range(r - 1):
        last = columns[-1] + behind
        counts = n - last
        rows = np.repeat(np.arange(last.size), counts)
        columns = [column[rows] for column in columns]
        columns.append(np.arange(rows.size) - np.repeat(counts.cumsum() - counts - last, counts))
    places = np.stack(columns, -1).astype(np.int64, copy=False)
    return input[Tensor._wrap(array(places, input._data))]


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of a vector as columns, in descending order unless ``increasing``. See ``torch.vander``."""
    if x._data.ndim != 1:
        raise RuntimeError(f"vander: expects a one-dimensional tensor, got shape {x.shape}")
    count = x.numel() if N is None else N
    if count < 0:
        raise RuntimeError(f"vander: N must not be negative, got {N}")
    powers = np.arange(count, like=x._data)
    if not increasing:
        powers = powers[::-1]
    if x._data.dtype.kind not in DIFFERENTIABLE:
        x = x.long()
    return pow(unsqueeze(x, 1), Tensor._wrap(powers.astype(x._data.dtype)))


__all__ = [
    "addr",
    "block_diag",
    "chain_matmul",
    "combinations",
    "cross",
    "inner",
    "kron",
    "tensordot",
    "vander",
    "vdot",
]

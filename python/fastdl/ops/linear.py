"""Matrix products and the linear layer; names and rules are ``torch``'s.

All of them end in one kernel function, ``matmul`` (batched, transposed and strided views read in place), or
in the layer's own ``linear_forward`` / ``linear_backward``. Integer products are NumPy's and carry no
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, is_half
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array, select
from fastdl.ops import activation as activations
from fastdl.ops.activation_rules import from_output
from fastdl.ops.arithmetic import add, mul
from fastdl.ops.arrays import empty, integer_product, sum_to
from fastdl.ops.binary import SAVED, SAVED_BEHIND
from fastdl.ops.einsum import einsum
from fastdl.ops.views import reshape, squeeze, unsqueeze
from fastdl.tensor import Tensor

# Activations that linear fuses, and of these the ones whose derivative follows from their output: a layer
# that is differentiated can fuse no others, because backward would need what was never stored.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": activations.relu,
    "sigmoid": activations.sigmoid,
    "tanh": activations.tanh,
    "silu": activations.silu,
    "gelu": activations.gelu,
    "gelu_tanh": partial(activations.gelu, approximate="tanh"),
}
_FROM_OUTPUT = ("relu", "sigmoid", "tanh")


class Linear(Op):
    wide_integers = True

    def keep(self, x: Any, weight: Any) -> None:
        needs = self.needs
        if True in needs:  # of a frozen weight no input is kept
            self.saves, self.x, self.weight = SAVED[needs[:2]], x if needs[1] else None, weight

    def forward(self, x: Any, weight: Any, bias: Any) -> Any:
        self.keep(x, weight)
        return select(x).linear_forward(x, weight, bias)

    def backward(self, grad_y: Any) -> Any:
        x = self.x
        if x is None:  # for its shape alone
            x = empty((*grad_y.shape[:-1], self.weight.shape[1]), grad_y.dtype, grad_y)
        return select(grad_y).linear_backward(grad_y, x, self.weight, *self.needs)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return _linear_gradients(self, grad_y)


def _linear_gradients(node: Any, grad_y: Any) -> Any:
    """Of x, weight and bias of x @ weight.T + bias, in operations."""
    need_x, need_weight, need_bias = node.needs
    grad_x = grad_weight = grad_bias = None
    if need_x:
        grad_x = grad_y @ node.saved_input(1, node.weight)
    rows = grad_y.reshape(-1, grad_y.shape[-1]) if grad_y.numel() else None
    if need_weight:
        x = node.saved_input(0, node.x)
        if rows is None:
            grad_weight = Tensor._wrap(np.zeros(node.weight.shape, node.weight.dtype, like=node.weight))
        else:
            grad_weight = rows.mT @ x.reshape(rows.shape[0], x.shape[-1])
    if need_bias:
        grad_bias = grad_y.sum(tuple(range(grad_y.ndim - 1))) if grad_y.ndim > 1 else grad_y
    return grad_x, grad_weight, grad_bias


class LinearActivation(Linear):
    flat = MappingProxyType(dict.fromkeys(range(3), (0, 1, 2)))  # for relu
    wide_integers = False
    saves_output = True

    def forward(self, x: Any, weight: Any, bias: Any, activation: str = "") -> Any:
        self.keep(x, weight)
        self.activation = activation
        self.y = y = select(x).linear_forward(x, weight, bias, activation)
        return y

    def backward(self, grad_y: Any) -> Any:
        return super().backward(getattr(select(grad_y), f"{self.activation}_backward")(grad_y, self.y))

    def backward_graph(self, grad_y: Tensor) -> Any:
        y = self.saved_output(self.y)
        return _linear_gradients(self, from_output(f"{self.activation}_forward", grad_y, y))


def _matmul_grads(
    a: Any, b: Any, grad: Any, need_a: bool, need_b: bool, alpha: float = 1.0
) -> tuple[Any, Any]:
    """Gradients of alpha * a @ b: a vector is a row on the left, a column on the right."""
    kernels = select(grad)
    left, right, grad_a, grad_b = a, b, None, None
    if b.ndim == 1 and a.ndim == 2:  # the usual vectors, without detours
        if need_a:
            grad_a = kernels.matmul(grad[:, None], b[None], None, alpha)
        return grad_a, kernels.matmul(grad[None], a, None, alpha)[0] if need_b else None
    if b.ndim == 1:
        right, grad = b[:, None], grad[..., None]
    if a.ndim == 1:
        left, grad = a[None], grad[..., None, :]
    if need_a:
        grad_a = sum_to(kernels.matmul(grad, right.swapaxes(-1, -2), None, alpha), left.shape)
        if left is not a:
            grad_a = grad_a.reshape(a.shape)
    if need_b:
        # One matrix for a whole batch: its gradient is one long product.
        if right.ndim == 2 and left.ndim > 2:
            rows = prod(left.shape[:-1])
            left, grad = left.reshape(rows, left.shape[-1]), grad.reshape(rows, grad.shape[-1])
        grad_b = sum_to(kernels.matmul(left.swapaxes(-1, -2), grad, None, alpha), right.shape)
        if right is not b:
            grad_b = grad_b.reshape(b.shape)
    return grad_a, grad_b


def _matmul_grads_graph(a: Any, b: Any, grad: Any, need_a: bool, need_b: bool) -> tuple[Any, Any]:
    left, right, grad_a, grad_b = a, b, None, None
    if b.ndim == 1:
        right, grad = b.unsqueeze(1), grad.unsqueeze(-1)
    if a.ndim == 1:
        left, grad = a.unsqueeze(0), grad.unsqueeze(-2)
    if need_a:
        grad_a = (grad @ right.transpose(-1, -2)).sum_to_size(left.shape)
        if left is not a:
            grad_a = grad_a.reshape(a.shape)
    if need_b:
        grad_b = (left.transpose(-1, -2) @ grad).sum_to_size(right.shape)
        if right is not b:
            grad_b = grad_b.reshape(b.shape)
    return grad_a, grad_b


class MatMul(Op):
    def forward(self, a: Any, b: Any) -> Any:
        needs = self.needs
        if True in needs:
            self.a, self.b, self.saves = a, b, SAVED[needs]
        return select(a).matmul(a, b)

    def backward(self, grad: Any) -> Any:
        return _matmul_grads(self.a, self.b, grad, *self.needs)

    def backward_graph(self, grad: Any) -> Any:
        a, b = self.saved_input(0, self.a), self.saved_input(1, self.b)
        return _matmul_grads_graph(a, b, grad, *self.needs)


class AddMatMul(Op):
    """beta * c + alpha * a @ b, with c broadcast."""

    aliases_grad = True

    def forward(self, c: Any, a: Any, b: Any, beta: float, alpha: float) -> Any:
        self.a, self.b, self.beta, self.alpha, self.shape = a, b, beta, alpha, c.shape
        self.saves = SAVED_BEHIND[self.needs]
        return select(a).matmul(a, b, c, alpha, beta)

    def backward(self, grad: Any) -> Any:
        grad_c = None
        if self.needs[0]:
            grad_c = sum_to(grad, self.shape)
            if self.beta != 1 and grad.dtype.kind in FLOATING:
                grad_c = select(grad).mul_forward(grad_c, self.beta)
            elif self.beta != 1:
                grad_c = array(grad_c * grad.dtype.type(self.beta), grad)
        return (grad_c, *_matmul_grads(self.a, self.b, grad, self.needs[1], self.needs[2], self.alpha))

    def backward_graph(self, grad: Any) -> Any:
        grad_c = grad.sum_to_size(self.shape) * self.beta if self.needs[0] else None
        a, b = self.saved_input(1, self.a), self.saved_input(2, self.b)
        return (grad_c, *_matmul_grads_graph(a, b, grad * self.alpha, *self.needs[1:]))


def _shapes(*tensors: Tensor | None) -> str:
    return ", ".join(str(t._data.shape) for t in tensors if t is not None)


def _same_float(op: str, a: Any, b: Any) -> bool:
    """Whether both arrays are of one floating dtype; False for integers and bool; mixtures raise."""
    kind = a.dtype
    if kind is b.dtype or kind == b.dtype:
        return kind.kind in DIFFERENTIABLE
    if mode.autocast is not None and kind.kind in FLOATING and b.dtype.kind in FLOATING:
        return True
    raise RuntimeError(
        f"{op}: both matrices must have one dtype, got {kind} and {b.dtype}; convert one with .to(dtype)"
    )


def _integer_product(result: Any, dtype: Any) -> Tensor:
    return Tensor._wrap(array(result).astype(dtype, copy=False))


def _check_linear_dtypes(x: Any, weight: Any) -> None:
    if x != weight and mode.autocast is None:
        raise DtypeError(
            f"linear: input is {x} but weight is {weight}; give both the same dtype: x.to(weight.dtype), or "
            "model.double() for a model in float64"
        )


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """``activation(input @ weight.T + bias)``: the linear layer, in one pass over the result.

    Args:
        input: ``(*, in_features)``, float32 or float64.
        weight: ``(out_features, in_features)``, or ``(in_features,)``: the result then has no feature axis.
        bias: ``(out_features,)`` or what broadcasts to the result; or None.
        activation: None, ``"relu"``, ``"sigmoid"``, ``"tanh"``, ``"silu"``, ``"gelu"`` or ``"gelu_tanh"``:
            applied to the result before it is stored, where gradients allow it. (Not in PyTorch.)

    Returns:
        ``(*, out_features)``. See ``torch.nn.functional.linear``.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if input and weight differ in dtype (and no autocast is on).

    Example:
        >>> import fastdl
        >>> import fastdl.nn.functional as F
        >>> F.linear(fastdl.tensor([1.0, 2.0]), fastdl.tensor([[3.0, 4.0]]), fastdl.tensor([0.5]))
        tensor([11.5000])
    """
    shape, w = input._data.shape, weight._data.shape
    if input._data.dtype is not weight._data.dtype:
        _check_linear_dtypes(input._data.dtype, weight._data.dtype)
    if not shape or not 1 <= len(w) <= 2 or shape[-1] != w[-1]:
        _check_linear(shape, w)
    if bias is not None and bias._data.shape != w[:-1]:
        _check_bias(bias._data.shape, w, (*shape[:-1], *w[:-1]))
        y = add(linear(input, weight), bias)
        return y if activation is None else _apart(activation)(y)
    if activation is None:
        if len(w) == 2:
            if mode.autocast is None and (
                plain(input, weight) if bias is None else plain(input, weight, bias)
            ):
                b = None if bias is None else bias._data
                try:  # no node where nothing is recorded
                    return Tensor._wrap(select(input._data).linear_forward(input._data, weight._data, b))
                except (TypeError, ValueError):
                    pass  # computed in another way, or refused, below
            return Linear.apply(input, weight, bias)  # type: ignore[no-any-return]
        y = matmul(input, weight)
        return y if bias is None else add(y, bias)
    apart = ACTIVATIONS.get(activation)
    if apart is None:
        raise ArgumentError(
            f"linear: activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    if len(w) == 2 and (
        activation in _FROM_OUTPUT
        or not (
            mode.enabled
            and (input._requires_grad or weight._requires_grad or (bias is not None and bias._requires_grad))
        )
    ):
        return LinearActivation.apply(input, weight, bias, activation=activation)  # type: ignore[no-any-return]
    return apart(linear(input, weight, bias))


def _apart(activation: str) -> Callable[..., Any]:
    if activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    raise ArgumentError(
        f"linear: activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
    )


def _check_bias(bias: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...]) -> None:
    here = result[len(result) - len(bias) :]
    if len(bias) > len(result) or any(b not in (1, n) for b, n in zip(bias, here, strict=True)):
        raise ArgumentError(
            f"linear: bias must have shape (out_features,) = {weight[:-1]}, got {bias}; weight is {weight}"
        )


def _check_linear(shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    if not 1 <= len(weight) <= 2:
        raise ArgumentError(f"linear: weight must be 2-D (out_features, in_features), got shape {weight}")
    if not shape:
        raise ArgumentError("linear: input must have at least 1 dimension (*, in_features), got a scalar")
    raise ArgumentError(
        f"linear: the last dimension of input must be in_features = {weight[-1]}, got input {shape} with "
        f"weight {weight}. A batch of images needs flatten(1) first"
    )


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product of vectors (1-D), matrices (2-D) or batches of matrices, which broadcast.

    ``(n,) @ (n,)`` is a scalar; a vector on the left is a row, on the right a column, and that axis is
    dropped from the result; ``(*b1, m, k) @ (*b2, k, n)`` is ``(*broadcast(b1, b2), m, n)``. See
    ``torch.matmul``.

    Example:
        >>> import fastdl
        >>> fastdl.matmul(fastdl.tensor([[1.0, 2.0], [3.0, 4.0]]), fastdl.tensor([1.0, 1.0]))
        tensor([3., 7.])
    """
    a, b = input._data, other._data
    if a.dtype.kind in FLOATING and plain(input, other) and mode.autocast is None:
        try:  # no node where nothing is recorded
            return Tensor._wrap(select(a).matmul(a, b))
        except (TypeError, ValueError):
            pass  # computed in another way, or refused, below
    if a.ndim == 0 or b.ndim == 0:
        raise RuntimeError(
            f"matmul: both arguments need at least 1 dimension, got shapes {a.shape} and {b.shape}"
        )
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise RuntimeError(
            f"matmul: the last dimension of input ({a.shape[-1]}) must equal the "
            f"{'second to last' if b.ndim > 1 else 'only'} dimension of other ({inner}), "
            f"got {a.shape} @ {b.shape}"
        )
    if not _same_float("matmul", a, b):
        return _integer_product(integer_product(a, b), a.dtype)
    if (a.ndim > 2 or b.ndim > 2) and a.shape[:-2] != b.shape[:-2]:
        try:
            np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise RuntimeError(f"matmul: batch dimensions do not broadcast: {a.shape} @ {b.shape}") from None
    return MatMul.apply(input, other)  # type: ignore[no-any-return]


def _check_dims(op: str, dims: int, **tensors: Tensor) -> None:
    for name, t in tensors.items():
        if t._data.ndim != dims:
            raise RuntimeError(
                f"{op}: {name} must be {dims}-D, got shape {t._data.shape}; matmul takes any dimensions"
            )


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """``(n, k) @ (k, m)``, two dimensions exactly. See ``torch.mm``."""
    if input._data.ndim != 2 or mat2._data.ndim != 2:
        _check_dims("mm", 2, input=input, mat2=mat2)
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """``(b, n, k) @ (b, k, m)``, three dimensions exactly and no broadcasting. See ``torch.bmm``."""
    a, b = input._data.shape, mat2._data.shape
    if len(a) != 3 or len(b) != 3:
        _check_dims("bmm", 3, input=input, mat2=mat2)
    if a[0] != b[0]:
        raise RuntimeError(f"bmm: input and mat2 must have the same batch size, got {_shapes(input, mat2)}")
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """``(n, k) @ (k,)``. See ``torch.mv``."""
    if input._data.ndim != 2 or vec._data.ndim != 1:
        _check_dims("mv", 2, input=input)
        _check_dims("mv", 1, vec=vec)
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors of one length. See ``torch.dot``."""
    if input._data.ndim != 1 or tensor._data.ndim != 1:
        _check_dims("dot", 1, input=input, tensor=tensor)
    return matmul(input, tensor)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """``input[i] * vec2[j]`` for vectors. See ``torch.outer``."""
    a, b = input._data, vec2._data
    if a.ndim != 1 or b.ndim != 1:
        _check_dims("outer", 1, input=input, vec2=vec2)
    if a.dtype != b.dtype and mode.autocast is None:  # the only product with type promotion
        return mul(unsqueeze(input, 1), vec2)
    if not _same_float("outer", a, b):
        return _integer_product(a[:, None] * b, a.dtype)
    return Outer.apply(input, vec2)  # type: ignore[no-any-return]


ger = outer


class Outer(Op):
    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b, self.saves = a, b, SAVED[self.needs]
        return select(a).matmul(a[:, None], b[None])

    def backward(self, grad: Any) -> Any:
        matmul = select(grad).matmul
        return (
            matmul(grad, self.b[:, None])[:, 0] if self.needs[0] else None,
            matmul(self.a[None], grad)[0] if self.needs[1] else None,
        )

    def backward_graph(self, grad: Any) -> Any:
        a, b = self.saved_input(0, self.a), self.saved_input(1, self.b)
        return grad @ b if self.needs[0] else None, a @ grad if self.needs[1] else None


def _add_matmul(op: str, dims: int, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    left, right, add = a._data, b._data, c._data
    if left.ndim != dims or right.ndim != dims:
        _check_dims(op, dims, **{("mat1", "batch1")[dims - 2]: a, ("mat2", "batch2")[dims - 2]: b})
    if (dims == 2 or left.shape[0] == right.shape[0]) and plain(c, a, b) and mode.autocast is None:
        try:
            return Tensor._wrap(select(left).matmul(left, right, add, alpha, beta))
        except (TypeError, ValueError):
            pass  # computed in another way, or refused, below
    if left.shape[-1] != right.shape[-2] or left.shape[:-2] != right.shape[:-2]:
        raise RuntimeError(f"{op}: the matrices do not fit: {_shapes(a, b)}")
    shape = left.shape[:-1] + right.shape[-1:]
    missing = len(shape) - add.ndim
    if add.shape != shape and (
        missing < 0 or not all([n in (1, m) for n, m in zip(add.shape, shape[missing:], strict=True)])
    ):
        raise RuntimeError(f"{op}: input {add.shape} must be broadcastable to the result's shape {shape}")
    if not _same_float(op, left, right) or not _same_float(op, add, left):
        return _integer_product(int(beta) * add + int(alpha) * integer_product(left, right), left.dtype)
    return AddMatMul.apply(c, a, b, beta=_factor(beta), alpha=_factor(alpha))  # type: ignore[no-any-return]


def _factor(value: Any) -> Any:
    return value if isinstance(value, complex) else float(value)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * mat1 @ mat2``; input broadcasts, beta 0 ignores it. See ``torch.addmm``."""
    return _add_matmul("addmm", 2, input, mat1, mat2, beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * batch1 @ batch2`` for batches of matrices. See ``torch.baddbmm``."""
    return _add_matmul("baddbmm", 3, input, batch1, batch2, beta, alpha)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * sum over the batch of batch1 @ batch2``. See ``torch.addbmm``."""
    _check_dims("addbmm", 3, batch1=batch1, batch2=batch2)
    if batch1._data.shape[0] != batch2._data.shape[0]:
        raise RuntimeError(f"addbmm: the batches must have one size: {_shapes(batch1, batch2)}")
    # One product: the batch becomes part of the summed axis.
    rows, columns = batch1._data.shape[1], batch2._data.shape[2]
    wide = batch1.transpose(0, 1).reshape(rows, batch1._data.shape[0] * batch1._data.shape[2])
    tall = batch2.reshape(batch2._data.shape[0] * batch2._data.shape[1], columns)
    return _add_matmul("addbmm", 2, input, wide, tall, beta, alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * mat @ vec``. See ``torch.addmv``."""
    if mat._data.ndim != 2 or vec._data.ndim != 1:
        _check_dims("addmv", 2, mat=mat)
        _check_dims("addmv", 1, vec=vec)
    if mat._data.shape[1] != vec._data.shape[0]:
        raise RuntimeError(f"addmv: mat and vec do not fit: {_shapes(mat, vec)}")
    c, rows = input._data, mat._data.shape[0]
    if c.shape in ((), (1,), (rows,)) and mode.autocast is None:
        if is_half(c.dtype):  # matrices have kernels at every level
            column = reshape(input, (c.size, 1)) if c.ndim else input
            return squeeze(_add_matmul("addmv", 2, column, mat, unsqueeze(vec, 1), beta, alpha), 1)
        if plain(input, mat, vec):
            try:
                return Tensor._wrap(select(c).matmul(mat._data, vec._data, c, alpha, beta))
            except (TypeError, ValueError):
                pass  # computed in another way below
        if c.dtype == mat._data.dtype == vec._data.dtype and c.dtype.kind in FLOATING:
            return AddMatMul.apply(input, mat, vec, beta=float(beta), alpha=float(alpha))  # type: ignore[no-any-return]
    product = einsum("ij,j->i", mat, vec) if alpha == 1 else mul(einsum("ij,j->i", mat, vec), alpha)
    if beta == 0:
        return product
    return add(product, input if beta == 1 else mul(input, beta))

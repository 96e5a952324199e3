"""Softmax, its logarithm and softmin along one dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError, warn_caller
from fastdl.kernels import select
from fastdl.ops.cast import cast
from fastdl.ops.common import axis
from fastdl.tensor import Tensor


class Softmax(Op):
    saves_output = True

    def forward(self, x: Any, *, dim: int) -> Any:
        self.dim = dim
        self.y = y = select(x).softmax_forward(x, dim)
        return y

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).softmax_backward(grad_y, self.y, self.dim)

    def backward_graph(self, grad_y: Tensor) -> Any:
        y = self.saved_output(self.y)
        product = grad_y * y
        return product - y * product.sum(self.dim, True)


class LogSoftmax(Op):
    saves_output = True

    def forward(self, x: Any, *, dim: int) -> Any:
        self.dim = dim
        self.y = y = select(x).log_softmax_forward(x, dim)
        return y

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).log_softmax_backward(grad_y, self.y, self.dim)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return grad_y - self.saved_output(self.y).exp() * grad_y.sum(self.dim, True)


class Softmin(Op):
    saves_output = True

    def forward(self, x: Any, *, dim: int) -> Any:
        self.dim = dim
        kernels = select(x)
        self.y = y = kernels.softmax_forward(np.negative(x, out=kernels.empty(x.shape, x.dtype)), dim)
        return y

    def backward(self, grad_y: Any) -> Any:
        grad = select(grad_y).softmax_backward(grad_y, self.y, self.dim)
        return np.negative(grad, out=grad)

    def backward_graph(self, grad_y: Tensor) -> Any:
        y = self.saved_output(self.y)
        product = grad_y * y
        return y * product.sum(self.dim, True) - product


class StraightThrough(Op):
    """Another value forward, the gradient of the input backward."""

    aliases_grad = True

    def forward(self, x: Any, *, value: Any) -> Any:
        return value

    def backward(self, grad_y: Any) -> Any:
        return grad_y

    def backward_graph(self, grad_y: Tensor) -> Any:
        return grad_y


def _apply(op: str, node: type[Op], input: Tensor, dim: int | None, dtype: Any) -> Tensor:
    if dtype is not None:
        input = cast(input, np.dtype(dtype))
    ndim = input._data.ndim
    if dim is None:
        dim = 0 if ndim in (0, 1, 3) else 1
        warn_caller(f"{op}: the choice of dim={dim} for {ndim} dimensions is deprecated; pass dim")
    if ndim == 0:  # one number is a distribution over one class
        axis(op, dim, 0)
        return node.apply(input.reshape(1), dim=0).reshape(())  # type: ignore[no-any-return]
    return node.apply(input, dim=axis(op, dim, ndim))  # type: ignore[no-any-return]


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x_c) / sum_k exp(x_k) along ``dim``. See ``torch.nn.functional.softmax``.

    Args:
        input: any shape, float32 or float64.
        dim: the dimension whose entries sum to 1.
        dtype: converts ``input`` first.

    A slice of nothing but -inf gives NaN. Raises IndexError if there is no such ``dim``.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.softmax(fastdl.tensor([0.0, 0.0]), dim=0)
        tensor([0.5000, 0.5000])
    """
    return _apply("softmax", Softmax, input, dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along ``dim``, without overflow. See ``torch.nn.functional.log_softmax`` and
    :func:`softmax`.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.log_softmax(fastdl.tensor([0.0, 0.0]), dim=0)
        tensor([-0.6931, -0.6931])
    """
    return _apply("log_softmax", LogSoftmax, input, dim, dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x) along ``dim``. See ``torch.nn.functional.softmin`` and :func:`softmax`."""
    return _apply("softmin", Softmin, input, dim, dtype)


def softmax_method(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """``torch.softmax`` and ``Tensor.softmax``: :func:`softmax` with its dtype in third place."""
    return _apply("softmax", Softmax, input, dim, dtype)


def log_softmax_method(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """``torch.log_softmax`` and ``Tensor.log_softmax``: :func:`log_softmax` with its dtype in third place."""
    return _apply("log_softmax", LogSoftmax, input, dim, dtype)


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """Samples of softmax((logits + Gumbel noise) / tau) along ``dim``.
    See ``torch.nn.functional.gumbel_softmax``.

    With ``hard`` the result is one-hot, and the gradient that of the soft sample. ``eps`` has no effect.
    """
    if tau <= 0:
        raise ArgumentError(f"gumbel_softmax: tau must be positive, got {tau}")
    shifted: Any = logits - Tensor._wrap(np.empty_like(logits._data)).exponential_().log()
    soft = softmax(shifted / tau, dim)
    if not hard:
        return soft
    y = soft._data
    one_hot = np.zeros_like(y)
    np.put_along_axis(one_hot, np.argmax(y, dim, keepdims=True), 1, dim)
    return StraightThrough.apply(soft, value=one_hot)  # type: ignore[no-any-return]

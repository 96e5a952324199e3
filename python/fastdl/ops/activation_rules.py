"""The operations behind :mod:`fastdl.ops.activation`: which kernels they call, what they save, and their derivatives,
those of second order as operations of their own."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.graph import linear_backward, replay
from fastdl.autograd.op import OF_ITSELF, Op
from fastdl.kernels import select
from fastdl.ops.arrays import has_integer_kernels
from fastdl.tensor import Tensor


class Elementwise(Op):
    """y = f(x) by the kernels ``<kernel>_forward`` and ``<kernel>_backward``, with numbers as parameters."""

    _forward: ClassVar[str]
    _backward: ClassVar[str]

    def __init_subclass__(cls, kernel: str = "") -> None:
        if kernel:
            cls._forward, cls._backward = f"{kernel}_forward", f"{kernel}_backward"


class _OfInput(Elementwise):
    """... whose derivative is computed from the input."""

    saves: tuple[int, ...] = (0,)

    def forward(self, x: Any, parameters: tuple[float, ...] = (), into: Any = None) -> Any:
        self.x = x
        self.parameters = parameters
        return getattr(select(x), self._forward)(x, *parameters, into)

    def backward(self, grad_y: Any) -> Any:
        return getattr(select(grad_y), self._backward)(grad_y, self.x, *self.parameters)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return grad_y * self.slope(self.saved_input(0, self.x), *self.parameters)

    def slope(self, x: Tensor, *parameters: float) -> Any:
        """f'(x), in operations."""
        raise NotImplementedError(f"{type(self).__name__}: no second derivative")


class _Straight(Op):
    """Made of straight pieces: the slope is constant, backward linear in its only argument and symmetric."""

    flat = OF_ITSELF

    def linear(self, grad_x: Any) -> Any:
        return self.backward(grad_x)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


class _Pieces(_Straight, _OfInput):
    """Both: a function of straight pieces, which the input tells apart."""


class _OfOutput(Elementwise):
    """... whose derivative is computed from the output."""

    saves_output = True

    def forward(self, x: Any, parameters: tuple[()] = (), into: Any = None) -> Any:
        self.y = y = getattr(select(x), self._forward)(x, into)
        return y

    def backward(self, grad_y: Any) -> Any:
        return getattr(select(grad_y), self._backward)(grad_y, self.y)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return from_output(self._forward, grad_y, self.saved_output(self.y))


def from_output(kernel: str, grad_y: Any, y: Tensor) -> Any:
    """grad_y f'(x) for the functions whose derivative follows from y = f(x), in operations."""
    if kernel == "relu_forward":
        return grad_y.masked_fill(y <= 0, 0.0)
    return grad_y * (y * (1 - y) if kernel == "sigmoid_forward" else 1 - y * y)


class Relu(_OfOutput, kernel="relu"):
    flat = OF_ITSELF


class ReluInPlace(Relu):
    """... in the memory of its input."""

    def forward(self, x: Any, parameters: tuple[()] = (), into: Any = None) -> Any:
        self.y = x
        select(x).clamp_forward(x, 0.0, math.inf, x)  # with any strides
        return x


class Sigmoid(_OfOutput, kernel="sigmoid"): ...


class Tanh(_OfOutput, kernel="tanh"): ...


class LeakyRelu(_Pieces, kernel="leaky_relu"): ...


class LeakyReluInPlace(LeakyRelu):
    """... in the memory of its input, whose signs the result has where the slope is positive."""

    saves: tuple[int, ...] = ()
    saves_output = True


class Gelu(_OfInput, kernel="gelu"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        density = (x * x * -0.5).exp() * (1 / math.sqrt(2 * math.pi))
        return ((x * math.sqrt(0.5)).erf() + 1) * 0.5 + x * density


class GeluTanh(_OfInput, kernel="gelu_tanh"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        factor, cubic = 2 * math.sqrt(2 / math.pi), 0.044715
        x = x.clamp(-32, 32)  # saturated there
        square = x * x
        s = (x * (square * cubic + 1) * factor).sigmoid()
        return s + x * s * (1 - s) * (square * (3 * cubic) + 1) * factor


class Silu(_OfInput, kernel="silu"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        s = x.sigmoid()
        return s * (x * (1 - s) + 1)


class Mish(_OfInput, kernel="mish"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        x = x.clamp(max=40)  # saturated there
        t = Softplus.apply(x, parameters=(1.0, 20.0)).tanh()
        return t + x * (1 - t * t) * x.sigmoid()


class Elu(_OfInput, kernel="elu"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        alpha, scale, input_scale = parameters
        positive: Any = x > 0
        below = x.masked_fill(positive, 0.0) * input_scale  # exp of large x would be infinite
        return (below.exp() * (alpha * scale * input_scale)).masked_fill(positive, scale)


class Softplus(_OfInput, kernel="softplus"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        beta, threshold = parameters
        scaled = x * beta
        return scaled.sigmoid().masked_fill(scaled > threshold, 1.0)


class Hardtanh(_Pieces, kernel="hardtanh"):
    wide_integers = True


class Hardsigmoid(_Pieces, kernel="hardsigmoid"): ...


class Hardswish(_OfInput, kernel="hardswish"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        return (x / 3 + 0.5).masked_fill(x <= -3, 0.0).masked_fill(x >= 3, 1.0)


class Hardshrink(_Pieces, kernel="hardshrink"): ...


class Softshrink(_Pieces, kernel="softshrink"): ...


class Tanhshrink(_OfInput, kernel="tanhshrink"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        return x.tanh().square()


class Softsign(_OfInput, kernel="softsign"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        return 1 / (x.abs() + 1).square()


class Logsigmoid(_OfInput, kernel="logsigmoid"):
    def slope(self, x: Tensor, *parameters: float) -> Any:
        return (-x).sigmoid()


class Threshold(_Pieces, kernel="threshold"):
    wide_integers = True


class Prelu(Op):
    flat = MappingProxyType({0: (0,), 1: (1,)})  # each gradient hangs on its own input in steps
    floats_only = True
    saves = (0, 1)

    def forward(self, x: Any, weight: Any) -> Any:
        self.x, self.weight = x, weight
        return select(x).prelu_forward(x, weight)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).prelu_backward(grad_y, self.x, self.weight, *self.needs)

    def backward_graph(self, grad_y: Tensor) -> Any:
        def composed(x: Tensor, weight: Tensor) -> Tensor:
            if x.ndim == 0:
                weight = weight.reshape(())
            elif weight.numel() > 1 and x.ndim > 2:
                weight = weight.reshape(-1, *[1] * (x.ndim - 2))
            return (x * weight).where(x <= 0, x)

        return replay(self, grad_y, composed, self.x, self.weight)


class Rrelu(_Straight):
    """The slopes are drawn again in backward."""

    saves = (0,)

    def forward(self, x: Any, parameters: tuple[Any, ...]) -> Any:
        self.x, self.parameters = x, parameters
        return select(x).rrelu_forward(x, *parameters)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).rrelu_backward(grad_y, self.x, *self.parameters)


class Glu(Op):
    saves = (0,)

    def forward(self, x: Any, dim: int) -> Any:
        self.x, self.dim = x, dim
        return select(x).glu_forward(x, dim)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).glu_backward(grad_y, self.x, self.dim)

    def backward_graph(self, grad_y: Tensor) -> Any:
        def composed(x: Tensor) -> Any:
            a, b = x.chunk(2, self.dim)
            return a * b.sigmoid()

        return replay(self, grad_y, composed, self.x)


class MaximumZero(Op):
    """relu of integers, which have no gradient."""

    def forward(self, x: Any) -> Any:
        if not has_integer_kernels(x):
            return np.maximum(x, 0, out=select(x).empty(x.shape, x.dtype))
        return select(x).clamp_forward(x, 0, np.iinfo(x.dtype).max)

"""The gradients of convolutions as operations.

y is bilinear in x and weight, and so is each gradient in what it is made of: with P(x, w) = y, the three maps

    P(x, w),    X(grad_y, w) = grad_x,    W(grad_y, x) = grad_weight

are each other's gradients (of X, for instance: P(grad, w) and W(grad_y, grad)). Derivatives of any order need no
other kernels than the first-order ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastdl.autograd.op import Op
from fastdl.kernels import select
from fastdl.tensor import Tensor

Ints = tuple[int, ...]


class Geometry(NamedTuple):
    """A convolution or its transpose: y is linear in x and in weight, so are the gradients in what they are made of."""

    transposed: bool
    options: tuple[Any, ...]
    extra: Ints | None  # output_padding, of the transposed one

    def product(self, x: Any, weight: Any) -> Any:
        if not self.transposed:
            return select(x).conv_forward(x, weight, None, *self.options)
        stride, padding, dilation, groups = self.options
        return select(x).conv_transpose_forward(
            x, weight, None, stride, padding, self.extra, dilation, groups
        )

    def gradients(self, grad_y: Any, x: Any, weight: Any, needs: tuple[bool, ...]) -> Any:
        kernels = select(grad_y)
        backward = kernels.conv_transpose_backward if self.transposed else kernels.conv_backward
        return backward(grad_y, x, weight, *self.options, (*needs, False))[:2]


class ConvProduct(Op):
    """The convolution without bias, on batches: what the gradients' own gradients are made of."""

    saves = (0, 1)

    def forward(self, x: Any, weight: Any, geometry: Geometry) -> Any:
        self.x, self.weight, self.geometry = x, weight, geometry
        return geometry.product(x, weight)

    def backward(self, grad_y: Any) -> Any:
        return self.geometry.gradients(grad_y, self.x, self.weight, self.needs)

    def backward_graph(self, grad_y: Tensor) -> Any:
        x, weight, geometry = self.saved_input(0, self.x), self.saved_input(1, self.weight), self.geometry
        return (
            ConvInputGrad.apply(grad_y, weight, geometry=geometry, shape=x.shape) if self.needs[0] else None,
            ConvWeightGrad.apply(grad_y, x, geometry=geometry, shape=weight.shape) if self.needs[1] else None,
        )


class ConvInputGrad(Op):
    """The gradient of x, from grad_y and weight."""

    saves = (0, 1)

    def forward(self, grad_y: Any, weight: Any, geometry: Geometry, shape: Ints) -> Any:
        self.grad_y, self.weight, self.geometry = grad_y, weight, geometry
        x = select(grad_y).empty(shape, grad_y.dtype)  # only its shape matters
        return geometry.gradients(grad_y, x, weight, (True, False))[0]

    def backward(self, grad: Any) -> Any:
        need_y, need_weight = self.needs
        return (
            self.geometry.product(grad, self.weight) if need_y else None,
            self.geometry.gradients(self.grad_y, grad, self.weight, (False, True))[1]
            if need_weight
            else None,
        )

    def backward_graph(self, grad: Tensor) -> Any:
        need_y, need_weight = self.needs
        grad_y, weight = self.saved_input(0, self.grad_y), self.saved_input(1, self.weight)
        geometry = self.geometry
        return (
            ConvProduct.apply(grad, weight, geometry=geometry) if need_y else None,
            ConvWeightGrad.apply(grad_y, grad, geometry=geometry, shape=weight.shape)
            if need_weight
            else None,
        )


class ConvWeightGrad(Op):
    """The gradient of weight, from grad_y and x."""

    saves = (0, 1)

    def forward(self, grad_y: Any, x: Any, geometry: Geometry, shape: Ints) -> Any:
        self.grad_y, self.x, self.geometry = grad_y, x, geometry
        weight = select(grad_y).empty(shape, grad_y.dtype)  # only its shape matters
        return geometry.gradients(grad_y, x, weight, (False, True))[1]

    def backward(self, grad: Any) -> Any:
        need_y, need_x = self.needs
        return (
            self.geometry.product(self.x, grad) if need_y else None,
            self.geometry.gradients(self.grad_y, self.x, grad, (True, False))[0] if need_x else None,
        )

    def backward_graph(self, grad: Tensor) -> Any:
        need_y, need_x = self.needs
        grad_y, x = self.saved_input(0, self.grad_y), self.saved_input(1, self.x)
        geometry = self.geometry
        return (
            ConvProduct.apply(x, grad, geometry=geometry) if need_y else None,
            ConvInputGrad.apply(grad_y, grad, geometry=geometry, shape=x.shape) if need_x else None,
        )


def gradients(node: Any, geometry: Geometry, grad_y: Tensor) -> Any:
    """Of the input, the weight and the bias of a convolution's node, in operations."""
    x, weight = node.x, node.weight
    inputs = node.saved_input(0, x if node.batched else x[0])
    if not node.batched:
        inputs, grad_y = inputs.unsqueeze(0), grad_y.unsqueeze(0)
    need_x, need_weight, need_bias = node.needs
    grad_x = grad_weight = grad_bias = None
    if need_x:
        grad_x = ConvInputGrad.apply(grad_y, node.saved_input(1, weight), geometry=geometry, shape=x.shape)
        if not node.batched:
            grad_x = grad_x.squeeze(0)
    if need_weight:
        grad_weight = ConvWeightGrad.apply(grad_y, inputs, geometry=geometry, shape=weight.shape)
    if need_bias:
        grad_bias = grad_y.sum((0, *range(2, grad_y.ndim)))
    return grad_x, grad_weight, grad_bias

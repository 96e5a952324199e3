"""Activation functions; see ``torch.nn.functional``."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.op import Op
from fastdl.kernels import select
from fastdl.tensor import Tensor


class Relu(Op):
    saves_output = True

    def forward(self, x: Any) -> Any:
        self.y = y = select(x).relu_forward(x)
        return y

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).relu_backward(grad_y, self.y)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0), elementwise; any shape, float32 or float64. See ``torch.nn.functional.relu``."""
    return Relu.apply(input)  # type: ignore[no-any-return]

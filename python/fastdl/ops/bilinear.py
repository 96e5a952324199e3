"""The bilinear layer: two products by way of einsum; name and rules are ``torch``'s."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.engine import stand_in
from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError
from fastdl.ops.einsum import contract, einsum
from fastdl.tensor import Tensor


class Bilinear(Op):
    saves = (0, 1, 2)

    def forward(self, x1: Any, x2: Any, weight: Any, bias: Any) -> Any:
        self.shapes_of = x1.shape, x2.shape
        self.x1, self.x2 = x1, x2 = x1.reshape(-1, x1.shape[-1]), x2.reshape(-1, x2.shape[-1])
        self.weight, self.has_bias = weight, bias is not None
        y = contract((x1, x2, weight), ("bi", "bj", "oij"), "bo")
        if bias is not None:
            y += bias
        return y.reshape(*self.shapes_of[0][:-1], weight.shape[0])

    def backward(self, grad: Any) -> Any:
        x1, x2, weight, needs = self.x1, self.x2, self.weight, self.needs
        grad = grad.reshape(-1, weight.shape[0])
        return (
            contract((grad, x2, weight), ("bo", "bj", "oij"), "bi").reshape(self.shapes_of[0])
            if needs[0]
            else None,
            contract((grad, x1, weight), ("bo", "bi", "oij"), "bj").reshape(self.shapes_of[1])
            if needs[1]
            else None,
            contract((grad, x1, x2), ("bo", "bi", "bj"), "oij") if needs[2] else None,
            grad.sum(0) if needs[3] else None,
        )

    def backward_graph(self, grad: Any) -> Any:
        def composed(x1: Tensor, x2: Tensor, weight: Tensor, bias: Any) -> Any:
            y = einsum("...i,...j,oij->...o", x1, x2, weight)
            return y if bias is None else y + bias

        shape1, shape2 = self.shapes_of
        bias = stand_in(self.weight.shape[:1], self.weight.dtype, self.weight) if self.has_bias else None
        x1, x2 = self.x1.reshape(shape1), self.x2.reshape(shape2)
        return replay(self, grad, composed, x1, x2, self.weight, bias)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y[.., o] = sum over i, j of input1[.., i] * weight[o, i, j] * input2[.., j] + bias[o]``.

    Args:
        input1: ``(*, in1_features)``; input2: ``(*, in2_features)`` with the same leading dimensions.
        weight: ``(out_features, in1_features, in2_features)``.
        bias: ``(out_features,)`` or None. See ``torch.nn.functional.bilinear``.
    """
    a, b, w = input1._data.shape, input2._data.shape, weight._data.shape
    if len(w) != 3:
        raise ArgumentError(
            f"bilinear: weight must be 3-D (out_features, in1_features, in2_features), got shape {w}"
        )
    if not a or a[:-1] != b[:-1] or a[-1] != w[1] or b[-1] != w[2]:
        raise ArgumentError(
            f"bilinear: input1 must be (*, {w[1]}) and input2 (*, {w[2]}) with equal leading dimensions, "
            f"got {a} and {b}"
        )
    if bias is not None and bias._data.shape != w[:1]:
        raise ArgumentError(f"bilinear: bias must have shape ({w[0]},), got {bias._data.shape}")
    return Bilinear.apply(input1, input2, weight, bias)  # type: ignore[no-any-return]

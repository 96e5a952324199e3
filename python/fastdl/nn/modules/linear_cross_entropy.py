"""``LinearCrossEntropyLoss``: the last layer of a classifier and its loss."""

from __future__ import annotations

from math import prod
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.nn.modules.linear import Linear
from fastdl.nn.modules.loss import _Loss
from fastdl.ops.linear_cross_entropy import LinearCrossEntropyOptions, linear_cross_entropy
from fastdl.tensor import Tensor

__all__ = ["LinearCrossEntropyLoss", "LinearCrossEntropyOptions"]


class LinearCrossEntropyLoss(_Loss):
    """Cross entropy of the logits that a linear layer of its own (``linear``) makes of the input.

    ``out_features`` are the further axes (d1, ...) of logits (N, C, d1, ...). See ``torch.nn.LinearCrossEntropyLoss``
    and ``functional.linear_cross_entropy``.
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise ArgumentError(
                f"LinearCrossEntropyLoss: weight must have shape {(num_classes,)}, got {weight.shape}"
            )
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(
                f"LinearCrossEntropyLoss: label_smoothing must lie in [0, 1], got {label_smoothing}"
            )
        super().__init__(reduction=reduction)
        self.register_buffer("weight", weight)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = Linear(in_features, prod(out_features, start=num_classes), bias, device, dtype)
        self.options = options

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        layer, classes = self.linear, (self.num_classes, *self.out_features)
        return linear_cross_entropy(
            input,
            layer.weight.reshape(*classes, layer.in_features),
            target,
            linear_bias=None if layer.bias is None else layer.bias.reshape(*classes),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features}, "
            f"bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )

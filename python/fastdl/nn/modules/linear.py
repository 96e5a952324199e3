"""Linear layers: matrices applied to the last axis."""

from __future__ import annotations

import math
from typing import Any

from fastdl.nn import init
from fastdl.nn.modules.activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.ops.bilinear import bilinear
from fastdl.ops.linear import linear
from fastdl.tensor import Tensor

__all__ = ["Bilinear", "Linear"]


_FUSABLE: dict[Any, str] = {
    ReLU.forward: "relu",
    Sigmoid.forward: "sigmoid",
    Tanh.forward: "tanh",
    SiLU.forward: "silu",
    GELU.forward: "gelu",
}  # by the functions: programs put others in their place


_CALL = Module.__call__


def is_called_as_usual(module: Module) -> bool:
    """Does calling it do what its class's ``forward`` does, and nothing else?"""
    return not module._hooked and type(module).__call__ is _CALL and "forward" not in module.__dict__


def fusable_activation(module: Module) -> str | None:
    """The name by which ``linear`` knows what ``module`` computes, None if it does not."""
    name = _FUSABLE.get(type(module).forward)
    if name is None or not is_called_as_usual(module):
        return None
    if name == "gelu" and getattr(module, "approximate", "") == "tanh":
        return "gelu_tanh"
    return name


class Linear(Module):
    """y = x W^T + b on the last axis. See ``torch.nn.Linear``.

    Args:
        in_features: length of the last axis of the input.
        out_features: length of the last axis of the output.
        bias: whether the layer learns ``b`` (default True).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Shape: ``(*, in_features)`` -> ``(*, out_features)``.

    Parameters: ``weight`` (out_features, in_features) and ``bias`` (out_features,), both drawn from
    U(-s, s) with s = 1 / sqrt(in_features).

    Example:
        >>> import fastdl
        >>> fastdl.nn.Linear(20, 30)(fastdl.tensor([[1.0] * 20] * 128)).shape
        (128, 30)
    """

    in_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(empty((out_features, in_features), device, dtype))
        if bias:
            self.bias = Parameter(empty((out_features,), device, dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


LINEAR = Linear.forward


class Bilinear(Module):
    """y = x1^T A x2 + b on the last axes of two inputs. See ``torch.nn.Bilinear``.

    Args:
        in1_features, in2_features: lengths of the last axes of the inputs.
        out_features: length of the last axis of the output.
        bias: whether the layer learns ``b`` (default True).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Shape: ``(*, in1_features)``, ``(*, in2_features)`` -> ``(*, out_features)``; the leading axes are equal.

    Parameters: ``weight`` (out_features, in1_features, in2_features) and ``bias`` (out_features,), both drawn
    from U(-s, s) with s = 1 / sqrt(in1_features).
    """

    in1_features: int
    in2_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"Bilinear: in1_features must be > 0, got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = Parameter(empty((out_features, in1_features, in2_features), device, dtype))
        if bias:
            self.bias = Parameter(empty((out_features,), device, dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )

"""Batch norm folded into the layer before it, for inference; see ``torch.nn.utils.fusion``."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import numpy as np

from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter
from fastdl.tensor import Tensor

__all__ = [
    "convert_conv2d_weight_memory_format",
    "convert_conv3d_weight_memory_format",
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_eval",
    "fuse_linear_bn_weights",
]

M = TypeVar("M", bound=Module)


def convert_conv2d_weight_memory_format(module: M, memory_format: Any) -> M:
    """The module: memory is in C order. See ``torch.nn.utils.convert_conv2d_weight_memory_format``."""
    return module


convert_conv3d_weight_memory_format = convert_conv2d_weight_memory_format


def _fuse(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    gain: Tensor | None,
    shift: Tensor | None,
    axis: int,
) -> tuple[Parameter, Parameter]:
    w = weight._data
    factor = 1 / np.sqrt(variance._data + w.dtype.type(eps))
    if gain is not None:
        factor = factor * gain._data
    shape = [1] * w.ndim
    shape[axis] = -1
    b = -mean._data if bias is None else bias._data - mean._data
    b = b * factor
    if shift is not None:
        b = b + shift._data
    needs_grad = weight.requires_grad
    return (
        Parameter((w * factor.reshape(shape)).astype(w.dtype), needs_grad),
        Parameter(b.astype(w.dtype), needs_grad if bias is None else bias.requires_grad),
    )


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """Weight and bias of the convolution that does convolution and batch norm (in eval mode) at once."""
    return _fuse(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 1 if transpose else 0)


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
) -> tuple[Parameter, Parameter]:
    """Weight and bias of the linear layer that does linear layer and batch norm (in eval mode) at once."""
    return _fuse(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 0)


def _fused_layer(layer: M, bn: Any, transpose: bool) -> M:
    if layer.training or bn.training:
        raise ValueError("fusion: both modules must be in eval mode (call .eval() first)")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("fusion: the batch norm must have running statistics (track_running_stats=True)")
    fused: Any = deepcopy(layer)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    return fused  # type: ignore[no-any-return]


def fuse_conv_bn_eval(conv: M, bn: Module, transpose: bool = False) -> M:
    """A copy of the convolution that does what ``bn(conv(x))`` does; both in eval mode."""
    return _fused_layer(conv, bn, transpose)


def fuse_linear_bn_eval(linear: M, bn: Module) -> M:
    """A copy of the linear layer that does what ``bn(linear(x))`` does; both in eval mode."""
    return _fused_layer(linear, bn, False)

"""Where PyTorch's encoder leaves padding out of its computation (nested tensors): zeros stand there after it."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.mode import mode
from fastdl.nn.modules.activation import GELU, ReLU
from fastdl.ops.activation import gelu, relu
from fastdl.tensor import Tensor


def left_out(encoder: Any, src: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """A bool tensor (N, L) of what ``encoder``, in evaluation, leaves out of ``src``; None where it computes all.

    That needs layers of the usual kind (normalised after the sum, batch first, an even number of heads, ReLU or GELU),
    no gradients and no other mask than padding behind the last token of each sequence.
    """
    if padding is None or mask is not None or src.ndim != 3 or mode.autocast is not None:
        return None
    from fastdl.nn.modules.transformer import TransformerEncoderLayer

    layer: Any = next(iter(encoder.layers), None)
    if not (encoder.use_nested_tensor and isinstance(layer, TransformerEncoderLayer)):
        return None
    attention, activation = layer.self_attn, layer.activation
    if layer.training or layer.norm_first or layer.norm1.eps != layer.norm2.eps:
        return None
    if not attention.batch_first or attention.num_heads % 2 or attention.in_proj_bias is None:
        return None
    if not (activation is relu or activation is gelu or isinstance(activation, (ReLU, GELU))):
        return None
    if mode.enabled and (src._requires_grad or any(p._requires_grad for p in layer.parameters())):
        return None
    padded = padding if padding.dtype.kind == "b" else padding != 0
    if padded.shape != src.shape[:2] or (padded[:, :-1] & ~padded[:, 1:]).any():
        return None
    return padded

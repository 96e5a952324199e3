"""The last layer of a classifier and its loss in one function; see ``torch.nn.functional.linear_cross_entropy``."""

from __future__ import annotations

from math import prod

from fastdl.errors import ArgumentError
from fastdl.ops.cross_entropy import cross_entropy
from fastdl.ops.linear import linear
from fastdl.tensor import Tensor


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: None = None,
) -> Tensor:
    """``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)``.

    Args:
        input: (F) or (N, F).
        linear_weight: (C, F), or (C, d1, ..., F) for logits (N, C, d1, ...).
        target: class indices () or (N, d1, ...), or probabilities of the logits' shape.
        linear_bias: (C, d1, ...).
        ignore_index: as in :func:`cross_entropy`; None for its default.
        options: None. PyTorch's ways to compute this in pieces do not exist here.

    See ``torch.nn.functional.linear_cross_entropy``.
    """
    op = "linear_cross_entropy"
    if options is not None:
        raise NotImplementedError(f"{op}: options must be None, got {type(options).__name__}")
    if input.ndim not in (1, 2):
        raise ArgumentError(f"{op}: input must be (F) or (N, F), got shape {input.shape}")
    if linear_weight.ndim < 2 or linear_weight.shape[-1] != input.shape[-1]:
        raise ArgumentError(
            f"{op}: linear_weight must be (C, ..., {input.shape[-1]}) for an input of shape {input.shape}, got "
            f"{linear_weight.shape}"
        )
    *classes, features = linear_weight.shape
    if linear_bias is not None and list(linear_bias.shape) != classes:
        raise ArgumentError(f"{op}: linear_bias must have shape {tuple(classes)}, got {linear_bias.shape}")
    if len(classes) > 1:
        if input.ndim == 1:
            raise ArgumentError(
                f"{op}: input must be (N, {features}) with linear_weight of shape {linear_weight.shape}, got "
                f"{input.shape}"
            )
        linear_weight = linear_weight.reshape(prod(classes), features)
        linear_bias = None if linear_bias is None else linear_bias.reshape(prod(classes))
    logits = linear(input, linear_weight, linear_bias).reshape(*input.shape[:-1], *classes)
    return cross_entropy(
        logits,
        target,
        weight=weight,
        ignore_index=-100 if ignore_index is None else ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )

"""A convolution's gradients as functions of their own, from what they are made of. See ``torch.nn.grad``.

With y = conv(x, weight) and grad_y, the gradient of a scalar by y: ``conv2d_input`` gives that by x, which is linear in
weight and grad_y, and ``conv2d_weight`` that by weight, linear in x and grad_y. Both have gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.ops.conv import IntOrInts, plan, sizes_of
from fastdl.ops.conv_gradients import ConvInputGrad, ConvWeightGrad, Geometry
from fastdl.tensor import Tensor

__all__ = ["conv1d_input", "conv1d_weight", "conv2d_input", "conv2d_weight", "conv3d_input", "conv3d_weight"]


def _geometry(
    op: str,
    axes: int,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    grad_output: Tensor,
    options: tuple[IntOrInts, IntOrInts, IntOrInts, int],
) -> Geometry:
    stride, padding, dilation, groups = options
    (strides, pads, dilations, groups), batched = plan(
        op,
        axes,
        x,
        weight,
        None,
        sizes_of(op, "stride", stride),
        padding if isinstance(padding, str) else sizes_of(op, "padding", padding),
        sizes_of(op, "dilation", dilation),
        groups,
    )
    if not batched:
        raise ArgumentError(f"{op}: the input must have a batch axis, got shape {x}")
    before, after = (pads, pads) if len(pads) == axes else (pads[::2], pads[1::2])
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight[2:], strict=True)]
    padded = [n + b + a for n, b, a in zip(x[2:], before, after, strict=True)]
    outputs = [(n - r) // s + 1 for n, r, s in zip(padded, reach, strides, strict=True)]
    if grad_output.shape != (y := (x[0], weight[0], *outputs)):
        raise ArgumentError(f"{op}: grad_output must have the output's shape {y}, got {grad_output.shape}")
    return Geometry(False, (strides, pads, dilations, groups), None)


def _documented(gradient: Callable[..., Tensor], axes: int, of: str, arguments: str) -> Callable[..., Tensor]:
    gradient.__name__ = gradient.__qualname__ = f"conv{axes}d_{of}"
    gradient.__doc__ = f"""The gradient of a {axes}-dimensional convolution's {of}.

    Args:
        {arguments}
        grad_output: the gradient of the output, (N, K, ...).

    Returns:
        The {of}'s gradient, of shape {of}_size.

    Raises:
        ValueError: shapes or options that do not fit together.

    Equivalent of ``torch.nn.grad.conv{axes}d_{of}``.
    """
    return gradient


def _of_input(axes: int) -> Callable[..., Tensor]:
    op = f"conv{axes}d_input"

    def gradient(
        input_size: Sequence[int],
        weight: Tensor,
        grad_output: Tensor,
        stride: IntOrInts = 1,
        padding: IntOrInts = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
    ) -> Tensor:
        shape: Any = sizes_of(op, "input_size", tuple(input_size))
        geometry = _geometry(
            op, axes, shape, tuple(weight.shape), grad_output, (stride, padding, dilation, groups)
        )
        return ConvInputGrad.apply(grad_output, weight, geometry=geometry, shape=shape)  # type: ignore[no-any-return]

    return _documented(
        gradient,
        axes,
        "input",
        f"""input_size: shape of the input, (N, C, ...).
        weight: (K, C / groups, ...), as in ``functional.conv{axes}d``, and so the options behind.""",
    )


def _of_weight(axes: int) -> Callable[..., Tensor]:
    op = f"conv{axes}d_weight"

    def gradient(
        input: Tensor,
        weight_size: Sequence[int],
        grad_output: Tensor,
        stride: IntOrInts = 1,
        padding: IntOrInts = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
    ) -> Tensor:
        shape: Any = sizes_of(op, "weight_size", tuple(weight_size))
        geometry = _geometry(
            op, axes, tuple(input.shape), shape, grad_output, (stride, padding, dilation, groups)
        )
        return ConvWeightGrad.apply(grad_output, input, geometry=geometry, shape=shape)  # type: ignore[no-any-return]

    return _documented(
        gradient,
        axes,
        "weight",
        f"""input: (N, C, ...).
        weight_size: shape of the weight, (K, C / groups, ...); options as in ``functional.conv{axes}d``.""",
    )


conv1d_input, conv2d_input, conv3d_input = _of_input(1), _of_input(2), _of_input(3)
conv1d_weight, conv2d_weight, conv3d_weight = _of_weight(1), _of_weight(2), _of_weight(3)

"""Rearranged images: windows as columns and back, pixels as channels, channels between groups.

See ``torch.nn.functional``.
"""

from __future__ import annotations

from operator import index
from typing import Any

from fastdl.arrays import pooled_copy
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op
from fastdl.dtypes import bool_, float64, int64
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.resample import Ints, Sizes, data
from fastdl.tensor import Tensor


class Unfold(Op):
    release = Op.stay
    floats_only = True

    def forward(self, x: Any, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Any:
        self.size = x.shape[-2:]
        self.options = options = (kernel, dilation, padding, stride)
        return select(x).unfold_forward(x, *options)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).fold_forward(grad_y, self.size, *self.options)

    def linear(self, x: Any) -> Any:
        return select(x).unfold_forward(x, *self.options)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


class Fold(Op):
    floats_only = True

    def forward(
        self, x: Any, output: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
    ) -> Any:
        self.output = output
        self.options = options = (kernel, dilation, padding, stride)
        return select(x).fold_forward(x, output, *options)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).unfold_forward(grad_y, *self.options)

    def linear(self, x: Any) -> Any:
        return select(x).fold_forward(x, self.output, *self.options)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


class PixelShuffle(Op):
    floats_only = True
    release = Op.stay
    wide_integers = True

    def forward(self, x: Any, factor: int) -> Any:
        self.factor = factor
        return select(x).pixel_shuffle_forward(x, factor)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).pixel_unshuffle_forward(grad_y, self.factor)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return PixelUnshuffle.apply(grad_y, factor=self.factor)


class PixelUnshuffle(Op):
    floats_only = True
    release = Op.stay
    wide_integers = True

    def forward(self, x: Any, factor: int) -> Any:
        self.factor = factor
        return select(x).pixel_unshuffle_forward(x, factor)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).pixel_shuffle_forward(grad_y, self.factor)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return PixelShuffle.apply(grad_y, factor=self.factor)


class ChannelShuffle(Op):
    """Channels as a (groups, channels per group) matrix, transposed."""

    def forward(self, x: Any, groups: int) -> Any:
        self.groups = groups
        return self._transpose(x, groups)

    def backward(self, grad_y: Any) -> Any:
        return self._transpose(grad_y, grad_y.shape[1] // self.groups)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return ChannelShuffle.apply(grad_y, groups=grad_y.shape[1] // self.groups)

    @staticmethod
    def _transpose(x: Any, groups: int) -> Any:
        n, c, *rest = x.shape
        return pooled_copy(x.reshape(n, groups, c // groups, *rest).swapaxes(1, 2)).reshape(x.shape)


def _pair(value: Any, op: str, name: str, least: int) -> Sizes:
    try:
        pair = tuple([index(v) for v in value]) if isinstance(value, (tuple, list)) else (index(value),) * 2
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int or a tuple of 2 ints, got {value!r}") from None
    if len(pair) == 1:
        pair *= 2
    if len(pair) != 2 or min(pair) < least:
        raise ArgumentError(
            f"{op}: {name} must be an int or a tuple of 2 ints of at least {least}, got {value!r}"
        )
    return pair


def _blocks(op: str, size: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Sizes:
    """How many windows fit along each axis."""
    blocks = tuple(
        [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
        ]
    )
    if min(blocks) < 1:
        raise ArgumentError(
            f"{op}: the window is larger than the padded image: kernel_size {kernel} with dilation {dilation} and "
            f"padding {padding} on a spatial size of {size}"
        )
    return blocks


def unfold(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """Windows of an image as columns (im2col); see ``torch.nn.functional.unfold``.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.

    Returns:
        (N, C * kH * kW, windows): column ``l`` holds the elements of window ``l``, zeros where it covers padding.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.unfold(fastdl.tensor([[[1.0, 2.0, 3.0]]]), (1, 2))
        tensor([[1., 2.],
                [2., 3.]])
    """
    shape = data(input, "unfold").shape
    kernel, strides = _pair(kernel_size, "unfold", "kernel_size", 1), _pair(stride, "unfold", "stride", 1)
    pads, dilations = _pair(padding, "unfold", "padding", 0), _pair(dilation, "unfold", "dilation", 1)
    if len(shape) not in (3, 4) or 0 in shape[-3:]:
        raise ArgumentError(
            f"unfold: input must be (N, C, H, W) or (C, H, W), only N may be 0; got shape {shape}"
        )
    _blocks("unfold", shape[-2:], kernel, dilations, pads, strides)
    if input._data.dtype is bool_:
        return unfold(input.float(), kernel_size, dilation, padding, stride).bool()
    return Unfold.apply(input, kernel=kernel, dilation=dilations, padding=pads, stride=strides)  # type: ignore[no-any-return]


def fold(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> Tensor:
    """Add columns up into an image (col2im), the transpose of :func:`unfold`; see ``torch.nn.functional.fold``.

    Args:
        input: (N, C * kH * kW, windows) or (C * kH * kW, windows), float32 or float64.
        output_size: (H, W) of the image.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.fold(fastdl.tensor([[1.0, 2.0], [2.0, 3.0]]), (1, 3), (1, 2))
        tensor([[[1., 4., 3.]]])
    """
    shape = data(input, "fold").shape
    output = _pair(output_size, "fold", "output_size", 1)
    kernel, strides = _pair(kernel_size, "fold", "kernel_size", 1), _pair(stride, "fold", "stride", 1)
    pads, dilations = _pair(padding, "fold", "padding", 0), _pair(dilation, "fold", "dilation", 1)
    taps = kernel[0] * kernel[1]
    if len(shape) not in (2, 3) or 0 in shape[-2:] or shape[-2] % taps:
        raise ArgumentError(
            f"fold: input must be (N, C * {taps}, windows) or (C * {taps}, windows) for kernel_size {kernel}, only N "
            f"may be 0; got shape {shape}"
        )
    rows, columns = _blocks("fold", output, kernel, dilations, pads, strides)
    if shape[-1] != rows * columns:
        raise ArgumentError(
            f"fold: output_size {output} has {rows} * {columns} = {rows * columns} windows with kernel_size {kernel}, "
            f"dilation {dilations}, padding {pads} and stride {strides}; input of shape {shape} has {shape[-1]}"
        )
    return Fold.apply(  # type: ignore[no-any-return]
        input, output=output, kernel=kernel, dilation=dilations, padding=pads, stride=strides
    )


def _moved(op: type[Op], input: Tensor, factor: int) -> Tensor:
    """``op``, which moves numbers: of integers that floats do not hold it moves the bits."""
    dtype = input._data.dtype
    if dtype is bool_:
        return op.apply(input.float(), factor=factor).bool()  # type: ignore[no-any-return]
    if dtype is int64:
        return op.apply(input.view(float64), factor=factor).view(int64)  # type: ignore[no-any-return]
    return op.apply(input, factor=factor)  # type: ignore[no-any-return]


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C * r * r, H, W) -> (*, C, H * r, W * r); see ``torch.nn.functional.pixel_shuffle``."""
    shape, r = data(input, "pixel_shuffle").shape, index(upscale_factor)
    if r < 1:
        raise ArgumentError(f"pixel_shuffle: upscale_factor must be positive, got {r}")
    if len(shape) < 3 or shape[-3] % (r * r):
        raise ArgumentError(
            f"pixel_shuffle: input must be (*, C, H, W) with C divisible by upscale_factor squared ({r * r}), got "
            f"shape {shape}"
        )
    return _moved(PixelShuffle, input, r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H * r, W * r) -> (*, C * r * r, H, W); see ``torch.nn.functional.pixel_unshuffle``."""
    shape, r = data(input, "pixel_unshuffle").shape, index(downscale_factor)
    if r < 1:
        raise ArgumentError(f"pixel_unshuffle: downscale_factor must be positive, got {r}")
    if len(shape) < 3 or shape[-1] % r or shape[-2] % r:
        raise ArgumentError(
            f"pixel_unshuffle: input must be (*, C, H, W) with H and W divisible by downscale_factor ({r}), got "
            f"shape {shape}"
        )
    return _moved(PixelUnshuffle, input, r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Interleave the channels of ``groups`` groups, input (N, C, *); see ``torch.nn.functional.channel_shuffle``."""
    shape, groups = data(input, "channel_shuffle").shape, index(groups)
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        raise ArgumentError(
            f"channel_shuffle: input must be (N, C, *) with C divisible by groups ({groups}), got shape {shape}"
        )
    return ChannelShuffle.apply(input, groups=groups)  # type: ignore[no-any-return]

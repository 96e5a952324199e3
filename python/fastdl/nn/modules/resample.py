"""Resampling layers: modules around :mod:`fastdl.ops.resample` and :mod:`fastdl.ops.unfold`.

See the classes of the same names in ``torch.nn``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fastdl.errors import ArgumentError
from fastdl.nn.modules.module import Module
from fastdl.ops import resample as ops
from fastdl.ops import unfold
from fastdl.tensor import Tensor

__all__ = [
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Fold",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]

Ints = int | tuple[int, ...]


class Upsample(Module):
    """Resamples to ``size``, or by ``scale_factor``; see :func:`fastdl.nn.functional.interpolate`."""

    def __init__(
        self,
        size: Ints | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale_factor: Any
        if isinstance(scale_factor, (tuple, list)):
            self.scale_factor = tuple([float(factor) for factor in scale_factor])
        else:
            self.scale_factor = float(scale_factor) if scale_factor else None
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        return ops.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        what = f"scale_factor={self.scale_factor}" if self.scale_factor is not None else f"size={self.size}"
        return f"{what}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """:class:`Upsample` with ``mode="nearest"``."""

    def __init__(
        self, size: Ints | None = None, scale_factor: float | tuple[float, ...] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """:class:`Upsample` with ``mode="bilinear"`` and ``align_corners=True``."""

    def __init__(
        self, size: Ints | None = None, scale_factor: float | tuple[float, ...] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)


class _Pad(Module):
    mode: ClassVar[str]
    rank: ClassVar[int]
    padding: tuple[int, ...]

    def __init__(self, padding: Ints) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self.rank) if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self.rank:
            raise ValueError(
                f"{type(self).__name__}: padding must be an int or {2 * self.rank} ints, got {padding}"
            )

    def forward(self, input: Tensor) -> Tensor:
        return ops.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    mode = "constant"
    value: float

    def __init__(self, padding: Ints, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return ops.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Ints) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_ConstantPad):
    """Pads the last axis with a constant; see ``torch.nn.ConstantPad1d``."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """Pads the last two axes with a constant; see ``torch.nn.ConstantPad2d``."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """Pads the last three axes with a constant; see ``torch.nn.ConstantPad3d``."""

    rank = 3


class ZeroPad1d(_ZeroPad):
    """Pads the last axis with zeros; see ``torch.nn.ZeroPad1d``."""

    rank = 1


class ZeroPad2d(_ZeroPad):
    """Pads the last two axes with zeros; see ``torch.nn.ZeroPad2d``."""

    rank = 2


class ZeroPad3d(_ZeroPad):
    """Pads the last three axes with zeros; see ``torch.nn.ZeroPad3d``."""

    rank = 3


class ReflectionPad1d(_Pad):
    """Pads the last axis by reflection at the edge; see ``torch.nn.ReflectionPad1d``."""

    mode = "reflect"
    rank = 1


class ReflectionPad2d(_Pad):
    """Pads the last two axes by reflection at the edge; see ``torch.nn.ReflectionPad2d``."""

    mode = "reflect"
    rank = 2


class ReflectionPad3d(_Pad):
    """Pads the last three axes by reflection at the edge; see ``torch.nn.ReflectionPad3d``."""

    mode = "reflect"
    rank = 3


class ReplicationPad1d(_Pad):
    """Pads the last axis with the edge's values; see ``torch.nn.ReplicationPad1d``."""

    mode = "replicate"
    rank = 1


class ReplicationPad2d(_Pad):
    """Pads the last two axes with the edge's values; see ``torch.nn.ReplicationPad2d``."""

    mode = "replicate"
    rank = 2


class ReplicationPad3d(_Pad):
    """Pads the last three axes with the edge's values; see ``torch.nn.ReplicationPad3d``."""

    mode = "replicate"
    rank = 3


class _CircularPad(_Pad):
    mode = "circular"

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim - self.rank not in (1, 2):
            raise ArgumentError(
                f"{type(self).__name__}: expected {self.rank + 1}D or {self.rank + 2}D input (got {input.ndim}D input)"
            )
        return super().forward(input)


class CircularPad1d(_CircularPad):
    """Pads the last axis with the other end's values; see ``torch.nn.CircularPad1d``."""

    rank = 1


class CircularPad2d(_CircularPad):
    """Pads the last two axes with the other end's values; see ``torch.nn.CircularPad2d``."""

    rank = 2


class CircularPad3d(_CircularPad):
    """Pads the last three axes with the other end's values; see ``torch.nn.CircularPad3d``."""

    rank = 3


class Unfold(Module):
    """Windows of images as columns; see :func:`fastdl.nn.functional.unfold`."""

    def __init__(self, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return unfold.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Fold(Module):
    """Columns added up into images; see :func:`fastdl.nn.functional.fold`."""

    def __init__(
        self,
        output_size: Ints,
        kernel_size: Ints,
        dilation: Ints = 1,
        padding: Ints = 0,
        stride: Ints = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return unfold.fold(
            input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


class PixelShuffle(Module):
    """(*, C * r * r, H, W) -> (*, C, H * r, W * r); see ``torch.nn.PixelShuffle``."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return unfold.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(*, C, H * r, W * r) -> (*, C * r * r, H, W); see ``torch.nn.PixelUnshuffle``."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return unfold.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Interleaves the channels of ``groups`` groups; see ``torch.nn.ChannelShuffle``."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return unfold.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"

"""Convolution layers and their transposes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fastdl.nn import init
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.ops import conv
from fastdl.ops.resample import pad
from fastdl.tensor import Tensor

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

IntOrInts = int | Sequence[int]

_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """What all convolutions share: options as tuples, parameters and their initialisation, the repr."""

    axes: int
    transposed = False
    bias: Tensor | None
    weight: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts,
        padding: IntOrInts | str,
        output_padding: IntOrInts,
        dilation: IntOrInts,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if groups <= 0:
            raise ValueError(f"{name}: groups must be positive, got {groups}")
        for what, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name}: groups={groups} must divide {what}={channels}")
        if padding_mode not in _MODES:
            raise ValueError(f"{name}: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._tuple("kernel_size", kernel_size, 1)
        self.stride = self._tuple("stride", stride, 1)
        self.dilation = self._tuple("dilation", dilation, 1)
        self.output_padding = self._tuple("output_padding", output_padding, 0)
        self.groups = groups
        self.padding_mode = padding_mode
        self.padding: tuple[int, ...] | str
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{name}: padding must be 'same', 'valid' or ints, got {padding!r}")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError(f"{name}: padding='same' needs stride 1, got stride {stride}")
            self.padding = padding
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            ends = [(t // 2, t - t // 2) if padding == "same" else (0, 0) for t in totals]
        else:
            self.padding = amounts = self._tuple("padding", padding, 0)
            ends = [(amount, amount) for amount in amounts]
        # For other modes than zeros: the last axis first, as pad() wants it.
        self._reversed_padding_repeated_twice = [end for both in reversed(ends) for end in both]

        outer, inner = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (outer, inner // groups, *self.kernel_size)
        self.weight = Parameter(empty(shape, device, dtype))
        if bias:
            self.bias = Parameter(empty((out_channels,), device, dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _tuple(self, name: str, value: IntOrInts, least: int) -> tuple[int, ...]:
        return conv.per_axis(type(self).__name__, name, value, self.axes, least)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}"]
        parts += [f"kernel_size={self.kernel_size}, stride={self.stride}"]
        zeros, ones = (0,) * self.axes, (1,) * self.axes
        if self.padding != zeros:
            parts.append(f"padding={self.padding}")
        if self.dilation != ones:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != zeros:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Conv(_ConvNd):
    function: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: IntOrInts | str = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            0,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """With a weight that a subclass computes, as programs for PyTorch do it."""
        padding: IntOrInts | str = self.padding
        if self.padding_mode != "zeros":
            input = pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return type(self).function(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """One-dimensional convolution, (N, C, L) or (C, L); see :class:`Conv2d`, ``torch.nn.Conv1d``.

    Example:
        >>> import fastdl
        >>> fastdl.nn.Conv1d(16, 33, 3, stride=2)(fastdl.zeros(20, 16, 50)).shape
        (20, 33, 24)
    """

    axes = 1
    function = staticmethod(conv.conv1d)


class Conv2d(_Conv):
    """Two-dimensional convolution, (N, C, H, W) or (C, H, W). See ``torch.nn.Conv2d``.

    Args:
        in_channels, out_channels: C and the channels of the output; multiples of ``groups``.
        kernel_size, stride, dilation: positive ints, or one per axis.
        padding: an int, one per axis, ``"valid"`` or ``"same"`` (see :func:`fastdl.nn.functional.conv2d`).
        groups: group i of the outputs sees group i of the inputs only.
        bias: whether the layer learns a bias (default True).
        padding_mode: what lies beyond the edges: ``"zeros"``, ``"reflect"``, ``"replicate"``, ``"circular"``.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Parameters: ``weight`` (out_channels, in_channels / groups, kH, kW) and ``bias`` (out_channels,),
    both drawn from U(-s, s) with s = 1 / sqrt(in_channels / groups * kH * kW).

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.Conv2d(3, 8, kernel_size=3, padding=1)
        >>> layer
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        >>> layer(fastdl.zeros(2, 3, 32, 32)).shape
        (2, 8, 32, 32)
    """

    axes = 2
    function = staticmethod(conv.conv2d)


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W) or (C, D, H, W); see :class:`Conv2d`, ``torch.nn.Conv3d``."""

    axes = 3
    function = staticmethod(conv.conv3d)


class _ConvTranspose(_ConvNd):
    transposed = True
    function: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: IntOrInts = 0,
        output_padding: IntOrInts = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrInts = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: padding_mode must be 'zeros', got {padding_mode!r}")
        if isinstance(padding, str):
            raise TypeError(
                f"{type(self).__name__}: padding must be an int or a tuple of ints, got {padding!r}"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``output_size`` (spatial, or the whole shape) picks one of the sizes that output_padding allows."""
        extra = self._output_padding(input, output_size)
        return type(self).function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _output_padding(self, input: Tensor, output_size: Any, *known: Any) -> tuple[int, ...]:
        if output_size is None:  # known: the attributes, which users pass to PyTorch's
            return self.output_padding
        name, axes = type(self).__name__, self.axes
        wanted = tuple(output_size)
        if len(wanted) not in (axes, len(input.shape)):
            raise ValueError(
                f"{name}: output_size must have {axes} or {len(input.shape)} entries, got {len(wanted)}"
            )
        wanted = wanted[-axes:]
        assert not isinstance(self.padding, str)
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-axes:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        for size, low, s in zip(wanted, least, self.stride, strict=True):
            if not low <= size <= low + s - 1:
                raise ValueError(
                    f"{name}: output_size {wanted} must lie between {tuple(least)} and "
                    f"{tuple(m + t - 1 for m, t in zip(least, self.stride, strict=True))}, "
                    f"for input {input.shape}"
                )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution, (N, C, L) or (C, L); see :class:`ConvTranspose2d`."""

    axes = 1
    function = staticmethod(conv.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution, (N, C, H, W) or (C, H, W). See ``torch.nn.ConvTranspose2d``.

    Args:
        in_channels, out_channels: channels of input and output; multiples of ``groups``.
        kernel_size, stride, padding, dilation, groups: of the convolution whose input gradient this is.
        output_padding: added to the output at its far ends; smaller than stride or dilation.
        bias: whether the layer learns a bias (default True).
        padding_mode: ``"zeros"``.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Parameters: ``weight`` (in_channels, out_channels / groups, kH, kW) and ``bias`` (out_channels,),
    both drawn from U(-s, s) with s = 1 / sqrt(out_channels / groups * kH * kW).

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1)
        >>> layer(fastdl.zeros(1, 16, 12, 12)).shape
        (1, 8, 23, 23)
        >>> layer(fastdl.zeros(1, 16, 12, 12), output_size=(24, 24)).shape
        (1, 8, 24, 24)
    """

    axes = 2
    function = staticmethod(conv.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of (N, C, D, H, W); see :class:`ConvTranspose2d`."""

    axes = 3
    function = staticmethod(conv.conv_transpose3d)

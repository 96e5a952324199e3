"""LSTM over images."""

from __future__ import annotations

import math
from typing import Any

from fastdl.nn.modules.module import Module
from fastdl.nn.modules.rnn import check_size, init_uniform, new_parameter
from fastdl.ops.conv import conv2d
from fastdl.ops.join import stack
from fastdl.ops.parts import chunk
from fastdl.tensor import Tensor

__all__ = ["ConvLSTM2d"]


class ConvLSTM2d(Module):
    """LSTM whose states are images and whose products are convolutions (Shi et al. 2015, without peepholes).

        i, f, o = sigmoid(W_i * x + U_i * h + b_i), likewise f, o;    g = tanh(W_g * x + U_g * h + b_g)
        c' = f c + i g;    h' = o tanh(c')                          (* a convolution that keeps height and width)

    Args:
        in_channels, hidden_channels: C and H.
        kernel_size: of both convolutions, odd: an int or (height, width).
        bias: whether a bias is learned (default True).
        batch_first: input and output are (B, T, ...) instead of (T, B, ...) (default False).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Shape: input (T, B, C, height, width); output (T, B, H, height, width); states h and c (B, H, height, width),
    zeros if not given. Returns output, (h_n, c_n).

    Parameters: ``weight_ih`` (4H, C, kH, kW), ``weight_hh`` (4H, H, kH, kW), ``bias`` (4H,) in the order i, f, g, o,
    drawn from U(-s, s) with s = 1 / sqrt(H * kH * kW).

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.ConvLSTM2d(3, 8, 3)
        >>> y, (h, c) = layer(fastdl.zeros(5, 2, 3, 16, 16))
        >>> tuple(y.shape), tuple(h.shape)
        ((5, 2, 8, 16, 16), (2, 8, 16, 16))
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int],
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_size("ConvLSTM2d", "in_channels", in_channels)
        check_size("ConvLSTM2d", "hidden_channels", hidden_channels)
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(kernel) != 2 or any(k < 1 or k % 2 == 0 for k in kernel):
            raise ValueError(
                f"ConvLSTM2d: kernel_size must be odd (states keep their height and width), got {kernel_size}"
            )
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel
        self.batch_first = batch_first
        rows = 4 * hidden_channels
        self.weight_ih = new_parameter((rows, in_channels, *kernel), device, dtype)
        self.weight_hh = new_parameter((rows, hidden_channels, *kernel), device, dtype)
        self.register_parameter("bias", new_parameter((rows,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        init_uniform(self, self.hidden_channels * math.prod(self.kernel_size))

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if input.ndim != 5 or input.shape[2] != self.in_channels:
            layout = "(B, T, C, H, W)" if self.batch_first else "(T, B, C, H, W)"
            raise RuntimeError(
                f"ConvLSTM2d: input must be {layout} with C = in_channels={self.in_channels}, got shape "
                f"{tuple(input.shape)}"
            )
        if self.batch_first:
            input = input.transpose(0, 1)
        steps, batch, _, height, width = input.shape
        if steps == 0 or batch == 0:
            raise RuntimeError(f"ConvLSTM2d: input has no steps or no sequences: shape {tuple(input.shape)}")
        expected = (batch, self.hidden_channels, height, width)
        h, c = (None, None) if hx is None else hx
        for what, state in (("h", h), ("c", c)):
            if state is not None and tuple(state.shape) != expected:
                raise RuntimeError(f"ConvLSTM2d: {what} must have shape {expected}, got {tuple(state.shape)}")
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        # The inputs' part of all steps is one convolution.
        frames = input.reshape((steps * batch, *input.shape[2:]))
        parts = conv2d(frames, self.weight_ih, self.bias, padding=padding).reshape(
            (steps, batch, -1, height, width)
        )
        outputs = []
        for t in range(steps):
            gates = parts[t]
            if h is not None:
                gates = gates + conv2d(h, self.weight_hh, padding=padding)
            i, f, g, o = chunk(gates, 4, 1)
            new = i.sigmoid() * g.tanh()
            c = new if c is None else f.sigmoid() * c + new
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        assert h is not None
        assert c is not None
        return stack(outputs, 1 if self.batch_first else 0), (h, c)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"
        if self.bias is None:
            text += ", bias=False"
        if self.batch_first:
            text += ", batch_first=True"
        return text

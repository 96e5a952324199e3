"""U-Net: an image to an image, or to a class for every pixel."""

from __future__ import annotations

import fastdl
from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["UNet"]


def _twice(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """A U-Net (Ronneberger et al., 2015) as it is built today: padded convolutions and batch normalisation.

    Going down, each level halves the image and doubles the channels; going up, a transposed convolution doubles the
    image, and what its level saw on the way down is put beside it.

    Shapes:
        input (N, in_channels, H, W), H and W multiples of 2^depth; output (N, out_channels, H, W).

    Args:
        in_channels, out_channels: of the images that go in and come out (classes, for segmentation).
        width: channels of the first level.
        depth: how often the image is halved.

    Example:
        >>> import fastdl
        >>> tuple(UNet(1, 2, width=8, depth=3)(fastdl.zeros(2, 1, 32, 48)).shape)
        (2, 2, 32, 48)
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"UNet: depth must be at least 1, got {depth}")
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(
            _twice(channels, out) for channels, out in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(2 * out, out, 2, stride=2) for out in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(_twice(2 * out, out) for out in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        halvings = len(self.grow)
        if x.shape[-2] % 2**halvings or x.shape[-1] % 2**halvings:
            raise ValueError(
                f"UNet: height and width must be multiples of {2**halvings}, got {tuple(x.shape)}; pad the images"
            )
        seen = []
        for level in self.down[:-1]:
            x = level(x)
            seen.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for grow, level in zip(self.grow, self.up, strict=True):
            x = level(fastdl.cat([seen.pop(), grow(x)], 1))
        y: Tensor = self.head(x)
        return y

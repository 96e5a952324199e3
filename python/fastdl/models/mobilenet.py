"""MobileNetV2: convolutions taken apart into depthwise and pointwise ones."""

from __future__ import annotations

from typing import Any

from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenet_v2"]

# Of each stage: expansion, channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _multiple_of_8(channels: float) -> int:
    """The multiple of 8 next to ``channels``, but none smaller than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _conv_norm(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """1 x 1 to more channels, depthwise 3 x 3, 1 x 1 to few again without an activation, and x added if it fits.

    Shapes:
        (N, channels, H, W) -> (N, out, H / stride, W / stride)
    """

    def __init__(self, channels: int, out: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = channels * expand_ratio
        layers: list[nn.Module] = [] if expand_ratio == 1 else [_conv_norm(channels, hidden, 1)]
        layers += [
            _conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.use_res_connect else y


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., 2018), with torchvision's keys.

    Shapes:
        input (N, 3, H, W), 224 x 224 as published, any size from 32 upwards; output (N, num_classes), logits.

    Args:
        num_classes: number of classes.
        width_mult: factor of all numbers of channels, which are rounded to multiples of 8.
        dropout: probability before the last layer.

    Example:
        >>> import fastdl
        >>> tuple(MobileNetV2(num_classes=10, width_mult=0.25)(fastdl.zeros(2, 3, 32, 32)).shape)
        (2, 10)
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        channels = _multiple_of_8(32 * width_mult)
        last = _multiple_of_8(1280 * max(1.0, width_mult))
        layers: list[nn.Module] = [_conv_norm(3, channels, 3, 2)]
        for expand, width, count, stride in _STAGES:
            out = _multiple_of_8(width * width_mult)
            for i in range(count):
                layers.append(InvertedResidual(channels, out, stride if i == 0 else 1, expand))
                channels = out
        layers.append(_conv_norm(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits


def mobilenet_v2(**options: Any) -> MobileNetV2:
    """3.5 million parameters."""
    return MobileNetV2(**options)

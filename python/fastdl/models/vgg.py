"""VGG: depth from nothing but 3 x 3 convolutions."""

from __future__ import annotations

from typing import Any

from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["VGG", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A VGG network (Simonyan and Zisserman, 2014), with torchvision's keys.

    Shapes:
        input (N, 3, H, W), 224 x 224 as published, at least 32; output (N, num_classes), logits.

    Args:
        depths: how many convolutions each of the five stages has; a pooling that halves the image ends each.
        batch_norm: after each convolution.
        num_classes: number of classes.
        dropout: probability after each hidden linear layer.

    Example:
        >>> import fastdl
        >>> tuple(VGG((1, 1, 1, 1, 1), num_classes=10)(fastdl.zeros(1, 3, 32, 32)).shape)
        (1, 10)
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        batch_norm: bool = False,
        num_classes: int = 1000,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for depth, width in zip(depths, _WIDTHS, strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def vgg11(**options: Any) -> VGG:
    """Configuration A: 132.9 million parameters."""
    return VGG((1, 1, 2, 2, 2), **options)


def vgg11_bn(**options: Any) -> VGG:
    """:func:`vgg11` with batch normalisation."""
    return VGG((1, 1, 2, 2, 2), batch_norm=True, **options)


def vgg13(**options: Any) -> VGG:
    """Configuration B: 133.0 million parameters."""
    return VGG((2, 2, 2, 2, 2), **options)


def vgg13_bn(**options: Any) -> VGG:
    """:func:`vgg13` with batch normalisation."""
    return VGG((2, 2, 2, 2, 2), batch_norm=True, **options)


def vgg16(**options: Any) -> VGG:
    """Configuration D: 138.4 million parameters."""
    return VGG((2, 2, 3, 3, 3), **options)


def vgg16_bn(**options: Any) -> VGG:
    """:func:`vgg16` with batch normalisation."""
    return VGG((2, 2, 3, 3, 3), batch_norm=True, **options)


def vgg19(**options: Any) -> VGG:
    """Configuration E: 143.7 million parameters."""
    return VGG((2, 2, 4, 4, 4), **options)


def vgg19_bn(**options: Any) -> VGG:
    """:func:`vgg19` with batch normalisation."""
    return VGG((2, 2, 4, 4, 4), batch_norm=True, **options)

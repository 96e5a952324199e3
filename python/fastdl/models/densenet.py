"""Densely connected networks."""

from __future__ import annotations

from typing import Any

import fastdl
from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["DenseNet", "densenet121", "densenet169", "densenet201"]


class _DenseLayer(nn.Module):
    """1 x 1 to ``4 growth`` channels, 3 x 3 to ``growth``, normalised before; its input is all that came before."""

    def __init__(self, channels: int, growth: int, bottleneck: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(self.relu1(self.norm1(x)))
        y = self.conv2(self.relu2(self.norm2(y)))
        if self.drop_rate > 0:
            y = nn.functional.dropout(y, self.drop_rate, self.training)
        return y


class _DenseBlock(nn.Module):
    def __init__(self, count: int, channels: int, growth: int, bottleneck: int, drop_rate: float) -> None:
        super().__init__()
        for i in range(count):
            layer = _DenseLayer(channels + i * growth, growth, bottleneck, drop_rate)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = fastdl.cat([x, layer(x)], 1)
        return x


class DenseNet(nn.Module):
    """A densely connected network (Huang et al., 2016), with torchvision's keys.

    Shapes:
        input (N, 3, H, W), 224 x 224 as published, at least 32; output (N, num_classes), logits.

    Args:
        growth_rate: channels that each layer adds.
        block_config: number of layers in each of the four blocks; between blocks channels and image are halved.
        num_init_features: channels of the first convolution.
        bn_size: channels of the 1 x 1 convolutions, in growth rates.
        drop_rate: probability of dropout after each layer.
        num_classes: number of classes.

    Example:
        >>> import fastdl
        >>> tuple(DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)(fastdl.zeros(2, 3, 32, 32)).shape)
        (2, 10)
    """

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: tuple[int, ...] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        drop_rate: float = 0.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        channels = num_init_features
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        for i, count in enumerate(block_config):
            block = _DenseBlock(count, channels, growth_rate, bn_size, drop_rate)
            self.features.add_module(f"denseblock{i + 1}", block)
            channels += count * growth_rate
            if i + 1 < len(block_config):
                halve = nn.Sequential()
                halve.add_module("norm", nn.BatchNorm2d(channels))
                halve.add_module("relu", nn.ReLU())
                halve.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
                halve.add_module("pool", nn.AvgPool2d(2))
                self.features.add_module(f"transition{i + 1}", halve)
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.features(x))
        logits: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def densenet121(**options: Any) -> DenseNet:
    """8.0 million parameters."""
    return DenseNet(32, (6, 12, 24, 16), 64, **options)


def densenet169(**options: Any) -> DenseNet:
    """14.1 million parameters."""
    return DenseNet(32, (6, 12, 32, 32), 64, **options)


def densenet201(**options: Any) -> DenseNet:
    """20.0 million parameters."""
    return DenseNet(32, (6, 12, 48, 32), 64, **options)

"""Residual networks."""

from __future__ import annotations

from typing import Any

from fastdl import nn
from fastdl.tensor import Tensor

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
]


class _Block(nn.Module):
    """y = relu(x + branch(x)); where the shape changes, x goes through a 1 x 1 convolution."""

    expansion: int

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self._shortcut = (channels, width * self.expansion, stride)
        self.relu = nn.ReLU()

    def _add_shortcut(self) -> None:
        """Last, so that parameters come in torchvision's order."""
        channels, out, stride = self._shortcut
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.branch(x) + shortcut)
        return y


class BasicBlock(_Block):
    """Two 3 x 3 convolutions of ``width`` channels.

    Shapes:
        (N, channels, H, W) -> (N, width, H / stride, W / stride)
    """

    expansion = 1

    def __init__(
        self, channels: int, width: int, stride: int = 1, groups: int = 1, width_per_group: int = 64
    ) -> None:
        if groups != 1 or width_per_group != 64:
            raise ValueError("BasicBlock: groups must be 1 and width_per_group 64; Bottleneck has both")
        super().__init__(channels, width, stride)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self._add_shortcut()

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return y


class Bottleneck(_Block):
    """1 x 1 to fewer channels, 3 x 3 (which has the stride), 1 x 1 back to ``4 width``.

    Shapes:
        (N, channels, H, W) -> (N, 4 width, H / stride, W / stride)
    """

    expansion = 4

    def __init__(
        self, channels: int, width: int, stride: int = 1, groups: int = 1, width_per_group: int = 64
    ) -> None:
        super().__init__(channels, width, stride)
        inner = width * width_per_group // 64 * groups
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self._add_shortcut()

    def branch(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.bn3(self.conv3(y))
        return out


class ResNet(nn.Module):
    """A residual network (He et al., 2015), with torchvision's keys.

    Shapes:
        input (N, 3, H, W), 224 x 224 as published, any size from 32 upwards; output (N, num_classes), logits.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        layers: number of blocks in each of the four stages; all but the first halve the image.
        num_classes: number of classes.
        zero_init_residual: let every branch begin as zero, which helps large batches (Goyal et al., 2017).
        groups, width_per_group: of the 3 x 3 convolutions: ResNeXt (Xie et al., 2016), wide ResNet.

    Example:
        >>> import fastdl
        >>> tuple(ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10)(fastdl.zeros(2, 3, 32, 32)).shape)
        (2, 10)
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        stages = []
        for i, count in enumerate(layers):
            width = 64 * 2**i
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(channels, width, stride, groups, width_per_group))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                if last.weight is not None:
                    nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet18(**options: Any) -> ResNet:
    """11.7 million parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """21.8 million parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """25.6 million parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


def resnet101(**options: Any) -> ResNet:
    """44.5 million parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


def resnet152(**options: Any) -> ResNet:
    """60.2 million parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **options)


def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50, 32 groups of 4 channels: 25.0 million parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4, **options)


def wide_resnet50_2(**options: Any) -> ResNet:
    """ResNet-50 with twice as many channels in its 3 x 3 convolutions: 68.9 million parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width_per_group=128, **options)

"""AlexNet."""

from __future__ import annotations

from typing import Any

from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["AlexNet", "alexnet"]


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky, "One weird trick", 2014), the network that began it, with torchvision's keys.

    Shapes:
        input (N, 3, H, W), 224 x 224 as published, at least 63; output (N, num_classes), logits.

    Args:
        num_classes: number of classes.
        dropout: probability before the first two linear layers.

    Example:
        >>> import fastdl
        >>> tuple(AlexNet(num_classes=10)(fastdl.zeros(1, 3, 64, 64)).shape)
        (1, 10)
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def alexnet(**options: Any) -> AlexNet:
    """:class:`AlexNet`; 61.1 million parameters."""
    return AlexNet(**options)

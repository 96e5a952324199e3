"""LeNet-5."""

from __future__ import annotations

from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["LeNet5"]


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al., 1998) as it is taught today: ReLU and max-pooling.

    Shapes:
        input (N, 1, 28, 28), or any size from 12 upwards; output (N, classes), logits.

    Args:
        classes: number of classes.
        size: height and width of the images.
        dropout: probability before the last layer.

    Example:
        >>> import fastdl
        >>> tuple(LeNet5()(fastdl.zeros(2, 1, 28, 28)).shape)
        (2, 10)
    """

    def __init__(self, classes: int = 10, size: int = 28, dropout: float = 0.0) -> None:
        super().__init__()
        side = (size // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"LeNet5: size must be at least 12, got {size}")
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(84, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits

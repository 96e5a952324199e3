"""Learning-rate schedules; see ``torch.optim.lr_scheduler``.

Most schedules change the present rate by a factor (so that they can be chained): call ``scheduler.step()`` after each
epoch, after ``optimizer.step()``.
"""

from fastdl.optim.lr_scheduler.base import LRScheduler
from fastdl.optim.lr_scheduler.cycle import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    OneCycleLR,
)
from fastdl.optim.lr_scheduler.decay import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from fastdl.optim.lr_scheduler.plateau import ReduceLROnPlateau
from fastdl.optim.lr_scheduler.several import ChainedScheduler, SequentialLR

_LRScheduler = LRScheduler  # its older name, which schedulers written for PyTorch import

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]

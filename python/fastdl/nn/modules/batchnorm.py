"""PyTorch's path to batch norm: programs ask ``isinstance(m, nn.modules.batchnorm._BatchNorm)``."""

from fastdl.nn.modules.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _BatchNorm

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "_BatchNorm"]

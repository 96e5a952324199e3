"""Layers, losses and containers under PyTorch's names."""

from fastdl.nn import functional

"""Softmax layers."""

from __future__ import annotations

from fastdl.nn.modules.module import Module
from fastdl.ops.softmax import log_softmax, softmax, softmin
from fastdl.tensor import Tensor

__all__ = ["LogSoftmax", "Softmax", "Softmax2d", "Softmin"]


class _AlongDim(Module):
    dim: int | None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(x_c) / sum_k exp(x_k) along ``dim``. See ``torch.nn.Softmax`` and ``functional.softmax``.

    Example:
        >>> import fastdl
        >>> fastdl.nn.Softmax(dim=1)(fastdl.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return softmax(input, self.dim)


class LogSoftmax(_AlongDim):
    """log(softmax(x)) along ``dim``. See ``torch.nn.LogSoftmax``."""

    def forward(self, input: Tensor) -> Tensor:
        return log_softmax(input, self.dim)


class Softmin(_AlongDim):
    """softmax(-x) along ``dim``. See ``torch.nn.Softmin``."""

    def forward(self, input: Tensor) -> Tensor:
        return softmin(input, self.dim)


class Softmax2d(Module):
    """Softmax over the channels of (N, C, H, W) or (C, H, W). See ``torch.nn.Softmax2d``."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (3, 4):
            raise ValueError(
                f"Softmax2d: input must be (N, C, H, W) or (C, H, W), got shape {tuple(input.shape)}"
            )
        return softmax(input, -3)

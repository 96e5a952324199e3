"""``DataParallel``, for scripts and checkpoints that have it."""

from __future__ import annotations

from typing import Any

from fastdl.nn.modules.module import Module

__all__ = ["DataParallel"]


class DataParallel(Module):
    """Calls ``module``, on this machine's threads; names in the state dict begin with ``module.``, as with PyTorch.

    See ``torch.nn.DataParallel``.
    """

    def __init__(
        self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        self.dim = dim
        self.device_ids: list[int] = []
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)

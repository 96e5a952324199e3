"""``DataParallel``, for scripts and checkpoints that have it, and the name of what several processes need."""

from __future__ import annotations

from typing import Any

from fastdl.distributed import refuse
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


class DistributedDataParallel(Module):
    """For programs that import it, or ask ``isinstance``: there is one process, making one is a RuntimeError."""

    def __init__(self, module: Module, *args: Any, **kwargs: Any) -> None:
        refuse("DistributedDataParallel")

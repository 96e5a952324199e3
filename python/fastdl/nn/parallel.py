"""Under the name of ``torch.nn.parallel``: :class:`DataParallel`, here one device's."""

from fastdl.nn.modules.parallel import DataParallel, DistributedDataParallel

__all__ = ["DataParallel", "DistributedDataParallel"]

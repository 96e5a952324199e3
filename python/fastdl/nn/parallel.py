"""Under the name of ``torch.nn.parallel``: :class:`DataParallel`, here one device's."""

from fastdl.nn.modules.parallel import DataParallel

__all__ = ["DataParallel"]

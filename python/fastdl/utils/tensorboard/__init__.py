"""Records of training that TensorBoard shows; see ``torch.utils.tensorboard``.

The files are written by the package ``tensorboard`` itself; without it this module cannot be imported.
"""

try:
    import tensorboard as _tensorboard
except ImportError as error:
    raise ImportError(
        "fastdl.utils.tensorboard: writes files with the package tensorboard, which is not installed: pip install "
        "tensorboard (or fastdl[tensorboard])"
    ) from error

from fastdl.utils.tensorboard.writer import FileWriter, SummaryWriter

__all__ = ["FileWriter", "SummaryWriter"]

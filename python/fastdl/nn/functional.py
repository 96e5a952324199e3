"""Functions of ``torch.nn.functional``, by family."""

from fastdl.ops.activation import relu
from fastdl.ops.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)

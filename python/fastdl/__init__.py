"""fastdl: a small, fast deep-learning library. Handwritten kernels behind PyTorch's names."""

from fastdl import autograd, nn
from fastdl.autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from fastdl.kernels import use_backend
from fastdl.ops.conv import conv_algorithm
from fastdl.tensor import Tensor

__version__ = "0.1.0"

"""Functions of ``torch.nn.functional``, by family."""

from fastdl.ops.activation import relu

"""Automatic differentiation: recording modes, backward, gradients of chosen tensors."""

from fastdl.autograd.functional import backward, grad
from fastdl.autograd.mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)

__all__ = [
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "set_grad_enabled",
]

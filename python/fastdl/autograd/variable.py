"""``Variable``, from the time when tensors had no gradients of their own."""

from __future__ import annotations

from fastdl.tensor import Tensor

__all__ = ["Variable"]


def Variable(data: Tensor, requires_grad: bool = False) -> Tensor:
    """The tensor, which records if asked to; programs from before PyTorch 0.4 wrap tensors in it."""
    if not isinstance(data, Tensor):
        raise TypeError(f"Variable: data must be a Tensor, got {type(data).__name__}")
    result = data.detach()
    return result.requires_grad_() if requires_grad else result

"""``Variable``, from the time when tensors had no gradients of their own."""

from __future__ import annotations

from fastdl.tensor import Tensor

__all__ = ["Variable"]


class _Tensors(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Tensor)


class Variable(metaclass=_Tensors):
    """The tensor, which records if asked to; programs from before PyTorch 0.4 wrap tensors in it.

    Every tensor is an instance: ``isinstance(x, Variable)``.
    """

    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Tensor:  # type: ignore[misc]
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable: data must be a Tensor, got {type(data).__name__}")
        result = data.detach()
        return result.requires_grad_() if requires_grad else result

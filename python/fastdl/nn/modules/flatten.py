"""Layers that only change shape, and the one that changes nothing."""

from __future__ import annotations

import math
from typing import Any

from fastdl.autograd.op import Op
from fastdl.nn.modules.module import Module
from fastdl.tensor import Tensor

__all__ = ["Flatten", "Identity", "Unflatten"]


class _Reshape(Op):
    aliases_grad = True

    def forward(self, x: Any, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        return x.reshape(shape)

    def backward(self, grad_y: Any) -> Any:
        return grad_y.reshape(self.shape)


def _axis(op: str, argument: str, dim: int, ndim: int) -> int:
    if not -max(ndim, 1) <= dim < max(ndim, 1):
        raise IndexError(
            f"{op}: {argument} is out of range (expected to be in [{-max(ndim, 1)}, {max(ndim, 1) - 1}], got {dim})"
        )
    return dim % max(ndim, 1)


class Identity(Module):
    """Returns its input; takes and ignores any arguments. See ``torch.nn.Identity``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Flatten(Module):
    """Joins the axes ``start_dim`` to ``end_dim``; by default all but the batch. See ``torch.nn.Flatten``.

    Shape: (N, C, H, W) -> (N, C * H * W) by default.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        shape = input.shape
        first = _axis("flatten", "start_dim", self.start_dim, len(shape))
        last = _axis("flatten", "end_dim", self.end_dim, len(shape))
        if first > last:
            raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
        joined = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
        return _Reshape.apply(input, shape=joined)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits axis ``dim`` into ``unflattened_size``, of which one extent may be -1. See ``torch.nn.Unflatten``."""

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        if not isinstance(dim, int):
            raise TypeError(f"unflatten: dim must be an integer (axis names are not supported), got {dim!r}")
        if not isinstance(unflattened_size, (tuple, list)):
            raise TypeError(
                f"unflattened_size must be a tuple of ints, but found type {type(unflattened_size).__name__}"
            )
        for i, extent in enumerate(unflattened_size):
            if not isinstance(extent, int):
                raise TypeError(
                    "unflattened_size must be tuple of ints, "
                    f"but found element of type {type(extent).__name__} at pos {i}"
                )
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        shape = input.shape
        axis = _axis("unflatten", "dim", self.dim, len(shape))
        sizes = list(self.unflattened_size)
        known = math.prod(extent for extent in sizes if extent != -1)
        if sizes.count(-1) == 1 and known > 0 and shape[axis] % known == 0:
            sizes[sizes.index(-1)] = shape[axis] // known
        if math.prod(sizes) != shape[axis] or min(sizes, default=0) < 0:
            raise RuntimeError(
                f"unflatten: Provided sizes {list(self.unflattened_size)} don't multiply up to the size of dim "
                f"{self.dim} ({shape[axis]}) in the input tensor"
            )
        return _Reshape.apply(input, shape=(*shape[:axis], *sizes, *shape[axis + 1 :]))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"

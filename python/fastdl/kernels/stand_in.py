"""``StandIn``: what some tensors hold in the place of an array. It has an array's shape and dtype, and values."""

from __future__ import annotations

from math import prod
from typing import Any


class StandIn:
    """Base of what stands for an array: its values are a tensor, which is how gradients reach them."""

    __slots__ = ()
    values: Any
    shape: Any

    @property
    def dtype(self) -> Any:
        """The values' dtype."""
        return self.values._data.dtype

    @property
    def size(self) -> int:
        """How many elements the array would have."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.values._data.itemsize  # type: ignore[no-any-return]

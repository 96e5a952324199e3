"""``StandInTensor``: a tensor that holds something else in the place of an array, around a tensor of ``values``.

Sparse tensors (a pattern and values) and the slices of :func:`fastdl.func.vmap` are two. Both have no graph of their
own: their history is the values'.
"""

from __future__ import annotations

from typing import Any

from fastdl.dtypes import Size, device
from fastdl.tensor import Tensor


class StandInTensor(Tensor):
    """What the values know: history and device; and the shape that stands in."""

    @property
    def _requires_grad(self) -> bool:
        return bool(self._data.values._requires_grad)

    @_requires_grad.setter
    def _requires_grad(self, value: bool) -> None:
        self._data.values._requires_grad = value

    @property
    def _node(self) -> Any:
        return self._data.values._node

    @property
    def shape(self) -> Size:
        """The extents of all axes."""
        return Size(self._data.shape)

    @property
    def device(self) -> device:
        """Where the values are."""
        return self._data.values.device  # type: ignore[no-any-return]

    @property
    def is_cuda(self) -> bool:
        """Are the values on a GPU?"""
        return bool(self._data.values.is_cuda)

    @property
    def is_cpu(self) -> bool:
        """Are the values in the CPU's memory?"""
        return bool(self._data.values.is_cpu)

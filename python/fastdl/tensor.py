"""``Tensor``: an array, its gradient, and the node that made it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.kernels import select


class Tensor:
    """A multi-dimensional array that operations can differentiate. Made by :func:`fastdl.tensor` and operations."""

    # Fields of every instance; the values here are what most tensors have, so that making one sets only its array.
    _data: Any
    _requires_grad: bool = False
    _node: Any = None  # the Op that made this tensor, None for a leaf
    _index: int = 0  # which of the node's outputs
    _version: list[int] | None = (
        None  # counts in-place changes; the list is shared between a base and its views
    )
    _base: Tensor | None = None
    _hooks: list[tuple[int, Any]] | None = None
    grad: Tensor | None = None

    def __init__(self, data: Any) -> None:
        self._data = np.asarray(data)

    @staticmethod
    def _wrap(array: Any) -> Tensor:
        """A tensor around ``array`` itself; for operations."""
        t = Tensor.__new__(Tensor)
        t._data = array
        return t

    def _version_cell(self) -> list[int]:
        cell = self._version
        if cell is None:
            self._version = cell = [0]
        return cell

    def _accumulate(self, grad: Any, own: bool) -> None:
        """Add an array to ``.grad``; ``own`` says that nobody else holds it."""
        if self.grad is not None:
            self.grad._data += grad
            return
        if not own or not grad.flags.c_contiguous:
            copy = select(grad).empty(grad.shape, grad.dtype)
            copy[...] = grad
            grad = copy
        self.grad = Tensor._wrap(grad)

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._requires_grad = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    def numpy(self) -> Any:
        return self._data

    def detach(self) -> Tensor:
        return Tensor._wrap(self._data)

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Accumulate the gradient of this tensor into ``.grad`` of the leaves it was made from."""
        from fastdl.autograd.functional import backward

        backward(self, gradient, retain_graph, create_graph)

    def __repr__(self) -> str:
        return f"tensor({self._data!r})"

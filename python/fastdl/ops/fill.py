"""Overwriting whole tensors: ``copy_``, ``fill_``, ``zero_``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl._graph import plain, plainly_writable
from fastdl.arrays import assign
from fastdl.autograd.graph import fitted
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.autograd.view import alias, check_writable, is_locked, unlocked, write
from fastdl.devices import device_of
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.kernels import select
from fastdl.ops.arrays import fill, filler, fit, zeros
from fastdl.ops.common import as_array
from fastdl.tensor import Tensor


class Overwrite(Op):
    """Inputs: the tensor as it was (its gradient is zero) and what replaces all of it."""

    takes_complex = True
    aliases_grad = hands_on = True

    def forward(self, old: Any, new: Any, value: Any = None) -> Any:
        filled = select(old).empty(old.shape, old.dtype)
        if new is None:
            fill(filled, value)
        else:
            self.shape, self.dtype = new.shape, new.dtype
            assign(filled, new)
        return filled

    def backward(self, grad: Any) -> Any:
        before = zeros(grad.shape, grad.dtype, grad) if self.needs[0] else None
        if not self.needs[1]:
            return before, None
        return before, fit(grad, (self.shape, self.dtype))

    def backward_graph(self, grad: Tensor) -> Any:
        before = (
            Tensor._wrap(zeros(grad._data.shape, grad._data.dtype, grad._data)) if self.needs[0] else None
        )
        return before, fitted(grad, (self.shape, self.dtype)) if self.needs[1] else None


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Overwrite this tensor with ``src``, broadcast and converted to its dtype; see ``torch.Tensor.copy_``."""
    if not plainly_writable(self):
        check_writable("copy_", self)
    elif plain(src) and src._data.shape == self._data.shape:  # nothing to record, move or broadcast
        assign(self._data, src._data)
        self._bump_version()
        return self
    array = as_array("copy_", src)
    if device_of(array) is not device_of(self._data):  # as inputs of a recorded graph are filled
        src = (src if isinstance(src, Tensor) else Tensor._wrap(array)).to(self.device)
        array = src._data
    if array.shape != self._data.shape:
        try:
            if np.broadcast_shapes(array.shape, self.shape) != self.shape:
                raise ValueError
        except ValueError:
            raise RuntimeError(
                f"copy_: a source of shape {array.shape} cannot be broadcast to {self.shape}"
            ) from None
    if (
        mode.enabled
        and self._data.dtype.kind in DIFFERENTIABLE
        and (self._requires_grad or (isinstance(src, Tensor) and src._requires_grad))
    ):
        source = src if isinstance(src, Tensor) else Tensor._wrap(array)
        return write("copy_", self, Overwrite.apply(alias(self), source))
    assign(self._data, array)
    self._bump_version()
    return self


def fill_(self: Tensor, value: Any) -> Tensor:
    """Set all elements to ``value``; see ``torch.Tensor.fill_``."""
    if isinstance(value, Tensor):
        if value.ndim:
            raise RuntimeError(
                f"fill_: value must be a number or a tensor of 0 dimensions, got shape {value.shape}"
            )
        return copy_(self, value)
    expanded = False
    if not plainly_writable(self):
        check_writable("fill_", self, fills=True)
        expanded = is_locked(self._data)
    value = filler("fill_", value, self._data.dtype)
    if mode.enabled and self._requires_grad:
        return write("fill_", self, Overwrite.apply(alias(self), None, value=value))
    if expanded:
        unlocked(self._data)[...] = value
    else:
        fill(self._data, value)
    self._bump_version()
    return self


def zero_(self: Tensor) -> Tensor:
    """Set all elements to 0; see ``torch.Tensor.zero_``."""
    return fill_(self, 0)

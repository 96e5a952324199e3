"""``as_strided``: any strides over the memory of a tensor."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.mode import mode
from fastdl.autograd.view import repeats
from fastdl.kernels import select, strided
from fastdl.ops.arrays import contiguous, in_float32
from fastdl.ops.common import ints
from fastdl.ops.elementwise import where
from fastdl.ops.gather import index_select
from fastdl.ops.parts import Part
from fastdl.ops.views import permute, reshape
from fastdl.tensor import Tensor


class Strided(Part):
    """Any strides over the memory of a tensor in C order; elements may be seen more than once."""

    @staticmethod
    def of(x: Any, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Any:
        flat = x.reshape(-1)
        view = strided(flat[offset:], size, [s * x.itemsize for s in stride])
        if view.__class__ is np.ndarray and repeats(view):
            view.flags.writeable = False  # as expanded views are
        return view

    def adds_into(self, have: Any, grad: Any) -> bool:
        return False

    def backward(self, grad: Any) -> Any:
        size, stride, offset = self.options["size"], self.options["stride"], self.options["offset"]
        whole = prod(self.shape)
        places = strided(np.arange(whole, like=grad)[offset:], size, [8 * s for s in stride])
        backward = select(grad).index_select_backward
        if grad.dtype.kind == "c":  # both parts side by side
            parts = grad.reshape(-1, 1).view(grad.real.dtype)
            found = in_float32(backward, parts, 0, places.reshape(-1), whole)
            return contiguous(found).view(grad.dtype).reshape(self.shape)
        return in_float32(backward, grad.reshape(-1), 0, places.reshape(-1), whole).reshape(self.shape)

    def linear(self, x: Any) -> Any:
        return super().linear(x if x.flags.c_contiguous else pooled_copy(x))


def as_strided(input: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """A view with the given extents and strides (in elements) of the memory under ``input``; see ``torch.as_strided``.

    That memory is the tensor's own, or its base's if it is a view, detached or not; what would lie outside is refused.
    """
    base, x = input if input._base is None else input._base, input._data
    parent = base
    if base is not input and x.__class__ is np.ndarray and x.size and not np.may_share_memory(x, base._data):
        parent = base = input  # whose base has been given other memory
    memory = base._data
    while memory.base.__class__ is memory.__class__:  # detached, a view has no base
        memory = memory.base
    if memory is not base._data and memory.dtype is base._data.dtype and not base._requires_grad:
        base = Tensor._wrap(memory)
        base._counter = input._version_cell()
    if not base._data.flags.c_contiguous:
        base = permute(base, sorted(range(base._data.ndim), key=lambda axis: -base._data.strides[axis]))
    if not base._data.flags.c_contiguous:
        raise RuntimeError(
            "as_strided: the memory under the tensor must have no gaps; use x.contiguous() first"
        )
    extents, steps = ints((size,)), ints((stride,))
    offset = (
        (0 if base is input else input.storage_offset()) if storage_offset is None else int(storage_offset)
    )
    if len(extents) != len(steps):
        raise RuntimeError(f"as_strided: size {extents} and stride {steps} differ in length")
    if min(steps, default=0) < 0 or min(extents, default=0) < 0 or offset < 0:
        raise RuntimeError("as_strided: size, stride and storage_offset must not be negative")
    last = offset + sum([(n - 1) * s for n, s in zip(extents, steps, strict=True)])
    if 0 not in extents and last >= base._data.size:
        raise RuntimeError(
            f"as_strided: size {extents}, stride {steps} and storage_offset {offset} reach element {last} of "
            f"{base._data.size} in memory"
        )
    options = {"size": extents, "stride": steps, "offset": offset}
    view: Tensor = Strided.apply(base, **options)
    if mode.enabled and parent is not input and (input._requires_grad or view._requires_grad):
        _history_of_input(view, input, base._data, options)
    return view


def _history_of_input(view: Tensor, input: Tensor, memory: Any, options: dict[str, Any]) -> None:
    """Let the gradient of a strided view go to ``input``, which is a view itself, not past it to their base.

    What of the memory is not in ``input`` gets none.
    """
    places = np.arange(memory.size, like=memory)
    steps = tuple([s // memory.itemsize for s in input._data.strides])
    own = Strided.of(places, tuple(input.shape), steps, input.storage_offset())
    which = np.full(memory.size, -1, like=memory)
    which[own] = np.arange(own.size, like=memory).reshape(own.shape)
    index = Strided.of(which, **options)
    entries = index_select(reshape(input, (-1,)), 0, Tensor._wrap(index.clip(0).reshape(-1)))
    entries = where(Tensor._wrap(index >= 0), reshape(entries, index.shape), 0)
    view._node, view._index, view._requires_grad = entries._node, entries._index, entries._requires_grad

"""Repeated, reversed, rolled and turned: results in new memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.arrays import pooled_copy
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op
from fastdl.devices import device_of, give_to_device, to_host
from fastdl.dtypes import FLOATING, float16, float32, float64
from fastdl.kernels import select, strided
from fastdl.ops.arrays import concat_arrays, contiguous, in_float32, sum_to, zeros
from fastdl.ops.common import axes, axis, ints
from fastdl.ops.views import reshape
from fastdl.tensor import Tensor

Sizes = tuple[int, ...]
_WORDS = {2: float16, 4: float32, 8: float64}  # copied as what kernels take

# ------------------------------------------------------------------------------------------------------ repeating


class Repeat(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, sizes: tuple[int, ...]) -> Any:
        """``x`` has as many axes as ``sizes`` has entries."""
        self.shape, self.sizes = x.shape, sizes
        if max(sizes, default=1) == 1:
            self.aliases_grad = True  # type: ignore[misc]
        # (s0, n0, s1, n1, ..): the copies are a broadcast axis before each axis.
        paired = tuple([v for pair in zip(sizes, x.shape, strict=True) for v in pair])
        copies = strided(x, paired, [v for step in x.strides for v in (0, step)])
        return pooled_copy(copies).reshape([s * n for s, n in zip(sizes, x.shape, strict=True)])

    def backward(self, grad: Any) -> Any:
        paired = [v for pair in zip(self.sizes, self.shape, strict=True) for v in pair]
        if not grad.flags.c_contiguous:
            grad = pooled_copy(grad)
        ones = tuple([v for n in self.shape for v in (1, n)])
        return sum_to(grad.reshape(paired), ones).reshape(self.shape)

    def backward_graph(self, grad: Tensor) -> Any:
        paired = [v for pair in zip(self.sizes, self.shape, strict=True) for v in pair]
        if not paired:
            return grad
        return reshape(grad, paired).sum(tuple(range(0, len(paired), 2)))


def repeat(input: Tensor, *sizes: Any, repeats: Any = None) -> Tensor:
    """The tensor repeated ``repeats`` times along every axis, new axes in front; see ``torch.Tensor.repeat``."""
    sizes = ints(sizes if repeats is None else (repeats,))
    shape = input._data.shape
    if len(sizes) < len(shape):
        raise RuntimeError(
            f"repeat: {len(sizes)} repeats for a tensor of {len(shape)} dimensions; give one for each axis"
        )
    if min(sizes, default=1) < 0:
        raise RuntimeError(f"repeat: repeats must not be negative, got {sizes}")
    if len(sizes) > len(shape):
        input = reshape(input, (1,) * (len(sizes) - len(shape)) + shape)
    return Repeat.apply(input, sizes=sizes)  # type: ignore[no-any-return]


def tile(input: Tensor, *sizes: Any, dims: Any = None) -> Tensor:
    """:func:`repeat`, with missing entries taken as 1; see ``torch.tile``."""
    sizes = ints(sizes if dims is None else (dims,))
    return repeat(input, (1,) * (input._data.ndim - len(sizes)) + sizes)


class RepeatInterleave(Op):
    release = Op.stay

    def forward(self, x: Any, repeats: Any, dim: int) -> Any:
        self.shape, self.repeats, self.dim = x.shape, repeats, dim
        if repeats.__class__ is int:
            if repeats == 1:
                self.aliases_grad = True  # type: ignore[misc]
            shape = x.shape
            extents = (*shape[: dim + 1], repeats, *shape[dim + 1 :])
            whole = strided(x, extents, (*x.strides[: dim + 1], 0, *x.strides[dim + 1 :]))
            return pooled_copy(whole).reshape(*shape[:dim], shape[dim] * repeats, *shape[dim + 1 :])
        places = np.repeat(np.arange(x.shape[dim]), repeats)
        return select(x).index_select_forward(x, dim, give_to_device(places, device_of(x)))

    def backward(self, grad: Any) -> Any:
        if isinstance(self.repeats, int):
            if self.repeats == 0:
                return zeros(self.shape, grad.dtype, grad)
            split = (*self.shape[: self.dim + 1], self.repeats, *self.shape[self.dim + 1 :])
            folded = contiguous(grad).reshape(split)
            kept = (*self.shape[: self.dim + 1], 1, *self.shape[self.dim + 1 :])
            return sum_to(folded, kept).reshape(self.shape)
        places = give_to_device(np.repeat(np.arange(self.shape[self.dim]), self.repeats), device_of(grad))
        return in_float32(select(grad).index_select_backward, grad, self.dim, places, self.shape[self.dim])

    def linear(self, x: Any) -> Any:
        return RepeatInterleave().forward(x, self.repeats, self.dim)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Every entry along ``dim`` repeated in place: a number, or one count for each entry.

    With counts alone: the place of every entry, that often. See ``torch.repeat_interleave``.
    """
    if repeats is None:
        input, repeats, dim = Tensor._wrap(np.arange(input.numel(), like=input._data)), input, 0
    if dim is None:
        input, dim = reshape(input, (-1,)) if input.numel() else reshape(input, (0,)), 0
    d = axis("repeat_interleave", dim, input._data.ndim)
    counts: Any = to_host(repeats._data) if isinstance(repeats, Tensor) else repeats
    if not isinstance(counts, (int, np.integer)):
        counts = np.array(counts)  # backward counts once more
        if counts.dtype.kind not in "iu":
            raise RuntimeError(f"repeat_interleave: repeats must be integers, got dtype {counts.dtype}")
        if counts.size == 1:
            counts = int(counts.reshape(()))
        elif counts.shape != (input._data.shape[d],):
            raise RuntimeError(
                "repeat_interleave: repeats must have one entry for each of the "
                f"{input._data.shape[d]} along dim {dim}, "
                f"got shape {counts.shape}"
            )
    else:
        counts = int(counts)
    if (counts if isinstance(counts, int) else counts.min(initial=0)) < 0:
        raise RuntimeError("repeat_interleave: repeats must not be negative")
    return RepeatInterleave.apply(input, repeats=counts, dim=d)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------- rearranging


class Flip(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, dims: tuple[int, ...]) -> Any:
        self.dims = dims = dims if x.ndim else ()
        return _flipped(x, dims)

    def backward(self, grad: Any) -> Any:
        return _flipped(grad, self.dims)

    def backward_graph(self, grad: Tensor) -> Any:
        return Flip.apply(grad, dims=self.dims)


def _flipped(x: Any, dims: tuple[int, ...]) -> Any:
    if not dims:
        return pooled_copy(x)
    if x.ndim > 1 and abs(x.strides[-1]) > x.itemsize:  # transposed: its tiles cannot be read backwards
        x = pooled_copy(x)
    backwards, along = slice(None, None, -1), slice(None)
    return pooled_copy(x[tuple([backwards if i in dims else along for i in range(x.ndim)])])


def flip(input: Tensor, *reversed_axes: Any, dims: Any = None) -> Tensor:
    """Reversed along ``dims``: a copy; see ``torch.flip``."""
    x = input._data
    chosen = axes("flip", ints(reversed_axes if dims is None else (dims,)), x.ndim)
    if x.ndim and plain(input):  # no node where nothing is recorded
        return Tensor._wrap(_flipped(x, chosen))
    return Flip.apply(input, dims=chosen)  # type: ignore[no-any-return]


def fliplr(input: Tensor) -> Tensor:
    """Reversed along axis 1; see ``torch.fliplr``."""
    if input._data.ndim < 2:
        raise RuntimeError(f"fliplr: expects at least 2 dimensions, got shape {input.shape}")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """Reversed along axis 0; see ``torch.flipud``."""
    if input._data.ndim < 1:
        raise RuntimeError("flipud: expects at least 1 dimension")
    return flip(input, 0)


class Roll(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, shifts: tuple[int, ...], dims: tuple[int, ...] | None) -> Any:
        self.shifts, self.dims = shifts, dims
        return _rolled(x, shifts, dims)

    def backward(self, grad: Any) -> Any:
        return _rolled(grad, tuple([-s for s in self.shifts]), self.dims)

    def backward_graph(self, grad: Tensor) -> Any:
        return Roll.apply(grad, shifts=tuple([-s for s in self.shifts]), dims=self.dims)


@lru_cache(maxsize=1024)
def _steps(shape: Sizes, shifts: Sizes, dims: Sizes) -> list[tuple[int, int]]:
    """How far each axis is rolled, as padding before it and cutting off behind."""
    steps = [0] * len(shape)
    for shift, dim in zip(shifts, dims, strict=True):
        steps[dim] = (steps[dim] + shift) % max(1, shape[dim])
    return [(step, -step) for step in steps]


def _rolled(x: Any, shifts: Any, dims: Any) -> Any:
    """Along all axes at once; along the flattened array where ``dims`` is None."""
    if dims is None:
        return _rolled(contiguous(x).reshape(-1), shifts, (0,)).reshape(x.shape)
    steps, dtype = _steps(x.shape, shifts, dims), x.dtype
    if dtype.kind in FLOATING:
        return select(x).pad_forward(x, steps, "roll", 0.0)
    if (words := _WORDS.get(dtype.itemsize)) is not None:
        return select(x).pad_forward(x.view(words), steps, "roll", 0.0).view(dtype)
    for dim, (_, end) in enumerate(steps):
        if end:
            before = (slice(None),) * dim
            x = concat_arrays([x[(*before, slice(end, None))], x[(*before, slice(None, end))]], dim)
    return x if any(end for _, end in steps) else pooled_copy(x)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Moved by ``shifts`` along ``dims``, around the end; the flattened tensor without ``dims``. See ``torch.roll``."""
    steps = ints((shifts,))
    if dims is None or dims == ():
        if len(steps) != 1:
            raise RuntimeError(f"roll: several shifts {steps} need as many dims")
        return Roll.apply(input, shifts=steps, dims=None)  # type: ignore[no-any-return]
    where = tuple([axis("roll", d, input._data.ndim) for d in ints((dims,))])
    if len(where) != len(steps):
        raise RuntimeError(f"roll: shifts {steps} and dims {where} differ in length")
    return Roll.apply(input, shifts=steps, dims=where)  # type: ignore[no-any-return]


def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Turned ``k`` times by 90 degrees from the first towards the second of ``dims``; see ``torch.rot90``."""
    if len(dims) != 2:
        raise RuntimeError(f"rot90: dims must name two axes, got {dims}")
    if input._data.ndim < 2:
        raise RuntimeError(f"rot90: expects at least 2 dimensions, got shape {input.shape}")
    a, b = axes("rot90", tuple(dims), input._data.ndim)
    order = list(range(input._data.ndim))
    order[a], order[b] = b, a
    turn = k % 4
    if turn == 0:
        return input.clone()
    if turn == 2:
        return flip(input, (a, b))
    return flip(input, b).permute(order) if turn == 1 else flip(input.permute(order), b)

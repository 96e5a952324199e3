"""Recurrent layers as one operation, and what turns padded sequences into packed ones and back.

:mod:`fastdl.kernels.reference.rnn` has the formulas of each cell and the packed layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.devices import device_of, give_to_device
from fastdl.dtypes import float32, is_half
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import full, zeros
from fastdl.ops.join import cat, stack
from fastdl.ops.rnn_steps import composed_direction
from fastdl.random import default_generator
from fastdl.tensor import Tensor

PER_DIRECTION = (
    5  # w_ih, w_hh, b_ih, b_hh, w_hr: what the kernels take for each direction, None where missing
)


@lru_cache(maxsize=16)
def _dense_sizes(steps: int, batch: int) -> Any:
    """The rows of each step where all sequences are equally long. Kept: a cell asks for the same at every step."""
    sizes = np.full(steps, batch, np.int64)
    sizes.flags.writeable = False
    return sizes


def _drop(array: Any, p: float) -> tuple[Any, tuple[Any, ...]]:
    """The array with elements dropped, and what its gradient needs."""
    seed, offset = default_generator.draw(on_device(array))
    drawn = (p, 1.0 / (1.0 - p) if p < 1.0 else 0.0, seed, offset, 1)
    return _dropped("dropout_forward", array, drawn), drawn


def _dropped(kernel: str, array: Any, drawn: tuple[Any, ...]) -> Any:
    """What dropout's kernel makes of the array; the CPU's knows no half precision."""
    apply = getattr(select(array), kernel)
    if not _stored_in_half(array):
        return apply(array, *drawn)
    return pooled_copy(apply(pooled_copy(array, float32), *drawn), array.dtype)


def _stored_in_half(array: Any) -> bool:
    """Is half precision only stored, and computed in float32, as on the CPU?"""
    return is_half(array.dtype) and not on_device(array)


class Recurrent(Op):
    """All layers of a recurrent stack: x, h0, c0, weights (layer by layer, direction by direction) to y, h_n (, c_n).

    x is (T, B, I), or (N, I) packed with ``batch_sizes``. Outputs of a layer pass through dropout on their way
    to the next; recurrent dropout masks h wherever it meets W_hh, with one mask for the whole sequence.
    """

    materialize = False

    def forward(
        self,
        x: Any,
        h0: Any,
        c0: Any,
        *weights: Any,
        cell: str,
        layers: int,
        batch_sizes: Any,
        dropout: float,
        recurrent_dropout: float,
    ) -> Any:
        kernels = select(x)
        self.saves = tuple(range(3 + len(weights)))
        keep = True in self.needs
        self.cell, self.shape = cell, x.shape
        if not x.flags.c_contiguous:
            x = pooled_copy(x)
        steps = None
        if batch_sizes is None:
            steps, batch, width = x.shape
            x = x.reshape(steps * batch, width)
            batch_sizes = _dense_sizes(steps, batch)
        self.batch_sizes = batch_sizes
        count = len(weights) // layers
        directions = count // PER_DIRECTION
        self.saved: list[Any] = []
        last_h, last_c = [], []
        drawn: tuple[Any, ...] | None = None
        before = default_generator.get_state() if recurrent_dropout and is_half(x.dtype) else None
        for layer in range(layers):
            part = slice(layer * directions, (layer + 1) * directions)
            h = None if h0 is None else h0[part]
            c = None if c0 is None else c0[part]
            own = weights[layer * count : (layer + 1) * count]
            mask = None
            if recurrent_dropout:
                dtype = float32 if _stored_in_half(x) else x.dtype  # 1 / (1 - p) is not rounded
                ones = kernels.empty((directions, int(batch_sizes[0]), own[1].shape[1]), dtype)
                ones.fill(1)
                mask, _ = _drop(ones, recurrent_dropout)
            try:
                y, h_n, c_n, gates, cells = kernels.rnn_forward(cell, x, batch_sizes, h, c, own, mask, keep)
            except TypeError:  # in float32 then, with the mask that was drawn here
                if before is not None:
                    default_generator.set_state(before)
                raise
            if keep:
                self.saved.append((x, h, c, own, mask, y, gates, cells, drawn))
            last_h.append(h_n)
            last_c.append(c_n)
            if dropout and layer < layers - 1:
                x, drawn = _drop(y, dropout)
            else:
                x, drawn = y, None
        if keep:  # what is kept of it stays as it is, whatever becomes of the result
            x = pooled_copy(x)
        if steps is not None:
            x = x.reshape(steps, batch, x.shape[1])
        h_n = last_h[0] if layers == 1 else kernels.concat(last_h, 0)
        if cell != "lstm":
            return x, h_n
        return x, h_n, last_c[0] if layers == 1 else kernels.concat(last_c, 0)

    def backward(self, grad_y: Any, grad_h_n: Any, grad_c_n: Any = None) -> Any:
        need_x, need_h, need_c, *need_weights = self.needs
        layers = len(self.saved)
        directions = len(self.saved[0][3]) // PER_DIRECTION
        grad_h0: list[Any] = [None] * layers
        grad_c0: list[Any] = [None] * layers
        grad_weights: list[Any] = [None] * layers
        grad = grad_y
        if grad is not None and grad.ndim == 3:
            grad = (grad if grad.flags.c_contiguous else pooled_copy(grad)).reshape(-1, grad.shape[2])
        for layer in reversed(range(layers)):
            x, h, c, own, mask, y, gates, cells, drawn = self.saved[layer]
            part = slice(layer * directions, (layer + 1) * directions)
            count = len(own)
            grad, grad_h0[layer], grad_c0[layer], grad_weights[layer] = select(x).rnn_backward(
                self.cell,
                grad,
                None if grad_h_n is None else grad_h_n[part],
                None if grad_c_n is None else grad_c_n[part],
                x,
                self.batch_sizes,
                h,
                c,
                own,
                mask,
                y,
                gates,
                cells,
                layer > 0 or need_x,
                need_h or need_c,
                True in need_weights[layer * count : (layer + 1) * count],
            )
            if drawn is not None:
                grad = _dropped("dropout_backward", grad, drawn)
        flat: list[Any] = []
        for own, grads in zip((s[3] for s in self.saved), grad_weights, strict=True):
            flat += [None] * len(own) if grads is None else grads
        join = select(self.saved[0][0]).concat
        return (
            grad.reshape(self.shape) if need_x else None,
            None if not need_h else grad_h0[0] if layers == 1 else join(grad_h0, 0),
            None if not need_c else grad_c0[0] if layers == 1 else join(grad_c0, 0),
            *flat,
        )

    def backward_graph(self, *grads: Any) -> Any:
        """By way of the steps, composed of matrix products and elementwise operations: slower by far."""
        layers = [s[3] for s in self.saved]
        x = self.saved[0][0].reshape(self.shape)
        states = [
            None if self.saved[0][k] is None else np.concatenate([s[k] for s in self.saved]) for k in (1, 2)
        ]
        return replay(self, grads, self.steps, x, *states, *[w for own in layers for w in own])

    def steps(self, x: Any, h0: Any, c0: Any, *weights: Any) -> Any:
        """Forward in operations that can be differentiated to any order, with the masks that were drawn."""
        count = len(weights) // len(self.saved)
        directions = count // PER_DIRECTION
        if len(self.shape) == 3:
            x = x.reshape(-1, self.shape[2])
        last_h: list[Any] = []
        last_c: list[Any] = []
        for layer, (_, _, _, _, mask, _, _, _, drawn) in enumerate(self.saved):
            if drawn is not None:
                ones = full(x.shape, 1, x._data.dtype, x._data)
                x = x * Tensor._wrap(_dropped("dropout_forward", ones, drawn))
            outputs = []
            for d in range(directions):
                own = weights[layer * count + d * PER_DIRECTION :][:PER_DIRECTION]
                place = layer * directions + d
                y, h, c = composed_direction(
                    self.cell,
                    x,
                    self.batch_sizes,
                    None if h0 is None else h0[place],
                    None if c0 is None else c0[place],
                    own,
                    None if mask is None else Tensor._wrap(mask[d]).to(x.dtype),
                    d == 1,
                )
                outputs.append(y)
                last_h.append(h)
                last_c.append(c)
            x = outputs[0] if directions == 1 else cat(outputs, 1)
        if len(self.shape) == 3:
            x = x.reshape(*self.shape[:2], x.shape[1])
        return (x, stack(last_h), stack(last_c)) if self.cell == "lstm" else (x, stack(last_h))


def _one_more(t: Tensor) -> Tensor:
    length, _, size = t._data.shape
    return cat((t, Tensor._wrap(zeros((length, 1, size), t._data.dtype, t._data))), 1)


def recurrent(
    cell: str,
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor | None],
    layers: int = 1,
    batch_sizes: Any = None,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
) -> tuple[Tensor, ...]:
    """y, h_n and for ``"lstm"`` c_n of a stack of recurrent layers; the modules check what comes here.

    Args:
        cell: ``"rnn_tanh"``, ``"rnn_relu"``, ``"lstm"``, ``"gru"`` or ``"gru_before"``.
        input: (T, B, I), or (N, I) with ``batch_sizes``.
        h0, c0: (layers * D, B, P) and (layers * D, B, H); None for zeros.
        weights: w_ih, w_hh, b_ih, b_hh, w_hr of each layer and direction; None where missing.
        layers: how many.
        batch_sizes: int64 array, the rows of each step, never rising; None for dense input.
        dropout: probability of an element between layers to be dropped.
        recurrent_dropout: probability of an element of h to be dropped on its way to W_hh, alike in all steps.
    """
    if batch_sizes is None and input._data.shape[1] == 0:  # one sequence of zeros, which is cut off again
        x, h0, c0 = [None if t is None else _one_more(t) for t in (input, h0, c0)]
        assert x is not None
        return tuple([t[:, :0] for t in recurrent(cell, x, h0, c0, weights, layers)])
    return Recurrent.apply(  # type: ignore[no-any-return]
        input,
        h0,
        c0,
        *weights,
        cell=cell,
        layers=layers,
        batch_sizes=batch_sizes,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
    )


class TakeRows(Op):
    """Rows ``index`` (each at most once) of x seen as rows: the first two axes are one."""

    def forward(self, x: Any, index: Any) -> Any:
        self.index, self.shape = give_to_device(index, device_of(x)), x.shape
        x = x if x.flags.c_contiguous else pooled_copy(x)
        return select(x).index_select_forward(x.reshape(-1, *x.shape[2:]), 0, self.index)

    def backward(self, grad_y: Any) -> Any:
        grad_x = select(grad_y).empty(self.shape, grad_y.dtype)
        grad_x.fill(0)
        grad_x.reshape(-1, *self.shape[2:])[self.index] = grad_y
        return grad_x

    def backward_graph(self, grad_y: Tensor) -> Any:
        return PlaceRows.apply(grad_y, index=self.index, shape=self.shape, value=0.0)


class PlaceRows(Op):
    """An array of ``shape`` full of ``value`` with x's rows at ``index``: what TakeRows undoes."""

    def forward(self, x: Any, index: Any, shape: tuple[int, ...], value: float) -> Any:
        self.index = give_to_device(index, device_of(x))
        y = select(x).empty(shape, x.dtype)
        y.fill(value)
        y.reshape(-1, *shape[2:])[self.index] = x
        return y

    def backward(self, grad_y: Any) -> Any:
        grad_y = grad_y if grad_y.flags.c_contiguous else pooled_copy(grad_y)
        return select(grad_y).index_select_forward(grad_y.reshape(-1, *grad_y.shape[2:]), 0, self.index)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return TakeRows.apply(grad_y, index=self.index)


def packed_rows(batch_sizes: Any, order: Any, batch: int, steps: int, batch_first: bool) -> Any:
    """Where each packed row stands among the rows of a padded (T, B, ...) or (B, T, ...) array.

    ``order[i]`` is the place in the batch of the i-th longest sequence; ``batch`` and ``steps`` are B and T.
    """
    step = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
    within = np.arange(len(step)) - np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)
    sequence = order[within]
    return sequence * steps + step if batch_first else step * batch + sequence

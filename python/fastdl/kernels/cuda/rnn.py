"""Recurrent layers; see :mod:`fastdl.kernels.reference.rnn`.

Inputs of all rows meet their weights in one product before the steps, and gradients of weights and inputs are products
over all rows after them. In between, one launch does all steps where the recurrent weights fit into registers or
memory of the multiprocessors; else there are one or two for each step (csrc/cuda/rnn_launch.h). ``FASTDL_CUDA_RNN``
(``resident``, ``grid``, ``steps``) names the first of these ways to be tried, ``auto`` takes the fastest by estimates.
With the weights in registers, devices of compute capability 9.0 have kernels of their own for few sequences
(csrc/cuda/rnn_specialised.h).
Gates and cells for backward are planes: (D, 1, gates, N, H) and (D, 1, N, H).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import precisions
from fastdl.kernels.cuda import device, products
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import add_forward, convert
from fastdl.kernels.cuda.hopper import choose, family, half_types, hopper_trusted
from fastdl.kernels.cuda.reduce import sum_forward

__all__ = ["rnn_backward", "rnn_forward"]

LAUNCHES = os.environ.get("FASTDL_CUDA_RNN", "auto")

_GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_before": 3}
_KEPT = {"lstm": 4, "gru": 4, "gru_before": 3}  # planes that backward needs
_PER_DIRECTION = 5
_NAMES = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


class _Layer:
    """The checked arguments that forward and backward share."""

    def __init__(
        self,
        cell: str,
        x: Array,
        batch_sizes: Any,
        h0: Array | None,
        c0: Array | None,
        weights: Any,
        mask: Array | None,
    ) -> None:
        if cell not in _GATES:
            raise ArgumentError(
                f"rnn: cell must be rnn_tanh, rnn_relu, lstm, gru or gru_before, got '{cell}'"
            )
        if len(weights) not in (_PER_DIRECTION, 2 * _PER_DIRECTION):
            raise ArgumentError(f"rnn: weights must be 5 for each of 1 or 2 directions, got {len(weights)}")
        if batch_sizes.dtype != np.int64:
            raise DtypeError(f"rnn: batch_sizes must be int64, got {batch_sizes.dtype}")
        if batch_sizes.ndim != 1 or batch_sizes.size == 0:
            raise ArgumentError("rnn: batch_sizes must have one entry per step and at least one")
        sizes = batch_sizes.tolist()
        for t, n in enumerate(sizes):
            if n < 1 or (t and n > sizes[t - 1]):
                raise ArgumentError(f"rnn: batch_sizes must be positive and never rise, got {n} in step {t}")
        self.number = device.code("rnn", x, *(w for w in weights if w is not None))
        if x.ndim != 2 or x.shape[0] != sum(sizes):
            raise ArgumentError(
                f"rnn: x must be (rows, input), with as many rows as batch_sizes add up to: {sum(sizes)}"
            )
        self.cell, self.gates, self.lstm = cell, _GATES[cell], cell == "lstm"
        self.directions, self.batch, self.rows = len(weights) // _PER_DIRECTION, sizes[0], x.shape[0]
        self.input = x.shape[1]
        for d in range(self.directions):
            self._weights(d, weights[_PER_DIRECTION * d : _PER_DIRECTION * (d + 1)])
        self.weights: list[list[Any]] = [
            [None if w is None else device.contiguous(w) for w in weights[_PER_DIRECTION * d :][:5]]
            for d in range(self.directions)
        ]
        self.runtime = device.of(x)
        self.compute = device.compute_dtype(x.dtype)
        self.dtype = x.dtype
        self.problem = self.runtime.extension.RnnProblem(
            cell, self.input, self.hidden, self.output, self.directions, sizes
        )
        self.tf32 = precisions.matmul != "highest"
        self.h0, self.c0 = self.states(h0, c0, "h0", "c0")
        self._shape(mask, (self.directions, self.batch, self.output), "mask")
        if mask is not None and not self.lstm:
            raise ArgumentError("rnn: c0 and mask are the LSTM's")
        self.mask = None if mask is None else device.contiguous(mask)

    def _weights(self, d: int, own: Any) -> None:
        w_ih, w_hh, b_ih, b_hh, w_hr = own
        if w_ih is None or w_hh is None or w_ih.ndim != 2 or w_hh.ndim != 2:
            raise ArgumentError("rnn: w_ih and w_hh must be matrices")
        if d == 0:
            self.hidden, self.output = w_hh.shape[0] // self.gates, w_hh.shape[1]
            if self.hidden < 1 or self.output < 1:
                raise ArgumentError("rnn: w_hh must not be empty")
        rows = self.gates * self.hidden
        shapes = ((rows, self.input), (rows, self.output), (rows,), (rows,), (self.output, self.hidden))
        for name, array, shape in zip(_NAMES, own, shapes, strict=True):
            if array is not None and array.shape != shape:
                raise ArgumentError(f"rnn: {name} must have shape {shape}, got {array.shape}")
        if (b_ih is None) != (b_hh is None):
            raise ArgumentError("rnn: b_ih and b_hh must both be given, or neither")
        projected = self.output != self.hidden
        if (w_hr is not None) != projected or (projected and not self.lstm):
            raise ArgumentError(
                "rnn: w_hr must be given where an LSTM's w_hh has fewer columns than hidden units"
            )

    def _shape(self, array: Array | None, shape: tuple[int, ...], name: str) -> None:
        if array is None:
            return
        if array.shape != shape:
            raise ArgumentError(f"rnn: {name} must have shape {shape}, got {array.shape}")
        if array.dtype != self.dtype:
            raise DtypeError(f"rnn: {name} must be {self.dtype}, got {array.dtype}")

    def states(self, h: Array | None, c: Array | None, h_name: str, c_name: str) -> tuple[Any, Any]:
        self._shape(h, (self.directions, self.batch, self.output), h_name)
        self._shape(c, (self.directions, self.batch, self.hidden), c_name)
        if c is not None and not self.lstm:
            raise ArgumentError(f"rnn: {c_name} and mask are the LSTM's")
        return (None if h is None else device.contiguous(h)), (None if c is None else device.contiguous(c))

    def empty(self, *shape: int) -> Array:
        return self.runtime.empty(shape, self.dtype)

    def wide(self) -> Array:
        """A number for each sequence and unit, in the type computed in."""
        return self.runtime.empty((self.batch, self.hidden), self.compute)

    def scratch(self, backward: bool) -> Array | None:
        """None where one launch keeps the recurrent weights in registers."""
        size = self.runtime.extension.rnn_scratch(self.number, self.problem, backward, self.tf32, LAUNCHES)
        return self.runtime.empty((size,), np.uint8) if size else None

    def specialised(self, name: str, scratch: Array | None) -> bool:
        """May warps of two kinds compute the steps, where they fit? Those of other ways and of float64 cannot."""
        return scratch is None and self.dtype != np.float64 and hopper_trusted(name, self.runtime)

    def addresses(self, arrays: dict[str, Array | None]) -> dict[str, int]:
        return {name: self.runtime.pointer(array) for name, array in arrays.items() if array is not None}


def _of(array: Array | None, d: int) -> Array | None:
    return None if array is None else array[d]


def _product(a: Array, b: Array) -> Array:
    return products.product("rnn", a, b)


def rnn_forward(
    cell: str,
    x: Array,
    batch_sizes: Any,
    h0: Array | None,
    c0: Array | None,
    weights: Any,
    mask: Array | None,
    keep: bool,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    a = _Layer(cell, x, batch_sizes, h0, c0, weights, mask)
    directions, batch, rows, hidden, output = a.directions, a.batch, a.rows, a.hidden, a.output
    x = device.contiguous(x)
    y, h_n = a.empty(rows, directions * output), a.empty(directions, batch, output)
    c_n = a.empty(directions, batch, hidden) if a.lstm else None
    gates = a.empty(directions, 1, _KEPT[cell], rows, hidden) if keep and cell in _KEPT else None
    cells = a.empty(directions, 1, rows, hidden) if keep and a.lstm else None
    directed = []
    for d in range(directions):
        w_ih, w_hh, b_ih, b_hh, w_hr = a.weights[d]
        arrays = {
            "y": y[:, d * output :],
            "h_n": h_n[d],
            "c_n": _of(c_n, d),
            "gates": _of(gates, d),
            "cells": _of(cells, d),
            "a": _product(x, w_ih.T),
            "h0": _of(a.h0, d),
            "c0": _of(a.c0, d),
            "mask": _of(a.mask, d),
            "w_hh": w_hh,
            "b_ih": b_ih,
            "b_hh": b_hh,
            "w_hr": w_hr,
            "carry": a.wide() if a.lstm else None,
            "update": a.wide() if cell == "gru_before" else None,
        }
        directed.append(arrays)
    scratch = a.scratch(False)
    a.runtime.extension.rnn_forward(
        a.number,
        a.problem,
        [a.addresses(arrays) for arrays in directed],
        directions * output,
        a.runtime.pointer(scratch),
        a.tf32,
        LAUNCHES,
        a.specialised("rnn_forward", scratch),
        a.runtime.stream(),
    )
    return y, h_n, c_n, gates, cells


def rnn_backward(
    cell: str,
    grad_y: Array | None,
    grad_h_n: Array | None,
    grad_c_n: Array | None,
    x: Array,
    batch_sizes: Any,
    h0: Array | None,
    c0: Array | None,
    weights: Any,
    mask: Array | None,
    y: Array,
    gates: Any,
    cells: Any,
    need_x: bool,
    need_state: bool,
    need_weights: bool,
) -> tuple[Array | None, Array | None, Array | None, list[Array | None] | None]:
    a = _Layer(cell, x, batch_sizes, h0, c0, weights, mask)
    directions, batch, rows, hidden, output = a.directions, a.batch, a.rows, a.hidden, a.output
    grad_h_n, grad_c_n = a.states(grad_h_n, grad_c_n, "grad_h_n", "grad_c_n")
    a._shape(y, (rows, directions * output), "y")
    a._shape(grad_y, (rows, directions * output), "grad_y")
    if (gates is not None) != (cell in _KEPT) or (cells is not None) != a.lstm:
        raise ArgumentError("rnn_backward: gates and cells must be what rnn_forward returned with keep=True")
    if gates is not None:
        a._shape(gates, (directions, 1, _KEPT[cell], rows, hidden), "gates")
    a._shape(cells, (directions, 1, rows, hidden), "cells")
    x, y = device.contiguous(x), device.contiguous(y)
    grad_y = None if grad_y is None else device.contiguous(grad_y)
    grad_h0 = a.empty(directions, batch, output)
    grad_c0 = a.empty(directions, batch, hidden) if need_state and a.lstm else None
    grad_x = None
    step = directions * output
    # Of W_ih x and of W_hh h, which only the GRU tells apart; what all directions have is in one array.
    grads = a.empty(2 if cell == "gru" else 1, directions, rows, a.gates * hidden)
    before = a.empty(directions, rows, output) if need_weights else None
    own_cell: Any = grad_c0
    if a.lstm and (grad_c0 is None or a.compute != a.dtype):
        own_cell = a.runtime.empty((directions, batch, hidden), a.compute)
    directed: list[dict[str, Array | None]] = []
    scratch = a.scratch(True)
    for d in range(directions):
        w_hh, w_hr = a.weights[d][1], a.weights[d][4]
        arrays = {
            "grad_a": grads[0, d],
            "grad_b": grads[-1, d],
            "grad_h0": grad_h0[d],
            "cell": own_cell[d] if a.lstm else None,
            "direct": a.wide() if cell.startswith("gru") else None,
            "sum": a.wide() if cell == "gru_before" else None,
            "before": _of(before, d),
            "reset": a.empty(rows, hidden) if need_weights and cell == "gru_before" else None,
            "output": a.empty(rows, output) if w_hr is not None else None,
            "product": a.empty(rows, hidden) if need_weights and w_hr is not None else None,
            "grad_y": None if grad_y is None else grad_y[:, d * output :],
            "grad_h_n": _of(grad_h_n, d),
            "grad_c_n": _of(grad_c_n, d),
            "y": y[:, d * output :],
            "gates": _of(gates, d),
            "cells": _of(cells, d),
            "h0": _of(a.h0, d),
            "c0": _of(a.c0, d),
            "mask": _of(a.mask, d),
            "w_hh": w_hh if scratch is None else device.copy(w_hh.T),
            "w_hr": w_hr if scratch is None or w_hr is None else device.copy(w_hr.T),
        }
        directed.append(arrays)
    a.runtime.extension.rnn_backward(
        a.number,
        a.problem,
        [a.addresses(arrays) for arrays in directed],
        step,
        step,
        a.runtime.pointer(scratch),
        a.tf32,
        LAUNCHES,
        a.specialised("rnn_backward", scratch),
        a.runtime.stream(),
    )
    if grad_c0 is not None and own_cell is not grad_c0:
        device.copy_to(grad_c0, convert(own_cell, a.dtype))
    if need_x:
        for d in range(directions):
            part = _product(grads[0, d], a.weights[d][0])
            grad_x = part if grad_x is None else add_forward(grad_x, part)
    return (
        grad_x,
        grad_h0 if need_state else None,
        grad_c0,
        _weights_of(a, x, grads, before, directed) if need_weights else None,
    )


def _weights_of(
    a: _Layer, x: Array, grads: Array, before: Any, directed: list[dict[str, Array | None]]
) -> list[Array | None]:
    """Gradients of weights: products over all rows, of both directions at once."""
    directions, hidden = a.directions, a.hidden
    grad_ih = _over_rows(grads[0], x[None])
    if a.cell == "gru_before":  # n's weights meet r h
        grad_hh = a.empty(directions, 3 * hidden, hidden)
        for d, arrays in enumerate(directed):
            grad_b = grads[0, d]
            device.copy_to(grad_hh[d, : 2 * hidden], _product(grad_b[:, : 2 * hidden].T, before[d]))
            device.copy_to(grad_hh[d, 2 * hidden :], _product(grad_b[:, 2 * hidden :].T, arrays["reset"]))
    else:
        grad_hh = _over_rows(grads[-1], before)
    biases: Any = None
    if any(own[2] is not None for own in a.weights):
        sums = sum_forward(grads, (2,))
        biases = (sums[0], sums[1] if a.cell == "gru" else device.copy(sums[0]))
    result: list[Array | None] = []
    for d, arrays in enumerate(directed):
        output: Any = arrays["output"]
        grad_hr = None if output is None else _product(output.T, arrays["product"])
        own = (None, None) if a.weights[d][2] is None else (biases[0][d], biases[1][d])
        result += [grad_ih[d], grad_hh[d], *own, grad_hr]
    return result


def _over_rows(grads: Array, x: Array) -> Array:
    """``grads[d].T @ x[d]`` of all directions d, as one product; x has one matrix for all, or one for each."""
    if grads.shape[0] == 1:
        return _product(grads[0].T, x[0])[None]
    return _product(grads.transpose(0, 2, 1), x)


def _layers(runtime: Any) -> Iterator[Any]:
    """Arguments of forward for layers that the kernels at trial compute: in one block and in clusters of two and eight,
    each with sequences of one length and of several (where steps are found in other ways), one and several a block."""
    rng = np.random.default_rng(29)
    # The two directions share the device: three of so many are a block's.
    many = runtime.extension.multiprocessors() * 5 // 4
    for dtype in (np.dtype(np.float32), *half_types()):
        for cell, hidden, lengths in (
            ("rnn_tanh", 40, [many, many, 2, 1, 1]),
            ("gru", 125, [3] * 6),
            ("lstm", 100, [3, 3, 2, 1, 1]),
            ("lstm", 250, [2] * 4),
        ):
            sizes, width = np.array(lengths, np.int64), _GATES[cell] * hidden
            batch, rows = lengths[0], sum(lengths)

            def made(*shape: int, dtype: Any = dtype) -> Array:
                return runtime.from_host((rng.standard_normal(shape, np.float32) / 8).astype(dtype))

            states = [made(2, batch, hidden), made(2, batch, hidden) if cell == "lstm" else None]
            weights = [
                w
                for _ in range(2)
                for w in (made(width, 20), made(width, hidden), made(width), made(width), None)
            ]
            yield cell, made(rows, 20), sizes, *states, weights, None, True


def _forward_trial(runtime: Any) -> list[Array]:
    results: list[Array] = []
    for layer in _layers(runtime):
        results += [array for array in rnn_forward(*layer) if array is not None]
    return results


def _backward_trial(runtime: Any) -> list[Array]:
    results: list[Array] = []
    for layer in _layers(runtime):
        with choose(hopper=False):  # forward has a trial of its own
            y, h_n, c_n, gates, cells = rnn_forward(*layer)
        grads = (layer[0], y, h_n, c_n, *layer[1:-1], y, gates, cells, True, True, True)
        *states, weights = rnn_backward(*grads)
        results += [array for array in (*states, *(weights or ())) if array is not None]
    return results


family("rnn_forward")(_forward_trial)
family("rnn_backward")(_backward_trial)

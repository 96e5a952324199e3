"""A recurrent layer step by step, composed of operations: what its second derivatives are made of.

:mod:`fastdl.kernels.reference.rnn` has the formulas; this is the same walk on tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.ops.join import cat
from fastdl.ops.linear import linear
from fastdl.tensor import Tensor

_GATES = {"lstm": 4, "gru": 3, "gru_before": 3}


def composed_direction(
    cell: str, x: Any, batch_sizes: Any, h: Any, c: Any, weights: Any, mask: Any, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """y (N, P), the last h (B, P) and, for an LSTM, c (B, H) of one direction on packed rows x (N, I).

    ``h`` and ``c`` are the first states or None for zeros, ``mask`` (B, P) the factors of h before W_hh or None.
    """
    w_ih, w_hh, b_ih, _, _ = weights
    batch, hidden = int(batch_sizes[0]), w_hh.shape[0] // _GATES.get(cell, 1)
    if h is None:
        h = Tensor._wrap(np.zeros((batch, w_hh.shape[1]), x.dtype, like=x._data))
    if c is None:
        c = Tensor._wrap(np.zeros((batch, hidden), x.dtype, like=x._data))
    inputs = linear(x, w_ih, b_ih)
    ends = np.cumsum(batch_sizes)
    outputs: list[Any] = [None] * len(ends)
    for t in range(len(ends))[:: -1 if reverse else 1]:
        n = int(batch_sizes[t])
        a = inputs[int(ends[t]) - n : int(ends[t])]
        masked = h[:n] if mask is None else h[:n] * mask[:n]
        y, cell_state = _step(cell, a, h[:n], c[:n], masked, weights)
        outputs[t] = y
        # Sequences that have ended, or not yet begun, keep their state.
        h = y if n == batch else cat([y, h[n:]], 0)
        if cell_state is not None:
            c = cell_state if n == batch else cat([cell_state, c[n:]], 0)
    return cat(outputs, 0), h, c if cell == "lstm" else None


def _step(cell: str, a: Any, h: Any, c: Any, masked: Any, weights: Any) -> tuple[Any, Any]:
    """h' and, for an LSTM, c' from a = W_ih x + b_ih, the states, and h as W_hh sees it."""
    _, w_hh, _, b_hh, w_hr = weights
    if cell in ("rnn_tanh", "rnn_relu"):
        a = a + linear(masked, w_hh, b_hh)
        return (a.tanh() if cell == "rnn_tanh" else a.relu()), None
    if cell == "lstm":
        i, f, g, o = (a + linear(masked, w_hh, b_hh)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        m = o.sigmoid() * c.tanh()
        return (m if w_hr is None else linear(m, w_hr)), c
    hidden = w_hh.shape[0] // 3
    if cell == "gru":
        b = linear(masked, w_hh, b_hh)
        r, z = (a[:, : 2 * hidden] + b[:, : 2 * hidden]).sigmoid().chunk(2, 1)
        n = (a[:, 2 * hidden :] + r * b[:, 2 * hidden :]).tanh()
        return (1 - z) * n + z * h, None
    b_rz, b_n = (None, None) if b_hh is None else (b_hh[: 2 * hidden], b_hh[2 * hidden :])
    r, z = (a[:, : 2 * hidden] + linear(masked, w_hh[: 2 * hidden], b_rz)).sigmoid().chunk(2, 1)
    n = (a[:, 2 * hidden :] + linear(r * masked, w_hh[2 * hidden :], b_n)).tanh()
    return (1 - z) * h + z * n, None

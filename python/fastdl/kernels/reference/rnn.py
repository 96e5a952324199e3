"""Recurrent layers: all steps of one layer, in one direction or both.

Sequences come packed: x (N, I) holds the rows of step 0, then those of step 1, and so on; step t has
``batch_sizes[t]`` rows, never more than the step before, and row r always belongs to sequence r. The second
direction starts at each sequence's own end.

======== ================================================================================================
rnn_tanh h' = tanh(a), a = W_ih x + b_ih + W_hh h + b_hh
rnn_relu h' = max(a, 0)
lstm     i, f, o = sigmoid(a), g = tanh(a); c' = f c + i g; h' = o tanh(c'), or W_hr (o tanh(c')) if W_hr is given
gru      r, z = sigmoid(a), q = W_hn h + b_hn; n = tanh(W_in x + b_in + r q); h' = (1 - z) n + z h
gru_before
         r, z = sigmoid(a); n = tanh(W_in x + b_in + W_hn (r h) + b_hn); h' = (1 - z) h + z n
======== ================================================================================================

``weights`` lists w_ih, w_hh, b_ih, b_hh, w_hr (None where missing) for each direction; gates follow each
other along the rows in the order in which they are named here. With ``mask`` (D, B, P) every W_hh h is
W_hh (mask h).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray; NumPy's own annotations make Any of most expressions

__all__ = ["rnn_backward", "rnn_forward"]


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, e) / (1 + e)).astype(x.dtype)


def _walk(batch_sizes: Array, reverse: bool) -> Iterator[tuple[slice, int]]:
    """The rows of each step in x and how many they are, in the order in which steps are computed."""
    ends = np.cumsum(batch_sizes)
    for t in range(len(ends))[:: -1 if reverse else 1]:
        yield slice(int(ends[t] - batch_sizes[t]), int(ends[t])), int(batch_sizes[t])


def _affine(x: Array, weight: Array, bias: Array | None) -> Array:
    return x @ weight.T if bias is None else x @ weight.T + bias


def _step(cell: str, a: Array, h: Array, c: Array, u: Array, w: Any) -> tuple[Array, Array | None, Array]:
    """h', c' and the gates from a = W_ih x + b_ih, the states, and u = (masked h)."""
    _, w_hh, _, b_hh, w_hr = w
    size = w_hh.shape[0]
    if cell in ("rnn_tanh", "rnn_relu"):
        a = a + _affine(u, w_hh, b_hh)
        return (np.tanh(a) if cell == "rnn_tanh" else np.maximum(a, 0)), None, a[:, :0]
    if cell == "lstm":
        i, f, g, o = np.split(a + _affine(u, w_hh, b_hh), 4, 1)
        i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        c = f * c + i * g
        m = o * np.tanh(c)
        return (m if w_hr is None else m @ w_hr.T), c, np.concatenate([i, f, g, o], 1)
    hidden = size // 3
    if cell == "gru":
        b = _affine(u, w_hh, b_hh)
        rz, q = _sigmoid(a[:, : 2 * hidden] + b[:, : 2 * hidden]), b[:, 2 * hidden :]
        r, z = np.split(rz, 2, 1)
        n = np.tanh(a[:, 2 * hidden :] + r * q)
        return (1 - z) * n + z * h, None, np.concatenate([r, z, n, q], 1)
    w_rz, w_n = w_hh[: 2 * hidden], w_hh[2 * hidden :]
    b_rz, b_n = (None, None) if b_hh is None else (b_hh[: 2 * hidden], b_hh[2 * hidden :])
    r, z = np.split(_sigmoid(a[:, : 2 * hidden] + _affine(u, w_rz, b_rz)), 2, 1)
    n = np.tanh(a[:, 2 * hidden :] + _affine(r * u, w_n, b_n))
    return (1 - z) * h + z * n, None, np.concatenate([r, z, n], 1)


def rnn_forward(
    cell: str,
    x: Array,
    batch_sizes: Array,
    h0: Array | None,
    c0: Array | None,
    weights: Any,
    mask: Array | None,
    keep: bool,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    """y (N, D * P), the last h (D, B, P) and c (D, B, H), and for backward gates and cells (D, N, ...) if ``keep``.

    Gates and cells go back to the same backend's backward only; a compiled kernel lays them out as it likes. P is H, or
    w_hr's number of rows. ``h0`` and ``c0`` may be None for zeros.
    """
    directions, batch = len(weights) // 5, int(batch_sizes[0])
    results: list[list[Array]] = [[], [], [], [], []]
    for d in range(directions):
        w = weights[5 * d : 5 * d + 5]
        w_ih, w_hh, b_ih, _, _ = w
        hidden = w_hh.shape[0] // {"lstm": 4, "gru": 3, "gru_before": 3}.get(cell, 1)
        h = np.zeros((batch, w_hh.shape[1]), x.dtype) if h0 is None else h0[d].copy()
        c = np.zeros((batch, hidden), x.dtype) if c0 is None else c0[d].copy()
        a = _affine(x, w_ih, b_ih)
        y = np.empty((x.shape[0], h.shape[1]), x.dtype)
        cells = np.empty((x.shape[0], hidden), x.dtype)
        gates = np.empty((x.shape[0], hidden * {"lstm": 4, "gru": 4, "gru_before": 3}.get(cell, 0)), x.dtype)
        for rows, n in _walk(batch_sizes, d == 1):
            u = h[:n] if mask is None else h[:n] * mask[d, :n]
            y[rows], cell_state, gates[rows] = _step(cell, a[rows], h[:n], c[:n], u, w)
            h[:n] = y[rows]
            if cell_state is not None:
                c[:n] = cells[rows] = cell_state
        for into, value in zip(results, (y, h, c, gates, cells), strict=True):
            into.append(value)
    ys, h_n, c_n, all_gates, all_cells = results
    lstm = cell == "lstm"
    return (
        np.concatenate(ys, 1),
        np.stack(h_n),
        np.stack(c_n) if lstm else None,
        np.stack(all_gates) if keep and not cell.startswith("rnn") else None,
        np.stack(all_cells) if keep and lstm else None,
    )


def rnn_backward(
    cell: str,
    grad_y: Array | None,
    grad_h_n: Array | None,
    grad_c_n: Array | None,
    x: Array,
    batch_sizes: Array,
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
    """Gradients of x, h0, c0 and of every weight; ``y``, ``gates`` and ``cells`` as forward returned them."""
    directions, batch = len(weights) // 5, int(batch_sizes[0])
    grad_x = np.zeros_like(x)
    grad_h0: list[Array] = []
    grad_c0: list[Array] = []
    grad_weights: list[Array | None] = []
    for d in range(directions):
        w_ih, w_hh, b_ih, _, w_hr = w = weights[5 * d : 5 * d + 5]
        grads: list[Any] = [None if v is None else np.zeros_like(v) for v in w]
        g_ih, g_hh, _, _, g_hr = grads
        hidden, width = w_hh.shape[0] // {"lstm": 4, "gru": 3, "gru_before": 3}.get(cell, 1), w_hh.shape[1]
        dh = np.zeros((batch, width), x.dtype) if grad_h_n is None else grad_h_n[d].copy()
        dc = np.zeros((batch, hidden), x.dtype) if grad_c_n is None else grad_c_n[d].copy()
        columns = slice(d * width, (d + 1) * width)
        h_before = np.zeros((batch, width), x.dtype) if h0 is None else h0[d].copy()
        c_before = np.zeros((batch, hidden), x.dtype) if c0 is None else c0[d].copy()
        befores = []  # states before each step
        for rows, n in _walk(batch_sizes, d == 1):
            befores.append((rows, n, h_before[:n].copy(), c_before[:n].copy()))
            h_before[:n] = y[rows, columns]
            if cells is not None:
                c_before[:n] = cells[d, rows]
        for rows, n, h, c in reversed(befores):
            new = y[rows, columns]
            u = h if mask is None else h * mask[d, :n]
            g = dh[:n] if grad_y is None else dh[:n] + grad_y[rows, columns]
            direct = 0  # the part of h's gradient that does not pass through W_hh
            if cell in ("rnn_tanh", "rnn_relu"):
                da = db = g * (1 - new * new) if cell == "rnn_tanh" else np.where(new > 0, g, 0)
            elif cell == "lstm":
                i, f, k, o = np.split(gates[d, rows], 4, 1)
                t = np.tanh(cells[d, rows])
                if w_hr is not None:
                    g_hr += g.T @ (o * t)
                    g = g @ w_hr
                dcell = dc[:n] + g * o * (1 - t * t)
                da = db = np.concatenate(
                    [
                        dcell * k * i * (1 - i),
                        dcell * c * f * (1 - f),
                        dcell * i * (1 - k * k),
                        g * t * o * (1 - o),
                    ],
                    1,
                )
                dc[:n] = dcell * f
            elif cell == "gru":
                r, z, k, q = np.split(gates[d, rows], 4, 1)
                dn = g * (1 - z) * (1 - k * k)
                drz = np.concatenate([dn * q * r * (1 - r), g * (h - k) * z * (1 - z)], 1)
                da, db = np.concatenate([drz, dn], 1), np.concatenate([drz, dn * r], 1)
                direct = g * z
            else:
                r, z, k = np.split(gates[d, rows], 3, 1)
                dn = g * z * (1 - k * k)
                through = dn @ w_hh[2 * hidden :]
                drz = np.concatenate([through * h * r * (1 - r), g * (k - h) * z * (1 - z)], 1)
                da = db = np.concatenate([drz, dn], 1)
                direct = g * (1 - z) + through * r
            if cell == "gru_before":
                g_hh += np.concatenate([drz.T @ u, dn.T @ (r * u)])
                back = drz @ w_hh[: 2 * hidden]
            else:
                g_hh += db.T @ u
                back = db @ w_hh
            dh[:n] = (back if mask is None else back * mask[d, :n]) + direct
            g_ih += da.T @ x[rows]
            if b_ih is not None:
                grads[2] += da.sum(0)
                grads[3] += db.sum(0)
            grad_x[rows] += da @ w_ih
        grad_h0.append(dh)
        grad_c0.append(dc)
        grad_weights += grads
    return (
        grad_x if need_x else None,
        np.stack(grad_h0) if need_state else None,
        np.stack(grad_c0) if need_state and cell == "lstm" else None,
        grad_weights if need_weights else None,
    )

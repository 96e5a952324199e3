"""Problems of recurrent layers, and the ways in which CUDA kernels compute their steps."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

import parity
from fastdl.kernels.cuda import rnn as cuda_rnn
from fastdl.kernels.cuda.hopper import choose

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru", "gru_before")
GATES = {"lstm": 4, "gru": 3, "gru_before": 3}

# How the CUDA kernels compute the steps, which the problem chooses otherwise (csrc/cuda/rnn_launch.h); specialised:
# resident, with the kernels of rnn_specialised.h where they fit.
LAUNCHES = ("specialised", "resident", "grid", "steps")
chosen = ExitStack()


def backends(cuda=False):
    levels = parity.backends(cuda)
    ways = [f"cuda-{way}" for way in LAUNCHES] if "cuda" in levels else []
    return [level for level in levels if level != "cuda"] + ways


def load(level):
    if not level.startswith("cuda"):
        return parity.load(level)
    way = level.removeprefix("cuda-")
    chosen.close()
    chosen.enter_context(choose(hopper=way == "specialised"))
    cuda_rnn.LAUNCHES = "resident" if way == "specialised" else way
    return parity.load("cuda")


def as_the_problem_chooses():
    """What :func:`load` chose is forgotten."""
    chosen.close()
    cuda_rnn.LAUNCHES = "auto"


# batch sizes of the steps, input, hidden: one of everything, sizes around vectors and register tiles, thin and
# tall batches, sequences that end (or, backwards, start) in the middle of a block and of the batch.
PROBLEMS = {
    "one": ([1], 1, 1),
    "one step": ([5], 3, 17),
    "one row": ([1] * 6, 5, 33),
    "two rows": ([2] * 4, 4, 40),
    "three rows": ([3] * 4, 7, 15),
    "four rows": ([4] * 3, 2, 16),
    "block": ([14] * 3, 6, 32),
    "more than a block": ([15] * 3, 6, 31),
    "tall": ([70] * 3, 9, 50),
    "deep": ([5] * 3, 3, 300),
    "lengths": ([6, 6, 4, 3, 1, 1], 4, 20),
    "lengths, thin": ([3, 2, 2, 1], 4, 20),
    "lengths, tall": ([40, 33, 29, 28, 15, 14, 3, 1], 5, 34),
    "long": ([2] * 70, 3, 8),
    "many lengths": (list(range(66, 0, -1)), 2, 4),
    "wide": ([18] * 2, 2, 120),
    "wide lengths": ([4, 4, 3, 1, 1], 3, 128),
}


def problem(name, cell, dtype, directions=1, bias=True, states=True, mask=False, proj=0, scale=1.0):
    """Arguments of rnn_forward but for `keep`, and gradients of its results."""
    sizes, inputs, hidden = PROBLEMS[name]
    rng = np.random.default_rng(0)
    rows, batch, output = sum(sizes), sizes[0], proj or hidden
    gates = GATES.get(cell, 1)

    def draw(*shape, by=1.0):
        return (rng.standard_normal(shape) * by).astype(dtype)

    weights = []
    bound = scale / np.sqrt(hidden)
    for _ in range(directions):
        weights += [draw(gates * hidden, inputs, by=bound), draw(gates * hidden, output, by=bound)]
        weights += [draw(gates * hidden, by=bound) if bias else None for _ in range(2)]
        weights.append(draw(output, hidden, by=bound) if proj else None)
    lstm = cell == "lstm"
    h0 = draw(directions, batch, output) if states else None
    c0 = draw(directions, batch, hidden) if states and lstm else None
    masks = ((rng.random((directions, batch, output)) < 0.7) / 0.7).astype(dtype) if mask else None
    arguments = [cell, draw(rows, inputs), np.array(sizes), h0, c0, weights, masks]
    grads = [draw(rows, directions * output), draw(directions, batch, output)]
    grads.append(draw(directions, batch, hidden) if lstm else None)
    return arguments, grads


def exact(value):
    """In float64, whatever the precision."""
    if isinstance(value, list):
        return [exact(v) for v in value]
    floating = isinstance(value, np.ndarray) and value.dtype != np.int64
    return value.astype(np.float64) if floating else value


def narrow(value, dtype):
    if isinstance(value, list):
        return [narrow(v, dtype) for v in value]
    return None if value is None else value.astype(dtype)


def flat(results):
    """Arrays of nested results, None where there is none."""
    out = []
    for r in results:
        out += flat(r) if isinstance(r, (list, tuple)) else [r]
    return out


def rowwise(kept, hidden):
    """What forward keeps, from the kernels' panels (D, groups of units, gates, N, width) to (D, N, gates * hidden)."""
    rows = np.moveaxis(kept, 3, 1).swapaxes(2, 3)
    return rows.reshape(*rows.shape[:3], -1)[..., :hidden].reshape(*rows.shape[:2], -1)


def compute(module, arguments, grads, needs=(True, True, True)):
    y, h_n, c_n, gates, cells = module.rnn_forward(*arguments, True)
    backward = module.rnn_backward(arguments[0], *grads, *arguments[1:], y, gates, cells, *needs)
    hidden = arguments[5][0].shape[0] // GATES.get(arguments[0], 1)
    if gates is not None:
        gates = rowwise(gates, hidden)
    if cells is not None:
        cells = rowwise(cells[:, :, None], hidden)
    return flat([y, h_n, c_n, gates, cells, backward])

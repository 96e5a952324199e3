"""Recurrent layers: large and small, several layers, both directions, a batch of one; forward and with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library, forward, forward_backward

# Rows of weights, and the goals of the project: (large and medium f+b), (batch 1 f, batch 1 f+b).
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(
    kind: str,
    t: int,
    b: int,
    i: int,
    h: int,
    target: float,
    make: Callable[..., Case] = forward_backward,
    layers: int = 1,
    bidirectional: bool = False,
) -> Case:
    """Dense input (T, B, I), no initial state; what is timed returns the outputs of all steps."""

    def build(lib: Library) -> Any:
        inner = getattr(lib.nn, kind)(i, h, num_layers=layers, bidirectional=bidirectional)

        class Outputs(lib.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any) -> Any:
                return self.inner(x)[0]

        return Outputs()

    directions = 2 if bidirectional else 1
    widths = [i] + [h * directions] * (layers - 1)
    flops = sum(2.0 * t * b * GATES[kind] * h * (w + h) * directions for w in widths)
    name = f"{kind} T{t} B{b} I{i} H{h}"
    if layers > 1:
        name += f" {layers} layers"
    if bidirectional:
        name += " bidirectional"
    return make(
        name,
        build,
        lambda rng: [rng.standard_normal((t, b, i))],
        flops=flops * (1 if make is forward else 3),
        target=target,
    )


def packed(kind: str, b: int, i: int, h: int, longest: int) -> Case:
    """Sequences of lengths evenly spread over 1..longest, packed; the loss reads the packed outputs."""

    def build(lib: Library) -> Any:
        utils = lib.nn.utils.rnn
        inner = getattr(lib.nn, kind)(i, h)
        lengths = np.linspace(longest, 1, b).astype(np.int64).tolist()

        class Outputs(lib.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any) -> Any:
                return self.inner(utils.pack_padded_sequence(x, lengths))[0].data

        return Outputs()

    rows = float(sum(np.linspace(longest, 1, b).astype(np.int64)))
    return forward_backward(
        f"{kind} packed T1..{longest} B{b} I{i} H{h}",
        build,
        lambda rng: [rng.standard_normal((longest, b, i))],
        flops=6.0 * rows * GATES[kind] * h * (i + h),
    )


CASES = []
for kind, usual, one, one_fb in (("LSTM", 1.5, 1.3, 2.0), ("GRU", 1.8, 3.0, 5.0), ("RNN", 1.6, 2.0, 3.0)):
    lstm = kind == "LSTM"
    CASES += [
        layer(kind, 100, 64, 256, 512, usual),
        layer(kind, 50, 32, 128, 256, 1.3 if lstm else usual),
        layer(kind, 60, 16, 256, 256, 1.3 if lstm else usual, layers=2),
        layer(kind, 50, 32, 128, 128, 1.6 if lstm else usual, bidirectional=True),
        layer(kind, 25, 1, 64, 128, one, make=forward),
        layer(kind, 25, 1, 64, 128, one_fb),
        layer(kind, 100, 64, 256, 512, 0.0, make=forward),
    ]
CASES.append(packed("LSTM", 32, 128, 256, 60))

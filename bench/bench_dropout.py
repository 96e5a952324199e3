"""Dropout: one read and one write of memory in each direction, and the random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, forward_backward


def dropout(name: str, shape: tuple[int, ...], target: float, p: float = 0.1) -> Case:
    def call(lib: Any) -> Any:
        apply = getattr(lib.F, name)
        return lambda x: apply(x, p)

    return forward_backward(
        f"{name} {'x'.join(map(str, shape))}",
        call,
        lambda rng: [rng.standard_normal(shape).astype(np.float32)],
        bytes=16 * int(np.prod(shape)),
        target=target,
    )


CASES = [
    dropout("dropout", (64, 256, 768), 6.0),
    dropout("dropout", (64, 512), 2.0),
    dropout("dropout", (16, 16), 2.0),
    dropout("dropout2d", (32, 64, 56, 56), 1.3),
]

"""The same call over many sizes: from which size on is a GPU faster? ``fastdl bench --device cuda --against cpu``.

Each series has sizes a factor of four apart, from what fits a cache line's neighbourhood to what fills a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastdl.bench.bench_train import mlp, training
from fastdl.bench.case import Arrays, Case, Library, forward, forward_backward


def _rows(
    width: int, sizes: list[int], *further: Callable[[np.random.Generator, int], Any]
) -> list[tuple[int, Arrays]]:
    """For each size: arrays (size / width, width), and further ones made from the number of rows."""

    def arrays(rows: int) -> Arrays:
        return lambda rng: [
            rng.standard_normal((rows, width)).astype(np.float32),
            *[make(rng, rows) for make in further],
        ]

    return [(size, arrays(size // width)) for size in sizes]


def series(
    name: str,
    function: Callable[[Library], Any],
    inputs: list[tuple[int, Arrays]],
    make: Callable[..., Case] = forward,
) -> list[Case]:
    return [make(f"{name} {size}", function, arrays, series=name, size=size) for size, arrays in inputs]


def _squares(sides: list[int]) -> list[tuple[int, Arrays]]:
    def arrays(n: int) -> Arrays:
        return lambda rng: list(rng.standard_normal((2, n, n)).astype(np.float32))

    return [(n * n, arrays(n)) for n in sides]


def _images(batches: list[int]) -> list[tuple[int, Arrays]]:
    def arrays(n: int) -> Arrays:
        return lambda rng: [
            rng.standard_normal((n, 32, 14, 14)).astype(np.float32),
            rng.standard_normal((32, 32, 3, 3)).astype(np.float32),
        ]

    return [(n * 32 * 14 * 14, arrays(n)) for n in batches]


def _training(batch: int) -> Case:
    def make(lib: Library) -> Callable[[], Any]:
        rng = np.random.default_rng(0)
        model = lib.place(mlp(lib))
        optimizer = lib.optim.Adam(model.parameters(), lr=1e-4)
        inputs, labels = lib.tensor(rng.standard_normal((batch, 784))), lib.tensor(rng.integers(0, 10, batch))
        return training(lib, model, inputs, labels, optimizer)

    return Case(f"training step of an MLP {batch * 784}", "step", make)


FLAT = [1 << k for k in range(10, 25, 2)]
CASES = [
    *series(
        "add", lambda lib: lib.module.add, _rows(256, FLAT, lambda rng, n: rng.standard_normal((n, 256)))
    ),
    *series("sum", lambda lib: lib.module.sum, _rows(256, FLAT)),
    *series("softmax", lambda lib: lambda x: lib.F.softmax(x, -1), _rows(256, FLAT), forward_backward),
    *series("layer_norm", lambda lib: lib.nn.LayerNorm(256), _rows(256, FLAT), forward_backward),
    *series(
        "cross_entropy",
        lambda lib: lib.F.cross_entropy,
        _rows(256, FLAT, lambda rng, n: rng.integers(0, 256, n)),
        forward_backward,
    ),
    *series("matmul", lambda lib: lib.module.matmul, _squares([16, 32, 64, 128, 256, 512, 1024, 2048])),
    *series(
        "conv2d 3x3, 32 channels",
        lambda lib: lambda x, w: lib.F.conv2d(x, w, padding=1),
        _images([1, 4, 16, 64, 256]),
        forward_backward,
    ),
    *[
        replace(_training(n), series="training step of an MLP", size=n * 784)
        for n in (1, 4, 16, 64, 256, 1024, 4096)
    ],
]

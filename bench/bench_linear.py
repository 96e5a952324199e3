"""Matrix products and linear layers: square, short-sided, batched, long sums; forward and with gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fastdl.bench.case import Arrays, Case, Library, forward, forward_backward


def arrays(*shapes: tuple[int, ...]) -> Arrays:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def product(lib: Library) -> Any:
    return lib.module.matmul


def product_transposed(lib: Library) -> Any:
    """a @ b.T, the transpose a view."""
    return lambda a, b: lib.module.matmul(a, b.swapaxes(-1, -2))


def matmul(m: int, n: int, k: int, target: float = 0.95) -> Case:
    moved = 4.0 * (m * k + k * n + m * n)
    return forward(
        f"matmul {m}x{k} @ {k}x{n}",
        product,
        arrays((m, k), (k, n)),
        flops=2.0 * m * n * k,
        bytes=moved,
        target=target,
    )


def matmul_transposed(m: int, n: int, k: int, target: float = 0.95) -> Case:
    moved = 4.0 * (m * k + k * n + m * n)
    return forward(
        f"matmul {m}x{k} @ ({n}x{k}).T",
        product_transposed,
        arrays((m, k), (n, k)),
        flops=2.0 * m * n * k,
        bytes=moved,
        target=target,
    )


def bmm(batch: int, m: int, n: int, k: int) -> Case:
    return forward(
        f"matmul {batch} of {m}x{k} @ {k}x{n}",
        product,
        arrays((batch, m, k), (batch, k, n)),
        flops=2.0 * batch * m * n * k,
        target=0.95,
    )


def linear(batch: int, inputs: int, outputs: int) -> Case:
    return forward_backward(
        f"linear {batch}x{inputs} -> {outputs}",
        lambda lib: lib.nn.Linear(inputs, outputs),
        arrays((batch, inputs)),
        flops=6.0 * batch * inputs * outputs,
    )


def perceptron(batch: int, *widths: int) -> Case:
    def make(lib: Library) -> Any:
        layers: list[Any] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [lib.nn.Linear(inputs, outputs), lib.nn.ReLU()]
        return lib.nn.Sequential(*layers[:-1])

    return forward_backward(
        f"perceptron {batch}x{'-'.join(map(str, widths))}",
        make,
        arrays((batch, widths[0])),
        flops=6.0 * batch * sum(a * b for a, b in itertools.pairwise(widths)),
    )


CASES = [
    *(matmul(n, n, n) for n in (64, 128, 256, 512, 1024, 2048)),
    *(matmul(m, n, n) for m in (1, 4, 16) for n in (1024, 4096)),
    *(matmul_transposed(m, n, n) for m in (1, 4, 16) for n in (1024, 4096)),
    *(matmul(n, m, n) for m in (1, 4, 16) for n in (1024, 4096)),
    bmm(64, 64, 64, 64),
    bmm(512, 16, 16, 16),
    bmm(48, 512, 512, 64),
    bmm(16, 100, 30, 50),
    bmm(32, 1, 128, 64),
    matmul(64, 64, 20000),
    matmul(256, 256, 4096),
    *(matmul_transposed(n, n, n) for n in (128, 256, 512)),
    matmul(96, 96, 96),
    matmul(384, 384, 384),
    matmul(1024, 1024, 8),
    linear(1, 256, 256),
    linear(32, 400, 120),
    linear(128, 784, 256),
    linear(512, 1024, 1024),
    perceptron(32, 784, 128, 10),
    perceptron(256, 784, 512, 512, 10),
    forward_backward(
        "einsum bhid,bhjd->bhij 4x8x128x64",
        lambda lib: lambda q, k: lib.module.einsum("bhid,bhjd->bhij", q, k),
        arrays((4, 8, 128, 64), (4, 8, 128, 64)),
        flops=6.0 * 4 * 8 * 128 * 128 * 64,
    ),
]

"""Optimizer steps over many small and a few large parameters, clipping, and batches from a TensorDataset."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library

LENET = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,)]
SMALL = [(64,)] * 80
MEDIUM = [(64, 64)] * 80
LARGE = [(1000, 1000)] * 6


def parameters(lib: Library, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    rng = np.random.default_rng(0)
    params = []
    for shape in shapes:
        p = lib.nn.Parameter(lib.tensor(rng.standard_normal(shape)))
        p.grad = lib.tensor(rng.standard_normal(shape))
        params.append(p)
    return params


def step(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    arrays: int,
    label: str,
    target: float = 0.0,
    **options: Any,
) -> Case:
    """One ``optimizer.step()``; ``arrays`` counts the passes over memory (reads and writes) per element."""

    def make(lib: Library) -> Callable[[], Any]:
        params = parameters(lib, shapes)
        return getattr(lib.optim, name)(params, lr=1e-5, **options).step  # type: ignore[no-any-return]

    moved = 4.0 * arrays * sum(int(np.prod(shape)) for shape in shapes)
    return Case(f"{name} {label}", "step", make, bytes=moved, target=target)


def clip(shapes: Sequence[tuple[int, ...]], label: str) -> Case:
    def make(lib: Library) -> Callable[[], Any]:
        params = parameters(lib, shapes)
        return lambda: lib.nn.utils.clip_grad_norm_(params, 1e9)

    return Case(f"clip_grad_norm_ {label}", "step", make)


def load(samples: int, features: int, batch: int) -> Case:
    """One epoch of shuffled batches."""

    def make(lib: Library) -> Callable[[], Any]:
        data = importlib.import_module(f"{lib.name}.utils.data")
        x = lib.tensor(np.zeros((samples, features), np.float32))
        y = lib.tensor(np.zeros(samples, np.int64))
        loader = data.DataLoader(data.TensorDataset(x, y), batch_size=batch, shuffle=True)

        def run() -> None:
            for _ in loader:
                pass

        return run

    return Case(f"DataLoader {samples}x{features} batches of {batch}", "step", make, only="cpu")


CASES = [
    step("Adam", SMALL, 7, "80 of 64", target=8.0),
    step("Adam", MEDIUM, 7, "80 of 64x64", target=8.0),
    step("Adam", LARGE, 7, "6 of a million", target=1.5),
    step("Adam", SMALL, 7, "80 of 64, fused", fused=True),
    step("Adam", LARGE, 7, "6 of a million, fused", fused=True),
    step("Adam", LENET, 7, "LeNet-5"),
    step("AdamW", LARGE, 7, "6 of a million"),
    step("SGD", SMALL, 5, "80 of 64, momentum", momentum=0.9),
    step("SGD", LARGE, 3, "6 of a million"),
    step("SGD", LARGE, 5, "6 of a million, momentum", momentum=0.9),
    step("RMSprop", LARGE, 5, "6 of a million"),
    clip(SMALL, "80 of 64"),
    clip(LARGE, "6 of a million"),
    load(10_000, 784, 64),
    load(10_000, 16, 32),
]

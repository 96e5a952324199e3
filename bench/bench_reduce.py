"""Reductions: large arrays over the axes that matter, against reading them once, and small arrays against
fixed costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, forward, forward_backward

SHAPE = (3, 4000, 1000)
BYTES = 4.0 * 12_000_000


def _numbers(*shape: int) -> Any:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32)]


def _over(name: str, dim: Any, passes: int = 1, target: float = 1.0) -> Case:
    label = "all" if dim is None else f"dim {dim}".replace(" (", " ").replace(")", "")

    def function(lib: Any) -> Any:
        f = getattr(lib.module, name)
        return f if dim is None else lambda x: f(x, dim)

    return forward(
        f"{name} 3x4000x1000, {label}", function, _numbers(*SHAPE), bytes=passes * BYTES, target=target
    )


def _rows(name: str, rows: int, columns: int, dim: int) -> Case:
    return forward(
        f"{name} {rows}x{columns}, dim {dim}",
        lambda lib: lambda x: getattr(lib.module, name)(x, dim),
        _numbers(rows, columns),
        bytes=4.0 * rows * columns,
        target=1.0,
    )


def _gradient(name: str, dim: Any, shape: tuple[int, ...], target: float = 1.0) -> Case:
    size = "x".join(map(str, shape))

    def function(lib: Any) -> Any:
        f = getattr(lib.module, name)
        return (lambda x: f(x)) if dim is None else lambda x: f(x, dim)

    return forward_backward(f"{name} {size}, dim {dim}", function, _numbers(*shape), target=target)


def _of_bools(name: str, dim: int) -> Case:
    def function(lib: Any) -> Any:
        return lambda x: getattr(x > 0, name)(dim)

    return forward(f"{name} of x > 0, 400000x10, dim {dim}", function, _numbers(400_000, 10), target=1.0)


def _best(rows: int, n: int, k: int) -> Case:
    return forward(
        f"topk {k} of {rows}x{n}",
        lambda lib: lambda x: lib.module.topk(x, k),
        _numbers(rows, n),
        bytes=4.0 * rows * n,
        target=1.0,
    )


CASES: list[Case] = [
    *[_over("sum", dim) for dim in (None, 0, 1, 2, (0, 2), (0, 1))],
    *[_over(name, dim) for name in ("mean", "amax") for dim in (None, 1, 2)],
    *[_over(name, dim) for name in ("max", "argmax") for dim in (1, 2)],
    *[_over("var", dim, passes=2) for dim in (None, 1, 2)],
    *[_over("logsumexp", dim, passes=2) for dim in (1, 2)],
    _over("norm", None),
    *[_rows("sum", 11_520_000 // n, n, dim) for n in (3, 10, 64, 200) for dim in (0, 1)],
    *[_rows("amax", 11_520_000 // n, n, 1) for n in (10, 64)],
    *[_rows("sum", 4_000_000 // n, n, 1) for n in (16, 33)],  # in the last-level cache
    *[_rows(name, 400_000, 10, 1) for name in ("argmax", "logsumexp", "cumsum")],
    *[_rows(name, 4000, 1000, 1) for name in ("logsumexp", "cumsum", "cummax", "logcumsumexp", "nansum")],
    *[_of_bools(name, dim) for name in ("sum", "any", "all") for dim in (0, 1)],
    *[_rows("sort", 4096, 768, 1), _rows("sort", 1, 1_000_000, 1)],
    *[_best(rows, n, k) for rows, n, k in ((64, 50257, 50), (512, 100, 5))],
    forward(
        "sum 32x64x56x56, dim 0, 2, 3",
        lambda lib: lambda x: x.sum((0, 2, 3)),
        _numbers(32, 64, 56, 56),
        target=1.0,
    ),
    *[_gradient(name, None, SHAPE) for name in ("sum", "mean", "var", "norm")],
    *[_gradient(name, 2, SHAPE) for name in ("sum", "amax", "std", "logsumexp")],
    *[_gradient(name, dim, (16, 16), 1.5) for name in ("sum", "mean", "amax") for dim in (None, 1)],
    *[_gradient("sum", dim, (256, 256)) for dim in (None, 0, 1)],
]

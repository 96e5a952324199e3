"""Elementwise arithmetic: large arrays against the memory's bandwidth, broadcasting, and small arrays
against fixed costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library, forward, forward_backward

N = 12_000_000
F32 = 4 * N


def _positive(*shapes: tuple[int, ...]) -> Any:
    return lambda rng: [np.abs(rng.standard_normal(shape).astype(np.float32)) + 0.1 for shape in shapes]


def _named(name: str) -> Any:
    return lambda lib: getattr(lib.module, name)


def _large(name: str, operands: int, target: float = 1.3) -> list[Case]:
    """Bytes: forward reads every operand and writes the result;

    backward reads gradient and operands, writes gradients.
    """
    arrays = _positive(*[(N,)] * operands)
    moved = (operands + 1) * F32
    return [
        forward(f"{name} 12M", _named(name), arrays, bytes=moved, target=target),
        forward_backward(
            f"{name} 12M", _named(name), arrays, bytes=moved + (2 * operands + 1) * F32, target=target
        ),
    ]


def _broadcast(label: str, x: tuple[int, ...], y: tuple[int, ...]) -> list[Case]:
    size = 4 * int(np.prod(x))
    return [
        forward_backward(f"{name} {label}", _named(name), _positive(x, y), bytes=factor * size, target=1.0)
        for name, factor in (("add", 3), ("mul", 6))
    ]


def _where(lib: Library) -> Any:
    condition = lib.tensor(np.random.default_rng(2).random(N) > 0.5)
    return lambda x, y: lib.module.where(condition, x, y)


def _expression(lib: Library) -> Any:
    return lambda x, y: (x * y + x) / (y + 1.0) - 0.5 * x**2


def _integers(name: str, n: int) -> Any:
    def function(lib: Library) -> Any:
        x, y = [lib.tensor(np.random.default_rng(seed).integers(0, 100, n)) for seed in (1, 2)]
        return lambda _: getattr(lib.module, name)(x, y)

    return function


def _converted(source: str, target: str) -> Any:
    def function(lib: Library) -> Any:
        integers = lib.tensor(np.random.default_rng(1).integers(0, 3, 1_000_000))
        x = integers.to(getattr(lib.module, source))
        return lambda _: x.to(getattr(lib.module, target))

    return function


def _small(name: str, function: Any, operands: int) -> list[Case]:
    arrays = _positive(*[(16, 16)] * operands)
    return [
        forward(f"{name} 16x16", function, arrays, target=1.5),
        forward_backward(f"{name} 16x16", function, arrays, target=1.5),
    ]


CASES: list[Case] = [
    *[case for name in ("add", "mul", "div", "maximum") for case in _large(name, 2)],
    *[case for name in ("exp", "log", "sqrt", "sin", "abs", "erf") for case in _large(name, 1)],
    forward("where 12M", _where, _positive((N,), (N,)), bytes=3.25 * F32, target=1.3),
    forward_backward("where 12M", _where, _positive((N,), (N,)), bytes=6.5 * F32, target=1.3),
    forward_backward("x ** 2 12M", lambda lib: lambda x: x**2, _positive((N,)), bytes=5 * F32, target=1.3),
    forward_backward(
        "x ** 2.5 12M", lambda lib: lambda x: x**2.5, _positive((N,)), bytes=5 * F32, target=1.0
    ),
    forward_backward(
        "x * 2 + 1 12M", lambda lib: lambda x: x * 2.0 + 1.0, _positive((N,)), bytes=6 * F32, target=1.3
    ),
    forward_backward(
        "clamp 12M",
        lambda lib: lambda x: lib.module.clamp(x, 0.2, 1.0),
        _positive((N,)),
        bytes=5 * F32,
        target=1.3,
    ),
    *_broadcast("row 12000x1000 + 1000", (12000, 1000), (1000,)),
    *_broadcast("row 400000x10 + 10", (400_000, 10), (10,)),
    *_broadcast("column 12000x1000 + 12000x1", (12000, 1000), (12000, 1)),
    *_broadcast("column 400000x10 + 400000x1", (400_000, 10), (400_000, 1)),
    *_broadcast("column 64x512 + 64x1", (64, 512), (64, 1)),
    *_broadcast("channels 32x64x56x56 + 64x1x1", (32, 64, 56, 56), (64, 1, 1)),
    forward(
        "add transposed 4096x4096", lambda lib: lambda x, y: x.mT + y, _positive((4096, 4096), (4096, 4096))
    ),
    forward_backward(
        "expression of six operations, 1M", _expression, _positive((1_000_000,), (1_000_000,)), target=1.3
    ),
    *[
        forward(f"{name} of int64 {n}", _integers(name, n), _positive((1,)), target=1.0)
        for name in ("add", "eq")
        for n in (1000, 1_000_000)
    ],
    *[
        forward(f"{source} to {target} 1M", _converted(source, target), _positive((1,)), target=1.0)
        for source, target in (("float32", "float64"), ("int64", "float32"), ("float32", "bool"))
    ],
    *[
        forward(f"{name} 1M", _named(name), _positive((1_000_000,)), target=1.0)
        for name in ("lgamma", "digamma", "erfc", "exp2")
    ],
    forward("logaddexp 1M", _named("logaddexp"), _positive((1_000_000,), (1_000_000,)), target=1.0),
    *_small("x + y", lambda lib: lambda x, y: x + y, 2),
    *_small("x * y", lambda lib: lambda x, y: x * y, 2),
    *_small("x * 2", lambda lib: lambda x: x * 2.0, 1),
    *_small("exp", _named("exp"), 1),
]

"""Pooling: little arithmetic, so memory is the limit; small images show what each row and call costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, forward, forward_backward


def pool(
    name: str, function: str, shape: tuple[int, ...], *args: Any, target: float = 4.0, **options: Any
) -> list[Case]:
    """A pooling function, forward and forward+backward; bytes are one reading of the input and one writing."""
    title = f"{name} {'x'.join(map(str, shape))}"
    size = 4 * int(np.prod(shape))

    def call(lib: Any) -> Any:
        apply = getattr(lib.F, function)
        return lambda x: apply(x, *args, **options)

    def arrays(rng: np.random.Generator) -> list[Any]:
        return [rng.standard_normal(shape).astype(np.float32)]

    return [
        forward(title, call, arrays, bytes=size),
        forward_backward(title, call, arrays, bytes=2 * size, target=target),
    ]


CASES = [
    *pool("max 2x2", "max_pool2d", (32, 64, 56, 56), 2),
    *pool("avg 2x2", "avg_pool2d", (32, 64, 56, 56), 2),
    *pool("max 3x3 s2 p1", "max_pool2d", (16, 64, 112, 112), 3, 2, 1),
    *pool("avg 3x3 s2 p1", "avg_pool2d", (16, 64, 112, 112), 3, 2, 1),
    *pool("max 2x2", "max_pool2d", (32, 6, 28, 28), 2),
    *pool("max 2x2", "max_pool2d", (32, 16, 10, 10), 2),
    *pool("max 3x3 s1 p1", "max_pool2d", (16, 64, 28, 28), 3, 1, 1),
    *pool("max 3x3 s3", "max_pool2d", (8, 64, 60, 60), 3),
    *pool("max 5x5 s1 p2", "max_pool2d", (8, 64, 20, 20), 5, 1, 2),
    *pool("max1d 2", "max_pool1d", (32, 64, 1024), 2),
    *pool("max1d 3 s2 p1", "max_pool1d", (32, 64, 1000), 3, 2, 1),
    *pool("avg1d 2", "avg_pool1d", (32, 64, 1024), 2),
    *pool("max3d 2", "max_pool3d", (4, 16, 32, 32, 32), 2),
    *pool("avg3d 2", "avg_pool3d", (4, 16, 32, 32, 32), 2),
    *pool("max3d 3 s2 p1", "max_pool3d", (4, 16, 32, 32, 32), 3, 2, 1),
    *pool("global avg", "adaptive_avg_pool2d", (32, 512, 7, 7), 1),
    *pool("global max", "adaptive_max_pool2d", (32, 512, 7, 7), 1, target=0.0),
    *pool("adaptive avg 7x7", "adaptive_avg_pool2d", (32, 64, 16, 16), 7, target=0.0),
    *pool("adaptive max 7x7", "adaptive_max_pool2d", (32, 64, 16, 16), 7, target=0.0),
]

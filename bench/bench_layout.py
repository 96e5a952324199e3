"""Moving elements: strided copies, joining, rows and elements by index, against the memory's bandwidth."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Arrays, Library, forward, forward_backward

IMAGES = (16, 64, 56, 56)
SIZE = 4 * 16 * 64 * 56 * 56
ROWS, WIDTH, PICKED = 50_000, 256, 16_384


def floats(*shapes: tuple[int, ...]) -> Arrays:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _integers(lib: Library, below: int, shape: tuple[int, ...]) -> Any:
    return lib.tensor(np.random.default_rng(1).integers(0, below, shape))


def _rows(lib: Library) -> Any:
    index = _integers(lib, ROWS, (PICKED,))
    return lambda table: table[index]


def _gather(lib: Library) -> Any:
    index = _integers(lib, 1024, (4096, 512))
    return lambda x: x.gather(1, index)


def _masked(lib: Library) -> Any:
    mask = lib.tensor(np.random.default_rng(1).random(IMAGES) > 0.5)
    return lambda x: x.masked_fill(mask, 0.0)


CASES = [
    forward(
        "transpose 2048",
        lambda lib: lambda x: x.t().contiguous(),
        floats((2048, 2048)),
        bytes=2 * 4 * 2048**2,
    ),
    forward(
        "NCHW to NHWC",
        lambda lib: lambda x: x.permute(0, 2, 3, 1).contiguous(),
        floats(IMAGES),
        bytes=2 * SIZE,
    ),
    forward("crop", lambda lib: lambda x: x[:, :, 4:-4, 4:-4].contiguous(), floats(IMAGES), bytes=1.5 * SIZE),
    forward_backward(
        "cat channels",
        lambda lib: lambda x, y: lib.module.cat([x, y], 1),
        floats(IMAGES, IMAGES),
        bytes=6 * SIZE,
    ),
    forward_backward(
        "split channels", lambda lib: lambda x: x.chunk(2, 1)[1], floats(IMAGES), bytes=2 * SIZE
    ),
    forward("rows by index", _rows, floats((ROWS, WIDTH)), bytes=8 * PICKED * WIDTH),
    forward_backward(
        "rows by index", _rows, floats((ROWS, WIDTH)), bytes=4 * WIDTH * (3 * PICKED + 2 * ROWS)
    ),
    forward_backward(
        "gather 4096x512 of 1024", _gather, floats((4096, 1024)), bytes=4 * 4096 * (6 * 512 + 1024)
    ),
    forward_backward("masked_fill", _masked, floats(IMAGES), bytes=4.5 * SIZE),
    forward_backward("x[1] 16x16", lambda lib: lambda x: x[1], floats((16, 16))),
    forward_backward("reshape 16x16", lambda lib: lambda x: x.reshape(4, 64), floats((16, 16))),
]

"""Rows of a table by index: reading and writing the rows, and in backward the whole gradient once."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Arrays, Case, Library, forward, forward_backward


def _table(rows: int, width: int) -> Arrays:
    return lambda rng: [rng.standard_normal((rows, width)).astype(np.float32)]


def _index(lib: Library, shape: tuple[int, ...], rows: int, zipf: bool) -> Any:
    """Uniform, or as frequent as words are: index k with weight 1 / (k + 1)."""
    draw = np.random.default_rng(1).random(shape)
    index = np.exp(draw * np.log(rows)) - 1 if zipf else draw * rows
    return lib.tensor(index.astype(np.int64))


def lookup(shape: tuple[int, ...], rows: int, width: int, zipf: bool = False) -> list[Case]:
    def call(lib: Library) -> Any:
        index = _index(lib, shape, rows, zipf)
        return lambda table: lib.F.embedding(index, table)

    name = f"embedding {'x'.join(map(str, shape))} of {rows}x{width}{' zipf' if zipf else ''}"
    moved = 4 * width * int(np.prod(shape))
    return [
        forward(name, call, _table(rows, width), bytes=2 * moved),
        forward_backward(name, call, _table(rows, width), bytes=3 * moved + 4 * rows * width),
    ]


def bag(shape: tuple[int, ...], rows: int, width: int, mode: str) -> list[Case]:
    def call(lib: Library) -> Any:
        index = _index(lib, shape, rows, False)
        return lambda table: lib.F.embedding_bag(index, table, mode=mode)

    name = f"embedding_bag {mode} {'x'.join(map(str, shape))} of {rows}x{width}"
    read, written = 4 * width * int(np.prod(shape)), 4 * width * shape[0]
    return [
        forward(name, call, _table(rows, width), bytes=read + written),
        forward_backward(name, call, _table(rows, width), bytes=read + 2 * written + 4 * rows * width),
    ]


def product(rows: int, count: int, width: int) -> list[Case]:
    """A sparse square matrix of ``count`` entries times a dense one."""

    def call(lib: Library) -> Any:
        places = np.random.default_rng(1).integers(0, rows, (2, count))
        values = lib.tensor(np.ones(count, np.float32))
        sparse = lib.module.sparse_coo_tensor(lib.tensor(places), values, (rows, rows)).coalesce()
        return lambda dense: lib.module.sparse.mm(sparse, dense)

    name = f"sparse.mm {rows}x{rows} ({count}) @ {rows}x{width}"
    moved = 4 * width * (count + rows) + 12 * count
    return [
        forward(name, call, _table(rows, width), bytes=moved),
        forward_backward(name, call, _table(rows, width), bytes=2 * moved),
    ]


CASES = [
    *lookup((25,), 100, 64),
    *lookup((32, 256), 8192, 256),
    *lookup((32, 256), 8192, 256, zipf=True),
    *lookup((64, 128), 50257, 512),
    *bag((1024, 32), 50_000, 64, "sum"),
    *bag((1024, 32), 50_000, 64, "mean"),
    *bag((1024, 32), 50_000, 64, "max"),
    *product(2708, 13_264, 16),
    *product(100_000, 1_000_000, 64),
]

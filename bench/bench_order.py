"""Order and places: sorting integers, selecting, searching, and joining elements by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Arrays, Case, Library, forward


def _integers(below: int, *shape: int) -> Arrays:
    return lambda rng: [rng.integers(0, below, shape)]


def _floats(*shape: int) -> Arrays:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32)]


def _index(lib: Library, below: int, *shape: int) -> Any:
    return lib.tensor(np.random.default_rng(1).integers(0, below, shape))


def _calls(name: str, arrays: Arrays, *arguments: Any) -> Case:
    """``name`` of a tensor and numbers."""
    return forward(
        name, lambda lib: lambda x: getattr(lib.module, name.split()[0])(x, *arguments), arrays, target=1.0
    )


def _search(lib: Library) -> Any:
    bounds = lib.tensor(np.linspace(-3, 3, 1000, dtype=np.float32))
    return lambda x: lib.module.searchsorted(bounds, x)


def _joined(reduce: str, dim: int) -> Any:
    def function(lib: Library) -> Any:
        index = _index(lib, 256, 256, 256)
        return lambda x: x.scatter_reduce(dim, index, x, reduce)

    return function


def _added(lib: Library) -> Any:
    index, total = _index(lib, 1000, 65_536), lib.tensor(np.zeros(1000, np.float32))
    return lambda x: total.index_put_((index,), x, accumulate=True)


def _pairs(lib: Library) -> Any:
    rows, columns = _index(lib, 256, 4096), _index(lib, 256, 4096)
    return lambda x: x[rows, columns]


CASES = [
    _calls("sort int64 64x4096", _integers(50_000, 64, 4096), 1),
    _calls("sort int64 a million", _integers(2**40, 1_000_000)),
    _calls("sort 4096x64 dim 0", _floats(4096, 64), 0),
    _calls("topk int64 64x4096", _integers(2**40, 64, 4096), 5),
    _calls("median 256x256", _floats(256, 256), 1),
    _calls("unique int64 65536", _integers(10_000, 65_536)),
    forward("searchsorted 1000, 65536 values", _search, _floats(65_536), target=1.0),
    *[
        forward(f"scatter_reduce amax 256x256 dim {d}", _joined("amax", d), _floats(256, 256), target=1.0)
        for d in (0, 1)
    ],
    forward("index_put_ 65536 accumulate", _added, _floats(65_536), target=1.0),
    forward("x[i, j] 4096 of 256x256", _pairs, _floats(256, 256), target=1.0),
]

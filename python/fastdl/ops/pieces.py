"""NumPy's functions on all threads: slices of the first axis, each written to its part of the result.

For what has no kernel of its own (functions of complex numbers). NumPy gives up the interpreter's lock while it
computes, so ordinary threads do; they cost some 20 us a call, which large arrays are worth.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdl.runtime import get_num_threads

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_WORTH = 1 << 16  # elements of the result: about 100 us of work
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def in_pieces(run: Callable[..., Any], out: Any, *operands: Any) -> Any:
    """``run(*operands, out)``, which computes row by row; ``operands`` broadcast to ``out`` along its first axis."""
    threads = min(get_num_threads(), out.shape[0]) if out.ndim and out.size >= _WORTH else 1
    if threads < 2 or out.__class__ is not np.ndarray:
        return run(*operands, out)
    cuts = [out.shape[0] * i // threads for i in range(threads + 1)]
    rows = out.shape[0]

    def piece(i: int) -> None:
        part = slice(cuts[i], cuts[i + 1])
        own = [
            o[part] if isinstance(o, np.ndarray) and o.ndim == out.ndim and o.shape[0] == rows else o
            for o in operands
        ]
        with np.errstate(all="ignore"):  # of this thread
            run(*own, out[part])

    pool = _pools.get(threads)
    if pool is None:
        from concurrent.futures import ThreadPoolExecutor  # not at import time: it takes 4 ms

        pool = _pools[threads] = ThreadPoolExecutor(threads - 1, "fastdl-pieces")
    others = [pool.submit(piece, i) for i in range(1, threads)]
    piece(0)
    for other in others:
        other.result()
    return out

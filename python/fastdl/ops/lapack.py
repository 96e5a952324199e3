"""Decompositions by libraries: LAPACK as NumPy offers it, on a GPU cuSOLVER as CuPy does."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from fastdl.errors import LinAlgError
from fastdl.kernels import capture, on_device


def check_waiting(op: str, x: Any) -> None:
    """Refuse what asks the GPU whether there is a result, while a graph is recorded, where nothing may wait."""
    if capture.active and on_device(x):
        raise RuntimeError(
            f"{op}: waits for the GPU, which a graph cannot record; compute it before, outside of the graph"
        )


def lapack(name: str, a: Any, *args: Any, op: str = "", **options: Any) -> Any:
    """NumPy's or CuPy's function ``name`` of ``numpy.linalg``; LinAlgError, by ``op``, where it finds no result."""
    check_waiting(op or name, a)
    # CuPy ignores what cuSOLVER says of its success unless asked: knowing takes waiting.
    asked: AbstractContextManager[Any] = nullcontext()
    if on_device(a):
        asked = importlib.import_module("cupyx").errstate(linalg="raise")
    try:
        with asked:
            return getattr(np.linalg, name)(a, *args, **options)
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"{op or name}: {error}") from None

"""The kernel contract's implementations, and the choice between them.

A *backend* is a module that offers the contract: the functions of :mod:`fastdl.kernels.reference`, with the same
arguments and results. ``cpu`` is the extension module of the best instruction-set level this machine can run
(``FASTDL_MAX_ISA=baseline|avx2|avx512`` caps it); ``reference`` is NumPy.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from fastdl import _cpuid

ALL_LEVELS = ("baseline", "avx2", "avx512")

# A backend is typed Any: its functions are checked by the contract test, not by mypy.
Backend = Any


def levels() -> list[str]:
    """Instruction-set levels usable here, lowest first: supported, built, and not above ``FASTDL_MAX_ISA``."""
    cap = os.environ.get("FASTDL_MAX_ISA", "").strip().lower()
    if cap and cap not in ALL_LEVELS:
        raise ValueError(f"FASTDL_MAX_ISA must be one of {', '.join(ALL_LEVELS)}, got {cap!r}")
    allowed = ALL_LEVELS[: ALL_LEVELS.index(cap) + 1] if cap else ALL_LEVELS
    supported = _cpuid.levels()
    return [name for name in allowed if name in supported and _is_built(name)]


def _is_built(level: str) -> bool:
    return importlib.util.find_spec(f"fastdl._cpu_{level}") is not None


def load(level: str) -> ModuleType:
    """The CPU backend of one level, e.g. ``load("avx2")``.

    Raises:
        ValueError: if this machine cannot run that level, or it was not built.
    """
    if level not in levels():
        raise ValueError(f"level {level!r} cannot be used here; usable: {', '.join(levels())}")
    return importlib.import_module(f"fastdl._cpu_{level}")


def _load_best() -> ModuleType:
    usable = levels()
    if not usable:
        raise ImportError(
            "fastdl: no kernels for this machine. The CPU supports "
            f"{', '.join(_cpuid.levels()) or 'none of the levels'}; at least baseline (x86-64-v2: SSE4.2) must be "
            "supported and built."
        )
    return load(usable[-1])


cpu: Backend = _load_best()
_forced: Backend | None = None


def select(array: Any) -> Backend:
    """The backend that computes on ``array``."""
    return _forced or cpu


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run operations on another backend inside a ``with`` block; process-wide.

    Args:
        name: ``"reference"`` (NumPy, to debug a model), ``"cpu"`` (the default), or ``"cpu:<level>"``.

    Example:
        >>> import fastdl
        >>> with fastdl.use_backend("reference"):
        ...     fastdl.nn.functional.relu(fastdl.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    global _forced
    if name == "reference":
        backend: Backend = importlib.import_module("fastdl.kernels.reference")
    elif name == "cpu":
        backend = cpu
    elif name.startswith("cpu:"):
        backend = load(name.removeprefix("cpu:"))
    else:
        raise ValueError(f"use_backend: name must be 'reference', 'cpu' or 'cpu:<level>', got {name!r}")
    previous, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = previous

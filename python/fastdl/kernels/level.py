"""Instruction-set levels: the same kernels in one library per level, of which the extension module calls one.

The best level that this machine can run is chosen at import; ``FASTDL_MAX_ISA=baseline|avx2|avx512`` caps it.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from fastdl import _cpu, _cpuid

ALL_LEVELS = ("baseline", "avx2", "avx512")


def levels() -> list[str]:
    """Instruction-set levels usable here, lowest first: supported, built, and not above ``FASTDL_MAX_ISA``."""
    cap = os.environ.get("FASTDL_MAX_ISA", "").strip().lower()
    if cap and cap not in ALL_LEVELS:
        raise ValueError(f"FASTDL_MAX_ISA must be one of {', '.join(ALL_LEVELS)}, got {cap!r}")
    allowed = ALL_LEVELS[: ALL_LEVELS.index(cap) + 1] if cap else ALL_LEVELS
    supported = _cpuid.levels()
    return [name for name in allowed if name in supported and _is_built(name)]


def _library(level: str) -> Path:
    return Path(_cpu.__file__).with_name(f"libfastdl_{level}.so.0")


def _is_built(level: str) -> bool:
    return level == _cpu.level or _library(level).exists()


class Level:
    """The CPU backend at another level than the chosen one: each call switches to its kernels and back.

    A switch is for the whole process. Kernels are right at any level, so other threads lose nothing but speed.
    """

    def __init__(self, level: str) -> None:
        self.level = level

    def __dir__(self) -> list[str]:
        return dir(_cpu)

    def __getattr__(self, name: str) -> Any:
        function = getattr(_cpu, name)
        if not callable(function):
            return function

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            before = _cpu.level
            _cpu.use_level(self.level)
            try:
                return function(*arguments, **options)
            finally:
                _cpu.use_level(before)

        setattr(self, name, call)  # the next time it is found without this method
        return call


_loaded: dict[str, Any] = {}


def load(level: str) -> Any:
    """The CPU backend of one level, e.g. ``load("avx2")``: the extension module itself for the level chosen at import.

    Raises:
        ValueError: if this machine cannot run that level, or it was not built.
    """
    if level not in levels():
        raise ValueError(f"level {level!r} cannot be used here; usable: {', '.join(levels())}")
    if level not in _loaded:
        _cpu.open_level(level, str(_library(level)))
        _loaded[level] = Level(level)
    return _loaded[level]


def load_best() -> Any:
    """The CPU backend, at the best level that this machine can run."""
    usable = levels()
    if not usable:
        raise ImportError(
            "fastdl: no kernels for this machine. The CPU supports "
            f"{', '.join(_cpuid.levels()) or 'none of the levels'}; at least baseline (x86-64-v2: SSE4.2) must be "
            "supported and built."
        )
    best = usable[-1]
    if _cpu.level != best:  # the same where there is one level, whose kernels are in the module
        _cpu.open_level(best, str(_library(best)))
        _cpu.use_level(best)
    _loaded[best] = _cpu
    return _cpu

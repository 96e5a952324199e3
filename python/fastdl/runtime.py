"""Threads, memory and what this installation is: ``set_num_threads``, ``memory_stats``, ``show_config``."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels import cpu, levels


def get_num_threads() -> int:
    """Threads that kernels may use.

    ``FASTDL_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs this process has.
    """
    return cpu.num_threads()  # type: ignore[no-any-return]


def set_num_threads(n: int) -> None:
    """Set how many threads kernels may use, at least 1.

    Example:
        >>> import fastdl
        >>> before = fastdl.get_num_threads()
        >>> fastdl.set_num_threads(2)
        >>> fastdl.get_num_threads()
        2
        >>> fastdl.set_num_threads(before)
    """
    if not isinstance(n, int) or n < 1:
        raise ArgumentError(f"set_num_threads: n must be an integer of at least 1, got {n!r}")
    cpu.set_num_threads(n)


def memory_stats() -> dict[str, int]:
    """The allocator: ``in_use`` bytes and ``in_use_peak``, the most since :func:`reset_peak_memory_stats`; bytes
    ``cached`` for reuse and the ``cache_limit``; the number of ``allocations`` and how many of them ``reused`` a block.

    Example:
        >>> import fastdl
        >>> x = fastdl.ones(1_000_000)
        >>> fastdl.reset_peak_memory_stats()
        >>> before = fastdl.memory_stats()["in_use"]
        >>> y = (x + x) * x
        >>> (fastdl.memory_stats()["in_use_peak"] - before) >> 20  # MB: the sum and the product
        8
    """
    return cpu.memory_stats()  # type: ignore[no-any-return]


def reset_peak_memory_stats() -> None:
    """Start measuring the peak of ``memory_stats()`` anew."""
    cpu.reset_peak_memory_stats()


def empty_cache() -> None:
    """Return cached memory to the operating system."""
    cpu.empty_cache()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> str:
    """The usable GPUs, and what they are used with; empty if there are none."""
    from fastdl import cuda, devices

    if not cuda.is_available():
        return ""
    xp = devices.cupy()
    version = xp.cuda.runtime.driverGetVersion()
    found = [cuda.get_device_properties(i) for i in range(cuda.device_count())]
    names = ", ".join(f"{p.name} ({p.major}.{p.minor}, {p.total_memory >> 30} GB)" for p in found)
    return f"{names}; CuPy {xp.__version__}, driver for CUDA {version // 1000}.{version % 1000 // 10}"


def config() -> str:
    """What :func:`show_config` prints."""
    from fastdl import __version__, cuda

    stats = memory_stats()
    cap = os.environ.get("FASTDL_MAX_ISA")
    rows: list[tuple[str, Any]] = [
        ("fastdl", __version__),
        ("NumPy", np.__version__),
        ("CPU", _cpu_name()),
        ("level", f"{cpu.level} (usable: {', '.join(levels())}{f'; FASTDL_MAX_ISA={cap}' if cap else ''})"),
        ("threads", get_num_threads()),
        (
            "memory",
            f"{stats['in_use'] >> 20} MB in use, {stats['cached'] >> 20} MB cached (limit "
            f"{stats['cache_limit'] >> 20} MB)",
        ),
        ("CUDA", _gpus() or f"no: {cuda.unavailable_reason()}"),
    ]
    return "\n".join(f"{name:8} {value}" for name, value in rows)


def show_config() -> None:
    """Print CPU, kernel level, threads, allocator, and whether a GPU can be used."""
    print(config())

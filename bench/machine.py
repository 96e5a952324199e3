"""What this machine can do: FMA rate and copy bandwidth, measured, and its name."""

from __future__ import annotations

import datetime
import itertools
import platform
import statistics
import subprocess
from shutil import which
from typing import Any

import numpy as np

import fastdl
from fastdl import _cpuid, devices, kernels

COPY_BYTES = 256 << 20  # far beyond any cache


def limits(threads: int) -> dict[str, float]:
    """Measured limits with ``threads`` threads.

    Returns:
        ``gflops``: float32 operations per nanosecond of a loop of independent FMAs in registers;
        ``gbs``: bytes read plus written per nanosecond by a copy of 256 MB between arrays that were touched before.
    """
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(threads)
    try:
        kernels.cpu.machine_fma(0.05)  # wakes the threads and the clock
        fma = statistics.median(kernels.cpu.machine_fma(0.1) for _ in range(5))
        source, target = np.ones(COPY_BYTES // 4, np.float32), np.zeros(COPY_BYTES // 4, np.float32)
        seconds = statistics.median(kernels.cpu.machine_copy(target, source) for _ in range(7))
    finally:
        fastdl.set_num_threads(before)
    return {"gflops": fma, "gbs": 2 * COPY_BYTES / seconds / 1e9}


def describe(threads: int, measured: dict[str, float], peer: str | None) -> dict[str, Any]:
    """The machine's part of a result file."""
    versions = {"fastdl": fastdl.__version__, "numpy": np.__version__, "python": platform.python_version()}
    if peer:
        from importlib.metadata import version

        versions[peer] = version(peer)
    return {
        "cpu": _cpuid.brand(),
        "level": kernels.cpu.level,
        "threads": threads,
        **{name: round(value, 1) for name, value in measured.items()},
        "versions": versions,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def device_limits(dtype: str) -> dict[str, float]:
    """Measured limits of the current GPU: a product of large square matrices (cuBLAS, TF32 for float32), and a copy."""
    from fastdl.bench.device import by_events

    fastdl.backends.cuda.matmul.allow_tf32 = True
    kind = getattr(fastdl, dtype)
    size, length = (8192, COPY_BYTES // 4) if _is_large() else (64, 1024)
    a = fastdl.ones(size, size, device="cuda", dtype=kind)
    source, target = fastdl.ones(length, device="cuda"), fastdl.zeros(length, device="cuda")

    def seconds(run: Any) -> float:
        by_events(fastdl.cuda, itertools.repeat(run), 3, None)
        return statistics.median(by_events(fastdl.cuda, itertools.repeat(run), 10, None)[0])

    with fastdl.no_grad():
        product, copy = seconds(lambda: a @ a), seconds(lambda: target.copy_(source))
    return {"gflops": 2 * size**3 / product / 1e9, "gbs": 8 * length / copy / 1e9}


def _is_large() -> bool:
    return fastdl.cuda.mem_get_info()[1] >= 8 << 30


def describe_device(threads: int, measured: dict[str, float]) -> dict[str, Any]:
    """The machine's part of a GPU's result file."""
    runtime = devices.cupy().cuda.runtime

    def version(number: int) -> str:
        return f"{number // 1000}.{number % 1000 // 10}"

    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    told = (
        subprocess.run(query, capture_output=True, text=True, check=False).stdout if which(query[0]) else ""
    )
    return {
        "gpu": fastdl.cuda.get_device_name(),
        "driver": told.strip().partition("\n")[0] or "unknown",
        "cpu": _cpuid.brand(),
        "level": kernels.cpu.level,
        "threads": threads,
        **{name: round(value, 1) for name, value in measured.items()},
        "versions": {
            "fastdl": fastdl.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "CUDA of the driver": version(runtime.driverGetVersion()),
            "CUDA of CuPy": version(runtime.runtimeGetVersion()),
        },
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this file lies in, None in an installed package."""
    from pathlib import Path

    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None

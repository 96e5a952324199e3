"""Prints how the benchmark's cases would scale to many threads, from a build that simulates them (tools/scaling.sh)."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastdl
from fastdl import _cpu  # type: ignore[attr-defined]
from fastdl.bench.case import Library

LAUNCH = 1.5e-6  # of a job whose threads are awake


def measure(run: Callable[[], Any], threads: int, totals: Callable[[], list[float]]) -> dict[str, float]:
    """Seconds of one call: on one thread, and the best of several on `threads` simulated ones, by parts."""

    def alone() -> float:
        start = time.thread_time()
        run()
        return time.thread_time() - start

    fastdl.set_num_threads(1)
    alone()
    once = alone()
    calls = int(min(40, max(3, 0.02 / max(once, 1e-6))))
    one = min(alone() for _ in range(calls))
    fastdl.set_num_threads(threads)
    run()
    best: dict[str, float] = {}
    for _ in range(calls):
        totals()
        whole = alone()
        inside, work, critical, jobs = totals()
        taken = whole - inside + critical + jobs * LAUNCH
        if not best or taken < best["many"]:
            best = {
                "many": taken,
                "serial": whole - inside,
                "critical": critical,
                "work": work,
                "jobs": jobs,
            }
    return {"one": one, **best}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/scaling.sh", description=__doc__)
    parser.add_argument("family", nargs="*", help="families of the benchmark (default: all)")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument(
        "--least", type=float, default=300, help="us on one thread: shorter cases are left out"
    )
    parser.add_argument(
        "--below", type=float, default=6, help="print cases that become less than so much faster"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    library = ctypes.CDLL(_cpu.__file__)
    room = (ctypes.c_double * 4)()

    def totals() -> list[float]:
        library.fastdl_simulated_totals(room)
        return list(room)

    lib = Library("fastdl")
    folder = Path(importlib.import_module("fastdl.bench").__path__[0])
    families = options.family or sorted(
        path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py")
    )
    rows = []
    for family in families:
        for case in importlib.import_module(f"fastdl.bench.bench_{family}").CASES:
            fastdl.set_num_threads(1)
            fastdl.manual_seed(0)
            found = measure(case.make(lib), options.threads, totals)
            rows.append((found["one"] / found["many"], f"{family}: {case.name}", found))
    rows = [row for row in rows if row[2]["one"] >= options.least * 1e-6]
    print(f"{len(rows)} cases, {options.threads} threads; times in us")
    print(f"{'gain':>5} {'one':>8} {'many':>8} {'serial':>7} {'critical':>8} {'jobs':>5}  case")
    for gain, name, found in sorted(rows, key=lambda row: row[0]):
        if gain < options.below:
            one, many, serial, critical = (
                1e6 * found[part] for part in ("one", "many", "serial", "critical")
            )
            print(
                f"{gain:5.1f} {one:8.0f} {many:8.0f} {serial:7.0f} {critical:8.0f} {found['jobs']:5.0f}  {name}"
            )


if __name__ == "__main__":
    main()

"""Measure fastdl beside a peer: each library in a process of its own, sampled in turn, medians.

Only one process computes at any time, and they alternate every fraction of a second, so that a machine that slows
down slows both. Ratios are what to trust; absolute times are of this machine and this minute.
"""

from __future__ import annotations

import ctypes.util
import importlib
import json
import os
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastdl.bench.case import Case

ROUNDS = 5  # alternations per case


@dataclass
class Result:
    """One case measured; times are medians in microseconds, None where a library did not run it."""

    family: str
    case: str
    mode: str
    fastdl_us: float
    peer_us: float | None
    peer_tcmalloc_us: float | None
    ratio: float | None  # peer time / fastdl time: above 1 fastdl is faster
    ratio_tcmalloc: float | None
    gflops: float | None
    gbs: float | None
    fraction: float | None  # of this machine's measured limit, arithmetic or bandwidth, whichever is nearer
    target: float | None
    fastdl_mb: float | None = None  # the most memory one call held at once, beside its inputs
    peer_mb: float | None = None


class Worker:
    """A library in its own process; see ``worker.py``."""

    def __init__(self, library: str, family: str, threads: int, preload: str | None = None) -> None:
        environment = dict(os.environ)
        environment["OMP_NUM_THREADS"] = environment["FASTDL_NUM_THREADS"] = str(threads)
        environment["OPENBLAS_NUM_THREADS"] = "1"
        if preload:
            environment["LD_PRELOAD"] = preload
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastdl.bench.worker", library, family, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version = self._read()["version"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"benchmark worker ended with status {self._process.wait()}; its error is above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        with self._process as process:  # closes the pipes and waits
            assert process.stdin is not None
            process.stdin.close()


def families() -> list[str]:
    """Families that have a benchmark, by the files beside this one."""
    here = os.path.dirname(__file__)
    return sorted(
        m.name.removeprefix("bench_") for m in pkgutil.iter_modules([here]) if m.name.startswith("bench_")
    )


def cases_of(family: str) -> list[Case]:
    cases: list[Case] = importlib.import_module(f"fastdl.bench.bench_{family}").CASES
    return cases


def tcmalloc() -> str | None:
    """The library to preload for the tcmalloc column, if this machine has one."""
    return ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")


def measure(
    family: str,
    against: str | None,
    threads: int,
    limits: dict[str, float],
    cases: Sequence[Case],
    seconds: float = 0.2,
) -> Iterator[Result]:
    """Measure some of a family's cases one by one.

    Args:
        against: the peer's module name (``"torch"``), or None.
        threads: for every library.
        limits: ``{"gflops": ..., "gbs": ...}`` of this machine, from ``machine.limits``.
        cases: which ones, of ``cases_of(family)``.
        seconds: time to sample per library, case and round (a call that takes longer is still made).
    """
    workers = [Worker("fastdl", family, threads)]
    if against:
        workers.append(Worker(against, family, threads))
        if preload := tcmalloc():
            workers.append(Worker(against, family, threads, preload))
    try:
        everything = cases_of(family)
        for case in cases:
            times: list[list[float]] = [[] for _ in workers]
            for worker in workers:
                worker.ask(prepare=everything.index(case))
            for _ in range(ROUNDS):
                for worker, all_times in zip(workers, times, strict=True):
                    all_times += worker.ask(sample=seconds)["seconds"]
            result = _result(family, case, [statistics.median(t) * 1e6 for t in times], limits)
            if case.memory:
                held = [worker.ask(memory=True)["bytes"] for worker in workers[:2]]
                result.fastdl_mb, result.peer_mb = (None if b is None else b / 1e6 for b in [*held, None][:2])
            yield result
    finally:
        for worker in workers:
            worker.close()


def _result(family: str, case: Case, medians: Sequence[float], limits: dict[str, float]) -> Result:
    ours = medians[0]
    peer = medians[1] if len(medians) > 1 else None
    peer_tcmalloc = medians[2] if len(medians) > 2 else None
    gflops = case.flops / ours / 1e3 if case.flops else None
    gbs = case.bytes / ours / 1e3 if case.bytes else None
    fractions = [gflops / limits["gflops"] if gflops else 0.0, gbs / limits["gbs"] if gbs else 0.0]
    return Result(
        family=family,
        case=case.name,
        mode=case.mode,
        fastdl_us=ours,
        peer_us=peer,
        peer_tcmalloc_us=peer_tcmalloc,
        ratio=peer / ours if peer else None,
        ratio_tcmalloc=peer_tcmalloc / ours if peer_tcmalloc else None,
        gflops=gflops,
        gbs=gbs,
        fraction=max(fractions) or None,
        target=case.target or None,
    )

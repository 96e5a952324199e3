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
from dataclasses import dataclass, field
from typing import Any

from fastdl.bench.case import Case
from fastdl.bench.device import MORE

ROUNDS = 5  # alternations per case


@dataclass
class Result:
    """One case measured; times are medians in microseconds, None where a library did not run it."""

    family: str
    case: str
    mode: str
    fastdl_us: float | None
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
    dtype: str = "float32"
    # On a GPU, where the times above are the GPU's own:
    fastdl_wall_us: float | None = None  # what the host sees
    peer_wall_us: float | None = None
    more_us: dict[str, float] = field(default_factory=dict)  # other ways of running it, e.g. "torch compiled"
    errors: dict[str, str] = field(default_factory=dict)  # why a library or a way has no time
    series: str = ""  # and the size in it, for crossings between CPU and GPU
    size: int = 0


@dataclass(frozen=True)
class Setting:
    """A library and the way it runs."""

    library: str
    device: str = "cpu"
    dtype: str = "float32"
    how: str = "eager"
    preload: str | None = None

    @property
    def label(self) -> str:
        return self.library if self.how == "eager" else f"{self.library} {self.how}"


class Ended(RuntimeError):
    """A worker's process ended before it answered."""


class Worker:
    """A library in its own process, started when first asked and again after it ended; see ``worker.py``."""

    def __init__(self, setting: Setting, threads: int) -> None:
        self.setting, self._threads = setting, threads
        self._process: subprocess.Popen[str] | None = None
        self.versions: dict[str, str] = {}

    def _start(self) -> None:
        s = self.setting
        environment = dict(os.environ)
        environment["OMP_NUM_THREADS"] = environment["FASTDL_NUM_THREADS"] = str(self._threads)
        environment["OPENBLAS_NUM_THREADS"] = "1"
        if s.preload:
            environment["LD_PRELOAD"] = s.preload
        arguments = {"library": s.library, "threads": self._threads} | {
            "device": s.device,
            "dtype": s.dtype,
            "how": s.how,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastdl.bench.worker", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.versions = self._read()["versions"]

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._process = None
            raise Ended(f"benchmark worker of {self.setting.label} ended with status {status}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # the answer says why
            pass
        return self._read()

    def close(self) -> None:
        if self._process is None:
            return
        with self._process as process:  # closes the pipes and waits
            assert process.stdin is not None
            process.stdin.close()
        self._process = None


def families() -> list[str]:
    """Families that have a benchmark, by the files beside this one."""
    here = os.path.dirname(__file__)
    return sorted(
        m.name.removeprefix("bench_") for m in pkgutil.iter_modules([here]) if m.name.startswith("bench_")
    )


def cases_of(family: str, device: str = "cpu") -> list[Case]:
    """The family's cases for a device."""
    return [case for case in _all_cases(family) if case.only in ("", device)]


def _all_cases(family: str) -> list[Case]:
    cases: list[Case] = importlib.import_module(f"fastdl.bench.bench_{family}").CASES
    return cases


def tcmalloc() -> str | None:
    """The library to preload for the tcmalloc column, if this machine has one."""
    return ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")


def settings(family: str, against: str | None, device: str, dtype: str, hows: Sequence[str]) -> list[Setting]:
    """What to measure: fastdl, the peer, then what goes to further columns."""
    chosen = [Setting("fastdl", device, dtype)]
    if against == "cpu":
        return [*chosen, Setting("fastdl", "cpu")]
    if against:
        chosen.append(Setting(against, device, dtype))
        if device == "cpu" and (preload := tcmalloc()):
            chosen.append(Setting(against, device, dtype, preload=preload))
    if device != "cpu":
        libraries = ("fastdl", against)
        chosen += [
            Setting(library, device, dtype, how)
            for library, how in MORE.get(family, [])
            if library in libraries and how in hows
        ]
    return chosen


class Crew:
    """The workers, one for every setting; on a GPU they serve all families, as starting one takes seconds."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._workers: dict[Setting, Worker] = {}

    def of(self, setting: Setting) -> Worker:
        if setting not in self._workers:
            self._workers[setting] = Worker(setting, self.threads)
        return self._workers[setting]

    def versions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for worker in self._workers.values():
            found |= worker.versions
        return found

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


def measure(
    crew: Crew,
    chosen: Sequence[Setting],
    family: str,
    limits: dict[str, float],
    cases: Sequence[Case],
    seconds: float = 0.2,
) -> Iterator[Result]:
    """Measure some of a family's cases one by one.

    Args:
        crew: the workers.
        chosen: what to measure, from :func:`settings`; the first is fastdl, the second the peer.
        limits: ``{"gflops": ..., "gbs": ...}`` of this machine, from ``machine.limits``.
        cases: which ones, of ``cases_of(family)``.
        seconds: time to sample per library, case and round (a call that takes longer is still made).
    """
    everything = _all_cases(family)
    for case in cases:
        asked = _Asked(crew, chosen)
        asked.all(prepare=[family, everything.index(case)])
        for _ in range(ROUNDS):
            asked.all(sample=seconds)
        result = _result(family, case, chosen, asked, limits)
        if case.memory:
            asked.all(memory=True)
            held = [asked.memory.get(s) for s in chosen[:2]]
            result.fastdl_mb, result.peer_mb = (None if b is None else b / 1e6 for b in [*held, None][:2])
        yield result


class _Asked:
    """Answers of the workers about one case; those that fail are asked no more, and why is kept."""

    def __init__(self, crew: Crew, chosen: Sequence[Setting]) -> None:
        self._crew, self._left = crew, list(chosen)
        self.seconds: dict[Setting, list[float]] = {s: [] for s in chosen}
        self.wall: dict[Setting, list[float]] = {s: [] for s in chosen}
        self.memory: dict[Setting, int | None] = {}
        self.errors: dict[Setting, str] = {}

    def all(self, **request: Any) -> None:
        for setting in list(self._left):
            try:
                answer = self._crew.of(setting).ask(**request)
            except Ended as error:
                answer = {"error": str(error)}
            if "error" in answer:
                self.errors[setting] = answer["error"]
                self._left.remove(setting)
            self.seconds[setting] += answer.get("seconds", [])
            self.wall[setting] += answer.get("wall", [])
            self.memory[setting] = answer.get("bytes", self.memory.get(setting))


def _microseconds(times: Sequence[float]) -> float | None:
    return statistics.median(times) * 1e6 if times else None


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def _result(
    family: str, case: Case, chosen: Sequence[Setting], asked: _Asked, limits: dict[str, float]
) -> Result:
    on_device = chosen[0].device != "cpu"
    medians = {s: _microseconds(asked.seconds[s]) for s in chosen if s not in asked.errors}
    walls = {s: _microseconds(asked.wall[s]) for s in chosen if s not in asked.errors}
    ours = medians.get(chosen[0])
    rest = list(chosen[1:])
    peer = rest.pop(0) if rest and rest[0].how == "eager" else None
    other = rest.pop(0) if rest and rest[0].preload else None
    across = (
        peer is not None and peer.device != chosen[0].device
    )  # between devices only the wall clock compares
    peer_us = medians.get(peer) if peer else None
    peer_tcmalloc = medians.get(other) if other else None
    scale = 0.5 if chosen[0].dtype in ("bfloat16", "float16") else 1.0
    gflops = case.flops / ours / 1e3 if case.flops and ours else None
    gbs = case.bytes * scale / ours / 1e3 if case.bytes and ours else None
    fractions = [gflops / limits["gflops"] if gflops else 0.0, gbs / limits["gbs"] if gbs else 0.0]
    ratio = _over(walls.get(peer), walls.get(chosen[0])) if peer and across else _over(peer_us, ours)
    return Result(
        family=family,
        case=case.name,
        mode=case.mode,
        fastdl_us=ours,
        peer_us=peer_us,
        peer_tcmalloc_us=peer_tcmalloc,
        ratio=ratio,
        ratio_tcmalloc=_over(peer_tcmalloc, ours),
        gflops=gflops,
        gbs=gbs,
        fraction=max(fractions) or None,
        target=None if on_device else case.target or None,
        dtype=chosen[0].dtype,
        fastdl_wall_us=walls.get(chosen[0]) if on_device else None,
        peer_wall_us=walls.get(peer) if on_device and peer else None,
        more_us={s.label: us for s in rest if (us := medians.get(s)) is not None},
        errors={
            s.label + (" on cpu" if s.device != chosen[0].device else ""): e for s, e in asked.errors.items()
        },
        series=case.series,
        size=case.size,
    )

"""A process that holds one library and times cases when told to: JSON lines in, JSON lines out.

{"prepare": [family, i]} builds case i, warms it up and answers {"ready": seconds per call}; {"sample": s} times calls
for about s seconds and answers {"seconds": [...], "wall": [...]}, one entry per call (or per small loop of calls,
divided); {"memory": true} answers {"bytes": b}, the most memory that one call held at once beyond what was held before.
What cannot be measured is answered by {"error": why}; an error after which nothing can be trusted ends the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

# Seconds until the threads of the library that had its turn before, which wait for more work by spinning, are asleep.
PAUSE = 0.01
SHORTEST = 20e-6  # calls shorter than this are timed in loops: the clock and the loop cost 0.1 us


def sample(run: Callable[[], Any], seconds: float, estimate: float) -> list[float]:
    loops = max(1, round(SHORTEST / estimate)) if estimate < SHORTEST else 1
    times = []
    clock = time.perf_counter
    end = clock() + seconds
    while True:
        start = clock()
        for _ in range(loops):
            run()
        stop = clock()
        times.append((stop - start) / loops)
        if stop >= end:
            return times


def peak_memory(module: Any, run: Callable[[], Any]) -> int | None:
    """Bytes by the library's own count if it keeps one, else by growth of the process's peak of resident pages.

    None where neither can be had.
    """
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats()
        before = module.memory_stats()["in_use"]
        run()
        return int(module.memory_stats()["in_use_peak"]) - int(before)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew from what is resident now
    except OSError:
        return None
    before = _resident_peak()
    run()
    return _resident_peak() - before


def _resident_peak() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


class HostTimer:
    """One case on one library, ready to be sampled on the CPU."""

    def __init__(self, lib: Any, case: Any) -> None:
        self.module = lib.module
        self.run = case.make(lib)
        self.run()
        self.estimate = min(sample(self.run, 0.1, 1.0))

    def sample(self, seconds: float) -> tuple[list[float], list[float]]:
        time.sleep(PAUSE)
        self.run()  # and its own threads are awake
        times = sample(self.run, seconds, self.estimate)
        return times, times

    def peak_memory(self) -> int | None:
        return peak_memory(self.module, self.run)


def spoilt(error: Exception) -> bool:
    """Has the GPU's context gone with this error? Every later call would fail, too."""
    return any(word in str(error) for word in ("CUDA error", "cudaError", "CUDA_ERROR"))


def serve(library: str, threads: int, device: str, dtype: str, how: str) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not get between the answers

    from fastdl.bench import device as gpu
    from fastdl.bench.case import Library

    lib = Library(library, device, dtype, how)
    lib.module.set_num_threads(threads)
    on_gpu = device != "cpu"
    timer: Any = None

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    def respond(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal timer
        if "prepare" in request:
            timer = None  # the previous case's arrays go first
            gc.collect()
            family, index = request["prepare"]
            case = importlib.import_module(f"fastdl.bench.bench_{family}").CASES[index]
            timer = (gpu.Timer if on_gpu else HostTimer)(lib, case)
            return {"ready": timer.estimate}
        if "memory" in request:
            return {"bytes": timer.peak_memory()}
        gc.disable()
        try:
            seconds, wall = timer.sample(request["sample"])
        finally:
            gc.enable()
        return {"seconds": seconds, "wall": wall}

    versions = {library: str(lib.module.__version__)} | (gpu.versions(lib) if on_gpu else {})
    warnings.filterwarnings("error", message=".*computed on the CPU")  # that would be the wrong thing to time
    with gpu.prepare(lib) if on_gpu else nullcontext():
        answer(versions=versions)
        for line in sys.stdin:
            try:
                result = respond(json.loads(line))
            except (
                RuntimeError,
                TypeError,
                ValueError,
                AttributeError,
                ImportError,
                MemoryError,
                UserWarning,
            ) as error:
                if spoilt(error):
                    raise
                timer = None
                result = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            answer(**result)


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))

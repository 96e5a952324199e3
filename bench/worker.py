"""A process that holds one library and times cases when told to: JSON lines in, JSON lines out.

{"prepare": i} builds case i, warms it up and answers {"ready": seconds per call}; {"sample": s} times calls for about
s seconds and answers {"seconds": [...]}, one entry per call (or per small loop of calls, divided); {"memory": true}
answers {"bytes": b}, the most memory that one call held at once beyond what was held before.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

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


def serve(library: str, family: str, threads: int) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not get between the answers

    from fastdl.bench.case import Library

    lib = Library(library)
    lib.module.set_num_threads(threads)
    cases = importlib.import_module(f"fastdl.bench.bench_{family}").CASES
    run: Callable[[], Any] | None = None
    estimate = 0.0

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    answer(version=str(lib.module.__version__))
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            run = None  # the previous case's arrays go first
            gc.collect()
            run = cases[request["prepare"]].make(lib)
            run()
            warm_up = sample(run, 0.1, 1.0)
            estimate = min(warm_up)
            answer(ready=estimate)
        elif "memory" in request and run is not None:
            answer(bytes=peak_memory(lib.module, run))
        elif "sample" in request and run is not None:
            gc.disable()
            answer(seconds=sample(run, request["sample"], estimate))
            gc.enable()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))

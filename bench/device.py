"""Timing on a GPU: by events in the stream, on inputs that are in no cache, with the host out of the way.

Three things spoil short timings. The host needs longer to launch a kernel than the kernel runs: so the GPU is first
given something to do (``Hold``) for as long as the host takes to submit a call, and events around the call see kernels
only; a call that came too late all the same does not count, and the next hold is longer. The second-level cache still
has the inputs of the call before: so several instances of a case take turns, enough that together they fill it twice
(``copies``). And a call now and then meets something else: so medians are taken.
Whole training steps are timed as they are, one after the other, with the host's share; the second figure, ``wall``,
has the host's share for every case.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastdl.bench.case import Case, Library

Run = Callable[[], Any]

HOWS = {
    "eager": "operation by operation",
    "captured": "a CUDA graph of the whole call, replayed",
    "compiled": "torch.compile of the module",
    "flash": "scaled_dot_product_attention with its FlashAttention kernels",
    "cudnn": "scaled_dot_product_attention with cuDNN's kernels",
}
# What is measured on a GPU beside both libraries' usual way.
MORE: dict[str, list[tuple[str, str]]] = {
    "attention": [("torch", "flash"), ("torch", "cudnn")],
    "train": [("fastdl", "captured"), ("torch", "captured"), ("torch", "compiled")],
}
MOST_COPIES = 32
CALLS = 10  # submitted before the host waits


class Hold:
    """What keeps the GPU busy while the host submits a call: some reads of a large array."""

    MOST = 64

    def __init__(self, read: Run, times: int) -> None:
        self.read, self.times = read, max(1, min(self.MOST, times))

    def __call__(self) -> None:
        for _ in range(self.times):
            self.read()

    def lengthen(self) -> None:
        self.times = min(self.MOST, 2 * self.times)


def copies(working_set: int, cache: int) -> int:
    """Instances of a case that together fill the cache twice, so that each finds none of its inputs there."""
    return max(1, min(MOST_COPIES, math.ceil(2 * cache / max(1, working_set))))


def instances(cuda: Any, make: Callable[[], Run], mode: str, cache: int) -> list[Run]:
    """The case built as often as :func:`copies` says; a training step once, warm as in real life."""
    before = cuda.memory_allocated()
    runs = [make()]
    if mode != "step":
        runs += [make() for _ in range(copies(cuda.memory_allocated() - before, cache) - 1)]
    return runs


def captured(cuda: Any, run: Run) -> Run:
    """The call as a CUDA graph, recorded after three calls that fill caches and optimizer states."""
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(3):
            run()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        run()

    def replay(
        _kept: Run = run,
    ) -> None:  # the arrays that the graph reads live as long as the call that made them
        graph.replay()

    return replay


def by_events(
    cuda: Any, rotation: Iterator[Run], calls: int, hold: Hold | None
) -> tuple[list[float], list[float]]:
    """Seconds on the GPU of ``calls`` calls in turn; the host waits once, at the end.

    Apart from them those that began before the host had submitted them whole, as the hold was too short: they may
    have waited for the host.
    """
    pairs = []
    for _ in range(calls):
        run = next(rotation)
        start, stop = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        if hold is not None:
            hold()
        start.record()
        run()
        stop.record()
        pairs.append((start, stop, hold is not None and start.query()))
    cuda.synchronize()
    seconds = [(start.elapsed_time(stop) * 1e-3, late) for start, stop, late in pairs]
    return [s for s, late in seconds if not late], [s for s, late in seconds if late]


def by_clock(cuda: Any, rotation: Iterator[Run], calls: int) -> float:
    """Seconds per call as the host sees it: ``calls`` calls submitted, then waited for."""
    cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        next(rotation)()
    cuda.synchronize()
    return (time.perf_counter() - start) / calls


class Timer:
    """One case on one library, ready to be sampled."""

    def __init__(self, lib: Library, case: Case) -> None:
        self.cuda = cuda = lib.module.cuda
        cache = getattr(cuda.get_device_properties(0), "L2_cache_size", 0)
        runs = instances(cuda, lambda: case.make(lib), case.mode, cache)
        for run in runs:
            run()
        if lib.how == "captured":
            runs = [captured(cuda, run) for run in runs]
        self.rotation = itertools.cycle(runs)
        self.estimate = min(by_clock(cuda, self.rotation, 3) for _ in range(2))
        self.hold = None if case.mode == "step" else self._hold(lib, 20 * cache)

    def _hold(self, lib: Library, size: int) -> Hold:
        """Reads of an array of ``size`` bytes that outlast the host submitting them and a call."""
        big = lib.module.zeros(max(1, size // 4), device=lib.device)
        big.sum()

        def submitting(run: Run) -> float:
            self.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(3):
                run()
            return (time.perf_counter() - start) / 3

        call, read = submitting(lambda: next(self.rotation)()), submitting(big.sum)
        lasting = min(by_events(self.cuda, itertools.repeat(big.sum), 3, None)[0])
        return Hold(big.sum, math.ceil(1.2 * call / max(lasting - read, lasting / 4, 1e-6)))

    def sample(self, seconds: float) -> tuple[list[float], list[float]]:
        """About ``seconds`` of timings: those on the GPU, and those on the host's clock.

        Where no hold is long enough, those on the GPU have the host's share, too.
        """
        on_device: list[float] = []
        too_late: list[float] = []
        on_host: list[float] = []
        end = time.perf_counter() + seconds
        calls = max(1, min(CALLS, int(seconds / max(self.estimate, 1e-6))))
        while True:
            longest = self.hold is None or self.hold.times == Hold.MOST
            seen, late = by_events(self.cuda, self.rotation, calls, self.hold)
            on_device += seen
            too_late += late
            if late and self.hold is not None:
                self.hold.lengthen()
            on_host.append(by_clock(self.cuda, self.rotation, calls))
            if time.perf_counter() >= end and (on_device or longest):
                return on_device or too_late, on_host

    def peak_memory(self) -> int:
        """Bytes that one call holds at once beside what was held before."""
        self.cuda.synchronize()
        self.cuda.reset_peak_memory_stats()
        before = self.cuda.memory_allocated()
        next(self.rotation)()
        return int(self.cuda.max_memory_allocated()) - int(before)


def prepare(lib: Library) -> AbstractContextManager[Any]:
    """Both libraries at their best on float32: TF32 for products and convolutions, cuDNN choosing by measuring.

    What is returned is to be entered for as long as the library is measured.
    """
    backends = lib.module.backends
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = True
    backends.cudnn.benchmark = True
    if lib.how in ("flash", "cudnn"):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kind = SDPBackend.FLASH_ATTENTION if lib.how == "flash" else SDPBackend.CUDNN_ATTENTION
        return sdpa_kernel(kind)  # type: ignore[no-any-return]
    return nullcontext()


def versions(lib: Library) -> dict[str, str]:
    """What the library brings along."""
    if lib.name == "torch":
        torch = lib.module
        return {"cuda of torch": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    import cupy

    return {"cupy": str(cupy.__version__)}

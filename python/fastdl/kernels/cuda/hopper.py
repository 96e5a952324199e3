"""Which operations may use the kernels for compute capability 9.0 (csrc/cuda/hopper.h), and how they earn it.

Those kernels were written and tested without a GPU. So each family proves itself on the device at hand: at its first
use in a process a small problem is computed both ways, by these kernels and by those for every capability. They are
used from then on if the results agree and no kernel waited in vain; otherwise one ``RuntimeWarning`` says so and the
others stay in use. It takes some milliseconds, once. ``FASTDL_HOPPER=0`` never uses these kernels, ``FASTDL_HOPPER=1``
uses them without the trial.

A family is a function that computes its problem by the family's public wrappers, registered by :func:`family`; the
wrapper asks :func:`hopper_trusted` where its problem is one for these kernels. Where their waits are bounded (those
for the copy engine), the extension has ``<family>_trial_begin()`` and ``<family>_trial_end(stream)``, by the first word
of the family's name: kernels that stand apart ("with masks") have a trial of their own, so that one's failure leaves
the others in use. Barriers that threads alone wait at have no bound: a kernel that hangs at one ends its trial by an
error after half a minute, as nothing can stop it but the end of the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from fastdl.errors import warn_caller

Problem = Callable[[Any], list[Any]]
_families: dict[str, Problem] = {}
_verdicts: dict[tuple[str, int], bool] = {}
_lock = threading.Lock()
_PATIENCE = 30.0  # seconds, for a trial
_choice: ContextVar[bool | None] = ContextVar("hopper", default=None)


def family(name: str) -> Callable[[Problem], Problem]:
    """Register the decorated function, ``problem(runtime)`` -> arrays, as what decides about family ``name``.

    Its sizes should give every multiprocessor (``runtime.extension.multiprocessors()``) more than one tile, with ragged
    edges. float32 results may differ by 2^-8 of the largest, others by 2^-6.
    """

    def register(problem: Problem) -> Problem:
        _families[name] = problem
        return problem

    return register


def half_types() -> list[Any]:
    """The 16-bit dtypes that are there, for problems."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return [np.dtype(np.float16)]
    return [np.dtype(np.float16), np.dtype(bfloat16)]


@contextmanager
def choose(hopper: bool) -> Iterator[None]:
    """Inside the block this thread uses the kernels for every family, or for none, whatever trials and settings say."""
    token = _choice.set(hopper)
    try:
        yield
    finally:
        _choice.reset(token)


def hopper_trusted(name: str, runtime: Any) -> bool:
    """May family ``name`` use its kernels for capability 9.0 now? Under emulation: only inside :func:`choose`."""
    chosen = _choice.get()
    if chosen is not None:
        return chosen
    if runtime.emulated or name not in _families:
        return False
    return _decided(name, runtime)


def hopper_demanded() -> bool:
    """Inside ``choose(True)``: also where others would be faster."""
    return _choice.get() is True


def _decided(name: str, runtime: Any) -> bool:
    known = _verdicts.get((name, runtime.device()))
    if known is not None:
        return known
    with _lock:
        key = name, runtime.device()
        if key in _verdicts:
            return _verdicts[key]
        setting = os.environ.get("FASTDL_HOPPER", "").strip()
        if setting not in ("", "0", "1"):
            raise ValueError(
                f"FASTDL_HOPPER must be 0 (never), 1 (without a trial) or unset, got {setting!r}"
            )
        if setting == "0" or runtime.extension.capability() // 10 != 9:
            _verdicts[key] = False
        elif setting == "1":
            _verdicts[key] = True
        elif runtime.capturing():
            return False  # a trial waits for the stream: the next call decides
        else:
            objection = trial(name, runtime)
            if objection is not None and "cudaErrorStreamCapture" in objection:
                return False  # another stream is being recorded: the next call decides
            _verdicts[key] = objection is None
            if objection is not None:
                warn_caller(
                    f"{name}: the kernels for compute capability 9.0 failed their trial on this device ({objection}); "
                    "slower ones are used instead. Please report this; FASTDL_HOPPER=0 silences it.",
                    RuntimeWarning,
                )
        return _verdicts[key]


def trial(name: str, runtime: Any) -> str | None:
    """Compute the family's problem both ways; None if all is well, or what is not."""
    extension, problem, kernel = runtime.extension, _families[name], name.split()[0]
    try:
        with choose(False):
            want = _to_host(
                problem(runtime), runtime
            )  # so the patience below is for the trial, not for what came before
    except RuntimeError as error:
        if "cudaErrorStreamCapture" in str(error):
            return str(error)
        raise
    begin, end = (getattr(extension, f"{kernel}_trial_{which}", None) for which in ("begin", "end"))
    try:
        if begin is not None:
            begin()
        try:
            with choose(True):
                got = problem(runtime)
        finally:  # a wait in vain must be an error again, whatever happened
            hangs = not runtime.finishes_within(_PATIENCE)
            ended = hangs or end is None or end(runtime.stream())
        if hangs:
            raise TimeoutError(
                f"{name}: the kernels for compute capability 9.0 hang in their trial on this device, and CUDA cannot "
                "stop them; end this process, start it again with FASTDL_HOPPER=0 in the environment, which uses "
                "slower kernels, and please report this"
            )
        if not ended:
            return "a kernel waited in vain"
        computed = _to_host(got, runtime)
    except RuntimeError as error:
        try:
            runtime.to_host(runtime.zeros((1,), np.float32))
        except RuntimeError:
            if "cudaErrorStreamCapture" not in str(error):
                raise RuntimeError(
                    f"{name}: the kernels for compute capability 9.0 made this device fail in their trial ({error}); "
                    "CUDA cannot go on in a process after that. Start it again with FASTDL_HOPPER=0 in the "
                    "environment, which uses slower kernels, and please report this"
                ) from error
        return str(error)
    for number, (a, b) in enumerate(zip(computed, want, strict=True)):
        x, y = a.astype(np.float64), b.astype(np.float64)
        tolerance = 2.0**-8 if a.dtype.name == "float32" else 2.0**-6
        error_of_largest = np.max(np.abs(x - y), initial=0.0) / max(np.max(np.abs(y), initial=0.0), 1e-30)
        if not error_of_largest <= tolerance:
            return f"result {number} differs by {error_of_largest:.2g} of the largest element"
    return None


def _to_host(arrays: Any, runtime: Any) -> list[Any]:
    return [np.asarray(runtime.to_host(array)) for array in arrays]

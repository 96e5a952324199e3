"""Calls of the CUDA kernels for sanitizers: ``calls``, ``short`` (one dtype), or the name of a planted kernel.

Under emulation for tools/sanitize_cuda.sh, or on a GPU (``FASTDL_TEST_GPU=1``) for NVIDIA's compute-sanitizer. Without
pytest: a sanitizer's report ends the process, and nothing else should run beside the kernels.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np

import emulation
from test_cuda_emulator_hopper import multiply


def main(what: str) -> None:
    if what not in ("calls", "short"):
        extension = emulation.extension()
        if hasattr(extension.Mistake, what):
            multiply(extension, "float16", "mixed", 64, 64, 304, what)
            return
        x, y = (np.ones(s, np.float32) for s in ((150, 64) if what == "add_without_turns" else 64, 64))
        addresses = [emulation.address(a) for a in (y, x)]
        if what == "add_without_turns":
            extension.add_without_turns(*addresses, len(x))
        else:
            extension.run_planted(what, *addresses, 64)
        return
    import rnn_cases
    import test_cuda_hopper
    import test_cuda_hopper_backward
    import test_cuda_hopper_conv
    from fastdl import kernels
    from fastdl.kernels.cuda import hopper
    from test_cuda_kernels import calls, further

    cuda = emulation.backend()
    dtypes = (np.float32, np.float16) if what == "calls" else (np.float16,)
    for dtype in dtypes:
        for name, *arguments in calls(dtype) + further(dtype):
            # All pairs of so many entries are a minute under a sanitizer; fewer take the same kernel, more are sorted.
            if not (name == "embedding_backward" and 500 < arguments[1].size <= 2048):
                getattr(cuda, name)(*arguments)
    kernels.precisions.convolution = "high"
    with hopper.choose(True):
        for name, *arguments in (
            *test_cuda_hopper.calls(np.float16),
            *test_cuda_hopper_backward.calls(np.float16),
            *(call for dtype in dtypes for call in test_cuda_hopper_conv.calls(dtype)),
        ):
            getattr(cuda, name)(*arguments)
        for cell, name in (("gru", "lengths"), ("lstm", "wide lengths")):  # in a block, in clusters
            rnn_cases.compute(cuda, *rnn_cases.problem(name, cell, np.float32, directions=2))
    if not emulation.on_gpu():
        for form in ("along", "across", "registers"):
            multiply(emulation.extension(), "float16", form, 80, 72, 304)
    print(f"{len(calls(np.float32) + further(np.float32))} calls in {len(dtypes)} dtypes: nothing to report")


if __name__ == "__main__":
    if importlib.util.find_spec("fastdl") is None:  # not installed, then built in place
        sys.path.insert(0, str(emulation.ROOT / "python"))
    main(sys.argv[1])

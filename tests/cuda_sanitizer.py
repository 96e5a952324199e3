"""Calls of the CUDA kernels under emulation for tools/sanitize_cuda.sh: ``calls``, or the name of a planted kernel.

Without pytest: a sanitizer's report ends the process, and nothing else should run beside the kernels.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np

import emulation


def main(what: str) -> None:
    extension = emulation.extension()
    if what != "calls":
        x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
        addresses = [a.__array_interface__["data"][0] for a in (y, x)]
        extension.run_planted(what, *addresses, 64)
        return
    from test_cuda_kernels import calls

    cuda = emulation.backend()
    extension.set_order("random", 0)
    for dtype in (np.float32, np.float16):
        for name, *arguments in calls(dtype):
            getattr(cuda, name)(*arguments)
    print(f"{len(calls(np.float32))} calls in two dtypes: nothing to report")


if __name__ == "__main__":
    if importlib.util.find_spec("fastdl") is None:  # not installed, then built in place
        sys.path.insert(0, str(emulation.ROOT / "python"))
    main(sys.argv[1])

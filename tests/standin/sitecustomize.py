"""With this folder and ``tests`` on PYTHONPATH, every Python process meets a GPU that is none: the stand-in for CuPy,
with the CUDA kernels compiled for the CPU behind it, which ``FASTDL_CUDA_EMULATED`` (a folder) must have already.
``bench/gpu_day.sh --dry-run`` uses it."""

import os

if "FASTDL_CUDA_EMULATED" in os.environ:
    import fake_cupy

    fake_cupy.install(emulated=True)

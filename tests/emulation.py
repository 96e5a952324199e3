"""The CUDA kernels on the CPU: builds ``_cuda_emulated`` once when a test first needs it, and gives it NumPy arrays.

Needs x86-64, cmake 3.26, ninja, pybind11 and the CUDA toolkit's headers (nvcc on the PATH, or CUDA_HOME).
``FASTDL_CUDA_EMULATED`` names a folder with a module that is built already; tools/sanitize_cuda.sh uses that. With
``FASTDL_TEST_GPU=1`` a real GPU takes the emulation's place.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAME = "cuda"  # beside the instruction-set levels, in tests' parameters
ORDERS = [("ascending", 0), ("descending", 0), ("random", 1), ("random", 2)]


@functools.cache
def tools() -> bool:
    """Are the tools here that a build takes beside compilers: cmake 3.26, ninja, pybind11?"""
    if importlib.util.find_spec("pybind11") is None or not shutil.which("cmake") or not shutil.which("ninja"):
        return False
    version = subprocess.run(["cmake", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (3, 26)


def available() -> bool:
    """Can the kernels be built (or are they built) here, or is there a GPU to use?"""
    if on_gpu():
        return True
    if os.environ.get("FASTDL_CUDA_EMULATED"):
        return True
    toolkit = os.environ.get("CUDA_HOME") or shutil.which("nvcc")
    return bool(toolkit) and platform.machine() == "x86_64" and tools()


def address(array: Any) -> int:
    """Of the first element of a NumPy array, as kernels take it."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


@functools.cache
def extension() -> ModuleType:
    """The extension module, built if its sources changed."""
    folder = os.environ.get("FASTDL_CUDA_EMULATED")
    if folder is None:
        folder = str(ROOT / "build" / "emulation")
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/lock", "w") as lock:  # several workers of pytest may come at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            built = subprocess.run(
                [ROOT / "tools" / "emulate.sh"], capture_output=True, text=True, check=False
            )
            assert built.returncode == 0, built.stdout + built.stderr
    (path,) = Path(folder).glob("_cuda_emulated*.so")
    spec = importlib.util.spec_from_file_location("_cuda_emulated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_gpu() -> bool:
    """Are the tests to use a real GPU (``FASTDL_TEST_GPU=1``) instead of the emulation?"""
    return os.environ.get("FASTDL_TEST_GPU") == "1"


def used() -> ModuleType:
    """The extension module of the kernels under test: emulated, or the GPU's own."""
    return importlib.import_module("fastdl._cuda") if on_gpu() else extension()


@functools.cache
def backend() -> Any:
    """``fastdl.kernels.cuda``, working on NumPy arrays: emulated, or with copies to a GPU and back."""
    if on_gpu():
        import gpu_backend

        return gpu_backend.Backend()
    from fastdl.kernels import cuda
    from fastdl.kernels.cuda import device

    extension().set_order("random", 0)
    device.emulate(extension())
    return cuda

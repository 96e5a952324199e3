"""Shared settings: threads of the libraries compared with, and the guard around every array."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

# torch's and NumPy's threads beside ours would measure the machine, not the code; set before either is imported.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if os.environ.get("FASTDL_TESTS_WITHOUT_TORCH"):
    sys.modules["torch"] = None  # type: ignore[assignment]  # every import of it fails, comparisons are skipped

import pytest

import emulation
import fastdl
from fastdl import kernels
from parity import backends, load, on_threads, with_threads


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collections leave out what the collected tests hold, which would take each half a second."""
    gc.freeze()


@pytest.fixture(autouse=True)
def guarded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test with guard bytes around pooled arrays and fail it if any was overwritten."""
    modules = [kernels.load(level) for level in kernels.levels()]
    before = [module.memory_stats()["guard_errors"] for module in modules]
    for module in modules:
        module.set_memory_guard(True)
    yield
    for module, errors in zip(modules, before, strict=True):
        module.set_memory_guard(False)
        if "guard" not in request.node.name:
            assert module.memory_stats()["guard_errors"] == errors, (
                "a kernel wrote beyond the end of an array"
            )
    # After an illegal access a process has no device any more, and every later test would fail: pytest-xdist starts
    # another one.
    if os.environ.get("FASTDL_TEST_GPU") == "1" and "PYTEST_XDIST_WORKER" in os.environ:
        import gpu_backend

        if gpu_backend.device_is_lost():
            os._exit(3)


@pytest.fixture(params=with_threads(backends()))
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every level, with every number of threads."""
    level, threads = request.param
    module = load(level)
    with on_threads(module, threads):
        yield module


@pytest.fixture(params=with_threads(backends(cuda=True)))
def any_backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """As ``backend``, and the CUDA kernels under emulation."""
    level, threads = request.param
    module = load(level)
    with on_threads(module, threads):
        yield module


@pytest.fixture(params=["float16", "bfloat16"])
def half(request: pytest.FixtureRequest) -> Any:
    """Each dtype of half precision."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return getattr(fastdl, request.param)


@pytest.fixture
def gpu() -> Iterator[Any]:
    """A machine with two GPUs, on the stand-in for CuPy; on a real one skipped, as it would stay away from then on."""
    import fake_cupy

    if emulation.on_gpu():
        pytest.skip("looks at the stand-in")
    yield fake_cupy.install()
    fake_cupy.uninstall()


@pytest.fixture
def computing_gpu() -> Iterator[None]:
    """The machine's GPU, or the emulated one beneath the stand-in for CuPy, its threads in random order."""
    import fake_cupy

    if emulation.on_gpu():
        yield
        return
    emulation.extension().set_order("random", 0)
    fake_cupy.install(emulated=True)
    yield
    fake_cupy.uninstall()


@pytest.fixture(scope="session")
def cuda() -> Any:
    """The CUDA kernels on NumPy arrays: emulated, or on a GPU."""
    return emulation.backend()


@pytest.fixture
def extension() -> Iterator[Any]:
    """The module of the emulated kernels."""
    module = emulation.extension()
    yield module
    module.set_order("random", 0)


@pytest.fixture(params=emulation.ORDERS, ids=lambda o: f"{o[0]}-{o[1]}")
def order(request: pytest.FixtureRequest, extension: Any) -> Any:
    """Each order in which the emulation runs threads."""
    extension.set_order(*request.param)
    return request.param

"""Threads, memory and levels under the kernels."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fastdl import _cpuid, kernels

cpu = kernels.cpu


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def threads():
    before = cpu.num_threads()
    yield cpu.set_num_threads
    cpu.set_num_threads(before)


def test_import_starts_no_thread():
    code = """
import os
from fastdl import kernels
print(len(os.listdir('/proc/self/task')), kernels.cpu.workers_started())
"""
    assert python(code, OPENBLAS_NUM_THREADS="1") == "1 0"


def test_number_of_threads_from_the_environment():
    code = "from fastdl import kernels; print(kernels.cpu.num_threads())"
    assert python(code, FASTDL_NUM_THREADS="3", OMP_NUM_THREADS="7") == "3"
    assert python(code, FASTDL_NUM_THREADS="", OMP_NUM_THREADS="7,2") == "7"


def test_number_of_threads_is_checked():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        cpu.set_num_threads(0)


def test_results_do_not_depend_on_the_number_of_threads(threads):
    x = np.random.default_rng(0).standard_normal(1_000_003).astype(np.float32)
    want = np.maximum(x, 0)
    for n in (1, 2, 5):
        threads(n)
        np.testing.assert_array_equal(cpu.relu_forward(x), want)
    assert cpu.workers_started() >= 1


def test_callers_from_several_python_threads(threads):
    threads(3)
    x = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    want = np.maximum(x, 0)
    wrong = []

    def work():
        for _ in range(50):
            if not np.array_equal(cpu.relu_forward(x), want):
                wrong.append(1)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def cores():
    """The cores that this process may use, threads that share one counted once, and its CPUs."""
    cpus = os.sched_getaffinity(0)
    files = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus]
    if not all(file.exists() for file in files):
        return len(cpus)
    return len({file.read_text() for file in files})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux's view of a machine")
def test_a_thread_for_each_core():
    code = "from fastdl import kernels; print(kernels.cpu.num_threads())"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert 1 <= int(done.stdout) <= cores()  # less where a container's share is less


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the time of threads from /proc")
def test_small_jobs_leave_other_workers_alone():
    seconds = python("""
import os, time
import numpy as np
from pathlib import Path
from fastdl import kernels
x = np.ones(2_000_000, np.float32)
kernels.cpu.set_num_threads(6)
kernels.cpu.relu_forward(x)
tasks = sorted(int(task.name) for task in Path("/proc/self/task").iterdir())
workers = tasks[-kernels.cpu.workers_started():]
assert len(workers) == 5
kernels.cpu.set_num_threads(2)
time.sleep(0.05)
def busy():
    stats = [Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split() for task in workers[1:]]
    return sum(int(s[11]) + int(s[12]) for s in stats) / os.sysconf("SC_CLK_TCK")
before, end = busy(), time.perf_counter() + 1
while time.perf_counter() < end:
    kernels.cpu.relu_forward(x)
print(busy() - before)
""")
    assert float(seconds) < 0.1


def test_fork_after_first_use():
    code = """
import os, numpy as np
from fastdl import kernels
kernels.cpu.set_num_threads(3)
x = np.ones(1_000_000, np.float32)
kernels.cpu.relu_forward(x)
assert kernels.cpu.workers_started() == 2
child = os.fork()
if child == 0:
    before = kernels.cpu.workers_started()
    right = bool((kernels.cpu.relu_forward(x) == 1).all()) and before == 0 and kernels.cpu.workers_started() == 2
    os._exit(0 if right else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (kernels.cpu.relu_forward(x) == 1).all()
"""
    python(code)


@pytest.mark.parametrize("level", kernels.levels())
def test_level_is_capped_by_the_environment(level):
    code = "from fastdl import kernels; print(kernels.cpu.level)"
    assert python(code, FASTDL_MAX_ISA=level) == level


def test_unknown_level_in_the_environment():
    done = subprocess.run(
        [sys.executable, "-c", "import fastdl"],
        capture_output=True,
        text=True,
        env={**os.environ, "FASTDL_MAX_ISA": "sse9"},
    )
    assert done.returncode != 0
    assert "FASTDL_MAX_ISA must be one of baseline, avx2, avx512, got 'sse9'" in done.stderr


def test_blocks_are_reused_and_aligned():
    cpu.empty_cache()
    a = cpu.empty((1000, 1000), np.dtype(np.float32))
    assert a.ctypes.data % 64 == 0
    address = a.ctypes.data
    before = cpu.memory_stats()
    del a
    after = cpu.memory_stats()
    assert after["in_use"] == before["in_use"] - (after["cached"] - before["cached"])
    assert cpu.empty((1000, 1000), np.dtype(np.float32)).ctypes.data == address
    assert cpu.memory_stats()["reused"] == after["reused"] + 1


def test_empty_cache_and_limit():
    before = cpu.memory_stats()["cache_limit"]
    try:
        cpu.empty_cache()
        assert cpu.memory_stats()["cached"] == 0
        cpu.set_cache_limit(1 << 20)
        a = cpu.empty((1 << 22,), np.dtype(np.uint8))
        del a
        assert cpu.memory_stats()["cached"] <= 1 << 20
    finally:
        cpu.set_cache_limit(before)


def bytes_of(megabytes):  # a little less, so that the guard behind it stays in the size class
    return cpu.empty(((megabytes << 20) - 4096,), np.dtype(np.uint8))


def test_a_block_serves_arrays_that_are_a_little_smaller():
    cpu.empty_cache()
    block = bytes_of(12).ctypes.data
    smaller = bytes_of(9)
    assert smaller.ctypes.data == block
    in_use = cpu.memory_stats()["in_use"]
    del smaller
    assert cpu.memory_stats()["in_use"] == in_use - (9 << 20)  # what was asked for, whatever the block
    assert bytes_of(5).ctypes.data != block


def test_sizes_that_vary_do_not_fill_the_cache():
    python("""
import numpy as np
from fastdl import kernels
cpu = kernels.cpu
sizes = np.random.RandomState(0).randint(1 << 20, 64 << 20, 400)
for a, b in zip(sizes[:200], sizes[200:]):
    held = [cpu.empty((int(n),), np.dtype(np.uint8)) for n in (a, b)]
    del held
    stats = cpu.memory_stats()
    assert stats["cached"] <= max(256 << 20, stats["in_use_peak"]), stats
assert stats["reused"] > 2 * (stats["allocations"] - stats["reused"]), stats
""")


def test_what_is_given_back_is_what_was_unused_for_longest():
    cpu.empty_cache()
    limit = cpu.memory_stats()["cache_limit"]
    blocks = {n: bytes_of(n) for n in (6, 12, 24)}
    addresses = {n: block.ctypes.data for n, block in blocks.items()}
    for n in (12, 24, 6):
        del blocks[n]
        bytes_of(1)  # time goes on
    try:
        cpu.set_cache_limit(40 << 20)
        assert 30 << 20 <= cpu.memory_stats()["cached"] < 40 << 20
        kept = {n: bytes_of(n) for n in (6, 24)}
        assert all(block.ctypes.data == addresses[n] for n, block in kept.items())
    finally:
        cpu.set_cache_limit(limit)


def test_an_array_outlives_its_owner():
    y = cpu.relu_forward(np.ones((64, 64), np.float32))
    row = y[3]
    del y
    for _ in range(10):
        cpu.relu_forward(np.full((64, 64), 7, np.float32))
    np.testing.assert_array_equal(row, 1)


def test_too_much_memory_is_a_memory_error():
    for shape in ((1 << 62,), (1 << 40, 1 << 40), (1 << 44,)):
        with pytest.raises(MemoryError):
            cpu.empty(shape, np.dtype(np.float64))
    assert (cpu.relu_forward(np.ones(3, np.float32)) == 1).all()


def test_guard_finds_a_write_beyond_the_end():
    cpu.set_memory_guard(True)
    try:
        errors = cpu.memory_stats()["guard_errors"]
        y = cpu.relu_forward(np.ones(100, np.float32))
        del y
        assert cpu.memory_stats()["guard_errors"] == errors
        for offset in (-1, 400):
            y = cpu.relu_forward(np.ones(100, np.float32))
            ctypes.memset(y.ctypes.data + offset, 0, 1)
            del y
            errors += 1
            assert cpu.memory_stats()["guard_errors"] == errors
    finally:
        cpu.set_memory_guard(False)


def test_denormals_are_flushed_inside_kernels_only():
    tiny = np.full(100_000, 1e-40, np.float32)
    assert (cpu.relu_forward(tiny) >= 0).all()
    assert float(np.float32(1e-40) * np.float32(1.0)) != 0.0  # the caller's mode is as before


def test_import_time(tmp_path):
    """``import fastdl`` beyond NumPy's own import: 150 ms of CPU time is the budget, byte code cached as usual."""
    code = """
import json, time, numpy
start = time.process_time()
import fastdl
print(json.dumps(time.process_time() - start))
"""
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(json.loads(python(code, **cached)) for _ in range(5)) < 0.15


def test_import_needs_numpy_only():
    code = """
import sys, numpy
before = set(sys.modules)
import fastdl
top = {name.partition('.')[0] for name in set(sys.modules) - before}
top -= set(sys.stdlib_module_names) | {'fastdl', 'numpy', 'cython_runtime'}
print(sorted(name for name in top if not name.startswith('_')))
"""
    assert python(code) == "[]"


def test_levels_of_one_process_compute_alike_and_leave_the_choice_alone():
    x = np.linspace(-3, 3, 37, dtype=np.float32)
    chosen = kernels.cpu.level
    for level in kernels.levels():
        backend = kernels.load(level)
        assert backend.level == level
        np.testing.assert_allclose(backend.add_forward(x, x), 2 * x)
        assert kernels.cpu.level == chosen
        with pytest.raises(ValueError, match="shape"):
            backend.add_forward(x, x[:5])
        assert kernels.cpu.level == chosen
        assert backend.add_forward.__name__ == "add_forward"
        assert not hasattr(backend, "no_such_kernel")
    assert kernels.load(chosen) is kernels.cpu


@pytest.mark.skipif(not hasattr(kernels.cpu, "open_level"), reason="the only level is in the module")
def test_libraries_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="level 'avx1024' has not been opened"):
        kernels.cpu.use_level("avx1024")
    with pytest.raises(ImportError, match=r"level avx1024 cannot be loaded: .*no_such_file"):
        kernels.cpu.open_level("avx1024", str(tmp_path / "no_such_file.so"))
    with pytest.raises(ImportError, match="belongs to another build"):
        kernels.cpu.open_level("avx1024", _cpuid.__file__)  # a library, but without a level
    # Another build: the same library with another hash of the names.
    level = kernels.cpu.level
    library = Path(kernels.cpu.__file__).with_name(f"libfastdl_{level}.so.0")
    text = library.read_bytes()
    hash_of_names = int(kernels.cpu.names_hash).to_bytes(8, "little")
    assert text.count(hash_of_names) == 1
    other = tmp_path / library.name
    other.write_bytes(text.replace(hash_of_names, bytes(8)))
    with pytest.raises(ImportError, match="belongs to another build"):
        kernels.cpu.open_level("avx1024", str(other))
    assert kernels.cpu.level == level


def test_the_module_of_a_device():
    import fastdl

    assert fastdl.get_device_module("cpu") is fastdl.cpu
    assert fastdl.get_device_module() is (fastdl.cuda if fastdl.cuda.is_available() else fastdl.cpu)
    assert (fastdl.cpu.current_device(), fastdl.cpu.device_count(), fastdl.cpu.is_initialized()) == (
        "cpu",
        1,
        True,
    )
    fastdl.cpu.set_device("cpu")
    fastdl.cpu.synchronize()
    with pytest.raises(RuntimeError, match="has no module"):
        fastdl.get_device_module("meta")


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_a_number_of_threads_that_cannot_be_is_refused_as_pytorch_refuses_it(n):
    import fastdl

    before = fastdl.get_num_threads()
    with pytest.raises(RuntimeError, match="set_num_threads: n must be an integer of at least 1, got"):
        fastdl.set_num_threads(n)
    assert fastdl.get_num_threads() == before

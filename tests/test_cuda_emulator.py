"""The emulator finds planted mistakes and leaves clean kernels alone (csrc/cuda/emulation/planted.cpp)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation
from emulation import address

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(),
    reason="needs the CUDA toolkit's headers, cmake and pybind11",
)

X = np.arange(64, dtype=np.float32) - 30


def run(module: Any, name: str, x: np.ndarray = X, threads: int = 64) -> np.ndarray:
    y = np.zeros(64, np.float32)
    module.run_planted(name, address(y), address(np.ascontiguousarray(x)), threads)
    return y


CLEAN = {
    "reversed": X[::-1],
    "copied_async": X[::-1],
    "copied_or_zeros": np.where(np.arange(64) < 32, X, 0),
    "largest": np.full(64, 33.0),
    "sum_of_blocks": 4 * X,
    "warp_sums": np.where(
        np.arange(64) % 32 == 0, X.reshape(2, 32).sum(1).repeat(32), np.repeat([1, 32], 32)
    ),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_kernels_do_not_alarm(extension, name, order):
    np.testing.assert_array_equal(run(extension, name), CLEAN[name])


def test_a_missing_barrier_reads_what_is_not_there(extension, order):
    y = run(extension, "reversed_without_barrier")
    assert np.isnan(y).sum() == 32, "half of the threads come before the one they read from"
    read = ~np.isnan(y)
    np.testing.assert_array_equal(y[read], X[::-1][read])


def test_a_missing_barrier_between_rounds_mixes_them(extension, order):
    y = run(extension, "rounds_without_barrier")
    right = 2 * X[::-1] + 1  # every order leaves some threads behind, which then read the next round's values
    assert (y != right).any()
    assert not np.isnan(y).any()


def test_memory_that_nobody_wrote_is_nan(extension, order):
    assert np.flatnonzero(np.isnan(run(extension, "uninitialised_shared"))).tolist() == [5]
    assert np.isnan(run(extension, "uninitialised_dynamic")).all()


def test_a_copy_without_wait_has_not_arrived(extension, order):
    assert np.isnan(run(extension, "copied_without_wait")).any()
    assert np.isnan(run(extension, "copied_or_zeros_without_wait")).any()


def masked(tiles: Any) -> np.ndarray:
    """Values of 8 rows and 8 keys, negative (hidden) but for the given tiles of (four rows, four keys)."""
    x = np.full((8, 8), -1, np.float32)
    for rows, keys in tiles:
        x[4 * rows : 4 * rows + 4, 4 * keys : 4 * keys + 4] = np.arange(1, 17).reshape(4, 4)
    return x


def test_a_masks_tile_left_out_by_mistake_shows(extension, order):
    """A warp that leaves a tile out alone is found at the barrier or, where another tile makes up for it, by values; a
    wrong judge by the values of all others."""
    for tiles in [(0, 0)], [(0, 0), (1, 1)], [(1, 0)], []:
        x = masked(tiles)
        want = np.where(x > 0, x, 0).sum(1).repeat(8)
        np.testing.assert_array_equal(run(extension, "masked_sums", x), want)
        judged = run(extension, "masked_sums_by_first", x)
        if any(rows == 1 for rows, _ in tiles):  # what the first row does not see
            assert (judged != want)[32:].all()
            assert (judged == want)[:32].all()
        else:
            np.testing.assert_array_equal(judged, want)
        if len(tiles) == 1:
            with pytest.raises(RuntimeError, match="divergent barrier"):
                run(extension, "masked_sums_by_warp", x)
        elif tiles:
            assert (run(extension, "masked_sums_by_warp", x) != want).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("static_and_dynamic", "static and dynamic shared memory together are more than 48 KiB"),
        (
            "copied_uncommitted",
            r"copied_uncommitted: cp_async: 1 copies of thread \(\d+, 0, 0\) are in no group at the end",
        ),
        ("stored_before_copy", "stored_before_copy: cp_async: the target was written before the copy came"),
        ("beyond_shared", r"shared array of 64 elements \(planted.cpp:\d+\): index 64"),
        (
            "divergent_barrier",
            r"divergent_barrier: divergent barrier: thread \(\d+, 0, 0\) waits at the barrier in planted.cpp:(\d+), "
            r"thread \(\d+, 0, 0\) came to the one in planted.cpp:(\d+)",
        ),
        (
            "barrier_without_some",
            r"divergent barrier: thread \(\d+, 0, 0\) waits .* in planted.cpp:\d+, while thread \(4\d, 0, 0\) has left",
        ),
        (
            "partial_shuffle",
            r"divergent warp operation: thread \(\d+, 0, 0\) waits .* in planted.cpp:\d+, while thread \(\d+, 0, 0\) "
            "has left the kernel",
        ),
        (
            "divergent_shuffle",
            r"divergent warp operation: .* planted.cpp:\d+, .* came to the one in planted.cpp",
        ),
    ],
)
def test_reported_mistakes(extension, name, message, order):
    for _ in range(2):  # and the emulator works on after a report
        with pytest.raises(RuntimeError, match=message):
            run(extension, name)
    np.testing.assert_array_equal(run(extension, "reversed"), X[::-1])


def test_blocks_of_a_cooperative_grid_meet(extension, order):
    y = run(extension, "meeting_of_blocks")
    np.testing.assert_array_equal(y[:32], X[:32])
    np.testing.assert_array_equal(y[32:48], np.roll(X[:32].reshape(4, 8), -1, 0)[:, :4].ravel())
    # Whoever comes first reads what is not there yet.
    assert (run(extension, "meeting_without_wait")[32:48] != y[32:48]).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "meeting_with_nobody",
            r"thread \(0, 0, 0\) of block \d waits for ever in planted.cpp:\d+: for 5 signals, of which 4 came",
        ),
        ("meeting_without_launch", r"wait_for in planted.cpp:\d+ needs launch_cooperative"),
        ("meeting_of_too_many", "9 blocks do not fit at once, only 8"),
    ],
)
def test_blocks_that_wait_in_vain(extension, name, message, order):
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            run(extension, name)


def test_stores_in_a_cluster_arrive_later(extension, order):
    numbers = X[:4]
    for _ in range(5):
        numbers = numbers.sum() + X[4:8]
    right = np.tile(numbers, 4)
    np.testing.assert_array_equal(run(extension, "exchange_in_cluster")[:16], right)
    with pytest.raises(RuntimeError, match=r"in.(the )?cluster.* has left the kernel"):
        run(extension, "exchange_without_staying")
    if order[0] == "descending":  # the newest first: a neighbour's next number before others' of this round
        assert (run(extension, "exchange_by_one_inbox")[:16] != right).any()


def test_accesses_are_aligned_and_launches_within_bounds(extension, order):
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"misaligned_pack: misaligned access in planted.cpp:\d+: .* for 16 bytes"
        ):
            run(extension, "misaligned_pack")
        for name, instruction in ("misaligned_zeros", "cp_async"), ("misaligned_rows", "ldmatrix"):
            with pytest.raises(
                RuntimeError, match=f"{name}: {instruction}: addresses must be multiples of 16 bytes"
            ):
                run(extension, name)
        with pytest.raises(RuntimeError, match="64 threads, but the kernel's launch bounds allow 32"):
            run(extension, "more_threads_than_bounds")
        np.testing.assert_array_equal(run(extension, "threads_within_bounds"), X)


def test_a_device_has_limits(extension):
    extension.set_device(86, 255)
    try:
        with pytest.raises(
            RuntimeError, match="256 bytes of shared memory, but the device's blocks may have 255"
        ):
            run(extension, "reversed")
        extension.set_device(86, 300)
        with pytest.raises(RuntimeError, match=r"512 bytes of static and dynamic shared memory, .* 300"):
            run(extension, "reversed")
    finally:
        extension.set_device(90, 227 << 10)


def test_new_memory_is_not_a_number():
    emulation.backend()
    from fastdl.kernels.cuda import device

    assert np.isnan(device.empty((2, 3), np.dtype(np.float32))).all()
    assert (device.empty(5, np.dtype(np.int64)) == -1).all()


@pytest.mark.parametrize("threads", [0, 31, 48, 1056])
def test_blocks_are_whole_warps(extension, threads):
    with pytest.raises(RuntimeError, match=f"32, 64, .. 1024 threads, not {threads}"):
        run(extension, "reversed", threads=threads)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tf32"])
def test_matrix_instructions(extension, dtype):
    """Fragments are laid out as the PTX manual says: a product through ldmatrix and mma is the matrix product."""
    rng = np.random.default_rng(0)
    c = np.full((16, 8), np.nan, np.float32)
    if dtype == "tf32":
        a, b = rng.integers(-9, 9, (16, 8)).astype(np.float32), rng.integers(-9, 9, (8, 8)).astype(np.float32)
        want = a @ b
    else:
        kind = np.float16 if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
        a, b = rng.integers(-9, 9, (16, 16)).astype(kind), rng.integers(-9, 9, (8, 16)).astype(kind)
        want = a.astype(np.float32) @ b.astype(np.float32).T
    extension.product(dtype, address(c), address(a), address(b))
    np.testing.assert_array_equal(c, want)


def test_tf32_drops_thirteen_bits(extension):
    a, b, c = np.zeros((16, 8), np.float32), np.eye(8, dtype=np.float32), np.zeros((16, 8), np.float32)
    a[0] = [1 + 2**-10, 1 + 2**-11, 1 + 2**-12, 1 - 2**-12, np.pi, 3.0, -np.pi, 2**-130]
    extension.product("tf32", address(c), address(a), address(b))
    want = [1 + 2**-10, 1 + 2**-10, 1, 1, 3.140625, 3.0, -3.140625, 2**-130]
    np.testing.assert_array_equal(c[0], want)


def test_tensor_cores_cut(extension):
    """Three quarters of a last place would be rounded up."""
    a, b, c = np.zeros((16, 8), np.float32), np.ones((8, 8), np.float32), np.zeros((16, 8), np.float32)
    a[:, 0], a[:, 1] = 1, 0.75 * 2**-23
    a[8:] *= -1
    extension.product("tf32", address(c), address(a), address(b))
    np.testing.assert_array_equal(c[:, 0], [1] * 8 + [-1] * 8)
    a[:, :2] = 2.0**127  # but what is too large is infinite
    extension.product("tf32", address(c), address(a), address(b))
    np.testing.assert_array_equal(c, np.inf)

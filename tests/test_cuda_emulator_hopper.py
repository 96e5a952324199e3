"""The emulator's bulk copies, barriers and wgmma compute what they should, and planted mistakes show
(csrc/cuda/emulation/planted_hopper.cpp)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import emulation
from emulation import address

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(),
    reason="needs the CUDA toolkit's headers, cmake and pybind11",
)


def multiply(module: Any, kind: str, form: str, m: int, n: int, k: int, mistake: str = "none") -> Any:
    """What the kernel makes of small integers, and what it should."""
    rng = np.random.default_rng(m + n + k)
    dtype = {"float16": np.float16, "tf32": np.float32}.get(kind)
    if dtype is None:
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    a, b = (rng.integers(-9, 9, (rows, k)).astype(dtype) for rows in (m, n))
    want = a.astype(np.float32) @ b.astype(np.float32).T
    if form == "across":
        a = np.ascontiguousarray(a.T)
    if form in ("across", "mixed", "registers"):
        b = np.ascontiguousarray(b.T)
    c = np.full((m, n), 77, np.float32)
    module.multiply_tiles(
        kind, form, address(c), address(a), address(b), m, n, k, getattr(module.Mistake, mistake)
    )
    return c, want


def test_products_cut(extension):
    """As those of mma do: three quarters of a last place would be rounded up."""
    a, b = np.zeros((64, 64), np.float16), np.zeros((64, 64), np.float16)
    a[:, 0], a[:, 1], b[:, 0], b[:, 1] = 1, 2**-12, 1, 0.75 * 2**-11
    c = np.zeros((64, 64), np.float32)
    arrays = address(c), address(a), address(b)
    extension.multiply_tiles("float16", "along", *arrays, 64, 64, 64, extension.Mistake.none)
    np.testing.assert_array_equal(c, 1)


@pytest.mark.parametrize(
    ("kind", "form"),
    [(k, f) for k in ("float16", "bfloat16") for f in ("along", "across", "mixed", "registers")]
    + [("tf32", "along")],
)
def test_products_of_tiles(extension, kind, form, order):
    """Ragged in every direction: beyond the arrays the copies bring zeros and write nothing."""
    for m, n, k in [(64, 64, 64), (80, 72, 200)]:
        np.testing.assert_array_equal(*multiply(extension, kind, form, m, n, k))


def test_boxes_and_turns(extension, order):
    """A box that begins before the array and ends behind it; arrivals of one half release the other."""
    x = np.arange(192, dtype=np.float32).reshape(2, 3, 4, 8)
    y = np.full_like(x, 77)
    extension.shifted_box(address(y), address(x))
    want = np.zeros_like(x)
    want[:, :2, 1:, 2:] = x[:, 1:, :3, :6]
    np.testing.assert_array_equal(y, want)
    z, turned = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    extension.take_turns(address(turned), address(z))
    np.testing.assert_array_equal(turned, z[::-1])


# What the emulator says of each mistake; nothing: numbers are wrong. "|" at the end: in some orders of threads only.
MISTAKES = {
    "no_wait_for_load": "more arrivals than the barrier has in a phase",
    "no_wait_for_product": r"wgmma in planted_hopper.cpp:\d+: the kernel ends without wgmma_wait",
    "stage_freed_early": "",
    "no_wait_for_free_stage": "more arrivals than the barrier has in a phase|",
    "no_barrier_fence": "barrier_init_fence is missing after barrier_init",
    "no_barrier_sync": r"the barrier is not initialised \(is there a sync_threads after barrier_init\?\)|",
    "too_few_bytes": r"bulk_load in planted_hopper.cpp:\d+: the kernel ends without barrier_wait for it",
    "one_arrival_missing": r"wait for ever; .*missing: 1 arrivals, 0 bytes\)",
    "product_diverges": r"not the same for the whole warpgroup: thread \(\d+, 0, 0\) has the one in planted_hopper",
    "no_product_fence": "wgmma_fence is missing before it",
    "sums_written_early": "its accumulators were written before wgmma_wait",
    "product_left": "the kernel ends without wgmma_wait for it",
    "store_left": r"bulk_store in planted_hopper.cpp:\d+: the kernel ends without bulk_wait for it",
    "store_overwritten": "",
    "load_left": r"bulk_load in planted_hopper.cpp:\d+: the kernel ends without barrier_wait for it",
    "unaligned_tile": "the tile is not at a multiple of 1024 bytes, or not advanced by whole steps",
    "too_many_registers": r"\d+ registers of 64512",
    "registers_of_half": "not by the whole warpgroup",
    "no_named_barrier": "",
    "wrong_named_count": r"named barrier 1 in planted_hopper.cpp:\d+: \d+ threads, others said \d+",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_show(extension, mistake):
    """As an error with the place, or by wrong numbers; at the latest in one of the orders of threads."""
    seen = []
    for order in emulation.ORDERS:
        extension.set_order(*order)
        try:
            got, want = multiply(extension, "float16", "mixed", 64, 64, 304, mistake)
        except RuntimeError as error:
            seen.append(str(error))
            continue
        if not np.array_equal(got, want):
            seen.append("")
    assert any(re.search(MISTAKES[mistake] or "^$", text) for text in seen), seen
    if MISTAKES[mistake] and not MISTAKES[mistake].endswith("|"):
        assert len(seen) == len(emulation.ORDERS)
    np.testing.assert_array_equal(*multiply(extension, "float16", "mixed", 64, 64, 304))


def test_every_mistake_is_tested(extension):
    assert set(extension.Mistake.__members__) == {"none", *MISTAKES}

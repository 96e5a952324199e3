"""The emulator's bulk copies, barriers and wgmma compute what they should, and planted mistakes show
(csrc/cuda/emulation/planted_hopper.cpp)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation

pytestmark = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)

ORDERS = pytest.mark.parametrize("order", emulation.ORDERS, ids=lambda o: f"{o[0]}-{o[1]}")


@pytest.fixture
def extension():
    module = emulation.extension()
    yield module
    module.set_order("random", 0)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


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


@ORDERS
@pytest.mark.parametrize(
    ("kind", "form"),
    [(k, f) for k in ("float16", "bfloat16") for f in ("along", "across", "mixed", "registers")]
    + [("tf32", "along")],
)
def test_products_of_tiles(extension, kind, form, order):
    """Ragged in every direction: beyond the arrays the copies bring zeros and write nothing."""
    extension.set_order(*order)
    for m, n, k in [(64, 64, 64), (80, 72, 200)]:
        np.testing.assert_array_equal(*multiply(extension, kind, form, m, n, k))

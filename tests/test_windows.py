"""``signal.windows``: PyTorch's values."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.signal import windows

CASES = {
    "bartlett": [{}],
    "blackman": [{}],
    "cosine": [{}],
    "exponential": [{}, {"tau": 2.5}, {"center": 1.5, "sym": False}],
    "gaussian": [{}, {"std": 2.5}],
    "general_cosine": [{"a": [0.5, 0.3, 0.2]}],
    "general_hamming": [{}, {"alpha": 0.7}],
    "hamming": [{}],
    "hann": [{}],
    "kaiser": [{}, {"beta": 3.0}],
    "nuttall": [{}],
}


@pytest.mark.parametrize("name", CASES)
def test_windows_are_torch_s(name):
    torch = pytest.importorskip("torch")
    assert set(CASES) == set(torch.signal.windows.__all__) == set(windows.__all__)
    for options in CASES[name]:
        for size in (0, 1, 2, 5, 8):
            for sym in (True, False):
                given = {"sym": sym, **options}
                got = getattr(windows, name)(size, dtype=fastdl.float64, **given)
                want = getattr(torch.signal.windows, name)(size, dtype=torch.float64, **given)
                np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-9, atol=1e-12)


def test_options_and_mistakes():
    made = fastdl.signal.windows.hann(4, requires_grad=True)
    assert made.requires_grad
    assert made.dtype is fastdl.float32
    for call, text in (
        (lambda: windows.hann(-1), "hann: requires non-negative window length"),
        (lambda: windows.gaussian(4, std=0.0), "gaussian: std must be positive"),
        (lambda: windows.exponential(4, center=1.0), "center must be None"),
        (lambda: windows.exponential(4, tau=-1.0), "tau must be positive"),
        (lambda: windows.kaiser(4, beta=-1.0), "beta must not be negative"),
        (lambda: windows.general_cosine(4, a=[]), "non-empty"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(ValueError, match="floating-point dtype"):
        windows.hann(4, dtype=fastdl.int64)


@pytest.mark.parametrize(
    "name", [f"{name}_window" for name in ("bartlett", "blackman", "hamming", "hann", "kaiser")]
)
def test_integers_are_refused(name):
    with pytest.raises(RuntimeError, match=f"{name}: expects a floating-point dtype, got int64"):
        getattr(fastdl, name)(5, dtype=fastdl.int64)

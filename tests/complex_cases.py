"""What the tests of complex numbers share: PyTorch where it is installed, and numbers."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch")
RNG = np.random.default_rng(5)
A, B = [RNG.standard_normal((3, 4)) + 1j * RNG.standard_normal((3, 4)) for _ in range(2)]
R = np.abs(RNG.standard_normal((3, 4))) + 0.1


def numbers(*shape):
    return fastdl.tensor(RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape), requires_grad=True)

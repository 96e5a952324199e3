"""What the tests of distributions have in common: parameters, tensors of two libraries, comparing them."""

from __future__ import annotations

import numpy as np

POSITIVE = [0.3, 1.0, 2.5]
REAL = [-1.0, 0.2, 3.0]
PROBS = [0.1, 0.5, 0.85]
ROWS = [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]
COVARIANCE = [[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 0.7]]
FACTOR = [[0.5, 1.0], [-1.0, 0.2], [0.3, 0.7]]


def t(library, values, dtype=np.float64):
    """A tensor of ``library`` with a copy of the values."""
    return library.from_numpy(np.array(values, dtype))


def same(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=1e-11)

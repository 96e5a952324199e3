"""A convolution's gradients as functions: torch.nn.grad beside fastdl.nn.grad."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.nn import grad as own

torch = pytest.importorskip("torch")
theirs = torch.nn.grad

CASES = [
    (1, (2, 6, 19), (8, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    (2, (2, 3, 9, 8), (4, 3, 3, 2), {}),
    (2, (3, 4, 10, 11), (4, 1, 3, 3), {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2), "groups": 4}),
    (3, (1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"padding": 1}),
]


@pytest.mark.parametrize(("axes", "x", "weight", "options"), CASES)
def test_gradients_are_torch_s(axes, x, weight, options):
    rng = np.random.default_rng(3)
    a, w = (rng.standard_normal(shape) for shape in (x, weight))
    convolve = getattr(torch.nn.functional, f"conv{axes}d")
    grad = rng.standard_normal(convolve(torch.tensor(a), torch.tensor(w), **options).shape)
    for name, arguments in (("input", (x, w, grad)), ("weight", (a, weight, grad))):
        results = []
        for lib, module in ((torch, theirs), (fastdl, own)):
            given = [lib.tensor(v) if isinstance(v, np.ndarray) else v for v in arguments]
            for t in given:
                if not isinstance(t, tuple):
                    t.requires_grad_()
            result = getattr(module, f"conv{axes}d_{name}")(*given, **options)
            (result * result).sum().backward()
            results.append(
                [result.detach().numpy(), *(t.grad.numpy() for t in given if not isinstance(t, tuple))]
            )
        for expected, got in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_shapes_that_do_not_fit():
    weight = fastdl.randn(4, 3, 3, 3)
    with pytest.raises(
        ValueError, match=r"conv2d_input: grad_output must .*\(2, 4, 6, 6\), got \(2, 4, 5, 6\)"
    ):
        own.conv2d_input((2, 3, 8, 8), weight, fastdl.randn(2, 4, 5, 6))
    with pytest.raises(ValueError, match="conv2d_weight: the input must have a batch axis"):
        own.conv2d_weight(fastdl.randn(3, 8, 8), weight.shape, fastdl.randn(4, 6, 6))

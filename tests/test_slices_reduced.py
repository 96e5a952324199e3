"""Reductions by slices, logical operations that broadcast and any/all over every axis, as PyTorch has them."""

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("reduce", ["prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_index_reduce_of_long_slices(reduce, include_self, dim, dtype):
    rng = np.random.default_rng(dim)
    shape, places = [17, 17, 17], rng.integers(0, 17, 21)
    # With ties and zeros, but where x is left out: PyTorch shares an extreme's gradient with it all the same.
    ties = include_self or reduce in ("prod", "mean")
    x = (rng.integers(-3, 4, shape) / 2 if ties else rng.standard_normal(shape)).astype(dtype)
    shape[dim] = 21
    source = (rng.integers(-3, 4, shape) / 2 if ties else rng.standard_normal(shape)).astype(dtype)
    weights = rng.standard_normal(x.shape).astype(dtype)
    found = []
    for library in (fastdl, torch):
        a, b = (library.tensor(v, requires_grad=True) for v in (x, source))
        y = library.index_reduce(a, dim, library.tensor(places), b, reduce, include_self=include_self)
        found.append((y, *library.autograd.grad((y * library.tensor(weights)).sum(), [a, b])))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_index_reduce_keeps_nan_and_checks_its_index():
    x, source = np.zeros((2, 300), "f"), np.full((1, 300), np.nan, "f")
    for reduce in ("prod", "amax", "amin"):
        y = fastdl.index_reduce(fastdl.tensor(x), 0, fastdl.tensor([1]), fastdl.tensor(source), reduce)
        assert y.isnan().all(1).tolist() == [False, True]
        assert not y[0].isnan().any()
        with pytest.raises((IndexError, RuntimeError)):
            fastdl.index_reduce(fastdl.tensor(x), 0, fastdl.tensor([2]), fastdl.tensor(source), reduce)


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "bool", "complex64", "float16"])
def test_logical_broadcasts(name, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 2, s).astype(dtype) for s in ((5, 1, 4), (1, 3, 4)))
    if dtype == "float32":
        x[0, 0, :2] = np.nan, -0.0
    expected = getattr(torch, name)(torch.tensor(x), torch.tensor(y))
    got = getattr(fastdl, name)(fastdl.tensor(x), fastdl.tensor(y))
    assert got.dtype == fastdl.bool
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["any", "all"])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bool", "uint8", "int64"])
@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (2, 3, 4)])
def test_any_and_all_over_every_axis(name, keepdim, dtype, shape):
    for value in (0, 1):
        x, dims = np.full(shape, value, dtype), tuple(range(len(shape)))
        expected = getattr(torch, name)(torch.tensor(x), dim=dims, keepdim=keepdim)
        got = getattr(fastdl, name)(fastdl.tensor(x), dim=dims, keepdim=keepdim)
        assert (str(got.numpy().dtype), got.tolist()) == (str(expected.numpy().dtype), expected.tolist())

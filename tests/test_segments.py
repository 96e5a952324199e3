"""Functions that few programs use: reductions of segments, histograms of points, low-rank factors; beside PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl

RNG = np.random.default_rng(0)
DATA = RNG.standard_normal((6, 4, 3))


def both(call):
    return [call(lib) for lib in (fastdl, pytest.importorskip("torch"))]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("initial", [None, 0.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_segments_are_torch_s(reduce, initial, axis):
    lengths = [[4, 2, 0], [[2, 2, 0], [0, 4, 0], [1, 1, 2], [0, 0, 4], [4, 0, 0], [3, 0, 1]]][axis]

    def call(lib):
        x = lib.tensor(DATA, requires_grad=True)
        n = lib.tensor(lengths)
        y = lib.segment_reduce(x, reduce, lengths=n, axis=axis, initial=initial)
        starts = lib.cat([n[..., :1] * 0, n.cumsum(-1)], -1)
        same = lib.segment_reduce(x, reduce, offsets=starts, axis=axis, initial=initial)
        np.testing.assert_array_equal(same.detach().numpy(), y.detach().numpy())
        lib.where(y.isfinite(), y * lib.arange(y.numel()).reshape(y.shape), 0.0).sum().backward()
        return y.detach().numpy(), x.grad.numpy()

    for a, b in zip(*both(call), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_some_elements_belong_to_no_segment():
    def call(lib):
        x = lib.arange(5.0)
        return (
            lib.segment_reduce(x, "sum", lengths=lib.tensor([2, 1]), unsafe=True).tolist(),
            lib.segment_reduce(x, "max", offsets=lib.tensor([0, 2, 3])).tolist(),
            lib.segment_reduce(x, "sum", offsets=lib.tensor([1, 2, 5])).tolist(),
        )

    assert len({str(got) for got in both(call)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [2, 1]}, "must make up the 4 elements along axis 0"),
        ({"lengths": [-2, 6]}, "negative length"),
        ({"lengths": [2.0, 2.0]}, "must be integers"),
        ({"lengths": [[4]]}, "have the axes of data before axis 0"),
        ({}, "give lengths or offsets"),
        ({"lengths": [4], "offsets": [0, 4]}, "give lengths or offsets"),
        ({"offsets": [0, 5]}, "must make up the 4 elements"),
        ({"offsets": [0, 3, 2]}, "negative length"),
        (
            {"lengths": [4], "reduce": "median"},
            "reduce must be one of sum, mean, max, min, prod, got 'median'",
        ),
        ({"lengths": [4], "data": [1, 2, 3, 4]}, "data must be floating-point"),
    ],
)
def test_messages_of_segments(options, message):
    options = dict(options)
    data, reduce = options.pop("data", [1.0, 2.0, 3.0, 4.0]), options.pop("reduce", "sum")
    given = {name: fastdl.tensor(value) for name, value in options.items()}
    with pytest.raises(RuntimeError, match="segment_reduce: .*" + message):
        fastdl.segment_reduce(fastdl.tensor(data), reduce, **given)


@pytest.mark.parametrize("array", [[1, 0, 2], [[1, 0], [3, 2]], [], 7, [0, 0]])
@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_nonzero_static_is_torch_s(array, size):
    got, want = both(lambda lib: lib.nonzero_static(lib.tensor(array), size=size, fill_value=9).numpy())
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype
    again = fastdl.tensor(array).nonzero_static(size=size)
    assert again.shape == got.shape
    with pytest.raises(RuntimeError, match="nonzero_static: size must be 0 or more, got -1"):
        fastdl.nonzero_static(fastdl.tensor(array), size=-1)
    with pytest.raises(TypeError, match="nonzero_static: size must be an int, got float"):
        fastdl.nonzero_static(fastdl.tensor(array), size=1.5)


@pytest.mark.parametrize("density", [False, True])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(
    ("bins", "reach"),
    [
        ([3, 4], None),
        (3, None),
        ([2, 5], [0.0, 0.5, -1.0, 2.0]),
        (([0.0, 0.2, 1.0], [-1.0, 0.5, 0.7, 3.0]), None),
    ],
)
def test_histogramdd_is_torch_s(bins, reach, weighed, density):
    points, weight = RNG.random((4, 5, 2)), RNG.random((4, 5))

    def call(lib):
        edges = tuple(lib.tensor(e, dtype=lib.float64) for e in bins) if isinstance(bins, tuple) else bins
        more = {"weight": lib.tensor(weight)} if weighed else {}
        found = lib.histogramdd(lib.tensor(points), edges, range=reach, density=density, **more)
        return [t.numpy() for t in (found.hist, *found.bin_edges)]

    for a, b in zip(*both(call), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "bins", "options", "message"),
    [
        ((5,), 3, {}, "points"),
        ((5, 2), [3], {}, "bins must have an entry for each of 2 coordinates, got 1"),
        ((5, 2), [3, 0], {}, "bins must be positive"),
        ((5, 2), 3, {"range": [0.0, 1.0]}, "range must have 4 numbers"),
        ((5, 2), 3, {"weight": fastdl.ones(4)}, "weight must be float32"),
    ],
)
def test_messages_of_histogramdd(shape, bins, options, message):
    with pytest.raises(RuntimeError, match=message):
        fastdl.histogramdd(fastdl.rand(*shape), bins, **options)
    with pytest.raises(NotImplementedError, match="floating-point"):
        fastdl.histogramdd(fastdl.ones(3, 2, dtype=fastdl.int64), 2)


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (3, 8, 5), (4, 4)])
@pytest.mark.parametrize("center", [False, True])
def test_low_rank_factors(shape, center):
    """Of a matrix of rank 2 the factors are exact, and the singular values torch's."""
    wide = RNG.standard_normal((*shape[:-1], 2)) @ RNG.standard_normal((*shape[:-2], 2, shape[-1]))
    a = fastdl.tensor(wide, requires_grad=True)
    u, s, v = fastdl.pca_lowrank(a, q=3, center=center) if center else fastdl.svd_lowrank(a, q=3)
    taken = wide - wide.mean(-2, keepdims=True) if center else wide
    for factor in (u, v):
        eye = (factor.mT @ factor).detach().numpy()
        np.testing.assert_allclose(eye, np.broadcast_to(np.eye(3), eye.shape), atol=1e-9)
    np.testing.assert_allclose(((u * s.unsqueeze(-2)) @ v.mT).detach().numpy(), taken, atol=1e-9)
    torch = pytest.importorskip("torch")
    name = "pca_lowrank" if center else "svd_lowrank"
    want = getattr(torch, name)(torch.tensor(wide), q=3)
    assert [tuple(t.shape) for t in want] == [t.shape for t in (u, s, v)]
    np.testing.assert_allclose(s[..., :2].detach().numpy(), want[1][..., :2].numpy(), rtol=1e-9)
    s[..., :2].sum().backward()
    assert np.isfinite(a.grad.numpy()).all()


def test_low_rank_options():
    a = fastdl.rand(5, 4)
    assert fastdl.svd_lowrank(a, q=9)[1].shape == fastdl.svd_lowrank(a)[1].shape == (4,)
    off = fastdl.svd_lowrank(a, q=4, M=a.mean(0))[1].numpy()
    np.testing.assert_allclose(off, fastdl.pca_lowrank(a, q=4)[1].numpy(), rtol=1e-3, atol=1e-5)
    assert fastdl.pca_lowrank(fastdl.rand(3, 9, 4))[0].shape == (3, 9, 4)
    with pytest.raises(ValueError, match=r"pca_lowrank: q must not be greater than min\(m, n\) = 4, got 9"):
        fastdl.pca_lowrank(a, q=9)
    for wrong in ({"niter": -1}, {"q": -1}):
        with pytest.raises(ValueError, match=r"pca_lowrank: .* must be 0 or more"):
            fastdl.pca_lowrank(a, **wrong)
    with pytest.raises(TypeError, match="svd_lowrank: A must be floating-point"):
        fastdl.svd_lowrank(fastdl.ones(3, 3, dtype=fastdl.int64))
    with pytest.raises(ValueError, match=r"svd_lowrank: A must be a matrix"):
        fastdl.svd_lowrank(fastdl.ones(3))


@pytest.mark.parametrize("reduce", ["max", "min"])
def test_an_initial_number_takes_no_share_of_the_gradient(reduce):
    """Where it equals elements of the segment; where it wins, none has a gradient."""
    results = []
    for library in (fastdl, pytest.importorskip("torch")):
        x = library.tensor([3.0, 3.0, 2.0, 3.0, 1.0, 4.0, 5.0], requires_grad=True)
        y = library.segment_reduce(x, reduce, lengths=library.tensor([3, 1, 1, 2]), initial=3.0)
        y.sum().backward()
        results.append((y.detach().numpy(), x.grad.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)

"""grid_sample and affine_grid: kernels against the reference, functions against torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastdl
from fastdl.kernels import reference
from fastdl.nn import functional as F
from fastdl.ops.grid import _composed
from parity import DTYPES, THREADS, assert_close, backends, load, thread_counts


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grids_meet_the_same_pixels(align_corners):
    """Bit for bit: between pixels the gradient jumps, and the identity, where networks start, has them all there."""
    torch = pytest.importorskip("torch")
    for size in (5, 7, 8, 12, 28, 33):
        ours, peers = [
            lib.nn.functional.affine_grid(
                lib.eye(2, 3)[None], (1, 1, size, size), align_corners=align_corners
            )
            for lib in (fastdl, torch)
        ]
        np.testing.assert_array_equal(ours.numpy(), peers.numpy())


GRIDS = [  # x, places, modes
    ((2, 3, 5, 7), (4, 6), ("bilinear", "nearest", "bicubic")),
    ((1, 1, 1, 1), (1, 1), ("bilinear", "nearest", "bicubic")),
    ((2, 17, 3, 1), (9, 15), ("bilinear", "nearest", "bicubic")),
    ((3, 2, 9, 4), (1, 64), ("bilinear", "bicubic")),
    ((2, 3, 2, 5), (3, 23), ("bilinear", "bicubic")),
    ((1, 2, 4, 3), (3, 23), ("bilinear", "bicubic")),
    ((1, 2, 3, 4, 5), (2, 5, 7), ("bilinear", "nearest")),
    ((0, 2, 3, 3), (2, 2), ("bilinear",)),
    ((2, 0, 3, 3), (2, 2), ("bilinear",)),
    ((2, 2, 3, 3), (0, 2), ("bilinear",)),
]


def _grid_cases():
    for (size, places, modes), padding, align in itertools.product(
        GRIDS, ("zeros", "border", "reflection"), (False, True)
    ):
        for mode in modes:
            yield size, (size[0], *places, len(places)), (mode, padding, align)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_grid_sample_parity(level, dtype):
    backend = load(level)
    rng = np.random.default_rng(0)
    for size, places, options in _grid_cases():
        x = rng.standard_normal(size).astype(dtype)
        grid = rng.uniform(-1.7, 1.7, places).astype(dtype)
        want = reference.grid_sample_forward(x, grid, *options)
        # A place is rounded to eps * extent, and the weights of a tap with it.
        assert_close(backend.grid_sample_forward(x, grid, *options), want, reduction=4096)
        grad = rng.standard_normal(want.shape).astype(dtype)
        for wants in ((True, True), (True, False), (False, True)):
            got = backend.grid_sample_backward(grad, x, grid, *options, *wants)
            for a, b in zip(
                got, reference.grid_sample_backward(grad, x, grid, *options, *wants), strict=True
            ):
                assert (a is None) == (b is None)
                if a is not None:
                    assert_close(a, b, reduction=4096 * max(1, places[1] * places[2], size[1]))


@pytest.mark.parametrize("level", backends(cuda=True))
def test_grid_sample_outside_of_numbers(level):
    """No place, however far, reads beyond the image, and pixels outside have no part in anything."""
    backend = load(level)
    x = np.full((1, 2, 3, 4), np.nan, np.float32)
    places = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e10]
    grid = np.array([[[(a, b) for a in places] for b in places]], np.float32)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding, align in itertools.product(("zeros", "border", "reflection"), (False, True)):
            y = backend.grid_sample_forward(x, grid, mode, padding, align)
            backend.grid_sample_backward(y, x, grid, mode, padding, align, True, True)
            if padding == "zeros":
                assert not y[..., np.isfinite(grid[0]).all(-1)].any()
    for call, message in (
        (lambda: backend.grid_sample_forward(x, grid, "linear", "zeros", True), "mode must be"),
        (lambda: backend.grid_sample_forward(x, grid, "nearest", "wrap", True), "padding must be"),
        (lambda: backend.grid_sample_forward(x, grid[..., :1], "nearest", "zeros", True), "x must be"),
        (lambda: backend.grid_sample_forward(x[:, :, :0], grid, "nearest", "zeros", True), "spatial sizes"),
        (
            lambda: backend.grid_sample_backward(x, x, grid, "nearest", "zeros", True, True, True),
            "the result's shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("rank", [2, 3])
def test_places_that_are_no_numbers(level, rank):
    """NaN, as PyTorch's images have; but moved into the image where bilinear and nearest sampling move places.

    In volumes they are outside, or at the end of their axis.
    """
    torch = pytest.importorskip("torch")
    backend = load(level)
    rng = np.random.default_rng(0)
    x, grad = (
        rng.standard_normal((1, 2, 3, 4, 5)[: rank + 2]),
        rng.standard_normal((1, 2, 4, 4, 4)[: rank + 2]),
    )
    places = [np.nan, np.inf, -np.inf, 0.3]
    grid = np.stack(np.meshgrid(*[places] * rank, indexing="ij"), -1)[None]
    for mode in ("bilinear", "nearest", "bicubic")[: 5 - rank]:
        for padding, align in itertools.product(("zeros", "border", "reflection"), (False, True)):
            options = (mode, padding, align)
            y = backend.grid_sample_forward(x, grid, *options)
            peer = torch.nn.functional.grid_sample(torch.tensor(x), torch.tensor(grid), *options)
            np.testing.assert_allclose(y, peer.numpy(), rtol=1e-12, err_msg=str(options))
            np.testing.assert_allclose(reference.grid_sample_forward(x, grid, *options), y, rtol=1e-12)
            composed = _composed(fastdl.tensor(x), fastdl.tensor(grid), *options)
            np.testing.assert_allclose(composed.numpy(), y, rtol=1e-12)
            for a, b in zip(
                backend.grid_sample_backward(grad, x, grid, *options, True, True),
                reference.grid_sample_backward(grad, x, grid, *options, True, True),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=str(options))
            if padding == "zeros":
                leaves = [torch.tensor(v, requires_grad=True) for v in (x, grid)]
                y = torch.nn.functional.grid_sample(*leaves, *options)
                expected = torch.autograd.grad(y, leaves, torch.tensor(grad))
                for a, b in zip(
                    backend.grid_sample_backward(grad, x, grid, *options, True, True), expected, strict=True
                ):
                    np.testing.assert_allclose(a, b.numpy(), rtol=1e-9, atol=1e-12, err_msg=str(options))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("threads", THREADS)
def test_grid_sample_is_the_same_for_any_number_of_threads(level, threads):
    backend = load(level)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 40, 30)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (3, 70, 50, 2)).astype(np.float32)
    results = []
    for _ in thread_counts(backend, (1, threads)):
        y = backend.grid_sample_forward(x, grid, "bilinear", "zeros", False)
        results.append((y, *backend.grid_sample_backward(y, x, grid, "bilinear", "zeros", False, True, True)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torch_grid_sample():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for size, places, (mode, padding, align) in _grid_cases():
        if 0 in size or 0 in places:
            continue
        x, grid = rng.standard_normal(size), rng.uniform(-1.7, 1.7, places)
        results = []
        for lib in (fastdl, torch):
            leaves = [lib.tensor(a, requires_grad=True) for a in (x, grid)]
            y = lib.nn.functional.grid_sample(*leaves, mode, padding, align)
            (y * y).sum().backward()
            results.append([y.detach().numpy(), *[leaf.grad.numpy() for leaf in leaves]])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_grid_sample_of_an_empty_batch():
    x = fastdl.zeros(0, 2, 3, 3, requires_grad=True)
    y = F.grid_sample(x, fastdl.zeros(0, 4, 5, 2), align_corners=False)
    assert y.shape == (0, 2, 4, 5)
    y.sum().backward()
    assert x.grad.shape == x.shape

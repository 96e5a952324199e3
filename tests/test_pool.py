"""Pooling: every kernel against the reference on every level, and every function against torch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.nn import functional as F
from fastdl.ops.pool import _plan
from parity import DTYPES, assert_close, assert_like_torch, backends, check_gradient
from test_pool_kernels import ADAPTIVE, GEOMETRIES, values

# Functions: gradients, errors, torch.


def tensor(array: Any) -> fastdl.Tensor:
    return fastdl.from_numpy(np.asarray(array))


def test_gradients() -> None:
    rng = np.random.default_rng(8)
    x1, x2, x3 = (
        rng.permutation(n).astype(float).reshape(s)
        for n, s in ((42, (2, 21)), (144, (2, 8, 9)), (240, (2, 4, 5, 6)))
    )
    for reference_backend in (False, True):
        with fastdl.use_backend("reference" if reference_backend else "cpu"):
            check_gradient(lambda x: F.max_pool1d(x, 3, 2, 1, 1, True), x1)
            check_gradient(lambda x: F.max_pool2d(x, 3, 2, 1), x2)
            check_gradient(lambda x: F.max_pool2d(x, 3, 1, 1, 2), x2)
            check_gradient(lambda x: F.max_pool3d(x, 2, return_indices=True)[0], x3)
            check_gradient(lambda x: F.avg_pool1d(x, 3, 2, 1, True, False), x1)
            check_gradient(lambda x: F.avg_pool2d(x, (3, 2), 1, 1, divisor_override=-5), x2)
            check_gradient(lambda x: F.avg_pool3d(x, 2, 1), x3)
            check_gradient(lambda x: F.adaptive_avg_pool2d(x, (3, 4)), x2)
            check_gradient(lambda x: F.adaptive_max_pool2d(x, (3, 4)), x2)
            check_gradient(lambda x: F.adaptive_avg_pool2d(x, (None, 3)), x2)
            indices = F.max_pool2d(tensor(x2), 2, return_indices=True)[1]
            check_gradient(
                lambda x: F.max_unpool2d(x, indices, 2, output_size=(8, 9)),
                rng.standard_normal(indices.shape),
            )


def test_indices_need_no_gradient_and_saved_indices_are_watched() -> None:
    x = tensor(np.arange(16.0).reshape(1, 4, 4))
    x.requires_grad = True
    y, indices = F.max_pool2d_with_indices(x, 2)
    assert indices.dtype == np.int64
    assert not indices.requires_grad
    assert y.requires_grad
    np.testing.assert_array_equal(indices.numpy(), [[[5, 7], [13, 15]]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: F.max_pool2d(x, 0), ValueError, r"max_pool2d: kernel_size must be positive, got \(0, 0\)"),
        (lambda x: F.max_pool2d(x, 2, 0), ValueError, r"max_pool2d: stride must be positive"),
        (lambda x: F.max_pool2d(x, 2, dilation=0), ValueError, "dilation must be positive"),
        (lambda x: F.max_pool2d(x, 2, padding=2), ValueError, "padding must be at most half of kernel_size"),
        (lambda x: F.avg_pool2d(x, 2, padding=-1), ValueError, "avg_pool2d: padding must not be negative"),
        (
            lambda x: F.max_pool2d(x, 9),
            ValueError,
            r"the window is larger than the padded input: kernel_size \(9, 9\)",
        ),
        (lambda x: F.max_pool2d(x, (2, 2, 2)), ValueError, "kernel_size must be an int or a tuple of 2 ints"),
        (
            lambda x: F.max_pool2d(x, 2.5),
            TypeError,
            "kernel_size must be an int or a tuple of 2 ints, got 2.5",
        ),
        (lambda x: F.max_pool2d(x, "ab"), TypeError, "kernel_size must be an int or a tuple of 2 ints"),
        (lambda x: F.max_pool3d(x, 2), None, ""),
        (
            lambda x: F.max_pool1d(x, 2),
            ValueError,
            r"input must be 3-D \(N, C, W\) or 2-D \(C, W\), got shape",
        ),
        (lambda x: F.max_pool2d(x.numpy(), 2), TypeError, "max_pool2d: input must be a Tensor, got numpy"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=0), ValueError, "divisor_override must not be 0"),
        (lambda x: F.adaptive_avg_pool2d(x, -1), ValueError, "output_size must not be negative"),
        (
            lambda x: F.adaptive_avg_pool2d(x, (1, 2, 3)),
            ValueError,
            "output_size must be an int or a tuple of 2",
        ),
        (lambda x: F.max_unpool2d(x, tensor(np.zeros((2, 3, 4, 5))), 2), TypeError, "indices must be int64"),
        (
            lambda x: F.max_unpool2d(x, tensor(np.zeros((2, 3), np.int64)), 2),
            ValueError,
            "have the shape of the input",
        ),
        (
            lambda x: F.max_unpool2d(x, tensor(np.zeros((2, 3, 4, 5), np.int64)), 2, output_size=(9, 99)),
            ValueError,
            r"output_size\[1\] must lie between 8 and 12",
        ),
        (
            lambda x: F.max_unpool2d(x, tensor(np.full((2, 3, 4, 5), 99)), 2),
            IndexError,
            r"indices\[0\] \(flattened\) is 99, outside of a plane of 80",
        ),
    ],
)
def test_messages(call: Any, error: type[Exception] | None, message: str) -> None:
    x = tensor(np.zeros((2, 3, 4, 5), np.float32))
    if error is None:
        call(x)
        return
    with pytest.raises(error, match=message):
        call(x)


def test_empty_axes() -> None:
    assert F.max_pool2d(tensor(np.zeros((0, 1, 4, 4), np.float32)), 2).shape == (0, 1, 2, 2)
    assert F.adaptive_avg_pool2d(tensor(np.zeros((2, 1, 4, 4), np.float32)), (0, 3)).shape == (2, 1, 0, 3)
    with pytest.raises(ValueError, match="only the batch axis"):
        F.max_pool2d(tensor(np.zeros((1, 0, 4, 4), np.float32)), 2)
    with pytest.raises(ValueError, match="only the batch axis"):
        F.adaptive_max_pool2d(tensor(np.zeros((1, 1, 0, 4), np.float32)), 2)


@pytest.mark.parametrize("case", [c for c in GEOMETRIES if 0 not in c[0]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_regular(case: tuple[Any, ...], dtype: Any) -> None:
    leading, spatial, kernel, stride, padding, dilation, ceil = case
    rank = len(spatial)
    rng = np.random.default_rng(10)
    for kind in ("random", "ties", "special"):
        x = values(rng, (*leading, *spatial), dtype, kind)
        for indices in (False, True):
            assert_like_torch(
                f"max_pool{rank}d",
                x,
                kernel,
                stride,
                padding,
                dilation,
                ceil_mode=ceil,
                return_indices=indices,
            )
    if dilation == 1:
        for include in (True, False):
            assert_like_torch(f"avg_pool{rank}d", x, kernel, stride, padding, ceil, include)
            if rank > 1:
                assert_like_torch(
                    f"avg_pool{rank}d", x, kernel, stride, padding, ceil, include, divisor_override=7
                )


def test_torch_adaptive() -> None:
    rng = np.random.default_rng(11)
    for (leading, size, output), dtype in itertools.product(ADAPTIVE, DTYPES):
        if 0 in (*leading, *output):
            continue
        rank = len(size)
        x = values(rng, (*leading, *size), dtype, "random")
        assert_like_torch(f"adaptive_avg_pool{rank}d", x, output)
        assert_like_torch(f"adaptive_max_pool{rank}d", x, output, return_indices=True)
        assert_like_torch(f"adaptive_avg_pool{rank}d", x, 1)
        assert_like_torch(f"adaptive_max_pool{rank}d", x, 1, return_indices=True)
        if rank > 1:
            assert_like_torch(f"adaptive_avg_pool{rank}d", x, (None,) * (rank - 1) + (2,))
    x = values(rng, (2, 3, 8, 12), np.float32, "special")
    assert_like_torch("adaptive_max_pool2d", x, (4, 3), return_indices=True)
    assert_like_torch("adaptive_max_pool2d", x, (4, 5), return_indices=True)


def test_torch_unpool() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(12)
    for rank, shape, kernel, stride, padding in (
        (1, (2, 3, 16), 2, None, 0),
        (2, (2, 3, 9, 11), 3, 2, 1),
        (3, (1, 2, 6, 4, 8), 2, None, 0),
    ):
        x = rng.standard_normal(shape)
        pool, unpool = f"max_pool{rank}d", f"max_unpool{rank}d"
        y, at = getattr(torch.nn.functional, pool)(
            torch.tensor(x), kernel, stride, padding, return_indices=True
        )
        for size in (None, shape[2:], shape):
            if size is None and padding:
                continue  # torch's default output would be too small for some indices
            a, b = torch.tensor(y.numpy(), requires_grad=True), tensor(y.numpy())
            b.requires_grad = True
            want = getattr(torch.nn.functional, unpool)(a, at, kernel, stride, padding, size)
            got = getattr(F, unpool)(b, tensor(at.numpy()), kernel, stride, padding, size)
            np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
            grad = rng.standard_normal(want.shape)
            want.backward(torch.tensor(grad))
            got.backward(tensor(grad))
            np.testing.assert_array_equal(b.grad.numpy(), a.grad.numpy())


@settings(deadline=None, max_examples=150)
@given(
    rank=st.integers(1, 3),
    planes=st.sampled_from([2, 20]),  # by rows, and several planes side by side
    data=st.data(),
    ceil=st.booleans(),
    include=st.booleans(),
    level=st.sampled_from(backends()),
)
def test_random_geometry(rank: int, planes: int, data: Any, ceil: bool, include: bool, level: str) -> None:
    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    size, kernel, stride, dilation = axes(1, (70, 24, 10)[rank - 1]), axes(1, 5), axes(1, 4), axes(1, 3)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    shape = (planes, *size)
    x = np.random.default_rng(13).integers(-3, 4, shape).astype(np.float32)
    backend = kernels.load(level)
    try:
        plan = _plan("test", rank, shape, kernel, stride, padding, dilation, ceil)
    except ValueError:
        return
    y, offsets = backend.max_pool_forward(x, *plan[1:], True)
    want, want_offsets = reference.max_pool_forward(x, *plan[1:], True)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(offsets, want_offsets)
    grad = np.random.default_rng(14).integers(-3, 4, y.shape).astype(np.float32)
    np.testing.assert_array_equal(
        backend.max_pool_backward(grad, offsets, *plan[:5]),
        reference.max_pool_backward(grad, offsets, *plan[:5]),
    )
    plan = _plan("test", rank, shape, kernel, stride, padding, 1, ceil) if max(kernel) > 1 else plan
    if max(plan.dilation) == 1:
        options = (*plan[1:4], plan.output, include, None)
        assert_close(
            backend.avg_pool_forward(x, *options), reference.avg_pool_forward(x, *options), reduction=125
        )
        grad = np.random.default_rng(14).standard_normal((planes, *plan.output)).astype(np.float32)
        assert_close(
            backend.avg_pool_backward(grad, *plan[:4], include, None),
            reference.avg_pool_backward(grad, *plan[:4], include, None),
            reduction=125,
        )


def test_torch_lp() -> None:
    rng = np.random.default_rng(15)
    for dtype in DTYPES:
        for rank, size in ((1, (9,)), (2, (7, 8)), (3, (4, 5, 6))):
            x = np.abs(rng.standard_normal((2, 3, *size))).astype(dtype)
            x[0, 0] = 0  # a window of zeros has gradient 0
            for p in (1.0, 2.0, 2.5):
                assert_like_torch(f"lp_pool{rank}d", x, p, 2)
                assert_like_torch(f"lp_pool{rank}d", x, p, 3, 2, True)
            assert_like_torch(f"lp_pool{rank}d", rng.standard_normal((2, *size)).astype(dtype), 2, 2)


LAYERS = [
    ("MaxPool1d", (2,), {}, (2, 3, 9)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, (2, 3, 8, 9)),
    ("MaxPool3d", (2,), {"dilation": 2}, (1, 2, 5, 6, 7)),
    ("AvgPool1d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 9)),
    ("AvgPool2d", ((2, 3),), {"divisor_override": 5}, (2, 3, 8, 9)),
    ("AvgPool3d", (2,), {}, (1, 2, 5, 6, 7)),
    ("LPPool1d", (2, 3), {}, (2, 3, 9)),
    ("LPPool2d", (2, 2), {"stride": 1}, (2, 3, 8, 9)),
    ("LPPool3d", (2, 2), {}, (1, 2, 5, 6, 7)),
    ("AdaptiveAvgPool1d", (4,), {}, (2, 3, 9)),
    ("AdaptiveAvgPool2d", ((None, 3),), {}, (2, 3, 8, 9)),
    ("AdaptiveAvgPool3d", (1,), {}, (1, 2, 5, 6, 7)),
    ("AdaptiveMaxPool1d", (4,), {}, (2, 3, 9)),
    ("AdaptiveMaxPool2d", ((None, 3),), {}, (2, 3, 8, 9)),
    ("AdaptiveMaxPool3d", (2,), {}, (1, 2, 5, 6, 7)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer[0])
def test_torch_layers(layer: tuple[Any, ...]) -> None:
    torch = pytest.importorskip("torch")
    name, args, options, shape = layer
    ours, theirs = getattr(fastdl.nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(16).standard_normal(shape).astype(np.float32)
    assert_close(ours(tensor(x)), theirs(torch.tensor(x)).numpy(), reduction=64)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_unpool_layers(rank: int) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(17).standard_normal((2, 3, *(6,) * rank)).astype(np.float32)
    y, at = getattr(fastdl.nn, f"MaxPool{rank}d")(2, return_indices=True)(tensor(x))
    ours, theirs = getattr(fastdl.nn, f"MaxUnpool{rank}d")(2), getattr(torch.nn, f"MaxUnpool{rank}d")(2)
    assert repr(ours) == repr(theirs)
    want = theirs(torch.tensor(y.numpy()), torch.tensor(at.numpy()), output_size=x.shape)
    np.testing.assert_array_equal(ours(y, at, output_size=x.shape).numpy(), want.numpy())


# Fractional pooling -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 9, 7), {"kernel_size": 2, "output_size": (5, 4)}),
        ((2, 3, 9, 7), {"kernel_size": (3, 2), "output_ratio": (0.5, 0.6)}),
        ((3, 8, 8), {"kernel_size": 2, "output_size": 1}),
        ((2, 2, 6, 7, 8), {"kernel_size": (2, 3, 1), "output_size": (3, 4, 7)}),
        ((2, 6, 7, 8), {"kernel_size": 2, "output_ratio": 0.5}),
    ],
)
def test_fractional_max_pool_is_torchs(shape: Any, options: Any, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    rank = 3 if shape[-1] == 8 and len(shape) > 3 else 2
    lead = (1, *shape)[-rank - 2 : -rank]
    samples, x = rng.random((*lead, rank)).astype(dtype), rng.standard_normal(shape).astype(dtype)
    name = f"fractional_max_pool{rank}d"
    ours, theirs = fastdl.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(x.copy()).requires_grad_()
    got = getattr(F, name)(ours, **options, return_indices=True, _random_samples=fastdl.from_numpy(samples))
    want = getattr(torch.nn.functional, name)(
        theirs, **options, return_indices=True, _random_samples=torch.from_numpy(samples)
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    g = rng.standard_normal(got[0].shape).astype(dtype)
    got[0].backward(fastdl.from_numpy(g))
    want[0].backward(torch.from_numpy(g))
    assert_close(ours.grad, theirs.grad.numpy(), reduction=8)
    layers = [
        getattr(library.nn, f"FractionalMaxPool{rank}d")(
            **options, _random_samples=library.from_numpy(samples)
        )
        for library in (fastdl, torch)
    ]
    np.testing.assert_array_equal(layers[0](ours).detach().numpy(), want[0].detach().numpy())
    assert repr(layers[0]) == repr(layers[1])
    assert list(layers[0].state_dict()) == list(layers[1].state_dict())


def test_fractional_max_pool_draws_from_the_generator() -> None:
    x = fastdl.randn(1, 2, 12, 12)
    results = []
    for seed in (0, 0, 1):
        fastdl.manual_seed(seed)
        y, indices = F.fractional_max_pool2d_with_indices(x, 3, output_size=7)
        np.testing.assert_array_equal(
            x.flatten(2).gather(2, indices.flatten(2)).numpy(), y.flatten(2).numpy()
        )
        results.append(indices.numpy())
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()
    samples, values = (
        fastdl.full((1, 1, 3), 0.4),
        np.random.default_rng(0).permutation(64).reshape(1, 1, 4, 4, 4),
    )
    check_gradient(
        lambda x: F.fractional_max_pool3d(x, 2, 2, _random_samples=samples), values.astype(np.float64)
    )
    for call, message in [
        (lambda: F.fractional_max_pool2d(x, 3), "output_size or output_ratio must be given"),
        (lambda: F.fractional_max_pool2d(x, 3, 11), "at most the input's extent"),
        (lambda: F.fractional_max_pool2d(x, 3, 0), "must be positive"),
        (lambda: F.fractional_max_pool2d(x, 3, output_ratio=(0.5, 0.5, 0.5)), "a number or 2 numbers"),
        (
            lambda: F.fractional_max_pool2d(x, 3, 4, _random_samples=fastdl.rand(1, 2, 3)),
            r"must have shape \(1, 2, 2\)",
        ),
        (lambda: fastdl.nn.FractionalMaxPool2d(3), "requires specifying either"),
        (lambda: fastdl.nn.FractionalMaxPool2d(3, 4, 0.5), "only one of"),
        (lambda: fastdl.nn.FractionalMaxPool2d(3, output_ratio=1.5), "between 0 and 1"),
        (lambda: fastdl.nn.FractionalMaxPool3d(0, 4), "greater than 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()

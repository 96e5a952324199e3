"""Tensors in half precision on the CPU: operations, gradients, training, files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import device_cases
import device_runs
import fastdl
import fastdl.nn.functional as F
from fastdl import nn


def eps(dtype: Any) -> float:
    return float(fastdl.finfo(dtype).eps)


def test_creation_conversion_and_printing(half: Any) -> None:
    x = fastdl.tensor([1.0, 2.5, -3.0], dtype=half)
    assert x.dtype == half
    assert x.itemsize == 2
    assert x.is_floating_point()
    assert x.tolist() == [1.0, 2.5, -3.0]
    assert repr(x) == f"tensor([ 1.0000,  2.5000, -3.0000], dtype=fastdl.{half.name})"
    for y in (
        fastdl.zeros(2, dtype=half),
        fastdl.ones_like(x),
        x.clone(),
        x[1:],
        x.reshape(3, 1),
        fastdl.rand(3, dtype=half),
    ):
        assert y.dtype == half
    assert x.float().dtype == fastdl.float32
    assert x.to(fastdl.int64).tolist() == [1, 2, -3]
    assert fastdl.tensor([1.7]).to(half).dtype == half == nn.Linear(2, 2).to(half).weight.dtype
    assert fastdl.tensor(x.numpy()).dtype == half == fastdl.from_numpy(x.numpy()).dtype
    assert x.T.contiguous().dtype == half
    assert fastdl.zeros(4, 4, dtype=half).T.contiguous().dtype == half


def test_promotion(half: Any) -> None:
    x = fastdl.ones(2, dtype=half)
    assert (x + 1).dtype == (x * 0.5).dtype == (x + fastdl.ones(2, dtype=fastdl.int64)).dtype == half
    assert (x + fastdl.ones(2)).dtype == fastdl.float32
    assert (x + fastdl.ones(2).double()).dtype == fastdl.float64
    assert (x + fastdl.tensor(1.0)).dtype == half
    if half.name == "bfloat16":
        assert (x + fastdl.ones(2, dtype=fastdl.float16)).dtype == fastdl.float32
    with pytest.raises(RuntimeError, match="cannot be stored in place"):
        fastdl.ones(2, dtype=fastdl.int64).add_(x)


CASES = {
    name: case
    for name, case in device_cases.CASES.items()
    # Not defined for half precision, or decided by rounding: order statistics, random numbers, jumps.
    if not any(
        word in name
        for word in "linalg random creation statistics splits std sort topk argm floor ceil round trunc sign frac "
        "remainder fmod unique special distance margin placement dropout masked interpolate grid rsqrt atanh "
        "distributions medians quantiles frequent histograms fractional".split()
    )
}


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_of_float32_rounded(name: str, half: Any, monkeypatch: Any) -> None:
    def run(dtype: Any) -> list[Any]:
        monkeypatch.setattr(device_runs, "dtype", [dtype])
        device_runs.watched.clear()
        with np.errstate(all="ignore"):
            outputs = device_runs.tensors(CASES[name]("cpu"))
            total = sum((o.float().sum() for o in outputs if o.requires_grad), fastdl.zeros(()))
            if total.requires_grad:
                total.backward()
        return outputs + [leaf.grad for leaf in device_runs.watched if leaf.grad is not None]

    expected, actual = run(fastdl.float32), run(half)
    assert len(expected) == len(actual)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        if e.dtype.kind == "f":
            # Inputs and intermediate results are rounded to half precision as well.
            tolerance = (
                60 * eps(half) * (1 + float(e.detach().abs().nan_to_num(0, 0, 0).max()) if e.numel() else 1)
            )
            assert np.allclose(
                a.detach().float().numpy(), e.detach().numpy(), 60 * eps(half), tolerance, equal_nan=True
            )


def test_sums_do_not_stall_in_half_precision(half: Any) -> None:
    """Long sums of small terms are taken in float32: in half precision they would stop growing."""
    x = fastdl.full((20000,), 0.125, dtype=half, requires_grad=True)
    assert x.mean().item() == 0.125
    assert x.softmax(0).float().sum().item() == pytest.approx(1, rel=1e-2)
    w = fastdl.full((1, 20000), 0.0078125, dtype=half)
    assert F.linear(x, w).item() == pytest.approx(20000 / 1024, rel=eps(half))


N = 6000
SUMS: dict[str, Callable[[Any], Any]] = {
    "einsum": lambda x: fastdl.einsum("i->", x),
    "einsum of two": lambda x: fastdl.einsum("i,j->", x, x[:1]),
    "scatter_add": lambda x: x[:1].scatter_add(0, fastdl.zeros(N, dtype=fastdl.int64), x),
    "scatter_reduce": lambda x: x[:1].scatter_reduce(0, fastdl.zeros(N, dtype=fastdl.int64), x, "sum"),
    "index_add": lambda x: x[:1].index_add(0, fastdl.zeros(N, dtype=fastdl.int64), x),
    "index_put": lambda x: x[:1].index_put((fastdl.zeros(N, dtype=fastdl.int64),), x, accumulate=True),
    "put": lambda x: x[:1].put(fastdl.zeros(N, dtype=fastdl.int64), x, accumulate=True),
}
SPREAD: dict[str, Callable[[Any], Any]] = {
    "expand": lambda x: x[:1].expand(N, -1),
    "repeat": lambda x: x[:1].repeat(N, 1),
    "repeat_interleave": lambda x: x[:1].repeat_interleave(N, 0),
    "index": lambda x: x[fastdl.zeros(N, dtype=fastdl.int64)],
    "index of two": lambda x: x[fastdl.zeros(N, dtype=fastdl.int64), fastdl.ones(N, dtype=fastdl.int64)],
    "index_select": lambda x: x.index_select(0, fastdl.zeros(N, dtype=fastdl.int64)),
    "gather": lambda x: x.gather(0, fastdl.zeros(N, 2, dtype=fastdl.int64)),
    "take": lambda x: x.take(fastdl.zeros(N, dtype=fastdl.int64)),
    "where": lambda x: fastdl.where(fastdl.ones(N, 1) > 0, x[:1], x[1:]),
    "masked_fill": lambda x: fastdl.zeros(N, dtype=x.dtype).masked_fill(fastdl.ones(N) > 0, x[0, 0]),
    "clamp": lambda x: fastdl.full((N, 2), 9, dtype=x.dtype).clamp(max=x[:1]),
    "cummax": lambda x: fastdl.cat([x[:1], fastdl.zeros(N, 2, dtype=x.dtype)]).cummax(0)[0],
    "as_strided": lambda x: x.as_strided((N,), (0,)),
    "einsum": lambda x: fastdl.einsum("ij,k->kij", x, fastdl.ones(N, dtype=x.dtype)),
}


@pytest.mark.parametrize("name", SUMS)
def test_scattered_sums_do_not_stall_in_half_precision(name: str, half: Any) -> None:
    x = fastdl.ones(N, dtype=half)
    assert SUMS[name](x).item() == pytest.approx(N, rel=2 * eps(half))


@pytest.mark.parametrize("name", SPREAD)
def test_gradients_do_not_stall_in_half_precision(name: str, half: Any) -> None:
    """What was spread over many places has the sum of their gradients, of all of them."""
    grads = []
    for dtype in (half, fastdl.float64):
        x = fastdl.ones(2, 2, dtype=dtype).requires_grad_()
        y = SPREAD[name](x)
        y.backward(fastdl.ones_like(y))
        assert x.grad is not None
        grads.append(x.grad.double().numpy())
    assert grads[1].max() >= N
    np.testing.assert_allclose(grads[0], grads[1], rtol=2 * eps(half))


def test_scattered_gradients_in_half_precision(half: Any) -> None:
    """An index that reaches a part of the tensor only."""
    index = fastdl.tensor([[1, 0], [0, 2], [1, 1]])
    grads = []
    for dtype in (half, fastdl.float32):
        x, s = (
            fastdl.ones(4, 5, dtype=dtype).requires_grad_(),
            fastdl.ones(3, 2, dtype=dtype).requires_grad_(),
        )
        y = x.scatter(0, index, s) + x.scatter_add(0, index, s) + x.scatter_reduce(0, index, s, "sum")
        y.backward(fastdl.arange(20).reshape(4, 5).to(dtype))
        assert x.grad is not None
        assert s.grad is not None
        grads.append((x.grad.float().numpy(), s.grad.float().numpy()))
    np.testing.assert_array_equal(grads[0][0], grads[1][0])
    np.testing.assert_array_equal(grads[0][1], grads[1][1])


def test_strided_gradients_in_half_precision(half: Any) -> None:
    """The gradient of a view comes in the view's strides."""
    x = fastdl.arange(24).reshape(2, 3, 4).to(half).requires_grad_()
    y = fastdl.stack([part.transpose(0, 1) for part in x.unbind(0)])
    a, b = x.split([1, 3], dim=2)
    weight = fastdl.arange(24).reshape(2, 4, 3).to(half)
    ((y * weight).sum() + (a.mT * b.mT).sum()).backward()
    assert x.grad is not None
    want = weight.float().mT.numpy().copy()
    values = x.detach().float().numpy()
    want[..., :1] += values[..., 1:].sum(-1, keepdims=True)
    want[..., 1:] += values[..., :1]
    np.testing.assert_array_equal(x.grad.float().numpy(), want)
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0).to(half)
    layer(fastdl.randn(2, 3, 4).to(half)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_half_results_are_not_stored_in_integers(half: Any) -> None:
    out = fastdl.zeros(2, dtype=fastdl.int64)
    with pytest.raises(RuntimeError, match=f"the result has dtype {half} and cannot be stored"):
        fastdl.sin(fastdl.ones(2, dtype=half), out=out)
    assert out.tolist() == [0, 0]


def test_a_network_trains_in_half_precision(half: Any) -> None:
    fastdl.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).to(half)
    x, y = fastdl.randn(8, 1, 6, 6, dtype=half), fastdl.randint(0, 3, (8,))
    losses = []
    for _ in range(15):
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with fastdl.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                assert p.grad.dtype == half
                p -= 0.05 * p.grad
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert model[1].running_mean.dtype == half
    assert model(x).dtype == half


def test_half_checkpoints(half: Any, tmp_path: Any) -> None:
    model = nn.Linear(3, 2).to(half)
    path = tmp_path / "half.safetensors"
    fastdl.save(model.state_dict(), path)
    assert (b"BF16" if half.name == "bfloat16" else b"F16") in path.read_bytes()[:200]
    read = fastdl.load(path)
    assert all(t.dtype == half for t in read.values())
    assert fastdl.equal(read["weight"], model.weight.detach())
    wide = nn.Linear(3, 2)
    wide.load_state_dict(read)
    assert wide.weight.dtype == fastdl.float32
    assert fastdl.equal(wide.weight.detach(), read["weight"].float())


def test_without_ml_dtypes_bfloat16_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setattr("fastdl.dtypes._bfloat16", lambda: None)
    monkeypatch.delitem(fastdl.dtypes._by_key, "bfloat16", raising=False)
    for module in (fastdl, fastdl.dtypes):  # which have it as an attribute once it was found
        monkeypatch.delitem(vars(module), "bfloat16", raising=False)
    with pytest.raises(AttributeError, match="pip install ml_dtypes"):
        fastdl.bfloat16  # noqa: B018
    with pytest.raises(TypeError, match="pip install ml_dtypes"):
        fastdl.ones(2).to("bfloat16")
    assert not hasattr(fastdl, "bfloat16")
    monkeypatch.undo()
    found = fastdl.bfloat16
    assert vars(fastdl)["bfloat16"] is vars(fastdl.dtypes)["bfloat16"] is found  # without another import


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("divisor", ["rows", "whole", "number", "scalar"])
def test_a_quotient_of_halves_is_rounded_before_it_is_truncated(dtype: str, divisor: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((50, 60)) * 20).astype("f"), rng.standard_normal((50, 60)).astype("f")

    def divide(library: Any) -> Any:
        x, y = (library.tensor(n).to(getattr(library, dtype)) for n in (a, b))
        y = {"rows": y[0], "whole": y, "number": 0.7, "scalar": library.tensor(0.7).to(y.dtype)}[divisor]
        z = library.div(x, y, rounding_mode="trunc")
        assert z.dtype is getattr(library, dtype)
        return z.float().numpy()

    np.testing.assert_array_equal(divide(fastdl), divide(torch))


@pytest.mark.parametrize(
    "shape", [(4, 3, 5, 2), (4, 3, 1, 2), (1, 1, 2, 1), (4, 3, 5), (0, 3, 2, 2), (2, 3, 1, 1)]
)
def test_dropout_of_channels_decides_as_in_float32(half: Any, shape: tuple[int, ...]) -> None:
    drop = F.dropout2d if len(shape) == 4 else F.dropout1d
    found = []
    for dtype in (half, fastdl.float32):
        x = fastdl.ones(*shape, dtype=dtype).requires_grad_()
        fastdl.manual_seed(3)
        y = drop(x, 0.5)
        assert y.dtype == dtype
        y.sum().backward()
        found.append((y.detach().float().numpy(), x.grad.float().numpy()))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("drop", [F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout])
def test_dropout_of_tensors_without_values(half: Any, drop: Callable[..., Any]) -> None:
    y = drop(fastdl.empty(2, 3, 4, 4, dtype=half, device="meta"), 0.5, True)
    assert (y.device.type, y.dtype, tuple(y.shape)) == ("meta", half, (2, 3, 4, 4))


def test_masks_pick_and_put(half: Any) -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.integers(-9, 9, (6, 5, 4)), rng.random((6, 5)) > 0.5
    for order in ((0, 1, 2), (2, 0, 1)):  # as it lies, and not
        x = fastdl.tensor(values.transpose(order)).to(half).permute(*np.argsort(order).tolist())
        x.requires_grad_()
        y = x[fastdl.tensor(mask)]
        assert y.dtype == half
        np.testing.assert_array_equal(y.detach().float().numpy(), values[mask])
        y.sum().backward()
        np.testing.assert_array_equal(x.grad.float().numpy(), np.broadcast_to(mask[..., None], x.shape))
        z = x.detach()
        z[fastdl.tensor(mask)] = -y.detach()
        np.testing.assert_array_equal(z.float().numpy(), np.where(mask[..., None], -values, values))


def test_an_operation_without_a_kernel_is_one_node_in_half_precision(half: Any) -> None:
    """What is computed in float32 has no conversions beside it in the graph, and what it keeps is its own."""
    x = fastdl.randn(2, 3, 4, 4).to(half).requires_grad_()
    base = x * 1
    y = F.avg_pool2d(base, 2)
    assert y.dtype == half
    assert y.grad_fn.name() == "AvgPoolBackward"
    assert y.grad_fn.next_functions[0][0] is base.grad_fn
    seen: list[Any] = []
    y.register_hook(lambda grad: seen.append(grad.dtype))
    base.register_hook(lambda grad: seen.append(grad.dtype))
    with fastdl.no_grad():
        base.mul_(2)  # backward keeps conversions only
    y.sum().backward()
    assert seen == [half, half]
    assert x.grad.dtype == half
    assert x.grad.flatten().tolist() == [0.25] * 96


@pytest.mark.parametrize("function", ["huber", "group_norm", "normalize", "unfold", "cosine"])
def test_second_derivatives_through_float32(function: str, half: Any) -> None:
    """They begin and end in half precision, too, and are those of float32, rounded."""

    def run(dtype: Any) -> list[Any]:
        fastdl.manual_seed(0)
        x = fastdl.rand(2, 4, 6, 6).to(half).to(dtype).requires_grad_()
        w = fastdl.rand(2, 4, 6, 6).to(half).to(dtype).requires_grad_()
        y = {
            "huber": lambda: F.huber_loss(x, w * 3, reduction="none"),
            "group_norm": lambda: F.group_norm(x, 2, w[0, :, 0, 0]),
            "normalize": lambda: F.normalize(x * w, p=3.0),
            "unfold": lambda: F.unfold(x * w, 3),
            "cosine": lambda: F.cosine_similarity(x, w),
        }[function]()
        (first,) = fastdl.autograd.grad((y * y).sum(), x, create_graph=True)
        assert first.dtype == dtype
        return [first, *fastdl.autograd.grad((first * first).sum(), (x, w))]

    for actual, expected in zip(run(half), run(fastdl.float32), strict=True):
        assert actual.dtype == half
        size = float(expected.detach().abs().max())
        assert np.allclose(
            actual.detach().float().numpy(), expected.detach().numpy(), 60 * eps(half), 60 * eps(half) * size
        )


def test_a_filling_tensor_of_another_dtype_keeps_its_gradients_dtype():
    value = fastdl.tensor(2.0, requires_grad=True)
    fastdl.zeros(4, dtype=fastdl.float16).masked_fill(fastdl.ones(4) > 0, value).sum().backward()
    assert value.grad.dtype is fastdl.float32
    assert value.grad.item() == 4


def test_pooling_in_half_precision_without_values():
    y = fastdl.nn.functional.max_pool2d(fastdl.zeros(1, 2, 8, 8, dtype=fastdl.float16, device="meta"), 2)
    assert (y.shape, y.dtype, y.is_meta) == ((1, 2, 4, 4), fastdl.float16, True)


def test_second_derivative_of_pooling_an_empty_batch():
    x = fastdl.zeros(0, 2, 8, 8, requires_grad=True)
    (grad,) = fastdl.autograd.grad(fastdl.nn.functional.max_pool2d(x, 2).square().sum(), x, create_graph=True)
    (second,) = fastdl.autograd.grad(grad.square().sum(), x, allow_unused=True)
    assert second is None or second.shape == x.shape


def test_extremes_share_their_gradient_among_more_than_half_precision_counts(half):
    x = fastdl.zeros(3, 5000, dtype=half)
    x[1, 7], x[2, 0] = 1.0, float("nan")
    x.requires_grad_()
    (grad,) = fastdl.autograd.grad(x.amax(1).sum(), x)
    assert grad.dtype == half
    assert np.allclose(grad[0].float().numpy(), 1 / 5000, rtol=eps(half))  # of as many ties
    assert (grad[1].sum().item(), grad[1, 7].item()) == (1.0, 1.0)
    assert grad[2].isnan().all()  # nothing equals the largest one: as in PyTorch
    (again,) = fastdl.autograd.grad(x[1:2].max(), x)
    assert again.float().numpy().sum() == 1.0


@pytest.mark.parametrize("dim", [0, 1])
def test_gradient_of_differences_in_half_precision(half, dim):
    x = fastdl.randn(6, 40).to(half).requires_grad_()
    weight = fastdl.randint(-4, 5, tuple(x.diff(n=2, dim=dim).shape)).to(half)  # whole: sums are exact
    (grad,) = fastdl.autograd.grad(x.diff(n=2, dim=dim), x, weight)
    wide = x.detach().float().requires_grad_()
    (expected,) = fastdl.autograd.grad(wide.diff(n=2, dim=dim), wide, weight.float())
    assert grad.dtype == half
    assert grad.float().tolist() == expected.tolist()


def test_norms_and_sums_of_numbers_are_rounded_once(half):
    """Values and both derivatives: those of float32, rounded."""
    values = np.random.default_rng(3).uniform(-2, 2, (5, 70)).astype("f")
    values[0] = 0

    def results(function, x):
        x = x.detach().requires_grad_()
        y = function(x)
        (first,) = fastdl.autograd.grad((y * y).sum(), x, create_graph=True)
        (second,) = fastdl.autograd.grad(first.sum(), x, allow_unused=True)
        return [r.detach().float().numpy() for r in (y, first, second) if r is not None]

    x = fastdl.tensor(values).to(half)
    for function in (
        *(lambda x, p=p: x.norm(p, dim=1) for p in (1, 2, 3, np.inf)),
        lambda x: fastdl.nansum(fastdl.where(x > 1, np.nan, x), 1),
    ):
        for got, want in zip(results(function, x), results(function, x.float()), strict=True):
            np.testing.assert_allclose(got, want, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(1, 3), (40, 70), (5, 33, 4, 3)])
def test_cross_entropy_is_computed_in_single_precision(half, shape, reduction):
    """Values and both derivatives: those of float32, rounded."""
    rng = np.random.default_rng(7)
    logits = fastdl.tensor(rng.standard_normal(shape).astype("f")).to(half)
    target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    target.reshape(-1)[1:2] = -100
    weight = fastdl.tensor(rng.uniform(0.5, 2, shape[1]).astype("f")).to(half)
    back = fastdl.tensor(rng.uniform(0.5, 2, target.shape if reduction == "none" else ()).astype("f")).to(
        half
    )

    def results(x, weight, back, smoothing):
        x = x.detach().requires_grad_()
        y = F.cross_entropy(x, fastdl.tensor(target), weight, reduction=reduction, label_smoothing=smoothing)
        (plain,) = fastdl.autograd.grad(y, x, back, retain_graph=True)
        (first,) = fastdl.autograd.grad(y, x, back, create_graph=True)
        (second,) = fastdl.autograd.grad((first * first).sum(), x)
        assert y.dtype == plain.dtype == first.dtype == second.dtype == x.dtype
        return y, plain, first, second

    for smoothing in (0.0, 0.1):
        for w in (None, weight):
            got = results(logits, w, back, smoothing)
            want = results(logits.float(), None if w is None else w.float(), back.float(), smoothing)
            for place, (g, e) in enumerate(zip(got, want, strict=True)):
                if place < 2:  # rounded once
                    assert np.array_equal(g.float().detach().numpy(), e.to(half).float().detach().numpy())
                else:
                    np.testing.assert_allclose(g.float().detach(), e.detach(), rtol=0.1, atol=0.02)


def test_distinct_elements(half):
    """Those of float32; either zero may stand for both, each NaN for itself."""
    values = np.random.default_rng(5).integers(-20, 20, (30, 40)).astype("f") / 4
    values[0, :6] = [np.nan, -0.0, np.inf, -np.inf, np.nan, 0.0]
    x = fastdl.tensor(values).to(half)
    assert x.unique().dtype == half
    np.testing.assert_array_equal(x.unique().float(), x.float().unique())
    for got, want in zip(x.unique(True, True, True), x.float().unique(True, True, True), strict=True):
        np.testing.assert_array_equal(got.float(), want.float())
    assert x[:0].unique().shape == (0,)

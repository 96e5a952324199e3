"""Half precision on the CPU, ``autocast`` and ``GradScaler``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import device_cases
import fastdl
import fastdl.nn.functional as F
from fastdl import nn
from fastdl.amp import GradScaler, autocast, custom_bwd, custom_fwd
from fastdl.amp.autocast import _CASTS, _weights

HALVES = ["float16", "bfloat16"]


@pytest.fixture(params=HALVES)
def half(request: Any) -> Any:
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return getattr(fastdl, request.param)


def eps(dtype: Any) -> float:
    return float(fastdl.finfo(dtype).eps)


# ------------------------------------------------------------------------------------------------ half precision


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
        "distributions".split()
    )
}


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_of_float32_rounded(name: str, half: Any, monkeypatch: Any) -> None:
    def run(dtype: Any) -> list[Any]:
        monkeypatch.setattr(device_cases, "dtype", [dtype])
        device_cases.watched.clear()
        outputs: list[Any] = []

        def collect(value: Any) -> None:
            if isinstance(value, fastdl.Tensor):
                outputs.append(value)
            elif isinstance(value, (tuple, list)):
                for v in value:
                    collect(v)

        with np.errstate(all="ignore"):
            collect(CASES[name]("cpu"))
            total = sum((o.float().sum() for o in outputs if o.requires_grad), fastdl.zeros(()))
            if total.requires_grad:
                total.backward()
        return outputs + [leaf.grad for leaf in device_cases.watched if leaf.grad is not None]

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
    with pytest.raises(AttributeError, match="pip install ml_dtypes"):
        fastdl.bfloat16  # noqa: B018
    with pytest.raises(TypeError, match="pip install ml_dtypes"):
        fastdl.ones(2).to("bfloat16")
    assert not hasattr(fastdl, "bfloat16")


# ------------------------------------------------------------------------------------------------------ autocast


def test_autocast_follows_the_lists(half: Any) -> None:
    x, w, image = fastdl.rand(2, 4), fastdl.rand(3, 4), fastdl.rand(1, 2, 5, 5)
    low = {
        "linear": lambda: F.linear(x, w),
        "matmul": lambda: x @ w.T,
        "mixed": lambda: x.to(half) @ w.T,
        "addmm": lambda: fastdl.addmm(fastdl.rand(3), x, w.T),
        "conv": lambda: F.conv2d(image, fastdl.rand(3, 2, 3, 3)),
        "conv_transpose": lambda: F.conv_transpose2d(image, fastdl.rand(2, 3, 3, 3)),
        "attention": lambda: F.scaled_dot_product_attention(*[fastdl.rand(1, 2, 3, 4)] * 3),
        "lstm": lambda: nn.LSTM(4, 3)(x)[0],
        "einsum": lambda: fastdl.einsum("ij,kj->ik", x, w),
    }
    wide = {
        "mse_loss": lambda: F.mse_loss(x.to(half), x),
        "cross_entropy": lambda: F.cross_entropy(x.to(half), fastdl.tensor([0, 1])),
        "prod": lambda: x.to(half).prod(),
        "avg_pool3d": lambda: F.avg_pool3d(image[None].to(half), (1, 2, 2)),
    }
    same = {
        "relu": lambda: F.relu(x.to(half)),
        "add": lambda: x.to(half) + x.to(half),
        "softmax": lambda: F.softmax(x.to(half), 1),
        "layer_norm": lambda: F.layer_norm(x.to(half), (4,)),
        "sum": lambda: x.to(half).sum(),
        "pow": lambda: x.to(half) ** 2,
        "avg_pool2d": lambda: F.avg_pool2d(image.to(half), 2),
    }
    with autocast("cpu", dtype=half):
        assert {name: f().dtype for name, f in low.items()} == dict.fromkeys(low, half)
        assert {name: f().dtype for name, f in wide.items()} == dict.fromkeys(wide, fastdl.float32)
        assert {name: f().dtype for name, f in same.items()} == dict.fromkeys(same, half)
        assert (x.double() @ w.double().T).dtype == fastdl.float64
        with autocast("cpu", enabled=False):
            assert F.linear(x, w).dtype == fastdl.float32
        assert F.linear(x, w).dtype == half
    assert F.linear(x, w).dtype == fastdl.float32
    assert F.softmax(x.to(half), 1).dtype == half


# Functions of (namespace, its functional, tensors in half precision, in float32), by shape.
AUTOCAST: dict[str, Any] = {
    "linear": lambda L, F, h, f: F.linear(f(2, 4), f(3, 4), f(3)),
    "matmul": lambda L, F, h, f: f(2, 4) @ h(4, 3),
    "mm": lambda L, F, h, f: L.mm(f(2, 4), f(4, 3)),
    "bmm": lambda L, F, h, f: L.bmm(f(1, 2, 4), f(1, 4, 3)),
    "addmm": lambda L, F, h, f: L.addmm(f(3), f(2, 4), f(4, 3)),
    "addbmm": lambda L, F, h, f: L.addbmm(f(2, 3), f(1, 2, 4), f(1, 4, 3)),
    "baddbmm": lambda L, F, h, f: L.baddbmm(f(1, 2, 3), f(1, 2, 4), f(1, 4, 3)),
    "chain_matmul": lambda L, F, h, f: L.linalg.multi_dot([f(2, 4), f(4, 3), f(3, 2)]),
    "einsum": lambda L, F, h, f: L.einsum("ij,kj->ik", f(2, 4), f(3, 4)),
    "conv1d": lambda L, F, h, f: F.conv1d(f(1, 2, 5), f(3, 2, 3)),
    "conv2d": lambda L, F, h, f: F.conv2d(f(1, 2, 5, 5), f(3, 2, 3, 3), f(3)),
    "conv3d": lambda L, F, h, f: F.conv3d(f(1, 2, 3, 3, 3), f(3, 2, 2, 2, 2)),
    "conv_transpose1d": lambda L, F, h, f: F.conv_transpose1d(f(1, 2, 5), f(2, 3, 3)),
    "conv_transpose2d": lambda L, F, h, f: F.conv_transpose2d(f(1, 2, 5, 5), f(2, 3, 3, 3)),
    "prelu": lambda L, F, h, f: F.prelu(f(2, 4), f(4)),
    "attention": lambda L, F, h, f: F.scaled_dot_product_attention(*[f(1, 2, 3, 4)] * 3),
    "multi_head": lambda L, F, h, f: L.nn.MultiheadAttention(4, 2)(*[f(3, 2, 4)] * 3)[0],
    "softmax": lambda L, F, h, f: F.softmax(h(2, 4), 1),
    "log_softmax": lambda L, F, h, f: F.log_softmax(h(2, 4), 1),
    "layer_norm": lambda L, F, h, f: F.layer_norm(h(2, 4), (4,)),
    "LayerNorm": lambda L, F, h, f: L.nn.LayerNorm(4)(h(2, 4)),
    "group_norm": lambda L, F, h, f: F.group_norm(h(2, 4), 2),
    "GroupNorm": lambda L, F, h, f: L.nn.GroupNorm(2, 4)(h(2, 4)),
    "BatchNorm1d": lambda L, F, h, f: L.nn.BatchNorm1d(4)(h(2, 4)),
    "batch_norm": lambda L, F, h, f: L.nn.BatchNorm2d(2)(h(2, 2, 3, 3)),
    "instance_norm": lambda L, F, h, f: F.instance_norm(h(2, 2, 3)),
    "normalize": lambda L, F, h, f: F.normalize(h(2, 4)),
    "sum": lambda L, F, h, f: h(2, 4).sum(),
    "mean": lambda L, F, h, f: h(2, 4).mean(0),
    "prod": lambda L, F, h, f: h(2, 4).prod(),
    "prod_dim": lambda L, F, h, f: h(2, 4).prod(1),
    "var": lambda L, F, h, f: h(2, 4).var(),
    "norm": lambda L, F, h, f: h(2, 4).norm(),
    "logsumexp": lambda L, F, h, f: h(2, 4).logsumexp(1),
    "cumsum": lambda L, F, h, f: h(2, 4).cumsum(1),
    "cumprod": lambda L, F, h, f: h(2, 4).cumprod(1),
    "max": lambda L, F, h, f: h(2, 4).max(),
    "topk": lambda L, F, h, f: h(2, 4).topk(2)[0],
    "exp": lambda L, F, h, f: h(2, 4).exp(),
    "log": lambda L, F, h, f: h(2, 4).log(),
    "rsqrt": lambda L, F, h, f: h(2, 4).rsqrt(),
    "tan": lambda L, F, h, f: h(2, 4).tan(),
    "pow": lambda L, F, h, f: h(2, 4) ** 2,
    "add": lambda L, F, h, f: h(2, 4) + f(2, 4),
    "add_half": lambda L, F, h, f: h(2, 4) + h(2, 4),
    "where": lambda L, F, h, f: L.where(h(2, 4) > 0.5, h(2, 4), f(2, 4)),
    "relu": lambda L, F, h, f: F.relu(h(2, 4)),
    "gelu": lambda L, F, h, f: F.gelu(h(2, 4)),
    "softplus": lambda L, F, h, f: F.softplus(h(2, 4)),
    "sigmoid_float": lambda L, F, h, f: L.sigmoid(f(2, 4)),
    "cat": lambda L, F, h, f: L.cat([h(2, 4), f(2, 4)]),
    "stack": lambda L, F, h, f: L.stack([h(2, 4), f(2, 4)]),
    "max_pool2d": lambda L, F, h, f: F.max_pool2d(h(1, 2, 4, 4), 2),
    "max_pool3d": lambda L, F, h, f: F.max_pool3d(h(1, 2, 4, 4, 4), 2),
    "avg_pool2d": lambda L, F, h, f: F.avg_pool2d(h(1, 2, 4, 4), 2),
    "avg_pool3d": lambda L, F, h, f: F.avg_pool3d(h(1, 2, 4, 4, 4), 2),
    "adaptive_avg_pool2d": lambda L, F, h, f: F.adaptive_avg_pool2d(h(1, 2, 4, 4), 2),
    "adaptive_avg_pool3d": lambda L, F, h, f: F.adaptive_avg_pool3d(h(1, 2, 4, 4, 4), 3),
    "adaptive_max_pool3d": lambda L, F, h, f: F.adaptive_max_pool3d(h(1, 2, 4, 4, 4), 3),
    "interpolate": lambda L, F, h, f: F.interpolate(h(1, 2, 4, 4), scale_factor=2),
    "pad": lambda L, F, h, f: F.pad(h(1, 2, 4, 4), (1, 1)),
    "reflect1d": lambda L, F, h, f: F.pad(h(1, 2, 4), (1, 1), "reflect"),
    "reflect2d": lambda L, F, h, f: F.pad(h(1, 2, 4, 4), (1, 1, 1, 1), "reflect"),
    "replicate2d": lambda L, F, h, f: F.pad(h(1, 2, 4, 4), (1, 1, 1, 1), "replicate"),
    "circular": lambda L, F, h, f: F.pad(h(1, 2, 4, 4), (1, 1, 1, 1), "circular"),
    "dropout": lambda L, F, h, f: F.dropout(h(2, 4)),
    "embedding": lambda L, F, h, f: F.embedding(L.tensor([0, 1]), f(3, 4)),
    "mse_loss": lambda L, F, h, f: F.mse_loss(h(2, 4), f(2, 4)),
    "l1_loss": lambda L, F, h, f: F.l1_loss(h(2, 4), h(2, 4)),
    "smooth_l1_loss": lambda L, F, h, f: F.smooth_l1_loss(h(2, 4), h(2, 4)),
    "huber_loss": lambda L, F, h, f: F.huber_loss(h(2, 4), h(2, 4)),
    "kl_div": lambda L, F, h, f: F.kl_div(h(2, 4), h(2, 4), reduction="batchmean"),
    "nll_loss": lambda L, F, h, f: F.nll_loss(h(2, 4), L.tensor([0, 1])),
    "cross_entropy": lambda L, F, h, f: F.cross_entropy(h(2, 4), L.tensor([0, 1])),
    "bce": lambda L, F, h, f: F.binary_cross_entropy(h(2, 4), h(2, 4)),
    "bce_logits": lambda L, F, h, f: F.binary_cross_entropy_with_logits(h(2, 4), f(2, 4)),
    "poisson": lambda L, F, h, f: F.poisson_nll_loss(h(2, 4), h(2, 4)),
    "soft_margin": lambda L, F, h, f: F.soft_margin_loss(h(2, 4), h(2, 4)),
    "multi_margin": lambda L, F, h, f: F.multi_margin_loss(h(2, 4), L.tensor([0, 1])),
    "margin_ranking": lambda L, F, h, f: F.margin_ranking_loss(h(4), h(4), h(4)),
    "hinge": lambda L, F, h, f: F.hinge_embedding_loss(h(4), h(4)),
    "triplet": lambda L, F, h, f: F.triplet_margin_loss(h(2, 4), h(2, 4), h(2, 4)),
    "cosine_embedding": lambda L, F, h, f: F.cosine_embedding_loss(h(2, 4), h(2, 4), L.tensor([1, -1])),
    "cosine_similarity": lambda L, F, h, f: F.cosine_similarity(h(2, 4), h(2, 4)),
    "gaussian_nll": lambda L, F, h, f: F.gaussian_nll_loss(h(2, 4), h(2, 4), h(2, 4)),
}


@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_on_the_cpu_gives_torchs_dtypes(name: str, half: Any) -> None:
    torch = pytest.importorskip("torch")
    with autocast("cpu", half), torch.autocast("cpu", getattr(torch, half.name)):
        got, expected = [
            AUTOCAST[name](
                L,
                L.nn.functional,
                lambda *s, L=L: L.full(s, 0.5).to(getattr(L, half.name)),
                lambda *s, L=L: L.full(s, 0.5),
            ).dtype
            for L in (fastdl, torch)
        ]
    assert f"torch.{got}" == str(expected)


def test_autocast_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), autocast("cpu", fastdl.float16), autocast("cpu", fastdl.float16):
        1 / 0  # noqa: B018
    assert all("apply" not in kind.__dict__ for kinds in _CASTS.values() for kind in kinds)
    with pytest.raises(RuntimeError, match="must have one dtype"):
        fastdl.ones(2, 2) @ fastdl.ones(2, 2).half()


def test_autocast_is_of_one_thread() -> None:
    import threading

    seen = []
    with autocast("cpu", fastdl.float16):
        thread = threading.Thread(target=lambda: seen.append((fastdl.ones(2, 2) @ fastdl.ones(2, 2)).dtype))
        thread.start()
        thread.join()
    assert seen == [fastdl.float32]


def test_autocast_decorates_and_refuses() -> None:
    @autocast("cpu", dtype=fastdl.float16)
    def product(x: Any) -> Any:
        return x @ x

    assert product(fastdl.ones(2, 2)).dtype == fastdl.float16
    with pytest.raises(TypeError, match="float16 or bfloat16, got float32"):
        autocast("cpu", dtype=fastdl.float32)
    with pytest.raises(RuntimeError, match="device"):
        autocast("tpu")
    with pytest.raises(ValueError, match="device_type"):
        autocast(fastdl.float16)


def test_training_under_autocast() -> None:
    """Parameters stay in float32 and get float32 gradients; a parameter used twice is converted once."""
    fastdl.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = fastdl.optim.Adam(model.parameters(), lr=0.05)
    x, y = fastdl.randn(6, 4), fastdl.randint(0, 3, (6,))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        with autocast("cpu", fastdl.float16):
            out = model(x)
            loss = F.cross_entropy(out, y)
        assert out.dtype == fastdl.float16
        assert loss.dtype == fastdl.float32
        loss.backward()
        assert all(p.dtype == p.grad.dtype == fastdl.float32 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    w = fastdl.ones(2, 2, requires_grad=True)
    with autocast("cpu", fastdl.float16):
        first, second = w @ w, w @ w
        assert len(_weights.cache) == 1
        (first.sum() + second.sum()).backward()
        assert w.grad is not None
        assert w.grad.tolist() == [[8.0, 8.0], [8.0, 8.0]]
        (w @ w).sum().backward()  # the conversion that backward ended is made anew


# ---------------------------------------------------------------------------------------------------- GradScaler


def scaled_step(scaler: Any, optimizer: Any, w: Any, factor: float = 1.0) -> None:
    optimizer.zero_grad()
    scaler.scale((w * factor).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


def test_scaler_scales_unscales_and_grows() -> None:
    w = nn.Parameter(fastdl.zeros(2))
    optimizer = fastdl.optim.SGD([w], lr=1.0)
    scaler = GradScaler("cpu", init_scale=8.0, growth_factor=4.0, growth_interval=2)
    scaled = scaler.scale([fastdl.ones(1), (fastdl.ones(1),)])
    assert scaled[0].item() == scaled[1][0].item() == 8.0
    scaled_step(scaler, optimizer, w)
    assert w.tolist() == [-1.0, -1.0]
    assert w.grad.tolist() == [1.0, 1.0]
    assert scaler.get_scale() == 8.0
    scaled_step(scaler, optimizer, w)
    assert scaler.get_scale() == 32.0
    scaler.update(new_scale=2.0)
    assert scaler.get_scale() == 2.0


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_scaler_skips_steps_that_overflowed(bad: float) -> None:
    w = nn.Parameter(fastdl.zeros(2))
    optimizer = fastdl.optim.Adam([w], lr=1.0)
    scaler = GradScaler("cpu", init_scale=8.0, backoff_factor=0.25, growth_interval=1)
    scaled_step(scaler, optimizer, w, bad)
    assert w.tolist() == [0.0, 0.0]
    assert scaler.get_scale() == 2.0
    assert not optimizer.state
    scaled_step(scaler, optimizer, w)
    assert w.tolist() != [0.0, 0.0]
    assert scaler.get_scale() == 4.0


def test_scaler_with_clipping_and_several_optimizers() -> None:
    a, b = nn.Parameter(fastdl.zeros(2)), nn.Parameter(fastdl.zeros(2))
    first, second = fastdl.optim.SGD([a], lr=1.0), fastdl.optim.SGD([b], lr=1.0)
    scaler = GradScaler("cpu", init_scale=4.0)
    scaler.scale((3 * a).sum() + float("inf") * b.sum()).backward()
    scaler.unscale_(first)
    nn.utils.clip_grad_norm_([a], 1.0)
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert a.tolist() == pytest.approx([-(0.5**0.5)] * 2, rel=1e-5)
    assert b.tolist() == [0.0, 0.0]
    assert scaler.get_scale() == 2.0  # one of them overflowed


def test_scaler_refuses_wrong_orders() -> None:
    w = nn.Parameter(fastdl.zeros(2))
    optimizer = fastdl.optim.SGD([w], lr=1.0)
    scaler = GradScaler("cpu")
    with pytest.raises(RuntimeError, match="No inf checks were recorded"):
        scaler.update()
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="step\\(\\) has already been called"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="being called after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="Closure"):
        scaler.step(optimizer, lambda: None)
    half = nn.Parameter(fastdl.zeros(2).half())
    half.grad = fastdl.ones(2).half()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        GradScaler("cpu").unscale_(fastdl.optim.SGD([half], lr=1.0))
    for options in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        with pytest.raises(ValueError, match="GradScaler"):
            GradScaler("cpu", **options)


def test_scaler_state_and_disabled() -> None:
    scaler = GradScaler("cpu", init_scale=16.0)
    other = GradScaler("cpu")
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == 16.0
    assert other.state_dict() == scaler.state_dict()
    assert set(scaler.state_dict()) == {
        "scale",
        "growth_factor",
        "backoff_factor",
        "growth_interval",
        "_growth_tracker",
    }
    off = GradScaler("cpu", enabled=False)
    loss = fastdl.ones(1)
    assert off.scale(loss) is loss
    assert off.state_dict() == {}
    assert off.get_scale() == 1.0
    with pytest.raises(RuntimeError, match="source state dict is empty"):
        scaler.load_state_dict({})


def test_scaler_against_torch() -> None:
    torch = pytest.importorskip("torch")
    w, v = nn.Parameter(fastdl.ones(3)), torch.nn.Parameter(torch.ones(3))
    ours, theirs = fastdl.optim.SGD([w], lr=0.1), torch.optim.SGD([v], lr=0.1)
    options = {"init_scale": 16.0, "growth_interval": 2, "growth_factor": 2.0, "backoff_factor": 0.5}
    a, b = GradScaler("cpu", **options), torch.amp.GradScaler("cpu", **options)
    for factor in (1.0, 2.0, float("inf"), 3.0, 1.0, 0.5, float("nan"), 1.0):
        for scaler, optimizer, p in ((a, ours, w), (b, theirs, v)):
            optimizer.zero_grad()
            scaler.scale((p * p).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        assert a.get_scale() == b.get_scale()
        assert w.tolist() == pytest.approx(v.tolist(), rel=1e-6)


def test_float32_matmul_precision_has_two_names() -> None:
    assert fastdl.get_float32_matmul_precision() == "highest"
    assert not fastdl.backends.cuda.matmul.allow_tf32
    try:
        fastdl.set_float32_matmul_precision("high")
        assert fastdl.backends.cuda.matmul.allow_tf32
        fastdl.backends.cuda.matmul.allow_tf32 = False
        assert fastdl.get_float32_matmul_precision() == "highest"
    finally:
        fastdl.set_float32_matmul_precision("highest")
    with pytest.raises(RuntimeError, match="precision must be"):
        fastdl.set_float32_matmul_precision("low")


@pytest.mark.parametrize(("within", "cast_inputs"), [(True, None), (True, fastdl.float32), (False, None)])
def test_functions_of_ones_own_choose_their_precision(within, cast_inputs):
    seen = []

    class Product(fastdl.autograd.Function):
        @staticmethod
        @custom_fwd(device_type="cpu", cast_inputs=cast_inputs)
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            seen.append((x.dtype, (x @ w).dtype))
            return x @ w

        @staticmethod
        @custom_bwd(device_type="cpu")
        def backward(ctx, grad):
            seen.append((ctx.saved_tensors[0] @ ctx.saved_tensors[1]).dtype)
            return fastdl.ones(2, 3) * 2, fastdl.ones(3, 2)

    x, w = fastdl.ones(2, 3, requires_grad=True), fastdl.ones(3, 2, requires_grad=True)
    with autocast("cpu", dtype=fastdl.float16, enabled=within):
        y = Product.apply(x.half() if cast_inputs else x, w)
    y.float().sum().backward()
    low = fastdl.float16 if within and cast_inputs is None else fastdl.float32
    assert seen == [(fastdl.float32, low), low]
    assert x.grad.tolist() == [[2.0] * 3] * 2

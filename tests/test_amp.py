"""``autocast``, ``GradScaler`` and functions that choose their precision."""

from __future__ import annotations

from typing import Any

import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import nn
from fastdl.amp import GradScaler, autocast, custom_bwd, custom_fwd
from fastdl.amp.autocast import _CASTS, _weights

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
    "bilinear": lambda L, F, h, f: F.bilinear(f(2, 3), f(2, 3), f(2, 3, 3)),
    "bilinear_half": lambda L, F, h, f: F.bilinear(h(2, 3), h(2, 3), h(2, 3, 3)),
    "grid_sample": lambda L, F, h, f: F.grid_sample(h(1, 1, 2, 2), h(1, 1, 2, 2), align_corners=False),
    "grid_sample_mixed": lambda L, F, h, f: F.grid_sample(h(1, 1, 2, 2), f(1, 1, 2, 2), align_corners=False),
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
    scaler = GradScaler("cpu")
    with pytest.raises(RuntimeError, match=r"nothing was scaled: scaler.scale\(loss\)"):
        scaler.step(fastdl.optim.SGD([half], lr=1.0))
    scaler.scale(fastdl.ones(()))
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(fastdl.optim.SGD([half], lr=1.0))
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

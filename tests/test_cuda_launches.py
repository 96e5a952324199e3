"""How many launches an operation takes, counted by the emulator, and that lists of arrays take few."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import emulation
import fake_cupy
import fastdl
import fastdl.nn.functional as F
from fastdl import nn
from fastdl.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(),
    reason="needs the CUDA toolkit's headers, cmake and pybind11",
)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Any]:
    emulation.extension().set_order("random", 0)
    yield fake_cupy.install(emulated=True)
    fake_cupy.uninstall()


def launches(call: Callable[[], Any]) -> int:
    """Of our kernels; what is called for the first time may take more."""
    call()
    before = emulation.extension().launches()
    call()
    return int(emulation.extension().launches() - before)


def test_kernels_can_be_left_out():
    """What remains is the host's time, which can be measured without a GPU."""
    x = fastdl.ones(4, device="cuda")
    extension = emulation.extension()
    extension.skip_kernels(True)
    try:
        before = extension.launches()
        y = x
        y += 1
        assert extension.launches() - before == 1
    finally:
        extension.skip_kernels(False)
    assert y.tolist() == [1, 1, 1, 1]


def tensor(*shape: int, requires_grad: bool = True) -> Any:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return fastdl.tensor(values, device="cuda", requires_grad=requires_grad)


def gradients(function: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    """A call of backward alone."""
    y = function(x)
    up = fastdl.ones(y.shape, device="cuda")
    return lambda: fastdl.autograd.grad(y, x, up, retain_graph=True)


@pytest.mark.parametrize("shape", [(32, 12, 7, 7), (64, 12)], ids=str)
def test_batch_norm_of_channels_that_fit_is_one_launch_each_way(shape):
    x, weight, bias = tensor(*shape), tensor(shape[1]), tensor(shape[1])

    def norm(x: Any) -> Any:
        return F.batch_norm(x, None, None, weight, bias, training=True)

    assert launches(lambda: norm(x)) == 1
    assert launches(gradients(norm, x)) == 1
    long = tensor(5000, 4)
    assert launches(lambda: F.batch_norm(long, None, None, training=True)) == 3


def test_small_losses_and_means_add_up_where_they_are_computed():
    x, y, logits = tensor(1000), tensor(1000, requires_grad=False), tensor(128, 10)
    labels = fastdl.tensor(np.arange(128) % 10, device="cuda")
    assert launches(lambda: F.mse_loss(x, y)) == 1
    assert launches(lambda: F.cross_entropy(logits, labels)) == 2
    assert launches(gradients(lambda x: x.mean(), x)) == 1
    assert launches(gradients(lambda x: x.mean(1), logits)) == 1


def parameters(count: int, device: str = "cuda") -> list[Any]:
    rng = np.random.default_rng(0)
    params = []
    for i in range(count):
        p = nn.Parameter(fastdl.tensor(rng.standard_normal((i % 7 + 1, 5)).astype(np.float32), device=device))
        p.grad = fastdl.tensor(rng.standard_normal(p.shape).astype(np.float32), device=device)
        params.append(p)
    return params


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_gradients_are_clipped_together(norm_type):
    ours, theirs = parameters(30), parameters(30, "cpu")
    for max_norm in (1.0, 100.0):  # it scales, it does not
        norms = [nn.utils.clip_grad_norm_(p, max_norm, norm_type).item() for p in (ours, theirs)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(force=True), b.grad.numpy(), rtol=1e-6)
    # Norms and their sum, the share in three, a multiplication.
    assert launches(lambda: nn.utils.clip_grad_norm_(ours, 1.0, norm_type)) == 6


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_clamped_and_forgotten_together(set_to_none):
    params, theirs = parameters(30), parameters(30, "cpu")
    params[3].grad[0, 0] = theirs[3].grad[0, 0] = math.nan
    nn.utils.clip_grad_value_(theirs, 0.5)
    assert launches(lambda: nn.utils.clip_grad_value_(params, 0.5)) == 1
    for a, b in zip(params, theirs, strict=True):
        np.testing.assert_array_equal(a.grad.numpy(force=True), b.grad.numpy())
    optimizer = fastdl.optim.SGD(params, lr=0.1)
    assert launches(lambda: optimizer.zero_grad(set_to_none)) == (0 if set_to_none else 1)
    for p in params:
        assert p.grad is None if set_to_none else not p.grad.numpy(force=True).any()


def test_gradients_in_many_blocks_and_tables():
    """More arrays than one launch takes, some of several blocks, one that begins between packs, one that is empty."""
    rng = np.random.default_rng(1)
    host = [rng.standard_normal(n).astype(np.float32) for n in [5000, 0, 4096, *range(60, 160), 9001]]
    arrays = [fastdl.tensor(a, device="cuda") for a in host]
    arrays.append(arrays[0][1:4])
    host.append(host[0][1:4])
    for p in (2.0, 1.0, 3.0, math.inf):
        assert nn.utils.get_total_norm(arrays, p).item() == pytest.approx(
            nn.utils.get_total_norm([fastdl.tensor(a) for a in host], p).item(), rel=1e-6
        )


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_scaler_looks_at_all_gradients_at_once(bad):
    params = parameters(30)
    if bad is not None:
        params[17].grad[0, 3] = bad
    before = [p.grad.numpy(force=True) for p in params]
    optimizer = fastdl.optim.SGD(params, lr=0.1)
    scaler = fastdl.amp.GradScaler(init_scale=8.0)
    scaler.scale(fastdl.zeros((), device="cuda"))
    count = emulation.extension().launches()
    scaler.unscale_(optimizer)
    assert emulation.extension().launches() - count == 3
    for p, grad in zip(params, before, strict=True):
        np.testing.assert_allclose(p.grad.numpy(force=True), grad / 8)
    kept = params[0].numpy(force=True)
    scaler.step(optimizer)
    assert np.array_equal(params[0].numpy(force=True), kept) == (bad is not None)


def test_averages_move_together():
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(10)]).to("cuda")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    average.update_parameters(model)  # the first takes the parameters as they are
    before = [p.numpy(force=True) for p in average.module.parameters()]
    with fastdl.no_grad():
        for p in model.parameters():
            p += 1.0
    count = emulation.extension().launches()
    average.update_parameters(model)
    assert emulation.extension().launches() - count <= 3
    for p, old in zip(average.module.parameters(), before, strict=True):
        np.testing.assert_allclose(p.numpy(force=True), old + 0.25, rtol=1e-6, atol=1e-7)


def test_layers():
    x = fastdl.randn(2, 1, 12, 12, device="cuda").requires_grad_()
    conv = nn.Conv2d(1, 6, 5, padding=2).to("cuda")
    linear = nn.Linear(8, 4).to("cuda")
    row = fastdl.randn(3, 8, device="cuda").requires_grad_()
    with fastdl.no_grad():
        assert launches(lambda: conv(x)) == 1
        assert launches(lambda: linear(row)) == 1  # the bias, beside cuBLAS's product
        assert launches(lambda: F.relu(row)) == 1
    for y, inputs, expected in (
        (conv(x), (x, *conv.parameters()), 4),  # x, the weights in parts, the bias
        (linear(row), (row, *linear.parameters()), 1),  # the bias
    ):
        seed = fastdl.ones_like(y)
        assert launches(lambda: fastdl.autograd.grad(y, inputs, seed, retain_graph=True)) == expected


def test_a_remembered_convolution_follows_what_is_asked_of_it(monkeypatch):
    """The algorithm is kept for a problem; another precision or a forced algorithm is another problem."""
    from fastdl import kernels

    x = fastdl.randn(2, 8, 6, 6, device="cuda")
    weight = fastdl.randn(16, 8, 1, 1, device="cuda")
    exact = copy.copy(F.conv2d(x, weight).numpy(force=True))
    monkeypatch.setattr(kernels.precisions, "convolution", "high")
    with fastdl.conv_algorithm("direct"):
        rounded = F.conv2d(x, weight).numpy(force=True)
    monkeypatch.setattr(kernels.precisions, "convolution", "highest")
    with fastdl.conv_algorithm("direct"):
        direct = F.conv2d(x, weight).numpy(force=True)
    assert np.abs(rounded - exact).max() > 1e-4 > np.abs(direct - exact).max()
    with fastdl.conv_algorithm("winograd"), pytest.raises(ValueError, match="winograd"):
        F.conv2d(x, weight)
    np.testing.assert_array_equal(F.conv2d(x, weight).numpy(force=True), exact)


def test_places_that_an_operation_makes_are_sent_without_waiting(monkeypatch):
    x, cupy, blocking = tensor(4, 2, 3), sys.modules["cupy"], []
    asarray = cupy.asarray
    monkeypatch.setattr(
        cupy, "asarray", lambda a, **options: blocking.append(options["blocking"]) or asarray(a, **options)
    )
    packed = nn.utils.rnn.pack_padded_sequence(x, [4, 2])
    padded, _ = nn.utils.rnn.pad_packed_sequence(packed)
    x.repeat_interleave(fastdl.tensor([2, 1, 0, 1]), 0)
    assert blocking == [False] * 3
    np.testing.assert_array_equal(padded.numpy(force=True)[:2], x.numpy(force=True)[:2])


def test_clipping_can_be_recorded():
    """Nothing of it waits for the GPU."""
    params = parameters(5)
    nn.utils.clip_grad_norm_(params, 1.0)
    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        norm = nn.utils.clip_grad_norm_(params, 1.0)
        nn.utils.clip_grad_value_(params, 0.25)
    for factor in (3.0, 0.5):
        theirs = parameters(5, "cpu")
        for p, q in zip(params, theirs, strict=True):
            q.grad *= factor
            p.grad.copy_(q.grad)
        captured.replay()
        assert norm.item() == pytest.approx(nn.utils.clip_grad_norm_(theirs, 1.0).item(), rel=1e-6)
        nn.utils.clip_grad_value_(theirs, 0.25)
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.grad.numpy(force=True), q.grad.numpy(), rtol=1e-6)

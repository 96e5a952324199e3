"""Whole models: they learn, and they learn what PyTorch's learn."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.models import LeNet5
from fastdl.nn import functional as F


def lenet_like(library):
    layers = library.nn
    return layers.Sequential(
        layers.Conv2d(1, 6, 5, padding=2),
        layers.BatchNorm2d(6),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5),
        layers.Tanh(),
        layers.AvgPool2d(2),
        layers.Flatten(),
        layers.Linear(400, 60),
        layers.GELU(),
        layers.LayerNorm(60),
        layers.Linear(60, 10),
    )


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_training_follows_torch(optimizer):
    """Twenty steps from the same weights on the same batches: losses and weights agree."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    theirs = lenet_like(torch).double()
    ours = lenet_like(fastdl).double()
    ours.load_state_dict({k: fastdl.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()})
    options = {"lr": 1e-2, "momentum": 0.9, "weight_decay": 1e-3} if optimizer == "SGD" else {"lr": 1e-3}
    update_ours = getattr(fastdl.optim, optimizer)(ours.parameters(), **options)
    update_theirs = getattr(torch.optim, optimizer)(theirs.parameters(), **options)
    for _ in range(20):
        x = rng.standard_normal((8, 1, 28, 28))
        y = rng.integers(0, 10, 8)
        loss_ours = F.cross_entropy(ours(fastdl.from_numpy(x)), fastdl.from_numpy(y))
        loss_theirs = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        for update, loss in ((update_ours, loss_ours), (update_theirs, loss_theirs)):
            update.zero_grad()
            loss.backward()
            update.step()
        assert abs(loss_ours.item() - loss_theirs.item()) < 1e-9
    for (name, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-8, err_msg=name)


def test_lenet_learns_a_batch_by_heart():
    fastdl.manual_seed(0)
    model = LeNet5()
    rng = np.random.default_rng(0)
    x = fastdl.from_numpy(rng.standard_normal((16, 1, 28, 28)).astype(np.float32))
    y = fastdl.from_numpy(rng.integers(0, 10, 16))
    update = fastdl.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(x), y)
        update.zero_grad()
        loss.backward()
        update.step()
    assert loss.item() < 0.05


def test_training_is_bitwise_repeatable():
    def train():
        fastdl.manual_seed(3)
        model = nn.Sequential(LeNet5(dropout=0.3))
        update = fastdl.optim.Adam(model.parameters())
        x = fastdl.randn(32, 1, 28, 28)
        y = fastdl.randint(0, 10, (32,))
        for _ in range(5):
            loss = F.cross_entropy(model(x), y)
            update.zero_grad()
            loss.backward()
            update.step()
        return [p.detach().numpy().copy() for p in model.parameters()]

    for a, b in zip(train(), train(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_reference_backend_gives_the_same_model():
    fastdl.manual_seed(0)
    model = LeNet5()
    x = fastdl.randn(3, 1, 28, 28)
    fast = model(x).detach().numpy()
    with fastdl.use_backend("reference"):
        slow = model(x).detach().numpy()
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-5)


def test_checkpoint_round_trip(tmp_path):
    model = LeNet5()
    fastdl.save(model.state_dict(), tmp_path / "model.safetensors")
    other = LeNet5()
    other.load_state_dict(fastdl.load(tmp_path / "model.safetensors"))
    x = fastdl.randn(2, 1, 28, 28)
    np.testing.assert_array_equal(model(x).detach().numpy(), other(x).detach().numpy())


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="size must be at least 12, got 8"):
        LeNet5(size=8)

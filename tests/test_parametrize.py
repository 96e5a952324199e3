"""Parametrizations: values, gradients, training and state dicts as PyTorch's."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn.utils import parametrizations, parametrize


def twins(make):
    """The layer of both libraries in float64, with torch's state."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = make(torch.nn, torch.nn.utils).double()
    ours = make(nn, nn.utils).double()
    names = list(theirs.state_dict())
    assert list(ours.state_dict()) == names
    ours.load_state_dict({k: v.numpy().copy() for k, v in theirs.state_dict().items()})
    return torch, ours, theirs


LAYERS = {
    "weight": ((5, 4), lambda n, u: u.parametrizations.weight_norm(n.Linear(4, 3))),
    "weight one": ((5, 4), lambda n, u: u.parametrizations.weight_norm(n.Linear(4, 3), dim=None)),
    "weight dim 1": ((5, 4), lambda n, u: u.parametrizations.weight_norm(n.Linear(4, 3), dim=1)),
    "weight conv": ((2, 3, 7), lambda n, u: u.parametrizations.weight_norm(n.Conv1d(3, 5, 3))),
    "spectral": ((5, 4), lambda n, u: u.parametrizations.spectral_norm(n.Linear(4, 3))),
    "spectral conv": (
        (2, 3, 6, 6),
        lambda n, u: u.parametrizations.spectral_norm(n.Conv2d(3, 5, 3), n_power_iterations=2),
    ),
    "spectral transposed": (
        (2, 3, 4, 4),
        lambda n, u: u.parametrizations.spectral_norm(n.ConvTranspose2d(3, 5, 2)),
    ),
    "spectral vector": ((5, 4), lambda n, u: u.parametrizations.spectral_norm(n.Linear(4, 3), name="bias")),
    "orthogonal square": ((5, 4), lambda n, u: u.parametrizations.orthogonal(n.Linear(4, 4))),
    "orthogonal cayley": (
        (5, 4),
        lambda n, u: u.parametrizations.orthogonal(n.Linear(4, 3), orthogonal_map="cayley"),
    ),
    "orthogonal wide": ((5, 4), lambda n, u: u.parametrizations.orthogonal(n.Linear(4, 3))),
    "orthogonal tall": ((5, 3), lambda n, u: u.parametrizations.orthogonal(n.Linear(3, 6))),
    "orthogonal free": (
        (5, 3),
        lambda n, u: u.parametrizations.orthogonal(n.Linear(3, 6), use_trivialization=False),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_training_follows_torch(name):
    shape, make = LAYERS[name]
    torch, ours, theirs = twins(make)
    rng = np.random.default_rng(0)
    updates = (
        fastdl.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9),
    )
    for _ in range(4):
        x = rng.standard_normal(shape)
        for library, layer, update in ((fastdl, ours, updates[0]), (torch, theirs, updates[1])):
            update.zero_grad()
            (layer(library.from_numpy(x)) ** 2).sum().backward()
            for p in layer.parameters():
                p.grad.clamp_(-1, 1)
            update.step()
    ours.eval(), theirs.eval()
    for key in ("weight", "bias"):
        np.testing.assert_allclose(
            getattr(ours, key).detach().numpy(), getattr(theirs, key).detach().numpy(), rtol=0, atol=1e-10
        )
    for (key, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert key == other
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10, err_msg=key)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (6, 2), (2, 3, 3)])
@pytest.mark.parametrize("kind", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_stays_and_can_be_assigned(kind, shape):
    layer = nn.Module()
    layer.weight = nn.Parameter(fastdl.randn(*shape, dtype=fastdl.float64))
    parametrizations.orthogonal(layer, orthogonal_map=kind)
    update = fastdl.optim.SGD(layer.parameters(), lr=0.1)
    target = fastdl.randn(*shape, dtype=fastdl.float64)
    small = min(shape[-2:])

    def is_orthogonal(w):
        w = w.detach().numpy()
        w = w if w.shape[-2] >= w.shape[-1] else np.swapaxes(w, -1, -2)
        np.testing.assert_allclose(
            np.swapaxes(w, -1, -2) @ w,
            np.broadcast_to(np.eye(small), (*shape[:-2], small, small)),
            atol=1e-12,
        )

    for _ in range(3):
        is_orthogonal(layer.weight)
        update.zero_grad()
        ((layer.weight - target) ** 2).sum().backward()
        update.step()
    wanted = layer.weight.detach().clone()
    layer.weight = fastdl.randn(*shape, dtype=fastdl.float64)
    is_orthogonal(layer.weight)
    layer.weight = wanted
    np.testing.assert_allclose(layer.weight.detach().numpy(), wanted.numpy(), atol=1e-12)


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT

    def right_inverse(self, x):
        return x.triu()


class Exponential(nn.Module):
    def forward(self, x):
        return x.exp()

    def right_inverse(self, x):
        return x.log()


def test_own_parametrizations_are_chained_assigned_and_removed():
    layer = nn.Linear(3, 3, bias=False)
    first = layer.weight
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    assert isinstance(layer, nn.Linear)
    assert parametrize.is_parametrized(layer)
    assert not parametrize.is_parametrized(layer, "bias")
    assert layer.parametrizations.weight.original is first
    assert [n for n, _ in layer.named_parameters()] == ["parametrizations.weight.original"]
    wanted = fastdl.tensor([[1.0, 2, 3], [2, 1, 4], [3, 4, 1]])
    layer.weight = wanted
    assert layer.weight.tolist() == wanted.tolist()
    assert layer.parametrizations.weight.original.tolist() == wanted.triu().tolist()
    twin = copy.deepcopy(layer)
    twin.weight = wanted * 2
    assert layer.weight.tolist() == wanted.tolist()
    parametrize.register_parametrization(layer, "weight", Exponential())
    np.testing.assert_allclose(
        layer.weight.detach().numpy(), wanted.exp().numpy(), rtol=1e-6
    )  # as in PyTorch
    layer.weight = wanted
    np.testing.assert_allclose(layer.weight.detach().numpy(), wanted.numpy(), rtol=1e-6)
    with parametrize.cached():
        assert layer.weight is layer.weight
    assert layer.weight is not layer.weight
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    assert layer.weight is first
    np.testing.assert_allclose(layer.weight.detach().numpy(), wanted.numpy(), rtol=1e-6)
    parametrize.remove_parametrizations(twin, "weight", leave_parametrized=False)
    assert twin.weight.tolist() == (wanted * 2).triu().tolist()


def test_a_second_parametrization_leaves_the_original_alone():
    values = np.linspace(-1, 1, 9).reshape(3, 3)  # of which a logarithm would make NaN
    weights = []
    for library in (fastdl, pytest.importorskip("torch")):

        class Positive(library.nn.Module):
            def forward(self, x):
                return x.exp()

            def right_inverse(self, x):
                return x.log()

        class Halved(library.nn.Module):
            def forward(self, x):
                return x / 2

            def right_inverse(self, x):
                raise NotImplementedError

        register = library.nn.utils.parametrize.register_parametrization
        layer = library.nn.Linear(3, 3).double()
        layer.weight.data.copy_(library.tensor(values))
        register(register(layer, "weight", Halved()), "weight", Positive(), unsafe=True)
        assert layer.parametrizations.weight.unsafe
        weights.append(layer.weight.detach().numpy())
    np.testing.assert_allclose(*weights, rtol=1e-15)


def test_older_weight_norm_checkpoints_load():
    old = nn.utils.weight_norm(nn.Linear(4, 3))
    new = parametrizations.weight_norm(nn.Linear(4, 3))
    new.load_state_dict(old.state_dict())
    x = fastdl.randn(2, 4)
    np.testing.assert_allclose(new(x).detach().numpy(), old(x).detach().numpy(), atol=1e-6)
    parametrize.remove_parametrizations(new, "weight")
    assert isinstance(new.weight, nn.Parameter)
    np.testing.assert_allclose(new(x).detach().numpy(), old(x).detach().numpy(), atol=1e-6)


def test_buffers_and_mistakes():
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "running_var", Exponential())
    assert "parametrizations.running_var.original" in dict(layer.named_buffers())
    with pytest.raises(ValueError, match="does not have a parameter, a buffer"):
        parametrize.register_parametrization(nn.Linear(2, 2), "wieght", Symmetric())
    with pytest.raises(ValueError, match="may not change the shape"):
        parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Linear(2, 5))
    with pytest.raises(ValueError, match="does not have a parametrization on bias"):
        parametrize.remove_parametrizations(nn.Linear(2, 2), "bias")
    with pytest.raises(ValueError, match="one of"):
        parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="gram")
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="sequence of tensors"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def test_matrix_exp_and_householder_product_are_torch_s():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for a in (rng.standard_normal((2, 4, 4)) * 3, np.zeros((3, 3)), rng.standard_normal((5, 5)) * 1e-3):
        want = torch.linalg.matrix_exp(torch.from_numpy(a)).numpy()
        got = fastdl.linalg.matrix_exp(fastdl.from_numpy(a)).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13 * np.abs(want).max())
    a, tau = rng.standard_normal((2, 6, 4)), rng.random((2, 4))
    want = torch.linalg.householder_product(torch.from_numpy(a), torch.from_numpy(tau)).numpy()
    got = fastdl.linalg.householder_product(fastdl.from_numpy(a), fastdl.from_numpy(tau)).numpy()
    np.testing.assert_allclose(got, want, atol=1e-12)

"""create_graph in programs of courses: Hessians, gradient penalties, physics-informed networks, meta-learning."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.autograd import grad
from fastdl.nn import functional as F
from test_create_graph import run_both


def filled(lib: Any, *layers: Any) -> Any:
    """Layers in a row, in float64, with the same parameters in both libraries."""
    net = layers[0] if len(layers) == 1 else lib.nn.Sequential(*layers)
    rng = np.random.default_rng(0)
    with lib.no_grad():
        for _, p in sorted(net.double().named_parameters()):
            p.copy_(lib.tensor(rng.standard_normal(tuple(p.shape)) * 0.5))
    return net


def data(lib: Any, *shape: int, seed: int = 5) -> Any:
    return lib.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def test_hessian_of_a_network() -> None:
    def program(lib: Any) -> Any:
        net = filled(lib, lib.nn.Linear(3, 4), lib.nn.Tanh(), lib.nn.Linear(4, 1), lib.nn.Softplus())
        x = data(lib, 3)
        hessian = lib.autograd.functional.hessian(lambda x: net(x).sum(), x)
        return hessian, *lib.autograd.functional.hvp(lambda x: net(x).sum(), x, x.detach())

    run_both(program)


def test_hessian_vector_product_of_the_parameters() -> None:
    def program(lib: Any) -> Any:
        net = filled(lib, lib.nn.Linear(3, 5), lib.nn.GELU(), lib.nn.Linear(5, 4))
        loss = lib.nn.functional.cross_entropy(net(data(lib, 6, 3)), lib.tensor([0, 1, 2, 3, 0, 1]))
        parameters = list(net.parameters())
        slopes = lib.autograd.grad(loss, parameters, create_graph=True)
        along = sum([(g * (i + 1)).sum() for i, g in enumerate(slopes)])
        return lib.autograd.grad(along, parameters)

    run_both(program)


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance", "none"])
def test_gradient_penalty_of_a_critic(norm: str) -> None:
    def program(lib: Any) -> Any:
        between = {
            "batch": lambda: lib.nn.BatchNorm2d(4),
            "layer": lambda: lib.nn.LayerNorm([4, 4, 4]),
            "group": lambda: lib.nn.GroupNorm(2, 4),
            "instance": lambda: lib.nn.InstanceNorm2d(4, affine=True),
            "none": lib.nn.Identity,
        }[norm]()
        critic = filled(
            lib,
            lib.nn.Conv2d(2, 4, 3, stride=2, padding=1),
            between,
            lib.nn.LeakyReLU(0.2),
            lib.nn.Conv2d(4, 4, 3, padding=1, groups=2),
            lib.nn.SiLU(),
            lib.nn.AvgPool2d(2),
            lib.nn.Flatten(),
            lib.nn.Linear(16, 1),
        )
        x = data(lib, 3, 2, 8, 8)
        (slope,) = lib.autograd.grad(critic(x).sum(), x, create_graph=True)
        penalty = ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        (critic(x).mean() + 10 * penalty).backward()
        return penalty, x.grad, *[p.grad for p in critic.parameters()]

    run_both(program, 1e-8)


def test_r1_penalty_with_max_pooling_and_weight_norm() -> None:
    def program(lib: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's weight_norm is deprecated
            dense = lib.nn.utils.weight_norm(lib.nn.Linear(12, 5))
        critic = filled(
            lib,
            lib.nn.Conv2d(1, 3, 3, padding=1),
            lib.nn.LeakyReLU(0.2),
            lib.nn.MaxPool2d(2),
            lib.nn.Flatten(),
            dense,
            lib.nn.Sigmoid(),
            lib.nn.Linear(5, 1),
        )
        x = data(lib, 2, 1, 4, 4)
        (slope,) = lib.autograd.grad(critic(x).sum(), x, create_graph=True)
        (slope.square().sum() / 2).backward()
        return [p.grad for name, p in sorted(critic.named_parameters()) if name != "6.bias"]

    run_both(program)


def test_physics_informed_network() -> None:
    """The residual u_t + u u_x - 0.01 u_xx of Burgers' equation and a third derivative, trained by their squares."""

    def program(lib: Any) -> Any:
        n = lib.nn
        net = filled(lib, n.Linear(2, 8), n.Tanh(), n.Linear(8, 8), n.Tanh(), n.Linear(8, 1))
        t, x = data(lib, 7, 1, seed=1), data(lib, 7, 1, seed=2)
        u = net(lib.cat([t, x], 1))
        u_t, u_x = lib.autograd.grad(u, (t, x), lib.ones_like(u), create_graph=True)
        (u_xx,) = lib.autograd.grad(u_x, x, lib.ones_like(u_x), create_graph=True)
        (u_xxx,) = lib.autograd.grad(u_xx, x, lib.ones_like(u_xx), create_graph=True)
        residual = u_t + u * u_x - 0.01 * u_xx
        (residual.square().mean() + 0.1 * u_xxx.square().mean()).backward()
        return u_xx, u_xxx, residual, *[p.grad for p in net.parameters()]

    run_both(program)


def test_maml_inner_loop() -> None:
    """The gradient of the loss after two steps, through those steps."""

    def program(lib: Any) -> Any:
        mse = lib.nn.functional.mse_loss
        net = filled(lib, lib.nn.Linear(1, 6), lib.nn.ReLU(), lib.nn.Linear(6, 1))
        weights = dict(net.named_parameters())
        x, y = data(lib, 8, 1, seed=3).detach(), data(lib, 8, 1, seed=4).detach()
        fast = weights
        for _ in range(2):
            loss = mse(lib.func.functional_call(net, fast, (x,)), y)
            slopes = lib.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {n: w - 0.1 * g for (n, w), g in zip(fast.items(), slopes, strict=True)}
        outer = mse(lib.func.functional_call(net, fast, (x + 1,)), y)
        return lib.autograd.grad(outer, list(weights.values()))

    run_both(program)


def test_a_transformer_layer_and_recurrent_layers() -> None:
    def program(lib: Any) -> Any:
        layer = filled(lib, lib.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True))
        x = data(lib, 2, 3, 4)
        math = lib.enable_grad()
        if lib is not fastdl:
            math = lib.nn.attention.sdpa_kernel(lib.nn.attention.SDPBackend.MATH)
        with math:
            (slope,) = lib.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
            wanted = [x, layer.linear1.weight, layer.self_attn.in_proj_weight]
            found = list(lib.autograd.grad(slope.square().sum(), wanted))
        for kind in (lib.nn.LSTM, lib.nn.GRU):
            rnn = filled(lib, kind(4, 3))
            (slope,) = lib.autograd.grad(rnn(x)[0].square().sum(), x, create_graph=True)
            found += lib.autograd.grad(slope.square().sum(), list(rnn.parameters()))
        return found

    run_both(program, 1e-8)


def test_float32_networks_differentiate_in_their_own_dtype() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    )
    x = fastdl.randn(4, 1, 6, 6, requires_grad=True)
    loss = F.cross_entropy(net(x), fastdl.tensor([0, 1, 2, 0]), label_smoothing=0.1)
    (slope,) = grad(loss, x, create_graph=True)
    assert slope.dtype == fastdl.float32
    for g in grad(slope.square().sum(), [x, *net.parameters()], allow_unused=True):
        assert g is None or g.dtype == fastdl.float32

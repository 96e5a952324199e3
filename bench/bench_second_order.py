"""Second derivatives and derivatives of many: penalties on gradients, physics, Hessians, per-sample gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library


def gradient_penalty(images: int, width: int, norm: str) -> Callable[[Library], Callable[[], Any]]:
    """One step of WGAN-GP's critic on 32 x 32 images."""

    def make(lib: Library) -> Callable[[], Any]:
        nn = lib.nn
        layers: list[Any] = []
        channels = 3
        for i in range(3):
            layers += [nn.Conv2d(channels, width << i, 4, 2, 1)]
            if norm == "instance" and i:
                layers += [nn.InstanceNorm2d(width << i, affine=True)]
            layers += [nn.LeakyReLU(0.2)]
            channels = width << i
        critic = lib.place(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 1)))
        x = lib.tensor(np.random.default_rng(0).standard_normal((images, 3, 32, 32)), requires_grad=True)
        update = lib.optim.Adam(critic.parameters(), lr=1e-4)

        def run() -> None:
            update.zero_grad()
            (slope,) = lib.module.autograd.grad(critic(x).sum(), x, create_graph=True)
            loss = critic(x).mean() + 10 * ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
            loss.backward()
            update.step()

        return run

    return make


def physics(points: int, width: int) -> Callable[[Library], Callable[[], Any]]:
    """One step on the residual of Burgers' equation: u_t + u u_x - 0.01 u_xx."""

    def make(lib: Library) -> Callable[[], Any]:
        nn, grad = lib.nn, lib.module.autograd.grad
        net = lib.place(
            nn.Sequential(
                nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
            )
        )
        rng = np.random.default_rng(0)
        t, x = [lib.tensor(rng.random((points, 1)), requires_grad=True) for _ in range(2)]
        update = lib.optim.Adam(net.parameters())
        ones = lib.tensor(np.ones((points, 1)))

        def run() -> None:
            update.zero_grad()
            u = net(lib.module.cat([t, x], 1))
            u_t, u_x = grad(u, (t, x), ones, create_graph=True)
            (u_xx,) = grad(u_x, x, ones, create_graph=True)
            (u_t + u * u_x - 0.01 * u_xx).square().mean().backward()
            update.step()

        return run

    return make


def hessian_product(rows: int, width: int) -> Callable[[Library], Callable[[], Any]]:
    """The Hessian of a classifier's loss times a vector, for all its parameters."""

    def make(lib: Library) -> Callable[[], Any]:
        nn, grad = lib.nn, lib.module.autograd.grad
        net = lib.place(
            nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, 10))
        )
        rng = np.random.default_rng(0)
        x, labels = lib.tensor(rng.standard_normal((rows, 64))), lib.tensor(rng.integers(0, 10, rows))
        parameters = list(net.parameters())
        vectors = [lib.tensor(rng.standard_normal(tuple(p.shape))) for p in parameters]

        def run() -> None:
            slopes = grad(lib.F.cross_entropy(net(x), labels), parameters, create_graph=True)
            grad(slopes, parameters, vectors)

        return run

    return make


def sample_gradients(rows: int, image: bool) -> Callable[[Library], Callable[[], Any]]:
    """The gradient of every sample's own loss, as for differential privacy."""

    def make(lib: Library) -> Callable[[], Any]:
        nn, func = lib.nn, lib.module.func
        if image:
            net = nn.Sequential(
                nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 169, 10)
            )
        else:
            net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        lib.place(net)
        rng = np.random.default_rng(0)
        x = lib.tensor(rng.standard_normal((rows, 1, 28, 28) if image else (rows, 784)))
        labels = lib.tensor(rng.integers(0, 10, rows))
        parameters = {name: p.detach() for name, p in net.named_parameters()}

        def loss(p: Any, sample: Any, label: Any) -> Any:
            scores = func.functional_call(net, p, (sample.unsqueeze(0),))
            return lib.F.cross_entropy(scores, label.unsqueeze(0))

        gradients = func.vmap(func.grad(loss), (None, 0, 0))
        return lambda: gradients(parameters, x, labels)

    return make


def rows_of(kind: str, size: int) -> Callable[[Library], Callable[[], Any]]:
    """A Jacobian of ``size`` outputs, the Laplacian at ``size`` points, or ``size`` models at once."""

    def make(lib: Library) -> Callable[[], Any]:
        nn, func = lib.nn, lib.module.func
        rng = np.random.default_rng(0)
        if kind == "jacobian":
            w, x = lib.tensor(rng.standard_normal((size, size))), lib.tensor(rng.standard_normal(size))
            table = func.jacrev(lambda v: (w @ v).tanh())
            return lambda: table(x)
        if kind == "ensemble":
            models = [
                lib.place(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)))
                for _ in range(size)
            ]
            state = func.stack_module_state(models)
            x = lib.tensor(rng.standard_normal((64, 784)))
            member = func.vmap(lambda p, b: func.functional_call(models[0], (p, b), (x,)))
            return lambda: member(*state)
        net = lib.place(
            nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        )
        points = lib.tensor(rng.standard_normal((size, 3)))
        parameters = {name: p.detach() for name, p in net.named_parameters()}
        value = lambda q: func.functional_call(net, parameters, (q,)).squeeze()  # noqa: E731
        laplacian = func.vmap(lambda q: func.hessian(value)(q).diagonal().sum())
        return lambda: laplacian(points)

    return make


CASES = [
    Case("gradients of 64 samples, 784-128-10", "step", sample_gradients(64, False)),
    Case("gradients of 32 images, convolution", "step", sample_gradients(32, True)),
    Case("Jacobian of 64 outputs", "step", rows_of("jacobian", 64)),
    Case("Laplacian at 256 points, width 64", "step", rows_of("laplacian", 256)),
    Case("ensemble of 10, 784-128-10", "f", rows_of("ensemble", 10)),
    Case("gradient penalty 16x3x32x32, 32 channels", "step", gradient_penalty(16, 32, "")),
    Case("gradient penalty with instance norm", "step", gradient_penalty(16, 32, "instance")),
    Case("physics-informed 256 points, width 32", "step", physics(256, 32)),
    Case("physics-informed 8192 points, width 64", "step", physics(8192, 64)),
    Case("Hessian times vector, 128 rows, width 256", "fb", hessian_product(128, 256)),
]

"""Whole training steps: zero_grad, forward, loss, backward, optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library


def lenet(lib: Library) -> Any:
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def mlp(lib: Library) -> Any:
    nn = lib.nn
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def small_vgg(lib: Library) -> Any:
    nn = lib.nn
    layers: list[Any] = []
    channels = 3
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def step(
    name: str, build: Callable[[Library], Any], shape: tuple[int, ...], optimizer: str, target: float = 0.0
) -> Case:
    """A training step on one fixed batch of random inputs of ``shape`` with ten classes."""

    def make(lib: Library) -> Callable[[], Any]:
        rng = np.random.default_rng(0)
        inputs = lib.tensor(rng.standard_normal(shape))
        labels = lib.tensor(rng.integers(0, 10, shape[0]))
        model = build(lib)
        update = getattr(lib.optim, optimizer)(model.parameters(), lr=1e-4)

        def run() -> Any:
            update.zero_grad()
            loss = lib.F.cross_entropy(model(inputs), labels)
            loss.backward()
            update.step()
            return loss

        return run

    return Case(f"{name} B{shape[0]} {optimizer}", "step", make, target=target)


CASES = [
    step("LeNet-5", lenet, (1, 1, 28, 28), "Adam", target=3.0),
    step("LeNet-5", lenet, (32, 1, 28, 28), "Adam", target=2.0),
    step("LeNet-5", lenet, (256, 1, 28, 28), "Adam", target=2.5),
    step("LeNet-5", lenet, (32, 1, 28, 28), "SGD"),
    step("MLP 784-256-128-10", mlp, (1, 784), "Adam"),
    step("MLP 784-256-128-10", mlp, (64, 784), "Adam"),
    step("VGG-like 32-64-128 on 32x32", small_vgg, (32, 3, 32, 32), "Adam"),
]

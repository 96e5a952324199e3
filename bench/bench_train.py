"""Whole training steps: zero_grad, forward, loss, backward, optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library


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


def char_lstm(lib: Library) -> Any:
    """Two layers of 256 over an alphabet of 100; characters (T, B) -> scores (T * B, 100)."""
    nn = lib.nn

    class CharLSTM(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(100, 256)
            self.rnn = nn.LSTM(256, 256, num_layers=2)
            self.head = nn.Linear(256, 100)

        def forward(self, characters: Any) -> Any:
            return self.head(self.rnn(self.embedding(characters))[0]).flatten(0, 1)

    return CharLSTM()


def gpt(lib: Library) -> Any:
    """Four blocks of 256 with four heads, 8192 symbols; symbols (B, 256) -> scores (B * 256, 8192)."""
    nn = lib.nn

    class Block(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(256), nn.LayerNorm(256)
            self.qkv, self.out = nn.Linear(256, 768), nn.Linear(256, 256)
            self.mlp = nn.Sequential(nn.Linear(256, 1024), nn.GELU(approximate="tanh"), nn.Linear(1024, 256))

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 4, 64)).permute(2, 0, 3, 1, 4).unbind(0)
            y = lib.F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.symbol, self.position = nn.Embedding(8192, 256), nn.Embedding(256, 256)
            self.blocks = nn.Sequential(*[Block() for _ in range(4)])
            self.norm, self.head = nn.LayerNorm(256), nn.Linear(256, 8192, bias=False)

        def forward(self, symbols: Any) -> Any:
            x = self.symbol(symbols) + self.position(
                lib.module.arange(symbols.shape[1], device=symbols.device)
            )
            return self.head(self.norm(self.blocks(x))).flatten(0, 1)

    return GPT()


def step(
    name: str,
    build: Callable[[Library], Any],
    shape: tuple[int, ...],
    optimizer: str,
    target: float = 0.0,
    only: str = "",
) -> Case:
    """A training step on one fixed batch of random inputs of ``shape`` with ten classes."""

    def make(lib: Library) -> Callable[[], Any]:
        rng = np.random.default_rng(0)
        inputs = lib.tensor(rng.standard_normal(shape))
        labels = lib.tensor(rng.integers(0, 10, shape[0]))
        model = lib.place(build(lib))
        update = optimizer_of(lib, optimizer, model)
        return training(lib, model, inputs, labels, update)

    return Case(f"{name} B{shape[0]} {optimizer}", "step", make, target=target, only=only)


def language_step(
    name: str,
    build: Callable[[Library], Any],
    shape: tuple[int, int],
    symbols: int,
    optimizer: str,
    target: float = 0.0,
    only: str = "",
) -> Case:
    """A training step on one fixed batch of random symbols of ``shape``, each with a random next one."""

    def make(lib: Library) -> Callable[[], Any]:
        rng = np.random.default_rng(0)
        inputs = lib.tensor(rng.integers(0, symbols, shape))
        targets = lib.tensor(rng.integers(0, symbols, shape[0] * shape[1]))
        model = lib.place(build(lib))
        update = optimizer_of(lib, optimizer, model)
        return training(lib, model, inputs, targets, update)

    return Case(f"{name} {optimizer}", "step", make, target=target, only=only)


def optimizer_of(lib: Library, name: str, model: Any) -> Any:
    captured = {"capturable": True} if lib.how == "captured" and name != "SGD" else {}
    return getattr(lib.optim, name)(model.parameters(), lr=1e-4, **captured)


def training(lib: Library, model: Any, inputs: Any, targets: Any, optimizer: Any) -> Callable[[], Any]:
    def run() -> Any:
        optimizer.zero_grad()
        loss = lib.F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    return run


CASES = [
    step("LeNet-5", lambda lib: lib.models.LeNet5(), (1, 1, 28, 28), "Adam", target=3.0),
    step("LeNet-5", lambda lib: lib.models.LeNet5(), (32, 1, 28, 28), "Adam", target=2.0),
    step("LeNet-5", lambda lib: lib.models.LeNet5(), (256, 1, 28, 28), "Adam", target=2.5),
    step("LeNet-5", lambda lib: lib.models.LeNet5(), (32, 1, 28, 28), "SGD"),
    step("MLP 784-256-128-10", mlp, (1, 784), "Adam"),
    step("MLP 784-256-128-10", mlp, (64, 784), "Adam"),
    step("VGG-like 32-64-128 on 32x32", small_vgg, (32, 3, 32, 32), "Adam"),
    language_step("char-LSTM 2xH256 V100 B1 T25", char_lstm, (25, 1), 100, "Adam", target=2.0),
    language_step("char-LSTM 2xH256 V100 B32 T64", char_lstm, (64, 32), 100, "Adam", target=1.6),
    language_step("GPT d256 L4 heads 4 V8192 B8 T256", gpt, (8, 256), 8192, "AdamW", target=1.4),
    step("ResNet-18 on 224x224", lambda lib: lib.models.resnet18(), (64, 3, 224, 224), "SGD", only="cuda"),
    language_step("GPT d256 L4 heads 4 V8192 B64 T256", gpt, (64, 256), 8192, "AdamW", only="cuda"),
]

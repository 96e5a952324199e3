"""Softmax and losses: all of them limited by memory bandwidth once the tensors leave the caches.

The bytes are those that must move: inputs once forward, inputs once and the gradient once backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.bench.case import Arrays, Case, Library, forward_backward


def _logits(*shape: int) -> Arrays:
    """Logits (N, C, ...) and a label for every position."""
    return lambda rng: [
        rng.standard_normal(shape, dtype=np.float32),
        rng.integers(0, shape[1], (shape[0], *shape[2:])),
    ]


def _named(name: str, **options: Any) -> Callable[[Library], Any]:
    return lambda lib: lambda *tensors: getattr(lib.F, name)(*tensors, **options)


def _constant_target(name: str, n: int) -> Callable[[Library], Any]:
    """The loss against a target that needs no gradient."""

    def build(lib: Library) -> Any:
        target = lib.tensor(np.random.default_rng(1).random(n, dtype=np.float32))
        return lambda x: getattr(lib.F, name)(x, target)

    return build


def _one(n: int) -> Arrays:
    return lambda rng: [rng.uniform(0.01, 0.99, n).astype(np.float32)]


def _cross_entropy(*shape: int, target: float = 0.0, **options: Any) -> Case:
    name = "cross_entropy " + "x".join(map(str, shape)) + "".join(f" {k}={v}" for k, v in options.items())
    size = 4 * int(np.prod(shape))
    return forward_backward(
        name, _named("cross_entropy", **options), _logits(*shape), bytes=3 * size, target=target
    )


def _softmax(name: str, shape: tuple[int, ...], dim: int, target: float) -> Case:
    size = 4 * int(np.prod(shape))
    title = f"{name} {'x'.join(map(str, shape))} dim {dim}"
    return forward_backward(
        title,
        _named(name, dim=dim),
        lambda rng: [rng.standard_normal(shape, dtype=np.float32)],
        bytes=5 * size,
        target=target,
    )


def _pointwise(name: str, n: int, target: float) -> Case:
    return forward_backward(f"{name} {n}", _constant_target(name, n), _one(n), bytes=20 * n, target=target)


CASES = [
    _cross_entropy(128, 10, target=2),
    _cross_entropy(64, 1000, target=2),
    _cross_entropy(8192, 4096, target=5),
    _cross_entropy(2048, 50257, target=5),
    _cross_entropy(8192, 4096, target=5, label_smoothing=0.1),
    _cross_entropy(8, 21, 128, 128),
    _cross_entropy(4, 150, 128, 128),
    _softmax("softmax", (64, 256, 768), -1, 1.3),
    _softmax("log_softmax", (64, 256, 768), -1, 1.3),
    _softmax("softmax", (64, 256, 768), 1, 1.3),
    _softmax("softmax", (128, 12, 128, 128), -1, 1.3),
    _softmax("softmax", (32, 21, 64, 64), 1, 1.3),
    _softmax("softmax", (128, 10), -1, 0),
    _pointwise("mse_loss", 10_000_000, 1.5),
    _pointwise("smooth_l1_loss", 10_000_000, 1.5),
    _pointwise("binary_cross_entropy", 10_000_000, 1.5),
    _pointwise("binary_cross_entropy_with_logits", 10_000_000, 1.5),
    _pointwise("mse_loss", 1000, 2),
    forward_backward(
        "cosine_similarity 4096x768",
        lambda lib: lib.F.cosine_similarity,
        lambda rng: list(rng.standard_normal((2, 4096, 768), dtype=np.float32)),
        bytes=6 * 4 * 4096 * 768,
    ),
    forward_backward(
        "triplet_margin_loss 4096x256",
        lambda lib: lib.F.triplet_margin_loss,
        lambda rng: list(rng.standard_normal((3, 4096, 256), dtype=np.float32)),
        bytes=9 * 4 * 4096 * 256,
    ),
]


def _ctc() -> Case:
    frames, batch, classes, longest = 200, 16, 40, 30

    def build(lib: Library) -> Any:
        labels = lib.tensor(np.random.default_rng(1).integers(1, classes, (batch, longest)))
        return lambda x: lib.F.ctc_loss(
            lib.F.log_softmax(x, 2), labels, (frames,) * batch, (longest,) * batch
        )

    return forward_backward(
        f"ctc_loss {frames}x{batch}x{classes}",
        build,
        lambda rng: [rng.standard_normal((frames, batch, classes), dtype=np.float32)],
    )


CASES.append(_ctc())

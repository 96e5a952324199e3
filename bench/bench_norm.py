"""Normalisation: one read and one write of memory forward, two reads and one write backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, forward_backward


def norm(title: str, shape: tuple[int, ...], layer: Any, target: float = 1.2) -> Case:
    return forward_backward(
        f"{title} {'x'.join(map(str, shape))}",
        layer,
        lambda rng: [rng.standard_normal(shape).astype(np.float32)],
        bytes=20 * int(np.prod(shape)),
        target=target,
    )


CASES = [
    norm("batch_norm", (32, 64, 56, 56), lambda lib: lib.nn.BatchNorm2d(64)),
    norm("batch_norm", (32, 512, 7, 7), lambda lib: lib.nn.BatchNorm2d(512)),
    norm("batch_norm", (8, 3, 224, 224), lambda lib: lib.nn.BatchNorm2d(3)),
    norm("batch_norm", (4096, 512), lambda lib: lib.nn.BatchNorm1d(512)),
    norm("layer_norm", (64, 256, 768), lambda lib: lib.nn.LayerNorm(768)),
    norm("rms_norm", (64, 256, 768), lambda lib: lib.nn.RMSNorm(768)),
    norm("group_norm", (32, 64, 56, 56), lambda lib: lib.nn.GroupNorm(8, 64)),
    norm("instance_norm", (32, 64, 56, 56), lambda lib: lib.nn.InstanceNorm2d(64)),
    norm("local_response_norm", (32, 64, 28, 28), lambda lib: lib.nn.LocalResponseNorm(5)),
    norm("batch_norm", (64, 512), lambda lib: lib.nn.BatchNorm1d(512), 1.5),
    norm("layer_norm", (64, 512), lambda lib: lib.nn.LayerNorm(512), 1.5),
    norm("batch_norm", (16, 16), lambda lib: lib.nn.BatchNorm1d(16), 2.0),
    norm("layer_norm", (16, 16), lambda lib: lib.nn.LayerNorm(16), 2.0),
]

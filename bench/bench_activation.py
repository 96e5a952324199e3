"""Activation functions: one read and one write of memory forward, two reads and one write backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, forward_backward

LARGE, SMALL = (64, 256, 768), ((16, 16), (64, 512))


def activation(title: str, apply: Any, target: float = 1.3, shape: tuple[int, ...] = LARGE) -> Case:
    size = 4 * int(np.prod(shape))
    return forward_backward(
        f"{title} {'x'.join(map(str, shape))}",
        apply,
        lambda rng: [rng.standard_normal(shape).astype(np.float32)],
        bytes=5 * size,
        target=target,
    )


CASES = [
    activation("relu", lambda lib: lib.F.relu),
    activation("leaky_relu", lambda lib: lib.F.leaky_relu),
    activation("gelu", lambda lib: lib.F.gelu),
    activation("gelu tanh", lambda lib: lambda x: lib.F.gelu(x, approximate="tanh")),
    activation("silu", lambda lib: lib.F.silu),
    activation("mish", lambda lib: lib.F.mish),
    activation("tanh", lambda lib: lib.module.tanh),
    activation("sigmoid", lambda lib: lib.module.sigmoid),
    activation("elu", lambda lib: lib.F.elu),
    activation("softplus", lambda lib: lib.F.softplus),
    activation("hardswish", lambda lib: lib.F.hardswish),
    activation("glu", lambda lib: lib.F.glu),
    activation("x * tanh(softplus(x))", lambda lib: lambda x: x * lib.module.tanh(lib.F.softplus(x)), 4.0),
    *(activation("relu", lambda lib: lib.F.relu, 2.0, shape) for shape in SMALL),
    *(activation("gelu", lambda lib: lib.F.gelu, 2.0, shape) for shape in SMALL),
]

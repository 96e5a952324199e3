"""Fixed costs: what an operation costs before and after its arithmetic, on arrays too small to matter."""

from __future__ import annotations

import numpy as np

from fastdl.bench.case import Arrays, forward, forward_backward


def small(*shapes: tuple[int, ...]) -> Arrays:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


CASES = [
    forward("relu 16x16", lambda lib: lib.F.relu, small((16, 16))),
    forward_backward("relu 16x16", lambda lib: lib.F.relu, small((16, 16)), target=2.0),
    forward_backward("x + y 16x16", lambda lib: lambda x, y: x + y, small((16, 16), (16, 16))),
    forward_backward("x * y 16x16", lambda lib: lambda x, y: x * y, small((16, 16), (16, 16))),
    forward_backward("linear 16x16", lambda lib: lib.F.linear, small((16, 16), (16, 16), (16,))),
    forward_backward("sum 16x16", lambda lib: lambda x: x.sum(), small((16, 16))),
    forward_backward("softmax 16x16", lambda lib: lambda x: lib.F.softmax(x, -1), small((16, 16))),
    forward_backward("nn.Linear(16, 16)", lambda lib: lib.nn.Linear(16, 16), small((16, 16))),
]

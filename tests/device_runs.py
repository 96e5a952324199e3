"""Cases of a device: how their inputs are made, and how they are run.

A case is a function of a device's name. It makes its inputs with ``on`` (floating-point, with gradients) and ``ints``,
and returns tensors, nested as it likes. The gradients of its inputs are compared, too: ``watched`` collects what ``on``
makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastdl

watched: list[Any] = []
dtype: list[Any] = [fastdl.float32]  # of what `on` makes


def on(
    device: str, *shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0, grad: bool = True
) -> Any:
    values = np.random.default_rng(seed + len(shape)).uniform(low, high, shape).astype(np.float32)
    t = fastdl.tensor(values, device=device, dtype=dtype[0])
    if grad:
        watched.append(t.requires_grad_())
    return t


def ints(device: str, *shape: int, high: int = 5, seed: int = 0) -> Any:
    return fastdl.tensor(np.random.default_rng(seed).integers(0, high, shape), device=device)


def tensors(value: Any) -> list[Any]:
    if isinstance(value, fastdl.Tensor):
        return [value]
    return [t for v in value for t in tensors(v)] if isinstance(value, (tuple, list)) else []


def run(case: Callable[[str], Any], device: str) -> list[Any]:
    """Results and gradients of a case, as NumPy arrays; all of them must have been on the device."""
    fastdl.manual_seed(3)
    watched.clear()
    outputs = tensors(case(device))
    scalars = [o.float().sum() for o in outputs if o.requires_grad]
    if scalars:
        total = scalars[0]
        for s in scalars[1:]:
            total = total + s
        total.backward()
    found = outputs + [leaf.grad for leaf in watched if leaf.grad is not None]
    for t in found:
        assert t.device.type == device, f"a result is on {t.device}"
    return [t.detach().cpu().numpy() for t in found]

"""A benchmark case: the same Python text run by fastdl and by a peer with PyTorch's names.

A family file ``bench_<family>.py`` holds a list ``CASES``. ``make(lib)`` builds the inputs with one library and
returns the function to time::

    CASES = [
        forward_backward("relu 64x512", lambda lib: lib.F.relu, lambda rng: [rng.standard_normal((64, 512))]),
    ]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Library:
    """What a case sees of fastdl or its peer: ``lib.F``, ``lib.nn``, ``lib.optim``, ``lib.tensor``, ``lib.module``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = importlib.import_module(name)
        self.nn = importlib.import_module(f"{name}.nn")
        self.F = importlib.import_module(f"{name}.nn.functional")
        self.optim = importlib.import_module(f"{name}.optim")

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        """A tensor with a copy of ``array``; float64 becomes float32."""
        array = np.array(array, dtype=np.float32 if array.dtype == np.float64 else array.dtype)
        tensor = self.module.from_numpy(array)
        if requires_grad:
            tensor.requires_grad_(True)
        return tensor


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: what is computed and its size, e.g. ``"cross_entropy 2048x50257"``.
        mode: ``"f"`` forward, ``"fb"`` forward and backward, ``"step"`` a whole training step.
        make: builds inputs, returns the function to time.
        flops: floating-point operations of one call, 0 if the case is not about arithmetic.
        bytes: bytes that must move between memory and CPU at the least, 0 if it is not about bandwidth.
        target: ratio to the peer that the project wants to reach, 0 if none was set.
        memory: whether to measure how much memory a call needs, too.
    """

    name: str
    mode: str
    make: Callable[[Library], Callable[[], Any]]
    flops: float = 0.0
    bytes: float = 0.0
    target: float = 0.0
    memory: bool = False


Arrays = Callable[[np.random.Generator], Sequence[Any]]


def forward(name: str, function: Callable[[Library], Any], arrays: Arrays, **numbers: Any) -> Case:
    """``function(lib)(*tensors)`` without a graph."""

    def make(lib: Library) -> Callable[[], Any]:
        inputs = [_input(lib, a, False) for a in arrays(np.random.default_rng(0))]
        call = function(lib)

        def run() -> Any:
            with lib.module.no_grad():
                return call(*inputs)

        return run

    return Case(name, "f", make, **numbers)


def forward_backward(name: str, function: Callable[[Library], Any], arrays: Arrays, **numbers: Any) -> Case:
    """``function(lib)(*tensors).backward(...)``: gradients of every floating-point input and of module parameters."""

    def make(lib: Library) -> Callable[[], Any]:
        inputs = [_input(lib, a, True) for a in arrays(np.random.default_rng(0))]
        call = function(lib)
        leaves = [t for t in inputs if getattr(t, "requires_grad", False)]
        if isinstance(call, lib.nn.Module):
            leaves += list(call.parameters())
        shape = tuple(call(*inputs).shape)
        seed = (
            lib.tensor(np.random.default_rng(1).standard_normal(shape).astype(np.float32)) if shape else None
        )

        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            call(*inputs).backward(seed)

        return run

    return Case(name, "fb", make, **numbers)


def _input(lib: Library, value: Any, requires_grad: bool) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return lib.tensor(value, requires_grad and value.dtype.kind == "f")

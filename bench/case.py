"""A benchmark case: the same Python text run by fastdl and by a peer with PyTorch's names.

A family file ``bench_<family>.py`` holds a list ``CASES``. ``make(lib)`` builds the inputs with one library and
returns the function to time::

    CASES = [
        forward_backward("relu 64x512", lambda lib: lib.F.relu, lambda rng: [rng.standard_normal((64, 512))]),
    ]
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Callable[[np.random.Generator], Sequence[Any]]


class Library:
    """What a case sees of fastdl or its peer: ``lib.F``, ``nn``, ``optim``, ``models``, ``tensor``, ``module``.

    Args:
        name: the module, ``"fastdl"`` or ``"torch"``.
        device: where tensors and modules go.
        dtype: of floating-point tensors and of modules.
        how: ``"eager"``, or a way of running that ``device.HOWS`` describes; ``"compiled"`` changes what
            :meth:`place` returns.
    """

    def __init__(self, name: str, device: str = "cpu", dtype: str = "float32", how: str = "eager") -> None:
        self.name, self.device, self.how = name, device, how
        self.module = importlib.import_module(name)
        self.nn = importlib.import_module(f"{name}.nn")
        self.F = importlib.import_module(f"{name}.nn.functional")
        self.optim = importlib.import_module(f"{name}.optim")
        self.dtype = getattr(self.module, dtype)
        self._drawn: tuple[Arrays, Sequence[Any]] | None = None

    def arrays(self, draw: Arrays) -> Sequence[Any]:
        """A case's arrays. The last ones are kept, as a GPU's instances of a case and its other mode have the same, and
        drawing them takes longer than measuring."""
        if self._drawn is None or self._drawn[0] is not draw:
            self._drawn = draw, draw(np.random.default_rng(0))
        return self._drawn[1]

    @functools.cached_property
    def models(self) -> Any:
        """``fastdl.models``, and for a peer the same sources with its name in them: they use nothing else of fastdl."""
        from fastdl import models

        if self.name == "fastdl":
            return models
        found = types.SimpleNamespace()
        for path in sorted(Path(models.__file__).parent.glob("[!_]*.py")):
            source = path.read_text().replace("fastdl.tensor", self.name).replace("fastdl", self.name)
            scope: dict[str, Any] = {"__name__": path.stem}
            exec(compile(source, str(path), "exec"), scope)
            vars(found).update({name: scope[name] for name in scope["__all__"]})
        return found

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        """A tensor with a copy of ``array``; floating-point arrays get the library's dtype here."""
        floating = array.dtype.kind == "f"
        tensor = self.module.from_numpy(np.array(array, dtype=np.float32 if floating else array.dtype))
        if self.device != "cpu" or (floating and self.dtype != self.module.float32):
            tensor = tensor.to(self.device, self.dtype if floating else tensor.dtype)
        if requires_grad:
            tensor.requires_grad_(True)
        return tensor

    def place(self, module: Any) -> Any:
        """A module with its parameters on the device and in the dtype."""
        if self.device != "cpu" or self.dtype != self.module.float32:
            module = module.to(self.device, self.dtype)
        return self.module.compile(module) if self.how == "compiled" else module


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: what is computed and its size, e.g. ``"cross_entropy 2048x50257"``.
        mode: ``"f"`` forward, ``"fb"`` forward and backward, ``"step"`` a whole training step.
        make: builds inputs, returns the function to time.
        flops: floating-point operations of one call, 0 if the case is not about arithmetic.
        bytes: bytes that must move between memory and processor at the least, in float32; 0 if it is not about
            bandwidth.
        target: ratio to the peer that the project wants to reach on a CPU, 0 if none was set.
        memory: whether to measure how much memory a call needs, too.
        only: the only device that the case is for, empty: all.
        series: cases of one series differ in ``size`` alone, see ``report.crossings``.
        size: elements of the largest array.
    """

    name: str
    mode: str
    make: Callable[[Library], Callable[[], Any]]
    flops: float = 0.0
    bytes: float = 0.0
    target: float = 0.0
    memory: bool = False
    only: str = ""
    series: str = ""
    size: int = 0


def forward(name: str, function: Callable[[Library], Any], arrays: Arrays, **numbers: Any) -> Case:
    """``function(lib)(*tensors)`` without a graph."""

    def make(lib: Library) -> Callable[[], Any]:
        inputs = [_input(lib, a, False) for a in lib.arrays(arrays)]
        call = _placed(lib, function(lib))

        def run() -> Any:
            with lib.module.no_grad():
                return call(*inputs)

        return run

    return Case(name, "f", make, **numbers)


def forward_backward(name: str, function: Callable[[Library], Any], arrays: Arrays, **numbers: Any) -> Case:
    """``function(lib)(*tensors).backward(...)``: gradients of every floating-point input and of module parameters."""

    def make(lib: Library) -> Callable[[], Any]:
        inputs = [_input(lib, a, True) for a in lib.arrays(arrays)]
        call = _placed(lib, function(lib))
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


def _placed(lib: Library, call: Any) -> Any:
    return lib.place(call) if isinstance(call, lib.nn.Module) else call


def _input(lib: Library, value: Any, requires_grad: bool) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return lib.tensor(value, requires_grad and value.dtype.kind == "f")

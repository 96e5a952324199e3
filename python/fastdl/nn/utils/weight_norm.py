"""Weight normalization; see ``torch.nn.utils.weight_norm``."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.kernels import array
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter
from fastdl.tensor import Tensor

__all__ = ["remove_weight_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def norm_along(v: Any, axes: tuple[int, ...]) -> Any:
    """The norm over ``axes``: a number if these are all, else with the kept axes in place."""
    return array(np.sqrt(np.square(v).sum(axis=axes, keepdims=len(axes) < v.ndim)))


class ScaledDirection(Op):
    """w = g * u with u = v / |v|:  grad_g = <grad_w, u>,  grad_v = (g / |v|) (grad_w - u <grad_w, u>)."""

    saves = (0, 1)

    def forward(self, v: Any, g: Any, axes: tuple[int, ...]) -> Any:
        self.axes = axes
        self.norm = norm_along(v, axes)
        self.v, self.g = v, g
        return v * (g / self.norm)

    def backward(self, grad_w: Any) -> Any:
        u = self.v / self.norm
        grad_g = array((grad_w * u).sum(axis=self.axes, keepdims=self.g.ndim > 0))
        return (self.g / self.norm) * (grad_w - u * grad_g), grad_g

    def backward_graph(self, grad_w: Tensor) -> Any:
        def composed(v: Any, g: Any) -> Any:
            return v * (g * (v * v).sum(self.axes, g.ndim > 0).rsqrt())

        return replay(self, grad_w, composed, self.v, self.g)


class _Hook:
    """Computes the weight before each forward."""

    def __init__(self, name: str, axes: tuple[int, ...]) -> None:
        self.name = name
        self.axes = axes

    def compute(self, module: Module) -> Tensor:
        v, g = getattr(module, f"{self.name}_v"), getattr(module, f"{self.name}_g")
        return ScaledDirection.apply(v, g, axes=self.axes)  # type: ignore[no-any-return]

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module))


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Replace a parameter by its magnitude ``name_g`` and direction ``name_v``: w = g v / |v|, computed before each
    forward. Salimans and Kingma (2016).

    Args:
        module: the layer.
        name: which of its parameters.
        dim: the dimension that keeps a magnitude per slice (default 0: per output); None: one for all.
    """
    if f"{name}_g" in module._parameter_names:
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    weight = module.get_parameter(name)
    ndim = len(weight.shape)
    kept = set() if dim is None else {dim % ndim}
    axes = tuple(i for i in range(ndim) if i not in kept)
    hook = _Hook(name, axes)
    norm = norm_along(weight._data, axes)
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(norm))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, hook.compute(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Undo :func:`weight_norm`: the weight becomes a parameter again."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _Hook) and hook.name == name:
            weight = hook.compute(module)
            for attribute in (name, f"{name}_g", f"{name}_v"):
                delattr(module, attribute)
            setattr(module, name, Parameter(weight.detach()))
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")

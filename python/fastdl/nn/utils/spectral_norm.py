"""Spectral normalization; see ``torch.nn.utils.spectral_norm``."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.nn import init
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter
from fastdl.tensor import Tensor

__all__ = ["remove_spectral_norm", "spectral_norm"]

M = TypeVar("M", bound=Module)


class DivideBySigma(Op):
    """y = w / s with s = u^T W v, u and v fixed:  grad_w = grad_y / s - <grad_y, w> / s^2 * u v^T."""

    saves = (0,)

    def forward(self, w: Any, u: Any, v: Any, dim: int) -> Any:
        self.w, self.u, self.v, self.dim = w, u.copy(), v.copy(), dim
        self.sigma = u @ (as_matrix(w, dim) @ v)
        return w / self.sigma

    def backward(self, grad_y: Any) -> Any:
        share = (grad_y * self.w).sum() / self.sigma**2
        moved = [self.w.shape[self.dim], *(n for i, n in enumerate(self.w.shape) if i != self.dim)]
        outer = np.moveaxis(np.outer(self.u, self.v).reshape(moved), 0, self.dim)
        return grad_y / self.sigma - share * outer

    def backward_graph(self, grad_y: Tensor) -> Any:
        def composed(w: Any) -> Any:
            rows = w.movedim(self.dim, 0).flatten(1)
            return w / (Tensor._wrap(self.u) @ (rows @ Tensor._wrap(self.v)))

        return replay(self, grad_y, composed, self.w)


def as_matrix(w: Any, dim: int) -> Any:
    return np.moveaxis(w, dim, 0).reshape(w.shape[dim], -1)


def unit_vector(x: Any, eps: float) -> Any:
    return x / np.maximum(np.sqrt(np.square(x).sum()), eps)  # a GPU's stays there


class _Hook:
    """Improves u and v by power iterations in training mode, then computes the weight, before each forward."""

    def __init__(self, name: str, iterations: int, eps: float, dim: int) -> None:
        self.name = name
        self.iterations = iterations
        self.eps = eps
        self.dim = dim

    def iterate(self, module: Module, times: int) -> None:
        u, v = getattr(module, f"{self.name}_u")._data, getattr(module, f"{self.name}_v")._data
        w = as_matrix(getattr(module, f"{self.name}_orig")._data, self.dim)
        for _ in range(times):
            v[...] = unit_vector(u @ w, self.eps)
            u[...] = unit_vector(w @ v, self.eps)

    def compute(self, module: Module) -> Tensor:
        u, v = getattr(module, f"{self.name}_u"), getattr(module, f"{self.name}_v")
        weight = getattr(module, f"{self.name}_orig")
        return DivideBySigma.apply(weight, u=u._data, v=v._data, dim=self.dim)  # type: ignore[no-any-return]

    def __call__(self, module: Module, args: Any) -> None:
        if module.training:
            self.iterate(module, self.iterations)
        setattr(module, self.name, self.compute(module))


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divide a parameter by its largest singular value, estimated by power iteration. Miyato et al. (2018).

    The parameter is kept as ``name_orig``, the singular vectors as buffers ``name_u`` and ``name_v``.

    Args:
        module: the layer.
        name: which of its parameters.
        n_power_iterations: how many per forward in training mode.
        eps: the least norm that is divided by.
        dim: the dimension of outputs; default 0, 1 for transposed convolutions.
    """
    if n_power_iterations <= 0:
        raise ValueError(
            f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
        )
    weight = module.get_parameter(name)
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    hook = _Hook(name, n_power_iterations, eps, dim)
    rows, cols = as_matrix(weight._data, dim).shape
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    for suffix, size in (("u", rows), ("v", cols)):
        vector = init.normal_(Tensor._wrap(np.empty(size, weight._data.dtype, like=weight._data)))
        module.register_buffer(f"{name}_{suffix}", Tensor._wrap(unit_vector(vector._data, eps)))
    hook.iterate(module, 15)
    setattr(module, name, hook.compute(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Undo :func:`spectral_norm`: the normalized weight becomes the parameter."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _Hook) and hook.name == name:
            weight = hook.compute(module)
            for attribute in (name, f"{name}_orig", f"{name}_u", f"{name}_v"):
                delattr(module, attribute)
            setattr(module, name, Parameter(weight.detach()))
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"spectral_norm of '{name}' not found in {module}")

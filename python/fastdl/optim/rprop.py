"""Optimizers of older design: Rprop and averaged SGD, composed of elementwise kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastdl.arrays import assign
from fastdl.kernels import on_device
from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_options
from fastdl.tensor import Tensor

__all__ = ["ASGD", "Rprop"]


class Rprop(Optimizer):
    """Steps whose size follows the sign of the gradient alone: larger while it stays, smaller when it flips.

    Riedmiller & Braun (1993), for full batches. See ``torch.optim.Rprop``.

    Args:
        lr: the first step size of every element.
        etas: factors of the step size when the sign flipped, and when it stayed.
        step_sizes: the smallest and largest step size.

    Example:
        >>> import fastdl
        >>> p = fastdl.nn.Parameter(fastdl.ones(1))
        >>> p.sum().backward()
        >>> fastdl.optim.Rprop([p], lr=0.1).step()
        >>> round(p.item(), 4)
        0.9
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr=lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "prev", "step_size")

    def _new_state(self, name: str, param: Tensor, group: Group) -> Tensor:
        state = super()._new_state(name, param, group)
        if name == "step_size":
            lr = float(group["lr"])
            state._data.fill(complex(lr, lr) if param._data.dtype.kind == "c" else lr)
        return state

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        shrink, grow = group["etas"]
        smallest, largest = group["step_sizes"]
        for p, grad, count, before, size in zip(arrays, grads, *state, strict=True):
            count += 1
            g = kernels.mul_forward(grad, -1.0) if group["maximize"] else grad
            agreement = kernels.mul_forward(g, before)
            stays, flips = kernels.gt_forward(agreement, 0.0), kernels.lt_forward(agreement, 0.0)
            other = kernels.where_forward(flips, kernels.mul_forward(size, shrink), size)
            wanted = kernels.where_forward(stays, kernels.mul_forward(size, grow), other)
            kernels.clamp_forward(wanted, smallest, largest, size)
            assign(before, kernels.where_forward(flips, 0.0, g))  # after a flip an element rests for a step
            kernels.sub_forward(p, kernels.mul_forward(kernels.sign_forward(before), size), p)


class ASGD(Optimizer):
    """SGD whose parameters are averaged over time, from step ``t0`` on. Polyak & Juditsky (1992).

    p = (1 - lambd * eta) p - eta g;  eta = lr / (1 + lambd * lr * t)^alpha;  the average is ``state[p]["ax"]``. See
    ``torch.optim.ASGD``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_options(lr=lr, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "eta", "mu", "ax")

    def _new_state(self, name: str, param: Tensor, group: Group) -> Tensor:
        state = super()._new_state(name, param, group)
        if name in ("eta", "mu"):
            state._data.fill(float(group["lr"]) if name == "eta" else 1)
        return state

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        lr, lambd = float(group["lr"]), group["lambd"]
        for p, grad, count, eta, mu, average in zip(arrays, grads, *state, strict=True):
            count += 1
            g = kernels.mul_forward(grad, -1.0) if group["maximize"] else grad
            if group["weight_decay"]:
                g = kernels.add_forward(g, kernels.mul_forward(p, group["weight_decay"]))
            rate, share, steps = (
                [eta, mu, count] if on_device(count) else [eta.item(), mu.item(), count.item()]
            )
            kernels.mul_forward(p, 1 - lambd * rate, p)
            kernels.sub_forward(p, kernels.mul_forward(g, rate), p)
            kernels.lerp_forward(average, p, share, average)  # p itself where the share is 1
            eta[...] = lr / (1 + lambd * lr * steps) ** group["alpha"]
            mu[...] = 1 / np.maximum(1, steps - group["t0"])

"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from typing import Any

from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_options
from fastdl.tensor import Tensor

__all__ = ["SGD"]


class SGD(Optimizer):
    """b = momentum * b + (1 - dampening) * g;  p -= lr * b, or lr * (g + momentum * b) with ``nesterov``.

    g is the gradient plus ``weight_decay * p``, negated first with ``maximize``; b starts as the first g. See
    ``torch.optim.SGD``; ``foreach``, ``differentiable`` and ``fused`` choose nothing here.

    Example:
        >>> import numpy as np
        >>> from fastdl import nn, optim
        >>> p = nn.Parameter(np.ones(2, np.float32))
        >>> optim.SGD([p], lr=0.1, momentum=0.9).step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_options(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _update_sparse(self, group: Group, param: Tensor, grad: Tensor) -> None:
        if group["weight_decay"] != 0:
            raise RuntimeError(
                "SGD: weight_decay is for dense gradients: with sparse ones it would change every row"
            )
        grad = -grad if group["maximize"] else grad
        momentum = group["momentum"]
        if momentum != 0:
            state = self._state[param]
            buffer = state.get("momentum_buffer")
            if buffer is None:
                buffer = grad.clone()
            else:
                buffer = (buffer * momentum + grad * (1 - group["dampening"])).coalesce()
            state["momentum_buffer"] = buffer
            grad = grad + buffer * momentum if group["nesterov"] else buffer
        (grad * -float(group["lr"]))._data.onto(param._data)
        param._bump_version()

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        options = (
            float(group["lr"]),
            group["momentum"],
            group["dampening"],
            float(group["weight_decay"]),
            group["nesterov"],
            group["maximize"],
        )
        buffers = state[0] if state else None
        if not cached.fresh or buffers is None:
            kernels.sgd_step(arrays, grads, buffers, *options, False)
            return
        for first in (True, False):
            chosen = [fresh == first for fresh in cached.fresh]
            kernels.sgd_step(
                list(compress(arrays, chosen)),
                list(compress(grads, chosen)),
                list(compress(buffers, chosen)),
                *options,
                first,
            )

"""Muon: momentum whose updates are made (nearly) orthogonal, for the weight matrices of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import numpy as np

from fastdl.optim.optimizer import Group, Optimizer, _Cached, check_options

__all__ = ["Muon"]


class Muon(Optimizer):
    """m = lerp(m, g, 1 - momentum);  p -= ratio lr * orthogonal(lerp(g, m, momentum)).  Jordan et al. (2024).

    For matrices only: biases, norms and embeddings go to another optimizer. ``orthogonal`` takes the singular values
    of a matrix near 1 by ``ns_steps`` of x = a x + (b x x^T + c (x x^T)^2) x (Newton-Schulz) from x / max(|x|, eps).
    Before, ``p *= 1 - lr weight_decay``. See ``torch.optim.Muon``, which rounds the products to bfloat16.

    Args:
        nesterov: without it the update is orthogonal(m).
        ns_coefficients: a, b, c.
        adjust_lr_fn: ``"original"`` (the default): ratio = sqrt(max(1, rows / columns)); ``"match_rms_adamw"``:
            0.2 sqrt(max(rows, columns)), for learning rates and weight decays tuned for AdamW.

    Example:
        >>> import fastdl
        >>> w = fastdl.nn.Parameter(fastdl.ones(2, 3))
        >>> w.grad = fastdl.tensor([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
        >>> fastdl.optim.Muon([w], lr=0.1, weight_decay=0.0).step()
        >>> bool((w[0, 0] < 0.95) & (w[1, 1] < 0.95))  # both directions count alike
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        check_options(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(
                f"Muon: adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got {adjust_lr_fn!r}"
            )
        if ns_steps >= 100 or len(ns_coefficients) != 3:
            raise ValueError(
                f"Muon: needs fewer than 100 ns_steps and 3 ns_coefficients, got {ns_steps}, {ns_coefficients}"
            )
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim != 2:
                raise ValueError(
                    f"Muon: optimizes matrices, got a parameter of shape {tuple(p.shape)}; use another optimizer for it"
                )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: _Cached,
    ) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        for p, grad, buffer in zip(arrays, grads, state[0], strict=True):
            buffer += (grad - buffer) * (1 - momentum)
            update = grad + (buffer - grad) * momentum if group["nesterov"] else buffer
            rows, columns = p.shape
            ratio = sqrt(max(1.0, rows / columns)) if columns else 1.0
            if group["adjust_lr_fn"] == "match_rms_adamw":
                ratio = 0.2 * sqrt(max(rows, columns))
            p *= 1 - lr * group["weight_decay"]
            p -= _orthogonal(kernels, update, group) * (lr * ratio)


def _orthogonal(kernels: Any, x: Any, group: Group) -> Any:
    a, b, c = group["ns_coefficients"]
    tall = x.shape[0] > x.shape[1]
    if tall:  # the smaller of x x^T and x^T x
        x = x.T
    x = x / max(float(np.sqrt(np.square(x).sum())), group["eps"])
    for _ in range(group["ns_steps"]):
        gram = kernels.matmul(x, x.T)
        x = kernels.matmul(kernels.matmul(gram, gram, gram, c, b), x, x, 1.0, a)
    return x.T if tall else x

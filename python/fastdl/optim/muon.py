"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_lr

__all__ = ["Muon"]


class Muon(Optimizer):
    """b += (1 - momentum)(g - b);  u = orthogonal(b), or of g + momentum (b - g) with ``nesterov``;
    p = (1 - lr weight_decay) p - lr s u.  Jordan et al. (2024).

    For matrices only: hidden layers' weights. Everything else (biases, embeddings, normalisation) belongs to another
    optimizer, usually :class:`AdamW`. ``orthogonal`` brings all singular values near 1 by ``ns_steps`` of the
    Newton-Schulz iteration X = a X + (b A + c A^2) X with A = X X^T, from X = u / max(norm(u), eps). It is computed in
    the parameter's dtype (PyTorch takes bfloat16, which is faster only where there is hardware for it).

    Args:
        ns_coefficients: a, b, c. The default rises steeply from 0 and ends in [0.7, 1.2] rather than at 1.
        adjust_lr_fn: the factor s for a matrix (A, B): ``"original"`` or None sqrt(max(1, A / B));
            ``"match_rms_adamw"`` 0.2 sqrt(max(A, B)), with which AdamW's rates can be kept.

    See ``torch.optim.Muon``.

    Example:
        >>> import fastdl
        >>> p = fastdl.nn.Parameter(fastdl.zeros(2, 2))
        >>> (p * fastdl.tensor([[3.0, 0.0], [0.0, 0.1]])).sum().backward()
        >>> fastdl.optim.Muon([p], lr=1.0).step()
        >>> (p.abs() > 0.5).tolist()
        [[True, False], [False, True]]
    """

    takes_complex = False

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
        check_lr(lr)
        if not momentum >= 0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        if len(ns_coefficients) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        if ns_steps >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
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
        """Add a group of matrices: a dict with ``"params"`` and any options that differ from the defaults."""
        super().add_param_group(param_group)
        for p in param_group["params"]:
            if p.ndim != 2:
                self.param_groups.pop()
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {tuple(p.shape)}; give "
                    "biases, embeddings and the like to another optimizer"
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
        cached: GroupCache,
    ) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        for p, g, b in zip(arrays, grads, state[0], strict=True):
            if not p.size:
                continue
            number = p.dtype.type
            b += (g - b) * number(1 - momentum)
            update = g + (b - g) * number(momentum) if group["nesterov"] else b
            update = _orthogonal(kernels, update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            rows, columns = p.shape
            if group["adjust_lr_fn"] == "match_rms_adamw":
                scale = 0.2 * math.sqrt(max(rows, columns))
            else:
                scale = math.sqrt(max(1, rows / columns))
            p *= number(1 - lr * group["weight_decay"])
            p -= update * number(lr * scale)


def _orthogonal(kernels: Any, matrix: Any, coefficients: tuple[float, ...], steps: int, eps: float) -> Any:
    """U V^T of the matrix U S V^T, nearly; on the side of it whose Gram matrix is small."""
    a, b, c = map(matrix.dtype.type, coefficients)
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / matrix.dtype.type(max(float(np.linalg.norm(x)), eps))
    for _ in range(steps):
        gram = kernels.matmul(x, x.T)
        x = kernels.matmul(kernels.matmul(gram, gram) * c + gram * b, x) + x * a
    return x.T if matrix.shape[0] > matrix.shape[1] else x

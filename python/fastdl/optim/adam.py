"""Adam and its relatives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_options
from fastdl.tensor import Tensor

__all__ = ["Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


def _betas(group: Group) -> tuple[float, float]:
    beta1, beta2 = group["betas"]
    return float(beta1), float(beta2)


class Adam(Optimizer):
    """m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2;
    p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps).

    g is the gradient plus ``weight_decay * p`` (with ``decoupled_weight_decay`` p shrinks by ``lr * weight_decay``
    instead), negated first with ``maximize``; with ``amsgrad`` v is replaced by its maximum over time. Kingma and Ba
    (2014). See ``torch.optim.Adam``; ``foreach``, ``differentiable`` and ``fused`` choose nothing here. ``capturable``
    keeps the counts of steps on the GPU, which recording a step in a CUDA graph needs.

    Args:
        params: parameters, or groups of them, dicts with ``"params"`` and options of their own.
        lr: learning rate (default 1e-3).
        betas: beta1 and beta2, how much of m and v is kept (default 0.9 and 0.999).
        eps: against division by zero (default 1e-8).
        weight_decay: default 0.

    Example:
        >>> from fastdl import nn, ones, optim
        >>> model = nn.Linear(3, 1)
        >>> optimizer = optim.Adam(model.parameters(), lr=1e-2)
        >>> model(ones(2, 3)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_options(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        if group["amsgrad"]:
            return ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return ("step", "exp_avg", "exp_avg_sq")

    def _update_sparse(self, group: Group, param: Tensor, grad: Tensor) -> None:
        raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam instead")

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        kernels.adam_step(
            arrays,
            grads,
            state[1],
            state[2],
            state[3] if group["amsgrad"] else None,
            state[0],
            float(group["lr"]),
            *_betas(group),
            group["eps"],
            group["weight_decay"],
            group["maximize"],
            group["decoupled_weight_decay"],
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (default 1e-2): p shrinks by ``lr * weight_decay`` before the update.

    Formula and arguments are otherwise those of :class:`Adam`. Loshchilov and Hutter (2017). See ``torch.optim.AdamW``.

    Args:
        params: parameters, or groups of them, dicts with ``"params"`` and options of their own.
        lr: learning rate (default 1e-3).
        betas: how much of the means of the gradient and of its square is kept (default 0.9 and 0.999).
        eps: against division by zero (default 1e-8).
        weight_decay: default 1e-2.
        amsgrad: divide by the largest mean square so far (default False).
        maximize: go up instead of down (default False).

    Example:
        >>> from fastdl import nn, ones, optim
        >>> model = nn.Linear(3, 1)
        >>> groups = [{"params": model.weight}, {"params": model.bias, "weight_decay": 0}]
        >>> optimizer = optim.AdamW(groups, lr=1e-2)
        >>> model(ones(2, 3)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )


class Adamax(Optimizer):
    """m += (1 - beta1)(g - m);  u = max(beta2 u, abs(g) + eps);  p -= lr / (1 - beta1^t) * m / u.

    Adam with the infinity norm; Kingma and Ba (2014). See ``torch.optim.Adamax``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_options(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "exp_avg", "exp_inf")

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        kernels.adamax_step(
            arrays,
            grads,
            state[1],
            state[2],
            state[0],
            float(group["lr"]),
            *_betas(group),
            group["eps"],
            group["weight_decay"],
            group["maximize"],
        )


class NAdam(Optimizer):
    """Adam with Nesterov momentum; Dozat (2016). See ``torch.optim.NAdam``.

    With mu_t = beta1 (1 - 0.96^(t * momentum_decay) / 2), P_t its product over time, m and v as in :class:`Adam` and
    d = sqrt(v / (1 - beta2^t)) + eps:  p -= lr (1 - mu_t) / (1 - P_t) g / d + lr mu_(t+1) / (1 - P_(t+1)) m / d.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "mu_product", "exp_avg", "exp_avg_sq")

    def _new_state(self, name: str, param: Tensor, group: Group) -> Tensor:
        state = super()._new_state(name, param, group)
        if name == "mu_product":
            state._data.fill(1)
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
        kernels.nadam_step(
            arrays,
            grads,
            state[2],
            state[3],
            state[1],
            state[0],
            float(group["lr"]),
            *_betas(group),
            group["eps"],
            group["weight_decay"],
            group["momentum_decay"],
            group["maximize"],
            group["decoupled_weight_decay"],
        )


class RAdam(Optimizer):
    """Adam whose adaptive rate sets in once its variance is bounded (rho_t > 5), then rectified; Liu et al. (2019).

    See ``torch.optim.RAdam``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "exp_avg", "exp_avg_sq")

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        kernels.radam_step(
            arrays,
            grads,
            state[1],
            state[2],
            state[0],
            float(group["lr"]),
            *_betas(group),
            group["eps"],
            group["weight_decay"],
            group["maximize"],
            group["decoupled_weight_decay"],
        )

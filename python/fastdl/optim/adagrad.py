"""Optimizers that scale by accumulated squares of the gradient: Adagrad, RMSprop, Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_options
from fastdl.tensor import Tensor

__all__ = ["Adadelta", "Adagrad", "RMSprop"]


class Adagrad(Optimizer):
    """s += g^2;  p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps).  Duchi et al. (2011).

    s starts at ``initial_accumulator_value``, when the optimizer is made. See ``torch.optim.Adagrad``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_options(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        for group in self.param_groups:
            self._fill_cache(group, group["params"], self._state_names(group))

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "sum")

    def _new_state(self, name: str, param: Tensor, group: Group) -> Tensor:
        state = super()._new_state(name, param, group)
        if name == "sum":
            # Real and imaginary parts are accumulated apart.
            start = group["initial_accumulator_value"]
            state._data.fill(complex(start, start) if state._data.dtype.kind == "c" else start)
        return state

    def _update_sparse(self, group: Group, param: Tensor, grad: Tensor) -> None:
        from fastdl.optim.sparse import step_rows

        if group["weight_decay"] != 0:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        state = self._state[param]

        def update(kernels: Any, g: Any, p: Any, s: Any) -> None:
            options = (float(group["lr"]), group["lr_decay"], group["eps"], 0.0, group["maximize"])
            kernels.adagrad_step([p], [g], [s], [state["step"]._data], *options)

        step_rows(grad, [param, state["sum"]], update)

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        kernels.adagrad_step(
            arrays,
            grads,
            state[1],
            state[0],
            float(group["lr"]),
            group["lr_decay"],
            group["eps"],
            group["weight_decay"],
            group["maximize"],
        )


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g^2;  b = momentum b + g / (sqrt(v) + eps);  p -= lr b.  Hinton (2012).

    With ``centered`` the square of the gradient's running mean is subtracted from v under the root. See
    ``torch.optim.RMSprop``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        names: tuple[str, ...] = ("step", "square_avg")
        if group["momentum"] > 0:
            names += ("momentum_buffer",)
        return (*names, "grad_avg") if group["centered"] else names

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        kernels.rmsprop_step(
            arrays,
            grads,
            state[1],
            state[2] if group["momentum"] > 0 else None,
            state[-1] if group["centered"] else None,
            state[0],
            float(group["lr"]),
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            group["maximize"],
        )


class Adadelta(Optimizer):
    """v = rho v + (1 - rho) g^2;  d = sqrt(a + eps) / sqrt(v + eps) * g;  a = rho a + (1 - rho) d^2;  p -= lr d.

    Zeiler (2012). See ``torch.optim.Adadelta``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        if rho > 1:
            raise ValueError(f"Invalid rho value: {rho}")
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "square_avg", "acc_delta")

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        kernels.adadelta_step(
            arrays,
            grads,
            state[1],
            state[2],
            state[0],
            float(group["lr"]),
            group["rho"],
            group["eps"],
            group["weight_decay"],
            group["maximize"],
        )

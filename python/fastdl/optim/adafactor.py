"""Adafactor: Adam's scaling with second moments kept as one row and one column per matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fastdl.dtypes import floating_info
from fastdl.ops.arrays import zeros
from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_lr
from fastdl.tensor import Tensor

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """u = g / sqrt(v);  p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) / max(1, rms(u) / d) u.  Shazeer, Stern (2018).

    v is the running mean of g^2, with 1 - beta2 = t^beta2_decay; of parameters of two and more dimensions only its
    means R over columns and C over rows are kept, and v = R C / mean(R). Before the update p shrinks by
    ``lr * weight_decay``. See ``torch.optim.Adafactor``; ``foreach`` chooses nothing here. Composed of
    elementwise kernels and means.

    Args:
        lr: the largest step relative to the parameter's own size.
        eps: the smallest sqrt(v) (None: the dtype's machine epsilon), and the smallest size of a parameter.
        d: how large an update's root mean square may be.

    Example:
        >>> import fastdl
        >>> p = fastdl.nn.Parameter(fastdl.ones(2))
        >>> p.sum().backward()
        >>> fastdl.optim.Adafactor([p], lr=0.1).step()
        >>> round(p[0].item(), 4)
        0.9
    """

    takes_complex = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        check_lr(lr)
        if not beta2_decay <= 0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not eps[0] >= 0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not eps[1] >= 0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not d >= 1:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": eps,
                "d": d,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
            },
        )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("step",)  # what else there is depends on the parameter's shape: see _mean

    def _mean(self, kernels: Any, param: Tensor, name: str, now: Any, share: float) -> Any:
        """The running mean ``name`` of a parameter, moved towards ``now``; from zeros at first."""
        state = self._state[param]
        if name not in state:
            state[name] = Tensor._wrap(zeros(now.shape, now.dtype, now))
        mean = state[name]._data
        return kernels.lerp_forward(mean, now, share, mean)

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        lr, (least_root, least_size) = float(group["lr"]), group["eps"]
        for param, p, grad, count in zip(cached.params, arrays, grads, state[0], strict=True):
            count += 1
            if not p.size:
                continue
            steps = count.item()
            epsilon = float(floating_info(p.dtype).eps) if least_root is None else least_root
            share = steps ** group["beta2_decay"]
            rate = max(least_size, _rms(kernels, p)) * min(lr, steps**-0.5)
            if group["weight_decay"]:
                kernels.mul_forward(p, 1 - lr * group["weight_decay"], p)
            g = kernels.mul_forward(grad, -1.0) if group["maximize"] else grad
            v = kernels.mul_forward(g, g)
            if g.ndim > 1:
                rows = self._mean(kernels, param, "row_var", kernels.mean_forward(v, (-1,), True), share)
                columns = self._mean(kernels, param, "col_var", kernels.mean_forward(v, (-2,), True), share)
                whole = kernels.maximum_forward(kernels.mean_forward(rows, (-2,), True), epsilon)
                kernels.mul_forward(kernels.div_forward(rows, whole), columns, v)
            else:
                v = kernels.mul_forward(self._mean(kernels, param, "variance", v, share), 1.0)
            kernels.rsqrt_forward(kernels.maximum_forward(v, epsilon * epsilon, v), v)
            update = kernels.mul_forward(g, v, v)
            size = rate / max(1.0, _rms(kernels, update) / group["d"])
            kernels.sub_forward(p, kernels.mul_forward(update, size, update), p)


def _rms(kernels: Any, array: Any) -> float:
    """The root of the mean square."""
    return float(kernels.total_norm([array], 2.0)) / math.sqrt(array.size)

"""Adafactor: adaptive steps whose second moments are kept as one row and one column of a matrix."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import numpy as np

from fastdl.dtypes import float32
from fastdl.ops.arrays import zeros
from fastdl.optim.optimizer import Group, Optimizer, _Cached, check_options
from fastdl.tensor import Tensor

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Shazeer and Stern (2018): memory for n + m numbers instead of n m for each matrix.

        r = lerp(r, mean over columns of g^2, t^beta2_decay);  c likewise over rows;  v = r c / mean(r)
        u = g / sqrt(max(v, eps1^2));  p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) * u / max(1, rms(u) / d)

    after ``p *= 1 - lr * weight_decay``. Tensors of more than two dimensions are factored along the last two; vectors
    keep all of v. ``eps`` is (eps1, eps2), eps1 None meaning the dtype's precision. See ``torch.optim.Adafactor``.
    """

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
        check_options(lr=lr, weight_decay=weight_decay, eps2=eps[1], eps1=0.0 if eps[0] is None else eps[0])
        if not beta2_decay <= 0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if not d >= 1:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
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
        return ()  # matrices and vectors have different state: made below

    def _state_of(self, param: Tensor, grad: Any) -> dict[str, Any]:
        state = self._state[param]
        if not state:
            state["step"] = Tensor._wrap(np.zeros((), float32))
            shape = grad.shape
            shapes = {"variance": shape}
            if grad.ndim > 1:
                shapes = {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
            for name, extents in shapes.items():
                state[name] = Tensor._wrap(zeros(extents, grad.dtype, grad))
        return state

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: _Cached,
    ) -> None:
        lr, decay, (eps1, eps2) = float(group["lr"]), group["weight_decay"], group["eps"]
        for param, p, grad in zip(cached.params, arrays, grads, strict=True):
            own = self._state_of(param, grad)
            own["step"]._data += 1
            if p.size == 0:
                continue
            t = float(own["step"]._data)
            newest = t ** group["beta2_decay"]
            least = float(np.finfo(p.dtype).eps) if eps1 is None else eps1
            alpha = max(eps2, _rms(p)) * min(lr, 1 / sqrt(t))
            if decay:
                p *= 1 - lr * decay
            squares = grad * grad
            if grad.ndim > 1:
                row, column = own["row_var"]._data, own["col_var"]._data
                row += (squares.mean(-1, keepdims=True) - row) * newest
                column += (squares.mean(-2, keepdims=True) - column) * newest
                v = row * column
                v /= np.maximum(row.mean(-2, keepdims=True), least)
            else:
                variance = own["variance"]._data
                variance += (squares - variance) * newest
                v = variance
            update = grad / np.sqrt(np.maximum(v, least * least))
            alpha /= max(1.0, _rms(update) / group["d"])
            p -= update * (-alpha if group["maximize"] else alpha)


def _rms(x: Any) -> float:
    return sqrt(float(np.square(x, dtype=np.float64).sum()) / x.size)

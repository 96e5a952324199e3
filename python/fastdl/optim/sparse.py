"""Steps by sparse gradients: of the rows that a gradient names, and no others; ``SparseAdam``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import numpy as np

from fastdl.dtypes import float32
from fastdl.kernels import select
from fastdl.kernels.sparse import is_sparse
from fastdl.ops.arrays import zeros
from fastdl.ops.gather import IndexCopy
from fastdl.optim.optimizer import Group, GroupCache, Optimizer, check_options
from fastdl.tensor import Tensor

__all__ = ["SparseAdam"]


def step_rows(grad: Tensor, tensors: list[Tensor], update: Callable[..., Any]) -> None:
    """``update(kernels, gradient, *arrays)`` in place on those rows of each tensor that a sparse gradient names."""
    whole = grad.coalesce()._data
    pattern, kernels = whole.pattern, select(whole.values._data)
    index, flat = pattern.linear(), [pattern.flat(t._data) for t in tensors]
    rows = [kernels.index_select_forward(array, 0, index) for array in flat]
    update(kernels, whole.values._data, *rows)
    for t, array, part in zip(tensors, flat, rows, strict=True):
        IndexCopy.apply(Tensor._wrap(array), Tensor._wrap(part), dim=0, index=index, out=array)
        pattern.store(array, t._data)
        t._bump_version()


class SparseAdam(Optimizer):
    """Adam for sparse gradients: averages and parameters change in the rows only that a gradient names.

    m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);
    p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps).
    For ``nn.Embedding(sparse=True)``. See ``torch.optim.SparseAdam``.

    Example:
        >>> import fastdl
        >>> table = fastdl.nn.Embedding(10, 2, sparse=True)
        >>> optimizer = fastdl.optim.SparseAdam(table.parameters(), lr=0.1)
        >>> table(fastdl.tensor([1, 2])).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        check_options(lr=lr, eps=eps, betas=betas)
        for label, value in (("learning rate", lr), ("epsilon value", eps)):
            if float(value) == 0:
                raise ValueError(f"Invalid {label}: {value}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}
        super().__init__(params, defaults)
        for i, group in enumerate(self.param_groups):
            found = [[i, j] for j, p in enumerate(group["params"]) if is_sparse(p)]
            if found:
                raise ValueError(
                    f"Sparse params at indices {found}: SparseAdam requires dense parameter tensors"
                )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ()

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")

    def _update_sparse(self, group: Group, param: Tensor, grad: Tensor) -> None:
        state = self._state[param]
        if not state:
            array = param._data
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = Tensor._wrap(zeros(array.shape, array.dtype, array))
        before = int(state["step"])
        state["step"] = before + 1
        beta1, beta2 = [float(beta) for beta in group["betas"]]
        # Adam's eps is added to the corrected root, this one's to the root as it is.
        eps = group["eps"] / sqrt(1 - beta2 ** (before + 1))
        step = np.full((), before, float32)

        def update(kernels: Any, g: Any, p: Any, m: Any, v: Any) -> None:
            options = (None, [step], float(group["lr"]), beta1, beta2, eps, 0.0, group["maximize"], False)
            kernels.adam_step([p], [g], [m], [v], *options)

        step_rows(grad, [param, state["exp_avg"], state["exp_avg_sq"]], update)

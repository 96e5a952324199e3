"""Variance and standard deviation over any axes, with the mean or without it."""

from __future__ import annotations

import builtins
from typing import Any

from fastdl.arrays import pooled_copy
from fastdl.errors import ArgumentError, warn_caller
from fastdl.kernels import select
from fastdl.ops.axes import check_flag, normal_axes, numpy_names, reduced_count
from fastdl.ops.reduce import Reduction, floating_input, mean
from fastdl.tensor import Tensor


class Spread(Reduction):
    """Variance and mean: sum (x - mean)^2 / (n - correction). Subclasses return one, the other or both."""

    floats_only = True
    saves = (0,)

    def compute(self, x: Any, axes: Any, keepdim: bool, correction: float) -> tuple[Any, Any]:
        self.remember(x, axes, keepdim)
        self.x = x
        self.degrees = builtins.max(0.0, reduced_count(x.shape, axes) - correction)
        var, self.mean = select(x).var_forward(x, correction, axes, keepdim)
        return var, self.mean

    def of_var(self, grad_var: Any) -> Any:
        """The gradient by way of the variance: 2 (x - mean) / (n - correction)."""
        k = select(grad_var)
        result = k.sub_forward(self.x, self.with_axes(self.mean))
        scale = 2.0 / self.degrees if self.degrees else float("nan")
        return k.mul_forward(result, k.mul_forward(self.with_axes(grad_var), scale), result)

    def of_var_graph(self, grad_var: Tensor) -> Any:
        x = self.saved_input(0, self.x)
        axes = tuple(range(x.ndim)) if self.axes is None else self.axes
        scale = 2.0 / self.degrees if self.degrees else float("nan")
        return (x - x.mean(axes, True)) * (self.with_axes(grad_var) * scale)


class VarMean(Spread):
    def forward(self, x: Any, axes: Any, keepdim: bool, correction: float) -> Any:
        var, mean = self.compute(x, axes, keepdim, correction)
        return var, pooled_copy(mean) if self.needs[0] else mean

    def backward(self, grad_var: Any, grad_mean: Any) -> Any:
        k, result = select(grad_var), self.of_var(grad_var)
        share = 1.0 / builtins.max(reduced_count(self.shape, self.axes), 1)
        return k.add_forward(result, k.mul_forward(self.with_axes(grad_mean), share), result)

    def backward_graph(self, grad_var: Tensor, grad_mean: Tensor) -> Any:
        share = 1.0 / builtins.max(reduced_count(self.shape, self.axes), 1)
        return self.of_var_graph(grad_var) + self.with_axes(grad_mean) * share


class Var(Spread):
    def forward(self, x: Any, axes: Any, keepdim: bool, correction: float) -> Any:
        return self.compute(x, axes, keepdim, correction)[0]

    def backward(self, grad: Any) -> Any:
        return self.of_var(grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return self.of_var_graph(grad)


class Std(Spread):
    """The square root of the variance; the gradient is 0 where it is 0."""

    saves_output = True

    def forward(self, x: Any, axes: Any, keepdim: bool, correction: float) -> Any:
        var, _ = self.compute(x, axes, keepdim, correction)
        self.std = select(x).sqrt_forward(var, var)
        return self.std

    def backward(self, grad: Any) -> Any:
        k = select(grad)
        of_var = k.div_forward(grad, k.mul_forward(self.std, 2.0))
        return self.of_var(k.where_forward(k.eq_forward(self.std, 0.0), 0.0, of_var))

    def backward_graph(self, grad: Any) -> Any:
        std = self.saved_output(self.std)
        none: Any = std == 0
        return self.of_var_graph((grad / (std.masked_fill(none, 1.0) * 2)).masked_fill(none, 0.0))


def _arguments(
    op: str, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any, names: Any
) -> Any:
    """The input, axes, keepdim and the correction."""
    if names:
        dim, keepdim = numpy_names(op, names, dim, keepdim)
    if isinstance(dim, bool):  # var(x, False) means unbiased=False, as in PyTorch
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise ArgumentError(f"{op}: give either unbiased or correction, not both")
    if unbiased is not None:
        check_flag(op, "unbiased", unbiased)
        correction = 1 if unbiased else 0
    input = floating_input(op, input)
    correction = 1.0 if correction is None else float(correction)
    axes = normal_axes(op, dim, input._data.ndim, keepdim)
    if reduced_count(input._data.shape, axes) <= correction:
        warn_caller(
            f"{op}(): degrees of freedom is <= 0. Correction should be strictly less than the reduction factor (input "
            "numel divided by output numel)."
        )
    return input, axes, keepdim, correction


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    **names: Any,
) -> Tensor:
    """sum (x - mean)^2 / (n - correction) over ``dim``; correction is 1 unless given. See ``torch.var``."""
    input, axes, keepdim, correction = _arguments("var", input, dim, unbiased, keepdim, correction, names)
    return Var.apply(input, axes=axes, keepdim=keepdim, correction=correction)  # type: ignore[no-any-return]


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    **names: Any,
) -> Tensor:
    """The square root of :func:`var`. See ``torch.std``."""
    input, axes, keepdim, correction = _arguments("std", input, dim, unbiased, keepdim, correction, names)
    return Std.apply(input, axes=axes, keepdim=keepdim, correction=correction)  # type: ignore[no-any-return]


def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    **names: Any,
) -> tuple[Tensor, Tensor]:
    """Variance and mean in one call. See ``torch.var_mean``."""
    input, axes, keepdim, correction = _arguments(
        "var_mean", input, dim, unbiased, keepdim, correction, names
    )
    return VarMean.apply(input, axes=axes, keepdim=keepdim, correction=correction)  # type: ignore[no-any-return]


def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    **names: Any,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean. See ``torch.std_mean``."""
    input, axes, keepdim, correction = _arguments(
        "std_mean", input, dim, unbiased, keepdim, correction, names
    )
    return Std.apply(input, axes=axes, keepdim=keepdim, correction=correction), mean(input, axes, keepdim)

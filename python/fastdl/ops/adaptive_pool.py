"""Pooling to a given output size; see ``torch.nn.functional``. Inputs as for :mod:`fastdl.ops.pool`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import OF_ITSELF, Op
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.pool import (
    AvgPool,
    MaxPool,
    Plan,
    Sizes,
    array_of,
    as_key,
    check_shape,
    take_places,
    to_sizes,
)
from fastdl.ops.reduce import mean
from fastdl.tensor import Tensor


class AdaptiveAvgPool(Op):
    flat = OF_ITSELF
    floats_only = True
    wide_integers = True

    def forward(self, x: Any, output: Sizes) -> Any:
        self.output = output
        self.size = x.shape[x.ndim - len(output) :]
        return select(x).adaptive_avg_pool_forward(x, output)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).adaptive_avg_pool_backward(grad_y, self.size)

    def linear(self, x: Any) -> Any:
        return select(x).adaptive_avg_pool_forward(x, self.output)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


class AdaptiveMaxPool(Op):
    """Saves the winners' positions."""

    flat = OF_ITSELF
    floats_only = True
    wide_integers = True

    def forward(self, x: Any, output: Sizes, return_indices: bool) -> Any:
        self.size = x.shape[x.ndim - len(output) :]
        y, self.indices = select(x).adaptive_max_pool_forward(x, output)
        return (y, self.indices) if return_indices else y

    def backward(self, grad_y: Any, *_: Any) -> Any:
        return select(grad_y).adaptive_max_pool_backward(grad_y, self.indices, self.size)

    def linear(self, x: Any) -> Any:
        return take_places(x, self.indices, len(self.size))

    def backward_graph(self, grad_y: Tensor, *_: Any) -> Any:
        return linear_backward(self, grad_y)


@lru_cache(maxsize=2048)
def _adaptive_plan(op: str, rank: int, shape: Sizes, output_size: Any) -> tuple[Sizes, Plan | None]:
    """The output size and, where all windows are alike, the equivalent ordinary pooling."""
    check_shape(op, shape, rank)
    size = shape[len(shape) - rank :]
    if isinstance(output_size, tuple) and len(output_size) == rank:
        output_size = tuple([n if o is None else o for o, n in zip(output_size, size, strict=True)])
    elif output_size is None:
        output_size = size
    output = to_sizes(output_size, rank, op, "output_size")
    if min(output) < 0:
        raise ArgumentError(f"{op}: output_size must not be negative, got {output}")
    if any(o == 0 or n % o for n, o in zip(size, output, strict=True)):
        return output, None
    kernel = tuple([n // o for n, o in zip(size, output, strict=True)])
    return output, Plan(size, kernel, kernel, (0,) * rank, (1,) * rank, output)


def _adaptive_max_pool(op: str, rank: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    output, plan = _adaptive_plan(op, rank, array_of(input, op).shape, as_key(output_size))
    if plan is not None:
        return MaxPool.apply(input, plan=plan, return_indices=return_indices)
    return AdaptiveMaxPool.apply(input, output=output, return_indices=return_indices)


def _adaptive_avg_pool(op: str, rank: int, input: Tensor, output_size: Any) -> Tensor:
    x = array_of(input, op)
    output, plan = _adaptive_plan(op, rank, x.shape, as_key(output_size))
    if plan is not None:
        if not x.flags.c_contiguous and x.size and output == (1,) * rank and x.dtype.kind == "f":
            return mean(input, tuple(range(-rank, 0)), True)  # sums follow memory, windows would need a copy
        return AvgPool.apply(input, plan=plan, count_include_pad=True, divisor=None)  # type: ignore[no-any-return]
    return AdaptiveAvgPool.apply(input, output=output)  # type: ignore[no-any-return]


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over ``output_size`` windows that share (N, C, L) or (C, L); see :func:`adaptive_max_pool2d`."""
    return _adaptive_max_pool("adaptive_max_pool1d", 1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over as many windows as the output has places; see ``torch.nn.functional.adaptive_max_pool2d``.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        output_size: (Hout, Wout), or one int for both; None keeps the input's extent. Window ``o`` of an axis covers
            ``floor(o*H/Hout)`` up to, but not including, ``ceil((o+1)*H/Hout)``.
        return_indices: also return the maxima's flat positions in their input planes (int64).

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.adaptive_max_pool2d(fastdl.tensor([[[1.0, 2.0, 3.0]]]), (None, 2))
        tensor([[[2., 3.]]])
    """
    return _adaptive_max_pool("adaptive_max_pool2d", 2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over windows that share (N, C, D, H, W) or (C, D, H, W); see :func:`adaptive_max_pool2d`."""
    return _adaptive_max_pool("adaptive_max_pool3d", 3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`adaptive_max_pool1d` with ``return_indices=True``."""
    return adaptive_max_pool1d(input, output_size, True)  # type: ignore[no-any-return]


def adaptive_max_pool2d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`adaptive_max_pool2d` with ``return_indices=True``."""
    return adaptive_max_pool2d(input, output_size, True)  # type: ignore[no-any-return]


def adaptive_max_pool3d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`adaptive_max_pool3d` with ``return_indices=True``."""
    return adaptive_max_pool3d(input, output_size, True)  # type: ignore[no-any-return]


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over ``output_size`` windows that share (N, C, L) or (C, L); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over as many windows as the output has places; see ``torch.nn.functional.adaptive_avg_pool2d``.

    Windows as in :func:`adaptive_max_pool2d`; an output size of 1 is global average pooling.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.adaptive_avg_pool2d(fastdl.tensor([[[1.0, 2.0], [3.0, 6.0]]]), 1)
        tensor([[[3.]]])
    """
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over windows that share (N, C, D, H, W) or (C, D, H, W); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_avg_pool("adaptive_avg_pool3d", 3, input, output_size)

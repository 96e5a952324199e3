"""Pooling; see ``torch.nn.functional``. Inputs are (N, C, spatial...) or (C, spatial...), float32 or float64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from operator import index
from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.graph import linear_backward, replay
from fastdl.autograd.op import OF_ITSELF, Op
from fastdl.errors import ArgumentError, not_a_tensor
from fastdl.kernels import select
from fastdl.ops.common import floating
from fastdl.tensor import Tensor

Ints = int | Sequence[int]
Sizes = tuple[int, ...]


class Plan(NamedTuple):
    """A checked pooling geometry for one input shape."""

    size: Sizes  # spatial extents of the input
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    output: Sizes


class MaxPool(Op):
    """Saves the number of the winning tap of each window, not the input."""

    flat = OF_ITSELF
    floats_only = True
    wide_integers = True

    def forward(self, x: Any, plan: Plan, return_indices: bool) -> Any:
        self.plan = plan
        size, kernel, stride, padding, dilation, output = plan
        backend = select(x)
        save = return_indices or self.needs[0]
        y, self.offsets = backend.max_pool_forward(x, kernel, stride, padding, dilation, output, save)
        if return_indices:
            return y, backend.max_pool_indices(self.offsets, size, kernel, stride, padding, dilation)
        return y

    def backward(self, grad_y: Any, *_: Any) -> Any:
        size, kernel, stride, padding, dilation, _output = self.plan
        return select(grad_y).max_pool_backward(grad_y, self.offsets, size, kernel, stride, padding, dilation)

    def linear(self, x: Any) -> Any:
        """The elements that won."""
        size, kernel, stride, padding, dilation, _output = self.plan
        places = select(x).max_pool_indices(self.offsets, size, kernel, stride, padding, dilation)
        return take_places(x, places, len(size))

    def backward_graph(self, grad_y: Tensor, *_: Any) -> Any:
        return linear_backward(self, grad_y)


class AvgPool(Op):
    flat = OF_ITSELF
    floats_only = True
    wide_integers = True

    def forward(self, x: Any, plan: Plan, count_include_pad: bool, divisor: int | None) -> Any:
        self.plan, self.count_include_pad, self.divisor = plan, count_include_pad, divisor
        _size, kernel, stride, padding, _dilation, output = plan
        return select(x).avg_pool_forward(x, kernel, stride, padding, output, count_include_pad, divisor)

    def backward(self, grad_y: Any) -> Any:
        size, kernel, stride, padding, _dilation, _output = self.plan
        return select(grad_y).avg_pool_backward(
            grad_y, size, kernel, stride, padding, self.count_include_pad, self.divisor
        )

    def linear(self, x: Any) -> Any:
        _size, kernel, stride, padding, _dilation, output = self.plan
        return select(x).avg_pool_forward(
            x, kernel, stride, padding, output, self.count_include_pad, self.divisor
        )

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


class LpPool(Op):
    """y = (taps * mean of x^p)^(1/p). Where the mean is 0 so is the gradient."""

    floats_only = True

    saves = (0,)
    saves_output = True

    def forward(self, x: Any, plan: Plan, p: float) -> Any:
        _size, kernel, stride, padding, _dilation, output = self.plan = plan
        self.x, self.p = x, p
        k = select(x)
        powers = x if p == 1 else k.pow_scalar_forward(x, p)
        self.mean = k.avg_pool_forward(powers, kernel, stride, padding, output, True, None)
        sums = k.mul_forward(self.mean, float(prod(kernel)))
        self.y = sums if p == 1 else k.pow_scalar_forward(sums, 1 / p, sums)
        return self.y

    def backward(self, grad_y: Any) -> Any:
        size, kernel, stride, padding, _dilation, _output = self.plan
        k, mean, p = select(grad_y), self.mean, self.p
        slope = k.div_forward(k.mul_forward(grad_y, self.y), k.mul_forward(mean, p))
        slope = k.where_forward(k.eq_forward(mean, 0.0), 0.0, slope)
        grad = k.avg_pool_backward(slope, size, kernel, stride, padding, True, None)
        return grad if p == 1 else k.pow_scalar_backward(grad, self.x, p)

    def backward_graph(self, grad_y: Tensor) -> Any:
        def composed(x: Any) -> Any:
            mean = AvgPool.apply(x**self.p, plan=self.plan, count_include_pad=True, divisor=None)
            nothing = mean == 0
            y = (mean.masked_fill(nothing, 1.0) * prod(self.plan.kernel)) ** (1 / self.p)
            return y.masked_fill(nothing, 0.0)

        return replay(self, grad_y, composed, self.x)


def take_places(x: Any, places: Any, rank: int) -> Any:
    """The elements of the last ``rank`` axes at flat ``places``."""
    lead = x.shape[: x.ndim - rank]
    flat = x.reshape(*lead, prod(x.shape[x.ndim - rank :]))
    flat_places = places.reshape(*lead, prod(places.shape[len(lead) :]))  # not -1: there may be no numbers
    return np.take_along_axis(flat, flat_places, -1).reshape(places.shape)


def to_sizes(value: Any, rank: int, op: str, name: str) -> Sizes:
    """An int, or as many ints as there are spatial axes (or one for all)."""
    try:
        if isinstance(value, (tuple, list)):
            sizes = tuple([index(v) for v in value])
            if len(sizes) == 1:
                sizes *= rank
        else:
            sizes = (index(value),) * rank
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int or a tuple of {rank} ints, got {value!r}") from None
    if len(sizes) != rank:
        raise ArgumentError(f"{op}: {name} must be an int or a tuple of {rank} ints, got {value!r}")
    return sizes


def check_shape(op: str, shape: Sizes, rank: int) -> None:
    spatial = ", ".join("DHW"[3 - rank :])
    if len(shape) not in (rank + 1, rank + 2):
        raise ArgumentError(
            f"{op}: input must be {rank + 2}-D (N, C, {spatial}) or {rank + 1}-D (C, {spatial}), got shape {shape}"
        )
    if 0 in shape[len(shape) - rank - 1 :]:
        raise ArgumentError(f"{op}: only the batch axis of the input may be empty, got shape {shape}")


def array_of(x: Any, op: str, name: str = "input") -> Any:
    """The array of a tensor; an error that names the argument for anything else."""
    if not isinstance(x, Tensor):
        raise not_a_tensor(op, name, x)
    return x._data


def as_key(value: Any) -> Any:
    """A size as a key of :func:`_plan`'s cache, which cannot hash a list."""
    return tuple(value) if type(value) is list else value


@lru_cache(maxsize=2048)
def _plan(
    op: str,
    rank: int,
    shape: Sizes,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> Plan:
    check_shape(op, shape, rank)
    kernel = to_sizes(kernel_size, rank, op, "kernel_size")
    strides = kernel if stride is None or stride == () else to_sizes(stride, rank, op, "stride")
    pads = to_sizes(padding, rank, op, "padding")
    dilations = to_sizes(dilation, rank, op, "dilation")
    for name, values in (("kernel_size", kernel), ("stride", strides), ("dilation", dilations)):
        if min(values) <= 0:
            raise ArgumentError(f"{op}: {name} must be positive, got {values}")
    size = shape[len(shape) - rank :]
    output = []
    for n, k, s, p, d in zip(size, kernel, strides, pads, dilations, strict=True):
        reach = (k - 1) * d + 1  # inputs from the first tap of a window to the last
        if p < 0:
            raise ArgumentError(f"{op}: padding must not be negative, got {pads}")
        if 2 * p > k:
            raise ArgumentError(
                f"{op}: padding must be at most half of kernel_size, got padding {pads} for kernel_size {kernel}"
            )
        room = n + 2 * p - reach
        out = (room + (s - 1 if ceil_mode else 0)) // s + 1
        # With ceil_mode the last window must begin inside the input or its left padding.
        if ceil_mode and (out - 1) * s >= n + p:
            out -= 1
        if out < 1:
            raise ArgumentError(
                f"{op}: the window is larger than the padded input: kernel_size {kernel}"
                + (f" with dilation {dilations}" if max(dilations) > 1 else "")
                + f" and padding {pads} on an input of spatial size {size}"
            )
        output.append(out)
    return Plan(size, kernel, strides, pads, dilations, tuple(output))


def _max_pool(
    op: str,
    rank: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    shape = array_of(input, op).shape
    plan = _plan(
        op,
        rank,
        shape,
        as_key(kernel_size),
        as_key(stride),
        as_key(padding),
        as_key(dilation),
        bool(ceil_mode),
    )
    return MaxPool.apply(input, plan=plan, return_indices=return_indices)


def _avg_pool(
    op: str,
    rank: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:
    shape = array_of(input, op).shape
    plan = _plan(op, rank, shape, as_key(kernel_size), as_key(stride), as_key(padding), 1, bool(ceil_mode))
    if divisor_override is not None and divisor_override == 0:
        raise ArgumentError(f"{op}: divisor_override must not be 0")
    return AvgPool.apply(  # type: ignore[no-any-return]
        input, plan=plan, count_include_pad=bool(count_include_pad), divisor=divisor_override
    )


def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, L) or (C, L); see :func:`max_pool2d` and ``torch.nn.functional.max_pool1d``."""
    return _max_pool(
        "max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of an image; see ``torch.nn.functional.max_pool2d``.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        kernel_size: window (kH, kW), or one int for both.
        stride: distance of windows; default ``kernel_size``.
        padding: implicit -inf on both sides, at most half of the window.
        dilation: distance of a window's elements.
        ceil_mode: also use a last window that reaches beyond the padded input, if it begins inside.
        return_indices: also return the maxima's flat positions in their input planes (int64).

    Returns:
        (N, C, Hout, Wout) with ``Hout = floor((H + 2*padding - dilation*(kH - 1) - 1) / stride) + 1``, and the indices
        if asked for. Of equal maxima the first counts; NaN counts as the largest.

    Raises:
        ValueError: for a geometry without output, or the wrong number of axes.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([[[1.0, 2.0, 5.0, 0.0], [3.0, 4.0, 1.0, 7.0]]])
        >>> fastdl.nn.functional.max_pool2d(x, 2)
        tensor([[[4., 7.]]])
    """
    return _max_pool(
        "max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, D, H, W) or (C, D, H, W); see :func:`max_pool2d` and torch's ``max_pool3d``."""
    return _max_pool(
        "max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool1d` with ``return_indices=True``."""
    return max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, True)  # type: ignore[no-any-return]


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool2d` with ``return_indices=True``."""
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)  # type: ignore[no-any-return]


def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool3d` with ``return_indices=True``."""
    return max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode, True)  # type: ignore[no-any-return]


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean over windows of (N, C, L) or (C, L); see :func:`avg_pool2d` and ``torch.nn.functional.avg_pool1d``."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows of an image; see ``torch.nn.functional.avg_pool2d``.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        kernel_size: window (kH, kW), or one int for both.
        stride: distance of windows; default ``kernel_size``.
        padding: implicit zeros on both sides, at most half of the window.
        ceil_mode: also use a last window that reaches beyond the padded input, if it begins inside.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: divide by this instead.

    Returns:
        (N, C, Hout, Wout) with ``Hout = floor((H + 2*padding - kH) / stride) + 1``.

    Raises:
        ValueError: for a geometry without output, or the wrong number of axes.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.avg_pool2d(fastdl.tensor([[[1.0, 2.0], [3.0, 4.0]]]), 2)
        tensor([[[2.5000]]])
    """
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows of (N, C, D, H, W) or (C, D, H, W); see :func:`avg_pool2d` and torch's ``avg_pool3d``."""
    return _avg_pool(
        "avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _lp_pool(
    op: str, rank: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool
) -> Tensor:
    shape = array_of(input, op).shape
    p = float(norm_type)
    if p == 0 or p != p:
        raise ArgumentError(f"{op}: norm_type must be a number other than 0, got {norm_type}")
    plan = _plan(op, rank, shape, as_key(kernel_size), as_key(stride), 0, 1, bool(ceil_mode))
    if p == float("inf"):
        return MaxPool.apply(input.abs(), plan=plan, return_indices=False)  # type: ignore[no-any-return]
    if p == -float("inf"):
        return -MaxPool.apply(-input.abs(), plan=plan, return_indices=False)  # type: ignore[no-any-return]
    return LpPool.apply(floating(input), plan=plan, p=p)  # type: ignore[no-any-return]


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Power average over windows of (N, C, L) or (C, L); see :func:`lp_pool2d`."""
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Power average over windows, ``(sum of x^p)^(1/p)``; see ``torch.nn.functional.lp_pool2d``.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        norm_type: p; infinity gives the largest absolute value.
        kernel_size: window (kH, kW), or one int for both.
        stride: distance of windows; default ``kernel_size``.
        ceil_mode: also use a last window that reaches beyond the input, scaled up to a whole one.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.lp_pool2d(fastdl.tensor([[[3.0, 4.0]]]), 2, (1, 2))
        tensor([[[5.]]])
    """
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Power average over windows of (N, C, D, H, W) or (C, D, H, W); see :func:`lp_pool2d`."""
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)

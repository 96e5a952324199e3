"""The partial inverse of max pooling; see ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import select
from fastdl.ops.pool import Ints, Sizes, array_of, check_shape, to_sizes
from fastdl.tensor import Tensor


class MaxUnpool(Op):
    floats_only = True
    saves = (1,)

    def forward(self, x: Any, indices: Any, output: Sizes) -> Any:
        self.indices, self.output, self.rank = indices, output, len(output)
        return select(x).max_unpool_forward(x, indices, output)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).max_unpool_backward(grad_y, self.indices, self.rank), None

    def linear(self, x: Any, _: Any) -> Any:
        return select(x).max_unpool_forward(x, self.indices, self.output)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


def _max_unpool(
    op: str,
    rank: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
) -> Tensor:
    shape = array_of(input, op).shape
    at = array_of(indices, op, "indices")
    check_shape(op, shape, rank)
    if at.dtype != "int64":
        raise DtypeError(f"{op}: indices must be int64, got {at.dtype}")
    if at.shape != shape:
        raise ArgumentError(f"{op}: indices must have the shape of the input {shape}, got {at.shape}")
    kernel = to_sizes(kernel_size, rank, op, "kernel_size")
    strides = kernel if stride is None or stride in ((), []) else to_sizes(stride, rank, op, "stride")
    pads = to_sizes(padding, rank, op, "padding")
    if min(kernel) <= 0 or min(strides) <= 0:
        raise ArgumentError(f"{op}: kernel_size and stride must be positive, got {kernel} and {strides}")
    default = [
        (n - 1) * s + k - 2 * p
        for n, k, s, p in zip(shape[len(shape) - rank :], kernel, strides, pads, strict=True)
    ]
    if output_size is None:
        output = tuple(default)
    else:
        output = tuple([index(o) for o in output_size])
        if len(output) == rank + 2:
            output = output[2:]
        if len(output) != rank:
            raise ArgumentError(
                f"{op}: output_size must have {rank} elements, or {rank + 2} with batch and channels, "
                f"got {tuple(output_size)}"
            )
        for axis, (o, n, s) in enumerate(zip(output, default, strides, strict=True)):
            if not n - s < o < n + s:
                raise ArgumentError(
                    f"{op}: output_size[{axis}] must lie between {n - s} and {n + s} (exclusive) for kernel_size "
                    f"{kernel}, stride {strides} and padding {pads}, got {output}"
                )
    if min(output) <= 0:
        raise ArgumentError(
            f"{op}: padding {pads} leaves no output of an input of shape {shape}, kernel_size {kernel}"
        )
    return MaxUnpool.apply(input, indices, output=output)  # type: ignore[no-any-return]


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The partial inverse of :func:`max_pool1d`; see :func:`max_unpool2d`."""
    return _max_unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Put maxima back to where they were, zeros elsewhere; see ``torch.nn.functional.max_unpool2d``.

    Args:
        input: what :func:`max_pool2d` returned.
        indices: the indices it returned with ``return_indices=True``.
        kernel_size, stride, padding: of that pooling.
        output_size: the input's spatial shape (or whole shape), where the pooling did not cover it evenly.

    Raises:
        IndexError: for an index outside of the output plane, with its position.
    """
    return _max_unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The partial inverse of :func:`max_pool3d`; see :func:`max_unpool2d`."""
    return _max_unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)

"""Convolution and its transpose; see :mod:`fastdl.kernels.reference.conv`.

Four algorithms, under the names of the CPU's (``FASTDL_CONV_ALGORITHM``, :func:`fastdl.conv_algorithm`), each for the
convolution, its gradient of x (which is also the transposed convolution) and that of the weights:

- ``direct``: an implicit product on tensor cores (16-bit types; float32 if TF32 is allowed) or by FMAs. Arrays are
  turned to channels last first, so x crosses memory four times in all and y once; the gradients share the copies.
  On Hopper there are two kinds of kernels for tensor cores, see :mod:`fastdl.kernels.cuda.hopper`.
- ``pointwise``: 1x1 kernels are cuBLAS's products of the weights and each image as it is. (Their gradient of the
  weights is the direct one, which reads the arrays as they are where an image's size is a multiple of 4.)
- ``depthwise``: groups of few channels, read and written as they are, without tensor cores: kernels for the usual
  shapes (square, 3 to 7 wide, stride 1 or 2, no dilation), others for groups of one input channel of any shape.
- ``im2col``: windows as explicit columns and plain products: the readable base, and what remains for strides so large
  that the gradient of x would fall into very many classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastdl import kernels
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous
from fastdl.kernels.cuda.elementwise import add_forward
from fastdl.kernels.cuda.hopper import family, half_types, hopper_trusted
from fastdl.kernels.cuda.linear import matmul
from fastdl.kernels.cuda.products import multiply_dense
from fastdl.kernels.cuda.reduce import sum_forward

__all__ = ["conv_backward", "conv_forward", "conv_transpose_backward", "conv_transpose_forward"]

Ints = Sequence[int]
Gradients = tuple[Array | None, Array | None, Array | None]

_PARTS = {"forward": 0, "grad_x": 1, "grad_weight": 2}
_CLASSES = 64  # interleaved images of a gradient of x; kernels that do not overlap are better as columns


class _Convolution:
    """One call's problem and the arrays that its passes share."""

    def __init__(self, op: str, problem: Any, *arrays: Array) -> None:
        self.op, self.problem = op, problem
        self.runtime = device.of(arrays[0])
        self.number = device.code(op, *arrays)
        self.dtype = arrays[0].dtype
        # Tensor cores round float32 to TF32, once, when the operands are prepared.
        self.tf32 = self.dtype == np.float32 and kernels.precisions.convolution != "highest"
        self.groups: int = problem.groups
        self.taps = prod(problem.kernel)
        self.size_in, self.size_out = prod(problem.inputs), prod(problem.outputs)
        self.group_in: int = problem.in_channels // problem.groups
        self.group_out: int = problem.out_channels // problem.groups
        self.planes: bool = self.runtime.extension.conv_planes_exist(self.number, problem)
        self._last: dict[int, Array] = {}

    # ---- the choice

    def refusal(self, name: str) -> str | None:
        """Why that algorithm cannot do this problem."""
        p = self.problem
        if name == "pointwise":
            if self.taps != 1 or set(p.stride) != {1} or any(p.padding) or p.inputs != p.outputs:
                return "it takes 1x1 kernels with stride 1 and no padding"
        elif name == "depthwise":
            if self.group_in != 1 and not self.planes:
                return "it takes groups of one input channel, or of few channels with kernels 3, 5 or 7 wide"
        elif name not in ("direct", "im2col"):
            return "it has no CUDA kernels; those are direct, pointwise, depthwise and im2col"
        return None

    def pointwise_is_best(self, part: str) -> bool:
        """Are cuBLAS's products better than a direct 1x1 convolution, which crosses memory twice more for x and has two
        launches more, but takes arrays of any alignment?"""
        if self.size_out == 1:
            return self.groups == 1  # a linear layer
        if part == "grad_weight":
            return False  # one product over all pixels is better than one per image and a sum of them
        tensor = self.tf32 or self.dtype.itemsize == 2
        if not tensor:
            return True
        # Tensor cores' operands come in pieces of 8 or 16 bytes, or else slowly; and each group is a launch.
        sizes = self.size_out, self.group_in, self.group_out
        return all(n * self.dtype.itemsize % 8 == 0 for n in sizes) and self.launches <= 4

    @property
    def launches(self) -> int:
        """Of products for all groups and images: one takes either of them."""
        batch: int = self.problem.batch
        return min(self.groups, batch)

    def choose(self, part: str) -> str:
        """The algorithm of ``part``: forward, grad_x or grad_weight."""
        forced: str = kernels.cpu.conv_algorithm()
        if forced != "auto":
            reason = self.refusal(forced)
            if reason:
                raise ArgumentError(
                    f"{self.op}: the forced algorithm '{forced}' cannot do this on CUDA: {reason}"
                )
            return forced
        if self.groups > 1 and self.group_in == 1:
            return "depthwise"
        if self.planes and self.runtime.extension.conv_planes_suit(self.number, self.problem, _PARTS[part]):
            return "depthwise"
        if self.refusal("pointwise") is None and self.pointwise_is_best(part):
            return "pointwise"
        classes = prod(self.problem.stride) if part == "grad_x" else 1
        if classes > _CLASSES or classes * self.groups > 65535:
            return "im2col"
        return "direct"

    # ---- shapes and layouts

    def image(self, channels: int, extent: Ints, rank: int) -> tuple[int, ...]:
        return (self.problem.batch, channels, *extent[3 - rank :])

    def empty(self, shape: Any) -> Array:
        return self.runtime.empty(shape, self.dtype)

    def scratch(self, size: int) -> Array:
        """Partial sums."""
        return self.runtime.empty(size, device.compute_dtype(self.dtype))

    def last(self, x: Array, channels: int, size: int) -> Array:
        """x with the (padded) channels last; made once."""
        if id(x) not in self._last:
            padded = self.runtime.extension.conv_padded(self.number, channels)
            to = self.empty((self.problem.batch, size, self.groups, padded))
            self._run("channels_last", self.tf32, to, x, self.problem.batch, channels, self.groups, size)
            self._last[id(x)] = to
        return self._last[id(x)]

    def _run(self, name: str, *arguments: Any) -> None:
        pointer = self.runtime.pointer
        plain = [
            pointer(a) if a is None or hasattr(a, "dtype") else a for a in arguments
        ]  # arrays as addresses
        getattr(self.runtime.extension, name)(self.number, *plain, self.runtime.stream())

    def columns(self) -> Any:
        """The problem of unfold and fold."""
        p = self.problem
        axes: list[int] = []
        for axis in zip(p.inputs, p.outputs, p.kernel, p.stride, p.padding, p.dilation, strict=True):
            axes += axis
        return self.runtime.extension.PoolProblem(p.batch * p.in_channels, axes)

    # ---- the three passes

    def forward(self, y: Array, x: Array, weight: Array, bias: Array | None) -> Array:
        if y.size == 0:
            return y
        if self.group_in * self.size_in == 0:
            return self._constant(y, bias)
        name = self.choose("forward")
        if name == "depthwise":
            if self.planes:
                self._run("conv_planes", y, x, weight, bias, self.problem, False)
            else:
                self._run("depthwise_forward", y, x, weight, bias, self.problem)
            return y
        if name == "direct":
            return self._gather(y, x, weight, bias, False)
        if name == "pointwise":
            return self._multiply_images(y, x, weight, bias, False)
        patches = self._grouped(self._unfold(x), self.group_in * self.taps)
        return self._biased(self._product(self._weight(weight), patches).reshape(y.shape), bias)

    def grad_x(self, grad_x: Array, grad_y: Array, weight: Array, bias: Array | None = None) -> Array:
        if grad_x.size == 0:
            return grad_x
        if self.group_out * self.size_out == 0:
            return self._constant(grad_x, bias)
        name = self.choose("grad_x")
        if name == "depthwise":
            if self.planes:
                self._run("conv_planes", grad_x, grad_y, weight, bias, self.problem, True)
            else:
                self._run("depthwise_grad_x", grad_x, grad_y, weight, bias, self.problem)
            return grad_x
        if name == "direct":
            return self._gather(grad_x, grad_y, weight, bias, True)
        if name == "pointwise":
            return self._multiply_images(grad_x, grad_y, weight, bias, True)
        product = self._product(self._weight(weight).swapaxes(-1, -2), self._grouped(grad_y, self.group_out))
        self._run("fold", grad_x, contiguous(product), self.columns())
        return self._biased(grad_x, bias)

    def grad_weight(self, grad_weight: Array, grad_y: Array, x: Array) -> Array:
        if grad_weight.size == 0:
            return grad_weight
        if self.problem.batch * self.size_out * self.size_in == 0:
            return self.runtime.zeros(grad_weight.shape, self.dtype)
        name = self.choose("grad_weight")
        if name == "depthwise":
            extension = self.runtime.extension
            if self.planes:
                splits, kernel = (
                    extension.conv_planes_splits(self.number, self.problem),
                    "conv_planes_grad_weight",
                )
            else:
                splits, kernel = extension.depthwise_splits(self.problem), "depthwise_grad_weight"
            self._run(kernel, grad_weight, grad_y, x, self.scratch(splits * grad_weight.size), self.problem)
            return grad_weight
        if name == "direct":
            return self._sum_pixels(grad_weight, grad_y, x)
        if name == "pointwise" and self.size_out == 1 and self.groups == 1:
            sizes = self.group_out, self.problem.batch, self.group_in
            self._multiply(grad_weight, grad_y, x, sizes, turned=(True, False))
            return grad_weight
        patches = self._grouped(x if name == "pointwise" else self._unfold(x), self.group_in * self.taps)
        product = self._product(self._grouped(grad_y, self.group_out), patches.swapaxes(-1, -2))
        return sum_forward(product, (0,)).reshape(grad_weight.shape)

    def grad_bias(self, grad_y: Array) -> Array:
        return sum_forward(grad_y, (0, *range(2, grad_y.ndim)))

    def _gather(self, y: Array, x: Array, weight: Array, bias: Array | None, transposed: bool) -> Array:
        """The implicit product for y, summed over the channels of x."""
        extension, problem = self.runtime.extension, self.problem
        if transposed:
            rows, channels, size = problem.in_channels, self.group_out, self.size_out
        else:
            rows, channels, size = problem.out_channels, self.group_in, self.size_in
        packed = self.empty((rows, self.taps, extension.conv_padded(self.number, channels)))
        self._run("conv_pack_weight", self.tf32, packed, weight, problem, transposed)
        last = self.last(x, channels, size)
        hopper = extension.conv_gather_fits_hopper(
            self.number, self.tf32, problem, transposed
        ) and hopper_trusted("conv", self.runtime)
        count = extension.conv_gather_hopper_splits if hopper else extension.conv_gather_splits
        splits = count(self.number, problem, transposed)
        scratch = self.scratch(splits * y.size) if splits > 1 else None
        if hopper:
            self._run("conv_gather_hopper", y, last, packed, bias, scratch, problem, transposed)
        else:
            self._run("conv_gather", self.tf32, y, last, packed, bias, scratch, problem, transposed)
        return y

    def _sum_pixels(self, grad_weight: Array, grad_y: Array, x: Array) -> Array:
        """The implicit product for the gradient of the weights."""
        extension, problem = self.runtime.extension, self.problem
        hopper = extension.conv_weight_fits_hopper(self.number, problem) and hopper_trusted(
            "conv_grad_weight", self.runtime
        )
        plain = self.runtime.pointer(grad_y), self.runtime.pointer(x)
        pointwise = extension.conv_pointwise_fits(self.number, problem, *plain)
        if pointwise and hopper:
            # Arrays as they are save a copy, 4 bytes * (out + in) a pixel; wgmma saves half the time of 2 * out * in
            # operations. By public figures (2.5 TB/s, 600 TFLOP/s) the two are equal here.
            out, into = self.group_out, self.group_in
            pointwise = out * into <= 480 * (out + into)
        if hopper and not pointwise:
            splits = extension.conv_weight_hopper_splits(problem)
        else:
            splits = extension.conv_weight_splits(self.number, problem)
        padded = extension.conv_padded(self.number, self.group_in)
        scratch = self.scratch(splits * problem.out_channels * self.taps * padded)
        if pointwise:
            self._run("conv_grad_weight_pointwise", self.tf32, grad_weight, grad_y, x, scratch, problem)
            return grad_weight
        last_y = self.last(grad_y, self.group_out, self.size_out)
        last_x = self.last(x, self.group_in, self.size_in)
        if hopper:
            self._run("conv_grad_weight_hopper", grad_weight, last_y, last_x, scratch, problem)
        else:
            self._run("conv_grad_weight", self.tf32, grad_weight, last_y, last_x, scratch, problem)
        return grad_weight

    # ---- plain products

    def _multiply(self, y: Array, left: Array, right: Array, sizes: tuple[int, int, int], **how: Any) -> None:
        multiply_dense(self.runtime, self.number, y, left, right, sizes, tf32=self.tf32, **how)

    def _multiply_images(
        self, y: Array, x: Array, weight: Array, bias: Array | None, transposed: bool
    ) -> Array:
        """y of a 1x1 convolution, or its gradient of x: y[n] = weight x[n] of each group. On top of the bias, which is
        written first, so that there is one rounding."""
        batch, groups, size = self.problem.batch, self.groups, self.size_out
        rows, inner = (self.group_in, self.group_out) if transposed else (self.group_out, self.group_in)
        if bias is not None:
            runtime, item = self.runtime, self.dtype.itemsize
            channels = groups * rows
            runtime.extension.copy(
                *(item, (batch, channels, size)),
                (runtime.pointer(y), (channels * size * item, size * item, item)),
                (runtime.pointer(bias), (0, item, 0)),
                runtime.stream(),
            )
        beta = 0.0 if bias is None else 1.0
        if size == 1 and groups == 1:
            self._multiply(y, x, weight, (batch, inner, rows), turned=(False, not transposed), beta=beta)
            return y
        image, group = (
            (groups * rows * size, 0, groups * inner * size),
            (rows * size, rows * inner, inner * size),
        )
        over, launches = (
            ((batch, image), (groups, group)) if groups <= batch else ((groups, group), (batch, image))
        )
        for i in range(launches[0]):
            starts = tuple(i * step for step in launches[1])
            self._multiply(
                *(y, weight, x, (rows, inner, size)),
                turned=(transposed, False),
                count=over[0],
                steps=over[1],
                starts=starts,
                beta=beta,
            )
        return y

    def _product(self, a: Array, b: Array) -> Array:
        y = matmul(a, b)
        return y if y.dtype == self.dtype else y.astype(self.dtype)  # NumPy multiplies bfloat16 into float32

    def _weight(self, weight: Array) -> Array:
        return weight.reshape(self.groups, self.group_out, self.group_in * self.taps)

    def _grouped(self, x: Array, rows: int) -> Array:
        """(batch, channels or rows of columns, ...) as (batch, groups, rows of a group, positions)."""
        return x.reshape(x.shape[0], self.groups, rows, self.size_out)

    def _unfold(self, x: Array) -> Array:
        columns = self.empty((self.problem.batch, self.problem.in_channels * self.taps, self.size_out))
        self._run("unfold", columns, x, self.columns())
        return columns

    def _biased(self, y: Array, bias: Array | None) -> Array:
        return y if bias is None else add_forward(y, bias.reshape(-1, *[1] * (y.ndim - 2)))

    def _constant(self, y: Array, bias: Array | None) -> Array:
        return self._biased(self.runtime.zeros(y.shape, self.dtype), bias)


def _trials(runtime: Any) -> list[tuple[_Convolution, Array, Array, Array]]:
    """Problems for a trial, with x, weights and y's gradient: all types; tiles of each size and more than one for each
    multiprocessor, with ragged edges; strides and dilation."""
    trials = []
    for dtype in (*half_types(), np.dtype(np.float32)):
        rng = np.random.default_rng(0)
        for images, out_channels, stride, dilation in (
            (runtime.extension.multiprocessors() + 1, 64, (1, 1), (1, 1)),
            (runtime.extension.multiprocessors() + 1, 192, (1, 2), (2, 1)),
            (1 + runtime.extension.multiprocessors() // 4, 192, (1, 1), (1, 1)),
        ):
            shapes = (images, 64, 17, 17), (out_channels, 64, 3, 3)
            problem = runtime.extension.conv_problem("conv", *shapes, stride, (1, 1), dilation, 1)
            y = (images, out_channels, *problem.outputs[1:])
            x, weight, grad_y = (
                runtime.from_host(rng.standard_normal(s, np.float32).astype(dtype)) for s in (*shapes, y)
            )
            c = _Convolution("conv", problem, x, weight)
            c.tf32 = dtype == np.float32
            trials.append((c, x, weight, grad_y))
    return trials


@family("conv")
def _problem(runtime: Any) -> list[Array]:
    results = []
    for c, x, weight, grad_y in _trials(runtime):
        results.append(c._gather(c.empty(grad_y.shape), x, weight, None, False))
        results.append(c._gather(c.empty(x.shape), grad_y, weight, None, True))
    return results


@family("conv_grad_weight")
def _problem_of_weights(runtime: Any) -> list[Array]:
    trials = [t for t in _trials(runtime) if t[1].dtype.itemsize == 2]
    return [c._sum_pixels(c.empty(weight.shape), grad_y, x) for c, x, weight, grad_y in trials]


def _bias(op: str, bias: Array | None, like: Array, channels: int) -> Array | None:
    if bias is None:
        return None
    if bias.shape != (channels,):
        raise ArgumentError(f"{op}: bias must have one entry per output channel")
    device.code(op, like, bias)
    return contiguous(bias)


def _same(op: str, x: Array, weight: Array) -> None:
    device.code(op, x)
    if weight.dtype != x.dtype:
        raise DtypeError(f"{op}: weight must be {x.dtype}, got {weight.dtype}")


def conv_forward(
    x: Array, weight: Array, bias: Array | None, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Array:
    op = "conv_forward"
    _same(op, x, weight)
    problem = device.of(x).extension.conv_problem(
        op, x.shape, weight.shape, stride, padding, dilation, groups
    )
    bias = _bias(op, bias, x, problem.out_channels)
    x, weight = contiguous(x), contiguous(weight)
    c = _Convolution(op, problem, x, weight)
    y = c.empty(c.image(problem.out_channels, problem.outputs, x.ndim - 2))
    return c.forward(y, x, weight, bias)


def conv_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    needs: Sequence[bool] = (True, True, True),
) -> Gradients:
    op = "conv_backward"
    _same(op, x, weight)
    problem = device.of(x).extension.conv_problem(
        op, x.shape, weight.shape, stride, padding, dilation, groups
    )
    grad_y, x, weight = contiguous(grad_y), contiguous(x), contiguous(weight)
    c = _Convolution(op, problem, grad_y, x, weight)
    if grad_y.shape != c.image(problem.out_channels, problem.outputs, x.ndim - 2):
        raise ArgumentError(f"{op}: grad_y has the wrong shape")
    return (
        c.grad_x(c.empty(x.shape), grad_y, weight) if needs[0] else None,
        c.grad_weight(c.empty(weight.shape), grad_y, x) if needs[1] else None,
        c.grad_bias(grad_y) if needs[2] else None,
    )


def conv_transpose_forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
) -> Array:
    op = "conv_transpose_forward"
    _same(op, x, weight)
    problem = device.of(x).extension.conv_transpose_problem(
        op, x.shape, weight.shape, stride, padding, output_padding, dilation, groups
    )
    bias = _bias(op, bias, x, problem.in_channels)
    x, weight = contiguous(x), contiguous(weight)
    c = _Convolution(op, problem, x, weight)
    y = c.empty(c.image(problem.in_channels, problem.inputs, x.ndim - 2))
    return c.grad_x(y, x, weight, bias)


def conv_transpose_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    needs: Sequence[bool] = (True, True, True),
) -> Gradients:
    op = "conv_transpose_backward"
    _same(op, x, weight)
    problem = device.of(x).extension.conv_transpose_gradient_problem(
        op, x.shape, weight.shape, stride, padding, dilation, groups, grad_y.shape
    )
    grad_y, x, weight = contiguous(grad_y), contiguous(x), contiguous(weight)
    c = _Convolution(op, problem, grad_y, x, weight)
    return (  # x and grad_y have the roles of the problem's y and x
        c.forward(c.empty(x.shape), grad_y, weight, None) if needs[0] else None,
        c.grad_weight(c.empty(weight.shape), x, grad_y) if needs[1] else None,
        c.grad_bias(grad_y) if needs[2] else None,
    )

"""What a convolution on a GPU is, and which algorithm computes it.

Four algorithms, under the names of the CPU's (``FASTDL_CONV_ALGORITHM``, :func:`fastdl.conv_algorithm`), each for the
convolution, its gradient of x (which is also the transposed convolution) and that of the weights:

- ``direct``: an implicit product on tensor cores (16-bit types; float32 if TF32 is allowed) or by FMAs. Arrays are
  turned to channels last first, so x crosses memory four times in all and y once; the gradients share the copies.
  On Hopper there are two kinds of kernels for tensor cores, see :mod:`fastdl.kernels.cuda.hopper`.
- ``pointwise``: 1x1 kernels are cuBLAS's products of the weights and each image as it is. (Their gradient of the
  weights is the direct one, which reads the arrays as they are where an image's size is a multiple of 4.) With strides
  what they see of x is copied first: every other row and column is a quarter of it.
- ``depthwise``: groups of few channels, read and written as they are, without tensor cores: kernels for the usual
  shapes (square, 3 to 7 wide, stride 1 or 2, no dilation), others for groups of one input channel of any shape.
- ``im2col``: windows as explicit columns and plain products: the readable base, and what remains for strides so large
  that the gradient of x would fall into very many classes.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

from fastdl import kernels
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous
from fastdl.kernels.cuda.elementwise import add_forward
from fastdl.kernels.cuda.hopper import hopper_trusted
from fastdl.kernels.cuda.linear import matmul
from fastdl.kernels.cuda.products import multiply_dense
from fastdl.kernels.cuda.reduce import sum_forward, sum_over

Shared = dict[int, Array]  # arrays with the channels last, by the id of what they were made of

_PARTS = {"forward": 0, "grad_x": 1, "grad_weight": 2}
_CLASSES = 64  # interleaved images of a gradient of x; kernels that do not overlap are better as columns


class Convolution:
    """A problem and what follows from it: which algorithm computes a part, and sizes. Layers repeat their problems, so
    these are kept (:func:`_convolution`), without arrays: copies that the passes of a call share are in its ``shared``.
    """

    def __init__(
        self, runtime: Any, op: str, number: int, dtype: Any, tf32: bool, forced: str, problem: Any
    ) -> None:
        self.runtime, self.op, self.number, self.dtype = runtime, op, number, dtype
        self.tf32, self.forced, self.problem = tf32, forced, problem
        self.groups: int = problem.groups
        self.taps = prod(problem.kernel)
        self.inputs, self.outputs = tuple(problem.inputs), tuple(problem.outputs)
        self.size_in, self.size_out = prod(self.inputs), prod(self.outputs)
        self.batch: int = problem.batch
        self.in_channels: int = problem.in_channels
        self.out_channels: int = problem.out_channels
        self.group_in, self.group_out = self.in_channels // self.groups, self.out_channels // self.groups
        self.planes: bool = runtime.extension.conv_planes_exist(number, problem)
        self._known: dict[Any, Any] = {}

    def _once(self, find: Any, *arguments: Any) -> Any:
        """``find(*arguments)``, which depends on the problem alone."""
        key = find, arguments
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = find(*arguments)
        return found

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

    def thinned(self, rank: int) -> tuple[slice, ...] | None:
        """The places of x that a 1x1 kernel with strides sees; as an image of its own they have a plain product. None
        for other kernels."""
        p = self.problem
        if self.forced != "auto" or self.taps != 1 or set(p.stride) == {1} or any(p.padding):
            return None
        return (slice(None), slice(None), *(slice(None, None, step) for step in p.stride[3 - rank :]))

    @property
    def launches(self) -> int:
        """Of products for all groups and images: one takes either of them."""
        return min(self.groups, self.batch)

    def choose(self, part: str) -> str:
        """The algorithm of ``part``: forward, grad_x or grad_weight."""
        return self._once(self._choose, part)  # type: ignore[no-any-return]

    def _choose(self, part: str) -> str:
        if self.forced != "auto":
            reason = self.refusal(self.forced)
            if reason:
                raise ArgumentError(
                    f"{self.op}: the forced algorithm '{self.forced}' cannot do this on CUDA: {reason}"
                )
            return self.forced
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

    def image(self, of_x: bool, rank: int) -> tuple[int, ...]:
        """The shape of the problem's x, or y."""
        channels, extent = (self.in_channels, self.inputs) if of_x else (self.out_channels, self.outputs)
        return (self.batch, channels, *extent[3 - rank :])

    def empty(self, shape: Any) -> Array:
        return self.runtime.empty(shape, self.dtype)

    def scratch(self, size: int) -> Array:
        """Partial sums."""
        return self.runtime.empty(size, device.compute_dtype(self.dtype))

    def padded(self, channels: int) -> int:
        return self._once(self.runtime.extension.conv_padded, self.number, channels)  # type: ignore[no-any-return]

    def last(self, x: Array, channels: int, size: int, shared: Shared) -> Array:
        """x with the (padded) channels last; made once."""
        to = shared.get(id(x))
        if to is None:
            runtime = self.runtime
            to = shared[id(x)] = self.empty((self.batch, size, self.groups, self.padded(channels)))
            runtime.extension.channels_last(
                *(self.number, self.tf32, runtime.pointer(to), runtime.pointer(x)),
                *(self.batch, channels, self.groups, size, runtime.stream()),
            )
        return to

    def columns(self) -> Any:
        """The problem of unfold and fold."""
        p = self.problem
        axes: list[int] = []
        for axis in zip(p.inputs, p.outputs, p.kernel, p.stride, p.padding, p.dilation, strict=True):
            axes += axis
        return self.runtime.extension.PoolProblem(self.batch * self.in_channels, axes)

    # ---- the three passes

    def forward(self, y: Array, x: Array, weight: Array, bias: Array | None, shared: Shared) -> Array:
        if y.size == 0:
            return y
        if self.group_in * self.size_in == 0:
            return self._constant(y, bias)
        name = self.choose("forward")
        if name == "depthwise":
            return self._planes(y, x, weight, bias, False)
        if name == "direct":
            return self.gather(y, x, weight, bias, False, shared)
        if name == "pointwise":
            return self._multiply_images(y, x, weight, bias, False)
        patches = self._grouped(self._unfold(x), self.group_in * self.taps)
        return self._biased(self._product(self._weight(weight), patches).reshape(y.shape), bias)

    def grad_x(
        self, grad_x: Array, grad_y: Array, weight: Array, bias: Array | None, shared: Shared
    ) -> Array:
        if grad_x.size == 0:
            return grad_x
        if self.group_out * self.size_out == 0:
            return self._constant(grad_x, bias)
        name = self.choose("grad_x")
        if name == "depthwise":
            return self._planes(grad_x, grad_y, weight, bias, True)
        if name == "direct":
            return self.gather(grad_x, grad_y, weight, bias, True, shared)
        if name == "pointwise":
            return self._multiply_images(grad_x, grad_y, weight, bias, True)
        product = self._product(self._weight(weight).swapaxes(-1, -2), self._grouped(grad_y, self.group_out))
        runtime, columns = self.runtime, contiguous(product)
        pointers = runtime.pointer(grad_x), runtime.pointer(columns)
        runtime.extension.fold(self.number, *pointers, self._once(self.columns), runtime.stream())
        return self._biased(grad_x, bias)

    def grad_weight(self, grad_weight: Array, grad_y: Array, x: Array, shared: Shared) -> Array:
        if grad_weight.size == 0:
            return grad_weight
        if self.batch * self.size_out * self.size_in == 0:
            return self.runtime.zeros(grad_weight.shape, self.dtype)
        name = self.choose("grad_weight")
        if name == "depthwise":
            return self._planes_weight(grad_weight, grad_y, x)
        if name == "direct":
            return self.sum_pixels(grad_weight, grad_y, x, shared)
        if name == "pointwise" and self.size_out == 1 and self.groups == 1:
            sizes = self.group_out, self.batch, self.group_in
            self._multiply(grad_weight, grad_y, x, sizes, turned=(True, False))
            return grad_weight
        patches = self._grouped(x if name == "pointwise" else self._unfold(x), self.group_in * self.taps)
        product = self._product(self._grouped(grad_y, self.group_out), patches.swapaxes(-1, -2))
        return sum_forward(product, (0,)).reshape(grad_weight.shape)

    def grad_bias(self, grad_y: Array) -> Array:
        """The sum over all but the channels, of a dense array."""
        return sum_over(grad_y, grad_y.shape, grad_y.strides, [0, *range(2, grad_y.ndim)])

    # ---- groups of few channels, as they are

    def _planes(self, y: Array, x: Array, weight: Array, bias: Array | None, transposed: bool) -> Array:
        runtime = self.runtime
        extension, pointer = runtime.extension, runtime.pointer
        addresses = pointer(y), pointer(x), pointer(weight), pointer(bias)
        if self.planes:
            extension.conv_planes(self.number, *addresses, self.problem, transposed, runtime.stream())
        else:
            run = extension.depthwise_grad_x if transposed else extension.depthwise_forward
            run(self.number, *addresses, self.problem, runtime.stream())
        return y

    def _planes_weight(self, grad_weight: Array, grad_y: Array, x: Array) -> Array:
        runtime, problem = self.runtime, self.problem
        extension, pointer = runtime.extension, runtime.pointer
        if self.planes:
            splits = self._once(extension.conv_planes_splits, self.number, problem)
            run = extension.conv_planes_grad_weight
        else:
            splits, run = self._once(extension.depthwise_splits, problem), extension.depthwise_grad_weight
        scratch = self.scratch(splits * grad_weight.size)
        addresses = pointer(grad_weight), pointer(grad_y), pointer(x), pointer(scratch)
        run(self.number, *addresses, problem, runtime.stream())
        return grad_weight

    # ---- implicit products

    def gather(
        self, y: Array, x: Array, weight: Array, bias: Array | None, transposed: bool, shared: Shared
    ) -> Array:
        """The product for y, summed over the channels of x."""
        runtime, number, problem = self.runtime, self.number, self.problem
        extension, pointer, stream = runtime.extension, runtime.pointer, runtime.stream()
        if transposed:
            rows, channels, size = self.in_channels, self.group_out, self.size_out
        else:
            rows, channels, size = self.out_channels, self.group_in, self.size_in
        packed = self.empty((rows, self.taps, self.padded(channels)))
        extension.conv_pack_weight(
            number, self.tf32, pointer(packed), pointer(weight), problem, transposed, stream
        )
        last = self.last(x, channels, size, shared)
        hopper = self._once(
            extension.conv_gather_fits_hopper, number, self.tf32, problem, transposed
        ) and hopper_trusted("conv", runtime)
        count = extension.conv_gather_hopper_splits if hopper else extension.conv_gather_splits
        splits = self._once(count, number, problem, transposed)
        scratch = self.scratch(splits * y.size) if splits > 1 else None
        addresses = pointer(y), pointer(last), pointer(packed), pointer(bias), pointer(scratch)
        if hopper:
            extension.conv_gather_hopper(number, *addresses, problem, transposed, stream)
        else:
            extension.conv_gather(number, self.tf32, *addresses, problem, transposed, stream)
        return y

    def sum_pixels(self, grad_weight: Array, grad_y: Array, x: Array, shared: Shared) -> Array:
        """The product for the gradient of the weights."""
        runtime, number, problem = self.runtime, self.number, self.problem
        extension, pointer, stream = runtime.extension, runtime.pointer, runtime.stream()
        hopper = self._once(extension.conv_weight_fits_hopper, number, problem) and hopper_trusted(
            "conv_grad_weight", runtime
        )
        pointwise = self.taps == 1 and extension.conv_pointwise_fits(
            number, problem, pointer(grad_y), pointer(x)
        )
        if pointwise and hopper:
            # Arrays as they are save a copy, 4 bytes * (out + in) a pixel; wgmma saves half the time of 2 * out * in
            # operations. By public figures (2.5 TB/s, 600 TFLOP/s) the two are equal here.
            out, into = self.group_out, self.group_in
            pointwise = out * into <= 480 * (out + into)
        if hopper and not pointwise:
            splits = self._once(extension.conv_weight_hopper_splits, problem)
        else:
            splits = self._once(extension.conv_weight_splits, number, problem)
        scratch = self.scratch(splits * self.out_channels * self.taps * self.padded(self.group_in))
        if not pointwise:
            grad_y = self.last(grad_y, self.group_out, self.size_out, shared)
            x = self.last(x, self.group_in, self.size_in, shared)
        addresses = pointer(grad_weight), pointer(grad_y), pointer(x), pointer(scratch)
        if pointwise:
            extension.conv_grad_weight_pointwise(number, self.tf32, *addresses, problem, stream)
        elif hopper:
            extension.conv_grad_weight_hopper(number, *addresses, problem, stream)
        else:
            extension.conv_grad_weight(number, self.tf32, *addresses, problem, stream)
        return grad_weight

    # ---- plain products

    def _multiply(self, y: Array, left: Array, right: Array, sizes: tuple[int, int, int], **how: Any) -> None:
        multiply_dense(self.runtime, self.number, y, left, right, sizes, tf32=self.tf32, **how)

    def _multiply_images(
        self, y: Array, x: Array, weight: Array, bias: Array | None, transposed: bool
    ) -> Array:
        """y of a 1x1 convolution, or its gradient of x: y[n] = weight x[n] of each group. On top of the bias, which is
        written first, so that there is one rounding."""
        batch, groups, size = self.batch, self.groups, self.size_out
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
        runtime = self.runtime
        columns = self.empty((self.batch, self.in_channels * self.taps, self.size_out))
        pointers = runtime.pointer(columns), runtime.pointer(x)
        runtime.extension.unfold(self.number, *pointers, self._once(self.columns), runtime.stream())
        return columns

    def _biased(self, y: Array, bias: Array | None) -> Array:
        return y if bias is None else add_forward(y, bias.reshape(-1, *[1] * (y.ndim - 2)))

    def _constant(self, y: Array, bias: Array | None) -> Array:
        return self._biased(self.runtime.zeros(y.shape, self.dtype), bias)


@lru_cache(maxsize=1024)
def _convolution(
    runtime: Any,
    device_number: int,
    number: int,
    dtype: Any,
    tf32: bool,
    forced: str,
    describe: str,
    *problem: Any,
) -> Convolution:
    """What the extension's function ``describe`` describes, on a device: their multiprocessors differ."""
    op = problem[0]
    described = getattr(runtime.extension, describe)(*problem)
    return Convolution(runtime, op, number, dtype, tf32, forced, described)


def find(op: str, describe: str, x: Array, weight: Array, *options: Any) -> Convolution:
    number, dtype = device.code(op, x), x.dtype
    if weight.dtype != dtype:
        raise DtypeError(f"{op}: weight must be {dtype}, got {weight.dtype}")
    runtime = device.of(x)
    tf32 = number == 0 and kernels.precisions.convolution != "highest"
    return _convolution(
        *(runtime, runtime.device(), number, dtype, tf32, kernels.cpu.conv_algorithm(), describe),
        *(op, x.shape, weight.shape, *[tuple(o) if isinstance(o, list) else o for o in options]),
    )

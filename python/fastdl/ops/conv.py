"""Convolution and transposed convolution over 1, 2 or 3 spatial axes; see ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import index
from typing import Any

from fastdl import kernels
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, float32, float64
from fastdl.errors import ArgumentError, DtypeError, not_a_tensor
from fastdl.kernels import select
from fastdl.ops.conv_gradients import Geometry, gradients
from fastdl.tensor import Tensor

Ints = tuple[int, ...]
IntOrInts = int | Sequence[int]

_AXES = ("", "length", "height, width", "depth, height, width")
_LETTERS = ("", "L", "H, W", "D, H, W")
_KERNEL = ("", "kL", "kH, kW", "kD, kH, kW")


class Conv(Op):
    wide_integers = True
    saves = (0, 1)

    def forward(self, x: Any, weight: Any, bias: Any, *, options: tuple[Any, ...], batched: bool) -> Any:
        if not batched:
            x = x[None]
        self.x, self.weight, self.options, self.batched = x, weight, options, batched
        y = select(x).conv_forward(x, weight, bias, *options)
        return y if batched else y[0]

    def backward(self, grad_y: Any) -> Any:
        if self.batched:
            return select(grad_y).conv_backward(grad_y, self.x, self.weight, *self.options, self.needs)
        gx, gw, gb = select(grad_y).conv_backward(
            grad_y[None], self.x, self.weight, *self.options, self.needs
        )
        return gx if gx is None else gx[0], gw, gb

    def backward_graph(self, grad_y: Tensor) -> Any:
        return gradients(self, Geometry(False, self.options, None), grad_y)


class ConvTranspose(Op):
    wide_integers = True
    saves = (0, 1)

    def forward(
        self, x: Any, weight: Any, bias: Any, *, options: tuple[Any, ...], extra: Ints, batched: bool
    ) -> Any:
        if not batched:
            x = x[None]
        self.x, self.weight, self.options, self.batched = x, weight, options, batched
        self.extra = extra
        stride, padding, dilation, groups = options
        y = select(x).conv_transpose_forward(x, weight, bias, stride, padding, extra, dilation, groups)
        return y if batched else y[0]

    def backward(self, grad_y: Any) -> Any:
        if not self.batched:
            grad_y = grad_y[None]
        gx, gw, gb = select(grad_y).conv_transpose_backward(
            grad_y, self.x, self.weight, *self.options, self.needs
        )
        return gx if gx is None or self.batched else gx[0], gw, gb

    def backward_graph(self, grad_y: Tensor) -> Any:
        return gradients(self, Geometry(True, self.options, self.extra), grad_y)


# ------------------------------------------------------------------------------------------ checks


def sizes_of(op: str, name: str, value: IntOrInts) -> int | Ints:
    """An int or a tuple of ints, whatever sequence or integer type came."""
    if value.__class__ is not tuple:
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    try:
        return tuple([index(v) for v in value])  # type: ignore[union-attr]
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int or a tuple of ints, got {value!r}") from None


def _per_axis(op: str, name: str, value: int | Ints, axes: int, least: int) -> Ints:
    values = (value,) * axes if isinstance(value, int) else value
    if len(values) == 1:
        values *= axes
    if len(values) != axes:
        raise ArgumentError(
            f"{op}: {name} must be an int or have {axes} entries ({_AXES[axes]}), got {value}"
        )
    if min(values) < least:
        raise ArgumentError(f"{op}: {name} must be {'positive' if least else 'non-negative'}, got {value}")
    return values


def _check_shapes(
    op: str, axes: int, x: Ints, weight: Ints, bias: Ints | None, groups: int, transposed: bool
) -> None:
    """Ranks, channels and groups; raises ValueError with what to do about it."""
    if len(x) not in (axes + 1, axes + 2):
        raise ArgumentError(
            f"{op}: input must be {axes + 2}-D (batch, channels, {_AXES[axes]}) or {axes + 1}-D (channels, "
            f"{_AXES[axes]}), got shape {x}"
        )
    channels = (
        ("in_channels", "out_channels/groups") if transposed else ("out_channels", "in_channels/groups")
    )
    if len(weight) != axes + 2:
        raise ArgumentError(
            f"{op}: weight must be {axes + 2}-D ({channels[0]}, {channels[1]}, {_KERNEL[axes]}), "
            f"got shape {weight}"
        )
    if min(weight[2:]) < 1:
        raise ArgumentError(
            f"{op}: weight must have a kernel of at least 1 along every axis, got shape {weight}"
        )
    if groups < 1:
        raise ArgumentError(f"{op}: groups must be positive, got {groups}")
    if weight[0] % groups:
        raise ArgumentError(
            f"{op}: groups={groups} must divide weight's {channels[0]}={weight[0]}, got weight {weight}"
        )
    expected = weight[0] if transposed else weight[1] * groups
    position = len(x) - axes - 1
    if x[position] != expected:
        hint = ""
        if x[-1] == expected:
            order = (0, axes + 1, *range(1, axes + 1)) if position else (axes, *range(axes))
            hint = (
                f". Its last axis has {expected}: if it is channels-last "
                f"({'N, ' if position else ''}{_LETTERS[axes]}, C), use input.permute{order}"
            )
        rule = f"{expected}" if transposed or groups == 1 else f"{weight[1]} * groups = {expected}"
        raise ArgumentError(
            f"{op}: input of shape {x} has {x[position]} channels (axis {position}), but weight of shape "
            f"{weight} expects {rule}{hint}"
        )
    outputs = weight[1] * groups if transposed else weight[0]
    if bias is not None and bias != (outputs,):
        raise ArgumentError(
            f"{op}: bias must have shape ({outputs},), one entry per output channel, got {bias}"
        )
    if 0 in x[-axes:]:
        raise ArgumentError(f"{op}: input must not be empty along {_AXES[axes]}, got shape {x}")


def per_axis(op: str, name: str, value: IntOrInts, axes: int, least: int) -> Ints:
    """``value`` as a tuple with one entry per axis, each at least ``least``."""
    return _per_axis(op, name, sizes_of(op, name, value), axes, least)


@lru_cache(maxsize=4096)
def plan(
    op: str,
    axes: int,
    x: Ints,
    weight: Ints,
    bias: Ints | None,
    stride: int | Ints,
    padding: int | Ints | str,
    dilation: int | Ints,
    groups: int,
) -> tuple[tuple[Ints, Ints, Ints, int], bool]:
    """The kernels' options, and whether x has a batch axis. Cached: a layer repeats its geometry."""
    _check_shapes(op, axes, x, weight, bias, groups, transposed=False)
    strides = _per_axis(op, "stride", stride, axes, 1)
    dilations = _per_axis(op, "dilation", dilation, axes, 1)
    kernel = weight[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ArgumentError(f"{op}: padding must be 'same', 'valid' or ints, got {padding!r}")
        if padding == "same" and max(strides) > 1:
            raise ArgumentError(
                f"{op}: padding='same' needs stride 1, got stride {stride}; give the padding as ints"
            )
        # An odd total leaves the extra zero behind the input, as in PyTorch.
        ends = [((r - 1) // 2, r - 1 - (r - 1) // 2) if padding == "same" else (0, 0) for r in reach]
        pads: Ints = tuple([end for pair in ends for end in pair])
    else:
        pads = _per_axis(op, "padding", padding, axes, 0)
        ends = [(p, p) for p in pads]
    for n, (low, high), r in zip(x[-axes:], ends, reach, strict=True):
        if n + low + high < r:
            raise ArgumentError(
                f"{op}: the kernel is larger than the padded input: kernel {kernel} with dilation "
                f"{dilations} covers {tuple(reach)}, input {x[-axes:]} with padding {padding} has "
                f"{tuple(m + a + b for m, (a, b) in zip(x[-axes:], ends, strict=True))}"
            )
    return (strides, pads, dilations, groups), len(x) == axes + 2


@lru_cache(maxsize=4096)
def _plan_transpose(
    op: str,
    axes: int,
    x: Ints,
    weight: Ints,
    bias: Ints | None,
    stride: int | Ints,
    padding: int | Ints,
    output_padding: int | Ints,
    dilation: int | Ints,
    groups: int,
) -> tuple[tuple[Ints, Ints, Ints, int], Ints, bool]:
    _check_shapes(op, axes, x, weight, bias, groups, transposed=True)
    strides = _per_axis(op, "stride", stride, axes, 1)
    pads = _per_axis(op, "padding", padding, axes, 0)
    extra = _per_axis(op, "output_padding", output_padding, axes, 0)
    dilations = _per_axis(op, "dilation", dilation, axes, 1)
    for e, s, d in zip(extra, strides, dilations, strict=True):
        if e >= max(s, d):
            raise ArgumentError(
                f"{op}: output_padding must be smaller than stride or dilation, got output_padding "
                f"{output_padding}, stride {stride}, dilation {dilation}"
            )
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x[-axes:], strides, pads, dilations, weight[2:], extra, strict=True)
    ]
    if min(out) < 1:
        raise ArgumentError(
            f"{op}: the output would have shape {tuple(out)}: padding {padding} removes more than input "
            f"{x[-axes:]} and kernel {weight[2:]} make"
        )
    return (strides, pads, dilations, groups), extra, len(x) == axes + 2


def _check_tensors(op: str, input: Any, weight: Any, bias: Any) -> None:
    """Types and dtypes."""
    for name, t in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(t, Tensor) and not (t is None and name == "bias"):
            raise not_a_tensor(op, name, t)
    dtype = input._data.dtype
    if (
        (dtype is float32 or dtype is float64)
        and weight._data.dtype is dtype
        and (bias is None or bias._data.dtype is dtype)
    ):
        return
    if dtype.kind not in FLOATING and (dtype.kind == "b" or weight._data.dtype != dtype):
        raise DtypeError(
            f"{op}: input must be float32 or float64, got {dtype}; convert it with input.to(weight.dtype)"
        )
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t._data.dtype != dtype and mode.autocast is None:
            raise DtypeError(
                f"{op}: input is {dtype} but {name} is {t._data.dtype}; give both the same dtype"
            )


def _conv(
    op: str,
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrInts,
    padding: IntOrInts | str,
    dilation: IntOrInts,
    groups: int,
) -> Tensor:
    _check_tensors(op, input, weight, bias)
    options, batched = plan(
        op,
        axes,
        input._data.shape,
        weight._data.shape,
        None if bias is None else bias._data.shape,
        stride if type(stride) is int else sizes_of(op, "stride", stride),
        padding if type(padding) is int or isinstance(padding, str) else sizes_of(op, "padding", padding),
        dilation if type(dilation) is int else sizes_of(op, "dilation", dilation),
        groups if type(groups) is int else index(groups),
    )
    return Conv.apply(input, weight, bias, options=options, batched=batched)  # type: ignore[no-any-return]


def _conv_transpose(
    op: str,
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrInts,
    padding: IntOrInts,
    output_padding: IntOrInts,
    groups: int,
    dilation: IntOrInts,
) -> Tensor:
    _check_tensors(op, input, weight, bias)
    options, extra, batched = _plan_transpose(
        op,
        axes,
        input._data.shape,
        weight._data.shape,
        None if bias is None else bias._data.shape,
        sizes_of(op, "stride", stride),
        sizes_of(op, "padding", padding),
        sizes_of(op, "output_padding", output_padding),
        sizes_of(op, "dilation", dilation),
        index(groups),
    )
    return ConvTranspose.apply(  # type: ignore[no-any-return]
        input, weight, bias, options=options, extra=extra, batched=batched
    )


# ------------------------------------------------------------------------------------------- public functions


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts | str = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """One-dimensional convolution (cross-correlation) of (N, C, L) or (C, L); see :func:`conv2d`.

    Equivalent of ``torch.nn.functional.conv1d``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn import functional as F
        >>> F.conv1d(fastdl.tensor([[1.0, 2.0, 4.0]]), fastdl.tensor([[[-1.0, 1.0]]]))
        tensor([[1., 2.]])
    """
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts | str = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution (cross-correlation).

        y[n, k, i, j] = bias[k] + sum over c, r, s of
                        weight[k, c, r, s] * x[n, c, i * stride + r * dilation - padding, ...]

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        weight: (K, C / groups, kH, kW), same dtype.
        bias: (K,) or None.
        stride: positive; an int, or one per axis.
        padding: zeros at both ends of each axis, or ``"valid"`` (none), or ``"same"`` (the output is as large
            as the input; stride 1 only).
        dilation: distance between the kernel's taps.
        groups: divides C and K; group i of the outputs sees group i of the inputs.

    Returns:
        (N, K, oH, oW) with oH = (H + 2 * padding - dilation * (kH - 1) - 1) // stride + 1.

    Raises:
        ValueError: shapes or options that do not fit together.
        TypeError: not tensors, or of different dtypes.

    Equivalent of ``torch.nn.functional.conv2d``. :func:`fastdl.conv_algorithm` forces one way to compute it.

    Example:
        >>> import fastdl
        >>> from fastdl.nn import functional as F
        >>> x = fastdl.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> F.conv2d(x, fastdl.tensor([[[[1.0, 10.0]]]]), padding="valid")
        tensor([[[[21.],
                  [43.]]]])
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts | str = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """Three-dimensional convolution of (N, C, D, H, W) or (C, D, H, W); see :func:`conv2d`.

    Equivalent of ``torch.nn.functional.conv3d``.
    """
    return _conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
) -> Tensor:
    """Transposed convolution of (N, C, L) or (C, L); see :func:`conv_transpose2d`.

    Equivalent of ``torch.nn.functional.conv_transpose1d``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn import functional as F
        >>> F.conv_transpose1d(fastdl.tensor([[1.0, 2.0]]), fastdl.tensor([[[1.0, 10.0]]]), stride=2)
        tensor([[ 1., 10.,  2., 20.]])
    """
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
) -> Tensor:
    """Transposed convolution: the gradient of :func:`conv2d` with respect to its input, as a map of its own.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        weight: (C, K / groups, kH, kW), same dtype.
        bias: (K,) or None.
        stride, dilation, groups: those of the convolution whose input gradient this is.
        padding: that convolution's padding, cut off at both ends here.
        output_padding: makes the output longer at the far ends; smaller than stride or dilation.

    Returns:
        (N, K, oH, oW) with oH = (H - 1) * stride - 2 * padding + dilation * (kH - 1) + output_padding + 1.

    Raises:
        ValueError: shapes or options that do not fit together.
        TypeError: not tensors, or of different dtypes.

    Equivalent of ``torch.nn.functional.conv_transpose2d``.
    """
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
) -> Tensor:
    """Transposed convolution of (N, C, D, H, W) or (C, D, H, W); see :func:`conv_transpose2d`.

    Equivalent of ``torch.nn.functional.conv_transpose3d``.
    """
    return _conv_transpose(
        "conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@contextmanager
def conv_algorithm(name: str) -> Iterator[None]:
    """Force one algorithm for all convolutions of the process inside a ``with`` block, to test and measure.

    ``name`` is ``"auto"`` (default: the expected fastest) or one of those in ``csrc/cpu/conv/choose.cpp``, on
    a GPU one of those in ``fastdl/kernels/cuda/conv_problem.py``. An algorithm that cannot do a problem raises
    ValueError with the reason. The environment variable ``FASTDL_CONV_ALGORITHM`` sets it from the start.

    Example:
        >>> import fastdl
        >>> from fastdl.nn import functional as F
        >>> with fastdl.conv_algorithm("im2col"):
        ...     F.conv1d(fastdl.tensor([[1.0, 2.0, 4.0]]), fastdl.tensor([[[-1.0, 1.0]]]))
        tensor([[1., 2.]])
    """
    previous = kernels.cpu.conv_algorithm()
    kernels.cpu.set_conv_algorithm(name)
    try:
        yield
    finally:
        kernels.cpu.set_conv_algorithm(previous)

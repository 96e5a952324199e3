"""Interpolation and padding; see ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np

from fastdl.arrays import assign
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import OF_ITSELF, Op
from fastdl.dtypes import FLOATING, complex64, complex128, float32, float64, int32, int64, uint8
from fastdl.errors import ArgumentError, not_a_tensor, warn_caller
from fastdl.kernels import on_device, select
from fastdl.ops.adaptive_pool import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from fastdl.ops.arrays import cast, contiguous, filler, full, memory_order
from fastdl.tensor import Tensor

Ints = int | Sequence[int]
Sizes = tuple[int, ...]
Pairs = list[tuple[int, int]]


class Interpolate(Op):
    release = Op.stay
    floats_only = True

    def forward(
        self, x: Any, output: Sizes, scale: tuple[float, ...], mode: str, align_corners: bool, antialias: bool
    ) -> Any:
        self.size = x.shape[2:]
        self.output = output
        self.options = options = (scale, mode, align_corners, antialias)
        return select(x).interpolate_forward(x, output, *options)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).interpolate_backward(grad_y, self.size, *self.options)

    def linear(self, x: Any) -> Any:
        return select(x).interpolate_forward(x, self.output, *self.options)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


class InterpolateNearest(Interpolate):
    """Copies elements: integers stay exact."""

    wide_integers = True


class Repeat(Op):
    """Nearest interpolation by whole factors: average pooling's gradient with divisor 1, and the other way round."""

    floats_only = True
    release = Op.stay
    wide_integers = True

    def forward(self, x: Any, output: Sizes) -> Any:
        self.size = size = x.shape[2:]
        self.factors = tuple([o // n for o, n in zip(output, size, strict=True)])
        self.none = (0,) * len(size)
        return select(x).avg_pool_backward(x, output, self.factors, self.factors, self.none, True, 1)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).avg_pool_forward(
            grad_y, self.factors, self.factors, self.none, self.size, True, 1
        )

    def linear(self, x: Any) -> Any:
        output = tuple([n * f for n, f in zip(self.size, self.factors, strict=True)])
        return select(x).avg_pool_backward(x, output, self.factors, self.factors, self.none, True, 1)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


_BITS = {int64: float64, int32: float32, complex64: float64}


class Pad(Op):
    release = Op.stay

    def forward(self, x: Any, padding: Pairs, mode: str, value: float) -> Any:
        self.size, self.padding, self.mode = x.shape, padding, mode
        if mode in ("reflect", "replicate"):
            self.flat = OF_ITSELF
        # Images (N, H, W, C) stay so, as in PyTorch; what lies in another order becomes C's.
        if x.ndim > 3 and (order := memory_order(x)) == [0, *range(2, x.ndim), 1]:
            y = self.forward(x.transpose(order), [padding[axis] for axis in order], mode, value)
            self.size, self.padding = x.shape, padding
            return y.transpose(np.argsort(order))
        return _padded(x, padding, mode, value)

    def backward(self, grad_y: Any) -> Any:
        if self.mode == "constant":
            opposite = [(-before, -after) for before, after in self.padding]
            return _padded(grad_y, opposite, "constant", 0.0)
        return select(grad_y).pad_backward(grad_y, self.size, self.padding, self.mode)

    def linear(self, x: Any) -> Any:
        return _padded(x, self.padding, self.mode, 0.0)

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


def _padded(x: Any, padding: Pairs, mode: str, value: float) -> Any:
    """By the kernel. Numbers that are not floating-point are only copied: as floats of their width, or by NumPy."""
    if x.dtype.kind in FLOATING:
        return select(x).pad_forward(x, padding, mode, value)
    bits: Any = _BITS.get(x.dtype)
    if bits is not None and (bits is float64 or not value):
        fill = np.asarray(value).astype(x.dtype).view(bits).item()
        return select(x).pad_forward(x.view(bits), padding, mode, fill).view(x.dtype)
    if x.dtype == complex128 and x.size and not value:
        parts = contiguous(x).view(float64).reshape(*x.shape, 2)
        y = select(x).pad_forward(parts, [*padding, (0, 0)], mode, 0.0)
        return y.view(complex128).reshape(y.shape[:-1])
    if mode == "constant":
        value = filler("pad", value, x.dtype)
    if mode == "constant" and not on_device(x):
        return _bordered(x, padding, value)
    if on_device(x):
        return cast(_padded(cast(x, int64), padding, mode, value), x.dtype)
    from fastdl.kernels import reference  # not at import time: it costs as much as all the rest

    return reference.pad_forward(x, padding, mode, value)


def _bordered(x: Any, padding: Pairs, value: float) -> Any:
    """Padding by one value, which may also cut."""
    extents = [n + before + after for n, (before, after) in zip(x.shape, padding, strict=True)]
    y = full(extents, np.asarray(value).astype(x.dtype)[()], x.dtype, x)
    inside = [
        slice(max(before, 0), m - max(after, 0)) for m, (before, after) in zip(extents, padding, strict=True)
    ]
    part = [
        slice(max(-before, 0), n - max(-after, 0))
        for n, (before, after) in zip(x.shape, padding, strict=True)
    ]
    assign(y[tuple(inside)], x[tuple(part)])
    return y


def data(x: Any, op: str) -> Any:
    if not isinstance(x, Tensor):
        raise not_a_tensor(op, "input", x)
    return x._data


_MODES = {  # of each rank, with the kernel's name for it
    "nearest": ((3, 4, 5), "nearest"),
    "nearest-exact": ((3, 4, 5), "nearest-exact"),
    "area": ((3, 4, 5), "area"),
    "linear": ((3,), "linear"),
    "bilinear": ((4,), "linear"),
    "trilinear": ((5,), "linear"),
    "bicubic": ((4,), "cubic"),
    "lanczos": ((4,), "lanczos"),
}
_AREA = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


@lru_cache(maxsize=1024)
def _output_and_scale(
    shape: Sizes, size: Any, scale_factor: Any, recompute: bool
) -> tuple[Sizes, tuple[float, ...]]:
    """The spatial output size, and outputs per input where they count (0: the sizes say it)."""
    rank = len(shape) - 2
    if size is not None and scale_factor is not None:
        raise ArgumentError("interpolate: only one of size and scale_factor may be given")
    if size is not None:
        if recompute:
            raise ArgumentError("interpolate: recompute_scale_factor goes with scale_factor, not with size")
        sizes = size if isinstance(size, tuple) else (size,) * rank
        if len(sizes) != rank:
            raise ArgumentError(
                f"interpolate: size must have one number for each spatial axis of the input {shape}, got {size}"
            )
        try:
            output = tuple([index(s) for s in sizes])
        except TypeError:
            raise TypeError(f"interpolate: size must be an int or a tuple of ints, got {size}") from None
        scales = (0.0,) * rank
    elif scale_factor is not None:
        factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor,) * rank
        if len(factors) != rank:
            raise ArgumentError(
                f"interpolate: scale_factor must have one number for each spatial axis of the input {shape}, "
                f"got {scale_factor}"
            )
        scales = tuple([float(f) for f in factors])
        if not all(0 < f < float("inf") for f in scales):
            raise ArgumentError(f"interpolate: scale_factor must be positive and finite, got {scale_factor}")
        output = tuple([int(n * f) for n, f in zip(shape[2:], scales, strict=True)])
        if recompute:
            scales = (0.0,) * rank
    else:
        raise ArgumentError("interpolate: either size or scale_factor must be given")
    if 0 in shape[1:] or min(output) <= 0:
        raise ArgumentError(
            f"interpolate: input and output sizes must be positive, got input {shape} and spatial output {output}"
        )
    return output, scales


def interpolate(
    input: Tensor,
    size: Ints | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resample to another spatial size; see ``torch.nn.functional.interpolate``.

    Args:
        input: (N, C, L), (N, C, H, W) or (N, C, D, H, W), floating-point, or uint8: rounded to the nearest.
        size: spatial output size, one int or one for each axis.
        scale_factor: output size over input size, instead of ``size``; rounded down.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"area"``, ``"linear"`` (3-D), ``"bilinear"``, ``"bicubic"``,
            ``"lanczos"`` (4-D), ``"trilinear"`` (5-D).
        align_corners: for the linear modes and bicubic: the centers of the corner pixels stay where they are, not
            the image's edges.
        recompute_scale_factor: derive the scale from the rounded sizes.
        antialias: widen the filter when shrinking; for bilinear, bicubic and lanczos.

    Raises:
        ValueError: for sizes that are not positive, or options that do not go together.
        NotImplementedError: for a mode that the input's number of axes does not have.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.interpolate(fastdl.tensor([[[1.0, 3.0]]]), scale_factor=2, mode="linear")
        tensor([[[1.0000, 1.5000, 2.5000, 3.0000]]])
    """
    shape = data(input, "interpolate").shape
    if mode not in _MODES:
        raise NotImplementedError(f"interpolate: mode must be one of {', '.join(_MODES)}, got {mode!r}")
    ranks, kernel_mode = _MODES[mode]
    if len(shape) not in ranks:
        expected = " or ".join(f"{r}-D" for r in ranks)
        raise NotImplementedError(f"interpolate: mode {mode!r} needs a {expected} input, got shape {shape}")
    if align_corners is not None and kernel_mode in ("nearest", "nearest-exact", "area"):
        raise ArgumentError(f"interpolate: align_corners does not go with mode {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic", "lanczos"):
        raise ArgumentError("interpolate: antialias goes with bilinear, bicubic and lanczos of 4-D input")
    if mode == "lanczos" and (align_corners or not antialias):
        raise ArgumentError("interpolate: lanczos needs antialias=True and align_corners=False")
    output, scale = _output_and_scale(
        shape,
        tuple(size) if isinstance(size, list) else size,
        tuple(scale_factor) if isinstance(scale_factor, list) else scale_factor,
        bool(recompute_scale_factor),
    )
    if mode == "area":
        return _AREA[len(output)](input, output)
    if mode == "nearest" and len(output) == 2:
        # In two dimensions an axis that keeps or doubles its size does so exactly, whatever the factor (as in torch).
        scale = tuple(
            [0.0 if o in (n, 2 * n) else s for n, o, s in zip(shape[2:], output, scale, strict=True)]
        )
    if mode.startswith("nearest") and all(
        [o % n == 0 and s in (0.0, o // n) for n, o, s in zip(shape[2:], output, scale, strict=True)]
    ):
        return Repeat.apply(input, output=output)  # type: ignore[no-any-return]
    node = InterpolateNearest if mode.startswith("nearest") else Interpolate
    if node is Interpolate and input.dtype == uint8:
        return _of_bytes(input, output, scale, kernel_mode, bool(align_corners), bool(antialias))
    return node.apply(  # type: ignore[no-any-return]
        input,
        output=output,
        scale=scale,
        mode=kernel_mode,
        align_corners=bool(align_corners),
        antialias=bool(antialias),
    )


def _of_bytes(
    input: Tensor, output: Ints, scale: Any, mode: str, align_corners: bool, antialias: bool
) -> Tensor:
    """Axis by axis, the last first, rounded to bytes each time."""
    values, sizes = input.to(float32), list(input.shape[2:])
    for axis in reversed(range(len(sizes))):
        sizes[axis] = output[axis]  # type: ignore[index]
        values = Interpolate.apply(
            values,
            output=tuple(sizes),
            scale=tuple([s if i == axis else 0.0 for i, s in enumerate(scale)]),
            mode=mode,
            align_corners=align_corners,
            antialias=antialias,
        )
        values = (values + 0.5).clamp(0, 255).floor()
    return values.to(uint8)


def upsample(
    input: Tensor,
    size: Ints | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Deprecated name of :func:`interpolate`."""
    warn_caller("upsample is deprecated, use interpolate instead")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Deprecated: :func:`interpolate` with ``mode="nearest"``."""
    warn_caller("upsample_nearest is deprecated, use interpolate instead")
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Deprecated: :func:`interpolate` with ``mode="bilinear", align_corners=True``."""
    warn_caller("upsample_bilinear is deprecated, use interpolate instead")
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)


@lru_cache(maxsize=1024)
def _pad_pairs(shape: Sizes, pad: Any, mode: str) -> Pairs:
    """(before, after) of each axis, checked."""
    try:
        amounts = tuple([index(p) for p in pad])
    except TypeError:
        raise TypeError(f"pad: pad must be a sequence of ints, got {pad!r}") from None
    if len(amounts) % 2 or len(amounts) > 2 * len(shape):
        raise ArgumentError(
            f"pad: pad must have two numbers for each padded axis, the last axis first, at most {2 * len(shape)} for "
            f"an input of shape {shape}; got {len(amounts)}"
        )
    axes = len(amounts) // 2
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise NotImplementedError(f"pad: mode must be constant, reflect, replicate or circular, got {mode!r}")
    if mode != "constant" and not (1 <= axes <= 3 and len(shape) - axes in (1, 2)):
        raise NotImplementedError(
            f"pad: mode {mode!r} pads the last 1, 2 or 3 axes behind (N, C) or (C): pad needs "
            f"{2 * (len(shape) - 2)} numbers (or {2 * (len(shape) - 1)} unbatched), got {len(amounts)} for {shape}"
        )
    pairs = [(0, 0)] * (len(shape) - axes) + [
        (amounts[2 * i], amounts[2 * i + 1]) for i in reversed(range(axes))
    ]
    for axis, (n, (before, after)) in enumerate(zip(shape, pairs, strict=True)):
        left = n + min(before, 0) + min(after, 0)
        if mode == "replicate" and left < 1 <= min(n, total := n + before + after):
            # All is cut off but what the edge repeats: that one element stays.
            pairs[axis] = (1 - n, total - 1) if after > 0 else (total - 1, 1 - n)
            continue
        wide = max(before, after)
        if left < 0 or n + before + after < 0:
            raise ArgumentError(
                f"pad: negative padding cuts off more than axis {axis} of {shape} has, got {amounts}"
            )
        if wide <= 0 or mode == "constant":
            continue
        most = {"reflect": n - 1, "circular": left, "replicate": wide if left else 0}[mode]
        if wide > most:
            raise ArgumentError(
                f"pad: mode {mode!r} can pad axis {axis} of an input of shape {shape} by at most {most}, got {amounts}"
            )
    return pairs


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad the last axes; see ``torch.nn.functional.pad``.

    Args:
        input: any shape for ``"constant"``; (N, C, ...) or (C, ...) with one to three spatial axes for other modes.
        pad: (before, after) of the last axis, then of the one before, and so on. Negative numbers cut off.
        mode: ``"constant"``, ``"reflect"`` (without the edge), ``"replicate"`` (the edge) or ``"circular"``.
        value: the constant; default 0.

    Raises:
        ValueError: when more is cut off than there is, or the input is too small to be reflected or wrapped.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.pad(fastdl.tensor([[1.0, 2.0, 3.0]]), (1, 2), mode="reflect")
        tensor([[2., 1., 2., 3., 2., 1.]])
    """
    shape = data(input, "pad").shape
    if mode != "constant" and value:
        raise ArgumentError(f"pad: value goes with mode 'constant', not with {mode!r}")
    pairs = _pad_pairs(shape, tuple(pad), mode)
    return Pad.apply(input, padding=pairs, mode=mode, value=float(value or 0.0))  # type: ignore[no-any-return]

"""Convolution and its transpose, any number of spatial axes.

    y[n, k, o] = bias[k] + sum_{c, r} weight[k, c, r] * x[n, c, o * stride + r * dilation - padding]

Each tap ``r`` of the kernel sees one strided window of the padded input; the convolution is the sum over taps
of a matrix product between channels. The gradients are the same sum read in the other directions, and the
transposed convolution is the gradient with respect to ``x`` taken as a map of its own.

Shapes: x (N, C, *in), weight (K, C / groups, *kernel), bias (K,) or None, y (N, K, *out). For the transposed
convolution weight is (C, K / groups, *kernel). ``stride`` and ``dilation`` have one entry per spatial axis,
``padding`` one (both ends) or two (before, after, before, after, ..).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["conv_backward", "conv_forward", "conv_transpose_backward", "conv_transpose_forward"]

Array = Any  # NumPy arrays, indexed with tuples that are put together here
Ints = Sequence[int]


def _pairs(padding: Ints, axes: int) -> list[tuple[int, int]]:
    if len(padding) == axes:
        return [(p, p) for p in padding]
    return list(zip(padding[::2], padding[1::2], strict=True))


def _windows(kernel: Ints, out: Ints, stride: Ints, dilation: Ints) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Every tap of the kernel with the index of the padded input's elements that it meets."""
    for tap in np.ndindex(*kernel):
        window = [
            slice(r * d, r * d + (o - 1) * s + 1, s) if o else slice(0, 0)
            for r, d, o, s in zip(tap, dilation, out, stride, strict=True)
        ]
        yield tap, (..., *window)


def _matrices(x: Array, groups: int) -> Array:
    """(N, channels, *spatial) as (N, groups, channels / groups, positions)."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, int(np.prod(x.shape[2:])))


def _taps(weight: Array, groups: int) -> Array:
    """(K, C / groups, *kernel) as (groups, K / groups, C / groups, *kernel)."""
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def conv_forward(
    x: Array, weight: Array, bias: Array | None, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Array:
    kernel = weight.shape[2:]
    xp = np.pad(x, [(0, 0), (0, 0), *_pairs(padding, len(kernel))])
    out = tuple(
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(xp.shape[2:], kernel, stride, dilation, strict=True)
    )
    w = _taps(weight, groups)
    y = np.zeros((x.shape[0], weight.shape[0], *out), x.dtype)
    for tap, window in _windows(kernel, out, stride, dilation):
        y += (w[:, :, :, *tap] @ _matrices(xp[window], groups)).reshape(y.shape)
    if bias is not None:
        y += bias.reshape(-1, *[1] * len(kernel))
    return y


def _grad_x(
    grad_y: Array,
    shape: Ints,
    weight: Array,
    stride: Ints,
    pads: list[tuple[int, int]],
    dilation: Ints,
    groups: int,
) -> Array:
    kernel, out = weight.shape[2:], grad_y.shape[2:]
    # As far as the kernel reaches: output_padding, or a stride with a rest, makes it differ from padded x.
    reach = [
        max(low + n + high, (o - 1) * s + d * (k - 1) + 1)
        for (low, high), n, o, s, d, k in zip(pads, shape[2:], out, stride, dilation, kernel, strict=True)
    ]
    gx: Array = np.zeros((*shape[:2], *reach), grad_y.dtype)
    w = _taps(weight, groups).swapaxes(1, 2)
    for tap, window in _windows(kernel, out, stride, dilation):
        view = gx[window]
        view += (w[:, :, :, *tap] @ _matrices(grad_y, groups)).reshape(view.shape)
    return gx[..., *[slice(low, low + n) for (low, _), n in zip(pads, shape[2:], strict=True)]]


def _grad_weight(
    grad_y: Array,
    x: Array,
    shape: Ints,
    stride: Ints,
    pads: list[tuple[int, int]],
    dilation: Ints,
    groups: int,
) -> Array:
    kernel, out = shape[2:], grad_y.shape[2:]
    reach = [
        max(high, (o - 1) * s + d * (k - 1) + 1 - low - n)
        for (low, high), n, o, s, d, k in zip(pads, x.shape[2:], out, stride, dilation, kernel, strict=True)
    ]
    xp = np.pad(
        x, [(0, 0), (0, 0), *[(low, max(high, 0)) for (low, _), high in zip(pads, reach, strict=True)]]
    )
    gw: Array = np.zeros(shape, x.dtype)
    g = _matrices(grad_y, groups)
    for tap, window in _windows(kernel, out, stride, dilation):
        products = g @ _matrices(xp[window], groups).swapaxes(2, 3)  # (N, groups, K / groups, C / groups)
        gw[:, :, *tap] = products.sum(axis=0).reshape(shape[:2])
    return gw


def conv_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    needs: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """(grad_x, grad_weight, grad_bias); None where ``needs`` says so."""
    pads = _pairs(padding, grad_y.ndim - 2)
    return (
        _grad_x(grad_y, x.shape, weight, stride, pads, dilation, groups) if needs[0] else None,
        _grad_weight(grad_y, x, weight.shape, stride, pads, dilation, groups) if needs[1] else None,
        grad_y.sum(axis=(0, *range(2, grad_y.ndim))) if needs[2] else None,
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
    kernel = weight.shape[2:]
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            x.shape[2:], stride, padding, dilation, kernel, output_padding, strict=True
        )
    ]
    shape = (x.shape[0], weight.shape[1] * groups, *out)
    y = _grad_x(x, shape, weight, stride, _pairs(padding, len(kernel)), dilation, groups)
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * len(kernel))
    return y


def conv_transpose_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    needs: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """(grad_x, grad_weight, grad_bias); None where ``needs`` says so."""
    pads = _pairs(padding, x.ndim - 2)
    grad_x = None
    if needs[0]:
        # output_padding at the far end may let the convolution see one position more than x has.
        y = conv_forward(grad_y, weight, None, stride, padding, dilation, groups)
        grad_x = y[..., *[slice(0, n) for n in x.shape[2:]]]
    return (
        grad_x,
        _grad_weight(x, grad_y, weight.shape, stride, pads, dilation, groups) if needs[1] else None,
        grad_y.sum(axis=(0, *range(2, grad_y.ndim))) if needs[2] else None,
    )

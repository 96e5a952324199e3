"""Dropout; see ``torch.nn.functional``.

In training, elements (or whole channels) are set to zero with probability ``p`` and the others scaled by 1 /
(1 - p), so that the mean stays; otherwise the input passes unchanged. Each call takes the next offset of the
default generator: the same seed drops the same elements on every backend, for any number of threads. Nothing
is kept for backward but that offset.
"""

from __future__ import annotations

import math
from typing import Any

from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op
from fastdl.autograd.view import alias, check_writable, write
from fastdl.dtypes import float32, is_half
from fastdl.errors import ArgumentError, not_a_tensor, warn_caller
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import full
from fastdl.random import default_generator
from fastdl.tensor import Tensor


class Dropout(Op):
    """y = x * scale + kept_bias, or dropped_bias with probability p;

    one decision for each run of `length` elements.
    """

    def forward(
        self, x: Any, p: float, scale: float, length: int, kept_bias: float = 0.0, dropped_bias: float = 0.0
    ) -> Any:
        seed, offset = default_generator.draw(on_device(x))
        self.drawn = (p, scale, seed, offset, length)
        return select(x).dropout_forward(x, p, scale, seed, offset, length, kept_bias, dropped_bias)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).dropout_backward(grad_y, *self.drawn)

    linear = backward  # the same elements are kept and scaled

    def backward_graph(self, grad_y: Tensor) -> Any:
        return linear_backward(self, grad_y)


def _apply(
    op: str, input: Tensor, p: float, training: bool, inplace: bool, length: int, alpha: bool = False
) -> Tensor:
    if not 0.0 <= p <= 1.0:
        raise ArgumentError(f"{op}: p, the probability of being dropped, must be between 0 and 1, got {p}")
    if not isinstance(input, Tensor):
        raise not_a_tensor(op, "input", input)
    if not training or p == 0.0:
        return input
    if inplace:
        check_writable(op, input)
        before = alias(input)
    else:
        before = input
    if not alpha:
        result = _dropped(before, length, p=p, scale=1.0 / (1.0 - p) if p < 1.0 else 0.0)
    elif p == 1.0:
        result = _dropped(before, length, p=p, scale=0.0)
    else:
        # Dropped units take SELU's lower limit -v; then mean 0 and variance 1 are restored by a * x + b.
        v = 1.7580993408473766
        a = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * v * v))
        b = a * v * p
        result = _dropped(before, length, p=p, scale=a, kept_bias=b, dropped_bias=b - a * v)
    if inplace:
        return write(op, input, result)
    return result  # type: ignore[no-any-return]


def _dropped(x: Tensor, length: int, **options: float) -> Any:
    dtype = x._data.dtype
    if not is_half(dtype) or on_device(x._data):
        return Dropout.apply(x, length=length, **options)
    # The kernel refuses half precision, and called again with a copy in float32 it would draw once more.
    if length == 1 or "kept_bias" in options:
        return Dropout.apply(x.to(float32), length=length, **options).to(dtype)
    axes = next(d for d in range(x.ndim) if math.prod(x.shape[d:]) == length)  # it decides for channels alone
    ones = Tensor._wrap(full((*x.shape[:axes], *[1] * (x.ndim - axes)), 1, float32, x._data))
    return x * Dropout.apply(ones, length=1, **options).to(dtype)


def _channel_length(input: Tensor, axes: int) -> int:
    """Elements after the first ``axes`` axes: what one channel holds."""
    length = 1
    for extent in input.shape[axes:]:
        length *= extent
    return length


def _at_least_two(op: str, input: Tensor) -> None:
    if input.ndim < 2:
        raise ArgumentError(
            f"{op}: input must have at least two dimensions (N, C, ...), got shape {tuple(input.shape)}"
        )


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop single elements. See ``torch.nn.functional.dropout``.

    Args:
        input: any shape, floating.
        p: probability of an element to be dropped, 0 to 1.
        training: False returns the input itself.
        inplace: store the result in the input.

    Example:
        >>> import fastdl
        >>> y = fastdl.nn.functional.dropout(fastdl.ones(1000), 0.25)
        >>> sorted({round(v, 4) for v in y.tolist()})
        [0.0, 1.3333]
    """
    return _apply("dropout", input, p, training, inplace, 1)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, L) or (C, L). See ``torch.nn.functional.dropout1d``."""
    if input.ndim not in (2, 3):
        raise ArgumentError(f"dropout1d: input must be (N, C, L) or (C, L), got shape {tuple(input.shape)}")
    return _apply("dropout1d", input, p, training, inplace, _channel_length(input, input.ndim - 1))


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, H, W). See ``torch.nn.functional.dropout2d``.

    As in torch the first two axes name a channel whatever the rank: (C, H, W) loses rows, and a warning says
    so.
    """
    if input.ndim != 4:
        _at_least_two("dropout2d", input)
        warn_caller(
            f"dropout2d: expected an input (N, C, H, W), got shape {tuple(input.shape)}; its first "
            "two axes are taken as N and C, so whole rows of the others are dropped"
        )
    return _apply("dropout2d", input, p, training, inplace, _channel_length(input, 2))


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, D, H, W) or (C, D, H, W). See ``torch.nn.functional.dropout3d``."""
    if input.ndim not in (4, 5):
        _at_least_two("dropout3d", input)
        warn_caller(
            f"dropout3d: expected an input (N, C, D, H, W) or (C, D, H, W), got shape {tuple(input.shape)}; "
            "its first axis is taken as C"
        )
    return _apply(
        "dropout3d", input, p, training, inplace, _channel_length(input, 2 if input.ndim == 5 else 1)
    )


def feature_dropout(input: Tensor, p: float = 0.5, train: bool = True) -> Tensor:
    """Drop whole channels of (N, C, ...). See ``torch.feature_dropout``."""
    _at_least_two("feature_dropout", input)
    return _apply("feature_dropout", input, p, train, False, _channel_length(input, 2))


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean 0 and variance 1, for networks with SELU.

    See ``torch.nn.functional.alpha_dropout``.
    """
    return _apply("alpha_dropout", input, p, training, inplace, 1, alpha=True)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """:func:`alpha_dropout` of whole channels of (N, C, ...).

    See ``torch.nn.functional.feature_alpha_dropout``.
    """
    if training and p:
        _at_least_two("feature_alpha_dropout", input)
    return _apply("feature_alpha_dropout", input, p, training, inplace, _channel_length(input, 2), alpha=True)

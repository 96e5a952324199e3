"""Normalisation: batch, layer, RMS, group and instance; see ``torch.nn.functional``.

Inputs are float32 or float64; weight, bias and running statistics have the input's dtype. Means and
variances are taken in float64 whatever the input is, so that a large mean costs no accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from fastdl.autograd.engine import stand_in
from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.dtypes import float32, real_dtype
from fastdl.errors import ArgumentError
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import cast, contiguous
from fastdl.ops.promotion import is_kernel_dtype
from fastdl.tensor import Tensor

Shape = int | Sequence[int]


def _dtypes(*parameters: Any) -> tuple[Any, ...]:
    return tuple([None if p is None else p.dtype for p in parameters])


def _fitted(gradients: Any, x: Any, dtypes: tuple[Any, ...]) -> Any:
    """The input's gradient and the parameters', in their dtypes: beside half precision kernels return float32."""
    if x.dtype.itemsize != 2:
        return gradients
    rest = [g if g is None else cast(g, d) for g, d in zip(gradients[1:], dtypes, strict=True)]
    return (gradients[0], *rest)


class BatchNorm(Op):
    """With the batch's statistics (returned through ``statistics``), or with given ones."""

    saves = (0, 1)
    mixes_dtypes = True

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        eps: float,
        given: Any = None,
        statistics: list[Any] | None = None,
    ) -> Any:
        self.x, self.weight, self.eps = x, weight, eps
        self.dtypes = _dtypes(weight, bias)
        self.training = given is None
        rows = _rows_of_channels(x)
        if given is None:
            y, self.mean, self.var = select(x).batch_norm_forward(
                x if rows is None else rows, weight, bias, eps
            )
            if statistics is not None:
                statistics += (self.mean, self.var)
        else:
            mean, var = given
            if True in self.needs:  # running statistics move on before backward comes
                self.mean, self.var = mean.astype(np.float64), var.astype(np.float64)
                self.given = mean.dtype
            y = select(x).batch_norm_inference(x if rows is None else rows, mean, var, weight, bias, eps)
        if rows is None:
            return y
        y = _from_rows(y, x.shape)
        return contiguous(y) if x.ndim == 3 else y  # as in PyTorch, only images (N, H, W, C) stay so

    def backward(self, grad_y: Any) -> Any:
        x = _rows_of_channels(self.x)
        if x is None:
            x = self.x
        else:
            grad_y = contiguous(_channels_last(grad_y)).reshape(x.shape)
        need_x, *need = self.needs
        of_x: Any = None
        k = select(grad_y)
        if need_x and not self.training:  # a factor for each channel, whatever x is
            mean, var = [a.astype(self.given) for a in (np.zeros_like(self.mean), self.var)]
            of_x = k.batch_norm_inference(grad_y, mean, var, self.weight, None, self.eps)
            need_x = False
        gradients: Any = (None, None, None)
        if need_x or True in need:
            gradients = k.batch_norm_backward(
                grad_y, x, self.weight, self.mean, self.var, self.eps, self.training, need_x, *need
            )
        if of_x is not None:
            gradients = (of_x, *gradients[1:])
        if x is not self.x and gradients[0] is not None:
            gradients = (_from_rows(gradients[0], self.x.shape), *gradients[1:])
        return _fitted(gradients, self.x, self.dtypes)

    def backward_graph(self, grad_y: Tensor) -> Any:
        x = self.x
        per_channel = (1, -1, *[1] * (x.ndim - 2))
        axes = (0, *range(2, x.ndim))

        def composed(x: Any, weight: Any, bias: Any) -> Any:
            if self.training:
                y = _normalised(x, axes, self.eps)
            else:
                mean, var = [
                    Tensor._wrap(a.astype(x.dtype).reshape(per_channel)) for a in (self.mean, self.var)
                ]
                y = (x - mean) * (var + self.eps).rsqrt()
            return _scaled(y, weight, bias, per_channel)

        bias = _bias(self, x, x.shape[1:2], self.dtypes[1])
        return replay(self, grad_y, composed, x, self.weight, bias)


def _channels_last(x: Any) -> Any:
    return x.transpose(0, *range(2, x.ndim), 1)


def _rows_of_channels(x: Any) -> Any:
    """(N * ..., C) of an array (N, C, ...) whose channels lie side by side, as of images (N, H, W, C), else None."""
    if x.flags.c_contiguous or x.ndim < 3:
        return None
    last = _channels_last(x)
    return last.reshape(-1, x.shape[1]) if last.flags.c_contiguous and x.size else None


def _from_rows(rows: Any, shape: tuple[int, ...]) -> Any:
    """The array of ``shape`` (N, C, ...) that :func:`_rows_of_channels` was taken from."""
    last = len(shape) - 1
    return rows.reshape(shape[0], *shape[2:], shape[1]).transpose(0, last, *range(1, last))


def _normalised(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(axes, True)
    return centred * ((centred * centred).mean(axes, True) + eps).rsqrt()


def _scaled(y: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    if weight is not None:
        y = y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _bias(node: Op, x: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A stand-in for the bias, whose values no gradient depends on, if it needs one."""
    return stand_in(shape, dtype, x) if node.needs[2] else None


class LayerNorm(Op):
    saves = (0, 1)
    mixes_dtypes = True

    def forward(self, x: Any, weight: Any, bias: Any, length: int, eps: float) -> Any:
        self.x, self.weight, self.length, self.eps = x, weight, length, eps
        self.dtypes = _dtypes(weight, bias)
        if bias is not None:
            self.bias_shape = bias.shape
        y, self.mean, self.var = select(x).layer_norm_forward(x, weight, bias, length, eps)
        return y

    def backward(self, grad_y: Any) -> Any:
        gradients = select(grad_y).layer_norm_backward(
            grad_y, self.x, self.weight, self.mean, self.var, self.length, self.eps, *self.needs
        )
        grad_x, grad_weight, grad_bias = _fitted(gradients, self.x, self.dtypes)
        if grad_weight is not None:
            grad_weight = grad_weight.reshape(self.weight.shape)
        if grad_bias is not None:
            grad_bias = grad_bias.reshape(self.bias_shape)
        return grad_x, grad_weight, grad_bias

    def backward_graph(self, grad_y: Tensor) -> Any:
        shape = self.x.shape

        def composed(x: Any, weight: Any, bias: Any) -> Any:
            y = _normalised(x.reshape(-1, self.length), (1,), self.eps)
            return _scaled(y, weight, bias, (1, self.length)).reshape(shape)

        bias = _bias(self, self.x, self.bias_shape, self.dtypes[1]) if self.needs[2] else None
        return replay(self, grad_y, composed, self.x, self.weight, bias)


def rms_normalised(x: Any, weight: Any, length: int, eps: float) -> Any:
    """:class:`RMSNorm` composed of other operations; of complex numbers PyTorch takes the square, too, not |x|^2."""
    rows = x.reshape(-1, length)
    y = rows * ((rows * rows).mean(1, True) + eps).rsqrt()
    return _scaled(y, weight, None, (1, length)).reshape(x.shape)


class RMSNorm(Op):
    saves = (0, 1)
    mixes_dtypes = True

    def forward(self, x: Any, weight: Any, length: int, eps: float) -> Any:
        self.x, self.weight, self.length, self.eps = x, weight, length, eps
        self.dtypes = _dtypes(weight)
        y, self.square = select(x).rms_norm_forward(x, weight, length, eps)
        return y

    def backward(self, grad_y: Any) -> Any:
        gradients = select(grad_y).rms_norm_backward(
            grad_y, self.x, self.weight, self.square, self.length, self.eps, *self.needs
        )
        grad_x, grad_weight = _fitted(gradients, self.x, self.dtypes)
        if grad_weight is not None:
            grad_weight = grad_weight.reshape(self.weight.shape)
        return grad_x, grad_weight

    def backward_graph(self, grad_y: Tensor) -> Any:
        def composed(x: Any, weight: Any) -> Any:
            return rms_normalised(x, weight, self.length, self.eps)

        return replay(self, grad_y, composed, self.x, self.weight)


class GroupNorm(Op):
    """Statistics of each group of each sample come back through ``statistics``."""

    floats_only = True

    saves = (0, 1)
    mixes_dtypes = True

    def forward(
        self, x: Any, weight: Any, bias: Any, groups: int, eps: float, statistics: list[Any] | None = None
    ) -> Any:
        self.x, self.weight, self.groups, self.eps = x, weight, groups, eps
        k = select(x)
        if self.rows():
            length = x.shape[1] // groups
            y, self.mean, self.var = k.layer_norm_forward(x.reshape(-1, length), None, None, length, eps)
            y = y.reshape(x.shape[:2])
            if weight is not None:
                k.mul_forward(y, weight, y)
            if bias is not None:
                k.add_forward(y, bias, y)
            y = y.reshape(x.shape)
        else:
            y, self.mean, self.var = k.group_norm_forward(x, weight, bias, groups, eps)
        if statistics is not None:
            statistics += (self.mean, self.var)
        return y

    def rows(self) -> bool:
        """Is there one number of each channel, so that groups are rows to normalise, and enough to be worth it?"""
        x = self.x
        return x.size == x.shape[0] * x.shape[1] > 256 and x.shape[1] > self.groups and not on_device(x)

    def rows_backward(self, grad_y: Any) -> Any:
        k, x, length = select(grad_y), self.x, self.x.shape[1] // self.groups
        grad = grad_y.reshape(x.shape[:2])
        rows, grad_x, grad_weight, grad_bias = x.reshape(-1, length), None, None, None
        if self.needs[0]:
            own = grad if self.weight is None else k.mul_forward(grad, self.weight)
            given = own.reshape(-1, length), rows, None, self.mean, self.var, length, self.eps
            grad_x = k.layer_norm_backward(*given, True, False, False)[0].reshape(x.shape)
        if self.needs[1]:
            h = k.layer_norm_forward(rows, None, None, length, self.eps)[0].reshape(grad.shape)
            grad_weight = k.sum_product_to(grad, h, grad.shape[1:])
        if self.needs[2]:
            grad_bias = k.sum_forward(grad, (0,), False)
        return grad_x, grad_weight, grad_bias

    def backward(self, grad_y: Any) -> Any:
        if self.rows():
            return self.rows_backward(grad_y)
        return select(grad_y).group_norm_backward(
            grad_y, self.x, self.weight, self.mean, self.var, self.groups, self.eps, *self.needs
        )

    def backward_graph(self, grad_y: Tensor) -> Any:
        x = self.x
        per_channel = (1, -1, *[1] * (x.ndim - 2))

        def composed(x: Any, weight: Any, bias: Any) -> Any:
            groups = x.reshape(x.shape[0] * self.groups, math.prod(x.shape[1:]) // self.groups)
            return _scaled(_normalised(groups, (1,), self.eps).reshape(x.shape), weight, bias, per_channel)

        return replay(self, grad_y, composed, x, self.weight, _bias(self, x, x.shape[1:2], x.dtype))


def _check_channels(op: str, input: Tensor, names: str, *vectors: Tensor | None) -> int:
    """The number of channels (axis 1), after a look at what should have one element for each."""
    shape = input._data.shape
    if len(shape) < 2:
        raise ArgumentError(f"{op}: input must be (N, C, ...), got shape {shape}")
    channels = shape[1:2]
    for i, vector in enumerate(vectors):
        if vector is not None and vector._data.shape != channels:
            raise ArgumentError(
                f"{op}: {names.split()[i]} must have one element for each of the {channels[0]} channels (axis 1) of "
                f"the input {shape}, got shape {vector._data.shape}"
            )
    return shape[1]  # type: ignore[no-any-return]


_NAMES = "running_mean running_var weight bias"


def _update(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Any,
    var: Any,
    momentum: float,
    count: int,
    batches: Tensor | None = None,
) -> None:
    """Move running statistics towards a batch's, in their own memory and outside the graph, and count the batch.

    Var is of ``count`` values, and biased.
    """
    running: list[Any] = [None if t is None else t._data for t in (running_mean, running_var)]
    kept = running
    if on_device(mean):
        if any([r is not None and not r.flags.c_contiguous for r in running]):
            kept = [None if r is None else r.copy() for r in running]
    elif any([r is not None and not is_kernel_dtype(r.dtype) for r in running]):
        kept = [None if r is None else cast(r, float32) for r in running]  # half precision
    select(mean).update_running(
        *kept, mean, var, momentum, count / (count - 1), None if batches is None else batches._data
    )
    for tensor, wide in zip((running_mean, running_var), kept, strict=True):
        if tensor is not None:
            if wide is not tensor._data:
                np.copyto(tensor._data, wide, casting="unsafe")
            tensor._bump_version()


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel. See ``torch.nn.functional.batch_norm``.

    Args:
        input: (N, C, ...).
        running_mean, running_var: (C,) or None. In training they are moved towards the batch's mean and
            unbiased variance; otherwise they are what the input is normalised with.
        weight, bias: (C,) or None for 1 and 0.
        training: use the batch's own statistics (biased variance).
        momentum: how far running statistics move.
        eps: added to the variance.

    Raises:
        ValueError: for shapes that do not fit, and in training for a single value per channel.
    """
    return counted_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps, None)


def counted_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    batches: Tensor | None,
) -> Tensor:
    """:func:`batch_norm`, which counts up ``batches`` where it moves the running statistics."""
    if eps < 0 or (training and eps == 0):
        raise ArgumentError(f"batch_norm: eps must be positive (0 is allowed in evaluation), got {eps}")
    channels = _check_channels("batch_norm", input, _NAMES, running_mean, running_var, weight, bias)
    if not training:
        if running_mean is None or running_var is None:
            raise ArgumentError(
                "batch_norm: running_mean and running_var must be given when training is False"
            )
        given = running_mean._data, running_var._data
        return BatchNorm.apply(input, weight, bias, eps=eps, given=given)  # type: ignore[no-any-return]
    size = input._data.size
    count = size // channels if channels else 0
    if count == 1:
        raise ArgumentError(
            "batch_norm: Expected more than 1 value per channel when training, got input size "
            f"{tuple(input.shape)}"
        )
    if (running_mean is None and running_var is None) or size == 0:
        if batches is not None:
            np.add(batches._data, 1, out=batches._data)
        return BatchNorm.apply(input, weight, bias, eps=eps)  # type: ignore[no-any-return]
    statistics: list[Any] = []
    y = BatchNorm.apply(input, weight, bias, eps=eps, statistics=statistics)
    mean, var = statistics
    _update(running_mean, running_var, mean, var, momentum, count, batches)
    return y  # type: ignore[no-any-return]


def _row_length(op: str, input: Tensor, normalized_shape: Shape, *vectors: Tensor | None) -> int:
    """The number of elements in one row of ``normalized_shape``, checked against the input's last axes."""
    if normalized_shape.__class__ is not tuple:
        try:
            normalized_shape = (index(normalized_shape),)  # type: ignore[arg-type]
        except TypeError:
            normalized_shape = tuple([index(n) for n in normalized_shape])  # type: ignore[union-attr]
    wanted: tuple[int, ...] = normalized_shape
    if not wanted:
        raise ArgumentError(f"{op}: normalized_shape must name at least one axis, got ()")
    shape = input._data.shape
    if shape[-len(wanted) :] != wanted:
        raise ArgumentError(
            f"{op}: the last axes of the input must be normalized_shape={wanted}, got an input of shape {shape}"
        )
    for i, vector in enumerate(vectors):
        if vector is not None and vector._data.shape != wanted:
            raise ArgumentError(
                f"{op}: {('weight', 'bias')[i]} must have shape normalized_shape={wanted}, got {vector._data.shape}"
            )
    return wanted[0] if len(wanted) == 1 else math.prod(wanted)


def layer_norm(
    input: Tensor,
    normalized_shape: Shape,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes. See
    ``torch.nn.functional.layer_norm``.

    Args:
        input: (*, *normalized_shape).
        normalized_shape: the last axes, over which mean and (biased) variance are taken.
        weight, bias: of shape normalized_shape, or None for 1 and 0.
        eps: added to the variance.
    """
    length = _row_length("layer_norm", input, normalized_shape, weight, bias)
    if length == 0:
        return input.clone()
    return LayerNorm.apply(input, weight, bias, length=length, eps=eps)  # type: ignore[no-any-return]


def rms_norm(
    input: Tensor, normalized_shape: Shape, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes. See ``torch.nn.functional.rms_norm``.

    Args:
        input: (*, *normalized_shape).
        normalized_shape: the last axes, over which the mean is taken.
        weight: of shape normalized_shape, or None for 1.
        eps: added to the mean; None: the dtype's machine epsilon.
    """
    length = _row_length("rms_norm", input, normalized_shape, weight)
    if length == 0:
        return input.clone()
    if eps is None:
        eps = 2.0**-52 if real_dtype(input._data.dtype).itemsize == 8 else 2.0**-23
    return RMSNorm.apply(input, weight, length=length, eps=eps)  # type: ignore[no-any-return]


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each group of channels of each sample. See ``torch.nn.functional.group_norm``.

    Args:
        input: (N, C, ...).
        num_groups: how many groups the channels form; divides C.
        weight, bias: (C,) or None for 1 and 0.
        eps: added to the variance.
    """
    channels = _check_channels("group_norm", input, "weight bias", weight, bias)
    if num_groups < 1 or channels % num_groups:
        raise ArgumentError(
            f"group_norm: num_groups must divide the number of channels, got num_groups={num_groups} for "
            f"an input of shape {tuple(input.shape)}"
        )
    if input._data.size == num_groups:
        raise ArgumentError(
            "group_norm: Expected more than 1 value per channel when training, got input size "
            f"{tuple(input.shape)} in {num_groups} groups"
        )
    return GroupNorm.apply(input, weight, bias, groups=num_groups, eps=eps)  # type: ignore[no-any-return]


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample by itself. See ``torch.nn.functional.instance_norm``.

    Args:
        input: (N, C, ...) with at least one axis after the channels.
        running_mean, running_var: (C,) or None; moved towards the samples' average mean and unbiased
            variance when ``use_input_stats``, used instead of them otherwise.
        weight, bias: (C,) or None for 1 and 0.
        use_input_stats: whether each sample's own statistics are used.
        momentum: how far running statistics move.
        eps: added to the variance.
    """
    channels = _check_channels("instance_norm", input, _NAMES, running_mean, running_var, weight, bias)
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ArgumentError(
                "instance_norm: running_mean and running_var must be given when use_input_stats is False"
            )
        given = running_mean._data, running_var._data
        return BatchNorm.apply(input, weight, bias, eps=eps, given=given)  # type: ignore[no-any-return]
    count = math.prod(input.shape[2:])
    if count == 1:
        raise ArgumentError(
            "instance_norm: Expected more than 1 spatial element when training, got input size "
            f"{tuple(input.shape)}"
        )
    if channels == 0:
        return input.clone()
    if (running_mean is None and running_var is None) or input._data.size == 0:
        return GroupNorm.apply(input, weight, bias, groups=channels, eps=eps)  # type: ignore[no-any-return]
    statistics: list[Any] = []
    y = GroupNorm.apply(input, weight, bias, groups=channels, eps=eps, statistics=statistics)
    mean, var = statistics
    _update(running_mean, running_var, mean.mean(0), var.mean(0), momentum, count)
    return y  # type: ignore[no-any-return]

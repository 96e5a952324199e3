"""Rules for layers and losses (see rules.py): the slices become more images, more groups of channels, more rows."""

from __future__ import annotations

from math import prod
from typing import Any

from fastdl.batched.rules import Refused, Rule
from fastdl.batched.tensor import aligned, everywhere, made, size_at, sliced_in, values_at
from fastdl.kernels.batched import NotAtOnce
from fastdl.ops import adaptive_pool, binary_cross_entropy, conv, grid, norm, pool, resample, unfold
from fastdl.ops import cross_entropy as classes
from fastdl.ops import pointwise_loss as pointwise
from fastdl.ops.attention import Attention
from fastdl.ops.indexing import getitem
from fastdl.tensor import Tensor

Inputs = tuple[Tensor | None, ...]


def _folded(x: Any) -> Any:
    """Slices of batches as one batch."""
    return x.reshape(-1, *x._data.shape[2:])


def _unfolded(x: Any, size: int) -> Any:
    return x.reshape(size, -1, *x._data.shape[1:])


def more_images(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Layers on a batch, (N, C, ...), without parameters."""
    if sliced_in(options):
        raise Refused
    size = size_at(level, inputs)
    y = cls.apply(*[_folded(everywhere(level, size, t)) for t in inputs], **options)
    return made(
        level, tuple([_unfolded(part, size) for part in y]) if isinstance(y, tuple) else _unfolded(y, size)
    )


def planes(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Layers on planes, whatever stands before them."""
    x = values_at(level, inputs[0])
    if len(inputs) != 1 or sliced_in(options):
        raise Refused
    axes = len(options["plan"].kernel if "plan" in options else options["output"])
    shape = x._data.shape
    before = shape[: len(shape) - axes]
    y = cls.apply(x.reshape(-1, 1, *shape[len(before) :]), **options)
    parts = [p.reshape(*before, *p._data.shape[2:]) for p in (y if isinstance(y, tuple) else (y,))]
    return made(level, tuple(parts) if isinstance(y, tuple) else parts[0])


def padding(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Padding, of which there is a pair for every axis."""
    return made(
        level, cls.apply(values_at(level, inputs[0]), **{**options, "padding": [(0, 0), *options["padding"]]})
    )


def convolution(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """More images where the weights are the same for all slices, else more groups of channels."""
    x, weight, bias = inputs
    assert x is not None
    assert weight is not None
    weights = values_at(level, weight)
    size = size_at(level, inputs)
    if not options["batched"]:
        one = cls.apply(x.unsqueeze(0), weight, bias, **{**options, "batched": True})
        return one.squeeze(0)
    if weights is None:
        images = values_at(level, x)
        if bias is not None and values_at(level, bias) is not None:
            y = cls.apply(x, weight, None, **options)
            return y + bias.reshape(-1, *(1,) * (weight._data.ndim - 2))
        if images is None:
            raise Refused
        return made(level, _unfolded(cls.apply(_folded(images), weight, bias, **options), size))
    images = everywhere(level, size, x)  # (slices, N, C, ...) -> (N, slices * C, ...)
    shape = images._data.shape
    if shape[1] == 1:
        side_by_side = images.reshape(1, size * shape[2], *shape[3:])
    else:
        side_by_side = images.transpose(0, 1).reshape(shape[1], size * shape[2], *shape[3:])
    if bias is not None:
        bias = everywhere(level, size, bias).reshape(-1)
    *geometry, groups = options["options"]
    y = cls.apply(side_by_side, _folded(weights), bias, **{**options, "options": (*geometry, groups * size)})
    out = y._data.shape
    return made(level, y.reshape(out[0], size, out[1] // size, *out[2:]).transpose(0, 1))


def _scaled(y: Any, weight: Any, bias: Any, axes: int) -> Any:
    """y * weight + bias, of which there is one for each entry along the first of the last ``axes`` axes."""
    if weight is not None:
        y = y * weight.reshape(*weight._data.shape, *(1,) * (axes - weight._data.ndim))
    if bias is not None:
        y = y + bias.reshape(*bias._data.shape, *(1,) * (axes - bias._data.ndim))
    return y


def layer_norm(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Normalisation over the last axes."""
    x, *parameters = inputs
    assert x is not None
    here = values_at(level, x)
    if here is None:
        raise Refused
    if all([p is None or values_at(level, p) is None for p in parameters]):
        return made(level, cls.apply(here, *parameters, **options))
    y = made(level, cls.apply(here, *[None] * len(parameters), **options))
    weight, bias = (*parameters, None)[:2]
    return _scaled(y, weight, bias, 0)


def group_norm(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Normalisation of groups of channels of every image."""
    x, weight, bias = inputs
    assert x is not None
    here = values_at(level, x)
    if here is None or options.get("statistics") is not None:
        raise NotAtOnce("vmap: running statistics follow the slices one by one")
    shared = all([p is None or values_at(level, p) is None for p in (weight, bias)])
    parameters = (weight, bias) if shared else (None, None)
    y = made(level, _unfolded(cls.apply(_folded(here), *parameters, **options), here._data.shape[0]))
    return y if shared else _scaled(y, weight, bias, x._data.ndim - 1)


def batch_norm(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Normalisation of channels over a batch: the slices' channels are channels of their own."""
    x, weight, bias = inputs
    assert x is not None
    if options.get("statistics") is not None or sliced_in(options):
        raise NotAtOnce("vmap: running statistics follow the slices one by one")
    if options.get("given") is not None:  # every element by itself
        shared = all([p is None or values_at(level, p) is None for p in (weight, bias)])
        here = values_at(level, x)
        if not shared or here is None:
            raise Refused
        return made(level, _unfolded(cls.apply(_folded(here), weight, bias, **options), here._data.shape[0]))
    size = size_at(level, inputs)
    here = everywhere(level, size, x).transpose(0, 1)
    n, _, channels, *rest = here._data.shape
    parameters = [None if p is None else everywhere(level, size, p).reshape(-1) for p in (weight, bias)]
    y = cls.apply(here.reshape(n, size * channels, *rest), *parameters, **options)
    return made(level, y.reshape(n, size, channels, *rest).transpose(0, 1))


def attention(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """Slices of (N, heads, length, size) are a larger N."""
    query, key, value, mask = inputs
    if sliced_in(options):
        raise Refused
    assert query is not None
    size, batch = size_at(level, inputs), query._data.shape[0]
    given = [_folded(everywhere(level, size, t)) for t in (query, key, value)]
    if mask is not None and (values_at(level, mask) is not None or (mask._data.ndim == 4 and batch > 1)):
        whole = aligned(level, made(level, everywhere(level, size, mask)), 4)
        mask = _folded(whole.expand(size, batch, *whole._data.shape[2:]))
    return made(level, _unfolded(cls.apply(*given, mask, **options), size))


# ------------------------------------------------------------------------------------------------------ losses


def _reduced(losses: Any, reduction: str, totals: Any = None) -> Any:
    """All losses, their sums, or means over the slices' own weights (None: all 1)."""
    if reduction == "none":
        return losses
    size, *shape = losses._data.shape
    rows = losses.reshape(size, prod(shape))
    if reduction == "mean" and totals is None:
        return rows.mean(1)
    return rows.sum(1) if reduction == "sum" else rows.sum(1) / totals


def pointwise_loss(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """A loss for every element. The reduction is an option, or the last of several."""
    given = [t for t in inputs if t is not None]
    shapes = {t._data.shape for t in given[:2]}
    if sliced_in(options) or len(shapes) > 1 or len({t._data.dtype for t in given}) > 1:
        raise Refused
    size, ndim = size_at(level, inputs), given[0]._data.ndim
    full = [
        None if t is None else (everywhere(level, size, t) if i < 2 else aligned(level, t, ndim))
        for i, t in enumerate(inputs)
    ]
    if "options" in options:
        *others, reduction = options["options"]
        losses = cls.apply(*full, options=(*others, "none"))
    else:
        reduction = options["reduction"]
        losses = cls.apply(*full, **{**options, "reduction": "none"})
    if reduction not in ("none", "sum", "mean"):
        raise Refused
    return made(level, _reduced(losses, reduction))


def class_loss(level: int, cls: Any, inputs: Inputs, options: dict[str, Any]) -> Any:
    """A loss for every row of scores: more rows. Means are over the classes' weights, without ignored targets."""
    x, target, weight = inputs
    assert x is not None
    assert target is not None
    if sliced_in(options) or (weight is not None and values_at(level, weight) is not None):
        raise Refused
    size, single = size_at(level, inputs), x._data.ndim == 1
    scores, targets = everywhere(level, size, x), everywhere(level, size, target)
    reduction = options["reduction"]
    rows, wanted = (scores, targets) if single else (_folded(scores), _folded(targets))
    losses = cls.apply(rows, wanted, weight, **{**options, "reduction": "none"})
    losses = losses if single else _unfolded(losses, size)
    totals = None
    if reduction == "mean" and "ignore_index" in options:
        counted = targets != options["ignore_index"]
        weights: Any = counted.to(rows._data.dtype)
        if weight is not None:
            weights = weights * getitem(weight, targets.masked_fill(~counted, 0))
        totals = weights if single else weights.reshape(size, -1).sum(1)
    return made(level, _reduced(losses, reduction, totals))


LAYERS: dict[Any, Rule] = {
    **dict.fromkeys((conv.Conv, conv.ConvTranspose), convolution),
    **dict.fromkeys((pool.MaxPool, pool.AvgPool, pool.LpPool, resample.Interpolate), planes),
    **dict.fromkeys((adaptive_pool.AdaptiveAvgPool, adaptive_pool.AdaptiveMaxPool), planes),
    **dict.fromkeys((unfold.Unfold, unfold.Fold, unfold.ChannelShuffle, grid.GridSample), more_images),
    **dict.fromkeys((pointwise.PointwiseLoss, binary_cross_entropy.BinaryCrossEntropy), pointwise_loss),
    binary_cross_entropy.BinaryCrossEntropyWithLogits: pointwise_loss,
    **dict.fromkeys((classes.CrossEntropy, classes.CrossEntropyProbabilities, classes.NllLoss), class_loss),
    resample.Pad: padding,
    **dict.fromkeys((norm.LayerNorm, norm.RMSNorm), layer_norm),
    norm.GroupNorm: group_norm,
    norm.BatchNorm: batch_norm,
    Attention: attention,
}

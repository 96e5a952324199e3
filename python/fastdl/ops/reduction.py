"""What losses share: the names of reductions, how losses per item become one number, checks of targets and weights."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError, warn_caller
from fastdl.kernels import array, select
from fastdl.ops.cast import cast, to
from fastdl.ops.promotion import promote_types
from fastdl.tensor import Tensor

REDUCTIONS = frozenset(("none", "mean", "sum"))


def check_reduction(op: str, size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction to apply. ``size_average`` and ``reduce`` are PyTorch's older names for the choice."""
    if size_average is not None or reduce is not None:
        if isinstance(size_average, Tensor) or isinstance(reduce, Tensor):
            raise TypeError(
                f"{op}: size_average and reduce must be bools, got a Tensor; a loss that is a layer is made first, "
                f"then called: nn.MSELoss()(input, target)"
            )
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
        warn_caller(f"{op}: size_average and reduce are deprecated; use reduction='{reduction}'")
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"{op}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    return reduction


def reduce_losses(losses: Any, reduction: str) -> Any:
    """Losses of items, as asked for, by the kernels of sums and means."""
    if reduction == "none":
        return losses
    losses = array(losses)
    kernels = select(losses)
    return (kernels.sum_forward if reduction == "sum" else kernels.mean_forward)(losses, None, False)


def kept(node: Op, *arrays: Any) -> tuple[Any, ...]:
    """Copies of what backward will need, if it comes: as in PyTorch, the inputs may be changed in place before it."""
    return tuple([pooled_copy(a) for a in arrays]) if True in node.needs else arrays


def upstream(grad_loss: Any, losses: tuple[int, ...], reduction: str) -> Any:
    """The gradient of every item's loss, from that of the result of :func:`reduce_losses`."""
    if reduction == "none":
        return grad_loss
    if reduction == "mean":
        grad_loss = grad_loss / grad_loss.dtype.type(max(1, int(np.prod(losses))))
    return np.broadcast_to(array(grad_loss), losses)


def upstream_graph(grad_loss: Any, losses: tuple[int, ...], reduction: str) -> Any:
    """:func:`upstream` of a tensor, in operations."""
    if reduction == "mean":
        grad_loss = grad_loss * (1.0 / max(1, int(np.prod(losses))))
    return grad_loss if reduction == "none" else grad_loss.expand(losses)


def reduce_graph(losses: Any, reduction: str) -> Any:
    """:func:`reduce_losses` of a tensor, in operations."""
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def promoted(*tensors: Tensor) -> Any:
    """The tensors, those of floating-point numbers in the dtype that all of them can be converted to.

    Numbers (tensors without dimensions) beside others do not count; autocast chooses by itself.
    """
    first = tensors[0]._data.dtype
    for t in tensors:
        if t._data.dtype is not first:
            break
    else:
        return tensors
    floats = [t._data for t in tensors if t._data.dtype.kind in FLOATING]
    kinds = {a.dtype for a in floats}
    if len(kinds) < 2 or mode.autocast is not None:
        return tensors
    dtype = functools.reduce(promote_types, {a.dtype for a in floats if a.ndim} or kinds)
    return tuple([to(t, dtype) if t._data.dtype.kind in FLOATING else t for t in tensors])


def same_dtype(op: str, name: str, tensor: Tensor | None, like: Tensor) -> None:
    if tensor is not None and tensor._data.dtype != like._data.dtype and mode.autocast is None:
        raise DtypeError(
            f"{op}: {name} must have input's dtype {like._data.dtype}, got {tensor._data.dtype}. "
            f"Use {name}.to(input.dtype)"
        )


def matching_target(
    op: str, input: Tensor, target: Tensor, convert: bool = False, warn: bool = False
) -> Tensor:
    """The target, of input's dtype and of a shape that broadcasts with it."""
    x, t = input._data, target._data
    if x.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: input must be float32 or float64, got {x.dtype}")
    if t.dtype != x.dtype:
        if not (convert and t.dtype.kind in "biu"):
            same_dtype(op, "target", target, input)
        target = cast(target, x.dtype)
    if x.shape != t.shape:
        try:
            np.broadcast_shapes(x.shape, t.shape)
        except ValueError:
            raise ArgumentError(
                f"{op}: input of shape {x.shape} and target of shape {t.shape} do not broadcast"
            ) from None
        if warn:
            warn_caller(
                f"{op}: target of shape {t.shape} is broadcast against input of shape {x.shape}; if that is "
                "not meant, make their shapes equal"
            )
    return target


def is_learned(weight: Tensor | None) -> bool:
    """Is a gradient wanted of this weight?"""
    return weight is not None and weight._requires_grad and mode.enabled


def refuse_learned(op: str, name: str, weight: Tensor | None) -> None:
    """Refuse a weight whose gradient is wanted but not computed."""
    if is_learned(weight):
        raise RuntimeError(
            f"{op}: is not differentiable by {name}, which must not require a gradient; pass {name}.detach(), or "
            "multiply the losses of reduction='none' by it"
        )


def spread_weight(op: str, name: str, weight: Tensor | None, input: Tensor) -> Tensor | None:
    """A weight whose shape ends input's shape (read as it is) or broadcasts to it (spread out)."""
    if weight is None:
        return None
    refuse_learned(op, name, weight)
    same_dtype(op, name, weight, input)
    w, x = weight._data, input._data
    if w.shape == x.shape[x.ndim - w.ndim :] and w.ndim <= x.ndim:
        return weight
    try:
        fits = np.broadcast_shapes(w.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentError(f"{op}: {name} of shape {w.shape} must broadcast to input's shape {x.shape}")
    return Tensor._wrap(np.broadcast_to(w, x.shape))

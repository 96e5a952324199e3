"""The ``dim`` and ``keepdim`` arguments of reductions."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as to_int
from typing import Any

import numpy as np


def check_flag(op: str, name: str, value: Any) -> None:
    """A TypeError unless ``value`` is a bool: ``x.sum(0, 1)`` names one axis, not two."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{op}: {name} must be a bool, got {value!r}; several dims are given as one tuple")


def one_by_one(op: str, name: str, listed: tuple[Any, ...], value: Any) -> Any:
    """Dims or sizes that came one by one, as one tuple or by name."""
    if not listed:
        return value
    if value is not None:
        raise TypeError(f"{op}: got {name} twice, {listed} and {value}")
    return listed[0] if len(listed) == 1 else listed


def normal_axis(op: str, dim: Any, ndim: int, keepdim: Any = False) -> int:
    """One dim, counted from the front; an IndexError outside the range. A 0-dim tensor has one axis here."""
    if keepdim is not False and keepdim is not True:
        check_flag(op, "keepdim", keepdim)
    try:
        axis = to_int(dim)
    except TypeError:
        raise TypeError(f"{op}: dim must be an integer, got {dim!r}") from None
    span = ndim or 1
    if not -span <= axis < span:
        raise IndexError(
            f"{op}: dim {axis} is out of range for a tensor of {ndim} dimensions; it must be in "
            f"[{-span}, {span - 1}]"
        )
    return axis + span if axis < 0 else axis


def normal_axes(op: str, dim: Any, ndim: int, keepdim: Any = False) -> tuple[int, ...] | None:
    """Dims counted from the front, or None for all of them (as an empty tuple means, too)."""
    if keepdim is not False and keepdim is not True:
        check_flag(op, "keepdim", keepdim)
    if dim is None:
        return None
    if ndim == 0:
        for one in dim if isinstance(dim, Sequence) else (dim,):
            normal_axis(op, one, 0)
        return None
    if isinstance(dim, (tuple, list)):
        if not dim:
            return None
        axes = tuple([normal_axis(op, one, ndim) for one in dim])
        if len(set(axes)) != len(axes):
            raise RuntimeError(f"{op}: dim {tuple(dim)} names an axis twice")
        return axes
    return (normal_axis(op, dim, ndim),)


def numpy_names(op: str, names: dict[str, Any], dim: Any, keepdim: Any = False) -> tuple[Any, Any]:
    """``dim`` and ``keepdim`` where they were given by NumPy's names, ``axis`` and ``keepdims``, as PyTorch allows."""
    dim, keepdim = names.pop("axis", dim), names.pop("keepdims", keepdim)
    if names:
        raise TypeError(f"{op}: unexpected argument {next(iter(names))!r}")
    return dim, keepdim


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape with reduced axes of one element."""
    if axes is None:
        return (1,) * len(shape)
    return tuple([1 if i in axes else extent for i, extent in enumerate(shape)])


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...] | None, keepdim: bool) -> tuple[int, ...]:
    """The shape of the result."""
    if keepdim:
        return kept_shape(shape, axes)
    return () if axes is None else tuple([extent for i, extent in enumerate(shape) if i not in axes])


def reduced_count(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> int:
    """How many elements make one of the result."""
    count = 1
    for i, extent in enumerate(shape):
        if axes is None or i in axes:
            count *= extent
    return count

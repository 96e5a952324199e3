"""What few programs call: copies of views, memory that a tensor takes over or gives up, a Python call per element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import floor, isfinite, prod
from typing import Any

import numpy as np

from fastdl.arrays import assign
from fastdl.autograd.mode import mode
from fastdl.creation import empty_strided, tensor
from fastdl.dtypes import as_dtype, float64, get_default_dtype
from fastdl.errors import not_a_tensor, warn_caller
from fastdl.ops import parts, strided, views
from fastdl.ops.arrays import empty
from fastdl.ops.axes import normal_axis
from fastdl.ops.common import ints
from fastdl.ops.complex import view_as_complex, view_as_real
from fastdl.sequences import arange
from fastdl.tensor import Tensor


def range(
    start: Any = 0,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... up to ``end``, which belongs to it; deprecated, see ``torch.range``."""
    if end is None:
        raise TypeError("range: end is missing")
    warn_caller("range is deprecated, use arange, whose end does not belong to it")
    if not all(map(isfinite, (start, end, step))):
        raise RuntimeError(f"range: needs finite numbers, got {start} -> {end} in steps of {step}")
    dtype = get_default_dtype() if dtype is None else as_dtype("range", dtype)
    if dtype.kind in "iu":
        start, end, step = int(start), int(end), int(step)
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(f"range: no step of {step} leads from {start} to {end}")
    count = floor((end - start) / step) + 1
    values: Tensor = arange(count, dtype=float64, device=device) * step + start
    return values.to(dtype).requires_grad_(requires_grad)


def empty_permuted(size: Any, physical_layout: Any, **options: Any) -> Tensor:
    """Uninitialised, with axes that lie in memory in the order ``physical_layout``. See ``torch.empty_permuted``.

    Example:
        >>> import fastdl
        >>> fastdl.empty_permuted((2, 3, 4), (0, 2, 1)).stride()
        (12, 1, 3)
    """
    extents, order = ints((size,)), ints((physical_layout,))
    if sorted(order) != [*np.arange(len(extents))]:
        raise RuntimeError(
            f"empty_permuted: physical_layout must name each of the {len(extents)} axes once, got {order}"
        )
    strides = [prod([max(extents[a], 1) for a in order[order.index(i) + 1 :]]) for i, _ in enumerate(extents)]
    return empty_strided(extents, strides, **options)


# ---------------------------------------------------------------------------------------------------- copies of views


def _slice(
    input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    axis = normal_axis("slice_copy", dim, input.ndim)
    return input[(slice(None),) * axis + (slice(start, end, step),)]


def _view(input: Tensor, *size: Any, **options: Any) -> Tensor:
    return views.view(input.contiguous(), *size, **options)


def _detach(input: Tensor) -> Tensor:
    return input.detach()


def _copying(name: str, view: Callable[..., Any]) -> Callable[..., Any]:
    def copy(*args: Any, **options: Any) -> Any:
        found = view(*args, **options)
        return views.clone(found) if isinstance(found, Tensor) else tuple([views.clone(t) for t in found])

    functools.update_wrapper(copy, view)
    copy.__name__ = copy.__qualname__ = name
    copy.__module__ = __name__
    copy.__doc__ = f"The result of ``{name.removesuffix('_copy')}`` as a copy. See ``torch.{name}``."
    return copy


as_strided_copy = _copying("as_strided_copy", strided.as_strided)
detach_copy = _copying("detach_copy", _detach)
diagonal_copy = _copying("diagonal_copy", parts.diagonal)
expand_copy = _copying("expand_copy", views.expand)
narrow_copy = _copying("narrow_copy", parts.narrow)
permute_copy = _copying("permute_copy", views.permute)
select_copy = _copying("select_copy", parts.select_dim)
slice_copy = _copying("slice_copy", _slice)
split_copy = _copying("split_copy", parts.split)
split_with_sizes_copy = _copying("split_with_sizes_copy", parts.split_with_sizes)
squeeze_copy = _copying("squeeze_copy", views.squeeze)
t_copy = _copying("t_copy", views.t)
transpose_copy = _copying("transpose_copy", views.transpose)
unbind_copy = _copying("unbind_copy", parts.unbind)
unfold_copy = _copying("unfold_copy", parts.unfold)
unsqueeze_copy = _copying("unsqueeze_copy", views.unsqueeze)
view_as_complex_copy = _copying("view_as_complex_copy", view_as_complex)
view_as_real_copy = _copying("view_as_real_copy", view_as_real)
view_copy = _copying("view_copy", _view)


# --------------------------------------------------------------------------------------------- the memory of a tensor


def resize_(self: Tensor, *sizes: Any, memory_format: Any = None) -> Tensor:
    """Give the tensor another shape in place. See ``torch.Tensor.resize_``.

    What it holds stays in C order: the first numbers where it shrinks, uninitialised ones behind where it grows. A
    tensor that grows has new memory, which others do not see.

    Raises:
        RuntimeError: for a tensor that requires a gradient.

    Example:
        >>> import fastdl
        >>> x = fastdl.arange(6)
        >>> x.resize_(2, 2)
        tensor([[0, 1],
                [2, 3]])
    """
    if self._requires_grad:
        raise RuntimeError("resize_: a tensor that requires a gradient cannot be resized; use detach()")
    shape, x = ints(sizes), self._data
    if min(shape, default=0) < 0:
        raise RuntimeError(f"resize_: sizes cannot be negative, got {shape}")
    length = prod(shape)
    if length > x.size or not x.flags.c_contiguous:
        memory = empty((max(length, x.size),), x.dtype, x)
        assign(memory[: x.size], x.reshape(-1))
        x, self._counter = memory, None
    self._data = x.reshape(-1)[:length].reshape(shape)
    self._bump_version()
    return _elsewhere(self)


def _elsewhere(t: Tensor) -> Tensor:
    """``t``, which no longer is what its views, or it as one, were made from."""
    for reference in t._views or ():
        if (view := reference()) is not None:
            view._path = "is a view of a tensor that was given another shape or memory"
    t._views = None
    if t._base is not None:
        t._path = "was a view, and was given another shape or memory,"
    return t


def resize_as_(self: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """:func:`resize_` to the shape of another tensor. See ``torch.Tensor.resize_as_``."""
    if not isinstance(the_template, Tensor):
        raise not_a_tensor("resize_as_", "the_template", the_template)
    return resize_(self, *the_template.shape)


def set_(
    self: Tensor, source: Any = None, storage_offset: int = 0, size: Any = None, stride: Any = None
) -> Tensor:
    """Let the tensor lie in the memory of ``source``, a tensor of the same dtype. See ``torch.Tensor.set_``.

    Args:
        source: without one the tensor becomes empty.
        storage_offset, size, stride: where in that memory, as in :func:`fastdl.as_strided`.
    """
    if self._requires_grad and mode.enabled:
        raise RuntimeError(
            "set_: a tensor that requires a gradient cannot be given other memory; use no_grad()"
        )
    x = self._data
    if source is None:
        self._data, self._counter = empty((0,), x.dtype, x), None
        return _elsewhere(self)
    if not isinstance(source, Tensor):
        raise not_a_tensor("set_", "source", source)
    if source._data.dtype != x.dtype:
        raise RuntimeError(f"set_: source must have dtype {x.dtype}, got {source._data.dtype}")
    part = source
    if size is not None:
        shape = ints((size,))
        steps = [prod(shape[i + 1 :]) for i, _ in enumerate(shape)] if stride is None else stride
        part = strided.as_strided(source.detach(), shape, steps, storage_offset)
    self._data, self._counter = part._data, part._version_cell()
    return _elsewhere(self)


# ------------------------------------------------------------------------------------------------ a call per element


def apply_(self: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Every element replaced by what a Python function makes of it: slow. See ``torch.Tensor.apply_``.

    Example:
        >>> import fastdl
        >>> fastdl.arange(3).apply_(lambda n: n * n)
        tensor([0, 1, 4])
    """
    return _each("apply_", callable, self)


def map_(self: Tensor, tensor: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
    """:func:`apply_` with the element of another tensor as second argument. See ``torch.Tensor.map_``."""
    return _each("map_", callable, self, tensor)


def map2_(self: Tensor, x: Tensor, y: Tensor, callable: Callable[[Any, Any, Any], Any]) -> Tensor:
    """:func:`map_` with two other tensors."""
    return _each("map2_", callable, self, x, y)


def _each(op: str, function: Callable[..., Any], self: Tensor, *others: Tensor) -> Tensor:
    for t in (self, *others):
        if not isinstance(t, Tensor):
            raise not_a_tensor(op, "tensor", t)
        if t._requires_grad:
            raise RuntimeError(f"{op}: cannot be differentiated; use detach()")
        if t._data.dtype != self._data.dtype:
            raise TypeError(f"{op}: the tensors must have one dtype, got {self.dtype} and {t.dtype}")
    rows = [t.expand(self.shape).flatten().tolist() for t in (self, *others)]
    values = [function(*row) for row in zip(*rows, strict=True)]
    return self.copy_(tensor(values).reshape(self.shape))


__all__ = [
    "as_strided_copy",
    "detach_copy",
    "diagonal_copy",
    "empty_permuted",
    "expand_copy",
    "narrow_copy",
    "permute_copy",
    "range",
    "resize_as_",
    "select_copy",
    "slice_copy",
    "split_copy",
    "split_with_sizes_copy",
    "squeeze_copy",
    "t_copy",
    "transpose_copy",
    "unbind_copy",
    "unfold_copy",
    "unsqueeze_copy",
    "view_as_complex_copy",
    "view_as_real_copy",
    "view_copy",
]

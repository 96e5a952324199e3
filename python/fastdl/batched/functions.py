"""Rules for functions and methods that look at memory or indices themselves (see ``known_rules``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.batched.tensor import NONE, aligned, leaves, level_of, made, sliced_in, values_at
from fastdl.kernels.batched import NotAtOnce
from fastdl.ops import activation, strided
from fastdl.ops.common import ints
from fastdl.sequences import arange
from fastdl.tensor import Tensor


def _own(op: str, x: Any) -> tuple[int, Any, int]:
    """Level, all slices and axes of ``x``, the innermost of the call's arguments."""
    if not sliced_in(x):
        raise NotAtOnce(f"vmap: {op} takes slices one by one")
    return x._data.level, x._data.values, x._data.ndim


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """Diagonals of every slice."""
    level, values, ndim = _own("diagonal", input)
    if ndim < 2:
        raise NotAtOnce("vmap: diagonal needs two axes")
    return made(level, values.diagonal(offset, dim1 % ndim + 1, dim2 % ndim + 1))


def as_strided(input: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    """The strides of every slice, each as far from the one before as in memory; an offset is the first slice's."""
    level, values, _ = _own("as_strided", input)
    if values.stride(0) == 0 and values._data.shape[0] > 1:  # each slice is to have its own gradient
        if not values[0].is_contiguous():
            raise NotAtOnce("vmap: as_strided takes the memory of slices in another order one by one")
        storage_offset = None if storage_offset is None else storage_offset - values.storage_offset()
        values = values.contiguous()
    extents, steps = (values._data.shape[0], *ints((size,))), (values.stride(0), *ints((stride,)))
    return made(level, strided.as_strided(values, extents, steps, storage_offset))


def index(input: Any, key: Any) -> Any:
    """``input[key]`` with one tensor of places, the same for all slices or each slice's own."""
    keys = key if isinstance(key, tuple) else (key,)
    level = level_of((input, key))
    where = [i for i, k in enumerate(keys) if isinstance(k, (Tensor, list, tuple))]
    plain = all(
        [k is None or k is Ellipsis or isinstance(k, slice) for i, k in enumerate(keys) if i not in where]
    )
    if level == NONE or len(where) > 1 or (where and not plain):
        raise NotAtOnce("vmap: several indices take the slices one by one")
    values = values_at(level, input)
    if not where or not sliced_in(keys[where[0]]):
        if values is None:
            raise NotAtOnce("vmap: nothing is sliced here")
        return made(level, values[(slice(None), *keys)])
    places = values_at(level, keys[where[0]])
    if len(keys) > 1 or places is None or places._data.dtype.kind not in "iu":
        raise NotAtOnce("vmap: masks take the slices one by one")
    if values is None:
        return made(level, input[places])
    size = places._data.shape[0]
    rows = arange(size, device=places.device).reshape(size, *(1,) * (places._data.ndim - 1))
    return made(level, values[rows, places])


def _in_step(name: str) -> Callable[..., Any]:
    """A method or activation that changes every element by itself, for all slices; operands have no more axes."""
    function: Any = getattr(Tensor, name, None) or getattr(activation, name)

    def change(input: Any, *args: Any, **options: Any) -> Any:
        level, values, ndim = _own(name, input)
        operands = list(leaves((args, options)))
        if level_of(operands) > level or any([t._data.ndim > ndim for t in operands]):
            raise NotAtOnce(f"vmap: {name} would write every slice into one tensor")
        if any([t._data.ndim == 0 and t._data.dtype is not input._data.dtype for t in operands]):
            raise NotAtOnce(f"vmap: {name} takes numbers of another dtype slice by slice")
        given = [aligned(level, a, ndim) if isinstance(a, Tensor) else a for a in args]
        named = {k: aligned(level, a, ndim) if isinstance(a, Tensor) else a for k, a in options.items()}
        function(values, *given, **named)
        return input

    return change


def set_part(input: Any, key: Any, value: Any) -> None:
    """``input[key] = value`` by integers and slices."""
    level, values, _ = _own("setitem", input)
    keys = key if isinstance(key, tuple) else (key,)
    if level_of((key, value)) > level or any([isinstance(k, (Tensor, list, tuple, bool)) for k in keys]):
        raise NotAtOnce("vmap: indices write the slices one by one")
    part = values[(slice(None), *keys)]
    ndim = part._data.ndim - 1
    if isinstance(value, Tensor):
        if value._data.ndim > ndim:
            raise NotAtOnce("vmap: extents of one in front are cut off slice by slice")
        value = aligned(level, value, ndim)
    values[(slice(None), *keys)] = value


_CHANGES = """relu leaky_relu silu mish elu celu selu hardtanh hardsigmoid hardswish threshold sigmoid tanh add sub
    mul div pow remainder clamp clamp_min clamp_max exp log log1p expm1 sqrt rsqrt square reciprocal abs neg sin cos
    floor ceil round trunc erf addcmul addcdiv lerp masked_fill fill zero copy"""
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "as_strided": as_strided,
    "diagonal": diagonal,
    "__getitem__": index,
    "__setitem__": set_part,
    **{f"{name}_": _in_step(f"{name}_") for name in _CHANGES.split()},
}

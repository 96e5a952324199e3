"""What the key of ``x[key]`` names: taken apart, checked, and as one flat index.

The basic part (integers, slices, None, Ellipsis) names a view; the advanced part (arrays of int64 or bool, ``FULL``
where there is none) an axis or more of that view each. So an integer beside index tensors never moves axes around, as
in torch; tensors that stand apart put the indexed axes first, as in NumPy and torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.devices import device_of, to_device
from fastdl.dtypes import bool_, int64
from fastdl.errors import ArgumentError
from fastdl.kernels import array as as_array
from fastdl.kernels import is_array, on_device, select
from fastdl.tensor import Tensor

FULL, WHOLE = slice(None), (Ellipsis,)
_NUMBERS = frozenset((int, bool, float))


def _index_array(item: Any) -> Any:
    """An index tensor's array, int64 or bool; or an int for one element without dimensions."""
    array = item._data if isinstance(item, Tensor) else as_array(item)
    kind = array.dtype.kind
    if kind == "b":
        return array
    if array.size == 0 and not (isinstance(item, Tensor) or is_array(item)):
        return array.astype(np.int64)
    if array.dtype == np.uint8:
        return array.astype(np.bool_)
    if kind not in "iu":
        raise IndexError(f"index: tensors used as indices must be integer or bool, got dtype {array.dtype}")
    if array.ndim == 0:
        return int(array)
    return array


def _check_slice(s: slice) -> slice:
    if int(s.step) <= 0:
        raise ArgumentError(
            f"index: the step of a slice must be positive, got {s.step}; use x.flip(dim) to reverse"
        )
    return s


def _is_compound(item: Any) -> bool:
    return item is None or item is Ellipsis or isinstance(item, (Tensor, list, tuple, range, slice))


def parse(shape: tuple[int, ...], key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """(basic key, advanced key on the basic result or None); ``WHOLE`` for a basic key that leaves out nothing."""
    # A list that holds more than numbers is a key for several axes, as if it were a tuple.
    several = key.__class__ is tuple or (
        key.__class__ is list and not _NUMBERS.issuperset(map(type, key)) and any(map(_is_compound, key))
    )
    items = key if several or isinstance(key, tuple) else (key,)
    basic: list[Any] = []
    advanced: list[Any] = []
    any_advanced = partial = False
    used = 0
    ellipsis_at = None
    for item in items:
        kind = item.__class__
        if kind is int:
            basic.append(item)
            used += 1
            partial = True
            continue
        if kind is slice:
            basic.append(item if item.step is None else _check_slice(item))
            advanced.append(FULL)
            used += 1
            partial = partial or item != FULL
            continue
        if kind is Tensor and item._data.ndim and (item._data.dtype is int64 or item._data.dtype is bool_):
            count = 1 if item._data.dtype is int64 else item._data.ndim
            basic.extend([FULL] * count)
            advanced.append(item._data)
            used += count
            any_advanced = True
            continue
        if item is None:
            basic.append(None)
            advanced.append(FULL)
            partial = True
            continue
        if item is Ellipsis:
            if ellipsis_at is not None:
                raise IndexError("index: only one Ellipsis ('...') may appear")
            ellipsis_at = len(basic), len(advanced)
            continue
        if isinstance(item, (bool, np.bool_)):  # a mask of no dimensions: a new axis of extent 1 or 0
            basic.append(None)
            advanced.append(np.zeros(int(item), np.int64))
            any_advanced = partial = True
            continue
        if isinstance(item, (Tensor, list, tuple, range)) or is_array(item):
            array = _index_array(item)
            if isinstance(array, int):
                basic.append(array)
                used += 1
                partial = True
            elif array.dtype.kind == "b" and array.ndim == 0:
                basic.append(None)
                advanced.append(np.zeros(int(array), np.int64))
                any_advanced = partial = True
            else:
                count = array.ndim if array.dtype.kind == "b" else 1
                basic.extend([FULL] * count)
                advanced.append(array)
                used += count
                any_advanced = True
            continue
        try:
            basic.append(item.__index__())
            used += 1
            partial = True
        except AttributeError:
            raise IndexError(
                "index: expected integers, slices, None, Ellipsis, and integer or bool tensors or lists, got "
                f"{type(item).__name__}"
            ) from None
    if used > len(shape):
        raise IndexError(f"index: {used} indices for a tensor of {len(shape)} dimensions")
    if ellipsis_at is not None:
        rest = len(shape) - used
        basic[ellipsis_at[0] : ellipsis_at[0]] = [FULL] * rest
        advanced[ellipsis_at[1] : ellipsis_at[1]] = [FULL] * rest
    if not partial:
        return WHOLE, tuple(advanced) if any_advanced else None
    _check_ints(shape, basic)
    basic.append(Ellipsis)  # without it an element would come out as a number, not as a view
    return tuple(basic), tuple(advanced) if any_advanced else None


def beside(key: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    """The index arrays where ``data`` is; from the CPU they are copied to its GPU."""
    if data.__class__ is np.ndarray:
        for k in key:
            if k.__class__ is not np.ndarray and k is not FULL:
                break
        else:
            return key
    where = device_of(data)
    for k in key:
        if k is not FULL and on_device(k) and device_of(k) is not where:
            raise RuntimeError(
                f"index: indices should be either on cpu or on the same device as the indexed tensor ({where}), "
                f"got one on {device_of(k)}"
            )
    return tuple([k if k is FULL else to_device(k, where) for k in key])


def _check_ints(shape: tuple[int, ...], basic: list[Any]) -> None:
    dim = 0
    for item in basic:
        if item is None:
            continue
        if item.__class__ is int and not -shape[dim] <= item < shape[dim]:
            raise IndexError(f"index: {item} is out of range for dim {dim} of extent {shape[dim]}")
        dim += 1


def _out_of_bounds(op: str, index: Any, dim: int, extent: int) -> IndexError:
    place = tuple(np.argwhere((index < -extent) | (index >= extent))[0].tolist())
    return IndexError(
        f"{op}: index{list(place)} = {int(index[place])} is out of bounds for dim {dim} of extent {extent}"
    )


def checked(key: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The key for a write on a GPU, where CuPy wraps around what is out of range and (14.0) takes one mask only.

    Several masks become the indices of what they select. This waits for the device.
    """
    several = sum([k is not FULL and k.dtype is bool_ for k in key]) > 1
    checked: list[Any] = []
    dim = 0
    for k in key:
        if k is FULL:
            checked.append(k)
            dim += 1
        elif k.dtype is bool_:
            if k.shape != shape[dim : dim + k.ndim]:
                raise IndexError(
                    f"setitem: a mask of shape {k.shape} does not match the axes it indexes, "
                    f"{shape[dim : dim + k.ndim]}"
                )
            checked.extend(np.nonzero(k) if several else [k])
            dim += k.ndim
        else:
            low, high = -shape[dim], shape[dim]
            if k.size and (k.min() < low or k.max() >= high):
                raise _out_of_bounds("setitem", k, dim, high)
            checked.append(k)
            dim += 1
    return tuple(checked)


def flat_index(op: str, key: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, int, Any] | None:
    """An advanced key whose arrays stand together, as one index into the indexed axes taken as one.

    Returns the first and the last of these axes, and the index, int64, in the shape of the key's arrays; None for
    arrays that stand apart.
    """
    first = last = 0
    arrays: list[Any] = []
    for k in key:
        if k is FULL:
            if arrays:
                last = last or first + len(arrays)
            else:
                first += 1
        elif last:
            return None
        elif k.dtype is int64:
            arrays.append(k)
        elif k.dtype is bool_:
            covered = shape[first + len(arrays) : first + len(arrays) + k.ndim]
            if k.shape != covered:
                raise IndexError(
                    f"{op}: a mask of shape {k.shape} does not match the axes it indexes, {covered}"
                )
            arrays.extend(np.nonzero(k))
        else:
            arrays.append(k.astype(np.int64))
    last = first + len(arrays)
    return first, last, places_of(op, arrays, shape[first:last], first)


def places_of(op: str, arrays: list[Any], extents: tuple[int, ...], first: int = 0) -> Any:
    """Index arrays into neighbouring axes, of which ``first`` is the first, as one index into these taken as one."""
    shape = arrays[0].shape
    for k in arrays:
        if k.shape != shape:
            arrays = _broadcast(op, arrays)
            break
    places = select(arrays[0]).flat_index(arrays, extents)
    if places is None:
        for axis, (k, extent) in enumerate(zip(arrays, extents, strict=True), first):
            if k.size and (k.min() < -extent or k.max() >= extent):
                raise _out_of_bounds(op, k, axis, extent)
    return places


def _broadcast(op: str, arrays: list[Any]) -> list[Any]:
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = ", ".join([str(a.shape) for a in arrays])
        raise IndexError(f"{op}: index tensors of shapes {shapes} do not broadcast to each other") from None


def to_front(x: Any, key: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], list[int]]:
    """``x`` with the indexed axes first, the key for that, and the order that undoes it."""
    indexed: list[int] = []
    rest: list[int] = []
    dim = 0
    for k in key:
        count = k.ndim if k is not FULL and k.dtype.kind == "b" else 1
        (rest if k is FULL else indexed).extend(range(dim, dim + count))
        dim += count
    rest.extend(range(dim, x.ndim))
    order = indexed + rest
    back = sorted(range(x.ndim), key=order.__getitem__)
    return x.transpose(order), tuple([k for k in key if k is not FULL]), back


def tensors_of(key: Any) -> list[Tensor]:
    """The tensors that a key is or holds."""
    items = key if isinstance(key, (tuple, list)) else (key,)
    return [item for item in items if isinstance(item, Tensor)]


def ndim_of(region: Any, advanced: tuple[Any, ...]) -> int:
    """How many axes ``region[advanced]`` has."""
    arrays = [k for k in advanced if k is not FULL]
    used = sum([k.ndim if k.dtype.kind == "b" else 1 for k in arrays])
    return region.ndim - used + max([1 if k.dtype.kind == "b" else k.ndim for k in arrays])  # type: ignore[no-any-return]

"""``x[...]`` and ``x[...] = v``.

A key is taken apart into a basic part (integers, slices, None, Ellipsis), which is a view, and an advanced part
(integer and boolean tensors), which gathers from that view. So an integer beside index tensors never moves axes
around, as in torch; tensors that stand apart put the indexed axes first, as in NumPy and torch.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op, needing
from fastdl.autograd.view import check_writable, rebase
from fastdl.devices import device_of, to_device
from fastdl.dtypes import DIFFERENTIABLE, bool_, int64, is_half
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array as as_array
from fastdl.kernels import capture, is_array, on_device, select
from fastdl.ops.arrays import (
    SMALL,
    added_to_rows,
    cast,
    fill,
    filler,
    in_float32,
    joined,
    sum_to,
    written,
    zeros,
)
from fastdl.ops.masks import MaskedSelect, put
from fastdl.ops.parts import Basic, Select
from fastdl.ops.views import in_one_call
from fastdl.tensor import Tensor

_FULL, _WHOLE = slice(None), (Ellipsis,)
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


def _parse(shape: tuple[int, ...], key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """(basic key, advanced key on the basic result or None); ``_WHOLE`` for a basic key that leaves out nothing."""
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
            advanced.append(_FULL)
            used += 1
            partial = partial or item != _FULL
            continue
        if kind is Tensor and item._data.ndim and (item._data.dtype is int64 or item._data.dtype is bool_):
            count = 1 if item._data.dtype is int64 else item._data.ndim
            basic.extend([_FULL] * count)
            advanced.append(item._data)
            used += count
            any_advanced = True
            continue
        if item is None:
            basic.append(None)
            advanced.append(_FULL)
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
                basic.extend([_FULL] * count)
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
        basic[ellipsis_at[0] : ellipsis_at[0]] = [_FULL] * rest
        advanced[ellipsis_at[1] : ellipsis_at[1]] = [_FULL] * rest
    if not partial:
        return _WHOLE, tuple(advanced) if any_advanced else None
    _check_ints(shape, basic)
    basic.append(Ellipsis)  # without it an element would come out as a number, not as a view
    return tuple(basic), tuple(advanced) if any_advanced else None


def _beside(key: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    """The index arrays where ``data`` is; from the CPU they are copied to its GPU."""
    if data.__class__ is np.ndarray:
        for k in key:
            if k.__class__ is not np.ndarray and k is not _FULL:
                break
        else:
            return key
    where = device_of(data)
    for k in key:
        if k is not _FULL and on_device(k) and device_of(k) is not where:
            raise RuntimeError(
                f"index: indices should be either on cpu or on the same device as the indexed tensor ({where}), "
                f"got one on {device_of(k)}"
            )
    return tuple([k if k is _FULL else to_device(k, where) for k in key])


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


def _checked(key: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The key for a write on a GPU, where CuPy wraps around what is out of range and (14.0) takes one mask only.

    Several masks become the indices of what they select. This waits for the device.
    """
    several = sum([k is not _FULL and k.dtype is bool_ for k in key]) > 1
    checked: list[Any] = []
    dim = 0
    for k in key:
        if k is _FULL:
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
        if k is _FULL:
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


class IndexSelect(Op):
    def forward(self, x: Any, dim: int, index: Any) -> Any:
        self.shape, self.dim, self.index = x.shape, dim, index
        return select(x).index_select_forward(x, dim, index)

    def backward(self, grad: Any) -> Any:
        return in_float32(
            select(grad).index_select_backward, grad, self.dim, self.index, self.shape[self.dim]
        )

    def adds_into(self, have: Any, grad: Any) -> bool:
        return added_to_rows(have, self.dim, self.index, grad)

    def linear(self, x: Any) -> Any:
        return select(x).index_select_forward(x, self.dim, self.index)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


class Gather(Op):
    """The elements that index arrays name; each may be named several times.

    Arrays that stand apart put the indexed axes first: the axes are moved there, then all is as for one index.
    """

    def forward(self, x: Any, key: tuple[Any, ...]) -> Any:
        found = flat_index("index", key, x.shape)
        if found is None:
            x, key, self.moved = _to_front(x, key)
            found = flat_index("index", key, x.shape)
        first, last, index = found  # type: ignore[misc]
        shape = x.shape
        self.shape, self.first, self.index = shape, first, index
        if last > first + 1:
            x = x.reshape(*shape[:first], prod(shape[first:last]), *shape[last:])
        self.merged = x.shape
        if index.ndim == 1:
            return select(x).index_select_forward(x, first, index)
        y = select(x).index_select_forward(x, first, index.reshape(-1))
        return y.reshape(*shape[:first], *index.shape, *shape[last:])

    def backward(self, grad: Any) -> Any:
        first, rows = self.first, self._rows(grad)
        backward = select(grad).index_select_backward
        whole = in_float32(backward, rows, first, self.index.reshape(-1), self.merged[first])
        whole = whole.reshape(self.shape)
        return whole if self.moved is None else whole.transpose(self.moved)

    def adds_into(self, have: Any, grad: Any) -> bool:
        if self.moved is not None or not have.flags.c_contiguous:
            return False
        return added_to_rows(have.reshape(self.merged), self.first, self.index.reshape(-1), self._rows(grad))

    def _rows(self, grad: Any) -> Any:
        """The gradient with the index's axes as one."""
        if not grad.flags.c_contiguous:
            grad = pooled_copy(grad)
        return grad.reshape(*self.merged[: self.first], self.index.size, *self.merged[self.first + 1 :])

    def linear(self, x: Any) -> Any:
        first, index = self.first, self.index
        if self.moved is not None:
            x = x.transpose(sorted(range(x.ndim), key=self.moved.__getitem__))
        y = select(x).index_select_forward(x.reshape(self.merged), first, index.reshape(-1))
        return y.reshape(*self.merged[:first], *index.shape, *self.merged[first + 1 :])

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)

    moved: Any = None


def _to_front(x: Any, key: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], list[int]]:
    """``x`` with the indexed axes first, the key for that, and the order that undoes it."""
    indexed: list[int] = []
    rest: list[int] = []
    dim = 0
    for k in key:
        count = k.ndim if k is not _FULL and k.dtype.kind == "b" else 1
        (rest if k is _FULL else indexed).extend(range(dim, dim + count))
        dim += count
    rest.extend(range(dim, x.ndim))
    order = indexed + rest
    back = sorted(range(x.ndim), key=order.__getitem__)
    return x.transpose(order), tuple([k for k in key if k is not _FULL]), back


class Put(Op):
    """The result of ``x[key] = v``: the inputs are x before, and v."""

    def backward(self, grad: Any) -> Any:
        rest = pooled_copy(grad)
        region = rest[self.basic]
        kept = region if self.advanced is None else region[self.advanced]
        written = None
        if self.needs[1]:
            # Axes of extent 1 in front of the value's shape were ignored.
            written = sum_to(pooled_copy(kept), self.shape[max(0, len(self.shape) - kept.ndim) :]).reshape(
                self.shape
            )
            if written.dtype != self.dtype:
                written = cast(written, self.dtype)
        if not self.needs[0]:
            return None, written
        region[... if self.advanced is None else self.advanced] = 0
        return rest, written

    def linear(self, x: Any, value: Any) -> Any:
        result = zeros(*self.whole, value) if x is None else pooled_copy(x)
        region = result[self.basic]
        if value is None:
            region[... if self.advanced is None else self.advanced] = 0
        elif self.advanced is None:
            region[...] = _fitting(value, region.ndim)
        else:
            region[self.advanced] = _fitting(value, _ndim_of(region, self.advanced))
        return result

    def backward_graph(self, grad: Tensor) -> Any:
        self.whole = grad._data.shape, grad._data.dtype
        return linear_backward(self, grad)

    whole: tuple[Any, Any]
    basic: Any
    advanced: Any
    shape: tuple[int, ...]
    dtype: Any


@in_one_call("getitem", Select, Basic)
def getitem(input: Tensor, key: Any) -> Tensor:
    """``input[key]``: a view for integers, slices, None and Ellipsis; a copy where tensors or lists index."""
    data = input._data
    if key.__class__ is Tensor and key._data.__class__ is np.ndarray is data.__class__:  # the common cases
        index = key._data
        if index.dtype is int64 and index.ndim == 1 and data.ndim:
            try:
                return needing(IndexSelect.apply(input, dim=0, index=index), key)
            except IndexError:
                pass  # indices from the end, or wrong ones: below
        elif index.dtype is bool_ and index.ndim > 0 and index.shape == data.shape[: index.ndim]:
            return needing(MaskedSelect.apply(input, mask=index), key)
    basic, advanced = _parse(data.shape, key)
    if advanced is None:
        return Basic.apply(input, key=basic)  # type: ignore[no-any-return]
    advanced = _beside(advanced, data)
    if basic is not _WHOLE:
        input = Basic.apply(input, key=basic)
    places = [dim for dim, k in enumerate(advanced) if k is not _FULL]
    index = advanced[places[0]]
    if len(places) == 1 and index.ndim == 1 and index.dtype is int64:
        try:
            return needing(IndexSelect.apply(input, dim=places[0], index=index), *_tensors(key))
        except IndexError:
            pass
    return needing(Gather.apply(input, key=advanced), *_tensors(key))


def _tensors(key: Any) -> list[Tensor]:
    """The tensors that a key is or holds."""
    items = key if isinstance(key, (tuple, list)) else (key,)
    return [item for item in items if isinstance(item, Tensor)]


def _mixed(data: Any, value: Any) -> RuntimeError:
    return RuntimeError(
        f"setitem: Expected all tensors to be on the same device, but found the tensor on {device_of(data)} and "
        f"the value on {device_of(value)}; move it with .to(device)"
    )


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """``input[key] = value``: a write in place, with gradients for what remains and for the value."""
    check_writable("setitem", input)
    data = input._data
    basic, advanced = _parse(data.shape, key)
    if isinstance(value, Tensor):
        array = value._data
    elif value.__class__ is float or value.__class__ is int or value.__class__ is complex:
        if value.__class__ is complex or not is_half(data.dtype):  # there numbers too large become infinite
            value = filler("setitem", value, data.dtype)
        small = value.__class__ is not complex and -SMALL < value < SMALL
        array = np.asarray(value, data.dtype) if small else as_array(value)
    else:
        array = as_array(value)
    if array.ndim == 0 and array.__class__ is not data.__class__ and device_of(array) is not device_of(data):
        array = to_device(array, device_of(data))
    if array.dtype.kind == "c" and data.dtype.kind != "c" and not isinstance(value, Tensor):
        raise RuntimeError(
            f"setitem: value cannot be converted to type {data.dtype} without overflow: it is complex, got {value!r}"
        )
    if array.dtype.kind not in "fiubVc":
        raise DtypeError(
            f"setitem: cannot store a value of dtype {array.dtype} in a tensor of dtype {data.dtype}"
        )
    region = data[basic]
    if advanced is not None:
        advanced = _beside(advanced, data)
        if on_device(data) and not capture.active:
            advanced = _checked(advanced, region.shape)
    record = mode.enabled and (input._requires_grad or (isinstance(value, Tensor) and value._requires_grad))
    record = record and data.dtype.kind in DIFFERENTIABLE
    if record and input._path.__class__ is str:
        raise RuntimeError(
            f"setitem: this tensor {input._path} and cannot be changed in place while the graph is recorded; "
            "use x.clone() first"
        )
    try:
        if advanced is None and array.ndim == 0 and region.size >= 4096:
            fill(region, array)
        elif advanced is None:
            assign(region, _fitting(array, region.ndim))
        elif _put_by_kernel(region, advanced, array):
            pass
        elif array.ndim > 1:
            region[advanced] = _fitting(array, _ndim_of(region, advanced))
        else:
            region[advanced] = array
    except ValueError:
        if device_of(array) is not device_of(data):
            raise _mixed(data, array) from None
        target = region.shape if advanced is None else region[advanced].shape
        raise RuntimeError(
            f"setitem: a value of shape {array.shape} cannot be broadcast to the indexed part, shape {target}"
        ) from None
    except (TypeError, AttributeError):
        if device_of(array) is device_of(data):
            raise
        raise _mixed(data, array) from None
    except IndexError as error:
        raise IndexError(f"setitem: {error} (indexing a tensor of shape {data.shape})") from None
    input._bump_version()
    if record:
        op = Put()
        op.basic, op.advanced, op.shape, op.dtype = basic, advanced, array.shape, array.dtype
        value = value if isinstance(value, Tensor) else None
        op.needs = (input._requires_grad, value is not None and value._requires_grad)
        rebase("setitem", input, needing(op.record((input, value), data), *_tensors(key)))


def _put_by_kernel(region: Any, key: tuple[Any, ...], array: Any) -> bool:
    """``region[key] = array`` where one mask or index says where and nothing has to be broadcast; False for others."""
    index = key[0]
    if region.size < 256 or index is _FULL or any([k is not _FULL for k in key[1:]]) or on_device(region):
        return False
    rest = region.shape[index.ndim :] if index.dtype is bool_ else region.shape[1:]
    if index.dtype is bool_:
        if index.shape != region.shape[: index.ndim]:
            return False
        if array.ndim == 0 and not rest:
            put(region, index, array.astype(region.dtype))
            return True
        if array.dtype != region.dtype or array.shape != (np.count_nonzero(index), *rest):
            return False
        put(region, index, array)
        return True
    if index.ndim != 1 or array.dtype != region.dtype or array.shape != (index.size, *rest):
        return False
    if region.dtype.kind in "Vc":
        return False
    places = places_of("setitem", [index.astype(np.int64, copy=False)], region.shape[:1])
    written(select(region).index_copy, region, 0, places, array)
    return True


def added_in_place(op: str, data: Any, key: tuple[Any, ...], values: Any) -> bool:
    """``data[key] += values``, repeated indices adding up, where one kernel does it; False for the rest."""
    basic, advanced = _parse(data.shape, key)
    if advanced is None or on_device(data) or data.dtype.kind in "Vc":
        return False
    region = data[basic]
    if not region.flags.c_contiguous:
        return False
    found = flat_index(op, _beside(advanced, region), region.shape)
    if found is None:
        return False
    first, last, index = found
    before, after = region.shape[:first], region.shape[last:]
    named = (*before, *index.shape, *after)
    try:
        spread = values if values.shape == named else np.broadcast_to(values, named)
    except ValueError:
        raise RuntimeError(
            f"{op}: values of shape {values.shape} cannot be broadcast to the indexed part, shape {named}"
        ) from None
    joined(
        "index_add",
        region.reshape(*before, prod(region.shape[first:last]), *after),
        first,
        index.reshape(-1),
        spread.reshape(*before, index.size, *after),
    )
    return True


def _ndim_of(region: Any, advanced: tuple[Any, ...]) -> int:
    """How many axes ``region[advanced]`` has."""
    arrays = [k for k in advanced if k is not _FULL]
    used = sum([k.ndim if k.dtype.kind == "b" else 1 for k in arrays])
    return region.ndim - used + max([1 if k.dtype.kind == "b" else k.ndim for k in arrays])  # type: ignore[no-any-return]


def _fitting(array: Any, ndim: int) -> Any:
    """Leading axes of extent 1 beyond ``ndim`` dropped; others are a ValueError, without NumPy's many words."""
    while array.ndim > ndim and array.shape[0] == 1:
        array = array[0]
    if array.ndim > ndim:
        raise ValueError
    return array

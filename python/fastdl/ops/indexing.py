"""``x[...]`` and ``x[...] = v``: a view for the basic part of a key, and for its advanced part a copy of what it names
in that view (``index_keys.py``)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl._graph import plainly_writable
from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op, needing
from fastdl.autograd.view import check_writable, is_locked, rebase, refuse_without_path, repeats, unlocked
from fastdl.devices import device_of, to_device
from fastdl.dtypes import DIFFERENTIABLE, bool_, int64, is_half
from fastdl.errors import DtypeError
from fastdl.kernels import array as as_array
from fastdl.kernels import capture, on_device, select
from fastdl.kernels.batched import BatchedArray
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
from fastdl.ops.common import axis
from fastdl.ops.fill import copy_
from fastdl.ops.index_keys import (
    FULL,
    WHOLE,
    beside,
    checked,
    flat_index,
    ndim_of,
    parse,
    places_of,
    tensors_of,
    to_front,
)
from fastdl.ops.masks import MaskedSelect, put
from fastdl.ops.parts import Select, Slice
from fastdl.ops.views import in_one_call
from fastdl.tensor import Tensor


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
            x, key, self.moved = to_front(x, key)
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
            region[self.advanced] = _fitting(value, ndim_of(region, self.advanced))
        return result

    def backward_graph(self, grad: Tensor) -> Any:
        self.whole = grad._data.shape, grad._data.dtype
        return linear_backward(self, grad)

    whole: tuple[Any, Any]
    basic: Any
    advanced: Any
    shape: tuple[int, ...]
    dtype: Any


@in_one_call("getitem", Select, Slice)
def getitem(input: Tensor, key: Any) -> Tensor:
    """``input[key]``: a view for integers, slices, None and Ellipsis; a copy where tensors or lists index."""
    data = input._data
    if BatchedArray.made:
        from fastdl.batched import has_slices, known_rules

        if has_slices(key) and not has_slices(input):
            return known_rules()[1]["__getitem__"](input, key)  # type: ignore[no-any-return]
    if key.__class__ is Tensor and key._data.__class__ is np.ndarray is data.__class__:  # the common cases
        index = key._data
        if index.dtype is int64 and index.ndim == 1 and data.ndim:
            try:
                return needing(IndexSelect.apply(input, dim=0, index=index), key)
            except IndexError:
                pass  # indices from the end, or wrong ones: below
        elif index.dtype is bool_ and index.ndim > 0 and index.shape == data.shape[: index.ndim]:
            return needing(MaskedSelect.apply(input, mask=index), key)
    basic, advanced = parse(data.shape, key)
    if advanced is None:
        return Slice.apply(input, key=basic)  # type: ignore[no-any-return]
    advanced = beside(advanced, data)
    if basic is not WHOLE:
        input = Slice.apply(input, key=basic)
    places = [dim for dim, k in enumerate(advanced) if k is not FULL]
    index = advanced[places[0]]
    if len(places) == 1 and index.ndim == 1 and index.dtype is int64:
        try:
            return needing(IndexSelect.apply(input, dim=places[0], index=index), *tensors_of(key))
        except IndexError:
            pass
    return needing(Gather.apply(input, key=advanced), *tensors_of(key))


def _mixed(data: Any, value: Any) -> RuntimeError:
    return RuntimeError(
        f"setitem: Expected all tensors to be on the same device, but found the tensor on {device_of(data)} and "
        f"the value on {device_of(value)}; move it with .to(device)"
    )


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """``input[key] = value``: a write in place, with gradients for what remains and for the value."""
    data, expanded = input._data, False
    basic, advanced = parse(data.shape, key)
    if not plainly_writable(input):
        if advanced is None and is_locked(data) and repeats(data):
            copy_(getitem(input, key), value)  # each element of the part may have an address of its own
            return
        check_writable("setitem", input, fills=True)
        expanded = is_locked(input._data)
        data = unlocked(input._data) if expanded else input._data
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
        advanced = beside(advanced, data)
        if on_device(data) and not capture.active:
            advanced = checked(advanced, region.shape)
    record = mode.enabled and (input._requires_grad or (isinstance(value, Tensor) and value._requires_grad))
    record = record and data.dtype.kind in DIFFERENTIABLE
    if record:
        refuse_without_path("setitem", input)
    try:
        if advanced is None and array.ndim == 0 and region.size >= 4096:
            fill(region, array)
        elif advanced is None:
            assign(region, _fitting(array, region.ndim))
        elif not expanded and _put_by_kernel(region, advanced, array):
            pass
        elif array.ndim > 1:
            region[advanced] = _fitting(array, ndim_of(region, advanced))
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
        rebase("setitem", input, needing(op.record((input, value), data), *tensors_of(key)))


def fill_by_mask(input: Tensor, mask: Tensor, value: Any) -> None:
    """``masked_fill_`` of an expanded tensor."""
    setitem(input, mask.expand(input.shape), value)


def fill_by_index(input: Tensor, dim: int, index: Tensor, value: Any) -> None:
    """``index_fill_`` of an expanded tensor."""
    setitem(input, (slice(None),) * axis("index_fill_", dim, input.ndim) + (index,), value)


def _put_by_kernel(region: Any, key: tuple[Any, ...], array: Any) -> bool:
    """``region[key] = array`` where one mask or index says where and nothing has to be broadcast; False for others."""
    index = key[0]
    if region.size < 256 or index is FULL or any([k is not FULL for k in key[1:]]) or on_device(region):
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
    basic, advanced = parse(data.shape, key)
    if advanced is None or on_device(data) or data.dtype.kind in "Vc":
        return False
    region = data[basic]
    if not region.flags.c_contiguous:
        return False
    found = flat_index(op, beside(advanced, region), region.shape)
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


def _fitting(array: Any, ndim: int) -> Any:
    """Leading axes of extent 1 beyond ``ndim`` dropped; others are a ValueError, without NumPy's many words."""
    while array.ndim > ndim and array.shape[0] == 1:
        array = array[0]
    if array.ndim > ndim:
        raise ValueError
    return array

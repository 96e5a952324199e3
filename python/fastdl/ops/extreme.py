"""The largest, the smallest and the middle: values, their places, and their gradients."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastdl._graph import plain
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op, needing
from fastdl.dtypes import FLOATING, bool_, float32, float64, int32, int64, is_half, uint8
from fastdl.errors import not_for_complex
from fastdl.kernels import array, on_device, select
from fastdl.ops.arithmetic import maximum, minimum
from fastdl.ops.arrays import cast, contiguous, count_true, empty, full, has_integer_kernels, zeros
from fastdl.ops.axes import kept_shape, normal_axes, normal_axis, numpy_names, reduced_count, reduced_shape
from fastdl.printing import named_lines
from fastdl.tensor import Tensor


class ValuesIndices(NamedTuple):
    """Values, and where they are along ``dim``."""

    values: Tensor
    indices: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class MinMax(NamedTuple):
    """Smallest and largest."""

    min: Tensor
    max: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


# Integers whose extremes the CPU's kernels find.
_WHOLE = frozenset((bool_, uint8, int32, int64))


def _has_kernel(x: Any) -> bool:
    """Is there one for searches among floats: of half precision on the CPU only?"""
    dtype = x.dtype
    return dtype is float32 or dtype is float64 or (dtype.kind in FLOATING and not on_device(x))


class Amax(Op):
    """The extreme over some axes; the gradient is shared equally by ties."""

    saves, saves_output = (0,), True
    label: ClassVar[str] = "amax"
    reduce: ClassVar[Any] = staticmethod(np.max)

    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.x, self.axes = x, axes
        if _has_kernel(x) or (x.dtype in _WHOLE and not on_device(x)):
            find = getattr(select(x), self.label + "_forward")
            if x.dtype in _WHOLE and x.flags.f_contiguous and not x.flags.c_contiguous:
                reversed = None if axes is None else tuple([x.ndim - 1 - a for a in axes])
                self.y = find(x.T, reversed, keepdim).T
            else:
                self.y = find(x, axes, keepdim)
        else:
            self.y = empty(reduced_shape(x.shape, axes, keepdim), x.dtype, x)
            self.reduce(x, axis=axes, keepdims=keepdim, out=self.y)
        return self.y

    def backward(self, grad: Any) -> Any:
        k, shape = select(grad), kept_shape(self.x.shape, self.axes)
        ties = self.ties(self.x, self.y.reshape(shape))
        count = count_true(ties, self.axes, True)
        # NaN equals nothing: as in PyTorch the gradient is 0/0 then. (On a GPU no value is waited for.)
        sure = count.__class__ is np.ndarray and np.count_nonzero(count) == count.size
        dtype = float32 if is_half(grad.dtype) else grad.dtype  # half precision counts to 2048 or 256
        count = count.astype(dtype)
        share = cast(k.div_forward(cast(grad.reshape(shape), dtype), count), grad.dtype)
        return k.where_forward(ties, share, 0.0 if sure else cast(k.div_forward(0.0, count), grad.dtype))

    def ties(self, x: Any, y: Any) -> Any:
        return select(x).eq_forward(x, y)

    def backward_graph(self, grad: Tensor) -> Any:
        # Where the extreme is is constant: the gradient of 1 says it.
        slope = self.backward(full(grad.shape, 1, self.x.dtype, self.x))
        return grad.reshape(kept_shape(self.x.shape, self.axes)) * Tensor._wrap(slope)


class Amin(Amax):
    label, reduce = "amin", staticmethod(np.min)


class Max(Amax):
    """The extreme of all elements; if it is NaN, all that are share its gradient."""

    def ties(self, x: Any, y: Any) -> Any:
        ties, missing = super().ties(x, y), y != y
        return ties | (missing & (x != x)) if x.__class__ is not np.ndarray or missing.any() else ties


class Min(Max):
    label, reduce = "amin", staticmethod(np.min)


class Median(Max):
    """The lower of the middle elements of all; the gradient is shared equally by ties. NaN if there is one; with
    ``skip`` the median of the others."""

    axes: Any = None

    def forward(self, x: Any, axes: Any = None, keepdim: bool = False, skip: bool = False) -> Any:
        flat = x.reshape(-1)
        if is_half(x.dtype) and not on_device(x):
            flat = cast(flat, float32)  # which NumPy orders faster
        keys = sortable(flat, on_gpu=True) if on_device(x) else None
        if keys is not None and flat.size < 2**31:
            self.x, self.y = x, cast(_middle(keys, skip), x.dtype)
            return self.y
        missing = x.dtype.kind in FLOATING and _has_nan(flat)
        if missing and skip:
            flat = flat[~np.isnan(flat)]
            missing = flat.size == 0
        k = (flat.size - 1) // 2
        if missing:
            middle: Any = np.nan
        else:
            halves = orderable(flat).copy()
            halves.partition(k)
            middle = halves[k]
        self.x, self.y = x, array(middle, x, x.dtype)
        return self.y


def _middle(x: Any, skip: bool) -> Any:
    """The median of a vector on a GPU, whose values nobody looks at."""
    k, n = select(x), x.size
    ordered = k.sort_forward(x, n, False)[0]
    if x.dtype.kind not in FLOATING:
        return ordered[(n - 1) // 2].copy()
    if not skip:  # NaN comes last
        last = ordered[-1]
        return k.where_forward(last != last, last, ordered[(n - 1) // 2])
    present = n - k.count_true(k.ne_forward(x, x), None, True)
    return k.gather_forward(ordered, 0, np.maximum(present - 1, 0) // 2).reshape(())


def _has_nan(x: Any) -> Any:
    if not (x.size and _has_kernel(x)):
        return np.isnan(x).any()
    largest = select(x).amax_forward(x, None, False)
    return largest != largest


class Pick(Op):
    """Elements at ``indices`` along one axis, found by the caller: the gradient goes to where they came
    from."""

    def forward(self, x: Any, values: Any, indices: Any, axis: int) -> Any:
        self.shape, self.indices, self.axis = x.shape, indices, axis
        return values

    def backward(self, grad: Any) -> Any:
        result = zeros(self.shape, grad.dtype, grad)
        if result.ndim == 0:
            result[...] = grad
            return result
        indices, grad = self.indices.reshape(self.kept()), grad.reshape(self.kept())
        if on_device(result) or result.dtype.kind == "V":
            np.put_along_axis(result, indices, grad, self.axis)
        else:
            select(result).scatter(result, self.axis, indices, grad)
        return result

    def linear(self, x: Any) -> Any:
        if x.ndim == 0:
            return x
        return np.take_along_axis(x, self.indices.reshape(self.kept()), self.axis).reshape(self.indices.shape)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)

    def kept(self) -> tuple[int, ...]:
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return (*before, -1 if self.indices.size else 0, *after)


def pick(input: Tensor, values: Any, indices: Any, axis: int, op: type[Op] = Pick) -> ValuesIndices:
    """The differentiable result of a search along ``axis``."""
    places = Tensor._wrap(indices)
    found = op.apply(input, values=values, indices=indices, axis=axis)
    return ValuesIndices(needing(found, places), places)


def sortable(x: Any, on_gpu: bool = False) -> Any:
    """The array in a dtype of the same order that the kernels sort; None if there is none, or no kernel: on a GPU only
    those that sort."""
    dtype = x.dtype
    if dtype is float32 or dtype is float64 or dtype is int64 or dtype is int32:
        wide = dtype
    elif dtype.kind in FLOATING and dtype.itemsize == 2:
        wide = float32
    elif dtype.kind in "biu" and dtype.itemsize < 8:
        wide = int64 if dtype.kind == "u" and dtype.itemsize == 4 else int32
    else:
        return None
    return cast(x, wide) if on_gpu or not on_device(x) else None


def orderable(x: Any) -> Any:
    """The array in a dtype that NumPy or CuPy sorts: CuPy does not sort bfloat16, of which float32 has the order."""
    return x.astype(float32) if x.dtype.kind == "V" and on_device(x) else x


def kth_place(x: Any, k: int, axis: int) -> Any:
    """Where the k-th smallest element (k from 0; NaN is largest) along ``axis`` is; the axis is kept."""
    keys = sortable(x, on_gpu=True)
    if keys is None or x.shape[axis] >= 2**31:
        return np.take(np.argpartition(orderable(x), k, axis), [k], axis).astype(int64, copy=False)
    rows = keys.swapaxes(axis, -1)
    if on_device(x):
        places = select(keys).sort_forward(rows, k + 1, False)[1][..., k:]
    else:
        places = select(keys).select_index(rows, k)[..., None]
    return contiguous(places.swapaxes(axis, -1))


def _wide(x: Any) -> Any:
    """Integers as int64, or as floats of twice the width, which hold narrower ones."""
    dtype = x.dtype
    return x if dtype is int64 else cast(x, float64 if dtype is int32 else float32)


def _search(op: str, x: Any, axis: int | None, keepdim: bool) -> tuple[Any, Any]:
    """Extreme values of an array and their first places along ``axis``, or in the flattened array."""
    if _has_kernel(x):
        return getattr(select(x), op + "_forward")(x, axis if x.ndim else None, keepdim)  # type: ignore[no-any-return]
    if has_integer_kernels(x):
        values, indices = getattr(select(x), op + "_forward")(_wide(x), axis if x.ndim else None, keepdim)
        return cast(values, x.dtype), indices
    indices = _search_place(op, x, axis, keepdim)
    if axis is None or x.ndim == 0:
        return array(x.reshape(-1)[indices.reshape(())], x).reshape(indices.shape), indices
    kept = indices.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return select(x).gather_forward(x, axis, kept).reshape(indices.shape), indices


def _search_place(op: str, x: Any, axis: int | None, keepdim: bool) -> Any:
    """The places alone, by NumPy."""
    find = np.argmax if op == "max" else np.argmin
    return array(find(x, axis=axis if x.ndim else None, keepdims=keepdim), x, int64)


def _check_some(op: str, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    if reduced_count(shape, axes) == 0:
        error = IndexError if axes is not None or op.startswith("arg") else RuntimeError
        raise error(
            f"{op}: there is no element to choose from in a tensor of shape {shape}; dim must not be empty"
        )


def amax(input: Tensor, dim: Any = (), keepdim: bool = False, **names: Any) -> Tensor:
    """The largest element over ``dim`` (several dims possible); ties share the gradient.

    See ``torch.amax``.
    """
    if names:
        dim, keepdim = numpy_names("amax", names, dim, keepdim)
    return _amax("amax", Amax, input, dim, keepdim)


def amin(input: Tensor, dim: Any = (), keepdim: bool = False, **names: Any) -> Tensor:
    """The smallest element over ``dim`` (several dims possible); ties share the gradient.

    See ``torch.amin``.
    """
    if names:
        dim, keepdim = numpy_names("amin", names, dim, keepdim)
    return _amax("amin", Amin, input, dim, keepdim)


def _amax(op: str, kind: type[Amax], input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    x = input._data
    axes = normal_axes(op, dim, x.ndim, keepdim)
    if not x.size:
        _check_some(op, x.shape, axes)
    if (_has_kernel(x) or (x.dtype in _WHOLE and x.flags.c_contiguous)) and plain(input):
        return Tensor._wrap(getattr(select(x), kind.label + "_forward")(x, axes, keepdim))
    return kind.apply(input, axes=axes, keepdim=keepdim)  # type: ignore[no-any-return]


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """Smallest and largest element, as ``min`` and ``max``. See ``torch.aminmax``."""
    axes: Any = () if dim is None else dim
    return MinMax(amin(input, axes, keepdim), amax(input, axes, keepdim))


def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None, **names: Any) -> Any:
    """The largest element of all; with ``dim`` values and indices (the first of equals) along it; with a
    second tensor :func:`maximum`. NaN counts as largest. See ``torch.max``.

    Example:
        >>> import fastdl
        >>> values, indices = fastdl.max(fastdl.Tensor([[1.0, 5.0], [7.0, 2.0]]), dim=1)
        >>> indices.tolist()
        [1, 0]
    """
    if names:
        dim, keepdim = numpy_names("max", names, dim, keepdim)
    return _extreme("max", input, dim if other is None else other, keepdim)


def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None, **names: Any) -> Any:
    """The smallest element of all; with ``dim`` values and indices (the first of equals) along it; with a
    second tensor :func:`minimum`. NaN counts as smallest. See ``torch.min``.
    """
    if names:
        dim, keepdim = numpy_names("min", names, dim, keepdim)
    return _extreme("min", input, dim if other is None else other, keepdim)


def _extreme(op: str, input: Tensor, dim: Any, keepdim: bool) -> Any:
    if isinstance(dim, Tensor):
        return maximum(input, dim) if op == "max" else minimum(input, dim)
    if dim is None:
        return _amax(op, Max if op == "max" else Min, input, (), False)
    x = input._data
    axis = normal_axis(op, dim, x.ndim, keepdim)
    if not x.size:
        _check_some(op, x.shape, (axis,))
    values, indices = _search(op, x, axis, keepdim)
    return pick(input, values, indices, axis)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False, **names: Any) -> Tensor:
    """Where the largest element is: along ``dim``, or in the flattened tensor; the first of equals.

    See ``torch.argmax``.

    Example:
        >>> import fastdl
        >>> fastdl.argmax(fastdl.tensor([[1.0, 4.0], [3.0, 2.0]]), dim=1)
        tensor([1, 0])
    """
    if names:
        dim, keepdim = numpy_names("argmax", names, dim, keepdim)
    return _place("argmax", input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False, **names: Any) -> Tensor:
    """Where the smallest element is: along ``dim``, or in the flattened tensor;

    the first of equals. See ``torch.argmin``.
    """
    if names:
        dim, keepdim = numpy_names("argmin", names, dim, keepdim)
    return _place("argmin", input, dim, keepdim)


def _place(op: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    x = input._data
    if x.dtype.kind == "c":
        raise not_for_complex(op, "they have no order; use x.abs()")
    last = normal_axis(op, -1 if dim is None else dim, x.ndim, keepdim)
    axis = None if dim is None else last
    _check_some(op, x.shape, None if axis is None else (axis,))
    integers = has_integer_kernels(x)
    if integers or _has_kernel(x):
        search = getattr(select(x), op[3:] + "_forward")
        return Tensor._wrap(search(_wide(x) if integers else x, axis if x.ndim else None, keepdim)[1])
    return Tensor._wrap(_search_place(op[3:], x, axis, keepdim))


def median(input: Tensor, dim: int | None = None, keepdim: bool = False, **names: Any) -> Any:
    """The lower of the middle elements, NaN if there is one; with ``dim`` values and indices.

    See ``torch.median``.
    """
    if names:
        dim, keepdim = numpy_names("median", names, dim, keepdim)
    x = input._data
    if dim is None:
        if x.size == 0:
            return input.sum() * np.nan if x.dtype.kind in FLOATING else Tensor._wrap(full((), 0, x.dtype, x))
        return Median.apply(input)
    axis = normal_axis("median", dim, x.ndim, keepdim)
    _check_some("median", x.shape, (axis,))
    if x.ndim == 0:
        return pick(input, x.copy(), np.zeros((), int64, like=x), 0)
    indices = kth_place(x, (x.shape[axis] - 1) // 2, axis)
    if x.dtype.kind in FLOATING:
        largest, first = _search("max", x, axis, True)  # the first NaN of a row that has one
        missing = largest != largest
        if on_device(x) or missing.any():
            indices = np.where(missing, first, indices)
    return at_places(input, indices, axis, keepdim)


def at_places(input: Tensor, indices: Any, axis: int, keepdim: bool) -> ValuesIndices:
    """The elements at ``indices``, one along ``axis``, and these."""
    x = input._data
    values = select(x).gather_forward(x, axis, indices)
    if not keepdim:
        values, indices = values.squeeze(axis), indices.squeeze(axis)
    return pick(input, values, indices, axis)

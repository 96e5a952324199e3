"""Order along an axis: sorting, the k best, running sums and products, unique elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import NoKernel, Op
from fastdl.dtypes import FLOATING, as_dtype, bool_, float32, float64, int64, is_half
from fastdl.errors import not_for_complex
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import any_true, cast, contiguous, empty
from fastdl.ops.axes import normal_axis, numpy_names
from fastdl.ops.extreme import ValuesIndices, at_places, kth_place, orderable, pick, sortable
from fastdl.ops.extreme import max as best_along
from fastdl.ops.join import stack
from fastdl.ops.masks import pick as chosen
from fastdl.tensor import Tensor


def _order(x: Any, axis: int, descending: bool) -> Any:
    """Indices that sort stably; NaN counts as largest."""
    x = orderable(x)
    if not descending:
        return np.argsort(x, axis, kind="stable")
    # Reversed twice, equal elements keep their order.
    return np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)


def _taken(input: Tensor, indices: Any, axis: int) -> ValuesIndices:
    indices = contiguous(indices, int64)
    return pick(input, np.take_along_axis(input._data, indices, axis), indices, axis)


def _first(input: Tensor, k: int, axis: int, descending: bool) -> ValuesIndices | None:
    """The first ``k`` in order by the kernel; None where it does not apply."""
    x = input._data
    keys = sortable(x, on_gpu=True)
    if keys is None or x.shape[axis] >= 2**31:
        return None
    if axis == x.ndim - 1:
        values, indices = select(keys).sort_forward(keys, k, descending)
    else:
        values, indices = select(keys).sort_forward(keys.swapaxes(axis, -1), k, descending)
        values, indices = contiguous(values.swapaxes(axis, -1)), contiguous(indices.swapaxes(axis, -1))
    return pick(input, cast(values, x.dtype), indices, axis)


def _scalar(input: Tensor) -> ValuesIndices:
    return pick(input, input._data.copy(), np.zeros((), int64, like=input._data), 0)


def sort(
    input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False, **names: Any
) -> ValuesIndices:
    """Values in order along ``dim``, and where they were. Always stable; NaN counts as largest. See
    ``torch.sort``.

    Example:
        >>> import fastdl
        >>> fastdl.sort(fastdl.Tensor([3.0, 1.0, 2.0])).indices.tolist()
        [1, 2, 0]
    """
    if names:
        dim, _ = numpy_names("sort", names, dim)
    x = input._data
    axis = normal_axis("sort", dim, x.ndim)
    if x.ndim == 0:
        return _scalar(input)
    return _first(input, x.shape[axis], axis, descending) or _taken(input, _order(x, axis, descending), axis)


def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False, **names: Any
) -> Tensor:
    """The indices that sort along ``dim``. See ``torch.argsort``."""
    if names:
        dim, _ = numpy_names("argsort", names, dim)
    return sort(input.detach(), dim, descending).indices


def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, **names: Any
) -> ValuesIndices:
    """The ``k`` largest (or smallest) elements along ``dim``, best first, and where they are.

    See ``torch.topk``.

    Example:
        >>> import fastdl
        >>> values, indices = fastdl.topk(fastdl.tensor([1.0, 4.0, 3.0]), 2)
        >>> values, indices
        (tensor([4., 3.]), tensor([1, 2]))
    """
    if names:
        dim, _ = numpy_names("topk", names, dim)
    x = input._data
    axis = normal_axis("topk", dim, x.ndim)
    n = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= n:
        raise RuntimeError(f"topk: k must be in [0, {n}], the extent of dim {dim}, got {k}")
    if x.ndim == 0:
        return _scalar(input) if k else pick(input, empty((0,), x.dtype, x), empty((0,), int64, x), 0)
    if k == 1 and largest and x.size and x.dtype.kind in FLOATING:
        return best_along(input, axis, True)  # type: ignore[no-any-return]
    found = _first(input, k, axis, largest)
    if found is not None:
        return found
    if k == 0 or 4 * k >= n:
        return _taken(input, np.take(_order(x, axis, largest), list(range(k)), axis), axis)
    at = n - k if largest else k - 1
    best = np.take(
        np.argpartition(orderable(x), at, axis), range(n - k, n) if largest else list(range(k)), axis
    )
    best.sort(axis)
    inner = _order(np.take_along_axis(x, best, axis), axis, largest)
    return _taken(input, np.take_along_axis(best, inner, axis), axis)


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The ``k``-th smallest element along ``dim`` (k from 1), and where it is. See ``torch.kthvalue``."""
    x = input._data
    axis = normal_axis("kthvalue", dim, x.ndim, keepdim)
    n = x.shape[axis] if x.ndim else 1
    if n == 0:
        raise IndexError(f"kthvalue: dim {dim} of a tensor of shape {x.shape} is empty")
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue: k must be in [1, {n}], the extent of dim {dim}, got {k}")
    if x.ndim == 0:
        return _scalar(input)
    return at_places(input, kth_place(x, k - 1, axis), axis, keepdim)


def _accumulated(run: Any, x: Any, axis: int, dtype: Any) -> Any:
    """``numpy.cumsum`` or ``numpy.cumprod`` in pooled memory."""
    if dtype.itemsize == 2 and dtype.kind in FLOATING:
        raise NoKernel(f"running sums and products are not taken in {dtype}")
    result = empty(x.shape, dtype, x)
    if x.ndim == 0:
        result[...] = x
    else:
        with np.errstate(all="ignore"):
            run(x, axis, dtype, result)
    return result


def _reversed_sum(grad: Any, axis: int) -> Any:
    """result[i] = grad[i] + grad[i + 1] + ..."""
    if grad.ndim == 0:
        return grad.copy()
    if grad.dtype is float32 or grad.dtype is float64:
        return select(grad).running_sum(grad, axis, True)
    return np.flip(_accumulated(np.cumsum, np.flip(grad, axis), axis, grad.dtype), axis)


class Cumsum(Op):
    floats_only = True
    release = Op.stay

    def forward(self, x: Any, axis: int) -> Any:
        self.axis = axis
        if x.ndim > 0 and (x.dtype is float32 or x.dtype is float64):
            return select(x).running_sum(x, axis)
        if x.ndim > 0 and x.dtype.kind not in FLOATING and not on_device(x):
            return select(x).running_sum(cast(x, int64), axis)
        return _accumulated(np.cumsum, x, axis, x.dtype if x.dtype.kind in FLOATING else int64)

    def backward(self, grad: Any) -> Any:
        return _reversed_sum(grad, self.axis)

    def backward_graph(self, grad: Tensor) -> Any:
        return _reversed_sum_graph(grad, self.axis)


def _reversed_sum_graph(grad: Tensor, axis: int) -> Any:
    return grad.flip(axis).cumsum(axis).flip(axis) if grad.ndim else grad


def _products(x: Any, axis: int) -> Any:
    dtype = x.dtype if x.dtype.kind in FLOATING else int64
    if x.ndim > 0 and dtype.itemsize >= 4 and not (on_device(x) and dtype is int64):
        return select(x).running_product(cast(x, dtype), axis)
    return _accumulated(np.cumprod, x, axis, dtype)


class Cumprod(Op):
    floats_only = True
    saves, saves_output = (0,), True

    def forward(self, x: Any, axis: int) -> Any:
        self.x, self.axis = x, axis
        self.y = _products(x, axis)
        return self.y

    def backward(self, grad: Any) -> Any:
        """grad_x[i] = sum over j >= i of grad[j] y[j] / x[i];

        at the first zero y without that factor, 0 after it.
        """
        x, axis = self.x, self.axis
        k = select(grad)
        zero = k.eq_forward(x, 0.0)
        plain = k.div_forward(_reversed_sum(k.mul_forward(grad, self.y), axis), x)
        if x.ndim == 0:
            return grad.copy()
        if not any_true(zero):
            return plain
        before = k.ne_forward(_products(cast(~zero, x.dtype), axis), 0.0)  # the first zero
        first = zero.copy()
        later, earlier = [(*(slice(None),) * axis, part) for part in (slice(1, None), slice(None, -1))]
        first[later] &= before[earlier]
        without = _products(k.where_forward(first, 1.0, x), axis)
        at_first = _reversed_sum(k.mul_forward(grad, without), axis)
        return k.where_forward(before, plain, k.where_forward(first, at_first, 0.0))

    def backward_graph(self, grad: Tensor) -> Any:
        axis = self.axis
        if grad.ndim == 0:
            return grad
        if self.x.all():
            y = self.saved_output(self.y)
            return _reversed_sum_graph(grad * y, axis) / self.saved_input(0, self.x)

        def composed(x: Tensor) -> Any:  # one by one: right for zeros, too
            factors = x.unbind(axis)
            products = [factors[0]]
            for factor in factors[1:]:
                products.append(products[-1] * factor)
            return stack(products, axis)

        return replay(self, grad, composed, self.x)


def _running(op: str, kind: type[Op], input: Tensor, dim: int, dtype: Any) -> Tensor:
    if dtype is not None:
        input = input.to(as_dtype(op, dtype))
    if dim is None:
        raise TypeError(f"{op}: dim is missing: the axis to run along")
    axis = normal_axis(op, dim, input._data.ndim)
    result: Tensor = kind.apply(input, axis=axis)
    return result if dtype is None else result.to(input.dtype)


def cumsum(input: Tensor, dim: Any = None, *, dtype: Any = None, axis: Any = None) -> Tensor:
    """Running sums along ``dim``; integers and bools add up in int64. See ``torch.cumsum``."""
    return _running("cumsum", Cumsum, input, dim if axis is None else axis, dtype)


def cumprod(input: Tensor, dim: Any = None, *, dtype: Any = None, axis: Any = None) -> Tensor:
    """Running products along ``dim``; integers and bools multiply in int64. See ``torch.cumprod``."""
    return _running("cumprod", Cumprod, input, dim if axis is None else axis, dtype)


def _unique(x: Any, inverse: bool, counts: bool) -> Any:
    """The distinct elements of all: those of the sorted ones that differ from the one before."""
    flat = x.reshape(-1)
    if is_half(x.dtype):  # which NumPy compares one by one
        flat = cast(flat, float32)
    keys = sortable(flat) if inverse or x.dtype.kind in "iu" else None
    if keys is None:
        order, ordered = np.argsort(flat, kind="stable") if inverse else None, np.sort(flat)
    else:
        ordered, order = select(keys).sort_forward(keys, flat.size, False)
        ordered = cast(ordered, flat.dtype)
    new = empty(flat.shape, bool_, x)
    new[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    results = [Tensor._wrap(cast(chosen(ordered, new), x.dtype))]
    if inverse:
        places = empty(flat.shape, int64, x)
        if flat.size:
            group = select(x).running_sum(cast(new, int64), 0)
            group -= 1
            select(x).scatter(places, 0, order, group)
        results.append(Tensor._wrap(places.reshape(x.shape)))
    if counts:
        first = select(x).nonzero(new)[:, 0]
        numbers = empty(first.shape, int64, x)
        np.subtract(first[1:], first[:-1], out=numbers[:-1])
        numbers[-1:] = flat.size - first[-1:]
        results.append(Tensor._wrap(numbers))
    return results[0] if len(results) == 1 else tuple(results)


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements (with ``dim`` the distinct slices), always sorted; where every element went, and
    how often each occurs, if asked for. See ``torch.unique``.
    """
    x = input._data
    if x.dtype.kind == "c":
        raise not_for_complex("unique", "they have no order; use view_as_real(x) and dim=")
    axis = None if dim is None else normal_axis("unique", dim, x.ndim)
    if axis is not None and x.ndim == 0:
        raise IndexError(f"unique: dim {dim} of a tensor of 0 dimensions")
    if axis is None and not on_device(x):
        return _unique(x, return_inverse, return_counts)
    found: Any = np.unique(  # type: ignore[call-overload]
        orderable(x), False, return_inverse, return_counts, axis, equal_nan=False
    )
    if not (return_inverse or return_counts):
        return Tensor._wrap(found.astype(x.dtype, copy=False))
    results = list(found)
    results[0] = results[0].astype(x.dtype, copy=False)
    if return_inverse:
        results[1] = results[1].reshape(x.shape if axis is None else (x.shape[axis],))
    return tuple([Tensor._wrap(contiguous(r)) for r in results])

"""Arithmetic of sparse tensors, and functions that leave zero where it is: done to the values.

What is not linear needs all of an element, so it coalesces first.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.arrays import assign
from fastdl.devices import device_of, to_device, to_host
from fastdl.errors import ArgumentError
from fastdl.kernels import is_array
from fastdl.kernels.sparse import Pattern, SparseArray, linear_index, not_for_sparse
from fastdl.ops import elementwise
from fastdl.ops.gather import IndexAdd
from fastdl.ops.join import cat
from fastdl.ops.promotion import result_type
from fastdl.sparse.conversion import coalesce, is_sparse, to_sparse, to_sparse_csr
from fastdl.sparse.tensor import chosen, made
from fastdl.tensor import Tensor

# f(0) = 0, elementwise.
ZERO_STAYS = """abs absolute asin arcsin asinh arcsinh atan arctan atanh arctanh ceil deg2rad erf erfinv expm1 floor
    frac isinf isnan isneginf isposinf log1p nan_to_num rad2deg relu round sgn sign signbit sin sinh sqrt square tan
    tanh trunc fix"""


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not is_sparse(value)
    return not is_array(value) or value.ndim == 0


def _on_values(function: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    return made(x._data.pattern, function(x._data.values, *args, **options))  # type: ignore[no-any-return]


def _coalesced(x: Tensor) -> Tensor:
    """Every element whole."""
    return coalesce(x) if x._data.pattern.layout == "sparse_coo" else x


def _like_layout(result: Tensor, *operands: Tensor) -> Tensor:
    csr = all([t._data.pattern.layout == "sparse_csr" for t in operands])
    return to_sparse_csr(result) if csr else result


def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other`` of two sparse tensors, or of a dense and a sparse one (a dense result)."""
    if is_sparse(input) and is_sparse(other):
        return _joined("add", input, other if alpha == 1 else mul(other, alpha))
    if is_sparse(input):
        raise ArgumentError("add(sparse, dense) is not supported. Use add(dense, sparse) instead.")
    if not isinstance(input, Tensor) or input.shape != other.shape:
        size = list(input.shape) if isinstance(input, Tensor) else []
        raise ArgumentError(
            f"add: expected 'self' and 'other' to have same size, but self has size {size} while other has size "
            f"{list(other.shape)} (FYI: dense-sparse addition does not currently support broadcasting)"
        )
    dtype, pattern = result_type(input, other), other._data.pattern
    values = other._data.values.to(dtype)
    values = values if alpha == 1 else values * alpha
    flat = input.to(dtype).reshape(prod(pattern.shape), *other.shape[len(pattern.shape) :])
    total = IndexAdd.apply(flat, values, dim=0, index=pattern.linear(), alpha=1)
    return total.reshape(input.shape)  # type: ignore[no-any-return]


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``; as :func:`add`."""
    return add(input, other, alpha=-alpha)


def _joined(op: str, a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        raise ArgumentError(
            f"{op}: expected sizes of 'self' and 'other' to match, but {list(a.shape)} != {list(b.shape)}"
        )
    dtype, x, y = result_type(a, b), to_sparse(a)._data, to_sparse(b)._data
    if len(x.pattern.shape) != len(y.pattern.shape):
        raise ArgumentError(f"{op}: both tensors must have as many sparse axes")
    u, v = x.values.to(dtype), y.values.to(dtype)
    if x.pattern.coalesced and (x.pattern is y.pattern):
        return _like_layout(made(x.pattern, u + v), a, b)
    pattern = Pattern(
        "sparse_coo", x.pattern.shape, np.concatenate([x.pattern.indices, y.pattern.indices], 1)
    )
    both = made(pattern, cat((u, v)))
    return _like_layout(coalesce(both) if x.pattern.coalesced and y.pattern.coalesced else both, a, b)


def mul(input: Any, other: Any) -> Tensor:
    """The product elementwise: with a number, with a dense tensor that broadcasts to the sparse one, or of two."""
    if not is_sparse(input):
        input, other = other, input
    if _is_number(other):
        return _on_values(elementwise.mul, input, other)
    if is_sparse(other):
        return _intersection(input, other)
    array, other = input._data, other if isinstance(other, Tensor) else Tensor._wrap(other)
    sparse, missing = len(array.pattern.shape), input.ndim - other.ndim
    fits = missing >= 0 and all(
        [n in (1, m) for n, m in zip(other.shape, input.shape[missing:], strict=True)]
    )
    if not fits:
        raise not_for_sparse(f"mul of shapes {tuple(input.shape)} and {tuple(other.shape)}")
    shape = (1,) * missing + tuple(other.shape)
    if shape[:sparse] == array.pattern.shape:
        places = array.pattern.linear()
    else:
        indices = to_host(array.pattern.indices)
        places = np.zeros(indices.shape[1], np.int64)
        for row, extent in zip(indices, shape, strict=False):
            places = places if extent == 1 else places * extent + row
        places = _there(places, array)
    factors = chosen(other.reshape(prod(shape[:sparse]), *shape[sparse:]), places)
    return _on_values(elementwise.mul, input, factors)


def _there(places: Any, array: SparseArray) -> Any:
    return to_device(places, device_of(array.values._data))


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        raise ArgumentError(f"mul: two sparse tensors must have one shape, got {a.shape} and {b.shape}")
    x, y = coalesce(to_sparse(a))._data, coalesce(to_sparse(b))._data
    if x.pattern.shape != y.pattern.shape:
        raise ArgumentError("mul: both tensors must have as many sparse axes")
    if x.pattern is y.pattern:
        return _like_layout(made(x.pattern, x.values * y.values), a, b)
    in_x, in_y = [linear_index(to_host(each.pattern.indices), x.pattern.shape) for each in (x, y)]
    _, left, right = np.intersect1d(in_x, in_y, assume_unique=True, return_indices=True)
    left, right = _there(left, x), _there(right, x)
    indices = x.pattern.indices[:, left]
    pattern = Pattern("sparse_coo", x.pattern.shape, indices, coalesced=True)
    return _like_layout(made(pattern, chosen(x.values, left) * chosen(y.values, right)), a, b)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """A sparse tensor divided by a number or a tensor of 0 dimensions."""
    if not is_sparse(input):
        raise not_for_sparse("div by a sparse tensor")
    if not _is_number(other):
        raise ArgumentError(
            "Sparse division requires a scalar or zero-dim dense tensor divisor (got shape "
            f"{list(other.shape)} for divisor)"
        )
    if rounding_mode is not None:
        input = _coalesced(input)
    return _on_values(elementwise.div, input, other, rounding_mode=rounding_mode)


def floor_divide(input: Any, other: Any) -> Tensor:
    """:func:`div`, rounded down."""
    return div(input, other, rounding_mode="floor")


def pow(input: Any, exponent: Any) -> Tensor:
    """The elements raised to a number."""
    if not is_sparse(input) or not _is_number(exponent):
        raise not_for_sparse("pow, but to a number,")
    if exponent == 0:
        raise ArgumentError(
            "pow: cannot raise to zeroth power on sparse tensor; it would make the result tensor dense"
        )
    return _on_values(elementwise.pow, _coalesced(input), exponent)


def neg(input: Tensor) -> Tensor:
    """The elements with the other sign."""
    return _on_values(elementwise.neg, input)


def positive(input: Tensor) -> Tensor:
    """The tensor itself."""
    return input


def _function(name: str) -> Any:
    def function(input: Tensor, inplace: bool = False, **options: Any) -> Tensor:
        if inplace is not False:
            raise not_for_sparse(f"{name} in place")
        array = _coalesced(input)._data
        return made(array.pattern, getattr(array.values, name)(**options))  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    return function


FUNCTIONS: dict[str, Any] = {
    **{name: _function(name) for name in ZERO_STAYS.split()},
    "add": add,
    "sub": sub,
    "subtract": sub,
    "mul": mul,
    "multiply": mul,
    "div": div,
    "divide": div,
    "true_divide": div,
    "floor_divide": floor_divide,
    "pow": pow,
    "neg": neg,
    "negative": neg,
    "positive": positive,
}


def in_place(name: str) -> Any:
    """``x.name_(...)``: the result takes the place of what ``x`` held."""
    function = FUNCTIONS[name]

    def method(self: Any, *args: Any, **options: Any) -> Any:
        if self._requires_grad:
            raise RuntimeError(f"{name}_: a sparse tensor that requires a gradient is not changed in place")
        result = function(self, *args, **options)
        if result.dtype != self.dtype or result.layout is not self.layout:
            raise RuntimeError(
                f"result type {result.dtype} can't be cast to the desired output type {self.dtype}"
            )
        self._data.become(result._data.pattern, result._data.values)
        self._bump_version()
        return self

    return method


def copy_(self: Any, src: Tensor, non_blocking: bool = False) -> Any:
    """Take over the entries of another sparse tensor, in this one's dtype."""
    if not is_sparse(src) or not is_sparse(self):
        raise not_for_sparse("copy_ between dense and sparse tensors")
    if self.shape != src.shape or self.layout is not src.layout:
        raise ArgumentError(f"copy_: both must have one shape and layout, got {self.shape} and {src.shape}")
    moved = src.detach().to(self.device, self.dtype, copy=True)
    self._data.become(moved._data.pattern, moved._data.values)
    self._bump_version()
    return self


def into(out: Any, result: Tensor) -> Tensor:
    """A result stored in the dense array ``out``, for operations in place."""
    if is_sparse(result):
        raise not_for_sparse("storing a sparse result in a dense tensor")
    assign(out, result._data)
    return Tensor._wrap(out)

"""What sparse tensors hold in the place of an array: a pattern, which says where the entries are, and their values.

A pattern never changes, so tensors share it (``2 * x`` has that of ``x``), and with it what products have found out:
the entries by row and by column. Work on indices is NumPy's, on the CPU; the arrays lie where the values do.

The values are a tensor, which is how gradients reach them: what is computed with a sparse tensor is computed with its
values. :class:`SparseArray` has an array's shape and dtype and nothing else; whoever takes it for one gets an error.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastdl.kernels import select
from fastdl.kernels.stand_in import StandIn


class SparseOperand(NotImplementedError, TypeError, AttributeError):
    """A sparse tensor where an operation is defined for dense ones."""


def not_for_sparse(op: str = "") -> SparseOperand:
    """The error for a sparse tensor where an operation takes dense ones."""
    return SparseOperand(f"{op or 'this operation'}: is not there for sparse tensors; use x.to_dense()")


class Runs(NamedTuple):
    """Entries by row: those of row r are start[r] to start[r + 1], in these columns.

    ``order`` says which values they are; None: all, one after the other.
    """

    start: Any
    column: Any
    order: Any


class Pattern:
    """Where the entries of a sparse tensor are, in one of the layouts ``sparse_coo``, ``sparse_csr``, ``sparse_csc``.

    ``shape`` has the sparse axes. A coordinate pattern has ``indices`` (axes, entries), a compressed one ``start``
    (rows + 1) and ``inner`` (entries), of columns where it is CSC. ``coalesced``: sorted, and no place twice.
    """

    __slots__ = (
        "_columns",
        "_indices",
        "_linear",
        "_merged",
        "_rows",
        "coalesced",
        "inner",
        "layout",
        "shape",
        "start",
    )

    def __init__(
        self,
        layout: str,
        shape: tuple[int, ...],
        indices: Any = None,
        start: Any = None,
        inner: Any = None,
        coalesced: bool = False,
    ) -> None:
        self.layout, self.shape, self.coalesced = layout, shape, coalesced
        self._indices, self.start, self.inner = indices, start, inner
        self._rows: Runs | None = None
        self._columns: Runs | None = None
        self._linear: Any = None
        self._merged: Any = None

    @property
    def count(self) -> int:
        """How many entries there are."""
        return int((self.inner if self._indices is None else self._indices).shape[-1])

    @property
    def indices(self) -> Any:
        """The places of all entries, (axes, entries), in the order of the values."""
        if self._indices is None:
            outer = np.repeat(np.arange(len(self.start) - 1), np.diff(_host(self.start)))
            pair = (outer, _host(self.inner))
            self._indices = _like(np.stack(pair if self.layout == "sparse_csr" else pair[::-1]), self.inner)
        return self._indices

    def by_row(self) -> Runs:
        """The entries of a matrix by row."""
        if self._rows is None:
            if self.layout == "sparse_csr":
                self._rows = Runs(self.start, self.inner, None)
            else:
                self._rows = grouped(self.indices[0], self.indices[1], self.shape[0])
        return self._rows

    def by_column(self) -> Runs:
        """The same of the transposed matrix."""
        if self._columns is None:
            if self.layout == "sparse_csc":
                self._columns = Runs(self.start, self.inner, None)
            else:
                self._columns = grouped(self.indices[1], self.indices[0], self.shape[1])
        return self._columns

    def transposed(self) -> Pattern:
        """The pattern of the transposed matrix."""
        if self.layout == "sparse_coo":
            result = Pattern("sparse_coo", self.shape[::-1], self.indices[::-1].copy())
        else:
            layout = "sparse_csc" if self.layout == "sparse_csr" else "sparse_csr"
            result = Pattern(layout, self.shape[::-1], None, self.start, self.inner, self.coalesced)
        result._rows, result._columns = self._columns, self._rows
        return result

    def coordinates(self) -> Pattern:
        """The same entries in coordinates."""
        if self.layout == "sparse_coo":
            return self
        sorted = self.layout == "sparse_csr" and self.coalesced
        return Pattern("sparse_coo", self.shape, self.indices, coalesced=sorted)

    def linear(self) -> Any:
        """Every place as one number, rows of the dense tensor one after the other."""
        if self._linear is None:
            self._linear = _like(linear_index(_host(self.indices), self.shape), self.indices)
        return self._linear

    def flat(self, dense: Any) -> Any:
        """A dense array with its sparse axes as one: a view, or where there is none a copy, see :meth:`store`."""
        return dense.reshape(prod(self.shape), *dense.shape[len(self.shape) :])

    def store(self, flat: Any, dense: Any) -> None:
        """What was written to :meth:`flat` of a dense array is in that array after this."""
        from fastdl.arrays import assign

        if len(self.shape) > 1 and not dense.flags.c_contiguous:
            assign(dense, flat.reshape(dense.shape))

    def merged(self) -> tuple[Pattern, Any, Any]:
        """The coalesced pattern; which of the values it has, in its order; and to which of them each value goes.

        None for the second: all as they are; for the third: no place is there twice.
        """
        if self._merged is None:
            self._merged = self._merge()
        return self._merged  # type: ignore[no-any-return]

    def _merge(self) -> tuple[Pattern, Any, Any]:
        indices, like = _host(self.indices), self.indices
        places = linear_index(indices, self.shape)
        if self.coalesced or bool((places[1:] > places[:-1]).all()):
            return Pattern("sparse_coo", self.shape, self.indices, coalesced=True), None, None
        places, order = select(None).sort_forward(places, places.size, False)
        first = np.concatenate([[True], places[1:] != places[:-1]])
        chosen = order[first]
        pattern = Pattern(
            "sparse_coo", self.shape, _like(np.ascontiguousarray(indices[:, chosen]), like), coalesced=True
        )
        if len(chosen) == len(order):
            return pattern, _like(chosen, like), None
        goes_to = np.empty_like(order)
        goes_to[order] = first.cumsum() - 1
        return pattern, _like(chosen, like), _like(goes_to, like)

    def moved(self, where: Any) -> Pattern:
        """The pattern with its arrays on another device."""
        from fastdl.devices import to_device

        arrays = (self._indices, self.start, self.inner)
        indices, start, inner = [None if a is None else to_device(a, where) for a in arrays]
        return Pattern(self.layout, self.shape, indices, start, inner, self.coalesced)


def linear_index(indices: Any, shape: tuple[int, ...]) -> Any:
    """Places (axes, entries) as one number each."""
    if prod(shape) >= 2**63:
        raise OverflowError(f"a sparse tensor of shape {shape} has more places than 64 bits can count")
    if len(shape) == 1:
        return indices[0]
    result = np.zeros(indices.shape[-1], np.int64)
    for row, extent in zip(indices, shape, strict=True):
        result *= extent
        result += row
    return result


def grouped(major: Any, minor: Any, count: int) -> Runs:
    """Entries (major, minor) by the first, of which there are ``count``; stable."""
    like = major
    major, minor, order = _host(major), np.ascontiguousarray(_host(minor)), None
    if major.size and (major[1:] < major[:-1]).any():
        major, order = select(None).sort_forward(np.ascontiguousarray(major), major.size, False)
        minor = minor[order]
        order = _like(order, like)
    start = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(major, minlength=count), out=start[1:])
    return Runs(_like(start, like), _like(minor, like), order)


def _host(array: Any) -> Any:
    from fastdl.devices import to_host

    return to_host(array)


def _like(array: Any, like: Any) -> Any:
    """A NumPy array of numbers where ``like`` lies."""
    from fastdl.devices import device_of, to_device

    return to_device(array, device_of(like))


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise not_for_sparse()


class _Flags:
    """What a gradient is asked before it is kept; nobody writes to a sparse array."""

    c_contiguous = True

    def __getattr__(self, name: str) -> Any:
        raise not_for_sparse()


class SparseArray(StandIn):
    """A pattern and the tensor of its values, (entries, *dense axes).

    ``fixed``: no operation in place may give it others.
    """

    __slots__ = ("fixed", "pattern", "values")
    made = False
    """Has this process any? Who would have to look for them everywhere looks here first."""
    flags: Any = _Flags()

    def __init__(self, pattern: Pattern, values: Any, fixed: bool = False) -> None:
        self.pattern, self.values, self.fixed = pattern, values, fixed
        SparseArray.made = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of all axes, sparse ones first."""
        return self.pattern.shape + self.values._data.shape[1:]  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.pattern.shape) + self.values._data.ndim - 1  # type: ignore[no-any-return]

    def become(self, pattern: Pattern, values: Any) -> None:
        """Take over other entries, for operations in place."""
        if self.fixed:
            raise RuntimeError(
                "a sparse tensor's gradient is made of that of its values, and is not changed in place; use a copy or "
                "x.grad = None"
            )
        self.pattern, self.values = pattern, values

    def fill(self, value: Any) -> None:
        """Zero is no entry at all."""
        if value != 0:
            raise not_for_sparse("fill_")
        values, shape = self.values._data, self.pattern.shape
        indices = np.zeros((len(shape), 0), np.int64, like=self.pattern.indices)
        none = type(self.values)._wrap(np.zeros((0, *values.shape[1:]), values.dtype, like=values))
        self.become(Pattern("sparse_coo", shape, indices), none)

    def copied(self) -> SparseArray:
        """The same entries, in memory of their own and without history."""
        return SparseArray(self.pattern, self.values.detach().clone())

    def onto(self, dense: Any) -> Any:
        """Add the values to a dense array in place; returns it."""
        from fastdl.ops.gather import IndexAdd

        wrap, flat = type(self.values)._wrap, self.pattern.flat(dense)
        values = self.values.detach()
        IndexAdd.apply(wrap(flat), values, dim=0, index=self.pattern.linear(), alpha=1, out=flat)
        self.pattern.store(flat, dense)
        return dense

    def joined(self, other: SparseArray) -> SparseArray:
        """The sum of two in coordinates: the entries of both, one after the other."""
        wrap = type(self.values)._wrap
        indices = np.concatenate([self.pattern.indices, other.pattern.indices], 1)
        values = np.concatenate([self.values._data, other.values._data])
        return SparseArray(Pattern("sparse_coo", self.pattern.shape, indices), wrap(values))

    def __getattr__(self, name: str) -> Any:
        raise not_for_sparse()

    __array__ = __array_ufunc__ = __array_function__ = _refuse


def is_sparse(value: Any) -> bool:
    """Is this a sparse tensor?"""
    return getattr(value, "_data", None).__class__ is SparseArray


def added(x: Any, y: Any, out: Any) -> Any:
    """x + y of arrays, of which at least one is sparse: gradients that meet. In ``out`` if that is ``x`` and can be."""
    if x.__class__ is y.__class__:
        both = x.joined(y)
        if out is not x:
            return both
        x.pattern, x.values = both.pattern, both.values
        return x
    if x.__class__ is SparseArray:
        return x.onto(_copy(y))
    return y.onto(x if out is x else _copy(x))


def _copy(array: Any) -> Any:
    from fastdl.arrays import pooled_copy

    return pooled_copy(array)

"""``SparseTensor``: what a tensor is whose ``_data`` is a pattern and values instead of an array.

It has no graph and no gradient of its own: both are those of its values, a tensor. So an operation on sparse tensors is
an operation on values, with the pattern as an option, and differentiates to any order. The class shows the values'
history as a tensor's, adds what only sparse tensors have, and refuses all that is not defined for them.
"""

from __future__ import annotations

from typing import Any, Self

from fastdl import _graph
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Link, Op
from fastdl.compat import layout, sparse_coo, sparse_csc, sparse_csr
from fastdl.kernels import select
from fastdl.kernels.sparse import Pattern, SparseArray, not_for_sparse
from fastdl.ops.arrays import zeros
from fastdl.ops.cast import parse_to
from fastdl.ops.gather import IndexAdd
from fastdl.ops.indexing import IndexSelect
from fastdl.printing import dtype_note, tensor_repr, with_notes
from fastdl.stand_in import StandInTensor
from fastdl.tensor import Tensor

_LAYOUTS = {"sparse_coo": sparse_coo, "sparse_csr": sparse_csr, "sparse_csc": sparse_csc}


def made(pattern: Pattern, values: Tensor) -> Any:
    """A sparse tensor."""
    return Tensor._wrap(SparseArray(pattern, values))


def alias(values: Tensor) -> Tensor:
    """Another tensor on the memory of ``values``, with their history: no leaf where they require a gradient."""
    if not (values._requires_grad and mode.enabled):
        return values.detach()
    result: Tensor = Link.apply(values)
    result._counter = values._version_cell()
    return result


def chosen(values: Tensor, order: Any) -> Tensor:
    """The values at the places ``order``; None: all."""
    return values if order is None else IndexSelect.apply(values, dim=0, index=order)


class Summed(Op):
    """The sums of the values that go to each of ``count`` places."""

    takes_complex = True

    def forward(self, values: Any, goes_to: Any, count: int) -> Any:
        self.goes_to = goes_to
        result = zeros((count, *values.shape[1:]), values.dtype, values)
        return IndexAdd().forward(result, values, 0, goes_to, 1, result)

    def backward(self, grad: Any) -> Any:
        return select(grad).index_select_forward(grad, 0, self.goes_to)

    def backward_graph(self, grad: Tensor) -> Any:
        return chosen(grad, self.goes_to)


def summed(values: Tensor, goes_to: Any, count: int) -> Tensor:
    """The sums of the values that go to each of ``count`` places."""
    if values._data.dtype.kind == "b":
        return summed(values.int(), goes_to, count).bool()
    return Summed.apply(values, goes_to=goes_to, count=count)  # type: ignore[no-any-return]


class SparseTensor(StandInTensor):
    """A tensor of which only some elements are stored; see ``torch.sparse``.

    Made by :func:`fastdl.sparse_coo_tensor`, :func:`fastdl.sparse_csr_tensor`, ``x.to_sparse()`` and operations.

    Example:
        >>> import fastdl
        >>> x = fastdl.eye(2).to_sparse()
        >>> x.layout, x @ fastdl.tensor([[1.0], [2.0]])
        (fastdl.sparse_coo, tensor([[1.],
                [2.]]))
    """

    _data: SparseArray

    def __init__(self, *data: Any) -> None:
        raise TypeError("SparseTensor: is made by sparse_coo_tensor(indices, values, size)")

    # ---------------------------------------------------------------------- what the values know of autograd

    @property
    def _requires_grad(self) -> bool:
        return bool(self._data.values._requires_grad)

    @_requires_grad.setter
    def _requires_grad(self, value: bool) -> None:
        array = self._data
        if value and not array.values._requires_grad:
            # What this was detached from holds the same, and stays as it is.
            self._data = array = SparseArray(array.pattern, array.values.detach(), array.fixed)
        array.values._requires_grad = value

    @property
    def _node(self) -> Any:
        return self._data.values._node

    @_node.setter
    def _node(self, value: Any) -> None:
        self._data.values._node = value

    @property
    def _grad(self) -> Any:
        """In the tensor's own places. Where one is there twice, its gradient stands at the first: it is one element."""
        grad = self._data.values._grad
        if grad is None:
            return None
        pattern = self._data.pattern
        if pattern.layout != "sparse_coo":
            return _graph.wrap(SparseArray(pattern, grad, fixed=True))
        merged, first, _ = pattern.merged()
        return _graph.wrap(SparseArray(merged, chosen(grad, first), fixed=True))

    @_grad.setter
    def _grad(self, value: Any) -> None:
        if value is not None:
            raise not_for_sparse("grad")
        self._data.values._grad = None

    @property
    def data(self) -> Any:
        """The same memory without history."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value._data

    def detach(self) -> Any:
        """A tensor on the same memory, outside the graph."""
        array = self._data
        if not array.values._requires_grad:
            return _graph.wrap(array)
        return made(array.pattern, array.values.detach())

    def retain_grad(self) -> None:
        """Keep ``.grad`` of this computed tensor in ``backward``, as for a leaf."""
        self._data.values.retain_grad()

    # -------------------------------------------------------------------------------------- shape and storage

    @property
    def layout(self) -> layout:
        """``sparse_coo``, ``sparse_csr`` or ``sparse_csc``."""
        return _LAYOUTS[self._data.pattern.layout]

    @property
    def is_sparse(self) -> bool:  # type: ignore[override]
        """Is the layout ``sparse_coo``?"""
        return self._data.pattern.layout == "sparse_coo"

    @property
    def is_sparse_csr(self) -> bool:  # type: ignore[override]
        """Is the layout ``sparse_csr``?"""
        return self._data.pattern.layout == "sparse_csr"

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """False: there is no memory with all elements."""
        return False

    def stride(self, dim: int | None = None) -> Any:
        """Zeros: there is no memory with all elements."""
        return (0,) * self._data.ndim if dim is None else 0

    # ------------------------------------------------------------------------------------------- conversions

    def numpy(self, *, force: bool = False) -> Any:
        """A TypeError."""
        raise TypeError("can't convert Sparse layout tensor to numpy. Use Tensor.to_dense() first.")

    def to(self, *args: Any, **options: Any) -> Any:
        """The tensor with another dtype, on another device; see ``torch.Tensor.to``."""
        dtype, where, non_blocking, copy = parse_to(args, options)
        array = self._data
        values = array.values.to(device=where, dtype=dtype, non_blocking=non_blocking, copy=copy)
        if values is array.values:
            return self
        moved = where is not None and where is not self.device
        return made(array.pattern.moved(where) if moved else array.pattern, values)

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """PyTorch's old name of the class, or the tensor in another dtype."""
        name = self._data.values.type(dtype)
        if dtype is None:
            return name.replace(".", ".sparse.", 1)
        return made(self._data.pattern, name)

    def clone(self, memory_format: Any = None) -> Any:
        """A copy of the values in the same places."""
        return made(self._data.pattern, self._data.values.clone())

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        return self.to_dense().item()

    # ---------------------------------------------------------------------------------------------- protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's functions, and operators with its numbers and arrays on the left, by fastdl's functions."""
        from fastdl.methods import on_ufunc

        result = on_ufunc(ufunc, inputs) if method == "__call__" and not options else None
        if result is None:
            raise not_for_sparse(f"numpy.{ufunc.__name__}")
        return result

    def __len__(self) -> int:
        return self._data.shape[0] if self._data.ndim else super().__len__()

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        return bool(self.item())

    def __iter__(self) -> Any:
        return iter(self.unbind(0))

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __copy__(self) -> Self:
        return made(self._data.pattern, self._data.values)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if id(self) not in memo:
            memo[id(self)] = made(self._data.pattern, self._data.values.__deepcopy__(memo))
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        from fastdl.sparse.creation import restored

        pattern = self._data.pattern
        places = [Tensor._wrap(a) for a in places_of(pattern)]
        values = self._data.values.detach()
        return restored, (pattern.layout, places, values, pattern.shape, pattern.coalesced)

    def __repr__(self) -> str:
        array, name = self._data, self._data.pattern.layout
        labels = {
            "sparse_csr": ("crow_indices", "col_indices"),
            "sparse_csc": ("ccol_indices", "row_indices"),
        }
        names = (*labels.get(name, ("indices",)), "values")
        parts = [*places_of(array.pattern), array.values._data]
        texts = []
        for label, part in zip(names, parts, strict=True):
            texts.append(tensor_repr(Tensor._wrap(part), f"       {label}=tensor(", plain=True).lstrip())
        notes = [f"device='{self.device}'"] if self.is_cuda else []
        notes += [f"size={tuple(self.shape)}", f"nnz={array.pattern.count}", *dtype_note(array.dtype)]
        notes.append(f"layout={self.layout!r}")
        if self._node is not None:
            notes.append(f"grad_fn=<{self._node.name()}>")
        elif self._requires_grad:
            notes.append("requires_grad=True")
        return with_notes("tensor(" + ",\n       ".join(texts), notes, 7, name == "sparse_coo")


_graph.add_stand_in(SparseArray, SparseTensor)


def places_of(pattern: Pattern) -> tuple[Any, ...]:
    """The arrays that make up a pattern of its layout."""
    return (pattern.indices,) if pattern.layout == "sparse_coo" else (pattern.start, pattern.inner)


# ------------------------------------------------------------------------------------------------- what is refused

_KEPT = """cpu cuda detach_ dim dtype element_size get_device grad grad_fn is_complex is_floating_point is_leaf
    is_meta is_mps is_nested is_pinned is_quantized is_signed itemsize ndim ndimension nelement numel output_nr
    pin_memory requires_grad requires_grad_ retains_grad share_memory_ size is_same_size
    double float half bfloat16 int long short char byte bool cfloat cdouble type_as"""
_PROTOCOLS = """eq ne lt le gt ge and or xor invert lshift rshift mod pos rand ror rxor rlshift rrshift rmod rfloordiv
    rpow iand ior ixor ilshift irshift imod int float complex index contains reversed setitem array
    dlpack dlpack_device cuda_array_interface"""


def refuse_others(cls: Any, inherited: Any) -> None:
    """Make an error of every method and property that ``cls`` inherits and that is not meant for it."""
    kept = {*vars(StandInTensor), *vars(cls), *_KEPT.split(), *inherited}
    names = [name for name in dir(Tensor) if not name.startswith("_")]
    for name in (*names, *[f"__{name}__" for name in _PROTOCOLS.split()]):
        if name not in kept:
            found = getattr(Tensor, name, None)
            setattr(cls, name, property(_error(name)) if isinstance(found, property) else _error(name))


def _error(name: str) -> Any:
    def refuse(self: Any, *_: Any, **__: Any) -> Any:
        raise not_for_sparse(name.strip("_"))

    return refuse

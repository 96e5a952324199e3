"""Sparse tensors; see ``torch.sparse``.

A tensor of which only some elements are stored: made by :func:`fastdl.sparse_coo_tensor` (places and values),
:func:`fastdl.sparse_csr_tensor` (compressed rows) or ``x.to_sparse()``. It multiplies dense matrices (``a @ x``), adds
up, scales, and gives its values gradients. What is not defined for sparse tensors says so, and ``x.to_dense()`` leads
out.
"""

from __future__ import annotations

from typing import Any

from fastdl.dtypes import float16, float32, float64, int8, int16, int32, int64, uint8
from fastdl.kernels.sparse import SparseArray, not_for_sparse
from fastdl.sparse import arithmetic, conversion, creation, parts, products
from fastdl.sparse.creation import old_type, spdiags
from fastdl.sparse.parts import log_softmax, softmax, sum
from fastdl.sparse.products import addmm, mm, sampled_addmm
from fastdl.sparse.tensor import SparseTensor, refuse_others
from fastdl.tensor import Tensor

__all__ = [
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
    "addmm",
    "check_sparse_tensor_invariants",
    "log_softmax",
    "mm",
    "sampled_addmm",
    "softmax",
    "spdiags",
    "sum",
]

FloatTensor, DoubleTensor = old_type("FloatTensor", float32), old_type("DoubleTensor", float64)
HalfTensor, LongTensor = old_type("HalfTensor", float16), old_type("LongTensor", int64)
IntTensor, ShortTensor = old_type("IntTensor", int32), old_type("ShortTensor", int16)
CharTensor, ByteTensor = old_type("CharTensor", int8), old_type("ByteTensor", uint8)


class check_sparse_tensor_invariants:
    """A block, or a switch, for checks of indices: accepted, since indices are always checked.

    See ``torch.sparse.check_sparse_tensor_invariants``.
    """

    def __init__(self, enable: bool = True) -> None:
        self.enabled = enable

    @staticmethod
    def is_enabled() -> bool:
        """True."""
        return True

    @staticmethod
    def enable() -> None:
        """Does nothing."""

    @staticmethod
    def disable() -> None:
        """Does nothing."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


# ------------------------------------------------------------------------- what functions and methods do with them

_METHODS: dict[Any, str] = {
    products: "matmul mm bmm mv addmm smm sspaddmm",
    parts: """permute transpose t unsqueeze select unbind index_select narrow_copy sum norm any""",
}
_FUNCTIONS = {
    **arithmetic.FUNCTIONS,
    **{name: getattr(module, name) for module, names in _METHODS.items() for name in names.split()},
    **{name: getattr(parts, name) for name in ("cat", "stack", "vstack", "hstack")},
    "row_stack": parts.vstack,
    **{name: getattr(products, name) for name in ("hspmm", "linear")},
    **dict.fromkeys(("concat", "concatenate"), parts.cat),
    **dict.fromkeys(("swapaxes", "swapdims"), parts.transpose),
    "addmatmul": products.addmm,
    "clone": SparseTensor.clone,
    "cast": lambda input, dtype: input.to(dtype),
    "zeros_like": creation.empty_like,
    "empty_like": creation.empty_like,
}


def has_sparse(values: Any) -> bool:
    """Is one of these arguments a sparse tensor, or a list of some?"""
    for value in values:
        if isinstance(value, Tensor):
            if value._data.__class__ is SparseArray:
                return True
        elif isinstance(value, (list, tuple)) and has_sparse(value):
            return True
    return False


def called(op: str, args: Any, options: dict[str, Any], error: Exception | None = None) -> Any:
    """What the function ``op`` gives of arguments among which are sparse tensors, or the error that it does not.

    ``error`` is what it said when it took them for dense ones. None: that is to be raised. (Raised here it would be
    held by its own traceback, and hold all arguments until the collector comes.)
    """
    function = _FUNCTIONS.get(op)
    if function is None:
        if error is None or isinstance(error, (AttributeError, TypeError)):
            raise not_for_sparse(op)
        return None
    out = options.pop("out", None)
    result = function(*args, **options)
    return result if out is None else arithmetic.into(out, result)


def applied(cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """:func:`called` for an operation's class: a number among its options stands where an input is None."""
    op = getattr(cls, "label", None) or cls.__name__.lower()
    options = dict(options)
    if "value" in options:
        value = options.pop("value")
        inputs = tuple([value if x is None else x for x in inputs])
    elif op in ("linear", "linearactivation"):
        op = "linear"
    else:
        inputs = tuple([x for x in inputs if x is not None])
    return called(op, inputs, {name: value for name, value in options.items() if value is not None})


def _swapped(function: Any) -> Any:
    return lambda self, other: function(other, self)


def attach() -> None:
    """Give sparse tensors their methods, and refuse all others that tensors have by now; called once, at import."""
    inherited = set(conversion.METHODS.split())
    for name in arithmetic.FUNCTIONS:
        setattr(SparseTensor, name, arithmetic.FUNCTIONS[name])
        if name != "positive":
            setattr(SparseTensor, name + "_", arithmetic.in_place(name))
    for module, names in _METHODS.items():
        for name in names.split():
            setattr(SparseTensor, name, getattr(module, name))
    operators = {
        "add": "add",
        "sub": "sub",
        "mul": "mul",
        "truediv": "div",
        "floordiv": "floor_divide",
        "pow": "pow",
    }
    for own, name in operators.items():
        function = arithmetic.FUNCTIONS[name]
        setattr(SparseTensor, f"__{own}__", function)
        setattr(SparseTensor, f"__r{own}__", _swapped(function))
        setattr(SparseTensor, f"__i{own}__", arithmetic.in_place(name))
    others = {
        "__matmul__": products.matmul,
        "__rmatmul__": _swapped(products.matmul),
        "__neg__": arithmetic.neg,
        "__abs__": arithmetic.FUNCTIONS["abs"],
        "__getitem__": parts.getitem,
        "swapaxes": parts.transpose,
        "swapdims": parts.transpose,
        "T": property(parts.t),
        "mT": property(parts.t),
        "H": property(parts.adjoint),
        "mH": property(parts.adjoint),
        "copy_": arithmetic.copy_,
        "zero_": _zero_,
    }
    for name, member in others.items():
        setattr(SparseTensor, name, member)
    refuse_others(SparseTensor, inherited)


def _zero_(self: Any) -> Any:
    """No entries."""
    self._data.fill(0)
    self._bump_version()
    return self

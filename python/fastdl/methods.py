"""What a tensor can do: functions of :mod:`fastdl.ops` become methods and operators of ``Tensor``.

One function serves both ``fastdl.cat_like(x, ...)`` and ``x.method(...)``: its first argument is the tensor. In-place
variants come from one mechanism, :func:`fastdl.autograd.view.in_place`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl import creation
from fastdl.autograd.view import in_place
from fastdl.ops import activation, cast, fill, gather, indexing, linear, shape, views
from fastdl.tensor import Tensor

# Module -> names of functions that are methods, under the same name.
_METHODS: dict[Any, str] = {
    views: """clone contiguous reshape view view_as reshape_as flatten ravel unflatten squeeze unsqueeze permute transpose
        swapaxes swapdims t movedim moveaxis expand expand_as broadcast_to narrow diagonal unbind split split_with_sizes
        chunk tensor_split unfold as_strided""",
    shape: """repeat tile repeat_interleave flip fliplr flipud roll rot90 tril triu diag diag_embed diagflat""",
    cast: "to type_as double half long short char byte",
    fill: "copy_ fill_ zero_",
    creation: "new_tensor new_empty new_zeros new_ones new_full",
    gather: """index_select index_add index_copy index_fill gather take_along_dim scatter scatter_add take masked_fill
        masked_select masked_scatter nonzero argwhere count_nonzero bincount""",
    linear: "matmul mm bmm mv dot outer addmm addmv baddbmm",
    activation: "relu sigmoid tanh prelu hardshrink",
}


def _matmul(self: Tensor, other: Any) -> Any:
    return linear.matmul(self, other) if isinstance(other, Tensor) else NotImplemented


_RENAMED: dict[str, Callable[..., Any]] = {
    "select": views.select_dim,
    "float": cast.float_,
    "int": cast.int_,
    "bool": cast.to_bool,
    "type": cast.type_,
    "__getitem__": indexing.getitem,
    "__setitem__": indexing.setitem,
    "__matmul__": _matmul,
}
_PROPERTIES = {"T": views._T, "mT": views._mT, "H": views._T}
_IN_PLACE = "relu tril triu index_add index_copy index_fill scatter scatter_add masked_fill masked_scatter addmm addmv baddbmm"


def operator_of(ufunc: Any) -> Callable[..., Tensor] | None:
    """The function of fastdl behind a NumPy ufunc, for ``numpy_array + tensor``."""
    return None


def attach() -> None:
    """Give ``Tensor`` its methods; called once, at import."""
    for module, names in _METHODS.items():
        for name in names.split():
            setattr(Tensor, name, getattr(module, name))
    for name, function in _RENAMED.items():
        setattr(Tensor, name, function)
    for name, function in _PROPERTIES.items():
        setattr(Tensor, name, property(function, doc=function.__doc__))
    for name in _IN_PLACE.split():
        setattr(Tensor, name + "_", in_place(getattr(Tensor, name), name + "_"))


attach()

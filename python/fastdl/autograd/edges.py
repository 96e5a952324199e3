"""Places in the graph without the tensors that lay there; see ``torch.autograd.graph.GradientEdge``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.op import AccumulateGrad, Op
from fastdl.errors import not_a_tensor
from fastdl.kernels.sparse import SparseArray, is_sparse
from fastdl.tensor import Tensor

__all__ = ["GradientEdge", "get_gradient_edge"]


class GradientEdge(NamedTuple):
    """Output ``output_nr`` of a node: what ``autograd.grad`` and ``backward`` take in the place of a tensor."""

    node: Op
    output_nr: int
    ownership_token: Any = None

    def __repr__(self) -> str:
        return f"GradientEdge(node={self.node!r}, output_nr={self.output_nr})"


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """Where the gradient of ``tensor`` will pass, without a reference to its values.

    See ``torch.autograd.graph.get_gradient_edge``.

    Raises:
        RuntimeError: if the tensor does not require a gradient.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
        >>> y = x * x
        >>> edge = fastdl.autograd.graph.get_gradient_edge(y)
        >>> fastdl.autograd.grad((y * 3).sum(), edge)
        (tensor([3., 3.]),)
    """
    if not isinstance(tensor, Tensor):
        raise not_a_tensor("get_gradient_edge", "tensor", tensor)
    if not tensor._requires_grad:
        raise RuntimeError("get_gradient_edge: the tensor does not require a gradient, so none passes there")
    if tensor._node is None:
        return GradientEdge(AccumulateGrad(tensor), 0, tensor)
    array = tensor._data
    shape = np.broadcast_to(
        np.zeros((), array.dtype, like=array), array.shape
    )  # the sizes, in the memory of one
    return GradientEdge(tensor._node, tensor._index, _stand_in(tensor._node, tensor._index, shape))


def tensor_at(value: Any) -> Any:
    """The tensor that stands for an edge in a walk through the graph, or for a sparse tensor: its values.

    What is no edge stays.
    """
    if not isinstance(value, GradientEdge):
        return value._data.values if SparseArray.made and is_sparse(value) else value
    if value.ownership_token is not None:
        return value.ownership_token
    if isinstance(value.node, AccumulateGrad):
        return value.node.variable
    return _stand_in(value.node, value.output_nr, np.zeros(()))


def _stand_in(node: Op, index: int, array: Any) -> Tensor:
    tensor = Tensor._wrap(array)
    tensor._requires_grad, tensor._node, tensor._index = True, node, index
    return tensor

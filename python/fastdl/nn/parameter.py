"""``Parameter`` and ``Buffer``: tensors that a :class:`~fastdl.nn.Module` notices when they are assigned to it."""

from __future__ import annotations

from operator import index as to_int
from typing import Any, Self

import numpy as np

from fastdl.arrays import check_array, pooled_copy
from fastdl.devices import device_of, make, resolve
from fastdl.dtypes import DIFFERENTIABLE, Size, as_dtype, get_default_dtype
from fastdl.errors import not_a_tensor
from fastdl.kernels import array as as_array
from fastdl.kernels import is_array
from fastdl.kernels.sparse import is_sparse, not_for_sparse
from fastdl.tensor import Tensor

__all__ = ["Buffer", "Parameter", "UninitializedParameter", "empty"]


def empty(shape: tuple[int, ...], device: Any = None, dtype: Any = None) -> Any:
    """An uninitialised array for a module's parameter or buffer, from the module's arguments device and dtype."""
    d = get_default_dtype() if dtype is None else as_dtype("dtype", dtype)
    if not all([isinstance(n, (int, np.integer)) for n in shape]):
        try:
            shape = tuple([to_int(n) for n in shape])  # a tensor of one integer
        except TypeError:
            raise TypeError(
                f"Parameter: the sizes of a layer must be integers, got a shape of {shape}"
            ) from None
    return make(resolve("device", device), "empty", shape, d)


def _array_of(data: Any) -> Any:
    if data is None:
        return np.empty(0, get_default_dtype())
    if isinstance(data, Tensor):
        if is_sparse(data):
            raise not_for_sparse("Parameter")
        return data._data
    if not is_array(data):  # a list of floats would be float64, as no other tensor made of it is
        raise not_a_tensor("Parameter", "data", data, "a Tensor or an array")
    return check_array("Parameter", as_array(data))


class Parameter(Tensor):
    """A tensor that is a module's parameter: assigned as an attribute it appears in ``module.parameters()``.

    Args:
        data: a tensor (its memory is shared) or an array; floating-point or complex unless ``requires_grad`` is False.
        requires_grad: whether backward computes its gradient (default True).

    See ``torch.nn.Parameter``.

    Example:
        >>> import numpy as np
        >>> from fastdl import nn
        >>> nn.Parameter(np.ones((2, 3), np.float32)).requires_grad
        True
    """

    # As in PyTorch made by __new__: a subclass may take more arguments there, and __init__ gets them, too.
    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Self:
        self = super().__new__(cls)
        self._data = _array_of(data)
        if requires_grad:
            if self._data.dtype.kind not in DIFFERENTIABLE:
                raise RuntimeError(
                    "Parameter: only floating-point and complex tensors can require gradients, got dtype "
                    f"{self._data.dtype}; pass requires_grad=False"
                )
            self._requires_grad = True
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """As in PyTorch the copy has no gradient."""
        known = memo.get(id(self))
        if known is not None:
            return known  # type: ignore[no-any-return]
        result = type(self)(pooled_copy(self._data), self._requires_grad)
        memo[id(self)] = result
        return result

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class UninitializedParameter(Parameter):
    """A parameter whose shape is not known yet, of a lazy layer. See ``torch.nn.UninitializedParameter``."""

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> Self:
        return super().__new__(cls, empty((0,), device, dtype), requires_grad)

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary parameter of this shape, with values yet to be drawn."""
        where = device_of(self._data) if device is None else device
        self._data = empty(tuple(shape), where, self._data.dtype if dtype is None else dtype)
        self.__class__ = Parameter  # type: ignore[assignment]

    @property
    def shape(self) -> Size:
        """Not known yet: an error."""
        raise RuntimeError(
            "UninitializedParameter: the shape is not known before the lazy layer's first call; run one batch through "
            "the model first"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        return memo.setdefault(  # type: ignore[no-any-return]
            id(self), UninitializedParameter(self._requires_grad, self.device, self._data.dtype)
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return UninitializedParameter, (self._requires_grad, self.device, self._data.dtype)

    def __repr__(self) -> str:
        return "<UninitializedParameter>"


class Buffer(Tensor):
    """A tensor that is part of a module's state but is not trained: assigned as an attribute it becomes a buffer.

    Args:
        data: a tensor (its memory is shared) or an array.
        persistent: whether ``state_dict`` contains it (default True).

    See ``torch.nn.Buffer``.
    """

    persistent: bool

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        if is_sparse(data):
            raise TypeError("Buffer: holds dense tensors; module.register_buffer(name, x) takes sparse ones")
        self._data = _array_of(data)
        self.persistent = persistent

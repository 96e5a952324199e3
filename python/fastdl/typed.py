"""PyTorch's older notation: ``FloatTensor(2, 3)`` and its kin, named after a dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.creation import tensor
from fastdl.devices import resolve, to_device
from fastdl.dtypes import CPU, Size, bool_, float16, float32, float64, int8, int16, int32, int64, uint8
from fastdl.kernels import on_device, select
from fastdl.tensor import Tensor


def made(data: tuple[Any, ...], dtype: Any) -> Any:
    """The array of ``Tensor(*data)`` and its kin: a copy of values, if one argument is no number, or of that shape."""
    if len(data) != 1 or isinstance(data[0], (int, np.integer, Size)):
        shape = data[0] if data and isinstance(data[0], Size) else data or (0,)
        return select(None).empty(tuple(shape), dtype)
    (values,) = data
    return (
        pooled_copy(values._data, dtype)
        if isinstance(values, Tensor)
        else tensor(values, dtype=dtype, device=CPU)._data
    )


class _OfDtype(type):
    """The type of the types below: a tensor of their dtype, on a GPU if they are of those, is an instance."""

    dtype: Any
    on_gpu = False

    def __instancecheck__(cls, value: object) -> bool:
        return (
            isinstance(value, Tensor)
            and value._data.dtype is cls.dtype
            and on_device(value._data) is cls.on_gpu
        )

    def __call__(cls, *data: Any) -> Tensor:
        array = made(data, cls.dtype)
        return Tensor._wrap(to_device(array, resolve(cls.__name__, "cuda")) if cls.on_gpu else array)


class FloatTensor(metaclass=_OfDtype):
    """PyTorch's older notation of a dtype, here float32: makes tensors from values or of a shape.

    Also for ``x.type(FloatTensor)`` and ``isinstance``.

    Example:
        >>> import fastdl
        >>> x = fastdl.LongTensor([1, 2])
        >>> x.type(fastdl.FloatTensor), isinstance(x, fastdl.FloatTensor)
        (tensor([1., 2.]), False)
    """

    dtype = float32


class DoubleTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for float64."""

    dtype = float64


class HalfTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for float16."""

    dtype = float16


class LongTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for int64."""

    dtype = int64


class IntTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for int32."""

    dtype = int32


class ShortTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for int16."""

    dtype = int16


class CharTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for int8."""

    dtype = int8


class ByteTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for uint8."""

    dtype = uint8


class BoolTensor(metaclass=_OfDtype):
    """As :class:`FloatTensor`, for bools."""

    dtype = bool_


def new(self: Tensor, *data: Any) -> Tensor:
    """A tensor of this one's dtype and device, from values or of a shape: the older form of ``new_tensor``."""
    return Tensor._wrap(to_device(made(data, self._data.dtype), self.device))

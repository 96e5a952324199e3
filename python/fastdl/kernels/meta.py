"""Arrays without values: what tensors of the device ``meta`` hold."""

from __future__ import annotations

from typing import Any

import numpy as np


class MetaArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array's extents, strides and dtype.

    They are those of ``zeros``, memory that nobody writes to: the operating system counts no page of it as used.
    NumPy and :class:`MetaKernels` compute on other zeros, and only what the results are like is kept.
    Methods that look at an array in another way (``reshape``, ``transpose``, indexing) give another MetaArray.
    """

    __slots__ = ("zeros",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, zeros: Any) -> None:
        self.zeros = zeros

    @staticmethod
    def like(array: Any) -> MetaArray:
        """One of the extents, strides and dtype of ``array``."""
        if array.__class__ is MetaArray:
            return array
        if array.flags.c_contiguous or 0 in array.strides or array.size == 0:
            return MetaArray(np.zeros(array.shape, array.dtype))
        order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
        zeros = np.zeros([array.shape[axis] for axis in order], array.dtype)
        return MetaArray(zeros.transpose(np.argsort(order)))

    def __getattr__(self, name: str) -> Any:
        if name in ("item", "tolist", "tobytes", "nonzero"):
            raise _seen()
        found = getattr(self.zeros, name)
        if not callable(found):
            return MetaArray(found) if isinstance(found, np.ndarray) else found

        def method(*arguments: Any, **options: Any) -> Any:
            result = found(*[_plain(a) for a in arguments], **options)
            return MetaArray(np.asarray(result)) if isinstance(result, (np.ndarray, np.generic)) else result

        return method

    def __getitem__(self, key: Any) -> MetaArray:
        for part in key if key.__class__ is tuple else (key,):
            if part.__class__ is MetaArray and part.dtype.kind == "b":
                raise ByValue("indexing by a mask")
        return MetaArray(np.asarray(self.zeros[_plain(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing is kept."""

    def fill(self, value: Any) -> None:
        """Nothing is kept."""

    def __len__(self) -> int:
        return len(self.zeros)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise _seen()

    def __bool__(self) -> bool:
        raise _seen()

    __int__ = __index__ = __float__ = __complex__ = __iter__ = __bool__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return on_zeros(ufunc.__name__, getattr(ufunc, method), inputs, options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        name = function.__name__
        if name in _BY_VALUE or (name == "where" and len(arguments) == 1):
            raise ByValue(name)
        return on_zeros(name, function, arguments, options)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple([_plain(v) for v in value])
    return value.zeros if value.__class__ is MetaArray else value


def zeros(value: Any) -> Any:
    """New zeros for an array without values, which may be written to; anything else as it is."""
    if value.__class__ is tuple or value.__class__ is list:
        return value.__class__([zeros(v) for v in value])
    return np.zeros(value.shape, value.dtype) if value.__class__ is MetaArray else value


def like(value: Any) -> Any:
    """Arrays without values for arrays; anything else as it is."""
    if isinstance(value, (tuple, list)):
        parts = [like(v) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return MetaArray.like(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


class NoValues(NotImplementedError):
    """Raised for what needs the values of a tensor of the device ``meta``."""


class ByValue(NoValues):
    """Raised for what has a result whose size depends on values."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: how large the result is depends on values; tensors on 'meta' have none")


_BY_VALUE = frozenset(
    (
        "allclose",
        "argwhere",
        "array_equal",
        "compress",
        "extract",
        "flatnonzero",
        "masked_select",
        "nonzero",
        "unique",
    )
)


_WITH_PIVOTS = frozenset(("lu_permutation", "lu_solve"))


def on_zeros(name: str, function: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """What the results of ``function`` are like."""
    if any([isinstance(a, np.ndarray) and a.ndim for a in arguments]):
        raise TypeError(f"{name}: arrays with values among arrays without")
    if name == "cholesky":  # zeros have none
        return MetaArray.like(arguments[0])
    given = zeros(arguments)
    if name in _WITH_PIVOTS:  # numbers of rows, from 1
        for a in given:
            if isinstance(a, np.ndarray) and a.dtype == np.int32:
                a.fill(1)
    return like(function(*given, **{key: zeros(value) for key, value in options.items()}))


class MetaKernels:
    """The kernel contract on arrays without values."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def __getattr__(self, name: str) -> Any:
        if name in _BY_VALUE:
            raise ByValue(name)
        kernel = getattr(self.kernels, name)
        return lambda *arguments, **options: on_zeros(name, kernel, arguments, options)


def _seen() -> NotImplementedError:
    """The error for an operation that looks at values halfway; ``autograd/refused.py`` then finds another way."""
    return NotImplementedError(*no_values().args)


def no_values() -> NoValues:
    """The error for a program that reads values."""
    return NoValues("Cannot copy out of meta tensor; no data! It lies on the device 'meta'")

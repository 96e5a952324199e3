"""Small checks and conversions that many operations share."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as to_int
from typing import Any

import numpy as np

from fastdl.arrays import check_array
from fastdl.autograd.view import Cast
from fastdl.dtypes import DIFFERENTIABLE, get_default_dtype
from fastdl.errors import not_a_tensor
from fastdl.kernels import array
from fastdl.tensor import Tensor


def axis(op: str, dim: Any, ndim: int, name: str = "dim", new: int = 0) -> int:
    """``dim`` counted from the front, checked; of ``ndim`` dimensions the tensor lacks ``new``, which it will get."""
    try:
        d = to_int(dim)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {dim!r}") from None
    if d < 0:
        d += ndim
    if not 0 <= d < ndim:
        if ndim == 0 and d in (0, -1):
            return 0
        raise IndexError(
            f"{op}: {name} must be in [{-max(ndim, 1)}, {max(ndim, 1) - 1}] for a tensor of "
            f"{ndim - new} dimensions, got {dim}"
        )
    return d


def axes(op: str, dims: Any, ndim: int) -> tuple[int, ...]:
    """One or several dims, counted from the front, without repetition."""
    result = tuple([axis(op, d, ndim) for d in (dims if isinstance(dims, (tuple, list)) else (dims,))])
    if len(result) > 1 and len(set(result)) != len(result):
        raise RuntimeError(f"{op}: dims {tuple(dims)} name an axis twice")
    return result


def ints(args: Any) -> tuple[int, ...]:
    """Integers given one by one or as one sequence: ``f(2, 3)`` and ``f((2, 3))``."""
    if args.__class__ is tuple:
        for each in args:
            if each.__class__ is not int:
                break
        else:
            return args
    if len(args) == 1 and not isinstance(given := args[0], (int, np.integer)):
        if given.__class__ is tuple:
            for each in given:
                if each.__class__ is not int:
                    return tuple(map(to_int, given))
            return given
        if isinstance(given, Tensor):
            given = given.tolist() if given.ndim else [given]
        if isinstance(given, Sequence):
            args = given
        else:
            args = (
                tuple(given) if hasattr(given, "__iter__") and not hasattr(given, "__index__") else (given,)
            )
    return tuple(map(to_int, args))


def check_tensors(op: str, **given: Any) -> None:
    """Raise TypeError for an argument that is not a tensor."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise not_a_tensor(op, name, value)


def as_array(op: str, value: Any) -> Any:
    """The array under a Tensor, or made from a number or sequence."""
    if isinstance(value, Tensor):
        return value._data
    return check_array(op, array(value))


def floating(input: Tensor) -> Tensor:
    """Integers and booleans as the default floating dtype, for functions that torch promotes."""
    return input if input._data.dtype.kind in DIFFERENTIABLE else Cast.apply(input, dtype=get_default_dtype())

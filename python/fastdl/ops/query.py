"""Questions about tensors and dtypes."""

from __future__ import annotations

from typing import Any

from fastdl.dtypes import as_dtype, can_store, finfo, iinfo
from fastdl.ops.cast import type_
from fastdl.ops.common import check_tensors, ints
from fastdl.tensor import Tensor

__all__ = [
    "can_cast",
    "finfo",
    "iinfo",
    "is_conj",
    "is_floating_point",
    "is_inference",
    "is_neg",
    "is_nonzero",
    "is_same_size",
    "is_signed",
    "is_tensor",
    "numel",
    "sum_to_size",
    "typename",
]


def is_tensor(obj: object) -> bool:
    """Is ``obj`` a tensor?"""
    return isinstance(obj, Tensor)


def typename(obj: Any) -> str:
    """The name of an object's type; of a tensor in PyTorch's old notation. See ``torch.typename``.

    Example:
        >>> import fastdl
        >>> fastdl.typename(fastdl.ones(2)), fastdl.typename(3)
        ('fastdl.FloatTensor', 'int')
    """
    if isinstance(obj, Tensor):
        return type_(obj)  # type: ignore[no-any-return]
    cls = obj if hasattr(obj, "__qualname__") else type(obj)
    module = getattr(cls, "__module__", None) or ""
    return cls.__qualname__ if module in ("", "builtins", "__builtin__") else f"{module}.{cls.__qualname__}"


def numel(input: Tensor) -> int:
    """The number of elements of ``input``."""
    return input.numel()


def is_floating_point(input: Tensor) -> bool:
    """Is the dtype of ``input`` one of the floating-point types?"""
    return input.is_floating_point()


def can_cast(from_: Any, to: Any) -> bool:
    """May values of one dtype be stored in place in another? Numbers may change precision but not kind."""
    return can_store(as_dtype("can_cast", from_), as_dtype("can_cast", to))


def is_conj(input: Tensor) -> bool:
    """Always False: nothing is computed later. See ``torch.is_conj``; also ``is_neg`` and ``is_inference``."""
    check_tensors("is_conj", input=input)
    return False


is_neg = is_inference = is_conj


def is_nonzero(input: Tensor) -> bool:
    """Is the one element of ``input`` not zero?"""
    check_tensors("is_nonzero", input=input)
    return bool(input)


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Have both tensors the same shape?"""
    check_tensors("is_same_size", input=input, other=other)
    return input.shape == other.shape


def is_signed(input: Tensor) -> bool:
    """Can the dtype of ``input`` hold negative numbers?"""
    return input._data.dtype.kind in "fic"


def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """The sum over the axes that broadcasting would add or stretch to reach ``input``'s shape from ``size``."""
    target, shape = ints(size), input._data.shape
    lead = len(shape) - len(target)
    if lead < 0 or any(t not in (1, s) for t, s in zip(target, shape[lead:], strict=True)):
        raise RuntimeError(f"sum_to_size: shape {shape} cannot be reduced to {target}")
    summed = [i for i, s in enumerate(shape) if i < lead or (target[i - lead] == 1 and s != 1)]
    result = input.sum(summed, True) if summed else input
    return result.reshape(target)

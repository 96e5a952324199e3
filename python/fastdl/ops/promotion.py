"""Which dtype a result has when operands differ: PyTorch's rule.

Operands fall into three categories: tensors with dimensions, tensors without (0-dim), and Python numbers. A
higher category decides alone, unless a lower one is of a higher kind (bool < integer < float < complex): an int64
tensor plus a 0-dim float64 tensor is float64, a float32 tensor plus a 0-dim float64 tensor stays float32.
Within a category the common dtype is chosen, and a float beside integers decides alone (int64 with float32 is
float32). A Python float counts as the default dtype, an int as int64, a complex number as the complex dtype whose
parts have the default dtype, or, beside a tensor of floats, the dtype of that tensor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastdl import dtypes
from fastdl.dtypes import (
    DIFFERENTIABLE,
    FLOATING,
    as_dtype,
    bool_,
    complex64,
    complex128,
    complex_dtype,
    float32,
    float64,
    int64,
)
from fastdl.errors import DtypeError
from fastdl.kernels import is_array
from fastdl.kernels.sparse import SparseArray

_REAL_NUMBERS = frozenset("iufV")  # kinds beside which an integer counts for nothing
_KIND = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}


def is_kernel_dtype(dtype: Any) -> bool:
    """Do the kernels compute in this dtype? Everything else goes through NumPy."""
    return dtype is float32 or dtype is float64


@lru_cache(256)
def _common(a: Any, b: Any) -> Any:
    if a is b:
        return a
    if a.kind == "c" or b.kind == "c":
        return complex128 if {a, b} & {float64, complex128} else complex64
    if a.kind in FLOATING and b.kind not in FLOATING:
        return a
    if b.kind in FLOATING and a.kind not in FLOATING:
        return b
    if "V" in (a.kind, b.kind):  # bfloat16, and of a different dtype the other one
        return float32 if a.itemsize == b.itemsize else a if a.itemsize > b.itemsize else b
    common = np.promote_types(a, b)
    if (
        common.kind in FLOATING and a.kind not in FLOATING
    ):  # uint64 with a signed integer: NumPy's answer is float64
        raise DtypeError(f"result_type: {a} and {b} have no common integer dtype; convert one of them first")
    return common


def promote_types(type1: Any, type2: Any) -> Any:
    """The smallest dtype that both can be converted to; see ``torch.promote_types``.

    Example:
        >>> import fastdl
        >>> fastdl.promote_types(fastdl.int64, fastdl.float32)
        dtype('float32')
    """
    return _common(as_dtype("promote_types", type1), as_dtype("promote_types", type2))


def number_dtype(value: Any) -> Any:
    """The dtype that a Python number stands for."""
    if value.__class__ is float:
        return dtypes.get_default_dtype()
    if value.__class__ is int:
        return int64
    if isinstance(value, bool | np.bool_):
        return bool_
    if isinstance(value, int | np.integer):
        return int64
    default = dtypes.get_default_dtype()
    return complex_dtype(default) if isinstance(value, complex | np.complexfloating) else default


def common_dtype(*operands: Any) -> Any:
    """The dtype of a result of arrays and Python numbers."""
    if len(operands) == 2:  # the common cases
        x, y = operands
        if x.__class__ is np.ndarray:
            if y.__class__ is np.ndarray:
                if x.dtype is y.dtype:
                    return x.dtype
                if x.ndim and y.ndim:
                    return _common(x.dtype, y.dtype)
            elif (y.__class__ is int and x.dtype.kind in _REAL_NUMBERS) or (
                y.__class__ is float and x.dtype.kind in FLOATING
            ):
                return x.dtype
    with_dims = without = numbers = None
    for operand in operands:
        if is_array(operand) or operand.__class__ is SparseArray:
            dtype = operand.dtype
            if operand.ndim:
                with_dims = dtype if with_dims is None else _common(with_dims, dtype)
            else:
                without = dtype if without is None else _common(without, dtype)
        else:
            dtype = number_dtype(operand)
            numbers = dtype if numbers is None else _common(numbers, dtype)
    result = None
    for dtype in (with_dims, without, numbers):
        if dtype is not None and (result is None or _KIND[dtype.kind] > _KIND[result.kind]):
            # A Python number has no width of its own beside a tensor that has none either: bool tensor * 2 is
            # int64. Beside floats a complex one takes their precision.
            if result is not None and dtype.kind == "c" and result.kind in FLOATING:
                dtype = complex_dtype(result)
            result = dtype
    return result


def result_type(tensor: Any, other: Any) -> Any:
    """The dtype of an operation on two tensors or numbers; see ``torch.result_type``.

    Example:
        >>> import fastdl
        >>> fastdl.result_type(fastdl.Tensor([1, 2]), 1.0)
        dtype('float32')
    """
    return common_dtype(*[getattr(t, "_data", t) for t in (tensor, other)])


def floating_dtype(dtype: Any) -> Any:
    """``dtype`` itself if floating-point or complex, else the default: what division or ``exp`` of integers gives."""
    return dtype if dtype.kind in DIFFERENTIABLE else dtypes.get_default_dtype()


def in_half(value: Any, dtype: Any) -> float:
    """A number as this half precision holds it."""
    with np.errstate(over="ignore"):  # infinite
        return float(dtype.type(float(value)))

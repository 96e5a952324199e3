"""Other dtypes, and ``Tensor.to``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.view import Cast
from fastdl.dtypes import (
    as_dtype,
    bool_,
    check_device,
    device,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from fastdl.tensor import Tensor


def cast(input: Tensor, dtype: Any) -> Tensor:
    """``input`` in another dtype; itself if it has that dtype already."""
    return input if input._data.dtype == dtype else Cast.apply(input, dtype=dtype)


def to(input: Tensor, *args: Any, **options: Any) -> Tensor:
    """The tensor with another dtype: ``x.to(dtype)``, ``x.to(device)``, ``x.to(device, dtype)``, ``x.to(other)``.

    Returns the tensor itself where nothing changes, unless ``copy=True``. See ``torch.Tensor.to``.

    Example:
        >>> import fastdl
        >>> fastdl.tensor([1.7]).to(fastdl.int64)
        tensor([1])
    """
    dtype = options.pop("dtype", None)
    where = options.pop("device", None)
    other = options.pop("other", None)
    copy = options.pop("copy", False)
    options.pop("non_blocking", None)
    options.pop("memory_format", None)
    if options:
        raise TypeError(f"to: unexpected argument {next(iter(options))!r}")
    flags = 0
    for arg in args:
        if isinstance(arg, Tensor):
            other = arg
        elif isinstance(arg, (device, str)) and not _names_dtype(arg):
            where = arg
        elif isinstance(arg, bool):  # non_blocking, copy
            copy, flags = (arg, flags + 1) if flags else (copy, 1)
        elif arg is not None:
            dtype = arg
    if other is not None:
        dtype = other._data.dtype
    check_device("to", where)
    wanted = input._data.dtype if dtype is None else as_dtype("to", dtype)
    if input._data.dtype == wanted:
        return input.clone() if copy else input
    return Cast.apply(input, dtype=wanted)  # type: ignore[no-any-return]


def _names_dtype(arg: Any) -> bool:
    if not isinstance(arg, str) or arg.partition(":")[0] in ("cpu", "cuda", "meta", "mps"):
        return False
    try:
        np.dtype(arg)
    except TypeError:
        return False
    return True


_TYPE_NAMES = {
    "FloatTensor": float32,
    "DoubleTensor": float64,
    "HalfTensor": float16,
    "LongTensor": int64,
    "IntTensor": int32,
    "ShortTensor": int16,
    "CharTensor": int8,
    "ByteTensor": uint8,
    "BoolTensor": bool_,
}


def type_(input: Tensor, dtype: Any = None) -> Any:
    """The dtype's name in PyTorch's old notation (``'fastdl.FloatTensor'``), or the tensor in another dtype."""
    if dtype is None:
        names = {v: k for k, v in _TYPE_NAMES.items()}
        return f"fastdl.{names.get(input._data.dtype, str(input._data.dtype))}"
    if isinstance(dtype, str):
        dtype = _TYPE_NAMES.get(dtype.rpartition(".")[2], dtype)
    return cast(input, as_dtype("type", dtype))


def type_as(input: Tensor, other: Tensor) -> Tensor:
    """``input`` in the dtype of ``other``."""
    return cast(input, other._data.dtype)


def float_(input: Tensor) -> Tensor:
    """The tensor as float32."""
    return cast(input, float32)


def double(input: Tensor) -> Tensor:
    """The tensor as float64."""
    return cast(input, float64)


def half(input: Tensor) -> Tensor:
    """The tensor as float16: for storage; kernels compute in float32 and float64."""
    return cast(input, float16)


def long(input: Tensor) -> Tensor:
    """The tensor as int64; fractions are cut off."""
    return cast(input, int64)


def int_(input: Tensor) -> Tensor:
    """The tensor as int32; fractions are cut off."""
    return cast(input, int32)


def short(input: Tensor) -> Tensor:
    """The tensor as int16."""
    return cast(input, int16)


def char(input: Tensor) -> Tensor:
    """The tensor as int8."""
    return cast(input, int8)


def byte(input: Tensor) -> Tensor:
    """The tensor as uint8."""
    return cast(input, uint8)


def to_bool(input: Tensor) -> Tensor:
    """The tensor as bool: True where not zero."""
    return cast(input, bool_)

"""Other dtypes, and ``Tensor.to``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl import dtypes
from fastdl._graph import plain
from fastdl.arrays import pooled_copy
from fastdl.autograd.op import Op
from fastdl.autograd.view import Cast
from fastdl.devices import device_of, resolve, to_device
from fastdl.dtypes import (
    as_dtype,
    bool_,
    complex64,
    complex128,
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
from fastdl.errors import warn_caller
from fastdl.kernels import on_device
from fastdl.tensor import Tensor


class Move(Op):
    """The values on another device; the gradient comes back."""

    takes_complex = True

    def forward(self, x: Any, where: device, non_blocking: bool = False) -> Any:
        self.source = device_of(x)
        return to_device(x, where, non_blocking)

    def backward(self, grad: Any) -> Any:
        return to_device(grad, self.source)

    def backward_graph(self, grad: Tensor) -> Any:
        return to(grad, self.source)


def cast(input: Tensor, dtype: Any) -> Tensor:
    """``input`` in another dtype; itself if it has that dtype already."""
    have = input._data.dtype
    if have == dtype:
        return input
    if have.kind == "c" and dtype.kind not in "cb":
        warn_caller("Casting complex values to real discards the imaginary part")
    if plain(input):  # no node where nothing is recorded
        return Tensor._wrap(pooled_copy(input._data, dtype))
    return Cast.apply(input, dtype=dtype)  # type: ignore[no-any-return]


def to(input: Tensor, *args: Any, **options: Any) -> Tensor:
    """The tensor with another dtype, on another device: ``x.to(dtype)``, ``x.to(device)``, ``x.to(device, dtype)``,
    ``x.to(other)``.

    Returns the tensor itself where nothing changes, unless ``copy=True``. With ``non_blocking=True`` a copy to a GPU
    may still be running when this returns (in the order of the stream). See ``torch.Tensor.to``.

    Example:
        >>> import fastdl
        >>> fastdl.tensor([1.7]).to(fastdl.int64)
        tensor([1])
    """
    if len(args) == 1 and not options and isinstance(args[0], np.dtype):
        return cast(input, as_dtype("to", args[0]))
    dtype, where, non_blocking, copy = parse_to(args, options)
    result = input if dtype is None or input._data.dtype is dtype else cast(input, dtype)
    if where is not None and device_of(result._data) is not where:
        result = Move.apply(result, where=where, non_blocking=non_blocking)
    return result.clone() if copy and result is input else result


def parse_to(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any, bool, bool]:
    """dtype, device (resolved), non_blocking and copy from the arguments of ``to``; None for what is not named."""
    dtype = options.pop("dtype", None)
    where = options.pop("device", None)
    other = options.pop("other", None)
    copy = options.pop("copy", False)
    non_blocking = options.pop("non_blocking", False)
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
            if flags:
                copy = arg
            else:
                non_blocking, flags = arg, 1
        elif isinstance(arg, int):  # the number of a GPU
            where = arg
        elif arg is not None:
            dtype = arg
    if other is not None:
        dtype, where = other._data.dtype, other.device
    return (
        None if dtype is None else as_dtype("to", dtype),
        None if where is None else resolve("to", where),
        non_blocking,
        copy,
    )


def _names_dtype(arg: Any) -> bool:
    if not isinstance(arg, str) or arg.partition(":")[0] in ("cpu", "cuda", "meta", "mps"):
        return False
    if arg == "bfloat16":
        return True
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
    "ComplexFloatTensor": complex64,
    "ComplexDoubleTensor": complex128,
}


def type_(input: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The dtype's name in PyTorch's old notation (``'fastdl.FloatTensor'``), or the tensor in another dtype.

    The other dtype may be given in that notation, too, which says whether the result is on a GPU.
    """
    gpu = on_device(input._data)
    if dtype is None:
        names = {v: k for k, v in _TYPE_NAMES.items()}
        name = names.get(input._data.dtype, str(input._data.dtype))
        return f"{dtypes.package}.{'cuda.' if gpu else ''}{name}"
    to_gpu = gpu
    if isinstance(dtype, str):
        path, _, name = dtype.rpartition(".")
        if name in _TYPE_NAMES:
            dtype, to_gpu = _TYPE_NAMES[name], path.endswith("cuda")
    elif isinstance(dtype, type):  # fastdl.FloatTensor and its siblings
        dtype, to_gpu = getattr(dtype, "dtype", dtype), getattr(dtype, "on_gpu", gpu)
    if to_gpu is not gpu:
        input = to(input, "cuda" if to_gpu else "cpu")
    return cast(input, as_dtype("type", dtype))


# ``memory_format`` is accepted and ignored below: tensors lie in C order.


def type_as(input: Tensor, other: Tensor) -> Tensor:
    """``input`` in the dtype of ``other``."""
    return cast(input, other._data.dtype)


def float_(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as float32."""
    return cast(input, float32)


def double(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as float64."""
    return cast(input, float64)


def half(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as float16."""
    return cast(input, float16)


def bfloat16(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as bfloat16; needs the package ml_dtypes."""
    return cast(input, as_dtype("bfloat16", "bfloat16"))


def cfloat(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as complex64."""
    return cast(input, complex64)


def cdouble(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as complex128."""
    return cast(input, complex128)


def long(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as int64; fractions are cut off."""
    return cast(input, int64)


def int_(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as int32; fractions are cut off."""
    return cast(input, int32)


def short(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as int16."""
    return cast(input, int16)


def char(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as int8."""
    return cast(input, int8)


def byte(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as uint8."""
    return cast(input, uint8)


def to_bool(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor as bool: True where not zero."""
    return cast(input, bool_)

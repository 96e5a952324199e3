"""Arithmetic on two operands, tensors or numbers: the functions behind ``+ - * / // % **`` and their relatives."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.autograd.mode import mode
from fastdl.autograd.refused import apply_otherwise
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, float32, float64, is_common_integer, is_half
from fastdl.errors import ArgumentError, not_a_tensor, warn_caller
from fastdl.kernels import is_array, on_device, select
from fastdl.ops.arrays import wrapped
from fastdl.ops.binary import (
    Add,
    Atan2,
    Binary,
    Div,
    Hypot,
    Maximum,
    Minimum,
    Mul,
    Pow,
    Sub,
)
from fastdl.ops.division import FloorDivide, Fmod, Remainder, TruncDivide
from fastdl.ops.out import constant, store
from fastdl.ops.promotion import in_half, number_dtype, result_type
from fastdl.tensor import Tensor


def number(op: str, value: Any, name: str = "other") -> Any:
    """A Python number, or a TypeError."""
    if isinstance(value, (float, int)):  # bool is an int
        return value
    if isinstance(value, complex) or (isinstance(value, np.generic) and value.dtype.kind in "biufc"):
        return value.item() if isinstance(value, np.generic) else value
    raise not_a_tensor(op, name, value, "a Tensor or a number")


_UNCHECKED = frozenset((Add, Sub, Mul, Maximum, Minimum))  # any integers of one dtype will do
_IN_HALF = _UNCHECKED | {Div, Pow}  # whose kernels do all there is to do in half precision
_ROUNDING = frozenset((Add, Sub, Pow, Remainder, Fmod))  # which take numbers as half precision holds them


def _beside(op: type[Binary], x: Any, value: Any) -> Any:
    """The number as PyTorch's CPU takes it beside the array ``x``."""
    if op not in _ROUNDING or not is_half(x.dtype) or on_device(x):
        return value
    if value.__class__ is int and -256 <= value <= 256:
        return value
    return in_half(value, x.dtype)


def apply(op: type[Binary], input: Any, other: Any, out: Any = None) -> Tensor:
    """``op`` on tensors and numbers; ``out`` is an array to write into, or a tensor (then returned)."""
    if out is not None and isinstance(out, Tensor):
        constant(out)
        if out._data.size == 0:
            return store(op.label, out, apply(op, input, other))
        if mode.enabled:
            constant(input), constant(other)
        apply(op, input, other, out._data)
        out._bump_version()
        return out
    if out is not None and not is_array(out):
        raise not_a_tensor(op.label, "out", out)
    if isinstance(other, Tensor):
        if isinstance(input, Tensor):
            x, y = input._data, other._data
            dtype = x.dtype
            if (
                dtype is y.dtype
                and (
                    dtype is float32
                    or dtype is float64
                    or (op in _UNCHECKED and is_common_integer(dtype))
                    or (op in _IN_HALF and is_half(dtype))
                )
                and x.__class__ is y.__class__
                and (out is None or out.dtype is dtype)
                and plain(input, other)
            ):  # no node where nothing is recorded
                return Tensor._wrap(getattr(select(x), op.kernel)(x, y, out))
            return op.apply(input, other) if out is None else op.apply(input, other, out=out)  # type: ignore[no-any-return]
        value = number(op.label, input, "input")
        if value.__class__ is complex:
            return apply_otherwise(op, (None, other), {"value": value, "out": out}, None)  # type: ignore[no-any-return]
        return op.apply(None, other, value=_beside(op, other._data, value), out=out)  # type: ignore[no-any-return]
    if not isinstance(input, Tensor):
        if not isinstance(input, (int, float, complex)):
            raise not_a_tensor(op.label, "input", input)
        input = Tensor._wrap(np.asarray(input, number_dtype(input)))
    value = number(op.label, other)
    if value.__class__ is complex:  # no kernel takes it
        return apply_otherwise(op, (input, None), {"value": value, "out": out}, None)  # type: ignore[no-any-return]
    x = input._data
    dtype = x.dtype
    if dtype is not float32 and dtype is not float64:
        value = _beside(op, x, value)
    if (
        (dtype is float32 or dtype is float64 or (op in _IN_HALF and is_half(dtype)))
        and (out is None or out.dtype is dtype)
        and plain(input)
    ):
        return Tensor._wrap(getattr(select(x), op.by_number or op.kernel)(x, value, out))
    if out is None:
        return op.apply(input, None, value=value)  # type: ignore[no-any-return]
    return op.apply(input, None, value=value, out=out)  # type: ignore[no-any-return]


def scaled(op: str, input: Any, other: Any, alpha: Any) -> Any:
    """alpha * other in the dtype of the sum that it becomes part of."""
    if alpha == 1:
        return other
    dtype = result_type(input, other)
    if isinstance(alpha, float) and dtype.kind not in DIFFERENTIABLE:
        raise RuntimeError(f"{op}: for integer tensors alpha must be an integer, got {alpha}")
    if isinstance(alpha, complex) and dtype.kind != "c":
        raise RuntimeError(f"{op}: alpha may be complex only for complex tensors, got {alpha}")
    if not isinstance(other, Tensor):
        return other * alpha
    if other._data.dtype.kind == "b":
        if op != "add":
            return other  # which the subtraction refuses
        return other.to(dtype) * (wrapped(alpha, dtype) if dtype.kind in "iu" else dtype.type(alpha).item())
    return apply(Mul, other if other._data.dtype is dtype else other.to(dtype), alpha)


def _added(input: Any, other: Any, alpha: Any, out: Any) -> Tensor | None:
    """input + alpha * other in one pass; None where something is recorded or more than arithmetic is to be done."""
    if not (input.__class__ is Tensor is other.__class__) or (
        mode.enabled and (input._requires_grad or other._requires_grad)
    ):
        return None
    x, y = input._data, other._data
    dtype = x.dtype
    if not (dtype is y.dtype and dtype.kind in FLOATING and alpha.__class__ in (int, float)) or on_device(x):
        return None
    if is_half(dtype):
        alpha = in_half(alpha, dtype)  # PyTorch rounds the factor first, and the sum once
    if out is None:
        return Tensor._wrap(select(x).addcmul_forward(x, y, alpha, 1.0))
    constant(out)
    if out.__class__ is not Tensor or out._data.dtype is not dtype or out._data.size == 0:
        return None
    select(x).addcmul_forward(x, y, alpha, 1.0, out._data)
    out._bump_version()
    return out


def older_order(op: str, factor: Any, tensors: tuple[Any, ...], count: int, now: str) -> None:
    """Accept a number before ``count`` tensors, as PyTorch's older signatures have it, with a warning."""
    if (
        len(tensors) != count
        or isinstance(factor, Tensor)
        or not all([isinstance(t, Tensor) for t in tensors])
    ):
        raise TypeError(f"{op}: expected {op}({now}), got {len(tensors) + 2} arguments by place")
    warn_caller(f"{op}: a factor before the tensors is PyTorch's older order; call {op}({now})")


def add(input: Any, other: Any, *older: Any, alpha: float = 1, out: Any = None) -> Tensor:
    """input + alpha * other, with broadcasting and type promotion. See ``torch.add``.

    PyTorch's older order ``add(input, alpha, other)`` is understood.

    Example:
        >>> import fastdl
        >>> fastdl.add(fastdl.Tensor([1.0, 2.0]), 10).tolist()
        [11.0, 12.0]
    """
    if older:
        older_order("add", other, older, 1, "input, other, *, alpha=1")
        alpha, (other,) = other, older
    if alpha != 1 and (result := _added(input, other, alpha, out)) is not None:
        return result
    return apply(Add, input, other if alpha == 1 else scaled("add", input, other, alpha), out)


def sub(input: Any, other: Any, *older: Any, alpha: float = 1, out: Any = None) -> Tensor:
    """input - alpha * other, with broadcasting and type promotion. See ``torch.sub``.

    PyTorch's older order ``sub(input, alpha, other)`` is understood.
    """
    if older:
        older_order("sub", other, older, 1, "input, other, *, alpha=1")
        alpha, (other,) = other, older
    if isinstance(other, bool) or isinstance(input, bool):
        raise RuntimeError("sub: a bool cannot be subtracted, nor subtracted from; use 0 or 1")
    if alpha != 1 and (result := _added(input, other, -alpha, out)) is not None:
        return result
    return apply(Sub, input, other if alpha == 1 else scaled("sub", input, other, alpha), out)


def rsub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """other - alpha * input. See ``torch.rsub``."""
    return apply(Sub, other, scaled("rsub", other, input, alpha))


def mul(input: Any, other: Any, *, out: Any = None) -> Tensor:
    """input * other, with broadcasting and type promotion. See ``torch.mul``."""
    return apply(Mul, input, other, out)


def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Any = None) -> Tensor:
    """input / other. See ``torch.div``.

    Args:
        rounding_mode: None for the true quotient (integers are converted to the default dtype), ``"floor"``
            to round it down, ``"trunc"`` towards zero; the last two keep integer dtypes.

    Example:
        >>> import fastdl
        >>> fastdl.div(fastdl.Tensor([7.0, -7.0]), 2, rounding_mode="floor").tolist()
        [3.0, -4.0]
    """
    if rounding_mode is None:
        return apply(Div, input, other, out)
    if rounding_mode == "floor":
        return apply(FloorDivide, input, other, out)
    if rounding_mode == "trunc":
        return apply(TruncDivide, input, other, out)
    raise ArgumentError(f"div: rounding_mode must be None, 'floor' or 'trunc', got {rounding_mode!r}")


def floor_divide(input: Any, other: Any, *, out: Any = None) -> Tensor:
    """floor(input / other): Python's ``//``. See ``torch.floor_divide``."""
    return apply(FloorDivide, input, other, out)


def remainder(input: Any, other: Any, *, out: Any = None) -> Tensor:
    """Python's ``%``: the remainder of floor division, with the sign of ``other``.

    See ``torch.remainder``.
    """
    return apply(Remainder, input, other, out)


def fmod(input: Any, other: Any, *, out: Any = None) -> Tensor:
    """The remainder of truncated division, with the sign of ``input``. See ``torch.fmod``."""
    return apply(Fmod, input, other, out)


def pow(input: Any, exponent: Any, *, out: Any = None) -> Tensor:
    """input ** exponent; either may be a number. See ``torch.pow``."""
    return apply(Pow, input, exponent, out)


def maximum(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """The larger of both, elementwise; NaN if either is. The gradient of a tie is shared equally.

    See ``torch.maximum``.
    """
    return apply(Maximum, input, other, out)


def minimum(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """The smaller of both, elementwise; NaN if either is. The gradient of a tie is shared equally.

    See ``torch.minimum``.
    """
    return apply(Minimum, input, other, out)


def atan2(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """The angle of the point (other, input) in (-pi, pi]. See ``torch.atan2``."""
    return apply(Atan2, input, other, out)


def hypot(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """sqrt(input^2 + other^2) without overflow in between. See ``torch.hypot``."""
    return apply(Hypot, input, other, out)


subtract = sub
multiply = mul
true_divide = divide = div
arctan2 = atan2

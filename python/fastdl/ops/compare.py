"""Comparisons, logic and bits. No gradients: results are bool (bitwise operations: integers)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.autograd.view import write
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, bool_, float32, float64, is_common_integer, is_half
from fastdl.errors import ArgumentError, DtypeError, not_a_tensor, not_for_complex
from fastdl.kernels import array, is_array, on_device, select, select_either
from fastdl.kernels.batched import BatchedArray
from fastdl.kernels.sparse import is_sparse, not_for_sparse
from fastdl.ops.arithmetic import number
from fastdl.ops.arrays import as_bool, by_numpy, cast, empty, full, has_integer_kernels, operand
from fastdl.ops.common import check_tensors
from fastdl.ops.out import constant, store
from fastdl.ops.promotion import common_dtype, in_half
from fastdl.tensor import Tensor

_FIRST = 2048  # elements that equal() compares before it goes on with more


def _arrays(op: str, input: Any, other: Any) -> tuple[Any, Any]:
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        raise not_a_tensor(op, "input", input)
    return (
        input._data if isinstance(input, Tensor) else number(op, input, "input"),
        other._data if isinstance(other, Tensor) else number(op, other),
    )


def _result(op: str, array: Any, out: Tensor | None) -> Tensor:
    result = Tensor._wrap(array)
    return result if out is None else store(op, out, result)


def _holds(dtype: Any, value: Any) -> bool:
    """Can a number of this integer dtype have the value?"""
    info = np.iinfo(dtype)
    return info.min <= value <= info.max  # type: ignore[no-any-return]


def _is_exact(dtype: Any, value: int) -> bool:
    """Is this integer a number of the dtype, which need not be rounded?"""
    if is_common_integer(dtype):
        return 0 <= value < 128 or _holds(dtype, value)
    return dtype.kind in FLOATING and 0 <= value < 128


def compare_arrays(name: str, ufunc: Any, x: Any, y: Any, out: Any = None) -> Any:
    """x op y as a bool array, after promotion."""
    dtype: Any = getattr(x, "dtype", None)
    if dtype is not None and (
        _is_exact(dtype, y) if y.__class__ is int else is_half(dtype) and dtype is getattr(y, "dtype", None)
    ):
        pass
    elif dtype is None or not (
        dtype is getattr(y, "dtype", dtype if dtype.kind in FLOATING and y.__class__ is not complex else None)
        and (dtype is float32 or dtype is float64 or is_common_integer(dtype))
    ):
        if name in ("eq", "ne") and out is None and (differ := _bits("xor", x, y)) is not None:
            return differ if name == "ne" else select(differ).bitwise_xor_forward(differ, True)
        dtype = common_dtype(x, y)
        if dtype.kind == "c" and name not in ("eq", "ne"):
            raise not_for_complex(name, "they have no order; compare x.abs() or x.real")
        if not is_array(x) or not is_array(y):
            value = y if is_array(x) else x
            if dtype.kind in "iu" and not _holds(dtype, value):
                # The number is beyond the dtype: compared as it is, not wrapped.
                return by_numpy(name, ufunc, bool_, out, x, y)
            if is_half(dtype):  # as the elements are: 0.1 is what is stored for it
                value = in_half(value, dtype)
                x, y = (x, value) if is_array(x) else (value, y)
        x, y = operand(x, dtype), operand(y, dtype)
    if (dtype.kind in FLOATING or (is_common_integer(dtype) and not (on_device(x) or on_device(y)))) and (
        out is None or out.dtype is bool_
    ):
        return getattr(select_either(x, y), name + "_forward")(x, y, out)
    if dtype.kind == "c" and out is None and x.__class__ is np.ndarray is y.__class__ and x.size >= 4096:
        kernels = select(x)
        compared = getattr(kernels, name + "_forward")
        join = kernels.bitwise_and_forward if name == "eq" else kernels.bitwise_or_forward
        return join(compared(x.real, y.real), compared(x.imag, y.imag))
    return by_numpy(name, ufunc, bool_, out, x, y)


def _comparison(name: str, ufunc: Any, sign: str) -> Callable[..., Tensor]:
    def function(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        try:
            return _result(name, compare_arrays(name, ufunc, *_arrays(name, input, other)), out)
        except TypeError:
            if is_sparse(input) or is_sparse(other):
                raise not_for_sparse(name) from None
            if not BatchedArray.made:
                raise
            from fastdl.batched import has_slices, in_step

            if not has_slices((input, other)):
                raise
        batched = in_step(function, input, other)
        return batched if out is None else write(name, out, batched)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"input {sign} other, elementwise, with broadcasting: a bool tensor. See ``torch.{name}``."
    )
    return function


eq = _comparison("eq", np.equal, "==")
ne = _comparison("ne", np.not_equal, "!=")
lt = _comparison("lt", np.less, "<")
le = _comparison("le", np.less_equal, "<=")
gt = _comparison("gt", np.greater, ">")
ge = _comparison("ge", np.greater_equal, ">=")
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge


def _bits(name: str, x: Any, y: Any, out: Any = None) -> Any:
    """``and``, ``or`` or ``xor`` by the kernel, where both are bool arrays on the CPU, else None."""
    if getattr(x, "dtype", None) is not bool_ or getattr(y, "dtype", None) is not bool_:
        return None
    if on_device(x) or on_device(y):
        return None
    return getattr(select(x), f"bitwise_{name}_forward")(x, y, out)


def _truth(x: Any) -> Any:
    """An array of the CPU as bools, which the kernels convert and combine; what else comes as it is."""
    return as_bool(x) if is_array(x) and not on_device(x) else x


def _logical(name: str, ufunc: Any, text: str) -> Callable[..., Tensor]:
    def function(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        x, y = _arrays(name, input, other)
        same = (
            out is input and x.dtype is bool_ and x.flags.writeable and getattr(y, "shape", None) == x.shape
        )
        found = _bits(name[8:], _truth(x), _truth(y), x if same else None)
        return _result(name, by_numpy(name, ufunc, bool_, None, x, y) if found is None else found, out)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{text}, elementwise; numbers count as True where not 0. See ``torch.{name}``."
    return function


logical_and = _logical("logical_and", np.logical_and, "Both")
logical_or = _logical("logical_or", np.logical_or, "Either or both")
logical_xor = _logical("logical_xor", np.logical_xor, "Exactly one")


def logical_not(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """True where ``input`` is zero or False. See ``torch.logical_not``."""
    x = input._data
    if x.dtype is bool_ and not on_device(x):
        same = out is input and x.flags.writeable
        return _result("logical_not", select(x).bitwise_xor_forward(x, True, x if same else None), out)
    if x.dtype.kind in FLOATING or has_integer_kernels(x):
        zero = eq(input, 0)
        return zero if out is None else _result("logical_not", zero._data, out)
    return _result("logical_not", by_numpy("logical_not", np.logical_not, bool_, None, x), out)


_KERNELS = {
    "bitwise_and": "bitwise_and_forward",
    "bitwise_or": "bitwise_or_forward",
    "bitwise_xor": "bitwise_xor_forward",
    "bitwise_left_shift": "left_shift_forward",
    "bitwise_right_shift": "right_shift_forward",
}


def _bitwise(name: str, ufunc: Any, text: str) -> Callable[..., Tensor]:
    kernel, of_bools = _KERNELS[name], not name.endswith("shift")

    def function(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        x, y = _arrays(name, input, other)
        constant(out)
        if of_bools:
            same = out is not None and out is input and y.__class__ is x.__class__ and y.shape == x.shape
            if (found := _bits(name[8:], x, y, x if same else None)) is not None:
                if not same:
                    return _result(name, found, out)
                out._bump_version()  # type: ignore[union-attr]
                return out  # type: ignore[return-value]
        dtype = getattr(x, "dtype", None)
        if dtype is None or not (
            is_common_integer(dtype) and (y.__class__ is int or dtype is getattr(y, "dtype", None))
        ):
            dtype = common_dtype(x, y)
        if dtype.kind in DIFFERENTIABLE:
            raise NotImplementedError(f"{name}: defined for integer and bool tensors, got {dtype}")
        x, y = operand(x, dtype), operand(y, dtype)
        if is_common_integer(dtype) and not (on_device(x) or on_device(y)):
            same = (
                out is not None and out is input and out._data.dtype is dtype and out._data.shape == x.shape
            )
            array = getattr(select_either(x, y), kernel)(x, y, x if same else None)
            if not same:
                return _result(name, array, out)
            out._bump_version()  # type: ignore[union-attr]
            return out  # type: ignore[return-value]
        return _result(name, by_numpy(name, ufunc, dtype, None, x, y), out)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{text}, for integers and bools. See ``torch.{name}``."
    return function


bitwise_and = _bitwise("bitwise_and", np.bitwise_and, "Bits set in both")
bitwise_or = _bitwise("bitwise_or", np.bitwise_or, "Bits set in either")
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor, "Bits set in exactly one")
bitwise_left_shift = _bitwise(
    "bitwise_left_shift", np.left_shift, "input * 2^other, bits shifted to the left"
)
bitwise_right_shift = _bitwise(
    "bitwise_right_shift", np.right_shift, "input / 2^other rounded down, bits shifted to the right"
)


def bitwise_not(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Every bit inverted; logical not for bools. See ``torch.bitwise_not``."""
    x = input._data
    if x.dtype.kind in DIFFERENTIABLE:
        raise DtypeError(f"bitwise_not: defined for integer and bool tensors, got {x.dtype}")
    constant(out)
    if out is None and x.dtype is bool_:
        return logical_not(input)
    if has_integer_kernels(x):
        return _result("bitwise_not", select(x).bitwise_xor_forward(x, -1), out)
    return _result("bitwise_not", by_numpy("bitwise_not", np.invert, x.dtype, None, x), out)


_BY_SIZE = {"isinf": "eq_forward", "isfinite": "lt_forward"}


def _test(name: str, ufunc: Any, text: str, of_integers: bool | None = False) -> Callable[[Tensor], Tensor]:
    def function(input: Tensor) -> Tensor:
        x = input._data
        if of_integers is not None and x.dtype.kind not in DIFFERENTIABLE:
            return Tensor._wrap(full(x.shape, of_integers, bool_, x))
        if name in _BY_SIZE and is_half(x.dtype):  # NumPy converts number by number
            k = select(x)
            return Tensor._wrap(getattr(k, _BY_SIZE[name])(k.abs_forward(x), float("inf")))
        result = empty(x.shape, bool_, x)
        ufunc(x, out=result, casting="unsafe")  # which warns of nothing
        return Tensor._wrap(result)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{text} See ``torch.{name}``."
    return function


def isnan(input: Tensor) -> Tensor:
    """True where NaN. See ``torch.isnan``."""
    x = input._data
    if x.dtype.kind in FLOATING:
        return Tensor._wrap(select(x).ne_forward(x, x))
    return Tensor._wrap(by_numpy("isnan", np.isnan, bool_, None, x))


isinf = _test("isinf", np.isinf, "True where infinite.")
isfinite = _test("isfinite", np.isfinite, "True where neither NaN nor infinite.", True)
isposinf = _test("isposinf", lambda x, out, casting: np.isposinf(x, out=out), "True where +inf.")
isneginf = _test("isneginf", lambda x, out, casting: np.isneginf(x, out=out), "True where -inf.")
_signbit = _test(
    "signbit",
    lambda x, out, casting: np.signbit(x, out=out) if x.dtype.kind in FLOATING else np.less(x, 0, out=out),
    "True where the sign bit is set (-0.0, too).",
    None,
)


def signbit(input: Tensor) -> Tensor:
    """True where the sign bit is set (-0.0, too). See ``torch.signbit``."""
    if input._data.dtype.kind == "c":
        raise not_for_complex("signbit")
    return _signbit(input)


def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """|input - other| <= atol + rtol * |other|, elementwise. See ``torch.isclose``."""
    check_tensors("isclose", input=input, other=other)
    if rtol < 0 or atol < 0:
        raise ArgumentError(f"isclose: rtol and atol must not be negative, got {rtol} and {atol}")
    x, y = input._data, other._data
    if x.dtype != y.dtype:
        raise RuntimeError(f"isclose: input and other must have the same dtype, got {x.dtype} and {y.dtype}")
    if x.dtype.kind not in DIFFERENTIABLE and rtol == atol == 0:
        return eq(input, other)  # exactly, beyond what floats can tell apart
    if has_integer_kernels(x) and not on_device(y):
        x, y = cast(x, float64), cast(y, float64)
    if is_half(x.dtype) and not (on_device(x) or on_device(y)):
        x, y = cast(x, float32), cast(y, float32)
    if x.dtype.kind not in FLOATING or on_device(x):
        return Tensor._wrap(array(np.isclose(x, y, rtol, atol, equal_nan)))
    k = select(x)
    same, far = k.eq_forward(x, y), k.abs_forward(k.sub_forward(x, y))  # infinities of one sign are equal
    near = k.le_forward(far, k.add_forward(k.mul_forward(k.abs_forward(y), rtol), atol))
    near = k.bitwise_and_forward(near, k.lt_forward(far, float("inf")))
    near = k.bitwise_or_forward(near, same)
    if equal_nan:
        near = k.bitwise_or_forward(near, k.bitwise_and_forward(k.ne_forward(x, x), k.ne_forward(y, y)))
    return Tensor._wrap(near)


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Are all elements close? See ``torch.allclose``."""
    return bool(isclose(input, other, rtol, atol, equal_nan)._data.all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Same shape and same elements? See ``torch.equal``."""
    x, y = input._data, other._data
    if x.shape != y.shape:
        return False
    if x.size < 16 * _FIRST or on_device(x) or on_device(y):
        return bool((x == y).all())
    # Tensors that differ mostly do so at once: pieces along the first axis that is one, each larger than the last.
    axis = next(i for i, extent in enumerate(x.shape) if extent > 1)
    begin, step = 0, -(-_FIRST * x.shape[axis] // x.size)
    while begin < x.shape[axis]:
        piece = (slice(None),) * axis + (slice(begin, begin + step),)
        if not compare_arrays("eq", np.equal, x[piece], y[piece]).all():
            return False
        begin, step = begin + step, 8 * step
    return True

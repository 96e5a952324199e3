"""Elementwise arithmetic with broadcasting; see :mod:`fastdl.kernels.reference.elementwise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import reference
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, operand

__all__ = [
    *reference.elementwise.__all__,
    "copysign_forward",
    "exp2_backward",
    "exp2_forward",
    "fmax_forward",
    "fmin_forward",
    "heaviside_forward",
    "logaddexp_backward",
    "logaddexp_forward",
    "nextafter_forward",
    "xlog1py_forward",
    "xlogy_forward",
]


_NUMBERS = (float, int, np.generic)


def prepare(op: str, *inputs: Any) -> tuple[Any, int, Any, tuple[int, ...]]:
    """The runtime, the number of the dtype, the dtype, and the broadcast shape."""
    first, last = inputs[0], inputs[-1]
    if first.__class__ is last.__class__ and len(inputs) <= 2 and not isinstance(first, _NUMBERS):
        dtype, shape = first.dtype, first.shape  # one array, or two alike: the common case
        if last.dtype is dtype and last.shape == shape:
            return device.of(first), device.code(op, first), dtype, shape
    arrays = [x for x in inputs if not isinstance(x, _NUMBERS)]
    if not arrays:
        raise DtypeError(f"{op}: at least one operand must be an array")
    number = device.code(op, *arrays)
    shape = arrays[0].shape
    for array in arrays[1:]:
        other = array.shape
        if other == shape or other == shape[len(shape) - len(other) :]:
            continue
        try:
            shape = np.broadcast_shapes(shape, other)
        except ValueError:
            shapes = " and ".join(str(a.shape) for a in arrays)
            raise ArgumentError(f"{op}: shapes {shapes} do not broadcast") from None
    return device.of(arrays[0]), number, arrays[0].dtype, shape


def result_array(op: str, runtime: Any, shape: tuple[int, ...], dtype: Any, out: Array | None) -> Array:
    if out is None:
        return runtime.empty(shape, dtype)
    if out.shape != shape:
        raise ArgumentError(f"{op}: out has shape {out.shape}, the result {shape}")
    if out.dtype != dtype:
        raise DtypeError(f"{op}: out has dtype {out.dtype}, the result {dtype}")
    return out


def _unary(op: str, x: Array, out: Array | None, a: float = 0.0, b: float = 0.0) -> Array:
    runtime, number, dtype, shape = prepare(op, x)
    y = result_array(op, runtime, shape, dtype, out)
    arguments = (op, number, shape, operand(runtime, y, shape), operand(runtime, x, shape), float(a))
    if op in _FUNCTIONS:
        runtime.extension.function(*arguments, runtime.stream())
    else:
        runtime.extension.unary(*arguments, float(b), runtime.stream())
    return y


_FUNCTIONS = frozenset(
    (
        *("expm1", "log1p", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh"),
        *("asinh", "acosh", "atanh", "erf", "exp2", "pow_scalar"),
    )
)
_BINARY_FUNCTIONS = frozenset(
    (
        *("fmod", "pow", "atan2", "hypot", "floor_divide", "remainder", "logaddexp", "copysign", "nextafter"),
        *("fmax", "fmin", "xlogy", "xlog1py", "heaviside"),
    )
)


def _binary(op: str, x: Any, y: Any, out: Array | None) -> Array:
    runtime, number, dtype, shape = prepare(op, x, y)
    z = result_array(op, runtime, shape, dtype, out)
    function = runtime.extension.binary_function if op in _BINARY_FUNCTIONS else runtime.extension.binary
    function(
        op,
        number,
        shape,
        operand(runtime, z, shape),
        operand(runtime, x, shape),
        operand(runtime, y, shape),
        runtime.stream(),
    )
    return z


def _compare(op: str, x: Any, y: Any, out: Array | None) -> Array:
    runtime, number, _, shape = prepare(op, x, y)
    z = result_array(op, runtime, shape, np.dtype(np.bool_), out)
    runtime.extension.compare(
        op,
        number,
        shape,
        operand(runtime, z, shape),
        operand(runtime, x, shape),
        operand(runtime, y, shape),
        runtime.stream(),
    )
    return z


def _gradient(op: str, grad_y: Array, saved: Array, a: float = 0.0, b: float = 0.0) -> Array:
    runtime, number, dtype, shape = prepare(op, grad_y, saved)
    grad_x = runtime.empty(shape, dtype)
    runtime.extension.gradient(
        op.removesuffix("_backward"),
        number,
        shape,
        operand(runtime, grad_x, shape),
        operand(runtime, grad_y, shape),
        operand(runtime, saved, shape),
        float(a),
        float(b),
        runtime.stream(),
    )
    return grad_x


def _ternary(op: str, x: Any, y: Any, z: Any, value: float = 0.0, out: Array | None = None) -> Array:
    runtime, number, dtype, shape = prepare(op, x, y, z)
    result = result_array(op, runtime, shape, dtype, out)
    runtime.extension.ternary(
        op,
        number,
        shape,
        operand(runtime, result, shape),
        operand(runtime, x, shape),
        operand(runtime, y, shape),
        operand(runtime, z, shape),
        float(value),
        runtime.stream(),
    )
    return result


# Functions that differ by the operation's name alone.


def _unary_named(op: str) -> Callable[..., Array]:
    def forward(x: Array, out: Array | None = None) -> Array:
        return _unary(op, x, out)

    return forward


def _binary_named(op: str) -> Callable[..., Array]:
    def forward(x: Any, y: Any, out: Array | None = None) -> Array:
        return _binary(op, x, y, out)

    return forward


def _compare_named(op: str) -> Callable[..., Array]:
    def forward(x: Any, y: Any, out: Array | None = None) -> Array:
        return _compare(op, x, y, out)

    return forward


def _gradient_of_x(op: str) -> Callable[..., Array]:
    def backward(grad_y: Array, x: Array) -> Array:
        return _gradient(op, grad_y, x)

    return backward


def _gradient_of_y(op: str) -> Callable[..., Array]:
    def backward(grad_y: Array, y: Array) -> Array:
        return _gradient(op, grad_y, y)

    return backward


add_forward = _binary_named("add")
sub_forward = _binary_named("sub")
mul_forward = _binary_named("mul")
div_forward = _binary_named("div")
fmod_forward = _binary_named("fmod")
pow_forward = _binary_named("pow")
maximum_forward = _binary_named("maximum")
minimum_forward = _binary_named("minimum")
atan2_forward = _binary_named("atan2")
hypot_forward = _binary_named("hypot")
floor_divide_forward = _binary_named("floor_divide")
remainder_forward = _binary_named("remainder")
logaddexp_forward = _binary_named("logaddexp")
copysign_forward = _binary_named("copysign")
fmax_forward = _binary_named("fmax")
fmin_forward = _binary_named("fmin")
xlogy_forward = _binary_named("xlogy")
xlog1py_forward = _binary_named("xlog1py")
heaviside_forward = _binary_named("heaviside")

eq_forward = _compare_named("eq")
ne_forward = _compare_named("ne")
lt_forward = _compare_named("lt")
le_forward = _compare_named("le")
gt_forward = _compare_named("gt")
ge_forward = _compare_named("ge")

neg_forward = _unary_named("neg")
abs_forward = _unary_named("abs")
sign_forward = _unary_named("sign")
floor_forward = _unary_named("floor")
ceil_forward = _unary_named("ceil")
round_forward = _unary_named("round")
trunc_forward = _unary_named("trunc")
frac_forward = _unary_named("frac")
square_forward = _unary_named("square")
sqrt_forward = _unary_named("sqrt")
rsqrt_forward = _unary_named("rsqrt")
reciprocal_forward = _unary_named("reciprocal")
exp_forward = _unary_named("exp")
expm1_forward = _unary_named("expm1")
log_forward = _unary_named("log")
log1p_forward = _unary_named("log1p")
log2_forward = _unary_named("log2")
log10_forward = _unary_named("log10")
sin_forward = _unary_named("sin")
cos_forward = _unary_named("cos")
tan_forward = _unary_named("tan")
asin_forward = _unary_named("asin")
acos_forward = _unary_named("acos")
atan_forward = _unary_named("atan")
sinh_forward = _unary_named("sinh")
cosh_forward = _unary_named("cosh")
asinh_forward = _unary_named("asinh")
acosh_forward = _unary_named("acosh")
atanh_forward = _unary_named("atanh")
erf_forward = _unary_named("erf")
exp2_forward = _unary_named("exp2")

abs_backward = _gradient_of_x("abs")
square_backward = _gradient_of_x("square")
sqrt_backward = _gradient_of_y("sqrt")
rsqrt_backward = _gradient_of_y("rsqrt")
reciprocal_backward = _gradient_of_y("reciprocal")
exp_backward = _gradient_of_y("exp")
expm1_backward = _gradient_of_y("expm1")
log_backward = _gradient_of_x("log")
log1p_backward = _gradient_of_x("log1p")
log2_backward = _gradient_of_x("log2")
log10_backward = _gradient_of_x("log10")
sin_backward = _gradient_of_x("sin")
cos_backward = _gradient_of_x("cos")
tan_backward = _gradient_of_y("tan")
asin_backward = _gradient_of_x("asin")
acos_backward = _gradient_of_x("acos")
atan_backward = _gradient_of_x("atan")
sinh_backward = _gradient_of_x("sinh")
cosh_backward = _gradient_of_x("cosh")
asinh_backward = _gradient_of_x("asinh")
acosh_backward = _gradient_of_x("acosh")
atanh_backward = _gradient_of_x("atanh")
erf_backward = _gradient_of_x("erf")
exp2_backward = _gradient_of_y("exp2")


def mul_backward(grad: Array, x: Any, y: Any) -> tuple[Array, Array]:
    return _binary("mul", grad, y, None), _binary("mul", grad, x, None)


def div_backward(grad: Array, x: Any, y: Any) -> tuple[Array, Array]:
    grad_x = _binary("div", grad, y, None)
    return grad_x, _ternary("div_y", grad_x, x, y)


def maximum_backward(grad: Array, x: Any, y: Any) -> tuple[Array, Array]:
    return _ternary("maximum_x", grad, x, y), _ternary("maximum_x", grad, y, x)


def minimum_backward(grad: Array, x: Any, y: Any) -> tuple[Array, Array]:
    return _ternary("minimum_x", grad, x, y), _ternary("minimum_x", grad, y, x)


def logaddexp_backward(grad: Array, x: Any, y: Any) -> tuple[Array, Array]:
    return _ternary("logaddexp_x", grad, x, y), _ternary("logaddexp_x", grad, y, x)


def nextafter_forward(x: Any, y: Any, out: Array | None = None) -> Array:
    dtype = next(a.dtype for a in (x, y) if not isinstance(a, _NUMBERS))
    if dtype.itemsize == 2:  # computed in float32, whose next number is another one
        raise DtypeError(f"nextafter: float32 and float64 have a kernel on CUDA, got {dtype.name}")
    return _binary("nextafter", x, y, out)


def pow_scalar_forward(x: Array, exponent: float, out: Array | None = None) -> Array:
    return _unary("pow_scalar", x, out, exponent)


def pow_scalar_backward(grad_y: Array, x: Array, exponent: float) -> Array:
    return _gradient("pow_scalar", grad_y, x, exponent)


def clamp_forward(x: Array, lower: float, upper: float, out: Array | None = None) -> Array:
    return _unary("clamp", x, out, lower, upper)


def clamp_backward(grad_y: Array, x: Array, lower: float, upper: float) -> Array:
    return _gradient("clamp", grad_y, x, lower, upper)


def where_forward(condition: Array, x: Any, y: Any) -> Array:
    runtime, number, dtype, shape = prepare("where", x, y)
    if condition.dtype != np.bool_:
        raise DtypeError(f"where: condition must be bool, got {condition.dtype}")
    shape = np.broadcast_shapes(shape, condition.shape)
    out = runtime.empty(shape, dtype)
    runtime.extension.where(
        number,
        shape,
        operand(runtime, out, shape),
        operand(runtime, condition, shape),
        operand(runtime, x, shape),
        operand(runtime, y, shape),
        runtime.stream(),
    )
    return out


def where_backward(grad: Array, condition: Array) -> tuple[Array, Array]:
    return where_forward(condition, grad, 0.0), where_forward(condition, 0.0, grad)


def addcmul_forward(x: Any, y: Any, z: Any, value: float, out: Array | None = None) -> Array:
    return _ternary("addcmul", x, y, z, value, out)


def addcdiv_forward(x: Any, y: Any, z: Any, value: float, out: Array | None = None) -> Array:
    return _ternary("addcdiv", x, y, z, value, out)


def lerp_forward(x: Any, y: Any, z: Any, out: Array | None = None) -> Array:
    return _ternary("lerp", x, y, z, 0.0, out)


def convert(x: Array, dtype: Any) -> Array:
    """x in another of the kernels' dtypes (x itself if it has it)."""
    if x.dtype == dtype:
        return x
    runtime = device.of(x)
    y = runtime.empty(x.shape, dtype)
    runtime.extension.convert(
        device.code("convert", y),
        device.code("convert", x),
        x.shape,
        operand(runtime, y, x.shape),
        operand(runtime, x, x.shape),
        runtime.stream(),
    )
    return y

"""Functions of one operand, elementwise.

Integers are converted to the default dtype where the result is not one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, float32, float64, int64, is_common_integer
from fastdl.errors import not_a_tensor
from fastdl.kernels import select
from fastdl.ops.arrays import by_numpy, cast, empty, has_integer_kernels, zeros
from fastdl.ops.out import constant, into, store
from fastdl.ops.promotion import floating_dtype
from fastdl.tensor import Tensor


class Unary(Op):
    """Subclasses name the kernel and what it keeps for backward."""

    label: ClassVar[str]
    # What becomes of them: converted ("float"), copied ("copy": they are the result), or NumPy's function.
    integers: ClassVar[Any] = "float"
    dtype: Any

    def forward(self, x: Any, out: Any = None) -> Any:
        self.dtype = dtype = x.dtype
        if dtype.kind in FLOATING:
            if out is not None and out.dtype is not dtype:
                return into(self.label, out, self.compute(x, None))
            return self.keep(x, self.compute(x, out))
        if self.integers == "float":
            return self.convert(x, out)
        if self.integers == "copy":
            result = empty(x.shape, dtype, x) if out is None else out
            np.copyto(result, x)
            return result
        if dtype.kind == "b" and self.label == "neg":
            raise RuntimeError("neg: not defined for bool tensors; use logical_not (~), or convert first")
        if dtype.kind == "b" and self.label == "square":
            return by_numpy("square", np.square, int64, out, cast(x, int64))
        if dtype.kind == "b":  # |x| and sign(x) are x
            return by_numpy(self.label, np.logical_and, dtype, out, x, x)
        if has_integer_kernels(x) and (out is None or out.dtype is dtype):
            return self.keep(x, self.compute(x, out))
        return self.keep(x, by_numpy(self.label, self.integers, dtype, out, x))

    def convert(self, x: Any, out: Any) -> Any:
        y = self.compute(cast(x, floating_dtype(x.dtype)), None)
        return y if out is None else into(self.label, out, y)

    def compute(self, x: Any, out: Any) -> Any:
        return getattr(select(x), self.label + "_forward")(x, out)

    def keep(self, x: Any, y: Any) -> Any:
        """Store what backward needs; returns y."""
        return y


class Constant(Unary):
    """Flat between its jumps: the gradient is zero."""

    release = Op.stay

    def backward(self, grad: Any) -> Any:
        return zeros(grad.shape, grad.dtype, grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return Tensor._wrap(zeros(grad._data.shape, grad._data.dtype, grad._data))


class Frac(Unary):
    """The gradient passes."""

    label, integers = "frac", None
    aliases_grad = hands_on = True

    def backward(self, grad: Any) -> Any:
        return grad

    def backward_graph(self, grad: Tensor) -> Any:
        return grad


class FromInput(Unary):
    saves = (0,)

    def keep(self, x: Any, y: Any) -> Any:
        self.x = x
        return y

    def backward(self, grad: Any) -> Any:
        return getattr(select(grad), self.label + "_backward")(grad, self.x)

    def backward_graph(self, grad: Tensor) -> Any:
        return grad * OF_INPUT[self.label](self.saved_input(0, self.x))


class FromOutput(Unary):
    saves_output = True

    def keep(self, x: Any, y: Any) -> Any:
        self.y = y
        return y

    def backward(self, grad: Any) -> Any:
        return getattr(select(grad), self.label + "_backward")(grad, self.y)

    def backward_graph(self, grad: Tensor) -> Any:
        return grad * OF_OUTPUT[self.label](self.saved_output(self.y))


class Neg(Unary):
    release = Op.stay
    label, integers = "neg", np.negative

    def backward(self, grad: Any) -> Any:
        return select(grad).neg_forward(grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return -grad


# Derivatives as operations: of functions of the input, and of those whose output says it.
OF_INPUT: dict[str, Callable[[Any], Any]] = {
    "abs": lambda x: x.sign(),
    "square": lambda x: x * 2,
    "log": lambda x: 1 / x,
    "log1p": lambda x: 1 / (x + 1),
    "log2": lambda x: (1 / math.log(2)) / x,
    "log10": lambda x: (1 / math.log(10)) / x,
    "sin": lambda x: x.cos(),
    "cos": lambda x: -x.sin(),
    "asin": lambda x: (1 - x * x).rsqrt(),
    "acos": lambda x: -(1 - x * x).rsqrt(),
    "atan": lambda x: 1 / (x * x + 1),
    "sinh": lambda x: x.cosh(),
    "cosh": lambda x: x.sinh(),
    "asinh": lambda x: (x * x + 1).rsqrt(),
    "acosh": lambda x: (x * x - 1).rsqrt(),
    "atanh": lambda x: 1 / (1 - x * x),
    "erf": lambda x: (-(x * x)).exp() * (2 / math.sqrt(math.pi)),
}
OF_OUTPUT: dict[str, Callable[[Any], Any]] = {
    "sqrt": lambda y: 0.5 / y,
    "rsqrt": lambda y: y * y * y * -0.5,
    "reciprocal": lambda y: -(y * y),
    "exp": lambda y: y,
    "exp2": lambda y: y * math.log(2),
    "expm1": lambda y: y + 1,
    "tan": lambda y: y * y + 1,
}


def _define(
    base: type[Unary], name: str, text: str, integers: Any = "float", example: tuple[str, str] | None = None
) -> Callable[..., Tensor]:
    op = type(name.capitalize(), (base,), {"label": name, "integers": integers, "__doc__": text})
    return _function(op, name, text, example)


def _function(
    op: type[Op], name: str, text: str, example: tuple[str, str] | None = None
) -> Callable[..., Tensor]:
    kernel = name + "_forward"
    of_integers = issubclass(op, Unary) and op.integers.__class__ is np.ufunc

    def function(input: Tensor, *, out: Tensor | None = None) -> Tensor:
        if not isinstance(input, Tensor):
            raise not_a_tensor(name, "input", input)
        x = input._data
        dtype = x.dtype
        if (
            (dtype.kind in FLOATING or (of_integers and is_common_integer(dtype)))
            and x.__class__ is np.ndarray
            and not (input._requires_grad and mode.enabled)
        ):  # no node where nothing is recorded
            if out is None:
                return Tensor._wrap(getattr(select(x), kernel)(x))
            if out is input and x.size:
                getattr(select(x), kernel)(x, x)
                out._bump_version()
                return out
        if out is None:
            return op.apply(input)  # type: ignore[no-any-return]
        if not isinstance(out, Tensor):
            raise not_a_tensor(name, "out", out)
        constant(out)
        if out._data.size == 0:
            return store(name, out, op.apply(input))
        op.apply(constant(input), out=out._data)
        out._bump_version()
        return out

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{text} See ``torch.{name}``."
    if example:
        function.__doc__ += "\n\n    Example:\n        >>> import fastdl\n"
        function.__doc__ += f"        >>> {example[0]}\n        {example[1]}\n    "
    return function


neg = _function(Neg, "neg", "-input.")
abs = _define(FromInput, "abs", "|input|; the gradient at 0 is 0.", np.absolute)

sign = _define(Constant, "sign", "-1, 0 or 1; 0 for NaN.", np.sign)
floor = _define(Constant, "floor", "The largest integer not above input.", "copy")
ceil = _define(Constant, "ceil", "The smallest integer not below input.", "copy")
trunc = _define(Constant, "trunc", "Input without its fraction.", "copy")
_frac = _function(Frac, "frac", "Input without its integer part.")
_round = _define(Constant, "round", "The nearest integer, halves to even.", "copy")
square = _define(FromInput, "square", "input * input.", np.square)
sqrt = _define(FromOutput, "sqrt", "The square root; NaN below 0.")
rsqrt = _define(FromOutput, "rsqrt", "1 / sqrt(input).")
reciprocal = _define(FromOutput, "reciprocal", "1 / input.")
exp = _define(FromOutput, "exp", "e to the power of input.")
_exp2 = _define(FromOutput, "exp2", "2 to the power of input.")
expm1 = _define(FromOutput, "expm1", "exp(input) - 1, accurate near 0.")
log = _define(FromInput, "log", "The natural logarithm; -inf at 0, NaN below.")
log1p = _define(FromInput, "log1p", "log(1 + input), accurate near 0.")
log2 = _define(FromInput, "log2", "The logarithm to base 2.")
log10 = _define(FromInput, "log10", "The logarithm to base 10.")
sin = _define(FromInput, "sin", "The sine of an angle in radians.")
cos = _define(FromInput, "cos", "The cosine of an angle in radians.")
tan = _define(FromOutput, "tan", "The tangent of an angle in radians.")
asin = _define(FromInput, "asin", "The angle whose sine is input; NaN outside [-1, 1].")
acos = _define(FromInput, "acos", "The angle whose cosine is input; NaN outside [-1, 1].")
atan = _define(FromInput, "atan", "The angle whose tangent is input.")
sinh = _define(FromInput, "sinh", "The hyperbolic sine.")
cosh = _define(FromInput, "cosh", "The hyperbolic cosine.")
asinh = _define(FromInput, "asinh", "The inverse hyperbolic sine.")
acosh = _define(FromInput, "acosh", "The inverse hyperbolic cosine; NaN below 1.")
atanh = _define(FromInput, "atanh", "The inverse hyperbolic tangent; NaN outside [-1, 1].")
erf = _define(FromInput, "erf", "The error function 2/sqrt(pi) * integral of exp(-t^2) from 0.")


def round(input: Tensor, *, decimals: int = 0, out: Tensor | None = None) -> Tensor:
    """The nearest integer, halves to even; with ``decimals`` the nearest multiple of 10^-decimals. See
    ``torch.round``.

    Example:
        >>> import fastdl
        >>> fastdl.round(fastdl.Tensor([0.5, 1.5, 2.4])).tolist()
        [0.0, 2.0, 2.0]
    """
    if decimals == 0:
        return _round(input, out=out)
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    x = input._data
    if out is None and (x.dtype is float32 or x.dtype is float64):
        return RoundDecimals.apply(input, scale=scale, up=decimals > 0)  # type: ignore[no-any-return]
    from fastdl.ops.arithmetic import div, mul

    if decimals > 0:
        return div(_round(mul(input, scale)), scale, out=out)
    return mul(_round(div(input, scale)), scale, out=out)


class RoundDecimals(Op):
    """To multiples of ``scale``, or of 1 / scale (``up``). The gradient is zero."""

    release = Op.stay

    def forward(self, x: Any, scale: float, up: bool) -> Any:
        k = select(x)
        there, back = (k.mul_forward, k.div_forward) if up else (k.div_forward, k.mul_forward)
        y = there(x, scale)
        return back(k.round_forward(y, y), scale, y)

    def backward(self, grad: Any) -> Any:
        return zeros(grad.shape, grad.dtype, grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return Tensor._wrap(self.backward(grad._data))


def frac(input: Tensor) -> Tensor:
    """input - trunc(input). See ``torch.frac``."""
    if not isinstance(input, Tensor):
        raise not_a_tensor("frac", "input", input)
    if input._data.dtype.kind in FLOATING:
        return _frac(input)
    from fastdl.ops.arithmetic import sub

    return sub(input, trunc(input))


def positive(input: Tensor) -> Tensor:
    """The tensor itself: unary +. See ``torch.positive``."""
    if not isinstance(input, Tensor):
        raise not_a_tensor("positive", "input", input)
    if input._data.dtype.kind == "b":
        raise RuntimeError("positive: not defined for bool tensors")
    return input


negative = neg
absolute = abs
fix = trunc
arcsin, arccos, arctan, arcsinh, arccosh, arctanh = asin, acos, atan, asinh, acosh, atanh

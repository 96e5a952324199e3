"""Arithmetic and functions on complex numbers, by NumPy or CuPy; ``complex_rules`` says for which operations."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.graph import fitted
from fastdl.autograd.op import Op
from fastdl.dtypes import complex64, float32, real_dtype
from fastdl.kernels import cpu, is_array
from fastdl.ops.arrays import broadcast_shape, by_numpy, empty, fit, operand
from fastdl.ops.complex import ComplexFormula, conj
from fastdl.ops.complex_kernels import composed
from fastdl.ops.pieces import in_pieces
from fastdl.ops.promotion import common_dtype
from fastdl.ops.unary import OF_INPUT, OF_OUTPUT
from fastdl.tensor import Tensor


def computed(label: str, ufunc: Any, dtype: Any, out: Any, *operands: Any) -> Any:
    """``by_numpy``, of large arrays on all threads."""
    if out is None and max([np.size(o) for o in operands]) >= 1 << 16:
        shape = broadcast_shape(label, *[o.shape if is_array(o) else () for o in operands])
        like = next(o for o in operands if is_array(o))
        return in_pieces(
            lambda *given: ufunc(*given[:-1], out=given[-1], casting="unsafe"),
            empty(shape, dtype, like),
            *operands,
        )
    return by_numpy(label, ufunc, dtype, out, *operands)


def _of_kernel(value: Any, real: bool) -> Any:
    """An operand of the kernels, or None: an array on the CPU, complex64 or float32.

    A number becomes an array of 0 dimensions: of a real one where there are kernels for those.
    """
    if value.__class__ is np.ndarray:
        return value if value.dtype is complex64 or value.dtype is float32 else None
    if value.__class__ in (int, float, complex):  # of a backward
        value = operand(value, complex64)
    if value.__class__ is not np.complex64:
        return None
    return np.asarray(value.real if real and not value.imag else value)


def by_kernel(name: str, out: Any, x: Any, y: Any) -> Any:
    """x and y by the kernel of this name, or with one of them real by that for it; None where there is none."""
    if out is not None and not (out.__class__ is np.ndarray and out.dtype is complex64):
        return None
    real = name in _BY_REAL
    x, y = _of_kernel(x, real), _of_kernel(y, real)
    if x is None or y is None or (x.dtype is y.dtype and x.dtype is float32):
        return None
    if x.dtype is not y.dtype:
        if name == "multiply" and x.dtype is float32:
            x, y = y, x
        if y.dtype is float32 and real:
            return getattr(cpu, _BY_REAL[name])(x, y, out)
        x, y = operand(x, complex64), operand(y, complex64)
    return getattr(cpu, f"complex_{name}")(x, y, out)


_BY_REAL = {"multiply": "complex_scale", "multiply_conjugate": "complex_scale", "divide": "complex_shrink"}


def _product(dtype: Any, out: Any, x: Any, y: Any, conjugate: bool = False) -> Any:
    """x y, or x conj(y)."""
    if dtype is complex64:
        z = by_kernel("multiply_conjugate" if conjugate else "multiply", out, x, y)
        if z is not None:
            return z
    return computed("mul", np.multiply, dtype, out, x, np.conj(y) if conjugate else y)


class ComplexBinary(ComplexFormula):
    """Two operands of which one is complex, as :class:`fastdl.ops.binary.Binary`."""

    label: ClassVar[str]
    ufunc: ClassVar[Any]
    kernel: ClassVar[str | None] = None  # for complex64 on the CPU
    keeps: ClassVar[bool] = True  # the operands, for backward
    likes: Any

    def forward(self, x: Any, y: Any, value: Any = None, out: Any = None) -> Any:
        left, right = value if x is None else x, value if y is None else y
        dtype: Any = getattr(left, "dtype", None)
        if dtype is not getattr(right, "dtype", dtype if y is None and dtype.kind == "c" else None):
            dtype = None
        if dtype is None or x is None or y is None:
            if dtype is None:
                dtype = common_dtype(left, right)
            left, right = _beside(left, dtype), _beside(right, dtype)
        self.dtype = dtype
        self.likes = [None if a is None else (a.shape, a.dtype) for a in (x, y)]
        if self.keeps and True in self.needs:
            self.saves = tuple([i for i, a in enumerate((x, y)) if a is not None])
            self.x, self.y = value if x is None else x, value if y is None else y
        return self.compute(dtype, out, left, right)

    def compute(self, dtype: Any, out: Any, x: Any, y: Any) -> Any:
        """The result from operands that NumPy takes side by side."""
        if dtype is complex64 and self.kernel is not None:
            z = by_kernel(self.kernel, out, x, y)
            if z is not None:
                return z
        return computed(self.label, self.ufunc, dtype, out, x, y)

    def operand_graph(self, i: int) -> Any:
        """Operand ``i`` as a tensor of the graph; a number stays one."""
        value = (self.x, self.y)[i]
        return value if self.likes[i] is None else self.saved_input(i, value)

    def give(self, grad_x: Callable[[], Any], grad_y: Callable[[], Any]) -> Any:
        """The gradients of those inputs that need one, in their shapes and dtypes."""
        return tuple(
            [
                fitted(g(), like) if need else None
                for g, like, need in zip((grad_x, grad_y), self.likes, self.needs, strict=True)
            ]
        )


def _beside(value: Any, dtype: Any) -> Any:
    """An operand for a computation in ``dtype``; NumPy reads real arrays of that precision as they are."""
    return value if is_array(value) and value.dtype is real_dtype(dtype) else operand(value, dtype)


class ComplexAdd(ComplexBinary):
    release = Op.stay
    label, keeps, kernel = "add", False, "add"
    ufunc: ClassVar[Any] = np.add
    aliases_grad = True

    def backward_graph(self, grad: Any) -> Any:
        return self.give(lambda: grad, lambda: grad)


class ComplexSub(ComplexAdd):
    label, kernel, ufunc = "sub", "sub", np.subtract

    def backward_graph(self, grad: Any) -> Any:
        return self.give(lambda: grad, lambda: -grad)


class ComplexMul(ComplexBinary):
    label, ufunc = "mul", np.multiply

    def compute(self, dtype: Any, out: Any, x: Any, y: Any) -> Any:
        return _product(dtype, out, x, y)

    def backward(self, grad: Any) -> Any:
        need_x, need_y = self.needs
        x, y = self.likes
        return (
            fit(_product(grad.dtype, None, grad, self.y, True), x) if need_x else None,
            fit(_product(grad.dtype, None, grad, self.x, True), y) if need_y else None,
        )

    def backward_graph(self, grad: Any) -> Any:
        return self.give(
            lambda: grad * _conj(self.operand_graph(1)), lambda: grad * _conj(self.operand_graph(0))
        )


def _conj(value: Any) -> Any:
    return conj(value) if isinstance(value, Tensor) else value.conjugate()


class ComplexDiv(ComplexBinary):
    label, kernel, ufunc = "div", "divide", np.true_divide

    def backward_graph(self, grad: Any) -> Any:
        y = self.operand_graph(1)
        grad_x = grad / _conj(y)
        return self.give(lambda: grad_x, lambda: -grad_x * conj(self.operand_graph(0) / y))


def _power(x: Any, y: Any, out: Any, casting: str) -> Any:
    return np.power(x, y, out=out, casting=casting)  # type: ignore[call-overload]


class ComplexPow(ComplexBinary):
    label, ufunc = "pow", staticmethod(_power)

    def compute(self, dtype: Any, out: Any, x: Any, y: Any) -> Any:
        if is_array(x) and not is_array(y) and y in (2, 3):
            square = _product(dtype, out if y == 2 else None, x, x)
            return square if y == 2 else _product(dtype, out, square, x)
        z = super().compute(dtype, out, x, y)
        if self.needs[1]:
            self.saves_output, self.z = True, z
        return z

    def backward_graph(self, grad: Any) -> Any:
        x, y = self.operand_graph(0), self.operand_graph(1)

        def grad_x() -> Any:  # grad conj(y x^(y - 1)), and 0 where y is 0
            if not isinstance(y, Tensor):
                return grad * _conj(x if y == 2 else x ** (y - 1)) * _conj(y) if y != 0 else grad * 0
            flat: Any = y == 0
            return (grad * conj(y * x ** (y - 1))).masked_fill(flat, 0.0)

        def grad_y() -> Any:  # grad conj(z log x), and 0 where 0^y is flat
            if not isinstance(x, Tensor):
                if x == 0:
                    return grad * 0
                return grad * conj(self.saved_output(self.z)) * np.log(builtins.complex(x)).conjugate()
            flat: Any = x == 0
            slope = self.saved_output(self.z) * x.masked_fill(flat, 1.0).to(self.dtype).log()
            return (grad * conj(slope)).masked_fill(flat, 0.0)

        return self.give(grad_x, grad_y)


def _rsqrt(x: Any, out: Any, casting: str) -> Any:
    return np.reciprocal(np.sqrt(x), out=out, casting=casting)  # type: ignore[call-overload]


def _sigmoid(x: Any, out: Any, casting: str) -> Any:
    return np.reciprocal(1 + np.exp(-x), out=out, casting=casting)  # type: ignore[call-overload]


_OF_X = {k: f for k, f in OF_INPUT.items() if k not in ("abs", "erf")}
_OF_X["acosh"] = lambda x: (x + 1).rsqrt() * (x - 1).rsqrt()  # one root would take the wrong branch left of 0
_OF_Y: dict[str, Callable[[Any], Any]] = {
    **OF_OUTPUT,
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
}
_NUMPY: dict[str, Any] = {
    "neg": np.negative,
    "rsqrt": _rsqrt,
    "sigmoid": _sigmoid,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
}


class Holomorphic(ComplexFormula):
    """y = f(z) elementwise, by name; the gradient is grad conj(f'(z))."""

    def forward(self, x: Any, name: str, out: Any = None) -> Any:
        self.name_of = name
        y = composed(name, x) if out is None and x.__class__ is np.ndarray else None
        if y is None:
            y = by_numpy(name, _NUMPY.get(name) or getattr(np, name), x.dtype, out, x)
        if name in _OF_Y:
            self.saves_output, self.kept = True, y
        elif name != "neg":
            self.saves, self.kept = (0,), x
        return y

    def backward_graph(self, grad: Tensor) -> Any:
        if self.name_of == "neg":
            return -grad
        if self.name_of in _OF_Y:
            return grad * conj(_OF_Y[self.name_of](self.saved_output(self.kept)))
        return grad * conj(_OF_X[self.name_of](self.saved_input(0, self.kept)))


HOLOMORPHIC = frozenset(["neg", *_OF_X, *_OF_Y])
"""The names of the elementwise functions that complex numbers have, too."""

"""Complex numbers and their parts: views of memory, conjugates, absolute values and angles.

A gradient with respect to z = x + iy is dL/dx + i dL/dy, PyTorch's convention (the conjugate Wirtinger derivative): of
a holomorphic f it is ``grad * conj(f'(z))``, and a real input beside complex ones gets the real part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.op import Op
from fastdl.autograd.view import View
from fastdl.dtypes import FLOATING, complex64, complex_dtype, float32, float64, real_dtype
from fastdl.errors import not_for_complex
from fastdl.kernels import cpu, on_device, select
from fastdl.ops.arrays import by_numpy, empty, empty_as_it_lies, memory_order, zeros
from fastdl.ops.common import check_tensors
from fastdl.ops.unary import abs as absolute
from fastdl.ops.unary import sign
from fastdl.tensor import Tensor

__all__ = [
    "angle",
    "complex",
    "conj",
    "conj_physical",
    "imag",
    "is_complex",
    "polar",
    "real",
    "resolve_conj",
    "resolve_neg",
    "sgn",
    "view_as_complex",
    "view_as_real",
]


def _joined(re: Any, im: Any) -> Any:
    """The complex array of two real ones; None stands for zeros."""
    like = im if re is None else re
    if like.__class__ is np.ndarray and like.dtype is float32:
        return cpu.complex_join(_ZERO if re is None else re, _ZERO if im is None else im)
    result = empty(like.shape, complex_dtype(like.dtype), like)
    result.real[...] = 0 if re is None else re
    result.imag[...] = 0 if im is None else im
    return result


_ZERO = np.zeros((), float32)


class Real(View):
    """x of x + iy, on the same memory."""

    @staticmethod
    def of(x: Any, *_: Any, **options: Any) -> Any:
        return x.real

    def backward(self, grad: Any) -> Any:
        return _joined(grad, None)

    def backward_graph(self, grad: Tensor) -> Any:
        return Join.apply(grad, None)


class Imag(View):
    """y of x + iy, on the same memory."""

    @staticmethod
    def of(x: Any, *_: Any, **options: Any) -> Any:
        return x.imag

    def backward(self, grad: Any) -> Any:
        return _joined(None, grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return Join.apply(None, grad)


class Join(Op):
    """x + iy; one of them may be None, for zeros."""

    takes_complex = True
    aliases_grad = True

    def forward(self, re: Any, im: Any) -> Any:
        return _joined(re, im)

    def backward(self, grad: Any) -> Any:
        return grad.real if self.needs[0] else None, grad.imag if self.needs[1] else None

    def backward_graph(self, grad: Tensor) -> Any:
        return Real.apply(grad) if self.needs[0] else None, Imag.apply(grad) if self.needs[1] else None


class ViewAsReal(View):
    """(x, y) as a new last axis."""

    @staticmethod
    def of(x: Any, *_: Any, **options: Any) -> Any:
        return x[..., None].view(real_dtype(x.dtype))

    def backward(self, grad: Any) -> Any:
        if grad.strides[-1] != grad.itemsize:
            grad = pooled_copy(grad)
        return ViewAsComplex.of(grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return ViewAsComplex.apply(grad if grad._data.strides[-1] == grad._data.itemsize else grad.clone())


def as_real(array: Any) -> Any:
    """A complex array as pairs in a last axis, on the same memory; others as they are."""
    return ViewAsReal.of(array) if array.dtype.kind == "c" else array


class ViewAsComplex(View):
    """The last axis, of two, as one number."""

    @staticmethod
    def of(x: Any, *_: Any, **options: Any) -> Any:
        return x.view(complex_dtype(x.dtype))[..., 0]

    def backward(self, grad: Any) -> Any:
        return ViewAsReal.of(grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return ViewAsReal.apply(grad)


class Conj(Op):
    """x - iy."""

    takes_complex = True

    def forward(self, x: Any, out: Any = None) -> Any:
        if out is None and x.__class__ is np.ndarray and x.dtype is complex64:
            return cpu.complex_conjugate(x)
        return by_numpy("conj", np.conjugate, x.dtype, out, x)

    def backward(self, grad: Any) -> Any:
        return self.forward(grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return Conj.apply(grad)


class ComplexFormula(Op):
    """An operation on complex numbers whose backward is written once, on tensors, for arrays and graphs."""

    takes_complex = True
    aliases_grad = True  # a sum over extents of 1 is a view

    def backward(self, *grads: Any) -> Any:
        found = self.backward_graph(*[None if g is None else Tensor._wrap(g) for g in grads])
        if found.__class__ is not tuple:
            return found._data
        return tuple([None if g is None else g._data for g in found])


class ComplexAbs(ComplexFormula):
    """|z|, real; the gradient is grad z / |z|, and 0 at 0. |z| is kept as a copy: results may be changed in place."""

    saves = (0,)

    def forward(self, z: Any, out: Any = None) -> Any:
        order = memory_order(z) if out is None else None  # of spectrograms: along memory
        y = by_numpy("abs", np.absolute, real_dtype(z.dtype), out, z if order is None else z.transpose(order))
        y = y if order is None else y.transpose(np.argsort(order))
        self.z = z
        if self.needs[0]:
            self.y = pooled_copy(y)
        return y

    def backward(self, grad: Any) -> Any:
        size, zero = self.y, self.y == 0
        if zero.any():
            size = np.where(zero, np.inf, size).astype(size.dtype)
        factor = select(grad).div_forward(grad, size)
        if on_device(grad):
            return self.z * factor
        multiply = select(grad).mul_forward
        result = empty_as_it_lies(self.z)
        multiply(self.z.real, factor, result.real)
        multiply(self.z.imag, factor, result.imag)
        return result

    def backward_graph(self, grad: Tensor) -> Any:
        return sgn(self.saved_input(0, self.z)) * grad


class ComplexSgn(ComplexFormula):
    """z / |z|, and 0 for 0."""

    saves, saves_output = (0,), True

    def forward(self, z: Any, out: Any = None) -> Any:
        self.z, self.size = z, np.absolute(z)
        if z.__class__ is np.ndarray and z.dtype is complex64 and out is None:
            self.size = np.asarray(self.size)
            size = cpu.where_forward(cpu.eq_forward(self.size, 0.0), 1.0, self.size)
            self.y = cpu.complex_shrink(z, size)
            return self.y
        with np.errstate(all="ignore"):
            unit = np.where(self.size == 0, z.dtype.type(0), z / self.size)
        self.y = by_numpy("sgn", np.positive, z.dtype, out, unit)
        return self.y

    def backward_graph(self, grad: Tensor) -> Any:
        y, size = self.saved_output(self.y), absolute(self.saved_input(0, self.z))
        turned = (grad - real(y.conj() * grad) * y) / size  # only turning z changes it
        none: Any = size == 0
        return turned.masked_fill(none, 0.0)


class Angle(ComplexFormula):
    """atan2(y, x); the gradient is grad i z / |z|^2, and 0 at 0."""

    saves = (0,)

    def forward(self, z: Any, out: Any = None) -> Any:
        self.z = z
        return by_numpy("angle", _angle, real_dtype(z.dtype), out, z)

    def backward_graph(self, grad: Tensor) -> Any:
        z = self.saved_input(0, self.z)
        nothing: Any = z == 0
        re, im = real(z), imag(z)
        share = grad / (re * re + im * im).masked_fill(nothing, 1.0)
        return Join.apply(-im * share, re * share).masked_fill(nothing, 0.0)


def _angle(z: Any, out: Any, casting: str) -> Any:
    if z.__class__ is np.ndarray and out.dtype is real_dtype(z.dtype):
        return cpu.atan2_forward(z.imag, z.real, out)
    return np.arctan2(z.imag, z.real, out=out, casting=casting)  # type: ignore[call-overload]


# ------------------------------------------------------------------------------------------- public functions


def is_complex(input: Tensor) -> bool:
    """Is the dtype of ``input`` complex64 or complex128? See ``torch.is_complex``."""
    check_tensors("is_complex", input=input)
    return input.is_complex()


def real(input: Tensor) -> Tensor:
    """The real part, a view; of a real tensor itself. See ``torch.real``."""
    check_tensors("real", input=input)
    return Real.apply(input) if input._data.dtype.kind == "c" else input


def imag(input: Tensor) -> Tensor:
    """The imaginary part of a complex tensor, a view. See ``torch.imag``."""
    check_tensors("imag", input=input)
    if input._data.dtype.kind != "c":
        raise RuntimeError(f"imag is not implemented for tensors with non-complex dtypes, got {input.dtype}")
    return Imag.apply(input)  # type: ignore[no-any-return]


def view_as_real(input: Tensor) -> Tensor:
    """Real and imaginary parts as a new last axis of two, a view. See ``torch.view_as_real``.

    Example:
        >>> import fastdl
        >>> fastdl.view_as_real(fastdl.tensor([1 + 2j])).tolist()
        [[1.0, 2.0]]
    """
    if input._data.dtype.kind != "c":
        raise RuntimeError(f"view_as_real is only supported for complex tensors, got {input.dtype}")
    return ViewAsReal.apply(input)  # type: ignore[no-any-return]


def view_as_complex(input: Tensor) -> Tensor:
    """Pairs in the last axis as complex numbers, a view. See ``torch.view_as_complex``.

    The last axis must have extent 2 and stride 1, the other strides must be even.

    Example:
        >>> import fastdl
        >>> fastdl.view_as_complex(fastdl.tensor([[1.0, 2.0]]))
        tensor([1.+2.j])
    """
    x = input._data
    if x.dtype is not float32 and x.dtype is not float64:
        raise RuntimeError(
            f"view_as_complex is only supported for float32 and float64 tensors, got {x.dtype}"
        )
    if x.ndim == 0 or x.shape[-1] != 2:
        raise RuntimeError(
            f"view_as_complex: Tensor must have a last dimension of size 2, got shape {x.shape}"
        )
    if x.strides[-1] != x.itemsize:
        raise RuntimeError(
            "view_as_complex: Tensor must have a last dimension with stride 1; use x.contiguous()"
        )
    if any([s % (2 * x.itemsize) for s, n in zip(x.strides[:-1], x.shape[:-1], strict=True) if n > 1]):
        raise RuntimeError(
            f"view_as_complex: Tensor must have a stride divisible by 2 for all but last dimension, got "
            f"{input.stride()}; use x.contiguous()"
        )
    return ViewAsComplex.apply(input)  # type: ignore[no-any-return]


def complex(real: Tensor, imag: Tensor) -> Tensor:
    """real + i imag, of two tensors of one dtype, float32 or float64, which broadcast. See ``torch.complex``."""
    re, im = real._data, imag._data
    if re.dtype is not im.dtype:
        raise RuntimeError(f"complex: real and imag must have one dtype, got {re.dtype} and {im.dtype}")
    if re.dtype is not float32 and re.dtype is not float64:
        raise RuntimeError(f"complex: real and imag must be float32 or float64, got {re.dtype}")
    if re.shape != im.shape:
        from fastdl.ops.views import broadcast_tensors

        real, imag = broadcast_tensors(real, imag)
    return Join.apply(real, imag)  # type: ignore[no-any-return]


def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """abs (cos(angle) + i sin(angle)), of two tensors of one dtype, float32 or float64. See ``torch.polar``.

    Example:
        >>> import fastdl
        >>> fastdl.polar(fastdl.tensor([2.0]), fastdl.tensor([0.0]))
        tensor([2.+0.j])
    """
    if abs._data.dtype is not angle._data.dtype:
        raise RuntimeError(f"polar: abs and angle must have one dtype, got {abs.dtype} and {angle.dtype}")
    return complex(abs * angle.cos(), abs * angle.sin())


def conj(input: Tensor) -> Tensor:
    """The complex conjugate, computed at once; a real tensor itself. See ``torch.conj``."""
    check_tensors("conj", input=input)
    return Conj.apply(input) if input._data.dtype.kind == "c" else input


def conj_physical(input: Tensor) -> Tensor:
    """As :func:`conj`. See ``torch.conj_physical``."""
    return conj(input)


def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself: conjugates are computed at once. See ``torch.resolve_conj``; also ``resolve_neg``."""
    check_tensors("resolve_conj", input=input)
    return input


resolve_neg = resolve_conj


def angle(input: Tensor) -> Tensor:
    """The angle of complex numbers in the plane; of real ones 0, or pi below 0. See ``torch.angle``."""
    check_tensors("angle", input=input)
    dtype = input._data.dtype
    if dtype.kind == "c":
        return Angle.apply(input)  # type: ignore[no-any-return]
    if dtype.kind not in FLOATING:
        input = input.float()
    return RealAngle.apply(input)  # type: ignore[no-any-return]


class RealAngle(Op):
    """pi below 0, else 0; NaN stays. The gradient is zero."""

    def forward(self, x: Any) -> Any:
        if not on_device(x):
            return select(x).angle_forward(x)
        k = select(x)
        right = k.where_forward(k.ne_forward(x, x), x, 0.0)
        return k.where_forward(k.lt_forward(x, 0.0), float(np.pi), right)

    def backward(self, grad: Any) -> Any:
        return zeros(grad.shape, grad.dtype, grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return Tensor._wrap(self.backward(grad._data))


def sgn(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """z / |z|, 0 for 0; of real numbers the sign. See ``torch.sgn``."""
    check_tensors("sgn", input=input)
    if input._data.dtype.kind != "c":
        return sign(input, out=out)
    from fastdl.ops.out import apply_into

    return apply_into(out, ComplexSgn, input)


def real_zeros(like: Tensor) -> Tensor:
    """A constant of zeros with the shape of ``like`` and the dtype of its parts."""
    array = like._data
    return Tensor._wrap(zeros(array.shape, real_dtype(array.dtype), array))


def check_real(op: str, *tensors: Any) -> None:
    """Refuse complex tensors where order or rounding is asked for."""
    for t in tensors:
        if isinstance(t, Tensor) and t._data.dtype.kind == "c":
            raise not_for_complex(op)

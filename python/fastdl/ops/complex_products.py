"""Products, sums and norms of complex numbers: what the real operations become."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.mode import enable_grad
from fastdl.dtypes import complex64
from fastdl.errors import DtypeError
from fastdl.kernels import cpu, select
from fastdl.ops.arrays import cast, empty
from fastdl.ops.axes import reduced_shape
from fastdl.ops.bilinear import Bilinear
from fastdl.ops.complex import ComplexFormula, Join, conj, imag, real, view_as_complex, view_as_real
from fastdl.ops.complex_kernels import product
from fastdl.ops.einsum import Einsum
from fastdl.ops.linear import AddMatMul, MatMul, Outer
from fastdl.ops.order import Cumprod
from fastdl.ops.reduce import Mean, Norm, Prod, Sum, numpy_reduce
from fastdl.ops.statistics import LogCumSumExp
from fastdl.ops.variance import Spread, Std, Var
from fastdl.tensor import Tensor


class Conjugated(ComplexFormula):
    """The complex form of an operation that is a polynomial (or holomorphic) in its inputs.

    If a real backward is ``f(grad, saved)``, linear in ``grad``, the complex one is ``f(grad, conj(saved))``, which is
    ``conj(f(conj(grad), saved))``.
    """

    def backward_graph(self, *grads: Any) -> Any:
        found = super().backward_graph(*[conj(g) for g in grads])
        if found.__class__ is not tuple:
            return conj(found)
        return tuple([None if g is None else conj(g) for g in found])


class ComplexMatMul(Conjugated, MatMul):
    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return product(a, b)


class ComplexOuter(Conjugated, Outer):
    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return product(a[:, None], b[None])


class ComplexAddMatMul(Conjugated, AddMatMul):
    def forward(self, c: Any, a: Any, b: Any, beta: Any, alpha: Any) -> Any:
        self.a, self.b, self.beta, self.alpha, self.shape = a, b, beta, alpha, c.shape
        y = product(a, b)
        y = y if alpha == 1 else y * y.dtype.type(alpha)
        return y if beta == 0 else np.add(y, c if beta == 1 else c * c.dtype.type(beta), out=y)


class Replayed(ComplexFormula):
    """The complex form of an operation whose backward is its forward once more, composed of others: they conjugate."""

    def backward(self, *grads: Any) -> Any:
        with enable_grad():
            return super().backward(*grads)


class ComplexEinsum(Conjugated, Einsum):
    aliases_grad = False

    def backward_graph(self, grad: Any) -> Any:
        if any([len(set(own)) < len(own) for own in self.labels]):  # replayed
            with enable_grad():
                return Einsum.backward_graph(self, grad)
        return super().backward_graph(grad)


class ComplexBilinear(Replayed, Bilinear):
    def forward(self, x1: Any, x2: Any, weight: Any, bias: Any) -> Any:
        y = super().forward(x1, x2, weight, None)
        self.has_bias = bias is not None
        return y if bias is None else np.add(y, bias, out=y)


class ComplexProd(Replayed, Prod):
    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        self.x, self.y = x, _product_of(x, axes, keepdim)
        return self.y

    def backward_graph(self, grad: Tensor) -> Any:
        if not (self.x.size and self.x.all()):
            return super().backward_graph(grad)
        whole = grad * conj(self.saved_output(self.y))
        return self.with_axes(whole) / conj(self.saved_input(0, self.x))


def _product_of(x: Any, axes: Any, keepdim: bool) -> Any:
    """One half times the other until one number is left; in double precision NumPy's."""
    if x.__class__ is not np.ndarray or x.dtype is not complex64 or x.size < 64:
        return numpy_reduce(np.prod, x, axes, keepdim, x.dtype)
    axes = tuple(range(x.ndim)) if axes is None else axes
    rest = [i for i in range(x.ndim) if i not in axes]
    rows = x.transpose([*axes, *rest]).reshape(-1, *[x.shape[i] for i in rest])
    while len(rows) > 1:
        half = len(rows) // 2
        product = cpu.complex_multiply(rows[:half], rows[half : 2 * half])
        if len(rows) % 2:
            product[:1] = cpu.complex_multiply(product[:1], rows[-1:])
        rows = product
    shape = reduced_shape(x.shape, axes, keepdim)
    return numpy_reduce(np.prod, x, axes, keepdim, x.dtype) if not len(rows) else rows[0].reshape(shape)


class ComplexCumprod(Replayed, Cumprod):
    def forward(self, x: Any, axis: int) -> Any:
        self.x, self.axis = x, axis
        self.y = np.cumprod(x, axis, out=empty(x.shape, x.dtype, x)) if x.ndim else x.copy()
        return self.y

    def backward_graph(self, grad: Tensor) -> Any:
        if grad.ndim and self.x.all():
            return conj(Cumprod.backward_graph(self, conj(grad)))
        return Cumprod.backward_graph(self, grad)


class ComplexLogCumSumExp(Conjugated, LogCumSumExp):
    """From real running sums of the positive and the negative parts, each with its own logarithm."""

    def forward(self, x: Any, axis: int) -> Any:
        self.x, self.axis = x, axis
        self.y = _running_logsumexp(x, axis, False) if x.ndim else x.copy()
        return self.y

    def backward(self, grad: Any) -> Any:
        if grad.ndim == 0:
            return grad.copy()
        with np.errstate(all="ignore"):
            shares = _running_logsumexp(np.log(grad.conj()) - self.y, self.axis, True)
            return np.conj(np.exp(shares + self.x)).astype(grad.dtype, copy=False)


def _running_logsumexp(z: Any, axis: int, from_end: bool) -> Any:
    x = z.astype(np.complex128)  # angles come from logarithms, which may be large
    with np.errstate(all="ignore"):
        factors = [np.cos(x.imag), np.sin(x.imag)]
        signed = [x.real + np.log(np.maximum(sign * f, 0)) for f in factors for sign in (1, -1)]
        runs = select(x).running_logsumexp(np.stack(signed), axis + 1, from_end)
        largest = runs.max(0)
        largest[np.isinf(largest)] = 0
        plus, minus, plus_i, minus_i = np.exp(runs - largest)
        y: Any = empty(x.shape, x.dtype, x)
        y.real, y.imag = plus - minus, plus_i - minus_i
        np.log(y, out=y)
        y += largest
        return cast(y, z.dtype)


# -------------------------------------------------------------------------------------- by other operations


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias"""
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t._data.dtype is not x._data.dtype:
            raise DtypeError(f"linear: input is {x.dtype} but {name} is {t.dtype}; give both the same dtype")
    y = ComplexMatMul.apply(x, weight.mT)
    return y if bias is None else y + bias


def mean(x: Tensor, axes: Any, keepdim: bool) -> Any:
    axes = tuple(range(x.ndim)) if axes is None else axes
    return view_as_complex(Mean.apply(view_as_real(x), axes=axes, keepdim=keepdim))


def norm(x: Tensor, p: float, axes: Any, keepdim: bool) -> Any:
    """Of the absolute values; the 2-norm is that of all parts."""
    if p != 2:
        return Norm.apply(x.abs(), p=p, axes=axes, keepdim=keepdim)
    parts = view_as_real(x)
    axes = tuple(range(parts.ndim)) if axes is None else (*axes, x.ndim)
    result = Norm.apply(parts, p=p, axes=axes, keepdim=keepdim)
    return result.squeeze(-1) if keepdim else result


def variance(x: Tensor, axes: Any, keepdim: bool, correction: float) -> Any:
    """That of the real parts plus that of the imaginary ones: real."""
    options = {"axes": axes, "keepdim": keepdim, "correction": correction}
    return Var.apply(real(x), **options) + Var.apply(imag(x), **options)


def spread(cls: type[Spread], x: Tensor, axes: Any, keepdim: bool, correction: float) -> Any:
    """Standard deviation, or variance and mean."""
    var = variance(x, axes, keepdim, correction)
    return var.sqrt() if cls is Std else (var, Mean.apply(x, axes=axes, keepdim=keepdim))


def logsumexp(x: Tensor, axes: Any, keepdim: bool) -> Any:
    """log(sum(exp(x - m))) + m, with m the largest real part."""
    parts = real(x).detach()
    largest = parts.amax(axes, True) if x._data.size else Sum.apply(parts, axes=axes, keepdim=True)
    largest = largest.masked_fill(~largest.isfinite(), 0.0)
    total = Sum.apply((x - largest).exp(), axes=axes, keepdim=True).log() + largest
    if keepdim:
        return total
    return total.reshape(Sum.apply(parts, axes=axes, keepdim=False).shape)


def in_parts(apply: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """An operation linear in ``x`` and in ``weight`` (convolution), from four real ones."""
    zero = None if bias is None else (real(bias), imag(bias))
    first = apply(real(x), real(weight), None if zero is None else zero[0])
    second = apply(real(x), imag(weight), None if zero is None else zero[1])
    re = first - apply(imag(x), imag(weight), None)
    return Join.apply(re, second + apply(imag(x), real(weight), None))  # type: ignore[no-any-return]

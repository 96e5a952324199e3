"""Linear algebra on square and other matrices: solving, factorising, eigenvalues; by NumPy's LAPACK or own kernels.

All work on batches (the last two axes are the matrix). Gradients follow M. Giles, "Collected matrix derivative results
for forward and reverse mode algorithmic differentiation" (2008), with conjugate transposes for complex matrices; those
of eigenvectors and singular vectors hold where the values are distinct.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.graph import converted
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE, complex_dtype, real_dtype
from fastdl.errors import LinAlgError, not_a_tensor
from fastdl.kernels import MetaArray, on_device, select
from fastdl.ops.arrays import any_true, contiguous, eye, sum_to
from fastdl.ops.complex import ComplexFormula
from fastdl.ops.complex_kernels import product
from fastdl.ops.diagonals import triangle
from fastdl.ops.join import cat
from fastdl.ops.lapack import check_waiting, lapack
from fastdl.tensor import Tensor

quiet = np.errstate(all="ignore")  # infinity and NaN are results


def mH(a: Any) -> Any:
    """The conjugate transpose, named as the tensors' property; of real matrices the transpose, a view."""
    return np.swapaxes(a, -1, -2).conj()


def check_matrix(op: str, a: Any, square: bool = True) -> None:
    """Refuse what is no (square) matrix of floating-point or complex numbers."""
    if not isinstance(a, Tensor):
        raise not_a_tensor(op, "A", a)
    if a._data.dtype.kind not in DIFFERENTIABLE or a._data.dtype.itemsize == 2:
        raise RuntimeError(f"{op}: defined for float32, float64 and complex tensors, got {a.dtype}")
    check_matrix_shape(op, a, square)


def check_matrix_shape(op: str, a: Tensor, square: bool = True) -> None:
    """Refuse what is no (square) matrix, of whatever numbers."""
    shape = a._data.shape
    if len(shape) < 2 or (square and shape[-1] != shape[-2]):
        raise RuntimeError(
            f"{op}: expects {'square ' if square else ''}matrices (..., n, n), got shape {shape}"
        )


def failed(info: Any) -> bool:
    """Is there a matrix without a result? Not among those without values."""
    check_waiting("linalg", info)
    return any_true(info)


def _refuse_singular(op: str, a: Any, info: Any) -> None:
    if failed(info):
        raise LinAlgError(
            f"{op}: A of shape {a.shape} {'is' if a.ndim == 2 else 'holds a matrix that is'} singular; "
            "linalg.lstsq and linalg.pinv work on singular matrices, too"
        )


def spoil(result: Any, info: Any) -> Any:
    """``result`` with NaN for every matrix whose ``info`` is not 0; it may have more batch axes than ``info``."""
    if on_device(info) or failed(info):  # a GPU is not waited for
        result = np.where((info != 0)[..., None, None], result.dtype.type(float("nan")), result)
    return result


class Inverse(Op):
    """The inverse, NaN where there is none, and 0 or the number of the first pivot that is 0."""

    takes_complex = True
    saves_output = True
    materialize = False

    def forward(self, a: Any, op: str | None = None) -> Any:
        packed, pivots, info = select(a).lu_factor(a, True)
        if op:
            _refuse_singular(op, a, info)
        self.y = select(a).lu_solve(packed, pivots, None, False)
        if not op:
            self.y = spoil(self.y, info)
        return self.y, info

    def backward(self, grad: Any, _: Any) -> Any:
        y = mH(self.y)
        return -product(product(y, grad), y)

    def backward_graph(self, grad: Any, _: Any) -> Any:
        y = self.saved_output(self.y).mH
        return -(y @ grad @ y)


class Solve(Op):
    """x of a x = b, NaN where a is singular, and 0 or the number of the first pivot that is 0."""

    takes_complex = True
    saves, saves_output = (0,), True
    materialize = False

    def forward(self, a: Any, b: Any, op: str | None = None) -> Any:
        self.a, self.b_shape = a, b.shape
        self.packed, self.pivots, info = select(a).lu_factor(a, True)
        if op:
            _refuse_singular(op, a, info)
        self.x = select(a).lu_solve(self.packed, self.pivots, b, False)
        if not op:
            self.x = spoil(self.x, info)
        return self.x, info

    def backward(self, grad: Any, _: Any) -> Any:
        grad_b = select(grad).lu_solve(self.packed.conj(), self.pivots, grad, True)
        grad_a = sum_to(-product(grad_b, mH(self.x)), self.a.shape) if self.needs[0] else None
        return grad_a, sum_to(grad_b, self.b_shape)

    def backward_graph(self, grad: Any, _: Any) -> Any:
        a, x = self.saved_input(0, self.a), self.saved_output(self.x)
        grad_b = Solve.apply(a.mH, grad)[0]
        return (-(grad_b @ x.mH)).sum_to_size(self.a.shape), grad_b.sum_to_size(self.b_shape)


class TriangularSolve(Op):
    """x of a x = b by one triangle of a, ``unit``: whose diagonal counts as ones. No b stands for the identity."""

    takes_complex = True
    saves, saves_output = (0,), True

    def forward(self, a: Any, b: Any, upper: bool, unit: bool) -> Any:
        self.a, self.b_shape, self.upper, self.unit = a, None if b is None else b.shape, upper, unit
        self.x = select(a).triangular_solve(a, b, upper, unit)
        return self.x

    def backward(self, grad: Any) -> Any:
        kernels = select(grad)
        grad_b = kernels.triangular_solve(mH(self.a), grad, not self.upper, self.unit)
        grad_a = None
        if self.needs[0]:
            grad_a = sum_to(-product(grad_b, mH(self.x)), self.a.shape)
            grad_a = triangle(grad_a, int(self.unit if self.upper else -self.unit), not self.upper)
        return grad_a, None if self.b_shape is None else sum_to(grad_b, self.b_shape)

    def backward_graph(self, grad: Any) -> Any:
        a, x = self.saved_input(0, self.a), self.saved_output(self.x)
        grad_b = TriangularSolve.apply(a.mH, grad, upper=not self.upper, unit=self.unit)
        grad_a = (-(grad_b @ x.mH)).sum_to_size(self.a.shape)
        grad_a = grad_a.triu(int(self.unit)) if self.upper else grad_a.tril(-int(self.unit))
        return grad_a, None if self.b_shape is None else grad_b.sum_to_size(self.b_shape)


def _diagonal(packed: Any) -> Any:
    return np.diagonal(packed, 0, -2, -1)


def _sign(pivots: Any, dtype: Any) -> Any:
    """Of the permutation that the exchanges make."""
    odd = (pivots != np.arange(1, pivots.shape[-1] + 1, like=pivots)).sum(-1) % 2
    return (1 - 2 * odd).astype(dtype)


class Determinant(Op):
    """The gradient is grad * adj(a)^T = grad * det(a) a^-T; of a singular matrix by way of its singular values."""

    takes_complex = True
    saves = (0,)

    @quiet
    def forward(self, a: Any) -> Any:
        self.a = a
        if on_device(a):
            packed, pivots, _ = select(a).lu_factor(a, True)
            self.y = _diagonal(packed).prod(-1) * _sign(pivots, a.dtype)
        else:
            self.y = np.asarray(np.linalg.det(a), a.dtype, like=a)
        return self.y

    @quiet
    def backward(self, grad: Any) -> Any:
        packed, pivots, info = select(grad).lu_factor(self.a, True)
        if failed(info):
            return self._of_singular(grad)
        det = _diagonal(packed).prod(-1) * _sign(pivots, grad.dtype)
        inverse = select(grad).lu_solve(packed, pivots, None, False)
        return (grad * det.conj())[..., None, None] * mH(inverse)

    def _of_singular(self, grad: Any) -> Any:
        u, s, vh = lapack("svd", self.a)
        one = np.ones_like(s[..., :1])  # all but one are those before it and those behind it
        before = np.concatenate([one, np.cumprod(s[..., :-1], -1)], -1)
        behind = np.concatenate([one, np.cumprod(s[..., :0:-1], -1)], -1)[..., ::-1]
        others = before * behind
        sign = np.linalg.det(u) * np.linalg.det(vh)
        return (grad * sign.conj())[..., None, None].astype(grad.dtype) * ((u * others[..., None, :]) @ vh)

    def backward_graph(self, grad: Any) -> Any:
        if not self.y.all():
            raise NotImplementedError(
                "det: has no second derivative (create_graph=True) for a singular matrix, whose inverse it needs"
            )
        a = self.saved_input(0, self.a)
        whole = grad * Determinant.apply(a).conj()
        return whole.unsqueeze(-1).unsqueeze(-1) * Inverse.apply(a, op="det")[0].mH


class LogDeterminant(Op):
    """Sign and logarithm of the absolute value of the determinant."""

    takes_complex = True
    saves = (0,)
    materialize = True

    def forward(self, a: Any) -> Any:
        self.a = a
        if on_device(a):
            packed, pivots, _ = select(a).lu_factor(a, True)
            diagonal = _diagonal(packed)
            sizes = np.abs(diagonal)
            signs = np.where(sizes == 0, sizes.dtype.type(0), diagonal / np.where(sizes == 0, 1, sizes))
            self.sign = signs.prod(-1) * _sign(pivots, a.dtype)
            with np.errstate(divide="ignore"):
                return self.sign, np.log(sizes).sum(-1)
        with np.errstate(invalid="ignore"):  # NaN of NaN
            sign, log = np.linalg.slogdet(a)
        self.sign = np.asarray(sign, a.dtype, like=a)
        return self.sign, np.asarray(log, real_dtype(a.dtype), like=a)

    def backward(self, grad_sign: Any, grad_log: Any) -> Any:
        if self.sign.dtype.kind == "c":  # the sign turns with the determinant
            grad_log = grad_log + 1j * (grad_sign * self.sign.conj()).imag
        packed, pivots, info = select(self.a).lu_factor(self.a, True)
        _refuse_singular("slogdet", self.a, info)
        return grad_log[..., None, None] * mH(select(packed).lu_solve(packed, pivots, None, False))

    def backward_graph(self, grad_sign: Any, grad_log: Any) -> Any:
        if self.sign.dtype.kind == "c":
            grad_log = grad_log + (grad_sign * self.saved_output(self.sign).conj()).imag * 1j
        return (
            grad_log.unsqueeze(-1).unsqueeze(-1)
            * Inverse.apply(self.saved_input(0, self.a), op="slogdet")[0].mH
        )


def missing_factor(lower: Any) -> Any:
    """Has a Cholesky factor met NaN, which LAPACK carries on to the last element?"""
    last = lower[..., -1:, -1:]
    return (last != last).any()


class Cholesky(Op):
    takes_complex = True
    saves_output = True

    def forward(self, a: Any, upper: bool = False) -> Any:
        """The lower factor of the matrix that one triangle tells."""
        try:
            self.y = lapack("cholesky", mH(a) if upper else a)
            if self.y.__class__ is not MetaArray and missing_factor(self.y):
                raise LinAlgError
        except LinAlgError:
            raise LinAlgError(
                f"cholesky: A of shape {a.shape} {'is' if a.ndim == 2 else 'holds a matrix that is'} not positive "
                "definite; A + 1e-6 * eye(n) helps where only rounding is to blame"
            ) from None
        return self.y

    def backward(self, grad: Any) -> Any:
        lower = self.y
        kernels, upper = select(grad), mH(lower)
        middle = triangle(product(upper, grad), 0, True)
        middle = middle + mH(triangle(middle, -1, True))
        half = kernels.triangular_solve(upper, mH(middle), True, False)  # (M L^-1)^H
        return kernels.triangular_solve(upper, mH(half), True, False) * lower.dtype.type(0.5)

    def backward_graph(self, grad: Any) -> Any:
        lower = self.saved_output(self.y)
        middle = (lower.mH @ grad).tril()
        middle = (middle + middle.tril(-1).mH) * 0.5
        half = TriangularSolve.apply(lower.mH, middle.mH, upper=True, unit=False)
        return TriangularSolve.apply(lower.mH, half.mH, upper=True, unit=False)


class SymmetricEigen(Op):
    """Eigenvalues in ascending order, and eigenvectors in columns, of the lower (or upper) triangle."""

    takes_complex = True
    saves_output = True
    materialize = False

    def forward(self, a: Any, uplo: str) -> Any:
        values, vectors = lapack("eigh", a, uplo)
        self.values, self.vectors = values, contiguous(vectors)
        return self.values, self.vectors

    def backward(self, grad_values: Any, grad_vectors: Any) -> Any:
        v, w = self.vectors, self.values
        if grad_vectors is None:
            return product(v * grad_values[..., None, :], mH(v))
        grad_values = _zeros_for(grad_values, w)
        gaps = w[..., None, :] - w[..., :, None]
        with np.errstate(divide="ignore"):
            inverse_gaps = np.where(gaps == 0, 0, 1 / np.where(gaps == 0, 1, gaps)).astype(w.dtype)
        turn = mH(v) @ grad_vectors  # its antisymmetric part counts: vectors only turn
        inner = (turn - mH(turn)) * (inverse_gaps * 0.5)
        inner += grad_values[..., None] * eye(w.shape[-1], v.dtype, v)
        return v @ inner @ mH(v)

    def backward_graph(self, grad_values: Any, grad_vectors: Any) -> Any:
        w, v = self.saved_output(self.values, 0), self.saved_output(self.vectors, 1)
        if grad_vectors is None:
            return (v * grad_values.unsqueeze(-2)) @ v.mH
        grad_values = _zeros_tensor_for(grad_values, self.values)
        turn = v.mH @ grad_vectors
        inner = (turn - turn.mH) * (_inverse_gaps(w) * 0.5)
        inner = inner + grad_values.unsqueeze(-1) * _eye(self.vectors)
        return v @ inner @ v.mH


class SingularValues(Op):
    """The singular value decomposition u, s, vh; ``full``: with square u and vh, gradients only of the reduced part."""

    takes_complex = True
    saves_output = True
    materialize = False

    def forward(self, a: Any, full: bool = False) -> Any:
        u, s, vh = lapack("svd", a, full_matrices=full)
        self.u, self.s, self.vh = contiguous(u), s, contiguous(vh)
        return self.u, self.s, self.vh

    @quiet
    def backward(self, grad_u: Any, grad_s: Any, grad_vh: Any) -> Any:
        s, k = self.s, self.s.shape[-1]
        if grad_u is None and grad_vh is None:
            return product(self.u[..., :k] * grad_s[..., None, :], self.vh[..., :k, :])
        grad_u, grad_s, grad_vh = [
            _zeros_for(g, a) for g, a in zip((grad_u, grad_s, grad_vh), (self.u, s, self.vh), strict=True)
        ]
        u, grad_u, vh, grad_vh = self.u[..., :k], grad_u[..., :k], self.vh[..., :k, :], grad_vh[..., :k, :]
        one = eye(k, u.dtype, u)
        squares = s * s
        gaps = squares[..., None, :] - squares[..., :, None]
        f = np.where(gaps == 0, 0, 1 / np.where(gaps == 0, 1, gaps)).astype(s.dtype)
        inner = grad_s[..., None] * one
        of_u, of_v = mH(u) @ grad_u, vh @ mH(grad_vh)
        if u.dtype.kind == "c":  # columns of u turn in the plane as those of v do
            turned = np.diagonal(of_u, axis1=-2, axis2=-1).imag / np.where(s == 0, 1, s)
            inner = inner + 1j * turned[..., None] * one
        inner = inner + (f * (of_u - mH(of_u))) * s[..., None, :] + s[..., :, None] * (f * (of_v - mH(of_v)))
        result = u @ inner @ vh
        inverse = np.where(s == 0, 0, 1 / np.where(s == 0, 1, s)).astype(s.dtype)
        if u.shape[-2] > k:
            result = result + (grad_u - u @ of_u) * inverse[..., None, :] @ vh
        if vh.shape[-1] > k:
            result = result + (u * inverse[..., None, :]) @ (grad_vh - mH(of_v) @ vh)
        return result

    def backward_graph(self, grad_u: Any, grad_s: Any, grad_vh: Any) -> Any:
        u, s, vh = [self.saved_output(a, i) for i, a in enumerate((self.u, self.s, self.vh))]
        k = self.s.shape[-1]
        if grad_u is None and grad_vh is None:
            return (u[..., :k] * grad_s.unsqueeze(-2)) @ vh[..., :k, :]
        grad_u, grad_s, grad_vh = [
            _zeros_tensor_for(g, a)
            for g, a in zip((grad_u, grad_s, grad_vh), (self.u, self.s, self.vh), strict=True)
        ]
        u, grad_u, vh, grad_vh = u[..., :k], grad_u[..., :k], vh[..., :k, :], grad_vh[..., :k, :]
        rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
        f = _inverse_gaps(s * s)
        of_u, of_v = u.mH @ grad_u, vh @ grad_vh.mH
        inner = grad_s.unsqueeze(-1) * _eye(self.vh[..., : self.s.shape[-1]])
        if self.u.dtype.kind == "c":
            turned = of_u.diagonal(0, -2, -1).imag / s.masked_fill(s == 0, 1.0)
            inner = inner + turned.unsqueeze(-1) * _eye(self.vh[..., : self.s.shape[-1]]) * 1j
        inner = inner + (f * (of_u - of_u.mH)) * columns + rows * (f * (of_v - of_v.mH))
        result = u @ inner @ vh
        zero = columns == 0
        inverse = (1 / columns.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)
        if u.shape[-2] > s.shape[-1]:
            result = result + ((grad_u - u @ of_u) * inverse) @ vh
        if vh.shape[-1] > s.shape[-1]:
            result = result + (u * inverse) @ (grad_vh - of_v.mH @ vh)
        return result


def _zeros_for(grad: Any, like: Any) -> Any:
    """The gradient of an output, zeros if none came."""
    return np.zeros_like(like) if grad is None else grad


def _zeros_tensor_for(grad: Any, like: Any) -> Any:
    return Tensor._wrap(np.zeros_like(like)) if grad is None else grad


def _eye(like: Any) -> Tensor:
    return Tensor._wrap(eye(like.shape[-1], like.dtype, like))


def _inverse_gaps(values: Any) -> Any:
    """1 / (values[j] - values[i]) as a matrix, 0 where they are equal."""
    gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
    equal = gaps == 0
    return (1 / gaps.masked_fill(equal, 1.0)).masked_fill(equal, 0.0)


class Orthogonal(Op):
    """The reduced QR decomposition.

    A wide matrix is (X | Y) = Q (U | V) with X = Q U square, V = Q^T Y: the gradient of Y is Q grad_V, and Q receives
    Y grad_V^T beside its own.
    """

    takes_complex = True
    saves, saves_output = (0,), True

    def forward(self, a: Any) -> Any:
        self.a = a
        q, r = lapack("qr", a)
        self.q, self.r = contiguous(q), contiguous(r)
        return self.q, self.r

    @quiet
    def backward(self, grad_q: Any, grad_r: Any) -> Any:
        k = self.q.shape[-1]
        if k == self.r.shape[-1]:
            return self._tall(self.q, self.r, grad_q, grad_r)
        grad_v = grad_r[..., k:]
        of_x = self._tall(self.q, self.r[..., :k], grad_q + self.a[..., k:] @ mH(grad_v), grad_r[..., :k])
        return np.concatenate([of_x, self.q @ grad_v], -1)

    @staticmethod
    def _tall(q: Any, r: Any, grad_q: Any, grad_r: Any) -> Any:
        m = r @ mH(grad_r) - mH(grad_q) @ q
        below = triangle(m, -1, True)
        symmetric = below + mH(below) + eye(m.shape[-1], m.dtype, m) * m.real
        return mH(select(r).triangular_solve(r, mH(grad_q + q @ symmetric), True, False))

    def backward_graph(self, grad_q: Any, grad_r: Any) -> Any:
        q, r = self.saved_output(self.q, 0), self.saved_output(self.r, 1)
        k = self.q.shape[-1]
        if k == self.r.shape[-1]:
            return self._tall_graph(q, r, grad_q, grad_r)
        grad_v, y = grad_r[..., k:], self.saved_input(0, self.a)[..., k:]
        of_x = self._tall_graph(q, r[..., :k], grad_q + y @ grad_v.mH, grad_r[..., :k])
        return cat([of_x, q @ grad_v], -1)

    @staticmethod
    def _tall_graph(q: Any, r: Any, grad_q: Any, grad_r: Any) -> Any:
        m = r @ grad_r.mH - grad_q.mH @ q
        symmetric = m.tril(-1) + m.tril(-1).mH + m.real * _eye(m._data)
        return TriangularSolve.apply(r, (grad_q + q @ symmetric).mH, upper=True, unit=False).mH


class Eigen(ComplexFormula):
    """Eigenvalues and eigenvectors, in columns of norm 1, of any square matrix: complex.

    With V = vectors and L = values: gA = V^-H (diag(gL) + (V^H gV - V^H V diag(Re V^H gV)) / conj(L_j - L_i)) V^H
    (C. Boeddeker et al., "On the computation of complex-valued gradients", 2017).
    """

    saves_output = True
    materialize = False

    def forward(self, a: Any) -> Any:
        self.likes, dtype = a.dtype, complex_dtype(a.dtype)
        values, vectors = lapack("eig", a)
        self.values, self.vectors = values.astype(dtype), contiguous(vectors, dtype)
        return self.values, self.vectors

    def backward(self, grad_values: Any, grad_vectors: Any) -> Any:
        if grad_vectors is not None:
            return super().backward(grad_values, grad_vectors)
        packed, pivots, info = select(self.vectors).lu_factor(self.vectors, True)
        _refuse_singular("eig", self.vectors, info)
        scaled = grad_values[..., None] * mH(self.vectors)
        result = select(packed).lu_solve(packed.conj(), pivots, scaled, True)
        return result if self.likes.kind == "c" else result.real.copy()

    def backward_graph(self, grad_values: Any, grad_vectors: Any) -> Any:
        values, v = self.saved_output(self.values, 0), self.saved_output(self.vectors, 1)
        if grad_vectors is None:
            return converted(Solve.apply(v.mH, grad_values.unsqueeze(-1) * v.mH, op="eig")[0], self.likes)
        grad_values = _zeros_tensor_for(grad_values, self.values)
        one = _eye(self.vectors)
        turn = v.mH @ grad_vectors
        along = turn.diagonal(0, -2, -1).real.unsqueeze(-2)
        inner = (turn - (v.mH @ v) * along) * _inverse_gaps(values).conj()
        inner = inner * (1 - one) + grad_values.unsqueeze(-1) * one
        return converted(Solve.apply(v.mH, inner @ v.mH, op="eig")[0], self.likes)

"""Transforms of vectors and matrices: shares of a whole, Cholesky factors, positive definite matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl import linalg
from fastdl.creation import eye
from fastdl.distributions.constraints import (
    corr_cholesky,
    independent,
    lower_cholesky,
    positive_definite,
    real,
    real_vector,
    simplex,
)
from fastdl.distributions.transforms.base import Transform
from fastdl.distributions.transforms.numbers import inside
from fastdl.dtypes import floating_info
from fastdl.ops.activation import logsigmoid, sigmoid, softplus, tanh
from fastdl.ops.elementwise import clamp
from fastdl.ops.linear import matmul
from fastdl.ops.reduce import sum
from fastdl.ops.resample import pad
from fastdl.ops.softmax import softmax
from fastdl.ops.unary import log, log1p, sqrt, square

__all__ = [
    "CorrCholeskyTransform",
    "LowerCholeskyTransform",
    "PositiveDefiniteTransform",
    "SoftmaxTransform",
    "StickBreakingTransform",
]


class SoftmaxTransform(Transform):
    """y = softmax(x) over the last axis; the inverse is log(y)."""

    _compared = ()
    domain, codomain = real_vector, simplex

    def _call(self, x: Any) -> Any:
        return softmax(x, -1)

    def _inverse(self, y: Any) -> Any:
        return log(y)


class StickBreakingTransform(Transform):
    """Numbers x1 ... xn to n + 1 shares of a whole: each breaks off a part of what is left."""

    _compared = ()
    domain, codomain = real_vector, simplex
    bijective = True

    @staticmethod
    def _shifts(x: Any) -> Any:
        return log(x.shape[-1] + 1 - x.new_ones(x.shape[-1]).cumsum(-1))

    def _call(self, x: Any) -> Any:
        broken = inside(sigmoid(x - self._shifts(x)))
        left: Any = 1 - broken
        return pad(broken, (0, 1), value=1) * pad(left.cumprod(-1), (1, 0), value=1)

    def _inverse(self, y: Any) -> Any:
        shares = y[..., :-1]
        left = clamp(1 - shares.cumsum(-1), float(floating_info(y.dtype).tiny))
        return log(shares) - log(left) + self._shifts(shares)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        x = x - self._shifts(x)
        return sum(-x + logsigmoid(x) + log(y[..., :-1]), -1)

    def forward_shape(self, shape: Any) -> Any:
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: Any) -> Any:
        return (*shape[:-1], shape[-1] - 1)


class LowerCholeskyTransform(Transform):
    """The lower triangle of a matrix, the exponential on its diagonal."""

    _compared = ()
    domain, codomain = independent(real, 2), lower_cholesky

    def _call(self, x: Any) -> Any:
        return x.tril(-1) + x.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Any) -> Any:
        return y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed()


class PositiveDefiniteTransform(Transform):
    """y = L L^T with L of :class:`LowerCholeskyTransform`."""

    domain, codomain = independent(real, 2), positive_definite
    _compared = ()

    def _call(self, x: Any) -> Any:
        lower = LowerCholeskyTransform()(x)
        return matmul(lower, lower.mT)

    def _inverse(self, y: Any) -> Any:
        return LowerCholeskyTransform().inv(linalg.cholesky(y))


class CorrCholeskyTransform(Transform):
    """D (D - 1) / 2 numbers to the Cholesky factor of a correlation matrix, whose rows have length 1.

    The tanh of a number is the cosine of an angle; each entry of a row takes that part of the length left to it, and
    the diagonal takes the rest. log_abs_det_jacobian is that of the entries below the diagonal.

    Example:
        >>> import fastdl
        >>> lower = CorrCholeskyTransform()(fastdl.tensor([0.5, -1.0, 2.0]))
        >>> lower.shape, lower.square().sum(-1).allclose(fastdl.ones(3))
        ((3, 3), True)
    """

    domain, codomain = real_vector, corr_cholesky
    bijective = True
    _compared = ()

    @staticmethod
    def _below(size: int) -> tuple[Any, Any]:
        return np.tril_indices(size, -1)

    def _call(self, x: Any) -> Any:
        size = self.forward_shape(x.shape)[-1]
        eps = float(floating_info(x.dtype).eps)
        cosines = clamp(tanh(x), -1 + eps, 1 - eps)
        below = x.new_zeros((*x.shape[:-1], size, size))
        below[(..., *self._below(size))] = cosines
        left = pad(sqrt(1 - square(below)).cumprod(-1)[..., :-1], (1, 0), value=1)
        return (below + eye(size, dtype=x.dtype, device=x.device)) * left

    def _inverse(self, y: Any) -> Any:
        left = pad(1 - square(y).cumsum(-1)[..., :-1], (1, 0), value=1)
        below = (..., *self._below(y.shape[-1]))
        cosines = y[below] / sqrt(left[below])
        return (log1p(cosines) - log1p(-cosines)) / 2

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        left = (1 - square(y).cumsum(-1))[(..., *np.tril_indices(y.shape[-1], -2))]
        return 0.5 * sum(log(left), -1) - 2 * sum(x + softplus(-2 * x) - math.log(2), -1)

    def forward_shape(self, shape: Any) -> Any:
        if len(shape) < 1:
            raise ValueError("CorrCholeskyTransform: Too few dimensions on input, which needs at least one")
        count = shape[-1]
        size = round((0.25 + 2 * count) ** 0.5 + 0.5)
        if size * (size - 1) // 2 != count:
            raise ValueError(
                f"CorrCholeskyTransform: the last axis must have D (D - 1) / 2 entries, the ones below a diagonal, got "
                f"{count}"
            )
        return (*shape[:-1], size, size)

    def inverse_shape(self, shape: Any) -> Any:
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"CorrCholeskyTransform: expects square matrices, got the shape {tuple(shape)}")
        return (*shape[:-2], shape[-1] * (shape[-1] - 1) // 2)

"""The multivariate normal distribution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl import linalg
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution
from fastdl.ops.linear import matmul
from fastdl.ops.parts import diagonal
from fastdl.ops.reduce import sum
from fastdl.ops.sampling import randn
from fastdl.ops.unary import log, square
from fastdl.ops.views import squeeze, unsqueeze
from fastdl.tensor import Tensor

__all__ = ["MultivariateNormal"]


class MultivariateNormal(Distribution):
    """log p(x) = -(d log(2 pi) + log det S + (x - m)^T S^-1 (x - m)) / 2.

    See ``torch.distributions.MultivariateNormal``.

    Args:
        loc: the mean m, ``(..., d)``.
        covariance_matrix: S; or give ``precision_matrix``, its inverse, or ``scale_tril``, its Cholesky factor.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.positive_definite,
    }
    has_rsample = True
    _fields = ("loc", "scale_tril")

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if loc.ndim < 1:
            raise ValueError("loc must be at least one-dimensional.")
        given = [m for m in (covariance_matrix, precision_matrix, scale_tril) if m is not None]
        if len(given) != 1:
            raise ValueError(
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
            )
        if given[0].ndim < 2:
            raise ValueError(
                "the matrix must be at least two-dimensional, with optional leading batch dimensions"
            )
        validate = self._validate_args if validate_args is None else validate_args
        if validate and scale_tril is None:
            self._require(constraints.positive_definite, given[0], "the covariance or precision matrix")
        if covariance_matrix is not None:
            scale_tril = linalg.cholesky(covariance_matrix)
        elif precision_matrix is not None:
            scale_tril = linalg.cholesky(linalg.inv(precision_matrix))
        assert scale_tril is not None
        d = loc.shape[-1]
        batch = np.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        self.loc, self.scale_tril = loc.expand((*batch, d)), scale_tril.expand((*batch, d, d))
        super().__init__(batch, (d,), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def covariance_matrix(self) -> Tensor:
        """S = L L^T"""
        return matmul(self.scale_tril, self.scale_tril.mT)

    @property
    def precision_matrix(self) -> Tensor:
        """The inverse of S."""
        return linalg.inv(self.covariance_matrix)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return sum(square(self.scale_tril), -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + squeeze(matmul(self.scale_tril, unsqueeze(noise, -1)), -1)

    def _half_log_det(self) -> Tensor:
        return sum(log(diagonal(self.scale_tril, 0, -2, -1)), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        difference = unsqueeze(value - self.loc, -1)
        lower = self.scale_tril.expand((*difference.shape[:-2], *self.scale_tril.shape[-2:])).contiguous()
        m = sum(square(linalg.solve_triangular(lower, difference, upper=False)), (-2, -1))
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + m) - self._half_log_det()

    def entropy(self) -> Tensor:
        return 0.5 * self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._half_log_det()

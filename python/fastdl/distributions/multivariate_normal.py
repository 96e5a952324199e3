"""Multivariate normal distributions: by a full covariance, and by one of low rank."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl import linalg
from fastdl.creation import eye
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution
from fastdl.ops.diagonals import diag_embed
from fastdl.ops.linear import matmul
from fastdl.ops.parts import diagonal
from fastdl.ops.reduce import sum
from fastdl.ops.sampling import randn
from fastdl.ops.unary import log, reciprocal, sqrt, square
from fastdl.ops.views import squeeze, unsqueeze
from fastdl.tensor import Tensor

__all__ = ["LowRankMultivariateNormal", "MultivariateNormal"]


def one_matrix(
    covariance_matrix: Tensor | None, precision_matrix: Tensor | None, scale_tril: Tensor | None
) -> tuple[str, Tensor]:
    """The one of the three that was given, with its name in front.

    Raises:
        ValueError: for none or several, and for less than two dimensions.
    """
    names = ("covariance_matrix", "precision_matrix", "scale_tril")
    values = (covariance_matrix, precision_matrix, scale_tril)
    given = [(name, m) for name, m in zip(names, values, strict=True) if m is not None]
    if len(given) != 1:
        raise ValueError(
            "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
        )
    name, matrix = given[0]
    if matrix.ndim < 2:
        raise ValueError(f"{name} must be at least two-dimensional, with optional leading batch dimensions")
    return name, matrix


def cholesky_factor(name: str, matrix: Tensor) -> Tensor:
    """The Cholesky factor of the covariance, from what :func:`one_matrix` found."""
    if name == "scale_tril":
        return matrix
    return linalg.cholesky(linalg.inv(matrix) if name == "precision_matrix" else matrix)


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
        name, matrix = one_matrix(covariance_matrix, precision_matrix, scale_tril)
        validate = self._validate_args if validate_args is None else validate_args
        if validate and name != "scale_tril":
            self._require(constraints.positive_definite, matrix, "the covariance or precision matrix")
        lower = cholesky_factor(name, matrix)
        d = loc.shape[-1]
        batch = np.broadcast_shapes(loc.shape[:-1], lower.shape[:-2])
        self.loc, self.scale_tril = loc.expand((*batch, d)), lower.expand((*batch, d, d))
        self._given = name
        super().__init__(batch, (d,), validate_args)

    def _printed(self) -> dict[str, Any]:
        if "_given" not in self.__dict__:  # refused before it was made
            return {}
        return {"loc": self.loc, self._given: getattr(self, self._given)}

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


class LowRankMultivariateNormal(Distribution):
    """A normal variable with the covariance W W^T + diag(D), W = ``cov_factor`` of few columns, D = ``cov_diag``.

    The d x d matrix is not made: with C = I + W^T D^-1 W (the capacitance, as small as W has columns) the
    determinant is det(C) prod(D) and the inverse D^-1 - D^-1 W C^-1 W^T D^-1 (Woodbury). See
    ``torch.distributions.LowRankMultivariateNormal``.

    Args:
        loc: the mean, ``(..., d)``.
        cov_factor: W, ``(..., d, rank)``.
        cov_diag: D, positive, ``(..., d)``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }
    has_rsample = True
    _fields = ("loc", "cov_factor", "cov_diag")

    def __init__(
        self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None
    ) -> None:
        if loc.ndim < 1:
            raise ValueError("loc must be at least one-dimensional.")
        d = loc.shape[-1]
        if cov_factor.ndim < 2:
            raise ValueError(
                "cov_factor must be at least two-dimensional, with optional leading batch dimensions"
            )
        if cov_factor.shape[-2] != d:
            raise ValueError(
                f"cov_factor must be a batch of matrices with shape {d} x m, got {tuple(cov_factor.shape)}"
            )
        if cov_diag.shape[-1:] != (d,):
            raise ValueError(
                f"cov_diag must be a batch of vectors with shape ({d},), got {tuple(cov_diag.shape)}"
            )
        shapes = tuple(loc.shape[:-1]), tuple(cov_factor.shape[:-2]), tuple(cov_diag.shape[:-1])
        try:
            batch = np.broadcast_shapes(*shapes)
        except ValueError:
            raise ValueError(
                f"Incompatible batch shapes: loc {tuple(loc.shape)}, cov_factor {tuple(cov_factor.shape)}, cov_diag "
                f"{tuple(cov_diag.shape)}"
            ) from None
        self.loc, self.cov_diag = loc.expand((*batch, d)), cov_diag.expand((*batch, d))
        self.cov_factor = cov_factor.expand((*batch, *cov_factor.shape[-2:]))
        super().__init__(batch, (d,), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return sum(square(self.cov_factor), -1) + self.cov_diag

    @property
    def covariance_matrix(self) -> Tensor:
        """W W^T + diag(D)"""
        return matmul(self.cov_factor, self.cov_factor.mT) + diag_embed(self.cov_diag)

    @property
    def scale_tril(self) -> Tensor:
        """The covariance's Cholesky factor."""
        # That of D^-1/2 W W^T D^-1/2 + I, whose eigenvalues are at least 1, with its rows stretched.
        root = unsqueeze(sqrt(self.cov_diag), -1)
        scaled = self.cov_factor / root
        identity = eye(self._event_shape[0], dtype=root.dtype, device=root.device)
        return root * linalg.cholesky(matmul(scaled, scaled.mT) + identity)

    @property
    def precision_matrix(self) -> Tensor:
        """The covariance's inverse."""
        _, reduced = self._reduced()
        return diag_embed(reciprocal(self.cov_diag)) - matmul(reduced.mT, reduced)

    def _reduced(self) -> tuple[Tensor, Tensor]:
        """L, the Cholesky factor of C, and A = L^-1 W^T D^-1: the inverse of the covariance is D^-1 - A^T A."""
        weighted = self.cov_factor.mT / unsqueeze(self.cov_diag, -2)
        capacitance = matmul(weighted, self.cov_factor)
        identity = eye(capacitance.shape[-1], dtype=capacitance.dtype, device=capacitance.device)
        lower = linalg.cholesky(capacitance + identity)
        return lower, linalg.solve_triangular(lower, weighted.contiguous(), upper=False)

    def _half_log_det(self) -> Tensor:
        lower, _ = self._reduced()
        return sum(log(diagonal(lower, 0, -2, -1)), -1) + 0.5 * sum(log(self.cov_diag), -1)

    def _distance(self, difference: Tensor) -> Tensor:
        """(x - m)^T S^-1 (x - m)"""
        _, reduced = self._reduced()
        along = squeeze(matmul(reduced, unsqueeze(difference, -1)), -1)
        return sum(square(difference) / self.cov_diag, -1) - sum(square(along), -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        options = {"dtype": self.loc.dtype, "device": self.loc.device}
        along = randn((*shape[:-1], self.cov_factor.shape[-1]), **options)
        spread = squeeze(matmul(self.cov_factor, unsqueeze(along, -1)), -1)
        return self.loc + spread + sqrt(self.cov_diag) * randn(shape, **options)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        m = self._distance(value - self.loc)
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + m) - self._half_log_det()

    def entropy(self) -> Tensor:
        return 0.5 * self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._half_log_det()

"""Distributions of matrices: LKJ's of correlations' Cholesky factors, Wishart's of covariances."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl import linalg
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.gamma import Beta, _standard_gamma
from fastdl.distributions.multivariate_normal import cholesky_factor, one_matrix
from fastdl.errors import warn_caller
from fastdl.ops.diagonals import diag_embed
from fastdl.ops.elementwise import where
from fastdl.ops.gamma import digamma, lgamma, mvlgamma
from fastdl.ops.linear import matmul
from fastdl.ops.parts import diagonal
from fastdl.ops.reduce import sum
from fastdl.ops.sampling import randn
from fastdl.ops.unary import log, sqrt, square
from fastdl.ops.views import unsqueeze
from fastdl.sequences import arange
from fastdl.tensor import Tensor

__all__ = ["LKJCholesky", "Wishart"]


class LKJCholesky(Distribution):
    """Cholesky factors L of correlation matrices with p(L L^T) ~ det(L L^T)^(eta - 1), eta = ``concentration``.

    Sampled by the onion method: Lewandowski, Kurowicka, Joe: Generating random correlation matrices based on vines and
    extended onion method (2009). See ``torch.distributions.LKJCholesky``.

    Args:
        dim: rows of the matrices, at least 2.
        concentration: eta; 1 is the uniform distribution of correlation matrices.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"concentration": constraints.positive}
    _fields = ("concentration",)

    def __init__(self, dim: int, concentration: Any = 1.0, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise ValueError(f"Expected dim to be an integer greater than or equal to 2. Found dim={dim}.")
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        super().__init__(self.concentration.shape, (dim, dim), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.corr_cholesky

    def sample(self, sample_shape: Any = ()) -> Tensor:
        eta, dim = self.concentration.detach(), self.dim
        # Row i points anywhere below the diagonal; its squared length there is beta distributed.
        before = arange(dim, dtype=eta.dtype, device=eta.device).sub(1).clamp(min=0)
        length = Beta(0.5 * before + 0.5, unsqueeze(eta + 0.5 * (dim - 2), -1) - 0.5 * before).sample(
            sample_shape
        )
        shape = self._extended_shape(sample_shape)
        noise = randn(shape, dtype=eta.dtype, device=eta.device).tril(-1)
        norm = sqrt(sum(square(noise), -1, True))
        below = unsqueeze(sqrt(length), -1) * noise / where(norm == 0, 1.0, norm)
        rest = (1 - sum(square(below), -1)).clamp(min=float(np.finfo(eta.dtype).tiny))
        return below + diag_embed(sqrt(rest))  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        eta, dim = self.concentration, self.dim
        rows = arange(2, dim + 1, dtype=eta.dtype, device=eta.device)
        powers = 2 * unsqueeze(eta - 1, -1) + dim - rows
        inner = sum(powers * log(diagonal(value, 0, -2, -1)[..., 1:]), -1)
        alpha = eta + 0.5 * (dim - 1)
        constant = mvlgamma(alpha - 0.5, dim - 1) - (dim - 1) * (lgamma(alpha) - 0.5 * math.log(math.pi))
        return inner - constant


class Wishart(Distribution):
    """Sums of outer products of normal vectors: p(X) ~ det(X)^((n - d - 1) / 2) exp(-tr(S^-1 X) / 2), n = ``df``.

    Sampled by Bartlett's decomposition X = L A A^T L^T, A lower triangular with roots of chi-squared variables on its
    diagonal. See ``torch.distributions.Wishart``.

    Args:
        df: degrees of freedom, above d - 1.
        covariance_matrix: S; or give ``precision_matrix``, its inverse, or ``scale_tril``, its Cholesky factor L.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
        "df": constraints.positive,
    }
    has_rsample = True
    _fields = ("scale_tril", "df")

    def __init__(
        self,
        df: Any,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        name, matrix = one_matrix(covariance_matrix, precision_matrix, scale_tril)
        d = matrix.shape[-1]
        freedom = df if isinstance(df, Tensor) else matrix.new_full((), df)
        if bool((freedom <= d - 1).any()):
            raise ValueError(f"Value of df={df} expected to be greater than ndim - 1 = {d - 1}.")
        if self._validate_args if validate_args is None else validate_args:
            self._require(self.arg_constraints[name], matrix, f"parameter {name}")
        if bool((freedom < d).any()):
            warn_caller(
                "Low df values detected. Singular samples are highly likely to occur for ndim - 1 < df < ndim."
            )
        lower = cholesky_factor(name, matrix)
        batch = np.broadcast_shapes(lower.shape[:-2], freedom.shape)
        self.df, self.scale_tril = freedom.expand(batch), lower.expand((*batch, d, d))
        self._given = name
        super().__init__(batch, (d, d), validate_args)

    def _printed(self) -> dict[str, Any]:
        if "_given" not in self.__dict__:  # refused before it was made
            return {}
        return {self._given: getattr(self, self._given), "df": self.df}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.positive_definite

    @property
    def covariance_matrix(self) -> Tensor:
        """S = L L^T"""
        return matmul(self.scale_tril, self.scale_tril.mT)

    @property
    def precision_matrix(self) -> Tensor:
        """The inverse of S."""
        return linalg.inv(self.covariance_matrix)

    def _scaled(self, factor: Tensor, matrix: Tensor) -> Tensor:
        return unsqueeze(unsqueeze(factor, -1), -1) * matrix

    @property
    def mean(self) -> Tensor:
        return self._scaled(self.df, self.covariance_matrix)

    @property
    def mode(self) -> Tensor:
        factor = self.df - self._event_shape[0] - 1
        return self._scaled(where(factor > 0, factor, math.nan), self.covariance_matrix)

    @property
    def variance(self) -> Tensor:
        s = self.covariance_matrix
        own = diagonal(s, 0, -2, -1)
        return self._scaled(self.df, square(s) + unsqueeze(own, -1) * unsqueeze(own, -2))

    def _bartlett(self, sample_shape: Any) -> Tensor:
        shape = self._extended_shape(sample_shape)
        options = {"dtype": self.df.dtype, "device": self.df.device}
        halves = 0.5 * (unsqueeze(self.df, -1) - arange(shape[-1], **options))
        chi = sqrt(2 * _standard_gamma(halves, shape[:-1]))
        chi = chi.clamp(min=float(np.finfo(chi.dtype).eps))
        factor = matmul(self.scale_tril, diag_embed(chi) + randn(shape, **options).tril(-1))
        return matmul(factor, factor.mT)

    def rsample(self, sample_shape: Any = (), max_try_correction: int = 10) -> Tensor:
        """Matrices with a gradient to L and df; those that rounding left singular are drawn again, a few times."""
        drawn = self._bartlett(sample_shape)
        for _ in range(max_try_correction):
            good = constraints.positive_definite.check(drawn)
            if bool(good.all()):
                break
            drawn = where(unsqueeze(unsqueeze(good, -1), -1), drawn, self._bartlett(sample_shape))
        return drawn

    def _half_log_det(self) -> Tensor:
        return sum(log(diagonal(self.scale_tril, 0, -2, -1)), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n, d = self.df, self._event_shape[0]
        trace = sum(self.precision_matrix * value, (-2, -1))
        constant = n * (0.5 * d * math.log(2) + self._half_log_det()) + mvlgamma(n / 2, d)
        return 0.5 * (n - d - 1) * linalg.slogdet(value)[1] - 0.5 * trace - constant

    def entropy(self) -> Tensor:
        n, d = self.df, self._event_shape[0]
        scale = (d + 1) * (0.5 * d * math.log(2) + self._half_log_det())
        return scale + mvlgamma(n / 2, d) - 0.5 * (n - d - 1) * self._mvdigamma() + 0.5 * n * d

    def _mvdigamma(self) -> Tensor:
        """The derivative of log Gamma_d at df / 2."""
        steps = arange(self._event_shape[0], dtype=self.df.dtype, device=self.df.device)
        return sum(digamma(unsqueeze(self.df / 2, -1) - 0.5 * steps), -1)

"""Distributions on {0, 1}: Bernoulli, and its continuous relaxation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.distributions import constraints
from fastdl.distributions.common import lazy_property, logits_of, one_of, probs_of
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.location_scale import open_uniform
from fastdl.ops.activation import sigmoid, softplus
from fastdl.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from fastdl.ops.cast import to
from fastdl.ops.sampling import bernoulli
from fastdl.ops.unary import log, log1p
from fastdl.ops.views import broadcast_tensors
from fastdl.tensor import Tensor

__all__ = ["Bernoulli", "RelaxedBernoulli"]


class Binary(Distribution):
    """A probability per element, given as ``probs`` or as ``logits`` (log p - log(1 - p))."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    _fields: tuple[str, ...] = ("probs", "logits")

    def __init__(self, probs: Any, logits: Any, validate_args: bool | None) -> None:
        one_of(type(self).__name__, probs, logits)
        if probs is not None:
            (self.probs,) = broadcast_all(probs)
        else:
            (self.logits,) = broadcast_all(logits)
        super().__init__(self.param_shape, (), validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """log p - log(1 - p)."""
        return logits_of(self.probs, True)

    @lazy_property
    def probs(self) -> Tensor:
        """The probability of 1."""
        return probs_of(self.logits, True)

    @property
    def param_shape(self) -> Any:
        """The shape of ``probs``."""
        return (self.__dict__.get("probs", self.__dict__.get("logits"))).shape  # type: ignore[union-attr]


class Bernoulli(Binary):
    """1 with probability ``probs``, else 0. See ``torch.distributions.Bernoulli``.

    Example:
        >>> import fastdl
        >>> coin = Bernoulli(probs=fastdl.tensor([0.25]))
        >>> [round(v, 4) for v in coin.log_prob(fastdl.tensor([1.0])).exp().tolist()]
        [0.25]
    """

    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        super().__init__(probs, logits, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.boolean

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        p = self.probs._data
        with np.errstate(invalid="ignore"):
            return Tensor._wrap(np.where(p == 0.5, np.nan, p > 0.5).astype(p.dtype))

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return bernoulli(Tensor._wrap(pooled_copy(np.broadcast_to(self.probs._data, shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        logits = self.logits
        value = to(value, logits.dtype)
        if logits.shape != value.shape:
            logits, value = broadcast_tensors(logits, value)
        return -binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> Tensor:
        return binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = (
            np.arange(2, like=self.probs._data)
            .astype(self.probs.dtype)
            .reshape(2, *[1] * len(self._batch_shape))
        )
        if expand:
            values = pooled_copy(np.broadcast_to(values, (2, *self._batch_shape)))
        return Tensor._wrap(values)


class RelaxedBernoulli(Binary):
    """sigmoid((logits + logistic noise) / temperature). See ``torch.distributions.RelaxedBernoulli``."""

    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(probs, logits, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.unit_interval

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = open_uniform(self._extended_shape(sample_shape), self.logits)
        return sigmoid((self.logits + log(u) - log1p(-u)) / self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        t = self.temperature
        t = t if isinstance(t, Tensor) else Tensor._wrap(np.asarray(t, self.logits.dtype))
        y = logits_of(value, True)
        difference = self.logits - y * t
        return log(t) + difference - 2 * softplus(difference) + softplus(y) + softplus(-y)

"""Distributions on 0, 1, 2, ..: binomial, geometric, negative binomial, Poisson."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.mode import no_grad
from fastdl.creation import zeros_like
from fastdl.devices import to_host
from fastdl.distributions import constraints
from fastdl.distributions.binary import Binary
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.location_scale import open_uniform
from fastdl.kernels import array as as_array
from fastdl.ops.activation import logsigmoid
from fastdl.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from fastdl.ops.elementwise import clamp, floor, where
from fastdl.ops.reduce import sum
from fastdl.ops.sampling import draw_key, poisson
from fastdl.ops.special import lgamma, xlogy
from fastdl.ops.unary import abs, exp, log1p, sqrt
from fastdl.ops.views import broadcast_tensors
from fastdl.tensor import Tensor

__all__ = ["Binomial", "Geometric", "NegativeBinomial", "Poisson"]


class Binomial(Binary):
    """How many of ``total_count`` trials succeed. See ``torch.distributions.Binomial``."""

    _fields = ("total_count", "probs", "logits")

    def __init__(
        self, total_count: Any = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        super().__init__(probs, logits, validate_args)
        given = "probs" if probs is not None else "logits"
        self.total_count, parameter = broadcast_all(total_count, self.__dict__[given])
        self.__dict__[given] = parameter
        Distribution.__init__(self, parameter.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return clamp(floor((self.total_count + 1) * self.probs), max=self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=np.array(draw_key(None), np.uint64)))
        p, count = self.probs._data, to_host(self.total_count._data).astype(np.int64)
        drawn = rng.binomial(count, to_host(p), self._extended_shape(sample_shape))
        return Tensor._wrap(as_array(drawn, p, p.dtype))

    has_enumerate_support = True

    def enumerate_support(self, expand: bool = True) -> Tensor:
        counts = to_host(self.total_count._data)
        total = int(counts.max())
        if counts.min() != total:
            raise NotImplementedError(
                "Binomial.enumerate_support: all of total_count must be equal; entropy needs it, too"
            )
        values = np.arange(total + 1, like=self.probs._data).astype(self.probs.dtype)
        values = values.reshape(-1, *[1] * len(self._batch_shape))
        if expand:
            values = pooled_copy(np.broadcast_to(values, (total + 1, *self._batch_shape)))
        return Tensor._wrap(values)

    def entropy(self) -> Tensor:
        log_probs = self.log_prob(self.enumerate_support(False))
        return -sum(exp(log_probs) * log_probs, 0)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n, logits = self.total_count, self.logits
        choose = lgamma(n + 1) - lgamma(value + 1) - lgamma(n - value + 1)
        # log(1 + e^x) without overflow
        normalize = n * (clamp(logits, min=0) + log1p(exp(-abs(logits))))
        return value * logits + choose - normalize


class Geometric(Binary):
    """How many trials fail before the first success. See ``torch.distributions.Geometric``."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        super().__init__(probs, logits, validate_args)

    @property
    def mean(self) -> Tensor:
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        return zeros_like(self.probs)

    @property
    def variance(self) -> Tensor:
        return (1 / self.probs - 1) / self.probs

    def sample(self, sample_shape: Any = ()) -> Tensor:
        probs = self.probs.detach()
        u = open_uniform(self._extended_shape(sample_shape), probs)
        return floor(u.log() / log1p(-probs))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        value, probs = broadcast_tensors(value, self.probs)
        return xlogy(value, 1 - probs) + probs.log()

    def entropy(self) -> Tensor:
        return binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none") / self.probs


class Poisson(Distribution):
    """Counts at a given mean ``rate``. See ``torch.distributions.Poisson``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"rate": constraints.nonnegative}
    _fields = ("rate",)

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def mode(self) -> Tensor:
        return floor(self.rate)

    @property
    def variance(self) -> Tensor:
        return self.rate

    @property
    def stddev(self) -> Tensor:
        return sqrt(self.rate)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        rates = np.broadcast_to(self.rate._data, self._extended_shape(sample_shape))
        return poisson(Tensor._wrap(pooled_copy(rates)))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return xlogy(value, self.rate) - self.rate - lgamma(value + 1)


class NegativeBinomial(Binary):
    """How many trials succeed, each with ``probs``, before ``total_count`` have failed.

    See ``torch.distributions.NegativeBinomial``.
    """

    _fields = ("total_count", "probs", "logits")

    def __init__(
        self, total_count: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        super().__init__(probs, logits, validate_args)
        given = "probs" if probs is not None else "logits"
        self.total_count, parameter = broadcast_all(total_count, self.__dict__[given])
        self.__dict__[given] = parameter
        Distribution.__init__(self, parameter.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return self.total_count * exp(self.logits)

    @property
    def mode(self) -> Tensor:
        return clamp(floor((self.total_count - 1) * exp(self.logits)), min=0)

    @property
    def variance(self) -> Tensor:
        return self.mean / (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        from fastdl.distributions.gamma import Gamma

        with no_grad():
            return poisson(
                Gamma(self.total_count, exp(-self.logits), validate_args=False).sample(sample_shape)
            )

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n, logits = self.total_count, self.logits
        choose: Tensor = lgamma(n + value) - lgamma(1 + value) - lgamma(n)
        choose = where(n + value == 0, 0.0, choose)
        return n * logsigmoid(-logits) + value * logsigmoid(logits) + choose

"""Distributions over classes: indices, one-hot vectors, counts, and relaxed one-hot vectors."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.distributions import constraints
from fastdl.distributions.common import lazy_property, logits_of, one_of, probs_of
from fastdl.distributions.distribution import Distribution
from fastdl.distributions.location_scale import open_uniform
from fastdl.ops.arrays import eye
from fastdl.ops.cast import to
from fastdl.ops.counting import one_hot
from fastdl.ops.elementwise import clamp, eq, where
from fastdl.ops.extreme import argmax
from fastdl.ops.gather import gather
from fastdl.ops.reduce import logsumexp, sum
from fastdl.ops.sampling import multinomial
from fastdl.ops.softmax import log_softmax_method, softmax_method
from fastdl.ops.special import lgamma, xlogy
from fastdl.ops.unary import exp, log
from fastdl.ops.views import broadcast_tensors, reshape, squeeze, unsqueeze
from fastdl.sequences import arange
from fastdl.tensor import Tensor

__all__ = [
    "Categorical",
    "Multinomial",
    "OneHotCategorical",
    "OneHotCategoricalStraightThrough",
    "RelaxedOneHotCategorical",
]


class _OverClasses(Distribution):
    """Probabilities of classes along the last axis, given as ``probs`` (need not add up to 1) or ``logits``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    _fields = ("probs", "logits")

    def __init__(self, probs: Any, logits: Any, one_event: bool, validate_args: bool | None) -> None:
        one_of(type(self).__name__, probs, logits)
        given = logits if probs is None else probs
        if not isinstance(given, Tensor) or given.ndim < 1:
            raise ValueError(
                f"{type(self).__name__}: probs or logits must be a tensor of at least one dimension"
            )
        if probs is not None:
            self.probs = probs / sum(probs, -1, True)
        else:
            self.logits = logits - logsumexp(logits, -1, True)
        shape = given.shape
        self._num_events = shape[-1]
        super().__init__(shape[:-1], shape[-1:] if one_event else (), validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """The logarithms of the probabilities."""
        return logits_of(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """The probabilities."""
        return probs_of(self.logits)

    @property
    def param_shape(self) -> Any:
        """The shape of ``probs``."""
        return (self.__dict__.get("probs", self.__dict__.get("logits"))).shape  # type: ignore[union-attr]

    def _indices(self, sample_shape: Any) -> Tensor:
        shape = tuple(sample_shape)
        count = int(np.prod(shape, dtype=np.int64))
        rows = reshape(self.probs.detach(), (-1, self._num_events))
        drawn = multinomial(rows, count, True)
        return reshape(drawn.T, (*shape, *self._batch_shape))

    def entropy(self) -> Tensor:
        lowest = float(np.finfo(self.logits.dtype).min)
        return -sum(clamp(self.logits, min=lowest) * self.probs, -1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'probs' if 'probs' in self.__dict__ else 'logits'}: {tuple(self.param_shape)})"


class Categorical(_OverClasses):
    """The indices 0 .. K - 1 with given probabilities. See ``torch.distributions.Categorical``.

    Args:
        probs: ``(..., K)``, not negative; divided by their sum.
        logits: ``(..., K)``, logarithms of probabilities up to a constant. One of the two must be given.

    Example:
        >>> import fastdl
        >>> policy = Categorical(logits=fastdl.tensor([0.0, 0.0]))
        >>> round(policy.entropy().item(), 4)
        0.6931
        >>> policy.sample((3,)).shape
        (3,)
    """

    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        super().__init__(probs, logits, False, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        return self.probs.new_full(self._batch_shape, float("nan"))

    @property
    def variance(self) -> Tensor:
        return self.mean

    @property
    def mode(self) -> Tensor:
        return argmax(self.probs, -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._indices(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        index = unsqueeze(to(value, np.int64), -1)
        logits = self.logits
        if index.shape[:-1] != logits.shape[:-1]:
            shape = np.broadcast_shapes(index.shape[:-1], logits.shape[:-1])
            index, logits = index.expand((*shape, 1)), logits.expand((*shape, self._num_events))
        return squeeze(gather(logits, -1, index), -1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = np.arange(self._num_events, like=self.probs._data).reshape(-1, *[1] * len(self._batch_shape))
        if expand:
            values = pooled_copy(np.broadcast_to(values, (self._num_events, *self._batch_shape)))
        return Tensor._wrap(values)


class OneHotCategorical(_OverClasses):
    """Rows with a single 1. See ``torch.distributions.OneHotCategorical``."""

    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        super().__init__(probs, logits, True, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.one_hot

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return to(one_hot(argmax(self.probs, -1), self._num_events), self.probs.dtype)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return to(one_hot(self._indices(sample_shape), self._num_events), self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        value, logits = broadcast_tensors(value, self.logits)
        return squeeze(gather(logits, -1, unsqueeze(argmax(value, -1), -1)), -1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = self._num_events
        values = eye(n, self.probs._data.dtype, self.probs._data).reshape(n, *[1] * len(self._batch_shape), n)
        if expand:
            values = pooled_copy(np.broadcast_to(values, (n, *self._batch_shape, n)))
        return Tensor._wrap(values)


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """:class:`OneHotCategorical` whose samples pass their gradient to the probabilities as they are."""

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class RelaxedOneHotCategorical(_OverClasses):
    """Softmax of (logits + Gumbel noise) / temperature. See ``torch.distributions.RelaxedOneHotCategorical``."""

    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(probs, logits, True, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.simplex

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = open_uniform(self._extended_shape(sample_shape), self.logits)
        return softmax_method((self.logits - log(-log(u))) / self.temperature, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n, t = self._num_events, self.temperature
        t = t if isinstance(t, Tensor) else Tensor._wrap(np.asarray(t, self.logits.dtype))
        constant = lgamma(t * 0 + n) + (n - 1) * log(t)
        y = log(value)
        score = sum(log_softmax_method(self.logits - t * y, -1) - y, -1)
        return score + constant

    def entropy(self) -> Tensor:
        return Distribution.entropy(self)  # that of the classes is not this one's, which has no closed form


class Multinomial(Distribution):
    """How often each class came in ``total_count`` draws. See ``torch.distributions.Multinomial``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }

    def __init__(
        self, total_count: int = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        if not isinstance(total_count, int):
            raise NotImplementedError("inhomogeneous total_count is not supported")
        self.total_count = total_count
        self._categorical = Categorical(probs, logits, validate_args)
        super().__init__(self._categorical.batch_shape, self._categorical.param_shape[-1:], validate_args)

    @property
    def probs(self) -> Tensor:
        """The probabilities of the classes."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """Their logarithms."""
        return self._categorical.logits

    @property
    def support(self) -> constraints.Constraint:
        return constraints.multinomial(self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        new = super().expand(batch_shape, _instance)
        new._categorical = self._categorical.expand(batch_shape)
        return new

    def entropy(self) -> Tensor:
        # Each class's count is binomial: E[log(count!)] is a sum over its values.
        n = Tensor._wrap(np.asarray(float(self.total_count), self.probs.dtype, like=self.probs._data))
        probs = unsqueeze(self.probs, 0)
        counts = reshape(
            arange(1, self.total_count + 1, dtype=probs.dtype, device=probs.device),
            [-1, *[1] * (probs.ndim - 1)],
        )
        ways = lgamma(n + 1) - lgamma(counts + 1) - lgamma(n - counts + 1)
        chances = exp(ways + xlogy(counts, probs) + xlogy(n - counts, 1 - probs))
        return n * self._categorical.entropy() - lgamma(n + 1) + sum(chances * lgamma(counts + 1), (0, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = self._categorical.sample((self.total_count, *sample_shape))
        return to(sum(one_hot(drawn, self._event_shape[0]), 0), self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        value, logits = broadcast_tensors(value, self.logits)
        impossible = eq(value, 0) & (logits == -float("inf"))
        logits = where(impossible, 0.0, logits)
        return lgamma(sum(value, -1) + 1) - sum(lgamma(value + 1), -1) + sum(logits * value, -1)

"""Distributions made of others: batch axes as event axes, and mixtures."""

from __future__ import annotations

from typing import Any, Self

from fastdl.distributions import constraints
from fastdl.distributions.categorical import Categorical
from fastdl.distributions.distribution import Distribution
from fastdl.distributions.transforms.base import sum_last
from fastdl.ops.gather import gather
from fastdl.ops.reduce import logsumexp, sum
from fastdl.ops.softmax import log_softmax_method
from fastdl.ops.unary import square
from fastdl.ops.views import reshape, squeeze, unsqueeze
from fastdl.tensor import Tensor

__all__ = ["Independent", "MixtureSameFamily"]


class Independent(Distribution):
    """The last batch axes of ``base_distribution`` as axes of one event: log_prob adds them up.

    See ``torch.distributions.Independent``.

    Example:
        >>> import fastdl
        >>> from fastdl.distributions import Normal
        >>> Independent(Normal(fastdl.zeros(3, 2), fastdl.ones(3, 2)), 1).log_prob(fastdl.zeros(3, 2)).shape
        (3,)
    """

    def __init__(
        self,
        base_distribution: Distribution,
        reinterpreted_batch_ndims: int,
        validate_args: bool | None = None,
    ) -> None:
        batch, event = tuple(base_distribution.batch_shape), tuple(base_distribution.event_shape)
        count = reinterpreted_batch_ndims
        if count > len(batch):
            raise ValueError(
                "Expected reinterpreted_batch_ndims <= len(base_distribution.batch_shape), "
                f"actual {count} vs {len(batch)}"
            )
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, count
        split = len(batch) - count
        super().__init__(batch[:split], batch[split:] + event, validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_rsample

    @property
    def support(self) -> constraints.Constraint | None:
        base = self.base_dist.support
        return None if base is None else constraints.over_last(base, self.reinterpreted_batch_ndims)

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_last(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Tensor:
        return sum_last(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        shape = tuple(batch_shape)
        own = tuple(self._event_shape)[: self.reinterpreted_batch_ndims]
        new = super().expand(batch_shape, _instance)  # a subclass's constructor may take other arguments
        base = self.base_dist.expand(shape + own)
        Independent.__init__(new, base, self.reinterpreted_batch_ndims, self._validate_args)
        return new

    def __repr__(self) -> str:
        return f"Independent({self.base_dist}, {self.reinterpreted_batch_ndims})"


class MixtureSameFamily(Distribution):
    """One of the components, the last batch axis of ``component_distribution``, chosen by a Categorical.

    See ``torch.distributions.MixtureSameFamily``.
    """

    def __init__(
        self,
        mixture_distribution: Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(mixture_distribution, Categorical):
            raise ValueError(
                " The Mixture distribution needs to be an  instance of torch.distributions.Categorical"
            )
        batch = tuple(component_distribution.batch_shape)
        if not batch or mixture_distribution._num_events != batch[-1]:
            raise ValueError(
                f"MixtureSameFamily: {mixture_distribution._num_events} weights need as many components as the last "
                f"axis of the component's batch_shape, got {batch}"
            )
        self.mixture_distribution, self.component_distribution = mixture_distribution, component_distribution
        self._events = len(component_distribution.event_shape)
        super().__init__(batch[:-1], component_distribution.event_shape, validate_args)

    def _weights(self) -> Tensor:
        p = self.mixture_distribution.probs
        return reshape(p, (*p.shape, *[1] * self._events))

    @property
    def support(self) -> constraints.Constraint | None:
        return self.component_distribution.support

    @property
    def mean(self) -> Tensor:
        return sum(self._weights() * self.component_distribution.mean, -1 - self._events)

    @property
    def variance(self) -> Tensor:
        part, axis = self.component_distribution, -1 - self._events
        within = sum(self._weights() * part.variance, axis)
        between = sum(self._weights() * square(part.mean - unsqueeze(self.mean, axis)), axis)
        return within + between

    def cdf(self, value: Tensor) -> Tensor:
        parts = self.component_distribution.cdf(unsqueeze(value, -1 - self._events))
        return sum(parts * self.mixture_distribution.probs, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        parts = self.component_distribution.log_prob(unsqueeze(value, -1 - self._events))
        return logsumexp(parts + log_softmax_method(self.mixture_distribution.logits, -1), -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        axis = -1 - self._events
        chosen = self.mixture_distribution.sample(sample_shape)
        parts = self.component_distribution.sample(sample_shape)
        index = reshape(chosen, (*chosen.shape, *[1] * (1 + self._events)))
        size = list(parts.shape)
        size[axis] = 1
        return squeeze(gather(parts, axis, index.expand(size).contiguous()), axis)

    def __repr__(self) -> str:
        return f"MixtureSameFamily(\n  {self.mixture_distribution},\n  {self.component_distribution})"

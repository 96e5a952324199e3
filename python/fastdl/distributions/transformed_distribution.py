"""``TransformedDistribution``: a random variable after a function; see ``torch.distributions``."""

from __future__ import annotations

import math
from typing import Any, Self

from fastdl.autograd.mode import no_grad
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution
from fastdl.distributions.independent import Independent
from fastdl.distributions.transforms.base import ComposeTransform, Transform, sum_last
from fastdl.tensor import Tensor

__all__ = ["TransformedDistribution"]


class TransformedDistribution(Distribution):
    """y = f(x) for x of ``base_distribution``; log p(y) = log p(x) - log |det dy/dx|.

    See ``torch.distributions.TransformedDistribution``.

    Example:
        >>> import fastdl
        >>> from fastdl.distributions import Normal, transforms
        >>> squashed = TransformedDistribution(Normal(0.0, 1.0), [transforms.TanhTransform()])
        >>> round(squashed.log_prob(fastdl.tensor(0.0)).item(), 4)
        -0.9189
    """

    def __init__(
        self, base_distribution: Distribution, transforms: Any, validate_args: bool | None = None
    ) -> None:
        self.transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        for transform in self.transforms:
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"transforms must be a Transform or a list of Transforms, got {transforms!r}"
                )
        chain = ComposeTransform(self.transforms)
        base_shape = tuple(base_distribution.batch_shape) + tuple(base_distribution.event_shape)
        events = len(base_distribution.event_shape)
        if len(base_shape) < chain.domain.event_dim:
            raise ValueError(
                f"TransformedDistribution: base_distribution must have at least {chain.domain.event_dim} dimensions "
                f"for {self.transforms}, got {base_distribution}"
            )
        # A transform may join distributions to one (its scales are a batch), or batch axes to a value (softmax).
        shape = tuple(chain.forward_shape(base_shape))
        expanded = tuple(chain.inverse_shape(shape))
        if expanded != base_shape:
            base_distribution = base_distribution.expand(expanded[: len(expanded) - events])
        if chain.domain.event_dim > events:
            base_distribution = Independent(base_distribution, chain.domain.event_dim - events)
            events = chain.domain.event_dim
        self.base_dist = base_distribution
        events = max(events + chain.codomain.event_dim - chain.domain.event_dim, chain.codomain.event_dim)
        cut = len(shape) - events
        super().__init__(shape[:cut], shape[cut:], validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        if not self.transforms:
            return self.base_dist.support
        end = self.transforms[-1].codomain
        return constraints.over_last(end, len(self._event_shape) - end.event_dim)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_rsample

    def _through(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with no_grad():  # the very tensor that came out: a transform's cache knows it
            return self._through(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._through(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        total: Any = 0.0
        y = value
        events = len(self._event_shape)
        for transform in reversed(self.transforms):
            x = transform.inv(y)
            events += transform.domain.event_dim - transform.codomain.event_dim
            change = transform.log_abs_det_jacobian(x, y)
            total = total - sum_last(change, events - transform.domain.event_dim)
            y = x
        inner = self.base_dist.log_prob(y)
        return total + sum_last(inner, events - len(self.base_dist.event_shape))  # type: ignore[no-any-return]

    def _sign(self) -> Any:
        return math.prod([t.sign for t in self.transforms])

    def cdf(self, value: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            value = transform.inv(value)
        mass, sign = self.base_dist.cdf(value), self._sign()
        return sign * (mass - 0.5) + 0.5  # type: ignore[no-any-return]

    def icdf(self, value: Tensor) -> Tensor:
        return self._through(self.base_dist.icdf(self._sign() * (value - 0.5) + 0.5))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        chain = ComposeTransform(self.transforms)
        shape = tuple(chain.inverse_shape((*batch_shape, *self._event_shape)))
        base = self.base_dist.expand(shape[: len(shape) - len(self.base_dist.event_shape)])
        new = super().expand(batch_shape, _instance)  # a subclass's constructor may take other arguments
        TransformedDistribution.__init__(new, base, self.transforms, self._validate_args)
        return new

    def __repr__(self) -> str:
        if self._fields:
            return super().__repr__()
        return f"{type(self).__name__}({self.base_dist}, {self.transforms})"

"""Several transforms beside each other, and distribution functions as transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from fastdl.distributions.constraints import Constraint, cat, stack, unit_interval
from fastdl.distributions.transforms.base import Transform, sum_last
from fastdl.ops.join import cat as join
from fastdl.ops.join import stack as pile
from fastdl.ops.parts import narrow

__all__ = ["CatTransform", "CumulativeDistributionTransform", "StackTransform"]


class _Parts(Transform):
    _compared: tuple[str, ...] | None = ("transforms", "dim")

    def __init__(self, tseq: Sequence[Transform], dim: int, cache_size: int) -> None:
        super().__init__(cache_size)
        for transform in tseq:
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"{type(self).__name__}: expects a list of Transforms, got {transform!r} in it"
                )
        self.transforms = [t.with_cache(cache_size) for t in tseq] if cache_size else list(tseq)
        self.dim = dim

    @property
    def bijective(self) -> Any:
        return all([t.bijective for t in self.transforms])

    def _constraint(self, parts: list[Constraint]) -> Constraint:
        raise NotImplementedError

    @property
    def domain(self) -> Constraint:
        """What each part takes."""
        return self._constraint([t.domain for t in self.transforms])

    @property
    def codomain(self) -> Constraint:
        """What each part gives."""
        return self._constraint([t.codomain for t in self.transforms])

    def _split(self, x: Any) -> list[Any]:
        raise NotImplementedError

    def _joined(self, values: list[Any]) -> Any:
        raise NotImplementedError

    def _each(self, x: Any, function: Callable[[Transform, Any], Any]) -> Any:
        return self._joined(
            [function(t, part) for t, part in zip(self.transforms, self._split(x), strict=True)]
        )

    def _call(self, x: Any) -> Any:
        return self._each(x, lambda transform, part: transform(part))

    def _inverse(self, y: Any) -> Any:
        return self._each(y, lambda transform, part: transform.inv(part))

    def with_cache(self, cache_size: int = 1) -> Self:
        if self._cache_size == cache_size:
            return self
        other = super().with_cache(cache_size)
        other.transforms = [t.with_cache(cache_size) for t in self.transforms]
        return other

    def _need(self, x: Any, size: int) -> None:
        if not -x.ndim <= self.dim < x.ndim or x.shape[self.dim] != size:
            raise ValueError(
                f"{type(self).__name__}: expects {size} entries along dim {self.dim}, got a tensor of shape "
                f"{tuple(x.shape)}"
            )


class CatTransform(_Parts):
    """A transform for each part of ``lengths`` along ``dim``. See ``torch.distributions.transforms.CatTransform``.

    Example:
        >>> import fastdl
        >>> from fastdl.distributions.transforms import ExpTransform, identity_transform
        >>> t = CatTransform([ExpTransform(), identity_transform], lengths=[1, 2])
        >>> t(fastdl.zeros(3))
        tensor([1., 0., 0.])
    """

    _compared = ("transforms", "dim", "lengths")

    def __init__(
        self,
        tseq: Sequence[Transform],
        dim: int = 0,
        lengths: Sequence[int] | None = None,
        cache_size: int = 0,
    ) -> None:
        super().__init__(tseq, dim, cache_size)
        self.lengths = [1] * len(self.transforms) if lengths is None else list(lengths)
        if len(self.lengths) != len(self.transforms):
            raise ValueError(
                f"CatTransform: {len(self.transforms)} transforms need as many lengths, got {self.lengths}"
            )

    @property
    def length(self) -> int:
        """All lengths together."""
        return sum(self.lengths)

    @property
    def event_dim(self) -> int:
        return max([t.event_dim for t in self.transforms])

    def _constraint(self, parts: list[Constraint]) -> Constraint:
        return cat(parts, self.dim, self.lengths)

    def _split(self, x: Any) -> list[Any]:
        self._need(x, self.length)
        starts = [sum(self.lengths[:i]) for i in range(len(self.lengths))]
        return [narrow(x, self.dim, start, n) for start, n in zip(starts, self.lengths, strict=True)]

    def _joined(self, values: list[Any]) -> Any:
        return join(values, self.dim)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        changes = [
            sum_last(t.log_abs_det_jacobian(before, after), self.event_dim - t.event_dim)
            for t, before, after in zip(self.transforms, self._split(x), self._split(y), strict=True)
        ]
        # Parts along an axis of the value itself add up; along a batch axis they stay apart.
        axis = (self.dim if self.dim < 0 else self.dim - x.ndim) + self.event_dim
        return join(changes, axis) if axis < 0 else sum(changes[1:], changes[0])


class StackTransform(_Parts):
    """A transform for each entry along ``dim``. See ``torch.distributions.transforms.StackTransform``."""

    def __init__(self, tseq: Sequence[Transform], dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(tseq, dim, cache_size)

    def _constraint(self, parts: list[Constraint]) -> Constraint:
        return stack(parts, self.dim)

    def _split(self, x: Any) -> list[Any]:
        self._need(x, len(self.transforms))
        return [x.select(self.dim, i) for i in range(len(self.transforms))]

    def _joined(self, values: list[Any]) -> Any:
        return pile(values, self.dim)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        pairs = zip(self.transforms, self._split(x), self._split(y), strict=True)
        return pile([t.log_abs_det_jacobian(before, after) for t, before, after in pairs], self.dim)


class CumulativeDistributionTransform(Transform):
    """y = cdf(x) of ``distribution``, as copulas need it.

    See ``torch.distributions.transforms.CumulativeDistributionTransform``.

    Example:
        >>> import fastdl
        >>> from fastdl.distributions import Normal
        >>> CumulativeDistributionTransform(Normal(0.0, 1.0))(fastdl.zeros(2))
        tensor([0.5000, 0.5000])
    """

    bijective, sign = True, +1
    codomain = unit_interval

    def __init__(self, distribution: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.distribution = distribution

    @property
    def domain(self) -> Any:
        """The distribution's support."""
        return self.distribution.support

    def _call(self, x: Any) -> Any:
        return self.distribution.cdf(x)

    def _inverse(self, y: Any) -> Any:
        return self.distribution.icdf(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return self.distribution.log_prob(x)

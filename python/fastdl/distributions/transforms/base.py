"""Transforms and what is made of any of them: inverses, chains, more axes, other shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from fastdl.distributions.constraints import Constraint, over_last, real
from fastdl.ops.reduce import sum
from fastdl.tensor import Tensor

__all__ = ["ComposeTransform", "IndependentTransform", "ReshapeTransform", "Transform", "identity_transform"]


def sum_last(x: Tensor, count: int) -> Tensor:
    """The sum over the last ``count`` axes."""
    return sum(x, tuple(range(-count, 0))) if count else x


class Transform:
    """y = f(x) with its inverse and the logarithm of |dy/dx|. See ``torch.distributions.Transform``.

    Args:
        cache_size: 1: the last x and y are remembered, so that the inverse of a result is what it was made from, bit by
            bit (and where the inverse is not defined by a formula); 0: nothing is.

    Example:
        >>> import fastdl
        >>> from fastdl.distributions import constraints
        >>> class Cube(Transform):
        ...     domain = codomain = constraints.real
        ...     bijective, sign = True, +1
        ...     def _call(self, x):
        ...         return x**3
        ...     def _inverse(self, y):
        ...         return y.abs() ** (1 / 3) * y.sign()
        ...     def log_abs_det_jacobian(self, x, y):
        ...         return (3 * x * x).log()
        >>> Cube().inv(Cube()(fastdl.tensor([-2.0, 3.0])))
        tensor([-2.,  3.])
    """

    bijective: Any = False
    domain: Any = real
    codomain: Any = real
    # The attributes in which two of one class differ; None: every object is another transform.
    _compared: tuple[str, ...] | None = None

    def __init__(self, cache_size: int = 0) -> None:
        if cache_size not in (0, 1):
            raise ValueError(f"{type(self).__name__}: cache_size must be 0 or 1, got {cache_size}")
        super().__init__()  # a class may be a module, too
        self._cache_size = cache_size
        self._cached_x_y: tuple[Any, Any] = (None, None)

    def __eq__(self, other: object) -> bool:
        if self._compared is None or type(self) is not type(other):
            return self is other
        return all([_same(getattr(self, name), getattr(other, name)) for name in self._compared])

    __hash__ = None  # type: ignore[assignment]

    @property
    def sign(self) -> Any:
        """+1 where f grows, -1 where it falls."""
        raise NotImplementedError(f"{type(self).__name__} has no sign")

    @property
    def event_dim(self) -> int:
        """How many axes one value has, before and after."""
        if self.domain.event_dim != self.codomain.event_dim:
            raise ValueError(
                f"{type(self).__name__}: values have {self.domain.event_dim} axes before and "
                f"{self.codomain.event_dim} after; use .domain.event_dim or .codomain.event_dim"
            )
        return int(self.domain.event_dim)

    @property
    def inv(self) -> Transform:
        """The inverse transform."""
        return _InverseTransform(self)

    def with_cache(self, cache_size: int = 1) -> Self:
        """This transform, with ``cache_size``."""
        if self._cache_size == cache_size:
            return self
        other = copy.copy(self)
        Transform.__init__(other, cache_size)
        return other

    def __call__(self, x: Any) -> Any:
        if not self._cache_size:
            return self._call(x)
        if x is not self._cached_x_y[0]:
            self._cached_x_y = x, self._call(x)
        return self._cached_x_y[1]

    def _inv_call(self, y: Any) -> Any:
        if not self._cache_size:
            return self._inverse(y)
        if y is not self._cached_x_y[1]:
            self._cached_x_y = self._inverse(y), y
        return self._cached_x_y[0]

    def _call(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no _call")

    def _inverse(self, y: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        """log |det dy/dx| for one value each, of ``domain.event_dim`` axes."""
        raise NotImplementedError(f"{type(self).__name__} has no log_abs_det_jacobian")

    def forward_shape(self, shape: Any) -> Any:
        """The shape of y for x of ``shape``."""
        return shape

    def inverse_shape(self, shape: Any) -> Any:
        """The shape of x for y of ``shape``."""
        return shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _same(a: Any, b: Any) -> bool:
    equal = a == b
    return bool(equal.all()) if isinstance(equal, Tensor) else bool(equal)


def broadcast(shape: Any, *values: Any) -> tuple[int, ...]:
    """The shape of values of ``shape`` beside parameters that are tensors."""
    return np.broadcast_shapes(tuple(shape), *[v.shape for v in values if isinstance(v, Tensor)])


class _InverseTransform(Transform):
    _compared = ("_inv",)

    def __init__(self, transform: Transform) -> None:
        super().__init__(transform._cache_size)
        self._inv = transform

    bijective = property(lambda self: self._inv.bijective)
    domain = property(lambda self: self._inv.codomain)
    codomain = property(lambda self: self._inv.domain)
    sign = property(lambda self: self._inv.sign)
    inv = property(lambda self: self._inv)

    def with_cache(self, cache_size: int = 1) -> Any:
        return self._inv.with_cache(cache_size).inv

    def __call__(self, x: Any) -> Any:
        return self._inv._inv_call(x)

    def _inv_call(self, y: Any) -> Any:
        return self._inv(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -self._inv.log_abs_det_jacobian(y, x)

    def forward_shape(self, shape: Any) -> Any:
        return self._inv.inverse_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self._inv.forward_shape(shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inv!r})"


class IndependentTransform(Transform):
    """``base_transform`` on ``reinterpreted_batch_ndims`` more axes: its log_abs_det_jacobian is added up over them."""

    _compared = ("base_transform", "reinterpreted_batch_ndims")

    def __init__(
        self, base_transform: Transform, reinterpreted_batch_ndims: int, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size)
        self.base_transform = base_transform.with_cache(cache_size)
        self.reinterpreted_batch_ndims = reinterpreted_batch_ndims
        self.domain = over_last(base_transform.domain, reinterpreted_batch_ndims)
        self.codomain = over_last(base_transform.codomain, reinterpreted_batch_ndims)

    bijective = property(lambda self: self.base_transform.bijective)
    sign = property(lambda self: self.base_transform.sign)

    def _call(self, x: Any) -> Any:
        return self.base_transform(x)

    def _inverse(self, y: Any) -> Any:
        return self.base_transform.inv(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return sum_last(self.base_transform.log_abs_det_jacobian(x, y), self.reinterpreted_batch_ndims)

    def forward_shape(self, shape: Any) -> Any:
        return self.base_transform.forward_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self.base_transform.inverse_shape(shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_transform!r}, {self.reinterpreted_batch_ndims})"


class ReshapeTransform(Transform):
    """The last axes from ``in_shape`` to ``out_shape``."""

    bijective = True
    _compared = ("in_shape", "out_shape")

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        if math.prod(self.in_shape) != math.prod(self.out_shape):
            raise ValueError(
                f"ReshapeTransform: in_shape {self.in_shape} and out_shape {self.out_shape} have different numbers of "
                "elements"
            )
        self.domain = over_last(real, len(self.in_shape))
        self.codomain = over_last(real, len(self.out_shape))

    def _call(self, x: Any) -> Any:
        return x.reshape(*self.forward_shape(x.shape))

    def _inverse(self, y: Any) -> Any:
        return y.reshape(*self.inverse_shape(y.shape))

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return x.new_zeros(x.shape[: x.ndim - len(self.in_shape)])

    def forward_shape(self, shape: Any) -> Any:
        return self._exchanged(shape, self.in_shape, self.out_shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self._exchanged(shape, self.out_shape, self.in_shape)

    @staticmethod
    def _exchanged(shape: Any, old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        cut = len(shape) - len(old)
        if cut < 0 or tuple(shape[cut:]) != old:
            raise ValueError(f"ReshapeTransform: expected a shape that ends in {old}, got {tuple(shape)}")
        return (*shape[:cut], *new)


class ComposeTransform(Transform):
    """One transform after the other."""

    _compared = ("parts",)

    def __init__(self, parts: Sequence[Transform], cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.parts = [part.with_cache(cache_size) for part in parts] if cache_size else list(parts)

    @property
    def bijective(self) -> Any:
        return all(p.bijective for p in self.parts)

    @property
    def sign(self) -> Any:
        return math.prod([p.sign for p in self.parts])

    @property
    def domain(self) -> Constraint:
        """What the first part takes, of as many axes as any part needs."""
        return self._end(self.parts, lambda p: p.domain, lambda p: p.codomain)

    @property
    def codomain(self) -> Constraint:
        """What the last part gives, of as many axes as any part gives."""
        return self._end(self.parts[::-1], lambda p: p.codomain, lambda p: p.domain)

    @staticmethod
    def _end(parts: Sequence[Transform], near: Any, far: Any) -> Constraint:
        if not parts:
            return real
        axes = far(parts[-1]).event_dim
        for part in reversed(parts):
            axes = max(axes + near(part).event_dim - far(part).event_dim, near(part).event_dim)
        end = near(parts[0])
        return over_last(end, axes - end.event_dim)

    @property
    def inv(self) -> Transform:
        return ComposeTransform([part.inv for part in reversed(self.parts)])

    def _call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        if not self.parts:
            return x.new_zeros(x.shape)
        total: Any = 0.0
        axes = self.domain.event_dim
        for i, part in enumerate(self.parts):
            after = y if i + 1 == len(self.parts) else part(x)
            total = total + sum_last(part.log_abs_det_jacobian(x, after), axes - part.domain.event_dim)
            axes += part.codomain.event_dim - part.domain.event_dim
            x = after
        return total

    def forward_shape(self, shape: Any) -> Any:
        for part in self.parts:
            shape = part.forward_shape(shape)
        return shape

    def inverse_shape(self, shape: Any) -> Any:
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return shape

    def __repr__(self) -> str:
        return "ComposeTransform(\n    " + ",\n    ".join([repr(part) for part in self.parts]) + "\n)"


identity_transform = ComposeTransform([])

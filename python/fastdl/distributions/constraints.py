"""What parameters and values must satisfy; see ``torch.distributions.constraints``.

A constraint of one's own derives from :class:`Constraint` and defines ``check``; those here test arrays (``_test``).
Bounds are numbers or tensors, which broadcast against the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdl.devices import to_host
from fastdl.kernels import array as as_array
from fastdl.tensor import Tensor

__all__ = [
    "Constraint",
    "MixtureSameFamilyConstraint",
    "boolean",
    "cat",
    "corr_cholesky",
    "dependent",
    "dependent_property",
    "greater_than",
    "greater_than_eq",
    "half_open_interval",
    "independent",
    "integer_interval",
    "interval",
    "is_dependent",
    "less_than",
    "lower_cholesky",
    "lower_triangular",
    "multinomial",
    "nonnegative",
    "nonnegative_integer",
    "one_hot",
    "positive",
    "positive_definite",
    "positive_integer",
    "positive_semidefinite",
    "real",
    "real_vector",
    "simplex",
    "square",
    "stack",
    "symmetric",
    "unit_interval",
]


class Constraint:
    """A test of a tensor's elements, or of its last ``event_dim`` axes together.

    Example:
        >>> import fastdl
        >>> class Even(Constraint):
        ...     is_discrete = True
        ...     def check(self, value):
        ...         return value % 2 == 0
        >>> Even().check(fastdl.tensor([1, 2])).tolist()
        [False, True]
    """

    is_discrete: Any = False
    event_dim: Any = 0

    def check(self, value: Tensor) -> Tensor:
        """True where the value satisfies the constraint."""
        if type(self)._test is Constraint._test:
            raise NotImplementedError(f"{type(self).__name__} defines no check")
        return Tensor._wrap(as_array(self._test(value._data)))

    def _test(self, x: Any) -> Any:
        return self.check(Tensor._wrap(x))._data

    def __repr__(self) -> str:
        return type(self).__name__.lstrip("_") + "()"


def _array(bound: Any) -> Any:
    return bound._data if isinstance(bound, Tensor) else bound


class _Bounded(Constraint):
    _bounds: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = ", ".join([f"{name}={getattr(self, name)}" for name in self._bounds])
        return f"{type(self).__name__.lstrip('_')}({shown})"


class _Below(_Bounded):
    _bounds = ("lower_bound",)

    def __init__(self, lower_bound: Any) -> None:
        self.lower_bound = lower_bound


class _Between(_Bounded):
    _bounds = ("lower_bound", "upper_bound")

    def __init__(self, lower_bound: Any, upper_bound: Any) -> None:
        self.lower_bound, self.upper_bound = lower_bound, upper_bound


class _GreaterThan(_Below):
    """Numbers above ``lower_bound``."""

    def _test(self, x: Any) -> Any:
        return x > _array(self.lower_bound)


class _GreaterThanEq(_Below):
    """Numbers from ``lower_bound`` upwards."""

    def _test(self, x: Any) -> Any:
        return x >= _array(self.lower_bound)


class _IntegerGreaterThan(_Below):
    """Integers from ``lower_bound`` upwards."""

    is_discrete = True

    def _test(self, x: Any) -> Any:
        return (x % 1 == 0) & (x >= _array(self.lower_bound))


class _LessThan(_Bounded):
    """Numbers below ``upper_bound``."""

    _bounds = ("upper_bound",)

    def __init__(self, upper_bound: Any) -> None:
        self.upper_bound = upper_bound

    def _test(self, x: Any) -> Any:
        return x < _array(self.upper_bound)


class _Interval(_Between):
    """Numbers from ``lower_bound`` to ``upper_bound``, both included."""

    def _test(self, x: Any) -> Any:
        return (x >= _array(self.lower_bound)) & (x <= _array(self.upper_bound))


class _HalfOpenInterval(_Between):
    """Numbers from ``lower_bound`` up to ``upper_bound``, which is left out."""

    def _test(self, x: Any) -> Any:
        return (x >= _array(self.lower_bound)) & (x < _array(self.upper_bound))


class _IntegerInterval(_Between):
    """Integers from ``lower_bound`` to ``upper_bound``, both included."""

    is_discrete = True

    def _test(self, x: Any) -> Any:
        return (x % 1 == 0) & (x >= _array(self.lower_bound)) & (x <= _array(self.upper_bound))


class _Real(Constraint):
    def _test(self, x: Any) -> Any:
        return x == x


class _Boolean(Constraint):
    is_discrete = True

    def _test(self, x: Any) -> Any:
        return (x == 0) | (x == 1)


class _OneHot(Constraint):
    is_discrete = True
    event_dim = 1

    def _test(self, x: Any) -> Any:
        return ((x == 0) | (x == 1)).all(axis=-1) & (x.sum(axis=-1) == 1)


class _Simplex(Constraint):
    event_dim = 1

    def _test(self, x: Any) -> Any:
        return as_array((x >= 0).all(axis=-1) & (np.abs(x.sum(axis=-1) - 1) < 1e-6))


class _Multinomial(Constraint):
    """Counts that add up to at most ``upper_bound``."""

    is_discrete = True
    event_dim = 1

    def __init__(self, upper_bound: Any) -> None:
        self.upper_bound = upper_bound

    def _test(self, x: Any) -> Any:
        return (x >= 0).all(axis=-1) & (x.sum(axis=-1) <= _array(self.upper_bound))


def _is_lower(a: Any) -> Any:
    return as_array((np.tril(a) == a).all(axis=(-2, -1)))


class _LowerTriangular(Constraint):
    event_dim = 2

    def _test(self, x: Any) -> Any:
        return _is_lower(x)


class _LowerCholesky(Constraint):
    event_dim = 2

    def _test(self, x: Any) -> Any:
        return _is_lower(x) & (x.diagonal(0, -2, -1) > 0).all(axis=-1)


class _CorrCholesky(Constraint):
    """Cholesky factors of correlation matrices: rows of length 1."""

    event_dim = 2

    def _test(self, x: Any) -> Any:
        tolerance = np.finfo(x.dtype).eps * x.shape[-1] * 10
        rows = (np.abs(np.sqrt((x * x).sum(axis=-1)) - 1) < tolerance).all(axis=-1)
        return lower_cholesky._test(x) & as_array(rows)


class _Square(Constraint):
    event_dim = 2

    def _test(self, x: Any) -> Any:
        return np.full(x.shape[:-2], x.shape[-1] == x.shape[-2], dtype=bool)


class _Symmetric(_Square):
    def _test(self, x: Any) -> Any:
        if x.shape[-1] != x.shape[-2]:
            return super()._test(x)
        x = to_host(x)
        return np.asarray(np.isclose(x, np.swapaxes(x, -1, -2), atol=1e-6).all(axis=(-2, -1)))


class _Definite(_Symmetric):
    def _test(self, x: Any) -> Any:
        symmetric = super()._test(x)
        if not symmetric.any():
            return symmetric
        x = to_host(x)
        lowest = np.linalg.eigvalsh(np.where(np.isfinite(x), x, 0)).min(axis=-1, initial=np.inf)
        return np.asarray(symmetric & self._enough(lowest))

    def _enough(self, lowest: Any) -> Any:
        raise NotImplementedError


class _PositiveDefinite(_Definite):
    def _enough(self, lowest: Any) -> Any:
        return lowest > 0


class _PositiveSemidefinite(_Definite):
    def _enough(self, lowest: Any) -> Any:
        return lowest >= 0


class _IndependentConstraint(Constraint):
    """``base_constraint`` for all elements of the last ``reinterpreted_batch_ndims`` axes."""

    def __init__(self, base_constraint: Constraint, reinterpreted_batch_ndims: int) -> None:
        self.base_constraint, self.reinterpreted_batch_ndims = base_constraint, reinterpreted_batch_ndims
        self.is_discrete = base_constraint.is_discrete
        self.event_dim = base_constraint.event_dim + reinterpreted_batch_ndims

    def _test(self, x: Any) -> Any:
        if x.ndim < self.event_dim:
            raise ValueError(
                f"Expected value.dim() >= {self.event_dim} for {self!r} but got {x.ndim}: a tensor of shape {x.shape}"
            )
        inner = self.base_constraint._test(x)
        return as_array(inner.all(axis=tuple(range(-self.reinterpreted_batch_ndims, 0))))

    def __repr__(self) -> str:
        return f"{type(self).__name__[1:]}({self.base_constraint!r}, {self.reinterpreted_batch_ndims})"


class _Parts(Constraint):
    def __init__(self, cseq: Sequence[Constraint], dim: int = 0) -> None:
        self.cseq, self.dim = list(cseq), dim
        for constraint in self.cseq:
            if not isinstance(constraint, Constraint):
                raise ValueError(
                    f"{type(self).__name__[1:].lower()}: expects constraints, got {constraint!r}"
                )
        self.is_discrete = any([c.is_discrete for c in self.cseq])
        self.event_dim = max([c.event_dim for c in self.cseq])


class _Cat(_Parts):
    """A constraint for each part of ``lengths`` along ``dim``."""

    def __init__(
        self, cseq: Sequence[Constraint], dim: int = 0, lengths: Sequence[int] | None = None
    ) -> None:
        super().__init__(cseq, dim)
        self.lengths = [1] * len(self.cseq) if lengths is None else list(lengths)
        if len(self.lengths) != len(self.cseq):
            raise ValueError(f"cat: {len(self.cseq)} constraints need as many lengths, got {self.lengths}")

    def _test(self, x: Any) -> Any:
        parts = np.split(x, np.cumsum(self.lengths)[:-1].tolist(), axis=self.dim)
        return np.concatenate([c._test(p) for c, p in zip(self.cseq, parts, strict=True)], axis=self.dim)


class _Stack(_Parts):
    """A constraint for each entry along ``dim``."""

    def __init__(self, cseq: Sequence[Constraint], dim: int = 0) -> None:
        super().__init__(cseq, dim)
        self.event_dim += dim + self.event_dim < 0  # the new axis lies among the value's

    def _test(self, x: Any) -> Any:
        if x.shape[self.dim] != len(self.cseq):
            raise ValueError(
                f"stack: {len(self.cseq)} constraints for {x.shape[self.dim]} entries along dim {self.dim}"
            )
        parts = [c._test(x.take(i, axis=self.dim)) for i, c in enumerate(self.cseq)]
        return np.stack(parts, axis=self.dim)


class _Dependent(Constraint):
    """What depends on other parameters: it cannot be checked by itself.

    ``dependent(is_discrete=True, event_dim=1)`` says what is known of it; what is not is an error when asked for.
    """

    def __init__(self, *, is_discrete: Any = None, event_dim: Any = None) -> None:
        self._known = {"is_discrete": is_discrete, "event_dim": event_dim}

    def _say(self, name: str) -> Any:
        value = self._known[name]
        if value is None:
            raise NotImplementedError(
                f".{name} cannot be determined statically: it depends on the parameters"
            )
        return value

    is_discrete = property(lambda self: self._say("is_discrete"))
    event_dim = property(lambda self: self._say("event_dim"))

    def __call__(self, *, is_discrete: Any = None, event_dim: Any = None) -> _Dependent:
        given = {"is_discrete": is_discrete, "event_dim": event_dim}
        return _Dependent(**{n: self._known[n] if v is None else v for n, v in given.items()})

    def check(self, value: Tensor) -> Tensor:
        raise ValueError(
            "Cannot determine validity of dependent constraint: ask the distribution's own support"
        )


class _DependentProperty(property, _Dependent):
    """A property of objects that is a dependent constraint when read from the class; may take arguments."""

    def __init__(
        self, fn: Callable[..., Any] | None = None, *, is_discrete: Any = None, event_dim: Any = None
    ) -> None:
        property.__init__(self, fn)
        _Dependent.__init__(self, is_discrete=is_discrete, event_dim=event_dim)

    def __call__(self, fn: Any) -> _DependentProperty:  # type: ignore[override]
        return _DependentProperty(fn, **self._known)


def is_dependent(constraint: Any) -> bool:
    """Whether ``constraint`` depends on other parameters."""
    return isinstance(constraint, _Dependent)


class MixtureSameFamilyConstraint(Constraint):
    """``base_constraint``, the components', for values that have no axis of components."""

    def __init__(self, base_constraint: Constraint) -> None:
        if not isinstance(base_constraint, Constraint):
            raise ValueError(f"base_constraint={base_constraint} must be a Constraint")
        self.base_constraint = base_constraint

    is_discrete = property(lambda self: self.base_constraint.is_discrete)
    event_dim = property(lambda self: self.base_constraint.event_dim)

    def _test(self, x: Any) -> Any:
        axis = -1 - self.event_dim
        inner = self.base_constraint._test(np.expand_dims(x, axis))
        kept = inner.ndim - x.ndim + self.event_dim
        return as_array(inner.all(axis=tuple(range(-kept, 0)))) if kept else inner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_constraint!r})"


greater_than = _GreaterThan
greater_than_eq = _GreaterThanEq
less_than = _LessThan
interval = _Interval
half_open_interval = _HalfOpenInterval
integer_interval = _IntegerInterval
multinomial = _Multinomial
independent = _IndependentConstraint
cat = _Cat
stack = _Stack
dependent = _Dependent()
dependent_property = _DependentProperty
real = _Real()
real_vector = independent(real, 1)
positive = _GreaterThan(0.0)
nonnegative = _GreaterThanEq(0.0)
unit_interval = _Interval(0.0, 1.0)
boolean = _Boolean()
nonnegative_integer = _IntegerGreaterThan(0)
positive_integer = _IntegerGreaterThan(1)
simplex = _Simplex()
one_hot = _OneHot()
lower_triangular = _LowerTriangular()
lower_cholesky = _LowerCholesky()
corr_cholesky = _CorrCholesky()
square = _Square()
symmetric = _Symmetric()
positive_definite = _PositiveDefinite()
positive_semidefinite = _PositiveSemidefinite()


def over_last(base: Constraint, ndims: int) -> Constraint:
    """``independent(base, ndims)``, or ``base`` itself for none."""
    return independent(base, ndims) if ndims else base

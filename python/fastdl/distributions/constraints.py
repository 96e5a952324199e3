"""What parameters and values must satisfy; see ``torch.distributions.constraints``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.devices import to_host
from fastdl.kernels import array as as_array
from fastdl.tensor import Tensor

__all__ = [
    "Constraint",
    "boolean",
    "greater_than",
    "greater_than_eq",
    "half_open_interval",
    "independent",
    "integer_interval",
    "interval",
    "less_than",
    "lower_cholesky",
    "lower_triangular",
    "nonnegative",
    "nonnegative_integer",
    "one_hot",
    "positive",
    "positive_definite",
    "real",
    "real_vector",
    "simplex",
    "unit_interval",
]


class Constraint:
    """A test of a tensor's elements, or of its last ``event_dim`` axes together.

    Args:
        name: shown in messages.
        test: array -> array of bools.
        event_dim: how many axes one value has.
    """

    is_discrete = False

    def __init__(self, name: str, test: Callable[[np.ndarray], np.ndarray], event_dim: int = 0) -> None:
        self.name = name
        self.event_dim = event_dim
        self._test = test

    def check(self, value: Tensor) -> Tensor:
        """True where the value satisfies the constraint."""
        return Tensor._wrap(as_array(self._test(value._data)))

    def __repr__(self) -> str:
        return self.name


def _symmetric_positive(a: np.ndarray) -> np.ndarray:
    a = to_host(a)
    symmetric = np.isclose(a, np.swapaxes(a, -1, -2), atol=1e-6).all(axis=(-2, -1))
    lowest = np.linalg.eigvalsh(np.where(np.isfinite(a), a, 0)).min(axis=-1, initial=np.inf)
    return np.asarray(symmetric & (lowest > 0))


def _is_lower(a: Any) -> Any:
    return as_array((np.tril(a) == a).all(axis=(-2, -1)))


def _sums_to_one(a: Any) -> Any:
    return as_array((a >= 0).all(axis=-1) & (np.abs(a.sum(axis=-1) - 1) < 1e-6))


real = Constraint("Real()", lambda x: x == x)
real_vector = Constraint("IndependentConstraint(Real(), 1)", lambda x: (x == x).all(axis=-1), 1)
positive = Constraint("GreaterThan(lower_bound=0.0)", lambda x: x > 0)
nonnegative = Constraint("GreaterThanEq(lower_bound=0.0)", lambda x: x >= 0)
unit_interval = Constraint("Interval(lower_bound=0.0, upper_bound=1.0)", lambda x: (x >= 0) & (x <= 1))
boolean = Constraint("Boolean()", lambda x: (x == 0) | (x == 1))
nonnegative_integer = Constraint("IntegerGreaterThan(lower_bound=0)", lambda x: (x % 1 == 0) & (x >= 0))
simplex = Constraint("Simplex()", _sums_to_one, 1)
one_hot = Constraint("OneHot()", lambda x: ((x == 0) | (x == 1)).all(axis=-1) & (x.sum(axis=-1) == 1), 1)
lower_triangular = Constraint("LowerTriangular()", lambda x: _is_lower(x), 2)
lower_cholesky = Constraint(
    "LowerCholesky()", lambda x: _is_lower(x) & (x.diagonal(0, -2, -1) > 0).all(axis=-1), 2
)
positive_definite = Constraint("PositiveDefinite()", _symmetric_positive, 2)


def integer_interval(low: int, high: np.ndarray | int) -> Constraint:
    """Integers from ``low`` to ``high``, both included."""
    return Constraint(
        f"IntegerInterval(lower_bound={low}, upper_bound={high})",
        lambda x: (x % 1 == 0) & (x >= low) & (x <= high),
    )


def interval(lower_bound: float, upper_bound: float) -> Constraint:
    """Numbers from ``lower_bound`` to ``upper_bound``, both included."""
    return Constraint(
        f"Interval(lower_bound={lower_bound}, upper_bound={upper_bound})",
        lambda x: (x >= lower_bound) & (x <= upper_bound),
    )


def half_open_interval(lower_bound: float, upper_bound: float) -> Constraint:
    """Numbers from ``lower_bound`` up to ``upper_bound``, which is left out."""
    return Constraint(
        f"HalfOpenInterval(lower_bound={lower_bound}, upper_bound={upper_bound})",
        lambda x: (x >= lower_bound) & (x < upper_bound),
    )


def greater_than(lower_bound: float) -> Constraint:
    """Numbers above ``lower_bound``."""
    return Constraint(f"GreaterThan(lower_bound={lower_bound})", lambda x: x > lower_bound)


def less_than(upper_bound: float) -> Constraint:
    """Numbers below ``upper_bound``."""
    return Constraint(f"LessThan(upper_bound={upper_bound})", lambda x: x < upper_bound)


def greater_than_eq(low: np.ndarray | float) -> Constraint:
    """Numbers from ``low`` upwards."""
    return Constraint(f"GreaterThanEq(lower_bound={low})", lambda x: x >= low)


def independent(base: Constraint, ndims: int) -> Constraint:
    """``base`` for all elements of the last ``ndims`` axes."""
    if ndims == 0:
        return base

    def test(x: Any) -> Any:
        inner = base._test(x)
        return as_array(inner.all(axis=tuple(range(-ndims, 0))))

    return Constraint(f"IndependentConstraint({base}, {ndims})", test, base.event_dim + ndims)

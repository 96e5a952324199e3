"""The von Mises distribution of angles."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl.devices import to_host
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.kernels import array as as_array
from fastdl.ops.bessel import i0e, i1e
from fastdl.ops.sampling import draw_key
from fastdl.ops.unary import cos, log
from fastdl.tensor import Tensor

__all__ = ["VonMises"]


class VonMises(Distribution):
    """log p(x) = k cos(x - loc) - log(2 pi I0(k)) with k = ``concentration``, angles in radians.

    Mean and variance are the circular ones, and the variance is 1 - I1(k) / I0(k). See
    ``torch.distributions.VonMises``.

    Example:
        >>> import fastdl
        >>> round(VonMises(0.0, 2.0).variance.item(), 4)
        0.3022
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "concentration": constraints.positive,
    }
    _fields = ("loc", "concentration")

    def __init__(self, loc: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        k = self.concentration
        return 1 - i1e(k) / i0e(k)  # scaled by exp(-k), both of them

    def sample(self, sample_shape: Any = ()) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=np.array(draw_key(None), np.uint64)))
        loc, k = self.loc._data, self.concentration._data
        # Around 0, in float64: rejection in float32 hardly ends for tiny concentrations.
        turns = rng.vonmises(0.0, to_host(k).astype(np.float64), self._extended_shape(sample_shape))
        angle = turns + to_host(loc).astype(np.float64)
        angle = (angle + math.pi) % (2 * math.pi) - math.pi
        return Tensor._wrap(as_array(angle, loc, loc.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        k = self.concentration
        return k * (cos(value - self.loc) - 1) - log(i0e(k)) - math.log(2 * math.pi)

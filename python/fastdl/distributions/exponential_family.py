"""``ExponentialFamily``: a base for distributions of one's own that are given by their natural parameters."""

from __future__ import annotations

from typing import Any

from fastdl.autograd import enable_grad, grad
from fastdl.distributions.distribution import Distribution
from fastdl.tensor import Tensor

__all__ = ["ExponentialFamily"]


class ExponentialFamily(Distribution):
    """Densities of the form p(x) = exp(<t(x), theta> - F(theta) + k(x)). See ``torch.distributions.ExponentialFamily``.

    A subclass defines ``_natural_params`` (a tuple of tensors, theta), ``_log_normalizer(*params)`` (F) and
    ``_mean_carrier_measure`` (the mean of k(x), a number), and has :meth:`entropy` by them. fastdl's own distributions
    have formulas of their own, and are no subclasses.
    """

    _mean_carrier_measure: Any = 0

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        raise NotImplementedError(f"{type(self).__name__} has no _natural_params")

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no _log_normalizer")

    def entropy(self) -> Tensor:
        """-E[k(x)] + F(theta) - <theta, dF/dtheta>, the derivative by autograd."""
        with enable_grad():
            params = [param.detach().requires_grad_() for param in self._natural_params]
            normalizer = self._log_normalizer(*params)
            gradients = grad(normalizer.sum(), params, create_graph=True)
        result: Tensor = normalizer - self._mean_carrier_measure
        for param, gradient in zip(params, gradients, strict=True):
            result = result - (param * gradient).reshape(*self._batch_shape, -1).sum(-1)
        return result

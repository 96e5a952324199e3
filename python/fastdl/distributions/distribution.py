"""``Distribution``: the base of all distributions. See ``torch.distributions.Distribution``."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from fastdl.autograd.mode import no_grad
from fastdl.distributions.constraints import Constraint, is_dependent
from fastdl.dtypes import Size, get_default_dtype
from fastdl.kernels import array as as_array
from fastdl.ops.unary import exp, sqrt
from fastdl.ops.views import broadcast_tensors
from fastdl.tensor import Tensor

__all__ = ["Distribution"]


class Distribution:
    """A distribution, or a batch of them: values have the shape ``sample_shape + batch_shape + event_shape``.

    Args:
        batch_shape: shape of the parameters' batch.
        event_shape: shape of one value; empty for scalar distributions.
        validate_args: whether parameters and values are checked (default: as set by
            :meth:`set_default_validate_args`, True).
    """

    has_rsample = False
    has_enumerate_support = False
    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    _validate_args = True
    _fields: tuple[str, ...] = ()

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether distributions made from now on check their arguments."""
        if value not in (True, False):
            raise ValueError(f"set_default_validate_args: expects a bool, got {value!r}")
        Distribution._validate_args = value

    def __init__(
        self, batch_shape: Any = (), event_shape: Any = (), validate_args: bool | None = None
    ) -> None:
        super().__init__()  # a class may be a module, too
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            for name, constraint in self.arg_constraints.items():
                value = self.__dict__.get(name)
                if isinstance(value, Tensor) and not is_dependent(constraint):
                    self._require(constraint, value, f"parameter {name}")

    def _require(self, constraint: Constraint, value: Tensor, what: str) -> None:
        if not constraint._test(value._data).all():
            raise ValueError(
                f"Expected {what} (Tensor of shape {tuple(value.shape)}) of distribution {self!r} to satisfy the "
                f"constraint {constraint!r}, but found invalid values:\n{value.detach()!r}"
            )

    def _validate_sample(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        if not self._validate_args:
            return
        events = len(self._event_shape)
        if events and tuple(value.shape[-events:]) != tuple(self._event_shape):
            raise ValueError(
                "The right-most size of value must match event_shape: "
                f"{tuple(value.shape)} vs {tuple(self._event_shape)}."
            )
        expected = (*self._batch_shape, *self._event_shape)
        for given, own in zip(reversed(value.shape), reversed(expected), strict=False):
            if given != 1 and own != 1 and given != own:
                raise ValueError(
                    f"Value is not broadcastable with batch_shape+event_shape: {tuple(value.shape)} vs {expected}."
                )
        support = self.support
        if support is not None:
            self._require(support, value, "value argument")

    @property
    def batch_shape(self) -> Any:
        """The shape of the batch of distributions."""
        return self._batch_shape

    @property
    def event_shape(self) -> Any:
        """The shape of one value."""
        return self._event_shape

    @property
    def support(self) -> Constraint | None:
        """What values satisfy; None: anything."""
        return None

    @property
    def mean(self) -> Tensor:
        """The expected value."""
        raise NotImplementedError(f"{type(self).__name__} has no mean")

    @property
    def mode(self) -> Tensor:
        """The most probable value."""
        raise NotImplementedError(f"{type(self).__name__} has no mode")

    @property
    def variance(self) -> Tensor:
        """The expected squared distance from the mean."""
        raise NotImplementedError(f"{type(self).__name__} has no variance")

    @property
    def stddev(self) -> Tensor:
        """The root of the variance."""
        return sqrt(self.variance)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Values of shape ``sample_shape + batch_shape + event_shape``, without gradient."""
        with no_grad():
            return self.rsample(sample_shape)

    def sample_n(self, n: int) -> Tensor:
        """``sample((n,))``: deprecated in PyTorch."""
        return self.sample((n,))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Values with a gradient to the parameters, where the distribution can be reparameterised."""
        raise NotImplementedError(f"{type(self).__name__} cannot be reparameterised; use sample()")

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density (or probability) at ``value``."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob")

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a value up to ``value``."""
        raise NotImplementedError(f"{type(self).__name__} has no cdf")

    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of :meth:`cdf`."""
        raise NotImplementedError(f"{type(self).__name__} has no icdf")

    def entropy(self) -> Tensor:
        """The expected value of -log_prob."""
        raise NotImplementedError(f"{type(self).__name__} has no entropy")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, along a new first axis."""
        raise NotImplementedError(f"{type(self).__name__} cannot be enumerated")

    def perplexity(self) -> Tensor:
        """exp of the entropy."""
        return exp(self.entropy())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution with its parameters expanded to ``batch_shape``."""
        shape = tuple(batch_shape)
        old = len(self._batch_shape)
        new: Self = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__)
        for name in self._fields:
            value = self.__dict__.get(name)
            if isinstance(value, Tensor):
                setattr(new, name, value.expand((*shape, *value.shape[old:])))
        new._batch_shape = Size(shape)
        return new

    def _get_checked_instance(self, cls: type, _instance: Any = None) -> Any:
        """An object to expand into: the one given, or a new one whose attributes are not set yet."""
        if _instance is None and type(self).__init__ is not cls.__init__:  # type: ignore[misc]
            raise NotImplementedError(
                f"{type(self).__name__} has an __init__ of its own beside {cls.__name__}'s, and must have an expand()"
            )
        return object.__new__(type(self)) if _instance is None else _instance

    def _extended_shape(self, sample_shape: Any = ()) -> tuple[int, ...]:
        return (*sample_shape, *self._batch_shape, *self._event_shape)

    def _printed(self) -> dict[str, Any]:
        """What a program prints of the parameters: those that were given."""
        return {name: self.__dict__.get(name) for name in self._fields or self.arg_constraints}

    def __repr__(self) -> str:
        shown = [(n, v) for n, v in self._printed().items() if isinstance(v, Tensor)]
        parts = [f"{n}: {v if v.numel() == 1 else v.shape}" for n, v in shown]
        return f"{type(self).__name__}({', '.join(parts)})"


def broadcast_all(*values: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape; numbers take the tensors' dtype."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    dtype = tensors[0].dtype if tensors else get_default_dtype()
    if dtype.kind != "f":
        dtype = get_default_dtype()
    for value in values:
        if not isinstance(value, (Tensor, int, float, np.number)):
            raise ValueError(f"parameters must be numbers or tensors, got {type(value).__name__}")
    like = tensors[0]._data if tensors else None
    made = [v if isinstance(v, Tensor) else Tensor._wrap(as_array(v, like, dtype)) for v in values]
    shape = made[0]._data.shape
    if all([t._data.shape == shape for t in made]):
        return made
    return list(broadcast_tensors(*made))

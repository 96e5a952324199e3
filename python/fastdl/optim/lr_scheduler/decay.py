"""Schedules that go one way: by a function, in steps, linearly, exponentially, polynomially."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from fastdl.optim.lr_scheduler.base import LRScheduler, check_optimizer, per_group
from fastdl.optim.optimizer import Optimizer

__all__ = [
    "ConstantLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "PolynomialLR",
    "StepLR",
]


class _Lambdas(LRScheduler):
    """Schedules of functions: those that are plain functions are not saved, other callables by their attributes."""

    _unsaved = ("optimizer", "lr_lambdas")

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.lr_lambdas: list[Callable[[int], float]] = per_group("lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        saved = [dict(vars(f)) if hasattr(f, "__dict__") and vars(f) else None for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        for function, saved in zip(self.lr_lambdas, state.pop("lr_lambdas"), strict=True):
            if saved:
                vars(function).update(saved)
        super().load_state_dict(state)


class LambdaLR(_Lambdas):
    """The initial rate times ``lr_lambda(epoch)``: one function, or a list with one per group.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        1 0.9 0.81 0.73 0.66
    """

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class MultiplicativeLR(_Lambdas):
    """The rate before times ``lr_lambda(epoch)``: one function, or a list with one per group.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.9)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        1 0.9 0.81 0.73 0.66
    """

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return self._rates()
        return [rate * f(self.last_epoch) for rate, f in zip(self._rates(), self.lr_lambdas, strict=True)]


class StepLR(LRScheduler):
    """Times ``gamma`` every ``step_size`` epochs.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.StepLR(optimizer, step_size=2)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        1 1 0.1 0.1 0.01
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._rates()
        return [rate * self.gamma for rate in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """Times ``gamma`` at each of the epochs ``milestones``.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3])
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        1 0.1 0.1 0.01 0.01
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch not in self.milestones:
            return self._rates()
        return [rate * self.gamma ** self.milestones[self.last_epoch] for rate in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        passed = sum(count for epoch, count in self.milestones.items() if epoch <= self.last_epoch)
        return [base * self.gamma**passed for base in self.base_lrs]


class ConstantLR(LRScheduler):
    """Times ``factor`` until epoch ``total_iters``.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        0.5 0.5 1 1 1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [rate * self.factor for rate in self._rates()]
        if self.last_epoch != self.total_iters:
            return self._rates()
        return [rate * (1.0 / self.factor) for rate in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        factor = self.factor if self.last_epoch < self.total_iters else 1.0
        return [base * factor for base in self.base_lrs]


class LinearLR(LRScheduler):
    """Times a factor that goes from ``start_factor`` to ``end_factor`` in equal steps over ``total_iters`` epochs.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        0.25 0.5 0.75 1 1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or equal to 1."
            )
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [rate * self.start_factor for rate in self._rates()]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._rates()
        rise = self.end_factor - self.start_factor
        factor = 1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise)
        return [rate * factor for rate in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        rise = self.end_factor - self.start_factor
        passed = min(self.total_iters, self.last_epoch)
        return [base * (self.start_factor + rise * passed / self.total_iters) for base in self.base_lrs]


class ExponentialLR(LRScheduler):
    """Times ``gamma`` every epoch.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        1 0.5 0.25 0.12 0.062
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return self._rates()
        return [rate * self.gamma for rate in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


class PolynomialLR(LRScheduler):
    """Times (1 - epoch / total_iters) ** power, until zero at epoch ``total_iters``.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> schedule = optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=2)
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        1 0.56 0.25 0.062 0
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._rates()
        now, before = (1.0 - epoch / self.total_iters for epoch in (self.last_epoch, self.last_epoch - 1))
        return [rate * (now / before) ** self.power for rate in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        left = 1.0 - min(self.total_iters, self.last_epoch) / self.total_iters
        return [base * left**self.power for base in self.base_lrs]

"""Schedules made of others: one after the other, or all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from fastdl.optim.lr_scheduler.base import LRScheduler, set_rate
from fastdl.optim.lr_scheduler.plateau import ReduceLROnPlateau
from fastdl.optim.optimizer import Optimizer

__all__ = ["ChainedScheduler", "SequentialLR"]


class _Several(LRScheduler):
    """Schedules made of others."""

    _unsaved = ("optimizer", "_schedulers")
    _schedulers: list[LRScheduler]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        for scheduler, saved in zip(self._schedulers, state.pop("_schedulers"), strict=True):
            scheduler.load_state_dict(saved)
        super().load_state_dict(state)

    def _check(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> Optimizer:
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name} expects at least one scheduler, but got no scheduler.")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"{name} at index {i} should be a scheduler, got {type(scheduler).__name__}")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau`, which needs a metric at each step, but got one at "
                    f"index {i}"
                )
            optimizer = optimizer or scheduler.optimizer
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer; that of index {i} is another"
                )
        assert optimizer is not None
        return optimizer


class SequentialLR(_Several):
    """One schedule after the other: the next takes over at each of the epochs ``milestones``.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> warm = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> fall = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> schedule = optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[2])
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        0.5 0.75 1 0.5 0.25
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = self._check(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        self._schedulers = schedulers
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        # Each schedule has made its first step when it was created. Undo that, and let the one that is due start.
        for group in optimizer.param_groups:
            set_rate(group, group["initial_lr"])
        self._rewind(self)
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    @staticmethod
    def _rewind(scheduler: LRScheduler) -> None:
        if isinstance(scheduler, _Several):
            for s in scheduler._schedulers:
                SequentialLR._rewind(s)
        else:
            scheduler.last_epoch -= 1

    def step(self, epoch: int | None = None) -> None:
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler._update(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Several):
    """Several schedules at once: each changes the rate that the ones before it have set.

    Example:
        >>> from fastdl import optim, zeros
        >>> optimizer = optim.SGD([zeros(1)], lr=1.0)
        >>> warm = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> fall = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> schedule = optim.lr_scheduler.ChainedScheduler([warm, fall])
        >>> for _ in range(5):
        ...     print(f"{schedule.get_last_lr()[0]:.2g}", end=" ")
        ...     optimizer.step()
        ...     schedule.step()
        0.5 0.38 0.25 0.12 0.062
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self.optimizer = self._check(schedulers, optimizer)
        self._schedulers = list(schedulers)
        self._last_lr = self._rates()

    def step(self, epoch: int | None = None) -> None:
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._rates()

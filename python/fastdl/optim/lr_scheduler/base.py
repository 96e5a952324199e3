"""What every schedule does: sets the rates of an optimizer's groups, saves and loads its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.errors import warn_caller
from fastdl.optim.optimizer import Optimizer
from fastdl.tensor import Tensor

__all__ = ["LRScheduler"]


def check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each parameter group."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups: {len(value)} != {groups}"
        )
    return list(value)


def set_rate(group: dict[str, Any], rate: Any) -> None:
    """Set a group's rate; a tensor stays the same tensor, whose value a recorded step reads."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(float(rate))
    else:
        group["lr"] = rate


class LRScheduler:
    """Base class: sets the rate of every group to what ``get_lr`` computes from ``last_epoch``.

    ``last_epoch=-1`` starts anew: the groups' present rates become their ``initial_lr``. Another value continues from
    there, with the ``initial_lr`` that the groups then have to have.
    """

    _get_lr_called_within_step = False  # schedulers written for PyTorch look at it in their get_lr
    _unsaved: tuple[str, ...] = ("optimizer",)  # attributes that state_dict leaves out

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with "
                    "last_epoch >= 0; load the optimizer's state first"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """The rates that the last step set, one per group."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """The rates for ``last_epoch``, given those of the epoch before."""
        raise NotImplementedError

    def _get_closed_form_lr(self) -> list[float]:
        """The rates for ``last_epoch``, whatever came before."""
        return self.get_lr()

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch (or to ``epoch``) and set its rates."""
        ours = type(self.optimizer).step is Optimizer.step
        if self._step_count == 1 and ours and not self.optimizer._stepped:
            warn_caller(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: call them in the opposite order, or "
                "the first value of the schedule is skipped"
            )
        self._step_count += 1
        self._update(epoch)

    def _update(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._set_rates(self.get_lr if epoch is None else self._get_closed_form_lr)

    def _set_rates(self, compute: Callable[[], list[float]]) -> None:
        self._get_lr_called_within_step = True
        try:
            rates = compute()
        finally:
            self._get_lr_called_within_step = False
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)
        self._last_lr = self._rates()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions, for :meth:`load_state_dict` (and ``fastdl.save``)."""
        return {k: v for k, v in self.__dict__.items() if k not in self._unsaved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned. Load the optimizer's state as well."""
        self.__dict__.update(state_dict)

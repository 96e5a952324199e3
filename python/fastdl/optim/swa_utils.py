"""Averages of a model's parameters over training; see ``torch.optim.swa_utils``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np

from fastdl.arrays import assign
from fastdl.autograd.mode import no_grad
from fastdl.devices import to_device
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.kernels import on_device, select
from fastdl.nn.modules.module import Module
from fastdl.optim.lr_scheduler.base import LRScheduler, per_group
from fastdl.optim.optimizer import Optimizer
from fastdl.tensor import Tensor

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


class SWALR(LRScheduler):
    """From the present rates to ``swa_lr`` in ``anneal_epochs`` steps, by a cosine or a line, then constant.

    See ``torch.optim.swa_utils.SWALR``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must by one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for group, rate in zip(optimizer.param_groups, per_group("swa_lr", optimizer, swa_lr), strict=True):
            group["swa_lr"] = rate
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy = anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of the way is done after ``step`` steps."""
        t = min(max(step / max(self.anneal_epochs, 1), 0.0), 1.0) if self.anneal_epochs else 1.0
        return (1 - math.cos(math.pi * t)) / 2 if self.anneal_strategy == "cos" else t

    def get_lr(self) -> list[float]:
        """The rates for ``last_epoch``, given those of the epoch before."""
        step = self._step_count - 1
        before, now = self._share(max(step - 1, 0)), self._share(max(step, 0))
        rates = []
        for group in self.optimizer.param_groups:
            goal, rate = group["swa_lr"], float(group["lr"])
            if self.anneal_epochs == 0 or before == 1:
                rates.append(goal)
            elif step <= 0:
                rates.append(rate)
            else:  # rate = start + (goal - start) * before
                start = (rate - goal * before) / (1 - before)
                rates.append(start + (goal - start) * now)
        return rates


Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[list[Tensor], list[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _move_towards(
    averages: list[Tensor], currents: list[Tensor], weight: float, of_counters: Callable[[Any, Any], Any]
) -> None:
    """average += weight * (current - average), in place; ``of_counters`` says that in PyTorch's order for integers."""
    together: dict[Any, tuple[list[Any], list[Any]]] = {}  # arrays on a GPU: some launches for all of them
    for average, current in zip(averages, currents, strict=True):
        if (
            on_device(average._data)
            and average._data.dtype == current._data.dtype
            and average.is_floating_point()
        ):
            lists = together.setdefault(average.device, ([], []))
            lists[0].append(average._data)
            lists[1].append(to_device(current._data, average.device))
        elif average._data.dtype.kind in DIFFERENTIABLE:
            average._data += average._data.dtype.type(weight) * (current._data - average._data)
        else:  # counters: computed in float32 and truncated
            now = to_device(current._data, average.device).astype(np.float32)
            assign(average._data, of_counters(average._data.astype(np.float32), now))
        average._bump_version()
    for moved, towards in together.values():  # a step of gradient descent on (average - current)^2 / 2
        options = weight, 0.0, 0.0, 1.0, False, True, False
        select(moved[0]).sgd_step(moved, towards, None, *options)


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """The exponential moving average, for many tensors in place: decay * average + (1 - decay) * current."""
    _check_decay(decay)

    def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Any) -> None:
        _move_towards(
            averages, currents, 1 - decay, lambda x, y: x * np.float32(decay) + y * np.float32(1 - decay)
        )

    return update


def get_swa_multi_avg_fn() -> MultiAverage:
    """The plain mean over all updates, for many tensors in place."""

    def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Any) -> None:
        count = int(num_averaged) + 1
        _move_towards(averages, currents, 1 / count, lambda x, y: x + (y - x) / np.float32(count))

    return update


def _scaled(a: Tensor, weight_a: float, b: Tensor, weight_b: float) -> Tensor:
    """weight_a * a + weight_b * b."""
    return a.detach().mul(weight_a).add(b.detach(), alpha=weight_b)


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The exponential moving average: decay * average + (1 - decay) * current."""
    _check_decay(decay)

    def update(average: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        return _scaled(average, decay, current, 1 - decay)

    return update


def get_swa_avg_fn() -> Average:
    """The plain mean over all updates."""

    def update(average: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        share = 1 / (int(num_averaged) + 1)
        return _scaled(average, 1 - share, current, share)

    return update


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of the model's: ``update_parameters(model)`` after each step.

    Args:
        model: what to average; it is copied.
        device: None or ``"cpu"``.
        avg_fn: ``(average, current, num_averaged) -> new average`` for one tensor (default: the plain mean).
        multi_avg_fn: ``(averages, currents, num_averaged)`` that updates lists of tensors in place, instead.
        use_buffers: average the buffers as well (default False: they are copied).

    Example:
        >>> from fastdl import nn
        >>> from fastdl.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
        >>> net = nn.Linear(2, 1)
        >>> ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        >>> ema.update_parameters(net)
    """

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model).to(device)
        self.register_buffer("n_averaged", Tensor._wrap(np.zeros((), np.int64)))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    n_averaged: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the model's present parameters into the average; the first time they are copied."""
        averages: list[Tensor] = list(self.module.parameters())
        currents: list[Tensor] = list(model.parameters())
        own_buffers, buffers = list(self.module.buffers()), list(model.buffers())
        if self.use_buffers:
            averages, currents = averages + own_buffers, currents + buffers
        count = int(self.n_averaged._data)
        with no_grad():
            if count == 0:
                _copy_all(averages, currents)
            elif self.avg_fn is not None:
                _copy_all(
                    averages,
                    [self.avg_fn(a, c, count) for a, c in zip(averages, currents, strict=True)],
                )
            else:
                (self.multi_avg_fn or get_swa_multi_avg_fn())(averages, currents, count)
        if not self.use_buffers:
            _copy_all(own_buffers, buffers)
        self.n_averaged._data += 1


def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target._data[...] = to_device(source._data, target.device)
        target._bump_version()


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all batch norms anew, from one pass over the data.

    Args:
        loader: batches of inputs, or lists and tuples whose first element is one.
        model: an averaged model: its statistics are those of other parameters until this is done.
        device: None or ``"cpu"``.
    """
    norms: list[Any] = [
        m for m in model.modules() if "running_mean" in m._buffer_names and hasattr(m, "momentum")
    ]
    norms = [m for m in norms if m.running_mean is not None]
    if not norms:
        return
    training = model.training
    momenta = [m.momentum for m in norms]
    model.train()
    for m in norms:
        m.running_mean._data.fill(0)
        m.running_var._data.fill(1)
        if m.num_batches_tracked is not None:
            m.num_batches_tracked._data.fill(0)
        m.momentum = None  # the mean over all batches
    with no_grad():
        for batch in loader:
            model(batch[0] if isinstance(batch, (list, tuple)) else batch)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    model.train(training)

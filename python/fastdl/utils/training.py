"""A training loop that one can read: epochs, progress, evaluation, history."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastdl
from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["History", "confusion_matrix", "evaluate", "fit", "predict"]


@dataclass
class History:
    """What :func:`fit` saw: the loss of every step, and of every epoch the validation loss and accuracy."""

    step_losses: list[float] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


def progress_bar(iterable: Iterable[Any], total: int, description: str) -> Any:
    """tqdm's bar if tqdm is installed, otherwise a line at the end, from an object with the same two methods."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _Line(iterable, description)
    width = min(90, shutil.get_terminal_size((90, 24)).columns)
    return tqdm(iterable, total=total, desc=description, ncols=width)


class _Line:
    def __init__(self, iterable: Iterable[Any], description: str) -> None:
        self._iterable = iterable
        self._description = description

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def set_postfix_str(self, text: str) -> None:
        print(f"{self._description}: {text}", file=sys.stderr)


def fit(
    model: nn.Module,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    optimizer: Any,
    epochs: int,
    *,
    steps_per_epoch: int,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    scheduler: Any = None,
    validation: tuple[Tensor, Tensor] | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
) -> History:
    """Train ``model``; shows a progress bar for each epoch, or a line where tqdm is not installed.

    Args:
        batches: called once an epoch, yields (inputs, targets).
        steps_per_epoch: for the bar.
        loss: of (outputs, targets), default cross entropy.
        scheduler: stepped after every optimizer step.
        validation: (inputs, targets) to measure after each epoch.
        on_epoch: called after each epoch with its number (from 1) and the history.

    Raises:
        FloatingPointError: when the loss is no longer finite, naming epoch and step.
    """
    criterion = nn.functional.cross_entropy if loss is None else loss
    history = History()
    for epoch in range(1, epochs + 1):
        model.train()
        bar = progress_bar(batches(), steps_per_epoch, f"epoch {epoch}/{epochs}")
        losses: list[float] = []
        for inputs, targets in bar:
            optimizer.zero_grad()
            value = criterion(model(inputs), targets)
            value.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(float(value.item()))
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"fit: the loss became {losses[-1]} in epoch {epoch}, step {len(losses)}; a lower learning rate "
                    "or gradient clipping (fastdl.nn.utils.clip_grad_norm_) usually helps"
                )
            if len(losses) == steps_per_epoch:
                text = f"loss {np.mean(losses):.3f}"
                if validation is not None:
                    validation_loss, accuracy = evaluate(model, *validation, loss=criterion)
                    history.validation_losses.append(validation_loss)
                    history.accuracies.append(accuracy)
                    text += f", accuracy {accuracy:.2%}"
                bar.set_postfix_str(text)
        history.step_losses += losses
        history.epoch_losses.append(float(np.mean(losses)))
        if on_epoch is not None:
            on_epoch(epoch, history)
    return history


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 500) -> Tensor:
    """Outputs of ``model`` in evaluation mode, batch by batch, without a graph."""
    was_training = model.training
    model.eval()
    with fastdl.no_grad():
        outputs = [model(inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size)]
    model.train(was_training)
    return fastdl.cat(outputs)


def evaluate(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[float, float]:
    """Mean loss and accuracy of a classifier."""
    outputs = predict(model, inputs)
    criterion = nn.functional.cross_entropy if loss is None else loss
    with fastdl.no_grad():
        value = float(criterion(outputs, targets).item())
    return value, float(np.mean(outputs.cpu().numpy().argmax(1) == targets.cpu().numpy()))


def confusion_matrix(predicted: Any, actual: Any, classes: int) -> np.ndarray[Any, Any]:
    """Counts, int64 (classes, classes): row = actual class, column = predicted class.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 0, 1], 2)
        array([[1, 1],
               [0, 1]])
    """
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (np.asarray(actual), np.asarray(predicted)), 1)
    return matrix

"""A training loop that one can read: epochs, progress, evaluation, history."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import length_hint
from typing import Any

import numpy as np

import fastdl
from fastdl import nn
from fastdl.tensor import Tensor
from fastdl.utils.data import Dataset, IterableDataset

__all__ = ["History", "confusion_matrix", "evaluate", "fit", "predict"]


Batches = Iterable[Sequence[Tensor]]  # of (inputs, targets)


@dataclass
class History:
    """What :func:`fit` saw: the loss of every step, and of every epoch the validation loss and accuracy."""

    step_losses: list[float] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


def progress_bar(total: int | None, description: str) -> Any:
    """tqdm's bar on a terminal where it is installed, otherwise a line at the end, with the same methods."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _Line(description)
    if not sys.stderr.isatty():
        return _Line(description)
    width = min(90, shutil.get_terminal_size((90, 24)).columns)
    return tqdm(total=total, desc=description, ncols=width)


class _Line:
    def __init__(self, description: str) -> None:
        self._description = description

    def update(self) -> None: ...

    def close(self) -> None: ...

    def set_postfix_str(self, text: str) -> None:
        print(f"{self._description}: {text}", file=sys.stderr, flush=True)


def fit(
    model: nn.Module,
    batches: Batches | Callable[[], Batches],
    optimizer: Any,
    epochs: int,
    *,
    steps_per_epoch: int | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    scheduler: Any = None,
    validation: tuple[Tensor, Tensor] | Batches | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
) -> History:
    """Train ``model``; shows a bar for each epoch, or a line where there is no terminal or no tqdm.

    Args:
        batches: pairs (inputs, targets), iterated once an epoch: a DataLoader, a list; or a function that
            returns an epoch's.
        steps_per_epoch: for the bar; default the length of ``batches``, if they have one.
        loss: of (outputs, targets), default cross entropy.
        scheduler: stepped after every optimizer step.
        validation: (inputs, targets), or batches of them, to :func:`evaluate` after each epoch.
        on_epoch: called after each epoch with its number (from 1) and the history.

    Raises:
        TypeError: for an iterator, such as a generator, which would be spent after one epoch.
        ValueError: for an epoch without batches.
        FloatingPointError: when the loss is no longer finite, naming epoch and step.

    Example:
        >>> import fastdl
        >>> from fastdl.utils.data import DataLoader, TensorDataset
        >>> x = fastdl.randn(64, 4)
        >>> loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16, shuffle=True)
        >>> model = fastdl.nn.Linear(4, 2)
        >>> history = fit(model, loader, fastdl.optim.Adam(model.parameters()), epochs=3, validation=loader)
        >>> len(history.step_losses), len(history.accuracies)
        (12, 3)
    """
    if _is_pair(batches):
        raise TypeError(
            "fit: batches are all data at once, (inputs, targets); "
            "DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True) makes batches of them"
        )
    _refuse_samples("fit", batches)
    if epochs > 1:
        for name, given in (("batches", batches), ("validation", validation)):
            if isinstance(given, Iterator):
                raise TypeError(
                    f"fit: {name} is a {type(given).__name__}, spent after one epoch; give what can be iterated "
                    "again, such as a DataLoader or a list"
                    + ", or a function that returns it"
                    * (name == "batches")
                )
    criterion = nn.functional.cross_entropy if loss is None else loss
    history = History()
    for epoch in range(1, epochs + 1):
        model.train()
        given = batches() if callable(batches) else batches
        total = steps_per_epoch or length_hint(given) or None
        losses: list[float] = []
        with closing(progress_bar(total, f"epoch {epoch}/{epochs}")) as bar:
            for inputs, targets in given:
                optimizer.zero_grad()
                value = criterion(model(inputs), targets)
                value.backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                losses.append(float(value.item()))
                if not np.isfinite(losses[-1]):
                    raise FloatingPointError(
                        f"fit: the loss became {losses[-1]} in epoch {epoch}, step {len(losses)}; a lower learning "
                        "rate or gradient clipping (fastdl.nn.utils.clip_grad_norm_) usually helps"
                    )
                bar.update()
            if not losses:
                raise ValueError(f"fit: there are no batches in epoch {epoch}")
            text = f"loss {np.mean(losses):.3f}"
            if validation is not None:
                parts = validation if _is_pair(validation) else (validation,)
                validation_loss, accuracy = evaluate(model, *parts, loss=criterion)
                history.validation_losses.append(validation_loss)
                if np.isnan(accuracy):
                    text += f", validation {validation_loss:.3f}"
                else:
                    history.accuracies.append(accuracy)
                    text += f", accuracy {accuracy:.2%}"
            bar.set_postfix_str(text)
        history.step_losses += losses
        history.epoch_losses.append(float(np.mean(losses)))
        if on_epoch is not None:
            on_epoch(epoch, history)
    return history


def _is_pair(batches: Any) -> bool:
    """All data at once, (inputs, targets)?"""
    return isinstance(batches, tuple | list) and len(batches) == 2 and isinstance(batches[0], Tensor)


def _refuse_samples(op: str, batches: Any) -> None:
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise TypeError(
            f"{op}: a dataset has samples; DataLoader(dataset, batch_size=32) makes batches of them"
        )


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
    inputs: Tensor | Batches,
    targets: Tensor | None = None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[float, float]:
    """Mean loss and accuracy of a classifier on ``inputs`` and ``targets``, or on batches of both.

    A batch counts as many times as it has targets. Accuracy is NaN where targets are no class indices.

    Example:
        >>> import fastdl
        >>> x, y = fastdl.eye(3), fastdl.arange(3)
        >>> evaluate(fastdl.nn.Identity(), x, y) == evaluate(fastdl.nn.Identity(), [(x, y)])
        True
    """
    _refuse_samples("evaluate", inputs)
    criterion = nn.functional.cross_entropy if loss is None else loss
    sums, count = np.zeros(2), 0
    batches: Any = inputs if targets is None else [(inputs, targets)]
    for x, y in batches:
        outputs = predict(model, x)
        with fastdl.no_grad():
            value = float(criterion(outputs, y).item())
        right = np.nan
        if not y.is_floating_point():
            right = np.mean(outputs.cpu().numpy().argmax(1) == y.cpu().numpy())
        sums += len(y) * np.array([value, right])
        count += len(y)
    if not count:
        raise ValueError("evaluate: there are no batches")
    return float(sums[0] / count), float(sums[1] / count)


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

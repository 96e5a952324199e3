"""Pictures of training; needs matplotlib (``pip install fastdl[demo]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastdl.utils.training import History

__all__ = ["plot_confusion_matrix", "plot_history"]


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "fastdl: pictures need matplotlib; install it with: pip install 'fastdl[demo]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plot_history(history: History, path: str | Path) -> None:
    """Loss per step (thin) and per epoch, validation loss, and accuracy on the right axis; written to ``path``."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    steps = len(history.step_losses)
    epochs = len(history.epoch_losses)
    per_epoch = steps / max(epochs, 1)
    at = per_epoch * np.arange(1, epochs + 1)  # where epochs end; their means belong to their middles
    axes.plot(np.arange(1, steps + 1), history.step_losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    middles = at - (per_epoch - 1) / 2
    axes.plot(middles, history.epoch_losses, ".-", color="tab:blue", label="training loss (mean of epoch)")
    if history.validation_losses:
        axes.plot(at, history.validation_losses, ".-", color="tab:orange", label="validation loss")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(color="0.92")
    lines = list(axes.lines[1:])
    if history.accuracies:
        right = axes.twinx()
        lines += right.plot(
            at, 100 * np.array(history.accuracies), ".-", color="tab:green", label="validation accuracy"
        )
        right.set_ylabel("accuracy, %")
        right.set_ylim(top=100.5)
    figure.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_confusion_matrix(
    matrix: np.ndarray[Any, Any], path: str | Path, names: list[str] | None = None
) -> None:
    """A confusion matrix (row = actual, column = predicted) with its counts; mistakes are what stands out."""
    plt = _pyplot()
    classes = len(matrix)
    names = [str(i) for i in range(classes)] if names is None else names
    figure, axes = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    mistakes = matrix.astype(float).copy()
    np.fill_diagonal(mistakes, 0)
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(1.0, mistakes.max()) * 1.3)
    for i in range(classes):
        for j in range(classes):
            if matrix[i, j]:
                dark = mistakes[i, j] > 0.6 * mistakes.max()
                color = "tab:green" if i == j else "white" if dark else "black"
                axes.text(j, i, matrix[i, j], ha="center", va="center", color=color)
    axes.set_xticks(range(classes), names)
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set_title(f"{matrix.sum()} images, {accuracy:.2%} right", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)

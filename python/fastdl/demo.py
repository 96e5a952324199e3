"""``fastdl demo``: LeNet-5 learns handwritten digits while you watch."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastdl
from fastdl import datasets, nn
from fastdl.models import LeNet5
from fastdl.tensor import Tensor
from fastdl.utils.training import confusion_matrix, evaluate, fit, predict

Array = np.ndarray[Any, Any]

SIDE = 28
BATCH = 32


def digits(seed: int) -> tuple[Array, Array, Array, Array]:
    """The shipped digits, enlarged to 28x28: (training images, labels, held-out fifth, labels)."""
    images, labels = datasets.load_digits()
    small = fastdl.from_numpy(images[:, None])
    large = nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear").numpy()
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, training = order[: len(labels) // 5], order[len(labels) // 5 :]
    return large[training], labels[training], large[held_out], labels[held_out]


def mnist(directory: str) -> tuple[Array, Array, Array, Array]:
    """MNIST's own training and test parts.

    Raises:
        ValueError: if the images are not 28x28, or a label is not in 0..9.
    """
    parts: list[Array] = []
    for train in (True, False):
        images, labels = datasets.load_mnist(directory, train)
        if images.shape[1:] != (SIDE, SIDE) or len(images) == 0:
            raise ValueError(
                f"LeNet-5 expects images of {SIDE}x{SIDE}; those in {directory} have shape {images.shape}"
            )
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError(
                f"labels must be 0 to 9; those in {directory} go from {labels.min()} to {labels.max()}"
            )
        parts += [images[:, None], labels]
    training, training_labels, test, test_labels = parts
    return training, training_labels, test, test_labels


def writable(directory: str) -> Path:
    """The directory, made if it is not there. Asked before training: nobody wants to learn it afterwards."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
    return folder


def shifted_batches(
    images: Array, labels: Array, generator: np.random.Generator, reach: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order; each batch is moved by up to ``reach`` pixels, so that position means nothing."""
    order = generator.permutation(len(labels))
    side = images.shape[-1]
    edge = ((0, 0), (0, 0), (reach, reach), (reach, reach))
    paper = float(images.min())
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        down, right = generator.integers(0, 2 * reach + 1, 2)
        padded = np.pad(images[chosen], edge, constant_values=paper)
        batch = np.ascontiguousarray(padded[:, :, down : down + side, right : right + side])
        yield fastdl.from_numpy(batch), fastdl.from_numpy(labels[chosen])


def drawing(image: Array) -> list[str]:
    """An image of 28x28 in [0, 1] as 14 lines of text, two rows of pixels per line."""
    shades = " .:-=+*#%@"
    rows = image.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3)).clip(0, 1)
    return ["".join(shades[min(int(v * len(shades)), len(shades) - 1)] * 2 for v in row) for row in rows]


def show_predictions(images: Array, predicted: Array, actual: Array) -> None:
    """Up to four digits side by side, as many as the terminal is wide, with what the network says.

    A wrong one if there is one, then different classes.
    """
    columns = shutil.get_terminal_size((120, 24)).columns
    wrong = np.flatnonzero(predicted != actual)[:1]
    _, first = np.unique(np.where(predicted == actual, actual, -1), return_index=True)
    right = [i for i in np.sort(first) if predicted[i] == actual[i]]
    chosen = [*wrong, *right][: max(1, min(4, (columns + 2) // (SIDE + 2)))]
    pictures = [drawing(images[i, 0]) for i in chosen]
    for line in zip(*pictures, strict=True):
        print("  ".join(line).rstrip())
    captions = [f"says {predicted[i]}, is {actual[i]}" for i in chosen]
    print("  ".join(text.center(SIDE) for text in captions).rstrip())


def run(data: str | None, output: str, epochs: int | None, seed: int) -> float:
    """Train, report, save; returns the accuracy on the held-out images.

    Args:
        data: a directory with MNIST's IDX files, or None for the shipped digits.
        output: directory for the checkpoint and the pictures.
        epochs: passes over the data, default 20 (3 for MNIST's 60,000 images).

    Raises:
        OSError: if ``output`` cannot be written to, before the training starts.
    """
    start = time.perf_counter()
    fastdl.manual_seed(seed)
    generator = np.random.default_rng(seed)
    images, labels, test_images, test_labels = digits(seed) if data is None else mnist(data)
    folder = writable(output)
    if epochs is None:
        epochs = 20 if len(labels) < 10_000 else 3
    mean, deviation = float(images.mean()), float(images.std())
    pixels, images = test_images, (images - mean) / deviation
    test = fastdl.from_numpy((test_images - mean) / deviation), fastdl.from_numpy(test_labels)

    model = LeNet5()
    steps = -(-len(labels) // BATCH)
    optimizer = fastdl.optim.Adam(model.parameters())
    scheduler = fastdl.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * steps + 1)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"LeNet-5, {parameters:,} parameters; {len(labels)} images to learn from, {len(test_labels)} held out",
        flush=True,
    )
    history = fit(
        model,
        lambda: shifted_batches(images, labels, generator, reach=3),
        optimizer,
        epochs,
        steps_per_epoch=steps,
        scheduler=scheduler,
        validation=test,
    )
    _, accuracy = evaluate(model, *test)
    predicted = predict(model, test[0]).numpy().argmax(1)
    seconds = time.perf_counter() - start
    print(f"\naccuracy on the {len(test_labels)} held-out images: {accuracy:.2%} after {seconds:.1f} s\n")
    show_predictions(pixels, predicted, test_labels)

    fastdl.save(model.state_dict(), folder / "lenet5.safetensors")
    written = ["lenet5.safetensors"]
    try:
        from fastdl.utils.plots import plot_confusion_matrix, plot_history

        plot_history(history, folder / "loss.png")
        plot_confusion_matrix(confusion_matrix(predicted, test_labels, 10), folder / "confusion.png")
        written += ["loss.png", "confusion.png"]
    except ImportError as error:
        print(f"\n(no pictures: {error})")
    print(f"\nwritten to {folder}/: {', '.join(written)}")
    return accuracy

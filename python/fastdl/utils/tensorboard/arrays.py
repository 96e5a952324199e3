"""What came as a tensor, array, number or figure, in the form that a summary stores."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.tensor import Tensor


def as_array(op: str, name: str, value: Any) -> Any:
    """The values of a tensor, an array, a number or nested lists of numbers; half precision as float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind == "V":  # bfloat16
        return array.astype(np.float32)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{op}: {name} must be a Tensor, an array or numbers, got {type(value).__name__}")
    return array


def bytes_of_image(array: Any, dataformats: str, op: str) -> Any:
    """Pixels (height, width, channels) in uint8; several images lie in a grid of eight columns.

    Numbers of other types are brightness from 0 to 1. Grey images get three channels, as in PyTorch.
    """
    formats = dataformats.upper()
    if (
        len(formats) != array.ndim
        or len(set(formats)) != len(formats)
        or not set("HW") <= set(formats) <= set("NCHW")
    ):
        raise ArgumentError(
            f"{op}: dataformats must name each axis of the image once, of N, C, H and W, got {dataformats!r} for shape "
            f"{array.shape}"
        )
    array = array.transpose([formats.index(axis) for axis in "NHWC" if axis in formats])
    if "C" not in formats:
        array = array[..., None]
    if "N" in formats:
        array = grid(array)
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    if array.shape[-1] not in (3, 4):
        raise ArgumentError(f"{op}: an image must have 1, 3 or 4 channels, got {array.shape[-1]}")
    scale = 1 if array.dtype == np.uint8 else 255
    return (array.astype(np.float32) * scale).clip(0, 255).astype(np.uint8)


def grid(images: Any, columns: int = 8) -> Any:
    """Images (N, H, W, C) side by side, ``columns`` in a row."""
    count, height, width, channels = images.shape
    columns = max(1, min(count, columns))
    rows = ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), images.dtype)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width, channels)


def pixels_of_figure(figure: Any, close: bool) -> Any:
    """What a figure of matplotlib shows, (height, width, 3)."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())[..., :3]
    if close:
        plt.close(figure)
    return pixels

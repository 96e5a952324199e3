"""Small data to learn with: handwritten digits inside the package, and a reader for MNIST's file format.

The digits are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak
(UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0), the 1,797 images that
scikit-learn distributes too.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["load_digits", "load_idx", "load_mnist"]


def load_digits() -> tuple[Array, Array]:
    """The 1,797 handwritten digits shipped with fastdl.

    Returns:
        images: float32 (1797, 8, 8), 0 (paper) to 1 (ink); labels: int64 (1797,), 0 to 9.

    Example:
        >>> images, labels = load_digits()
        >>> images.shape, labels[:5].tolist()
        ((1797, 8, 8), [0, 1, 2, 3, 4])
    """
    with np.load(Path(__file__).parent / "digits.npz") as file:
        pixels, labels = file["images"], file["labels"].astype(np.int64)
    # They are stored pixel by pixel, those of the same digit together, which compresses to a fifth less.
    images = np.empty((len(labels), 8, 8), np.float32)
    images[np.argsort(labels, kind="stable")] = pixels.transpose(2, 0, 1)
    return images / 16, labels


_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_idx(path: str | Path) -> Array:
    """Read an array in the IDX format of MNIST, gzip-compressed or not.

    Args:
        path: a file such as ``train-images-idx3-ubyte`` or the same with ``.gz``; the content decides, not the name.

    Raises:
        ValueError: if the file is no IDX file, or shorter or longer than its header says.
    """
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError) as error:
            raise ValueError(f"load_idx: {path} is a damaged gzip file ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES:
        raise ValueError(
            f"load_idx: {path} is not an IDX file: it starts with {raw[:4].hex()!r}, expected 0000, a type and a rank"
        )
    rank = raw[3]
    start = 4 + 4 * rank
    if len(raw) < start:
        raise ValueError(f"load_idx: {path} ends within its header")
    shape = struct.unpack(f">{rank}I", raw[4:start])
    dtype = np.dtype(_IDX_TYPES[raw[2]])
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(raw) - start != size:
        raise ValueError(
            f"load_idx: {path} holds {len(raw) - start} bytes of data, its header (shape {shape}) asks for {size}"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def load_mnist(directory: str | Path, train: bool = True) -> tuple[Array, Array]:
    """MNIST or Fashion-MNIST from a directory with its four IDX files, compressed or not.

    Returns:
        images: float32 (N, 28, 28) in [0, 1]; labels: int64 (N,).

    Raises:
        FileNotFoundError: naming the file that is missing.
        ValueError: if images and labels do not fit together.
    """
    prefix = "train" if train else "t10k"
    images = load_idx(_find(directory, f"{prefix}-images-idx3-ubyte"))
    labels = load_idx(_find(directory, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"load_mnist: {directory}: images have shape {images.shape} and labels {labels.shape}, "
            "expected (N, rows, columns) and (N,)"
        )
    return images.astype(np.float32) / 255, labels.astype(np.int64)


def _find(directory: str | Path, stem: str) -> Path:
    # Some archives write "train-images.idx3-ubyte" instead of "train-images-idx3-ubyte".
    names = [stem, stem.replace("-idx", ".idx")]
    for name in [*names, *(name + ".gz" for name in names)]:
        path = Path(directory) / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"load_mnist: no {stem} or {stem}.gz in {directory}")

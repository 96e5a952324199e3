"""The shipped digits and the reader of MNIST's file format."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import pytest

from fastdl import datasets


def idx(array: np.ndarray, code: int) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_digits():
    images, labels = datasets.load_digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # In the order in which the data set has them.
    assert zlib.crc32((images * 16).astype(np.uint8).tobytes()) == 4087501628
    assert zlib.crc32(labels.astype(np.uint8).tobytes()) == 4168075561


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("dtype", "code"), [(np.uint8, 0x08), (np.int16, 0x0B), (np.float32, 0x0D), (np.float64, 0x0E)]
)
def test_idx_round_trip(tmp_path, dtype, code, compress):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    raw = idx(array, code)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(raw) if compress else raw)
    read = datasets.load_idx(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (b"PNG.....", "not an IDX file"),
        (b"\0\0\x08\x03\0\0", "ends within its header"),
        (idx(np.zeros((2, 3), np.uint8), 8)[:-1], "holds 5 bytes of data, its header .* asks for 6"),
        (idx(np.zeros((2, 3), np.uint8), 8) + b"x", "holds 7 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "asks for 79228162458924105385300197375"),
        (gzip.compress(idx(np.zeros(1000, np.uint8), 8), mtime=0)[:-9], "damaged gzip"),
    ],
)
def test_damaged_files(tmp_path, raw, message):
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        datasets.load_idx(path)


def write_mnist(folder, n=40, compress=True, labels=10):
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        targets = rng.integers(0, labels, n).astype(np.uint8)
        images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        for stem, array in (
            (f"{prefix}-images-idx3-ubyte", images),
            (f"{prefix}-labels-idx1-ubyte", targets),
        ):
            raw = idx(array, 8)
            if compress:
                (folder / (stem + ".gz")).write_bytes(gzip.compress(raw))
            else:
                (folder / stem).write_bytes(raw)


@pytest.mark.parametrize("compress", [False, True])
def test_mnist(tmp_path, compress):
    write_mnist(tmp_path, compress=compress)
    images, labels = datasets.load_mnist(tmp_path)
    assert images.shape == (40, 28, 28)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert 0.9 < images.max() <= 1


def test_missing_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz in"
    ):
        datasets.load_mnist(tmp_path, train=False)


def test_images_and_labels_must_fit(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(39, np.uint8), 8))
    with pytest.raises(ValueError, match="labels \\(39,\\)"):
        datasets.load_mnist(tmp_path)

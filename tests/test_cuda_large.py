"""Problems beyond 2^31 elements, or with more than 65535 of something: every launch keeps to the limits of a grid, or
the wrapper refuses the problem and says why. Kernels are left out, so nothing is computed and no memory is touched."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import emulation

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(),
    reason="needs the CUDA toolkit's headers, cmake and pybind11",
)

FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
HALF = np.float16


def array(shape: Any, dtype: Any = HALF) -> Any:
    """Zeros that take no memory until they are touched."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, buffer=mmap.mmap(-1, max(size, 1), flags=FLAGS))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from fastdl.kernels.cuda import device

    backend = emulation.backend()
    monkeypatch.setattr(type(device.default()), "empty", lambda self, shape, dtype: array(shape, dtype))
    emulation.extension().skip_kernels(True)
    yield backend
    emulation.extension().skip_kernels(False)


def layer(cell: str, batch: int, units: int) -> tuple[Any, ...]:
    gates = {"lstm": 4, "gru": 3}[cell]
    weights = [array(s) for s in ((gates * units, 8), (gates * units, units), gates * units, gates * units)]
    sizes = np.array([batch, batch - 1])
    return cell, array((2 * batch - 1, 8)), sizes, None, None, [*weights, None], None, False


MANY = 70000  # more than a grid's y and z axes can have
BEYOND = (1 << 31) + 6
IMAGE_OPTIONS = (1, 1), (1, 1), (1, 1)
CASES = {
    "add": lambda: ("add_forward", array(BEYOND), array(BEYOND)),
    "add row": lambda: ("add_forward", array((MANY, 33000)), array(33000)),
    "add transposed": lambda: ("add_forward", array((33000, MANY)).T, array((MANY, 33000))),
    "gelu": lambda: ("gelu_backward", array(BEYOND), array(BEYOND)),
    "softmax": lambda: ("softmax_forward", array((BEYOND // 2, 2)), 1),
    "softmax column": lambda: ("softmax_forward", array((MANY, 3, 11000)), 1),
    "softmax long": lambda: ("softmax_backward", array((2, BEYOND)), array((2, BEYOND)), 1),
    "cross entropy": lambda: (
        "cross_entropy_forward",
        array((MANY, 50257)),
        array(MANY, np.int64),
        None,
        1,
        -100,
        0.1,
        "mean",
    ),
    "sum": lambda: ("sum_forward", array((MANY, 33000)), (0,)),
    "sum rows": lambda: ("sum_forward", array((MANY, 33000)), (1,)),
    "running sum": lambda: ("running_sum", array((MANY, 33000)), 1),
    "layer norm": lambda: ("layer_norm_forward", array((MANY, 33000)), array(33000), None, 33000, 1e-5),
    "group norm": lambda: ("group_norm_forward", array((MANY, 4, 16000)), array(4), None, 2, 1e-5),
    "batch norm": lambda: ("batch_norm_forward", array((MANY, 4, 16000)), array(4), array(4), 1e-5),
    "batch norm columns": lambda: ("batch_norm_forward", array((MANY, 30000)), array(30000), None, 1e-5),
    "max pool": lambda: (
        "max_pool_forward",
        array((MANY, 1, 100, 100)),
        (3, 3),
        (2, 2),
        (1, 1),
        (1, 1),
        (50, 50),
        True,
    ),
    "max pool large": lambda: (
        "max_pool_forward",
        array((MANY, 1, 200, 200)),
        (3, 3),
        (2, 2),
        (1, 1),
        (1, 1),
        (100, 100),
        True,
    ),
    "adaptive pool": lambda: ("adaptive_avg_pool_forward", array((MANY, 3, 100, 100)), (1, 1)),
    "conv batch": lambda: (
        "conv_forward",
        array((MANY, 8, 9, 9)),
        array((32, 8, 3, 3)),
        None,
        *IMAGE_OPTIONS,
        1,
    ),
    "conv groups": lambda: (
        "conv_forward",
        array((1, MANY, 9, 9)),
        array((MANY, 1, 3, 3)),
        None,
        *IMAGE_OPTIONS,
        MANY,
    ),
    "conv wide groups": lambda: (
        "conv_forward",
        array((1, 2 * MANY, 9, 9)),
        array((2 * MANY, 2, 9, 9)),
        None,
        *IMAGE_OPTIONS,
        MANY,
    ),
    "conv rows": lambda: (
        "conv_forward",
        array((1, MANY, 9)),
        array((MANY, 1, 9)),
        None,
        (1,),
        (4,),
        (1,),
        MANY,
    ),
    "conv backward": lambda: (
        "conv_backward",
        array((MANY, 32, 9, 9)),
        array((MANY, 8, 9, 9)),
        array((32, 8, 3, 3)),
        *IMAGE_OPTIONS,
        1,
    ),
    "conv backward groups": lambda: (
        "conv_backward",
        array((2, MANY, 9, 9)),
        array((2, MANY, 9, 9)),
        array((MANY, 1, 3, 3)),
        *IMAGE_OPTIONS,
        MANY,
    ),
    "conv too large": lambda: (
        "conv_forward",
        array((MANY, 16, 60, 60)),
        array((16, 16, 3, 3)),
        None,
        *IMAGE_OPTIONS,
        1,
    ),
    "attention heads": lambda: (
        "attention_forward",
        *(array((MANY, 2, 9, 64)) for _ in range(3)),
        None,
        True,
        0.1,
        0.1,
        5,
        7,
    ),
    "attention long": lambda: (
        "attention_forward",
        *(array((1, 4, 1 << 20, 128)) for _ in range(3)),
        None,
        True,
        0.1,
        0.0,
        0,
        0,
    ),
    "attention large": lambda: (
        "attention_forward",
        *(array((MANY, 2, 300, 64)) for _ in range(3)),
        None,
        False,
        0.1,
        0.0,
        0,
        0,
    ),
    "lstm batch": lambda: ("rnn_forward", *layer("lstm", 3 * MANY, 20)),
    "gru wide": lambda: ("rnn_forward", *layer("gru", 3, 3000)),
}


@pytest.mark.parametrize("case", CASES)
def test_large_problems_are_launched_or_refused(cuda, case):
    name, *arguments = CASES[case]()
    before = emulation.extension().launches()
    try:
        getattr(cuda, name)(*arguments)
    except ValueError as error:
        assert "CUDA" in str(error)  # noqa: PT017
    else:
        assert emulation.extension().launches() > before

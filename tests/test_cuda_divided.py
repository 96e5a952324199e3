"""CUDA kernels where work is cut into parts because there is much of it for few outputs, or copied in squares.

Where the cuts are depends on the number of multiprocessors, which is 2 under emulation: small arrays are cut there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation
from fastdl.kernels import reference
from parity import assert_close
from test_cuda_kernels import HALVES, check, numbers, wide

pytestmark = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)
DTYPES = [pytest.param(t, id=np.dtype(t).name) for t in (np.float32, np.float64)] + HALVES


def calls(dtype: Any) -> list[tuple[Any, ...]]:
    often = np.array([4, 1, 4, 0, 4, 4, 2, 6, 4, 4])[np.arange(1500) % 10]
    often[600:1200] = 3  # cut, with others before and behind
    entries = numbers((1500, 37), dtype, 1, 0.1)
    few, tall = numbers((2, 333, 3), dtype, 2, 0.2), numbers((1, 70, 1, 40), dtype, 3)
    planes, long = numbers((2100, 2, 2), dtype, 4), numbers((1, 3, 47, 53), dtype, 5)
    scale = numbers(3, dtype, 6)
    return [
        ("embedding_backward", entries, often, None, None, 7, -1, False),
        ("embedding_backward", entries, often, None, None, 7, 4, True),
        ("embedding_backward", entries[:, :1], np.zeros(1500, np.int64), None, None, 1, -1, True),
        ("embedding_backward", entries[:512], np.repeat([0, 1], 256), None, None, 2, -1, False),
        ("running_sum", few, 1),
        ("running_sum", few, 1, True),
        ("running_sum", tall, 1),
        ("batch_norm_forward", planes, scale[:2], scale[:2], 1e-5),
        ("batch_norm_forward", long, scale, scale, 1e-5),
        ("batch_norm_forward", long.reshape(3, 1, -1)[:, :, :2400], None, None, 1e-5),
        ("contiguous", numbers((70, 41), dtype).T),
        ("contiguous", numbers((3, 40, 2, 33), dtype).transpose(2, 3, 0, 1)),
        ("contiguous", numbers((2, 150, 40), dtype)[:, ::2, 3:].swapaxes(1, 2)),
        ("contiguous", numbers((40, 70), dtype)[::-1].T),
    ]


def compare(got: Any, want: Any, dtype: Any, factor: float) -> None:
    if not isinstance(got, tuple):
        got, want = (got,), (want,)
    for g, w in zip(got, want, strict=True):
        g = g.astype(dtype)  # statistics are float64, of sums in float32
        if g.dtype.itemsize == 2:
            check(g, w, factor)
        else:
            assert_close(g, w, reduction=10_000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "number", range(len(calls(np.float32))), ids=lambda i: f"{i}-{calls(np.float32)[i][0]}"
)
def test_parts_make_the_whole(cuda: Any, dtype: Any, number: int) -> None:
    name, *arguments = calls(dtype)[number]
    compare(
        getattr(cuda, name)(*arguments), getattr(reference, name)(*(wide(a) for a in arguments)), dtype, 4.0
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2100, 2, 2), (1, 3, 47, 53), (2, 3, 50, 50)])
def test_batch_norm_backward(cuda: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    x, grad, weight = numbers(shape, dtype), numbers(shape, dtype, 1), numbers(shape[1], dtype, 2)
    _, mean, var = reference.batch_norm_forward(wide(x), None, None, 1e-5)
    options = (1e-5, True, True, True, True)
    compare(
        cuda.batch_norm_backward(grad, x, weight, mean, var, *options),
        reference.batch_norm_backward(*(wide(a) for a in (grad, x, weight)), mean, var, *options),
        dtype,
        16.0,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(16, 16), (64, 65), (3, 129, 31), (2, 3, 17, 140)])
def test_squares_of_every_width(cuda: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    x = (np.random.default_rng(0).integers(0, 250, shape)).astype(dtype)
    for view in (x.swapaxes(-1, -2), x.transpose(), x[..., ::-1].swapaxes(-1, -2), np.flip(x, 0).transpose()):
        np.testing.assert_array_equal(cuda.contiguous(view), view)


def test_into_a_transposed_array(cuda: Any) -> None:
    from fastdl.kernels.cuda import device

    x, memory = np.arange(40 * 50.0).reshape(40, 50), np.zeros((60, 41))
    to = memory[5:55, :40].T
    if emulation.on_gpu():
        pytest.skip("writes into an array of the host")
    device.copy_to(to, x)
    np.testing.assert_array_equal(to, x)
    assert np.count_nonzero(memory) == x.size - 1, "nothing beside it is touched"

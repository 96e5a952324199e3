"""Convolution's kernels for compute capability 9.0 under emulation: against the definition, in every order of threads,
and where they are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.kernels.cuda import device, hopper
from test_cuda_kernels import EPS, HALVES, numbers, wide

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(), reason="needs the emulation of the CUDA kernels"
)

DTYPES = [*HALVES, pytest.param(np.float32, id="tf32")]

# x, weight, stride, padding, dilation, groups; which of forward, grad_x, grad_weight these kernels can do in 16 bits
CASES: dict[str, Any] = {
    "3x3": ((2, 64, 9, 10), (64, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1, "fxw"),
    "odd size": ((3, 64, 7, 7), (64, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1, "fxw"),
    "some channels": ((1, 56, 7, 5), (140, 56, 3, 2), (1, 1), (1, 0), (1, 2), 1, "fxw"),
    "stride": ((2, 64, 11, 9), (64, 64, 3, 3), (2, 2), (1, 1), (1, 1), 1, "fxw"),
    "stride beyond kernel": ((1, 64, 13, 9), (48, 64, 2, 2), (3, 3), (0, 0), (1, 1), 1, "fxw"),
    "stride and dilation": ((1, 64, 12, 11), (64, 64, 3, 3), (2, 3), (2, 1), (2, 2), 1, "fxw"),
    "groups": ((2, 128, 6, 6), (192, 64, 3, 3), (1, 2), (1, 1), (2, 1), 2, "fxw"),
    "1d": ((3, 64, 150), (64, 64, 5), (2,), (4,), (2,), 1, "fxw"),
    "3d": ((1, 64, 4, 5, 6), (64, 64, 2, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 2), 1, "fxw"),
    "1x1": ((2, 128, 9, 7), (256, 128, 1, 1), (1, 1), (0, 0), (1, 1), 1, "fxw"),
    "parts": ((1, 512, 4, 4), (64, 512, 3, 3), (1, 1), (1, 1), (1, 1), 1, "fxw"),
    "parts of 128 rows": ((1, 256, 5, 7), (256, 256, 3, 3), (1, 1), (1, 1), (1, 1), 1, "fxw"),
    "long sums": ((5, 64, 33, 31), (192, 64, 1, 3), (1, 1), (0, 1), (1, 1), 1, "fxw"),
    "tap by tap": ((1, 64, 40, 9), (48, 64, 33, 1), (1, 1), (0, 0), (1, 1), 1, "w"),  # more than 32 taps
    "channels that fill no line": ((1, 36, 5, 5), (66, 36, 3, 3), (1, 1), (1, 1), (1, 1), 1, ""),
    "few rows": ((1, 64, 5, 5), (20, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1, ""),
}


def calls(dtype: Any) -> list[tuple[Any, ...]]:
    """For sanitizers: tiles of 64 and of 128 rows with ragged edges, classes, groups, parts; all gradients."""
    made: list[tuple[Any, ...]] = []
    for case in ("some channels", "stride", "groups", "parts"):
        x_shape, w_shape, *options, _ = CASES[case]
        x, w, bias = numbers(x_shape, dtype), numbers(w_shape, dtype, 1, 0.1), numbers(w_shape[0], dtype, 2)
        made.append(("conv_forward", x, w, bias, *options))
        y_shape = reference.conv_forward(*wide([x, w]), None, *options).shape
        made.append(("conv_backward", numbers(y_shape, dtype, 3), x, w, *options))
    return made


class Recording:
    """The extension; notes the names of functions that are called and answer nothing: launches."""

    def __init__(self, extension: Any, names: list[str]) -> None:
        self.extension, self.names = extension, names

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            answer = getattr(self.extension, name)(*arguments)
            if answer is None:
                self.names.append(name)
            return answer

        return call


@pytest.fixture
def launched(cuda: Any, monkeypatch: Any) -> list[str]:
    """What of the extension was called."""
    names: list[str] = []
    runtime = device.default()
    monkeypatch.setattr(runtime, "extension", Recording(runtime.extension, names))
    monkeypatch.setattr(kernels.precisions, "convolution", "high")
    return names


def rounded(x: Any) -> Any:
    """In float64; float32 as tensor cores see it: 10 bits, ties away from zero."""
    if x.dtype == np.float32:
        x = ((np.ascontiguousarray(x).view(np.uint32) + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32)
    return x.astype(np.float64)


def passes(cuda: Any, case: str, dtype: Any) -> tuple[list[Any], list[Any]]:
    """Forward with a bias and both gradients: what comes, what should."""
    x_shape, w_shape, *options, _ = CASES[case]
    x, w, bias = numbers(x_shape, dtype), numbers(w_shape, dtype, 1, 0.1), numbers(w_shape[0], dtype, 2)
    with fast_algorithm():
        y = cuda.conv_forward(x, w, bias, *options)
        grad_y = numbers(y.shape, dtype, 3)
        got = [y, *cuda.conv_backward(grad_y, x, w, *options, (True, True, False))[:2]]
    want = [reference.conv_forward(rounded(x), rounded(w), wide(bias).astype(np.float64), *options)]
    want += reference.conv_backward(rounded(grad_y), rounded(x), rounded(w), *options, (True, True, False))[
        :2
    ]
    return got, want


def fast_algorithm() -> Any:
    """1x1 kernels, too."""
    import fastdl

    return fastdl.conv_algorithm("direct")


def check(got: list[Any], want: list[Any]) -> None:
    for a, e in zip(got, want, strict=True):
        assert a.shape == e.shape
        eps = EPS.get(a.dtype.name, 2.0**-15)
        scale = np.abs(e) + 0.02 * np.max(np.abs(e))
        assert np.max(np.abs(a.astype(np.float64) - e) / scale) <= 1.05 * eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_all_passes_match_the_definition(cuda, launched, case, dtype):
    with hopper.choose(True):
        check(*passes(cuda, case, dtype))
    can = CASES[case][-1]
    assert launched.count("conv_gather_hopper") == len(set(can) & set("fx"))
    assert launched.count("conv_grad_weight_hopper") == (dtype != np.float32 and "w" in can)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["3x3", "stride", "groups", "3d"])
def test_the_other_kernels_do_the_same(cuda, launched, case, dtype):
    with hopper.choose(False):
        check(*passes(cuda, case, dtype))
    assert not any("hopper" in name for name in launched)


@pytest.mark.parametrize("case", ["some channels", "stride", "groups", "parts", "parts of 128 rows"])
@pytest.mark.parametrize("dtype", [np.float16, pytest.param(np.float32, id="tf32")])
def test_the_same_bits_in_every_order_of_threads(cuda, launched, case, dtype):
    results = []
    with hopper.choose(True):
        for order in emulation.ORDERS:
            emulation.extension().set_order(*order)
            results.append(passes(cuda, case, dtype)[0])
    emulation.extension().set_order("random", 0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_tiles_of_128_by_256(cuda, launched):
    """Taken where there are enough of them; each block has several."""
    x, w = numbers((5, 64, 59, 59), np.float16), numbers((130, 64, 1, 1), np.float16, 1)
    options = ((1, 1), (0, 0), (1, 1), 1)
    with hopper.choose(True), fast_algorithm():
        y = cuda.conv_forward(x, w, None, *options)
    assert "conv_gather_hopper" in launched
    check([y], [reference.conv_forward(*wide([x, w]), None, *options)])


@pytest.mark.parametrize("hopper_too", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, np.float64])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (25,), (2, 2, 3)], ids=str)
def test_weights_of_1x1_kernels_from_plain_arrays(cuda, launched, size, dtype, hopper_too):
    """Sizes that are a multiple of a copy, of half of one, and none."""
    for channels, out_channels, groups in ((64, 64, 1), (12, 20, 2), (130, 136, 1)):
        x = numbers((5, channels, *size), dtype)
        w = numbers((out_channels, channels // groups, *[1] * len(size)), dtype)
        grad_y = numbers((5, out_channels, *size), dtype, 2)
        ones = (1,) * len(size)
        options = (ones, (0,) * len(size), ones, groups)
        with hopper.choose(hopper_too):
            got = cuda.conv_backward(grad_y, x, w, *options, (False, True, False))[1]
        want = reference.conv_backward(
            rounded(grad_y), rounded(x), rounded(w), *options, (False, True, False)
        )
        check([got], [want[1]])
        whole = np.prod(size) % (2 if dtype == np.float64 else 4) == 0
        assert ("conv_grad_weight_pointwise" in launched) == whole
        launched.clear()


def test_weights_of_1x1_kernels_from_arrays_that_copies_cannot_take(cuda, launched):
    """Two bytes from where a copy may begin."""
    x, w = numbers((3, 64, 8, 8), np.float16), numbers((64, 64, 1, 1), np.float16, 1)
    grad_y = np.empty(3 * 64 * 64 + 1, np.float16)[1:].reshape(x.shape)
    grad_y[...] = numbers(x.shape, np.float16, 2)
    options = ((1, 1), (0, 0), (1, 1), 1, (False, True, False))
    got = cuda.conv_backward(grad_y, x, w, *options)[1]
    assert "conv_grad_weight_pointwise" not in launched
    check([got], [reference.conv_backward(rounded(grad_y), rounded(x), rounded(w), *options)[1]])


@pytest.mark.parametrize("dtype", [*DTYPES, np.float64])
@pytest.mark.parametrize(
    ("channels", "out_channels", "kernel", "stride"),
    [(3, 64, 7, 2), (1, 6, 5, 1), (4, 20, 3, 1), (2, 2, 4, 3), (40, 3, 3, 1), (12, 2, 2, 2)],
)
def test_few_channels(cuda, launched, channels, out_channels, kernel, stride, dtype):
    """Half a chunk for a tap, of x, of y or of both."""
    x = numbers((2, channels, 19, 18), dtype)
    w = numbers((out_channels, channels, kernel, kernel), dtype, 1, 0.1)
    options = ((stride, stride), (1, 2), (1, 1), 1)
    with fast_algorithm():
        y = cuda.conv_forward(x, w, None, *options)
        grad_y = numbers(y.shape, dtype, 2)
        got = [y, *cuda.conv_backward(grad_y, x, w, *options, (True, True, False))[:2]]
    want = reference.conv_backward(rounded(grad_y), rounded(x), rounded(w), *options, (True, True, False))
    check(got, [reference.conv_forward(rounded(x), rounded(w), None, *options), *want[:2]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed(cuda, launched, dtype):
    x, w, bias = numbers((2, 64, 5, 6), dtype), numbers((64, 48, 3, 4), dtype, 1, 0.1), numbers(48, dtype, 2)
    options, output_padding = ((2, 3), (1, 0), (1, 1), 1), (1, 2)
    with hopper.choose(True):
        y = cuda.conv_transpose_forward(x, w, bias, *options[:2], output_padding, *options[2:])
        grad_y = numbers(y.shape, dtype, 3)
        gradients = cuda.conv_transpose_backward(grad_y, x, w, *options, (True, True, False))[:2]
    assert launched.count("conv_gather_hopper") == 2
    want = reference.conv_transpose_forward(
        rounded(x), rounded(w), wide(bias).astype(np.float64), *options[:2], output_padding, *options[2:]
    )
    wants = reference.conv_transpose_backward(rounded(grad_y), rounded(x), rounded(w), *options)[:2]
    check([y, *gradients], [want, *wants])

"""Products of CuPy's arrays: what cuBLAS is told of transposed, strided and broadcast operands, in every dtype.

The stand-in multiplies what the addresses, steps and numbers of a call say. With ``FASTDL_TEST_GPU=1`` cuBLAS does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import emulation
import fake_cupy
import fastdl
import fastdl.nn.functional as F
from fastdl import nn
from fastdl.kernels import reference

pytestmark = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)
bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
EPS = {"float64": 1e-15, "float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DTYPES = [pytest.param(t, id=np.dtype(t).name) for t in (np.float64, np.float32, np.float16, bfloat16)]


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    if emulation.on_gpu():
        yield fastdl.devices.cupy()
        return
    yield fake_cupy.install(emulated=True)
    fake_cupy.uninstall()


def numbers(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).integers(-8, 9, shape) / 4


def turned(x: Any) -> Any:
    return x.swapaxes(-1, -2)


OPERANDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "matrices": lambda: (numbers(5, 7), numbers(7, 3)),
    "first transposed": lambda: (turned(numbers(7, 5)), numbers(7, 3)),
    "both transposed": lambda: (turned(numbers(7, 5)), turned(numbers(3, 7))),
    "parts of rows": lambda: (numbers(5, 9)[:, 1:8], numbers(7, 8)[:, 2:5]),
    "every other column": lambda: (numbers(5, 14)[:, ::2], turned(numbers(3, 14))[::2]),
    "backwards": lambda: (numbers(5, 7)[::-1], numbers(7, 3)[:, ::-1]),
    "a row": lambda: (numbers(9, 7)[3:4], turned(numbers(1, 7))),
    "a column": lambda: (turned(numbers(1, 5)), numbers(1, 9)[:, 3:6]),
    "one number": lambda: (numbers(1, 1), numbers(1, 1)),
    "a vector": lambda: (numbers(5, 9)[:, 1:8], numbers(14)[::2]),
    "a vector for a batch": lambda: (numbers(4, 5, 7), numbers(7)),
    "a vector in front": lambda: (numbers(7), numbers(4, 7, 3)),
    "two vectors": lambda: (numbers(7), numbers(7)),
    "one row repeated": lambda: (np.broadcast_to(numbers(7), (5, 7)), numbers(7, 3)),
    "batches": lambda: (numbers(4, 5, 7), numbers(4, 7, 3)),
    "batches transposed": lambda: (turned(numbers(2, 4, 7, 5)), turned(numbers(2, 4, 3, 7))),
    "a matrix for a batch": lambda: (numbers(4, 5, 7), numbers(7, 3)),
    "a matrix for a batch of columns": lambda: (turned(numbers(4, 7, 5)), turned(numbers(3, 7))),
    "a batch for a matrix": lambda: (numbers(5, 7), numbers(2, 4, 7, 3)),
    "heads behind positions": lambda: (
        numbers(3, 5, 2, 7).swapaxes(1, 2),
        numbers(3, 6, 2, 7).transpose(0, 2, 3, 1),
    ),
    "groups for images": lambda: (numbers(1, 2, 5, 7), numbers(3, 2, 7, 4)),
    "broadcast both ways": lambda: (numbers(3, 1, 5, 7), turned(numbers(2, 4, 7))),
    "long and short batches": lambda: (numbers(2, 1, 6, 5, 7), numbers(1, 3, 6, 7, 2)),
    "nothing to add": lambda: (numbers(2, 5, 0), numbers(2, 0, 3)),
    "nothing": lambda: (numbers(0, 5, 7), numbers(0, 7, 3)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERANDS)
def test_products(name: str, dtype: Any, cupy: Any) -> None:
    from fastdl.kernels import cuda

    a, b = OPERANDS[name]()

    def moved(x: Any) -> Any:
        """On the device, with the same order and steps of axes."""
        whole = x if x.base is None else x.base
        start = (x.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // x.itemsize
        memory = cupy.array(whole.ravel().astype(dtype))[start:]
        steps = [s // x.itemsize * memory.dtype.itemsize for s in x.strides]
        return cupy.lib.stride_tricks.as_strided(memory, x.shape, steps)

    for alpha in (1.0, -0.5, 0.0):
        y = cuda.matmul(moved(a), moved(b), None, alpha)
        want = alpha * np.matmul(a, b)
        assert y.dtype == dtype
        np.testing.assert_allclose(
            y.get().astype(np.float64), want, rtol=EPS[np.dtype(dtype).name], atol=1e-12
        )


def test_shapes_that_do_not_match(cupy: Any) -> None:
    from fastdl.kernels import cuda

    with pytest.raises(ValueError, match=r"matmul: shapes \(2, 3\) and \(2, 3\) cannot be multiplied"):
        cuda.matmul(cupy.empty((2, 3), "f4"), cupy.empty((2, 3), "f4"))
    with pytest.raises(ValueError, match=r"matmul: shapes \(2, 2, 3\) and \(3, 3, 2\) do not broadcast"):
        cuda.matmul(cupy.empty((2, 2, 3), "f4"), cupy.empty((3, 3, 2), "f4"))
    with pytest.raises(TypeError, match="matmul: arrays must have one dtype, got float32 and float16"):
        cuda.matmul(cupy.empty((2, 2), "f4"), cupy.empty((2, 2), "f2"))


@pytest.mark.skipif(emulation.on_gpu(), reason="replaces the stand-in's cuBLAS")
def test_without_cublas_the_message_says_what_to_install(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise ImportError("libcublas.so.13 not found")

    monkeypatch.setattr(cupy.cuda, "get_cublas_handle", fail)
    x = fastdl.ones(2, 2, device="cuda")
    with pytest.raises(
        RuntimeError, match=r"pip install 'cupy-cuda13x\[ctk\]' \(libcublas.so.13 not found\)"
    ):
        x @ x


@pytest.mark.skipif(emulation.on_gpu(), reason="looks at the stand-in")
@pytest.mark.parametrize("operands", ["matrices", "batches transposed"])
def test_recorded_products_bring_their_workspace(operands: str) -> None:
    a, b = (fastdl.tensor(x.astype("f4"), device="cuda") for x in OPERANDS[operands]())
    fake_cupy.workspaces.clear()
    fake_cupy.streams.clear()
    a @ b
    assert fake_cupy.streams == [0]
    assert not fake_cupy.workspaces
    graph = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(graph):
        y = a @ b
    assert fake_cupy.workspaces == [32 << 20]
    a += 1
    graph.replay()
    np.testing.assert_allclose(y.numpy(force=True), (a @ b).numpy(force=True), rtol=1e-6)
    assert fake_cupy.streams[1] == fake_cupy.streams[2] != 0


@pytest.mark.skipif(emulation.on_gpu(), reason="looks at the stand-in")
def test_an_error_of_cublas_is_raised(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdl.kernels.cuda import device

    library = fake_cupy._library("libcublas.so.13")
    library.cublasGemmEx = ctypes.CFUNCTYPE(ctypes.c_int)(lambda *arguments: 13)
    monkeypatch.setattr(device, "CDLL", lambda name: library)
    x = fastdl.ones(2, 2, device="cuda")
    with pytest.raises(RuntimeError, match="cublasGemmEx failed with status 13"):
        x @ x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 5, 7)])
def test_linear(shape: tuple[int, ...], dtype: Any, cupy: Any) -> None:
    from fastdl.kernels import cuda

    x, weight, bias, grad = numbers(*shape), numbers(3, 7), numbers(3), numbers(*shape[:-1], 3)
    on = [cupy.array(v.astype(dtype)) for v in (x, weight, bias, grad)]
    got = [cuda.linear_forward(*on[:3], "relu"), *cuda.linear_backward(on[3], *on[:2], True, True, True)]
    want = [
        reference.linear_forward(x, weight, bias, "relu"),
        *reference.linear_backward(grad, x, weight, True, True, True),
    ]
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        # Rounded after the product and again after the bias.
        eps = 2 * EPS[np.dtype(dtype).name]
        np.testing.assert_allclose(g.get().astype(np.float64), w, rtol=eps, atol=eps * np.max(np.abs(w)))


@pytest.mark.parametrize(
    ("shape", "out", "groups", "calls"),
    [((3, 8, 6, 6), 12, 1, 2), ((3, 8, 4, 2), 16, 2, 4), ((2, 12, 4, 2), 12, 3, 4), ((5, 8, 1, 1), 12, 1, 3)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution_by_1x1_kernels(
    shape: tuple[int, ...], out: int, groups: int, calls: int, dtype: Any, cupy: Any
) -> None:
    """Products of images as they are, with the bias, and of one pixel each a linear layer."""
    from fastdl.kernels import cuda

    arrays = (
        numbers(*shape),
        numbers(out, shape[1] // groups, 1, 1),
        numbers(out),
        numbers(shape[0], out, *shape[2:]),
    )
    x, w, b, g = (cupy.array(a.astype(dtype)) for a in arrays)
    options = (1, 1), (0, 0), (1, 1), groups
    if not emulation.on_gpu():
        fake_cupy.multiplied_in.clear()
    got = [cuda.conv_forward(x, w, b, *options), *cuda.conv_backward(g, x, w, *options)[:2]]
    if not emulation.on_gpu():
        assert len(fake_cupy.multiplied_in) == calls
    wants = (
        reference.conv_forward(*arrays[:3], *options),
        *reference.conv_backward(arrays[3], *arrays[:2], *options)[:2],
    )
    for a, want in zip(got, wants, strict=True):
        assert a.dtype == dtype
        eps = EPS[np.dtype(dtype).name]
        np.testing.assert_allclose(a.get().astype(np.float64), want, rtol=eps, atol=eps)


def test_a_layer_in_bfloat16_has_gradients_in_bfloat16() -> None:
    layer = nn.Linear(6, 4).to("cuda", fastdl.bfloat16)
    x = fastdl.ones(2, 3, 6, device="cuda", dtype=fastdl.bfloat16, requires_grad=True)
    y = F.gelu(layer(x)) @ fastdl.ones(2, 4, 5, device="cuda", dtype=fastdl.bfloat16)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == fastdl.bfloat16
    np.testing.assert_allclose(x.grad.float().tolist()[0][0], x.grad.float().tolist()[1][2])

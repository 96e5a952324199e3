"""Random arrays, dropout and its kin; see :mod:`fastdl.kernels.reference.random`.

Uniform numbers and masks are the CPU's, bit for bit; normal numbers agree within rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import RecordedSeed, cpu
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

__all__ = [
    "dropout_backward",
    "dropout_forward",
    "philox_words",
    "random_bernoulli",
    "random_integers",
    "random_normal",
    "random_permutation",
    "random_uniform",
    "rrelu_backward",
    "rrelu_forward",
    "set_random_state",
]


def random_key(runtime: Any, seed: Any, offset: int) -> tuple[int, int, int]:
    """Seed, offset, and the address of what takes their place in a recorded graph (0: nothing does)."""
    if seed.__class__ is RecordedSeed:
        return 0, offset, runtime.pointer(seed.state)
    return seed, offset, 0


def set_random_state(state: Array, seed: int, offset: int) -> None:
    """What recorded operations with ``RecordedSeed(state)`` draw from when they run next, in the current stream."""
    runtime = device.of(state)
    runtime.extension.set_random_state(runtime.pointer(state), seed, offset, runtime.stream())


def _new(op: str, shape: Any, dtype: Any) -> tuple[Any, int, Array]:
    dtype = np.dtype(dtype)
    if dtype.name not in device.DTYPES:
        raise DtypeError(f"{op}: dtype must be float32, float16, bfloat16 or float64, got {dtype.name}")
    runtime = device.default()
    return runtime, device.DTYPES[dtype.name], runtime.empty(shape, dtype)


def random_uniform(shape: Any, dtype: Any, low: float, high: float, seed: int, offset: int) -> Array:
    runtime, number, y = _new("random_uniform", shape, dtype)
    runtime.extension.random_uniform(
        number, runtime.pointer(y), y.size, low, high, *random_key(runtime, seed, offset), runtime.stream()
    )
    return y


def random_normal(shape: Any, dtype: Any, mean: float, std: float, seed: int, offset: int) -> Array:
    runtime, number, y = _new("random_normal", shape, dtype)
    runtime.extension.random_normal(
        number, runtime.pointer(y), y.size, mean, std, *random_key(runtime, seed, offset), runtime.stream()
    )
    return y


def random_bernoulli(p: Array, seed: int, offset: int) -> Array:
    number = device.code("random_bernoulli", p)
    runtime, p = device.of(p), contiguous(p)
    y = runtime.empty(p.shape, p.dtype)
    runtime.extension.random_bernoulli(
        number,
        runtime.pointer(y),
        runtime.pointer(p),
        p.size,
        *random_key(runtime, seed, offset),
        runtime.stream(),
    )
    return y


def philox_words(n: int, seed: int, offset: int) -> Array:
    runtime = device.default()
    words = runtime.empty((n,), np.dtype(np.uint32))
    runtime.extension.philox_words(
        runtime.pointer(words), n, *random_key(runtime, seed, offset), runtime.stream()
    )
    return words


def random_integers(shape: Any, low: int, high: int, seed: int, offset: int) -> Array:
    if low >= high:
        raise ArgumentError("random_integers: low must be below high")
    runtime = device.default()
    y = runtime.empty(shape, np.dtype(np.int64))
    runtime.extension.random_integers(
        runtime.pointer(y), y.size, low, high - low, *random_key(runtime, seed, offset), runtime.stream()
    )
    return y


def random_permutation(n: int, seed: int, offset: int) -> Array:
    """Drawn on the CPU and copied: every exchange depends on those before it."""
    return device.default().from_host(cpu.random_permutation(n, seed, offset))


def dropout_forward(
    x: Array,
    p: float,
    scale: float,
    seed: int,
    offset: int,
    length: int = 1,
    kept_bias: float = 0.0,
    dropped_bias: float = 0.0,
) -> Array:
    number = device.code("dropout", x)
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p must be between 0 and 1, got {p}")
    if length < 1 or x.size % length:
        raise ArgumentError(f"dropout: length must divide the number of elements, got {length} and {x.size}")
    runtime, x = device.of(x), contiguous(x)
    y = runtime.empty(x.shape, x.dtype)
    runtime.extension.dropout(
        number,
        runtime.pointer(y),
        runtime.pointer(x),
        x.size,
        length,
        p,
        scale,
        kept_bias,
        dropped_bias,
        *random_key(runtime, seed, offset),
        runtime.stream(),
    )
    return y


def dropout_backward(grad_y: Array, p: float, scale: float, seed: int, offset: int, length: int = 1) -> Array:
    return dropout_forward(grad_y, p, scale, seed, offset, length)


def _rrelu(grad_y: Array | None, x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    number = device.code("rrelu", x)
    runtime, x = device.of(x), contiguous(x)
    out = runtime.empty(x.shape, x.dtype)
    runtime.extension.rrelu(
        number,
        runtime.pointer(out),
        runtime.pointer(grad_y),
        runtime.pointer(x),
        x.size,
        lower,
        upper,
        *random_key(runtime, seed, offset),
        runtime.stream(),
    )
    return out


def rrelu_forward(x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    return _rrelu(None, x, lower, upper, seed, offset)


def rrelu_backward(grad_y: Array, x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    device.code("rrelu_backward", x, grad_y)
    device.same_shape("rrelu_backward", grad_y, x, "grad_y and x")
    return _rrelu(contiguous(grad_y), x, lower, upper, seed, offset)

"""Random numbers on Philox 4x32-10, and what is drawn with them: dropout, randomized leaky ReLU.

``csrc/common/philox.h`` says which words of the stream (seed, offset) make which element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray; NumPy's own annotations make Any of most expressions

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
]


def philox_words(n: int, seed: int, offset: int) -> Array:
    """Words 0 .. n - 1 of a stream, uint32. Counter i (with the offset in its upper half) gives words 4i ..

    4i + 3.
    """
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    multiplier0, multiplier1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    index = np.arange((n + 3) // 4, dtype=np.uint64)
    c0, c1 = index & mask, index >> shift
    c2: Any = np.uint64(offset & 0xFFFFFFFF)
    c3: Any = np.uint64(offset >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = multiplier0 * c0, multiplier1 * c2
        c0 = (p1 >> shift) ^ c1 ^ np.uint64(k0)
        c2 = (p0 >> shift) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & mask, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32).reshape(-1)[:n]


def _pairs(n: int, seed: int, offset: int) -> Array:
    """n numbers of 64 bits: words 2i and 2i + 1, the lower half first."""
    words = philox_words(2 * n, seed, offset).astype(np.uint64)
    return words[0::2] | words[1::2] << np.uint64(32)


def _unit(n: int, dtype: Any, seed: int, offset: int) -> Array:
    """Uniform in [0, 1): the upper 24 bits of a word, or the upper 53 of a pair."""
    if dtype == np.float32:
        return (philox_words(n, seed, offset) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return (_pairs(n, seed, offset) >> np.uint64(11)).astype(np.float64) * 2**-53


def _size(shape: Any) -> int:
    return int(np.prod(shape, dtype=np.int64))


def random_uniform(shape: Any, dtype: Any, low: float, high: float, seed: int, offset: int) -> Array:
    """low + (high - low) * u; never ``high`` (unless low == high), even where rounding would reach it."""
    low, high = np.dtype(dtype).type(low), np.dtype(dtype).type(high)
    y = _unit(_size(shape), dtype, seed, offset) * (high - low) + low
    return np.where(y < high, y, low).astype(dtype).reshape(shape)


def random_normal(shape: Any, dtype: Any, mean: float, std: float, seed: int, offset: int) -> Array:
    """mean + std * z by Box and Muller: elements 2k and 2k + 1 are radius * (cos, sin) of the same pair."""
    n = _size(shape)
    pairs = (n + 1) // 2
    if dtype == np.float32:
        words = philox_words(2 * pairs, seed, offset)
        u1 = (words[0::2] >> np.uint32(1)) * 2.0**-31 + 2.0**-32
        u2 = (words[1::2] >> np.uint32(8)) * 2.0**-24
    else:
        u = _unit(2 * pairs, np.float64, seed, offset)
        u1, u2 = 1 - u[0::2], u[1::2]
    radius = np.sqrt(-2 * np.log(u1))
    z = np.stack([radius * np.cos(2 * np.pi * u2), radius * np.sin(2 * np.pi * u2)], axis=1).reshape(-1)[:n]
    return (mean + std * z).astype(dtype).reshape(shape)


def random_bernoulli(p: Array, seed: int, offset: int) -> Array:
    """1 with probability p[i], else 0."""
    return (_unit(p.size, p.dtype, seed, offset).reshape(p.shape) < p).astype(p.dtype)


def _below(bits: Array, bound: Array) -> Array:
    """bits * bound / 2^64, rounded down: a number below ``bound`` (the product has 128 bits:

    Python's integers).
    """
    return (bits.astype(object) * bound) >> 64


def random_integers(shape: Any, low: int, high: int, seed: int, offset: int) -> Array:
    """Integers in [low, high), int64."""
    if low >= high:
        raise ValueError("random_integers: low must be below high")
    return (_below(_pairs(_size(shape), seed, offset), high - low) + low).astype(np.int64).reshape(shape)


def random_permutation(n: int, seed: int, offset: int) -> Array:
    """0 .. n - 1 in random order: position i receives one of the n - i numbers left (Fisher and Yates)."""
    order = np.arange(n)
    picks = np.arange(n) + _below(_pairs(n, seed, offset), n - np.arange(n)).astype(np.int64)
    for i in range(n - 1):
        order[i], order[picks[i]] = order[picks[i]], order[i]
    return order


def _kept(x: Array, p: float, seed: int, offset: int, length: int) -> Array:
    """Which elements stay; one decision for each run of ``length`` elements."""
    words = philox_words(x.size // length, seed, offset) >> np.uint32(1)
    kept = words >= np.floor(p * 2**31 + 0.5) if p < 1 else np.zeros(words.shape, bool)
    return np.repeat(kept, length).reshape(x.shape)


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
    """x * scale + kept_bias, or x * 0 + dropped_bias with probability p."""
    kept = _kept(x, p, seed, offset, length)
    factor = np.where(kept, scale, 0).astype(x.dtype)
    bias = np.where(kept, kept_bias, dropped_bias).astype(x.dtype)
    with np.errstate(invalid="ignore"):
        return x * factor + bias


def dropout_backward(grad_y: Array, p: float, scale: float, seed: int, offset: int, length: int = 1) -> Array:
    """The same elements of the gradient."""
    return dropout_forward(grad_y, p, scale, seed, offset, length)


def rrelu_forward(x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    """y = x where x > 0, else a * x, a uniform in [lower, upper) for each element."""
    slope = lower + (upper - lower) * _unit(x.size, np.float64, seed, offset).reshape(x.shape)
    return np.where(x > 0, x, x * slope.astype(x.dtype))


def rrelu_backward(grad_y: Array, x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    slope = lower + (upper - lower) * _unit(x.size, np.float64, seed, offset).reshape(x.shape)
    return np.where(x > 0, grad_y, grad_y * slope.astype(x.dtype))

"""Philox and the numbers drawn from it:

known answers, the same bits everywhere, statistics, the Generator.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from parity import DTYPES, backends, load, thread_counts

LENGTHS = (0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 1000)

# Counter, key and result from the known-answer file of the authors' Random123 library (philox 4x32, 10
# rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox(counter, key):
    """The generator as its authors write it down, one counter at a time."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return tuple(c)


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_known_answers(counter, key, want):
    assert philox(counter, key) == want


@pytest.mark.parametrize("level", ["reference", *backends(cuda=True)])
def test_words(level):
    """A stream is the generator on the counters (index, offset) with the seed as its key."""
    module = reference if level == "reference" else load(level)
    assert tuple(module.philox_words(4, 0, 0)) == KNOWN[0][2]
    for seed, offset in (
        (0, 0),
        (2**64 - 1, 2**64 - 1),
        (0x299F31D0A4093822, 0x0370734413198A2E),
        (7, 2**32),
    ):
        words = module.philox_words(11, seed, offset)
        assert words.dtype == np.uint32
        expected = [
            philox((i, 0, offset & 0xFFFFFFFF, offset >> 32), (seed & 0xFFFFFFFF, seed >> 32))
            for i in range(3)
        ]
        assert list(words) == [w for four in expected for w in four][:11]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_is_the_same_everywhere(dtype, level):
    module = load(level)
    dtype = np.dtype(dtype)
    for n in LENGTHS:
        for low, high in ((0.0, 1.0), (-3.0, 0.1), (1e-3, 1e3), (2.0, 2.0)):
            got = module.random_uniform((n,), dtype, low, high, 12345678901, n)
            np.testing.assert_array_equal(
                got, reference.random_uniform((n,), dtype, low, high, 12345678901, n)
            )
            assert np.all((got >= low) & ((got < high) | (low == high)) | (got == dtype.type(low)))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_normal(dtype, level):
    module = load(level)
    dtype = np.dtype(dtype)
    for n in LENGTHS:
        got = module.random_normal((n,), dtype, 0.5, 2.0, 99, n)
        want = reference.random_normal((n,), dtype, 0.5, 2.0, 99, n)
        np.testing.assert_allclose(got, want, rtol=0, atol=32 * np.finfo(dtype).eps)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_bernoulli(level):
    for n, dtype in itertools.product(LENGTHS, DTYPES):
        p = np.linspace(0, 1, n).astype(dtype)
        np.testing.assert_array_equal(
            load(level).random_bernoulli(p, 4, n), reference.random_bernoulli(p, 4, n)
        )


@pytest.mark.parametrize("level", backends(cuda=True))
def test_integers_permutation(level):
    module = load(level)
    for n in LENGTHS:
        for low, high in ((0, 10), (-5, 5), (0, 1), (-(2**63), 2**63 - 1), (3, 3 + 2**40)):
            got = module.random_integers((n,), low, high, 3, n)
            np.testing.assert_array_equal(got, reference.random_integers((n,), low, high, 3, n))
            assert np.all((got >= low) & (got < high))
        order = module.random_permutation(n, 5, n)
        np.testing.assert_array_equal(order, reference.random_permutation(n, 5, n))
        np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("level", backends())
def test_threads_do_not_matter(level):
    module = kernels.load(level)
    n = 300_007
    results = []
    for _ in thread_counts(module):
        results.append(
            [
                make((n,), np.dtype(dtype), 0.0, 1.0, 42, 7)
                for make in (module.random_uniform, module.random_normal)
                for dtype in DTYPES
            ]
            + [module.random_integers((n,), 0, 1000, 42, 7)]
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def uniform_deviation(u):
    """Kolmogorov and Smirnov's distance to the uniform distribution, times sqrt(n)."""
    u = np.sort(u.astype(np.float64))
    steps = np.arange(1, u.size + 1) / u.size
    return math.sqrt(u.size) * max(np.max(np.abs(u - steps)), np.max(np.abs(u - steps + 1 / u.size)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics(dtype):
    """Fixed seeds: these cannot fail by chance.

    1.95 is the distance that one sample in a thousand exceeds.
    """
    n, dtype = 1_000_000, np.dtype(dtype)
    u = kernels.cpu.random_uniform((n,), dtype, 0.0, 1.0, 1, 0)
    assert uniform_deviation(u) < 1.95
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(n)
    z = kernels.cpu.random_normal((n,), dtype, 0.0, 1.0, 1, 1).astype(np.float64)
    assert uniform_deviation(0.5 * (1 + reference.vector_math("erf", z / math.sqrt(2)))) < 1.95
    assert abs(np.corrcoef(z[:-1:2], z[1::2])[0, 1]) < 4 / math.sqrt(n / 2)  # the two of a pair
    assert abs(np.mean(z**4) - 3) < 4 * math.sqrt(96 / n)
    assert 4.5 < np.max(np.abs(z)) < 7
    counts = np.bincount(kernels.cpu.random_integers((n,), 0, 100, 1, 2), minlength=100)
    chi2 = np.sum((counts - n / 100) ** 2 / (n / 100))
    assert 61 < chi2 < 149  # 99 degrees of freedom: 0.1 % and 99.9 %
    # Another seed or offset: nothing in common.
    for other in ((2, 0), (1, 3)):
        v = kernels.cpu.random_uniform((n,), dtype, 0.0, 1.0, *other)
        assert abs(np.corrcoef(u, v)[0, 1]) < 4 / math.sqrt(n)


@pytest.mark.parametrize("level", backends())
def test_errors(level):
    module = kernels.load(level)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got int64"):
        module.random_uniform((3,), np.dtype(np.int64), 0.0, 1.0, 0, 0)
    with pytest.raises(ValueError, match="negative dimension"):
        module.random_normal((-3,), np.dtype(np.float32), 0.0, 1.0, 0, 0)
    with pytest.raises(ValueError, match="low must be below high"):
        module.random_integers((3,), 5, 5, 0, 0)
    with pytest.raises(MemoryError):
        module.random_uniform((2**40, 2**40), np.dtype(np.float32), 0.0, 1.0, 0, 0)


# The Generator ----------------------------------------------------------------------------------------


def test_generator():
    g = fastdl.Generator()
    assert g.initial_seed() == 67280421310721
    assert g.manual_seed(7) is g
    assert [g.draw() for _ in range(3)] == [(7, 0), (7, 1), (7, 2)]
    state = g.get_state()
    assert state.dtype == fastdl.uint8
    following = g.draw()
    for other in (g.clone_state(), copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert other.draw() == (7, 4)
    g.set_state(state)
    assert g.draw() == following
    assert g.manual_seed(-1).initial_seed() == 2**64 - 1
    assert g.seed() == g.initial_seed()
    assert g.set_state(g.get_state()) is g
    assert "seed=" in repr(g)


def test_default_generator():
    assert fastdl.manual_seed(3) is fastdl.default_generator
    assert fastdl.initial_seed() == 3
    with fastdl.random.fork_rng(devices=[], device_type="cuda"):
        inside = fastdl.default_generator.draw()
    assert fastdl.default_generator.draw() == inside
    state = fastdl.get_rng_state()
    assert fastdl.seed() == fastdl.initial_seed()
    fastdl.set_rng_state(state)
    assert fastdl.initial_seed() == 3


def test_generator_messages():
    for draw in (
        lambda g: fastdl.rand(2, generator=g),
        lambda g: fastdl.multinomial(fastdl.ones(2), 1, generator=g),
    ):
        with pytest.raises(TypeError, match="generator must be a Generator, got int"):
            draw(3)
    for bad in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="manual_seed: seed must be in"):
            fastdl.manual_seed(bad)
    with pytest.raises(TypeError, match="set_state: new_state must be a uint8 tensor of 16 elements"):
        fastdl.set_rng_state(fastdl.zeros(16))


def test_binomial_and_geometric():
    fastdl.manual_seed(0)
    count, p = fastdl.tensor([0.0, 1.0, 20.0, 20.0]), fastdl.tensor([0.5, 1.0, 0.0, 0.3])
    drawn = fastdl.binomial(count.expand(4000, 4).contiguous(), p.expand(4000, 4))
    assert (drawn.shape, drawn.dtype) == ((4000, 4), fastdl.float32)
    np.testing.assert_allclose(drawn.mean(0).numpy(), (count * p).numpy(), atol=0.15)
    with pytest.raises(RuntimeError, match="binomial: count and prob must have one floating-point dtype"):
        fastdl.binomial(count.long(), p)
    with pytest.raises(RuntimeError, match="prob must be between 0 and 1"):
        fastdl.binomial(count, p + 1)
    for dtype in (fastdl.float32, fastdl.int64):
        x = fastdl.zeros(20000, dtype=dtype).geometric_(0.4)
        assert (x.dtype, x.min().item()) == (dtype, 1)
        assert abs(x.double().mean().item() - 2.5) < 0.08
        assert abs((x == 1).double().mean().item() - 0.4) < 0.02
    with pytest.raises(RuntimeError, match="p must be between 0 and 1"):
        x.geometric_(1.0)


def test_like_another_tensor():
    x = fastdl.zeros(200, dtype=fastdl.float64)
    for y in (
        fastdl.randint_like(x, 3),
        fastdl.randint_like(x, high=3, memory_format=fastdl.preserve_format),
    ):
        assert set(y.tolist()) == {0.0, 1.0, 2.0}
        assert y.dtype == fastdl.float64
    assert set(fastdl.randint_like(x, 1, 3).tolist()) == {1.0, 2.0}
    for function in (fastdl.rand_like, fastdl.randn_like):
        assert function(x, memory_format=fastdl.preserve_format).shape == (200,)
    for function in (
        fastdl.rand_like,
        fastdl.randn_like,
        lambda x, **given: fastdl.randint_like(x, 9, **given),
    ):
        a, b, other = [function(x, generator=fastdl.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert fastdl.equal(a, b)
        assert not fastdl.equal(a, other)

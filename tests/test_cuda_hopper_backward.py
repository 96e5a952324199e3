"""Attention's gradients by the kernels for compute capability 9.0 (csrc/cuda/attention_hopper_backward.cu): against the
definition, and which problems are theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation
from fastdl.kernels import reference
from fastdl.kernels.cuda import attention, hopper
from parity import backends, load
from test_cuda_hopper import mask_of

pytestmark = pytest.mark.skipif("cuda" not in backends(cuda=True), reason="needs the emulated CUDA kernels")
emulated_only = pytest.mark.skipif(emulation.on_gpu(), reason="about the emulation")

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-23}
# batch, heads, groups, queries, keys: tiles are 128 keys by 64 or 128 queries
SHAPES = [
    (1, 1, 1, 1, 65),
    (1, 1, 1, 128, 128),
    (2, 2, 2, 70, 130),
    (1, 4, 2, 130, 257),  # two heads of queries for one of keys
    (1, 3, 1, 300, 60),
    (2, 1, 1, 129, 400),  # causal: keys that nobody sees
]
# Along which of batch, heads, queries and keys a mask differs.
BROADCAST = [(1, 1, 1, 1), (0, 0, 1, 1), (1, 0, 0, 1), (0, 1, 1, 1), (1, 0, 1, 0), (0, 0, 0, 0)]


def type_of(name: str) -> Any:
    return np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16


def inputs(shape, size, dtype, seed=0):
    """query, key, value and the gradient of the result."""
    b, h, g, queries, keys = shape
    rng = np.random.default_rng(seed)
    sizes = ((b, h, queries, size), (b, g, keys, size), (b, g, keys, size), (b, h, queries, size))
    return [rng.standard_normal(s).astype(np.float32).astype(dtype) for s in sizes]


@pytest.fixture
def scratches(monkeypatch):
    """Bytes of scratch of each call: 0 where it was not one for these kernels."""
    extension: Any = emulation.used()
    sizes = []
    asked = extension.attention_backward_scratch

    def ask(*arguments):
        sizes.append(asked(*arguments))
        return sizes[-1]

    monkeypatch.setattr(extension, "attention_backward_scratch", ask)
    yield sizes
    if not emulation.on_gpu():
        extension.set_order("random", 0)


def gradients(q, k, v, g, causal=False, scale=0.2, mask=None, p=0.0):
    module = load("cuda")
    options = (causal, scale, p, 5, 7)
    y, lse = module.attention_forward(q, k, v, mask, *options)
    with hopper.choose(True):
        return module.attention_backward(g, q, k, v, mask, y, lse, *options, False)[:3]


def check(got, q, k, v, g, causal=False, scale=0.2, mask=None, p=0.0):
    options = (causal, scale, p, 5, 7)
    wide = [a if a is None or a.dtype == bool else a.astype(np.float64) for a in (g, q, k, v, mask)]
    y, lse = reference.attention_forward(*wide[1:], *options)
    want = reference.attention_backward(*wide, y, lse, *options, False)[:3]
    for a, b in zip(got, want, strict=True):
        assert a.dtype == q.dtype
        # Gradients of scores are small differences of numbers that were rounded.
        bound = 16 * ROUNDING[q.dtype.name] * max(1.0, np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=0, atol=bound)


def calls(dtype: Any) -> list[tuple[Any, ...]]:
    """For the sanitizers (cuda_sanitizer.py), inside ``hopper.choose(True)``; 24 blocks are on two host threads."""
    made = []
    for shape, size, causal, kind, p in [
        ((1, 4, 2, 130, 257), 64, True, None, 0.0),
        ((1, 1, 1, 70, 300), 128, False, None, 0.3),
        ((1, 1, 1, 70, 2900), 64, False, None, 0.0),
        ((1, 4, 2, 70, 257), 64, True, "allowed", 0.3),
        ((1, 1, 1, 130, 300), 128, False, "added", 0.0),
    ]:
        q, k, v, g = inputs(shape, size, dtype)
        mask = None if kind is None else mask_of(kind, (1, 1, shape[3], shape[4]), dtype)
        options = (causal, 0.2, p, 5, 7)
        wide = [a if a is None or a.dtype == bool else a.astype(np.float64) for a in (q, k, v, mask)]
        y, lse = reference.attention_forward(*wide, *options)
        made.append(
            ("attention_backward", g, q, k, v, mask, y.astype(dtype), lse.astype(np.float32), *options, False)
        )
    return made


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(scratches, name, size, causal, shape):
    arrays = inputs(shape, size, type_of(name))
    check(gradients(*arrays, causal), *arrays, causal)
    assert scratches[0] > 0


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("kind", ["added", "allowed"])
@pytest.mark.parametrize("broadcast", BROADCAST, ids=str)
def test_masks(scratches, name, size, kind, broadcast):
    """Of each kind of broadcasting, causal or not; one query sees nothing."""
    dtype, number = type_of(name), BROADCAST.index(broadcast)
    arrays = inputs((2, 4, 2, 140, 150), size, dtype)
    shape = tuple(n if there else 1 for n, there in zip((2, 4, 140, 150), broadcast, strict=True))
    mask = mask_of(kind, shape, dtype)
    if broadcast[2] and broadcast[3]:
        mask[0, 0, 77] = 0 if kind == "allowed" else -np.inf
    options = (number % 2 == 1, 0.2, mask)
    check(gradients(*arrays, *options), *arrays, *options)
    assert scratches[0] > 0


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_dropout(scratches, size, shape):
    """The bits are those that forward draws; with a mask, too, and twice the same."""
    number = SHAPES.index(shape)
    arrays = inputs(shape, size, np.float16)
    mask = mask_of("added", (1, 1, *shape[3:]), np.float16) if number % 2 else None
    options = (number % 3 == 0, 0.2, mask, 0.3)
    got = gradients(*arrays, *options)
    check(got, *arrays, *options)
    for a, b in zip(got, gradients(*arrays, *options), strict=True):
        np.testing.assert_array_equal(a, b)
    assert scratches[0] > 0


def test_gradient_of_a_mask(scratches):
    """After these kernels, by the exact ones, which take the statistics that were left."""
    q, k, v, g = inputs((2, 4, 2, 70, 90), 64, np.float16)
    mask = mask_of("added", (2, 1, 70, 90), np.float16)
    module, options = load("cuda"), (False, 0.2, 0.0, 0, 0)
    y, lse = module.attention_forward(q, k, v, mask, *options)
    results = []
    for chosen in (True, False):
        with hopper.choose(chosen):
            results.append(module.attention_backward(g, q, k, v, mask, y, lse, *options, True)[3])
    assert scratches[0] > 0
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scales(scratches, size, scale):
    """Hidden scores have no weights, whatever the sign of the factor."""
    arrays = inputs((1, 2, 1, 140, 150), size, np.float16)
    check(gradients(*arrays, True, scale), *arrays, True, scale)
    assert scratches[0] > 0


def test_very_negative_scores(scratches):
    """2^(0 - lse) is infinite in float16: keys beyond the last, whose scores are 0, must not count."""
    q, k, v, g = inputs((1, 1, 1, 70, 150), 64, np.float16)
    q[..., 0], k[..., 0] = 160.0, -2.0
    got = gradients(q, k, v, g, False, 0.125)
    assert all(np.isfinite(a).all() for a in got)
    check(got, q, k, v, g, False, 0.125)
    assert scratches[0] > 0


def test_strides(scratches):
    """Heads inside of rows, and all three of one array, as projections make them."""
    q, k, v, g = inputs((2, 3, 3, 70, 70), 64, np.float16)
    want = gradients(q, k, v, g, True)
    packed = np.concatenate([a.transpose(0, 2, 1, 3).reshape(2, 70, 192) for a in (q, k, v)], axis=2)
    q, k, v = (
        packed[:, :, 192 * i : 192 * (i + 1)].reshape(2, 70, 3, 64).transpose(0, 2, 1, 3) for i in range(3)
    )
    g = np.ascontiguousarray(g.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)
    got = gradients(q, k, v, g, True)
    assert min(scratches) > 0
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@emulated_only
def test_strides_of_other_kernels(scratches):
    """What the copy engine cannot take: heads that are one, addresses that are no multiples of 16 bytes."""
    q, k, v, g = inputs((1, 2, 2, 70, 90), 64, np.float16)
    k = np.broadcast_to(k[:, :1], k.shape)
    check(gradients(q, k, v, g), q, k, v, g)
    _, k, v, _ = inputs((1, 2, 2, 70, 90), 64, np.float16)
    moved = np.empty(k.size + 1, np.float16)[1:].reshape(k.shape)
    moved[...] = k
    check(gradients(q, moved, v, g), q, moved, v, g)
    assert scratches == [0, 0]


@pytest.mark.parametrize("kind", ["size", "value_size", "no_keys", "no_queries", "small", "float32"])
def test_problems_of_other_kernels(scratches, kind):
    size = 96 if kind == "size" else 64
    queries = 0 if kind == "no_queries" else 64 if kind == "small" else 70
    shape = (1, 2, 1, queries, 0 if kind == "no_keys" else 64)
    q, k, v, g = inputs(shape, size, np.float32 if kind == "float32" else np.float16)
    if kind == "value_size":
        v, g = v[..., :32], g[..., :32]
    check(gradients(q, k, v, g), q, k, v, g)
    assert scratches == [0]


@emulated_only  # with its two multiprocessors
@pytest.mark.parametrize(("heads", "length", "prefers"), [(1, 128, False), (4, 128, True), (2, 512, True)])
def test_few_tasks_are_for_other_kernels(monkeypatch, scratches, heads, length, prefers):
    """On a device that is trusted, where nothing is demanded."""
    monkeypatch.setattr(attention, "hopper_trusted", lambda *_: True)
    module = load("cuda")
    q, k, v, g = inputs((1, heads, heads, length, length), 64, np.float16)
    options = (False, 0.2, 0.0, 0, 0)
    y, lse = module.attention_forward(q, k, v, None, *options)
    check(module.attention_backward(g, q, k, v, None, y, lse, *options, False)[:3], q, k, v, g)
    assert (scratches != []) == prefers
    assert all(bytes_ > 0 for bytes_ in scratches)


@emulated_only
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 2, 200, 400), (1, 1, 1, 70, 2900)], ids=["heads", "blocks"])
def test_the_same_bits_in_all_orders_of_threads(scratches, size, causal, shape):
    """Several blocks add to each tile of the queries' gradient: 4 of each head, or 23, on several host threads."""
    arrays = inputs(shape, size, np.float16)
    masking = {} if causal else {"mask": mask_of("added", (1, 1, *shape[3:]), np.float16)}
    want = None
    for order in emulation.ORDERS:
        emulation.extension().set_order(*order)
        got = gradients(*arrays, causal, **masking)
        for a, b in zip(got, want or got, strict=True):
            np.testing.assert_array_equal(a, b)
        want = got
    check(want, *arrays, causal, **masking)
    assert min(scratches) > 0


@emulated_only
def test_blocks_add_in_turns(extension, order):
    """Numbers of many magnitudes: another order of the blocks gives other bits."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((150, 64)) * 10.0 ** rng.integers(-3, 4, (150, 64))).astype(np.float32)
    y = np.full(64, np.nan, np.float32)
    want = x[0].copy()
    for row in x[1:]:
        want += row
    assert (want != x[::-1].cumsum(axis=0, dtype=np.float32)[-1]).any()
    extension.add_in_turns(*(emulation.address(a) for a in (y, x)), len(x))
    np.testing.assert_array_equal(y, want)

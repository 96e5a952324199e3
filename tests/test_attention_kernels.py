"""Kernels of attention against the definition on every level and on CUDA: masks, strides, extremes, memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import emulation
from fastdl import kernels
from fastdl.kernels import reference
from parity import DTYPES, THREADS, assert_close, backends, load, thread_counts

# batch, heads, groups, queries, keys, size, value_size
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 3, 5, 7, 8, 8),
    (1, 2, 1, 33, 45, 17, 5),  # one head of keys for two; nothing a multiple of anything
    (2, 4, 2, 64, 64, 64, 64),
    (1, 2, 2, 100, 300, 24, 40),  # several blocks of queries and of keys
    (1, 1, 1, 130, 500, 64, 128),
    (1, 4, 4, 1, 300, 64, 64),  # few queries
    (1, 8, 2, 2, 700, 16, 24),
    (1, 2, 1, 1, 4500, 7, 20),  # few queries and several chunks of keys
    (3, 5, 5, 1, 3, 64, 33),  # many short heads
    (1, 2, 2, 70, 70, 3, 1),
    (2, 2, 2, 65, 15, 80, 96),
    (1, 1, 1, 300, 20, 512, 31),  # more queries than keys
    (1, 1, 1, 3, 0, 4, 4),  # no keys, no queries, no size
    (1, 1, 1, 0, 3, 4, 4),
    (2, 1, 1, 3, 3, 0, 4),
    (0, 2, 2, 3, 3, 4, 4),
]
MASKS = ("none", "bool", "float", "padding", "hidden")


def mask_of(kind, shape, dtype, rng):
    """Shapes of all sorts of broadcasting, rows that see nothing among them."""
    b, h, _, rows, columns, _, _ = shape
    if kind == "none":
        return None
    if kind == "bool":
        return rng.random((b, h, rows, columns)) < 0.7
    if kind == "float":
        return rng.standard_normal((1, h, rows, columns)).astype(dtype)
    if kind == "padding":
        return rng.random((b, 1, 1, columns)) < 0.6
    mask = rng.standard_normal((b, 1, rows, columns)).astype(dtype)
    mask[rng.random(mask.shape) < 0.3] = -np.inf
    mask[:, :, ::3] = -np.inf
    return mask


def inputs(shape, dtype, seed=0):
    b, h, g, rows, columns, size, value_size = shape
    rng = np.random.default_rng(seed)
    parts = ((b, h, rows, size), (b, g, columns, size), (b, g, columns, value_size), (b, h, rows, value_size))
    return [rng.standard_normal(s).astype(dtype) for s in parts], rng


def wide(x):
    return x if x is None or x.dtype == bool else x.astype(np.float64)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_agrees_with_definition(level, dtype, kind, shape):
    module = load(level)
    (q, k, v, g), rng = inputs(shape, dtype)
    mask = mask_of(kind, shape, dtype, rng)
    reduction = max(shape[3:])
    for causal, p in itertools.product((False, True), (0.0, 0.3)):
        options = (causal, 0.4, p, 5, 7)
        y, lse = module.attention_forward(q, k, v, mask, *options)
        want, want_lse = reference.attention_forward(*map(wide, (q, k, v, mask)), *options)
        assert y.dtype == lse.dtype == dtype
        assert_close(y, want, reduction=reduction)
        assert_close(lse, want_lse, reduction=reduction)
        need = kind in ("float", "hidden")
        got = module.attention_backward(g, q, k, v, mask, y, lse, *options, need)
        grads = reference.attention_backward(*map(wide, (g, q, k, v, mask)), want, want_lse, *options, need)
        assert (got[3] is not None) == need
        for a, b in zip(got, grads, strict=True):
            if b is not None:
                assert_close(a, b, reduction=reduction)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize(
    "axes",
    [(), (0,), (1,), (2,), (3,), (0, 1), (0, 1, 2), (1, 3), (2, 3), (0, 1, 2, 3)],
    ids=str,
)
def test_masks_broadcast_along_any_axes(level, axes):
    """Read with strides of 0, its gradient summed; several threads, so that owners of the mask differ."""
    module = load(level)
    shape = (3, 4, 2, 35, 50, 8, 8)
    (q, k, v, g), rng = inputs(shape, np.float64)
    full = (3, 4, 35, 50)
    mask = rng.standard_normal([1 if i in axes else n for i, n in enumerate(full)])
    options = (False, 0.3, 0.0, 0, 0)
    for _ in thread_counts(module):
        y, lse = module.attention_forward(q, k, v, mask, *options)
        assert_close(y, reference.attention_forward(q, k, v, mask, *options)[0], reduction=50)
        got = module.attention_backward(g, q, k, v, mask, y, lse, *options, True)
        want = reference.attention_backward(g, q, k, v, mask, y, lse, *options, True)
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape
            assert_close(a, b, reduction=3 * 4 * 35 * 50)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_strided_inputs_and_masks(level):
    """Heads as a linear layer leaves them, transposed and reversed axes, a mask that is a transposed view."""
    module = load(level)
    rng = np.random.default_rng(3)
    packed = rng.standard_normal((2, 40, 3, 4, 16)).astype(np.float32)
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    sequence_first = rng.standard_normal((40, 2, 4, 16)).astype(np.float32).transpose(1, 2, 0, 3)
    reversed_ = rng.standard_normal((2, 4, 40, 16)).astype(np.float32)[:, :, ::-1]
    last = rng.standard_normal((2, 4, 16, 40)).astype(np.float32).transpose(0, 1, 3, 2)
    one = np.broadcast_to(rng.standard_normal((1, 1, 40, 16)).astype(np.float32), (2, 4, 40, 16))
    options = (False, 0.25, 0.0, 0, 0)
    mask = rng.standard_normal((40, 40)).T[None, None].astype(np.float32)
    visible = (rng.random((1, 1, 40, 80)) < 0.8)[..., ::2]
    for a, b, c in ((q, k, v), (sequence_first, sequence_first, v), (reversed_, last, one), (one, one, last)):
        for m in (None, mask, visible):
            y, lse = module.attention_forward(a, b, c, m, *options)
            want, want_lse = reference.attention_forward(a, b, c, m, *options)
            assert_close(y, want, reduction=40)
            got = module.attention_backward(v, a, b, c, m, y, lse, *options, False)
            grads = reference.attention_backward(v, a, b, c, m, want, want_lse, *options, False)
            for x, w in zip(got[:3], grads[:3], strict=True):
                assert_close(x, w, reduction=40)
    if emulation.on_gpu():  # there results come back in C order
        return
    # The result's axes lie in memory as query's.
    y = module.attention_forward(q, k, v, None, *options)[0]
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous
    y = module.attention_forward(sequence_first, k, v, None, *options)[0]
    assert y.transpose(2, 0, 1, 3).flags.c_contiguous


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize(
    "shape", [(1, 2, 2, 200, 700, 32, 32), (2, 6, 3, 70, 300, 20, 24), (1, 1, 1, 3, 2000, 64, 64)]
)
def test_threads_and_repeats_agree(level, shape):
    """The forward pass and gradients of keys and values have the same bits for any number of threads, the others
    the same bits for the same number."""
    module = kernels.load(level)
    (q, k, v, g), rng = inputs(shape, np.float32)
    mask = rng.standard_normal((1, 1, shape[3], shape[4])).astype(np.float32)
    for (causal, p), need in itertools.product(((False, 0.0), (True, 0.2)), (True, False)):
        options = (causal, 0.3, p, 11, 3)
        seen = {}
        for threads in thread_counts(module, (*THREADS, *THREADS)):
            y, lse = module.attention_forward(q, k, v, mask, *options)
            grads = module.attention_backward(g, q, k, v, mask, y, lse, *options, need)[: 4 if need else 3]
            for a, b in zip(seen.setdefault(threads, (y, *grads)), (y, *grads), strict=True):
                np.testing.assert_array_equal(a, b)
        for results in seen.values():
            for a, b in zip(results, seen[1], strict=True):
                assert_close(a, b, reduction=shape[4])
            if not (causal is False and shape[3] < 4):  # few queries: keys are split over threads
                np.testing.assert_array_equal(results[0], seen[1][0])


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_extreme_scores(level, dtype, rows):
    """Weights of 0 and 1, huge common offsets, infinities and NaN; each row only harms itself."""
    module = load(level)
    rng = np.random.default_rng(0)
    k = rng.standard_normal((1, 1, 300, 8)).astype(dtype)
    v = rng.standard_normal((1, 1, 300, 8)).astype(dtype)
    for size in (1e-30, 1e2, 1e4):
        q = (size * rng.standard_normal((1, 1, rows, 8))).astype(dtype)
        args = (None, False, 1.0, 0.0, 0, 0)
        y, lse = module.attention_forward(q, k, v, *args)
        want, _ = reference.attention_forward(*map(wide, (q, k, v)), *args)
        # A score of size s is exact to s * eps, and so is the logarithm of a weight.
        assert_close(y, want, reduction=300, factor=16 * max(1, size))
        grads = module.attention_backward(v[:, :, :rows], q, k, v, None, y, lse, *args[1:], False)
        assert all(np.isfinite(g).all() for g in grads[:3])
    offset = np.full((1, 1, 1, 300), 1e6, dtype)  # the same for all keys: changes nothing
    q = rng.standard_normal((1, 1, rows, 8)).astype(dtype)
    plain = reference.attention_forward(*map(wide, (q, k, v)), None, *args[1:])[0]
    shifted = module.attention_forward(q, k, v, offset, *args[1:])[0]
    np.testing.assert_allclose(shifted, plain, rtol=0, atol=4e6 * np.finfo(dtype).eps)
    bad = np.concatenate([q] * 3, axis=2)
    bad[0, 0, 0, 0], bad[0, 0, rows, 0] = np.nan, np.inf
    y = module.attention_forward(bad, k, v, *args)[0]
    assert np.isnan(y[0, 0, [0, rows]]).all()
    others = np.delete(np.arange(3 * rows), [0, rows])
    assert_close(y[0, 0, others], np.concatenate([plain] * 3, axis=2)[0, 0, others], reduction=300)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_hidden_and_open_regions(level):
    """Blocks that a mask hides wholly, or leaves alone, are told apart and come out as if cut away."""
    module = load(level)
    (q, k, v, g), _ = inputs((1, 1, 1, 70, 900, 16, 16), np.float32)
    options = (False, 0.25, 0.0, 0, 0)
    cut = [x[:, :, :440] for x in (k, v)]
    want, want_lse = reference.attention_forward(q, *cut, None, *options)
    want_grads = reference.attention_backward(g, q, *cut, None, want, want_lse, *options, False)
    for mask in (np.zeros((1, 1, 1, 900), bool), np.zeros((1, 1, 70, 900), bool)):
        mask[..., :440] = True
        for m in (mask, np.where(mask, 0, -np.inf).astype(np.float32)):
            y, lse = module.attention_forward(q, k, v, m, *options)
            assert_close(y, want, reduction=440)
            grads = module.attention_backward(g, q, k, v, m, y, lse, *options, False)
            assert_close(grads[0], want_grads[0], reduction=440)
            for got, w in zip(grads[1:3], want_grads[1:3], strict=True):
                assert_close(got[:, :, :440], w, reduction=440)
                assert not got[:, :, 440:].any()


@pytest.mark.parametrize("level", backends())
def test_memory_grows_with_the_length(level):
    """No array of the size of the scores: those of 4096 x 4096 would be 64 MB."""
    module = kernels.load(level)
    (q, k, v, g), _ = inputs((1, 1, 1, 4096, 4096, 16, 16), np.float32)
    module.set_memory_guard(False)
    module.reset_peak_memory_stats()
    start = module.memory_stats()["in_use"]
    y, lse = module.attention_forward(q, k, v, None, True, 0.25, 0.0, 0, 0)
    module.attention_backward(g, q, k, v, None, y, lse, True, 0.25, 0.0, 0, 0, False)
    assert module.memory_stats()["in_use_peak"] - start < 6 << 20


@pytest.mark.parametrize("level", backends(cuda=True))
def test_kernel_errors(level):
    module = load(level)
    q = np.zeros((2, 4, 5, 8))
    options = (False, 1.0, 0.0, 0, 0)
    forward = module.attention_forward
    with pytest.raises(ValueError, match="must have 4 dimensions"):
        forward(q[0], q, q, None, *options)
    with pytest.raises(ValueError, match=r"key .*, value"):
        forward(q, q[:, :, :3], q, None, *options)
    with pytest.raises(ValueError, match="query is"):
        forward(q, q[:, :3], q[:, :3], None, *options)
    with pytest.raises(TypeError, match="key must be float64"):
        forward(q, q.astype(np.float32), q, None, *options)
    with pytest.raises(TypeError, match="mask must be bool or of query's dtype"):
        forward(q, q, q, np.zeros((1, 1, 5, 5), np.int64), *options)
    with pytest.raises(ValueError, match="does not broadcast"):
        forward(q, q, q, np.zeros((1, 1, 4, 5)), *options)
    with pytest.raises(ValueError, match="p must be between"):
        forward(q, q, q, None, False, 1.0, 1.5, 0, 0)
    y, lse = forward(q, q, q, None, *options)
    backward = module.attention_backward
    with pytest.raises(ValueError, match="grad_y"):
        backward(q[:, :, :2], q, q, q, None, y, lse, *options, False)
    with pytest.raises(ValueError, match="lse"):
        backward(q, q, q, q, None, y, lse[:1], *options, False)
    with pytest.raises(ValueError, match="bool mask has no gradient"):
        backward(q, q, q, q, np.ones((1, 1, 5, 5), bool), y, lse, *options, True)


# Tensor cores ---------------------------------------------------------------------------------------------

# What an operand is rounded to: half an ulp of 1. Weights are rounded, too, before they meet values.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "tf32": 2.0**-11}
TENSOR_SHAPES = [
    (2, 3, 3, 5, 7, 8, 8),
    (1, 2, 1, 33, 45, 17, 5),  # odd sizes: no packs, no pairs
    (2, 4, 2, 64, 64, 64, 64),
    (1, 2, 2, 140, 200, 24, 40),  # several tiles of both
    (1, 1, 1, 70, 100, 64, 128),
    (1, 4, 4, 1, 600, 64, 64),  # keys in parts
    (1, 8, 2, 2, 700, 16, 24),  # in parts, and the heads of a group together
    (1, 2, 2, 70, 70, 130, 40),  # sizes up to 256; not for TF32
    (2, 2, 1, 200, 75, 32, 64),  # warps with 32 queries, in gradients as well
    (1, 3, 3, 140, 90, 100, 128),
    (1, 4, 2, 8, 300, 200, 256),  # the largest heads, in parts
    (1, 1, 1, 30, 20, 300, 31),  # too large for tensor cores
]


@pytest.mark.skipif("cuda" not in backends(cuda=True), reason="needs the emulated CUDA kernels")
@pytest.mark.parametrize("name", ROUNDING)
@pytest.mark.parametrize("kind", ["none", "bool", "float", "padding"])
@pytest.mark.parametrize("shape", TENSOR_SHAPES)
def test_tensor_cores(monkeypatch, name, kind, shape):
    module = load("cuda")
    dtype = np.float32 if name == "tf32" else np.float16
    if name == "tf32":
        monkeypatch.setattr(kernels.precisions, "matmul", "high")
    if name == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    (q, k, v, g), rng = inputs(shape, dtype)
    mask = mask_of(kind, shape, dtype, rng)
    for causal, p in ((False, 0.0), (True, 0.0), (True, 0.3)):
        options = (causal, 0.3, p, 5, 7)
        need = kind == "float"
        y, lse = module.attention_forward(q, k, v, mask, *options)
        want, want_lse = reference.attention_forward(*map(wide, (q, k, v, mask)), *options)
        assert (y.dtype, lse.dtype) == (dtype, np.float32)
        np.testing.assert_array_equal(np.isinf(lse), np.isinf(want_lse))
        got = module.attention_backward(g, q, k, v, mask, y, lse, *options, need)
        grads = reference.attention_backward(*map(wide, (g, q, k, v, mask)), want, want_lse, *options, need)
        for a, b in zip((y, *got), (want, *grads), strict=True):
            if b is not None:
                # Gradients of scores are small differences of numbers that were rounded.
                bound = 16 * ROUNDING[name] * max(1.0, np.abs(b).max())
                assert np.abs(a.astype(np.float64) - b).max(initial=0.0) <= bound


@pytest.mark.skipif("cuda" not in backends(cuda=True), reason="needs the emulated CUDA kernels")
def test_float32_is_exact_unless_tf32_is_allowed(monkeypatch):
    module = load("cuda")
    (q, k, v, _), _ = inputs((1, 1, 1, 40, 90, 32, 32), np.float32)
    want = reference.attention_forward(*map(wide, (q, k, v)), None, False, 0.2, 0.0, 0, 0)[0]
    errors = {}
    for precision in ("highest", "high"):
        monkeypatch.setattr(kernels.precisions, "matmul", precision)
        y = module.attention_forward(q, k, v, None, False, 0.2, 0.0, 0, 0)[0]
        errors[precision] = np.abs(y - want).max()
    assert errors["highest"] < 1e-6 < 1e-5 < errors["high"] < 1e-3


@pytest.mark.skipif("cuda" not in backends(cuda=True), reason="needs the emulated CUDA kernels")
@pytest.mark.parametrize("rows", [(100, 4096), (4096, 40)])  # sums over keys, over queries
def test_long_sums_of_float32_do_not_shrink(rows):
    """Tensor cores cut their sums toward zero, by 2^-15 after so many products."""
    module = load("cuda")
    (q, k, v, g), _ = inputs((1, 4, 4, *rows, 64, 64), np.float32)
    v, g, options = np.abs(v), np.abs(g), (False, 0.1, 0.0, 0, 0)
    y, lse = module.attention_forward(q, k, v, None, *options)
    grad_value = module.attention_backward(g, q, k, v, None, y, lse, *options, False)[2]
    q, k, v, g = map(wide, (q, k, v, g))
    want, want_lse = reference.attention_forward(q, k, v, None, *options)
    grads = reference.attention_backward(g, q, k, v, None, want, want_lse, *options, False)
    for a, b in ((y, want), (grad_value, grads[2])):
        assert np.abs(a - b).max() < 2.0**-18 * np.abs(b).max()


@pytest.mark.skipif("cuda" not in backends(cuda=True), reason="needs the emulated CUDA kernels")
@pytest.mark.parametrize("name", ["float16", "float32"])
@pytest.mark.parametrize(
    ("shape", "p"),
    [
        ((1, 1, 1, 1030, 1030, 64, 40), 0.0),  # a block has 16 queries
        ((1, 1, 1, 530, 1100, 128, 128), 0.2),
        ((1, 16, 8, 520, 520, 16, 16), 0.0),  # 128
    ],
)
def test_causal_blocks_whose_part_of_the_keys_is_hidden(many_multiprocessors, name, shape, p):
    (q, k, v, _), _ = inputs(shape, name)
    options = (None, True, 0.2, p, 5, 7)
    y, lse = load("cuda").attention_forward(q, k, v, *options)
    want, want_lse = reference.attention_forward(*map(wide, (q, k, v)), *options)
    bound = {"float16": 2.0**-9, "float32": 2.0**-16}[name]
    assert np.abs(y - want).max() < bound * np.abs(want).max()
    np.testing.assert_allclose(lse, want_lse, rtol=bound, atol=bound)


@pytest.fixture
def many_multiprocessors():
    """As many as a large GPU has: then few queries are not enough for all of them, and keys are split."""
    if not emulation.on_gpu():
        emulation.extension().set_device(90, 227 << 10, 132)
    yield
    if not emulation.on_gpu():
        emulation.extension().set_device(90, 227 << 10)

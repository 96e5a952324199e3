"""Attention: kernels against the definition on every level, the function and its layers against torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import kernels, nn
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends, check_gradient, load, thread_counts

DTYPES = (np.float32, np.float64)
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
    before = module.num_threads()
    try:
        for causal, p in ((False, 0.0), (True, 0.2)):
            options = (causal, 0.3, p, 11, 3)
            seen = {}
            for threads in (*THREADS, *THREADS):
                module.set_num_threads(threads)
                y, lse = module.attention_forward(q, k, v, mask, *options)
                grads = module.attention_backward(g, q, k, v, mask, y, lse, *options, True)
                for a, b in zip(seen.setdefault(threads, (y, *grads)), (y, *grads), strict=True):
                    np.testing.assert_array_equal(a, b)
            for results in seen.values():
                for a, b in zip(results, seen[1], strict=True):
                    assert_close(a, b, reduction=shape[4])
                if not (causal is False and shape[3] < 4):  # few queries: keys are split over threads
                    np.testing.assert_array_equal(results[0], seen[1][0])
    finally:
        module.set_num_threads(before)


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
    for causal, p in ((False, 0.0), (True, 0.3)):
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


# The function ------------------------------------------------------------------------------------------


def both(arrays, call, options=None, mask=None, mask_grad=False):
    """Result and gradients of the function here and in torch."""
    torch = pytest.importorskip("torch")
    results = []
    weights = None
    for lib, function in ((fastdl, F), (torch, torch.nn.functional)):
        tensors = [lib.from_numpy(a.copy()).requires_grad_(True) for a in arrays]
        more = dict(options or {})
        if mask is not None:
            more["attn_mask"] = lib.from_numpy(mask.copy()).requires_grad_(mask_grad)
        y = call(function, tensors, more)
        if weights is None:
            weights = np.random.default_rng(9).standard_normal(tuple(y.shape)).astype(arrays[0].dtype)
        y.backward(lib.from_numpy(weights))
        grads = [t.grad for t in tensors] + ([more["attn_mask"].grad] if mask_grad else [])
        results.append([y.detach().numpy(), *[g.numpy() for g in grads]])
    return results


def compare(arrays, options=None, mask=None, mask_grad=False):
    ours, theirs = both(
        arrays, lambda f, t, more: f.scaled_dot_product_attention(*t, **more), options, mask, mask_grad
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, reduction=max(arrays[1].shape[-2], 64))


def arrays_of(*shapes, dtype=np.float64):
    rng = np.random.default_rng(4)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ((5, 8), (7, 8), (7, 6)),
        ((3, 5, 8), (3, 7, 8), (3, 7, 6)),
        ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
        ((2, 2, 3, 5, 8), (2, 2, 3, 7, 8), (2, 2, 3, 7, 6)),
        ((3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),  # leading axes broadcast
        ((1, 3, 5, 8), (2, 3, 7, 8), (2, 1, 7, 8)),
        ((2, 1, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
        ((2, 3, 5, 8), (2, 1, 7, 8), (2, 1, 7, 8)),
        ((5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_leading_axes_agree_with_torch(query, key, value, dtype):
    arrays = arrays_of(query, key, value, dtype=dtype)
    compare(arrays)
    compare(arrays, {"is_causal": True, "scale": 0.7})
    mask = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    compare(arrays, mask=mask, mask_grad=True)
    compare(arrays, mask=mask > 0)


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((2, 3, 5, 8), (2, 1, 5, 7)),
        ((2, 3, 5, 8), (3, 1, 7)),
        ((2, 3, 5, 8), (5, 1)),
        ((2, 2, 3, 5, 8), (2, 2, 3, 5, 7)),
        ((2, 2, 3, 5, 8), (2, 1, 1, 1, 7)),
        ((2, 2, 3, 5, 8), (3, 5, 7)),
        ((3, 5, 8), (3, 5, 7)),
    ],
)
def test_masks_agree_with_torch(shape, mask):
    other = (*shape[:-2], 7, 8)
    values = np.random.default_rng(0).standard_normal(mask)
    compare(arrays_of(shape, other, other), mask=values, mask_grad=True)
    compare(arrays_of(shape, other, other), mask=values > -0.5)


@pytest.mark.parametrize("lengths", [(5, 9), (9, 5), (70, 33), (40, 300)])
def test_causal_is_aligned_at_the_first_query(lengths):
    rows, columns = lengths
    compare(arrays_of((1, 2, rows, 8), (1, 2, columns, 8), (1, 2, columns, 8)), {"is_causal": True})


@pytest.mark.parametrize("heads", [(6, 2, 2), (6, 3, 3), (6, 1, 1), (6, 3, 6)])
def test_grouped_heads_agree_with_torch(heads):
    q, k, v = arrays_of(*[(2, h, n, 8) for h, n in zip(heads, (5, 7, 7), strict=True)])
    compare([q, k, v], {"enable_gqa": True})
    compare([q[0], k[0], v[0]], {"enable_gqa": True, "is_causal": True})


def test_rows_that_see_nothing_agree_with_torch():
    mask = np.ones((5, 7), bool)
    mask[[0, 3]] = False
    arrays = arrays_of((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8))
    compare(arrays, mask=mask)
    compare(arrays, mask=np.where(mask, 0.0, -np.inf), mask_grad=True)
    q, k, v = (fastdl.from_numpy(a) for a in arrays)
    assert not F.scaled_dot_product_attention(q, k, v, fastdl.from_numpy(mask)).numpy()[:, :, [0, 3]].any()
    assert not F.scaled_dot_product_attention(q, k[:, :, :0], v[:, :, :0]).numpy().any()


@pytest.mark.parametrize("size", [1, 3, 40, 128, 200, 512])
def test_head_sizes_agree_with_torch(size):
    compare(arrays_of((1, 2, 20, size), (1, 2, 30, size), (1, 2, 30, size), dtype=np.float32))


def test_gradients():
    q, k, v, bias = arrays_of((1, 4, 6, 5), (1, 2, 9, 5), (1, 2, 9, 3), (4, 6, 9))

    def function(q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, bias, scale=0.9, enable_gqa=True)

    check_gradient(function, q, k, v, bias)

    def dropped(q, k, v, bias):
        fastdl.manual_seed(5)
        return F.scaled_dot_product_attention(q, k, v, bias, dropout_p=0.4, enable_gqa=True)

    check_gradient(dropped, q, k, v, bias)
    check_gradient(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q[:, :2], k, v)


def test_only_wanted_gradients():
    q, k, v, bias = (
        fastdl.from_numpy(a) for a in arrays_of((1, 2, 6, 5), (1, 2, 9, 5), (1, 2, 9, 3), (6, 9))
    )
    bias.requires_grad_(True)
    F.scaled_dot_product_attention(q, k, v, bias).sum().backward()
    assert bias.grad.shape == (6, 9)
    assert q.grad is None
    assert not F.scaled_dot_product_attention(q, k, v, bias.detach()).requires_grad


def test_dropout():
    """Weights are dropped with the wanted frequency and the rest scaled; the seed decides, on every backend."""
    q, k = (fastdl.zeros(1, 2, 50, 4) for _ in range(2))
    v = fastdl.from_numpy(np.broadcast_to(np.eye(50, dtype=np.float32), (1, 2, 50, 50)).copy())
    fastdl.manual_seed(3)
    weights = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
    array = weights.numpy() * 50
    assert set(np.round(np.unique(array), 4)) == {np.float32(0), np.float32(1.3333)}
    assert abs(np.mean(array == 0) - 0.25) < 0.03
    fastdl.manual_seed(3)
    with fastdl.use_backend("reference"):
        again = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
    assert_close(again, weights)
    assert not F.scaled_dot_product_attention(q, k, v, dropout_p=1.0).numpy().any()


def test_changed_inputs_are_noticed():
    q, k, v = (fastdl.from_numpy(a).requires_grad_(True) for a in arrays_of((2, 4), (3, 4), (3, 4)))
    y = F.scaled_dot_product_attention(q * 1, k, v)
    with fastdl.no_grad():
        k.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_messages():
    q = fastdl.zeros(2, 3, 5, 8)
    call = F.scaled_dot_product_attention
    with pytest.raises(ValueError, match=r"query must have at least 2 dimensions .* got \(8,\)"):
        call(fastdl.zeros(8), q, q)
    with pytest.raises(TypeError, match=r"share one dtype.*float64"):
        call(q.double(), q, q)
    with pytest.raises(TypeError, match="share one dtype"):
        call(q.long(), q.long(), q.long())
    with pytest.raises(ValueError, match="agree in their last dimension"):
        call(q, fastdl.zeros(2, 3, 5, 7), q)
    with pytest.raises(ValueError, match="same length"):
        call(q, q, fastdl.zeros(2, 3, 4, 8))
    with pytest.raises(ValueError, match=r"do not broadcast.*enable_gqa"):
        call(fastdl.zeros(2, 6, 5, 8), q, q)
    with pytest.raises(ValueError, match=r"must divide those of query, got 4 for query .* and 3 for key"):
        call(fastdl.zeros(2, 4, 5, 8), q, q, enable_gqa=True)
    with pytest.raises(ValueError, match="cannot be combined with attn_mask"):
        call(q, q, q, fastdl.zeros(5, 5), is_causal=True)
    with pytest.raises(TypeError, match=r"attn_mask must be bool .* got int64"):
        call(q, q, q, fastdl.zeros(5, 5, dtype=fastdl.int64))
    for shape in ((5,), (4, 5), (2, 5, 5), (1, 1, 1, 5, 5), (4, 3, 5, 5)):
        with pytest.raises(ValueError, match="attn_mask must have 2 to 4 dimensions and broadcast"):
            call(q, q, q, fastdl.zeros(shape))
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="dropout_p, the probability"):
            call(q, q, q, dropout_p=p)


# Layers ------------------------------------------------------------------------------------------------


def twin(ours, theirs):
    """Both with torch's values and torch's keys."""
    state = {name: fastdl.from_numpy(t.detach().numpy().copy()) for name, t in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    assert repr(ours) == repr(theirs)
    return ours, theirs


def run_both(ours, theirs, arrays, call, reduction=64):
    """Outputs, gradients of inputs and of parameters agree."""
    import torch

    outputs = []
    for lib, module in ((fastdl, ours), (torch, theirs)):
        tensors = [lib.from_numpy(a.copy()).requires_grad_(True) for a in arrays]
        result = call(lib, module, tensors)
        result = result if isinstance(result, tuple) else (result,)
        values = [t for t in result if t is not None]
        total = sum((t * t).sum() for t in values)
        total.backward()
        grads = [t.grad for t in tensors] + [p.grad for p in module.parameters()]
        outputs.append(
            [t.detach().numpy() for t in values] + [None if g is None else g.numpy() for g in grads]
        )
    for a, b in zip(*outputs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b, reduction=reduction)


def masks_for(kind, n, h, rows, columns):
    rng = np.random.default_rng(6)
    attn = padding = None
    if kind in ("attn", "both"):
        attn = rng.random((rows, columns)) < 0.3
        attn[:, 0] = False
    if kind == "attn3":
        attn = rng.standard_normal((n * h, rows, columns))
    if kind == "float":
        attn, padding = rng.standard_normal((rows, columns)), rng.standard_normal((n, columns))
    if kind in ("padding", "both"):
        padding = np.arange(columns) >= np.array([columns, 4, 2, 5][:n])[:, None]
    return attn, padding


OPTIONS = [
    {},
    {"bias": False},
    {"kdim": 5, "vdim": 7},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    {"batch_first": True},
    {"batch_first": True, "kdim": 5, "bias": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["none", "attn", "attn3", "padding", "both", "float"])
def test_multihead_attention_agrees_with_torch(options, kind):
    torch = pytest.importorskip("torch")
    n, h, rows, columns = 3, 2, 6, 9
    ours, theirs = twin(
        nn.MultiheadAttention(8, h, **options, dtype=fastdl.float64),
        torch.nn.MultiheadAttention(8, h, **options, dtype=torch.float64),
    )
    attn, padding = masks_for(kind, n, h, rows, columns)
    first = options.get("batch_first", False)
    arrays = arrays_of(
        *[
            (n, length, size) if first else (length, n, size)
            for length, size in (
                (rows, 8),
                (columns, options.get("kdim", 8)),
                (columns, options.get("vdim", 8)),
            )
        ]
    )
    for need, average in ((True, True), (True, False), (False, True)):

        def call(lib, module, tensors, need=need, average=average):
            masks = [None if m is None else lib.from_numpy(m) for m in (padding, attn)]
            return module(
                *tensors,
                key_padding_mask=masks[0],
                attn_mask=masks[1],
                need_weights=need,
                average_attn_weights=average,
            )

        run_both(ours, theirs, arrays, call)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need", [False, True])
def test_self_attention_agrees_with_torch(batch_first, need):
    """One tensor three times (the packed projection), causal hint, no batch."""
    torch = pytest.importorskip("torch")
    ours, theirs = twin(
        nn.MultiheadAttention(12, 3, batch_first=batch_first, dtype=fastdl.float64),
        torch.nn.MultiheadAttention(12, 3, batch_first=batch_first, dtype=torch.float64),
    )
    for shape in ((4, 4, 12), (4, 12)):
        run_both(ours, theirs, arrays_of(shape), lambda lib, m, t: m(*t * 3, need_weights=need))
        future = np.triu(np.ones((4, 4), bool), 1)
        run_both(
            ours,
            theirs,
            arrays_of(shape),
            lambda lib, m, t: m(*t * 3, attn_mask=lib.from_numpy(future), is_causal=True, need_weights=need),
        )
    x = fastdl.from_numpy(arrays_of((4, 4, 12))[0])
    hinted = ours(x, x, x, is_causal=True, need_weights=need)[0]  # the mask may be left out
    masked = ours(x, x, x, attn_mask=fastdl.from_numpy(future), need_weights=need)[0]
    assert_close(hinted, masked)
    pad = fastdl.from_numpy(np.arange(4) >= np.array([4, 3, 2, 1])[:, None])
    hinted = ours(x, x, x, key_padding_mask=pad, is_causal=True, need_weights=need)[0]
    masked = ours(x, x, x, key_padding_mask=pad, attn_mask=fastdl.from_numpy(future), need_weights=need)[0]
    assert_close(hinted, masked)


def test_multihead_attention_dropout_and_training():
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = fastdl.ones(2, 40, 8)
    for need in (False, True):
        assert not np.array_equal(
            layer(x, x, x, need_weights=need)[0].detach().numpy()[0, 0],
            layer(x, x, x, need_weights=need)[0].detach().numpy()[0, 0],
        )
    weights = layer(x, x, x, average_attn_weights=False)[1].detach().numpy() * 40
    assert set(np.round(np.unique(weights), 4)) == {np.float32(0), np.float32(2)}
    layer.eval()
    np.testing.assert_array_equal(*[layer(x, x, x, need_weights=False)[0].detach().numpy() for _ in range(2)])


def test_multihead_attention_messages():
    with pytest.raises(ValueError, match="positive multiple of num_heads, got embed_dim=8, num_heads=3"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(ValueError, match="dropout must be between"):
        nn.MultiheadAttention(8, 2, dropout=1.5)
    layer = nn.MultiheadAttention(8, 2)
    x = fastdl.zeros(5, 3, 8)
    with pytest.raises(ValueError, match="must all be"):
        layer(x, x[0], x)
    with pytest.raises(ValueError, match=r"last dimension of key must be 8, got \(5, 3, 7\)"):
        layer(x, fastdl.zeros(5, 3, 7), x)
    with pytest.raises(ValueError, match="query the same batch"):
        layer(x, fastdl.zeros(5, 2, 8), fastdl.zeros(5, 2, 8))
    with pytest.raises(ValueError, match=r"attn_mask must be .*\(6, 5, 5\), got \(4, 5\)"):
        layer(x, x, x, attn_mask=fastdl.zeros(4, 5))
    with pytest.raises(ValueError, match=r"key_padding_mask must be \(N, S\) = \(3, 5\), got \(5, 3\)"):
        layer(x, x, x, key_padding_mask=fastdl.zeros(5, 3, dtype=fastdl.bool))
    with pytest.raises(TypeError, match="attn_mask must be bool or float, got int64"):
        layer(x, x, x, attn_mask=fastdl.zeros(5, 5, dtype=fastdl.int64))
    with pytest.raises(ValueError, match="need_weights=False and no masks"):
        layer(x, x, x, cache=nn.KVCache())


def functional_arguments(lib, options, static, rng):
    """Arguments of multi_head_attention_forward after the three inputs, and the tensors among them."""
    e, h, n, columns = 8, 2, 3, 9
    kdim, vdim = options.get("kdim", e), options.get("vdim", e)
    separate = "kdim" in options
    shapes = {"in_proj_bias": (3 * e,), "out_proj_weight": (e, e), "out_proj_bias": (e,)}
    if separate:
        shapes |= {"q_proj_weight": (e, e), "k_proj_weight": (e, kdim), "v_proj_weight": (e, vdim)}
    else:
        shapes["in_proj_weight"] = (3 * e, e)
    if options.get("bias_kv"):
        shapes |= {"bias_k": (1, 1, e), "bias_v": (1, 1, e)}
    if static:
        shapes |= {"static_k": (n * h, columns, e // h), "static_v": (n * h, columns, e // h)}
    tensors = {
        name: lib.from_numpy(rng.standard_normal(shape)).requires_grad_(True)
        for name, shape in shapes.items()
    }
    given = dict.fromkeys(("in_proj_weight", "bias_k", "bias_v")) | tensors
    if options.get("no_bias"):
        given["in_proj_bias"] = given["out_proj_bias"] = None
    given |= {
        "use_separate_proj_weight": separate,
        "add_zero_attn": options.get("zero", False),
        "dropout_p": 0.4,
    }
    return {"embed_dim_to_check": e, "num_heads": h, "training": False, **given}, tensors


@pytest.mark.parametrize(
    "options",
    [{}, {"no_bias": True}, {"kdim": 5, "vdim": 7}, {"bias_kv": True, "zero": True}, {"static": True}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["none", "attn3", "both", "float"])
def test_multi_head_attention_forward_agrees_with_torch(options, kind):
    torch = pytest.importorskip("torch")
    n, h, rows, columns = 3, 2, 6, 9
    attn, padding = masks_for(kind, n, h, rows, columns)
    sizes = (8, options.get("kdim", 8), options.get("vdim", 8))
    arrays = arrays_of(*[(t, n, size) for t, size in zip((rows, columns, columns), sizes, strict=True)])
    for need, average in ((True, True), (True, False), (False, True)):
        results = []
        for lib, functions in ((fastdl, F), (torch, torch.nn.functional)):
            given, tensors = functional_arguments(
                lib, options, options.get("static", False), np.random.default_rng(8)
            )
            inputs = [lib.from_numpy(a.copy()).requires_grad_(True) for a in arrays]
            y, weights = functions.multi_head_attention_forward(
                *inputs,
                **given,
                key_padding_mask=None if padding is None else lib.from_numpy(padding),
                attn_mask=None if attn is None else lib.from_numpy(attn),
                need_weights=need,
                average_attn_weights=average,
            )
            assert (weights is not None) == need
            ((y * y).sum() + (0 if weights is None else (weights * weights).sum())).backward()
            grads = [t.grad for t in [*inputs, *tensors.values()]]
            results.append([y.detach(), weights if weights is None else weights.detach(), *grads])
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert tuple(a.shape) == tuple(b.shape)
                assert_close(a.numpy(), b.numpy(), reduction=200)


def test_multi_head_attention_forward_without_a_batch_and_causal():
    torch = pytest.importorskip("torch")
    arrays = arrays_of((5, 8), (24, 8), (8, 8))
    future = np.triu(np.ones((5, 5), bool), 1)
    padding = np.arange(5) > 3
    for need in (True, False):
        results = []
        for lib, functions in ((fastdl, F), (torch, torch.nn.functional)):
            x, packed, out = (lib.from_numpy(a) for a in arrays)
            y, weights = functions.multi_head_attention_forward(
                *(x, x, x, 8, 2, packed, None, None, None, False, 0.0, out, None),
                key_padding_mask=lib.from_numpy(padding),
                attn_mask=lib.from_numpy(future),
                is_causal=True,
                need_weights=need,
            )
            results.append([y.numpy()] + ([weights.numpy()] if need else []))
        for a, b in zip(*results, strict=True):
            assert a.shape == b.shape
            assert_close(a, b, reduction=50)


def test_multi_head_attention_forward_messages():
    x, w, packed = fastdl.zeros(5, 3, 8), fastdl.zeros(8, 8), fastdl.zeros(24, 8)

    def call(size=8, heads=2, weight=packed, p=0.0, bias_k=None, **options):
        return F.multi_head_attention_forward(
            x,
            x,
            x,
            size,
            heads,
            weight,
            None,
            bias_k,
            options.pop("bias_v", None),
            False,
            p,
            w,
            None,
            **options,
        )

    with pytest.raises(ValueError, match=r"embed_dim_to_check=6, got \(5, 3, 8\)"):
        call(size=6)
    with pytest.raises(ValueError, match="num_heads must divide the embedding's size 8, got 3"):
        call(heads=3)
    with pytest.raises(ValueError, match=r"in_proj_weight must be .*\(24, 8\), got None"):
        call(weight=None)
    with pytest.raises(ValueError, match=r"in_proj_weight must be .*\(24, 8\), got \(8, 8\)"):
        call(weight=w)
    with pytest.raises(ValueError, match="needs q_proj_weight, k_proj_weight and v_proj_weight"):
        call(use_separate_proj_weight=True, q_proj_weight=w)
    with pytest.raises(ValueError, match="dropout_p must be between 0 and 1"):
        call(p=2.0)
    with pytest.raises(ValueError, match="bias_k and bias_v come together"):
        call(bias_k=fastdl.zeros(1, 1, 8))
    row, static = fastdl.zeros(1, 1, 8), fastdl.zeros(6, 5, 4)
    with pytest.raises(ValueError, match="static_k and bias_k exclude each other"):
        call(bias_k=row, bias_v=row, static_k=static)
    with pytest.raises(ValueError, match=r"static_v must be .*\(6, S, 4\), got \(5, 5, 4\)"):
        call(static_v=static[1:])


# Cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [[1] * 9, [4, 1, 1, 3], [9], [2, 7]], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_with_a_cache_equal_the_full_pass(steps, batch_first):
    layer = nn.MultiheadAttention(12, 3, batch_first=batch_first, dtype=fastdl.float64)
    x = fastdl.from_numpy(arrays_of((2, 9, 12) if batch_first else (9, 2, 12))[0])
    axis = 1 if batch_first else 0
    with fastdl.no_grad():
        want = layer(x, x, x, is_causal=True, need_weights=False)[0].numpy()
        cache = nn.KVCache()
        parts = []
        for part in x.split(steps, axis):
            parts.append(layer(part, part, part, need_weights=False, cache=cache)[0].numpy())
    assert len(cache) == 9
    assert_close(np.concatenate(parts, axis), want)


def test_cache_with_grouped_heads_and_reset():
    q, k, v = (fastdl.from_numpy(a) for a in arrays_of((2, 6, 9, 8), (2, 2, 9, 8), (2, 2, 9, 5)))
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    cache = nn.KVCache(max_length=4)
    for _ in range(2):
        got = [cache.attend(*(t[:, :, i : i + 1] for t in (q, k, v))).numpy() for i in range(9)]
        assert_close(np.concatenate(got, 2), want)
        cache.reset()
        assert len(cache) == 0
    other = fastdl.zeros(1, 4, 3, 7)  # after a reset anything may come
    assert cache.append(other, other)[0].shape == (1, 4, 3, 7)


def test_cache_messages():
    cache = nn.KVCache()
    x = fastdl.zeros(1, 2, 3, 4)
    with pytest.raises(RuntimeError, match="keeps no graph"):
        cache.append(x.requires_grad_(True), x)
    x = x.detach()
    with pytest.raises(ValueError, match=r"\(batch, heads, new, size\)"):
        cache.append(x[0], x[0])
    with pytest.raises(ValueError, match="same first three"):
        cache.append(x, x[:, :, :2])
    cache.append(x, x)
    with pytest.raises(ValueError, match="cache holds"):
        cache.append(fastdl.zeros(1, 3, 1, 4), fastdl.zeros(1, 3, 1, 4))
    with pytest.raises(ValueError, match="cache holds"):
        cache.append(x.double(), x.double())


# Sequence to sequence ----------------------------------------------------------------------------------


def test_additive_attention():
    layer = nn.AdditiveAttention(4, 6, 5, dtype=fastdl.float64)
    query, key, value = arrays_of((2, 3, 4), (2, 7, 6), (2, 7, 2))
    padding = np.arange(7) >= np.array([7, 4])[:, None]
    w, u, b, v = (p.detach().numpy() for p in layer.parameters())
    hidden = np.tanh((query @ w.T)[:, :, None] + (key @ u.T + b)[:, None])
    scores = np.where(padding[:, None], -np.inf, hidden @ v[0])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    tensors = [fastdl.from_numpy(a) for a in (query, key, value)]
    context, got = layer(*tensors, key_padding_mask=fastdl.from_numpy(padding))
    assert_close(got, weights)
    assert_close(context, weights @ value)
    single, one = layer(tensors[0][:, 1], *tensors[1:], key_padding_mask=fastdl.from_numpy(padding))
    assert_close(single, context.detach().numpy()[:, 1])
    assert_close(one, weights[:, 1])
    check_gradient(lambda q, k: layer(q, k)[0], query, key)


@pytest.mark.parametrize("kind", ["general", "dot", "scaled"])
def test_multiplicative_attention(kind):
    size = 6 if kind == "general" else 4
    layer = nn.MultiplicativeAttention(4, size, kind, dtype=fastdl.float64)
    query, key = arrays_of((2, 3, 4), (2, 7, size))
    mapped = key @ layer.key_proj.weight.detach().numpy().T if kind == "general" else key
    scores = query @ np.swapaxes(mapped, 1, 2) / (2 if kind == "scaled" else 1)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    context, got = layer(fastdl.from_numpy(query), fastdl.from_numpy(key))
    assert_close(got, weights)
    assert_close(context, weights @ key)
    check_gradient(lambda q, k: layer(q, k)[0], query, key)


def test_scored_attention_messages():
    with pytest.raises(ValueError, match="kind must be"):
        nn.MultiplicativeAttention(4, 4, "cosine")
    with pytest.raises(ValueError, match="needs query_dim == key_dim, got 4 and 6"):
        nn.MultiplicativeAttention(4, 6, "dot")
    layer = nn.AdditiveAttention(4, 6, 5)
    query, key = fastdl.zeros(2, 3, 4), fastdl.zeros(2, 7, 6)
    with pytest.raises(ValueError, match="AdditiveAttention: query must be"):
        layer(query, key[0])
    with pytest.raises(ValueError, match="same length and batch"):
        layer(query, key, key[:, :5])
    with pytest.raises(ValueError, match="key_padding_mask must be bool"):
        layer(query, key, key_padding_mask=fastdl.zeros(2, 7))

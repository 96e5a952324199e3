"""Attention: kernels against the definition on every level, the function and its layers against torch."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from parity import DTYPES, assert_close, check_gradient

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
    with pytest.raises(RuntimeError, match="share one dtype"):
        call(q.long(), q.long(), q.long())
    with pytest.raises(ValueError, match="agree in their last dimension"):
        call(q, fastdl.zeros(2, 3, 5, 7), q)
    with pytest.raises(ValueError, match="same length"):
        call(q, q, fastdl.zeros(2, 3, 4, 8))
    with pytest.raises(ValueError, match=r"do not broadcast.*enable_gqa"):
        call(fastdl.zeros(2, 6, 5, 8), q, q)
    with pytest.raises(ValueError, match=r"must divide those of query, got 4 for query .* and 3 for key"):
        call(fastdl.zeros(2, 4, 5, 8), q, q, enable_gqa=True)
    with pytest.raises(TypeError, match=r"attn_mask must be bool .* got int64"):
        call(q, q, q, fastdl.zeros(5, 5, dtype=fastdl.int64))
    for shape in ((5,), (4, 5), (2, 5, 5), (1, 1, 1, 5, 5), (4, 3, 5, 5)):
        with pytest.raises(ValueError, match="attn_mask must have 2 to 4 dimensions and broadcast"):
            call(q, q, q, fastdl.zeros(shape))
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="dropout_p, the probability"):
            call(q, q, q, dropout_p=p)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_mask_in_float32_fits_queries_of_any_dtype(dtype):
    torch = pytest.importorskip("torch")
    q = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    mask = np.float32([[0, -1, -np.inf], [0, 0, 1], [2, 0, 0]])
    got, expected = [
        lib.nn.functional.scaled_dot_product_attention(
            *[lib.tensor(q, dtype=getattr(lib, dtype))] * 3, lib.tensor(mask)
        )
        for lib in (fastdl, torch)
    ]
    assert str(got.dtype) == dtype
    np.testing.assert_allclose(got.numpy(), expected.numpy(), 2e-2 if dtype == "float16" else 1e-12)

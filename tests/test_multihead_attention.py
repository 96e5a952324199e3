"""Multi-head attention, its caches and scored attention: layers and functions against torch."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import nn
from parity import assert_close, check_gradient
from test_attention import arrays_of

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

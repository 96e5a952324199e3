"""``nn.attention``: scores and masks that are functions, causal biases; beside PyTorch."""

from __future__ import annotations

import copy
import importlib

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl.nn.attention import SDPBackend, sdpa_kernel
from fastdl.nn.attention import bias as biases
from fastdl.nn.attention.flex_attention import (
    AuxRequest,
    BlockMask,
    and_masks,
    create_block_mask,
    create_mask,
    flex_attention,
    noop_mask,
    or_masks,
)

RNG = np.random.default_rng(0)
B, H, L, S, E = 2, 4, 9, 9, 8
QUERY, KEY, VALUE = (RNG.standard_normal((B, H, n, E)) for n in (L, S, S))
SLOPES, TABLE, DOCUMENT = RNG.random(H), RNG.standard_normal((H, 2 * S)), np.sort(RNG.integers(0, 3, S))
WEIGHTS = RNG.standard_normal((B, H, L, E))


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx <= 2)


def by_head(b, h, q_idx, kv_idx):
    return (h % 2 == 0) | (kv_idx > q_idx + b)


# A function of the library, of tensors with gradients and of index tensors that gives a score_mod or a mask_mod.
SCORES = {
    "same": lambda lib, t: lambda score, b, h, q, k: score,
    "causal": lambda lib, t: lambda score, b, h, q, k: lib.where(q >= k, score, -float("inf")),
    "relative": lambda lib, t: lambda score, b, h, q, k: score + (q - k),
    "alibi": lambda lib, t: lambda score, b, h, q, k: score + t["slopes"][h] * (k - q),
    "table": lambda lib, t: lambda score, b, h, q, k: score + t["table"][h, q - k + S],
    "capped": lambda lib, t: lambda score, b, h, q, k: 2.0 * lib.tanh(score / 2.0),
    "documents": lambda lib, t: (
        lambda score, b, h, q, k: lib.where(
            t["document"][q] == t["document"][k], score * t["slopes"][h], -float("inf")
        )
    ),
    "per batch": lambda lib, t: lambda score, b, h, q, k: score * (b + 1) - t["slopes"][(q + k) % H],
}
MASKS = {
    "causal": lambda lib, t: causal,
    "window": lambda lib, t: window,
    "heads": lambda lib, t: by_head,
    "documents": lambda lib, t: lambda b, h, q, k: t["document"][q] == t["document"][k],
    "prefix": lambda lib, t: lambda b, h, q, k: (k < 3) | (q >= k),
    "blind": lambda lib, t: lambda b, h, q, k: q > k,
}


def both(score=None, mask=None, shapes=(None, None), **options):
    """Results of flex_attention here and in torch, whose CPU has no gradients of it: they are those of its formula."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention import flex_attention as theirs

    results = []
    for lib, module in (
        (fastdl, importlib.import_module("fastdl.nn.attention.flex_attention")),
        (torch, theirs),
    ):
        q, k, v = (lib.tensor(a, requires_grad=lib is fastdl) for a in (QUERY, KEY, VALUE))
        t = {n: lib.tensor(a, requires_grad=lib is fastdl) for n, a in (("slopes", SLOPES), ("table", TABLE))}
        t["document"] = lib.tensor(DOCUMENT)
        leaves = [q, k, v, t["slopes"], t["table"]]
        if options.get("enable_gqa"):
            k, v = k[:, :2], v[:, :2]
        more = dict(options)
        if score is not None:
            more["score_mod"] = SCORES[score](lib, t)
        if mask is not None:
            mod = MASKS[mask](lib, t)
            more["block_mask"] = module.create_block_mask(mod, *shapes, L, S, device="cpu", BLOCK_SIZE=4)
        y = module.flex_attention(q, k, v, **more)
        y, lse = y if options.get("return_lse") else (y, None)
        got = [y] if lse is None else [y, lse]
        if lib is torch:
            for leaf in leaves:
                leaf.requires_grad_()
            groups = k.shape[1]
            wide = [x[:, :groups].repeat_interleave(H // groups, 1) for x in leaves[1:3]]
            y = formula(torch, q, *wide, more.get("score_mod"), mask and mod, options.get("scale", E**-0.5))
        (y * lib.tensor(WEIGHTS)).sum().backward()
        got += [x.grad for x in leaves if x.grad is not None]
        results.append([x.detach().numpy() for x in got])
    return results


def formula(torch, q, k, v, score_mod, mask_mod, scale):
    n = [
        torch.arange(size).reshape([size if i == axis else 1 for i in range(4)])
        for axis, size in enumerate((B, H, L, S))
    ]
    scores = q @ k.mT * scale
    if score_mod is not None:
        scores = score_mod(scores, *n)
    if mask_mod is not None:
        scores = torch.where(mask_mod(*n), scores, -torch.inf)
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(blind, 0), -1).masked_fill(blind, 0) @ v


def compare(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        # PyTorch's log-sum-exp is float32.
        np.testing.assert_allclose(a, b, rtol=1e-5 if b.dtype == np.float32 else 1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("score", SCORES)
def test_scores_are_torch_s(score):
    compare(*both(score))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_torch_s(mask):
    compare(*both(mask=mask, shapes=(B, H) if mask == "heads" else (None, None)))


@pytest.mark.filterwarnings("ignore")
def test_both_together_are_torch_s():
    compare(*both("alibi", "window", scale=0.3, return_lse=True))
    compare(*both("capped", "blind", return_lse=True))
    compare(*both("alibi", "causal", enable_gqa=True))
    compare(*both(None, "causal", enable_gqa=True))


def test_half_precision_and_aux():
    q, k, v = (fastdl.tensor(a.astype(np.float32)) for a in (QUERY, KEY, VALUE))
    (want, aux), (half, none) = (
        flex_attention(*t, score_mod=lambda s, b, h, i, j: s + i, return_aux=AuxRequest(lse, not lse))
        for t, lse in (((q, k, v), True), ([x.bfloat16() for x in (q, k, v)], False))
    )
    assert half.dtype == fastdl.bfloat16
    np.testing.assert_allclose(half.float().numpy(), want.numpy(), atol=0.05)
    assert aux.max_scores is None
    assert none.lse is None
    assert none.max_scores.shape == aux.lse.shape == (B, H, L)
    assert (aux.lse.numpy() > none.max_scores.numpy() - 0.1).all()


def test_a_mask_alone_takes_the_fused_kernel(monkeypatch):
    calls = []
    original = F.scaled_dot_product_attention
    monkeypatch.setattr(
        "fastdl.nn.attention.flex_attention.scaled_dot_product_attention",
        lambda *a, **o: calls.append(1) or original(*a, **o),
    )
    q = fastdl.tensor(QUERY)
    mask = create_block_mask(causal, None, None, L, L)
    want = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    np.testing.assert_allclose(flex_attention(q, q, q, block_mask=mask).numpy(), want.numpy(), atol=1e-12)
    assert calls == [1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(("rows", "columns", "block"), [(300, 500, 128), (256, 256, (64, 128)), (5, 7, 16)])
def test_blocks_are_torch_s(rows, columns, block, separate):
    torch = pytest.importorskip("torch")
    from torch.nn.attention import flex_attention as theirs

    options = {"device": "cpu", "BLOCK_SIZE": block, "separate_full_blocks": separate}
    ours = create_block_mask(window, None, 2, rows, columns, **options)
    want = theirs.create_block_mask(window, None, 2, rows, columns, **options)
    assert ours.shape == want.shape
    assert ours.numel() == want.numel()
    assert ours.sparsity() == pytest.approx(want.sparsity())
    names = [
        f"{full}{side}_{what}"
        for full in ("", "full_")
        for side in "q kv".split()
        for what in ("num_blocks", "indices")
    ]
    for name in names:
        a, b = getattr(ours, name), getattr(want, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert str(a.dtype) in str(b.dtype)
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    np.testing.assert_array_equal(ours.to_dense().numpy(), want.to_dense().numpy())
    again = BlockMask.from_kv_blocks(
        ours.kv_num_blocks,
        ours.kv_indices,
        ours.full_kv_num_blocks,
        ours.full_kv_indices,
        block,
        window,
        (rows, columns),
    )
    np.testing.assert_array_equal(again.dense().numpy(), create_mask(window, None, 2, rows, columns).numpy())
    for index in (0, (0, 1), (slice(None), slice(None), slice(0, 2))):
        a, b = ours[index], want[index]
        assert a.kv_num_blocks.shape == tuple(b.kv_num_blocks.shape)
        assert a.shape == b.shape
    assert torch.equal(torch.tensor(ours[0, 1].kv_indices.numpy()), want[0, 1].kv_indices)


def test_masks_are_joined_and_evaluated():
    first = and_masks(causal, by_head)
    either = or_masks(window, by_head)
    shape = (2, 2, 4, 5)
    parts = [create_mask(m, *shape).numpy() for m in (causal, by_head, window, first, either, noop_mask)]
    np.testing.assert_array_equal(parts[3], parts[0] & parts[1])
    np.testing.assert_array_equal(parts[4], parts[2] | parts[1])
    assert parts[5].all()
    scored = create_mask(lambda s, b, h, q, k: fastdl.where(q >= k, s, -np.inf), *shape)
    np.testing.assert_array_equal(scored.numpy(), parts[0])
    assert create_mask(and_masks(), 1, 1, 2, 2).all()
    assert not create_mask(or_masks(), 1, 1, 2, 2).any()


def test_one_row_of_a_block_mask_serves_a_later_query():
    """As programs that write word after word use it: a block of queries, and a function that knows which one."""
    whole = create_block_mask(causal, None, None, 64, 64, BLOCK_SIZE=16)
    at = fastdl.tensor(37)
    row = whole[:, :, at // 16]
    with pytest.raises(RuntimeError, match="mask_mod"):
        row.dense()
    row.mask_mod = lambda b, h, q, k: q + at >= k
    row.seq_lengths = (1, 64)
    assert row.dense()[0, 0, 0].tolist() == [i <= 37 for i in range(64)]
    assert repr(row).startswith("BlockMask(shape=(1, 1, 1, 64)")
    assert row.to("cpu").shape == row.shape


def test_functions_that_mix_positions_are_refused():
    q = fastdl.tensor(QUERY)
    with pytest.raises(ValueError, match="flex_attention: score_mod: the function gives one value"):
        flex_attention(q, q, q, score_mod=lambda s, b, h, i, j: s + (i * 1.0).sum())
    with pytest.raises(ValueError, match="must broadcast"):
        flex_attention(q, q, q, score_mod=lambda s, b, h, i, j: s.reshape(-1))
    with pytest.raises(TypeError, match="must return a Tensor, got int"):
        flex_attention(q, q, q, score_mod=lambda s, b, h, i, j: 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": QUERY[0]}, r"query must be \(batch, heads, length, size\), got \(4, 9, 8\)"),
        ({"key": KEY[..., :3]}, "query and key must agree in their last dimension"),
        ({"value": VALUE[:, :, :3]}, "key and value must agree"),
        ({"key": KEY.astype(np.float32)}, "must share one floating-point dtype"),
        ({"query": QUERY[:1]}, "batch of key must be 1 or that of query"),
        ({"query": QUERY[:, :2]}, "query has 2 heads and key 4; fewer need enable_gqa"),
        ({"block_mask": np.ones((9, 9), bool)}, "block_mask must be a BlockMask, got Tensor"),
        ({"query": QUERY[:, :, :5], "mask": 1}, r"block_mask was made for \(B, H, L, S\)"),
    ],
)
def test_messages(change, message):
    change = dict(change)
    options = {}
    if change.pop("mask", 0):
        options["block_mask"] = create_block_mask(causal, None, None, L, S)
    given = {n: fastdl.tensor(a) for n, a in {"query": QUERY, "key": KEY, "value": VALUE, **change}.items()}
    with pytest.raises((ValueError, TypeError), match="flex_attention: .*" + message):
        flex_attention(**given, **options)


@pytest.mark.parametrize("size", [(-1, 3), (2.5, 3)])
def test_sizes_of_masks(size):
    with pytest.raises(ValueError, match="create_mask: Q_LEN must be an int"):
        create_mask(causal, None, None, *size)
    with pytest.raises(ValueError, match="BLOCK_SIZE"):
        create_block_mask(causal, None, None, 2, 2, BLOCK_SIZE=0)


@pytest.mark.parametrize("name", ["causal_upper_left", "causal_lower_right"])
@pytest.mark.parametrize("size", [(4, 4), (3, 6), (6, 6)])
def test_causal_biases_are_torch_s(name, size):
    torch = pytest.importorskip("torch")
    import torch.nn.attention.bias as theirs

    results = []
    for lib, module in ((fastdl, biases), (torch, theirs)):
        mask = getattr(module, name)(*size)
        assert (mask.seq_len_q, mask.seq_len_kv) == size
        assert mask.variant.name in ("UPPER_LEFT", "LOWER_RIGHT")
        q, k, v = (
            lib.tensor(a[:, :, :n], requires_grad=True)
            for a, n in zip((QUERY, KEY, VALUE), (*size, size[1]), strict=True)
        )
        y = lib.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y.sum().backward()
        results.append([y.detach().numpy(), q.grad.numpy(), v.grad.numpy()])
    compare(*results)
    mine = getattr(biases, name)(*size)
    assert isinstance(copy.deepcopy(mine), biases.CausalBias)
    x = fastdl.tensor(QUERY)
    with pytest.raises(ValueError, match="is_causal"):
        F.scaled_dot_product_attention(x, x, x, attn_mask=mine, is_causal=True)
    with pytest.raises(ValueError, match=name):
        getattr(biases, name)(3)


def test_kernels_are_chosen_by_name():
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]), sdpa_kernel(SDPBackend.OVERRIDEABLE):
        pass
    with pytest.raises(TypeError, match="sdpa_kernel: backends must be an SDPBackend"), sdpa_kernel("MATH"):
        pass


def test_largest_scores_without_keys():
    q, k = fastdl.randn(1, 2, 3, 4), fastdl.randn(1, 2, 0, 4)
    y, aux = flex_attention(
        q, k, k, score_mod=lambda s, b, h, i, j: s + 1, return_aux=AuxRequest(max_scores=True)
    )
    assert (y.numpy() == 0).all()
    assert (aux.max_scores.numpy() == -np.inf).all()

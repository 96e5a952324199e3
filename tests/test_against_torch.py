"""The same program text, run by PyTorch and by fastdl, must give the same: values, dtypes, shapes, or a kind of error.

One line of a table is one program: its last statement is the result. L is the library, F its functional module.
"""

# ruff: noqa: E501 - one program is one line
from __future__ import annotations

import ast
import math
import warnings
from typing import Any

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")

SETUP = """
def ints(*shape): return L.from_numpy(np.random.RandomState(0).randint(-4, 5, size=shape))
def reals(*shape, seed=0): return L.from_numpy(np.asarray(np.random.RandomState(seed).randn(*shape)))
def leaf(*shape, seed=0): return reals(*shape, seed=seed).requires_grad_()
def square(n, seed=0): a = reals(n, n, seed=seed); return (a @ a.T + L.eye(n, dtype=L.float64)).requires_grad_()
def grads(y, *xs): (y * y.detach().cos()).sum().backward(); return [y, *[x.grad for x in xs]]
def train(name, **options):
    ps = [leaf(3, 4, seed=1), leaf(5, seed=2), leaf(seed=3)]
    o = getattr(L.optim, name)(ps, **options)
    def closure():
        o.zero_grad()
        loss = sum(((p - 0.3 * i) ** 2).sum() + (p**4).sum() * 0.1 for i, p in enumerate(ps))
        loss.backward()
        return loss
    for _ in range(3 if name == "LBFGS" else 20): o.step(closure)
    return [*ps, len(o.state_dict()["state"])]
def valley(**options):
    p = L.tensor([-1.2, 1.0], dtype=L.float64, requires_grad=True)
    o = L.optim.LBFGS([p], **options)
    def closure():
        o.zero_grad()
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        loss.backward()
        return loss
    return [*[o.step(closure) for _ in range(3)], o.state_dict()["state"][0]["func_evals"]]
def fill(module):
    for i, p in enumerate(module.parameters()): p.data.copy_(reals(*p.shape, seed=i) * 0.3)
nan = float("nan"); gap = L.tensor([[1.0, nan, 3.0], [nan, 5.0, 4.0]])
"""

TABLES = {
    "promotion": """
        L.add(L.tensor([True, False]), L.tensor([True, True]), alpha=2)
        L.add(L.tensor([1, 2], dtype=L.uint8), L.tensor([True, False]), alpha=2)
        L.ones(3).add_(ints(3), alpha=0.5)
        [L.ones(2, dtype=t).add(L.tensor([100, 3], dtype=L.int8), alpha=2) for t in (L.float32, L.int64, L.float16, L.complex64)]
        [L.zeros(2, dtype=L.float64).sub(L.ones(2) / 3, alpha=0.1), L.ones(2).add(L.tensor([True, False]), alpha=0.5), L.rsub(L.tensor([1]), 2.0, alpha=0.5)]
        L.stack([L.tensor(1.0), L.tensor(2.0, dtype=L.float64)])
        L.cat([L.ones(2, dtype=L.int64), L.zeros(0)])
        L.tensor([True, False]).square()
        ints(3).sum(dtype=L.int32)
        ints(3, 2).prod(0, dtype=L.int16)
        L.clamp(L.tensor([1, 2]), max=math.inf)
        L.clamp(L.tensor([1.0, 2.0]), nan)
        L.tensor([1, 2, 3]).addcmul(L.tensor([1, 2, 3]), L.tensor([2, 2, 2]), value=3)
        L.tensor([1, 2, 3]).masked_fill(L.tensor([True, False, True]), 7.9)
        L.full((2,), -2, dtype=L.uint8)
        F.mse_loss(L.ones(2), L.zeros(2, dtype=L.int64))
        F.l1_loss(L.ones(2), L.zeros(2, dtype=L.float64))
        F.smooth_l1_loss(L.ones(2), L.zeros(2, dtype=L.float64))
        F.huber_loss(L.ones(2), L.zeros(2, dtype=L.int64))
        [L.xlogy(x, L.tensor([1, 2, 3], dtype=t)) for x in (reals(3), reals(3).half(), ints(3)) for t in (L.int8, L.float16, L.float64)]
        [L.special.xlog1py(x, L.tensor([1, 2, 3], dtype=t)) for x in (reals(3), reals(3).half(), ints(3)) for t in (L.int8, L.float16, L.float64)]
        [L.ldexp(x, L.tensor([1, 2], dtype=t)) for x in (reals(2), reals(2).half(), reals(2)[0]) for t in (L.int8, L.int64)]
        [L.nextafter(*pair) for pair in ((reals(3).float(), ints(3)), (reals(2, 3).float(), reals(3)[0]), (reals(3).float(), reals(3)))]
        L.nansum(L.tensor([1.0, 2.0]), dtype=L.int32), L.nansum(reals(2, 3), 0, dtype=L.int16), L.nansum(ints(3), dtype=L.float32)
        [x.any(()) for x in (ints(2, 3), reals(2).float(), L.ones(2, dtype=L.uint8))], L.all(ints(2, 3), (), True)
        L.cov(reals(2, 3), fweights=L.tensor([7, 4, 4]), aweights=L.tensor([0.3, 0.1, 0.7])), L.cov(reals(2, 3).float(), aweights=L.tensor([0.3, 0.1, 0.7], dtype=L.float64))
    """,
    "half precision": """
        x = reals(3, 4).half(); y = x.clone(); y.addcmul_(x, x, value=0.5), y.addcdiv_(x, x + 4), y.lerp_(x, 0.25), y.lerp_(x, x.abs().clamp(0, 1))
        x = L.ones(3, dtype=L.float16); L.addcmul(x, x, x, value=3, out=x)
        L.ones(3, dtype=L.float16).addcmul_(L.ones(2, 3, dtype=L.float16), L.ones(3, dtype=L.float16))
        L.sinc(L.tensor([1.0, 3.01, -5.003, 0.0]).half()), L.sign(L.tensor([nan, 2.0, -0.0]).half())
        L.ones(3, dtype=L.bfloat16).masked_fill(L.tensor([True, False, True]), L.tensor(2.0, dtype=L.bfloat16)).float()
    """,
    "kinds that may be stored": """
        [L.tensor([2, 3]).to(t).masked_fill(L.tensor([True, False]), L.tensor(1.5).to(s)) for t in (L.bool, L.uint8, L.int32, L.float32) for s in (L.bool, L.int64, L.float64)]
        [L.can_cast(getattr(L, a), getattr(L, b)) for a in ("bool", "uint8", "int64", "float16") for b in ("bool", "uint8", "int64", "float16")]
        L.tensor([200, 100], dtype=L.uint8).add_(L.tensor([100, 100]))
        L.tensor([200, 100]).add_(L.tensor([0.5, 1.0]))
        L.tensor([200, 100], dtype=L.uint8).cumsum(0, dtype=L.uint8), L.tensor([200, 100], dtype=L.uint8).cumsum_(0), L.tensor([3, 9]).cumprod(0, dtype=L.int8)
        x = L.zeros(3, 1, 2); x[x == 0] = L.ones(2, 2)
        L.zeros(3).masked_fill_(L.ones(2, 3, dtype=L.bool), 1)
        [f(t) for f in (L.isfinite, L.isinf, L.isposinf, L.isneginf, L.signbit) for t in (ints(3), L.tensor([True]), gap)]
    """,
    "causal and masked": """
        q, k, v, m = leaf(1, 2, 5, 4), leaf(1, 2, 5, 4, seed=1), leaf(1, 2, 5, 4, seed=2), reals(5, 5, seed=3); grads(F.scaled_dot_product_attention(q, k, v, m, is_causal=True), q, k, v)
        q, k, v, m = leaf(1, 2, 5, 4), leaf(1, 2, 5, 4, seed=1), leaf(1, 2, 5, 4, seed=2), ints(5, 5) + 4 * L.eye(5) >= 0; grads(F.scaled_dot_product_attention(q, k, v, m, is_causal=True), q, k, v)
    """,
    "losses between dtypes": """
        pairs = [tuple([reals(2, 4, seed=i).abs().to(t) for i, t in enumerate(p)]) for p in ((L.float16, L.float32), (L.float32, L.float16), (L.float32, L.float64), (L.float64, L.float32))]; [getattr(F, n)(*p).double().to(getattr(F, n)(*p).dtype).dtype for n in ("binary_cross_entropy_with_logits", "soft_margin_loss", "hinge_embedding_loss", "kl_div", "poisson_nll_loss", "mse_loss", "huber_loss", "cosine_similarity", "pairwise_distance", "cross_entropy", "multilabel_soft_margin_loss") for p in pairs]
        [getattr(F, n)(reals(2, 4).float(), reals(2, 4, seed=1).abs()).float() for n in ("binary_cross_entropy_with_logits", "soft_margin_loss", "hinge_embedding_loss", "kl_div", "poisson_nll_loss", "huber_loss", "cosine_similarity", "pairwise_distance", "cross_entropy", "multilabel_soft_margin_loss")]
        x, y = reals(2, 4).float().requires_grad_(), leaf(2, 4, seed=1); [F.binary_cross_entropy_with_logits(x, y, weight=y.detach().half(), pos_weight=L.ones(4)).float(), *L.autograd.grad(F.binary_cross_entropy_with_logits(x, y), (x, y))]
        x, y = reals(2, 4).float(), reals(2, 4, seed=1); [l.float() for l in (F.triplet_margin_loss(x, x, y), F.cosine_embedding_loss(x, y, L.ones(2)), F.margin_ranking_loss(x, y, L.ones(2, 4)), F.gaussian_nll_loss(x, y, y.abs()), F.gaussian_nll_loss(x, y, 1.0))]
        F.binary_cross_entropy(reals(4).abs().float() / 4, reals(4).abs() / 4)
        [getattr(F, n)(*p) for n in ("kl_div", "poisson_nll_loss") for p in ((reals(4).abs().float(), L.tensor(0.5, dtype=L.float64)), (L.tensor(0.5, dtype=L.float64), reals(4).abs().float()))]
        [f(reals(2, 4).to(a), reals(2, 4, seed=1).abs().to(b), weight=reals(4, seed=2).abs().to(c)).float() for f in (F.cross_entropy, F.multilabel_soft_margin_loss) for a in (L.float32, L.float64) for b in (L.float32, L.float64) for c in (L.float32, L.float64)]
        [f(reals(2, 4).to(a), reals(2, 4, seed=1).abs().to(b), weight=reals(4, seed=2).abs().to(c)).dtype for f in (F.cross_entropy, F.multilabel_soft_margin_loss) for a in (L.float32, L.float64) for b in (L.float32, L.float64) for c in (L.float32, L.float64)]
        F.cross_entropy(reals(2, 4).float(), L.tensor([0, 1]), weight=reals(4).abs())
    """,
    "distances, images and bins": """
        z = leaf(2, 3), leaf(2, 3, seed=1); grads(F.pairwise_distance(*z, p=-1.5), *z)
        z = leaf(2, 3), leaf(2, 3, seed=1), leaf(2, 3, seed=2); grads(F.triplet_margin_loss(*z, p=-2, margin=9.0), *z)
        [F.pixel_shuffle(ints(1, 4, 2, 2) > 0, 2), F.pixel_unshuffle(ints(1, 1, 4, 4) > 0, 2), F.unfold(ints(1, 2, 3, 3) > 0, 2, padding=1)]
        x = L.linspace(0, 1, 101); [*L.histogram(x, 10), *L.histogram(x.double(), 7), *L.histogram(x, 9, range=(0.1, 0.7))]
    """,
    "integers of several widths": """
        [L.addcmul(*[x.to(t) for x, t in zip((ints(3) * 30, ints(3), ints(3)), ts)]) for ts in ((L.uint8, L.int8, L.int8), (L.int8, L.uint8, L.uint8), (L.int16, L.int8, L.uint8), (L.uint8, L.bool, L.bool), (L.int64, L.int8, L.int8), (L.bool, L.int8, L.int8))]
        L.zeros(2, dtype=L.bool).fill_(1j), L.zeros(2, dtype=L.bool).masked_fill(L.tensor([True, False]), 0j)
        [L.linalg.norm(L.zeros(*s), o) for s, o in (((0, 0), 1), ((0, 0), math.inf), ((0, 0), 2), ((3, 0), 1), ((0, 3), math.inf), ((0, 3), 2), ((0, 3), 1))]
        L.linalg.norm(L.zeros(2, 0, 0), 1, dim=(1, 2), keepdim=True)
        L.linalg.norm(L.zeros(0, 0), -1)
    """,
    "numbers too large": """
        L.zeros(3).__setitem__(0, 1e300)
        L.zeros(3).__setitem__([0], 1e39)
        x = L.zeros(3, dtype=L.float16); x[0] = 1e6; x
        L.zeros(2, dtype=L.complex64).__setitem__(0, 1e39 + 1e39j)
        x = L.zeros(2, dtype=L.complex64); x[0] = math.inf; x
        x = L.zeros(3); x[0] = 2 + 0j; x[1] = -math.inf; x
        L.zeros(3).__setitem__(0, 2 + 1j)
        x = L.zeros(3, dtype=L.int32); x[0] = 2 + 0j; x
        L.zeros(3).fill_(1e300)
        L.zeros(3, dtype=L.float64).fill_(1e300), L.zeros(3).fill_(3e38), L.zeros(3).fill_(math.inf), L.zeros(3).fill_(nan)
        L.zeros(3, dtype=L.float16).fill_(1e6)
        L.zeros(2, dtype=L.bfloat16).fill_(1e39)
        L.full((2,), 1e39), L.full((2,), 1e39, dtype=L.float64)
        L.full((2,), 1e39, dtype=L.complex64)
        L.full((2,), 1e39, dtype=L.float64)
        L.zeros(3, dtype=L.float16).masked_fill(L.tensor([True, False, True]), -1e9)
        L.zeros(3).masked_fill(L.tensor([True, False, True]), -1e9)
        L.zeros(2).index_fill(0, L.tensor([0]), 1e39)
        L.zeros(2).scatter(0, L.tensor([0]), 1e39)
    """,
    "choices between numbers": """
        [L.where(c, *pair) for c in (L.tensor([True, False]), L.tensor(True), L.zeros(0, dtype=L.bool)) for pair in ((1, 0), (True, False), (True, 0), (2**40, -1), (1.5, 0))]
        L.where(L.tensor([[True], [False]]), 1, L.arange(3))
    """,
    "numpy's names": """
        reals(3, 4).sum(axis=0, keepdims=True)
        reals(3, 4).mean(axis=-1)
        reals(3, 4).max(axis=1)[1]
        reals(3, 4).std(axis=0)
        reals(3, 4).argmax(axis=0)
        reals(3, 4).cumsum(axis=1)
        reals(3, 4).sort(axis=0)[0]
        L.cat([reals(2, 2), reals(2, 2)], axis=1)
        L.stack([reals(2), reals(2)], axis=1)
        L.zeros(size=(2, 3)), L.randint(1, size=(2,)), L.randint(low=1, high=2, size=(3,)), L.rand(size=(2,)).shape
        reals(2).sum(axes=0)
    """,
    "softmax over many classes": """
        m = L.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [3, 9], div_value=2.0, head_bias=True).double(); fill(m); x = leaf(6, 8); out, loss = m(x, L.tensor([0, 2, 5, 12, 19, 3])); grads(out, x, *m.parameters())
        m = L.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [3, 9], div_value=2.0).double(); fill(m); [m.log_prob(reals(30, 8)), m.predict(reals(30, 8) * 3), *m(reals(8), L.tensor(4)), list(m.state_dict())]
        L.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [3, 20])
        L.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [3, 9]).double()(reals(2, 8), L.tensor([0, 20]))
        m = L.nn.LinearCrossEntropyLoss(8, 5, bias=True, label_smoothing=0.1).double(); fill(m); x = leaf(3, 8); grads(m(x, L.tensor([0, 4, -100])), x, *m.parameters())
        m = L.nn.LinearCrossEntropyLoss(8, 5, out_features=(2,), reduction="none").double(); fill(m); [m(reals(3, 8), L.tensor([[0, 1], [4, 2], [3, 3]])), list(m.state_dict())]
        x = reals(2, 3); [x.mH, x.real, x.conj(), L.real(x), L.resolve_conj(x)]
    """,
    "lists as keywords": """
        reals(2, 3, 4).permute(dims=(2, 0, 1)), L.permute(reals(2, 3), dims=(1, 0)), L.flip(reals(2, 3), dims=[0, -1]), reals(2, 3).flip(dims=(0,))
        L.tile(reals(2, 3), dims=(2,)), reals(2, 3).tile(dims=(2, 1)), reals(2, 3).repeat(repeats=(1, 2))
        reals(2, 3).view(size=(6,)), reals(2, 3).reshape(shape=(3, 2)), L.reshape(reals(2, 3), shape=(6,)), reals(2, 1).expand(size=(2, 3)), L.broadcast_to(reals(3), size=(2, 3))
        L.arange(end=3), L.arange(-0.9, 2.1, 2.0, dtype=L.int64), L.arange(0.0, -8.1, -4.0, dtype=L.int64), L.linspace(4.3, -3, 5, dtype=L.int64)
        [L.arange(*a, dtype=getattr(L, t)) for a in ((0.0, -8.5, -4.0), (1, 5.5, 2), (0.7, 3.2, 1.5)) for t in ("int32", "int64", "uint8", "float16")]
    """,
    "axis for dim": """
        x = reals(2, 3, seed=4).sort(0)[0]; [L.softmax(x, axis=1), x.softmax(axis=0), L.log_softmax(x, axis=1), x.logsumexp(axis=1, keepdims=True), L.logsumexp(x, axis=0)]
        x = reals(2, 3, seed=4); [*x.unbind(axis=1), *x.chunk(2, axis=1), *x.tensor_split(2, axis=1), x.unsqueeze(axis=0), L.squeeze(x[None], axis=0), x.diff(axis=0)]
        x = reals(2, 3, seed=4); [*x.kthvalue(1, axis=0, keepdims=True), *x.mode(axis=1), *x.aminmax(axis=0), *x.cummax(axis=0), x.quantile(0.5, axis=1), x.nansum(axis=0), x.nanmedian(axis=0, keepdims=True)[0], L.trapz(x, axis=0)]
        x = reals(2, 3, seed=4); x.softmax(1, axis=0)
        x = reals(2, 3, seed=4); x.softmax(axis=5)
        x = reals(2, 3, seed=4); L.softmax(x, dim=0, axis=0)
    """,
    "other names": """
        x = reals(4, 4); [*L.split(tensor=x, split_size_or_sections=2), *x.tensor_split(sections=2), *L.tensor_split(x, indices=(1, 2), dim=1), *L.hsplit(x, sections=2), *x.vsplit(indices=[1])]
        x = reals(2, 3); x.swapaxes(axis0=0, axis1=1), L.swapaxes(x, axis0=0, axis1=1), L.transpose(x, dim0=0, dim1=1)
        x = reals(4, 4); x.hsplit(parts=2)
        x = reals(4, 4); [L.split_with_sizes(x, split_sizes=[1, 3])[1], L.dropout(x, p=0.5, train=False), x.uniform_(2, to=2)]
        [L.histogram(reals(9), density=True).hist, reals(9).histogram().bin_edges]
    """,
    "a bias that broadcasts": """
        w = leaf(3, 4, seed=1); [grads(L.nn.functional.linear(x, w, b), x, w, b) for b in (leaf(1, 3), leaf(1), leaf(), leaf(2, 1)) for x in (leaf(2, 4), leaf(5, 2, 4)) if b.ndim < 2 or x.ndim == 2 or len(b) == 1]
        [L.nn.functional.linear(reals(5, 2, 4), reals(4), reals())]
        L.nn.functional.linear(reals(2, 4), reals(3, 4), reals(2))
        L.nn.functional.linear(reals(2, 4), reals(3, 4), reals(1, 1, 3))
        L.nn.functional.linear(reals(4), reals(3, 4), reals(2, 3))
    """,
    "numbers that are tensors": """
        n = L.tensor(2); x = ints(4, 3); [*x.split(n), *x.chunk(n), *L.split(x, n, 1), *L.chunk(x, n, 1), *x.split(L.tensor(1), dim=1)]
        layers = [L.nn.Linear(L.tensor(3), L.tensor(2)), L.nn.Embedding(L.tensor(3), L.tensor(2))]; [layers[0].weight.shape, layers[1].weight.shape, repr(layers[0])]
        L.nn.Linear(L.tensor(2.5), 2)
    """,
    "numbers as rows": """
        [L.zeros(4).scatter_(0, L.tensor(y), value=1) for y in range(4)]
        [L.ones(3).scatter(0, L.tensor(1), 2.0), L.ones(3).scatter(0, L.tensor([1]), L.tensor(5.0)), L.ones(3).scatter(0, L.tensor(1), L.tensor([5.0]))]
        [L.ones(3).scatter_add(0, L.tensor(1), L.tensor(5.0)), *[L.ones(3).scatter_reduce(0, L.tensor(2), L.tensor(5.0), r, include_self=False) for r in ("sum", "prod", "mean", "amax")]]
        a = leaf(3); b = leaf(); grads(a.scatter(0, L.tensor(1), b), a, b)
        L.ones(3, 2).scatter(0, L.tensor(1), 3.0)
        L.gather(L.ones(3, 2), 0, L.tensor(1))
        L.tensor(2.0).index_add(0, L.tensor([0]), L.tensor(3.0), alpha=2), L.tensor(2.0).index_copy(0, L.tensor([0]), L.tensor(3.0))
        L.tensor(2.0).index_fill(0, L.tensor([0]), 5.0), L.tensor(2.0).index_fill(0, L.tensor([0]), L.tensor(4.0))
        L.tensor(2.0).scatter(0, L.tensor(0), L.tensor(3.0)), L.tensor(2.0).scatter(0, L.tensor(0), 1.5), L.tensor(2.0).scatter_add(0, L.tensor([0]), L.tensor([3.0]))
        [f(reals(5), L.tensor([3]), reduction=r) for f in (L.nn.functional.cross_entropy, L.nn.functional.nll_loss) for r in ("mean", "none")]
        L.nn.functional.cross_entropy(reals(5), L.tensor([3, 4])), L.nn.functional.nll_loss(reals(5), L.tensor([3, 4]))
        L.tensor(2.0).scatter_reduce(0, L.tensor(0), L.tensor(3.0), "sum"), L.tensor(3).unfold(0, 1, 1)
        o = L.zeros(()); r = L.scatter(L.tensor(2.0), 0, L.tensor(0), L.tensor(3.0), out=o); [r is o, o, L.tensor(200, dtype=L.uint8).index_add(0, L.tensor([0]), L.tensor(1, dtype=L.uint8), alpha=-1)]
        L.normal(0.0, 1.0, (2, 3), layout=L.strided).shape
        L.zeros(3).scatter(0, L.tensor([5]), 1.0)
        L.zeros(3).gather(0, L.tensor([5]))
        [L.tensor(2.0).index_reduce(0, L.tensor([0]), L.tensor(3.0), r) for r in ("prod", "mean", "amax")]
        x, y = leaf(), leaf(seed=1); grads(x.scatter_add(0, L.tensor(0), y), x, y)
    """,
    "special": """
        [f(reals(7) * 2) for f in (L.exp2, L.erfc, L.lgamma, L.digamma, L.sinc, L.deg2rad, L.rad2deg, L.i0)]
        L.erfinv(L.tensor([-1.0, -0.99, -0.3, 0.0, 1e-6, 0.7, 1.0, 1.5], dtype=L.float64))
        x = leaf(5); grads(L.lgamma(x) + L.erfc(x) + L.exp2(x) + L.sinc(x), x)
        x = L.tensor([-0.9, 0.1, 0.5], requires_grad=True); grads(L.erfinv(x), x)
        x = L.tensor([0.1, 0.5, 0.99], requires_grad=True); grads(L.logit(x), x)
        x, y = L.tensor([0.0, -0.0, 2.0, 0.0, 1.0], requires_grad=True), L.tensor([0.5, 3.0, 0.5, -1.0, 2.0]); grads(L.xlogy(x, y), x)
        x, y = L.tensor([0.0, -0.0, 2.0, 0.0, 1.0], requires_grad=True), L.tensor([-0.5, 3.0, 0.5, -1.0, 2.0]); grads(L.special.xlog1py(x, y), x)
        x, y = L.tensor([0.0, 1.0, nan], requires_grad=True), L.tensor([0.0, 1.0, 2.0], requires_grad=True); grads(L.fmin(x, y) + 2 * L.fmax(x, y) + L.atan2(x, y), x, y)
        L.logit(L.tensor([0.0, 0.5, 1.0]), 1e-3)
        x, y = leaf(4), leaf(4, seed=1); grads(L.logaddexp(x, y) + L.logaddexp2(x, y), x, y)
        x, y = leaf(3, 1), leaf(4, seed=1); grads(L.logaddexp(x, y), x, y)
        L.xlogy(L.tensor([0.0, 0.0, 2.0]), L.tensor([0.0, nan, 3.0])), L.xlogy(2, L.tensor([1.0])), L.tensor([2.0]).xlogy(3)
        L.copysign(L.tensor([1.0, -2.0, 0.0]), L.tensor([-1.0, 1.0, -0.0])), L.copysign(L.tensor([1, 2]), -1)
        L.fmax(gap, L.tensor(2.0)), L.fmin(gap, L.tensor(2.0)), L.heaviside(gap - 3, L.tensor(0.5))
        L.float_power(L.tensor([1, 2]), 0.5), L.ldexp(L.tensor([1.0]), L.tensor([3])), L.frexp(L.tensor([10.0, -0.3]))[1]
        x = leaf(5); grads(L.frexp(x)[0], x)
        L.gcd(L.tensor([12, 18]), L.tensor([8, 27])), L.lcm(L.tensor([4]), L.tensor([6]))
        L.nan_to_num(L.tensor([nan, math.inf, -math.inf, 1.0])), gap.nan_to_num(nan=-1.0)
        L.isin(L.tensor([1, 2, 3]), L.tensor([2, 9])), L.isreal(gap), L.nextafter(L.tensor([1.0]), L.tensor([2.0]))
        L.special.expit(L.zeros(2)), L.special.gammaln(L.tensor([4.0])), L.special.softmax(L.zeros(2), 0)
        x = L.tensor([0.3, 2.0]); x.exp2_(), x.logit_(), x.nan_to_num_(), x.deg2rad_()
    """,
    "statistics": """
        L.nansum(gap), gap.nansum(0), gap.nanmean(1, keepdim=True), gap.nanmedian(), tuple(gap.nanmedian(1))
        [L.quantile(reals(3, 5), 0.3, interpolation=i) for i in ("linear", "lower", "higher", "midpoint", "nearest")]
        [L.quantile(reals(6).float(), q, interpolation="nearest") for q in (0.1, 0.3, 0.7, 0.9)]
        L.quantile(reals(6).float(), L.tensor([0.1, 0.3, 0.7, 0.9]), interpolation="nearest")
        L.quantile(reals(3, 5), L.tensor([0.1, 0.5, 1.0], dtype=L.float64), dim=1, keepdim=True), gap.nanquantile(0.4, 1)
        gap.quantile(0.5, 0)
        x = leaf(3, 4); grads(x.quantile(0.3, 1), x)
        x, q = leaf(3, 4), L.tensor([0.1, 0.5, 1.0], dtype=L.float64, requires_grad=True); grads(x.quantile(q, 1), x, q)
        q = L.tensor([0.0, 1 / 3, 1.0], dtype=L.float64, requires_grad=True); grads(reals(4).quantile(q), q)
        L.histogram(reals(20), 4), L.histogram(reals(20), L.tensor([-1.0, 0.0, 2.0], dtype=L.float64)), L.histogram(reals(9), 3, range=(-1, 1), weight=reals(9, seed=1), density=True)
        L.gradient(reals(4, 5)), L.gradient(reals(5), spacing=0.5, edge_order=2), L.gradient(reals(4, 3), dim=1, spacing=2.0)
        L.gradient(reals(4), spacing=(L.tensor([0.0, 1.0, 1.5, 4.0], dtype=L.float64),)), L.gradient(reals(4), spacing=[L.tensor([0.0, 1.0, 1.5, 4.0], dtype=L.float64)], edge_order=2)
        x = leaf(4, 3); grads(L.gradient(x, dim=0, edge_order=2)[0], x)
        x, w = leaf(2, 4), L.tensor([0.5, 1, 2, 1], dtype=L.float64, requires_grad=True); grads(L.cov(x, aweights=w), x, w)
        reals(3).diff(n=0, prepend=reals(1)), L.tensor([-math.inf, -math.inf, 1.0]).logcumsumexp(0)
        x = leaf(2, 3); grads(x.scatter_reduce(1, L.tensor([[0, 0], [1, 2]]), L.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=L.float64), "prod"), x)
        x = L.tensor([0.0, 2.0, 3.0, 0.0], requires_grad=True); grads(L.ones(2).scatter_reduce(0, L.tensor([0, 0, 1, 1]), x, "prod"), x)
        x = L.tensor([0.0, 2.0, 3.0, 0.0], requires_grad=True); grads(L.ones(2).scatter_reduce(0, L.tensor([0, 0, 0, 0]), x, "prod", include_self=False), x)
        L.take_along_dim(reals(3, 4), L.tensor([[-1, 0]]), 1)
        [tuple(ints(4, 3).mode(d)) for d in (0, 1)]
        [tuple(x) for x in (ints(4, 3).cummax(0), ints(4, 3).cummin(1), gap.cummax(1), gap.cummin(0))]
        x = leaf(3, 4); grads(x.cummax(1)[0] + x.cummin(0)[0], x)
        x = leaf(3, 4); grads(x.logcumsumexp(1), x)
        ints(5).diff(), ints(3, 4).diff(n=2, dim=0), L.diff(ints(3), prepend=ints(1)), L.tensor([True, False]).diff()
        L.trapezoid(reals(3, 4)), L.trapezoid(reals(4), dx=0.5), L.cumulative_trapezoid(reals(3, 4), reals(4, seed=1))
        L.cumulative_trapezoid(ints(3, 4), reals(4).half()), L.trapezoid(ints(4), reals(4)), L.trapezoid(ints(4), ints(4))
        L.cov(reals(3, 6)), L.cov(reals(6)), L.corrcoef(reals(3, 6)), L.cov(reals(2, 3), correction=0)
        L.cov(reals(2, 4), fweights=L.tensor([1, 2, 1, 3]), aweights=L.tensor([0.5, 1, 2, 1], dtype=L.float64))
        L.cov(reals(2, 2), fweights=L.tensor([1.5, 1.0]))
        L.cov(reals(2, 2), fweights=L.tensor([-1, 2]))
        L.cov(reals(2, 2), aweights=L.tensor([1.0, -2.0]))
        L.tensor(3.0).unfold(0, 1, 1), L.linspace(0, 1, 3.0), (L.linspace(1e-4, 0.02, 1000) * 2.0**30).long(), (L.linspace(-1, 1, 77) * 2.0**30).long()
        [getattr(L.tensor(1.5), name)(memory_format=L.preserve_format) for name in ("double", "float", "long", "bool", "byte")]
        L.histc(reals(50), bins=7), L.histc(reals(50), 4, -1, 1)
        L.unique_consecutive(L.tensor([1, 1, 2, 1]), return_inverse=True, return_counts=True)
        L.unique_consecutive(L.tensor([[1, 1], [1, 1], [2, 1]]), dim=0), L.unique(L.tensor(3), return_inverse=True)
        reals(3, 2).msort(), reals(3, 3).trace(), reals(3).dist(reals(3, seed=1), 3), reals(3, 4).renorm(2, 0, 1.0)
        x = L.tensor([1.0, 1.0, 0.0], requires_grad=True); grads(x.median(), x)
        reals(3, 0).max(1)
    """,
    "products": """
        L.tensordot(reals(2, 3, 4), reals(4, 3), dims=([2, 1], [0, 1])), L.tensordot(reals(2, 3), reals(3, 2), 1), L.tensordot(ints(1, 2).int(), ints(3, 2).int(), ([0, 1], [0, 1]))
        L.inner(reals(2, 3), reals(4, 3)), L.vdot(reals(3), reals(3)), L.kron(reals(2, 2), reals(3)), L.cross(reals(2, 3), reals(2, 3, seed=1), dim=1)
        L.addr(reals(2, 3), reals(2), reals(3), beta=2, alpha=3), L.chain_matmul(reals(2, 3), reals(3, 4), reals(4, 1))
        L.block_diag(reals(2, 3), reals(2), L.tensor(5.0, dtype=L.float64)), L.combinations(ints(4), 3), L.vander(ints(3))
        L.combinations(ints(3), with_replacement=True), L.vander(reals(3), 2, increasing=True)
        L.cdist(reals(4, 3), reals(5, 3, seed=1)), F.pdist(reals(4, 3), 1.0)
        x, y = leaf(3, 2), leaf(4, 2, seed=1); grads(L.cdist(x, y, 3.0), x, y)
        x, y = leaf(2, 5, 3), leaf(2, 4, 3, seed=1); grads(L.cdist(x, y), x, y)
        x, y = leaf(2, 5, 3), leaf(2, 4, 3, seed=1); grads(L.cdist(x, y, 1.0), x, y)
        x, y = leaf(2, 5, 3), leaf(2, 4, 3, seed=1); grads(L.cdist(x, y, float("inf")), x, y)
        x, y = leaf(5, 3), leaf(4, 3, seed=1); grads(L.cdist(x, y, 0.5), x, y)
        x, y = leaf(0, 3), leaf(4, 3, seed=1); grads(L.cdist(x, y), x, y)
        x, y = leaf(2, 30, 9), leaf(4, 9, seed=1); grads(L.cdist(x, y), x, y)
        L.cdist(reals(30, 9) * float("nan"), reals(3, 9)), L.cdist(reals(30, 0), reals(3, 0)), L.cdist(reals(0, 9), reals(30, 9))
        x = L.tensor([[1.0, 2.0]] * 3, requires_grad=True); grads(L.cdist(x, x, compute_mode="use_mm_for_euclid_dist"), x)
        x, y, c = leaf(2, 3, 4), leaf(2, 4, 5, seed=1), leaf(5, seed=2); grads(L.addbmm(c, x, y, beta=2, alpha=0.5), x, y, c)
        L.tensordot(reals(1, 3, 1), reals(2, 3, 4), dims=([0, 1], [0, 1])), L.linalg.vecdot(reals(3, 4), reals(4)), L.linalg.vander(reals(3), N=2)
        x, y = leaf(5, 2, 0), leaf(0, 3); grads(x @ y, x, y)
        x, w, b = leaf(4, 3), leaf(5, 3, seed=1), leaf(5, seed=2); grads(F.linear_cross_entropy(x, w, L.tensor([0, 4, 2, -100]), linear_bias=b, label_smoothing=0.1), x, w, b)
        F.linear_cross_entropy(reals(2, 3), reals(4, 2, 3), L.tensor([[0, 3], [1, 2]]), reduction="none")
    """,
    "borders": """
        F.cosine_similarity(L.tensor(2.0), L.tensor(-3.0), dim=0)
        F.fractional_max_pool3d(L.ones(0, 1, 4, 5, 4), (2, 2, 1), output_size=(2, 3, 2)), F.fractional_max_pool2d(L.ones(0, 1, 4, 5), 2, output_size=2)
        reals(3).abs().polygamma_(1), reals(3).conj_physical_()
        L.tensor(None)
        reals(3).cauchy_(0, 0)
        [L.typename(x)[-11:] for x in (reals(3).float(), L.nn.Linear(1, 1), 3, dict, "a")]
        reals(3).log_normal_(0, 0)
        L.func.vmap(lambda x: x, in_dims=5)(reals(2, 3))
    """,
    "linear algebra": """
        a = square(3); grads(L.linalg.inv(a), a)
        a, b = square(3), leaf(3, 2); grads(L.linalg.solve(a, b), a, b)
        a, b = square(3), leaf(3); grads(L.linalg.solve(a, b), a, b)
        a = square(3); grads(L.linalg.det(a), a)
        a = leaf(2, 3, 3); grads(L.linalg.slogdet(a)[1], a)
        a = square(3); grads(L.linalg.cholesky(a), a)
        a = square(3); grads(L.linalg.eigvalsh(a), a)
        a, c = square(4), reals(4, 4, seed=1); w, v = L.linalg.eigh(a); grads(((v * c).sum(0) * w) ** 2, a)
        a, c = leaf(4, 4), reals(4, 4, seed=1); w, v = L.linalg.eigh(a, "U"); grads(((v * c).sum(0) * w) ** 2, a)
        a = leaf(4, 3); grads(L.linalg.svdvals(a), a)
        a = leaf(4, 3); u, s, v = L.linalg.svd(a, full_matrices=False); grads((u * s) @ v * s, a)
        a = leaf(4, 3); q, r = L.linalg.qr(a); grads(q @ (r * r), a)
        a = leaf(4, 3); grads(L.linalg.pinv(a), a)
        a, b = leaf(6, 2), leaf(5, 2, seed=1); grads(L.linalg.pinv(a @ b.T), a, b)
        a, b = leaf(2, 3, 2), leaf(2, 4, 2, seed=1); grads(L.linalg.pinv(L.cat([a, a], -1) @ L.cat([b, b], -1).mT), a, b)
        a, b = leaf(4, 2), leaf(4, 3, seed=1); grads(L.linalg.lstsq(a @ a.T, b).solution, a, b)
        L.linalg.pinv(reals(4, 4), hermitian=True)
        a = leaf(3, 5); q, r = L.linalg.qr(a); grads(q @ (r * r), a)
        a = leaf(4, 3); u, s, v = L.linalg.svd(a); grads((u[:, :3] * s) @ v * s, a)
        a = square(4); grads(L.linalg.pinv(a, hermitian=True), a)
        a = reals(4, 3); L.linalg.pinv(a, rtol=0.5), L.linalg.pinv(a, atol=1.0), L.pinverse(a, 0.4)
        a = reals(4, 3); L.linalg.matrix_rank(a, atol=1.0), L.linalg.matrix_rank(a, 1.5), L.linalg.matrix_rank(a, rtol=0.9), L.linalg.matrix_rank(a @ a.T, hermitian=True)
        [tuple(L.linalg.lstsq(reals(5, 2), reals(5, 3, seed=1), driver=d)) for d in ("gels", "gelsy", "gelsd")]
        a = square(6).detach().reshape(2, 3, 6); L.linalg.tensorinv(a), L.linalg.tensorsolve(a, reals(2, 3)), L.norm(a[0], "nuc"), L.norm(a, "nuc", dim=(0, 2))
        [L.linalg.matrix_norm(reals(2, 3, 4), o) for o in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)]
        L.linalg.norm(reals(3, 4)), L.linalg.norm(reals(3), 1), L.linalg.norm(reals(3, 4), "nuc"), L.linalg.norm(reals(3, 4), 2, 1)
        L.linalg.matrix_power(reals(3, 3), 5), L.linalg.matrix_power(square(3).detach(), -2), L.linalg.matrix_power(reals(2, 2), 0), L.linalg.matrix_power(L.tensor([[1, 2], [3, 4]]), 3)
        L.linalg.matrix_rank(reals(4, 2) @ reals(2, 5)), L.linalg.multi_dot([reals(3), reals(3, 2), reals(2)]), L.linalg.cond(reals(3, 3))
        L.linalg.lstsq(reals(5, 2), reals(5, 1, seed=1)).solution, L.linalg.cross(reals(2, 3), reals(2, 3, seed=1))
        L.linalg.inv(L.zeros(2, 3))
        L.linalg.matrix_power(L.eye(2), 0.5)
        L.linalg.norm(L.ones(2, 3), "fro", dim=0)
        [list(L.linalg.cholesky_ex(L.zeros(0, 0), upper=True)), list(L.linalg.inv_ex(L.zeros(2, 0, 0))), list(L.linalg.solve_ex(L.zeros(0, 0), L.zeros(0)))]
        F.normalize(reals(3, 4), out=L.empty(3, 4, dtype=L.float64))
        f, p = L.linalg.lu_factor(square(3).detach()); L.lu_solve(reals(3, 2), f, p), reals(3, 2).lu_solve(f, p), L.adjoint(reals(2, 3, 4)), L.orgqr(reals(4, 3), reals(3))
        reals(3).adjoint()
    """,
    "order of every dtype": """
        [tuple(ints(5, 7).to(t).sort(dim=d, descending=o, stable=True)) for t in (L.int64, L.int32, L.uint8, L.bool, L.float16) for d in (0, 1) for o in (False, True)]
        [ints(5, 7).to(t).topk(2, d).values for t in (L.int64, L.int32, L.float16) for d in (0, 1)]
        [f(ints(5, 7).to(t), d).values for f in (L.median, lambda x, d: L.kthvalue(x, 3, d, True)) for t in (L.int64, L.uint8, L.float64) for d in (0, 1)]
        x = reals(4, 5); x[1, 3] = math.nan; x[1, 1] = math.nan; tuple(x.median(1)), x.kthvalue(4, 1), tuple(x.sort(dim=0, stable=True)), x.topk(2).values
        b = L.tensor([1, 3, 3, 9]); [L.searchsorted(b, L.tensor([[0, 3], [4, 9]]), right=r, out_int32=r) for r in (False, True)], L.bucketize(3, b)
        L.bucketize(L.tensor([math.nan, -math.inf, 2.0, 9.0]), L.tensor([1.0, 2.0, 9.0]), right=True), L.searchsorted(L.tensor([]), L.tensor([1.0]))
        L.searchsorted(reals(2, 3).sort().values, reals(2, 5)), L.histc(L.tensor([0.0, 1.0, 2.0, 2.0, 3.0]), 4, 0, 2)
        L.searchsorted(reals(2, 3), reals(3, 3))
        L.searchsorted(L.arange(5.0).bfloat16(), ints(4)), L.searchsorted(ints(4).sort().values, reals(4).bfloat16()), L.bucketize(reals(4).half(), L.arange(3.0).bfloat16())
        L.unique(L.tensor([3, 1, 3, 2]), return_inverse=True, return_counts=True), L.unique(L.tensor([2.0, 1.0, 2.0])), L.unique(L.tensor([True, False, True]), return_counts=True)
    """,
    "progressions of integers": """
        L.arange(0, 1, 0.1, dtype=L.int32), L.arange(-0.5, 3, 0.9, dtype=L.int32), L.arange(0.5, 4.5, dtype=L.uint8)
        L.arange(10, 0, -2.5, dtype=L.int16), L.arange(0.5, 4.5, dtype=L.int64), L.arange(5, dtype=L.int32), L.arange(3, 9, 2, dtype=L.float64)
        L.arange(0, 64, 0.5, dtype=L.int64)
        L.arange(0, 1, 0)
        L.arange(1, 0)
        L.arange(10, 0, 0.9, dtype=L.int32)
    """,
    "integers by index": """
        L.zeros(4).put_(L.tensor([1, 2], dtype=L.int32), L.ones(2))
        L.zeros(4).put(L.tensor([1, 2], dtype=L.int16), L.ones(2))
        L.zeros(4).take(L.tensor([1, 2], dtype=L.int32))
        [L.isclose(L.tensor([2**53 + 1, 2**62, 5]), L.tensor([2**53, 2**62 + 1, 5]), rtol=0, atol=a) for a in (0, 0.5)]
        i = L.tensor([[0, 2, 0], [1, 1, 1]]); [L.ones(2, 3, dtype=t).scatter_reduce(d, i * d, ints(2, 3).to(t), r, include_self=s) for t in (L.int64, L.int32, L.uint8) for d in (0, 1) for r in ("sum", "prod", "mean", "amax", "amin") for s in (True, False)]
        [L.ones(4, dtype=t).index_add(0, L.tensor([1, 1, 3]), ints(3).to(t), alpha=2) for t in (L.int64, L.int16, L.uint8)]
        [L.ones(4, dtype=t).scatter_add(0, L.tensor([1, 1, 3]), ints(3).to(t)) for t in (L.int64, L.int16, L.uint8)]
        L.tensor([math.nan, 1.0, 2.0]).scatter_reduce(0, L.tensor([0, 1, 2]), L.tensor([5.0, math.nan, 9.0]), "amax")
        [L.zeros(3, 4, dtype=t).index_put_((L.tensor([0, -1, 0]), L.tensor([1, 2, 1])), ints(3).to(t), accumulate=True) for t in (L.int64, L.float32, L.uint8)]
        x = L.zeros(3, 4); x.index_put_((L.tensor([0, 0]),), L.tensor(1.0), accumulate=True), x[:, 1:].index_put_((L.tensor([2]),), L.ones(3), accumulate=True), x
        x = L.zeros(2, 2); x.index_put_((x == 0,), L.tensor(1.0), accumulate=True), x.put_(L.tensor([-1, -1]), L.ones(2), accumulate=True)
        L.zeros(3).index_put_((L.tensor([0, 5]),), L.ones(2), accumulate=True)
        L.zeros(3).index_put_((L.tensor([0, 1]),), L.ones(3), accumulate=True)
        x = reals(3, 4); x[:, L.tensor([3, -1, 0])], x[L.tensor([2, -3]), L.tensor([0, 1])], x[:, L.tensor([[0, 1], [2, 3]])], x[L.tensor([[0], [1]]), L.tensor([[0, 2]])], x[L.tensor([1]), :]
        reals(3, 4)[:, L.tensor([4])]
        L.take_along_dim(reals(3, 4), L.tensor([[0, -1, 2, 3]] * 3), 1), L.take_along_dim(reals(3, 4), L.tensor([[0, 1, 2, 0]]), 0)
        L.zeros(2, 3).masked_scatter(L.tensor([True, False, True]), reals(4).float()), L.zeros(2).masked_scatter(L.tensor([True, True]), L.ones(2))
        L.zeros(2, 3).masked_scatter(L.tensor([True, False, True]), L.ones(3))
        ints(2, 3, 4).flip(0, 2), ints(2, 3).flip(-1)
        x = reals(20, 20); x[x > 0] = 2.5; x[L.arange(20), L.tensor([-1] * 20)] = 7; x[[0, 3]] = -1; x[:, L.tensor([2, -4])] = reals(20, 2); x
        x = L.zeros(4, dtype=L.uint8); x[0] = -1; x[1:3] = 2.7; x[[3]] = True; x
        L.zeros(3, dtype=L.uint8).__setitem__(0, 300)
        L.zeros(3, dtype=L.int64).__setitem__(0, math.nan)
        x = reals(3, 4); x[[0, 2], [1, -1]], x[[True, False, True]], x[1, L.tensor([3, 0])], x[L.tensor([2]), 1:3], x[..., L.tensor([1])], x[L.tensor([1, 0]), None]
        reals(3, 4)[L.tensor([0]), L.tensor([-5])]
        reals(3, 4)[L.tensor([0, 1]), L.tensor([0, 1, 2])]
        L.isin(L.tensor([1.0, math.nan, 0.0]), L.tensor([math.nan, -0.0])), L.isin(ints(3, 4), L.tensor([5, 2]), invert=True), L.isin(ints(3), ints(0)), L.isin(ints(3).to(L.uint8), L.tensor([7, 1], dtype=L.uint8))
        x = reals(3, 4); x.t().put_(L.tensor([1, -1]), reals(2)), x, x.t().put(L.tensor([1, 1]), reals(2), accumulate=True)
        L.zeros(3).put(L.tensor([3]), L.ones(1))
        L.zeros(3).index_fill(0, L.tensor([-4]), 1.0)
        reals(3, 4).slice_scatter(L.zeros(2, 4), 0, 0, 1)
    """,
    "writing": """
        x, v = leaf(3, 4), leaf(2, seed=1); grads(x.put(L.tensor([1, -1]), v), x, v); grads(x.put(L.tensor([1, 1]), v, accumulate=True), x, v)
        x, v = leaf(3, 4), leaf(2, seed=1); y = x * 1; y.put_(L.tensor([1, -2]), v); grads(y, x, v)
        x, v = leaf(3, 4), leaf(2, seed=1); grads(x.index_put((L.tensor([0, 0]), L.tensor([1, 1])), v, accumulate=True), x, v)
        x, v = leaf(3, 4), leaf(2, seed=1); y = x * 1; y[1:].index_put_((L.tensor([0, 1]), L.tensor([1, 1])), v, accumulate=True); grads(y, x, v)
        x, v = leaf(3), leaf(1, seed=1); grads(x.slice_scatter(v.float(), 0, 1, 2), x, v)
        x, s = leaf(3), leaf(5, seed=1); grads(x.scatter_reduce(0, L.tensor([0, 0, 2, 2, 2]), s, "amax"), x, s)
        x, s = leaf(3), leaf(5, seed=1); grads(x.scatter_reduce(0, L.tensor([0, 0, 2, 2, 2]), s, "mean", include_self=False), x, s)
        x, s = leaf(3), leaf(5, seed=1); grads(x.scatter_reduce(0, L.tensor([0, 0, 2, 2, 2]), s, "prod"), x, s)
        x, s = leaf(3), leaf(5, seed=1); grads(x.scatter_reduce(0, L.tensor([0, 0, 2, 2, 2]), s, "sum", include_self=False), x, s)
        L.ones(2, 3).scatter(1, L.tensor([[0], [2]]), 4, reduce="multiply")
        L.zeros(3).index_put((L.tensor([0, 0]),), L.tensor([1.0, 2.0]), accumulate=True)
        x, v = leaf(3, 2), leaf(2, 2, seed=1); y = x * 1; y.index_put_((L.tensor([0, 2]),), v); grads(y, x, v)
        reals(2, 3).put(L.tensor([0, -1]), L.tensor([7.0, 8.0], dtype=L.float64)), reals(4).put(L.tensor([1]), reals(1), accumulate=True)
        x, v = leaf(3, 3), leaf(3, seed=1); grads(x.diagonal_scatter(v) + x.select_scatter(v, 0, 1) + x.slice_scatter(v.reshape(1, 3), 0, 2), x, v)
        L.zeros(5, 3).fill_diagonal_(4), L.zeros(7, 3).fill_diagonal_(4, wrap=True), L.unravel_index(L.tensor([5, 3]), (2, 3))
        L.zeros(3, 4).index_fill(-1, L.tensor([0, -1]), 7)
        x = leaf(2, 3); y = x * 1; y.unsqueeze_(0).transpose_(1, 2); y.squeeze_().mul_(2); grads(y, x)
        x = L.zeros(2, 3); v = x[0]; v.unsqueeze_(1); v.add_(1); x
        x = leaf(2, 3); x.unsqueeze_(0)
        x = reals(3); x.ge_(0), x.eq_(1)
        x = L.zeros(2, 0, 3); x.sub_(1), x.neg_()
        x = L.zeros(3); x[L.tensor([True, False, True])] = L.ones(1, 1); x
    """,
    "shape": """
        [tuple(f(ints(4, 6, 2), 2)) for f in (L.hsplit, L.vsplit, L.dsplit)], tuple(L.hsplit(ints(6), (1, 3)))
        L.repeat_interleave(L.tensor([2, 0, 1])), reals(2, 3).view(dtype=L.int64).dtype, L.tensor([[True, True]]).tril()
        L.ones(2, 3).sum_to_size(3), L.tensor(3.0).is_nonzero(), ints(2).is_signed(), ints(2).is_same_size(ints(3)), L.is_conj(ints(2)), ints(2).is_neg(), ints(2).is_inference(), ints(2).resolve_neg()
        x = L.ones(1, 4, 1, 2); x.squeeze(0, 2), x.squeeze(-2), x.broadcast_to(3, 4, 1, 2), L.broadcast_to(x, size=(2, 4, 1, 2)), x.count_nonzero(0, 1), x.squeeze_(0, 2).shape
        reversed(ints(3)), L.tensor(2).flip(0), L.FloatTensor([1, 2]), L.LongTensor([1.5]), L.zeros(1).new_ones(2)
        reals(2, 2)[[[0, 1], [1, 0]]]
        f"{L.tensor(1.5)} {L.tensor(1.25):.1f}"
        f"{L.ones(2):.1f}"
        L.ones(2, 3, 4, 4).to(memory_format=L.channels_last).contiguous(memory_format=L.contiguous_format).shape
        reals(3)[1.0]
    """,
    "grid": """
        x, t = leaf(2, 3, 4, 5), leaf(2, 2, 3, seed=1); grads(F.grid_sample(x, F.affine_grid(t, (2, 3, 3, 6), False), align_corners=False), x, t)
        x, t = leaf(1, 2, 4, 5), leaf(1, 2, 3, seed=1); grads(F.grid_sample(x, F.affine_grid(t, (1, 2, 3, 6), True), "bilinear", "border", True), x, t)
        x, t = leaf(1, 2, 4, 5), leaf(1, 2, 3, seed=1); grads(F.grid_sample(x, F.affine_grid(t, (1, 2, 3, 6), True), "bilinear", "reflection", False), x, t)
        x, t = leaf(1, 2, 4, 5), leaf(1, 2, 3, seed=1); grads(F.grid_sample(x, F.affine_grid(t, (1, 2, 3, 6), False), "bicubic", "zeros", False), x, t)
        x, t = leaf(1, 2, 4, 5), leaf(1, 2, 3, seed=1); grads(F.grid_sample(x, F.affine_grid(t, (1, 2, 3, 6), False), "bicubic", "reflection", True), x, t)
        x, t = leaf(1, 2, 4, 5), leaf(1, 2, 3, seed=1); F.grid_sample(x, F.affine_grid(t, (1, 2, 3, 6), True), "nearest", "border", True)
        x, t = leaf(1, 2, 3, 4, 5), leaf(1, 3, 4, seed=1); grads(F.grid_sample(x, F.affine_grid(t, (1, 2, 3, 2, 6), False), align_corners=False), x, t)
        x = leaf(3, 4); grads(F.normalize(x) + F.normalize(x, 1.0, 0) + F.normalize(x, dim=1, eps=10.0), x)
    """,
    "autograd": """
        x = leaf(3); y = x * 1; grads(y.heaviside_(L.ones(3, dtype=L.float64)), x)
        x, z = leaf(3), leaf(2, 3, seed=1); grads(L.nextafter(x, z), x, z)
        x = leaf(3); y = x * 1; grads(y.nextafter_(L.zeros(3, dtype=L.float64)), x)
        x = leaf(3, 3); grads(L.linalg.matrix_power(x, 0), x)
        x, y = leaf(1, 2, 3), leaf(2, 1, 3, seed=1); (g,) = L.autograd.grad(F.cosine_similarity(x, y, dim=-2).sum(), x, create_graph=True); [g, *L.autograd.grad((g * g).sum(), (x, y))]
        x, y = leaf(2, 3), leaf(2, 1, 3, seed=1); (g,) = L.autograd.grad(F.cosine_similarity(x, y, dim=-1).sum(), x, create_graph=True); [g, *L.autograd.grad((g * g).sum(), (x, y))]
        x, w = leaf(), leaf(1, seed=2); (g,) = L.autograd.grad(F.prelu(x, w), w, create_graph=True); [g, *L.autograd.grad((g * g).sum(), x)]
        x, w = leaf(0, 2), leaf(2); (g,) = L.autograd.grad(F.group_norm(x, 1, w).sum(), x, create_graph=True); [g, *L.autograd.grad((g * g).sum(), (x, w), allow_unused=True)]
        [L.func.jacrev(lambda x: x * 2)(L.zeros(0, 3)).shape, L.func.jacfwd(lambda x: x * 2)(L.zeros(0)).shape]
        L.func.jvp(lambda x: tuple(x.sort()), (reals(4),), (reals(4, seed=1),))
        L.func.jvp(lambda x: (x > 0, x * x), (reals(4),), (reals(4, seed=1),))
        x = leaf(3); y = x * 1; y.zero_(); grads(y, x)
        x = leaf(3); y = x * 1; y.copy_(L.zeros(3, dtype=L.float64)); grads(y, x)
        x, z = leaf(3), leaf(2); L.autograd.grad(x.sum(), [x, z], materialize_grads=True)
        x, z = leaf(3), leaf(2); (_, g) = L.autograd.grad(x.sum(), [x, z], create_graph=True, materialize_grads=True); g.requires_grad
        x, z = leaf(3), leaf(3, seed=1); y = x * z; x.requires_grad_(False); y.sum().backward(); [x.grad, z.grad]
        x = leaf(3); y, z = x * 2, x * 3; y.sum().backward(); x.detach_(); z.sum().backward(); x.grad
        x = leaf(3); L.autograd.grad(x * x, x, L.eye(3, dtype=L.float64), is_grads_batched=True)
        x = leaf(3); x.clone().grad_fn.next_functions[0][0].variable is x
        L.autograd.functional.jacobian(lambda a: a * a, reals(3), vectorize=True)
        a = L.set_grad_enabled(mode=False); b = L.is_grad_enabled(); c = L.set_grad_enabled(True); b
        f = L.inference_mode(mode=False)(lambda x: x * 2); f(leaf(2)).requires_grad
        f = L.inference_mode()(lambda x: x * 2); f(leaf(2)).requires_grad
        x = L.zeros(1, requires_grad=True); a = L.autograd.set_detect_anomaly(True); (x / x).sum().backward()
        L.autograd.set_detect_anomaly(False).__class__.__name__
        g = nn.Linear(2, 1, bias=False); L.func.functional_call(g, {"weight": L.ones(1, 2)}, (L.ones(3, 2),))
    """,
    "strides": """
        x = reals(3, 4).requires_grad_(); grads(x.as_strided((3,), (0,)) ** 2, x)
        x = leaf(3, 4); v = x[1:]; grads(v.as_strided((2, 2), (1, 3), 3) ** 2, x)
        x = leaf(3, 4); v = x[1:]; L.autograd.grad((v.as_strided((2, 2), (1, 3)) ** 2).sum(), v)
        x = leaf(12); v = x[::2]; grads(v.as_strided((3,), (1,), 3) ** 2, x)
        x = leaf(3, 4); z = x * 1; v = z[1:]; y = v.as_strided((2, 2), (1, 3), 5); y.mul_(3); grads(v * v, x)
        L.func.hessian(lambda x: (x.as_strided((3,), (0,)) ** 3).sum() + (x[1:].as_strided((2,), (1,)) ** 3).sum())(reals(2, 2))
        L.func.jvp(L.func.grad(lambda x: (x.as_strided((2, 2), (1, 1)) ** 3).sum()), (reals(2, 2),), (reals(2, 2, seed=1),))[1]
        L.func.vmap(lambda x: x.as_strided((2,), (1,), 1))(reals(2, 4))
        L.func.vmap(lambda x: x[1:].as_strided((2,), (1,)))(reals(2, 4))
        L.func.vmap(lambda x: x.as_strided((2,), (1,), 1), in_dims=1)(reals(2, 4))
        L.func.vmap(L.func.grad(lambda x: (x.as_strided((2,), (1,), 0) ** 3).sum()))(reals(2, 4))
        L.func.vmap(lambda x: x.clone().unsqueeze_(0).mul_(2))(reals(2, 3, 4))
        L.func.vmap(lambda x: x.clone().t_().add_(1), in_dims=2, out_dims=-1)(reals(2, 3, 4))
        L.func.vmap(L.func.grad(lambda x: (x.clone().unsqueeze_(0).squeeze_().transpose_(0, 1) ** 2).sum()))(reals(2, 3, 4))
    """,
    "optimizers": """
        train("ASGD", lr=0.1, lambd=0.1, alpha=0.5, t0=5, weight_decay=0.1)
        train("ASGD", maximize=True)
        train("Rprop", lr=0.1, etas=(0.4, 1.3), step_sizes=(1e-3, 1))
        train("Rprop", maximize=True)
        train("Adafactor")
        train("Adafactor", lr=0.5, beta2_decay=-0.3, eps=(1e-2, 0.1), d=1.5, weight_decay=0.1, maximize=True)
        L.optim.Adafactor([leaf(1)], d=0.5)
        L.optim.Adafactor([leaf(1)], eps=(None, -1.0))
        L.optim.Muon([leaf(3)])
        L.optim.Muon([leaf(2, 2)], adjust_lr_fn="arbitrary")
        train("LBFGS", lr=0.5, max_iter=5)
        train("LBFGS", history_size=2, max_iter=4, max_eval=6)
        train("LBFGS", line_search_fn="strong_wolfe", max_iter=4)
        valley(line_search_fn="strong_wolfe", lr=1e-3, max_iter=4, max_eval=3)
        valley(line_search_fn="strong_wolfe", lr=100.0, max_iter=9, max_eval=4)
        L.optim.Rprop([leaf(1)], etas=(1.5, 2))
        o = L.optim.SGD([leaf(1)], lr=0.3); s = L.optim.swa_utils.SWALR(o, 0.05, 4); [(o.step(), s.step(), s.get_last_lr()[0])[2] for _ in range(7)]
        o = L.optim.SGD([leaf(1)], lr=0.3); s = L.optim.swa_utils.SWALR(o, 0.5, 3, "linear"); [(o.step(), s.step(), s.get_last_lr()[0])[2] for _ in range(5)]
        r = []; o = L.optim.SGD([leaf(1)], lr=0.3); h = o.register_state_dict_post_hook(lambda o, s: r.append(1)); o.register_load_state_dict_pre_hook(lambda o, s: r.append(2)); o.load_state_dict(o.state_dict()); r
    """,
    "complex numbers": """
        z = [(L.view_as_complex(reals(2, 3, 2, seed=i))).requires_grad_() for i in range(3)]; y = F.pairwise_distance(*z[:2]); y.sum().backward(); [y, z[0].grad, z[1].grad]
        z = [(L.view_as_complex(reals(2, 3, 2, seed=i))).requires_grad_() for i in range(3)]; y = F.triplet_margin_loss(*z, swap=True, margin=2.0); y.backward(); [y, *[x.grad for x in z]]
        z = [(L.view_as_complex(reals(2, 3, 2, seed=i))).requires_grad_() for i in range(2)]; y = F.rms_norm(z[0], (3,), z[1][0]); (y * L.view_as_complex(reals(2, 3, 2, seed=5))).sum().real.backward(); [y, *[x.grad for x in z]]
        p = L.view_as_complex(reals(3, 2)).requires_grad_(); o = L.optim.Adagrad([p], 0.1, initial_accumulator_value=0.1); (p * p.conj()).real.sum().backward(); o.step(); p
    """,
    "lazy": """
        m = nn.LazyLinear(3); m
        m = nn.LazyLinear(3, bias=False); y = m(L.ones(2, 5)); [m, y.shape, m.weight.shape]
        m = nn.LazyConv2d(4, 3, padding=1, groups=2); y = m(L.ones(2, 6, 5, 5)); [m, y.shape, m.weight.shape]
        m = nn.LazyConvTranspose1d(4, 3, 2, 0, 0, 2); y = m(L.ones(2, 6, 5)); [m, y.shape, m.weight.shape]
        m = nn.LazyBatchNorm2d(eps=0.1); y = m(L.ones(2, 3, 4, 4)); [m, y, m.running_mean, m.weight]
        m = nn.LazyInstanceNorm1d(affine=True); y = m(reals(2, 3, 4).float()); [m, y]
        a, b = nn.LazyLinear(3), nn.Linear(4, 3); str(a.load_state_dict(b.state_dict()))
        nn.LazyLinear(3).weight.shape
        nn.LazyConv2d(4, 3)(L.ones(5))
    """,
    "errors": """
        L.narrow(L.zeros(3), 0, 4, 0)
        L.narrow(L.zeros(3), 0, -4, 1)
        L.narrow(L.zeros(3), 0, 2, 2)
        L.rot90(L.zeros(3))
        L.rot90(L.zeros(3, 3), 1, (0, 5))
        L.unbind(L.tensor(1.0))
        L.hsplit(L.zeros(4, 4), "abc")
        L.signal.windows.hann(3, dtype=L.int64)
        L.optim.Adam([leaf(2)], betas=(0.9, L.tensor(0.99)))
        L.optim.Adam([leaf(2)], foreach=True, fused=True)
        F.conv2d(L.zeros(1, 3, 5, 5), L.zeros(3, 2, 3, 3))
        F.linear(L.zeros(2, 3), L.zeros(2, 2))
        F.linear(L.zeros(2, 3), L.zeros(2, 3, dtype=L.float64))
        F.max_pool2d(L.zeros(1, 1, 4, 4), 5)
        F.cross_entropy(L.zeros(2, 3), L.zeros(2))
        L.ones(2) + L.ones(3)
        L.ones(2).add_(L.ones(2, 2))
        L.ones(0, 1, dtype=L.int32).add_(L.ones(0, 2, dtype=L.int32))
        L.ones(0, 1).clamp_(L.ones(0, 2))
        L.ones(2) @ L.ones(3)
        L.ones(2, 3, 4).sum(0, 1)
        L.ones(2, 3, 4).norm(2, 0, 1)
        L.ones(2, 3, 4).quantile(0.5, 0, 1)
        L.ones(2, 3, 4).argmax(None, 1)
        L.ones(1, 2, 1).squeeze(0, dim=2)
        L.ones(2, 3, 4).mean(0, keepdim=1)
        L.ones(2, 3, 4).amax(0, 1)
        L.ones(2, 3, 4).std(0, 1)
        L.ones(2, 3, 4).argmax(0, 1)
        L.ones(2, 3, 4).max(0, 1)
        L.ones(2, 3, 4).any(0, 1)
        L.ones(2, 3, 4).logsumexp(0, 1)
        float(L.ones(2))
        L.ones(2).item()
        L.cat([])
        L.full((2,), 300, dtype=L.uint8)
        L.ones(2).fill_(L.ones(2))
        L.zeros(2, dtype=L.int32).fill_(math.inf)
    """,
}
PROGRAMS = [(name, line.strip()) for name, table in TABLES.items() for line in table.strip().split("\n")]


def run(text: str, library: Any) -> Any:
    names = {"L": library, "F": library.nn.functional, "nn": library.nn, "np": np, "math": math}
    exec(SETUP, names)
    body = ast.parse(text.replace("; ", "\n"))
    last: Any = body.body.pop()
    exec(compile(body, "program", "exec"), names)
    try:
        return plain(eval(compile(ast.Expression(last.value), "program", "eval"), names), library)
    except Exception as error:
        return error


def plain(value: Any, library: Any) -> Any:
    if isinstance(value, library.Tensor):
        return np.array(value.detach().numpy())
    if isinstance(value, (list, tuple)):
        return [plain(v, library) for v in value]
    if isinstance(value, library.nn.Module):
        return repr(value)
    return str(value).rpartition(".")[2] if "float" in str(value) or "int" in str(value) else value


def check_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs)), f"{ours!r} instead of {theirs!r}"
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            check_same(a, b)
    elif isinstance(theirs, np.ndarray):
        assert not isinstance(ours, Exception), repr(ours)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        tolerance = 2e-5 if theirs.dtype == np.float32 else 1e-9
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    elif isinstance(theirs, float):
        assert math.isclose(ours, theirs, rel_tol=1e-12)
    else:
        assert ours == theirs


@pytest.mark.parametrize(("table", "text"), PROGRAMS, ids=[f"{t}-{i}" for i, (t, _) in enumerate(PROGRAMS)])
def test_same_as_torch(table: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_same(run(text, fastdl), run(text, torch))

"""Operations as they are called, for a device: what ``test_device.py`` compares between devices and dtypes.

See ``device_runs.py`` for what a case is, and ``device_modules.py`` for layers and training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdl
import fastdl.nn.functional as F
from device_runs import ints, on

UNARY = """abs neg sign floor ceil trunc round square sqrt rsqrt reciprocal exp expm1 log log1p log2 log10 sin cos tan
    asin acos atan sinh cosh asinh acosh atanh erf frac relu sigmoid tanh isnan isinf isfinite logical_not signbit
    isposinf isneginf positive""".split()
BINARY = """add sub mul div pow remainder fmod floor_divide atan2 hypot maximum minimum eq ne lt le gt ge logical_and
    logical_or logical_xor""".split()
ACTIVATIONS = """relu relu6 elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid leaky_relu
    logsigmoid tanhshrink softshrink hardshrink sigmoid tanh""".split()

SAMPLED: list[Callable[[Any], Any]] = [
    lambda p: p.sample((2,)),
    lambda p: p.log_prob(p.sample()),
    lambda p: p.enumerate_support(),
]


def restored(parts: Any) -> Any:
    """The symmetric matrix of these eigenvalues and eigenvectors."""
    values, vectors = parts
    return vectors * values.unsqueeze(-2) @ vectors.mT


def sizes(parts: Any) -> list[Any]:
    """Without the signs of vectors, which are each library's choice."""
    return [part.abs() for part in parts]


CASES: dict[str, Callable[[str], Any]] = {}
for name in UNARY:
    CASES[name] = lambda d, f=name: getattr(fastdl, f)(on(d, 3, 4, low=0.1, high=0.9))
    CASES[f"{name} of integers"] = lambda d, f=name: getattr(fastdl, f)(ints(d, 3, 4) + 1)
for name in BINARY:
    CASES[name] = lambda d, f=name: getattr(fastdl, f)(on(d, 3, 4, low=0.5), on(d, 4, low=0.5))
    CASES[f"{name} with a number"] = lambda d, f=name: getattr(fastdl, f)(on(d, 3, 4, low=0.5), 1.5)
    if name != "hypot":
        CASES[f"{name} of integers"] = lambda d, f=name: getattr(fastdl, f)(
            ints(d, 3, 4) + 1, ints(d, 4, seed=1) + 1
        )
        CASES[f"{name} of integers and a number"] = lambda d, f=name: getattr(fastdl, f)(ints(d, 3, 4) + 1, 2)
for name in ACTIVATIONS:
    CASES[f"F.{name}"] = lambda d, f=name: getattr(F, f)(on(d, 3, 4))


def _sparse(d: str, seed: int = 0) -> Any:
    places = fastdl.tensor([[0, 1, 1, 0, 3], [2, 0, 2, 2, 1]]).to(d)
    return fastdl.sparse_coo_tensor(places, on(d, 5, seed=seed), (4, 3))


def sparse_steps(d: str) -> Any:
    table = fastdl.nn.Embedding(6, 3, sparse=True).to(d)
    with fastdl.no_grad():
        table.weight.copy_(on(d, 6, 3))
    for kind in (fastdl.optim.SparseAdam, fastdl.optim.Adagrad, fastdl.optim.SGD):
        optimizer = kind(table.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            table(fastdl.tensor([[1, 3, 1], [5, 0, 3]]).to(d)).square().sum().backward()
            optimizer.step()
    return table.weight.detach()


CASES |= {
    # sparse tensors
    "sparse @ dense": lambda d: _sparse(d) @ on(d, 3, 2, seed=1),
    "sparse @ vector": lambda d: _sparse(d) @ on(d, 3, seed=1),
    "dense @ sparse": lambda d: on(d, 2, 4, seed=1) @ _sparse(d),
    "csr @ dense": lambda d: _sparse(d).to_sparse_csr() @ on(d, 3, 2, seed=1),
    "sparse @ sparse": lambda d: (_sparse(d) @ _sparse(d, 1).t()).to_dense(),
    "sparse arithmetic": lambda d: (2 * _sparse(d) + _sparse(d, 1) * on(d, 4, 3)).to_dense(),
    "dense + sparse": lambda d: on(d, 4, 3) + _sparse(d),
    "sparse softmax": lambda d: fastdl.sparse.softmax(_sparse(d), 1).to_dense(),
    "sparse sum": lambda d: (fastdl.sparse.sum(_sparse(d), 1).to_dense(), _sparse(d).sum()),
    "sparse parts": lambda d: (
        _sparse(d)[1].to_dense(),
        _sparse(d).t().to_dense(),
        _sparse(d).abs().to_dense(),
    ),
    "to_sparse": lambda d: on(d, 4, 3).relu().to_sparse().to_dense() * 2,
    "sampled_addmm": lambda d: fastdl.sparse.sampled_addmm(
        _sparse(d).coalesce(), on(d, 4, 2), on(d, 2, 3)
    ).values(),
    "sparse to and fro": lambda d: _sparse("cpu").detach().to(d).cpu().to(d).to_dense(),
    # numbers on the left, mixed dtypes, in place
    "2 - x": lambda d: 2 - on(d, 3),
    "2 / x": lambda d: 2 / on(d, 3, low=0.5),
    "2 ** x": lambda d: 2 ** on(d, 3),
    "x ** 2": lambda d: on(d, 3) ** 2,
    "int + float": lambda d: ints(d, 3) + on(d, 3),
    "float64 + float32": lambda d: on(d, 3).double() + on(d, 3),
    "in place": lambda d: on(d, 3, grad=False).add_(1).mul_(2).clamp_(0, 3).neg_().exp_(),
    "in place on a view": lambda d: (on(d, 3, 4) * 1)[1].mul_(3),
    "fill": lambda d: (
        on(d, 3, grad=False).fill_(2),
        on(d, 3, grad=False).zero_(),
        fastdl.full_like(on(d, 3), 2.0),
    ),
    "copy_": lambda d: (on(d, 3, 4) * 1).copy_(on(d, 4)),
    "clamp": lambda d: (on(d, 9).clamp(-1, 1), on(d, 9).clamp(min=0), ints(d, 9).clamp(1, 3)),
    "clamp by tensors": lambda d: on(d, 9).clamp(on(d, 9, seed=4), 1.0),
    "where": lambda d: fastdl.where(on(d, 3, 4) > 0, on(d, 3, 4), 0.0),
    "where of two": lambda d: fastdl.where(on(d, 3, 4) > 0, on(d, 3, 4), on(d, 4, seed=7)),
    "where of integers": lambda d: fastdl.where(ints(d, 4) > 2, ints(d, 4), 7),
    "addcmul": lambda d: (
        fastdl.addcmul(on(d, 3), on(d, 3), on(d, 3)),
        fastdl.lerp(on(d, 3), on(d, 3, seed=1), 0.3),
    ),
    "addcdiv": lambda d: fastdl.addcdiv(on(d, 3), on(d, 3), on(d, 3, low=0.5), value=2.0),
    "isclose": lambda d: (
        fastdl.isclose(on(d, 3), on(d, 3)),
        fastdl.tensor(fastdl.allclose(on(d, 3), on(d, 3)), device=d),
    ),
    "bitwise": lambda d: (
        ints(d, 4) & 3,
        ints(d, 4) | 3,
        ints(d, 4) ^ 1,
        ~ints(d, 4),
        ints(d, 4) << 1,
        ints(d, 4) >> 1,
    ),
    # reductions
    "sum": lambda d: (
        on(d, 3, 4).sum(),
        on(d, 3, 4).sum(0),
        on(d, 3, 4).sum(1, keepdim=True),
        ints(d, 3, 4).sum(0),
    ),
    "mean": lambda d: (on(d, 3, 4).mean(), on(d, 3, 4).mean((0, 1)), on(d, 3, 4).mean(-1)),
    "prod": lambda d: (on(d, 3, 4).prod(), on(d, 3, 4).prod(1), ints(d, 3, 4).prod(0)),
    "var std": lambda d: (on(d, 3, 4).var(), on(d, 3, 4).std(0), fastdl.var_mean(on(d, 3, 4), 1)),
    "norm": lambda d: (on(d, 3, 4).norm(), on(d, 3, 4).norm(1, 1), on(d, 3, 4).norm(float("inf"), 0)),
    "logsumexp": lambda d: on(d, 3, 4).logsumexp(1),
    "any all": lambda d: ((on(d, 3, 4) > 0).any(1), (on(d, 3, 4) > 0).all(), on(d, 3, 4).count_nonzero(1)),
    "max min": lambda d: (on(d, 3, 4).max(), on(d, 3, 4).max(1), on(d, 3, 4).min(0), ints(d, 3, 4).max(0)),
    "amax": lambda d: (on(d, 3, 4).amax(1), on(d, 3, 4).amin((0, 1)), fastdl.aminmax(on(d, 3, 4))),
    "argmax": lambda d: (on(d, 3, 4).argmax(), on(d, 3, 4).argmin(1), ints(d, 3, 4).argmax(0)),
    "median": lambda d: (on(d, 5).median(), on(d, 3, 5).median(1)),
    # order
    "sort": lambda d: (on(d, 3, 4).sort(1), on(d, 3, 4).sort(0, descending=True), ints(d, 7).sort()),
    "argsort": lambda d: (on(d, 3, 4).argsort(1), on(d, 5).argsort(descending=True)),
    "topk": lambda d: (on(d, 3, 9).topk(2), on(d, 3, 9).topk(2, largest=False), on(d, 3, 9).kthvalue(2)),
    "cumsum": lambda d: (on(d, 3, 4).cumsum(1), on(d, 3, 4).cumprod(0), ints(d, 5).cumsum(0)),
    "unique": lambda d: (
        fastdl.unique(ints(d, 9)),
        fastdl.unique(ints(d, 9), return_inverse=True, return_counts=True),
    ),
    # shapes
    "views": lambda d: (
        on(d, 3, 4).T,
        on(d, 3, 4).reshape(2, 6),
        on(d, 3, 4).view(-1),
        on(d, 1, 4).squeeze(0),
        on(d, 3).unsqueeze(1),
        on(d, 3, 4).permute(1, 0),
        on(d, 3, 1).expand(3, 5),
        on(d, 3, 4).narrow(1, 1, 2),
        on(d, 3, 3).diagonal(),
    ),
    "splits": lambda d: (
        on(d, 3, 4).unbind(0),
        on(d, 6, 2).split(2),
        on(d, 6, 2).chunk(3),
        on(d, 9).unfold(0, 3, 2),
    ),
    "joins": lambda d: (fastdl.cat([on(d, 2, 3), on(d, 1, 3)]), fastdl.stack([on(d, 3), on(d, 3)], 1)),
    "repeats": lambda d: (on(d, 3).repeat(2, 2), on(d, 3).tile(2), on(d, 3, 2).repeat_interleave(2, 0)),
    "repeat_interleave by counts": lambda d: on(d, 3, 2).repeat_interleave(
        fastdl.tensor([1, 0, 2], device=d), 0
    ),
    "flips": lambda d: (on(d, 3, 4).flip(0), on(d, 3, 4).roll(1, 0), on(d, 3, 4).rot90()),
    "triangles": lambda d: (
        on(d, 3, 3).tril(),
        on(d, 3, 3).triu(1),
        on(d, 3).diag(),
        fastdl.diag_embed(on(d, 2, 3)),
    ),
    "as_strided": lambda d: on(d, 3, 4).as_strided((2, 2), (1, 2), 1),
    "contiguous": lambda d: (on(d, 3, 4).T.contiguous(), on(d, 3, 4).clone(), on(d, 3, 4).T.reshape(12)),
    "meshgrid": lambda d: fastdl.meshgrid(on(d, 3), on(d, 2), indexing="ij"),
    "pad": lambda d: (F.pad(on(d, 2, 3), (1, 2)), F.pad(on(d, 1, 2, 4), (1, 1), mode="reflect")),
    # indexing
    "index": lambda d: (
        on(d, 3, 4)[1],
        on(d, 3, 4)[:, 1:3],
        on(d, 3, 4)[..., None],
        on(d, 9)[::2],
        on(d, 3, 4)[-1, 2],
    ),
    "index by tensors": lambda d: (on(d, 5, 4)[ints(d, 3)], on(d, 5, 4)[ints(d, 3), ints(d, 3, high=4)]),
    "index by lists": lambda d: (on(d, 5, 4)[[0, 2]], on(d, 5, 4)[:, [1, 1]]),
    "index by a mask": lambda d: (
        on(d, 3, 4)[on(d, 3, 4) > 0],
        on(d, 3, 4)[fastdl.tensor([True, False, True], device=d)],
    ),
    "assignment": lambda d: [assigned(d)],
    "select": lambda d: (
        on(d, 5, 4).index_select(0, ints(d, 3)),
        on(d, 5, 4).gather(1, ints(d, 5, 2, high=4)),
        on(d, 9).take(ints(d, 3)),
    ),
    "scatter": lambda d: (
        on(d, 5, 4).scatter(1, ints(d, 5, 1, high=4), on(d, 5, 1)),
        on(d, 5, 4).scatter_add(0, ints(d, 2, 4), on(d, 2, 4)),
    ),
    "index_add": lambda d: (
        on(d, 5, 4).index_add(0, ints(d, 2), on(d, 2, 4)),
        on(d, 5, 4).index_fill(0, ints(d, 1), 2.0),
    ),
    "masked": lambda d: (
        on(d, 3, 4).masked_fill(on(d, 3, 4) > 0, 1.0),
        fastdl.masked_select(on(d, 3, 4), on(d, 3, 4) > 0),
        on(d, 9).nonzero(),
    ),
    "one_hot": lambda d: (F.one_hot(ints(d, 4), 5), ints(d, 9).bincount()),
    "sums at one place": lambda d: [one_place(d, dtype) for dtype in (fastdl.float16, fastdl.bfloat16)],
    "sums of complex numbers": lambda d: complex_sums(d),
    "segments": lambda d: [
        fastdl.segment_reduce(on(d, 7), how, lengths=fastdl.tensor([2, 0, 5], device=d), initial=0.5)
        for how in ("sum", "mean", "max", "min", "prod")
    ],
    "nonzero_static": lambda d: (
        fastdl.nonzero_static(ints(d, 3, 4), size=5),
        fastdl.nonzero_static(ints(d, 3), size=9),
    ),
    "bincount with weights": lambda d: (
        ints(d, 9).bincount(on(d, 9, grad=False)),
        ints(d, 9).int().bincount(ints(d, 9, seed=1), minlength=8),
        ints(d, 0).bincount(on(d, 0, grad=False)),
        ints(d, 9).to(fastdl.uint8).bincount(on(d, 9, grad=False).half()),
    ),
    # products
    "matmul": lambda d: (
        on(d, 3, 4) @ on(d, 4, 2),
        on(d, 4) @ on(d, 4),
        on(d, 2, 3, 4) @ on(d, 4, 5),
        on(d, 2, 3, 4).bmm(on(d, 2, 4, 3)),
    ),
    "linear": lambda d: (
        F.linear(on(d, 3, 4), on(d, 5, 4), on(d, 5)),
        F.linear(on(d, 3, 4), on(d, 5, 4), on(d, 5), "relu"),
    ),
    "addmm": lambda d: (
        fastdl.addmm(on(d, 2), on(d, 3, 4), on(d, 4, 2)),
        on(d, 3).outer(on(d, 2)),
        fastdl.mv(on(d, 3, 4), on(d, 4)),
    ),
    "einsum": lambda d: (
        fastdl.einsum("bij,bjk->bik", on(d, 2, 3, 4), on(d, 2, 4, 5)),
        fastdl.einsum("ii", on(d, 3, 3)),
    ),
    "integer matmul": lambda d: ints(d, 3, 4) @ ints(d, 4, 2),
    # layers
    "conv": lambda d: (
        F.conv1d(on(d, 2, 3, 9), on(d, 4, 3, 3)),
        F.conv2d(on(d, 2, 4, 6, 6), on(d, 4, 2, 3, 3), on(d, 4), 2, 1, groups=2),
    ),
    "conv same": lambda d: F.conv2d(on(d, 2, 3, 6, 6), on(d, 4, 3, 3, 3), padding="same", dilation=2),
    "conv_transpose": lambda d: F.conv_transpose2d(on(d, 2, 3, 4, 4), on(d, 3, 4, 3, 3), on(d, 4), 2, 1),
    "pool": lambda d: (
        F.max_pool2d(on(d, 2, 3, 6, 6), 2),
        F.avg_pool2d(on(d, 2, 3, 6, 6), 3, 2, 1),
        F.adaptive_avg_pool2d(on(d, 2, 3, 6, 6), 2),
    ),
    "fractional pooling": lambda d: (
        *F.fractional_max_pool2d(on(d, 2, 3, 7, 9), (2, 3), (3, 4), return_indices=True),
        *F.fractional_max_pool2d(
            on(d, 3, 7, 9),
            2,
            output_ratio=0.5,
            return_indices=True,
            _random_samples=fastdl.rand(1, 3, 2).to(d),
        ),
        *F.fractional_max_pool3d(on(d, 2, 3, 5, 6, 7), 2, (3, 1, 4), return_indices=True),
    ),
    "max_pool indices": lambda d: F.max_pool2d(on(d, 2, 3, 6, 6), 2, return_indices=True),
    "more pooling": lambda d: (
        F.adaptive_max_pool2d(on(d, 2, 3, 6, 6), 2),
        F.lp_pool2d(on(d, 2, 3, 6, 6), 2, 2),
        F.max_pool1d(on(d, 2, 3, 6), 2),
    ),
    "softmax": lambda d: (
        F.softmax(on(d, 3, 4), 1),
        F.log_softmax(on(d, 3, 4), 0),
        F.softmin(on(d, 3, 4), 1),
    ),
    "batch_norm": lambda d: F.batch_norm(
        on(d, 4, 3, 5), on(d, 3, grad=False), on(d, 3, low=0.5, grad=False), on(d, 3), on(d, 3), True
    ),
    "batch_norm eval": lambda d: F.batch_norm(
        on(d, 4, 3, 5), on(d, 3, grad=False), on(d, 3, low=0.5, grad=False), on(d, 3), on(d, 3)
    ),
    "norms": lambda d: (
        F.layer_norm(on(d, 3, 4), (4,), on(d, 4), on(d, 4)),
        F.group_norm(on(d, 2, 4, 5), 2, on(d, 4), on(d, 4)),
        F.instance_norm(on(d, 2, 3, 5)),
        F.rms_norm(on(d, 3, 4), (4,), on(d, 4)),
        F.normalize(on(d, 3, 4)),
        F.local_response_norm(on(d, 2, 4, 5), 3),
    ),
    "embedding": lambda d: (
        F.embedding(ints(d, 3, 2), on(d, 5, 4)),
        F.embedding_bag(ints(d, 3, 2), on(d, 5, 4), mode="mean"),
    ),
    "embedding_bag": lambda d: F.embedding_bag(
        ints(d, 6), on(d, 5, 4), fastdl.tensor([0, 2], device=d), mode="sum"
    ),
    "dropout": lambda d: (
        F.dropout(on(d, 9, 9), 0.5),
        F.dropout2d(on(d, 2, 3, 4, 4)),
        F.alpha_dropout(on(d, 9), 0.5, True),
        F.rrelu(on(d, 9), training=True),
    ),
    "prelu": lambda d: (F.prelu(on(d, 3, 4), on(d, 1)), F.glu(on(d, 3, 4)), F.threshold(on(d, 9), 0.1, 2.0)),
    "interpolate": lambda d: (
        F.interpolate(on(d, 1, 2, 4, 4), scale_factor=2),
        F.interpolate(on(d, 1, 2, 4, 4), size=(6, 5), mode="bilinear"),
        F.pixel_shuffle(on(d, 1, 4, 2, 2), 2),
    ),
    "attention": lambda d: F.scaled_dot_product_attention(
        on(d, 2, 3, 5, 4), on(d, 2, 3, 6, 4), on(d, 2, 3, 6, 4)
    ),
    "attention causal": lambda d: F.scaled_dot_product_attention(
        on(d, 2, 3, 5, 4), on(d, 2, 3, 5, 4), on(d, 2, 3, 5, 4), is_causal=True
    ),
    "attention masked": lambda d: F.scaled_dot_product_attention(
        on(d, 2, 3, 5, 4),
        on(d, 2, 3, 5, 4),
        on(d, 2, 3, 5, 4),
        attn_mask=on(d, 5, 5, grad=False) > -1,
        dropout_p=0.3,
    ),
    # losses
    "cross_entropy": lambda d: (
        F.cross_entropy(on(d, 4, 5), ints(d, 4)),
        F.cross_entropy(on(d, 4, 5), ints(d, 4), on(d, 5, low=0.5, grad=False), label_smoothing=0.1),
        F.cross_entropy(on(d, 4, 5), ints(d, 4), ignore_index=1, reduction="sum"),
        F.cross_entropy(on(d, 4, 5, 3), ints(d, 4, 3)),
        F.cross_entropy(on(d, 4, 5), F.softmax(on(d, 4, 5, seed=2), 1)),
        F.nll_loss(F.log_softmax(on(d, 4, 5), 1), ints(d, 4)),
    ),
    "mse_loss": lambda d: (
        F.mse_loss(on(d, 3, 4), on(d, 3, 4, seed=1)),
        F.mse_loss(on(d, 3), on(d, 3, seed=1), reduction="none"),
    ),
    "pointwise losses": lambda d: (
        F.l1_loss(on(d, 3), on(d, 3, seed=1)),
        F.smooth_l1_loss(on(d, 3), on(d, 3, seed=1)),
        F.huber_loss(on(d, 3), on(d, 3, seed=1)),
        F.soft_margin_loss(on(d, 3), on(d, 3, seed=1, grad=False).sign()),
        F.kl_div(F.log_softmax(on(d, 3, 4), 1), F.softmax(on(d, 3, 4, seed=1), 1), reduction="batchmean"),
        F.poisson_nll_loss(on(d, 3), on(d, 3, low=0.5)),
        F.gaussian_nll_loss(on(d, 3), on(d, 3, seed=1), on(d, 3, low=0.5)),
    ),
    "bce": lambda d: (
        F.binary_cross_entropy_with_logits(
            on(d, 3, 4), on(d, 3, 4, low=0.1, high=0.9, seed=1), pos_weight=on(d, 4, low=0.5, grad=False)
        ),
        F.binary_cross_entropy(on(d, 3, low=0.1, high=0.9), on(d, 3, low=0.1, high=0.9, seed=1)),
    ),
    "distance losses": lambda d: (
        F.cosine_similarity(on(d, 3, 4), on(d, 3, 4, seed=1)),
        F.pairwise_distance(on(d, 3, 4), on(d, 3, 4, seed=1)),
        F.triplet_margin_loss(on(d, 3, 4), on(d, 3, 4, seed=1), on(d, 3, 4, seed=2)),
        fastdl.cdist(on(d, 3, 4), on(d, 2, 4)),
        F.cosine_embedding_loss(on(d, 3, 4), on(d, 3, 4, seed=1), ints(d, 3, high=2) * 2 - 1),
        F.margin_ranking_loss(on(d, 3), on(d, 3, seed=1), on(d, 3, seed=2, grad=False).sign()),
        F.hinge_embedding_loss(on(d, 3), on(d, 3, seed=1, grad=False).sign()),
    ),
    "powers of matrices": lambda d: [fastdl.linalg.matrix_power(on(d, 2, 3, 3), n) for n in (0, 1, 5)],
    "margin losses": lambda d: (
        F.multi_margin_loss(on(d, 3, 4), ints(d, 3, high=4)),
        F.multilabel_margin_loss(on(d, 3, 4), ints(d, 3, 4, high=4)),
    ),
    "ctc_loss": lambda d: F.ctc_loss(
        F.log_softmax(on(d, 6, 2, 4), 2),
        fastdl.tensor([[1, 2], [3, 1]], device=d),
        fastdl.tensor([6, 6], device=d),
        fastdl.tensor([2, 1], device=d),
    ),
    # random numbers
    "random": lambda d: (
        fastdl.rand(3, device=d),
        fastdl.randn(3, device=d),
        fastdl.randint(0, 9, (3,), device=d),
        fastdl.randperm(5, device=d),
        fastdl.rand_like(on(d, 3)),
        fastdl.randn_like(on(d, 3)),
        fastdl.bernoulli(on(d, 3, low=0.1, high=0.9)),
        fastdl.normal(on(d, 3), 1.0),
        fastdl.multinomial(on(d, 5, low=0.1), 3),
        on(d, 3, grad=False).uniform_(),
        on(d, 3, grad=False).normal_(),
        on(d, 3, grad=False).exponential_(),
        fastdl.poisson(on(d, 3, low=0.1)),
        on(d, 3, grad=False).bernoulli_(0.3),
        on(d, 3, grad=False).random_(5),
        F.gumbel_softmax(on(d, 3, 4), hard=True),
    ),
    "distributions": lambda d: (
        *[f(b) for b in [fastdl.distributions.Bernoulli(on(d, 3, low=0.1, high=0.9))] for f in SAMPLED],
        *[f(c) for c in [fastdl.distributions.Categorical(logits=on(d, 2, 4))] for f in SAMPLED],
        *[f(c) for c in [fastdl.distributions.OneHotCategorical(logits=on(d, 2, 4))] for f in SAMPLED],
        *[f(p) for p in [fastdl.distributions.Poisson(on(d, 3, low=0.5))] for f in SAMPLED[:2]],
        *[f(n) for n in [fastdl.distributions.Normal(on(d, 3), on(d, 3, low=0.5))] for f in SAMPLED[:2]],
        *[f(n) for n in [fastdl.distributions.VonMises(on(d, 3), on(d, 3, low=0.5))] for f in SAMPLED[:2]],
        *[f(n) for n in [fastdl.distributions.LKJCholesky(3, on(d, 2, low=0.5))] for f in SAMPLED[:2]],
        *[
            f(n)
            for n in [fastdl.distributions.ContinuousBernoulli(on(d, 3, low=0.1, high=0.9))]
            for f in SAMPLED[:2]
        ],
    ),
    # the long tail
    "special": lambda d: (
        fastdl.lgamma(on(d, 3, low=0.5)),
        fastdl.erfinv(on(d, 3, low=-0.9, high=0.9)),
        fastdl.xlogy(on(d, 3), on(d, 3, low=0.5)),
        on(d, 3).nan_to_num(),
        fastdl.logaddexp(on(d, 3), on(d, 3, seed=1)),
        fastdl.special.i1e(on(d, 3)),
        fastdl.special.log_ndtr(on(d, 3)),
        fastdl.digamma(on(d, 3, low=0.5)),
        *(fastdl.polygamma(n, on(d, 3, low=0.5)) for n in (1, 2, 5)),
        fastdl.special.zeta(on(d, 3, 1, low=1.5, high=5, grad=False), on(d, 4, low=-1.5)),
        fastdl.special.zeta(2.5, on(d, 3, low=0.5)),
        fastdl.special.zeta(on(d, 3, low=1.5, grad=False), 2.0),
        fastdl.special.zeta(fastdl.tensor(3.0), on(d, 3, low=0.5)),  # a number on the CPU
        fastdl.igamma(on(d, 3, 1, low=0.2, high=50, grad=False), on(d, 4, low=0.2, high=60)),
        fastdl.igammac(on(d, 3, low=0.2, high=9, grad=False), on(d, 3, low=0.2, high=9, seed=1)),
        fastdl.igammac(ints(d, 3) + 1, on(d, 3, low=0.2)),
        fastdl.copysign(on(d, 3), on(d, 3, seed=1)),
        fastdl.heaviside(on(d, 3, grad=False), on(d, 3, grad=False)),
        fastdl.gcd(ints(d, 9), ints(d, 9, seed=1)),
        fastdl.frexp(on(d, 3, grad=False)),
    ),
    "statistics": lambda d: (
        on(d, 9).quantile(0.3),
        on(d, 6, 2, grad=False).log().quantile(0.3, 1),  # NaN in some rows
        on(d, 4, 9).quantile(on(d, 3, grad=False).sigmoid(), 1),
        *(
            on(d, 4, 5).quantile(0.6, 0, True, interpolation=kind)
            for kind in ("lower", "nearest", "midpoint")
        ),
        on(d, 3, 9).cummax(1),
        on(d, 3, 4).cummin(0),
        ints(d, 3, 4).cummax(1),
        on(d, 3, 4).logcumsumexp(1),
        on(d, 3, 4).nansum(1),
        ints(d, 9).unique_consecutive(return_inverse=True, return_counts=True),
        on(d, 9).diff(),
        on(d, 3, 4).cov(),
        on(d, 9).histc(4),
        on(d, 3, 3).trace(),
    ),
    "medians": lambda d: (
        on(d, 9).nanmedian(),
        with_gaps(d, 9).nanmedian(),
        with_gaps(d, 9).median(),
        ints(d, 8).median(),
        (with_gaps(d, 3) * float("nan")).nanmedian(),
        *with_gaps(d, 4, 6).nanmedian(1),
        *with_gaps(d, 4, 6).nanmedian(0, True),
        *with_gaps(d, 4, 6).median(0),
        *ints(d, 4, 6, high=3).nanmedian(1),
        *(on(d, 4, 6) > 0).int().nanmedian(0),
        *on(d).nanmedian(0),
    ),
    "quantiles": lambda d: (
        with_gaps(d, 4, 6).nanquantile(0.3),
        *(
            with_gaps(d, 4, 6).nanquantile(on(d, 3, low=0, high=1, grad=False), 1, True, interpolation=kind)
            for kind in ("linear", "lower", "higher", "midpoint", "nearest")
        ),
        with_gaps(d, 4, 6).nanquantile(fastdl.tensor([0.0, 0.25, 1.0]), 0),  # shares on the CPU
        with_gaps(d, 4, 6).quantile(on(d, 3, low=0, high=1, seed=1), 1),
        with_gaps(d, 4, 6).nanquantile(on(d, 3, low=0, high=1, seed=2), 0),
        on(d, 4, 6).quantile(on(d, low=0, high=1, seed=3)),
        on(d, 4, 6).quantile(on(d, 2, low=0, high=1, grad=False), 0, interpolation="higher"),
        (1 / ints(d, 5, high=2).float()).quantile(fastdl.tensor([0.0, 0.1, 1.0]).to(d)),  # infinite ones
    ),
    "histograms": lambda d: (
        *on(d, 40, grad=False).histogram(5),
        *on(d, 5, 8, grad=False).histogram(4, range=(-1.0, 1.5), density=True),
        *with_gaps(d, 40).detach().histogram(fastdl.tensor([-1.0, 0.0, 0.0, 0.5, 1.5])),  # edges on the CPU
        *fastdl.histogram(ints(d, 30).float(), 4, weight=ints(d, 30, seed=1).float() - 1),
        *fastdl.histogram(ints(d, 30).bfloat16(), 3, range=(1.0, 4.0)),
        *fastdl.histogramdd(ints(d, 30, 2).double(), [3, 5], weight=on(d, 30, grad=False, seed=1).double()),
        *fastdl.histogramdd(
            on(d, 4, 9, 3, grad=False), 2, range=[-1.0, 1.0, -2.0, 2.0, 0.0, 1.0], density=True
        ),
    ),
    "most frequent": lambda d: (
        ints(d, 9).mode(),
        *ints(d, 4, 9, high=3).mode(),
        *ints(d, 4, 9, high=3).mode(0, True),
        *ints(d, 4, 9, high=3).to(fastdl.uint8).mode(),
        *(ints(d, 4, 9) > 2).mode(1),
        *(on(d, 4, 9) * 1).round().mode(1),
        *with_gaps(d, 4, 9).mode(0),
        *[t.float() for t in (with_gaps(d, 4, 9).bfloat16() * 0).mode()],
        *on(d, 5, 1).mode(),
        *on(d).mode(),
    ),
    "products": lambda d: (
        on(d, 2, 3).cross(on(d, 2, 3, seed=1), 1),
        on(d, 2).kron(on(d, 3)),
        on(d, 3).vdot(on(d, 3, seed=1)),
        fastdl.vander(on(d, 3, grad=False)),
    ),
    "placement": lambda d: (
        on(d, 5, 4).scatter_reduce(0, ints(d, 2, 4), on(d, 2, 4), "amax"),
        on(d, 5, 4).scatter_reduce(0, ints(d, 2, 4), on(d, 2, 4), "mean", include_self=False),
        on(d, 5, 4).scatter_reduce(0, ints(d, 2, 4), on(d, 2, 4), "prod"),
        ints(d, 5, 4).scatter_add(0, ints(d, 2, 4), ints(d, 2, 4)),
        on(d, 5, 4).index_put((ints(d, 3),), on(d, 3, 4), accumulate=True),
    ),
    "linalg of triangles": lambda d: (
        fastdl.linalg.solve_triangular(on(d, 3, 3), on(d, 3, 2), upper=True, unitriangular=True),
        fastdl.linalg.householder_product(on(d, 4, 2), on(d, 2)),
        fastdl.linalg.vander(on(d, 3)),
    ),
    "pad of integers": lambda d: (
        F.pad(ints(d, 1, 2, 3), (1, 2), value=7),
        F.pad(ints(d, 1, 2, 3), (1, 1), mode="reflect"),
        F.pad(ints(d, 2, 3) > 2, (1, 1)),
        F.pad(ints(d, 2, 3).int(), (1, 1), value=3),
    ),
    "order in bfloat16": lambda d: ordered(on(d, 3, 5).bfloat16()),
    "order in float16": lambda d: ordered(on(d, 3, 5).half()),
    "repeated indices in bfloat16": lambda d: repeated(d, on(d, 3, 4).bfloat16()),
    "repeated indices in float16": lambda d: repeated(d, on(d, 3, 4).half()),
    "counts in small integers": lambda d: (
        ints(d, 4, high=3).to(fastdl.int8).index_add(0, ints(d, 6, high=4), ints(d, 6).to(fastdl.int8)),
        ints(d, 4, high=3)
        .to(fastdl.uint8)
        .index_put((ints(d, 6, high=4),), ints(d, 6).to(fastdl.uint8), True),
    ),
    "product with a zero": lambda d: ((on(d, 3, 4) * (on(d, 3, 4) > 0)).prod(1), on(d, 2, 3, 2).prod()),
    "masked_scatter": lambda d: on(d, 3, 4).masked_scatter(on(d, 3, 4) > 0, on(d, 12)),
    "modes": lambda d: (
        fastdl.distributions.Dirichlet(on(d, 2, 3, low=0.2)).mode,
        fastdl.distributions.Beta(on(d, 6, low=0.2), on(d, 6, low=0.2, seed=1)).mode,
        fastdl.distributions.StudentT(on(d, 6, low=0.2)).variance,
    ),
    "take": lambda d: (on(d, 3, 4).take(ints(d, 5)), on(d, 3, 4).take(ints(d, 5) - 5)),
    "linalg: linear systems": lambda d: (
        fastdl.linalg.inv(on(d, 3, 3)),
        fastdl.linalg.solve(on(d, 2, 3, 3), on(d, 3, 2)),
        fastdl.linalg.solve(on(d, 3, 3), on(d, 3)),
        fastdl.linalg.solve(on(d, 3, 3), on(d, 2, 3), left=False),
        *fastdl.linalg.inv_ex(on(d, 2, 3, 3)),
        fastdl.linalg.solve_ex(fastdl.complex(on(d, 3, 3), on(d, 3, 3)), on(d, 3, 1) * (1 + 2j))[0].abs(),
        fastdl.linalg.solve_triangular(on(d, 3, 3), on(d, 2, 3), upper=True, left=False),
        fastdl.cholesky_solve(on(d, 3, 2), on(d, 3, 3)),
        fastdl.cholesky_inverse(on(d, 3, 3), upper=True),
    ),
    "linalg: lu": lambda d: (
        *fastdl.linalg.lu(on(d, 3, 4)),
        *fastdl.linalg.lu_factor_ex(on(d, 2, 4, 3)),
        fastdl.linalg.lu_solve(*fastdl.linalg.lu_factor(on(d, 3, 3)), on(d, 3, 2), adjoint=True),
        fastdl.linalg.lu_solve(*fastdl.linalg.lu_factor(on(d, 3, 3)), on(d, 2, 3), left=False),
        *fastdl.linalg.lu(on(d, 3, 3) + 4 * fastdl.eye(3, device=d), pivot=False),
    ),
    "linalg: determinants": lambda d: (
        fastdl.linalg.det(on(d, 2, 4, 4)),
        fastdl.linalg.det(on(d, 3, 3) * fastdl.tensor([1.0, 0.0, 1.0], device=d)),
        *fastdl.linalg.slogdet(on(d, 2, 4, 4)),
        *[x.abs() for x in fastdl.linalg.slogdet(fastdl.complex(on(d, 3, 3), on(d, 3, 3, seed=1)))],
        fastdl.logdet(on(d, 3, 3) @ on(d, 3, 3).mT),
        *fastdl.linalg.slogdet(fastdl.zeros(2, 2, device=d)),
    ),
    "linalg: decompositions": lambda d: (
        *sizes(fastdl.linalg.svd(on(d, 3, 2), full_matrices=False)),
        fastdl.linalg.svd(on(d, 2, 2, 3)).S,
        fastdl.linalg.svdvals(on(d, 3, 2)),
        *sizes(fastdl.linalg.qr(on(d, 2, 3, 2))),
        *sizes(fastdl.linalg.qr(on(d, 2, 3))),
        *sizes(fastdl.linalg.qr(on(d, 3, 2, grad=False), "complete")),
        *sizes(fastdl.linalg.qr(on(d, 3, 2, grad=False), "r")),
        fastdl.linalg.eigh(on(d, 3, 3)).eigenvalues,
        fastdl.linalg.eigh(on(d, 3, 3)).eigenvectors.abs(),
        fastdl.linalg.eigvalsh(on(d, 2, 3, 3, grad=False), "U"),
        fastdl.linalg.cholesky(on(d, 3, 3) @ on(d, 3, 3).mT + fastdl.eye(3, device=d)),
        fastdl.linalg.cholesky(on(d, 3, 3) @ on(d, 3, 3).mT + fastdl.eye(3, device=d), upper=True),
        *fastdl.linalg.cholesky_ex(fastdl.eye(3, device=d) + on(d, 3, 3).square().diag_embed().sum(0)),
    ),
    "linalg: pseudo-inverses": lambda d: (
        fastdl.linalg.pinv(on(d, 3, 2)),
        fastdl.linalg.pinv(on(d, 3, 3) + on(d, 3, 3).mT, hermitian=True),
        fastdl.linalg.matrix_rank(on(d, 2, 3, 2)),
        fastdl.linalg.matrix_rank(fastdl.zeros(2, 0, 3, device=d)),
        *fastdl.linalg.lstsq(on(d, 4, 2), on(d, 4, 2, seed=1), driver="gels"),
        *fastdl.linalg.lstsq(on(d, 4, 2), on(d, 4, seed=1)),
        fastdl.linalg.cond(on(d, 3, 3)),
        fastdl.linalg.cond(on(d, 2, 3, 3), 1),
        fastdl.linalg.matrix_norm(on(d, 3, 2), "nuc"),
    ),
    "norm of a matrix": lambda d: fastdl.linalg.norm(on(d, 3, 2)),
    "grid_sample": lambda d: F.grid_sample(on(d, 1, 2, 4, 4), F.affine_grid(on(d, 1, 2, 3), (1, 2, 3, 3))),
    "affine_grid": lambda d: (
        F.affine_grid(on(d, 2, 2, 3), (2, 1, 4, 5), align_corners=False),
        F.affine_grid(on(d, 1, 3, 4), (1, 1, 2, 1, 3), align_corners=True),
    ),
    "linalg: batches of larger matrices": lambda d: (
        fastdl.linalg.eigh(on(d, 2, 1, 33, 33)).eigenvalues,
        restored(fastdl.linalg.eigh(on(d, 3, 33, 33, grad=False))),
        fastdl.linalg.eigvalsh(on(d, 2, 33, 33, grad=False), "U"),
        fastdl.linalg.eigvalsh(on(d, 0, 33, 33, grad=False)),
    ),
    "searchsorted": lambda d: (
        fastdl.searchsorted(on(d, 9, grad=False).sort().values, on(d, 3, grad=False)),
        fastdl.isin(ints(d, 9), ints(d, 2)),
        fastdl.bucketize(on(d, 3), fastdl.tensor([0.0, 1.0], device=d)),
    ),
    "windows": lambda d: [
        getattr(fastdl, f"{name}_window")(n, periodic, device=d, dtype=dtype)
        for name in ("bartlett", "blackman", "hamming", "hann", "kaiser")
        for n, periodic, dtype in (
            (0, True, None),
            (1, False, None),
            (6, True, fastdl.float16),
            (7, False, None),
        )
    ],
    "creation": lambda d: (
        fastdl.zeros(3, device=d),
        fastdl.ones(2, 2, device=d),
        fastdl.full((2,), 7, device=d),
        fastdl.arange(5, device=d),
        fastdl.linspace(0, 1, 5, device=d),
        fastdl.eye(3, device=d),
        fastdl.logspace(0, 1, 3, device=d),
        fastdl.tril_indices(3, 3, device=d),
        on(d, 3).new_zeros(2),
        on(d, 3).new_tensor([1, 2]),
        on(d, 3).new_full((2,), 3),
        fastdl.zeros_like(on(d, 3)),
        fastdl.as_tensor([1.0], device=d),
        fastdl.asarray([1.0], device=d),
        fastdl.scalar_tensor(2, device=d),
    ),
}


def with_gaps(device: str, *shape: int) -> Any:
    """Some of its elements are NaN, of some rows all."""
    x = on(device, *shape)
    gaps = on(device, *shape, grad=False, seed=5) > 0.8
    if len(shape) > 1:
        gaps[1] = True
    return x.masked_fill(gaps, float("nan"))


def one_place(device: str, dtype: Any) -> Any:
    """More ones than half precision can count one by one."""
    ones, zero = fastdl.ones(4097, dtype=dtype, device=device), fastdl.zeros(2, dtype=dtype, device=device)
    index = fastdl.zeros(4097, dtype=fastdl.int64, device=device)
    start = zero + 3
    return (
        start.index_add(0, index, ones, alpha=0.5),
        start.clone().index_add_(0, index, ones),
        start.index_put((index,), ones, accumulate=True),
        start.put(index, ones, accumulate=True),
        fastdl.sparse_coo_tensor(index[None], ones, (2,)).coalesce().values(),
        start.scatter_add(0, index, ones),
    )


def complex_sums(device: str) -> Any:
    whole = [on(device, 4, 3, seed=seed).mul(4).round().float() for seed in range(4)]  # no product is rounded
    a, b = fastdl.complex(*whole[:2]), fastdl.complex(*whole[2:])
    twice = fastdl.tensor([[0, 2, 0, 2], [1, 1, 1, 0]], device=device)
    rows = fastdl.tensor([1, 1, 0, 1], device=device)
    found = (
        fastdl.sparse.mm(a.to_sparse(), b.mT),
        fastdl.sparse_coo_tensor(twice, a[:, 0], (3, 2)).coalesce().values(),
        a.index_add(0, rows, b),
        (a * 1).index_add_(0, rows, b),
        (a * 1).T.index_add_(1, rows, b.T, alpha=2),
        (a * 1).index_put_((rows,), b, accumulate=True),
    )
    return [part for each in found for part in (each.real, each.imag)]


def ordered(x: Any) -> Any:
    return (
        *x.sort(),
        *x.sort(0, descending=True),
        *x.topk(2),
        *x.topk(1, largest=False),
        *x.kthvalue(2),
        *x.median(1),
        x.median(),
        x.nanmedian(),
        *x.nanmedian(1),
        x.argsort(),
        x.unique(),
        *x.detach().unique(return_inverse=True, return_counts=True),
        fastdl.isin(x, x[0]),
        x.cummax(1)[0],
        x.prod(1),
        (x * (x > 0)).prod(0),
    )


def repeated(device: str, x: Any) -> Any:
    index = ints(device, 3, high=3)
    return (
        x[index],
        x[:, index],
        x.index_select(1, index),
        x.gather(0, ints(device, 2, 4, high=3)),
        x.take_along_dim(ints(device, 2, 4, high=3), 0),
        x.repeat_interleave(fastdl.tensor([1, 0, 2]), 0),
        x.as_strided((2, 3), (1, 1)),
        x.index_add(0, index, x),
    )


def assigned(device: str) -> Any:
    x = on(device, 4, 3) * 1
    x[fastdl.tensor([True, False, True, False]), fastdl.tensor([True, False, True])] = 3.0
    x[:0] = 1.0
    x[[], 0] = on(device, 0)
    x[1] = 7.0
    x[0, :2] = on(device, 2)
    x[ints(device, 2, high=4)] = 0.5
    x[x > 1] = on(device, 1)[0]
    return x

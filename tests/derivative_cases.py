"""Functions and inputs whose second derivatives tests/test_second_order.py and tests/test_device.py check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastdl
from fastdl import nn
from fastdl.nn import functional as F

RNG = np.random.default_rng(3)


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> fastdl.Tensor:
    """Distinct float64 numbers, none within 0.02 of a kink at 0 or at multiples of 0.5, that require a gradient."""
    count = int(np.prod(shape))
    values = RNG.uniform(low, high, count)
    near = np.abs(values * 2 - np.rint(values * 2)) < 0.05
    values = np.where(near, values + 0.07, values)
    return fastdl.tensor(values.reshape(shape), dtype=fastdl.float64, requires_grad=True)


def positive(*shape: int) -> fastdl.Tensor:
    return real(*shape, low=0.3, high=2.0)


def unit(*shape: int) -> fastdl.Tensor:
    return real(*shape, low=0.1, high=0.4)


def ints(*values: int) -> fastdl.Tensor:
    return fastdl.tensor(values)


def symmetric(n: int) -> fastdl.Tensor:
    m = RNG.standard_normal((n, n))
    return fastdl.tensor(m @ m.T + n * np.diag(np.arange(1, n + 1)), requires_grad=True)


MASK = fastdl.tensor([[True, False, True, False], [False, True, True, False], [True, True, False, False]])

# name -> function, inputs. One line for each operation or way through one.
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}


def case(name: str, function: Callable[..., Any], *inputs: Any) -> None:
    assert name not in CASES, name
    CASES[name] = function, inputs


for _name in "abs neg square exp expm1 sin cos tan atan sinh cosh asinh erf reciprocal erfc".split():
    case(_name, getattr(fastdl, _name), real(3, 4))
case("steps", lambda x: (x.sign() + x.floor() + fastdl.frac(x)) * x, real(3, 4))
for _name in "sqrt rsqrt log log1p log2 log10 exp2 sinc".split():
    case(_name, getattr(fastdl, _name), positive(3, 4))
for _name in "asin acos atanh erfinv logit".split():
    case(_name, getattr(fastdl, _name), unit(3, 4))
for _name in "lgamma digamma".split():
    case(_name, getattr(fastdl, _name), positive(3, 4))
for _name in "i0 i0e i1 i1e erfcx ndtr log_ndtr".split():
    case(_name, getattr(fastdl.special, _name), real(3, 4))
case("ndtri", lambda x: fastdl.special.ndtri((x + 1) / 2), unit(3, 4))
case("entr", fastdl.special.entr, positive(3, 4))
case("polygamma", lambda x: fastdl.polygamma(2, x), positive(3, 4))
case("mvlgamma", lambda x: fastdl.mvlgamma(x + 1, 2), positive(3, 4))
case("zeta", lambda x: fastdl.special.zeta(2.5, x), positive(3, 4))
case("igamma", lambda x: fastdl.igamma(fastdl.tensor(1.7, dtype=x.dtype), x), positive(3, 4))
case("xlog1py", fastdl.special.xlog1py, positive(3, 4), positive(4))
case("acosh", fastdl.acosh, real(3, 4, low=1.2, high=3.0))

for _name in "add sub mul maximum minimum logaddexp fmax fmin hypot".split():
    case(f"{_name} of one shape", getattr(fastdl, _name), real(3, 4), real(3, 4))
    case(f"{_name} broadcast", getattr(fastdl, _name), real(3, 1, 4), real(2, 1))
for _name in "div remainder fmod atan2 pow xlogy".split():
    case(f"{_name} of one shape", getattr(fastdl, _name), positive(3, 4), positive(3, 4))
    case(f"{_name} broadcast", getattr(fastdl, _name), positive(4), positive(3, 1))
case("floor_divide", lambda x, y: (x // y) * y, positive(3, 4), positive(4))
case("div trunc", lambda x, y: fastdl.div(x, y, rounding_mode="trunc") * y, real(3, 4), positive(4))
for _power in (0, 1, 2, 3, -1, 0.5, 2.5):
    case(f"pow {_power}", lambda x, p=_power: x**p, positive(5))
case("pow of a number", lambda x: 2.5**x, real(5))
case("pow of zero", lambda x: 0**x, positive(5))
case("number - x, number / x", lambda x: (2 - x) * (3 / x), positive(5))
case("x + number, x / number", lambda x: (x + 2) * (x / 3), positive(5))
case("add alpha", lambda x, y: fastdl.add(x, y, alpha=3) * x, real(4), real(4))
case("sum of dtypes", lambda x, y: x * y.double() + y.double(), real(4), real(4))
case("where", lambda x, y: fastdl.where(MASK, x * x, y.exp()), real(3, 4), real(4))
case("where with numbers", lambda x: fastdl.where(MASK, x * x, 1.0), real(3, 4))
case("clamp", lambda x: fastdl.clamp(x * x, 0.3, 1.2), real(3, 4))
case("clamp by tensors", lambda x, a: fastdl.clamp(x * x, min=a), real(3, 4), real(4))
case("addcmul", lambda x, y, z: fastdl.addcmul(x, y, z, value=0.7), real(3, 4), real(4), real(3, 1))
case("addcdiv", lambda x, y, z: fastdl.addcdiv(x, y, z, value=0.7), real(3, 4), real(4), positive(3, 1))
case("lerp", fastdl.lerp, real(3, 4), real(3, 4), real(3, 4))
case("lerp by a number", lambda x, y: fastdl.lerp(x, y, 0.3), real(3, 4), real(3, 4))
case("copysign", lambda x: fastdl.copysign(x * x, -1.0), real(4))
case("nan_to_num", lambda x: fastdl.nan_to_num(x * x), real(4))

for _name in """relu sigmoid tanh leaky_relu gelu silu mish elu celu selu softplus hardtanh relu6 hardsigmoid hardswish
        hardshrink softshrink tanhshrink softsign logsigmoid glu softmin""".split():
    case(
        f"F.{_name}",
        lambda x, n=_name: getattr(F, n)(x, dim=1) if n == "softmin" else getattr(F, n)(x),
        real(3, 4),
    )
case("gelu tanh", lambda x: F.gelu(x, approximate="tanh"), real(3, 4))
case("threshold", lambda x: F.threshold(x, 0.2, -1.0), real(3, 4))
case("softplus beta", lambda x: F.softplus(x, beta=3.0, threshold=4.0), real(3, 4))
case("prelu", F.prelu, real(2, 3, 4), real(3))
case("prelu of one weight", F.prelu, real(2, 3), real(1))
case("rrelu evaluation", F.rrelu, real(3, 4))
case("glu dim 0", lambda x: F.glu(x, 0), real(4, 3))

for _name in "sum mean prod logsumexp var std norm amax amin".split():
    _f = getattr(fastdl, _name)
    case(f"{_name} dim 1", lambda x, f=_f: f(x, dim=1), real(2, 3, 4))
    case(
        f"{_name} dims, kept",
        lambda x, f=_f: f(x, dim=(0, 2) if f is not fastdl.prod else 0, keepdim=True),
        real(2, 3, 4),
    )
for _name in "sum mean prod var std norm median max nansum".split():
    case(f"{_name} of all", getattr(fastdl, _name), real(3, 3))
case(
    "prod with zeros",
    lambda x: (x * fastdl.tensor([[1.0, 0, 1, 1], [0, 1, 0, 1]]).double()).prod(1),
    real(2, 4),
)
for _p in (0, 1, 2, 3, 1.5, float("inf")):
    case(f"norm {_p}", lambda x, p=_p: fastdl.norm(x, p, dim=1, keepdim=True) * x, real(3, 4))
case("var_mean", lambda x: fastdl.var_mean(x, 1), real(3, 4))
case("max along", lambda x: fastdl.max(x, 1).values, real(3, 4))
case("median along", lambda x: fastdl.median(x * x, 1).values, real(3, 5))
case("sort", lambda x: fastdl.sort(x, 1).values, real(3, 4))
case("topk", lambda x: fastdl.topk(x * x, 2).values, real(3, 4))
case("kthvalue", lambda x: fastdl.kthvalue(x, 2).values, real(3, 4))
case("cumsum", lambda x: fastdl.cumsum(x * x, 0), real(3, 4))
case("cumprod", lambda x: fastdl.cumprod(x, 1), real(3, 4))
case("cumprod with zeros", lambda x: (x * fastdl.tensor([1.0, 0, 1, 0]).double()).cumprod(1), real(3, 4))
case("cummax", lambda x: fastdl.cummax(x, 1).values, real(3, 4))
case("logcumsumexp", lambda x: fastdl.logcumsumexp(x, 1), real(3, 4))
case("quantile", lambda x: fastdl.quantile(x, 0.3, 1), real(3, 4))
case("cov", fastdl.cov, real(3, 5))
case("diff", lambda x: fastdl.diff(x * x), real(5))
case("trapezoid", lambda x: fastdl.trapezoid(x * x), real(5))

case("softmax", lambda x: F.softmax(x, 1), real(3, 4))
case("softmax dim 0", lambda x: F.softmax(x, 0), real(3, 4))
case("log_softmax", lambda x: F.log_softmax(x, 1), real(3, 4))

TARGET, PIXELS = ints(1, 0, 3), fastdl.tensor(RNG.integers(0, 3, (2, 2, 2)))
WEIGHT = fastdl.tensor([0.5, 1.0, 2.0, 1.5], dtype=fastdl.float64)
for _r in ("mean", "sum", "none"):
    case(f"cross_entropy {_r}", lambda x, r=_r: F.cross_entropy(x, TARGET, reduction=r), real(3, 4))
    case(f"nll_loss {_r}", lambda x, r=_r: F.nll_loss(x * x, TARGET, WEIGHT, reduction=r), real(3, 4))
    case(f"mse_loss {_r}", lambda x, y, r=_r: F.mse_loss(x, y, reduction=r), real(3, 4), real(3, 4))
    case(
        f"smooth_l1_loss {_r}", lambda x, y, r=_r: F.smooth_l1_loss(x, y, reduction=r), real(3, 4), real(3, 4)
    )
    case(
        f"bce {_r}",
        lambda x, y, r=_r: F.binary_cross_entropy(x, y, WEIGHT, reduction=r),
        unit(3, 4),
        unit(3, 4),
    )
    case(
        f"bce with logits {_r}",
        lambda x, y, r=_r: F.binary_cross_entropy_with_logits(x, y, WEIGHT, pos_weight=WEIGHT, reduction=r),
        real(3, 4),
        unit(3, 4),
    )
case(
    "cross_entropy with options",
    lambda x: F.cross_entropy(x, TARGET, WEIGHT, ignore_index=0, label_smoothing=0.1),
    real(3, 4),
)
case("cross_entropy of images", lambda x: F.cross_entropy(x, PIXELS), real(2, 3, 2, 2))
case("cross_entropy of one row", lambda x: F.cross_entropy(x, ints(2).reshape(())), real(4))
case(
    "cross_entropy of probabilities",
    lambda x, t: F.cross_entropy(x, t.softmax(1), WEIGHT, label_smoothing=0.1),
    real(3, 4),
    real(3, 4),
)
case("l1_loss", F.l1_loss, real(3, 4), real(3, 4))
case("huber_loss", lambda x, y: F.huber_loss(x, y, delta=0.8), real(3, 4), real(3, 4))
case("mse_loss weighted", lambda x, y: F.mse_loss(x, y, weight=WEIGHT.expand(3, 4)), real(3, 4), real(3, 4))
case("kl_div", lambda x, y: F.kl_div(x, y, reduction="batchmean"), real(3, 4), unit(3, 4))
case("kl_div log", lambda x, y: F.kl_div(x, y, reduction="sum", log_target=True), real(3, 4), real(3, 4))
case(
    "poisson_nll_loss",
    lambda x, y: F.poisson_nll_loss(x, y, full=True),
    real(3, 4),
    real(3, 4, low=1.1, high=3),
)
case(
    "poisson_nll_loss of rates",
    lambda x, y: F.poisson_nll_loss(x, y, log_input=False),
    positive(3),
    positive(3),
)
case(
    "gaussian_nll_loss", lambda x, y, v: F.gaussian_nll_loss(x, y, v), real(3, 4), real(3, 4), positive(3, 4)
)
SIGNS = fastdl.tensor([1.0, -1.0, 1.0]).double()
case("soft_margin_loss", lambda x: F.soft_margin_loss(x, SIGNS), real(3))
case("hinge_embedding_loss", lambda x: F.hinge_embedding_loss(x * x, SIGNS), real(3))
case("margin_ranking_loss", lambda x, y: F.margin_ranking_loss(x * x, y * y, SIGNS, 0.5), real(3), real(3))
case("multi_margin_loss", lambda x: F.multi_margin_loss(x, TARGET, p=2, weight=WEIGHT), real(3, 4))
case("multi_margin_loss p 1", lambda x: F.multi_margin_loss(x * x, TARGET), real(3, 4))
LABELS = fastdl.tensor([[1, 0, -1, -1], [3, -1, -1, -1], [0, 1, 2, -1]])
case("multilabel_margin_loss", lambda x: F.multilabel_margin_loss(x * x, LABELS), real(3, 4))
case(
    "multilabel_soft_margin_loss",
    lambda x: F.multilabel_soft_margin_loss(x, MASK.double(), WEIGHT),
    real(3, 4),
)
case("cosine_similarity", lambda x, y: F.cosine_similarity(x, y), real(3, 4), real(1, 4))
case("pairwise_distance", lambda x, y: F.pairwise_distance(x, y, keepdim=True), real(3, 4), real(4))
case("cosine_embedding_loss", lambda x, y: F.cosine_embedding_loss(x, y, SIGNS, 0.1), real(3, 4), real(3, 4))
case(
    "triplet_margin_loss",
    lambda a, p, n: F.triplet_margin_loss(a, p, n, swap=True),
    real(3, 4),
    real(3, 4),
    real(3, 4),
)
case("normalize", F.normalize, real(3, 4))
case("cdist", fastdl.cdist, real(3, 4), real(2, 4))
case("pdist", F.pdist, real(4, 3))
case("pdist p 3", lambda x: F.pdist(x, 3.0), real(4, 3))
case("frac", lambda x: (x * x * 3).frac() * x, real(4))
case("einsum diagonal", lambda x: fastdl.einsum("iij->j", x * x), real(3, 3, 2))
case("einsum row sums", lambda x, y: fastdl.einsum("bij,bij->bi", x * x, y), real(2, 3, 4), real(2, 3, 4))
case("trapezoid dx", lambda x: fastdl.trapezoid(x * x, dx=0.5, dim=0), real(4, 3))
case(
    "cdist by a product",
    lambda a, b: fastdl.cdist(a, b, 2.0, "use_mm_for_euclid_dist"),
    real(3, 4),
    real(2, 4),
)

case("linear", F.linear, real(2, 3, 4), real(5, 4), real(5))
case("linear of a vector", F.linear, real(4), real(5, 4))
case("linear of no features", F.linear, real(2, 3, 0), real(5, 0), real(5))
for _name in ("relu", "sigmoid", "tanh", "gelu"):
    case(f"linear {_name}", lambda x, w, b, a=_name: F.linear(x, w, b, a), real(3, 4), real(5, 4), real(5))
for _a, _b in (
    ((3, 4), (4, 2)),
    ((4,), (4,)),
    ((4,), (4, 2)),
    ((3, 4), (4,)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((2, 3, 4), (4, 2)),
    ((4,), (2, 4, 3)),
):
    case(f"matmul {_a} {_b}", fastdl.matmul, real(*_a), real(*_b))
case("bmm", fastdl.bmm, real(2, 3, 4), real(2, 4, 2))
case("addmm", lambda c, a, b: fastdl.addmm(c, a, b, beta=0.5, alpha=2.0), real(2), real(3, 4), real(4, 2))
case("outer", fastdl.outer, real(3), real(4))
case("bilinear", F.bilinear, real(2, 3), real(2, 4), real(5, 3, 4), real(5))
for _e, _shapes in {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "bij,bjk,k->bi": ((2, 2, 3), (2, 3, 2), (2,)),
    "ii->i": ((3, 3),),
    "ii,ij->j": ((3, 3), (3, 2)),
    "iii->": ((2, 2, 2),),
    "ij->": ((2, 3),),
    "...i,ij->...j": ((2, 1, 3), (3, 2)),
    "ij,kj->i": ((2, 3), (4, 3)),
    "bi,bi->b": ((2, 3), (1, 3)),
}.items():
    case(f"einsum {_e}", lambda *ts, e=_e: fastdl.einsum(e, *ts), *[real(*s) for s in _shapes])

case("inverse", fastdl.linalg.inv, symmetric(3))
case("solve", fastdl.linalg.solve, symmetric(3), real(3, 2))
case("det", fastdl.linalg.det, symmetric(3))
case("slogdet", lambda a: fastdl.linalg.slogdet(a)[1], symmetric(3))
case("cholesky", lambda a: fastdl.linalg.cholesky(a + a.mT), symmetric(3))
case("eigh", lambda a: fastdl.linalg.eigh(a + a.mT)[0], symmetric(3))
case("eigh vectors", lambda a: fastdl.linalg.eigh(a + a.mT)[1].square(), symmetric(3))
case(
    "svd",
    lambda a: (lambda u, s, v: (s, u.square(), v.square()))(*fastdl.linalg.svd(a, full_matrices=False)),
    real(4, 3),
)
case("qr", lambda a: fastdl.linalg.qr(a), real(4, 3))
case("qr wide", lambda a: fastdl.linalg.qr(a), real(3, 5))

for _rank in (1, 2, 3):
    _conv, _transposed = getattr(F, f"conv{_rank}d"), getattr(F, f"conv_transpose{_rank}d")
    _x, _w = (2, 2, *(4, 5, 3)[:_rank]), (4, 2, *(2, 3, 2)[:_rank])
    case(f"conv{_rank}d", lambda x, w, b, f=_conv: f(x, w, b, padding=1), real(*_x), real(*_w), real(4))
    case(f"conv_transpose{_rank}d", _transposed, real(2, 4, *(3, 2, 2)[:_rank]), real(*_w), real(2))
case(
    "conv2d with options",
    lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 2), dilation=(1, 2), groups=2),
    real(1, 4, 5, 6),
    real(4, 2, 2, 2),
)
case("conv2d same", lambda x, w: F.conv2d(x, w, padding="same"), real(1, 1, 4, 4), real(1, 1, 2, 3))
case("conv2d of one image", F.conv2d, real(2, 4, 4), real(3, 2, 3, 3), real(3))
case("conv2d depthwise", lambda x, w: F.conv2d(x, w, padding=1, groups=3), real(1, 3, 4, 4), real(3, 1, 3, 3))
case(
    "conv_transpose2d with options",
    lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1, groups=2),
    real(1, 4, 3, 2),
    real(4, 1, 3, 2),
    real(2),
)
case("conv_transpose1d of one row", F.conv_transpose1d, real(2, 4), real(2, 3, 3))

for _rank in (1, 2, 3):
    _x = (1, 2, *(5, 4, 3)[:_rank])
    case(f"max_pool{_rank}d", lambda x, r=_rank: getattr(F, f"max_pool{r}d")(x * x, 2, 1, 1), real(*_x))
    case(f"avg_pool{_rank}d", lambda x, r=_rank: getattr(F, f"avg_pool{r}d")(x * x, 2, 1, 1), real(*_x))
    case(
        f"adaptive_max_pool{_rank}d",
        lambda x, r=_rank: getattr(F, f"adaptive_max_pool{r}d")(x * x, 2),
        real(*_x),
    )
    case(
        f"adaptive_avg_pool{_rank}d",
        lambda x, r=_rank: getattr(F, f"adaptive_avg_pool{r}d")(x * x, 2),
        real(*_x),
    )
case("max_pool2d with indices", lambda x: F.max_pool2d(x * x, 2, return_indices=True)[0], real(1, 2, 4, 4))
case("global average", lambda x: F.adaptive_avg_pool2d(x * x, 1), real(1, 2, 4, 4))
PLACES = F.max_pool2d(fastdl.tensor(RNG.standard_normal((1, 2, 4, 4))), 2, return_indices=True)[1]
case("max_unpool2d", lambda x: F.max_unpool2d(x * x, PLACES, 2), real(1, 2, 2, 2))
case("lp_pool2d", lambda x: F.lp_pool2d(x, 2.0, 2), positive(1, 2, 4, 4))


def batch_norm(training: bool) -> Callable[..., Any]:
    mean, var = fastdl.tensor([0.1, -0.2, 0.3]).double(), fastdl.tensor([1.5, 0.7, 1.1]).double()
    return lambda x, w, b: F.batch_norm(x, mean.clone(), var.clone(), w, b, training=training)


case("batch_norm training", batch_norm(True), real(4, 3, 2), real(3), real(3))
case("batch_norm evaluation", batch_norm(False), real(4, 3, 2), real(3), real(3))
case("batch_norm of rows", batch_norm(True), real(5, 3), real(3), real(3))
case("batch_norm plain", lambda x: F.batch_norm(x, None, None, training=True), real(4, 3))
case("layer_norm", lambda x, w, b: F.layer_norm(x, (4,), w, b), real(2, 3, 4), real(4), real(4))
case(
    "layer_norm of two axes",
    lambda x, w, b: F.layer_norm(x, (3, 4), w, b),
    real(2, 3, 4),
    real(3, 4),
    real(3, 4),
)
case("layer_norm plain", lambda x: F.layer_norm(x, (4,)), real(3, 4))
case("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), real(2, 4, 3), real(4), real(4))
case("instance_norm", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), real(2, 3, 4), real(3), real(3))
case("rms_norm", lambda x, w: F.rms_norm(x, (4,), w), real(3, 4), real(4))
case("local_response_norm", lambda x: F.local_response_norm(x, 3, alpha=0.5), real(1, 4, 2, 2))


def seeded(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*inputs: Any) -> Any:
        fastdl.manual_seed(7)
        return function(*inputs)

    return call


case("dropout", seeded(lambda x: F.dropout(x * x, 0.4)), real(4, 5))
case("dropout2d", seeded(lambda x: F.dropout2d(x * x, 0.4)), real(2, 4, 2, 2))
case("alpha_dropout", seeded(lambda x: F.alpha_dropout(x * x, 0.4, training=True)), real(4, 5))
case("rrelu training", seeded(lambda x: F.rrelu(x, training=True)), real(4, 5))

WORDS = fastdl.tensor([[0, 2, 1], [2, 2, 3]])
case("embedding", lambda w: F.embedding(WORDS, w * w), real(4, 3))
case("embedding with options", lambda w: F.embedding(WORDS, w * w, padding_idx=1), real(4, 3))
for _mode in ("sum", "mean", "max"):
    case(
        f"embedding_bag {_mode}",
        lambda w, m=_mode: F.embedding_bag(WORDS, w * w, mode=m, padding_idx=3),
        real(4, 3),
    )
case(
    "embedding_bag weighted",
    lambda w, s: F.embedding_bag(WORDS, w, mode="sum", per_sample_weights=s, padding_idx=1),
    real(4, 3),
    real(2, 3),
)
case(
    "embedding_bag of constants, weighted",
    lambda s: F.embedding_bag(WORDS, WEIGHT.reshape(4, 1), mode="sum", per_sample_weights=s * s),
    real(2, 3),
)

INDEX = fastdl.tensor([[0, 1, 1], [2, 0, 2]])
case("gather", lambda x: fastdl.gather(x * x, 0, INDEX), real(3, 4))
case("index_select", lambda x: fastdl.index_select(x * x, 1, ints(0, 2, 2)), real(3, 4))
case(
    "index_add",
    lambda x, s: fastdl.index_add(x * x, 0, ints(0, 2, 0), s * s, alpha=2),
    real(3, 4),
    real(3, 4),
)
case("index_copy", lambda x, s: fastdl.index_copy(x * x, 0, ints(0, 2), s * s), real(3, 4), real(2, 4))
case("index_fill", lambda x: fastdl.index_fill(x * x, 0, ints(0, 2), 1.5), real(3, 4))
case("scatter", lambda x, s: fastdl.scatter(x * x, 0, INDEX[:1], s * s), real(3, 4), real(2, 3))
case("scatter of a number", lambda x: fastdl.scatter(x * x, 0, INDEX, 2.0), real(3, 4))
case("slice_scatter", lambda x, s: fastdl.slice_scatter(x * x, s * s, 0, 1, 3), real(3, 4), real(2, 4))
case("select_scatter", lambda x, s: fastdl.select_scatter(x * x, s * s, 1, -1), real(3, 4), real(3))
case("diagonal_scatter", lambda x, s: fastdl.diagonal_scatter(x * x, s * s, 1), real(3, 4), real(3))
case("put", lambda x, s: fastdl.put(x * x, ints(0, 5, -1), s * s), real(3, 4), real(3))
case("put that adds", lambda x, s: fastdl.put(x * x, ints(5, 5, -1), s * s, True), real(3, 4), real(3))
case(
    "index_put that adds",
    lambda x, s: fastdl.index_put(x * x, (ints(0, 0, 2), ints(1, 1, 3)), s * s, True),
    real(3, 4),
    real(3),
)
case("scatter_add", lambda x, s: fastdl.scatter_add(x * x, 0, INDEX, s * s), real(3, 4), real(2, 4))
for _reduce in ("sum", "mean", "prod", "amax", "amin"):
    for _self in (True, False):
        case(
            f"scatter_reduce {_reduce} {_self}",
            lambda x, s, r=_reduce, i=_self: fastdl.scatter_reduce(x * x, 0, INDEX, s * s, r, include_self=i),
            real(3, 4),
            real(2, 4),
        )
case("diff, three times", lambda x: fastdl.diff(x * x, 3), real(3, 5))
case("logaddexp2", lambda x, s: fastdl.logaddexp2(x * x, s * s), real(3, 4), real(4))
case("take", lambda x: fastdl.take(x * x, ints(0, 5, -1, 5)), real(3, 4))
case("masked_fill", lambda x: fastdl.masked_fill(x * x, MASK, 2.0), real(3, 4))
case("masked_fill by a tensor", lambda x, v: fastdl.masked_fill(x * x, MASK, v.exp()), real(3, 4), real())
case("masked_select", lambda x: fastdl.masked_select(x * x, MASK), real(3, 4))
case("masked_scatter", lambda x, s: fastdl.masked_scatter(x * x, MASK, s * s), real(3, 4), real(7))
case("x[i]", lambda x: (x * x)[1], real(3, 4))
case("x[a:b, ::2]", lambda x: (x * x)[1:, ::2], real(3, 4))
case("x[..., None, 1]", lambda x: (x * x)[..., None, 1], real(3, 4))
case("x[list]", lambda x: (x * x)[[0, 2, 0]], real(3, 4))
case("x[:, index]", lambda x: (x * x)[:, INDEX], real(3, 4))
case("x[index, :, index]", lambda x: (x * x)[INDEX, :, INDEX], real(3, 2, 4))
case("x[mask]", lambda x: (x * x)[MASK], real(3, 4))


def assigned(key: Any) -> Callable[..., Any]:
    def function(x: Any, v: Any) -> Any:
        y = x * x
        y[key] = v * v
        return y * x

    return function


case("x[1:] = v", assigned(slice(1, None)), real(3, 4), real(2, 4))
case("x[1] = v broadcast", assigned(1), real(3, 4), real(1))
case("x[list] = v", assigned(([0, 2], [1, 3])), real(3, 4), real(2))


def written_view(x: Any, v: Any) -> Any:
    y = x * x
    y[:2].t().mul_(v * v)
    y.select(1, 0).add_(v.sum())
    return y * x


case("views changed in place", written_view, real(3, 4), real(2))
case("in place", lambda x: (x * x).add_(1).mul_(x).sigmoid_() * x, real(3, 4))
case("copy_", lambda x, y: (x * 1).copy_(y * y) * x, real(3, 4), real(4))
case("fill_", lambda x: x * (x * x).fill_(2.0), real(3))

case("reshape", lambda x: (x * x).reshape(2, 6), real(3, 4))
case("reshape by copy", lambda x: (x * x).t().reshape(2, 6), real(3, 4))
case("permute", lambda x: (x * x).permute(2, 0, 1), real(2, 3, 4))
case("transpose", lambda x: (x * x).transpose(0, 2), real(2, 3, 4))
case("expand", lambda x: (x * x).expand(2, 3, 4), real(3, 1))
case("squeeze, unsqueeze", lambda x: (x * x).squeeze(0).unsqueeze(-1), real(1, 3))
case("clone, contiguous", lambda x: (x * x).t().contiguous().clone(), real(3, 4))
case("diagonal", lambda x: (x * x).diagonal(1), real(3, 4))
case("unbind", lambda x: (x * x).unbind(1), real(2, 3))
case("one of unbind", lambda x: (x * x).unbind(1)[1], real(2, 3))
case("split", lambda x: (x * x).split([1, 3], 1), real(2, 4))
case("unfold view", lambda x: (x * x).unfold(0, 3, 2), real(7))
case("as_strided", lambda x: (x * x).as_strided((2, 2), (1, 2)), real(6))
case("cat", lambda x, y: fastdl.cat([x * x, y, x], 1), real(2, 3), real(2, 1))
case("stack", lambda x, y: fastdl.stack([x * x, y * x], 1), real(2, 3), real(2, 3))
case("repeat", lambda x: (x * x).repeat(2, 1, 3), real(2, 3))
case("repeat_interleave", lambda x: (x * x).repeat_interleave(2, 1), real(2, 3))
case("repeat_interleave by counts", lambda x: (x * x).repeat_interleave(ints(1, 0, 2), 1), real(2, 3))
case("flip", lambda x: fastdl.flip(x * x, (0, 1)), real(2, 3))
case("roll", lambda x: fastdl.roll(x * x, (1, -2), (0, 1)), real(2, 3))
case("rot90", lambda x: fastdl.rot90(x * x), real(2, 3))
case("tril, triu", lambda x: (x * x).tril() + (x * x * x).triu(1), real(3, 4))
case("diag_embed", lambda x: fastdl.diag_embed(x * x, -1), real(2, 3))
case("kron", fastdl.kron, real(2, 2), real(2, 3))

for _mode in ("constant", "reflect", "replicate", "circular"):
    case(f"pad {_mode}", lambda x, m=_mode: F.pad(x * x, (1, 2), m), real(1, 2, 4))
case("pad negative", lambda x: F.pad(x * x, (-1, 2, 1, -1), value=3.0), real(3, 4))
for _mode in ("nearest", "bilinear", "bicubic", "area"):
    case(f"interpolate {_mode}", lambda x, m=_mode: F.interpolate(x * x, (5, 6), mode=m), real(1, 2, 3, 4))
    case(
        f"interpolate {_mode} twice",
        lambda x, m=_mode: F.interpolate(x * x, scale_factor=2, mode=m),
        real(1, 1, 2, 3),
    )
case(
    "interpolate linear", lambda x: F.interpolate(x * x, 7, mode="linear", align_corners=True), real(1, 2, 4)
)
case(
    "interpolate antialias",
    lambda x: F.interpolate(x * x, (2, 3), mode="bilinear", antialias=True),
    real(1, 1, 5, 6),
)
case("unfold", lambda x: F.unfold(x * x, 2, padding=1), real(1, 2, 3, 3))
case("fold", lambda x: F.fold(x * x, (3, 3), 2), real(1, 4, 4))
case("pixel_shuffle", lambda x: F.pixel_shuffle(x * x, 2), real(1, 4, 2, 3))
case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x * x, 2), real(1, 1, 4, 2))
case("channel_shuffle", lambda x: F.channel_shuffle(x * x, 2), real(1, 4, 2))
case(
    "grid_sample",
    lambda x, g: F.grid_sample(x, g.tanh() * 0.8, align_corners=False),
    real(1, 2, 3, 3),
    real(1, 2, 2, 2),
)

ATTENTION = real(1, 2, 3, 4), real(1, 2, 5, 4), real(1, 2, 5, 3)
case("attention", F.scaled_dot_product_attention, *ATTENTION)
case("attention causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *ATTENTION)
case(
    "attention masked", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), *ATTENTION, real(3, 5)
)
LOOKS = fastdl.tensor(RNG.random((3, 5)) > 0.5)
LOOKS[1] = False
case("attention of a blind query", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, LOOKS), *ATTENTION)
case(
    "attention grouped",
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    real(1, 4, 3, 2),
    real(1, 2, 4, 2),
    real(1, 2, 4, 2),
)
case(
    "attention with dropout",
    seeded(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)),
    *ATTENTION,
)


def recurrent(kind: str, inputs: tuple[int, ...] = (3, 2, 2), **options: Any) -> None:
    layer = getattr(nn, kind)(2, 2, **options).double()
    names = [n for n, _ in layer.named_parameters()]

    def function(x: Any, *weights: Any) -> Any:
        fastdl.manual_seed(11)
        y, state = fastdl.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return (y, *state) if isinstance(state, tuple) else (y, state)

    label = f"{kind} {options}" if options else kind
    case(label, function, real(*inputs), *[p.detach().clone().requires_grad_() for p in layer.parameters()])


recurrent("RNN")
recurrent("RNN", nonlinearity="relu", bias=False)
recurrent("LSTM")
recurrent("LSTM", proj_size=1, num_layers=2, dropout=0.3)
recurrent("GRU", bidirectional=True)

PACKED = fastdl.tensor([3, 1])


def packed(x: Any) -> Any:
    layer = PACKED_LAYER
    rows = nn.utils.rnn.pack_padded_sequence(x, PACKED, enforce_sorted=False)
    y, h = layer(rows)
    return nn.utils.rnn.pad_packed_sequence(y)[0], h


fastdl.manual_seed(1)
PACKED_LAYER = nn.GRU(2, 2, bidirectional=True).double()
case("packed sequence", packed, real(3, 2, 2))
case("RNNCell", lambda x, h: CELL(x, h), real(2, 3), real(2, 2))
CELL = nn.LSTMCell(3, 2).double()
CASES["LSTMCell"] = lambda x, h, c: CELL(x, (h, c)), (real(2, 3), real(2, 2), real(2, 2))
CASES["RNNCell"] = nn.RNNCell(3, 2).double(), (real(2, 3), real(2, 2))

"""Losses: kernels against the reference on every level, functions and gradients against torch, messages,
memory."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels, nn
from fastdl.kernels import reference
from fastdl.nn import functional as F
from parity import DTYPES, assert_close, check_gradient
from test_loss_kernels import IGNORE, REDUCTIONS, class_problem, upstream, wide

# ------------------------------------------------------------------------------------ functions against torch


def tensors(arrays, dtype):
    import torch

    arrays = [np.asarray(a, dtype) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in arrays]
    return [fastdl.from_numpy(a.copy()) for a in arrays], [torch.from_numpy(a.copy()) for a in arrays]


def compare(name, arrays, needs, terms=1, /, **options):
    """Values and gradients of ``F.name`` and torch's, both dtypes."""
    torch = pytest.importorskip("torch")
    for dtype in DTYPES:
        ours, theirs = tensors(arrays, dtype)
        for i in needs:
            ours[i].requires_grad_()
            theirs[i].requires_grad_()
        for key, value in options.items():
            if isinstance(value, np.ndarray):
                options[key] = value.astype(dtype)
        mine = {k: fastdl.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        peer = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        want = getattr(torch.nn.functional, name)(*theirs, **peer)
        got = getattr(F, name)(*ours, **mine)
        assert got.dtype == ours[0].dtype
        assert_close(got.detach(), want.detach().numpy(), reduction=terms)
        g = np.asarray(np.random.default_rng(9).standard_normal(tuple(want.shape)), dtype)
        got.backward(fastdl.from_numpy(g))
        want.backward(torch.from_numpy(g))
        for i in needs:
            peer_grad = theirs[i].grad
            assert_close(
                ours[i].grad,
                np.zeros(arrays[i].shape) if peer_grad is None else peer_grad.numpy(),
                reduction=terms,
            )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(
    ("shape", "dim"), [((7, 5), 1), ((5,), 0), ((3, 6, 4), 1), ((2, 20, 3, 17), 1), ((4, 1), 1)]
)
def test_cross_entropy_against_torch(shape, dim, smoothing, reduction):
    x, target, some_ignored, weight, p = class_problem(shape, dim, np.float64)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    n = shape[dim]
    for labels in (target, some_ignored):
        compare("cross_entropy", [x, labels], [0], n, **options)
        compare("cross_entropy", [x, labels], [0], n, weight=weight, **options)
    compare("cross_entropy", [x, target], [0], n, ignore_index=0, **options)
    compare("cross_entropy", [x, np.full_like(target, IGNORE)], [0], n, **options)
    compare("cross_entropy", [x, p], [0, 1], n, **options)
    compare("cross_entropy", [x, p], [0, 1], n, weight=weight, **options)
    compare("nll_loss", [x, some_ignored], [0], n, weight=weight, reduction=reduction)
    compare("nll_loss", [x, target], [0], n, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_with_classes_last_in_memory(reduction):
    """(N, C, T) as a transposed (N, T, C): no copy, the same numbers, positions named as the caller sees
    them."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3, 7, 11))
    target, p = rng.integers(0, 11, (3, 7)), rng.random((3, 11, 7))
    plain = fastdl.from_numpy(np.ascontiguousarray(base.transpose(0, 2, 1))).requires_grad_()
    moved = fastdl.from_numpy(base.transpose(0, 2, 1)).requires_grad_()
    for label in (target, p):
        losses = []
        for x in (plain, moved):
            x.grad = None
            loss = F.cross_entropy(x, fastdl.from_numpy(label), reduction=reduction)
            loss.backward(fastdl.from_numpy(np.full(loss.shape, 2.0)))
            losses.append(loss.detach())
        assert_close(losses[0], losses[1])
        assert_close(plain.grad, moved.grad)
    target[2, 4] = 11
    with pytest.raises(
        IndexError, match=r"cross_entropy: target\[2, 4\] = 11 is out of range for 11 classes"
    ):
        F.cross_entropy(moved, fastdl.from_numpy(target))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int16])
def test_other_integer_targets(dtype):
    x = fastdl.from_numpy(np.random.default_rng(0).standard_normal((4, 6)))
    target = np.array([0, 5, 2, 2])
    for function in (F.cross_entropy, F.nll_loss):
        narrow = function(x, fastdl.from_numpy(target.astype(dtype)))
        np.testing.assert_array_equal(narrow.numpy(), function(x, fastdl.from_numpy(target)).numpy())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(7, 5), (3000,), (), (0, 3)])
@pytest.mark.filterwarnings("ignore:.*reduction.*:UserWarning", "ignore:.*target size.*:UserWarning")
def test_pointwise_losses_against_torch(shape, reduction):
    rng = np.random.default_rng(3)
    x, t = np.asarray(rng.standard_normal(shape)), np.asarray(rng.standard_normal(shape))
    p, q = np.asarray(rng.uniform(0.01, 0.99, shape)), np.asarray(rng.uniform(0.01, 0.99, shape))
    signs, counts = np.where(t > 0, 1.0, -1.0), np.asarray(rng.poisson(3, shape) + 0.25)
    r = {"reduction": reduction}
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        compare(name, [x, t], [0, 1], **r)
    compare("smooth_l1_loss", [x, t], [0, 1], beta=0.3, **r)
    compare("smooth_l1_loss", [x, t], [0, 1], beta=0.0, **r)
    compare("huber_loss", [x, t], [0, 1], delta=0.4, **r)
    compare("binary_cross_entropy", [p, q], [0, 1], **r)
    compare("binary_cross_entropy", [p, q], [0, 1], weight=rng.random(shape[1:]), **r)
    compare("binary_cross_entropy_with_logits", [x, q], [0, 1], **r)
    compare(
        "binary_cross_entropy_with_logits",
        [x, q],
        [0, 1],
        weight=rng.random(shape[:1] + (1,) * len(shape[1:])),
        pos_weight=rng.random(shape[1:]),
        **r,
    )
    for log_target in (False, True):
        compare("kl_div", [x, q], [0, 1], log_target=log_target, **r)
        compare("kl_div", [x, q], [0, 1], log_target=log_target, reduction="batchmean")
    for full in (False, True):
        compare("poisson_nll_loss", [x, counts], [0, 1], full=full, **r)
        compare("poisson_nll_loss", [p, counts], [0], log_input=False, full=full, **r)
        if shape:
            compare("gaussian_nll_loss", [x, t, p], [0, 1, 2], full=full, **r)
            compare("gaussian_nll_loss", [x, t, p[..., :1]], [0, 1, 2], eps=0.5, **r)
            compare("gaussian_nll_loss", [x, t, p[..., 0]], [0, 2], full=full, **r)
            if len(shape) > 1:
                compare("gaussian_nll_loss", [x, t, p[:1]], [0, 1, 2], full=full, **r)
    compare("soft_margin_loss", [x, signs], [0], **r)
    compare("hinge_embedding_loss", [x, signs], [0, 1], margin=0.5, **r)
    compare("margin_ranking_loss", [x, t, signs], [0, 1, 2], margin=0.3, **r)
    compare("margin_ranking_loss", [x, t, p], [2], margin=0.3, **r)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weighted_and_composed_losses_against_torch(reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(12)
    x, y, z, w = rng.random((4, 5, 3))
    for name in ("mse_loss", "l1_loss", "huber_loss"):
        compare(name, [x, y], [0, 1], weight=w, reduction=reduction)
    for swap in (False, True):
        for distance in (None, lambda a, b: ((a - b) * (a - b)).sum(1)):
            results = []
            for make, functional in ((fastdl.from_numpy, F), (torch.from_numpy, torch.nn.functional)):
                inputs = [make(a.copy()).requires_grad_() for a in (x, y, z)]
                loss = functional.triplet_margin_with_distance_loss(
                    *inputs, distance_function=distance, swap=swap, margin=0.6, reduction=reduction
                )
                loss.sum().backward()
                results.append([loss.detach().numpy(), *[t.grad.numpy() for t in inputs]])
            for got, want in zip(*results, strict=True):
                assert_close(got, want, reduction=3)


@pytest.mark.filterwarnings("ignore:.*(broadcast|target size).*:UserWarning")
def test_broadcast_against_torch():
    rng = np.random.default_rng(4)
    for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss"):
        compare(name, [rng.standard_normal((4, 5)), rng.standard_normal((4, 1))], [0, 1])
        compare(name, [rng.standard_normal((5,)), rng.standard_normal((3, 4, 5))], [0, 1], reduction="none")
    signs = np.where(rng.random((1, 5)) > 0.5, 1.0, -1.0)
    compare("margin_ranking_loss", [rng.standard_normal((4, 5)), rng.standard_normal((4, 1)), signs], [0, 1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("classes", [1, 2, 17])
def test_margin_losses_against_torch(classes, reduction):
    rng = np.random.default_rng(5)
    x, target = rng.standard_normal((6, classes)), rng.integers(0, classes, 6)
    weight, labels = rng.random(classes), rng.integers(-1, classes, (6, classes))
    r = {"reduction": reduction}
    for p in (1, 2):
        compare("multi_margin_loss", [x, target], [0], classes, p=p, margin=0.7, **r)
        compare("multi_margin_loss", [x, target], [0], classes, p=p, weight=weight, **r)
    compare("multi_margin_loss", [x[0], target[0]], [0], classes, **r)
    compare("multilabel_margin_loss", [x, labels], [0], classes**2, **r)
    compare("multilabel_margin_loss", [x[0], labels[0]], [0], classes**2, **r)
    compare("multilabel_soft_margin_loss", [x, rng.random(x.shape)], [0], classes, **r)
    compare("multilabel_soft_margin_loss", [x, rng.random(x.shape)], [0], classes, weight=weight, **r)
    compare("multilabel_soft_margin_loss", [x[0], rng.random(classes)], [0], classes, **r)


@pytest.mark.parametrize("length", [1, 3, 16, 50])
def test_distances_against_torch(length):
    rng = np.random.default_rng(6)
    x, y, z = rng.standard_normal((3, 6, length))
    compare("cosine_similarity", [x, y], [0, 1], length)
    compare("cosine_similarity", [x, y], [0, 1], 6, dim=0)
    compare("cosine_similarity", [rng.standard_normal((2, length, 3)), y[:1, :, None]], [0, 1], 18 * length)
    compare("cosine_similarity", [0 * x, y], [1], length)
    for p in (2.0, 1.0, np.inf, 3.0, 1.5, 0.0):
        compare("pairwise_distance", [x, y], [0, 1], length, p=p)
        compare("pairwise_distance", [x, y[:1]], [0, 1], 6 * length, p=p, keepdim=True)
    compare("pairwise_distance", [x, x], [0, 1], length, eps=0.0)
    signs = np.array([1, -1, 1, -1, -1, 1])
    for reduction in REDUCTIONS:
        r = {"reduction": reduction}
        compare("cosine_embedding_loss", [x, y, signs], [0, 1], length, margin=0.1, **r)
        compare("cosine_embedding_loss", [x[0], y[0], signs[1]], [0, 1], length, **r)
        for swap in (False, True):
            compare("triplet_margin_loss", [x, y, z], [0, 1, 2], length, swap=swap, **r)
            compare("triplet_margin_loss", [x, y, z], [0, 1, 2], length, swap=swap, p=1.0, margin=0.5, **r)


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ctc_against_torch(reduction, zero_infinity):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    for frames, batch, classes, longest in ((12, 3, 5, 4), (50, 4, 20, 10), (5, 2, 3, 4)):
        logits = rng.standard_normal((frames, batch, classes))
        labels = rng.integers(1, classes, (batch, longest))
        inputs, lengths = rng.integers(frames // 2, frames + 1, batch), rng.integers(0, longest + 1, batch)
        joined = np.concatenate([row[:n] for row, n in zip(labels, lengths, strict=True)])
        for targets in (labels, joined):
            ours = fastdl.from_numpy(logits.copy()).requires_grad_()
            theirs = torch.tensor(logits, requires_grad=True)
            options = {"reduction": reduction, "zero_infinity": zero_infinity}
            got = F.ctc_loss(
                F.log_softmax(ours, 2),
                fastdl.from_numpy(targets),
                tuple(inputs.tolist()),
                fastdl.from_numpy(lengths),
                **options,
            )
            want = torch.nn.functional.ctc_loss(
                torch.log_softmax(theirs, 2),
                torch.tensor(targets),
                tuple(inputs.tolist()),
                tuple(lengths.tolist()),
                **options,
            )
            g = np.asarray(rng.standard_normal(tuple(want.shape)))
            got.backward(fastdl.from_numpy(g))
            want.backward(torch.tensor(g))
            assert_close(got.detach(), want.detach().numpy(), reduction=frames)
            # exp(alpha + beta - y + loss): four logarithms of some hundred, whose last bits count that often.
            assert_close(ours.grad, theirs.grad.numpy(), reduction=frames, factor=100)


def test_ctc_unbatched():
    rng = np.random.default_rng(8)
    x = F.log_softmax(fastdl.from_numpy(rng.standard_normal((9, 4))), 1)
    labels = fastdl.tensor([1, 3, 3])
    for reduction in REDUCTIONS:
        one = F.ctc_loss(x, labels, (9,), (3,), reduction=reduction)
        batch = F.ctc_loss(
            fastdl.from_numpy(x.numpy()[:, None]),
            fastdl.from_numpy(labels.numpy()[None]),
            (9,),
            (3,),
            reduction=reduction,
        )
        assert one.shape == ()
        assert_close(one, batch.numpy().reshape(()))


# ------------------------------------------------------------------------------------------ gradients

rng_ = np.random.default_rng(10)
X, Y, P, Q = (
    rng_.standard_normal((4, 6)),
    rng_.standard_normal((4, 6)),
    rng_.uniform(0.1, 0.9, (4, 6)),
    rng_.uniform(0.1, 0.9, (4, 6)),
)
T = fastdl.from_numpy(rng_.integers(0, 6, 4))
SIGNS = fastdl.from_numpy(np.where(rng_.random((4, 6)) > 0.5, 1.0, -1.0))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (lambda x, **r: F.cross_entropy(x, T, **r), [X]),
        (lambda x, **r: F.cross_entropy(x, T, fastdl.from_numpy(P[0]), label_smoothing=0.2, **r), [X]),
        (lambda x, p, **r: F.cross_entropy(x, p, label_smoothing=0.2, **r), [X, P]),
        (lambda x, **r: F.nll_loss(x, T, **r), [X]),
        (F.mse_loss, [X, Y]),
        (F.huber_loss, [X, Y]),
        (F.smooth_l1_loss, [X, Y]),
        (F.l1_loss, [X, Y]),
        (F.binary_cross_entropy, [P, Q]),
        (F.binary_cross_entropy_with_logits, [X, Q]),
        (F.kl_div, [X, Q]),
        (F.poisson_nll_loss, [X, Q]),
        (F.gaussian_nll_loss, [X, Y, P]),
        (lambda x, **r: F.soft_margin_loss(x, SIGNS, **r), [X]),
        (lambda x, **r: F.hinge_embedding_loss(x, SIGNS, **r), [X]),
        (lambda x, y, **r: F.margin_ranking_loss(x, y, SIGNS, **r), [X, Y]),
        (lambda x, **r: F.multi_margin_loss(x, T, p=2, **r), [X]),
        (lambda x, y, **r: F.triplet_margin_loss(x, y, fastdl.from_numpy(P), **r), [X, Y]),
        (lambda x, y, reduction: F.cosine_similarity(x, y), [X, Y]),
        (lambda x, y, reduction: F.pairwise_distance(x, y, p=3.0), [X, Y]),
        (lambda x, **r: F.multilabel_soft_margin_loss(x, fastdl.from_numpy(Q), **r), [X]),
    ],
)
@pytest.mark.filterwarnings("ignore:kl_div.*:UserWarning")
def test_gradients(function, arrays, reduction):
    check_gradient(lambda *tensors: function(*tensors, reduction=reduction), *arrays)


@given(
    rows=st.integers(0, 20),
    classes=st.integers(1, 70),
    inner=st.integers(1, 20),
    seed=st.integers(0, 999),
    smoothing=st.sampled_from([0.0, 0.1]),
    reduction=st.sampled_from(REDUCTIONS),
    flip=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_cross_entropy_of_any_shape(rows, classes, inner, seed, smoothing, reduction, flip):
    x, _, target, weight, _ = class_problem((rows, classes, inner), 1, np.float32, seed)
    if flip:
        x, target, weight = x[::-1, :, ::-1], target.T.copy().T, weight[::-1]
    options = (1, IGNORE, smoothing, reduction)
    loss, *saved = kernels.cpu.cross_entropy_forward(x, target, weight, *options)
    want, *exact = reference.cross_entropy_forward(*wide((x, target, weight)), *options)
    assert_close(loss, want)
    g = upstream(loss)
    got = kernels.cpu.cross_entropy_backward(g, x, target, weight, *saved, *options)
    assert_close(got, reference.cross_entropy_backward(*wide((g, x, target, weight)), *exact, *options))


def test_older_names_of_reductions():
    x, y = fastdl.tensor([1.0, 2.0]), fastdl.tensor([0.0, 0.0])
    with pytest.warns(UserWarning, match="use reduction='sum'"):
        assert F.mse_loss(x, y, size_average=False).item() == 5
    with pytest.warns(UserWarning, match="use reduction='none'"):
        assert nn.MSELoss(reduce=False)(x, y).shape == (2,)
    with pytest.warns(UserWarning, match="broadcast"):
        F.mse_loss(fastdl.tensor([[1.0], [2.0]]), y)


# ------------------------------------------------------------------------------------------ modules

LOSSES = [*nn.modules.loss.__all__, *nn.modules.distance.__all__]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:`NLLLoss2d` has been deprecated:FutureWarning")
def test_constructors_and_options_are_torchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name), getattr(torch.nn, name)

    def parameters(cls):
        return [(p.name, p.kind, p.default) for p in inspect.signature(cls).parameters.values()]

    assert parameters(ours) == parameters(theirs)
    assert repr(ours()) == repr(theirs())


def test_the_older_path_of_a_pickled_layer_leads_on():
    assert nn.modules.loss.CosineSimilarity is nn.CosineSimilarity
    assert nn.modules.loss.PairwiseDistance is nn.PairwiseDistance


def test_modules_apply_their_functions():
    rng = np.random.default_rng(11)
    x, y, z = (fastdl.from_numpy(a) for a in rng.standard_normal((3, 4, 5)))
    p, q = (fastdl.from_numpy(a) for a in rng.uniform(0.1, 0.9, (2, 4, 5)))
    c, signs = fastdl.from_numpy(rng.integers(0, 5, 4)), fastdl.from_numpy(np.array([1.0, -1.0, 1.0, -1.0]))
    w = fastdl.from_numpy(rng.random(5))
    pairs = [
        (
            nn.CrossEntropyLoss(w, ignore_index=2, label_smoothing=0.1, reduction="sum")(x, c),
            F.cross_entropy(x, c, w, ignore_index=2, label_smoothing=0.1, reduction="sum"),
        ),
        (nn.NLLLoss(w)(x, c), F.nll_loss(x, c, w)),
        (nn.MSELoss(reduction="none")(x, y), F.mse_loss(x, y, reduction="none")),
        (nn.L1Loss()(x, y), F.l1_loss(x, y)),
        (nn.SmoothL1Loss(beta=0.5)(x, y), F.smooth_l1_loss(x, y, beta=0.5)),
        (nn.HuberLoss(delta=0.5)(x, y), F.huber_loss(x, y, delta=0.5)),
        (nn.BCELoss(w)(p, q), F.binary_cross_entropy(p, q, w)),
        (nn.BCEWithLogitsLoss(pos_weight=w)(x, q), F.binary_cross_entropy_with_logits(x, q, pos_weight=w)),
        (nn.KLDivLoss(reduction="batchmean")(x, q), F.kl_div(x, q, reduction="batchmean")),
        (nn.PoissonNLLLoss(full=True)(x, q), F.poisson_nll_loss(x, q, full=True)),
        (nn.GaussianNLLLoss(full=True)(x, y, p), F.gaussian_nll_loss(x, y, p, full=True)),
        (nn.MultiMarginLoss(p=2, weight=w)(x, c), F.multi_margin_loss(x, c, p=2, weight=w)),
        (nn.TripletMarginLoss(p=1.0, swap=True)(x, y, z), F.triplet_margin_loss(x, y, z, p=1.0, swap=True)),
        (nn.CosineEmbeddingLoss(0.2)(x, y, signs), F.cosine_embedding_loss(x, y, signs, 0.2)),
        (nn.MarginRankingLoss(0.2)(x, y, p), F.margin_ranking_loss(x, y, p, 0.2)),
        (nn.CosineSimilarity(dim=0)(x, y), F.cosine_similarity(x, y, 0)),
        (nn.PairwiseDistance(1.0, keepdim=True)(x, y), F.pairwise_distance(x, y, 1.0, keepdim=True)),
    ]
    for got, want in pairs:
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert list(nn.CrossEntropyLoss(w).state_dict()) == ["weight"]
    assert list(nn.BCEWithLogitsLoss(w, pos_weight=w).state_dict()) == ["weight", "pos_weight"]


@pytest.mark.filterwarnings("ignore:.*batchmean:UserWarning")
@pytest.mark.parametrize(
    "name", ["hinge_embedding_loss", "margin_ranking_loss", "gaussian_nll_loss", "kl_div"]
)
def test_inputs_may_change_before_backward_where_torch_keeps_copies(name):
    torch = pytest.importorskip("torch")
    found = []
    for library in (torch, fastdl):
        leaf = library.tensor([1.5, -2.0, 0.3], requires_grad=True)
        x, target = leaf * 1, library.tensor([1.0, -1.0, 1.0])
        function = getattr(library.nn.functional, name)
        more = {"margin_ranking_loss": (target,), "gaussian_nll_loss": (target.square() + 1,)}.get(name, ())
        loss = function(x, target, *more) if name != "margin_ranking_loss" else function(x, x * 2, *more)
        with library.no_grad():
            for t in (x,) if name == "kl_div" else (x, target):
                t.mul_(2)
        loss.backward()
        found.append(leaf.grad.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_kl_div_gradient_of_the_target_is_nan_where_the_loss_is():
    x, t = fastdl.zeros(4), fastdl.tensor([-0.5, 0.0, 0.5, float("nan")]).requires_grad_()
    loss = F.kl_div(x, t, reduction="none")
    loss.sum().backward()
    np.testing.assert_array_equal(np.isnan(loss.detach().numpy()), [True, False, False, True])
    np.testing.assert_array_equal(np.isnan(t.grad.numpy()), [True, False, False, True])


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize(("shape", "target"), [((3,), ()), ((2, 3), (2,)), ((2, 3, 4), (2, 4))])
def test_where_all_labels_are_ignored_the_mean_is_nan_and_its_gradient_zero(
    name, create_graph, shape, target
):
    x = fastdl.randn(shape, requires_grad=True)
    loss = getattr(F, name)(x, fastdl.full(target, -100))
    (grad,) = fastdl.autograd.grad(loss, x, create_graph=create_graph)
    assert np.isnan(loss.item())
    np.testing.assert_array_equal(grad.detach().numpy(), 0)


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_weights_of_binary_cross_entropy_may_be_of_another_dtype(dtype):
    torch = pytest.importorskip("torch")
    results = []
    for lib in (fastdl, torch):
        p, t, w = (
            lib.tensor([0.2, 0.9]),
            lib.tensor([1.0, 0.0]),
            lib.tensor([1, 3], dtype=getattr(lib, dtype)),
        )
        loss = lib.nn.functional.binary_cross_entropy(p, t, w)
        results.append((str(loss.dtype).removeprefix("torch."), round(loss.item(), 5)))
    assert results[0] == results[1]


def test_weights_that_are_learned():
    """By some losses there is no gradient, which PyTorch says, too; it would be lost without a word."""
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4))
    refused = {
        "binary_cross_entropy": lambda lib, x, w: lib.nn.functional.binary_cross_entropy(x, x.detach(), w),
        "weight": lambda lib, x, w: lib.nn.functional.binary_cross_entropy_with_logits(x, x.detach(), w),
        "pos_weight": lambda lib, x, w: lib.nn.BCEWithLogitsLoss(pos_weight=w)(x, x.detach()),
        "cross_entropy": lambda lib, x, w: lib.nn.functional.cross_entropy(x, lib.tensor([0, 3, 1]), w),
        "nll_loss": lambda lib, x, w: lib.nn.functional.nll_loss(x, lib.tensor([0, 3, 1]), w),
        "multi_margin_loss": lambda lib, x, w: lib.nn.functional.multi_margin_loss(
            x, lib.tensor([0, 3, 1]), weight=w
        ),
    }
    taken = (
        lambda lib, x, w: lib.nn.functional.cross_entropy(x, x.detach(), w, label_smoothing=0.1),
        lambda lib, x, w: lib.nn.functional.multilabel_soft_margin_loss(x, x.detach().round(), w),
        lambda lib, x, w: lib.nn.functional.mse_loss(x, x.detach() + 1, weight=w.expand(3, 4)),
    )
    found = []
    for lib in (torch, fastdl):
        w = lib.tensor([0.5, 1.0, 2.0, 3.0], dtype=lib.float64, requires_grad=True)
        x = lib.tensor(values, requires_grad=True)
        for loss in refused.values():
            with pytest.raises(RuntimeError, match="not differentiable"):
                loss(lib, x, w)
            with lib.no_grad():
                assert loss(lib, x, w).isfinite().all()
        found.append([g.numpy() for loss in taken for g in lib.autograd.grad(loss(lib, x, w), (x, w))])
    for expected, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, 1e-9)


def test_learned_weights_of_integer_targets():
    """As those that are not learned: the labels become floats."""
    torch = pytest.importorskip("torch")
    results = []
    for lib in (fastdl, torch):
        weight = lib.ones(3, requires_grad=True)
        x = lib.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, -0.2]])
        labels = lib.tensor([[1, 0, 1], [0, 0, 1]])
        loss = lib.nn.functional.multilabel_soft_margin_loss(x, labels, weight)
        loss.backward()
        results.append((loss.detach().numpy(), weight.grad.numpy()))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)

"""``linear_cross_entropy`` and its layer beside PyTorch's, as a whole and in pieces of the batch."""

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)


@pytest.mark.parametrize("out_features", [(), (3,), (2, 3)])
def test_linear_cross_entropy_is_torchs(out_features):
    torch = pytest.importorskip("torch")
    if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
        pytest.skip("an older torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4))
    target = rng.integers(0, 5, (6, *out_features))
    probabilities = rng.random((6, 5, *out_features))
    weight = rng.random(5)
    for options, t in [
        ({}, target),
        ({"bias": True, "reduction": "sum", "ignore_index": 2}, target),
        ({"bias": True, "label_smoothing": 0.2, "reduction": "none"}, target),
        ({}, probabilities),
    ]:
        results = []
        layers = []
        for library in (fastdl, torch):
            layer = library.nn.LinearCrossEntropyLoss(
                4,
                5,
                out_features=out_features,
                weight=library.from_numpy(weight),
                dtype=library.float64,
                **options,
            )
            if layers:
                layer.load_state_dict(
                    {k: torch.from_numpy(v.numpy()) for k, v in layers[0].state_dict().items()}
                )
            layers.append(layer)
            leaf = library.from_numpy(x.copy()).requires_grad_()
            loss = layer(leaf, library.from_numpy(t))
            loss.sum().backward()
            results.append([loss.detach(), leaf.grad, *[p.grad for p in layer.parameters()]])
        assert repr(layers[0]) == repr(layers[1])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def _grads(library, arrays, target, weight=None, scale=1.0, **options):
    leaves = [library.tensor(a, requires_grad=True) for a in arrays]
    loss = library.nn.functional.linear_cross_entropy(
        *leaves[:2],
        library.tensor(target),
        linear_bias=leaves[2] if len(leaves) > 2 else None,
        weight=None if weight is None else library.tensor(weight),
        **options,
    )
    (
        loss * library.arange(1.0, 1.0 + loss.numel()).to(loss.dtype).reshape(loss.shape) * scale
    ).sum().backward()
    return [loss.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pieces_are_the_whole(rows, bias, reduction):
    arrays = [rng.standard_normal(s) for s in [(7, 4), (5, 4), (5,)][: 2 + bias]]
    target, weight = np.array([0, 4, 2, 2, 1, 3, 0]), rng.random(5) + 0.1
    options = {"reduction": reduction, "ignore_index": 2, "label_smoothing": 0.1}
    pieces = nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
    got = _grads(fastdl, arrays, target, weight, 0.7, options=pieces, **options)
    want = _grads(torch, arrays, target, weight, 0.7, **options)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_half_precision_is_added_up_in_float32():
    x, w = rng.standard_normal((600, 8)), rng.standard_normal((3, 8))
    target = rng.integers(0, 3, 600)
    exact = _grads(fastdl, [x, w], target, reduction="sum")
    leaves = [fastdl.tensor(a).to(fastdl.bfloat16).requires_grad_() for a in (x, w)]
    pieces = nn.LinearCrossEntropyOptions(batch_chunk_size=4)
    F.linear_cross_entropy(*leaves, fastdl.tensor(target), reduction="sum", options=pieces).backward()
    assert leaves[1].grad.dtype == fastdl.bfloat16
    np.testing.assert_allclose(leaves[1].grad.float().numpy(), exact[2], rtol=0.02, atol=0.5)


def test_only_what_needs_a_gradient_gets_one():
    x, w, t = fastdl.rand(4, 3), fastdl.rand(5, 3, requires_grad=True), fastdl.tensor([0, 1, 2, 4])
    pieces = nn.LinearCrossEntropyOptions(batch_chunk_size=3)
    F.linear_cross_entropy(x, w, t, options=pieces).backward()
    whole = w.detach().clone().requires_grad_()
    F.linear_cross_entropy(x, whole, t).backward()
    assert x.grad is None
    np.testing.assert_allclose(w.grad.numpy(), whole.grad.numpy(), rtol=1e-6, atol=1e-7)
    with fastdl.no_grad():
        assert not F.linear_cross_entropy(x, w, t, options=pieces).requires_grad


def test_backward_twice():
    x, w, t = fastdl.rand(4, 3), fastdl.rand(5, 3, requires_grad=True), fastdl.tensor([0, 1, 2, 4])
    once = F.linear_cross_entropy(x, w, t, options=nn.LinearCrossEntropyOptions())
    once.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="allow_retain_graph"):
        once.backward()
    first = w.grad.clone()
    twice = F.linear_cross_entropy(x, w, t, options=nn.LinearCrossEntropyOptions(allow_retain_graph=True))
    twice.backward(retain_graph=True)
    twice.backward()
    np.testing.assert_allclose(w.grad.numpy(), 3 * first.numpy(), rtol=1e-6)


def test_there_is_no_second_derivative():
    x, w, t = fastdl.rand(4, 3), fastdl.rand(5, 3, requires_grad=True), fastdl.tensor([0, 1, 2, 4])
    loss = F.linear_cross_entropy(x, w, t, options=nn.LinearCrossEntropyOptions())
    with pytest.raises(NotImplementedError, match="no second derivative"):
        loss.backward(create_graph=True)


def test_nothing_counts():
    x, w = fastdl.rand(2, 3), fastdl.rand(5, 3, requires_grad=True)
    t = fastdl.tensor([-100, -100])
    loss = F.linear_cross_entropy(x, w, t, options=nn.LinearCrossEntropyOptions())
    assert np.isnan(loss.item())
    assert np.isnan(F.linear_cross_entropy(x, w, t).item())


def test_what_has_no_pieces_is_computed_as_a_whole():
    x, w = fastdl.rand(2, 3), fastdl.rand(5, 3)
    p = fastdl.rand(2, 5)
    with pytest.warns(UserWarning, match="computed as a whole"):
        got = F.linear_cross_entropy(x, w, p, options=nn.LinearCrossEntropyOptions())
    assert got.item() == F.linear_cross_entropy(x, w, p).item()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, 256),
        ({"batch_chunk_size": 100}, 100),
        ({"batch_chunk_size": 5000}, 1000),
        ({"chunking_method": None}, 1000),
        ({"chunking_method": "aspect_ratio"}, 256),
        ({"chunking_method": "aspect_ratio:4"}, 64),
    ],
)
def test_rows_of_a_piece(options, rows):
    ours = nn.LinearCrossEntropyOptions(**options)
    assert ours.rows(1000, 64, 256) == rows
    if options and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        theirs = torch.nn.LinearCrossEntropyOptions(**options)._adjust(1000, 64, 256, torch.float32)
        assert theirs.batch_chunk_size == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_chunk_size": 0}, "positive int"),
        ({"chunking_method": "ratio"}, "aspect_ratio"),
        ({"chunking_method": "aspect_ratio:x"}, "aspect_ratio"),
        ({"acc_policy": "fast"}, "acc_policy"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        nn.LinearCrossEntropyOptions(**options)


def test_rows_given_twice():
    both = nn.LinearCrossEntropyOptions(batch_chunk_size=3, chunking_method="aspect_ratio")
    with pytest.raises(ValueError, match="pass only one"):
        both.rows(1000, 64, 256)

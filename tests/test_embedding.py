"""Embedding tables and bags: kernels against the reference, layers against PyTorch, gradients, messages."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import kernels, nn
from fastdl.kernels import reference
from fastdl.nn import functional as F
from parity import (
    THREADS,
    assert_close,
    assert_same_sums,
    backends,
    check_gradient,
    thread_counts,
)

# (rows, width, entries): nothing, single ones, around vector widths, many rows or entries, both sides of threading
SIZES = [
    (1, 1, 1),
    (5, 3, 0),
    (0, 3, 0),
    (5, 0, 4),
    (7, 15, 30),
    (100, 64, 25),
    (3, 17, 1000),
    (40, 33, 6000),
    (3000, 100, 900),
    (2000, 1, 20_000),
    (700, 2, 70_000),
    (300, 257, 3000),
    (9000, 3, 40),
    (4001, 300, 100),
]


def draw(rng, rows, width, count, dtype="f4"):
    """A table, and an index of which a third names one row: enough for the split into columns, and for sums where
    a few entries meet many rows."""
    index = rng.integers(0, max(rows, 1), count)
    if count > 1000 or rows > 4000:
        index[rng.random(count) < 1 / 3] = rows // 2
    return rng.standard_normal((rows, width)).astype(dtype), index


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", SIZES)
def test_lookup(any_backend, size, dtype):
    rows, width, count = size
    rng = np.random.default_rng(0)
    weight, index = draw(rng, *size, dtype)
    want = reference.embedding_forward(weight, index)
    np.testing.assert_array_equal(any_backend.embedding_forward(weight, index), want)
    np.testing.assert_array_equal(any_backend.embedding_forward(np.asfortranarray(weight), index), want)
    if count % 2 == 0:
        shaped = index.reshape(2, count // 2)
        got = any_backend.embedding_forward(weight, shaped)
        np.testing.assert_array_equal(got, want.reshape(2, count // 2, width))
    # One row's terms are added in the order of the index, as the reference does: the same bits.
    grad = rng.standard_normal(want.shape).astype(dtype)
    for padding in (-1, rows // 2):
        for by_frequency in (False, True):
            options = (grad, index, None, None, rows, padding, by_frequency)
            got = any_backend.embedding_backward(*options)
            assert_same_sums(any_backend, got, reference.embedding_backward(*options), index)


def bags_of(rng, count):
    """Where bags begin and end: some empty, one long, lengths around the prefetch distance."""
    cuts = np.sort(rng.integers(0, count + 1, max(count // 9, 2)))
    return np.concatenate([[0, 0], cuts, [count]])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", SIZES)
def test_bags(any_backend, size, dtype):
    rows, width, count = size
    rng = np.random.default_rng(0)
    weight, index = draw(rng, *size, dtype)
    offsets = bags_of(rng, count)
    longest = int(np.diff(offsets).max())
    scale = rng.standard_normal(count).astype(dtype)
    for padding in (-1, rows // 2):
        for factor, mean in ((None, False), (None, True), (scale, False)):
            options = (weight, index, offsets, factor, padding, mean)
            got, want = any_backend.embedding_bag_forward(*options), reference.embedding_bag_forward(*options)
            assert_close(got, want, longest)
        got = any_backend.embedding_bag_max_forward(weight, index, offsets, padding)
        for mine, theirs in zip(
            got, reference.embedding_bag_max_forward(weight, index, offsets, padding), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        bag = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        grad = rng.standard_normal((len(offsets) - 1, width)).astype(dtype)
        for factor in (None, scale):
            options = (grad, index, bag, factor, rows, padding, False)
            got, want = any_backend.embedding_backward(*options), reference.embedding_backward(*options)
            assert_close(got, want, max(count, 1))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("width", [1, 16, 70])
def test_threads_share_bags_of_very_different_lengths(level, width):
    module, rng = kernels.load(level), np.random.default_rng(0)
    weight = rng.standard_normal((100, width))
    lengths = np.concatenate(
        [np.zeros(500, int), [20_000], np.arange(300), np.zeros(900, int), [7_000, 0, 1]]
    )
    offsets = np.concatenate([[0], lengths.cumsum()])
    index, scale = rng.integers(0, 100, offsets[-1]), rng.standard_normal(offsets[-1])
    want = reference.embedding_bag_forward(weight, index, offsets, scale, -1, False)
    chosen = reference.embedding_bag_max_forward(weight, index, offsets, -1)[1]
    for _ in thread_counts(module, THREADS):
        assert_close(module.embedding_bag_forward(weight, index, offsets, scale, -1, False), want, 20_000)
        found = module.embedding_bag_max_forward(weight, index, offsets, -1)[1]
        np.testing.assert_array_equal(found, chosen)


def test_max_of_nan_infinities_and_equal_values(any_backend):
    nan, inf = np.nan, np.inf
    weight = np.array([[1, nan, -inf, 2], [1, 3, -inf, nan], [0, nan, -inf, inf]], np.float32)
    index, offsets = np.array([1, 0, 2]), np.array([0, 3])
    y, chosen = any_backend.embedding_bag_max_forward(weight, index, offsets, -1)
    np.testing.assert_array_equal(y, [[1, nan, -inf, nan]])
    np.testing.assert_array_equal(chosen, [[1, 0, 1, 1]])
    want = reference.embedding_bag_max_forward(weight, index, offsets, -1)
    np.testing.assert_array_equal(chosen, want[1])


@pytest.mark.parametrize("level", backends())
def test_gradient_has_the_same_bits_for_every_number_of_threads(level):
    module = kernels.load(level)
    rng = np.random.default_rng(0)
    results = []
    for rows, width, count in ((500, 96, 9000), (20_000, 32, 9000), (60_000, 700, 900)):
        index = np.minimum(rng.geometric(0.02, count), rows) - 1
        grad = rng.standard_normal((count, width)).astype(np.float32)
        for _ in thread_counts(module, (*THREADS, 2)):
            results.append(module.embedding_backward(grad, index, None, None, rows, -1, True).tobytes())
        assert len(set(results)) == 1
        results.clear()


def test_kernels_refuse_what_they_cannot_follow(backend):
    x = np.ones((3, 4), np.float32)
    at = np.array([0, 2])
    for module in (backend, reference):
        with pytest.raises(IndexError, match=r"embedding: index\[1, 0\] = 3 is out of range \[0, 3\)"):
            module.embedding_forward(x, np.array([[0], [3]]))
        with pytest.raises(IndexError, match=r"index\[0\] = -1"):
            module.embedding_bag_forward(x, -at - 1, at, None, -1, False)
        with pytest.raises(IndexError, match=r"bag\[1\] = 3"):
            module.embedding_backward(x, at, np.array([0, 3]), None, 3, -1, False)
    for mistake, match in (
        (lambda: backend.embedding_forward(x[0], at), "rows, width"),
        (lambda: backend.embedding_backward(x, at, None, None, 3, -1, False), "one row per index"),
        (lambda: backend.embedding_backward(x, at, at[:1], None, 3, -1, False), "bag must have"),
        (lambda: backend.embedding_backward(x, at, at, x[0], 3, -1, False), "scale must have"),
        (lambda: backend.embedding_backward(x[:0], at[:0], None, None, -3, -1, False), "negative"),
        (lambda: backend.embedding_bag_forward(x, at, at[::-1], None, -1, False), "must not decrease"),
        (lambda: backend.embedding_bag_forward(x, at, at[:0], None, -1, False), "bags"),
        (lambda: backend.embedding_bag_forward(x, at, at, x[0], -1, False), "scale must have"),
        (lambda: backend.embedding_bag_max_forward(x, at, np.array([0, 3]), -1), "within the index"),
    ):
        with pytest.raises(ValueError, match=match):
            mistake()
    with pytest.raises(TypeError, match="int64"):
        backend.embedding_forward(x, at.astype(np.int32))


# ------------------------------------------------------------------------------------------- PyTorch


def both(function, weight, *extra):
    """``function(library, functional, weight, *extra)`` and the gradients, by fastdl and by PyTorch."""
    torch = pytest.importorskip("torch")
    results = []
    for lib, functional in ((fastdl, F), (torch, torch.nn.functional)):
        tensors = [lib.tensor(a).requires_grad_() for a in (weight, *extra)]
        y = function(lib, functional, *tensors)
        (y * y.detach().cos()).sum().backward()
        results.append([np.asarray(t.detach()) for t in (y, tensors[0])] + [t.grad.numpy() for t in tensors])
    for mine, theirs in zip(*results, strict=True):
        assert mine.dtype == theirs.dtype
        assert_close(mine, theirs, 64)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("index_dtype", ["i4", "i8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 2},
        {"padding_idx": -1},
        {"scale_grad_by_freq": True},
        {"max_norm": 1.5},
        {"max_norm": 2.0, "norm_type": 1.0, "padding_idx": 0},
        {"max_norm": 0.5, "norm_type": float("inf")},
    ],
    ids=str,
)
def test_embedding_is_torchs(options, index_dtype, dtype):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((9, 5)).astype(dtype)
    for shape in ((), (4,), (3, 7), (2, 3, 2), (0,), (2, 0)):
        index = rng.integers(0, 9, shape).astype(index_dtype)

        def run(lib, functional, table, index=index):
            table = table if "max_norm" not in options else table.clone()  # changed in place
            return functional.embedding(lib.tensor(index), table, **options)

        both(run, weight)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 1},
        {"padding_idx": -2},
        {"max_norm": 1.0},
        {"include_last_offset": True},
    ],
    ids=str,
)
def test_embedding_bag_is_torchs(mode, options):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 5)).astype(np.float32)
    ends = [0, 2, 2, 7, 12]
    cases = [(rng.integers(0, 6, 12), np.array(ends)), (rng.integers(0, 6, (3, 8)), None)]
    for index, offsets in cases:
        if offsets is None and "include_last_offset" in options:
            continue

        def run(lib, functional, table, index=index, offsets=offsets):
            begins = offsets if offsets is None else lib.tensor(offsets)
            table = table if "max_norm" not in options else table.clone()
            return functional.embedding_bag(lib.tensor(index), table, begins, mode=mode, **options)

        both(run, weight)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_scaled_by_frequency_are_torchs_embeddings_combined(mode):
    # torch's own bags on the CPU divide by the counts of other rows (2.13), which its documentation does not mean.
    index = np.array([[1, 4, 4], [0, 3, 1], [4, 4, 4]])

    def run(lib, functional, table):
        if lib is fastdl:
            return functional.embedding_bag(lib.tensor(index), table, mode=mode, scale_grad_by_freq=True)
        return getattr(functional.embedding(lib.tensor(index), table, scale_grad_by_freq=True), mode)(1)

    both(run, np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32))


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_per_sample_weights_are_torchs(padding_idx):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 5))
    index = rng.integers(0, 6, (3, 4))

    def run(lib, functional, table, factors):
        return functional.embedding_bag(
            lib.tensor(index), table, mode="sum", per_sample_weights=factors, padding_idx=padding_idx
        )

    both(run, weight, rng.standard_normal((3, 4)))


def test_layers_are_torchs():
    torch = pytest.importorskip("torch")
    for arguments, options in (
        ((10, 3), {}),
        ((10, 3), {"padding_idx": -1, "max_norm": 2.0}),
        ((10, 3), {"norm_type": 1.0, "scale_grad_by_freq": True}),
    ):
        for name in ("Embedding", "EmbeddingBag"):
            mine = getattr(nn, name)(*arguments, **options)
            theirs = getattr(torch.nn, name)(*arguments, **options)
            assert repr(mine) == repr(theirs)
            assert list(mine.state_dict()) == list(theirs.state_dict())
            theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in mine.state_dict().items()})
            index = np.array([[1, 9, 9], [0, 3, 1]])
            y = mine(fastdl.tensor(index))
            want = theirs(torch.tensor(index))
            assert_close(y, want.detach().numpy())
            if name == "EmbeddingBag" and "scale_grad_by_freq" in options:
                continue  # see the bags scaled by frequency
            y.sum().backward()
            want.sum().backward()
            assert_close(mine.weight.grad, theirs.weight.grad.numpy())
            assert_close(mine.weight, theirs.weight.detach().numpy())  # max_norm changes rows in place


# ------------------------------------------------------------------------------------------ behaviour


def test_gradients():
    rng = np.random.default_rng(0)
    index = fastdl.tensor(rng.integers(0, 7, (4, 5)))
    weight = rng.standard_normal((7, 3))
    check_gradient(lambda w: F.embedding(index, w), weight)
    for mode in ("sum", "mean", "max"):
        check_gradient(lambda w, mode=mode: F.embedding_bag(index, w, mode=mode), weight)
    check_gradient(
        lambda w, s: F.embedding_bag(index, w, mode="sum", per_sample_weights=s, padding_idx=1),
        weight,
        rng.standard_normal((4, 5)),
    )


def test_on_the_reference_backend():
    weight = fastdl.tensor(np.random.default_rng(0).standard_normal((6, 4)), requires_grad=True)
    index = fastdl.tensor([[0, 5, 5], [2, 0, 1]])
    results = []
    for name in ("reference", "cpu"):
        with fastdl.use_backend(name):
            weight.grad = None
            y = [F.embedding(index, weight).sum(1)]
            y += [F.embedding_bag(index, weight, mode=mode) for mode in ("sum", "mean", "max")]
            sum(t.sin().sum() for t in y).backward()
            results.append([*[t.detach().numpy() for t in y], weight.grad.numpy()])
    for mine, theirs in zip(*results, strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32])
def test_any_integer_index(dtype):
    weight = fastdl.tensor(np.arange(6.0).reshape(3, 2))
    index = fastdl.from_numpy(np.array([2, 0], dtype))
    np.testing.assert_array_equal(F.embedding(index, weight).numpy(), [[4, 5], [0, 1]])
    np.testing.assert_array_equal(F.embedding_bag(index[None], weight, mode="sum").numpy(), [[4, 6]])


def test_table_with_padding_and_pretrained():
    fastdl.manual_seed(0)
    layer = nn.Embedding(2000, 50, padding_idx=-1)
    table = layer.weight.detach().numpy()
    assert layer.padding_idx == 1999
    assert not table[-1].any()
    assert abs(table[:-1].mean()) < 0.02
    assert abs(table[:-1].std() - 1) < 0.02
    given = fastdl.tensor([[1.0, 2.0], [3.0, 4.0]])
    for kind in (nn.Embedding, nn.EmbeddingBag):
        assert not kind.from_pretrained(given).weight.requires_grad
        free = kind.from_pretrained(given, freeze=False, padding_idx=0)
        assert free.weight.requires_grad
        np.testing.assert_array_equal(free.weight.detach().numpy(), given.numpy())
    assert nn.Embedding(3, 2, dtype=fastdl.float64).weight.dtype == fastdl.float64


def test_changing_the_index_before_backward_is_refused():
    weight = fastdl.ones(3, 2).requires_grad_()
    index = fastdl.tensor([0, 1])
    y = F.embedding(index, weight)
    index.fill_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_shortened_rows_refuse_an_older_graph():
    weight = fastdl.full((3, 2), 5.0).requires_grad_()
    index = fastdl.tensor([0, 1])
    y = (weight * weight).sum()
    F.embedding(index, weight, max_norm=1.0)
    np.testing.assert_allclose(np.linalg.norm(weight.detach().numpy(), axis=1), [1, 1, 50**0.5], rtol=1e-6)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_empty_bags_and_entries_behind_the_last():
    weight = fastdl.tensor([[-1.0], [-2.0]], requires_grad=True)
    index = fastdl.tensor([0, 1, 1])
    for mode in ("sum", "mean", "max"):
        y = F.embedding_bag(index, weight, fastdl.tensor([0, 0, 2]), mode=mode, include_last_offset=True)
        assert y.shape == (2, 1)
        assert y[0].item() == 0
        weight.grad = None
        y.sum().backward()
        want = {"sum": [[1], [1]], "mean": [[0.5], [0.5]], "max": [[1], [0]]}[mode]
        np.testing.assert_array_equal(weight.grad.numpy(), want)
    nothing = fastdl.tensor(np.zeros(0, np.int64))
    assert F.embedding_bag(nothing, weight, nothing).shape == (0, 1)


def test_messages():
    weight, index = fastdl.ones(4, 3), fastdl.tensor([[0, 1]])
    flat, begins = fastdl.tensor([0, 1, 2]), fastdl.tensor([0, 2])
    bag = F.embedding_bag
    for error, match, mistake in (
        (IndexError, r"index\[0, 1\] = 4 is out of range \[0, 4\)", lambda: F.embedding(index * 4, weight)),
        (IndexError, r"index\[0, 1\] = -1", lambda: bag(-index, weight)),
        (IndexError, r"index\[0, 1\] = 9", lambda: F.embedding(index * 9, weight, max_norm=1.0)),
        (TypeError, r"order of arguments is \(input, weight\)", lambda: F.embedding(weight, index)),
        (TypeError, "input must be integers", lambda: F.embedding(fastdl.tensor([True]), weight)),
        (TypeError, "input must be a Tensor, got list", lambda: F.embedding([0], weight)),
        (TypeError, "float32 or float64, got int64", lambda: F.embedding(index, index)),
        (ValueError, "num_embeddings, embedding_dim", lambda: F.embedding(index, weight[0])),
        (ValueError, r"padding_idx .* got 4", lambda: F.embedding(index, weight, padding_idx=4)),
        (ValueError, r"Embedding: padding_idx .* got -5", lambda: nn.Embedding(4, 2, padding_idx=-5)),
        (ValueError, "_weight must have the shape", lambda: nn.Embedding(4, 2, _weight=weight)),
        (ValueError, "2-dimensional Tensor", lambda: nn.Embedding.from_pretrained(weight[0])),
        (ValueError, "mode must be one of", lambda: bag(index, weight, mode="min")),
        (ValueError, "needs offsets", lambda: bag(flat, weight)),
        (ValueError, "offsets must be None", lambda: bag(index, weight, begins)),
        (ValueError, "1 or 2 dimensions", lambda: bag(index[None], weight)),
        (ValueError, r"offsets\[0\] must be 0", lambda: bag(flat, weight, begins + 1)),
        (ValueError, r"offsets\[-1\] must not exceed", lambda: bag(flat, weight, begins * 2)),
        (
            ValueError,
            r"offsets\[1\] = 2 and offsets\[2\] = 1",
            lambda: bag(flat, weight, fastdl.tensor([0, 2, 1])),
        ),
        (TypeError, "offsets must be integers", lambda: bag(flat, weight, weight[0])),
        (ValueError, "mode='max'", lambda: bag(index, weight, mode="max", scale_grad_by_freq=True)),
        (ValueError, "need mode='sum'", lambda: bag(index, weight, per_sample_weights=weight[:1, :2])),
        (
            ValueError,
            "shape of input",
            lambda: bag(index, weight, mode="sum", per_sample_weights=weight),
        ),
        (
            TypeError,
            "weight's dtype",
            lambda: bag(index, weight, mode="sum", per_sample_weights=index.double()),
        ),
    ):
        with pytest.raises(error, match=match):
            mistake()

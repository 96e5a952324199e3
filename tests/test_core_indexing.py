"""Indexing against NumPy and torch, for keys of all kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl

torch = pytest.importorskip("torch")

# Keys are described by plain values and made into each library's own: ("tensor", values) becomes a tensor.
FIXED = [
    ((3, 4), ("tensor", [0, 2, 2])),
    ((3, 4), ("tensor", [[0, 1], [2, -1]])),
    ((3, 4), [0, 2]),
    ((3, 4), (slice(None), [1, 1])),
    ((3, 4), ([0, 2], [1, 3])),
    ((3, 4), (("tensor", [[0], [2]]), ("tensor", [1, 3]))),
    ((3, 4), ("tensor", [True, False, True])),
    ((3, 4), (slice(None), ("tensor", [True, False, True, True]))),
    ((2, 3), ("tensor", [[True, False, True], [False, False, True]])),
    ((2, 3, 4), ("tensor", [[True, False, True], [False, False, True]])),
    ((4, 2, 3), (slice(1, 3), ("tensor", [[True, False, True], [False, False, True]]))),
    ((2, 3, 4, 5), (slice(None), [0, 2], slice(None), [1, 1])),
    ((2, 3, 4, 5), (slice(None), 0, slice(None), [1, 2])),
    ((2, 3, 4, 5), (0, slice(None), [1, 2])),
    ((2, 3, 4, 5), ([0, 1], slice(None), 2)),
    ((2, 3, 4, 5), (..., [1, 2])),
    ((2, 3, 4), (None, [0, 1])),
    ((2, 3, 4), ([0, 1], None, [2, 0])),
    ((2, 3, 4), ("tensor", 1)),
    ((2, 3, 4), (("tensor", 1), ("tensor", [0, 2]))),
    ((2, 3), True),
    ((2, 3), False),
    ((2, 3), ("tensor", True)),
    ((2, 3), []),
    ((2, 3), ("tensor", [False, False])),
    ((0, 3), ("tensor", [])),
    ((5,), ("tensor", [-1, -5])),
    ((), ...),
    ((), None),
    ((), ()),
    ((), ("tensor", True)),
]


def build(key, lib):
    if isinstance(key, tuple) and len(key) == 2 and key[0] == "tensor":
        values = key[1]
        return lib.tensor(values, dtype=lib.int64) if values == [] else lib.tensor(values)
    if isinstance(key, tuple):
        return tuple(build(k, lib) for k in key)
    return key


def compare(shape, key):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape)
    ours, theirs = fastdl.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    got, want = ours[build(key, fastdl)], theirs[build(key, torch)]
    assert got.shape == tuple(want.shape)
    np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
    weights = rng.standard_normal(got.shape)
    got.backward(fastdl.tensor(weights))
    want.backward(torch.tensor(weights))
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-14, atol=1e-14)

    filler = rng.standard_normal(got.shape)
    a, b = fastdl.tensor(values), torch.tensor(values)
    v, w = fastdl.tensor(filler, requires_grad=True), torch.tensor(filler, requires_grad=True)
    a[build(key, fastdl)] = v
    b[build(key, torch)] = w
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    weights = rng.standard_normal(shape)
    if b.requires_grad:
        a.backward(fastdl.tensor(weights))
        b.backward(torch.tensor(weights))
        np.testing.assert_array_equal(v.grad.numpy(), w.grad.numpy())
    a, b = fastdl.tensor(values), torch.tensor(values)
    a[build(key, fastdl)] = 2.5
    b[build(key, torch)] = 2.5
    np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(("shape", "key"), FIXED, ids=str)
def test_key(shape, key):
    compare(shape, key)


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    count = draw(st.integers(1, 3))  # length of index tensors, or 1
    key, dim = [], 0
    ellipsis = False
    while dim < len(shape) and (
        ellipsis or draw(st.integers(0, 5))
    ):  # what follows an Ellipsis reaches the end
        kind = draw(st.sampled_from(["int", "slice", "tensor", "mask", "none", "ellipsis"]))
        n = shape[dim]
        if kind == "int":
            key.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            bound = st.one_of(st.none(), st.integers(-n - 2, n + 2))
            key.append(slice(draw(bound), draw(bound), draw(st.one_of(st.none(), st.integers(1, 3)))))
        elif kind == "tensor":
            key.append(("tensor", draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count))))
        elif kind == "mask":
            mask = [True] * min(count, n) + [False] * (n - min(count, n))
            if min(count, n) not in (1, count):
                continue
            key.append(("tensor", draw(st.permutations(mask))))
        elif kind == "none":
            key.append(None)
            continue
        else:
            if ellipsis:
                continue
            ellipsis = True
            key.append(...)
            dim += draw(st.integers(0, len(shape) - dim))
            continue
        dim += 1
    return shape, tuple(key)


def unique_places(shape, key):
    """Does the key name every element at most once? Assignments to repeated places have no defined order."""
    places = torch.arange(int(np.prod(shape))).reshape(shape)[build(key, torch)].reshape(-1)
    return len(set(places.tolist())) == len(places)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_random_keys(case):
    shape, key = case
    if unique_places(shape, key):
        compare(shape, key)
    else:
        values = np.arange(float(np.prod(shape))).reshape(shape)
        ours, theirs = fastdl.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
        got, want = ours[build(key, fastdl)], theirs[build(key, torch)]
        np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
        got.sum().backward()
        want.sum().backward()
        np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_basic_keys_are_numpys_views(data):
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple))
    key = []
    for n in shape:
        bound = st.one_of(st.none(), st.integers(-n - 1, n + 1))
        integer = st.integers(-n, n - 1) if n else st.nothing()
        key.append(data.draw(st.one_of(st.builds(slice, bound, bound, st.integers(1, 3)), integer)))
    array = np.arange(int(np.prod(shape))).reshape(shape)
    got, want = fastdl.from_numpy(array)[tuple(key)].numpy(), array[tuple(key)]
    np.testing.assert_array_equal(got, want)
    if want.size:
        assert np.shares_memory(got, array)


def test_many_rows_add_up():
    """Gradients of repeated rows: exact, for row lengths around vector widths, from several threads."""
    rng = np.random.default_rng(0)
    for width in (1, 3, 8, 33, 100):
        for rows in (1, 7, 1000):
            index = rng.integers(-rows, rows, 5000)
            x = fastdl.zeros(rows, width, dtype=fastdl.float64, requires_grad=True)
            weights = rng.integers(-8, 8, (5000, width)).astype(float)
            x[fastdl.tensor(index)].backward(fastdl.tensor(weights))
            want = np.zeros((rows, width))
            np.add.at(want, index, weights)
            np.testing.assert_array_equal(x.grad.numpy(), want)


def test_index_fill_in_place_and_out_of_place():
    x = fastdl.arange(12.0).reshape(3, 4)
    index = fastdl.tensor([1, -1])
    filled = fastdl.index_fill(x, 1, index, 7.0)
    assert filled.tolist() == [[0, 7, 2, 7], [4, 7, 6, 7], [8, 7, 10, 7]]
    assert x[0, 1] == 1
    x.index_fill_(1, index, 7.0)
    assert x.tolist() == filled.tolist()


def test_index_select_of_a_strided_vector():
    x = fastdl.arange(20.0)
    assert x[1::3].index_select(0, fastdl.tensor([5, 0, 2])).tolist() == [16, 1, 7]
    assert x.double()[::2].index_select(0, fastdl.tensor([9])).tolist() == [18]

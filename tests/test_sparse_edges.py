"""Sparse tensors where they are unusual: dtypes, sizes, memory that is not contiguous, what errors keep alive."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*deprecated")
LIBRARIES = (fastdl, torch)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "int32", "int64", "complex64", "complex128"])
def test_sums_keep_the_dtype(dtype):
    results = []
    for m in LIBRARIES:
        own = getattr(m, dtype)
        x = m.sparse_coo_tensor([[0, 2]], m.tensor([1, 2]).to(own) * (1 if dtype[0] != "c" else 1 + 2j), (3,))
        y = m.sparse_coo_tensor([[2, 2]], m.tensor([5, 3]).to(own), (3,))
        parts = x + y, x - y, x.coalesce() + y.coalesce(), m.add(x, y, alpha=3), m.ones(3, dtype=own) - x
        assert all(part.dtype is own for part in parts)
        wide = m.complex128 if dtype[0] == "c" else m.float64
        results.append(np.stack([part.to_dense().to(wide).numpy() for part in parts]))
    np.testing.assert_array_equal(*results)


def test_sums_of_two_dtypes():
    x, y = fastdl.eye(2).to_sparse(), fastdl.eye(2, dtype=fastdl.float64).to_sparse()
    assert (x + y).dtype is (y + x).dtype is fastdl.result_type(x, y) is fastdl.float64
    assert (x.int() + x.long()).dtype is fastdl.int64
    assert fastdl.result_type(x.double(), fastdl.ones(1)) is fastdl.float64


@pytest.mark.parametrize("options", [{}, {"nesterov": True}])
def test_momentum_in_double_precision(options):
    results = []
    for m in LIBRARIES:
        weight = m.nn.Parameter(m.full((3, 1), 1 / 3, dtype=m.float64))
        optimizer = m.optim.SGD([weight], lr=0.1, momentum=0.9, **options)
        for _ in range(3):
            optimizer.zero_grad()
            m.nn.functional.embedding(m.tensor([0, 2, 2]), weight, sparse=True).pow(2).sum().backward()
            optimizer.step()
        results.append(weight.detach().numpy())
    np.testing.assert_allclose(*results, rtol=1e-14)


def test_many_bools_of_one_place():
    x = fastdl.sparse_coo_tensor([[0] * 256], fastdl.ones(256, dtype=fastdl.bool), (2,))
    assert x.coalesce().values().tolist() == [True]
    assert x.to_dense().tolist() == [True, False]


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m.sparse_coo_tensor(size=(-1, 2)),
        lambda m: m.sparse_coo_tensor(m.zeros(2, 0, dtype=m.int64), m.zeros(0), (2, -1)),
        lambda m: m.sparse_csr_tensor([0, 0, 0], m.zeros(0, dtype=m.int64), m.zeros(0), (2, -1)),
        lambda m: m.eye(3).to_sparse().narrow_copy(0, 1, -1),
        lambda m: m.eye(3).to_sparse().narrow_copy(0, -1, 1),
        lambda m: m.eye(3).to_sparse().narrow_copy(0, 2, 2),
    ],
)
def test_extents_that_cannot_be(make):
    for m in LIBRARIES:
        with pytest.raises(RuntimeError):
            make(m)


def test_pickles_are_leaves():
    x = fastdl.eye(2).to_sparse().requires_grad_()
    for m, own in ((fastdl, x), (torch, torch.eye(2).to_sparse().requires_grad_())):
        for each in (own, own * 2):
            read = pickle.loads(pickle.dumps(each))
            assert read.is_leaf
            assert not read.requires_grad
            assert read.layout is m.sparse_coo
    assert copy.deepcopy(x).is_leaf
    assert copy.deepcopy(x).requires_grad


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
@pytest.mark.parametrize("part", [lambda x: x.t(), lambda x: x.t()[::2], lambda x: x.t()[:, 1:]])
def test_steps_of_parameters_that_are_not_contiguous(name, part):
    results = []
    for m in LIBRARIES:
        weight = m.nn.Parameter(part(m.zeros(3, 4)))
        assert not weight.is_contiguous()
        weight.grad = m.ones_like(weight).to_sparse()
        getattr(m.optim, name)([weight], lr=0.5).step()
        results.append(weight.detach().numpy())
    np.testing.assert_allclose(*results, rtol=1e-6)
    assert np.all(results[0] != 0)


def test_dense_gradients_in_another_order_take_sparse_ones():
    x = fastdl.zeros(2, 3).t()
    assert fastdl.eye(3)[:, :2].to_sparse()._data.onto(x._data) is x._data
    np.testing.assert_array_equal(x.numpy(), np.eye(3)[:, :2])


@pytest.mark.parametrize("name", ["sort", "softmax", "topk", "conv1d", "sum"])
def test_errors_do_not_keep_arguments_alive(name):
    gc.disable()
    try:
        alive = _after_an_error(name)
        assert alive() is None
    finally:
        gc.enable()


def _after_an_error(name):
    x = fastdl.eye(3).to_sparse()
    try:
        getattr(fastdl, name)(x, 7)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return weakref.ref(x)
    raise AssertionError(f"{name}: no error")


def test_numbers_of_numpy_on_the_left():
    x = fastdl.eye(2).to_sparse()
    assert (np.float64(3) * x).to_dense().tolist() == [[3, 0], [0, 3]]
    assert (np.arange(2) * x).to_dense().tolist() == [[0, 0], [0, 1]]
    assert np.sin(x).layout is fastdl.sparse_coo
    for call in (np.exp, np.add.reduce, lambda x: np.negative(x, out=np.ones((2, 2)))):
        with pytest.raises(TypeError, match="to_dense"):
            call(x)
    assert (np.ones((2, 2)) + x).tolist() == [[2, 1], [1, 2]]


@pytest.mark.parametrize(
    ("layout", "other"),
    [
        ("sparse_coo", "sparse_csr"),
        ("sparse_coo", "sparse_xyz"),
        ("sparse_csr", "sparse_coo"),
        ("sparse_csr", "spars_csc"),
    ],
)
def test_files_with_another_layout_are_damaged(tmp_path, layout, other):
    path = tmp_path / "x"
    fastdl.save([fastdl.eye(2).to_sparse(layout=getattr(fastdl, layout))], path)
    content = path.read_bytes()
    assert layout.encode() in content
    path.write_bytes(content.replace(layout.encode(), other.encode().ljust(len(layout), b"x")))
    with pytest.raises(ValueError, match="damaged"):
        fastdl.load(path)


@pytest.mark.parametrize(
    "change",
    [lambda g: g.zero_(), lambda g: g.mul_(2), lambda g: g.copy_(g.clone()), lambda g: g.detach().neg_()],
)
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
def test_gradients_of_sparse_tensors_are_not_changed_in_place(layout, change):
    x = fastdl.eye(3).to_sparse(layout=getattr(fastdl, layout)).requires_grad_()
    (x @ fastdl.ones(3, 1)).sum().backward()
    with pytest.raises(RuntimeError, match="not changed in place"):
        change(x.grad)
    assert x.grad.clone().mul_(2).values().tolist() == [2, 2, 2]
    x.grad = None
    assert x.grad is None


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.eye(3).to_sparse().index_select(0, m.ones(2, 2, dtype=m.int64)),
        lambda m: m.sparse.softmax(m.eye(3, dtype=m.int64).to_sparse(), 0),
        lambda m: m.sparse.log_softmax(m.eye(3, dtype=m.bool).to_sparse(), 1),
    ],
)
def test_arguments_that_pytorch_refuses(call):
    for m in LIBRARIES:
        with pytest.raises((IndexError, RuntimeError)):
            call(m)


def test_exponents_of_any_kind():
    x = fastdl.eye(2).to_sparse() * 2
    assert (x ** fastdl.tensor(2.0)).values().tolist() == [4, 4]
    assert (x**1j).dtype is fastdl.complex64
    with pytest.raises(TypeError):
        x ** "a"
    for zero in (0, 0.0, 0j, fastdl.tensor(0)):
        with pytest.raises(RuntimeError, match="zeroth"):
            x**zero

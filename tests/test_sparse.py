"""Sparse tensors beside PyTorch's: what they are made of, operations, prints, errors; nothing dense goes unnoticed."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

import fastdl
from fastdl.sparse.tensor import SparseTensor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse", "ignore:torch.sparse.SparseTensor", "ignore:.*deprecated"
)
LIBRARIES = (fastdl, torch)
INDICES = np.array([[0, 1, 1, 0, 3], [2, 0, 2, 2, 1]])
VALUES = np.array([0.3, 0.4, -0.5, 0.1, 0.2], np.float32)
rng = np.random.default_rng(0)
DENSE = rng.standard_normal((4, 3)).astype(np.float32)


def coo(library, coalesced=False, values=VALUES):
    x = library.sparse_coo_tensor(library.tensor(INDICES), library.tensor(values), (4, 3))
    return x.coalesce() if coalesced else x


def hybrid(library):
    return library.sparse_coo_tensor(
        library.tensor(INDICES), library.tensor(VALUES)[:, None] * library.ones(5, 2), (4, 3, 2)
    )


def same(ours, theirs, rtol=1e-6):
    """Layout, dtype, places and values."""
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs
        return
    assert str(ours.layout).partition(".")[2] == str(theirs.layout).partition(".")[2]
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    assert tuple(ours.shape) == tuple(theirs.shape)
    if theirs.layout is torch.sparse_coo:
        if ours.is_coalesced() == theirs.is_coalesced() and ours._nnz() == theirs._nnz():
            np.testing.assert_array_equal(ours._indices().numpy(), theirs._indices().numpy())
            np.testing.assert_allclose(
                ours._values().numpy(), theirs._values().detach().float().numpy(), rtol=rtol, atol=1e-7
            )
        assert ours.sparse_dim() == theirs.sparse_dim()
    elif theirs.layout is torch.sparse_csr:
        np.testing.assert_array_equal(ours.crow_indices().numpy(), theirs.crow_indices().numpy())
        np.testing.assert_array_equal(ours.col_indices().numpy(), theirs.col_indices().numpy())
    elif theirs.layout is torch.sparse_csc:
        np.testing.assert_array_equal(ours.ccol_indices().numpy(), theirs.ccol_indices().numpy())
        np.testing.assert_array_equal(ours.row_indices().numpy(), theirs.row_indices().numpy())
    mine, other = ours.to_dense().detach(), theirs.to_dense().detach()
    np.testing.assert_allclose(
        mine.float().numpy(), other.float().numpy(), rtol=rtol, atol=1e-6 if rtol < 1e-3 else 1e-2
    )


def dense(library, array=DENSE):
    return library.tensor(array)


OPERATIONS = {
    "coalesce": lambda m, x: x.coalesce(),
    "t": lambda m, x: x.t(),
    "T": lambda m, x: x.T,
    "transpose": lambda m, x: m.transpose(x, 0, 1),
    "permute": lambda m, x: x.permute(1, 0),
    "unsqueeze": lambda m, x: m.unsqueeze(x, 1),
    "clone": lambda m, x: x.clone(),
    "detach": lambda m, x: x.detach(),
    "double": lambda m, x: x.double(),
    "half": lambda m, x: x.half(),
    "bool": lambda m, x: x.bool(),
    "to": lambda m, x: x.to(m.int64),
    "to cpu": lambda m, x: x.cpu(),
    "neg": lambda m, x: -x,
    "times a number": lambda m, x: x * 2,
    "number times": lambda m, x: 0.5 * x,
    "times 0-dim": lambda m, x: x * m.tensor(3.0),
    "divided": lambda m, x: x / 4,
    "floor divided": lambda m, x: x // 2,
    "squared": lambda m, x: x**2,
    "pow": lambda m, x: m.pow(x, 3),
    "sum of two": lambda m, x: x + x,
    "difference": lambda m, x: x - 2 * x,
    "add alpha": lambda m, x: m.add(x, x, alpha=3),
    "dense plus": lambda m, x: dense(m) + x,
    "dense minus": lambda m, x: dense(m) - x,
    "dense add alpha": lambda m, x: m.add(dense(m), x, alpha=2),
    "dense add_": lambda m, x: dense(m).add_(x),
    "times dense": lambda m, x: x * dense(m),
    "dense times": lambda m, x: dense(m) * x,
    "times a row": lambda m, x: x * dense(m)[0],
    "times a column": lambda m, x: m.mul(x, dense(m)[:, :1]),
    "times sparse": lambda m, x: x * (x * 2).coalesce(),
    "sum": lambda m, x: x.sum(),
    "sum 0": lambda m, x: m.sum(x, 0),
    "sum 1": lambda m, x: m.sparse.sum(x, 1),
    "sum all axes": lambda m, x: m.sparse.sum(x, (0, 1)),
    "sum keepdim": lambda m, x: x.sum(1, keepdim=True),
    "sum dtype": lambda m, x: m.sparse.sum(x, dtype=m.float64),
    "softmax": lambda m, x: m.sparse.softmax(x, 1),
    "softmax 0": lambda m, x: m.sparse.softmax(x, 0),
    "log_softmax": lambda m, x: m.sparse.log_softmax(x, dim=-1),
    "mm": lambda m, x: m.mm(x, dense(m).t()),
    "sparse.mm": lambda m, x: m.sparse.mm(x, dense(m).t()),
    "spmm": lambda m, x: m.spmm(x, dense(m).t()),
    "smm": lambda m, x: m.smm(x, dense(m).t()),
    "hspmm": lambda m, x: m.hspmm(x.coalesce(), dense(m).t()),
    "matmul": lambda m, x: m.matmul(x, dense(m).t()),
    "@": lambda m, x: x @ dense(m).t(),
    "dense @": lambda m, x: dense(m).t() @ x,
    "vector": lambda m, x: x @ dense(m)[0],
    "mv": lambda m, x: m.mv(x, dense(m)[1]),
    "sparse @ sparse": lambda m, x: x @ x.t(),
    "sparse.mm sparse": lambda m, x: m.sparse.mm(x.t(), x),
    "addmm": lambda m, x: m.addmm(m.ones(4, 4), x, dense(m).t(), beta=2, alpha=3),
    "sparse.addmm": lambda m, x: m.sparse.addmm(m.ones(4, 4), x, dense(m).t()),
    "sspaddmm": lambda m, x: m.sspaddmm(m.sparse_coo_tensor(size=(4, 4)), x, dense(m).t()),
    "linear": lambda m, x: m.nn.functional.linear(x, m.ones(2, 3), m.tensor([1.0, 2.0])),
    "linear of a sparse weight": lambda m, x: m.nn.functional.linear(m.ones(2, 3), x),
    "cat": lambda m, x: m.cat([x, x], 0),
    "cat 1": lambda m, x: m.cat((x, 2 * x, x), dim=-1),
    "stack": lambda m, x: m.stack([x, x]),
    "vstack": lambda m, x: m.vstack([x, x]),
    "hstack": lambda m, x: m.hstack((x, x)),
    "H": lambda m, x: x.H,
    "index_select": lambda m, x: x.index_select(1, m.tensor([2, 0, 2])),
    "index_select 0": lambda m, x: m.index_select(x, 0, m.tensor([3, 0])),
    "narrow_copy": lambda m, x: x.narrow_copy(1, 1, 2).coalesce(),
    "x[1]": lambda m, x: x[1],
    "x[0, 2]": lambda m, x: x[0, 2],
    "x[:, 2]": lambda m, x: x[:, 2],
    "select": lambda m, x: m.select(x, 1, 2),
    "unbind": lambda m, x: x.unbind(0)[0],
    "iteration": lambda m, x: list(x)[3],
    "len": lambda m, x: len(x),
    "to_dense": lambda m, x: x.to_dense(),
    "to_sparse": lambda m, x: x.to_dense().to_sparse(),
    "to_sparse 1": lambda m, x: x.to_dense().to_sparse(1),
    "to_sparse layout": lambda m, x: x.to_dense().to_sparse(layout=m.sparse_csr),
    "to_sparse_csr": lambda m, x: x.to_sparse_csr(),
    "to_sparse_csc": lambda m, x: x.to_sparse_csc(),
    "csr to coo": lambda m, x: x.to_sparse_csr().to_sparse(),
    "sparse_mask": lambda m, x: dense(m).sparse_mask(x.coalesce()),
    "sparse_mask of sparse": lambda m, x: (x.t() @ x).coalesce().sparse_mask(m.eye(3).to_sparse()),
    "zeros_like": lambda m, x: m.zeros_like(x),
    "norm": lambda m, x: x.norm(),
    "norm 1": lambda m, x: m.norm(x, 1),
    "mul_": lambda m, x: x.clone().mul_(2),
    "add_": lambda m, x: x.coalesce().add_(x.coalesce()),
    "neg_": lambda m, x: x.clone().neg_(),
    "zero_": lambda m, x: x.clone().zero_(),
    "copy_": lambda m, x: m.zeros_like(x).copy_(x),
    "nnz": lambda m, x: (x._nnz(), x.sparse_dim(), x.dense_dim(), x.numel(), x.dim(), x.is_coalesced()),
    "what it is": lambda m, x: (
        x.is_sparse,
        x.is_sparse_csr,
        x.is_cuda,
        x.requires_grad,
        x.is_leaf,
        x.stride(),
    ),
    "csr times": lambda m, x: x.to_sparse_csr() * 2,
    "csr sum of two": lambda m, x: x.to_sparse_csr() + x.to_sparse_csr(),
    "csr times dense": lambda m, x: x.to_sparse_csr() * dense(m),
    "csr abs": lambda m, x: x.to_sparse_csr().abs(),
    "csr t": lambda m, x: x.to_sparse_csr().t(),
    "csr @ dense": lambda m, x: x.to_sparse_csr() @ dense(m).t(),
    "csr @ vector": lambda m, x: x.to_sparse_csr() @ dense(m)[0],
    "csr @ csr": lambda m, x: (x.to_sparse_csr() @ x.t().to_sparse_csr()).to_dense(),
    "csc @ dense": lambda m, x: x.to_sparse_csc() @ dense(m).t(),
    "dense @ csr": lambda m, x: dense(m).t() @ x.to_sparse_csr(),
    "csr addmm": lambda m, x: m.addmm(m.ones(4, 4), x.to_sparse_csr(), dense(m).t(), beta=2, alpha=3),
    "csr row": lambda m, x: x.to_sparse_csr()[0].to_dense(),
    "csr mean": lambda m, x: m.sparse.mm(x.to_sparse_csr(), dense(m).t(), "mean"),
    "csr amax": lambda m, x: m.sparse.mm(x.to_sparse_csr(), dense(m).t(), "amax"),
    "csr amin": lambda m, x: m.sparse.mm(x.to_sparse_csr(), dense(m).t(), "amin"),
    "csr max": lambda m, x: m.sparse.mm(x.to_sparse_csr(), dense(m).t(), "max"),
    "sampled_addmm": lambda m, x: m.sparse.sampled_addmm(
        x.to_sparse_csr(), m.ones(4, 2), m.ones(2, 3), beta=0.5, alpha=2.0
    ),
    "csr parts": lambda m, x: (x.to_sparse_csr()._nnz(), x.to_sparse_csr().is_sparse_csr),
    "old type": lambda m, x: x.type().partition(".")[2],
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("coalesced", [False, True])
def test_operations_are_torch_s(name, coalesced):
    ours, theirs = [OPERATIONS[name](library, coo(library, coalesced)) for library in LIBRARIES]
    same(ours, theirs, 2e-3 if name == "half" else 1e-6)


FUNCTIONS = """abs asin asinh atan atanh ceil deg2rad erf erfinv expm1 floor frac isinf isnan isneginf isposinf log1p
    nan_to_num neg rad2deg relu round sgn sign signbit sin sinh sqrt square tan tanh trunc positive""".split()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_leave_zero_are_torch_s(name):
    values = np.abs(VALUES) if name == "sqrt" else VALUES
    for csr in (False, True):
        if csr and name in ("positive", "nan_to_num", "square"):
            continue  # PyTorch has none of CSR
        ours, theirs = [
            getattr(m, name)(x.to_sparse_csr() if csr else x)
            for m, x in [(m, coo(m, values=values)) for m in LIBRARIES]
        ]
        same(ours, theirs)
    if name not in ("isinf", "isnan", "isneginf", "isposinf", "signbit"):
        same(getattr(coo(fastdl), name)(), getattr(coo(torch), name)()) if name != "sqrt" else None


HYBRID = {
    "itself": lambda m, x: x,
    "coalesce": lambda m, x: x.coalesce(),
    "sum 0": lambda m, x: m.sparse.sum(x, 0),
    "sum of sparse axes": lambda m, x: m.sparse.sum(x, (0, 1)),
    "sum 2": lambda m, x: m.sparse.sum(x, 2),
    "sum all": lambda m, x: m.sparse.sum(x),
    "times": lambda m, x: x * 3,
    "times dense": lambda m, x: x * (m.arange(24.0).reshape(4, 3, 2)),
    "plus": lambda m, x: x + x,
    "dense plus": lambda m, x: m.ones(4, 3, 2) + x,
    "to_dense": lambda m, x: x.to_dense(),
    "index_select": lambda m, x: x.index_select(0, m.tensor([1, 0])),
    "select": lambda m, x: x.select(0, 1),
    "x[0][2]": lambda m, x: x[0][2],
    "transpose": lambda m, x: x.transpose(0, 1),
    "softmax": lambda m, x: m.sparse.softmax(x, 1),
    "softmax of a dense axis": lambda m, x: m.sparse.softmax(x, 2),
    "abs": lambda m, x: x.abs(),
    "cat": lambda m, x: m.cat([x, x], 1),
    "sparse_mask": lambda m, x: m.ones(4, 3, 2).sparse_mask(x.coalesce()),
    "dims": lambda m, x: (x.sparse_dim(), x.dense_dim(), x.numel(), tuple(x.shape)),
}


@pytest.mark.parametrize("name", HYBRID)
def test_hybrid_tensors_are_torch_s(name):
    same(*[HYBRID[name](library, hybrid(library)) for library in LIBRARIES])


def test_batches_of_products_are_torch_s():
    same(*[m.bmm(m.stack([coo(m), 2 * coo(m)]), m.ones(2, 3, 2)) for m in LIBRARIES])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "complex64"])
def test_products_of_other_dtypes(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    results = []
    for m in LIBRARIES:
        d = getattr(m, dtype)
        x = m.sparse_coo_tensor(m.tensor(INDICES), (m.tensor(VALUES) * 20).to(d), (4, 3))
        y = (m.tensor(DENSE.T[:, :2].copy()) * 20).to(d)
        results.append(m.view_as_real(x @ y) if dtype == "complex64" else (x @ y).double())
    rtol = {"float64": 1e-12, "float16": 5e-3, "bfloat16": 4e-2}.get(dtype, 1e-5)
    np.testing.assert_allclose(results[0].numpy(), results[1].numpy(), rtol=rtol, atol=rtol * 100)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 700), (700, 5), (257, 64)])
@pytest.mark.parametrize("width", [0, 1, 7, 16, 130])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_products_of_all_sizes(shape, width, backend):
    m, k = shape
    count = 0 if 0 in shape else 300
    places = np.stack([rng.integers(0, max(n, 1), count) for n in shape])
    values, other = rng.standard_normal(count), rng.standard_normal((k, width))
    full = np.zeros(shape)
    np.add.at(full, tuple(places), values)
    with fastdl.use_backend(backend):
        x = fastdl.sparse_coo_tensor(places, values, shape)
        y = fastdl.tensor(other, requires_grad=True)
        product = x @ y
        grad = rng.standard_normal((m, width))
        product.backward(fastdl.tensor(grad))
        np.testing.assert_allclose(product.detach().numpy(), full @ other, atol=1e-12)
        np.testing.assert_allclose(y.grad.numpy(), full.T @ grad, atol=1e-12)


MADE = {
    "size": lambda m: m.sparse_coo_tensor(size=(2, 3)),
    "size alone": lambda m: m.sparse_coo_tensor((2, 3)),
    "lists": lambda m: m.sparse_coo_tensor([[0, 1], [2, 0]], [3, 4]),
    "dtype": lambda m: m.sparse_coo_tensor([[0, 1], [2, 0]], [3, 4], dtype=m.float64),
    "no size": lambda m: m.sparse_coo_tensor(m.tensor(INDICES), m.tensor(VALUES)),
    "vector": lambda m: m.sparse_coo_tensor([[1, 3]], [1.0, 2.0], (5,)),
    "float indices": lambda m: m.sparse_coo_tensor(m.tensor(INDICES).float(), m.tensor(VALUES), (4, 3)),
    "int32 indices": lambda m: m.sparse_coo_tensor(m.tensor(INDICES).int(), m.tensor(VALUES), (4, 3)),
    "coalesced": lambda m: m.sparse_coo_tensor([[0, 1], [2, 0]], [3.0, 4.0], (2, 3), is_coalesced=True),
    "old": lambda m: m.sparse.FloatTensor(m.tensor(INDICES), m.tensor(VALUES), m.Size([4, 3])),
    "old double": lambda m: m.sparse.DoubleTensor(
        m.tensor(INDICES), m.tensor(VALUES).double(), m.Size([4, 3])
    ),
    "old long": lambda m: m.sparse.LongTensor(m.tensor(INDICES), m.tensor(VALUES).long(), m.Size([4, 3])),
    "old size": lambda m: m.sparse.FloatTensor(2, 3),
    "csr": lambda m: m.sparse_csr_tensor([0, 1, 2], [2, 0], [1.0, 2.0], (2, 3)),
    "csr no size": lambda m: m.sparse_csr_tensor([0, 1, 2], [2, 0], [1.0, 2.0]),
    "csc": lambda m: m.sparse_csc_tensor([0, 1, 2], [1, 0], [1.0, 2.0], (2, 2)),
    "compressed": lambda m: m.sparse_compressed_tensor([0, 1, 2], [2, 0], [1.0, 2.0], layout=m.sparse_csr),
    "spdiags": lambda m: m.sparse.spdiags(m.arange(6.0).reshape(2, 3), m.tensor([0, 1]), (3, 3)),
    "eye": lambda m: m.eye(3).to_sparse(),
    "bool": lambda m: m.eye(3).bool().to_sparse(),
    "0-dim": lambda m: m.tensor(3.0).to_sparse(),
}


@pytest.mark.parametrize("name", MADE)
def test_made_as_torch_s(name):
    same(*[MADE[name](library) for library in LIBRARIES])


@pytest.mark.parametrize(
    "make",
    [
        lambda m: coo(m),
        lambda m: hybrid(m),
        lambda m: m.sparse_coo_tensor(size=(2, 3)),
        lambda m: coo(m).to_sparse_csr(),
        lambda m: coo(m).to_sparse_csc(),
        lambda m: coo(m).double(),
        lambda m: m.sparse_coo_tensor(m.tensor(INDICES), m.tensor(VALUES), (4, 3), requires_grad=True),
    ],
)
def test_prints_as_torch_s(make):
    ours, theirs = re.sub(r"\s+", " ", repr(make(fastdl))), re.sub(r"\s+", " ", repr(make(torch)))
    assert ours == theirs.replace("torch.", "fastdl.")


@pytest.mark.parametrize("n", [3, 15, 40])
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
def test_breaks_lines_where_torch_does(n, layout):
    ours, theirs = [repr(getattr(m.arange(1.0, n)[None], layout)()) for m in LIBRARIES]
    assert ours == theirs.replace("torch.", "fastdl.")


ERRORS = {
    "out of range": lambda m: m.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (1,), check_invariants=True),
    "negative": lambda m: m.sparse_coo_tensor([[0, -1]], [1.0, 2.0], (3,), check_invariants=True),
    "counts": lambda m: m.sparse_coo_tensor([[0, 1]], [1.0, 2.0, 3.0], (3,)),
    "axes": lambda m: m.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (3, 3)),
    "values' size": lambda m: m.sparse_coo_tensor(m.tensor(INDICES), m.ones(5, 2), (4, 3, 5)),
    "indices": lambda m: coo(m).indices(),
    "values": lambda m: coo(m).values(),
    "dense indices": lambda m: m.ones(2).indices(),
    "dense coalesce": lambda m: m.ones(2).coalesce(),
    "dense is_coalesced": lambda m: m.ones(2).is_coalesced(),
    "dense values": lambda m: m.ones(2).values(),
    "crow_indices": lambda m: coo(m).crow_indices(),
    "csr indices": lambda m: coo(m).to_sparse_csr().indices(),
    "plus a number": lambda m: coo(m) + 1,
    "plus dense": lambda m: coo(m) + dense(m),
    "a number minus": lambda m: 1 - coo(m),
    "divided by dense": lambda m: coo(m) / dense(m),
    "pow 0": lambda m: coo(m) ** 0,
    "shapes of a sum": lambda m: coo(m) + m.sparse_coo_tensor(size=(3, 4)),
    "cat with dense": lambda m: m.cat([coo(m), dense(m)]),
    "numpy": lambda m: coo(m).numpy(),
    "csr ends": lambda m: m.sparse_csr_tensor([0, 1, 3], [0, 1], [1.0, 2.0], (2, 3), check_invariants=True),
    "csr begins": lambda m: m.sparse_csr_tensor([1, 1, 2], [0, 1], [1.0, 2.0], (2, 3), check_invariants=True),
    "csr range": lambda m: m.sparse_csr_tensor([0, 1, 2], [0, 5], [1.0, 2.0], (2, 3), check_invariants=True),
    "csr rows": lambda m: m.sparse_csr_tensor([0, 1, 2], [0, 1], [1.0, 2.0], (5, 3), check_invariants=True),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_torch_s(name):
    with pytest.raises((RuntimeError, TypeError)) as theirs:
        ERRORS[name](torch)
    with pytest.raises(type(theirs.value)) as ours:
        ERRORS[name](fastdl)
    assert str(ours.value) == str(theirs.value)


def test_copies_and_pickles():
    for x in (coo(fastdl), hybrid(fastdl), coo(fastdl).to_sparse_csr(), coo(fastdl).to_sparse_csc()):
        for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
            assert type(y) is SparseTensor
            assert y.layout is x.layout
            assert y._nnz() == x._nnz()
            np.testing.assert_array_equal(y.to_dense().numpy(), x.to_dense().numpy())
    leaf = fastdl.sparse_coo_tensor([[0]], [1.0], (2,), requires_grad=True)
    assert copy.deepcopy(leaf).requires_grad


def test_classes_and_layouts():
    x = coo(fastdl)
    assert isinstance(x, fastdl.Tensor)
    assert isinstance(x, fastdl.sparse.FloatTensor)
    assert not isinstance(x, fastdl.sparse.DoubleTensor)
    assert not isinstance(x.to_dense(), fastdl.sparse.FloatTensor)
    assert fastdl.ones(2).layout is fastdl.strided
    assert x.layout is fastdl.sparse_coo
    assert x.to_sparse_csr().layout is fastdl.sparse_csr
    assert not fastdl.ones(2).is_sparse
    assert not fastdl.ones(2).is_sparse_csr
    assert fastdl.is_tensor(x)
    assert fastdl.ones(2, 2).sparse_dim() == 0
    assert fastdl.ones(2, 2).dense_dim() == 2
    dense_one = fastdl.ones(2)
    assert dense_one.to_dense() is dense_one
    assert x.to_sparse() is x
    c = x.coalesce()
    assert c.coalesce() is c


def test_comparisons_for_tests_and_formats():
    x = coo(fastdl)
    fastdl.testing.assert_close(x, x.coalesce())
    for other in (2 * x, x.to_dense(), x.to_sparse_csr(), x[:, 0], fastdl.zeros_like(x)):
        with pytest.raises(AssertionError):
            fastdl.testing.assert_close(x, other)
    assert f"{x}" == repr(x)
    assert bool(fastdl.sparse_coo_tensor([[0]], [1.0]))
    assert not bool(fastdl.sparse_coo_tensor(size=(1,)))
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(x)


EMPTY = {
    "mm": lambda m, x, y: x @ m.ones(3, 2),
    "mm sparse": lambda m, x, y: x @ y.t(),
    "plus": lambda m, x, y: x + y,
    "times": lambda m, x, y: x * y,
    "times dense": lambda m, x, y: x * m.ones(4, 3),
    "softmax": lambda m, x, y: m.sparse.softmax(x, 1),
    "sum": lambda m, x, y: m.sparse.sum(x, 1),
    "coalesce": lambda m, x, y: x.coalesce(),
    "csr": lambda m, x, y: x.to_sparse_csr(),
    "index_select": lambda m, x, y: x.index_select(0, m.tensor([1])),
    "row": lambda m, x, y: x[0],
    "cat": lambda m, x, y: m.cat([x, y]),
    "abs": lambda m, x, y: x.abs(),
    "mask": lambda m, x, y: m.ones(4, 3).sparse_mask(x.coalesce()),
    "of sparse": lambda m, x, y: x.coalesce().sparse_mask(y.coalesce()),
    "to_sparse": lambda m, x, y: m.zeros(4, 3).to_sparse(),
}


@pytest.mark.parametrize("name", EMPTY)
def test_tensors_without_entries_are_torch_s(name):
    same(*[EMPTY[name](m, m.sparse_coo_tensor(size=(4, 3)), coo(m)) for m in LIBRARIES])


def test_values_share_memory_and_indices_are_read_only():
    values = fastdl.tensor(VALUES)
    x = fastdl.sparse_coo_tensor(fastdl.tensor(INDICES), values, (4, 3))
    values[0] = 7
    assert x._values()[0] == 7
    x._values().mul_(2)
    assert values[0] == 14
    with pytest.raises(RuntimeError):
        x._indices()[0] = 1
    indices = fastdl.tensor(INDICES)
    x = fastdl.sparse_coo_tensor(indices, values, (4, 3))
    x @ fastdl.ones(3, 1)
    indices[0] = 0  # the tensor has its own
    np.testing.assert_array_equal(x._indices().numpy(), INDICES)


def test_places_beyond_64_bits():
    x = fastdl.sparse_coo_tensor([[1 << 40, 0], [1 << 40, 1]], [1.0, 2.0], (1 << 41, 1 << 41))
    with pytest.raises(OverflowError, match="64 bits"):
        x.coalesce()

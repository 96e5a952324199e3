"""Gradients of operations on sparse tensors: beside PyTorch's, by differences, and twice."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*deprecated")
LIBRARIES = (fastdl, torch)
INDICES = np.array([[0, 1, 1, 0, 3], [2, 0, 2, 2, 1]])
VALUES = np.array([0.3, 0.4, -0.5, 0.1, 0.2])
DENSE = np.random.default_rng(0).standard_normal((4, 3))
WEIGHT = np.random.default_rng(1).standard_normal((4, 3))

CASES = {
    "mm": lambda m, x, y: m.sparse.mm(x, y.t()),
    "@": lambda m, x, y: x @ y.t(),
    "vector": lambda m, x, y: x @ y[0],
    "dense @": lambda m, x, y: y.t() @ x,
    "addmm": lambda m, x, y: m.sparse.addmm(m.ones(4, 4, dtype=m.float64), x, y.t(), beta=2, alpha=3),
    "to_dense": lambda m, x, y: x.to_dense() * y,
    "coalesced values": lambda m, x, y: x.coalesce().values() * y[0, 0],
    "times dense": lambda m, x, y: m.sparse.sum(x * y.detach()),
    "times": lambda m, x, y: (x * 3).to_dense() * y,
    "plus": lambda m, x, y: (x + 2 * x).to_dense() * y,
    "dense plus": lambda m, x, y: (y + x) * y,
    "abs": lambda m, x, y: x.abs().to_dense() * y,
    "pow": lambda m, x, y: (x**2).to_dense() * y,
    "sum": lambda m, x, y: m.sparse.sum(x) * y,
    "sum 1": lambda m, x, y: m.sparse.sum(x, 1).to_dense() * y[:, 0],
    "softmax": lambda m, x, y: m.sparse.softmax(x, 1).to_dense() * y,
    "log_softmax": lambda m, x, y: m.sparse.log_softmax(x, 0).to_dense() * y,
    "sparse @ sparse": lambda m, x, y: m.sparse.mm(x, x.t()).to_dense() @ y,
    "to_sparse": lambda m, x, y: m.sparse.mm(y.to_sparse(), y.t().detach()),
    "csr @": lambda m, x, y: x.to_sparse_csr() @ y.t(),
    "t": lambda m, x, y: m.sparse.mm(x.t(), y),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_torch_s(name):
    """Through ``sparse_coo_tensor(indices, values)`` to the values, and to what is dense."""
    found = []
    for m in LIBRARIES:
        values = m.tensor(VALUES, requires_grad=True)
        y = m.tensor(DENSE, requires_grad=True)
        x = m.sparse_coo_tensor(m.tensor(INDICES), values, (4, 3))
        result = CASES[name](m, x, y)
        weight = m.linspace(0.5, 1.5, result.numel(), dtype=m.float64).reshape(result.shape)
        (result * weight).sum().backward()
        found.append((result, values.grad, y.grad))
    for ours, theirs in zip(*found, strict=True):
        if theirs is None:
            assert ours is None
        elif ours is None:  # PyTorch gives zeros to values that a product of the dense operand alone has
            assert not theirs.any()
        else:
            np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=1e-12)


def test_what_is_detached_may_require_a_gradient_of_its_own():
    x = fastdl.sparse_coo_tensor(INDICES, VALUES, (4, 3)).coalesce()
    for make in (lambda: x.detach(), lambda: x.data):
        y = make().requires_grad_()
        assert (x.requires_grad, y.requires_grad) == (False, True)
    assert fastdl.equal(x.to_dense(), y.to_dense().detach())


def test_a_leaf_has_a_sparse_gradient():
    found = []
    for m in LIBRARIES:
        x = m.sparse_coo_tensor(m.tensor(INDICES), m.tensor(VALUES), (4, 3), requires_grad=True)
        assert x.is_leaf
        m.sparse.mm(x, m.tensor(DENSE).t()).sum().backward()
        assert x.grad.layout is m.sparse_coo
        found.append(x.grad.coalesce())
        x.grad = None
        assert x.grad is None
    np.testing.assert_array_equal(found[0].indices().numpy(), found[1].indices().numpy())
    np.testing.assert_allclose(found[0].values().numpy(), found[1].values().numpy())
    x = fastdl.sparse_csr_tensor([0, 1, 2], [1, 0], [2.0, 3.0]).requires_grad_()
    (x @ fastdl.tensor([1.0, 10.0])).sum().backward()
    assert x.grad.layout is fastdl.sparse_csr
    assert x.grad.values().tolist() == [10.0, 1.0]


DIFFERENTIABLE = {
    "mm": lambda x, y: fastdl.sparse.mm(x, y),
    "dense @": lambda x, y: y.t() @ x.t(),
    "sparse @ sparse": lambda x, y: (x @ x.t()).to_dense(),
    "softmax": lambda x, y: fastdl.sparse.softmax(x, 1).to_dense(),
    "softmax 0": lambda x, y: fastdl.sparse.log_softmax(x, 0).to_dense(),
    "sampled": lambda x, y: fastdl.sparse.sampled_addmm(
        x, fastdl.ones(4, 2).double() * y[0, 0], y.t()
    ).to_dense(),
    "times sparse": lambda x, y: (x * (2 * x)).to_dense(),
    "times dense": lambda x, y: (x * y[:, 0]).to_dense(),
    "index_select": lambda x, y: x.index_select(0, fastdl.tensor([1, 1, 0])).to_dense(),
    "sum": lambda x, y: x.sum(0).to_dense(),
    "cat": lambda x, y: fastdl.cat([x, 2 * x], 1).to_dense(),
    "select": lambda x, y: x[1].to_dense(),
    "csr": lambda x, y: x.to_sparse_csr() @ y,
    "sparse_mask": lambda x, y: (y @ y.t()).sparse_mask(fastdl.eye(3).to_sparse()).to_dense(),
    "bmm": lambda x, y: fastdl.bmm(fastdl.stack([x, x]), fastdl.stack([y, 2 * y])),
    "reduced": lambda x, y: fastdl.sparse.mm(x.coalesce(), y, "amax"),
    "linear": lambda x, y: fastdl.nn.functional.linear(x, y.t(), y[0]),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_by_differences(name):
    def function(values, y):
        return DIFFERENTIABLE[name](fastdl.sparse_coo_tensor(INDICES, values, (4, 3)), y)

    values = fastdl.tensor(VALUES, requires_grad=True)
    y = fastdl.tensor(DENSE[:3, :2].copy(), requires_grad=True)
    assert fastdl.autograd.gradcheck(function, (values, y))
    if name != "reduced":
        assert fastdl.autograd.gradgradcheck(function, (values, y))


def test_large_patterns_give_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    places = np.minimum(rng.geometric(0.001, (2, 50_000)), 3000) - 1  # rows of very different lengths
    values, y = rng.standard_normal(50_000), rng.standard_normal((3000, 33))
    before, found = fastdl.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            fastdl.set_num_threads(threads)
            v, d = fastdl.tensor(values, requires_grad=True), fastdl.tensor(y, requires_grad=True)
            (fastdl.sparse_coo_tensor(places, v, (3000, 3000)) @ d).square().sum().backward()
            found.append((v.grad.numpy(), d.grad.numpy()))
    finally:
        fastdl.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_attention_of_pygat_s_kind():
    """A Function that keeps a sparse tensor for its backward."""
    found = []
    for m in LIBRARIES:

        class Product(m.autograd.Function):
            @staticmethod
            def forward(ctx, indices, values, shape, dense):
                matrix = m.sparse_coo_tensor(indices, values, shape)
                ctx.save_for_backward(matrix, dense)
                return m.matmul(matrix, dense)

            @staticmethod
            def backward(ctx, grad):
                matrix, dense = ctx.saved_tensors
                whole, places = grad.matmul(dense.t()), matrix._indices()
                to_values = whole.reshape(-1)[places[0] * matrix.shape[1] + places[1]]
                return None, to_values, None, matrix.t().matmul(grad)

        values, y = m.tensor(VALUES, requires_grad=True), m.tensor(DENSE[:3].copy(), requires_grad=True)
        Product.apply(m.tensor(INDICES), values, (4, 3), y).pow(2).sum().backward()
        found.append((values.grad.numpy(), y.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b)


def test_autograd_grad_takes_the_values_in_a_sparse_tensor_s_place():
    x = fastdl.sparse_coo_tensor(INDICES, VALUES, (4, 3), requires_grad=True)
    (grad,) = fastdl.autograd.grad((x @ fastdl.tensor(DENSE.T.copy())).sum(), x)
    np.testing.assert_allclose(grad.numpy(), DENSE.sum(0)[INDICES[1]])
    with pytest.raises(NotImplementedError, match="to_dense"):
        (x * 2).backward(x)


def test_functions_get_no_sparse_tensor_with_history():
    class Product(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, matrix, dense):
            return matrix @ dense

    x = fastdl.sparse_coo_tensor(INDICES, VALUES, (4, 3), requires_grad=True)
    with pytest.raises(NotImplementedError, match="values it could take"):
        Product.apply(x, fastdl.tensor(DENSE.T.copy()))
    assert Product.apply(x.detach(), fastdl.tensor(DENSE.T.copy())).shape == (4, 4)


def test_anomaly_mode_looks_at_sparse_gradients():
    table = fastdl.nn.Embedding(3, 2, sparse=True)
    with fastdl.autograd.set_detect_anomaly(True):
        table(fastdl.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="nan"):
            (table(fastdl.tensor([1])) * float("nan")).sum().backward()

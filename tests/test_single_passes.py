"""Operations that were composed of several and are one node now: values and gradients beside what they are made of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastdl
from parity import check_gradient

rng = np.random.default_rng(0)


def real(*shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (1, 4), (3, 1), ()])
@pytest.mark.parametrize("alpha", [1, 0.5])
def test_addr(shape, alpha):
    x, u, v = real(*shape), real(3), real(4)
    y = fastdl.addr(fastdl.tensor(x), fastdl.tensor(u), fastdl.tensor(v), alpha=alpha)
    np.testing.assert_allclose(y.numpy(), x + alpha * np.outer(u, v), 1e-12)
    check_gradient(lambda *t: fastdl.addr(*t, alpha=alpha), x, u, v)
    tensors = [fastdl.tensor(t, requires_grad=True) for t in (x, u, v)]
    assert fastdl.autograd.gradgradcheck(lambda *t: fastdl.addr(*t, alpha=alpha), tensors)


@pytest.mark.parametrize("limit", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("dim", [0, 1])
def test_renorm(limit, dim):
    x = real(3, 4)
    x[1] = 0
    lengths = np.sqrt((x * x).sum(1 - dim, keepdims=True))
    with np.errstate(all="ignore"):
        want = x * np.where(lengths > limit, limit / (lengths + 1e-7), 1)
    np.testing.assert_allclose(fastdl.renorm(fastdl.tensor(x), 2, dim, limit).numpy(), want, 1e-12)
    x = real(3, 4)
    check_gradient(lambda t: fastdl.renorm(t, 2, dim, limit), x)
    assert fastdl.autograd.gradgradcheck(
        lambda t: fastdl.renorm(t, 2, dim, limit), fastdl.tensor(x, requires_grad=True)
    )


@pytest.mark.parametrize("decimals", [1, 3, -1])
def test_round_to_decimals(decimals):
    x = real(50).astype(np.float32) * 30
    t = fastdl.tensor(x, requires_grad=True)
    y = fastdl.round(t, decimals=decimals)
    scale = np.float32(10.0 ** abs(decimals))
    want = np.round(x * scale) / scale if decimals > 0 else np.round(x / scale) * scale
    assert (y.detach().numpy() == want).all()
    y.sum().backward()
    assert not t.grad.any()


def test_logit_with_a_limit():
    x = fastdl.tensor(
        [0.0, 0.05, 0.1, 0.5, 0.9, 1.0, -1.0, float("nan")], dtype=fastdl.float64, requires_grad=True
    )
    y = fastdl.logit(x, 0.1)
    np.testing.assert_allclose(y.detach()[:3].numpy(), np.log(1 / 9), 1e-12)
    (g,) = fastdl.autograd.grad(y, x, fastdl.ones_like(y))
    np.testing.assert_allclose(g.numpy(), [0, 0, 1 / 0.09, 4, 1 / 0.09, 0, 0, np.nan], 1e-12)
    y = fastdl.logit(x)
    (g,) = fastdl.autograd.grad(y, x, fastdl.ones_like(y))
    np.testing.assert_allclose(g.numpy()[[0, 3, 5, 6, 7]], [np.inf, 4, np.inf, np.nan, np.nan])


def test_the_angle_of_real_numbers():
    x = fastdl.tensor([0.0, -0.0, 2.0, -2.0, float("inf"), -float("inf"), float("nan")], requires_grad=True)
    y = fastdl.angle(x)
    pi = np.float32(np.pi)
    np.testing.assert_array_equal(y.detach().numpy(), np.array([0, 0, 0, pi, 0, pi, np.nan], np.float32))
    y.sum().backward()
    assert not x.grad.any()
    assert fastdl.angle(fastdl.tensor([-1, 0])).tolist() == [pi, 0.0]
    assert fastdl.angle(fastdl.tensor([-1.0]).bfloat16()).dtype == fastdl.bfloat16


@pytest.mark.parametrize(("n", "r"), list(itertools.product((0, 1, 4, 6), (0, 1, 2, 3))))
@pytest.mark.parametrize("again", [False, True])
def test_combinations_are_itertools(n, r, again):
    choose = itertools.combinations_with_replacement if again else itertools.combinations
    want = list(choose(range(n), r)) if r else []
    assert [tuple(row) for row in fastdl.combinations(fastdl.arange(n), r, again).tolist()] == want


@pytest.mark.parametrize("zeros", [0, 1, 2])
@pytest.mark.parametrize("dim", [None, 0, 1])
def test_gradients_of_products_with_zeros_and_nan(zeros, dim):
    x = real(3, 4)
    x.reshape(-1)[:zeros] = 0

    def product(t):
        return t.prod() if dim is None else t.prod(dim)

    check_gradient(product, x)
    z = fastdl.tensor(x + 1j * x[::-1], requires_grad=True)
    assert fastdl.autograd.gradcheck(product, z)
    x[2, 3] = np.nan
    t = fastdl.tensor(x, requires_grad=True)
    product(t).sum().backward()
    assert fastdl.isnan(t.grad).any()
    if zeros and dim is None:  # the product of all others
        assert t.grad[2, 3] == 0


def test_numbers_beside_conditions():
    c, x = fastdl.tensor([True, False]), fastdl.tensor([1.0, 2.0])
    assert fastdl.where(c, x, 0).tolist() == [1.0, 0.0]
    assert fastdl.where(c, 7, x).tolist() == [7.0, 2.0]
    assert fastdl.where(c, x.half(), 0.1).dtype == fastdl.float16
    assert fastdl.where(c, fastdl.tensor([1, 2]), 0.5).tolist() == [1.0, 0.5]
    assert fastdl.where(c, x[:1], 3.0).tolist() == [1.0, 3.0]


def test_filled_tensors_of_every_spelling():
    x = fastdl.ones(2, dtype=fastdl.int32)
    assert x.new_zeros(2, 3).shape == x.new_zeros((2, 3)).shape == x.new_zeros([2, 3]).shape == (2, 3)
    assert x.new_zeros(2).dtype == fastdl.int32
    assert x.new_zeros(2, dtype=fastdl.float64).dtype == fastdl.float64
    assert fastdl.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert fastdl.eye(3, 2).tolist() == [
        [1, 0],
        [0, 1],
        [0, 0],
    ]
    assert fastdl.eye(0).shape == (0, 0)
    assert fastdl.eye(2, requires_grad=True).requires_grad
    with pytest.raises(RuntimeError, match="negative"):
        x.new_zeros(-1)
    with pytest.raises(RuntimeError, match="require"):
        fastdl.eye(2, dtype=fastdl.int64, requires_grad=True)


@pytest.mark.parametrize(
    "shapes", [((30, 20), (40, 20)), ((3, 30, 20), (40, 20)), ((2, 1, 9, 20), (3, 26, 20))]
)
def test_euclidean_distances_by_a_product(shapes):
    x, y = real(*shapes[0]), real(*shapes[1])
    want = np.sqrt(((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1))
    got = fastdl.cdist(fastdl.tensor(x), fastdl.tensor(y))
    np.testing.assert_allclose(got.numpy(), want, 1e-10)
    check_gradient(fastdl.cdist, x, y)
    half = fastdl.cdist(fastdl.tensor(x).half(), fastdl.tensor(y).half())
    assert half.dtype == fastdl.float16
    np.testing.assert_allclose(half.float().numpy(), want, 1e-2)


def test_nan_stays_in_its_row_of_distances():
    x, y = real(30, 20), real(26, 20)
    y[4, 5], y[7, 5] = np.nan, np.inf
    t = fastdl.tensor(x, requires_grad=True)
    distance = fastdl.cdist(t, fastdl.tensor(y))
    assert (~fastdl.isfinite(distance.detach())).any(0).nonzero().reshape(-1).tolist() == [4, 7]
    fastdl.cdist(t, t).sum().backward()  # 0 on the diagonal
    assert fastdl.isfinite(t.grad).all()


@pytest.mark.parametrize("create_graph", [False, True])
def test_slopes_of_logit_outside_of_its_domain(create_graph):
    x = fastdl.tensor([-0.5, 0.25, 1.5], requires_grad=True)
    for eps in (None, -2.0):
        (slope,) = fastdl.autograd.grad(fastdl.logit(x, eps).sum(), x, create_graph=create_graph)
        np.testing.assert_allclose(slope.detach().numpy(), [np.nan, 16 / 3, np.nan], 1e-6)


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64, fastdl.float16, fastdl.bfloat16])
def test_the_next_number_after_its_own_goal_does_not_move(dtype):
    x = fastdl.tensor([[1.0], [2.0]], dtype=dtype, requires_grad=True)
    y = fastdl.tensor([0.0, 1.0, 3.0], dtype=dtype, requires_grad=True)
    for create_graph in (False, True):
        slopes = fastdl.autograd.grad(fastdl.nextafter(x, y).sum(), (x, y), create_graph=create_graph)
        assert [slope.tolist() for slope in slopes] == [[[2], [3]], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [fastdl.float16, fastdl.bfloat16, fastdl.float32])
def test_complex_numbers_stored_in_real_tensors(dtype):
    x = fastdl.zeros(2, dtype=dtype)
    x[0] = 2 + 0j
    assert x.tolist() == [2, 0]
    with pytest.raises(RuntimeError):
        x[1] = 2j


@pytest.mark.parametrize("dtype", [fastdl.float16, fastdl.bfloat16, fastdl.float32, fastdl.float64])
@pytest.mark.parametrize("target", [fastdl.float16, fastdl.float32, fastdl.float64, fastdl.int64])
def test_cosine_embedding_loss_beside_targets_of_another_dtype(dtype, target):
    x = fastdl.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=dtype, requires_grad=True)
    y = fastdl.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=dtype)
    loss = fastdl.nn.functional.cosine_embedding_loss(x, y, fastdl.tensor([1, -1]).to(target))
    assert loss.dtype is dtype
    assert abs(loss.item() - 1) < 1e-6
    loss.backward()
    assert x.grad.dtype is dtype
    np.testing.assert_allclose(x.grad.float().numpy(), [[0, -0.5], [0, 0]], atol=1e-6)

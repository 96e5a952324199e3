"""einsum: NumPy's values, gradients, PyTorch, broadcasting, sublists, promotion."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.ops.arrays import contiguous
from fastdl.ops.einsum import einsum
from parity import assert_close, check_gradient
from test_linear import compare, normal, tensor

EQUATIONS = [
    "ij,jk->ik",
    "ij,jk",
    "ba",
    "bij,bjk->bik",
    "ij->ji",
    "ij->",
    "ij->i",
    "i->i",
    "i,j->ij",
    "bi,bi->b",
    "ijk,kl->ijl",
    "ij,ij->",
    "ij,ij->ij",
    "ij,i->ij",
    "ii->i",
    "ii->",
    "iij->j",
    "ij,jk,kl->il",
    "ijk,jil->kl",
    "bij,bkj->bik",
    "i,i",
    "iij,jk->ik",
    "ij,k->i",
    "bi,ikj,bj->bk",
    " i j , j k -> i k ",
]
LENGTHS = {"a": 4, "b": 2, "i": 3, "j": 4, "k": 5, "l": 6}


def operands(equation):
    rng = np.random.default_rng(len(equation))
    return [
        rng.standard_normal([LENGTHS[c] for c in term.strip().replace(" ", "")])
        for term in equation.split("->")[0].split(",")
    ]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_matches_numpy_and_differentiates(equation):
    arrays = operands(equation)
    want = np.einsum(equation.replace(" ", ""), *arrays)
    assert_close(einsum(equation, *map(tensor, arrays)), want, reduction=64)
    assert_close(einsum(equation, [*map(tensor, arrays)]), want, reduction=64)
    check_gradient(lambda *t: einsum(equation, *t), *arrays)


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
        ("...ij,jk", (2, 1, 3, 4), (4, 2)),
        ("ij,ij->i", (3, 1), (3, 4)),
        ("ij,ij->ij", (3, 1), (1, 4)),
        ("i...,i...->...", (3, 2), (3, 1)),
        ("ij,jk->ik", (0, 3), (3, 2)),
        ("ij,jk->ik", (2, 0), (0, 2)),
    ],
)
def test_einsum_broadcasts(equation, a, b):
    x, y = normal(*a), normal(*b)
    assert_close(einsum(equation, tensor(x), tensor(y)), np.einsum(equation, x, y), reduction=16)
    check_gradient(lambda s, t: einsum(equation, s, t), x, y)


def test_einsum_of_numbers_and_of_integers():
    """Operands that are summed over wholly become numbers on the way; a sum of integers is an int64, as sum()'s."""
    x, y = normal(3, 3), normal(3)
    check_gradient(lambda a, b: einsum("ij,k->", a, b), x, y)
    check_gradient(lambda a, b: einsum("i,->", a, b), y, normal())
    total = einsum("i->", fastdl.full((3,), 100, dtype=fastdl.uint8))
    assert total.dtype == fastdl.int64
    assert total.item() == 300


def test_einsum_with_sublists():
    a, b = normal(3, 4), normal(4, 5)
    assert_close(einsum(tensor(a), [0, 1], tensor(b), [1, 2], [2, 0]), (a @ b).T, reduction=4)
    assert_close(einsum(tensor(a), [..., 1], tensor(b), [1, 2]), a @ b, reduction=4)


def test_einsum_that_only_exchanges_axes_is_a_view():
    x = tensor(normal(3, 4))
    for equation in ("ij->ij", "ij->ji"):
        y = einsum(equation, x)  # as PyTorch has it: what is written there shows here
        y[0, 0] = 7.0
        assert x[0, 0].item() == 7.0
    assert not np.shares_memory(x.numpy(), einsum("ij->i", x[:, :1]).numpy())


def test_einsum_promotes_where_nothing_is_added_up():
    numbers, rates = fastdl.arange(3), fastdl.tensor([0.5, 2.0], requires_grad=True)
    angles = fastdl.einsum("i,j->ij", numbers, rates)
    assert angles.tolist() == [[0.0, 0.0], [0.5, 2.0], [1.0, 4.0]]
    angles.sum().backward()
    assert rates.grad.tolist() == [3.0, 3.0]
    with pytest.raises(RuntimeError, match="must have one dtype"):
        fastdl.einsum("ij,j->i", fastdl.ones(3, 2, dtype=fastdl.int64), rates)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_against_torch(equation):
    torch = pytest.importorskip("torch")
    compare(
        torch, lambda *t: einsum(equation, *t), lambda *t: torch.einsum(equation, *t), *operands(equation)
    )


def test_the_order_of_products():
    """A result with the axes of ``b a`` is made in that order; a matrix product goes before an outer one."""
    from fastdl.ops import einsum as module

    a, b = fastdl.randn(3, 6, 4), fastdl.randn(3, 2, 6)
    y = fastdl.einsum("bjd,bij->bid", a, b)
    assert y.is_contiguous()
    np.testing.assert_allclose(y.numpy(), b.numpy() @ a.numpy(), rtol=1e-5, atol=1e-6)
    made = []
    pair = module._pair

    def noted(*operands):
        result = pair(*operands)
        made.append("".join(result[1]))
        return result

    x, z, w = fastdl.randn(9, 4), fastdl.randn(9, 5), fastdl.randn(2, 4, 5)
    try:
        module._pair = noted
        y = fastdl.einsum("bi,bj,oij->bo", x, z, w)
    finally:
        module._pair = pair
    assert made == ["boj", "bo"]
    expected = np.einsum("bi,bj,oij->bo", x.numpy(), z.numpy(), w.numpy())
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("bckhw,ock->bohw", [(3, 8, 9, 7, 9), (4, 8, 9)]), ("bohw,bckhw->ock", [(3, 4, 9, 7), (3, 8, 9, 9, 7)])],
)
def test_what_a_product_needs_in_another_order_is_copied_by_the_kernels(equation, shapes, monkeypatch):
    copied = []

    def watched(array):
        copied.append(array.shape)
        return contiguous(array)

    monkeypatch.setattr("fastdl.ops.einsum.contiguous", watched)
    arrays = [normal(*shape) for shape in shapes]
    y = einsum(equation, *map(tensor, arrays))
    np.testing.assert_allclose(y.numpy(), np.einsum(equation, *arrays), rtol=1e-12, atol=1e-12)
    assert copied

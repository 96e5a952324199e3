"""LU decompositions, and factorisations that report instead of raising, beside torch."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.autograd import gradcheck, gradgradcheck

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)
SHAPES = [(4, 4), (2, 3, 5, 5), (5, 3), (3, 5), (1, 1), (2, 0, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pivot", [True, False])
def test_lu(shape, pivot):
    a = rng.standard_normal(shape)
    if pivot:
        theirs = torch.linalg.lu(torch.tensor(a))
        packed, pivots = fastdl.linalg.lu_factor(fastdl.tensor(a))
        expected = torch.linalg.lu_factor(torch.tensor(a))
        np.testing.assert_allclose(packed.numpy(), expected.LU.numpy(), atol=1e-11)
        np.testing.assert_array_equal(pivots.numpy(), expected.pivots.numpy())
        assert pivots.dtype == fastdl.int32
        for got, want in zip(fastdl.lu_unpack(packed, pivots), torch.lu_unpack(*expected), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-11)
        for got, want in zip(fastdl.linalg.lu(fastdl.tensor(a)), theirs, strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-11)
    P, L, U = fastdl.linalg.lu(fastdl.tensor(a), pivot=pivot)
    product = L @ U if not pivot else P @ L @ U
    np.testing.assert_allclose(product.numpy(), a, atol=1e-9)
    assert pivot or P.numel() == 0


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("adjoint", [True, False])
def test_lu_solve(left, adjoint):
    a, b = rng.standard_normal((2, 4, 4)), rng.standard_normal((2, 4, 4))
    got = fastdl.linalg.lu_solve(
        *fastdl.linalg.lu_factor(fastdl.tensor(a)), fastdl.tensor(b), left=left, adjoint=adjoint
    )
    theirs = torch.linalg.lu_solve(
        *torch.linalg.lu_factor(torch.tensor(a)), torch.tensor(b), left=left, adjoint=adjoint
    )
    np.testing.assert_allclose(got.numpy(), theirs.numpy(), rtol=1e-8, atol=1e-10)


def test_gradients():
    a = fastdl.tensor(rng.standard_normal((2, 3, 3)), requires_grad=True)
    b = fastdl.tensor(rng.standard_normal((2, 3, 2)), requires_grad=True)
    assert gradcheck(lambda a: fastdl.linalg.lu(a)[1:], (a,))
    assert gradcheck(lambda a, b: fastdl.linalg.lu_solve(*fastdl.linalg.lu_factor(a), b), (a, b))
    assert gradgradcheck(lambda a: fastdl.linalg.lu(a).U.sin(), (a,))


@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 3), (1, 4), (4, 1), (2, 3, 3)])
@pytest.mark.parametrize("complex_", [False, True])
def test_gradients_of_wide_and_tall_matrices(shape, complex_):
    x = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0)
    a = fastdl.tensor(x, requires_grad=True)
    assert gradcheck(lambda a: fastdl.linalg.lu(a)[1:], (a,))
    assert gradcheck(lambda a: fastdl.linalg.lu_factor(a).LU, (a,))
    assert gradgradcheck(lambda a: fastdl.linalg.lu(a).U.square(), (a,))
    ours, theirs = fastdl.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    for library, t in ((fastdl, ours), (torch, theirs)):
        _, lower, upper = library.linalg.lu(t)
        (lower.abs().square().sum() + upper.abs().square().sum()).backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-9, atol=1e-11)


def _spd(n):
    x = rng.standard_normal((n, n))
    return x @ x.T + np.eye(n)


def test_what_cannot_be_inverted_is_reported():
    a = np.stack([_spd(3), np.diag([1.0, 0.0, 2.0]), np.zeros((3, 3))])
    ours, theirs = fastdl.tensor(a), torch.tensor(a)
    inverse, info = fastdl.linalg.inv_ex(ours)
    assert info.tolist() == torch.linalg.inv_ex(theirs).info.tolist() == [0, 2, 1]
    np.testing.assert_allclose(inverse[0].numpy(), np.linalg.inv(a[0]))
    assert inverse[1:].isnan().all()
    b = rng.standard_normal((3, 3, 2))
    result, info = fastdl.linalg.solve_ex(ours, fastdl.tensor(b))
    assert info.tolist() == torch.linalg.solve_ex(theirs, torch.tensor(b)).info.tolist()
    np.testing.assert_allclose(result[0].numpy(), np.linalg.solve(a[0], b[0]))
    assert result[1:].isnan().all()
    assert fastdl.linalg.lu_factor_ex(ours).info.tolist() == torch.linalg.lu_factor_ex(theirs).info.tolist()
    for function in (fastdl.linalg.inv_ex, fastdl.linalg.lu_factor_ex):
        with pytest.raises(fastdl.linalg.LinAlgError, match=r"singular: pivot 2 of the matrix at \(1,\)"):
            function(ours, check_errors=True)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_which_minor_is_not_positive_definite(n):
    matrices = [_spd(n)]
    for k in range(n):
        broken = _spd(n)
        broken[k, k] = -1.0
        matrices.append(broken)
    ours, theirs = fastdl.tensor(np.stack(matrices)), torch.tensor(np.stack(matrices))
    for upper in (False, True):
        lower, info = fastdl.linalg.cholesky_ex(ours, upper=upper)
        expected = torch.linalg.cholesky_ex(theirs, upper=upper)
        assert info.tolist() == expected.info.tolist() == list(range(n + 1))
        np.testing.assert_allclose(lower.numpy(), expected.L.numpy(), atol=1e-12)  # as far as it goes
    with pytest.raises(
        fastdl.linalg.LinAlgError, match=r"not positive definite: leading minor 1 of the matrix at \(1,\)"
    ):
        fastdl.linalg.cholesky_ex(ours, check_errors=True)
    x = fastdl.tensor(matrices[0], requires_grad=True)
    fastdl.linalg.cholesky_ex(x).L.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("upper", [False, True])
def test_nan_is_not_positive_definite(upper):
    matrices = np.stack([np.eye(3)] * 3)
    matrices[0, 0, 0] = matrices[1, 2, 1] = matrices[2, 1, 2] = np.nan
    lower, info = fastdl.linalg.cholesky_ex(fastdl.tensor(matrices), upper=upper)
    expected = torch.linalg.cholesky_ex(torch.tensor(matrices), upper=upper)
    assert info.tolist() == expected.info.tolist()
    np.testing.assert_array_equal(lower.numpy(), expected.L.numpy())
    with pytest.raises(fastdl.linalg.LinAlgError, match="not positive definite"):
        fastdl.linalg.cholesky(fastdl.tensor(matrices), upper=upper)

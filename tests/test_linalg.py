"""Linear algebra beside torch: values, gradients, and what is empty, singular, transposed, a batch, complex."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.autograd import gradcheck, gradgradcheck

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)
FIELDS = ("float32", "float64", "complex64", "complex128")


def drawn(shape, dtype="float64"):
    x = np.asarray(rng.standard_normal(shape))
    return np.asarray(x + 1j * rng.standard_normal(shape) if "complex" in dtype else x).astype(dtype)


def compare(function, *arrays, transposed=False):
    """``function(library, *tensors)`` of both: results, and gradients of the sum of their squares."""
    if transposed:
        arrays = [np.ascontiguousarray(a.swapaxes(-1, -2)) for a in arrays]
    found = []
    for library, make in ((fastdl, fastdl.from_numpy), (torch, torch.from_numpy)):
        leaves = [make(a.copy()).requires_grad_() for a in arrays]
        result = function(library, *[t.mT if transposed else t for t in leaves])
        outputs = [result] if hasattr(result, "requires_grad") else list(result)
        loss = sum((t.abs() ** 2).sum() for t in outputs if t.requires_grad)
        loss.backward()
        found.append([t.detach().resolve_conj().numpy() for t in (*outputs, *[t.grad for t in leaves])])
    eps = np.finfo(arrays[0].dtype).eps
    for got, want in zip(*found, strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        np.testing.assert_allclose(
            got, want, rtol=3e4 * eps, atol=3e3 * eps * max(1, np.abs(want).max(initial=0))
        )


def regular(shape, dtype="float64"):
    return drawn(shape, dtype) + (2 * shape[-1] ** 0.5 * np.eye(shape[-1])).astype(dtype)


FUNCTIONS = {
    "inv": lambda lib, a: lib.linalg.inv(a),
    "inv_ex": lambda lib, a: lib.linalg.inv_ex(a).inverse,
    "solve": lambda lib, a: lib.linalg.solve(a, a.mT[..., :2]),
    "solve right": lambda lib, a: lib.linalg.solve(a, a.mT[..., :2, :], left=False),
    "solve_ex": lambda lib, a: lib.linalg.solve_ex(a, a.mT).result,
    "lu": lambda lib, a: lib.linalg.lu(a),
    "lu_unpack": lambda lib, a: lib.lu_unpack(*lib.linalg.lu_factor(a))[1:],
    "lu_solve": lambda lib, a: lib.linalg.lu_solve(*lib.linalg.lu_factor(a), a.mT),
    "lu_solve adjoint": lambda lib, a: lib.linalg.lu_solve(*lib.linalg.lu_factor(a), a.mT, adjoint=True),
    "lu_solve right": lambda lib, a: lib.linalg.lu_solve(*lib.linalg.lu_factor(a), a, left=False),
    "det": lambda lib, a: lib.linalg.det(a),
    "slogdet": lambda lib, a: lib.linalg.slogdet(a).logabsdet,
    "upper": lambda lib, a: lib.linalg.solve_triangular(a, a.mT, upper=True),
    "lower": lambda lib, a: lib.linalg.solve_triangular(a, a.mT[..., :1], upper=False),
    "upper right": lambda lib, a: lib.linalg.solve_triangular(a, a.mT[..., :2, :], upper=True, left=False),
    "lower unit": lambda lib, a: lib.linalg.solve_triangular(
        a / 9 + 0, a.mT, upper=False, unitriangular=True
    ),
    "cholesky": lambda lib, a: lib.linalg.cholesky(a @ a.mH),
    "cholesky_ex": lambda lib, a: lib.linalg.cholesky_ex(a @ a.mH, upper=True).L,
    "cholesky_solve": lambda lib, a: lib.cholesky_solve(a.mT, a.tril()),
    "cholesky_solve upper": lambda lib, a: lib.cholesky_solve(a.mT, a.triu(), upper=True),
    "cholesky_inverse": lambda lib, a: lib.cholesky_inverse(lib.linalg.cholesky(a @ a.mH)),
    "cholesky_inverse upper": lambda lib, a: lib.cholesky_inverse(
        lib.linalg.cholesky(a @ a.mH).mH, upper=True
    ),
    "householder": lambda lib, a: lib.linalg.householder_product(a / 9, a[..., 0, :] / 9),
    "householder of some": lambda lib, a: lib.linalg.householder_product(a / 9, a[..., 0, :-1] / 9),
    "pinv": lambda lib, a: lib.linalg.pinv(a),
    "pinv atol": lambda lib, a: lib.linalg.pinv(a, atol=1e-3, rtol=1e-4),
    "pinv hermitian": lambda lib, a: lib.linalg.pinv(a + a.mH, hermitian=True),
    "lstsq": lambda lib, a: lib.linalg.lstsq(a[..., :-1], a[..., -1:], driver="gelsd").solution,
    "svdvals": lambda lib, a: lib.linalg.svdvals(a),
    "eigvalsh": lambda lib, a: lib.linalg.eigvalsh(a + a.mH),
    "nuclear": lambda lib, a: lib.linalg.matrix_norm(a, "nuc", (-1, -2)),
    "spectral": lambda lib, a: lib.linalg.matrix_norm(a, 2, keepdim=True),
    "cond": lambda lib, a: lib.linalg.cond(a),
    "qr": lambda lib, a: [part.abs() for part in lib.linalg.qr(a)],
    "qr complete": lambda lib, a: [part.abs() for part in lib.linalg.qr(a[..., 1:, :], "complete")],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", FIELDS)
def test_like_torch(name, dtype):
    for shape in ((4, 4), (2, 3, 12, 12)):
        compare(FUNCTIONS[name], regular(shape, dtype))
    compare(FUNCTIONS[name], regular((3, 9, 9), dtype), transposed=True)


@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - {"cond", "spectral", "householder of some", "lstsq"})
)
@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 0)])
def test_of_nothing(name, shape):
    if shape == (2, 0, 0) and name in ("householder", "nuclear"):
        return  # indexing and norms of nothing
    got = FUNCTIONS[name](fastdl, fastdl.zeros(shape))
    want = FUNCTIONS[name](torch, torch.zeros(shape))
    one = hasattr(got, "shape")
    for g, w in zip([got] if one else got, [want] if one else want, strict=True):
        assert tuple(g.shape) == tuple(w.shape)


@pytest.mark.parametrize("dtype", FIELDS)
def test_sides_that_broadcast(dtype):
    for shape_a, shape_b in (((2, 1, 5, 5), (3, 5, 2)), ((5, 5), (4, 5, 2)), ((4, 5, 5), (5, 2))):
        a, b = regular(shape_a, dtype), drawn(shape_b, dtype)
        compare(lambda lib, a, b: lib.linalg.solve(a, b), a, b)
        compare(lambda lib, a, b: lib.linalg.solve_triangular(a, b, upper=True), a, b)
        compare(lambda lib, a, b: lib.linalg.lu_solve(*lib.linalg.lu_factor(a), b), a, b)
        compare(lambda lib, a, b: lib.linalg.lu_solve(*lib.linalg.lu_factor(a), b, adjoint=True), a, b)


@pytest.mark.filterwarnings("error")
def test_infinity_and_nan():
    """LAPACK's singular values never come to an end where a matrix holds infinity."""
    for bad in (np.inf, -np.inf, np.nan):
        x = regular((2, 4, 4), "float32")
        x[1, 2, 3] = bad
        a = fastdl.tensor(x)
        for name in "svd svdvals eig eigvals eigh eigvalsh pinv matrix_rank cond".split():
            with pytest.raises(fastdl.linalg.LinAlgError, match="must be finite"):
                getattr(fastdl.linalg, name)(a)
        with pytest.raises(fastdl.linalg.LinAlgError, match="lstsq: the matrix must be finite"):
            fastdl.linalg.lstsq(a, a)
        for of in (fastdl.linalg.det, lambda a: fastdl.linalg.slogdet(a)[1]):
            assert np.isfinite(of(a).numpy()).tolist() == [True, False]
        norm = fastdl.tensor([1.0, bad, 2.0], requires_grad=True)
        fastdl.linalg.norm(norm, float("inf")).backward()
        assert norm.grad[[0, 2]].nan_to_num().tolist() == [0, 0]


def test_qr_by_its_older_name():
    tall = fastdl.tensor(regular((5, 5), "float32")[:, :3])
    for some, mode in ((True, "reduced"), (False, "complete")):
        for older, newer in zip(tall.qr(some), fastdl.linalg.qr(tall, mode), strict=True):
            assert older.tolist() == newer.tolist()
    with pytest.raises(RuntimeError, match=r"'complete' of shape \(5, 3\)"):
        fastdl.qr(tall.requires_grad_(), some=False)


@pytest.mark.parametrize("dtype", FIELDS)
def test_products(dtype):
    compare(lambda lib, a, b: lib.linalg.cross(a, b), drawn((7, 3), dtype), drawn((7, 3), dtype))
    compare(lambda lib, a, b: lib.linalg.cross(a, b), drawn((1, 3), dtype), drawn((7, 3), dtype))
    compare(lambda lib, a, b: lib.cross(a, b, dim=1), drawn((4, 3, 6), dtype), drawn((4, 3, 6), dtype))
    compare(lambda lib, a, b: lib.block_diag(a, b), drawn((2, 3), dtype), drawn((4,), dtype))
    m, v = drawn((4, 6), dtype), drawn((6,), dtype)
    for shape in ((4,), (1,), ()):
        compare(lambda lib, c, m, v: lib.addmv(c, m, v), drawn(shape, dtype), m, v)
        compare(lambda lib, c, m, v: lib.addmv(c, m, v, beta=0.5, alpha=-2), drawn(shape, dtype), m, v)


def test_products_of_integers_and_of_several_dtypes():
    a, b = np.arange(6).reshape(2, 3), np.arange(6, 12).reshape(2, 3)
    got = fastdl.cross(fastdl.tensor(a), fastdl.tensor(b))
    assert got.tolist() == torch.cross(torch.tensor(a), torch.tensor(b), dim=-1).tolist()
    mixed = [np.ones((1, 2), np.float32), np.arange(3)]
    got = fastdl.block_diag(*map(fastdl.tensor, mixed))
    want = torch.block_diag(*map(torch.tensor, mixed))
    assert (str(got.dtype), got.tolist()) == (str(want.dtype).removeprefix("torch."), want.tolist())


@pytest.mark.parametrize("p", [4, -1, -2, -3, -4, 1.0, 3, 0.5, -1.5, 5])
@pytest.mark.parametrize("dtype", FIELDS[:2])
def test_norms_of_any_power(p, dtype):
    compare(lambda lib, x: lib.linalg.vector_norm(x, p), drawn((5, 7), dtype))
    compare(lambda lib, x: lib.linalg.vector_norm(x, p, dim=1), drawn((5, 7), dtype))
    zero = np.zeros(3, dtype)
    assert fastdl.linalg.vector_norm(fastdl.tensor(zero), p).item() == 0


def test_a_singular_matrix():
    a = np.stack([np.diag([1.0, 0.0, 2.0]), np.eye(3), [[1.0, 2, 3], [2, 4, 6], [1, 0, 0]]])
    for function in (fastdl.linalg.inv, lambda x: fastdl.linalg.solve(x, x)):
        with pytest.raises(
            fastdl.linalg.LinAlgError, match=r"shape \(3, 3, 3\) holds a matrix that is singular"
        ):
            function(fastdl.tensor(a))
    assert fastdl.linalg.inv_ex(fastdl.tensor(a)).info.tolist() == [2, 0, 3]
    compare(lambda lib, x: lib.linalg.det(x), a)
    for p in (1, -1, np.inf, "fro"):
        want = torch.linalg.cond(torch.tensor(a), p)
        np.testing.assert_allclose(fastdl.linalg.cond(fastdl.tensor(a), p).numpy(), want.numpy())
    triangle = np.array([[1.0, 0.0], [3.0, 0.0]])
    got = fastdl.linalg.solve_triangular(
        fastdl.tensor(triangle), fastdl.ones(2, 1, dtype=fastdl.float64), upper=False
    )
    want = torch.linalg.solve_triangular(
        torch.tensor(triangle), torch.ones(2, 1, dtype=torch.float64), upper=False
    )
    np.testing.assert_array_equal(got.numpy(), want.numpy())
    with pytest.raises(fastdl.linalg.LinAlgError, match=r"cholesky_inverse: .* 0 on its diagonal"):
        fastdl.cholesky_inverse(fastdl.tensor(triangle))


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.linalg.cholesky(-lib.eye(2)),
        lambda lib: lib.linalg.inv(lib.zeros(2, 2)),
        lambda lib: lib.linalg.solve(lib.zeros(2, 2), lib.ones(2)),
        lambda lib: lib.full((3, 2), float("nan")).svd(),
        lambda lib: lib.linalg.svdvals(lib.full((3, 2), float("nan"))),
    ],
)
def test_a_failure_is_a_runtime_error_as_loops_that_add_jitter_expect(call):
    for lib in (torch, fastdl):
        with pytest.raises(RuntimeError) as caught:
            call(lib)
        assert isinstance(caught.value, lib.linalg.LinAlgError)
    assert isinstance(caught.value, np.linalg.LinAlgError)


def test_what_does_not_fit_is_refused():
    a = fastdl.eye(3)
    factors = fastdl.linalg.lu_factor(a)
    for call, op in (
        (lambda b: fastdl.linalg.solve_triangular(a, b, upper=True), "solve_triangular"),
        (lambda b: fastdl.linalg.lu_solve(*factors, b), "lu_solve"),
        (lambda b: fastdl.linalg.solve_ex(a, b), "solve_ex"),
    ):
        with pytest.raises(RuntimeError, match=f"{op}: .* fit B of shape"):
            call(fastdl.ones(2, 1))
        with pytest.raises(RuntimeError, match=f"{op}: .* must have one dtype"):
            call(fastdl.ones(3, 1, dtype=fastdl.float64))
    with pytest.raises(RuntimeError, match=r"cross: shapes .* do not broadcast"):
        fastdl.linalg.cross(fastdl.ones(2, 3), fastdl.ones(4, 3))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_second_derivatives(dtype):
    def given(*shape):
        return fastdl.from_numpy(
            regular(shape, dtype) if shape[-1] == shape[-2] else drawn(shape, dtype)
        ).requires_grad_()

    a, b = given(2, 3, 3), given(3, 2)
    lin = fastdl.linalg
    for function in (
        lambda a, b: lin.solve_triangular(a, b, upper=True),
        lambda a, b: lin.solve_triangular(a, b, upper=False, unitriangular=True),
        lambda a, b: lin.lu_solve(*lin.lu_factor(a), b),
        lambda a, b: lin.lu_solve(*lin.lu_factor(a), b, adjoint=True),
        lambda a, b: lin.solve_ex(a, b).result,
    ):
        assert gradcheck(function, (a, b))
        assert gradgradcheck(function, (a, b))
    for function in (
        lambda a: fastdl.lu_unpack(*lin.lu_factor(a))[1:],
        lambda a: lin.eigvalsh(a + a.mH),
        lambda a: lin.svdvals(a),
        lambda a: lin.cholesky(a @ a.mH),
        lambda a: fastdl.cholesky_inverse(a.tril()),
        lambda a: fastdl.cross(a, a.mT, dim=1),
        lambda a: fastdl.block_diag(a[0], a[1, 0]),
        lambda a: fastdl.addmv(a[0, 0], a[0], a[1, 0], beta=0.5, alpha=2),
        lambda a: lin.householder_product(a / 5, a[:, 0] / 5),
    ):
        assert gradcheck(function, (a,))
        assert gradgradcheck(function, (a,))
    assert gradcheck(lambda a: lin.eigvals(a), (a,))


# A square tells the inverse up to a condition of 1e5 of columns of one length; from there on singular values do.
@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (24, 24), (2, 3, 30, 20), (2, 17, 33)])
@pytest.mark.parametrize("condition", [1, 1e3, 1e7, np.inf])
@pytest.mark.parametrize("lengths", [0, 3])
@pytest.mark.filterwarnings("error")
def test_least_squares_of_any_condition(shape, condition, lengths, dtype):
    rng = np.random.default_rng(0)
    double = np.complex128 if dtype.startswith("complex") else np.float64
    u, s, vh = np.linalg.svd(drawn(shape, np.dtype(double).name), full_matrices=False)
    s = np.geomspace(1, 1 / condition, s.shape[-1]) if condition < np.inf else np.where(s > s[..., 3:4], s, 0)
    a = (u * s[..., None, :] @ vh * 10.0 ** rng.uniform(-lengths, 0, shape[-1])).astype(dtype)
    b = drawn((*shape[:-1], 2), dtype)
    eps = np.finfo(dtype).eps
    s = np.linalg.svd(a.astype(double), compute_uv=False)
    at = eps * max(shape[-2:]) * s[..., :1]
    if ((s > at / 3) & (s < at * 3)).any():
        return  # whether that counts is a matter of rounding
    want = np.linalg.pinv(a.astype(double), rcond=eps * max(shape[-2:]))
    count = (s > at).sum(-1)
    worst = (s[..., 0] / np.where(s > at, s, np.inf).min(-1)).max()
    found = fastdl.linalg.lstsq(fastdl.tensor(a), fastdl.tensor(b))
    np.testing.assert_array_equal(found.rank.numpy(), count)
    inverse = fastdl.linalg.pinv(fastdl.tensor(a)).numpy()
    solution, scale = want @ b.astype(double), np.abs(want) @ np.abs(b)
    for got, expected, size in ((found.solution.numpy(), solution, scale), (inverse, want, np.abs(want))):
        assert got.dtype == a.dtype
        assert np.abs(got - expected).max() <= 20 * eps * worst * size.max()


def test_least_squares_of_a_regular_matrix_has_gradients():
    a, b = (fastdl.tensor(drawn(n, "float64"), requires_grad=True) for n in ((24, 18), (24, 2)))
    assert gradcheck(lambda a, b: fastdl.linalg.lstsq(a, b).solution[:2], (a, b))
    assert gradcheck(lambda a: fastdl.linalg.pinv(a)[:1], a)
    plain = fastdl.linalg.lstsq(a.detach(), b.detach()).solution
    np.testing.assert_allclose(plain.numpy(), fastdl.linalg.lstsq(a, b).solution.detach().numpy(), rtol=1e-10)


def test_least_squares_refuses_what_does_not_fit():
    a = fastdl.ones(20, 16) + fastdl.eye(20, 16)
    with pytest.raises(RuntimeError, match=r"must equal the second to last dimension of other \(19\)"):
        fastdl.linalg.lstsq(a, fastdl.ones(19, 2))
    with pytest.raises(RuntimeError, match="float64"):
        fastdl.linalg.lstsq(a, fastdl.ones(20, 2, dtype=fastdl.float64))

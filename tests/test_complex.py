"""Complex numbers: dtypes, views, arithmetic, functions, products, gradients; beside PyTorch where it is installed."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import numpy as np
import pytest

import fastdl
from complex_cases import A, B, R, needs_torch, numbers, torch
from fastdl import nn
from fastdl.autograd import gradcheck
from fastdl.nn import functional as F

# ------------------------------------------------------------------------------------------ what a dtype is


def test_dtypes():
    assert fastdl.cfloat is fastdl.complex64
    assert fastdl.cdouble is fastdl.complex128
    x = fastdl.tensor([1 + 2j, 3])
    assert x.dtype is fastdl.complex64
    assert x.is_complex()
    assert fastdl.is_complex(x)
    assert not x.is_floating_point()
    assert x.is_signed()
    assert fastdl.tensor(1j).item() == 1j
    assert fastdl.full((2,), 1j).tolist() == [1j, 1j]
    assert fastdl.finfo(fastdl.complex64).eps == fastdl.finfo(fastdl.float32).eps
    assert complex(x[0]) == 1 + 2j
    assert float(x[1]) == 3.0
    assert bool(x[0])
    with pytest.raises(RuntimeError, match="cannot be converted"):
        float(x[0])
    for make in (fastdl.zeros, fastdl.ones, fastdl.empty, fastdl.randn, fastdl.rand):
        assert make(2, 3, dtype=fastdl.cdouble).dtype is fastdl.complex128
    fastdl.set_default_dtype(fastdl.float64)
    try:
        assert fastdl.tensor([1j]).dtype is fastdl.complex128
    finally:
        fastdl.set_default_dtype(fastdl.float32)


def test_promotion():
    f, d, i, z = [
        fastdl.zeros(2, dtype=t) for t in (fastdl.float32, fastdl.float64, fastdl.int64, fastdl.cfloat)
    ]
    half, wide = fastdl.zeros(2, dtype=fastdl.float16), fastdl.tensor(1j, dtype=fastdl.cdouble)
    for left, right, want in (
        (f, 1j, fastdl.cfloat),
        (d, 1j, fastdl.cdouble),
        (i, 1j, fastdl.cfloat),
        (z, 1.0, fastdl.cfloat),
        (z, d, fastdl.cdouble),
        (z, half, fastdl.cfloat),
        (f, wide, fastdl.cfloat),
        (i, wide, fastdl.cdouble),
        (d, fastdl.tensor(1j), fastdl.cdouble),
        (d[0], 1j, fastdl.cdouble),
        (z, d[0], fastdl.cfloat),
    ):
        assert fastdl.result_type(left, right) is want
        assert (left * right).dtype is want
    assert fastdl.promote_types(fastdl.float64, fastdl.complex64) is fastdl.complex128
    assert fastdl.can_cast(fastdl.float32, fastdl.complex64)
    assert not fastdl.can_cast(fastdl.complex64, fastdl.float32)
    with pytest.raises(RuntimeError, match="cannot be stored in place"):
        f += 1j
    with pytest.raises(RuntimeError, match="overflow"):
        f.fill_(1j)


def test_conversions():
    x = fastdl.tensor([1 + 2j, -3j])
    with pytest.warns(UserWarning, match="discards the imaginary part"):
        assert x.to(fastdl.float64).tolist() == [1.0, 0.0]
    assert x.to(fastdl.bool).tolist() == [True, True]
    assert x.cdouble().dtype is fastdl.complex128
    assert fastdl.ones(2).cfloat().tolist() == [1, 1]


def test_random_numbers_have_variance_one_in_total():
    fastdl.manual_seed(0)
    x = fastdl.randn(20000, dtype=fastdl.complex64)
    assert abs(x.var().item() - 1) < 0.05
    assert abs(x.real.var().item() - 0.5) < 0.02
    w = nn.init.xavier_uniform_(fastdl.zeros(50, 40, dtype=fastdl.complex64))
    assert abs(w.real.var().item() / w.imag.var().item() - 1) < 0.2
    assert nn.Linear(3, 2, dtype=fastdl.complex64)(fastdl.ones(1, 3, dtype=fastdl.cfloat)).is_complex()


def test_printing():
    assert repr(fastdl.tensor([0.5 + 1j, -2])) == "tensor([ 0.5000+1.j, -2.0000+0.j])"
    assert repr(fastdl.tensor([1j], dtype=fastdl.cdouble)) == "tensor([0.+1.j], dtype=fastdl.complex128)"


def test_it_travels(tmp_path):
    x = fastdl.tensor(A, requires_grad=True)
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert y.dtype is fastdl.complex128
        assert y.requires_grad
        assert np.array_equal(y.detach().numpy(), A)
    file = io.BytesIO()
    fastdl.save({"x": x.detach(), "y": x.detach().cfloat()}, file)
    file.seek(0)
    loaded = fastdl.load(file)
    assert np.array_equal(loaded["x"].numpy(), A)
    assert loaded["y"].dtype is fastdl.complex64
    a = A.copy()
    fastdl.from_numpy(a)[0, 0] = 7j
    assert a[0, 0] == 7j
    assert np.array_equal(np.from_dlpack(x.detach()), A)
    if torch is not None:
        assert torch.equal(torch.from_dlpack(x.detach()), torch.tensor(A))
        path = tmp_path / "z.pt"
        torch.save({"z": torch.tensor(A)}, path)
        assert np.array_equal(fastdl.load(path)["z"].numpy(), A)


# ------------------------------------------------------------------------------------------------- views


def test_views_share_memory():
    x = fastdl.zeros(2, 2, dtype=fastdl.cfloat)
    x.real.fill_(1)
    x.imag = fastdl.tensor([[1.0, 2.0], [3.0, 4.0]])
    fastdl.view_as_real(x)[0, 0, 0] = 9
    assert x.tolist() == [[9 + 1j, 1 + 2j], [1 + 3j, 1 + 4j]]
    pairs = fastdl.zeros(3, 2)
    fastdl.view_as_complex(pairs)[1] = 2 - 1j
    assert pairs.tolist() == [[0, 0], [2, -1], [0, 0]]
    assert (
        fastdl.view_as_real(x.T).tolist()
        == x.T.contiguous().numpy().view(np.float32).reshape(2, 2, 2).tolist()
    )
    assert fastdl.ones(2).real.tolist() == [1, 1]
    assert fastdl.ones(2).conj().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastdl.ones(2).imag, "not implemented for tensors with non-complex"),
        (lambda: fastdl.view_as_real(fastdl.ones(2)), "only supported for complex"),
        (lambda: fastdl.view_as_complex(fastdl.ones(2, 3)), "last dimension of size 2"),
        (lambda: fastdl.view_as_complex(fastdl.ones(2, 3).T), "last dimension with stride 1"),
        (lambda: fastdl.view_as_complex(fastdl.ones(3, 3)[:, :2]), "divisible by 2"),
        (lambda: fastdl.complex(fastdl.ones(2), fastdl.ones(2).double()), "one dtype"),
        (lambda: fastdl.polar(fastdl.ones(2), fastdl.ones(2).double()), "one dtype"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat) < 1, "no order"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).max(), "complex"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).argmax(), "no order"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).sort(), "complex"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).floor(), "floor: is not defined for complex"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).clamp(0), "complex"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat) % 2, "complex"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).sign(), "sgn"),
        (lambda: fastdl.ones(2, dtype=fastdl.cfloat).abs_(), "abs_: is not defined for complex"),
        (lambda: F.relu(fastdl.ones(2, dtype=fastdl.cfloat)), "complex"),
        (lambda: F.softmax(fastdl.ones(2, dtype=fastdl.cfloat), 0), "complex"),
        (lambda: F.layer_norm(fastdl.ones(2, dtype=fastdl.cfloat), (2,)), "complex|float"),
        (lambda: F.max_pool1d(fastdl.ones(1, 1, 4, dtype=fastdl.cfloat), 2), "complex|float"),
        (lambda: (numbers(3) ** 2).sum().backward(), "real scalar outputs"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        call()


def test_no_layer_takes_complex_numbers_for_real_ones():
    """Whatever a module does not know is an error, never a wrong result."""
    x = fastdl.ones(2, 4, 4, 4, dtype=fastdl.cfloat)
    for layer in (
        nn.ReLU(),
        nn.GELU(),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d(2),
        nn.Softmax(1),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            layer(x)


# --------------------------------------------------------------------------------- parity, gradients included

_INDEX = [[0, 1], [2, 3], [1, 1]]


def _set(L, a, b, r):
    c = a * 1
    c[0] = b[1]
    c[1, :2] = r[0, :2]
    c[[2]] = b[:1]
    return c


def _set_parts(L, a, b, r):
    c = a * 1
    c.real.mul_(r)
    c.imag = r
    return c


CASES = {
    "mul": lambda L, a, b, r: a * b * r,
    "of numbers": lambda L, a, b, r: (a + 1j) * 2 - r * 1j + 1j / b,
    "div": lambda L, a, b, r: a / b + r / b + a / r,
    "broadcast": lambda L, a, b, r: a * b[0] * r[:, :1] + b.sum() - r[0, 0],
    "pow": lambda L, a, b, r: a**b + a**3 + b**2 + a**0.5 + a**-1 + r**a + 2**b + r ** (1 + 1j),
    "abs": lambda L, a, b, r: a.abs() + b.angle(),
    "sgn": lambda L, a, b, r: a.sgn(),
    "conj": lambda L, a, b, r: (a.conj() * b).resolve_conj(),
    "parts": lambda L, a, b, r: a.real * b.imag,
    "view_as_real": lambda L, a, b, r: L.view_as_real(a) * 2,
    "view_as_complex": lambda L, a, b, r: L.view_as_complex(r.reshape(3, 2, 2)),
    "polar": lambda L, a, b, r: L.polar(r, a.imag) + L.complex(r, b.real),
    "sums": lambda L, a, b, r: a.sum(0) + b.mean(0) + a.mean(),
    "prod": lambda L, a, b, r: a.prod() + b.prod(1),
    "running": lambda L, a, b, r: a.cumsum(1) + b.cumprod(0),
    "running exponentials": lambda L, a, b, r: a.logcumsumexp(1).exp() + b.logcumsumexp(0).real,
    "differences": lambda L, a, b, r: a.diff(n=2).sum() + b.diff(dim=0).sum(),
    "norms": lambda L, a, b, r: a.norm() + L.linalg.vector_norm(b, 3, 1) + a.norm(dim=1, p=2),
    "spread": lambda L, a, b, r: a.var(0) + b.std(),
    "logsumexp": lambda L, a, b, r: a.logsumexp(1),
    "matmul": lambda L, a, b, r: a @ b.T @ (a @ b.mH),
    "bmm": lambda L, a, b, r: L.bmm(a[None].expand(2, 3, 4), b.T[None].expand(2, 4, 3)),
    "vectors": lambda L, a, b, r: L.dot(a[0], b[0]) + L.vdot(a[1], b[1]) + L.mv(a, b[0]).sum(),
    "outer": lambda L, a, b, r: L.outer(a[0], b[1]) + L.inner(a[:, :1], b[:1, :1])[0],
    "addmm": lambda L, a, b, r: L.addmm(b[:, :3], a, b.T, beta=0.5, alpha=2),
    "linear": lambda L, a, b, r: L.nn.functional.linear(a, b, b[:, 0]),
    "einsum": lambda L, a, b, r: L.einsum("ij,kj->ik", a, b) + L.einsum("ij,ij,ij->i", a, b, a),
    "einsum diagonal": lambda L, a, b, r: L.einsum("ii->i", a[:, :3]),
    "index": lambda L, a, b, r: a[[0, 2, 0]] * b[1] + b[:, 1:2],
    "mask": lambda L, a, b, r: a[r > 0.5],
    "cat": lambda L, a, b, r: L.cat([a, r, b], 1) + L.stack([a, r, b], 1).reshape(3, 12),
    "where": lambda L, a, b, r: L.where(r > 0.5, a, b) + L.where(r > 0.5, a, 0.0),
    "masked_fill": lambda L, a, b, r: a.masked_fill(r > 0.5, 1 + 1j),
    "rearranged": lambda L, a, b, r: a.permute(1, 0).reshape(3, 4) + b.flip(0) + a.roll(1, 1) + a.tril(),
    "gather": lambda L, a, b, r: L.gather(a, 1, L.tensor(_INDEX)),
    "index_add": lambda L, a, b, r: a.index_add(0, L.tensor([0, 0, 2]), b),
    "repeat": lambda L, a, b, r: a.repeat(2, 1) + b.repeat_interleave(2, 0),
    "pad": lambda L, a, b, r: L.nn.functional.pad(a, (1, 2)),
    "ternary": lambda L, a, b, r: L.lerp(a, b, 0.3) + L.addcmul(a, b, a, value=0.5) + L.addcdiv(a, b, a),
    "cast": lambda L, a, b, r: r.to(L.complex128) * a,
    "written": _set,
    "parts written": _set_parts,
    "in place": lambda L, a, b, r: (a * 1).mul_(b).add_(r),
    "conv": lambda L, a, b, r: L.nn.functional.conv1d(a[None], b[:, :, None].expand(3, 4, 2)[:, :3], b[:, 0]),
    "l1_loss": lambda L, a, b, r: L.nn.functional.l1_loss(a, b),
    "cov": lambda L, a, b, r: L.cov(a) + L.trapezoid(b, dim=1),
    "logaddexp": lambda L, a, b, r: L.logaddexp(a, b),
}
for (
    _name
) in """neg square sqrt rsqrt reciprocal exp exp2 expm1 log log1p log2 log10 sin cos tan asin acos atan sinh
    cosh tanh asinh acosh atanh sinc sigmoid""".split():
    CASES[_name] = lambda L, a, b, r, name=_name: getattr(L, name)(a)

_S = A[:, :3]
_H = _S @ _S.conj().T + 2 * np.eye(3)
_H = (_H + _H.conj().T) / 2
LINALG = {
    "inv": lambda L, s, h: L.linalg.inv(s),
    "solve": lambda L, s, h: L.linalg.solve(s, h),
    "det": lambda L, s, h: L.linalg.det(s),
    "slogdet": lambda L, s, h: L.linalg.slogdet(s)[0] * L.linalg.slogdet(s)[1],
    "cholesky": lambda L, s, h: L.linalg.cholesky(h),
    "eigh": lambda L, s, h: L.linalg.eigh(h)[1].abs() * L.linalg.eigh(h)[0],
    "svd": lambda L, s, h: L.linalg.svd(s)[0].abs() @ L.linalg.svd(s)[2].abs() * L.linalg.svd(s)[1],
    "svd phases": lambda L, s, h: (lambda u, _, vh: u @ vh)(*L.linalg.svd(s)),
    "qr": lambda L, s, h: L.linalg.qr(s)[0] + L.linalg.qr(s)[1],
    "pinv": lambda L, s, h: L.linalg.pinv(s[:, :2]),
    "eigvals": lambda L, s, h: (L.linalg.eigvals(s) ** 2).sum(),
    "eig": lambda L, s, h: L.linalg.eig(s)[1].abs().sum() + L.linalg.eig(s)[0].abs().sum(),
    "lu": lambda L, s, h: L.linalg.lu_factor(s)[0],
    "norms": lambda L, s, h: L.linalg.matrix_norm(s, "nuc") + L.linalg.matrix_norm(h, 2) + L.linalg.norm(s),
    "matrix_exp": lambda L, s, h: L.linalg.matrix_exp(s),
    "power": lambda L, s, h: L.linalg.matrix_power(s, 3),
}


def _run(L, function, arrays):
    leaves = [L.tensor(a, requires_grad=True) for a in arrays]
    y = function(L, *leaves)
    loss = (y * (0.3 - 0.7j)).real.sum() + (y.abs() ** 2).sum() if y.is_complex() else (y.abs() ** 1.5).sum()
    loss.backward()
    return [y.detach().numpy()] + [None if t.grad is None else t.grad.resolve_conj().numpy() for t in leaves]


def _compare(function, *arrays, tolerance=1e-9):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted, got = _run(torch, function, arrays), _run(fastdl, function, arrays)
    for want, have in zip(wanted, got, strict=True):
        if want is None or have is None:
            assert want is None or not want.any()
            assert have is None or not have.any()
            continue
        assert want.dtype == have.dtype
        assert want.shape == have.shape
        np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance)


@needs_torch
@pytest.mark.parametrize("name", CASES)
def test_like_torch(name):
    _compare(CASES[name], A, B, R)


@needs_torch
@pytest.mark.parametrize("name", LINALG)
def test_linear_algebra_like_torch(name):
    _compare(LINALG[name], _S, _H, tolerance=1e-7)


@needs_torch
def test_empty_products():
    a, b = fastdl.ones(5, 5, 0, dtype=fastdl.complex64), fastdl.ones(0, 5, dtype=fastdl.complex64)
    np.testing.assert_array_equal((a @ b).numpy(), np.zeros((5, 5, 5), np.complex64))


@needs_torch
def test_single_precision_stays_single():
    for name in ("mul", "abs", "matmul", "exp", "einsum", "sums"):
        arrays = A.astype(np.complex64), B.astype(np.complex64), R.astype(np.float32)
        _compare(CASES[name], *arrays, tolerance=2e-4)


# ----------------------------------------------------------------------------- gradients by differences, and twice


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * b / (a + 3),
        lambda a, b: a.exp() * b.sin() + a.tanh(),
        lambda a, b: a**b,
        lambda a, b: (a.abs(), b.angle(), a.sgn()),
        lambda a, b: a @ b.mH,
        lambda a, b: fastdl.einsum("ij,kj->ik", a, b),
        lambda a, b: (a.real * b.imag, fastdl.view_as_real(a)),
        lambda a, b: a.prod(0) + b.cumprod(1)[0],
        lambda a, b: a.logcumsumexp(0).exp() + b.diff(dim=0)[:1],
        lambda a, b: (fastdl.linalg.inv(a[:, :2]), fastdl.linalg.det(b[:, :2])),
    ],
)
def test_gradcheck(function):
    a, b = numbers(2, 2), numbers(2, 2)
    assert gradcheck(function, (a, b))
    assert fastdl.autograd.gradgradcheck(function, (a, b))


def test_gradcheck_finds_mistakes():
    class Wrong(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return z * z

        @staticmethod
        def backward(ctx, grad):
            (z,) = ctx.saved_tensors
            return grad * 2 * z  # the conjugate is missing

    for seed in range(5):  # wherever the largest difference lies
        fastdl.manual_seed(seed)
        z = fastdl.randn(2, dtype=fastdl.complex128, requires_grad=True)
        with pytest.raises(RuntimeError, match=r"d output\[[01]\] / d input\[[01]\]"):
            gradcheck(Wrong.apply, (z,))


def test_a_real_input_gets_a_real_gradient():
    r, z = fastdl.tensor([1.0, 2.0], requires_grad=True), fastdl.tensor([1j, 1 + 1j], requires_grad=True)
    y = r * z
    (y.real.square() + y.imag.square()).sum().backward()
    assert r.grad.dtype is fastdl.float32
    assert r.grad.tolist() == [2.0, 8.0]
    assert z.grad.tolist() == [2j, 8 + 8j]


# ------------------------------------------------------------------------------------------ modules, optimizers


def test_modules_keep_complex_parameters():
    def layer():
        return nn.Linear(2, 2, dtype=fastdl.complex64)

    assert layer().double().weight.dtype is fastdl.complex64
    assert layer().half().float().weight.dtype is fastdl.complex64
    assert layer().to(fastdl.complex128).weight.dtype is fastdl.complex128
    assert nn.Linear(2, 2).to(fastdl.complex64).weight.dtype is fastdl.complex64
    with pytest.warns(UserWarning, match="discards"):
        assert layer().to(fastdl.float64).weight.dtype is fastdl.float64
    model = layer()
    model.load_state_dict(layer().state_dict())
    assert nn.Parameter(fastdl.zeros(2, dtype=fastdl.cfloat)).requires_grad


@needs_torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_optimizers_see_pairs(name):
    options = {"SGD": {"momentum": 0.9, "weight_decay": 0.1}}.get(name, {})
    ends = []
    for L in (torch, fastdl):
        p = L.nn.Parameter(L.tensor(A))
        q = L.nn.Parameter(L.tensor(R))
        steps = getattr(L.optim, name)([p, q], lr=0.05, **options)
        for _ in range(5):
            steps.zero_grad()
            ((p * q - 1j).abs() ** 2).sum().backward()
            norm = L.nn.utils.clip_grad_norm_([p, q], 2.0)
            steps.step()
        ends.append([p.detach().numpy(), q.detach().numpy(), norm.detach().numpy()])
    for want, have in zip(*ends, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-9)


# ------------------------------------------------------------------------------------------ what a review found


def test_adjoint_systems_by_factors():
    rng = np.random.default_rng(0)
    A, B = [rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in ((4, 4), (4, 2))]
    factors = fastdl.linalg.lu_factor(fastdl.tensor(A))
    X = fastdl.linalg.lu_solve(*factors, fastdl.tensor(B), adjoint=True).numpy()
    np.testing.assert_allclose(A.conj().T @ X, B, atol=1e-12)
    X = fastdl.linalg.lu_solve(*factors, fastdl.tensor(B.T.copy()), left=False).numpy()
    np.testing.assert_allclose(X @ A, B.T, atol=1e-12)
    X = fastdl.linalg.lu_solve(*factors, fastdl.tensor(B.T.copy()), left=False, adjoint=True).numpy()
    np.testing.assert_allclose(X @ A.conj().T, B.T, atol=1e-12)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_moves_both_parts(search):
    p = fastdl.tensor([1 + 2j, -3j], requires_grad=True)
    optimizer = fastdl.optim.LBFGS([p], lr=0.5, line_search_fn=search)

    def closure():
        optimizer.zero_grad()
        loss = (p - (0.5 - 1j)).abs().square().sum()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    np.testing.assert_allclose(p.detach().numpy(), [0.5 - 1j] * 2, atol=1e-3)


def test_rprop_steps_both_parts():
    p = fastdl.tensor([1 + 2j], requires_grad=True)
    optimizer = fastdl.optim.Rprop([p], lr=0.1)
    p.abs().square().sum().backward()
    optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), [0.9 + 1.9j], rtol=1e-6)


def test_real_tensors_beside_complex_numbers():
    x = fastdl.tensor([1.0, 0.0])
    assert (x == 1j).tolist() == [False, False]
    assert (x != (1 + 0j)).tolist() == [False, True]
    assert (fastdl.tensor([1, 2]) == (2 + 0j)).tolist() == [False, True]
    with pytest.raises(RuntimeError, match="without overflow"):
        x[0] = 1j
    with pytest.raises(TypeError, match="complex numbers cannot become"):
        fastdl.tensor([1j], dtype=fastdl.float32)
    with pytest.raises(RuntimeError, match="complex numbers cannot become"):
        fastdl.scalar_tensor(1j)
    assert fastdl.angle(fastdl.tensor([np.inf, -np.inf, 1.0])).tolist() == pytest.approx([0, np.pi, 0])
    with pytest.raises(RuntimeError):
        fastdl.heaviside(fastdl.tensor([1j]), fastdl.tensor([1j]))
    with pytest.raises(RuntimeError):
        fastdl.nn.functional.dropout(fastdl.tensor([1j] * 4), 0.5)


@pytest.mark.parametrize("dtype", [fastdl.complex64, fastdl.complex128], ids=str)
def test_windows_by_strides_have_gradients(dtype):
    z = fastdl.tensor(np.arange(6) * 1j, dtype=dtype, requires_grad=True)
    weights = fastdl.tensor(np.arange(1, 9).reshape(2, 4) * (1 + 1j), dtype=dtype)
    (z.as_strided((2, 4), (2, 1)) * weights).real.sum().backward()
    expected = np.zeros(6, complex)
    for i in range(2):
        expected[2 * i : 2 * i + 4] += weights.numpy()[i].conj()
    np.testing.assert_allclose(z.grad.numpy(), expected)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_running_exponentials_do_not_overflow(dtype):
    rng = np.random.default_rng(0)
    for shape, dim in (((), 0), ((0,), 0), ((5, 9), 1), ((40, 3), 0)):
        x = np.asarray(rng.standard_normal(shape) * 300 + 1j * rng.standard_normal(shape) * 5).astype(dtype)
        y = fastdl.tensor(x).logcumsumexp(dim).numpy()
        rows, got = (np.moveaxis(v.reshape(v.shape or (1,)), dim, -1) for v in (x.astype(complex), y))
        for k in range(rows.shape[-1]):
            largest = rows[..., : k + 1].real.max(-1, keepdims=True)
            total = np.exp(rows[..., : k + 1] - largest).sum(-1)
            want = np.log(total) + largest[..., 0]
            tolerance = 1e-5 if dtype == "complex64" else 1e-12
            np.testing.assert_allclose(got[..., k].real, want.real, tolerance, tolerance)
            turned = np.exp(1j * (got[..., k].imag - want.imag))
            np.testing.assert_allclose(turned, np.ones_like(turned), tolerance, tolerance)
        assert y.dtype == dtype
    for value in (complex(np.nan, 1), complex(np.inf, -np.inf)):
        x = fastdl.tensor(np.array([1 + 1j, value, 2]).astype(dtype))
        for parts in (x.nan_to_num(), x.nan_to_num(7.0, 8.0, 9.0)):
            assert parts.isfinite().all()
            assert parts[0] == 1 + 1j


@needs_torch
def test_logsumexp_of_nothing():
    for shape in ((0,), (2, 0), (0, 2)):
        found = []
        for lib in (torch, fastdl):
            x = lib.zeros(shape, dtype=lib.complex64, requires_grad=True)
            y = x.logsumexp(-1)
            y.abs().sum().backward()
            found.append((y.tolist(), tuple(x.grad.shape)))
        assert found[0] == found[1]

"""``out=``: every function whose counterpart in torch takes it stores its result there, as torch does."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)
S = rng.standard_normal((4, 4))
P = S @ S.T + 4 * np.eye(4)
L = np.linalg.cholesky(P)
V = rng.standard_normal(4)
U = rng.uniform(0.1, 0.9, (3, 4))
B = rng.standard_normal((2, 4, 4))
I = rng.integers(1, 9, (3, 4))  # noqa: E741
INDEX = rng.integers(0, 3, (3, 4))
M = U > 0.5

# Arguments of functions whose result is compared; an array stands for a tensor.
CALLS = {
    "addbmm": (S, B, B),
    "addmm": (S, S, S),
    "addmv": (V, S, V),
    "addr": (S, V, V),
    "baddbmm": (B, B, B),
    "bmm": (B, B),
    "mm": (S, S),
    "mv": (S, V),
    "dot": (V, V),
    "vdot": (V, V),
    "inner": (S, V),
    "outer": (V, V),
    "ger": (V, V),
    "matmul": (S, V),
    "kron": (U, U),
    "cross": (U[:, :3], U[:, 1:4], 1),
    "chain_matmul": (S, S, S),
    "all": (M, 0),
    "argmax": (U, 1),
    "argmin": (U, 0),
    "any": (M, 1),
    "amax": (U, 0),
    "amin": (U, (0, 1)),
    "diff": (U,),
    "isin": (I, I[:1]),
    "hardshrink": (U,),
    "threshold": (U, 0.3, 0.0),
    "sum": (U, 1),
    "nansum": (U, 1),
    "mean": (U, 0),
    "nanmean": (U, 0),
    "prod": (U, 0),
    "std": (U, 0),
    "var": (U, 0),
    "logsumexp": (U, 1),
    "max": (U, 1),
    "min": (U, 0),
    "median": (U, 1),
    "nanmedian": (U, 1),
    "mode": (I, 1),
    "kthvalue": (U, 2, 1),
    "topk": (U, 2),
    "sort": (U, 1),
    "msort": (U,),
    "cummax": (U, 1),
    "cummin": (U, 1),
    "cumsum": (U, 1),
    "cumprod": (U, 0),
    "logcumsumexp": (U, 0),
    "quantile": (U, 0.3, 1),
    "nanquantile": (U, 0.3, 1),
    "histc": (U, 5, 0, 1),
    "renorm": (U, 2, 0, 0.5),
    "bucketize": (U, np.linspace(0, 1, 5)),
    "searchsorted": (np.linspace(0, 1, 5), U),
    "cat": ((U, U), 1),
    "concat": ((U, U),),
    "stack": ((U, U), 1),
    "hstack": ((U, U),),
    "vstack": ((U, U),),
    "dstack": ((U, U),),
    "column_stack": ((V, V),),
    "clamp_min": (U, 0.4),
    "clamp_max": (U, 0.4),
    "copysign": (U, -1.0),
    "fmax": (U, U[::-1].copy()),
    "fmin": (U, U[::-1].copy()),
    "float_power": (U, 2),
    "frac": (U,),
    "gcd": (I, I[::-1].copy()),
    "lcm": (I, I[::-1].copy()),
    "heaviside": (V, V),
    "hypot": (U, U),
    "ldexp": (U, I),
    "logaddexp": (U, U),
    "logaddexp2": (U, U),
    "nextafter": (U, U + 1),
    "nan_to_num": (U,),
    "xlogy": (U, U),
    "isposinf": (U,),
    "isneginf": (U,),
    "signbit": (V,),
    "diag": (V,),
    "tril": (S,),
    "triu": (S,),
    "gather": (U, 0, INDEX),
    "index_select": (U, 0, np.array([2, 0])),
    "index_add": (U, 0, np.array([2, 0]), U[:2]),
    "index_reduce": (U, 0, np.array([2, 0]), U[:2], "amax"),
    "slice_scatter": (U, U[:1], 0, 1, 2),
    "index_copy": (U, 0, np.array([2, 0]), U[:2]),
    "scatter": (U, 0, INDEX, U),
    "scatter_add": (U, 0, INDEX, U),
    "scatter_reduce": (U, 0, INDEX, U, "amax"),
    "masked_select": (U, M),
    "nonzero": (I - 1,),
    "take": (U, np.array([3, 1])),
    "take_along_dim": (U, INDEX, 0),
    "tensordot": (S, S, 1),
    "where": (M, U, U + 1),
    "cholesky": (P,),
    "cholesky_inverse": (L,),
    "cholesky_solve": (S, L),
    "inverse": (P,),
    "matrix_power": (P, 3),
    "norm": (U, 2, 1),
    "frexp": (U,),
    "linalg.cholesky": (P,),
    "linalg.cond": (P,),
    "linalg.cross": (U[:, :3], U[:, 1:4]),
    "linalg.det": (P,),
    "linalg.eigvalsh": (P,),
    "linalg.inv": (P,),
    "linalg.matrix_norm": (P,),
    "linalg.matrix_power": (P, 2),
    "linalg.matrix_rank": (P,),
    "linalg.multi_dot": ((S, S, V),),
    "linalg.norm": (P,),
    "linalg.pinv": (P,),
    "linalg.slogdet": (P,),
    "linalg.solve": (P, S),
    "linalg.svdvals": (P,),
    "linalg.vecdot": (V, V),
    "linalg.vector_norm": (U, 2, 1),
    "special.logsumexp": (U, 1),
    "special.xlogy": (U, U),
}
for name in """conj_physical deg2rad rad2deg digamma erfc erfinv exp2 i0 lgamma logit sigmoid sinc tanh
    special.expit special.gammaln special.i0 special.sinc special.erfc special.psi special.logit""".split():
    CALLS[name] = (U,)
MADE = {
    "arange": (5,),
    "eye": (3,),
    "full": ((2, 3), 7),
    "linspace": (0, 1, 5),
    "logspace": (0, 1, 5),
    "ones": (2, 3),
    "zeros": (2, 3),
}
DRAWN = {
    "rand": (2, 3),
    "randn": (2, 3),
    "randint": (0, 5, (2, 3)),
    "randperm": (6,),
    "empty": (2, 3),
    "multinomial": (U, 2),
}


def _of(library, value):
    if isinstance(value, np.ndarray):
        return library.tensor(value)
    if isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
        return tuple([library.tensor(v) for v in value])
    return value


def _function(library, name):
    for part in name.split("."):
        library = getattr(library, part)
    return library


def _outs(library, results):
    """Empty tensors of the results' dtypes."""
    if not isinstance(results, tuple):
        return library.empty(0, dtype=results.dtype)
    return tuple([library.empty(0, dtype=r.dtype) for r in results])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_out_is_torch_s(name):
    ours, theirs = [_of(fastdl, v) for v in CALLS[name]], [_of(torch, v) for v in CALLS[name]]
    expected = _function(torch, name)(*theirs)
    into = _outs(torch, expected)
    _function(torch, name)(*theirs, out=into)  # torch takes it, too
    mine = _outs(fastdl, _function(fastdl, name)(*ours))
    result = _function(fastdl, name)(*ours, out=mine)
    for a, b, c in zip(*[v if isinstance(v, tuple) else (v,) for v in (result, mine, into)], strict=True):
        assert a is b
        assert str(a.dtype) == str(c.dtype).removeprefix("torch.")
        np.testing.assert_allclose(a.numpy(), c.numpy(), rtol=1e-10, atol=1e-12)
    assert type(result).__name__ != "tuple" or not hasattr(expected, "_fields") or name in ("frexp",)


@pytest.mark.parametrize("name", MADE)
def test_made_in_place(name):
    for dtype in ("float64", "float32", "int64"):
        if dtype == "int64" and name in ("linspace", "logspace"):
            continue
        out = fastdl.full(getattr(torch, name)(*MADE[name]).shape, 9, dtype=getattr(fastdl, dtype))
        into = torch.full(tuple(out.shape), 9, dtype=getattr(torch, dtype))
        assert getattr(fastdl, name)(*MADE[name], out=out) is out
        getattr(torch, name)(*MADE[name], out=into)
        np.testing.assert_allclose(out.numpy(), into.numpy(), rtol=1e-6)
        assert out.numpy().dtype == into.numpy().dtype


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_in_place(name):
    arguments = [_of(fastdl, v) for v in DRAWN[name]]
    fastdl.manual_seed(3)
    expected = getattr(fastdl, name)(*arguments)
    out = fastdl.full(expected.shape, -1, dtype=expected.dtype)
    fastdl.manual_seed(3)
    assert getattr(fastdl, name)(*arguments, out=out) is out
    if name != "empty":
        np.testing.assert_array_equal(out.numpy(), expected.numpy())


def test_a_view_as_out_changes_its_base():
    x, table = fastdl.rand(3, 4), fastdl.zeros(2, 3)
    fastdl.sum(x, 1, out=table[1])
    np.testing.assert_array_equal(table[1].numpy(), x.sum(1).numpy())
    assert not table[0].any()
    fastdl.matmul(x, x.T, out=x[:, :3])  # over its own operand: the result is computed first


def test_what_out_refuses():
    x = fastdl.rand(3, 4)
    with pytest.raises(RuntimeError, match=r"sum: the result has shape \(3,\), but out has shape \(4,\)"):
        fastdl.sum(x, 1, out=fastdl.empty(4))
    with pytest.raises(RuntimeError, match="cannot be stored"):
        fastdl.sum(x, 1, out=fastdl.empty(3, dtype=fastdl.int64))
    with pytest.raises(RuntimeError, match="out=: cannot be differentiated"):
        fastdl.sum(x.requires_grad_(), 1, out=fastdl.empty(3))
    with pytest.raises(RuntimeError, match="out=: cannot be differentiated"):
        fastdl.sum(x.detach(), 1, out=fastdl.empty(3, requires_grad=True))
    with pytest.raises(TypeError, match="sum: out must be a Tensor, got numpy"):
        fastdl.sum(x.detach(), 1, out=np.zeros(3))
    with pytest.raises(TypeError, match="max: gives 2 tensors, so out must be a tuple of as many"):
        fastdl.max(x.detach(), 1, out=fastdl.empty(3))
    with pytest.raises(TypeError, match="sum: gives 1 tensor, so out must be a Tensor"):
        fastdl.sum(x.detach(), 1, out=(fastdl.empty(3), fastdl.empty(3)))
    for write in (
        lambda out: fastdl.sum(fastdl.ones(3, 2), 1, out=out),
        lambda out: fastdl.cat([fastdl.ones(3)], out=out),
    ):
        with pytest.raises(RuntimeError, match="cannot be written to: it is an expanded view"):
            write(fastdl.zeros(1).expand(3))
    with fastdl.no_grad():
        assert fastdl.sum(x, 1, out=fastdl.empty(3)).shape == (3,)


def test_backward_notices_that_out_changed_what_it_needs():
    x = fastdl.rand(3, requires_grad=True)
    kept = fastdl.rand(3)
    y = (x * kept).sum()
    fastdl.cumsum(fastdl.ones(3), 0, out=kept)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_signatures_and_the_whole_list():
    """Every function of ours whose counterpart documents ``out`` takes it."""
    assert "out" in inspect.signature(fastdl.sum).parameters
    without = {
        "empty_like",
        "full_like",
        "ones_like",
        "zeros_like",
        "rand_like",
        "randn_like",
        "hamming_window",
    }
    without |= {"std_mean", "var_mean", "normalize", "histogramdd"}  # documented there, but refused
    without |= {"sparse_compressed_tensor", "sspaddmm", "hspmm"}  # sparse results
    missing = []
    for ours, theirs in (
        (fastdl, torch),
        (fastdl.linalg, torch.linalg),
        (fastdl.special, torch.special),
        (fastdl.nn.functional, torch.nn.functional),
    ):
        for name in set(dir(ours)) & set(dir(theirs)) - without:
            function = getattr(ours, name)
            if inspect.isroutine(function) and "out=None" in (getattr(theirs, name).__doc__ or ""):
                try:
                    function(out=None)
                except TypeError as error:
                    if "'out'" in str(error):
                        missing.append(name)
    assert not missing


@pytest.mark.parametrize("name", ["sign", "add", "fmod", "pow", "clamp", "logical_not", "cumsum"])
def test_out_must_be_a_tensor(name):
    x = fastdl.tensor([1.0, -2.0])
    arguments = {"clamp": (x, 0.0), "cumsum": (x, 0), "sign": (x,), "logical_not": (x,)}.get(name, (x, x))
    with pytest.raises(TypeError, match=f"{name}: out must be a Tensor"):
        getattr(fastdl, name)(*arguments, out=3)


INTO_LEAVES = {
    "exp": (U,),
    "add": (U, U),
    "sub": (U, 1.0),
    "mul": (U, 2.0),
    "pow": (U, 2),
    "hypot": (U, U),
    "clamp": (U, 0.2, 0.4),
    "lerp": (U, U, 0.5),
    "addcmul": (U, U, U),
    "sum": (U, 0),
    "matmul": (S, S),
}


@pytest.mark.parametrize("library", [fastdl, torch])
@pytest.mark.parametrize("name", INTO_LEAVES)
@pytest.mark.parametrize("empty", [True, False])
def test_out_may_not_require_a_gradient(library, name, empty):
    arguments = [library.tensor(a) if isinstance(a, np.ndarray) else a for a in INTO_LEAVES[name]]
    function = getattr(library, name)
    made = function(*arguments)
    out = (library.zeros(0, dtype=made.dtype) if empty else library.zeros_like(made)).requires_grad_()
    with pytest.raises(RuntimeError):
        function(*arguments, out=out)
    with library.no_grad():
        assert function(*arguments, out=out) is out


@pytest.mark.parametrize("library", [fastdl, torch])
@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_xor", "bitwise_left_shift", "bitwise_not"])
def test_bits_are_not_written_to_a_leaf(library, name):
    x, out = library.tensor([1, 2]), library.zeros(2, requires_grad=True)
    arguments = (x,) if name == "bitwise_not" else (x, x)
    with pytest.raises(RuntimeError, match=r"out=|differentiat"):
        getattr(library, name)(*arguments, out=out)
    assert out.tolist() == [0.0, 0.0]


def test_a_sum_with_a_factor_is_not_written_to_a_leaf():
    out = fastdl.zeros(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="out="):
        fastdl.add(fastdl.ones(2), fastdl.ones(2), alpha=2, out=out)
    assert out.tolist() == [0.0, 0.0]

"""Reductions: kernels against the definition for every set of axes and layout, operations against torch,
gradients."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

import fastdl
from fastdl.kernels import reference
from fastdl.ops import reduce as R
from fastdl.ops import variance as V
from parity import assert_close, backends, check_gradient, load
from test_reduce_kernels import EMPTY, SHAPES, numbers, views

# ------------------------------------------------------------------------------------------------- operations


def both(name, ours, theirs, x, seed=5):
    """Values, dtypes, shapes and the gradient of a function of one tensor, here and in torch;

    or that both refuse.
    """
    torch = pytest.importorskip("torch")
    mine, peer = fastdl.from_numpy(x.copy()), torch.from_numpy(x.copy())
    if x.dtype.kind == "f":
        mine.requires_grad = peer.requires_grad = True
    label = f"{name} {x.dtype} {x.shape}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of degrees of freedom <= 0
        try:
            want = theirs(peer)
        except (RuntimeError, IndexError, TypeError, NotImplementedError):
            with pytest.raises((RuntimeError, IndexError, TypeError, ValueError)):
                ours(mine)
            return
    got = ours(mine)
    for g, w in zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]:
        expected = w.detach().numpy()
        assert g.dtype == expected.dtype, label
        assert g.shape == expected.shape, label
        close_enough = 64 * (np.finfo(g.dtype).eps if g.dtype.kind == "f" else 0)
        np.testing.assert_allclose(g._data, expected, rtol=close_enough, atol=close_enough, err_msg=label)
        if w.requires_grad and w.numel():
            grad = numbers(expected.shape, expected.dtype, seed)
            g.backward(fastdl.from_numpy(grad), retain_graph=True)
            w.backward(torch.from_numpy(grad), retain_graph=True)
    if x.dtype.kind == "f" and peer.grad is not None:
        np.testing.assert_allclose(
            mine.grad.numpy(),
            peer.grad.numpy(),
            rtol=200 * np.finfo(x.dtype).eps,
            atol=200 * np.finfo(x.dtype).eps,
            err_msg=label,
        )


def sample(shape, dtype):
    x = numbers(shape, np.float64) * 3
    return (
        np.asarray(x > 0)
        if dtype == "bool"
        else np.asarray(np.abs(x) if dtype == "uint8" else x, dtype=dtype)
    )


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "all", "any", "logsumexp", "count_nonzero"])
def test_reductions_as_torch(name):
    torch = pytest.importorskip("torch")
    for dtype, shape in itertools.product(
        ["float32", "float64", "int64", "uint8", "bool"], [(3, 4, 5), (7,), (), (0, 3), (3, 0)]
    ):
        x = sample(shape, dtype)
        for dim in [None, *range(len(shape)), -1, tuple(range(len(shape)))]:
            if name == "logsumexp" and (dim is None or dtype == "bool"):
                continue  # torch asks for a dim; its bool result has no values
            for keepdim in (False, True):
                options = {} if name == "count_nonzero" else {"keepdim": keepdim}
                if dim is None:
                    if name in ("all", "any", "amax", "amin", "sum", "mean"):
                        both(name, getattr(R, name), getattr(torch, name), x)
                    continue
                both(
                    name,
                    lambda t: getattr(R, name)(t, dim, **options),
                    lambda t: getattr(torch, name)(t, dim, **options),
                    x,
                )


@pytest.mark.parametrize("name", ["prod", "max", "min", "argmax", "argmin", "median", "cumsum", "cumprod"])
def test_reductions_along_one_dim_as_torch(name):
    torch = pytest.importorskip("torch")
    # (argmax, max and median of integers choose among ties as they like in torch: float only.)
    dtypes = ["float32", "float64"] + (["int64", "bool"] if name in ("prod", "cumsum", "cumprod") else [])
    for dtype, shape in itertools.product(dtypes, [(3, 4, 5), (7,), (), (0, 3), (3, 0)]):
        x = sample(shape, dtype)
        for dim in [None, *range(len(shape)), -1]:
            if dim is None:
                if not name.startswith("cum") and (name != "median" or x.size):
                    both(name, getattr(R, name), getattr(torch, name), x)
                continue
            both(name, lambda t: getattr(R, name)(t, dim), lambda t: getattr(torch, name)(t, dim), x)
            if not name.startswith("cum"):
                both(
                    name,
                    lambda t: getattr(R, name)(t, dim, True),
                    lambda t: getattr(torch, name)(t, dim, True),
                    x,
                )


@pytest.mark.parametrize("name", ["var", "std", "var_mean", "std_mean"])
@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_spreads_as_torch(name):
    torch = pytest.importorskip("torch")
    for dtype, shape in itertools.product(["float32", "float64", "int64"], [(3, 4, 5), (7,), (1,)]):
        x = sample(shape, dtype)
        ours, theirs = getattr(V, name), getattr(torch, name)
        for dim, correction in itertools.product([None, 0, -1, tuple(range(len(shape)))], [0, 1, 2]):
            if (
                np.prod([shape[d] for d in np.atleast_1d(range(len(shape)) if dim is None else dim)])
                <= correction
            ):
                continue
            both(
                name,
                lambda t, d=dim, c=correction: ours(t, d, correction=c, keepdim=True),
                lambda t, d=dim, c=correction: theirs(t, d, correction=c, keepdim=True),
                x,
            )
        if x.size > 1:
            both(name, lambda t: ours(t, unbiased=False), lambda t: theirs(t, unbiased=False), x)
            both(name, lambda t: ours(t, 0, False), lambda t: theirs(t, 0, False), x)
    one = V.var(fastdl.from_numpy(np.ones(1, np.float32)))
    assert np.isnan(one.numpy())


def test_norms_as_torch():
    torch = pytest.importorskip("torch")
    x = sample((4, 6), "float32")
    x[0, 0] = x[1, 2] = x[1, 4] = 0
    x[2] = np.rint(x[2])
    for p, dim in itertools.product([0, 1, 2, 3, 0.5, np.inf, -np.inf], [None, 0, 1, (0, 1)]):
        both("norm", lambda t: R.vector_norm(t, p, dim), lambda t: torch.linalg.vector_norm(t, p, dim), x)
    for module in (fastdl, torch):  # a count has no gradient at all
        t = module.ones(3, requires_grad=True)
        module.linalg.vector_norm(t * 2, 0).backward()
        assert t.grad is None
    both("norm", fastdl.norm, torch.norm, x)
    both("norm", lambda t: fastdl.norm(t, 1, 0, True), lambda t: torch.norm(t, 1, 0, True), x)
    both("norm", fastdl.norm, torch.norm, np.zeros((3, 2), np.float32))


def test_ties_and_zeros_as_torch():
    torch = pytest.importorskip("torch")
    ties = np.rint(sample((5, 40), "float32"))
    for name in ("amax", "amin"):
        both(name, lambda t: getattr(R, name)(t, 1), lambda t: getattr(torch, name)(t, 1), ties)
    for name in ("max", "min"):
        both(name, getattr(R, name), getattr(torch, name), ties)
        both(name, lambda t: getattr(R, name)(t, 1), lambda t: getattr(torch, name)(t, 1), ties)
    zeros = sample((4, 6), "float64")
    zeros[0, 0] = zeros[1, 2] = zeros[1, 4] = 0
    both("prod", R.prod, torch.prod, zeros)
    for dim in (0, 1):
        both("prod", lambda t: R.prod(t, dim), lambda t: torch.prod(t, dim), zeros)
        both("cumprod", lambda t: R.cumprod(t, dim), lambda t: torch.cumprod(t, dim), zeros)


@pytest.mark.parametrize("quantile", [fastdl.quantile, fastdl.nanquantile])
def test_an_infinite_element_is_a_quantile(quantile):
    """Also where other shares lie between elements: no part of the infinite one is taken (as PyTorch does: NaN)."""
    x = fastdl.tensor([3.0, np.inf, 1.0, 2.0, 5.0])
    assert quantile(x, fastdl.tensor([0.0, 0.125, 0.5, 1.0])).tolist() == [1.0, 1.5, 3.0, np.inf]
    assert quantile(x, 1.0).item() == np.inf


def test_order_as_torch():
    torch = pytest.importorskip("torch")
    ties, x = np.rint(sample((5, 40), "float32")), sample((5, 40), "float32")
    for dim, descending in itertools.product([0, 1], [False, True]):
        both(
            "sort",
            lambda t, d=dim, o=descending: tuple(R.sort(t, d, o)),
            lambda t, d=dim, o=descending: tuple(torch.sort(t, dim=d, descending=o, stable=True)),
            ties,
        )
        both(
            "argsort", lambda t: R.argsort(t, dim, descending), lambda t: torch.argsort(t, dim, descending), x
        )
    for k, largest in itertools.product([1, 3, 20, 40], [True, False]):
        both(
            "topk",
            lambda t: tuple(R.topk(t, k, 1, largest)),
            lambda t: tuple(torch.topk(t, k, 1, largest)),
            x,
        )
        both("kthvalue", lambda t: tuple(R.kthvalue(t, k, 1)), lambda t: tuple(torch.kthvalue(t, k, 1)), x)
    missing = x.copy()
    missing[1, 3] = np.nan
    for descending in (False, True):
        ours = R.sort(fastdl.from_numpy(missing), 1, descending)
        theirs = torch.sort(torch.from_numpy(missing), 1, descending)
        np.testing.assert_array_equal(ours.values.numpy(), theirs.values.numpy())
    np.testing.assert_array_equal(
        R.median(fastdl.from_numpy(missing), 1).values.numpy(),
        torch.median(torch.from_numpy(missing), 1).values,
    )
    missing[2] = np.nan
    for array in (x, missing):
        for dim in (0, 1):
            ours = fastdl.nanmedian(fastdl.from_numpy(array), dim)
            theirs = torch.nanmedian(torch.from_numpy(array), dim)
            np.testing.assert_array_equal(ours.values.numpy(), theirs.values.numpy())
            kept = np.expand_dims(ours.indices.numpy(), dim)
            np.testing.assert_array_equal(
                np.take_along_axis(array, kept, dim).squeeze(dim), ours.values.numpy()
            )
    for options in (
        {},
        {"return_inverse": True},
        {"return_inverse": True, "return_counts": True},
        {"dim": 0},
    ):
        ours, theirs = (
            R.unique(fastdl.from_numpy(ties), **options),
            torch.unique(torch.from_numpy(ties), **options),
        )
        for a, b in zip(ours, theirs, strict=True) if isinstance(theirs, tuple) else [(ours, theirs)]:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


REDUCTIONS = {
    "sum": R.sum,
    "mean": R.mean,
    "prod": R.prod,
    "logsumexp": lambda t, dim, keepdim: R.logsumexp(
        t, tuple(range(t.ndim)) if dim is None else dim, keepdim
    ),
    "amax": lambda t, dim, keepdim: R.amax(t, () if dim is None else dim, keepdim),
    "var": lambda t, dim, keepdim: V.var(t, dim, keepdim=keepdim),
    "std": lambda t, dim, keepdim: V.std(t, dim, keepdim=keepdim),
    "norm": lambda t, dim, keepdim: fastdl.norm(t, 2, dim, keepdim),
    "norm3": lambda t, dim, keepdim: fastdl.norm(t, 3, dim, keepdim),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dim", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_gradients(name, dim, keepdim):
    check_gradient(lambda t: REDUCTIONS[name](t, dim, keepdim), numbers((3, 4, 5), np.float64))


def test_other_gradients():
    x = numbers((4, 5), np.float64)
    for function in (
        lambda t: R.max(t, 1).values,
        lambda t: R.min(t, 0, keepdim=True)[0],
        lambda t: R.median(t, 1).values,
        lambda t: R.sort(t, 1, True).values,
        lambda t: R.topk(t, 2, 0).values,
        lambda t: R.kthvalue(t, 2).values,
        lambda t: R.cumsum(t, 0),
        lambda t: R.cumprod(t, 1),
        lambda t: V.var_mean(t, 1)[1],
    ):
        check_gradient(function, x)


def test_results_do_not_depend_on_the_layout_of_the_gradient():
    x = fastdl.from_numpy(numbers((4, 6), np.float32))
    x.requires_grad = True
    R.sum(x).backward()  # an expanded gradient reaches the leaf as an array of its own
    assert x.grad.numpy().flags.writeable
    assert x.grad.numpy().flags.c_contiguous
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((4, 6)))


def test_reference_backend_gives_the_same():
    x = numbers((5, 7), np.float32)
    results = []
    for backend in ("cpu", "reference"):
        with fastdl.use_backend(backend):
            t = fastdl.from_numpy(x)
            t.requires_grad = True
            y = R.logsumexp(t, 1)
            R.sum(y).backward()
            V.std(t, 0).backward(fastdl.from_numpy(np.ones(7, np.float32)))
            results.append((y.detach().numpy(), t.grad.numpy()))
    for mine, plain in zip(*results, strict=True):
        assert_close(mine, plain, reduction=7)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_sums(level, dtype):
    kernel = load(level)
    for shape in [*SHAPES[1:], *EMPTY, (6, 50, 600)]:
        x = numbers(shape, dtype)
        for axis, from_end in itertools.product(range(len(shape)), (False, True)):
            want = reference.running_sum(x, axis, from_end)
            for view in views(x):
                got = kernel.running_sum(view, axis, from_end)
                assert got.dtype == x.dtype
                assert_close(got, want, reduction=shape[axis])
    with pytest.raises(IndexError, match="running_sum: axis 2 of an array with 2 axes"):
        kernel.running_sum(numbers((2, 3), dtype), 2)


@pytest.mark.parametrize("dim", [0, 1, (0, 1)])
def test_sums_of_expanded_tensors(dim):
    for x in (fastdl.arange(70.0).expand(30, 70), fastdl.arange(30.0).reshape(30, 1).expand(30, 70)):
        np.testing.assert_allclose(x.sum(dim).numpy(), x.numpy().sum(dim), rtol=1e-6)
        np.testing.assert_allclose(x.var(dim).numpy(), x.numpy().var(dim, ddof=1), rtol=1e-5, atol=1e-6)
    x = fastdl.tensor([[2.0, -3.0], [0.5, 1.0]])
    np.testing.assert_allclose(x.norm(3, dim=1).numpy(), np.cbrt([35, 1.125]), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["max", "min", "amax", "amin", "argmax", "argmin", "median", "mode", "kthvalue"]
)
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 0), (0,)])
def test_choices_from_an_empty_dim(name, shape):
    """Even where there is nothing to choose for, as in PyTorch."""
    ask = (1, 0) if name == "kthvalue" else (0,)
    with pytest.raises(IndexError):
        getattr(fastdl.zeros(shape), name)(*ask)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "bool"])
def test_sums_of_transposed_matrices(dtype):
    values = np.random.default_rng(0).integers(-4, 5, (30, 41)).astype(np.float32)  # whose sums are exact
    x = fastdl.tensor(values).to(getattr(fastdl, dtype)).t()
    x = x * (1 + 1j) if dtype == "complex64" else x
    for dim in (0, 1, -1):
        for keepdim in (False, True):
            got, want = x.sum(dim, keepdim), x.contiguous().sum(dim, keepdim)
            assert got.shape == want.shape
            assert got.dtype is want.dtype
            assert (got == want).all()


EXTREMES = {
    "amax": lambda t, x: t.amax(x, 1),
    "amin": lambda t, x: t.amin(x, 0),
    "amax of all": lambda t, x: t.amax(x),
    "aminmax": lambda t, x: t.aminmax(x, dim=1).max,
    "max": lambda t, x: t.max(x),
    "min": lambda t, x: t.min(x),
    "max along": lambda t, x: t.max(x, 1).values,
    "median": lambda t, x: t.median(x),
    "scatter_reduce": lambda t, x: (
        t.zeros(3, 3).to(x.dtype).scatter_reduce(1, t.tensor([[0, 0, 1]] * 3), x, "amax")
    ),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_gradients_of_extremes_of_nan_are_pytorchs(name, dtype):
    torch = pytest.importorskip("torch")
    nan = float("nan")
    values = [[nan, nan, 1.0], [0.0, 2.0, 2.0], [nan, 1.0, -1.0]]

    def gradient(t):
        x = t.tensor(values, dtype=getattr(t, dtype), requires_grad=True)
        y = EXTREMES[name](t, x)
        (g,) = t.autograd.grad(y, x, t.full(y.shape, 2.0, dtype=y.dtype))
        return g.numpy()

    np.testing.assert_array_equal(gradient(fastdl), gradient(torch))


def test_the_median_of_nothing_belongs_to_the_graph():
    torch = pytest.importorskip("torch")
    for lib in (torch, fastdl):
        x = lib.zeros(0, requires_grad=True)
        y = x.median()
        y.backward()
        assert y.isnan().item()
        assert x.grad.shape == (0,)

"""Tensors on a GPU, without one: everything above the kernels, on a stand-in for CuPy (``fake_cupy``).

The kernels of the stand-in are the reference ones, so whatever runs on ``device="cuda"`` must give the very numbers
that the CPU gives under ``use_backend("reference")``; and because its arrays refuse to become NumPy's, what passes here
computes where its inputs are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import derivative_cases
import device_runs
import fake_cupy
import fastdl
import fastdl.nn.functional as F
from device_cases import CASES, sparse_steps
from device_modules import MODULES, OPTIMIZERS, characters, language_model, lenet, trained
from device_runs import ints, on, run, tensors
from fastdl import nn
from fastdl.kernels import capture
from fastdl.ops import host

pytestmark = [
    pytest.mark.usefixtures("gpu"),
    pytest.mark.filterwarnings("ignore:.*computed on the CPU"),  # what has no kernel
]


def check(case: Callable[[str], Any], rounding: float = 0.0) -> None:
    """On the CPU and the device, which then is the default as well: what is made on the CPU says so.

    Args:
        rounding: the relative difference that is allowed, where both sides have kernels of their own.
    """
    with (
        np.errstate(all="ignore"),
        fastdl.use_backend("reference"),
    ):  # for what is computed on the CPU in both
        expected = run(case, "cpu")
        actual = run(case, "cuda")
        with fastdl.device("cuda"):
            by_default = run(case, "cuda")
    assert len(actual) == len(by_default) == len(expected) > 0
    for a, d, e in zip(actual, by_default, expected, strict=True):
        assert a.dtype == d.dtype == e.dtype
        np.testing.assert_allclose(a, e, rounding, rounding)
        np.testing.assert_allclose(d, e, rounding, rounding)


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_the_same_on_the_device(name: str) -> None:
    check(
        CASES[name], 1e-5 if name == "linalg: determinants" else 0.0
    )  # NumPy's on the CPU, by the LU kernel on a GPU


def test_sparse_gradients_step_on_the_device() -> None:
    check(sparse_steps, 1e-6)


# ----------------------------------------------------------------------------------------------- layers, training


@pytest.mark.parametrize("name", MODULES)
def test_a_layer_gives_the_same_on_the_device(name: str) -> None:
    check(MODULES[name])


def orthogonal(device: str, **options: Any) -> Any:
    fastdl.manual_seed(0)
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4).to(device), **options)
    return layer(on(device, 2, 4)), layer.weight


def pruned(device: str, how: Callable[..., Any], **options: Any) -> Any:
    fastdl.manual_seed(0)
    layer = nn.Linear(4, 3).to(device)
    how(layer, "weight", amount=0.5, **options)
    return layer(on(device, 2, 4))


def initialised(device: str, how: str, *shape: int, **options: Any) -> Any:
    return getattr(nn.init, how)(fastdl.empty(*shape, device=device), **options)


D, P, A = fastdl.distributions, nn.utils.prune, fastdl.autograd.functional
UTILITIES: dict[str, Callable[[str], Any]] = {
    "prune by size": lambda d: pruned(d, P.l1_unstructured),
    "prune at random": lambda d: pruned(d, P.random_unstructured),
    "prune rows": lambda d: pruned(d, P.ln_structured, n=2, dim=0),
    "orthogonal": lambda d: orthogonal(d),
    "orthogonal by matrix_exp": lambda d: orthogonal(d, orthogonal_map="matrix_exp"),
    "orthogonal by cayley": lambda d: orthogonal(d, orthogonal_map="cayley"),
    "spectral_norm parametrization": lambda d: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4).to(d))(
        on(d, 2, 4)
    ),
    "jacobian": lambda d: A.jacobian(lambda a: a.exp() * a, on(d, 3, grad=False)),
    "hessian": lambda d: A.hessian(lambda a: (a.exp() * a).sum(), on(d, 3, grad=False)),
    "jvp": lambda d: A.jvp(lambda a: a.exp(), on(d, 3, grad=False), on(d, 3, grad=False)),
    "vmap": lambda d: fastdl.vmap(lambda a, b: (a * b).sum())(on(d, 3, 4), on(d, 3, 4)),
    "initial values": lambda d: (
        initialised(d, "orthogonal_", 3, 3),
        initialised(d, "trunc_normal_", 3, 3),
        initialised(d, "sparse_", 4, 4, sparsity=0.5),
        initialised(d, "eye_", 3, 3),
        initialised(d, "dirac_", 3, 3, 3),
    ),
    "Gamma": lambda d: D.Gamma(on(d, 3, low=0.5), 1.0).rsample(),
    "Beta, Dirichlet": lambda d: (
        D.Beta(on(d, 3, low=0.5), 2.0).sample(),
        D.Dirichlet(on(d, 3, low=0.5)).sample(),
    ),
    "StudentT": lambda d: D.StudentT(on(d, 3, low=3, high=4)).sample(),
    "MultivariateNormal": lambda d: D.MultivariateNormal(on(d, 3), fastdl.eye(3, device=d)).sample(),
    "Binomial, Multinomial": lambda d: (
        D.Binomial(5, on(d, 3, low=0.2, high=0.8)).sample(),
        D.Multinomial(5, on(d, 3, low=0.2)).sample(),
    ),
    "Gumbel, Geometric": lambda d: (
        D.Gumbel(on(d, 3), on(d, 3, low=0.5)).sample(),
        D.Geometric(on(d, 3, low=0.2, high=0.8)).sample(),
    ),
}


@pytest.mark.parametrize("name", UTILITIES)
def test_a_utility_gives_the_same_on_the_device(name: str) -> None:
    check(UTILITIES[name])


def test_gradients_can_be_checked_on_the_device() -> None:
    x = on("cuda", 3, grad=False).double().requires_grad_()
    assert fastdl.autograd.gradcheck(lambda a: a * a, (x,))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_gives_the_same_on_the_device(name: str) -> None:
    check(lambda device: trained(device, OPTIMIZERS[name]))


@pytest.mark.parametrize("train", [lenet, characters, language_model])
def test_training_gives_the_same_on_the_device(train: Any) -> None:
    check(train)


def test_a_training_step_makes_no_transfers() -> None:
    """Nothing that a step computes passes through the CPU, where every pass would wait for the GPU."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).cuda()
    optimizer = fastdl.optim.AdamW(model.parameters())
    x, y = on("cuda", 4, 1, 8, 8, grad=False), ints("cuda", 4, high=3)
    before = dict(fake_cupy.transfers)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert fake_cupy.transfers == before


LONG_TAIL: dict[str, Callable[[], Any]] = {
    **{
        name: lambda f=name: getattr(fastdl if hasattr(fastdl, f) else fastdl.special, f)(
            on("cuda", 5, low=0.1, high=0.9)
        )
        for name in (
            "lgamma digamma erfc erfcx erfinv ndtr log_ndtr ndtri i0 i0e i1 i1e logit entr sinc exp2 nansum nanmean"
        ).split()
    },
    **{
        name: lambda f=name: getattr(fastdl, f)(on("cuda", 3, 5), 1)
        for name in ("logcumsumexp", "cummax", "cummin")
    },
    **{
        name: lambda f=name: getattr(fastdl, f)(on("cuda", 5), on("cuda", 5, seed=1))
        for name in ("logaddexp", "logaddexp2", "copysign", "xlogy", "ldexp")
    },
    "polygamma": lambda: fastdl.polygamma(3, on("cuda", 5, low=0.5)),
    "zeta": lambda: fastdl.special.zeta(3.0, on("cuda", 5, low=0.5)),
    "igamma": lambda: fastdl.igamma(on("cuda", 5, low=0.5, grad=False), on("cuda", 5, low=0.5, seed=1)),
    "igammac": lambda: fastdl.igammac(on("cuda", 5, low=0.5, grad=False), on("cuda", 5, low=0.5, seed=1)),
    "medians": lambda: (on("cuda", 9).median(), on("cuda", 9).nanmedian(), ints("cuda", 9).median()),
    "medians of rows": lambda: (on("cuda", 3, 5).median(1), on("cuda", 3, 5).nanmedian(1)),
    "mode": lambda: (on("cuda", 3, 5).mode(0), ints("cuda", 9).mode()),
    "quantile": lambda: on("cuda", 3, 5).quantile(on("cuda", 2, low=0, high=1), 1),
    "quantile by shares on the device": lambda: on("cuda", 3, 5).quantile(
        on("cuda", 2, low=0, high=1, grad=False), 1
    ),
    "nanquantile": lambda: (
        on("cuda", 3, 5).nanquantile(0.3, 0),
        on("cuda", 3, 5).nanquantile(on("cuda", low=0, high=1)),
    ),
    "fractional pooling": lambda: (
        F.fractional_max_pool2d(on("cuda", 2, 3, 7, 9), 2, 3, return_indices=True),
        F.fractional_max_pool3d(on("cuda", 1, 4, 5, 6), 2, 3),
    ),
    "gradient of frexp": lambda: fastdl.frexp(on("cuda", 5).requires_grad_()).mantissa,
    "gcd": lambda: fastdl.gcd(ints("cuda", 5), ints("cuda", 5, seed=1)),
    "heaviside": lambda: fastdl.heaviside(on("cuda", 5, grad=False), on("cuda", 5, grad=False)),
    "nextafter": lambda: fastdl.nextafter(on("cuda", 5, grad=False), on("cuda", 5, grad=False, seed=1)),
    "isin": lambda: fastdl.isin(ints("cuda", 9), ints("cuda", 2)),
    "cummax of integers": lambda: ints("cuda", 9).cummax(0),
    "bucketize": lambda: fastdl.bucketize(on("cuda", 3), fastdl.tensor([0.0, 1.0], device="cuda")),
    "vander": lambda: fastdl.vander(on("cuda", 3, grad=False)),
    "cov": lambda: on("cuda", 3, 4).cov(),
    "gather": lambda: on("cuda", 5, 4).gather(0, ints("cuda", 2, 4)),
    "scatter_add": lambda: on("cuda", 5, 4).scatter_add(0, ints("cuda", 2, 4), on("cuda", 2, 4)),
    "scatter_reduce": lambda: on("cuda", 5, 4).scatter_reduce(
        0, ints("cuda", 2, 4), on("cuda", 2, 4), "amax"
    ),
}


@pytest.mark.parametrize("name", LONG_TAIL)
def test_the_long_tail_makes_no_transfers(name: str) -> None:
    device_runs.watched.clear()
    before = fake_cupy.transfers["to_host"]
    with np.errstate(all="ignore"):
        for y in tensors(LONG_TAIL[name]()):
            if y.requires_grad:
                y.sum().backward(retain_graph=True)
    assert fake_cupy.transfers["to_host"] == before


OUT_OF_RANGE: dict[str, Callable[[Any, Any], Any]] = {
    "x[i]": lambda x, i: x[i],
    "x[i] = v": lambda x, i: x.__setitem__(i, 1.0),
    "x[:, i] = v": lambda x, i: x.__setitem__((slice(None), i), 1.0),
    "x[~i] = v": lambda x, i: x.__setitem__(-i - 1, 1.0),
    "x[mask] = v": lambda x, i: x.__setitem__(i > 1, 1.0),
    "index_put_": lambda x, i: x.index_put_((i,), x[:2]),
    "put_": lambda x, i: x.put_(i + 99, x[0, :2]),
    "take": lambda x, i: x.take(i + 99),
    "take_along_dim": lambda x, i: x.take_along_dim(i.reshape(2, 1), 0),
    "gather": lambda x, i: x.gather(0, i.reshape(2, 1)),
    "index_select": lambda x, i: x.index_select(0, i),
    "index_fill": lambda x, i: x.index_fill(0, i, 1.0),
    "index_copy": lambda x, i: x.index_copy(0, i, x[:2]),
    "index_add": lambda x, i: x.index_add(0, i, x[:2]),
    "scatter": lambda x, i: x.scatter(0, i.reshape(2, 1), 1.0),
    "scatter_add": lambda x, i: x.scatter_add(0, i.reshape(2, 1), x),
    "scatter_reduce": lambda x, i: x.scatter_reduce(0, i.reshape(2, 1), x, "amax"),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_an_index_out_of_range_never_wraps_around(name: str) -> None:
    """CuPy takes it modulo the extent."""
    x = fastdl.zeros(3, 4, device="cuda")
    before = x.tolist()
    with pytest.raises(
        (IndexError, RuntimeError), match=r"out of range|out of bounds|does not match the axes"
    ):
        OUT_OF_RANGE[name](x, fastdl.tensor([1, 7], device="cuda"))
    assert x.tolist() == before


def test_an_empty_tensor_can_be_written_to() -> None:
    x = fastdl.zeros(0, 3, device="cuda")  # its strides are 0, as those of an expanded view
    x[:] = 1.0
    x[fastdl.tensor([], dtype=fastdl.int64, device="cuda")] = 2.0
    assert x.add_(1).shape == (0, 3)


def test_a_value_on_the_cpu_is_named_where_a_gpu_s_tensor_is_written() -> None:
    x = fastdl.zeros(3, 4, device="cuda")
    for key in (0, slice(None), (slice(None), 1)):
        with pytest.raises(RuntimeError, match=r"setitem: Expected all tensors to be on the same device"):
            x[key] = fastdl.ones(x[key].shape)


def test_windows_of_fractional_pooling_are_drawn_beside_its_copy() -> None:
    with fastdl.device("cuda"):
        assert F.fractional_max_pool2d(fastdl.rand(1, 2, 5, 5), 2, output_size=2).device.type == "cuda"


def test_the_stand_in_refuses_what_cupy_refuses(gpu: Any) -> None:
    """Seen with CuPy 14.2."""
    rows = fastdl.tensor([1, 1], device="cuda")._data
    x = fastdl.zeros(2, 3, device="cuda")._data
    wide = x.astype(np.float16).astype(fastdl.bfloat16)
    for call, error in (
        (lambda: np.sort(wide), NotImplementedError),
        (lambda: np.cumsum(wide, 0), NotImplementedError),
        (lambda: gpu.add.at(wide, (rows,), wide), TypeError),
        (lambda: gpu.add.at(x.astype(np.int8), (rows,), x.astype(np.int8)), TypeError),
        (lambda: gpu.add.at(x.astype(np.complex64), (rows,), x.astype(np.complex64)), TypeError),
        (lambda: gpu.add.at(x, (rows,), x), AssertionError),  # by atomics, as the next one
        (lambda: np.bincount(rows, x[0, :2]), AssertionError),
        (lambda: np.full(3, 1.0, like=x), TypeError),
        (lambda: x.__setitem__(0, np.ones(3, np.float32)), ValueError),
    ):
        with pytest.raises(error):
            call()
    assert np.zeros_like(x, shape=()).shape == (2, 3)
    assert np.take(x, fastdl.tensor([5], device="cuda")._data, 0).shape == (1, 3)
    assert np.array_equal(x, x).shape == ()


def test_what_is_computed_on_the_cpu_says_so_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(host, "_told", set())
    x = fastdl.eye(3, device="cuda")
    with pytest.warns(UserWarning, match="eig has no CUDA kernel: computed on the CPU"):
        fastdl.linalg.eig(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastdl.linalg.eig(x)
    monkeypatch.setattr(capture, "active", True)
    with pytest.raises(RuntimeError, match="eig: is computed on the CPU, which a graph cannot record"):
        fastdl.linalg.eig(x)
    for function in (fastdl.linalg.inv, fastdl.linalg.svd, fastdl.linalg.cholesky):
        with pytest.raises(RuntimeError, match="waits for the GPU, which a graph cannot record"):
            function(x)


def test_matrices_without_a_result_are_errors_on_the_device() -> None:
    with fastdl.use_backend("reference"):
        singular = fastdl.tensor([[1.0, 2.0], [2.0, 4.0]], device="cuda")
        for function in (
            fastdl.linalg.inv,
            lambda a: fastdl.linalg.cholesky(-a),
            lambda a: fastdl.linalg.cholesky(a * float("nan")),
            lambda a: fastdl.linalg.solve(a, a),
            lambda a: fastdl.linalg.lu_factor_ex(a, check_errors=True),
        ):
            with pytest.raises(fastdl.linalg.LinAlgError):
                function(singular)
        assert fastdl.linalg.cholesky_ex(-singular).info.item() == 1
        leaf = singular.clone().requires_grad_()
        fastdl.linalg.det(leaf).backward()
    np.testing.assert_allclose(leaf.grad.cpu().numpy(), [[4, -2], [-2, 1]], rtol=1e-5)


# --------------------------------------------------------------------------------------------- second derivatives


def second(name: str, device: str) -> list[Any]:
    """Values, slopes and second derivatives of a case of ``derivative_cases``, its inputs on a device."""
    function, inputs = derivative_cases.CASES[name]
    moved = [
        x.detach().to(device).requires_grad_(x.requires_grad) if isinstance(x, fastdl.Tensor) else x
        for x in inputs
    ]
    leaves = [x for x in moved if isinstance(x, fastdl.Tensor) and x.requires_grad]
    fastdl.manual_seed(0)
    values = [v for v in tensors(function(*moved)) if v.requires_grad]
    total = sum((v * v).sum() for v in values)
    slopes = fastdl.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    curved = [g for g in slopes if g is not None and g.requires_grad]
    found = [*values, *[g for g in slopes if g is not None]]
    if curved:
        found += [
            g
            for g in fastdl.autograd.grad(sum((g * g).sum() for g in curved), leaves, allow_unused=True)
            if g is not None
        ]
    for t in found:
        assert t.device.type == device
    return [t.detach().cpu().numpy() for t in found]


def move_own(name: str, device: str) -> None:
    """Move what a case's function holds: its parameters, and tensors around it."""
    function = derivative_cases.CASES[name][0]
    for cell in getattr(function, "__closure__", None) or ():
        if isinstance(cell.cell_contents, fastdl.Tensor):
            cell.cell_contents = cell.cell_contents.to(device)
    if isinstance(function, nn.Module):
        function.to(device)


OWN_TENSORS = {"prod with zeros", "cumprod with zeros"}  # made in the case, on the CPU


@pytest.mark.parametrize("name", [n for n in derivative_cases.CASES if n not in OWN_TENSORS])
def test_a_second_derivative_gives_the_same_on_the_device(name: str, monkeypatch: Any) -> None:
    """What a rule makes beside its operands (ones, masks, ranges) lies where they do."""
    with np.errstate(all="ignore"), fastdl.use_backend("reference"):
        expected = second(name, "cpu")
        for constant, value in vars(derivative_cases).items():
            if isinstance(value, nn.Module):
                value.to("cuda")
            elif isinstance(value, fastdl.Tensor) and constant != "PACKED":
                monkeypatch.setattr(derivative_cases, constant, value.cuda())
        monkeypatch.setattr(derivative_cases, "ints", lambda *v: fastdl.tensor(v, device="cuda"))
        move_own(name, "cuda")
        try:
            actual = second(name, "cuda")
        finally:
            move_own(name, "cpu")
            for value in vars(derivative_cases).values():
                if isinstance(value, nn.Module):
                    value.cpu()
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12)


def test_the_default_device():
    layer = nn.Linear(2, 3)
    with fastdl.device("cuda:1") as where:
        assert fastdl.get_default_device() == where == fastdl.device("cuda:1")
        made = [
            fastdl.ones(2),
            fastdl.tensor([1.0]),
            fastdl.randn(2),
            fastdl.arange(3),
            nn.Linear(2, 3).weight,
        ]
        assert {t.device for t in made} == {where}
        with fastdl.device("cpu"):
            assert fastdl.zeros(2).device.type == "cpu"
        assert fastdl.tensor(layer.weight.detach()).device.type == "cpu"
        assert fastdl.from_numpy(np.ones(2)).device.type == "cpu"
        assert fastdl.zeros_like(layer.weight).device.type == "cpu"
    assert fastdl.ones(2).device.type == fastdl.get_default_device().type == "cpu"
    fastdl.set_default_device("cuda")
    try:
        assert fastdl.empty(2).device == fastdl.device("cuda:0")
        assert nn.BatchNorm1d(2)(fastdl.rand(4, 2)).device == fastdl.device("cuda:0")
    finally:
        fastdl.set_default_device(None)
    with pytest.raises(RuntimeError, match="set_default_device: device 'cuda:7' does not exist"):
        fastdl.set_default_device("cuda:7")
    assert fastdl.get_default_device().type == "cpu"


def test_complex_numbers_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views, arithmetic, functions, products and transforms, with gradients: CuPy's functions by NumPy's protocols."""
    monkeypatch.setattr(
        "fastdl.ops.fourier._loops", lambda: None
    )  # the stand-in's are numpy.fft's: computed in double

    def case(device: str) -> Any:
        r, s = on(device, 2, 2), on(device, 2, 2, seed=1)
        z = fastdl.complex(r, s)
        y = (z * r + 1j) / (z.conj() + 3) - r * 1j
        parts = fastdl.view_as_real(y.exp() @ z.mH).sum(-1) + y.abs() + z.imag
        turned = fastdl.view_as_complex(fastdl.stack([r, r], -1)) * fastdl.polar(r.abs() + 1, r)
        spectra = fastdl.fft.rfft(r) * 2, fastdl.fft.fft2(z), fastdl.fft.irfft(z, 3)
        return parts, *[t.real if t.is_complex() else t for t in (turned, *spectra)]

    check(case, rounding=1e-6)  # the CPU fuses complex products, and divides in double


def test_gradients_of_parts_meet():
    """They are added to the gradient of the whole where it lies."""

    def case(device):
        x = fastdl.arange(24.0, device=device).reshape(4, 6).requires_grad_()
        y = x * x
        sum([(y[:, t] * (t + 1)).sum() + y[t % 4, ::2].sum() for t in range(6)]).backward()
        return x.grad

    check(case)

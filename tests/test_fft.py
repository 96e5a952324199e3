"""Fourier transforms and spectrograms beside PyTorch, their gradients twice over, and programs that use them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastdl
from fastdl.autograd import gradcheck, gradgradcheck
from fastdl.kernels import cpu, reference
from fastdl.ops import fourier

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch")
RNG = np.random.default_rng(6)
ONE = "fft ifft rfft irfft hfft ihfft".split()
SEVERAL = [name + end for name in ONE for end in ("2", "n")]
OF_ONE = [{}, {"norm": "ortho"}, {"norm": "forward"}, {"n": 4}, {"n": 9, "dim": 1}, {"n": 3, "dim": 0}]
OF_SEVERAL = [
    {},
    {"norm": "ortho"},
    {"norm": "forward"},
    {"s": (3, 6)},
    {"s": (5, 4), "dim": (0, 1)},
    {"dim": (0, 2)},
    {"dim": (-1, 0), "norm": "ortho"},
]


def _signal(name, shape, dtype=np.float64):
    x = RNG.standard_normal(shape)
    if name.startswith(("r", "ihfft")):
        return x.astype(dtype)
    return (x + 1j * RNG.standard_normal(shape)).astype(
        np.complex128 if dtype is np.float64 else np.complex64
    )


def _with_gradients(L, name, x, options):
    """The transform, the gradient of a loss, and the gradient of that gradient's size."""
    t = L.tensor(x, requires_grad=True)
    y = getattr(L.fft, name)(t, **options)
    weights = L.tensor(np.random.default_rng(1).standard_normal(tuple(y.shape)), dtype=t.real.dtype)
    if y.is_complex():
        loss = (y.real**2 * weights).sum() + (y.imag * weights).sum()
    else:
        loss = (y**2 * weights).sum()
    (slope,) = L.autograd.grad(loss, t, create_graph=True)
    (slope.abs() ** 2).sum().backward()
    return [v.detach().resolve_conj().numpy() for v in (y, slope, t.grad)]


@needs_torch
@pytest.mark.parametrize("name", ONE + SEVERAL)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_transforms_like_torch(name, dtype):
    tolerance = 1e-10 if dtype is np.float64 else 3e-4
    for shape in ((3, 4, 5), (2, 6, 8)):
        x = _signal(name, shape, dtype)
        for options in OF_ONE if name in ONE else OF_SEVERAL:
            wanted, got = _with_gradients(torch, name, x, options), _with_gradients(fastdl, name, x, options)
            for want, have in zip(wanted, got, strict=True):
                assert want.dtype == have.dtype
                assert want.shape == have.shape
                limit = tolerance * (1 + np.abs(want).max())
                np.testing.assert_allclose(have, want, rtol=tolerance, atol=limit)


@pytest.mark.parametrize("name", ["fft", "ifft", "rfft", "irfft", "hfft", "ihfft", "rfft2", "irfft2"])
def test_gradients(name):
    for shape in ((3, 4), (2, 5)):
        x = fastdl.tensor(_signal(name, shape), requires_grad=True)
        assert gradcheck(getattr(fastdl.fft, name), (x,))
        assert gradgradcheck(getattr(fastdl.fft, name), (x,))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_ones_go_in_pieces(threads):
    """Slices of the first axis on threads: the same numbers, whichever axis is transformed, and in products."""
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(threads)
    try:
        x = RNG.standard_normal((5, 130, 256)).astype(np.float32)
        z = x + 1j * x[::-1]
        for axis in range(3):
            for name, given in (("rfft", x), ("fft", z), ("ifft", z), ("irfft", z)):
                have = getattr(fastdl.fft, name)(fastdl.tensor(given), dim=axis).numpy()
                np.testing.assert_allclose(
                    have, getattr(np.fft, name)(given, axis=axis), rtol=1e-3, atol=1e-3
                )
        z, x = z.astype(np.complex128), x.astype(np.float64)  # complex64 has a kernel
        for other in (z[0], z[:, :1], z[..., :1], z[:1], x):
            np.testing.assert_array_equal((fastdl.tensor(z) * fastdl.tensor(other)).numpy(), z * other)
    finally:
        fastdl.set_num_threads(before)


def test_there_and_back():
    for n in (1, 2, 7, 8):
        x = fastdl.tensor(RNG.standard_normal((2, n)))
        assert fastdl.allclose(fastdl.fft.irfft(fastdl.fft.rfft(x), n), x)
        assert fastdl.allclose(fastdl.fft.ifft(fastdl.fft.fft(x)).real, x)
        assert fastdl.allclose(fastdl.fft.hfft(fastdl.fft.ihfft(x), n), x)


def test_frequencies_and_shifts():
    assert fastdl.fft.fftfreq(5).tolist() == pytest.approx([0, 0.2, 0.4, -0.4, -0.2])
    assert fastdl.fft.rfftfreq(4, 0.5).tolist() == [0, 0.5, 1]
    x = fastdl.arange(5)
    assert fastdl.fft.fftshift(x).tolist() == [3, 4, 0, 1, 2]
    assert fastdl.fft.ifftshift(fastdl.fft.fftshift(x)).tolist() == x.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastdl.fft.rfft(fastdl.ones(4, dtype=fastdl.cfloat)), "expects a real input"),
        (lambda: fastdl.fft.fft(fastdl.ones(4), norm="no"), "normalization mode"),
        (lambda: fastdl.fft.fft(fastdl.ones(4), 0), "Invalid number of data points"),
        (lambda: fastdl.fft.fft(fastdl.ones(4).half()), "Unsupported dtype"),
        (lambda: fastdl.fft.fft(fastdl.ones(0)), "Invalid number of data points"),
        (lambda: fastdl.fft.fftn(fastdl.ones(4), s=(2, 2)), "only has 1 dim"),
        (lambda: fastdl.fft.fft2(fastdl.ones(4, 4), s=(2,)), "same length"),
        (lambda: fastdl.fft.fft(fastdl.ones(4), dim=1), "dim"),
        (lambda: fastdl.fft.fft([1.0]), "must be a Tensor"),
        (lambda: fastdl.stft(fastdl.ones(20), 8), "return_complex"),
        (lambda: fastdl.stft(fastdl.ones(20), 8, window=fastdl.ones(5), return_complex=True), "win_length=8"),
        (lambda: fastdl.stft(fastdl.ones(2, 3, 20), 8, return_complex=True), "1D or 2D"),
        (lambda: fastdl.stft(fastdl.ones(4), 8, center=False, return_complex=True), "n_fft"),
        (lambda: fastdl.istft(fastdl.ones(5, 4), 8), "complex-valued"),
        (lambda: fastdl.istft(fastdl.ones(6, 4, dtype=fastdl.cfloat), 8), "frequency dimension"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((RuntimeError, TypeError, IndexError), match=message):
        call()


STFT = [
    {"n_fft": 16},
    {"n_fft": 16, "hop_length": 5, "window": 16},
    {"n_fft": 16, "window": 16, "onesided": False},
    {"n_fft": 16, "win_length": 10, "window": 10},
    {"n_fft": 15, "window": 15, "normalized": True},
    {"n_fft": 16, "center": False},
    {"n_fft": 16, "pad_mode": "constant"},
    {"n_fft": 16, "win_length": 12, "hop_length": 4},
]


@needs_torch
@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("options", STFT)
@pytest.mark.parametrize("shape", [(200,), (2, 200)])
def test_spectrograms_like_torch(options, shape):
    x = RNG.standard_normal(shape)
    results = []
    for L in (torch, fastdl):
        given = dict(options)
        if "window" in given:
            given["window"] = L.hann_window(given["window"], dtype=L.float64)
        t = L.tensor(x, requires_grad=True)
        y = t.stft(**given, return_complex=True)
        back = {k: v for k, v in given.items() if k != "pad_mode"}
        z, short = L.istft(y, **back), L.istft(y, **back, length=170)
        ((y.abs() ** 2).sum() + (z**3).sum() + short.sum()).backward()
        results.append([v.detach().numpy() for v in (y, z, short, t.grad)])
    for want, have in zip(*results, strict=True):
        assert want.shape == have.shape
        assert want.dtype == have.dtype
        np.testing.assert_allclose(have, want, rtol=1e-8, atol=1e-8 * (1 + np.abs(want).max()))


@needs_torch
@pytest.mark.filterwarnings("ignore:A window was not provided")
def test_spectrograms_of_complex_signals():
    x = RNG.standard_normal((2, 60)) + 1j * RNG.standard_normal((2, 60))
    want, have = torch.tensor(x).stft(16, return_complex=True), fastdl.tensor(x).stft(16)
    np.testing.assert_allclose(have.numpy(), want.numpy(), atol=1e-10)
    back = fastdl.istft(have, 16, onesided=False, return_complex=True)
    np.testing.assert_allclose(back.numpy(), x[:, : back.shape[1]], atol=1e-10)
    with pytest.warns(UserWarning, match="older form"):
        parts = fastdl.stft(fastdl.ones(32), 8, return_complex=False)
    assert parts.shape == (5, 17, 2)


def test_windows_that_leave_gaps():
    y = fastdl.stft(fastdl.ones(64), 8, 8, window=fastdl.hann_window(8), center=False, return_complex=True)
    with pytest.raises(RuntimeError, match="add up to 0"):
        fastdl.istft(y, 8, 8, window=fastdl.hann_window(8), center=False)


# -------------------------------------------------------------------------------- programs, as people write them


def rotary(L, q, k, freqs):
    """Rotary embedding with polar: pairs turned by an angle that grows with the position."""
    cis = L.polar(L.ones_like(freqs), freqs)[None, :, None]
    turned = []
    for x in (q, k):
        pairs = L.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turned.append(L.view_as_real(pairs * cis).flatten(3).type_as(x))
    scores = L.einsum("bqhd,bkhd->bhqk", *turned)
    return (scores.softmax(-1) ** 2).sum()


def fnet(L, x, weight):
    """FNet's mixing: the real part of a transform over positions and features, in place of attention."""
    mixed = L.fft.fft(L.fft.fft(x, dim=-1), dim=-2).real
    y = L.nn.functional.layer_norm(x + mixed, (x.shape[-1],))
    return L.nn.functional.gelu(y @ weight).square().mean()


def fourier_layer(L, x, w1, w2):
    """A Fourier neural operator's layer: some modes multiplied by complex weights, stored as pairs."""
    spectrum = L.fft.rfft2(x)
    out = L.zeros(x.shape[0], w1.shape[1], *spectrum.shape[-2:], dtype=L.cfloat)
    m1, m2 = w1.shape[2:4]
    out[:, :, :m1, :m2] = L.einsum("bixy,ioxy->boxy", spectrum[:, :, :m1, :m2], L.view_as_complex(w1))
    out[:, :, -m1:, :m2] = L.einsum("bixy,ioxy->boxy", spectrum[:, :, -m1:, :m2], L.view_as_complex(w2))
    return L.nn.functional.gelu(L.fft.irfft2(out, s=x.shape[-2:])).square().sum()


def spectral_loss(L, x, y):
    """The distance of two signals' spectrograms, in magnitude and logarithm."""
    window = L.hann_window(32)
    a, b = [L.stft(t, 32, 8, window=window, return_complex=True).abs() for t in (x, y)]
    convergence = L.linalg.norm(a - b) / L.linalg.norm(b)
    return convergence + L.nn.functional.l1_loss((a + 1e-3).log(), (b + 1e-3).log()) + (a**2).mean()


def state_space(L, lam, b, c):
    """A diagonal state-space layer: its kernel from complex powers, the convolution by transforms."""
    n = 24
    decay = -L.exp(lam.real) + 1j * lam.imag
    powers = L.exp(decay[:, None] * L.arange(n) * 0.1)
    kernel = 2 * L.einsum("hn,h->n", powers, b * c).real
    x = L.sin(L.arange(n) * 0.3)
    return (L.fft.irfft(L.fft.rfft(kernel, 2 * n) * L.fft.rfft(x, 2 * n), 2 * n)[:n] ** 2).sum()


def _normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


PROGRAMS = {
    "rotary": (rotary, _normal(2, 5, 3, 8), _normal(2, 5, 3, 8), _normal(5, 4)),
    "fnet": (fnet, _normal(2, 6, 8), _normal(8, 8)),
    "fourier layer": (fourier_layer, _normal(2, 3, 8, 10), _normal(3, 4, 3, 3, 2), _normal(3, 4, 3, 3, 2)),
    "spectral loss": (spectral_loss, _normal(2, 160), _normal(2, 160)),
    "state space": (state_space, _normal(4) + 1j * _normal(4), _normal(4) + 1j * _normal(4), 1j * _normal(4)),
}


@needs_torch
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_like_torch(name):
    program, *arrays = PROGRAMS[name]
    results = []
    for L in (torch, fastdl):
        leaves = [L.tensor(a, requires_grad=True) for a in arrays]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = program(L, *leaves)
            loss.backward()
        results.append([loss.detach().numpy(), *[t.grad.resolve_conj().numpy() for t in leaves]])
    for want, have in zip(*results, strict=True):
        assert want.dtype == have.dtype
        np.testing.assert_allclose(have, want, rtol=2e-3, atol=2e-4 * (1 + np.abs(want).max()))


TRANSFORMS = {
    "fft": (np.complex128, lambda n: n),
    "ifft": (np.complex128, lambda n: n),
    "rfft_n_even": (np.float64, lambda n: n // 2 + 1),
    "rfft_n_odd": (np.float64, lambda n: n // 2 + 1),
    "irfft": (np.complex128, lambda n: 2 * n - 2),
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_loops_on_threads(name, threads):
    """NumPy's loop over all rows, and the same loop in pieces, whichever way rows and columns lie in memory."""
    from numpy.fft import _pocketfft_umath as loops

    kind, count = TRANSFORMS[name]
    loop = getattr(loops, name)
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(threads)
    try:
        for shape in (
            *((5,), (1, 6), (3, 70000), (2, 1, 9000), (41, 700), (4, 37, 300), (300, 37, 2), (8, 9, 10, 31)),
            (0, 4),
        ):
            for axis in range(len(shape)):
                n = shape[axis]
                odd = name == "rfft_n_odd"
                if n < 2 or (name.startswith("rfft") and n % 2 != odd):
                    continue
                whole = RNG.standard_normal(shape).astype(kind)
                if whole.dtype.kind == "c":
                    whole.imag = RNG.standard_normal(shape)
                for dtype, tolerance in (
                    (kind, 1e-12),
                    (np.complex64 if kind is np.complex128 else np.float32, 2e-5),
                ):
                    plain = whole.astype(dtype)
                    for x in (plain, plain[..., ::-1], np.asfortranarray(plain)):
                        want = reference.transform(loop, x, axis, count(n), 0.25)
                        have = cpu.transform(loop, x, axis, count(n), 0.25)
                        assert have.dtype == want.dtype
                        scale = np.abs(want).max(initial=0)
                        np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * scale)
                        np.testing.assert_array_equal(have, cpu.transform(loop, x, axis, count(n), 0.25))
                        fastdl.set_num_threads(1)
                        np.testing.assert_array_equal(have, cpu.transform(loop, x, axis, count(n), 0.25))
                        fastdl.set_num_threads(threads)
    finally:
        fastdl.set_num_threads(before)


def test_loops_that_do_not_fit_are_refused():
    from numpy.fft import _pocketfft_umath as loops

    x = np.ones((3, 4), np.complex64)
    for function in (np.add, np.matmul, len, None):
        with pytest.raises((ValueError, TypeError), match="function"):
            cpu.transform(function, x, 1, 4, 1.0)
    for array, axis, count in (
        (x.real.copy(), 1, 4),
        (x.real.astype(np.int64), 1, 4),
        (x, 2, 4),
        (x, -1, 4),
        (x, 1, 0),
    ):
        with pytest.raises(ValueError, match="transform"):
            cpu.transform(loops.fft, array, axis, count, 1.0)
    with pytest.raises(ValueError, match="byte order"):
        cpu.transform(loops.fft, x.astype(">c8"), 1, 4, 1.0)


def test_numbers_that_are_not():
    """The bits that mark what was not written may be a result."""
    x = np.full((3, 4), -1, np.int64).view(np.complex64)
    assert np.isnan(fastdl.fft.fft(fastdl.tensor(x)).numpy()).all()


def test_single_precision_stays_single():
    """The loops were computed in double for a factor that is an integer: four to eight times as long."""
    x = RNG.standard_normal((64, 1000)).astype(np.float32)
    exact = np.fft.rfft(x.astype(np.float64))
    have = fastdl.fft.rfft(fastdl.tensor(x)).numpy()
    assert 1e-8 < np.abs(have - exact.astype(np.complex64)).max() / np.abs(exact).max() < 1e-6


def test_transforms_of_another_numpy(monkeypatch):
    """Where NumPy has no loops of these names its functions are called."""
    x = fastdl.tensor(RNG.standard_normal((3, 8)).astype(np.float32), requires_grad=True)
    found = []
    for loops in (fourier._loops, lambda: None):
        monkeypatch.setattr(fourier, "_loops", loops)
        y = fastdl.fft.irfft2(fastdl.fft.fft2(fastdl.fft.rfft2(x, norm="ortho")), norm="forward")
        (slope,) = fastdl.autograd.grad((y**2).sum(), x)
        found.append((y.detach().numpy(), slope.numpy()))
    for have, want in zip(*found, strict=True):
        assert have.dtype == want.dtype == np.float32
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_windows_added_up(dtype):
    """The gradient of ``unfold``, by parts of windows and by whole ones."""
    for dim, size, step in ((1, 7, 3), (1, 6, 2), (1, 5, 5), (0, 4, 1), (0, 9, 2), (2, 3, 2)):
        x = RNG.standard_normal((11, 23, 5)).astype(dtype)
        t = fastdl.tensor(x, requires_grad=True)
        y = t.unfold(dim, size, step)
        weights = RNG.standard_normal(tuple(y.shape)).astype(dtype)
        (slope,) = fastdl.autograd.grad(y, t, fastdl.tensor(weights))
        want = np.zeros_like(x)
        rows = np.moveaxis(want, dim, 0)
        for i in range(y.shape[dim]):
            rows[i * step : i * step + size] += np.moveaxis(np.take(weights, i, dim), -1, 0)
        np.testing.assert_allclose(slope.numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_gradients_of_a_single_signal(length):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(length).standard_normal(length)
    half = np.random.default_rng(length).standard_normal(length // 2 + 1) * (1 + 0.5j)
    for call in (
        lambda L: (lambda t: L.fft.rfft(t), x),
        lambda L: (lambda t: L.fft.irfft(t, length), half),
        lambda L: (lambda t: L.fft.hfft(t, length), half),
        lambda L: (lambda t: L.fft.ihfft(t), x),
    ):
        grads = []
        for library in (fastdl, torch):
            function, values = call(library)
            leaf = library.tensor(values, requires_grad=True)
            y = function(leaf)
            y = library.view_as_real(y.resolve_conj()) if y.is_complex() else y
            (y * library.arange(1.0, 1.0 + y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
            grads.append(leaf.grad.resolve_conj().numpy())
        np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12, atol=1e-13)

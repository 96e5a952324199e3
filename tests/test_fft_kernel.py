"""The kernel for transforms of many short rows, beside PyTorch's: lengths, layouts, conjugates, gradients."""

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")

LENGTHS = [
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    11,
    13,
    14,
    15,
    16,
    22,
    25,
    26,
    39,
    48,
    49,
    50,
    60,
    77,
    97,
    61,
    127,
    128,
    131,
    254,
    400,
    1001,
    1024,
    1536,
    8190,
    8192,
]
LAYOUTS = {
    "rows": lambda n: ((37, n), -1),
    "columns": lambda n: ((n, 37), 0),
    "middle": lambda n: ((3, n, 9), 1),
    "few": lambda n: ((2, n), -1),
    "short inner axes": lambda n: ((n, 9, 2, 2), 0),
}


def both(shape, dtype, generator):
    """The same numbers for both. PyTorch's always in double: in single its own error is half of what is allowed."""
    x = generator.standard_normal(shape)
    if dtype.is_complex:
        x = x + 1j * generator.standard_normal(shape)
    t = torch.tensor(x).to(dtype)
    return fastdl.tensor(t.numpy()), t.to(torch.complex128 if dtype.is_complex else torch.float64)


def close(ours, theirs, single, error=1e-15):
    ours, theirs = ours.detach().numpy(), theirs.detach().resolve_conj().numpy()
    dtypes = {True: {"f": np.float32, "c": np.complex64}, False: {"f": np.float64, "c": np.complex128}}
    assert (ours.dtype, ours.shape) == (dtypes[single][theirs.dtype.kind], theirs.shape)
    assert abs(ours - theirs).max() <= (5e-7 if single else error) * max(1e-30, abs(theirs).max())


def gradients_close(y, ours, z, theirs, generator, single, error=1e-15):
    up, up_t = both(tuple(z.shape), single_of(z.dtype) if single else z.dtype, generator)
    close(fastdl.autograd.grad(y, ours, up)[0], torch.autograd.grad(z, theirs, up_t)[0], single, error)


def single_of(dtype):
    return torch.complex64 if dtype.is_complex else torch.float32


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", LENGTHS)
def test_lengths_and_layouts(n, layout, single):
    error = 5e-14 if n in (61, 127, 131, 254) else 1e-15  # PyTorch's own for such factors; see the test below
    shape, dim = LAYOUTS[layout](n)
    rng = np.random.default_rng(n)
    real, wide = (torch.float32, torch.complex64) if single else (torch.float64, torch.complex128)
    for name in ("fft", "ifft", "rfft", "ihfft", "irfft", "hfft"):
        ours, theirs = both(shape, real if name in ("rfft", "ihfft") else wide, rng)
        samples = {"n": n} if name in ("irfft", "hfft") else {}
        ours.requires_grad_(), theirs.requires_grad_()
        y = getattr(fastdl.fft, name)(ours, dim=dim, **samples)
        z = getattr(torch.fft, name)(theirs, dim=dim, **samples)
        close(y, z, single, error)
        gradients_close(y, ours, z, theirs, rng, single, error)


@pytest.mark.parametrize("n", [46, 61, 92, 127, 131, 254, 400, 2540])
def test_error_against_the_definition(n):
    """In double, sums over long double: PyTorch's own error is 4e-14 for some of these lengths."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((17, n)) + 1j * rng.standard_normal((17, n))
    k = np.arange(n)
    angle = 2 * np.arccos(np.longdouble(-1)) * (np.outer(k, k) % n).astype(np.longdouble) / n
    wanted = x.astype(np.clongdouble) @ (np.cos(angle) - 1j * np.sin(angle))
    error = abs(fastdl.fft.fft(fastdl.tensor(x)).numpy() - wanted).max() / abs(wanted).max()
    assert error < 1e-15


@pytest.mark.parametrize("name", ["fftn", "ifftn", "rfftn", "irfftn", "hfftn", "ihfftn"])
def test_several_axes_of_views(name):
    rng = np.random.default_rng(1)
    ours, theirs = both((12, 7, 20), torch.float32 if name in ("rfftn", "ihfftn") else torch.complex64, rng)
    for view in (lambda x: x, lambda x: x.transpose(0, 2), lambda x: x[::2, :, 3:], lambda x: x.flip(1)):
        for norm in ("backward", "ortho", "forward"):
            close(
                getattr(fastdl.fft, name)(view(ours), norm=norm),
                getattr(torch.fft, name)(view(theirs), norm=norm),
                single=True,
            )


def test_a_row_of_nan_stays_alone():
    x = fastdl.ones(20, 50)
    x[3] = float("nan")
    for y in (fastdl.fft.rfft(x), fastdl.fft.fft(x), fastdl.fft.irfft(x.to(fastdl.complex64), n=98)):
        bad = fastdl.isnan(fastdl.abs(y)).any(1)
        assert bad.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("name", ["fft2", "ifft2", "rfft2", "irfft2", "hfft2", "ihfft2"])
@pytest.mark.parametrize(
    "shape", [(9, 24, 20), (3, 5, 17, 33), (2, 2, 3, 64, 48), (40, 300)], ids=lambda s: "x".join(map(str, s))
)
def test_slabs(shape, name, single):
    """Images that are transformed one by one, along both axes, and those that are too few or too small for it."""
    rng = np.random.default_rng(2)
    real = torch.float32 if single else torch.float64
    ours, theirs = both(shape, real if name in ("rfft2", "ihfft2") else real.to_complex(), rng)
    for view in (lambda x: x, lambda x: x.transpose(0, 1), lambda x: x[..., ::2, 1:]):
        a, b = view(ours.detach()).requires_grad_(), view(theirs.detach()).requires_grad_()
        y, z = getattr(fastdl.fft, name)(a), getattr(torch.fft, name)(b)
        close(y, z, single, 5e-14)  # PyTorch's: a slice or a half spectrum makes lengths such as 47
        gradients_close(y, a, z, b, rng, single, 5e-14)


@pytest.mark.parametrize("shape", [(4096,), (3, 16000), (2, 44100, 2), (1 << 17,), (2, 3, 12288)])
def test_long_rows(shape):
    """Rows beyond the kernel's length, or too few to lie side by side, are taken apart."""
    rng = np.random.default_rng(3)
    axis = 1 if shape[-1] == 2 else len(shape) - 1
    for real, wide in ((torch.float32, torch.complex64), (torch.float64, torch.complex128)):
        for name in ("fft", "ifft", "rfft", "ihfft", "irfft", "hfft", "rfft2", "irfft2", "hfft2"):
            if name.endswith("2") and len(shape) != 3:
                continue
            ours, theirs = both(shape, real if name in ("rfft", "ihfft", "rfft2") else wide, rng)
            over = {"dim": (0, axis)} if name.endswith("2") else {"dim": axis}
            ours.requires_grad_(), theirs.requires_grad_()
            y, z = getattr(fastdl.fft, name)(ours, **over), getattr(torch.fft, name)(theirs, **over)
            single = real is torch.float32
            close(y, z, single, 3e-15)  # the difference of two errors that grow with log(n)
            gradients_close(y, ours, z, theirs, rng, single, 3e-15)


def test_plans_of_long_rows_are_kept():
    """A plan that is larger than all that is kept would be made anew in every call, and take all others with it."""
    import time

    x = fastdl.randn(1 << 21)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        fastdl.fft.rfft(x)
        times.append(time.perf_counter() - start)
    assert min(times[1:]) < times[0] / 2

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
    128,
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
    x = generator.standard_normal(shape)
    if dtype in (torch.complex64, torch.complex128):
        x = x + 1j * generator.standard_normal(shape)
    t = torch.tensor(x).to(dtype)
    return fastdl.tensor(t.numpy()), t


def close(ours, theirs):
    ours, theirs = ours.detach().numpy(), theirs.detach().resolve_conj().numpy()
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    error = 5e-7 if ours.dtype in (np.float32, np.complex64) else 1e-15
    assert abs(ours - theirs).max() <= error * max(1e-30, abs(theirs).max())


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", LENGTHS)
def test_lengths_and_layouts(n, layout, single):
    shape, dim = LAYOUTS[layout](n)
    rng = np.random.default_rng(n)
    real, wide = (torch.float32, torch.complex64) if single else (torch.float64, torch.complex128)
    for name in ("fft", "ifft", "rfft", "ihfft", "irfft", "hfft"):
        ours, theirs = both(shape, real if name in ("rfft", "ihfft") else wide, rng)
        samples = {"n": n} if name in ("irfft", "hfft") else {}
        ours.requires_grad_(), theirs.requires_grad_()
        y = getattr(fastdl.fft, name)(ours, dim=dim, **samples)
        z = getattr(torch.fft, name)(theirs, dim=dim, **samples)
        close(y, z)
        up, up_t = both(tuple(z.shape), z.dtype, rng)
        close(fastdl.autograd.grad(y, ours, up)[0], torch.autograd.grad(z, theirs, up_t)[0])


@pytest.mark.parametrize("name", ["fftn", "ifftn", "rfftn", "irfftn", "hfftn", "ihfftn"])
def test_several_axes_of_views(name):
    rng = np.random.default_rng(1)
    ours, theirs = both((12, 7, 20), torch.float32 if name in ("rfftn", "ihfftn") else torch.complex64, rng)
    for view in (lambda x: x, lambda x: x.transpose(0, 2), lambda x: x[::2, :, 3:], lambda x: x.flip(1)):
        for norm in ("backward", "ortho", "forward"):
            close(
                getattr(fastdl.fft, name)(view(ours), norm=norm),
                getattr(torch.fft, name)(view(theirs), norm=norm),
            )


def test_a_row_of_nan_stays_alone():
    x = fastdl.ones(20, 50)
    x[3] = float("nan")
    for y in (fastdl.fft.rfft(x), fastdl.fft.fft(x), fastdl.fft.irfft(x.to(fastdl.complex64), n=98)):
        bad = fastdl.isnan(fastdl.abs(y)).any(1)
        assert bad.nonzero().flatten().tolist() == [3]

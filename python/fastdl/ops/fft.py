"""Discrete Fourier transforms, what :mod:`fastdl.fft` offers; see there. The work is in :mod:`fastdl.ops.fourier`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.creation import finish
from fastdl.devices import resolve, to_device
from fastdl.dtypes import CPU, as_dtype, get_default_dtype
from fastdl.ops.common import axes
from fastdl.ops.fourier import complex_transform, inverse_real_transform, one_axis, real_transform
from fastdl.ops.rearrange import roll
from fastdl.tensor import Tensor

__all__ = [
    "fft",
    "fft2",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "hfft2",
    "hfftn",
    "ifft",
    "ifft2",
    "ifftn",
    "ifftshift",
    "ihfft",
    "ihfft2",
    "ihfftn",
    "irfft",
    "irfft2",
    "irfftn",
    "rfft",
    "rfft2",
    "rfftfreq",
    "rfftn",
]


def fft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """y[k] = sum over j of x[j] exp(-2 pi i j k / n) along ``dim``; complex. See ``torch.fft.fft``.

    Args:
        input: real or complex.
        n: the length that it is cut or filled to along ``dim``.
        norm: ``"backward"`` (no factor), ``"ortho"`` (1 / sqrt(n)) or ``"forward"`` (1 / n).

    Raises:
        RuntimeError: for half precision and for no samples.
    """
    return complex_transform("fft", input, _one(n), (one_axis("fft", input, dim),), norm, False)


def ifft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of :func:`fft`: x[j] = 1 / n sum over k of y[k] exp(2 pi i j k / n). See ``torch.fft.ifft``."""
    return complex_transform("ifft", input, _one(n), (one_axis("ifft", input, dim),), norm, True)


def rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """:func:`fft` of a real signal, of which the first n // 2 + 1 entries say all. See ``torch.fft.rfft``."""
    return real_transform("rfft", input, _one(n), (one_axis("rfft", input, dim),), norm)


def irfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of :func:`rfft`: a real signal of ``n`` samples, by default 2 (entries - 1). See ``torch.fft.irfft``.

    Imaginary parts of the first entry, and for even n of the last one, are ignored.
    """
    return inverse_real_transform("irfft", input, _one(n), (one_axis("irfft", input, dim),), norm)


def hfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The real spectrum of a signal of which ``input`` is the first half, the other being its conjugate.

    See ``torch.fft.hfft``.
    """
    return inverse_real_transform("hfft", input, _one(n), (one_axis("hfft", input, dim),), norm, False)


def ihfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of :func:`hfft`: half of the signal whose spectrum is real. See ``torch.fft.ihfft``."""
    return real_transform("ihfft", input, _one(n), (one_axis("ihfft", input, dim),), norm, True)


def fftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """:func:`fft` over several axes: ``dim``, or the last ones that ``s`` has sizes for, or all.

    See ``torch.fft.fftn``.
    """
    return complex_transform("fftn", input, s, dim, norm, False)


def ifftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of :func:`fftn`. See ``torch.fft.ifftn``."""
    return complex_transform("ifftn", input, s, dim, norm, True)


def rfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """:func:`fftn` of a real signal, of the last axis only the first half. See ``torch.fft.rfftn``."""
    return real_transform("rfftn", input, s, dim, norm)


def irfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of :func:`rfftn`; the last axis has 2 (entries - 1) samples unless ``s`` says how many.

    See ``torch.fft.irfftn``.
    """
    return inverse_real_transform("irfftn", input, s, dim, norm)


def hfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """:func:`hfft` over the last of several axes, :func:`fft` over the others. See ``torch.fft.hfftn``."""
    return inverse_real_transform("hfftn", input, s, dim, norm, False)


def ihfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of :func:`hfftn`. See ``torch.fft.ihfftn``."""
    return real_transform("ihfftn", input, s, dim, norm, True)


def fft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """:func:`fftn` over the last two axes. See ``torch.fft.fft2``."""
    return fftn(input, s, dim, norm)


def ifft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """:func:`ifftn` over the last two axes. See ``torch.fft.ifft2``."""
    return ifftn(input, s, dim, norm)


def rfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """:func:`rfftn` over the last two axes. See ``torch.fft.rfft2``."""
    return rfftn(input, s, dim, norm)


def irfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """:func:`irfftn` over the last two axes. See ``torch.fft.irfft2``."""
    return irfftn(input, s, dim, norm)


def hfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """:func:`hfftn` over the last two axes. See ``torch.fft.hfft2``."""
    return hfftn(input, s, dim, norm)


def ihfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """:func:`ihfftn` over the last two axes. See ``torch.fft.ihfft2``."""
    return ihfftn(input, s, dim, norm)


def _one(n: int | None) -> list[int] | None:
    return None if n is None else [n]


def fftfreq(
    n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """The frequencies of the ``n`` entries of :func:`fft` for samples ``d`` apart: k / (n d), then negative ones.

    See ``torch.fft.fftfreq``.
    """
    return _made("fftfreq", np.fft.fftfreq(n, d), dtype, device, requires_grad)


def rfftfreq(
    n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """The frequencies of the n // 2 + 1 entries of :func:`rfft`. See ``torch.fft.rfftfreq``."""
    return _made("rfftfreq", np.fft.rfftfreq(n, d), dtype, device, requires_grad)


def _made(op: str, values: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    where = resolve(op, device)
    array = values.astype(get_default_dtype() if dtype is None else as_dtype(op, dtype))
    return finish(op, array if where is CPU else to_device(array, where), where, requires_grad)


def fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The entry of frequency 0 moved to the middle of ``dim`` (all axes). See ``torch.fft.fftshift``."""
    over = tuple(range(input.ndim)) if dim is None else axes("fftshift", dim, input.ndim)
    return roll(input, [input.shape[d] // 2 for d in over], over) if over else input.clone()


def ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The inverse of :func:`fftshift`. See ``torch.fft.ifftshift``."""
    over = tuple(range(input.ndim)) if dim is None else axes("ifftshift", dim, input.ndim)
    return roll(input, [-(input.shape[d] // 2) for d in over], over) if over else input.clone()

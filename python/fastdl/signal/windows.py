"""Windows of M points, symmetric or (``sym=False``) one period; see ``torch.signal.windows``.

With n = 0 .. M - 1 and N = M - 1, or M where ``sym`` is False. A window of one point is 1.

Example:
    >>> [round(v, 4) for v in hann(5).tolist()]
    [0.0, 0.5, 1.0, 0.5, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastdl.creation import finish
from fastdl.devices import resolve
from fastdl.dtypes import FLOATING, as_dtype, get_default_dtype
from fastdl.errors import ArgumentError
from fastdl.tensor import Tensor

__all__ = [
    "bartlett",
    "blackman",
    "cosine",
    "exponential",
    "gaussian",
    "general_cosine",
    "general_hamming",
    "hamming",
    "hann",
    "kaiser",
    "nuttall",
]


def _window(
    op: str,
    M: int,
    sym: bool,
    formula: Callable[[Any, float], Any],
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    centered: bool = False,
) -> Tensor:
    if M < 0:
        raise ArgumentError(f"{op}: requires non-negative window length, got M={M}")
    kind = get_default_dtype() if dtype is None else as_dtype(op, dtype)
    if kind.kind not in FLOATING:
        raise ArgumentError(f"{op}: expects a floating-point dtype, got {kind}")
    n = np.arange(M, dtype=np.float64)
    values = formula(n, float(M - 1 if sym else M)) if M > 1 or centered else np.ones(M)
    return finish(op, np.asarray(values, kind), resolve(op, device), requires_grad)


def _cosines(op: str, M: int, sym: bool, weights: Any, **options: Any) -> Tensor:
    if not weights:
        raise ArgumentError(f"{op}: a must be a non-empty list of coefficients")

    def formula(n: Any, length: float) -> Any:
        return sum([(-1) ** k * w * np.cos(2 * np.pi * k * n / length) for k, w in enumerate(weights)])

    return _window(op, M, sym, formula, **options)


def general_cosine(M: int, *, a: Iterable[float], sym: bool = True, **options: Any) -> Tensor:
    """The sum of (-1)^k a[k] cos(2 pi k n / N). See ``torch.signal.windows.general_cosine``.

    Args:
        M: how many points.
        a: the weights.
        sym: symmetric (for filters) or one period (for spectra).
        options: ``dtype``, ``device``, ``requires_grad``; ``layout`` is accepted.
    """
    return _cosines("general_cosine", M, sym, list(a), **options)


def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, **options: Any) -> Tensor:
    """alpha - (1 - alpha) cos(2 pi n / N). See ``torch.signal.windows.general_hamming``."""
    return _cosines("general_hamming", M, sym, [alpha, 1.0 - alpha], **options)


def hamming(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """0.54 - 0.46 cos(2 pi n / N). See ``torch.signal.windows.hamming``."""
    return _cosines("hamming", M, sym, [0.54, 0.46], **options)


def hann(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """(1 - cos(2 pi n / N)) / 2. See ``torch.signal.windows.hann``."""
    return _cosines("hann", M, sym, [0.5, 0.5], **options)


def blackman(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N). See ``torch.signal.windows.blackman``."""
    return _cosines("blackman", M, sym, [0.42, 0.5, 0.08], **options)


def nuttall(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Four cosines with very low side lobes. See ``torch.signal.windows.nuttall``."""
    return _cosines("nuttall", M, sym, [0.3635819, 0.4891775, 0.1365995, 0.0106411], **options)


def bartlett(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """1 - |2 n / N - 1|. See ``torch.signal.windows.bartlett``."""
    return _window("bartlett", M, sym, lambda n, length: 1 - np.abs(2 * n / length - 1), **options)


def cosine(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """sin(pi (n + 0.5) / (N + 1)). See ``torch.signal.windows.cosine``."""
    return _window("cosine", M, sym, lambda n, length: np.sin(np.pi * (n + 0.5) / (length + 1)), **options)


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, **options: Any
) -> Tensor:
    """exp(-|n - center| / tau); the center of a symmetric one is its middle.

    See ``torch.signal.windows.exponential``.
    """
    if tau <= 0:
        raise ArgumentError(f"exponential: tau must be positive, got {tau}")
    if sym and center is not None:
        raise ArgumentError("exponential: center must be None for symmetric windows (sym=True)")

    def formula(n: Any, length: float) -> Any:
        return np.exp(-np.abs(n - (length / 2 if center is None else center)) / tau)

    return _window("exponential", M, sym, formula, **options, centered=center is not None)


def gaussian(M: int, *, std: float = 1.0, sym: bool = True, **options: Any) -> Tensor:
    """exp(-((n - N / 2) / std)^2 / 2). See ``torch.signal.windows.gaussian``."""
    if std <= 0:
        raise ArgumentError(f"gaussian: std must be positive, got {std}")
    return _window(
        "gaussian", M, sym, lambda n, length: np.exp(-0.5 * ((n - length / 2) / std) ** 2), **options
    )


def kaiser(M: int, *, beta: float = 12.0, sym: bool = True, **options: Any) -> Tensor:
    """I0(beta sqrt(1 - (2 n / N - 1)^2)) / I0(beta). See ``torch.signal.windows.kaiser``."""
    if beta < 0:
        raise ArgumentError(f"kaiser: beta must not be negative, got {beta}")

    def formula(n: Any, length: float) -> Any:
        return np.i0(beta * np.sqrt(np.maximum(1 - (2 * n / length - 1) ** 2, 0))) / np.i0(beta)

    return _window("kaiser", M, sym, formula, **options)

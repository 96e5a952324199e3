"""Windows for signals; see ``torch.hann_window`` and its like."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.creation import finish
from fastdl.devices import resolve, to_device
from fastdl.dtypes import FLOATING, as_dtype, float64, get_default_dtype
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.arrays import cast, full
from fastdl.sequences import progression
from fastdl.tensor import Tensor

__all__ = ["bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"]


def _cosines(
    op: str, length: int, periodic: bool, weights: tuple[float, ...], dtype: Any, device: Any, grad: bool
) -> Tensor:
    """The sum of (-1)^k weights[k] cos(2 pi k n / N)."""
    if length < 0:
        raise RuntimeError(f"{op}: window_length must not be negative, got {length}")
    where = resolve(op, device)
    kind = get_default_dtype() if dtype is None else as_dtype(op, dtype)
    if kind.kind not in FLOATING:
        raise ArgumentError(f"{op}: expects a floating-point dtype, got {kind}")
    if length == 1:
        return finish(op, np.ones(1, kind), where, grad)
    kernels = select(None)
    total = full((length,), weights[0], float64)
    for i, weight in enumerate(weights[1:], 1):
        angles = progression(0.0, i * (2 * np.pi / max(length - 1 + periodic, 1)), length, float64)
        waves = kernels.mul_forward(kernels.cos_forward(angles), weight if i % 2 == 0 else -weight)
        kernels.add_forward(total, waves, total)
    return finish(op, cast(total, kind), where, grad)


def hann_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """(1 - cos(2 pi n / N)) / 2, N the length (``periodic=False``: one less). See ``torch.hann_window``.

    Example:
        >>> [round(v, 4) for v in hann_window(4).tolist()]
        [0.0, 0.5, 1.0, 0.5]
    """
    return _cosines("hann_window", window_length, periodic, (0.5, 0.5), dtype, device, requires_grad)


def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """alpha - beta cos(2 pi n / N). See ``torch.hamming_window``."""
    return _cosines("hamming_window", window_length, periodic, (alpha, beta), dtype, device, requires_grad)


def blackman_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N). See ``torch.blackman_window``."""
    weights = (0.42, 0.5, 0.08)
    return _cosines("blackman_window", window_length, periodic, weights, dtype, device, requires_grad)


def bartlett_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A triangle, 1 - |2 n / N - 1|. See ``torch.bartlett_window``."""
    flat = _cosines("bartlett_window", window_length, periodic, (1.0,), dtype, device, requires_grad)
    if window_length > 1:
        n = np.arange(window_length) / (window_length - 1 + periodic)
        values = 1 - np.abs(2 * n - 1)
        flat._data[...] = to_device(values.astype(flat.dtype), flat.device)
    return flat


def kaiser_window(
    window_length: int,
    periodic: bool = True,
    beta: float = 12.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """I0(beta sqrt(1 - (2 n / N - 1)^2)) / I0(beta). See ``torch.kaiser_window``."""
    flat = _cosines("kaiser_window", window_length, periodic, (1.0,), dtype, device, requires_grad)
    if window_length > 1:
        n = np.arange(window_length) / (window_length - 1 + periodic)
        i0 = select(None).i0_forward
        values = i0(beta * np.sqrt(1 - (2 * n - 1) ** 2)) / i0(np.full(1, beta, float64))
        flat._data[...] = to_device(values.astype(flat.dtype), flat.device)
    return flat

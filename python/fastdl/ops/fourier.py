"""Discrete Fourier transforms over any axes, by NumPy's or CuPy's fft.

Every transform is linear, so its gradient is a transform as well: that of the complex one is the conjugate transposed
matrix, the transform in the other direction without its factor; those of real ones follow by the halves of spectra that
were left out.

On the CPU many short rows of a length with small factors are transformed by fastdl's kernel (``fourier``), the rest by
NumPy's: loops over rows that keep to the precision of the factor they are given. ``numpy.fft`` gives them an integer
where the factor is 1, and single precision is then computed, and converted both ways, in double (four to eight times as
long). So fastdl's threads call the loops (``transform`` of the kernels), with all of the factor of a transform over
several axes.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE, complex_dtype, get_default_dtype, is_half, real_dtype
from fastdl.errors import ArgumentError
from fastdl.kernels import on_device, select
from fastdl.ops.common import axes as normal_axes
from fastdl.ops.common import axis as normal_axis
from fastdl.tensor import Tensor


@cache
def _loops() -> Any:
    """The module of NumPy's loops; None where another NumPy has them under other names or in another form."""
    try:
        from numpy.fft import _pocketfft_umath as loops  # type: ignore[attr-defined]
    except ImportError:
        return None
    for name, types in {"fft": "Ff->F", "ifft": "Ff->F", "irfft": "Ff->f"}.items():
        if types not in getattr(getattr(loops, name, None), "types", ()):
            return None
    return loops if all("ff->F" in getattr(loops, f"rfft_n_{n}").types for n in ("even", "odd")) else None


_NORMS = ("backward", "ortho", "forward")


def _transformed(
    name: str,
    x: Any,
    axes: tuple[int, ...],
    count: int,
    factor: float,
    conjugate: bool = False,
    ends: float = 1.0,
) -> Any:
    """``fft``, ``ifft``, ``rfft`` or ``irfft`` without a factor of its own, times ``factor``.

    Real signals are real along the last of the axes, along the others the transform is a complex one. ``count``:
    entries of the result along the last axis. Of the half spectrum that ``rfft`` makes and ``irfft`` takes:
    ``conjugate``, and ``ends``, the factor of entries that stand for one of the whole spectrum, not for two.
    """
    host = not on_device(x)
    if host and (y := select(x).fourier(name, x, axes, count, factor, conjugate, ends)) is not None:
        return y
    last = axes[-1]
    if len(axes) > 1:
        kind = name if name in ("fft", "ifft") else "ifft" if (name == "rfft") == conjugate else "fft"
        if name == "irfft":
            x = _along_all(kind, x, axes[:-1], 1.0)
        x = _transformed(name, x, (last,), count, factor if name == "irfft" else 1.0, conjugate, ends)
        return x if name == "irfft" else _along_all(kind, x, axes[:-1], factor)
    if name == "irfft":
        x = _half_spectrum(x, last, count, conjugate, ends)
    loops = _loops() if host else None
    if loops is None:
        y = _by_module(name, x, last, count, factor)
    elif name == "rfft":
        loop = "rfft_n_odd" if x.shape[last] % 2 else "rfft_n_even"
        y = select(x).transform(getattr(loops, loop), x, last, count, factor)
    else:
        y = select(x).transform(getattr(loops, name), x, last, count, factor)
    return _half_spectrum(y, last, x.shape[last], conjugate, ends) if name == "rfft" else y


def _along_all(name: str, x: Any, axes: tuple[int, ...], factor: float) -> Any:
    for axis in reversed(axes):
        x = _transformed(name, x, (axis,), x.shape[axis], factor if axis == axes[0] else 1.0)
    return x


def _half_spectrum(x: Any, axis: int, count: int, conjugate: bool, ends: float) -> Any:
    """``x`` with what ``_transformed`` says of half a spectrum of ``count`` entries: itself or a copy."""
    if conjugate:
        x = np.conjugate(x)
    if ends != 1:
        x = x if conjugate else pooled_copy(x)
        for end in _ends(x, axis, count):
            end *= ends
    return x


def _by_module(name: str, x: Any, axis: int, count: int, factor: float) -> Any:
    """The same by ``numpy.fft`` (CuPy's by NumPy's own protocol)."""
    # NumPy's norm "forward" leaves the factor out of the inverse, "backward" out of the other.
    norm = "forward" if name.startswith("i") else "backward"
    y = getattr(np.fft, name)(x, count if name == "irfft" else None, axis, norm)
    wanted = real_dtype(x.dtype) if y.dtype.kind == "f" else complex_dtype(x.dtype)
    y = y if y.dtype is wanted else y.astype(wanted)
    if factor != 1:
        y *= y.real.dtype.type(factor)
    return y


def _scale(norm: str, count: int, inverse: bool) -> float:
    """What a plain sum is multiplied by."""
    if norm == "ortho":
        return 1 / math.sqrt(count)
    return 1 / count if (norm == "backward") == inverse else 1.0


class Transform(Op):
    """sum over n of x[n] exp(-+ 2 pi i k n / N), over several axes, times ``factor``."""

    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, axes: tuple[int, ...], inverse: bool, factor: float) -> Any:
        self.axes, self.inverse, self.factor = axes, inverse, factor
        return _transformed("ifft" if inverse else "fft", x, axes, x.shape[axes[-1]], factor)

    def backward(self, grad: Any) -> Any:
        return Transform.forward(Transform(), grad, self.axes, not self.inverse, self.factor)

    def backward_graph(self, grad: Tensor) -> Any:
        return Transform.apply(grad, axes=self.axes, inverse=not self.inverse, factor=self.factor)


def _ends(x: Any, axis: int, count: int) -> list[Any]:
    """The entries of a half spectrum along ``axis`` that stand for one of the whole one, not for two: views."""
    before = (slice(None),) * axis
    ends = [slice(0, 1)] if count % 2 else [slice(0, 1), slice(-1, None)]
    return [x[(*before, end)] for end in ends]


def _both_halves(x: Any, axis: int, count: int) -> Any:
    """How many entries of the whole spectrum those of the half one stand for: 2, at the ends 1, along ``axis``."""
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    factors = np.full(shape, 2.0)
    for end in _ends(factors, axis, count):
        end[...] = 1
    return np.asarray(factors, x.real.dtype, like=x)


class RealTransform(Op):
    """Half of the spectrum of a real signal along the last of the axes, the whole one along the others.

    ``conjugate``: of that signal's inverse transform.
    """

    release = Op.stay

    def forward(self, x: Any, axes: tuple[int, ...], factor: float, conjugate: bool = False) -> Any:
        self.axes, self.factor, self.conjugate, self.count = axes, factor, conjugate, x.shape[axes[-1]]
        return _transformed("rfft", x, axes, self.count // 2 + 1, factor, conjugate)

    def backward(self, grad: Any) -> Any:
        # Re sum_k grad[k] exp(2 pi i k n / N): the inverse real transform counts all but the ends twice.
        return _transformed("irfft", grad, self.axes, self.count, self.factor / 2, self.conjugate, 2.0)

    def backward_graph(self, grad: Tensor) -> Any:
        half = grad / Tensor._wrap(_both_halves(grad._data, self.axes[-1], self.count))
        return InverseRealTransform.apply(
            half, axes=self.axes, count=self.count, factor=self.factor, conjugate=self.conjugate
        )


class InverseRealTransform(Op):
    """The real signal, of ``count`` samples along the last of the axes, that has such a half spectrum.

    ``conjugate``: the real spectrum of such a half of a signal.
    """

    release = Op.stay
    takes_complex = True

    def forward(
        self, x: Any, axes: tuple[int, ...], count: int, factor: float, conjugate: bool = False
    ) -> Any:
        self.axes, self.factor, self.conjugate, self.count = axes, factor, conjugate, count
        return _transformed("irfft", x, axes, count, factor, conjugate)

    def backward(self, grad: Any) -> Any:
        return _transformed(
            "rfft", grad, self.axes, self.count // 2 + 1, 2 * self.factor, self.conjugate, 0.5
        )

    def backward_graph(self, grad: Tensor) -> Any:
        spectrum = RealTransform.apply(grad, axes=self.axes, factor=self.factor, conjugate=self.conjugate)
        return spectrum * Tensor._wrap(_both_halves(spectrum._data, self.axes[-1], self.count))


# ------------------------------------------------------------------------------------------------------- arguments


def _input(op: str, input: Tensor, real: bool | None) -> Tensor:
    """The tensor in a dtype that is transformed; ``real``: must it be real, complex (made so), or may it be both?"""
    dtype = input._data.dtype
    if real and dtype.kind == "c":
        raise RuntimeError(
            f"{op} expects a real input tensor, but got {dtype}; use fft() for complex signals"
        )
    if is_half(dtype):
        raise RuntimeError(f"{op}: Unsupported dtype {dtype}; convert it with x.float()")
    if dtype.kind not in DIFFERENTIABLE:
        input = input.to(get_default_dtype())
    if real is False and input._data.dtype.kind != "c":
        input = input.to(complex_dtype(input._data.dtype))
    return input


def _norm(op: str, norm: str | None) -> str:
    if norm is None:
        return "backward"
    if norm not in _NORMS:
        raise ArgumentError(f"{op}: Invalid normalization mode: {norm!r}; use one of {', '.join(_NORMS)}")
    return norm


def _fitted(op: str, x: Tensor, n: int | None, dim: int) -> Tensor:
    """Cut, or filled with zeros, to ``n`` entries along ``dim``."""
    have = x.shape[dim]
    if n is None or n == have:
        if have < 1:
            raise RuntimeError(
                f"{op}: Invalid number of data points (0) specified, in shape {tuple(x.shape)}"
            )
        return x
    if n < 1:
        raise RuntimeError(f"{op}: Invalid number of data points ({n}) specified")
    if n < have:
        return x.narrow(dim, 0, n)
    from fastdl.ops.resample import pad

    return pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, n - have])


def _axes_and_sizes(op: str, x: Tensor, s: Any, dim: Any) -> tuple[tuple[int, ...], list[int | None]]:
    """The axes to transform, and their sizes where ``s`` says so."""
    if x.ndim == 0 and dim is None and s is None:
        return (), []
    sizes: Any = None if s is None else [s] if isinstance(s, int) else list(s)
    if dim is None:
        count = x.ndim if sizes is None else len(sizes)
        if count > x.ndim:
            raise RuntimeError(
                f"{op}: Got shape with {count} values but input tensor only has {x.ndim} dimensions"
            )
        over = tuple(range(x.ndim - count, x.ndim))
    else:
        over = normal_axes(op, tuple(dim) if isinstance(dim, (tuple, list)) else dim, x.ndim)
    if sizes is None:
        sizes = [None] * len(over)
    if len(sizes) != len(over):
        raise RuntimeError(
            f"{op}: When given, dim and shape arguments must have the same length, got {dim} and {s}"
        )
    return over, [None if n in (None, -1) else int(n) for n in sizes]


# -------------------------------------------------------------------------------------------------- transforms


def complex_transform(op: str, input: Tensor, s: Any, dim: Any, norm: Any, inverse: bool) -> Tensor:
    """``fft`` and its siblings, over one or several axes."""
    mode, x = _norm(op, norm), _input(op, input, False)
    over, sizes = _axes_and_sizes(op, x, s, dim)
    for d, n in zip(over, sizes, strict=True):
        x = _fitted(op, x, n, d)
    if not over:
        return x.clone()
    factor = _scale(mode, math.prod([x.shape[d] for d in over]), inverse)
    return Transform.apply(x, axes=over, inverse=inverse, factor=factor)  # type: ignore[no-any-return]


def real_transform(op: str, input: Tensor, s: Any, dim: Any, norm: Any, inverse: bool = False) -> Tensor:
    """Of a real signal: half of the spectrum along the last of the axes, the whole one along the others.

    ``inverse`` is that of a signal whose spectrum is real (ihfft): conjugated.
    """
    mode, x = _norm(op, norm), _input(op, input, True)
    over, sizes = _axes_and_sizes(op, x, s, dim)
    if not over:
        raise RuntimeError(f"{op} must transform at least one axis")
    for d, n in zip(over, sizes, strict=True):
        x = _fitted(op, x, n, d)
    factor = _scale(mode, math.prod([x.shape[d] for d in over]), inverse)
    return RealTransform.apply(x, axes=over, factor=factor, conjugate=inverse)  # type: ignore[no-any-return]


def inverse_real_transform(
    op: str, input: Tensor, s: Any, dim: Any, norm: Any, inverse: bool = True
) -> Tensor:
    """The real signal of half a spectrum; not ``inverse``: the real spectrum of half a signal (hfft)."""
    mode, x = _norm(op, norm), _input(op, input, False)
    over, sizes = _axes_and_sizes(op, x, s, dim)
    if not over:
        raise RuntimeError(f"{op} must transform at least one axis")
    last = over[-1]
    count = 2 * (x.shape[last] - 1) if sizes[-1] is None else sizes[-1]
    if count < 1:
        raise RuntimeError(f"{op}: Invalid number of data points ({count}) specified")
    for d, n in zip(over[:-1], sizes[:-1], strict=True):
        x = _fitted(op, x, n, d)
    x = _fitted(op, x, count // 2 + 1, last)
    factor = _scale(mode, math.prod([x.shape[d] for d in over[:-1]]) * count, inverse)
    return InverseRealTransform.apply(  # type: ignore[no-any-return]
        x, axes=over, count=count, factor=factor, conjugate=not inverse
    )


def one_axis(op: str, input: Tensor, dim: int) -> int:
    """``dim`` of a transform over one axis, checked."""
    if input._data.ndim == 0:
        raise IndexError(f"{op}: Dimension specified as {dim} but tensor has no dimensions")
    return normal_axis(op, dim, input._data.ndim)

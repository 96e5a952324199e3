"""Initial values for parameters, filled in place; see ``torch.nn.init``.

Every function returns the tensor it filled, records nothing for backward, and takes tensors with any strides.
Random numbers are drawn on the CPU, so that every device gets the same; functions that draw take a ``generator``
(default: the library's own, seeded by ``fastdl.manual_seed``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from fastdl.autograd.mode import no_grad
from fastdl.devices import device_of, make, to_device
from fastdl.dtypes import CPU, FLOATING
from fastdl.errors import warn_caller
from fastdl.kernels import array as as_array
from fastdl.ops.complex import ViewAsReal
from fastdl.random import default_generator
from fastdl.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_F64 = np.dtype(np.float64)


def _draw_uniform(shape: Any, low: float, high: float, generator: Any, dtype: Any = _F64) -> Any:
    draw = (default_generator if generator is None else generator).draw()
    return make(CPU, "random_uniform", shape, dtype, low, high, *draw)


def _draw_normal(shape: Any, mean: float, std: float, generator: Any, dtype: Any = _F64) -> Any:
    draw = (default_generator if generator is None else generator).draw()
    return make(CPU, "random_normal", shape, dtype, mean, std, *draw)


def _draw_dtype(tensor: Tensor) -> Any:
    """Float32 and float64 are drawn as they are, other dtypes by rounding float64."""
    return np.dtype(np.float32) if tensor._data.dtype == np.float32 else _F64


def _fill(tensor: Tensor, values: Any) -> Tensor:
    """Fill with a number or with what ``values()`` draws; tensors without values (``meta``) are left alone."""
    array = tensor._data
    if callable(values):
        if tensor.is_meta:
            return tensor
        values = to_device(values(), device_of(array))
    array[...] = values
    tensor._bump_version()
    return tensor


def _of_parts(tensor: Tensor, fill: Callable[[Tensor], Any]) -> Tensor:
    """``fill`` called with the real and imaginary parts of a complex tensor as a last axis, on the same memory."""
    fill(Tensor._wrap(ViewAsReal.of(tensor._data)))
    tensor._bump_version()
    return tensor


def _check_float(op: str, tensor: Tensor) -> None:
    if tensor._data.dtype.kind not in FLOATING:
        raise TypeError(f"{op}: tensor must be floating point, got dtype {tensor._data.dtype}")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity shrinks its input's standard deviation, to be made up for by the weights.

    1 for linear, convolutions and sigmoid; 5/3 for tanh; sqrt(2) for relu; sqrt(2 / (1 + slope^2)) for leaky_relu,
    whose negative slope is ``param`` (default 0.01); 3/4 for selu.
    """
    if nonlinearity in ("linear", "sigmoid") or nonlinearity in _CONVOLUTIONS:
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is None:
            param = 0.01
        elif isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + param**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


_CONVOLUTIONS = [f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3)]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with U(a, b)."""
    if tensor.is_complex():  # both parts
        return _of_parts(tensor, lambda parts: uniform_(parts, a, b, generator))
    _check_float("uniform_", tensor)
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    return _fill(tensor, lambda: _draw_uniform(tensor.shape, a, b, generator, _draw_dtype(tensor)))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with N(mean, std^2)."""
    if tensor.is_complex():  # the variance is that of both parts together
        return _of_parts(tensor, lambda parts: normal_(parts, mean, std / math.sqrt(2), generator))
    _check_float("normal_", tensor)
    if std < 0:
        raise RuntimeError(f"normal_ expects std >= 0.0, but found std {std}")
    return _fill(tensor, lambda: _draw_normal(tensor.shape, mean, std, generator, _draw_dtype(tensor)))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Any = None,
) -> Tensor:
    """Fill with N(mean, std^2) restricted to [a, b]: values outside are drawn again."""
    _check_float("trunc_normal_", tensor)
    if std <= 0 or a >= b:
        raise ValueError(f"trunc_normal_: needs std > 0 and a < b, got std={std}, a={a}, b={b}")
    if mean < a - 2 * std or mean > b + 2 * std:
        warn_caller(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect."
        )
    propose = _truncated_normal((a - mean) / std, (b - mean) / std, generator)

    def draw() -> Any:
        values = np.empty(tensor._data.size)
        pending = np.arange(values.size)
        while pending.size:
            candidates, accepted = propose(pending.size)
            values[pending[accepted]] = candidates[accepted]
            pending = pending[~accepted]
        # Rounding to the tensor's dtype may step over a bound by half a unit.
        return np.clip(values * std + mean, a, b).reshape(tensor.shape)

    return _fill(tensor, draw)


def _truncated_normal(low: float, high: float, generator: Any) -> Callable[[int], tuple[Any, Any]]:
    """A proposal for rejection sampling of N(0, 1) on [low, high]: n -> (candidates, which to accept).

    Normal numbers where they often fall inside; else exponential ones in a tail, uniform ones in a narrow interval:
    each accepts a fair part of its candidates wherever the interval lies.
    """

    def uniform(n: int) -> Any:
        return _draw_uniform((n,), 0.0, 1.0, generator)

    def from_normal(n: int) -> tuple[Any, Any]:
        x = _draw_normal((n,), 0.0, 1.0, generator)
        return x, (x >= low) & (x <= high)

    def from_uniform(n: int) -> tuple[Any, Any]:
        x = low + (high - low) * uniform(n)
        nearest = min(max(0.0, low), high)  # where the density is highest
        return x, uniform(n) <= np.exp((nearest**2 - x**2) / 2)

    def from_exponential(n: int) -> tuple[Any, Any]:
        inner, outer = (low, high) if low > 0 else (-high, -low)
        mass = -math.expm1(-inner * (outer - inner))
        x = inner - np.log1p(-mass * uniform(n)) / inner
        return (x if low > 0 else -x), uniform(n) <= np.exp(-((x - inner) ** 2) / 2)

    if math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)) > 0.6:
        return from_normal
    if max(low, -high) * (high - low) > 1:
        return from_exponential
    return from_uniform


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    with no_grad():
        return tensor.fill_(val)  # refuses what the dtype does not hold


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity: ones on the diagonal."""
    _check_matrix("eye_", tensor)
    return _fill(tensor, lambda: np.eye(tensor.shape[0], tensor.shape[1]))


def _check_matrix(op: str, tensor: Tensor) -> None:
    if len(tensor.shape) != 2:
        raise ValueError(f"{op}: Only tensors with 2 dimensions are supported, got shape {tensor.shape}")


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that it passes its input through: the Dirac delta, in each group.

    Shape: 3 to 5 dimensions (out_channels, in_channels / groups, kernel...).
    """
    shape = tensor.shape
    if len(shape) not in (3, 4, 5):
        raise ValueError(f"dirac_: Only tensors with 3, 4, or 5 dimensions are supported, got shape {shape}")
    if groups < 1 or shape[0] % groups:
        raise ValueError(f"dirac_: dim 0 ({shape[0]}) must be divisible by groups ({groups})")
    _fill(tensor, 0)
    outputs = shape[0] // groups
    centre = tuple(extent // 2 for extent in shape[2:])
    for group in range(groups):
        for channel in range(min(outputs, shape[1])):
            tensor._data[(group * outputs + channel, channel, *centre)] = 1
    return tensor


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError(
            f"Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, got shape {shape}"
        )
    receptive_field = math.prod(shape[2:])
    return shape[1] * receptive_field, shape[0] * receptive_field


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return fan_in if mode == "fan_in" else fan_out


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out)); Glorot and Bengio (2010)."""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / (fan_in + fan_out)) if fan_in + fan_out else 0.0
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with N(0, std^2), std = gain * sqrt(2 / (fan_in + fan_out)); Glorot and Bengio (2010)."""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    std = gain * math.sqrt(2.0 / (fan_in + fan_out)) if fan_in + fan_out else 0.0
    return normal_(tensor, 0.0, std, generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float | None:
    if 0 in tensor.shape:
        warn_caller("Initializing zero-element tensors is a no-op")
        return None
    return calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Fill with U(-bound, bound), bound = gain * sqrt(3 / fan); He et al. (2015).

    Args:
        tensor: at least two dimensions, (out, in, ...).
        a: the negative slope of the leaky_relu that follows (only used with it).
        mode: ``"fan_in"`` keeps the variance in the forward pass, ``"fan_out"`` in the backward pass.
        nonlinearity: what follows; see :func:`calculate_gain`.
        generator: where the random numbers come from.
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return tensor
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Fill with N(0, std^2), std = gain / sqrt(fan); He et al. (2015). Arguments as :func:`kaiming_uniform_`."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Fill with a (semi-)orthogonal matrix times ``gain``; trailing dimensions are flattened. Saxe et al. (2013)."""
    _check_float("orthogonal_", tensor)
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError(
            f"orthogonal_: Only tensors with 2 or more dimensions are supported, got shape {shape}"
        )
    if tensor._data.size == 0:
        return tensor
    rows, cols = shape[0], tensor._data.size // shape[0]

    def draw() -> Any:
        flat = _draw_normal((max(rows, cols), min(rows, cols)), 0.0, 1.0, generator)
        q, r = np.linalg.qr(flat)
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # makes the distribution uniform (Mezzadri 2007)
        return gain * (q if rows >= cols else q.T).reshape(shape)

    return _fill(tensor, draw)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Fill a matrix with N(0, std^2), a part ``sparsity`` of each column being zero. Martens (2010)."""
    _check_matrix("sparse_", tensor)
    zeros = math.ceil(sparsity * tensor.shape[0])
    normal_(tensor, 0.0, std, generator)
    if tensor.is_meta:
        return tensor
    order = np.argsort(_draw_uniform(tensor.shape, 0.0, 1.0, generator), axis=0)  # of each column
    np.put_along_axis(tensor._data, as_array(order[:zeros], tensor._data), 0, axis=0)
    return tensor


def __getattr__(name: str) -> Any:
    """The older names: ``uniform`` for ``uniform_``."""
    function = globals().get(f"{name}_") if f"{name}_" in __all__ else None
    if function is None or name in ("ones", "zeros", "trunc_normal"):  # never had one
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    @functools.wraps(function)
    def older(*arguments: Any, **options: Any) -> Any:
        message = f"`nn.init.{name}` is now deprecated in favor of `nn.init.{name}_`."
        warn_caller(message, FutureWarning)
        return function(*arguments, **options)

    return older

"""``autocast``: matrix products in half precision, losses in float32, by PyTorch's lists for GPUs and for CPUs.

Operations do not ask whether autocast is on: entering it gives the classes in the lists below another ``apply``, which
converts the inputs first, and leaving the last one takes that away again. A thread that did not enter sees no change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from fastdl import devices, dtypes
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, as_dtype, float16, float32, float64
from fastdl.errors import warn_caller
from fastdl.ops import (
    activation_rules,
    adaptive_pool,
    attention,
    bilinear,
    binary,
    binary_cross_entropy,
    conv,
    cross_entropy,
    ctc_loss,
    distance,
    einsum,
    grid,
    likelihood_loss,
    linear,
    margin_loss,
    norm,
    order,
    pointwise_loss,
    pool,
    reduce,
    resample,
    rnn,
    softmax,
    unary,
    unpool,
)
from fastdl.tensor import Tensor

LOW: tuple[type[Op], ...] = (
    linear.Linear,
    linear.LinearActivation,
    linear.MatMul,
    linear.AddMatMul,
    linear.Outer,
    einsum.Einsum,
    conv.Conv,
    conv.ConvTranspose,
    attention.Attention,
    rnn.Recurrent,
    activation_rules.Prelu,
)
"""Operations computed in the low precision."""

_UNARY = [
    "acos",
    "asin",
    "cosh",
    "exp",
    "expm1",
    "log",
    "log10",
    "log1p",
    "log2",
    "reciprocal",
    "rsqrt",
    "sinh",
    "tan",
]
LOSSES: tuple[type[Op], ...] = (
    cross_entropy.CrossEntropy,
    cross_entropy.CrossEntropyProbabilities,
    cross_entropy.NllLoss,
    pointwise_loss.MseLoss,
    pointwise_loss.L1Loss,
    pointwise_loss.SmoothL1Loss,
    pointwise_loss.HuberLoss,
    likelihood_loss.KlDiv,
    likelihood_loss.KlDivBatchMean,
    likelihood_loss.PoissonNllLoss,
    pointwise_loss.SoftMarginLoss,
    pointwise_loss.HingeEmbeddingLoss,
    pointwise_loss.MarginRankingLoss,
    binary_cross_entropy.BinaryCrossEntropy,
    binary_cross_entropy.BinaryCrossEntropyWithLogits,
    margin_loss.MultiMarginLoss,
    margin_loss.MultilabelMarginLoss,
    distance.CosineEmbeddingLoss,
    distance.TripletMarginLoss,
)
"""Losses computed in float32 everywhere."""

MIXED: tuple[type[Op], ...] = (
    likelihood_loss.GaussianNllLoss,
    margin_loss.MultilabelSoftMarginLoss,
    distance.CosineSimilarity,
    distance.PairwiseDistance,
    bilinear.Bilinear,
)
"""Operations whose inputs may have several dtypes: in float32 on GPUs, in the widest of the inputs' on the CPU."""

WIDE: tuple[type[Op], ...] = (
    *LOSSES,
    *MIXED,
    softmax.Softmax,
    softmax.LogSoftmax,
    softmax.Softmin,
    reduce.Sum,
    reduce.Prod,
    reduce.LogSumExp,
    reduce.Norm,
    order.Cumsum,
    order.Cumprod,
    binary.Pow,
    norm.LayerNorm,
    norm.GroupNorm,
    norm.RMSNorm,
    *[
        kind
        for base in unary.Unary.__subclasses__()
        for kind in base.__subclasses__()
        if kind.label in _UNARY
    ],
)
"""Operations computed in float32 on GPUs: sums of many terms, and functions with a large range."""

CPU_WIDE: tuple[type[Op], ...] = (
    *LOSSES,
    ctc_loss.CtcLoss,
    grid.GridSample,
    reduce.Prod,
    unpool.MaxUnpool,
)
"""Operations computed in float32 on the CPU: what has no kernel in half precision in PyTorch, and losses."""

CPU_SOMETIMES: dict[type[Op], Callable[[dict[str, Any]], bool]] = {
    pool.MaxPool: lambda options: len(options["plan"].size) == 3,
    pool.AvgPool: lambda options: len(options["plan"].size) == 3,
    adaptive_pool.AdaptiveMaxPool: lambda options: len(options["output"]) == 3,
    adaptive_pool.AdaptiveAvgPool: lambda options: len(options["output"]) == 3,
    resample.Pad: lambda options: options["mode"] in ("reflect", "replicate"),
}
"""Operations computed in float32 on the CPU for some of their options."""

_lock = threading.Lock()
_entered = 0  # contexts, in all threads


class _Weights(threading.local):
    """Parameters in low precision, converted once per autocast block: id -> (parameter, version, converted)."""

    def __init__(self) -> None:
        self.cache: dict[int, tuple[Tensor, int, Tensor]] = {}


_weights = _Weights()


def is_autocast_available(device_type: str) -> bool:
    """Is there an autocast for this kind of device: ``"cpu"`` or ``"cuda"``?"""
    return device_type in ("cpu", "cuda")


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Are we in a block of :class:`autocast` for this kind of device?"""
    return mode.autocast is not None and mode.autocast.get(device_type) is not None


def get_autocast_dtype(device_type: str) -> Any:
    """The dtype in which autocast computes products on this kind of device: the current block's, or the default."""
    setting = None if mode.autocast is None else mode.autocast.get(device_type)
    if setting is not None:
        return setting[0]
    return float16 if device_type == "cuda" else as_dtype("get_autocast_dtype", "bfloat16")


class autocast:
    """Run operations in the precision that suits them, in a ``with`` block or a decorated function.

    Products (linear layers, convolutions, attention, recurrent layers) run in ``dtype`` and losses in float32; on a
    GPU softmax, normalisation, sums, powers and exponentials in float32, too. All others run in the dtype that their
    inputs have. Parameters stay as they are and receive gradients in their own dtype. Call ``backward()`` outside of
    the block.

    Args:
        device_type: ``"cuda"`` or ``"cpu"``: where the tensors are.
        dtype: float16 or bfloat16; by default float16 on a GPU and bfloat16 (needs ml_dtypes) on the CPU.
        enabled: False: an island of full precision within a block.
        cache_enabled: convert every parameter only once in the block.

    On the CPU half precision is computed in float32 and rounded, but for products in bfloat16 on a processor with
    AVX-512's bfloat16 instructions, which take half of float32's time there.

    Example:
        >>> import fastdl
        >>> x, w = fastdl.ones(2, 3), fastdl.ones(4, 3)
        >>> with fastdl.amp.autocast("cpu", dtype=fastdl.float16):
        ...     y = fastdl.nn.functional.linear(x, w)
        ...     loss = fastdl.nn.functional.mse_loss(y, fastdl.zeros(2, 4))
        >>> y.dtype, loss.dtype
        (dtype('float16'), dtype('float32'))
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"autocast: device_type must be 'cuda' or 'cpu', got {device_type!r}")
        kind = dtypes.device(device_type).type
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"autocast: device_type must be 'cuda' or 'cpu', got {device_type!r}")
        if enabled and kind == "cuda" and (reason := devices.missing()) is not None:
            warn_caller(f"autocast: device_type 'cuda' has no effect here: {reason}")
            enabled = False
        if enabled:
            wanted = dtype if dtype is not None else float16 if kind == "cuda" else "bfloat16"
            dtype = as_dtype("autocast", wanted)
            if dtype.itemsize != 2 or dtype.kind not in FLOATING:
                raise TypeError(f"autocast: dtype must be float16 or bfloat16, got {dtype}")
        self.device, self.fast_dtype = kind, dtype
        self._enabled = bool(enabled)
        self._cache = cache_enabled is None or cache_enabled
        self._before: list[Any] = []

    def __enter__(self) -> autocast:
        before = mode.autocast
        self._before.append(before)
        mode.autocast = {
            **(before or {}),
            self.device: (self.fast_dtype, self._cache) if self._enabled else None,
        }
        _install(1)
        return self

    def __exit__(self, *exception: object) -> None:
        _install(-1)
        mode.autocast = self._before.pop()
        if mode.autocast is None:
            _weights.cache.clear()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def cast(*args: Any, **options: Any) -> Any:
            with self:
                return function(*args, **options)

        return cast


@contextmanager
def restored(settings: Any) -> Iterator[None]:
    """As in the blocks where ``mode.autocast`` was ``settings``; parameters are converted at every use."""
    before = mode.autocast
    mode.autocast = settings and {kind: cast and (cast[0], False) for kind, cast in settings.items()}
    _install(1)
    try:
        yield
    finally:
        _install(-1)
        mode.autocast = before


def _install(change: int) -> None:
    global _entered
    with _lock:
        before = _entered
        _entered += change
        if before == 0:
            for kind in _CASTS["cuda"].keys() | _CASTS["cpu"].keys():
                kind.apply = classmethod(_apply)  # type: ignore[assignment]
        elif _entered == 0:
            for kind in _CASTS["cuda"].keys() | _CASTS["cpu"].keys():
                del kind.apply


def _apply(cls: type[Op], *inputs: Any, **options: Any) -> Any:
    settings = mode.autocast
    first = next((t for t in inputs if t is not None), None)
    if settings is not None and first is not None:
        device = first.device.type
        setting = settings.get(device)
        cast = None if setting is None else _CASTS[device].get(cls)
        if cast is not None:
            inputs = cast(inputs, options, setting)
    return cls.apply_itself(*inputs, **options)


def _low(inputs: Any, options: dict[str, Any], setting: Any) -> Any:
    return tuple([_lowered(t, *setting) for t in inputs])


def _wide(inputs: Any, options: dict[str, Any], setting: Any) -> Any:
    return tuple([_widened(t) for t in inputs])


def _wide_if(condition: Callable[[dict[str, Any]], bool]) -> Callable[..., Any]:
    return lambda inputs, options, setting: _wide(inputs, options, setting) if condition(options) else inputs


def _widest(inputs: Any, options: dict[str, Any], setting: Any) -> Any:
    kinds = {t._data.dtype for t in inputs if t is not None and t._data.dtype.kind in FLOATING}
    return inputs if len(kinds) < 2 else _wide(inputs, options, setting)


_CASTS: dict[str, dict[type[Op], Callable[..., Any]]] = {
    "cuda": {**dict.fromkeys(LOW, _low), **dict.fromkeys(WIDE, _wide)},
    "cpu": {
        **dict.fromkeys(LOW, _low),
        **dict.fromkeys(CPU_WIDE, _wide),
        **dict.fromkeys(MIXED, _widest),
        **{kind: _wide_if(condition) for kind, condition in CPU_SOMETIMES.items()},
    },
}


def _lowered(t: Tensor | None, dtype: dtypes.dtype, cache: bool) -> Tensor | None:
    if t is None or t._data.dtype.kind not in FLOATING or t._data.dtype in (dtype, float64):
        return t
    if not cache or t._node is not None or not t._requires_grad or not mode.enabled:
        return t.to(dtype)
    version = t._version_cell()[0]
    known = _weights.cache.get(id(t))
    if known is not None:
        parameter, seen, converted = known
        # (Another dtype may have been asked for since. Backward does not end a conversion.)
        if parameter is t and seen == version and converted._data.dtype is dtype:
            return converted
    converted = t.to(dtype)
    _weights.cache[id(t)] = t, version, converted
    return converted


def _widened(t: Tensor | None) -> Tensor | None:
    if t is None or t._data.dtype.itemsize != 2 or t._data.dtype.kind not in FLOATING:
        return t
    return t.to(float32)

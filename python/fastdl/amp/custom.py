"""``autograd.Function`` under autocast: which precision its ``forward`` and ``backward`` see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from fastdl.amp.autocast import autocast, get_autocast_dtype, is_autocast_enabled
from fastdl.dtypes import float64
from fastdl.tensor import Tensor

Function = Callable[..., Any]


def custom_fwd(fwd: Function | None = None, *, device_type: str, cast_inputs: Any = None) -> Function:
    """Decorate ``forward`` of an ``autograd.Function``; see ``torch.amp.custom_fwd``.

    Args:
        fwd: the static method ``forward(ctx, ...)``.
        device_type: the kind of device whose autocast counts, ``"cpu"`` or ``"cuda"``.
        cast_inputs: within autocast, floating-point tensors (but float64) come in this dtype, and ``forward`` runs
            without autocast. By default it runs in autocast as it was called.
    """
    if fwd is None:
        return partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @wraps(fwd)
    def run(ctx: Any, *args: Any, **options: Any) -> Any:
        within = is_autocast_enabled(device_type)
        ctx._autocast = within and cast_inputs is None
        ctx._autocast_dtype = get_autocast_dtype(device_type)
        if not within or cast_inputs is None:
            return fwd(ctx, *args, **options)
        with autocast(device_type, enabled=False):
            return fwd(ctx, *_cast(args, cast_inputs), **_cast(options, cast_inputs))

    return run


def custom_bwd(bwd: Function | None = None, *, device_type: str) -> Function:
    """Decorate ``backward``: it runs with the autocast that ``forward`` ran with. See ``torch.amp.custom_bwd``."""
    if bwd is None:
        return partial(custom_bwd, device_type=device_type)

    @wraps(bwd)
    def run(ctx: Any, *args: Any, **options: Any) -> Any:
        with autocast(device_type, dtype=ctx._autocast_dtype, enabled=ctx._autocast):
            return bwd(ctx, *args, **options)

    return run


def _cast(value: Any, dtype: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dtype != float64 else value
    if isinstance(value, dict):
        return {name: _cast(v, dtype) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_cast(v, dtype) for v in value])
    return value

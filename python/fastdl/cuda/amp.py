"""PyTorch's older names: ``fastdl.cuda.amp.autocast()`` is ``fastdl.amp.autocast("cuda")``."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastdl import amp
from fastdl.paths import lead_to

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd"]

custom_bwd = partial(amp.custom_bwd, device_type="cuda")


def custom_fwd(fwd: Any = None, *, cast_inputs: Any = None) -> Any:
    """:func:`fastdl.amp.custom_fwd` for GPUs."""
    return amp.custom_fwd(fwd, device_type="cuda", cast_inputs=cast_inputs)


class autocast(amp.autocast):
    """:class:`fastdl.amp.autocast` for GPUs."""

    def __init__(self, enabled: bool = True, dtype: Any = None, cache_enabled: bool = True) -> None:
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler(amp.GradScaler):
    """:class:`fastdl.amp.GradScaler` for GPUs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__("cuda", *args, **options)


lead_to(__name__, "autocast_mode grad_scaler")

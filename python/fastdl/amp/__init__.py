"""Mixed precision: :class:`autocast` chooses operations' dtypes, :class:`GradScaler` keeps small gradients alive."""

from fastdl.amp.autocast import (
    autocast,
    get_autocast_dtype,
    is_autocast_available,
    is_autocast_enabled,
)
from fastdl.amp.custom import custom_bwd, custom_fwd
from fastdl.amp.grad_scaler import GradScaler
from fastdl.paths import lead_to

__all__ = [
    "GradScaler",
    "autocast",
    "custom_bwd",
    "custom_fwd",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_enabled",
]

lead_to(__name__, "autocast_mode")

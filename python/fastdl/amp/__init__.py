"""Mixed precision: :class:`autocast` chooses operations' dtypes, :class:`GradScaler` keeps small gradients alive."""

from fastdl.amp.autocast import autocast, is_autocast_available
from fastdl.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "is_autocast_available"]

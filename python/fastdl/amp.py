"""Mixed precision's names, for scripts that use them: everything is computed in the tensors' own dtype.

Example:
    >>> import fastdl
    >>> scaler = GradScaler("cpu")
    >>> w = fastdl.ones(2, requires_grad=True)
    >>> update = fastdl.optim.SGD([w], lr=1.0)
    >>> with autocast("cpu"):
    ...     loss = (w * 3).sum()
    >>> scaler.scale(loss).backward()
    >>> scaler.step(update)
    >>> scaler.update()
    >>> w.tolist()
    [-2.0, -2.0]
"""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import Any

from fastdl.tensor import Tensor

__all__ = ["GradScaler", "autocast"]


class autocast(ContextDecorator):
    """Accepted and without effect: no lower precision is chosen. Also a decorator. See ``torch.autocast``."""

    def __init__(
        self,
        device_type: str = "cpu",
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        self.device, self.fast_dtype = device_type, dtype

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *error: Any) -> None:
        return None


class GradScaler:
    """Gradients of float32 need no scaling: the factor is 1. See ``torch.amp.GradScaler``."""

    def __init__(self, device: str = "cpu", *args: Any, enabled: bool = True, **options: Any) -> None:
        self._enabled = enabled

    def scale(self, outputs: Any) -> Any:
        """The loss itself."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """Nothing to divide by."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step``, left out where a gradient is infinite or NaN (if enabled)."""
        if self._enabled:
            grads = [
                p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            if not all([_finite(g) for g in grads]):
                return None
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        """The factor stays 1."""

    def get_scale(self) -> float:
        """1."""
        return 1.0

    def is_enabled(self) -> bool:
        """Whether steps with infinite gradients are left out."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"scale": 1.0} if self._enabled else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Accepted; there is no state."""


def _finite(grad: Tensor) -> bool:
    return bool(grad.isfinite().all())

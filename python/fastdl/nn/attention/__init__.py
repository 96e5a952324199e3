"""Around attention: scores and masks that are functions (``flex_attention``), causal biases, the choice of kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

__all__ = ["SDPBackend", "sdpa_kernel"]


class SDPBackend(Enum):
    """PyTorch's kernels for attention."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


@contextmanager
def sdpa_kernel(backends: Any, set_priority: bool = False) -> Iterator[None]:
    """Accepted and without effect: ``scaled_dot_product_attention`` has one kernel on every device.

    Raises:
        TypeError: if ``backends`` is no SDPBackend and no list of them.
    """
    for backend in backends if isinstance(backends, (list, tuple)) else (backends,):
        if not isinstance(backend, SDPBackend):
            raise TypeError(
                f"sdpa_kernel: backends must be an SDPBackend or a list of them, got {type(backend).__name__}"
            )
    yield


def __getattr__(name: str) -> Any:
    """``flex_attention`` and ``bias`` come when they are asked for."""
    if name not in ("bias", "flex_attention"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module(f"fastdl.nn.attention.{name}")

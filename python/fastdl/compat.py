"""Switches that scripts written for PyTorch set, and that have nothing to switch here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = [
    "are_deterministic_algorithms_enabled",
    "backends",
    "channels_last",
    "channels_last_3d",
    "compile",
    "contiguous_format",
    "get_float32_matmul_precision",
    "memory_format",
    "preserve_format",
    "set_float32_matmul_precision",
    "strided",
    "use_deterministic_algorithms",
]


class memory_format:
    """How axes lie in memory. Accepted and ignored: fastdl's tensors lie in C order."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"fastdl.{self._name}"


contiguous_format, preserve_format = memory_format("contiguous_format"), memory_format("preserve_format")
channels_last, channels_last_3d = memory_format("channels_last"), memory_format("channels_last_3d")
strided = memory_format("strided")


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Does nothing: every result is bitwise repeatable for one number of threads."""


def are_deterministic_algorithms_enabled() -> bool:
    """True: every result is bitwise repeatable for one number of threads."""
    return True


def set_float32_matmul_precision(precision: str) -> None:
    """Does nothing: float32 products are always computed in float32."""
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(
            f"set_float32_matmul_precision: precision must be 'highest', 'high' or 'medium', got {precision!r}"
        )


def get_float32_matmul_precision() -> str:
    """``"highest"``: float32 products are computed in float32."""
    return "highest"


def compile(model: Any = None, **options: Any) -> Any:
    """The model or function itself: there is no compiler, and none is needed for the fused layers. Also a decorator."""
    if model is None:
        identity: Callable[[Any], Any] = compile
        return identity
    return model


def _backend(**switches: Any) -> SimpleNamespace:
    return SimpleNamespace(is_available=lambda: False, **switches)


backends = SimpleNamespace(
    cuda=_backend(matmul=SimpleNamespace(allow_tf32=False), is_built=lambda: False),
    cudnn=_backend(benchmark=False, deterministic=True, enabled=False, allow_tf32=False),
    mkl=_backend(),
    mps=_backend(is_built=lambda: False),
)

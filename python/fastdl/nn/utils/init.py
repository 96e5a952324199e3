"""``skip_init``, for programs that fill a module's parameters themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["skip_init"]

T = TypeVar("T")


def skip_init(module_cls: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """``module_cls(*args, **kwargs)``; its parameters' values are for the caller to set.

    PyTorch saves the time of drawing them, which is short here. See ``torch.nn.utils.skip_init``.
    """
    return module_cls(*args, **kwargs)

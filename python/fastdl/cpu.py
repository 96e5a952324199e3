"""The CPU as one of the devices: the names of ``torch.cpu`` for programs that ask any device's module."""

from __future__ import annotations

from typing import Any

__all__ = ["current_device", "device_count", "is_available", "is_initialized", "set_device", "synchronize"]


def current_device() -> str:
    """``"cpu"``."""
    return "cpu"


def device_count() -> int:
    """1."""
    return 1


def is_available() -> bool:
    """True."""
    return True


is_initialized = is_available


def set_device(device: Any) -> None:
    """Does nothing: there is one."""


def synchronize(device: Any = None) -> None:
    """Does nothing: operations have run when they return."""

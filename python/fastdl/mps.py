"""``torch.mps``: Apple's GPUs, of which fastdl knows nothing. Programs ask whether there is one."""

from typing import Any


def is_available() -> bool:
    """False: tensors live on CPUs and NVIDIA GPUs."""
    return False


def device_count() -> int:
    """0."""
    return 0


def manual_seed(seed: Any) -> None:
    """Does nothing: there is no such device."""


def empty_cache() -> None:
    """Does nothing: there is no such device."""

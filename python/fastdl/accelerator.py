"""The device that is faster than the CPU, if there is one; see ``torch.accelerator``."""

from typing import Any

from fastdl import cuda
from fastdl.dtypes import device


def is_available() -> bool:
    """Can a GPU be used?"""
    return cuda.is_available()


def current_accelerator(check_available: bool = False) -> device | None:
    """``device("cuda")``, or None without a GPU.

    Example:
        >>> import fastdl
        >>> chosen = fastdl.accelerator.current_accelerator() or fastdl.device("cpu")
        >>> chosen.type in ("cpu", "cuda")
        True
    """
    return device("cuda") if cuda.is_available() else None


def device_count() -> int:
    """How many GPUs there are."""
    return cuda.device_count()


def synchronize(device: Any = None, /) -> None:
    """Wait until the GPU has done what it was given."""
    cuda.synchronize(device)

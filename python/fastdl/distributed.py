"""One process trains: what a program asks before it does otherwise; see ``torch.distributed.is_available``."""

from typing import Any


def is_available() -> bool:
    """False: there is no communication between processes."""
    return False


def is_initialized() -> bool:
    """False."""
    return False


def __getattr__(name: str) -> Any:
    from fastdl.absent import hint

    raise AttributeError(f"module 'fastdl.distributed' has no attribute {name!r}{hint('multiprocessing')}")

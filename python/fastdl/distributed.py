"""One process trains: what a program asks before it does otherwise; see ``torch.distributed.is_available``.

The functions that a program imports for the other case are there, and are an error when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from fastdl.paths import lead_to

_WHY = (
    ": one process trains, with all CPUs or on one GPU; DataLoader(num_workers=...) has processes of its own "
    "(docs/differences.md)"
)
_LEFT_OUT = [
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "destroy_process_group",
    "get_rank",
    "get_world_size",
    "init_process_group",
    "new_group",
    "reduce",
]


def is_available() -> bool:
    """False: there is no communication between processes."""
    return False


def is_initialized() -> bool:
    """False."""
    return False


def refuse(name: str) -> NoReturn:
    """Raise the error that a call of ``name`` is."""
    raise RuntimeError(
        f"{name}: there is no communication between processes, distributed.is_available() is False{_WHY}"
    )


class DeviceMesh:
    """An arrangement of processes, for annotations and ``isinstance``: an error when one is made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        refuse(type(self).__name__)


class ProcessGroup(DeviceMesh):
    """Some of the processes: an error when made."""


class DTensor(DeviceMesh):
    """A tensor in parts on several processes: no tensor is one."""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def function(*args: Any, **options: Any) -> NoReturn:
        refuse(name)

    function.__name__ = function.__qualname__ = name
    return function


def __getattr__(name: str) -> Any:
    if name in _LEFT_OUT:
        return _refusing(name)
    raise AttributeError(f"module 'fastdl.distributed' has no attribute {name!r}{_WHY}")


lead_to(__name__, "nn device_mesh tensor")

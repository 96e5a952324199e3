"""One process trains: what a program asks before it does otherwise; see ``torch.distributed.is_available``.

The functions that a program imports for the other case are there, and are an error when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

from fastdl.paths import lead_to

_WHY = (
    ": one process trains, with all CPUs or on one GPU; DataLoader(num_workers=...) has processes of its own "
    "(docs/differences.md)"
)
_LEFT_OUT = [
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "batch_isend_irecv",
    "broadcast",
    "broadcast_object_list",
    "destroy_process_group",
    "gather",
    "gather_object",
    "get_backend",
    "get_global_rank",
    "get_group_rank",
    "get_process_group_ranks",
    "get_rank",
    "get_world_size",
    "init_device_mesh",
    "init_process_group",
    "irecv",
    "isend",
    "monitored_barrier",
    "new_group",
    "new_subgroups",
    "recv",
    "recv_object_list",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
    "scatter_object_list",
    "send",
    "send_object_list",
]


def is_available() -> bool:
    """False: there is no communication between processes."""
    return False


def is_initialized() -> bool:
    """False."""
    return False


is_nccl_available = is_gloo_available = is_mpi_available = is_ucc_available = is_xccl_available = (
    is_initialized
)
is_torchelastic_launched = is_initialized


def is_backend_available(backend: str) -> bool:
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


class Work(DeviceMesh):
    """A transfer that goes on: there is none."""


class P2POp(DeviceMesh):
    """A transfer to be made: an error when made."""


class Store(DeviceMesh):
    """What processes share: an error when made."""


class FileStore(Store):
    """A :class:`Store` in a file: an error when made."""


class TCPStore(Store):
    """A :class:`Store` of a server: an error when made."""


class HashStore(Store):
    """A :class:`Store` in memory: an error when made."""


class FullyShardedDataParallel(DeviceMesh):
    """A module in parts on several processes: an error when made."""


class ReduceOp(Enum):
    """How values of several processes would be made one."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7


class group:
    """The group of all processes: there is none."""

    WORLD = None


GroupMember = group


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


lead_to(__name__, "nn device_mesh tensor fsdp distributed_c10d rpc")

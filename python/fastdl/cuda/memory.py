"""The memory of GPUs: CuPy's pool, which fastdl's arrays come from."""

from __future__ import annotations

from typing import Any

from fastdl import devices


class _Peak:
    """Bytes in use and their peak, counted by a hook in CuPy's allocator from the first time they are asked for."""

    hook: Any = None
    used = 0
    peak = 0


def _watch() -> None:
    if _Peak.hook is not None:
        return
    cupy = devices.cupy()

    class Hook(cupy.cuda.memory_hook.MemoryHook):  # type: ignore[misc,name-defined]
        name = "fastdl.max_memory_allocated"

        def malloc_postprocess(self, **allocation: Any) -> None:
            _Peak.used += allocation["mem_size"]
            _Peak.peak = max(_Peak.peak, _Peak.used)

        def free_postprocess(self, **allocation: Any) -> None:
            _Peak.used -= allocation["mem_size"]

    _Peak.used = _Peak.peak = memory_allocated()
    _Peak.hook = Hook()
    _Peak.hook.__enter__()


def memory_allocated(device: Any = None) -> int:
    """Bytes of a GPU (the current one) that arrays occupy."""
    return _of_pool("memory_allocated", device, "used_bytes")


def memory_reserved(device: Any = None) -> int:
    """Bytes of a GPU that the pool holds: in use, or free for the next array."""
    return _of_pool("memory_reserved", device, "total_bytes")


def max_memory_allocated(device: Any = None) -> int:
    """The peak of :func:`memory_allocated`, over all GPUs, since :func:`reset_peak_memory_stats`.

    It is counted from the first call of either function on: before, allocations are not watched.
    """
    if devices.missing() is not None:
        return 0
    _watch()
    _Peak.peak = max(_Peak.peak, memory_allocated())
    return _Peak.peak


def max_memory_reserved(device: Any = None) -> int:
    """:func:`memory_reserved`: the pool gives memory back only in :func:`empty_cache`."""
    return memory_reserved(device)


def reset_peak_memory_stats(device: Any = None) -> None:
    """Measure the peak anew from now on."""
    _watch()
    # Counted anew, too: what other threads allocate and free does not reach the hook.
    _Peak.used = _Peak.peak = memory_allocated()


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes in use and their peak, bytes that the pool holds, and the GPU's free and total bytes."""
    free, total = mem_get_info(device)
    return {
        "allocated_bytes.all.current": memory_allocated(device),
        "allocated_bytes.all.peak": max_memory_allocated(device),
        "reserved_bytes.all.current": memory_reserved(device),
        "free_bytes": free,
        "total_bytes": total,
    }


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """:func:`memory_stats` as a table to print, in MiB; ``abbreviated`` changes nothing, as it is short."""
    lines = [f"{name:<28} {amount / 2**20:>12.1f} MiB" for name, amount in memory_stats(device).items()]
    return "\n".join(lines)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total bytes of a GPU, whoever uses them."""
    return devices.cupy().cuda.Device(devices.index("mem_get_info", device)).mem_info  # type: ignore[no-any-return]


def empty_cache() -> None:
    """Give memory that no array occupies back to the driver; does nothing where no GPU was used."""
    if devices.is_initialized():
        devices.cupy().get_default_memory_pool().free_all_blocks()


def _of_pool(op: str, device: Any, question: str) -> int:
    """What CuPy's pool answers for one GPU; 0 where none can be used, as PyTorch says."""
    if devices.missing() is not None:
        return 0
    cupy = devices.cupy()
    with cupy.cuda.Device(devices.index(op, device)):
        return int(getattr(cupy.get_default_memory_pool(), question)())

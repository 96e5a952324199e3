"""The GPU: not part of this build, and :func:`unavailable_reason` says so."""

from __future__ import annotations


def unavailable_reason() -> str:
    """Why no GPU can be used, in one sentence."""
    return "this build of fastdl contains no CUDA kernels; tensors live on 'cpu'"


def is_available() -> bool:
    """Can tensors live on a GPU? Always False in this build; see :func:`unavailable_reason`.

    Example:
        >>> import fastdl
        >>> fastdl.cuda.is_available()
        False
    """
    return False


def device_count() -> int:
    """The number of usable GPUs."""
    return 0


def manual_seed_all(seed: int) -> None:
    """Seed the GPUs' generators: there are none, so nothing happens, as in PyTorch without a GPU."""

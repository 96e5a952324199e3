"""``torch.backends.cuda``: products on a GPU, and which kernels attention may use (here all of one kind)."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastdl.devices import is_built as is_built
from fastdl.kernels import precisions


class _Matmul:
    """The older name of :func:`fastdl.set_float32_matmul_precision`."""

    @property
    def allow_tf32(self) -> bool:
        """May float32 products on a GPU be computed in TF32?"""
        return precisions.matmul != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allow: bool) -> None:
        precisions.matmul = "high" if allow else "highest"


matmul = _Matmul()


class _Kernels:
    """PyTorch's switches of attention's kernels. They are remembered; fastdl's attention has one kernel of its own."""

    def __init__(self) -> None:
        self.allowed = dict.fromkeys(("flash", "mem_efficient", "math", "cudnn"), True)


_kernels = _Kernels()


def enable_flash_sdp(enabled: bool) -> None:
    """Remembered, and without effect: see :mod:`fastdl.nn.attention`."""
    _kernels.allowed["flash"] = bool(enabled)


def enable_mem_efficient_sdp(enabled: bool) -> None:
    """As :func:`enable_flash_sdp`."""
    _kernels.allowed["mem_efficient"] = bool(enabled)


def enable_math_sdp(enabled: bool) -> None:
    """As :func:`enable_flash_sdp`."""
    _kernels.allowed["math"] = bool(enabled)


def enable_cudnn_sdp(enabled: bool) -> None:
    """As :func:`enable_flash_sdp`."""
    _kernels.allowed["cudnn"] = bool(enabled)


def flash_sdp_enabled() -> bool:
    """What was last given to :func:`enable_flash_sdp`; True at first."""
    return _kernels.allowed["flash"]


def mem_efficient_sdp_enabled() -> bool:
    """What was last given to :func:`enable_mem_efficient_sdp`; True at first."""
    return _kernels.allowed["mem_efficient"]


def math_sdp_enabled() -> bool:
    """What was last given to :func:`enable_math_sdp`; True at first."""
    return _kernels.allowed["math"]


def cudnn_sdp_enabled() -> bool:
    """What was last given to :func:`enable_cudnn_sdp`; True at first."""
    return _kernels.allowed["cudnn"]


@contextmanager
def sdp_kernel(
    enable_flash: bool = True,
    enable_math: bool = True,
    enable_mem_efficient: bool = True,
    enable_cudnn: bool = True,
) -> Iterator[None]:
    """The four switches for the length of a block."""
    before = _kernels.allowed
    _kernels.allowed = {
        "flash": enable_flash,
        "mem_efficient": enable_mem_efficient,
        "math": enable_math,
        "cudnn": enable_cudnn,
    }
    try:
        yield
    finally:
        _kernels.allowed = before

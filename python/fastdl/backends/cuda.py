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


# PyTorch's switches of attention's kernels. They are remembered; fastdl's attention has one kernel of its own.
_allowed = dict.fromkeys(("flash", "mem_efficient", "math", "cudnn"), True)


def enable_flash_sdp(enabled: bool) -> None:
    """Remembered, and without effect: see :mod:`fastdl.nn.attention`."""
    _allowed["flash"] = bool(enabled)


def enable_mem_efficient_sdp(enabled: bool) -> None:
    """As :func:`enable_flash_sdp`."""
    _allowed["mem_efficient"] = bool(enabled)


def enable_math_sdp(enabled: bool) -> None:
    """As :func:`enable_flash_sdp`."""
    _allowed["math"] = bool(enabled)


def enable_cudnn_sdp(enabled: bool) -> None:
    """As :func:`enable_flash_sdp`."""
    _allowed["cudnn"] = bool(enabled)


def flash_sdp_enabled() -> bool:
    """What was last given to :func:`enable_flash_sdp`; True at first."""
    return _allowed["flash"]


def mem_efficient_sdp_enabled() -> bool:
    """What was last given to :func:`enable_mem_efficient_sdp`; True at first."""
    return _allowed["mem_efficient"]


def math_sdp_enabled() -> bool:
    """What was last given to :func:`enable_math_sdp`; True at first."""
    return _allowed["math"]


def cudnn_sdp_enabled() -> bool:
    """What was last given to :func:`enable_cudnn_sdp`; True at first."""
    return _allowed["cudnn"]


@contextmanager
def sdp_kernel(
    enable_flash: bool = True,
    enable_math: bool = True,
    enable_mem_efficient: bool = True,
    enable_cudnn: bool = True,
) -> Iterator[None]:
    """The four switches for the length of a block."""
    before = dict(_allowed)
    _allowed.update(
        flash=enable_flash, math=enable_math, mem_efficient=enable_mem_efficient, cudnn=enable_cudnn
    )
    try:
        yield
    finally:
        _allowed.update(before)

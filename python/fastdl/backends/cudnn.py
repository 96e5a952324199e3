"""``torch.backends.cudnn``: convolutions on a GPU; there is nothing to benchmark, and TF32 has a switch of its own."""

import sys
from types import ModuleType

from fastdl.devices import missing
from fastdl.kernels import precisions

benchmark = False
deterministic = enabled = True


def is_available() -> bool:
    """Can a GPU be used? Its kernels are fastdl's own."""
    return missing() is None


def version() -> None:
    """None: there is no cuDNN."""


class _Module(ModuleType):
    """A module with a property: assignments to ``cudnn.allow_tf32`` reach the kernels."""

    @property
    def allow_tf32(self) -> bool:
        """May convolutions of float32 on a GPU be computed in TF32?"""
        return precisions.convolution != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allow: bool) -> None:
        precisions.convolution = "high" if allow else "highest"


sys.modules[__name__].__class__ = _Module

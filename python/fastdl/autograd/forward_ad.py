"""``torch.autograd.forward_ad``: no tensor has a tangent; :func:`fastdl.func.jvp` gives products with a Jacobian."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from fastdl.tensor import Tensor

__all__ = ["UnpackedDualTensor", "dual_level", "make_dual", "unpack_dual"]

_WHY = "there is no forward mode; func.jvp computes the same by going backward twice (docs/differences.md)"


class UnpackedDualTensor(NamedTuple):
    """A tensor and its tangent."""

    primal: Tensor
    tangent: Tensor | None


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """The tensor, and None: there are no tangents."""
    return UnpackedDualTensor(tensor, None)


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> NoReturn:
    """An error."""
    raise RuntimeError(f"make_dual: {_WHY}")


class dual_level:
    """A block for tensors with tangents: an error when entered."""

    def __enter__(self) -> NoReturn:
        raise RuntimeError(f"dual_level: {_WHY}")

    def __exit__(self, *exception: object) -> None: ...

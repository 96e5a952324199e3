"""Functions that ask their arguments' classes first (``torch.overrides``): there are none, nothing to intercept."""

from __future__ import annotations

from typing import Any

from fastdl.tensor import Tensor

__all__ = ["TorchFunctionMode", "has_torch_function", "is_tensor_like"]


class TorchFunctionMode:
    """A block in which all functions go through ``__torch_function__``: can be subclassed, an error when entered."""

    def __enter__(self) -> Any:
        raise RuntimeError(
            f"{type(self).__name__}: functions cannot be intercepted; call your own in their place"
        )

    def __exit__(self, *exception: object) -> None:
        """Never reached."""


def has_torch_function(relevant_args: Any) -> bool:
    """False: no class takes functions over by ``__torch_function__``."""
    return False


def is_tensor_like(inp: Any) -> bool:
    """Is this a tensor?"""
    return isinstance(inp, Tensor)

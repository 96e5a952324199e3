"""``torch.utils.dlpack``: memory shared with other libraries."""

from typing import Any

from fastdl.creation import from_dlpack as from_dlpack
from fastdl.tensor import Tensor


def to_dlpack(tensor: Tensor) -> Any:
    """A capsule that hands the tensor's memory to another library, once; ``from_dlpack(tensor)`` there needs none."""
    return tensor.__dlpack__()

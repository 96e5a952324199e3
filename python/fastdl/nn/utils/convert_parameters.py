"""Parameters as one vector and back; see ``torch.nn.utils.parameters_to_vector``."""

from __future__ import annotations

from collections.abc import Iterable

from fastdl.ops.join import cat
from fastdl.tensor import Tensor

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened and joined into one vector, through which gradients flow."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy consecutive pieces of a vector into the parameters."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor for vec, but got: {type(vec).__name__}")
    params = list(parameters)
    needed = sum(p._data.size for p in params)
    if vec._data.ndim != 1 or vec._data.size != needed:
        raise ValueError(
            f"vector_to_parameters: vec must be a vector of {needed} elements, got shape {tuple(vec.shape)}"
        )
    start = 0
    for p in params:
        stop = start + p._data.size
        p._data[...] = vec._data[start:stop].reshape(p._data.shape)
        p._bump_version()
        start = stop

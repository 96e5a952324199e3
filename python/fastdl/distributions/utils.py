"""Under the names of ``torch.distributions.utils``: what programs that write distributions of their own import."""

from typing import Any

from fastdl import functions
from fastdl.distributions.common import clamp_probs, lazy_property
from fastdl.distributions.common import logits_of as probs_to_logits
from fastdl.distributions.common import probs_of as logits_to_probs
from fastdl.distributions.distribution import broadcast_all
from fastdl.tensor import Tensor

__all__ = ["broadcast_all", "clamp_probs", "lazy_property", "logits_to_probs", "probs_to_logits"]


def _standard_normal(shape: Any, dtype: Any, device: Any) -> Tensor:
    return functions.randn(*shape, dtype=dtype, device=device)


def _sum_rightmost(value: Tensor, dim: int) -> Tensor:
    """The sum over the last ``dim`` axes."""
    return value if dim == 0 else value.reshape((*value.shape[:-dim], -1)).sum(-1)

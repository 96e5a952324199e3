"""Under the names of ``torch.distributions.utils``: what programs that write distributions of their own import."""

from fastdl.distributions.common import lazy_property
from fastdl.distributions.common import logits_of as probs_to_logits
from fastdl.distributions.common import probs_of as logits_to_probs
from fastdl.distributions.distribution import broadcast_all

__all__ = ["broadcast_all", "lazy_property", "logits_to_probs", "probs_to_logits"]

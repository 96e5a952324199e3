"""Logits and probabilities from each other, as several discrete distributions need them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdl.autograd.mode import enable_grad
from fastdl.ops.activation import sigmoid
from fastdl.ops.elementwise import clamp
from fastdl.ops.softmax import softmax_method
from fastdl.ops.unary import log, log1p
from fastdl.tensor import Tensor

if TYPE_CHECKING:
    lazy_property = cached_property
else:

    class lazy_property(cached_property):
        """A ``cached_property`` that is recorded even where ``no_grad()`` asks for it first (``sample`` does)."""

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            with enable_grad():
                return super().__get__(instance, owner)


def one_of(name: str, probs: Any, logits: Any) -> None:
    """Exactly one of the two ways to give probabilities must be used."""
    if (probs is None) == (logits is None):
        raise ValueError(f"{name}: Either `probs` or `logits` must be specified, but not both.")


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities kept off 0 and 1 by the dtype's epsilon."""
    eps = float(np.finfo(probs.dtype).eps)
    return clamp(probs, eps, 1 - eps)


def logits_of(probs: Tensor, is_binary: bool = False) -> Tensor:
    """log p, or log p - log(1 - p), with p kept off 0 and 1 by the dtype's epsilon."""
    p = clamp_probs(probs)
    return log(p) - log1p(-p) if is_binary else log(p)


def probs_of(logits: Tensor, is_binary: bool = False) -> Tensor:
    """The sigmoid, or the softmax of the last axis."""
    return sigmoid(logits) if is_binary else softmax_method(logits, -1)

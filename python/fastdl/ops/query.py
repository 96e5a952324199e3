"""Questions about tensors and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import finfo, iinfo

from fastdl.dtypes import as_dtype
from fastdl.tensor import Tensor

__all__ = ["can_cast", "finfo", "iinfo", "is_floating_point", "is_tensor", "numel"]


def is_tensor(obj: object) -> bool:
    """Is ``obj`` a tensor?"""
    return isinstance(obj, Tensor)


def numel(input: Tensor) -> int:
    """The number of elements of ``input``."""
    return input.numel()


def is_floating_point(input: Tensor) -> bool:
    """Is the dtype of ``input`` one of the floating-point types?"""
    return input.is_floating_point()


def can_cast(from_: Any, to: Any) -> bool:
    """May values of one dtype be stored in place in another? Numbers may change precision but not kind."""
    return np.can_cast(as_dtype("can_cast", from_), as_dtype("can_cast", to), "same_kind")

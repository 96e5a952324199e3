"""The exceptions of operations that refuse their arguments.

PyTorch reports most wrong arguments as RuntimeError where Python's own habit is ValueError or TypeError. Code written
for either catches these.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ArgumentError", "DtypeError", "LinAlgError", "RangeError"]


class ArgumentError(ValueError, RuntimeError):
    """An argument has a shape or value that the operation cannot work with."""


class DtypeError(TypeError, RuntimeError):
    """An argument has a dtype that the operation cannot work with."""


class RangeError(IndexError, RuntimeError):
    """An index in a tensor lies outside of what it counts."""


class LinAlgError(np.linalg.LinAlgError, RuntimeError):
    """A matrix has no inverse or no factor, or what should find it did not converge."""


_PACKAGE = str(Path(__file__).parent) + os.sep


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning that shows the line outside of this package which led to it."""
    level, frame = 1, sys._getframe()
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def not_for_complex(op: str, hint: str = "") -> NotImplementedError:
    """The error for a complex tensor where an operation is defined for real numbers only."""
    hint = hint or "use x.abs(), x.real and x.imag, or view_as_real(x)"
    return NotImplementedError(f"{op}: is not defined for complex tensors; {hint}")


def not_a_tensor(op: str, name: str, value: Any, rule: str = "a Tensor") -> TypeError:
    """The error for an argument that should be a tensor: what came instead, and how to make it one."""
    cls = type(value)
    came = cls.__name__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__name__}"
    hint = ""
    if hasattr(value, "__array__"):
        came += f" of shape {value.shape}" if hasattr(value, "shape") else ""
        hint = "; use fastdl.tensor(x) (a copy) or fastdl.from_numpy(x) (the same memory)"
    elif isinstance(value, (list, tuple, int, float)):
        hint = "; use fastdl.tensor(x)"
    return TypeError(f"{op}: {name} must be {rule}, got {came}{hint}")

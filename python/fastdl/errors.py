"""The exceptions of operations that refuse their arguments.

PyTorch reports most wrong arguments as RuntimeError where Python's own habit is ValueError or TypeError. Code written
for either catches these.
"""

__all__ = ["ArgumentError", "DtypeError"]


class ArgumentError(ValueError, RuntimeError):
    """An argument has a shape or value that the operation cannot work with."""


class DtypeError(TypeError, RuntimeError):
    """An argument has a dtype that the operation cannot work with."""

"""Switches that scripts written for PyTorch set; most have nothing to switch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl import dtypes
from fastdl.dtypes import set_default_dtype
from fastdl.errors import ArgumentError
from fastdl.kernels import precisions

__all__ = [
    "are_deterministic_algorithms_enabled",
    "channels_last",
    "channels_last_3d",
    "compile",
    "cond",
    "contiguous_format",
    "get_deterministic_debug_mode",
    "get_float32_matmul_precision",
    "get_num_interop_threads",
    "layout",
    "legacy_contiguous_format",
    "memory_format",
    "preserve_format",
    "set_default_tensor_type",
    "set_deterministic_debug_mode",
    "set_float32_matmul_precision",
    "set_flush_denormal",
    "set_num_interop_threads",
    "sparse_coo",
    "sparse_csc",
    "sparse_csr",
    "strided",
    "use_deterministic_algorithms",
]


class memory_format:
    """How axes lie in memory. Accepted and ignored: fastdl's tensors lie in C order."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"{dtypes.package}.{self._name}"


contiguous_format, preserve_format = memory_format("contiguous_format"), memory_format("preserve_format")
legacy_contiguous_format = contiguous_format
channels_last, channels_last_3d = memory_format("channels_last"), memory_format("channels_last_3d")


class layout:
    """How a tensor stores its elements; see ``torch.layout``: ``fastdl.strided``, or as :mod:`fastdl.sparse` does."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"{dtypes.package}.{self._name}"


strided = layout("strided")
sparse_coo, sparse_csr, sparse_csc = layout("sparse_coo"), layout("sparse_csr"), layout("sparse_csc")


def set_default_tensor_type(t: Any, /) -> None:
    """The older form of :func:`fastdl.set_default_dtype`: a type such as ``FloatTensor``, or its name."""
    if isinstance(t, str):
        from fastdl import typed

        t = getattr(typed, t.rpartition(".")[2], t)
    set_default_dtype(getattr(t, "dtype", t))


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Does nothing: every result is bitwise repeatable for one number of threads."""


def are_deterministic_algorithms_enabled() -> bool:
    """True: every result is bitwise repeatable for one number of threads."""
    return True


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """Does nothing: every result is bitwise repeatable for one number of threads.

    Raises:
        ValueError: unless ``debug_mode`` is 0, 1 or 2, or ``"default"``, ``"warn"`` or ``"error"``.
    """
    if debug_mode not in (0, 1, 2, "default", "warn", "error"):
        raise ArgumentError(
            "set_deterministic_debug_mode: debug_mode must be 0, 1 or 2, or 'default', 'warn' or 'error', got "
            f"{debug_mode!r}"
        )


def get_deterministic_debug_mode() -> int:
    """2: what is not deterministic would be an error, and nothing is."""
    return 2


def _check_with(error_type: type[Exception], cond: Any, message: Callable[[], str] | None = None) -> None:
    """Raise ``error_type(message())`` unless ``cond`` holds."""
    if not cond:
        raise error_type("Expected cond to be True" if message is None else message())


def _check(cond: Any, message: Callable[[], str] | None = None) -> None:
    """Raise a RuntimeError unless ``cond`` holds; see ``torch._check``."""
    _check_with(RuntimeError, cond, message)


def _check_tensor_all_with(
    error_type: type[Exception], cond: Any, message: Callable[[], str] | None = None
) -> None:
    """Raise ``error_type(message())`` unless all elements of a tensor hold."""
    _check_with(error_type, cond.all(), message)


def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
    """``true_fn(*operands)`` if ``pred`` holds, else ``false_fn(*operands)``; see ``torch.cond``.

    Example:
        >>> import fastdl
        >>> fastdl.cond(fastdl.tensor(True), lambda x: x + 1, lambda x: x - 1, (fastdl.tensor(1.0),))
        tensor(2.)
    """
    return (true_fn if pred else false_fn)(*operands)


def set_num_interop_threads(int: int) -> None:
    """Does nothing: operations run one after another, each on all threads. See ``torch.set_num_interop_threads``."""


def get_num_interop_threads() -> int:
    """1: operations run one after another. See ``torch.get_num_interop_threads``."""
    return 1


def set_flush_denormal(mode: bool) -> bool:
    """Does nothing: kernels always flush denormal numbers. See ``torch.set_flush_denormal``."""
    return True


def set_float32_matmul_precision(precision: str) -> None:
    """How float32 products are computed on a GPU: ``"highest"`` in float32, ``"high"`` and ``"medium"`` in TF32.

    TF32 keeps float32's range and about three decimal digits, and is several times faster. The CPU always computes in
    float32. See ``torch.set_float32_matmul_precision``.
    """
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(
            f"set_float32_matmul_precision: precision must be 'highest', 'high' or 'medium', got {precision!r}"
        )
    precisions.matmul = precision


def get_float32_matmul_precision() -> str:
    """What :func:`set_float32_matmul_precision` set; ``"highest"`` at first."""
    return precisions.matmul


def compile(model: Any = None, **options: Any) -> Any:
    """The model or function itself: there is no compiler, and none is needed for the fused layers. Also a decorator."""
    if model is None:
        identity: Callable[[Any], Any] = compile
        return identity
    return model

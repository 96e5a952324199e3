"""Comparing results in tests; see ``torch.testing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastdl.tensor import Tensor

__all__ = ["assert_close"]

# Relative and absolute tolerance by dtype; anything else has to be equal.
_TOLERANCES = {"float16": (1e-3, 1e-5), "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_dtype: bool = True,
    msg: str | None = None,
) -> None:
    """Raise AssertionError unless |actual - expected| <= atol + rtol |expected|, with equal shapes and dtypes.

    Tensors, arrays, numbers, and sequences and mappings of them. See ``torch.testing.assert_close``.

    Example:
        >>> import fastdl
        >>> fastdl.testing.assert_close(fastdl.ones(2), fastdl.ones(2) + 1e-8)
    """
    if (rtol is None) != (atol is None):
        raise ValueError("assert_close: give both rtol and atol, or neither")
    options: dict[str, Any] = {
        "rtol": rtol,
        "atol": atol,
        "equal_nan": equal_nan,
        "check_dtype": check_dtype,
        "msg": msg,
    }
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or actual.keys() != expected.keys():
            raise AssertionError(msg or f"The keys differ: {list(actual)} and {list(expected)}")
        for key in expected:
            assert_close(actual[key], expected[key], **options)
        return
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(actual, Sequence) or len(actual) != len(expected):
            raise AssertionError(msg or "The lengths of the sequences differ")
        for a, b in zip(actual, expected, strict=True):
            assert_close(a, b, **options)
        return
    x, y = [np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v) for v in (actual, expected)]
    if x.shape != y.shape:
        raise AssertionError(msg or f"The shapes differ: {x.shape} and {y.shape}")
    if check_dtype and x.dtype != y.dtype:
        raise AssertionError(msg or f"The dtypes differ: {x.dtype} and {y.dtype}")
    if rtol is None or atol is None:
        pairs = [_TOLERANCES.get(v.dtype.name, (0.0, 0.0)) for v in (x, y)]
        rtol, atol = max(p[0] for p in pairs), max(p[1] for p in pairs)
    close = np.isclose(x.astype(np.float64), y.astype(np.float64), rtol, atol, equal_nan)
    if not close.all():
        place = tuple(np.argwhere(~close)[0].tolist())
        raise AssertionError(
            msg
            or f"{np.count_nonzero(~close)} of {close.size} elements are not close; the first at {place}: {x[place]} "
            f"and {y[place]} (rtol {rtol}, atol {atol})"
        )

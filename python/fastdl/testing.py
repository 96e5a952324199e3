"""Comparing results in tests; see ``torch.testing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastdl.creation import as_tensor
from fastdl.dtypes import as_dtype, bool_
from fastdl.kernels.sparse import is_sparse
from fastdl.random import default_generator
from fastdl.tensor import Tensor

__all__ = ["assert_close", "make_tensor"]

# Relative and absolute tolerance by dtype; anything else has to be equal.
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "bfloat16": (1.6e-2, 1e-5),
}


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
    if is_sparse(actual) or is_sparse(expected):
        if not (is_sparse(actual) and is_sparse(expected) and actual.layout is expected.layout):
            raise AssertionError(msg or "One is sparse, and the other is not, or in another layout")
        if actual.shape != expected.shape:
            raise AssertionError(msg or f"The shapes differ: {actual.shape} and {expected.shape}")
        stored = [v.detach().to_sparse().coalesce() for v in (actual, expected)]
        assert_close(*[[v.indices(), v.values()] for v in stored], **options)
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


def make_tensor(
    *shape: Any,
    dtype: Any,
    device: Any = "cpu",
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Random numbers for tests, uniform in [low, high); see ``torch.testing.make_tensor``.

    Args:
        shape: extents, or one sequence of them.
        low, high: by default -9 and 9 for numbers with a sign, 0 and 10 for unsigned integers, 0 and 2 for bool.
        noncontiguous: every other element of an array twice as long (for arrays of more than one element).
        exclude_zero: the smallest positive number (1 for integers) in the place of zeros.

    Raises:
        ValueError: for low >= high.

    Example:
        >>> import fastdl
        >>> x = fastdl.testing.make_tensor((2, 3), dtype=fastdl.float64, low=0, high=1)
        >>> x.shape, bool((x >= 0).all())
        ((2, 3), True)
    """
    size = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    kind = as_dtype("make_tensor", dtype)
    if kind == bool_:
        least, most = 0.0, 2.0
    elif kind.kind == "u":
        least, most = 0.0, 10.0
    else:
        least, most = -9.0, 9.0
    low, high = least if low is None else low, most if high is None else high
    if not low < high:
        raise ValueError(f"make_tensor: low must be less than high, got low {low}, high {high}")
    spread = noncontiguous and int(np.prod(size)) > 1
    drawn = (*size[:-1], 2 * size[-1]) if spread else size
    numbers = np.random.default_rng(default_generator.draw())
    if kind.kind in "iub":
        values = numbers.integers(int(np.ceil(low)), int(np.ceil(high)), drawn).astype(kind)
    else:
        values = (low + (high - low) * numbers.random(drawn)).astype(kind)
    if exclude_zero:
        values[values == 0] = 1 if kind.kind in "iub" else np.finfo(np.float32).tiny
    x = as_tensor(values, device=device)
    if spread:
        x = x[..., ::2]
    return x.requires_grad_(requires_grad)

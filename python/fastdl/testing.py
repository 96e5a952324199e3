"""Comparing results in tests; see ``torch.testing``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastdl.creation import as_tensor
from fastdl.dtypes import as_dtype, bool_
from fastdl.errors import warn_caller
from fastdl.kernels.sparse import is_sparse
from fastdl.random import default_generator
from fastdl.tensor import Tensor

__all__ = ["assert_allclose", "assert_close", "make_tensor"]

# Relative and absolute tolerance by dtype; anything else has to be equal.
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "bfloat16": (1.6e-2, 1e-5),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: str | Callable[[str], str] | None = None,
) -> None:
    """Raise AssertionError unless |actual - expected| <= atol + rtol |expected|, with equal shapes and dtypes.

    Tensors, arrays, numbers, and sequences and mappings of them. See ``torch.testing.assert_close``.

    Args:
        rtol, atol: by default those of the dtype.
        equal_nan: does NaN equal NaN?
        check_device, check_dtype, check_layout, check_stride: must these be equal, too?
        msg: the error's text, or a function that makes it of the usual one.

    Example:
        >>> import fastdl
        >>> fastdl.testing.assert_close(fastdl.ones(2), fastdl.ones(2) + 1e-8)
    """
    if (rtol is None) != (atol is None):
        raise ValueError("assert_close: give both rtol and atol, or neither")
    options = {
        "rtol": rtol,
        "atol": atol,
        "equal_nan": equal_nan,
        "device": check_device,
        "dtype": check_dtype,
        "layout": check_layout,
        "stride": check_stride,
    }
    difference = _difference(actual, expected, options)
    if difference:
        raise AssertionError(msg(difference) if callable(msg) else msg or difference)


def _difference(actual: Any, expected: Any, options: dict[str, Any]) -> str:
    """The first thing that distinguishes two values, in words; empty if there is none."""
    if actual is None or expected is None:
        return "" if actual is expected else f"One is None: {actual} and {expected}"
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or actual.keys() != expected.keys():
            return f"The keys differ: {list(actual)} and {list(expected)}"
        return _first_difference([(actual[key], expected[key]) for key in expected], options)
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(actual, Sequence) or len(actual) != len(expected):
            return "The lengths of the sequences differ"
        return _first_difference(zip(actual, expected, strict=True), options)
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        if options["device"] and actual.device != expected.device:
            return f"The devices differ: {actual.device} and {expected.device}"
        if options["layout"] and actual.layout is not expected.layout:
            return "One is sparse, and the other is not, or in another layout"
        if is_sparse(actual) or is_sparse(expected):
            if actual.shape != expected.shape:
                return f"The shapes differ: {actual.shape} and {expected.shape}"
            x, y = [v.detach().to_sparse().coalesce() for v in (actual, expected)]
            return _first_difference([(x.indices(), y.indices()), (x.values(), y.values())], options)
        if options["stride"] and actual.shape == expected.shape and actual.stride() != expected.stride():
            return f"The strides differ: {actual.stride()} and {expected.stride()}"
    a, b = [np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v) for v in (actual, expected)]
    if a.dtype.kind in "OUS" or b.dtype.kind in "OUS":
        raise TypeError(f"assert_close: cannot compare {type(actual).__name__} and {type(expected).__name__}")
    if a.shape != b.shape:
        return f"The shapes differ: {a.shape} and {b.shape}"
    if options["dtype"] and a.dtype != b.dtype:
        return f"The dtypes differ: {a.dtype} and {b.dtype}"
    rtol, atol = options["rtol"], options["atol"]
    if rtol is None:
        pairs = [_TOLERANCES.get(v.dtype.name, (0.0, 0.0)) for v in (a, b)]
        rtol, atol = max(p[0] for p in pairs), max(p[1] for p in pairs)
    if rtol == atol == 0 and {a.dtype.kind, b.dtype.kind} <= set("iub"):
        close = a == b  # beyond what floats can tell apart
    else:
        wide: Any = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
        close = np.isclose(a.astype(wide), b.astype(wide), rtol, atol, options["equal_nan"])
    if close.all():
        return ""
    place = tuple(np.argwhere(~close)[0].tolist())
    return (
        f"{np.count_nonzero(~close)} of {close.size} elements are not close; the first at {place}: {a[place]} "
        f"and {b[place]} (rtol {rtol}, atol {atol})"
    )


def _first_difference(pairs: Iterable[tuple[Any, Any]], options: dict[str, Any]) -> str:
    return next(filter(None, (_difference(a, b, options) for a, b in pairs)), "")


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str = "",
) -> None:
    """:func:`assert_close` for anything that :func:`fastdl.as_tensor` takes, whatever its dtype; deprecated."""
    warn_caller("assert_allclose is deprecated, use assert_close instead", FutureWarning)
    pair = [as_tensor(v) for v in (actual, expected)]
    assert_close(*pair, rtol=rtol, atol=atol, equal_nan=equal_nan, check_dtype=False, msg=msg or None)


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

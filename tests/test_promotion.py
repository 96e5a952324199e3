"""Type promotion: torch's rule, over all pairs of dtypes and categories."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import fastdl
from fastdl import dtypes
from fastdl.ops import elementwise
from fastdl.ops.promotion import promote_types, result_type

NAMES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]

# Worked by hand from the rule, so that it is checked without torch, too: (first, second, result). "t" has
# dimensions, "0" has none, anything else is a Python number.
CASES = [
    (("t", "float32"), ("t", "float64"), "float64"),
    (("t", "float32"), ("0", "float64"), "float32"),
    (("t", "int64"), ("0", "float64"), "float64"),
    (("t", "int64"), ("t", "float32"), "float32"),
    (("t", "float16"), ("t", "int64"), "float16"),
    (("t", "uint8"), ("t", "int8"), "int16"),
    (("t", "uint8"), ("0", "int64"), "uint8"),
    (("t", "bool"), ("0", "uint8"), "uint8"),
    (("t", "int32"), 2, "int32"),
    (("t", "int32"), 2.0, "float32"),
    (("t", "bool"), True, "bool"),
    (("t", "bool"), 2, "int64"),
    (("t", "float64"), 2.0, "float64"),
    (("0", "int32"), 2, "int32"),
    (("0", "float32"), 2.0, "float32"),
    (("0", "int16"), 0.5, "float32"),
]


def operand(what):
    if not isinstance(what, tuple):
        return what
    kind, name = what
    return fastdl.from_numpy(np.ones((2,) if kind == "t" else (), name))


@pytest.mark.parametrize(("first", "second", "result"), CASES)
def test_rule(first, second, result):
    assert result_type(operand(first), operand(second)) == np.dtype(result)
    assert result_type(operand(second), operand(first)) == np.dtype(result)


def test_all_pairs_and_categories_as_torch():
    torch = pytest.importorskip("torch")
    numbers = [True, 2, 2.5]
    operands = [(kind, name) for name in NAMES for kind in "t0"] + numbers
    for first, second in itertools.product(operands, operands):
        if not isinstance(first, tuple) and not isinstance(second, tuple):
            continue
        ours = result_type(operand(first), operand(second))
        theirs = torch.result_type(
            *[
                torch.ones(2 if o[0] == "t" else (), dtype=getattr(torch, o[1]))
                if isinstance(o, tuple)
                else o
                for o in (first, second)
            ]
        )
        assert f"torch.{ours}" == str(theirs), (first, second)


@pytest.mark.parametrize("value", [300, -129, -1, -1.0, -0.5, 1.5, 255.5, True, float("nan")])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "bool", "float32"])
def test_a_number_that_does_not_fit_is_not_wrapped(dtype, value):
    torch = pytest.importorskip("torch")
    calls = [
        lambda L, x: L.where(L.tensor([True, False]), x, value),
        lambda L, x: L.where(L.tensor([True, False]), value, x),
        lambda L, x: L.nn.functional.pad(x, (1, 1), value=value),
        lambda L, x: L.nn.functional.threshold(x, 5, value) if value in (300, -129) else x,
        lambda L, x: x.fill_(value),
        lambda L, x: x.masked_fill(L.tensor([True, False]), value),
    ]
    for call in calls:
        found = []
        for library in (torch, fastdl):
            try:
                y = call(library, library.ones(2, dtype=getattr(library, dtype)))
                found.append((str(y.tolist()), str(y.dtype).removeprefix("torch.")))
            except RuntimeError:
                found.append("an error")
        assert found[0] == found[1]


def test_promote_types_as_torch():
    torch = pytest.importorskip("torch")
    for a, b in itertools.product(NAMES, NAMES):
        theirs = torch.promote_types(getattr(torch, a), getattr(torch, b))
        assert f"torch.{promote_types(np.dtype(a), np.dtype(b))}" == str(theirs)


def test_default_dtype_decides_for_numbers():
    x = fastdl.from_numpy(np.array([1, 2]))
    dtypes.set_default_dtype(np.float64)
    try:
        assert result_type(x, 1.5) == np.float64
        assert elementwise.div(x, 2).dtype == np.float64
    finally:
        dtypes.set_default_dtype(np.float32)
    assert elementwise.div(x, 2).dtype == np.float32


def test_no_common_integer_type():
    with pytest.raises(TypeError, match="uint64 and int64 have no common integer dtype"):
        promote_types(np.uint64, np.int64)


def test_results_have_the_promoted_dtype():
    for a, b in itertools.product(NAMES, NAMES):
        x, y = fastdl.from_numpy(np.ones(3, a)), fastdl.from_numpy(np.ones((2, 3), b))
        z = elementwise.add(x, y)
        assert z.dtype == result_type(x, y)
        assert z.shape == (2, 3)


@pytest.mark.parametrize("value", [1.5, -0.5, 2, math.inf])
def test_addcmul_of_integers_takes_its_factor_as_an_integer(value):
    torch = pytest.importorskip("torch")
    found = []
    for library in (fastdl, torch):
        x = library.tensor([3, 4], dtype=library.int32)
        try:
            y = library.addcmul(x, x, x, value=value)
            found.append((str(y.dtype).removeprefix("torch."), y.tolist()))
        except RuntimeError:
            found.append("refused")
    assert found[0] == found[1]


def test_limits_of_dtypes_print_and_compare_as_torch():
    torch = pytest.importorskip("torch")
    for kind, names in ("finfo", ["float16", "bfloat16", "float32", "float64"]), ("iinfo", NAMES[1:6]):
        ours, theirs = getattr(fastdl, kind), getattr(torch, kind)
        for name in names:
            mine, other = ours(getattr(fastdl, name)), theirs(getattr(torch, name))
            assert repr(mine) == repr(other)
            assert (mine.min, mine.max, mine.bits, mine.dtype) == (
                other.min,
                other.max,
                other.bits,
                other.dtype,
            )
            assert mine == ours(getattr(fastdl, name)) != ours(getattr(fastdl, names[names[0] == name]))
        if kind == "finfo":
            assert [ours(getattr(fastdl, n)).resolution for n in names] == [1e-3, 1e-2, 1e-6, 1e-15]
    with pytest.raises(TypeError, match="iinfo: only integer dtypes have one, got float32; use finfo"):
        fastdl.iinfo(fastdl.float32)
    with pytest.raises(NotImplementedError, match="bitwise_and: defined for integer"):
        fastdl.ones(1) & 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_are_rounded_beside_half_precision(dtype):
    """Sums and remainders take a number as the dtype holds it; products and quotients as it is: as PyTorch's CPU."""
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(5).standard_normal(300) * 10
    for number in (0.1, 1 / 3, 1e-5, -0.7, 257, 1e5, float("inf"), True):
        found = []
        for lib in (torch, fastdl):
            x = lib.tensor([*values.tolist(), 60000.0, 0.0], dtype=getattr(lib, dtype))
            results = [x + number, number + x, x * number, x / number, x % number, number % x]
            results += [lib.fmod(x, number), x.clone().add_(number), x.clone().remainder_(number)]
            if number is not True:  # which sub refuses
                results += [x - number, number - x, x.clone().sub_(number)]
            found.append([y.float().numpy() for y in results])
        for i, (expected, actual) in enumerate(zip(*found, strict=True)):
            np.testing.assert_array_equal(actual, expected, err_msg=f"{number} {i}")


def test_numbers_beside_integers_and_half_precision():
    """The short ways of arithmetic with a number: what wraps, rounds and promotes does so as in PyTorch."""
    torch = pytest.importorskip("torch")
    for dtype in ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16"):
        for number in (0, 1, 3, 100, 127, 128, 200, -1, 2.5, 1e-3):
            for name in ("add", "sub", "mul", "div", "eq", "lt", "maximum", "minimum", "pow"):
                if name in ("maximum", "minimum", "pow") and (number.__class__ is float or number < 0):
                    continue
                if (
                    name in ("eq", "lt", "pow") and not 0 <= number < 128
                ):  # PyTorch wraps or refuses what does not fit
                    continue
                found = []
                for lib in (torch, fastdl):
                    x = lib.tensor([1, 2, 3, 100, 127], dtype=getattr(lib, dtype))
                    other = lib.full((5,), number % 128, dtype=x.dtype) if name.endswith("imum") else number
                    y = getattr(x, name)(other)
                    found.append((y.tolist(), str(y.dtype).removeprefix("torch.")))
                assert str(found[0]) == str(found[1]), (dtype, number, name)

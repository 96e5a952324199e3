"""Optimizers' kernels against the reference on every level and on CUDA."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fastdl import kernels
from fastdl.kernels import reference
from parity import assert_close, backends, load, thread_counts
from test_optim import SHAPES, parameters

# Kernels against the reference ----------------------------------------------------------------------


def kernel_arguments(name, dtype, rng, first=False, shapes=SHAPES):
    """Arguments of one kernel with all its options on."""
    p, g = parameters(dtype, rng, shapes), parameters(dtype, rng, shapes)
    m = parameters(dtype, rng, shapes)
    v, w = ([np.asarray(abs(a) + 0.1, dtype) for a in parameters(dtype, rng, shapes)] for _ in range(2))
    steps = [np.full((), i, np.float32) for i in range(len(p))]
    if name == "sgd_step":
        return [p, g, m, 0.1, 0.9, 0.2, 0.3, False, True, first]
    if name == "adam_step":
        return [p, g, m, v, w, steps, 0.1, 0.8, 0.9, 1e-3, 0.1, True, first]
    if name == "adagrad_step":
        return [p, g, v, steps, 0.1, 0.2, 1e-3, 0.1, True]
    if name == "rmsprop_step":
        v = [
            np.asarray(a * a + b * b + 1, dtype) for a, b in zip(g, m, strict=True)
        ]  # above the square of the mean
        return [p, g, v, w, m, steps, 0.1, 0.8, 1e-3, 0.1, 0.5, False]
    if name == "adadelta_step":
        return [p, g, v, w, steps, 0.1, 0.8, 1e-3, 0.1, True]
    if name == "adamax_step":
        return [p, g, m, v, steps, 0.1, 0.8, 0.9, 1e-3, 0.1, True]
    if name == "nadam_step":
        products = [np.full((), 0.5**i, np.float32) for i in range(len(p))]
        return [p, g, m, v, products, steps, 0.1, 0.8, 0.9, 1e-3, 0.1, 0.01, True, first]
    assert name == "radam_step"
    return [p, g, m, v, steps, 0.1, 0.8, 0.9, 1e-3, 0.1, True, first]


KERNELS = [
    f"{name}_step" for name in ("sgd", "adam", "adagrad", "rmsprop", "adadelta", "adamax", "nadam", "radam")
]


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        if isinstance(a, list):
            for x, y in zip(a, b, strict=True):
                assert_close(x, y)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_equals_reference(name, dtype, level):
    backend = load(level)
    for first in (first for _ in thread_counts(backend) for first in (False, True)):
        got = kernel_arguments(name, dtype, np.random.default_rng(0), first)
        want = copy.deepcopy(got)
        getattr(backend, name)(*got)
        getattr(reference, name)(*want)
        assert_same(got, want)
        again = kernel_arguments(name, dtype, np.random.default_rng(0), first)
        getattr(backend, name)(*again)
        for a, b in zip(got, again, strict=True):  # the same bits every time
            if isinstance(a, list):
                for x, y in zip(a, b, strict=True):
                    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("name", KERNELS)
def test_strided_arrays_and_mixed_dtypes(name, level):
    rng = np.random.default_rng(0)
    got = kernel_arguments(name, np.float32, rng, shapes=[(6, 10)])
    more = kernel_arguments(name, np.float64, rng, shapes=[(3, 4)])
    got = [a + b if isinstance(a, list) else a for a, b in zip(got, more, strict=True)]
    want = copy.deepcopy(got)
    bases = []
    for arrays in got:
        if isinstance(arrays, list) and arrays[0].ndim:
            base = np.full((12, 20), 5.0, np.float32)
            view = base[::-2, 1::2]
            view[...] = arrays[0]
            arrays[0] = view
            bases.append(base)
            arrays[1] = np.asfortranarray(arrays[1])
    getattr(load(level), name)(*got)
    getattr(reference, name)(*want)
    assert_same(got, want)
    for base in bases:
        assert (base[::-2] == 5)[:, 0].all()
        assert (base[-2::-2] == 5).all()


@pytest.mark.parametrize("level", backends(cuda=True))
def test_nan_and_infinity_arrive_where_they_should(level):
    for name in KERNELS:
        got = kernel_arguments(name, np.float32, np.random.default_rng(0), shapes=[(40,)])
        got[1][0][3] = np.nan
        getattr(load(level), name)(*got)
        assert np.flatnonzero(np.isnan(got[0][0])).tolist() == [3], name
        for state in got[2:]:
            if isinstance(state, list) and state[0].shape == (40,):
                assert np.flatnonzero(np.isnan(state[0])).tolist() == [3], name


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("p", [0, 0.5, 1, 2, 3, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_total_norm_and_scale(level, p, dtype):
    backend = load(level)
    arrays = parameters(dtype, np.random.default_rng(0))
    arrays[0][0] = 0
    arrays[6] = arrays[6].T
    got, want = backend.total_norm(arrays, p), reference.total_norm(arrays, p)
    assert abs(got - want) <= 16 * np.finfo(dtype).eps * 300 * abs(want)
    other = copy.deepcopy(arrays)
    backend.scale_arrays(arrays, 0.3)
    reference.scale_arrays(other, 0.3)
    for a, b in zip(arrays, other, strict=True):
        assert_close(a, b)
    arrays[4][2, 2] = np.nan
    assert np.isnan(backend.total_norm(arrays, p)) == (p != 0)
    assert backend.total_norm([], 2.0) == 0


@pytest.mark.parametrize("level", backends())
def test_kernel_refuses_bad_lists(level):
    backend = kernels.load(level)
    rng = np.random.default_rng(0)

    def call(change):
        arguments = kernel_arguments("adam_step", np.float32, rng, shapes=[(4,), (5,)])
        change(arguments)
        before = copy.deepcopy(arguments)
        try:
            backend.adam_step(*arguments)
        finally:  # an error changes nothing
            for a, b in zip(arguments, before, strict=True):
                if isinstance(a, list):
                    for x, y in zip(a, b, strict=True):
                        np.testing.assert_array_equal(x, y)

    def read_only(a):
        a[0][1].flags.writeable = False

    for change, error, message in (
        (lambda a: a[1].pop(), ValueError, "grads has 1 arrays, params has 2"),
        (lambda a: a[5].pop(), ValueError, "one step count per parameter"),
        (lambda a: a[1].__setitem__(1, np.zeros(4, np.float32)), ValueError, r"grads\[1\] has 4 elements"),
        (
            lambda a: a[1].__setitem__(1, np.zeros(5)),
            TypeError,
            r"grads\[1\] must have its parameter's dtype",
        ),
        (
            lambda a: a[0].__setitem__(0, np.zeros(4, np.int32)),
            TypeError,
            r"params\[0\] must be float32 or float64",
        ),
        (lambda a: a[0].__setitem__(0, np.zeros(4, ">f4")), TypeError, "native byte order"),
        (lambda a: a[3].__setitem__(0, 3.0), TypeError, r"exp_avg_sqs\[0\] must be an array"),
        (read_only, ValueError, r"params\[1\] is read-only"),
        (lambda a: a[5].__setitem__(1, np.zeros(2, np.float32)), TypeError, r"steps\[1\] must be a writable"),
    ):
        with pytest.raises(error, match=message):
            call(change)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, np.inf, -np.inf])
def test_total_norms(level, p):
    module, rng = load(level), np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        arrays = [rng.standard_normal(n).astype(dtype) for n in (1, 3, 17, 4099, 40000)]
        want = reference.total_norm([a.astype(np.float64) for a in arrays], p)
        np.testing.assert_allclose(module.total_norm(arrays, p), want, rtol=64 * np.finfo(dtype).eps)

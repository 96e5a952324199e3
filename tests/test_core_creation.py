"""Tensors made: by the creation functions, from arrays and lists, of the default dtype."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import fastdl


@pytest.mark.parametrize(
    "make",
    [
        lambda lib: lib.tensor([1.5, 2]),
        lambda lib: lib.tensor([1, 2]),
        lambda lib: lib.tensor([1, 2.5, True]),
        lambda lib: lib.tensor([True, False]),
        lambda lib: lib.tensor(3),
        lambda lib: lib.tensor(2.5),
        lambda lib: lib.tensor([]),
        lambda lib: lib.tensor([[], []]),
        lambda lib: lib.tensor(np.arange(3)),
        lambda lib: lib.tensor(np.ones(2)),
        lambda lib: lib.tensor(np.ones((0, 3))),
        lambda lib: lib.tensor(np.float64(2.5)),
        lambda lib: lib.tensor([np.float64(2.5), np.float64(1)]),
        lambda lib: lib.tensor([np.float32(2.5), 1, 0.5]),
        lambda lib: lib.tensor([np.int64(2), 0.5]),
        lambda lib: lib.tensor([lib.ones(1), lib.zeros(1, 1)]),
        lambda lib: lib.tensor(np.array([1, 2], np.int16)),
        lambda lib: lib.tensor([1, 2], dtype=lib.float16),
        lambda lib: lib.tensor([1.7, -1.7], dtype=lib.int32),
        lambda lib: lib.tensor([[lib.tensor(1.0), 2.0], [3, 4]]),
        lambda lib: lib.tensor((range(3), range(3))),
        lambda lib: lib.zeros(2, 3),
        lambda lib: lib.zeros((2, 0)),
        lambda lib: lib.zeros([]),
        lambda lib: lib.ones(2, dtype=lib.bool),
        lambda lib: lib.full((2, 2), 7),
        lambda lib: lib.full((2,), 7.5),
        lambda lib: lib.full((2,), True),
        lambda lib: lib.zeros_like(lib.ones(2, dtype=lib.int32)),
        lambda lib: lib.ones_like(lib.ones(2, 3), dtype=lib.float64),
        lambda lib: lib.full_like(lib.ones(2), 3),
        lambda lib: lib.arange(5),
        lambda lib: lib.arange(1, 2, 0.3),
        lambda lib: lib.arange(5.0),
        lambda lib: lib.arange(5, 0, -2),
        lambda lib: lib.arange(0, 1, 0.1, dtype=lib.float64),
        lambda lib: lib.arange(3, dtype=lib.float32),
        lambda lib: lib.linspace(0, 1, 5),
        lambda lib: lib.linspace(3, -2, 1),
        lambda lib: lib.linspace(0, 10, 0),
        lambda lib: lib.logspace(0, 2, 3),
        lambda lib: lib.eye(3),
        lambda lib: lib.eye(2, 4),
        lambda lib: lib.eye(4, 2, dtype=lib.int64),
        lambda lib: lib.tril_indices(3, 4, -1),
        lambda lib: lib.triu_indices(3, 3),
        lambda lib: lib.scalar_tensor(2),
        lambda lib: lib.ones(2).new_zeros(3),
        lambda lib: lib.ones(2, dtype=lib.float64).new_tensor([1, 2]),
        lambda lib: lib.ones(2).new_full((2,), 3.0, dtype=lib.int64),
        lambda lib: lib.as_tensor([1, 2]),
        lambda lib: lib.asarray([1.0, 2.0]),
        lambda lib: lib.nn.functional.one_hot(lib.tensor([0, 2, 1])),
        lambda lib: lib.bincount(lib.tensor([0, 2, 2])),
        lambda lib: lib.searchsorted(lib.tensor([1.0, 2.0, 2.0, 5.0]), lib.tensor([2.0, 9.0]), right=True),
        lambda lib: lib.searchsorted(lib.tensor([[1, 3], [2, 4]]), lib.tensor([[2], [2]])),
        lambda lib: lib.bucketize(lib.tensor([0.5, 2.5]), lib.tensor([1.0, 2.0, 3.0])),
        lambda lib: lib.nonzero(lib.tensor([[0, 1], [2, 0]])),
        lambda lib: lib.nonzero(lib.tensor([0, 1, 2]), as_tuple=True)[0],
        lambda lib: lib.argwhere(lib.tensor(5)),
        lambda lib: lib.atleast_2d(lib.tensor(5)),
        lambda lib: lib.stack((*lib.atleast_2d(), lib.tensor(5))),
        lambda lib: lib.cat([lib.ones(1, dtype=lib.int64), lib.ones(1)]),
        lambda lib: lib.stack([lib.ones(1, dtype=lib.bool), lib.ones(1, dtype=lib.int32)]),
    ],
)
def test_made_like_torch(make):
    torch = pytest.importorskip("torch")
    got, want = make(fastdl), make(torch)
    assert got.shape == tuple(want.shape)
    assert str(got.dtype) == str(want.dtype).removeprefix("torch.")
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)
    assert repr(got) == repr(want).replace("torch.", "fastdl.")


@pytest.mark.parametrize("count", [16_383, 16_384, 50_001])  # the last two are counted by several threads
def test_long_progressions(count):
    for start, step in ((0, 1), (7, 3), (10**12, -(10**7))):
        stop = start + count * step
        np.testing.assert_array_equal(fastdl.arange(start, stop, step).numpy(), np.arange(start, stop, step))
    for dtype in (fastdl.float32, fastdl.float64, fastdl.int32):
        np.testing.assert_array_equal(
            fastdl.arange(count, dtype=dtype).numpy(), np.arange(count).astype(dtype)
        )
    halves = fastdl.arange(-3.0, count / 2 - 3, 0.5, dtype=fastdl.float64)
    np.testing.assert_array_equal(halves.numpy(), -3 + 0.5 * np.arange(count))
    for start, end in ((0.0, 1.0), (5.1, -2.7), (2.0, 2.0), (-1e-310, 1e-310), (-1e305, 1e305)):
        with np.errstate(all="ignore"):
            want = np.linspace(start, end, count)
        got = fastdl.linspace(start, end, count, dtype=fastdl.float64)
        np.testing.assert_array_equal(got.numpy(), want)
    whole = fastdl.linspace(0, 10 * count, count, dtype=fastdl.int64)
    np.testing.assert_array_equal(whole.numpy(), np.linspace(0, 10 * count, count).astype(np.int64))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: fastdl.tensor([[1, 2], [3]]), ValueError, "differ in length"),
        (lambda: fastdl.tensor(["a"]), TypeError, "U1"),
        (lambda: fastdl.tensor([None]), TypeError, "element of type NoneType"),
        (lambda: fastdl.tensor(object()), TypeError, "element of type object"),
        (lambda: fastdl.tensor([1 << 70]), TypeError, "too large for 64 bits"),
        (lambda: fastdl.tensor([1 << 70], dtype=fastdl.int64), TypeError, "too large for 64 bits"),
        (lambda: fastdl.tensor([1.0, math.nan], dtype=fastdl.int64), RuntimeError, "are in .* got nan"),
        (lambda: fastdl.tensor(1e19, dtype=fastdl.int64), RuntimeError, "are in .* got 1e\\+19"),
        (lambda: fastdl.tensor([300.0], dtype=fastdl.uint8), RuntimeError, r"in \[0, 255\], got 300"),
        (lambda: fastdl.tensor([1 << 63], dtype=fastdl.int64), RuntimeError, "got 9223372036854775808"),
        (
            lambda: fastdl.tensor([1], requires_grad=True),
            RuntimeError,
            "only floating-point.*int64.*dtype=fastdl.float32",
        ),
        (
            lambda: fastdl.tensor([1], dtype="complex32"),
            TypeError,
            "complex32.*not supported; use one of float32",
        ),
        (lambda: fastdl.zeros(2, device="cuda"), RuntimeError, "device 'cuda' is not available: this build"),
        (lambda: fastdl.zeros(2, device="tpu"), RuntimeError, "unknown device type 'tpu'"),
        (lambda: fastdl.zeros(2, shape=3), TypeError, "unexpected argument 'shape'"),
        (lambda: fastdl.zeros(2, -1), RuntimeError, "must not be negative"),
        (lambda: fastdl.zeros(2.5), TypeError, "float"),
        (lambda: fastdl.full(((2, 3),), 1.0), TypeError, "tuple"),
        (lambda: fastdl.zeros(1 << 62), (MemoryError, ValueError), "."),
        (lambda: fastdl.arange(0, 5, 0), RuntimeError, "step must not be 0"),
        (lambda: fastdl.arange(0, 5, -1), RuntimeError, "contradict the sign"),
        (lambda: fastdl.arange(0, math.inf), RuntimeError, "finite"),
        (lambda: fastdl.linspace(0, 1, -1), RuntimeError, "steps must not be negative"),
        (lambda: fastdl.eye(-1), RuntimeError, "must not be negative"),
        (lambda: fastdl.from_numpy([1]), TypeError, "expected a numpy.ndarray, got list"),
        (lambda: fastdl.from_numpy(np.array(["x"])), TypeError, "cannot be a tensor"),
        (lambda: fastdl.from_numpy(np.ones(2, ">f4")), TypeError, "byte order.*astype"),
        (lambda: fastdl.from_numpy(np.ma.ones(2)), TypeError, "masked"),
        (lambda: fastdl.from_numpy(np.zeros(2, "i1,f4")["f1"]), ValueError, "not aligned"),
        (lambda: fastdl.set_default_dtype(fastdl.int64), TypeError, "only floating-point types"),
        (lambda: fastdl.from_dlpack(3), TypeError, "no __dlpack__"),
        (lambda: fastdl.asarray([1.0], copy=False), ValueError, "needs a copy"),
        (lambda: fastdl.set_num_threads(0), ValueError, "at least 1"),
        (lambda: fastdl.randint(5, 5, (2,)), RuntimeError, "low must be below high"),
        (lambda: fastdl.rand(2, dtype=fastdl.int64), RuntimeError, "must be floating-point"),
        (lambda: fastdl.multinomial(fastdl.zeros(3), 1), RuntimeError, "no weight above 0"),
        (lambda: fastdl.multinomial(fastdl.tensor([1.0, 0.0]), 3), RuntimeError, "without replacement"),
        (lambda: fastdl.bernoulli(fastdl.tensor([1.5])), RuntimeError, r"\[0, 1\]"),
    ],
)
def test_refusals(make, error, match):
    if ("CUDA kernels" in match or "'cuda'" in match) and fastdl.cuda.is_available():
        pytest.skip("about machines without a GPU")
    with pytest.raises(error, match=match):
        make()


@pytest.mark.filterwarnings("ignore:torch.asarray")
@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("requires_grad", [None, True, False])
def test_asarray_of_what_requires_a_gradient(copy, dtype, requires_grad):
    torch = pytest.importorskip("torch")
    found = []
    for lib in (fastdl, torch):
        x = lib.ones(2, requires_grad=True)
        flag = {} if requires_grad is None else {"requires_grad": requires_grad}
        y = lib.asarray(x * 2, copy=copy, dtype=dtype and getattr(lib, dtype), **flag)
        found.append((y.requires_grad, y.is_leaf, y.tolist()))
    assert found[0] == found[1]


def test_tensor_copies_and_from_numpy_shares():
    a = np.ones(3, np.float32)
    copied, shared = fastdl.tensor(a), fastdl.from_numpy(a)
    a[0] = 7
    assert copied.tolist() == [1, 1, 1]
    assert shared.tolist() == [7, 1, 1]
    shared[1] = 5
    assert a.tolist() == [7, 5, 1]
    assert fastdl.as_tensor(a).data_ptr() == shared.data_ptr()
    assert fastdl.as_tensor(shared) is shared
    assert not np.shares_memory(fastdl.as_tensor(a, dtype=fastdl.float64).numpy(), a)


def test_unusual_arrays():
    swapped = np.arange(3, dtype=">f4")
    assert fastdl.tensor(swapped).tolist() == [0, 1, 2]
    assert fastdl.tensor(swapped).dtype is fastdl.float32
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    t = fastdl.from_numpy(fortran)
    assert t.stride() == (1, 2)
    assert (t * 2).tolist() == [[0, 2, 4], [6, 8, 10]]
    reverse = fastdl.from_numpy(np.arange(4.0)[::-1])
    assert (reverse + 0).tolist() == [3, 2, 1, 0]
    assert reverse.reshape(2, 2).tolist() == [[3, 2], [1, 0]]
    pickled = pickle.loads(pickle.dumps(np.ones(2, np.float32)))  # its dtype object is not the usual one
    for make in (fastdl.tensor, fastdl.from_numpy, fastdl.Tensor, fastdl.nn.Parameter):
        assert make(pickled).dtype is fastdl.float32


def test_arrays_come_from_the_pool():
    def in_use():
        return fastdl.memory_stats()["in_use"]

    kept = fastdl.ones(1000)
    for make in (
        lambda: fastdl.zeros(1000),
        lambda: fastdl.tensor(np.ones(1000, np.float32)),
        lambda: fastdl.zeros(10, 100).t().contiguous(),
        lambda: fastdl.cat([kept, kept]),
        lambda: kept[kept > 0],
        lambda: kept[fastdl.arange(1000)],
        lambda: fastdl.rand(1000),
        lambda: fastdl.arange(1000, dtype=fastdl.float32),
    ):
        before = in_use()
        made = make()
        assert in_use() - before >= 4000
        del made
        assert in_use() == before


def test_class_call():
    for dtype in (np.float64, np.float32, np.int64, bool):
        a = np.ones((2, 2), dtype)
        x = fastdl.Tensor(a)
        a[:] = 0
        assert x.dtype == fastdl.float32
        assert x.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert fastdl.LongTensor([2**24 + 1]).tolist() == [2**24 + 1]  # not by way of float32
    assert fastdl.ones(1, dtype=fastdl.int64).new([2**24 + 1]).tolist() == [2**24 + 1]
    assert fastdl.Tensor([1, 2]).dtype == fastdl.float32
    assert fastdl.Tensor(2, 3).shape == (2, 3)
    assert fastdl.Tensor().shape == (0,)


def test_default_dtype():
    fastdl.set_default_dtype("float64")
    try:
        assert fastdl.tensor([1.0]).dtype is fastdl.float64
        assert fastdl.zeros(1).dtype is fastdl.float64
        assert repr(fastdl.tensor([1.0])) == "tensor([1.])"
    finally:
        fastdl.set_default_dtype(fastdl.float32)


def test_empty_strided():
    x = fastdl.empty_strided((2, 3), (1, 2))
    assert (x.shape, x.stride(), x.dtype, x.is_contiguous()) == ((2, 3), (1, 2), fastdl.float32, False)
    x.zero_()
    y = x.new_empty_strided((2, 0, 2), (1, 4, 4), dtype=fastdl.int64, requires_grad=False)
    assert (y.shape, y.dtype) == ((2, 0, 2), fastdl.int64)
    assert fastdl.empty_strided((), ()).shape == ()
    with pytest.raises(RuntimeError, match="differ in length"):
        fastdl.empty_strided((2, 3), (1,))
    with pytest.raises(RuntimeError, match="must not be negative"):
        fastdl.empty_strided((2,), (-1,))


def test_memory_of_a_file(tmp_path):
    file = tmp_path / "memory"
    np.arange(6, dtype=np.float32).tofile(file)
    storage = fastdl.UntypedStorage.from_file(file, nbytes=24)
    assert storage.nbytes() == 24
    assert storage.untyped() is storage
    assert storage[4:8].nbytes() == 4
    assert storage[7] == 0x3F
    x = fastdl.asarray(storage[8:24], dtype=fastdl.uint8).view(dtype=fastdl.float32).reshape(2, 2)
    assert x.tolist() == [[2, 3], [4, 5]]
    assert x.data_ptr() == storage.data_ptr() + 8
    assert x.numpy().base.__class__ is np.ndarray  # not NumPy's memmap, which kernels take the long way
    x.zero_()
    assert fastdl.asarray(storage, dtype=fastdl.float32).tolist() == [0, 1, 0, 0, 0, 0]
    assert np.fromfile(file, np.float32).tolist() == [0, 1, 2, 3, 4, 5]  # the change is the process's own
    shared = fastdl.asarray(
        fastdl.UntypedStorage.from_file(file, shared=True, nbytes=32), dtype=fastdl.float32
    )
    shared[7] = 9
    assert np.fromfile(file, np.float32).tolist() == [0, 1, 2, 3, 4, 5, 0, 9]


def test_arithmetic_of_two_numbers_is_a_tensor():
    for result, expected, dtype in (
        (fastdl.div(7, 2, rounding_mode="trunc"), 3, "int64"),
        (fastdl.div(7, 2), 3.5, "float32"),
        (fastdl.div(7.5, 2, rounding_mode="floor"), 3, "float32"),
        (fastdl.add(1, 2), 3, "int64"),
        (fastdl.mul(1.5, 2), 3, "float32"),
    ):
        assert (result.item(), str(result.dtype)) == (expected, dtype)
    with pytest.raises(TypeError, match="div: input must be a Tensor, got str"):
        fastdl.div("7", 2)


def test_multinomial_with_fewer_weights_than_draws():
    for _ in range(5):
        drawn = fastdl.multinomial(fastdl.tensor([0.0, 1.0, 0.0, 2.0]), 3).tolist()
        assert {1, 3} == set(drawn[:2])
        assert drawn[2] in (0, 2)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_by_default(name):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    fastdl.set_default_dtype(name)
    try:
        made = [
            fastdl.tensor([0.5]), fastdl.ones(1), fastdl.arange(1.0), fastdl.rand(1), fastdl.full((1,), 0.5),
            fastdl.Tensor([1]),
            fastdl.nn.Linear(1, 1).weight, fastdl.tensor([1]) / 2, fastdl.tensor([4]).sqrt(), fastdl.div(1, 2),
        ]  # fmt: skip
        assert {str(x.dtype) for x in made} == {name}
        assert (fastdl.tensor([1]) / 2).item() == 0.5
        assert (fastdl.ones(1, dtype=fastdl.float32) / 2).dtype == np.float32
    finally:
        fastdl.set_default_dtype("float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "bool"])
@pytest.mark.parametrize("number", [1 << 63, -(1 << 63), 1 << 70, -(1 << 70)])
def test_integers_beyond_64_bits_become_floats(number, dtype):
    torch = pytest.importorskip("torch")
    assert fastdl.tensor([number], dtype=dtype).tolist() == (
        torch.tensor([number], dtype=getattr(torch, dtype)).tolist()
    )
    if dtype not in ("float16", "bool"):
        filled = fastdl.full((2,), 1 << 63, dtype=dtype)
        assert filled.tolist() == [2.0**63, 2.0**63]
        assert (filled == 1 << 63).all()


def test_from_dlpack_takes_the_capsule_of_to_dlpack_once():
    from fastdl.utils.dlpack import from_dlpack, to_dlpack

    x = fastdl.arange(3)
    capsule = to_dlpack(x)
    y = from_dlpack(capsule)
    y[0] = 7
    assert x.tolist() == [7, 1, 2]
    with pytest.raises(ValueError, match="Capsule"):
        from_dlpack(capsule)
    with pytest.raises(TypeError, match="from_dlpack: int has no __dlpack__"):
        from_dlpack(3)

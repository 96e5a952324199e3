"""Calls with nothing to record on tensors of the CPU, which go a shorter way: it must not be another one."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import fastdl
from fastdl import _graph

X = np.array([[0.5, -1.5, 2.0], [3.0, 0.25, -0.75]], np.float32)
Y = np.array([[1.0, 2.0, -0.5], [0.5, 4.0, 1.5]], np.float32)

# In-place methods on x, with y at hand; each is the function of that name on x.
IN_PLACE = {
    "sqrt_": lambda x, y: x.sqrt_(),
    "round_": lambda x, y: x.round_(),
    "neg_": lambda x, y: x.neg_(),
    "sigmoid_": lambda x, y: x.sigmoid_(),
    "tril_": lambda x, y: x.tril_(),
    "clamp_": lambda x, y: x.clamp_(-1, max=1.5),
    "clamp_ by a tensor": lambda x, y: x.clamp_(min=y),
    "clamp_min_": lambda x, y: x.clamp_min_(0),
    "pow_": lambda x, y: x.pow_(2),
    "fmod_": lambda x, y: x.fmod_(y),
    "add_": lambda x, y: x.add_(y, alpha=0.5),
    "addcmul_": lambda x, y: x.addcmul_(y, y, value=0.5),
    "lerp_": lambda x, y: x.lerp_(y, 0.25),
    "masked_fill_": lambda x, y: x.masked_fill_(y > 1, -2.0),
    "index_fill_": lambda x, y: x.index_fill_(1, fastdl.tensor([0, 2]), 7),
    "scatter_": lambda x, y: x.scatter_(0, fastdl.tensor([[1, 0, 1]]), y),
    "cumsum_": lambda x, y: x.cumsum_(1),
    "nan_to_num_": lambda x, y: x.nan_to_num_(),
}


def _memory(kind):
    """A tensor of X's values: in C order, as a transposed and a sparse view."""
    if kind == "C":
        return fastdl.tensor(X)
    if kind == "transposed":
        return fastdl.tensor(X.T).t()
    whole = fastdl.zeros(4, 6)
    view = whole[1:3, ::2]
    view.copy_(fastdl.tensor(X))
    return view


@pytest.mark.parametrize("kind", ["C", "transposed", "strided"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_with_and_without_a_graph(name, kind):
    call = IN_PLACE[name]
    recorded = fastdl.tensor(X, requires_grad=True) * 1
    expected = call(recorded, fastdl.tensor(Y))
    assert expected is recorded
    assert recorded.requires_grad

    x = _memory(kind)
    base = x if x._base is None else x._base
    before = x._version
    assert call(x, fastdl.tensor(Y)) is x
    np.testing.assert_array_equal(x.numpy(), expected.detach().numpy())
    assert x._version == before + 1 == base._version


@pytest.mark.parametrize("name", ["fmod_", "add_", "addcmul_", "lerp_"])
def test_in_place_with_an_operand_that_needs_a_gradient(name):
    x, y = fastdl.tensor(X), fastdl.tensor(Y, requires_grad=True)
    expected = IN_PLACE[name](fastdl.tensor(X), fastdl.tensor(Y))
    assert IN_PLACE[name](x, y) is x
    assert x.requires_grad
    np.testing.assert_array_equal(x.detach().numpy(), expected.numpy())
    x.sum().backward()
    assert y.grad.shape == y.shape


def test_in_place_on_what_may_not_be_written_to():
    with pytest.raises(RuntimeError, match=r"sqrt_: the tensor's memory cannot be written to"):
        fastdl.ones(1).expand(3).sqrt_()
    with pytest.raises(RuntimeError, match=r"clamp_: a leaf tensor that requires a gradient"):
        fastdl.ones(3, requires_grad=True).clamp_(0, 1)
    with pytest.raises(RuntimeError, match=r"uniform_: a leaf tensor that requires a gradient"):
        fastdl.ones(3, requires_grad=True).uniform_()
    before = fastdl.get_rng_state()
    with pytest.raises(RuntimeError, match=r"geometric_: the tensor's memory cannot be written to"):
        fastdl.ones(1).expand(3).geometric_(0.5)
    assert fastdl.equal(fastdl.get_rng_state(), before)
    with fastdl.no_grad():
        assert fastdl.ones(3, requires_grad=True).mul_(2).sqrt_().clamp_(0, 1).tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError):
        fastdl.ones(1, 2).masked_fill_(fastdl.tensor([[True], [False]]), 1.0)
    with pytest.raises(TypeError):
        fastdl.ones(2).sqrt_(1)
    with pytest.raises(TypeError):
        fastdl.ones(2).sqrt_(out=fastdl.ones(2))
    assert fastdl.ones(0, 2).sqrt_().shape == (0, 2)
    assert fastdl.ones(2, device="meta").sqrt_().is_meta
    with pytest.raises(TypeError, match="leaky_relu_: input must be a Tensor"):
        fastdl.nn.functional.leaky_relu_(3)


def test_integers_and_bools_in_place():
    a, b = fastdl.tensor([True, False, True]), fastdl.tensor([True, True, False])
    a &= b
    assert a.tolist() == [True, False, False]
    assert a._version == 1
    a |= fastdl.tensor([False, True, False])
    assert a.logical_not_().tolist() == [False, False, True]
    assert a.bitwise_xor_(b).tolist() == [True, True, True]
    i = fastdl.tensor([1, 2, 3])
    assert i.bitwise_and_(a).tolist() == [1, 0, 1]
    assert i.add_(2).tolist() == [3, 2, 3]
    with pytest.raises(RuntimeError, match="bitwise_and"):
        i &= 1.5


def test_movedim_of_one_axis():
    x = fastdl.tensor(np.arange(120.0).reshape(2, 3, 4, 5), requires_grad=True)
    for source in range(-4, 4):
        for destination in range(-4, 4):
            moved = fastdl.movedim(x, source, destination)
            np.testing.assert_array_equal(
                moved.detach().numpy(), np.moveaxis(x.detach().numpy(), source, destination)
            )
            weight = fastdl.arange(120.0, dtype=fastdl.float64).reshape(moved.shape)
            (grad,) = fastdl.autograd.grad(moved, x, weight)
            np.testing.assert_array_equal(grad.numpy(), np.moveaxis(weight.numpy(), destination, source))
    with pytest.raises(IndexError):
        fastdl.movedim(x, 4, 0)
    number = fastdl.tensor(3.0, requires_grad=True)  # has an axis 0 to name
    for axes in ((0, 0), (-1, 0), ((0,), (-1,))):
        assert number.movedim(*axes).shape == ()
    with pytest.raises(IndexError):
        number.movedim(1, 0)
    y = x * 1
    view = y.movedim(0, -1)
    y.mul_(2)  # the view is made again
    view.sum().backward()
    assert x.grad.unique().tolist() == [2]


def test_shapes_are_sizes():
    for t in (fastdl.ones(2, 3), fastdl.ones(2, 3, device="meta"), fastdl.ones(2, 3).to_sparse()):
        assert type(t.shape) is fastdl.Size
        assert t.shape == (2, 3)
        assert t.shape[1:].numel() == 3
    assert fastdl.tensor(1.0).shape == ()
    with pytest.raises(AttributeError):
        fastdl.ones(2).shape = (1, 2)
    t = fastdl.ones(2)
    del t._data
    with pytest.raises(AttributeError):
        t.shape  # noqa: B018
    shape = fastdl.ones(2, 3).shape
    assert gc.is_tracked(shape)
    assert hash(shape) == hash((2, 3))


def test_a_shape_is_a_class_of_tuples():
    with pytest.raises(TypeError, match="set_size"):
        _graph.set_size(list)
    with pytest.raises(TypeError, match="set_size"):
        _graph.set_size(3)


def test_plain_tensors():
    x, w = fastdl.ones(2), fastdl.ones(2, requires_grad=True)
    assert _graph.plain()
    assert _graph.plain(x)
    assert _graph.plain(x, x)
    assert not _graph.plain(x, w)
    assert not _graph.plain(x, 3)
    assert not _graph.plain(fastdl.ones(2, device="meta"))
    with fastdl.no_grad():
        assert _graph.plain(x, w)


JOINED = {
    "cat": lambda x, y: fastdl.cat((x, y), 1),
    "stack in front": lambda x, y: fastdl.stack((x, y)),
    "stack": lambda x, y: fastdl.stack([x, y], 1),
    "stack behind": lambda x, y: fastdl.stack([x, y], -1),
    "clamp": lambda x, y: x.clamp(-1, 1.5),
    "clamp from below": lambda x, y: x.clamp(min=0),
    "maximum": lambda x, y: fastdl.maximum(x, y),
    "minimum of a row": lambda x, y: fastdl.minimum(x, y[:1]),
    "atan2": lambda x, y: fastdl.atan2(x, y),
    "hypot": lambda x, y: fastdl.hypot(x, y),
    "power": lambda x, y: x.abs() ** y,
    "remainder": lambda x, y: x % y,
    "truncated": lambda x, y: fastdl.div(x, y, rounding_mode="trunc"),
    "max": lambda x, y: x.max(),
    "amin": lambda x, y: x.amin((0, 1), keepdim=True),
    "aminmax": lambda x, y: x.aminmax(dim=1).max,
    "masked_fill": lambda x, y: x.masked_fill(y > 1, float("-inf")),
}


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64, fastdl.bfloat16])
@pytest.mark.parametrize("name", JOINED)
def test_functions_with_and_without_a_graph(name, dtype):
    call = JOINED[name]
    x, y = fastdl.tensor(X).to(dtype), fastdl.tensor(Y).to(dtype)
    plain = call(x, y)
    recorded = call(x.clone().requires_grad_(), y)
    assert not plain.requires_grad
    assert recorded.requires_grad
    assert plain.dtype == recorded.dtype
    assert plain.shape == recorded.shape
    assert fastdl.equal(plain, recorded.detach())
    with fastdl.no_grad():
        assert not call(x.clone().requires_grad_(), y).requires_grad


PRODUCTS = {
    "matmul": lambda x, y: x @ y.mT,
    "a vector": lambda x, y: x @ y[0],
    "vectors": lambda x, y: x[0] @ y[1],
    "a batch": lambda x, y: x @ fastdl.stack((y, x)).mT,
    "mm": lambda x, y: fastdl.mm(x, y.t()),
    "bmm": lambda x, y: fastdl.bmm(x[None], y.t()[None]),
    "mv": lambda x, y: fastdl.mv(x, y[1]),
    "dot": lambda x, y: fastdl.dot(x[1], y[0]),
    "addmm": lambda x, y: fastdl.addmm(y[:, :2], x, y.t(), beta=0.5, alpha=2),
    "baddbmm": lambda x, y: fastdl.baddbmm(y[0, 0], x[None], y.t()[None], beta=2),
    "addmv": lambda x, y: fastdl.addmv(y[:, 0], x, y[1], beta=0.5, alpha=-1),
    "linear": lambda x, y: fastdl.nn.functional.linear(x, y, y[:, 2]),
    "linear without bias": lambda x, y: fastdl.nn.functional.linear(x[0], y),
}


@pytest.mark.parametrize(
    "dtype", [fastdl.float32, fastdl.float64, fastdl.bfloat16, fastdl.float16, fastdl.complex64]
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_and_without_a_graph(name, dtype):
    call = PRODUCTS[name]
    x, y = fastdl.tensor(X).to(dtype), fastdl.tensor(Y).to(dtype)
    recorded = call(x.clone().requires_grad_(), y).detach()
    for plain in (call(x, y), call(x, y.clone())):
        assert plain.dtype == recorded.dtype
        assert plain.shape == recorded.shape
        assert fastdl.equal(plain, recorded)
    assert call(x.to("meta"), y.to("meta")).shape == recorded.shape
    if dtype == fastdl.float32 and name != "addmv":
        with fastdl.autocast("cpu"), fastdl.no_grad():
            assert call(x, y).dtype == fastdl.bfloat16


@pytest.mark.parametrize(
    "name", ["matmul", "a vector", "vectors", "mm", "bmm", "mv", "dot", "addmm", "linear"]
)
def test_products_that_are_refused_with_and_without_a_graph(name):
    call = PRODUCTS[name]
    x, y = fastdl.tensor(X), fastdl.tensor(Y)
    assert call(x.long(), y.long()).dtype == fastdl.int64
    for a, b in ((x, y[:, :2]), (x, y.double()), (x, y.long()), (x[0], y), (x[0, 0], y)):
        errors = []
        for left in (a, a.clone().requires_grad_()):
            try:
                call(left, b)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                errors.append((type(error), str(error)))
            else:
                errors.append(None)
        assert errors[0] == errors[1]


def test_stacks_without_elements():
    rows = [fastdl.zeros(0, 2)] * 3
    assert [fastdl.stack(rows, d).shape for d in (0, 1, 2)] == [(3, 0, 2), (0, 3, 2), (0, 2, 3)]
    assert fastdl.stack([fastdl.tensor(1), fastdl.tensor(2.5)]).tolist() == [1.0, 2.5]


def test_draws_are_those_of_the_functions():
    def generator():
        return fastdl.Generator().manual_seed(3)

    for dtype in (fastdl.float32, fastdl.float64, fastdl.bfloat16):
        into = fastdl.zeros(5, dtype=dtype)
        assert fastdl.equal(
            into.uniform_(generator=generator()), fastdl.rand(5, generator=generator(), dtype=dtype)
        )
        assert fastdl.equal(
            into.normal_(generator=generator()), fastdl.randn(5, generator=generator(), dtype=dtype)
        )
        assert into._version == 2
    columns = fastdl.zeros(3, 2).t()
    assert fastdl.equal(columns.uniform_(generator=generator()), fastdl.rand(2, 3, generator=generator()))
    assert fastdl.zeros(1000).uniform_(2, 3).min() >= 2
    assert fastdl.zeros(1000).random_(4).unique().tolist() == [0, 1, 2, 3]


def test_an_index_shorter_than_a_vector():
    index, source = fastdl.tensor([3, 0]), fastdl.tensor([1.5, -1.0])
    assert fastdl.zeros(4).scatter(0, index, source).tolist() == [-1, 0, 0, 1.5]
    assert fastdl.ones(4).scatter_add_(0, index, source).tolist() == [0, 1, 1, 2.5]
    with pytest.raises(IndexError):
        fastdl.zeros(4).scatter_(0, fastdl.tensor([4, 0]), source)
    with pytest.raises(RuntimeError):
        fastdl.zeros(4).scatter_(0, fastdl.tensor([1, 0]), source[:1])


HALF = {
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "var": lambda x: x.var(),
    "std_mean": lambda x: fastdl.std_mean(x, 1)[0],
    "addmm": lambda x: fastdl.addmm(x, x, x, beta=0.5),
    "addmv": lambda x: fastdl.addmv(x[0], x, x[0]),
    "einsum": lambda x: fastdl.einsum("ij,kj->ik", x, x),
    "pixel_shuffle": lambda x: fastdl.nn.functional.pixel_shuffle(x.reshape(1, 4, 1, 4), 2),
    "interpolate": lambda x: fastdl.nn.functional.interpolate(x.reshape(1, 1, 4, 4), scale_factor=2),
    "grid_sample": lambda x: fastdl.nn.functional.grid_sample(
        x.reshape(1, 1, 4, 4), x.reshape(1, 2, 4, 2).detach() / 4, align_corners=False
    ),
}


@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_not_tried_on_kernels_that_know_floats_only(name):
    from fastdl.autograd import refused

    def never(cls, *_):
        raise AssertionError(f"the kernel of {cls.__name__} was asked first")

    values = (np.arange(16).reshape(4, 4) % 5 - 1.5).astype(np.float32)
    wide = fastdl.tensor(values, requires_grad=True)
    half = fastdl.tensor(values).to(fastdl.bfloat16).requires_grad_()
    _graph.set_otherwise(never)
    try:
        result = HALF[name](half)
    finally:
        _graph.set_otherwise(refused.apply_otherwise)
    expected = HALF[name](wide)
    assert result.dtype is fastdl.bfloat16
    np.testing.assert_allclose(
        result.detach().float().numpy(), expected.detach().numpy(), rtol=2**-7, atol=1e-6
    )
    result.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(half.grad.float().numpy(), wide.grad.numpy(), rtol=2**-5, atol=2**-4)


def test_medians():
    for values in ([3.0, 1.0, 2.0], [4.0, 1.0, 3.0, 2.0], [5.0]):
        x = fastdl.tensor(values, requires_grad=True)
        assert x.median().item() == sorted(values)[(len(values) - 1) // 2]
        x.median().backward()
        assert x.grad.sum() == 1
    x = fastdl.tensor([1.0, float("nan"), 0.5])
    assert x.median().isnan()
    assert x.nanmedian().item() == 0.5
    assert x.tolist()[0] == 1.0


def _integers(dtype, count=36, low=-3, high=4):
    return fastdl.tensor(np.random.default_rng(0).integers(low, high, count)).to(dtype)


@pytest.mark.parametrize("dtype", [fastdl.int32, fastdl.int64])
def test_integer_powers_of_memory_in_common(dtype):
    x = _integers(dtype)
    expected = x.clone() ** x.clone()
    assert (expected == 0).any()  # negative powers, towards zero
    assert fastdl.equal(x.clone().pow_(x.clone()), expected)
    assert fastdl.equal(x.pow_(x), expected)
    base = _integers(dtype)
    expected = base[1:].clone() ** base[:-1].clone()
    assert fastdl.equal(base[1:].pow_(base[:-1]), expected)


@pytest.mark.parametrize("rows", [6, 60])
def test_a_mask_in_the_memory_that_it_fills(rows):
    m = fastdl.tensor(np.random.default_rng(0).integers(0, 2, (rows, rows))).bool()
    x, mask = m[:, 1:], m[:, :-1]
    expected = x.clone().masked_fill_(mask.clone(), True)
    assert fastdl.equal(x.masked_fill_(mask, True), expected)


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64])
def test_large_copies_into_strided_memory(dtype):
    """Of a part of the memory itself, and of numbers that kernels take for 0."""
    x = fastdl.arange(70000, dtype=dtype)
    assert x[::2].copy_(x[3:4]).unique().tolist() == [3]
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = np.full((300, 200), tiny, dtype)
    values[0, 0] = np.nan
    for to in (fastdl.zeros(300, 400, dtype=dtype)[:, ::2], fastdl.zeros(200, 300, dtype=dtype).t()):
        to.copy_(fastdl.tensor(values))
        np.testing.assert_array_equal(
            to.numpy().view(f"u{values.itemsize}"), values.view(f"u{values.itemsize}")
        )
    rolled = fastdl.tensor(values).roll(1, 1).numpy()
    np.testing.assert_array_equal(rolled, np.roll(values, 1, 1))


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float64", "complex64", "complex128"],
)
def test_roll_of_every_dtype(dtype):
    values = (np.random.default_rng(0).standard_normal((5, 4, 70)) * 9).astype(dtype)
    for x in (fastdl.tensor(values), fastdl.tensor(values).transpose(0, 2)):
        y = x.numpy()
        for shifts, dims in ((3, None), (-1, 2), ((1, 5), (0, 1)), ((1, 2), (-1, -1)), (0, 0)):
            rolled = x.roll(shifts, dims)
            np.testing.assert_array_equal(rolled.numpy(), np.roll(y, shifts, dims))
            assert not np.shares_memory(rolled.numpy(), y)


@pytest.mark.parametrize("name", ["addcmul_", "addcdiv_"])
def test_sums_in_place_of_wider_products(name):
    values = [1.5, -2.0, 0.25]
    for dtype in (fastdl.float32, fastdl.float16, fastdl.bfloat16):
        for other in (fastdl.float64, fastdl.float32, fastdl.int64):
            x = fastdl.ones(3, dtype=dtype)
            y, z = fastdl.tensor(values).to(other), fastdl.tensor(values, dtype=fastdl.float16)
            if name == "addcdiv_" and other is fastdl.int64:
                y = y + 1
            expected = getattr(x.clone(), name[:-1])(y, z, value=0.5).to(dtype)
            assert getattr(x, name)(y, z, value=0.5) is x
            assert x.dtype is dtype
            assert fastdl.equal(x, expected)


def test_a_negative_factor_of_bools():
    x = fastdl.tensor([3, 2], dtype=fastdl.uint8)
    assert x.add_(fastdl.tensor([True, False]), alpha=-1).tolist() == [2, 2]

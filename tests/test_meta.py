"""Tensors without values: the device ``meta``."""

import copy

import numpy as np
import pytest

import fastdl
from fastdl import nn

HUGE = 1 << 28  # elements: nothing may be stored, or computed, for each of them


def meta(*shape, **options):
    return fastdl.empty(*shape, device="meta", **options)


def test_what_it_tells():
    x = meta(2, 3, 4)
    assert x.is_meta
    assert not x.is_cpu
    assert not x.is_cuda
    assert x.device == fastdl.device("meta")
    assert x.data_ptr() == 0
    assert x.stride() == (12, 4, 1)
    assert x.permute(2, 0, 1).stride() == (1, 12, 4)
    assert x.is_contiguous()
    assert not x.transpose(0, 1).is_contiguous()
    assert x[0, 1:].storage_offset() == 4
    assert repr(meta(2, 3, dtype=fastdl.int8)) == "tensor(..., device='meta', size=(2, 3), dtype=fastdl.int8)"
    assert not fastdl.ones(2).is_meta


@pytest.mark.parametrize("library", ["torch", "fastdl"])
def test_what_looks_at_values_elsewhere(library):
    library = pytest.importorskip(library)
    x = library.ones(3, 3, device="meta", requires_grad=True)
    for f in (
        library.matrix_exp,
        library.cholesky_inverse,
        library.prod,
        lambda x: x.prod(1),
        lambda x: x.cumprod(1),
    ):
        (grad,) = library.autograd.grad(f(x).sum(), x)
        assert (grad.is_meta, tuple(grad.shape)) == (True, (3, 3))


def test_creation():
    with fastdl.device("meta"):
        made = [
            fastdl.zeros(2), fastdl.ones(2), fastdl.full((2,), 3.0), fastdl.rand(2), fastdl.randn(2),
            fastdl.tensor([1.0, 2]), fastdl.arange(2.0), fastdl.linspace(0, 1, 2), fastdl.randint(5, (2,)).float(),
            nn.Parameter(fastdl.empty(2)),
        ]  # fmt: skip
        assert fastdl.Tensor([1.0, 2]).is_cpu  # the older form knows no default device
        assert fastdl.from_numpy(np.ones(2)).is_cpu
    assert all(x.is_meta and x.shape == (2,) and x.dtype == fastdl.float32 for x in made)
    assert fastdl.empty_like(made[0], device="cpu").is_cpu
    assert fastdl.ones(2).to("meta").is_meta
    assert meta(HUGE).numel() == HUGE


def test_random_numbers_are_not_drawn():
    fastdl.manual_seed(0)
    expected = fastdl.rand(3)
    fastdl.manual_seed(0)
    fastdl.rand(3, device="meta")
    nn.Linear(3, 4, device="meta")
    np.testing.assert_array_equal(fastdl.rand(3).numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("function", "shape", "dtype"),
    [
        (lambda x: x + 1, (2, 3), "float32"),
        (lambda x: x @ x.t(), (2, 2), "float32"),
        (lambda x: fastdl.cat([x, x], 1), (2, 6), "float32"),
        (lambda x: x.sum(), (), "float32"),
        (lambda x: x > 0, (2, 3), "bool"),
        (lambda x: fastdl.where(x > 0, x, -x), (2, 3), "float32"),
        (lambda x: x.argmax(1), (2,), "int64"),
        (lambda x: x.max(1).values, (2,), "float32"),
        (lambda x: x.sort(1).indices, (2, 3), "int64"),
        (lambda x: x.half().softmax(1), (2, 3), "float16"),
        (lambda x: x.expand(4, 2, 3)[:, None].flatten(1), (4, 6), "float32"),
        (lambda x: x + fastdl.tensor(1.0), (2, 3), "float32"),
        (lambda x: fastdl.einsum("ij,kj->ik", x, x), (2, 2), "float32"),
        (lambda x: fastdl.arange(4, device="meta")[fastdl.tensor([0, 1], device="meta")], (2,), "int64"),
        (lambda x: nn.functional.conv1d(x[None], meta(5, 2, 2)), (1, 5, 2), "float32"),
        (lambda x: fastdl.linalg.inv(x @ x.t()), (2, 2), "float32"),
        (lambda x: fastdl.linalg.inv_ex(x @ x.t()).info, (), "int32"),
        (lambda x: fastdl.linalg.solve(x @ x.t(), x), (2, 3), "float32"),
        (lambda x: fastdl.linalg.solve_ex(x @ x.t(), x).result, (2, 3), "float32"),
        (lambda x: fastdl.linalg.lu(x).L, (2, 2), "float32"),
        (lambda x: fastdl.linalg.lu(x).P, (2, 2), "float32"),
        (lambda x: fastdl.linalg.cholesky((x @ x.t()).expand(4, 2, 2)), (4, 2, 2), "float32"),
        (lambda x: fastdl.linalg.cholesky_ex(x @ x.t(), check_errors=True).info, (), "int32"),
        (lambda x: x.add_(1).mul_(x).copy_(fastdl.ones(2, 3)).fill_(2), (2, 3), "float32"),
    ],
)  # fmt: skip
def test_operations(function, shape, dtype):
    result = function(meta(2, 3))
    assert result.is_meta
    assert result.shape == shape
    assert str(result.dtype) == dtype


def test_nothing_is_computed_in_place_or_drawn():
    x = meta(HUGE).view(1 << 14, -1)
    for init in (nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.ones_, nn.init.orthogonal_,
                 nn.init.eye_, nn.init.kaiming_uniform_, nn.init.xavier_normal_):  # fmt: skip
        assert init(x) is x
    x.zero_()
    x.copy_(x)
    assert copy.deepcopy(x).shape == x.shape
    x[3] = 1
    small = fastdl.ones(3, 3, device="meta")
    assert small.nan_to_num_().tril_().logical_not_() is small


@pytest.mark.parametrize(
    "read",
    [lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.numpy(), lambda x: bool(x[0]), lambda x: x.to("cpu"),
     lambda x: fastdl.ones(2).copy_(x), lambda x: 1.0 in x],
)  # fmt: skip
def test_values_are_refused(read):
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor; no data!"):
        read(meta(2))


def test_item_is_refused():
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        meta(1).item()


@pytest.mark.parametrize(
    "function", [fastdl.nonzero, lambda x: x[x > 0], lambda x: x.masked_select(x > 0), fastdl.unique]
)
def test_sizes_that_depend_on_values_are_refused(function):
    with pytest.raises(NotImplementedError, match="depends on values"):
        function(meta(3))


def test_devices_do_not_mix():
    with pytest.raises(RuntimeError, match=r"same device.*meta.*cpu"):
        meta(3) + fastdl.ones(3)


def test_gradients_have_no_values_either():
    layer = nn.Linear(3, 4, device="meta")
    layer(meta(2, 3)).sum().backward()
    x = meta(3, requires_grad=True)
    (slope,) = fastdl.autograd.grad(x.pow(3).sum(), x, create_graph=True)
    assert slope.is_meta
    assert fastdl.autograd.grad(slope.sum(), x)[0].is_meta
    assert layer.weight.grad.is_meta
    assert layer.weight.grad.shape == (4, 3)


def test_modules():
    with fastdl.device("meta"):
        net = nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), nn.BatchNorm1d(6), nn.LSTM(5, 3),
            nn.MultiheadAttention(8, 2), nn.Linear(1 << 14, 1 << 14),
        )  # fmt: skip
    assert all(p.is_meta for p in net.parameters())
    with pytest.raises(NotImplementedError, match="no data"):
        net.to("cpu")
    linear = nn.Linear(2, 3, device="meta")
    linear.load_state_dict({"weight": fastdl.ones(3, 2), "bias": fastdl.zeros(3)}, assign=True)
    assert linear(fastdl.ones(1, 2)).tolist() == [[2.0, 2.0, 2.0]]
    empty = nn.Linear(2, 3, device="meta").to_empty(device="cpu")
    assert empty.weight.is_cpu
    assert empty.weight.shape == (3, 2)
    assert empty.weight.requires_grad


@pytest.mark.parametrize("name", ["det", "slogdet", "qr", "svd", "eigh", "eig", "pinv"])
def test_decompositions_stay_without_values(name):
    results = getattr(fastdl.linalg, name)(meta(2, 3, 3))
    for result in results if isinstance(results, tuple) else (results,):
        assert result.is_meta


@pytest.mark.parametrize("name", ["max", "min", "amax", "median"])
def test_gradients_of_extremes_have_no_values_either(name):
    x = fastdl.ones(3, 4, device="meta", requires_grad=True)
    getattr(x, name)().backward()
    assert x.grad.is_meta
    assert x.grad.shape == (3, 4)

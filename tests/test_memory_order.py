"""Operations on inputs that lie in another order than C's, as images (N, H, W, C) and transposed tokens do: what they
compute does not depend on it, and where the result follows the input's order nothing is copied."""

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F

SHAPE = (3, 6, 5, 8)
ORDERS = [(0, 2, 3, 1), (2, 3, 0, 1), (1, 0, 2, 3), (3, 2, 1, 0)]
OPERATIONS = {
    "batch_norm": lambda x: F.batch_norm(x, None, None, fastdl.arange(1.0, 7.0), training=True),
    "batch_norm inference": lambda x: F.batch_norm(
        x, fastdl.arange(6.0), fastdl.arange(1.0, 7.0), fastdl.arange(1.0, 7.0), fastdl.ones(6)
    ),
    "pad": lambda x: F.pad(x, (1, 2, -1, 3)),
    "pad channels": lambda x: F.pad(x, (0, 0, 1, 0, 2, 1), value=2.5),
    "reflect": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "circular": lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"),
    "global average": lambda x: F.adaptive_avg_pool2d(x, 1),
    "average": lambda x: F.adaptive_avg_pool2d(x, (5, 2)),
    "windows apart": lambda x: x.unfold(2, 2, 3).unfold(3, 4, 4),
    "windows together": lambda x: x.unfold(3, 3, 2),
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "depthwise": lambda x: F.conv2d(x, fastdl.arange(54.0).reshape(6, 1, 3, 3), padding=1, groups=6),
}


def both(operation, order, dtype=fastdl.float32):
    """The result and the input's gradient, of the input as it is and of its copy in C order."""
    values = np.random.default_rng(0).standard_normal([SHAPE[axis] for axis in order])
    found = []
    for in_order in (False, True):
        leaf = fastdl.tensor(values, dtype=dtype, requires_grad=True)
        x = leaf.permute(*np.argsort(order))
        assert not x.is_contiguous()
        y = operation(x.contiguous() if in_order else x)
        y.backward(fastdl.arange(y.numel()).reshape(y.shape).to(dtype).cos())
        found.append((y, leaf.grad))
    return found


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_values_do_not_depend_on_the_order(operation, order):
    (y, grad), (expected, expected_grad) = both(operation, order)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(grad.numpy(), expected_grad.numpy(), rtol=2e-5, atol=2e-5)


IN_C_ORDER = {
    "pad": lambda L, x: L.nn.functional.pad(x, (1, 2)),
    "reflect": lambda L, x: L.nn.functional.pad(x, (1, 2), mode="reflect"),
    "replicate an image": lambda L, x: L.nn.functional.pad(x[:, None], (1, 2, 0, 1), mode="replicate"),
    "batch_norm": lambda L, x: L.nn.BatchNorm1d(x.shape[1])(x),
    "batch_norm inference": lambda L, x: L.nn.BatchNorm1d(x.shape[1]).eval()(x),
    "renorm": lambda L, x: L.renorm(x, 1, 2, 0.5),
    "mvlgamma": lambda L, x: L.mvlgamma(x.abs() + 3, 2),
    "a broadcast matrix first": lambda L, x: L.ones(x.shape[1:]) - x,
}


@pytest.mark.parametrize("library", ["torch", "fastdl"])
@pytest.mark.parametrize("name", IN_C_ORDER)
def test_results_that_torch_makes_contiguous(name, library):
    """Programs call ``view`` on them."""
    library = pytest.importorskip(library)
    x = library.ones(4, 5, 7).transpose(1, 2)
    y = IN_C_ORDER[name](library, x)
    assert y.is_contiguous()
    assert y.view(-1).shape == (y.numel(),)


def test_results_follow_a_transposed_operand_beside_a_broadcast_one():
    x = fastdl.ones(4, 5, 7).transpose(1, 2)
    for y in (x - fastdl.ones(7, 5), fastdl.ones(7, 1) - x, fastdl.ones(5, 7).T * x):
        assert y.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64], ids=str)
@pytest.mark.parametrize("name", ["pad", "reflect"])
def test_padding_keeps_the_order(name, dtype):
    (y, _), _ = both(OPERATIONS[name], (0, 2, 3, 1), dtype)
    assert y.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm inference"])
def test_batch_norm_keeps_channels_last(name):
    (y, _), _ = both(OPERATIONS[name], (0, 2, 3, 1))
    assert y.permute(0, 2, 3, 1).is_contiguous()


def test_tokens_are_normalised_as_rows():
    tokens = fastdl.randn(4, 7, 5, requires_grad=True)
    layer = fastdl.nn.BatchNorm1d(5)
    y = layer(tokens.transpose(1, 2)).transpose(1, 2)
    other = fastdl.nn.BatchNorm1d(5)
    expected = other(tokens.reshape(-1, 5)).reshape(4, 7, 5)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), other.running_var.numpy(), rtol=1e-6)


def test_an_einsum_of_one_operand_is_another_tensor():
    x = fastdl.randn(2, 3, requires_grad=True)
    y = fastdl.einsum("ij->ij", x)
    assert y is not x
    assert y.grad_fn is not None
    assert fastdl.einsum("i->i", fastdl.ones(2)).requires_grad_() is not None

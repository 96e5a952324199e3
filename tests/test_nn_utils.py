"""nn.utils: clipping, vectors of parameters, weight and spectral norm, fusion."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import utils
from parity import assert_close, check_gradient

torch = pytest.importorskip("torch")

SHAPES = [(3,), (), (40, 7), (5, 2, 3), (0, 2), (120, 130)]


def pairs(dtype=np.float32, scale=1.0):
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for shape in SHAPES:
        g = np.asarray(scale * rng.standard_normal(shape), dtype)
        p = nn.Parameter(np.zeros(shape, dtype))
        q = torch.nn.Parameter(torch.zeros(shape, dtype=getattr(torch, np.dtype(dtype).name)))
        p.grad, q.grad = fastdl.from_numpy(g), torch.from_numpy(g.copy())
        ours.append(p)
        theirs.append(q)
    ours.append(nn.Parameter(np.zeros(2, dtype)))  # without a gradient
    return ours, theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm_type", [0, 1, 2.0, 3, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm(norm_type, max_norm, dtype):
    ours, theirs = pairs(dtype)
    if np.isinf(norm_type):  # torch refuses empty tensors here
        del ours[4], theirs[4]
    got = utils.clip_grad_norm_((p for p in ours), max_norm, norm_type)
    want = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert got.dtype == dtype
    assert got.shape == ()
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    np.testing.assert_allclose(got.item(), want.item(), rtol=tolerance)
    for p, q in zip(ours, theirs, strict=False):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=tolerance)


def test_clip_grad_norm_nonfinite():
    ours, _ = pairs()
    ours[2].grad[0, 0] = float("inf")
    with pytest.raises(RuntimeError, match=r"norm of order 2\.0 for gradients .* is non-finite"):
        utils.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    assert np.isinf(utils.clip_grad_norm_(ours, 1.0).item())
    assert np.isnan(ours[2].grad.numpy()[0, 0])  # inf times 0, as in torch
    assert ours[0].grad.numpy().tolist() == [0, 0, 0]
    ours[2].grad[0, 0] = float("nan")
    assert np.isnan(utils.clip_grad_norm_(ours, 1.0).item())
    assert np.isnan(ours[0].grad.numpy()).all()


def test_clipping_without_gradients():
    assert utils.clip_grad_norm_([nn.Parameter(np.zeros(2, np.float32))], 1.0).item() == 0
    assert utils.clip_grad_norm_([], 1.0).item() == 0
    p = nn.Parameter(np.zeros(2, np.float32))
    p.grad = fastdl.tensor([3.0, 4.0])
    assert utils.clip_grad_norm_(p, 10.0).item() == 5
    assert utils.get_total_norm([p.grad, p.grad]).item() == pytest.approx(50**0.5)


def test_clip_grad_value():
    ours, theirs = pairs(scale=3.0)
    utils.clip_grad_value_(ours, 0.7)
    torch.nn.utils.clip_grad_value_(theirs, 0.7)
    for p, q in zip(ours, theirs, strict=False):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_strided_gradients_are_clipped_in_place():
    base = np.full((4, 6), 2.0, np.float32)
    p = nn.Parameter(np.zeros((2, 3), np.float32))
    p.grad = fastdl.from_numpy(base[::2, ::2])
    utils.clip_grad_norm_(p, 1e-3)
    assert (base[::2, ::2] < 1e-3).all()
    assert (base[1::2] == 2).all()


def test_vectors_of_parameters():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (11,)
    vector.backward(fastdl.tensor(np.arange(11, dtype=np.float32)))
    np.testing.assert_array_equal(net[0].bias.grad.numpy(), [6, 7])
    utils.vector_to_parameters(fastdl.tensor(np.arange(11, dtype=np.float32)), net.parameters())
    np.testing.assert_array_equal(net[1].weight.detach().numpy(), [[8, 9]])
    with pytest.raises(ValueError, match=r"vector of 11 elements, got shape \(12,\)"):
        utils.vector_to_parameters(fastdl.zeros(12), net.parameters())
    with pytest.raises(TypeError, match="expected a Tensor"):
        utils.vector_to_parameters([1.0], net.parameters())


def layers():
    ours, theirs = nn.Linear(5, 4), torch.nn.Linear(5, 4)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    return ours, theirs, x


def train_once(ours, theirs, x):
    y, z = ours(fastdl.tensor(x)), theirs(torch.from_numpy(x))
    w = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    y.backward(fastdl.tensor(w))
    z.backward(torch.from_numpy(w))
    assert_close(y.detach(), z.detach().numpy(), 5)
    ours_named, theirs_named = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert set(ours_named) == set(theirs_named)
    for name, q in theirs_named.items():
        assert_close(ours_named[name].grad, q.grad.numpy(), 15)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim):
    ours, theirs, x = layers()
    before = ours.weight.detach().numpy().copy()
    utils.weight_norm(ours, dim=dim)
    torch.nn.utils.weight_norm(theirs, dim=dim)
    train_once(ours, theirs, x)
    assert ours.weight_g.shape == tuple(theirs.weight_g.shape)
    with pytest.raises(RuntimeError, match="Cannot register two"):
        utils.weight_norm(ours)
    utils.remove_weight_norm(ours)
    assert isinstance(ours.weight, nn.Parameter)
    assert_close(ours.weight.detach(), before)
    assert set(dict(ours.named_parameters())) == {"weight", "bias"}
    with pytest.raises(ValueError, match="not found"):
        utils.remove_weight_norm(ours)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_spectral_norm():
    ours, theirs, x = layers()
    utils.spectral_norm(ours, n_power_iterations=2)
    torch.nn.utils.spectral_norm(theirs, n_power_iterations=2)
    with torch.no_grad():
        theirs.weight_u.copy_(torch.from_numpy(ours.weight_u.numpy()))
        theirs.weight_v.copy_(torch.from_numpy(ours.weight_v.numpy()))
    assert set(ours.state_dict()) == set(theirs.state_dict())
    train_once(ours, theirs, x)
    for _ in range(50):
        ours(fastdl.tensor(x))
    assert abs(np.linalg.norm(ours.weight.detach().numpy(), 2) - 1) < 1e-4
    ours.eval()
    u = ours.weight_u.numpy().copy()
    ours(fastdl.tensor(x))
    np.testing.assert_array_equal(u, ours.weight_u.numpy())
    utils.remove_spectral_norm(ours)
    assert set(dict(ours.named_parameters())) == {"weight", "bias"}
    with pytest.raises(ValueError, match="not found"):
        utils.remove_spectral_norm(ours)
    with pytest.raises(ValueError, match="n_power_iterations to be positive"):
        utils.spectral_norm(ours, n_power_iterations=0)


def test_gradients_of_the_norms():
    from fastdl.nn.utils.spectral_norm import DivideBySigma
    from fastdl.nn.utils.weight_norm import ScaledDirection

    rng = np.random.default_rng(0)
    v, g = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 1, 1))
    check_gradient(lambda v, g: ScaledDirection.apply(v, g, axes=(1, 2)), v, g)
    a, b = rng.standard_normal(3), rng.standard_normal(8)
    check_gradient(lambda w: DivideBySigma.apply(w, u=a, v=b, dim=1), rng.standard_normal((4, 3, 2)))


def test_fusion_equals_the_two_layers():
    rng = np.random.default_rng(0)

    class Norm(nn.Module):  # what fusion needs to know of a batch norm
        def __init__(self, affine):
            super().__init__()
            self.eps = 1e-3
            self.weight = nn.Parameter(rng.standard_normal(4).astype(np.float32)) if affine else None
            self.bias = nn.Parameter(rng.standard_normal(4).astype(np.float32)) if affine else None
            self.running_mean = fastdl.tensor(rng.standard_normal(4).astype(np.float32))
            self.running_var = fastdl.tensor(rng.random(4).astype(np.float32) + 0.1)

    x = rng.standard_normal((5, 3)).astype(np.float32)
    for affine in (True, False):
        for bias in (True, False):
            linear, norm = nn.Linear(3, 4, bias=bias).eval(), Norm(affine).eval()
            before = copy.deepcopy(linear.state_dict())
            fused = utils.fuse_linear_bn_eval(linear, norm)
            y = linear(fastdl.tensor(x)).detach().numpy()
            want = (y - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + 1e-3)
            if affine:
                want = want * norm.weight.detach().numpy() + norm.bias.detach().numpy()
            assert_close(fused(fastdl.tensor(x)).detach(), want, 10)
            for key, value in before.items():
                np.testing.assert_array_equal(linear.state_dict()[key].numpy(), value.numpy())
    with pytest.raises(ValueError, match="eval mode"):
        utils.fuse_linear_bn_eval(linear.train(), norm)
    norm.running_mean = None
    with pytest.raises(ValueError, match="running statistics"):
        utils.fuse_linear_bn_eval(linear.eval(), norm)

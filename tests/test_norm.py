"""Normalisation: functions and layers against torch, gradients, messages."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import nn
from parity import DTYPES, assert_close, check_gradient
from test_norm_kernels import arrays


def both(torch, *values, grad=True):
    """The same arrays as tensors of torch and of fastdl."""
    theirs = [None if v is None else torch.from_numpy(v.copy()).requires_grad_(grad) for v in values]
    ours = [None if v is None else fastdl.tensor(v, requires_grad=grad) for v in values]
    return theirs, ours


def compare(theirs, ours, reduction, factor=64.0):
    for a, b in zip(ours, theirs, strict=True):
        if b is not None:
            assert_close(a.grad, b.grad.numpy(), reduction=reduction, factor=factor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 9), (3, 6, 7, 5), (2, 3, 4, 5, 2)])
@pytest.mark.parametrize("affine", ["both", "weight", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_against_torch(shape, affine, training, dtype):
    torch = pytest.importorskip("torch")
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 1.0)
    weight, bias = {"both": (weight, bias), "weight": (weight, None), "none": (None, None)}[affine]
    theirs, ours = both(torch, x, weight, bias)
    running = [np.linspace(-1, 1, shape[1]).astype(dtype), np.linspace(0.5, 2, shape[1]).astype(dtype)]
    their_running, our_running = both(torch, *running, grad=False)
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    want = torch.nn.functional.batch_norm(theirs[0], *their_running, *theirs[1:], **options)
    got = F.batch_norm(ours[0], *our_running, *ours[1:], **options)
    n = x.size // shape[1]
    assert_close(got.detach(), want.detach().numpy(), reduction=n)
    want.backward(torch.from_numpy(g))
    got.backward(fastdl.tensor(g))
    compare(theirs, ours, n)
    for a, b in zip(our_running, their_running, strict=True):
        assert_close(a, b.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 7), 1), ((4, 3, 9), 1), ((4, 3, 9), 2), ((6,), 1), ((2, 3, 4, 5), 3)]
)
@pytest.mark.parametrize("affine", ["both", "weight", "none"])
def test_layer_and_rms_norm_against_torch(shape, axes, affine, dtype):
    torch = pytest.importorskip("torch")
    normalized = shape[len(shape) - axes :]
    x, g, weight, bias = arrays(shape, dtype, normalized, 2.0, 1.0)
    weight, bias = {"both": (weight, bias), "weight": (weight, None), "none": (None, None)}[affine]
    theirs, ours = both(torch, x, weight, bias)
    want = torch.nn.functional.layer_norm(theirs[0], normalized, *theirs[1:], eps=1e-3)
    got = F.layer_norm(ours[0], normalized, *ours[1:], eps=1e-3)
    assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
    want.backward(torch.from_numpy(g))
    got.backward(fastdl.tensor(g))
    compare(theirs, ours, x.size)
    for eps in (None, 1e-2):
        theirs, ours = both(torch, x, weight)
        want = torch.nn.functional.rms_norm(theirs[0], normalized, theirs[1], eps)
        got = F.rms_norm(ours[0], normalized, ours[1], eps)
        assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
        want.backward(torch.from_numpy(g))
        got.backward(fastdl.tensor(g))
        compare(theirs, ours, x.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 6, 9), (3, 6, 7, 5), (2, 6)])
def test_group_and_instance_norm_against_torch(shape, dtype):
    torch = pytest.importorskip("torch")
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 1.0)
    for groups in (1, 2, 3):
        for w, b in ((weight, bias), (weight, None), (None, None)):
            theirs, ours = both(torch, x, w, b)
            want = torch.nn.functional.group_norm(theirs[0], groups, *theirs[1:])
            got = F.group_norm(ours[0], groups, *ours[1:])
            assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
            want.backward(torch.from_numpy(g))
            got.backward(fastdl.tensor(g))
            compare(theirs, ours, x.size, 256.0)
    if len(shape) == 2:
        return
    for use in (True, False):
        theirs, ours = both(torch, x, weight, bias)
        running = [np.linspace(-1, 1, shape[1]).astype(dtype), np.linspace(0.5, 2, shape[1]).astype(dtype)]
        their_running, our_running = both(torch, *running, grad=False)
        options = {"use_input_stats": use, "momentum": 0.2}
        want = torch.nn.functional.instance_norm(theirs[0], *their_running, *theirs[1:], **options)
        got = F.instance_norm(ours[0], *our_running, *ours[1:], **options)
        assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
        want.backward(torch.from_numpy(g))
        got.backward(fastdl.tensor(g))
        compare(theirs, ours, x.size)
        for a, b in zip(our_running, their_running, strict=True):
            assert_close(a, b.numpy())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_local_response_norm_against_torch(size):
    torch = pytest.importorskip("torch")
    for shape in ((2, 7, 5), (2, 5, 4, 3)):
        x, g, _, _ = arrays(shape, np.float64, 1, 3.0)
        theirs, ours = both(torch, x)
        options = {"alpha": 0.3, "beta": 0.6, "k": 1.5}
        want = torch.nn.functional.local_response_norm(theirs[0], size, **options)
        got = F.local_response_norm(ours[0], size, **options)
        assert_close(got.detach(), want.detach().numpy())
        want.backward(torch.from_numpy(g))
        got.backward(fastdl.tensor(g))
        compare(theirs, ours, size)


def test_gradients():
    x, _, weight, bias = arrays((5, 4, 6), np.float64, 4, 1.5, 0.5)
    long_weight, long_bias = arrays((1,), np.float64, 6)[2:]
    mean, var = fastdl.tensor(np.linspace(-1, 1, 4)), fastdl.tensor(np.linspace(0.5, 2, 4))
    check_gradient(lambda *t: F.batch_norm(t[0], None, None, t[1], t[2], training=True), x, weight, bias)
    check_gradient(lambda *t: F.batch_norm(t[0], mean, var, t[1], t[2]), x, weight, bias)
    check_gradient(lambda *t: F.layer_norm(t[0], 6, t[1], t[2]), x, long_weight, long_bias)
    check_gradient(lambda *t: F.rms_norm(t[0], (6,), t[1]), x, long_weight)
    check_gradient(lambda *t: F.group_norm(t[0], 2, t[1], t[2]), x, weight, bias)
    check_gradient(lambda *t: F.instance_norm(t[0], None, None, t[1], t[2]), x, weight, bias)
    check_gradient(lambda t: F.local_response_norm(t, 3, 0.5, 0.7, 1.1), x)
    with fastdl.use_backend("reference"):
        check_gradient(lambda *t: F.batch_norm(t[0], None, None, t[1], t[2], training=True), x, weight, bias)
        check_gradient(lambda *t: F.layer_norm(t[0], 6, t[1], t[2]), x, long_weight, long_bias)


LAYERS = [
    ("BatchNorm1d", (5,), {}, (7, 5)),
    ("BatchNorm1d", (5,), {"momentum": None}, (7, 5, 3)),
    ("BatchNorm2d", (5,), {"eps": 1e-3, "bias": False}, (4, 5, 3, 2)),
    ("BatchNorm2d", (5,), {"affine": False, "track_running_stats": False}, (4, 5, 3, 2)),
    ("BatchNorm3d", (5,), {"momentum": 0.4}, (4, 5, 3, 2, 2)),
    ("InstanceNorm1d", (5,), {}, (4, 5, 6)),
    ("InstanceNorm1d", (5,), {}, (5, 6)),
    ("InstanceNorm2d", (5,), {"affine": True, "track_running_stats": True}, (4, 5, 3, 2)),
    ("InstanceNorm3d", (5,), {"affine": True, "bias": False}, (4, 5, 3, 2, 2)),
    ("LayerNorm", (6,), {}, (4, 6)),
    ("LayerNorm", ((2, 3),), {"bias": False}, (4, 2, 3)),
    ("LayerNorm", ([6],), {"elementwise_affine": False}, (4, 6)),
    ("RMSNorm", (6,), {}, (4, 6)),
    ("RMSNorm", ((2, 3),), {"eps": 1e-4, "elementwise_affine": False}, (4, 2, 3)),
    ("GroupNorm", (2, 6), {}, (4, 6, 3)),
    ("GroupNorm", (3, 6), {"bias": False}, (4, 6, 3)),
    ("GroupNorm", (3, 6), {"affine": False}, (4, 6, 3)),
    ("LocalResponseNorm", (3,), {"alpha": 0.1}, (4, 6, 3)),
]


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS)
def test_layers_against_torch(name, args, options, shape):
    """Three steps of training, then evaluation; state and text are torch's."""
    torch = pytest.importorskip("torch")
    theirs, ours = getattr(torch.nn, name)(*args, **options), getattr(nn, name)(*args, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    for mode in (True, True, True, False):
        theirs.train(mode)
        ours.train(mode)
        x = (rng.standard_normal(shape) * 2 + 1).astype(np.float32)
        want = theirs(torch.from_numpy(x.copy())).detach().numpy()
        assert_close(ours(fastdl.tensor(x)).detach(), want, reduction=16)
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value.numpy())
    fresh = getattr(nn, name)(*args, **options)
    fresh.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    fresh.eval()
    assert_close(fresh(fastdl.tensor(x)).detach(), want, reduction=16)
    if hasattr(fresh, "reset_parameters"):
        fresh.reset_parameters()
        for key, value in getattr(torch.nn, name)(*args, **options).state_dict().items():
            np.testing.assert_array_equal(fresh.state_dict()[key].numpy(), value.numpy())


def test_old_checkpoint_without_counter():
    layer = nn.BatchNorm2d(3)
    state = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    layer.load_state_dict(state)
    nn.Sequential(layer).load_state_dict({f"0.{k}": v for k, v in state.items()})


def test_statistics_move_before_backward():
    """Evaluation, then a training step, then backward of the evaluation: it uses what was used forward."""
    layer = nn.BatchNorm1d(2)
    layer.eval()
    x = fastdl.tensor(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32), requires_grad=True)
    y = layer(x)
    layer.train()
    layer(fastdl.tensor(np.array([[9.0, 2.0], [3.0, 55.0]], np.float32)))
    y.backward(fastdl.ones(2, 2))
    np.testing.assert_allclose(x.grad.numpy(), 1 / np.sqrt(1 + 1e-5), rtol=1e-6)


@pytest.mark.parametrize("name", ["torch", "fastdl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inference_gradients_do_not_depend_on_the_input(name, dtype):
    library = pytest.importorskip(name)
    layer = library.nn.BatchNorm2d(2).eval()
    layer.running_var.fill_(4.0)
    with library.no_grad():
        layer.weight.copy_(library.tensor([1.0, 3.0]))
    values = [[[[float("inf"), 1.0]], [[float("nan"), float("-inf")]]]]
    x = library.tensor(values, dtype=getattr(library, dtype), requires_grad=True)
    (grad,) = library.autograd.grad(layer(x).sum(), x)
    np.testing.assert_allclose(grad.float().numpy().ravel(), [0.5, 0.5, 1.5, 1.5], rtol=1e-2)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("kind", ["batch", "eval", "layer", "group"])
def test_gradients_beside_half_precision_have_their_parameters_dtype(kind, create_graph):
    x = fastdl.randn(4, 6, 6).half().requires_grad_()
    weight, bias = [fastdl.ones(6, requires_grad=True) for _ in "wb"]
    y = {
        "batch": lambda: F.batch_norm(x, None, None, weight, bias, training=True),
        "eval": lambda: F.batch_norm(x, fastdl.zeros(6), fastdl.ones(6), weight, bias),
        "layer": lambda: F.layer_norm(x, 6, weight, bias),
        "group": lambda: F.group_norm(x, 2, weight, bias),
    }[kind]()
    leaves = x, weight, bias
    found = fastdl.autograd.grad(y, leaves, fastdl.ones_like(y), create_graph=create_graph)
    assert [g.dtype for g in found] == [t.dtype for t in leaves]


def test_changed_input_is_noticed():
    x = F.leaky_relu(fastdl.ones(4, 3, requires_grad=True), 0.5)
    y = F.layer_norm(x, 3)
    F.relu(x, inplace=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(fastdl.ones(4, 3))


def test_empty():
    for shape in ((0, 3, 2), (2, 3, 0)):
        x = fastdl.zeros(shape, requires_grad=True)
        layer = nn.BatchNorm1d(3)
        y = layer(x)
        y.backward(fastdl.zeros(shape))
        assert y.shape == shape
        assert layer.weight.grad.tolist() == [0, 0, 0]
        assert layer.running_mean.tolist() == [0, 0, 0]
        assert layer.eval()(x).shape == shape
        assert F.group_norm(x, 3).shape == shape
    assert F.layer_norm(fastdl.zeros(3, 0), 0).shape == (3, 0)
    assert F.layer_norm(fastdl.zeros(0, 3), 3).shape == (0, 3)
    assert F.rms_norm(fastdl.zeros(0, 3), 3).shape == (0, 3)


def test_messages():
    x, c = fastdl.ones(2, 3, 4), fastdl.ones(3)
    one = fastdl.ones(1, 3)
    for text, call in [
        (
            r"Expected more than 1 value per channel .* \(1, 3\)",
            lambda: F.batch_norm(one, c, c, training=True),
        ),
        (r"Expected more than 1 value per channel", lambda: nn.BatchNorm1d(3)(one)),
        (r"BatchNorm2d: expected 4D input \(got 3D input\)", lambda: nn.BatchNorm2d(3)(x)),
        (r"BatchNorm1d: expected 2D or 3D input", lambda: nn.BatchNorm1d(3)(c)),
        (r"running_mean must have one element .* 3 channels", lambda: nn.BatchNorm1d(4, affine=False)(x)),
        (r"batch_norm: weight must have one element", lambda: F.batch_norm(x, c, c, fastdl.ones(4))),
        (r"must be given when training is False", lambda: F.batch_norm(x, None, None)),
        (r"eps must be positive .* got 0", lambda: nn.BatchNorm1d(3, eps=0.0)(x)),
        (r"eps must be positive .* got -1", lambda: F.batch_norm(x, c, c, eps=-1.0)),
        (r"batch_norm: input must be \(N, C, ...\), got shape \(3,\)", lambda: F.batch_norm(c, c, c)),
        (
            r"layer_norm: the last axes .* normalized_shape=\(3,\), got .* \(2, 3, 4\)",
            lambda: F.layer_norm(x, 3),
        ),
        (r"layer_norm: weight must have shape normalized_shape=\(4,\)", lambda: F.layer_norm(x, 4, c)),
        (r"layer_norm: normalized_shape must name", lambda: F.layer_norm(x, ())),
        (r"rms_norm: the last axes", lambda: F.rms_norm(x, (2, 3))),
        (r"group_norm: num_groups must divide", lambda: F.group_norm(x, 2)),
        (r"group_norm: Expected more than 1 value", lambda: F.group_norm(one, 3)),
        (r"GroupNorm: num_channels \(4\) must be divisible", lambda: nn.GroupNorm(3, 4)),
        (r"InstanceNorm2d: expected 3D or 4D input", lambda: nn.InstanceNorm2d(3)(c)),
        (r"InstanceNorm1d: expected input's size at dim=1", lambda: nn.InstanceNorm1d(4, affine=True)(x)),
        (r"more than 1 spatial element", lambda: nn.InstanceNorm1d(3)(fastdl.ones(2, 3, 1))),
        (r"must be given when use_input_stats", lambda: F.instance_norm(x, use_input_stats=False)),
        (r"local_response_norm: input must be", lambda: F.local_response_norm(one, 3)),
        (r"local_response_norm: size must be positive", lambda: F.local_response_norm(x, 0)),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match=r"^batch_norm: weight must be float64"):
        F.batch_norm(x.double(), None, None, c, training=True)
    with pytest.raises(TypeError, match="float32 or float64"):
        F.layer_norm(fastdl.tensor([[1, 2]]), 2)


def test_sync_batch_norm_is_batch_norm() -> None:
    torch = pytest.importorskip("torch")
    layers = [
        library.nn.Sequential(library.nn.Linear(3, 4), library.nn.BatchNorm1d(4))
        for library in (fastdl, torch)
    ]
    layers[0].load_state_dict({k: fastdl.from_numpy(v.numpy()) for k, v in layers[1].state_dict().items()})
    norm = layers[0][1]
    synchronised = [
        library.nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        for library, layer in zip((fastdl, torch), layers, strict=True)
    ]
    assert repr(synchronised[0]) == repr(synchronised[1])
    assert synchronised[0] is layers[0]
    assert isinstance(layers[0][1], fastdl.nn.SyncBatchNorm)
    assert layers[0][1].running_mean is norm.running_mean
    x = fastdl.randn(5, 3)
    trained = layers[0](x)
    np.testing.assert_array_equal(trained.detach().numpy(), norm(layers[0][0](x)).detach().numpy())
    assert int(norm.num_batches_tracked) == 2
    single = fastdl.nn.SyncBatchNorm(4, process_group="all", bias=False)
    assert single(fastdl.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)
    assert (single.process_group, single.bias) == ("all", None)


@pytest.mark.parametrize("base", ["_BatchNorm", "BatchNorm2d"])
def test_subclasses_check_the_input_themselves(base):
    torch = pytest.importorskip("torch")
    for library in (torch, fastdl):
        parent = getattr(library.nn.modules.batchnorm, base)

        class Points(parent):
            def _check_input_dim(self, input):
                if input.dim() != 3:
                    raise ValueError("points are (N, C, L)")

        x = library.arange(12.0).reshape(2, 2, 3)
        y = Points(2)(x)
        np.testing.assert_allclose(y.mean((0, 2)).tolist(), [0, 0], atol=1e-6)
        with pytest.raises(ValueError, match="points are"):
            Points(2)(x[None])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((8, 33), 3), ((30, 12, 1), 2), ((2, 8, 1), 4), ((25, 12, 1, 1), 3), ((300, 640), 5)],
)
@pytest.mark.parametrize("affine", ["both", "weight", "bias"])
def test_group_norm_of_single_numbers(shape, groups, affine, dtype):
    torch = pytest.importorskip("torch")
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 1.0)
    weight, bias = {"both": (weight, bias), "weight": (weight, None), "bias": (np.ones_like(weight), bias)}[
        affine
    ]
    theirs, ours = both(torch, x, weight, bias)
    if affine == "bias":
        ours[1] = None
    want = torch.nn.functional.group_norm(theirs[0], groups, *theirs[1:])
    got = F.group_norm(ours[0], groups, *ours[1:])
    assert_close(got, want.detach().numpy(), reduction=shape[1])
    want.backward(torch.from_numpy(g))
    got.backward(fastdl.tensor(g))
    compare([t if o is not None else None for t, o in zip(theirs, ours, strict=True)], ours, x.size)

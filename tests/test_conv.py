"""Convolution and its transpose: every algorithm and level against the reference, torch's options, errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from conv_cases import FACTORS, check
from fastdl import kernels, nn
from fastdl.nn import functional as F
from parity import assert_close, backends, check_gradient

# -------------------------------------------------------------------------------- operations, against torch


def tensor(array, requires_grad=False):
    t = fastdl.from_numpy(array)
    t.requires_grad = requires_grad
    return t


TORCH_CASES = [
    ("conv1d", (2, 4, 30), (6, 2, 5), {"stride": 2, "padding": 3, "dilation": 2, "groups": 2}),
    ("conv1d", (4, 30), (6, 4, 5), {"padding": "same", "dilation": 3}),
    ("conv2d", (2, 4, 9, 11), (6, 4, 3, 4), {"padding": "same"}),
    ("conv2d", (2, 4, 9, 11), (6, 4, 4, 2), {"padding": "same", "dilation": (1, 3)}),
    ("conv2d", (2, 4, 9, 11), (6, 4, 3, 3), {"padding": "valid", "stride": (2, 3)}),
    ("conv2d", (4, 9, 11), (8, 1, 3, 3), {"padding": [1, 2], "groups": 4}),
    ("conv2d", (0, 4, 9, 11), (6, 4, 3, 3), {"padding": 1}),
    ("conv2d", (3, 32, 12, 12), (32, 32, 3, 3), {"padding": 1}),
    ("conv3d", (2, 4, 5, 6, 7), (6, 2, 3, 2, 3), {"stride": (1, 2, 2), "padding": (1, 0, 2), "groups": 2}),
    ("conv3d", (4, 5, 6, 7), (3, 4, 2, 3, 3), {"padding": "same"}),
    ("conv_transpose1d", (2, 4, 9), (4, 3, 5), {"stride": 3, "padding": 2, "output_padding": 1, "groups": 2}),
    ("conv_transpose1d", (4, 9), (4, 3, 5), {"dilation": 2}),
    ("conv_transpose2d", (2, 4, 5, 6), (4, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("conv_transpose2d", (2, 4, 5, 6), (4, 3, 3, 2), {"stride": 1, "dilation": 3, "output_padding": 2}),
    ("conv_transpose2d", (4, 5, 6), (4, 3, 4, 4), {"stride": (2, 1), "padding": (1, 2), "groups": 4}),
    ("conv_transpose2d", (0, 4, 5, 6), (4, 3, 4, 4), {"stride": 2}),
    (
        "conv_transpose3d",
        (2, 4, 3, 4, 5),
        (4, 2, 3, 3, 2),
        {"stride": 2, "padding": 1, "output_padding": (1, 0, 1), "groups": 2},
    ),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "x_shape", "w_shape", "options"), TORCH_CASES)
def test_against_torch(name, x_shape, w_shape, options, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(w_shape).astype(dtype)
    transposed = "transpose" in name
    b = rng.standard_normal(w_shape[1] * options.get("groups", 1) if transposed else w_shape[0]).astype(dtype)
    ours = [tensor(a, True) for a in (x, w, b)]
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y, t = getattr(F, name)(*ours, **options), getattr(torch.nn.functional, name)(*theirs, **options)
    assert_close(y, t.detach().numpy(), w[0].size, FACTORS["winograd"])
    g = rng.standard_normal(y.shape).astype(dtype)
    y.backward(fastdl.from_numpy(g))
    t.backward(torch.tensor(g))
    for a, e in zip(ours, theirs, strict=True):
        assert_close(a.grad, e.grad.numpy(), max(w.size, g.size), FACTORS["winograd"])


@pytest.mark.parametrize(("name", "x_shape", "w_shape", "options"), [c for c in TORCH_CASES if 0 not in c[1]])
def test_gradients_by_differences(name, x_shape, w_shape, options):
    rng = np.random.default_rng(1)
    outputs = w_shape[1] * options.get("groups", 1) if "transpose" in name else w_shape[0]
    arrays = [rng.standard_normal(shape) for shape in (x_shape, w_shape, (outputs,))]
    check_gradient(lambda x, w, b: getattr(F, name)(x, w, b, **options), *arrays)


def test_the_reference_backend_computes_the_same():
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 4, 9, 9)), rng.standard_normal((6, 4, 3, 3))
    want = F.conv2d(tensor(x), tensor(w), padding=1).numpy()
    with fastdl.use_backend("reference"):
        got = F.conv2d(tensor(x), tensor(w), padding=1)
    assert_close(got, want, 36)


def test_forced_algorithms():
    x, w = tensor(np.ones((1, 2, 8, 8))), tensor(np.ones((2, 2, 3, 3)))
    with fastdl.conv_algorithm("im2col"):
        assert kernels.cpu.conv_algorithm() == "im2col"
        assert F.conv2d(x, w).numpy()[0, 0, 0, 0] == 18
    assert kernels.cpu.conv_algorithm() == "auto"
    with pytest.raises(ValueError, match="must be one of auto"), fastdl.conv_algorithm("fft"):
        pass


@st.composite
def geometries(draw):
    axes = draw(st.integers(1, 3))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation, pads = each(1, 4), each(1, 3), each(1, 3), each(0, 3)
    pads = draw(st.sampled_from([pads, tuple(p for q in pads for p in (q, draw(st.integers(0, 3))))]))
    c, k = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    least = [d * (n - 1) + 1 for d, n in zip(dilation, kernel, strict=True)]
    size = tuple(draw(st.integers(n, n + 7)) for n in least)
    n = draw(st.integers(1, 3))
    return (n, c * groups, *size), (k * groups, c, *kernel), stride, pads, dilation, groups


@settings(max_examples=60, deadline=None)
@given(geometries(), st.sampled_from([np.float32, np.float64]), st.sampled_from(backends()))
def test_random_geometries(geometry, dtype, level):
    module = kernels.load(level)
    x_shape, w_shape, *options = geometry
    try:
        for name, refusal in module.conv_algorithms(x_shape, w_shape, *options, dtype == np.float64):
            if not refusal:
                module.set_conv_algorithm(name)
                check(module, geometry, dtype, FACTORS.get(name, 16.0))
    finally:
        module.set_conv_algorithm("auto")


# ------------------------------------------------------------------------------------------------ messages

X, W = (2, 3, 8, 8), (4, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "x", "w", "options", "message"),
    [
        (
            "conv2d",
            (8, 8),
            W,
            {},
            r"conv2d: input must be 4-D \(batch, channels, height, width\) or 3-D .*got shape \(8, 8\)",
        ),
        (
            "conv2d",
            X,
            (4, 3, 3),
            {},
            r"weight must be 4-D \(out_channels, in_channels/groups, kH, kW\), got shape \(4, 3, 3\)",
        ),
        (
            "conv2d",
            (2, 8, 8, 3),
            W,
            {},
            r"has 8 channels .* expects 3.*channels-last \(N, H, W, C\), use input.permute\(0, 3, 1, 2\)",
        ),
        ("conv2d", (8, 8, 3), W, {}, r"channels-last \(H, W, C\), use input.permute\(2, 0, 1\)"),
        (
            "conv2d",
            (2, 5, 8, 8),
            W,
            {},
            r"has 5 channels \(axis 1\), but weight of shape \(4, 3, 3, 3\) expects 3$",
        ),
        ("conv2d", X, (4, 3, 3, 3), {"groups": 2}, r"expects 3 \* groups = 6"),
        ("conv2d", X, (5, 1, 3, 3), {"groups": 3}, r"groups=3 must divide weight's out_channels=5"),
        ("conv2d", X, W, {"groups": 0}, "groups must be positive, got 0"),
        ("conv2d", X, W, {"stride": 0}, "stride must be positive, got 0"),
        ("conv2d", X, W, {"stride": (1, -1)}, r"stride must be positive, got \(1, -1\)"),
        ("conv2d", X, W, {"dilation": 0}, "dilation must be positive"),
        ("conv2d", X, W, {"padding": -1}, "padding must be non-negative, got -1"),
        (
            "conv2d",
            X,
            W,
            {"padding": (1, 1, 1)},
            r"padding must be an int or have 2 entries \(height, width\), got \(1, 1, 1\)",
        ),
        ("conv2d", X, W, {"padding": "full"}, "padding must be 'same', 'valid' or ints, got 'full'"),
        ("conv2d", X, W, {"padding": "same", "stride": 2}, "padding='same' needs stride 1, got stride 2"),
        ("conv2d", X, (4, 3, 9, 3), {}, r"kernel is larger than the padded input: kernel \(9, 3\)"),
        ("conv2d", X, W, {"dilation": 4}, r"covers \(9, 9\), input \(8, 8\) with padding 0 has \(8, 8\)"),
        ("conv2d", (2, 3, 0, 8), W, {"padding": 2}, "must not be empty along height, width"),
        ("conv1d", (2, 3, 8, 8), (4, 3, 3), {}, r"conv1d: input must be 3-D .* or 2-D"),
        (
            "conv3d",
            (2, 3, 8, 8),
            (4, 3, 3, 3),
            {},
            r"conv3d: weight must be 5-D \(out_channels, in_channels/groups, kD, kH, kW\)",
        ),
        ("conv_transpose2d", X, (4, 3, 3, 3), {}, "has 3 channels .* expects 4"),
        (
            "conv_transpose2d",
            X,
            W[1:2] * 2 + W[2:],
            {"output_padding": 1},
            "output_padding must be smaller than stride or dilation",
        ),
        (
            "conv_transpose2d",
            (1, 3, 1, 1),
            (3, 3, 3, 3),
            {"padding": 2},
            r"output would have shape \(-1, -1\): padding 2",
        ),
    ],
)
def test_messages(name, x, w, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(F, name)(tensor(np.zeros(x, np.float32)), tensor(np.zeros(w, np.float32)), **options)


def test_type_messages():
    x, w = np.zeros(X, np.float32), np.zeros(W, np.float32)
    with pytest.raises(TypeError, match="conv2d: input must be a Tensor, got numpy"):
        F.conv2d(x, tensor(w))
    with pytest.raises(TypeError, match="conv2d: weight must be a Tensor, got NoneType"):
        F.conv2d(tensor(x), None)
    with pytest.raises(TypeError, match="input is float32 but weight is float64; give both the same dtype"):
        F.conv2d(tensor(x), tensor(w.astype(np.float64)))
    with pytest.raises(TypeError, match="input must be float32 or float64, got int64"):
        F.conv2d(tensor(x.astype(np.int64)), tensor(w))
    with pytest.raises(TypeError, match=r"stride must be an int or a tuple of ints, got 1\.5"):
        F.conv2d(tensor(x), tensor(w), stride=1.5)
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        F.conv2d(tensor(x), tensor(w), tensor(np.zeros(3, np.float32)))


def test_in_place_change_of_a_saved_input_is_found():
    x, w = tensor(np.ones(X), True), tensor(np.ones(W), True)
    y = F.conv2d(x, w)
    x._version_cell()[0] += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(fastdl.from_numpy(np.ones(y.shape)))


# ------------------------------------------------------------------------------------------------- layers

LAYERS = [
    ("Conv1d", (3, 8, 5), {"stride": 2, "padding": 2, "dilation": 2}, (2, 3, 40)),
    ("Conv2d", (4, 8, 3), {"padding": "same", "groups": 2, "bias": False}, (2, 4, 9, 8)),
    ("Conv2d", (4, 8, (3, 5)), {"padding": (1, 2), "stride": (2, 1)}, (4, 9, 8)),
    ("Conv2d", (4, 8, 3), {"padding": 2, "padding_mode": "reflect"}, (2, 4, 9, 8)),
    ("Conv2d", (4, 8, 4), {"padding": "same", "padding_mode": "circular"}, (2, 4, 9, 8)),
    ("Conv2d", (4, 8, 3), {"padding": (1, 2), "padding_mode": "replicate"}, (2, 4, 9, 8)),
    ("Conv3d", (2, 4, 3), {"padding": 1}, (2, 2, 5, 6, 7)),
    ("ConvTranspose1d", (3, 8, 5), {"stride": 3, "output_padding": 2}, (2, 3, 10)),
    ("ConvTranspose2d", (4, 8, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 5, 6)),
    ("ConvTranspose3d", (2, 4, (2, 3, 3)), {"stride": 2, "dilation": 2, "bias": False}, (2, 2, 3, 4, 3)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_layers_are_torch_s(name, arguments, options, shape):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    a, b = tensor(x, True), torch.tensor(x, requires_grad=True)
    y, t = ours(a), theirs(b)
    assert_close(y, t.detach().numpy(), 100)
    y.backward(fastdl.from_numpy(np.ones(y.shape, np.float32)))
    t.backward(torch.ones_like(t))
    assert_close(a.grad, b.grad.numpy(), 100)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(p.grad, q.grad.numpy(), int(np.prod(shape)))


def test_initial_values_follow_torch():
    fastdl.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3)
    bound = 1 / np.sqrt(64 * 9)
    for p in (layer.weight, layer.bias):
        values = p.detach().numpy()
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
        assert abs(values.mean()) < 0.2 * bound
    assert nn.Conv2d(2, 2, 3, dtype=np.float64).weight.detach().numpy().dtype == np.float64


def test_output_size_chooses_the_output_padding():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = tensor(np.zeros((1, 2, 6, 6), np.float32))
    assert layer(x, output_size=(12, 11)).shape == (1, 3, 12, 11)
    assert layer(x, output_size=[1, 3, 12, 12]).shape == (1, 3, 12, 12)
    with pytest.raises(
        ValueError, match=r"output_size \(13, 12\) must lie between \(11, 11\) and \(12, 12\)"
    ):
        layer(x, output_size=(13, 12))
    with pytest.raises(ValueError, match="output_size must have 2 or 4 entries, got 3"):
        layer(x, output_size=(3, 12, 12))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(4, 8, 3, groups=3), "Conv2d: groups=3 must divide in_channels=4"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), "Conv2d: groups=4 must divide out_channels=6"),
        (lambda: nn.Conv2d(4, 6, 3, groups=0), "groups must be positive, got 0"),
        (lambda: nn.Conv2d(4, 6, 3, padding="same", stride=2), "padding='same' needs stride 1"),
        (lambda: nn.Conv2d(4, 6, 3, padding="full"), "padding must be 'same', 'valid' or ints"),
        (lambda: nn.Conv2d(4, 6, 3, padding_mode="mirror"), "padding_mode must be one of zeros, reflect"),
        (lambda: nn.Conv2d(4, 6, 0), "kernel_size must be positive, got 0"),
        (lambda: nn.Conv2d(4, 6, (3, 3, 3)), r"kernel_size must be an int or have 2 entries"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, padding_mode="circular"), "padding_mode must be 'zeros'"),
    ],
)
def test_layer_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_transposed_output_of_padding_alone_has_gradients():
    x, weight = fastdl.ones(1, 1, 1, requires_grad=True), fastdl.ones(1, 1, 1, requires_grad=True)
    y = fastdl.nn.functional.conv_transpose1d(x, weight, stride=3, padding=1, output_padding=2)
    assert y.tolist() == [[[0.0]]]
    y.sum().backward()
    assert x.grad.tolist() == weight.grad.tolist() == [[[0.0]]]


def test_weight_gradients_have_the_same_bits_while_the_pool_is_busy():
    """Groups run side by side on the pool, and one after the other where another thread has it."""
    x, w = fastdl.randn(40, 64, 8, 8), fastdl.randn(64, 16, 3, 3, requires_grad=True)
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(4)
    y = F.conv2d(x, w, None, 2, 1, 1, 4)
    ones = fastdl.ones_like(y).detach()

    def gradient():
        return fastdl.autograd.grad(y, w, ones, retain_graph=True)[0].numpy()

    expected, stop = gradient(), threading.Event()

    def multiply():
        a = fastdl.ones(500, 500)
        while not stop.is_set():
            a @ a

    other = threading.Thread(target=multiply)
    other.start()
    try:
        for _ in range(50):
            np.testing.assert_array_equal(gradient(), expected)
    finally:
        stop.set()
        other.join()
        fastdl.set_num_threads(before)


@pytest.mark.parametrize("kernel", [3, 7])
def test_im2col_leaves_out_exactly_what_zeros_in_the_kernel_leave_out(kernel):
    layer = nn.Conv2d(16, 16, kernel, padding=kernel // 2)
    layer.weight.data[:, :, kernel // 2 + 1 :] = 0
    x = fastdl.randn(2, 16, 14, 14, requires_grad=True)
    with fastdl.conv_algorithm("im2col"):
        layer(x)[:, :, 5].sum().backward()
    assert not x.grad[:, :, 6:].any()
    assert x.grad[:, :, 5].any()


def test_subclasses_call_output_padding_as_pytorch_s_forward_does():
    torch = pytest.importorskip("torch")
    for library in (torch, fastdl):

        class Scaled(library.nn.ConvTranspose2d):
            def forward(self, x, output_size=None):
                padding = self._output_padding(
                    x, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
                )
                return type(self).functional(
                    x, self.weight * 2, self.bias, self.stride, self.padding, padding
                )

            functional = staticmethod(library.nn.functional.conv_transpose2d)

        layer = Scaled(1, 1, 3, stride=2, padding=1, output_padding=1)
        x = library.ones(1, 1, 4, 4)
        assert tuple(layer(x).shape) == (1, 1, 8, 8)
        assert tuple(layer(x, (7, 7)).shape) == (1, 1, 7, 7)

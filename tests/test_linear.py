"""Linear layers and matrix products: kernels, operations, gradients, torch's rules, errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.ops import linear as ops
from fastdl.ops.bilinear import bilinear
from fastdl.ops.einsum import einsum
from parity import assert_close, backends, check_gradient, load


def normal(*shape):
    return np.random.default_rng(sum(shape) + 17 * len(shape)).standard_normal(shape)


def tensor(array, dtype=None):
    return fastdl.from_numpy(np.array(array, dtype))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lead", [(), (1,), (7,), (33,), (200,), (4, 5), (2, 3, 4), (0,), (3, 0)])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (5, 3), (33, 17), (64, 100), (300, 70)])
def test_layer_kernels_match_the_reference(level, dtype, lead, k, n):
    backend = load(level)
    x, w, b = (normal(*shape).astype(dtype) for shape in ((*lead, k), (n, k), (n,)))
    grad = normal(*lead, n).astype(dtype)
    rows = int(np.prod(lead))
    for bias, activation in itertools.product((b, None), ("none", *ops.ACTIVATIONS)):
        got = backend.linear_forward(x, w, bias, activation)
        assert_close(got, reference.linear_forward(x, w, bias, activation), reduction=k)
    for needs in itertools.product((True, False), repeat=3):
        got = backend.linear_backward(grad, x, w, *needs)
        want = reference.linear_backward(grad, x, w, *needs)
        for g, r, length in zip(got, want, (n, rows, rows), strict=True):
            assert (g is None) == (r is None)
            if r is not None:
                assert_close(g, r, reduction=max(length, 1))


@pytest.mark.parametrize("level", backends(cuda=True))
def test_layer_kernels_read_views_in_place(level):
    backend = load(level)
    x = normal(60, 50).astype(np.float32)
    w = normal(40, 50).astype(np.float32)
    grad = normal(60, 40).astype(np.float32)
    want = reference.linear_forward(x, w, None)
    want_back = reference.linear_backward(grad, x, w, True, True, True)
    wide = np.zeros((60, 99), np.float32)
    wide[:, 7:57] = x
    for view in (np.asfortranarray(x), wide[:, 7:57], np.ascontiguousarray(x[::-1])[::-1]):
        for weight in (w, np.asfortranarray(w)):
            assert_close(backend.linear_forward(view, weight, None), want, reduction=50)
            for g in (grad, np.asfortranarray(grad)):
                for got, expected in zip(
                    backend.linear_backward(g, view, weight, True, True, True), want_back, strict=True
                ):
                    assert_close(got, expected, reduction=60)
    row = np.broadcast_to(np.float32(2), (60, 40))  # the gradient of a sum: no stride at all
    for got, expected in zip(
        backend.linear_backward(row, x, w, True, True, True),
        reference.linear_backward(row, x, w, True, True, True),
        strict=True,
    ):
        assert_close(got, expected, reduction=60)


@pytest.mark.parametrize("level", backends())
def test_bias_gradient_is_reproducible(level):
    backend = kernels.load(level)
    grad, x, w = (normal(*s).astype(np.float32) for s in ((20000, 30), (20000, 4), (30, 4)))
    first = backend.linear_backward(grad, x, w, False, True, True)
    second = backend.linear_backward(grad, x, w, False, True, True)
    for a, b in zip(first[1:], second[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert_close(first[2], grad.astype(np.float64).sum(0), reduction=20000)


LINEAR_SHAPES = [(3,), (2, 3), (4, 2, 3), (0, 3)]


@pytest.mark.parametrize("shape", LINEAR_SHAPES)
def test_linear_gradients(shape):
    check_gradient(ops.linear, normal(*shape), normal(5, 3), normal(5))
    check_gradient(ops.linear, normal(*shape), normal(5, 3))
    for name in ops.ACTIVATIONS:
        check_gradient(
            lambda *t, f=name: ops.linear(*t, activation=f), normal(*shape), normal(5, 3), normal(5)
        )


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_fused_activation_has_the_bits_of_the_separate_one(level, activation):
    backend = kernels.load(level)
    x, w, b = (normal(*shape).astype(np.float32) for shape in ((37, 50), (45, 50), (45,)))
    x[3, 4] = np.nan
    x[5, 6] = np.inf
    fused = backend.linear_forward(x, w, b, activation)
    apart = getattr(backend, f"{activation}_forward")(backend.linear_forward(x, w, b))
    np.testing.assert_array_equal(fused, apart)


def test_linear_with_a_vector_as_weight():
    check_gradient(ops.linear, normal(2, 3), normal(3))
    assert ops.linear(tensor(normal(2, 3)), tensor(normal(3))).shape == (2,)
    got = ops.linear(tensor(normal(2, 3)), tensor(normal(3)), tensor(0.5, np.float64))
    assert_close(got, normal(2, 3) @ normal(3) + 0.5, reduction=3)
    got = ops.linear(tensor(normal(2, 3)), tensor(normal(3)), activation="relu")
    assert_close(got, np.maximum(normal(2, 3) @ normal(3), 0))


MATMUL_SHAPES = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (4, 3, 2)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 2)),
    ((1, 2, 3), (7, 3, 2)),
    ((2, 0), (0, 3)),
    ((0, 2), (2, 3)),
    ((0, 2, 3), (3, 2)),
]


@pytest.mark.parametrize(("a", "b"), MATMUL_SHAPES)
def test_matmul_follows_numpy_and_differentiates(a, b):
    x, y = normal(*a), normal(*b)
    assert_close(ops.matmul(tensor(x), tensor(y)), np.matmul(x, y), reduction=3)
    check_gradient(ops.matmul, x, y)
    check_gradient(ops.matmul, x, y, needs=[1])


@pytest.mark.parametrize("shape", [(3, 2, 1, 4), (3, 2, 4), (2, 3, 2, 4)])
def test_matmul_of_repeated_matrices(shape):
    """Axes of stride 0 anywhere: only a batch whose rows follow each other is multiplied as one matrix."""
    other = normal(4, 5)
    for repeated in itertools.product([False, True], repeat=len(shape)):
        x = normal(*(1 if r else n for n, r in zip(shape, repeated, strict=True)))
        want = np.matmul(np.broadcast_to(x, shape), other)
        assert_close(ops.matmul(tensor(x).expand(shape), tensor(other)), want, reduction=4)


def test_matmul_of_integers_is_exact():
    a = np.array([[2**40, 3], [5, 7]])
    got = ops.matmul(tensor(a), tensor(a))
    assert got.dtype == a.dtype
    np.testing.assert_array_equal(got.numpy(), a @ a)
    np.testing.assert_array_equal(ops.outer(tensor(a[0]), tensor(a[1])).numpy(), np.outer(a[0], a[1]))
    np.testing.assert_array_equal(einsum("ij,jk->ik", tensor(a), tensor(a)).numpy(), a @ a)


def test_named_products():
    a, b, v, w = normal(3, 4), normal(4, 5), normal(4), normal(6)
    check_gradient(ops.mm, a, b)
    check_gradient(ops.mv, a, v)
    check_gradient(ops.dot, v, v.copy())
    check_gradient(ops.outer, v, w)
    check_gradient(ops.bmm, normal(2, 3, 4), normal(2, 4, 5))
    for shape in ((3, 5), (5,), (3, 1), (1,)):
        check_gradient(lambda c, x, y: ops.addmm(c, x, y, beta=0.5, alpha=2), normal(*shape), a, b)
        check_gradient(ops.addmm, normal(*shape), a, b)
    for beta, alpha in ((1, 1), (0.5, 2), (0, 3)):
        check_gradient(
            lambda c, m, x, b=beta, f=alpha: ops.addmv(c, m, x, beta=b, alpha=f),
            normal(3),
            a,
            v,
            needs=[1, 2],
        )
    check_gradient(ops.baddbmm, normal(2, 3, 5), normal(2, 3, 4), normal(2, 4, 5))
    check_gradient(bilinear, normal(4, 3), normal(4, 2), normal(5, 3, 2))
    assert_close(
        ops.addmm(tensor(normal(5)), tensor(a), tensor(b), beta=2, alpha=3), 2 * normal(5) + 3 * a @ b
    )


def test_matmul_of_rows_in_steps():
    """Single rows whose numbers do not lie side by side are no rows of one matrix."""
    x, other = tensor(normal(2, 1, 5)).half()[..., :4:2], tensor(normal(2, 7)).half()
    assert x.stride() == (5, 5, 2)
    np.testing.assert_array_equal((x @ other).numpy(), (x.contiguous() @ other).numpy())


@pytest.mark.parametrize("dtype", [fastdl.float16, fastdl.bfloat16])
def test_addmm_of_a_row_rounds_once(dtype):
    """In half precision the row is a bias of the product, as in a linear layer; a matrix is added to floats, too."""
    row, a, b = (tensor(normal(*shape)).to(dtype) for shape in ((24,), (30, 40), (40, 24)))
    got = ops.addmm(row, a, b, beta=0.5, alpha=-2)
    want = (0.5 * row.float() - 2 * (a.float() @ b.float())).to(dtype)
    assert got.dtype == dtype
    # 2^-8 is one unit of bfloat16: sums in another order may round to its neighbour.
    np.testing.assert_allclose(got.float().numpy(), want.float().numpy(), rtol=2**-8, atol=2**-8)
    for c in (row.expand(30, 24).contiguous(), row[None]):
        again = ops.addmm(c, a, b, beta=0.5, alpha=-2)
        np.testing.assert_allclose(again.float().numpy(), want.float().numpy(), rtol=2**-8, atol=2**-8)


def test_addmm_with_beta_zero_ignores_nan():
    c = np.full((2, 2), np.nan)
    got = ops.addmm(tensor(c), tensor(normal(2, 3)), tensor(normal(3, 2)), beta=0)
    assert np.isfinite(got.numpy()).all()


@pytest.mark.parametrize(("m", "k", "n"), [(3, 4, 5), (40, 3, 90), (300, 10, 9), (64, 70, 33), (1, 6, 1)])
@pytest.mark.parametrize(("beta", "alpha"), [(1, 1), (0.5, 0.7), (1, -2), (0, 3)])
def test_rows_added_to_products(m, k, n, beta, alpha):
    a, b = normal(m, k), normal(k, n)
    for shape in ((n,), (1, n), (1,), (m, 1), (m, n)):
        c = normal(*shape) if beta else np.full(shape, np.nan)
        want = alpha * a @ b + (beta * c if beta else 0)
        assert_close(ops.addmm(tensor(c), tensor(a), tensor(b), beta=beta, alpha=alpha), want)
    c = normal(n)
    want = beta * c + alpha * np.stack((a, 2 * a)) @ b
    got = ops.baddbmm(
        tensor(c), tensor(np.stack((a, 2 * a))), tensor(np.stack((b, b))), beta=beta, alpha=alpha
    )
    assert_close(got, want)


MESSAGES = [
    (
        lambda: ops.linear(tensor(normal(2, 3)), tensor(normal(5, 4))),
        ValueError,
        r"linear: .*in_features = 4.*\(2, 3\)",
    ),
    (
        lambda: ops.linear(tensor(1.0), tensor(normal(5, 4))),
        ValueError,
        "linear: input must have at least 1 dimension",
    ),
    (
        lambda: ops.linear(tensor(normal(4)), tensor(normal(5, 4, 1))),
        ValueError,
        "linear: weight must be 2-D",
    ),
    (
        lambda: ops.linear(tensor(normal(2, 4)), tensor(normal(5, 4)), tensor(normal(4))),
        ValueError,
        r"linear: bias must have shape \(out_features,\) = \(5,\), got \(4,\)",
    ),
    (
        lambda: ops.linear(tensor(normal(2, 4)), tensor(normal(5, 4)), activation="swish"),
        ValueError,
        "linear: activation must be None or one of relu, sigmoid",
    ),
    (
        lambda: ops.matmul(tensor(1.0), tensor(normal(3))),
        RuntimeError,
        "matmul: both arguments need at least 1 dim",
    ),
    (
        lambda: ops.matmul(tensor(normal(2, 3)), tensor(normal(2, 3))),
        RuntimeError,
        r"matmul: the last dimension.*\(2, 3\)",
    ),
    (
        lambda: ops.matmul(tensor(normal(2, 2, 3)), tensor(normal(3, 3, 3))),
        RuntimeError,
        "matmul: batch dimensions do not broadcast",
    ),
    (
        lambda: ops.matmul(tensor(normal(2, 3)), tensor(normal(3, 3), np.float32)),
        RuntimeError,
        "matmul: both matrices must have one dtype, got float64 and float32",
    ),
    (lambda: ops.mm(tensor(normal(3)), tensor(normal(3, 3))), RuntimeError, "mm: input must be 2-D"),
    (
        lambda: ops.bmm(tensor(normal(2, 3, 4)), tensor(normal(3, 4, 5))),
        RuntimeError,
        "bmm: .*same batch size",
    ),
    (lambda: ops.dot(tensor(normal(3)), tensor(normal(1, 3))), RuntimeError, "dot: tensor must be 1-D"),
    (
        lambda: ops.addmm(tensor(normal(2)), tensor(normal(2, 3)), tensor(normal(3, 4))),
        RuntimeError,
        r"addmm: input \(2,\) must be broadcastable to the result's shape \(2, 4\)",
    ),
    (
        lambda: ops.baddbmm(tensor(1.0), tensor(normal(2, 3, 4)), tensor(normal(2, 3, 4))),
        RuntimeError,
        "baddbmm: .*fit",
    ),
    (
        lambda: bilinear(tensor(normal(2, 3)), tensor(normal(2, 4)), tensor(normal(5, 4, 3))),
        ValueError,
        "bilinear: input1 must be",
    ),
    (lambda: einsum("ij,jk->ik", tensor(normal(2, 3))), RuntimeError, "names 2 operands, got 1"),
    (lambda: einsum("ij->k", tensor(normal(2, 3))), RuntimeError, "result names 'k', which no operand has"),
    (lambda: einsum("ijk->i", tensor(normal(2, 3))), RuntimeError, "names 3 dimensions, the tensor has 2"),
    (
        lambda: einsum("ij,jk->ik", tensor(normal(2, 3)), tensor(normal(4, 2))),
        RuntimeError,
        "'j' has length 3 .* and 4",
    ),
    (lambda: einsum("ii->i", tensor(normal(2, 3))), RuntimeError, "'i' is repeated .* lengths differ"),
    (lambda: einsum("ij->ii", tensor(normal(3, 3))), RuntimeError, "more than once in the result"),
    (lambda: einsum("i1->i", tensor(normal(3, 3))), RuntimeError, "letters and one ellipsis only"),
]


@pytest.mark.parametrize(("call", "error", "message"), MESSAGES)
def test_errors_teach(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_linear_module():
    layer = fastdl.nn.Linear(20, 30)
    assert repr(layer) == "Linear(in_features=20, out_features=30, bias=True)"
    assert [(name, p.shape, p.requires_grad) for name, p in layer.named_parameters()] == [
        ("weight", (30, 20), True),
        ("bias", (30,), True),
    ]
    bound = 1 / np.sqrt(20)
    for p in layer.parameters():
        assert 0.6 * bound < np.abs(p.detach().numpy()).max() <= bound
        assert abs(p.detach().numpy().mean()) < bound / 2
    x = tensor(normal(5, 20), np.float32)
    want = (
        x.detach().numpy().astype(np.float64) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    )
    assert_close(layer(x), want, reduction=20)
    plain = fastdl.nn.Linear(20, 30, bias=False, dtype=np.float64)
    assert list(plain.state_dict()) == ["weight"]
    assert plain.weight.dtype == np.float64
    assert repr(plain) == "Linear(in_features=20, out_features=30, bias=False)"


def test_bilinear_module():
    layer = fastdl.nn.Bilinear(3, 4, 5, dtype=np.float64)
    assert list(layer.state_dict()) == ["weight", "bias"]
    bound = 1 / np.sqrt(3)
    assert 0.6 * bound < np.abs(layer.weight.detach().numpy()).max() <= bound
    a, b = normal(7, 3), normal(7, 4)
    want = np.einsum("bi,oij,bj->bo", a, layer.weight.detach().numpy(), b) + layer.bias.detach().numpy()
    assert_close(layer(tensor(a), tensor(b)), want, reduction=12)
    with pytest.raises(ValueError, match="in1_features must be > 0"):
        fastdl.nn.Bilinear(0, 4, 5)


def sequential_pairs():
    nn = fastdl.nn
    return [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.SiLU(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.ELU(),
    ]


@pytest.mark.parametrize("activation", sequential_pairs(), ids=repr)
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_sequential_fuses_without_changing_results(activation, needs_gradient):
    first, last = fastdl.nn.Linear(20, 30), fastdl.nn.Linear(30, 4)
    net = fastdl.nn.Sequential(first, activation, last)
    x = tensor(normal(7, 20), np.float32)
    context = fastdl.enable_grad() if needs_gradient else fastdl.no_grad()
    with context:
        got, want = net(x), last(activation(first(x)))
    np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
    assert got.requires_grad == needs_gradient
    if needs_gradient:
        grads = []
        for y in (got, want):
            net.zero_grad()
            y.backward(tensor(normal(7, 4), np.float32))
            grads.append([p.grad.numpy().copy() for p in net.parameters()])
        for a, b in zip(*grads, strict=True):
            assert_close(a, b, reduction=30)


def test_sequential_calls_hooked_modules():
    first, relu = fastdl.nn.Linear(3, 5), fastdl.nn.ReLU()
    net = fastdl.nn.Sequential(first, relu)
    seen = []
    x = tensor(normal(2, 3), np.float32)
    net(x)
    relu.register_forward_hook(lambda module, args, output: seen.append(args[0].detach().numpy()))
    net(x)
    assert len(seen) == 1
    assert (seen[0] < 0).any()  # what the linear layer made, before the activation
    first.register_forward_hook(lambda module, args, output: seen.append(output.detach().numpy()))
    net(x)
    assert len(seen) == 3


def compare(torch, ours, theirs, *arrays):
    """The same call in both libraries: values and gradients."""
    x = [tensor(a) for a in arrays]
    y = [torch.tensor(a, requires_grad=True) for a in arrays]
    for t in x:
        t.requires_grad = True
    got, want = ours(*x), theirs(*y)
    assert_close(got, want.detach().numpy(), reduction=64)
    weights = normal(*want.shape) if want.ndim else np.array(1.5)
    got.backward(tensor(weights))
    want.backward(torch.tensor(weights))
    for a, b in zip(x, y, strict=True):
        assert_close(a.grad, b.grad.numpy(), reduction=64)


class TestAgainstTorch:
    """The same calls in both libraries, values and gradients."""

    @pytest.fixture(autouse=True)
    def torch(self):
        self.torch = pytest.importorskip("torch")

    def compare(self, ours, theirs, *arrays):
        compare(self.torch, ours, theirs, *arrays)

    @pytest.mark.parametrize("shape", LINEAR_SHAPES)
    def test_linear(self, shape):
        F = self.torch.nn.functional
        self.compare(ops.linear, F.linear, normal(*shape), normal(5, 3), normal(5))
        self.compare(
            lambda *t: ops.linear(*t, activation="relu"),
            lambda *t: F.relu(F.linear(*t)),
            normal(*shape),
            normal(5, 3),
            normal(5),
        )
        self.compare(bilinear, F.bilinear, normal(*shape), normal(*shape), normal(5, 3, 3))

    @pytest.mark.parametrize(("a", "b"), MATMUL_SHAPES)
    def test_matmul(self, a, b):
        self.compare(ops.matmul, self.torch.matmul, normal(*a), normal(*b))

    def test_addmm(self):
        for shape in ((2, 4), (4,), (2, 1), (1,)):
            self.compare(
                lambda *t: ops.addmm(*t, beta=0.5, alpha=2),
                lambda *t: self.torch.addmm(*t, beta=0.5, alpha=2),
                normal(*shape),
                normal(2, 3),
                normal(3, 4),
            )


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_batch_against_one_matrix(level, dtype):
    """Its rows are those of one product where they follow each other; views in which they do not are left alone."""
    backend = load(level)
    x = normal(6, 4, 5, 7).astype(dtype)
    for view in (
        x,
        x[::2],
        x[:, :, ::2],
        x[..., 2:],
        x[:, :, :1],
        x[:, ::2, 1:2],
        x[:1, :, :1],
        x[..., :1],
        x.transpose(1, 0, 2, 3),
        x.transpose(0, 1, 3, 2),
        np.broadcast_to(x[:1], x.shape),
        np.broadcast_to(x[:, :, :1], x.shape),
        x[::-1, ::-1, ::-1],
        x[:, :0],
    ):
        k = view.shape[-1]
        for other in (normal(k, 3), normal(3, k).T, normal(k)):
            other = other.astype(dtype)
            got = backend.matmul(view, other)
            want = np.matmul(view.astype(np.float64), other.astype(np.float64))
            assert got.shape == want.shape
            if dtype == np.float16:
                np.testing.assert_allclose(got.astype(np.float64), want, rtol=2e-3, atol=4e-3)
            else:
                assert_close(got, want, k)

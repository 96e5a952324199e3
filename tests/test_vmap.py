"""``vmap`` that computes all slices at once, beside the same function called for each slice."""

import numpy as np
import pytest

import fastdl
from fastdl import func, nn
from fastdl.batched import vmap as at_once
from fastdl.nn import functional as F


def _one_by_one(f, args, dims):
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    rows = [
        f(*[a if d is None else a.select(d, i) for a, d in zip(args, dims, strict=True)]) for i in range(size)
    ]
    if isinstance(rows[0], tuple):
        return tuple([fastdl.stack(list(c)) for c in zip(*rows, strict=True)])
    return fastdl.stack(rows)


def reals(*shape, positive=False):
    x = np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape)
    return fastdl.tensor(np.abs(x) + 0.5 if positive else x)


def places(*shape, n=3):
    return fastdl.tensor(np.random.default_rng(7).integers(0, n, shape))


# name -> (function of slices, arguments with slices along axis 0, axes along which they may be sliced too)
CASES = {
    "arithmetic": (lambda x, y: (x + y) * y / (x * x + 1) - y**2, [reals(4, 3, 2), reals(4, 2)]),
    "numbers": (lambda x: 2 - x / 3 + (1 + x) ** 2 - (-x), [reals(4, 3)]),
    "unary": (lambda x: x.exp().sin() + x.abs().sqrt() + fastdl.tanh(x) + x.sigmoid(), [reals(4, 3)]),
    "activations": (
        lambda x: F.relu(x) + F.gelu(x) + F.silu(x) + F.leaky_relu(x, 0.1) + F.elu(x),
        [reals(4, 3)],
    ),
    "softplus, hardtanh": (
        lambda x: F.softplus(x) + F.hardtanh(x) + F.mish(x) + F.logsigmoid(x),
        [reals(4, 3)],
    ),
    "where": (lambda x, y: fastdl.where(x > y, x, y * 2), [reals(4, 3), reals(4, 3)]),
    "comparisons": (
        lambda x, y: x * (x > y) + y * (x <= 0.1) + (x == x).double(),
        [reals(4, 3), reals(4, 3)],
    ),
    "clamp": (lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0), [reals(4, 3)]),
    "extremes of two": (lambda x, y: fastdl.maximum(x, y) - fastdl.minimum(x, y), [reals(4, 3), reals(4, 3)]),
    "lerp, addcmul": (
        lambda x, y: fastdl.lerp(x, y, 0.3) + fastdl.addcmul(x, x, y, value=2),
        [reals(4, 3), reals(4, 3)],
    ),
    "sums": (
        lambda x: x.sum() + x.sum(0).mean() + x.mean((0, 1)) + x.sum(-1, keepdim=True).sum(),
        [reals(4, 3, 2)],
    ),
    "sum along": (lambda x: x.sum(1) + x.mean(-1) + x.prod(1) + x.amax(1), [reals(4, 3, 2)]),
    "std, var, norm": (lambda x: x.std() + x.var(0).sum() + x.norm() + x.norm(dim=1).sum(), [reals(4, 3, 2)]),
    "max and argmax": (lambda x: x.max(1)[0] + x.max() + x.argmax(1), [reals(4, 3, 2)]),
    "softmax": (lambda x: x.softmax(-1) + F.log_softmax(x, 0), [reals(4, 3, 2)]),
    "logsumexp, cumsum": (lambda x: x.logsumexp(0) + x.cumsum(1)[0] + x.flip(0)[1], [reals(4, 3, 2)]),
    "matmul 22": (lambda x, y: x @ y, [reals(4, 3, 2), reals(4, 2, 5)]),
    "matmul 12": (lambda x, y: x @ y, [reals(4, 2), reals(4, 2, 5)]),
    "matmul 21": (lambda x, y: x @ y, [reals(4, 3, 2), reals(4, 2)]),
    "matmul 11": (lambda x, y: x @ y + fastdl.dot(x, y), [reals(4, 2), reals(4, 2)]),
    "matmul 32": (lambda x, y: fastdl.matmul(x, y), [reals(4, 6, 3, 2), reals(4, 2, 5)]),
    "matmul 23": (lambda x, y: fastdl.matmul(x, y), [reals(4, 3, 2), reals(4, 6, 2, 5)]),
    "bmm, mv": (lambda x, y: fastdl.bmm(x, y).sum(2) @ y[0, 0, :2], [reals(4, 2, 2, 2), reals(4, 2, 2, 3)]),
    "addmm": (
        lambda c, x, y: fastdl.addmm(c, x, y, beta=0.5, alpha=2),
        [reals(4, 5), reals(4, 3, 2), reals(4, 2, 5)],
    ),
    "outer": (lambda x, y: fastdl.outer(x, y) + fastdl.einsum("i,j->ij", x, y), [reals(4, 3), reals(4, 3)]),
    "einsum": (lambda x, y: fastdl.einsum("ij,jk->ki", x, y), [reals(4, 3, 2), reals(4, 2, 5)]),
    "linear": (F.linear, [reals(4, 3, 2), reals(4, 5, 2), reals(4, 5)]),
    "linear of a vector": (F.linear, [reals(4, 2), reals(4, 5, 2), reals(4, 5)]),
    "shapes": (
        lambda x: x.reshape(2, 3).t().unsqueeze(0).expand(2, 3, 2).permute(2, 0, 1).flatten(1).squeeze(),
        [reals(4, 3, 2)],
    ),
    "parts": (lambda x: x[0] + x[..., 1:, 0].sum() + x[:, None, 1].sum(1) + x[-1], [reals(4, 3, 3)]),
    "chunks": (lambda x: fastdl.cat([*x.chunk(2, 1), x.split(1, 0)[0].T], 0), [reals(4, 2, 2)]),
    "cat, stack": (
        lambda x, y: fastdl.cat([x, y]).sum() + fastdl.stack([x, y], 1),
        [reals(4, 3), reals(4, 3)],
    ),
    "unbind": (lambda x: sum(x.unbind(1)) + sum(iter(x)).sum(), [reals(4, 3, 2)]),
    "diagonal, tril": (
        lambda x: x.diagonal() + x.tril().sum(0) + fastdl.diagonal(x, 1).sum() + x.trace(),
        [reals(4, 3, 3)],
    ),
    "index": (lambda x, i: x[i] + x[:, 0][i].unsqueeze(1), [reals(4, 3, 2), places(4, 5)]),
    "one place": (lambda x, i: x[i].sum(), [reals(4, 3, 2), places(4)]),
    "index_select, gather": (
        lambda x, i: x.index_select(0, i) * x.gather(0, i.unsqueeze(1).expand(5, 2)),
        [reals(4, 3, 2), places(4, 5)],
    ),
    "masked_fill": (lambda x, y: x.masked_fill(y > 0, 0.5), [reals(4, 3), reals(4, 3)]),
    "embedding": (lambda i, w: F.embedding(i, w), [places(4, 5), reals(4, 3, 2)]),
    "one_hot": (lambda i: F.one_hot(i, 3).double().sum(0), [places(4, 5)]),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        [reals(4, 2, 3, 6, 5), reals(4, 8, 3, 3, 3), reals(4, 8)],
    ),
    "conv2d of an image, groups": (
        lambda x, w, b: F.conv2d(x, w, b, groups=2),
        [reals(4, 4, 6, 5), reals(4, 6, 2, 3, 3), reals(4, 6)],
    ),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=1), [reals(4, 2, 3, 9), reals(4, 5, 3, 3)]),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
        [reals(4, 2, 3, 4, 4), reals(4, 3, 5, 2, 2), reals(4, 5)],
    ),
    "pools": (
        lambda x: (
            F.max_pool2d(x, 2)
            + F.avg_pool2d(x, 2)
            + F.adaptive_avg_pool2d(x, 3)
            + F.adaptive_max_pool2d(x, 3)
        ),
        [reals(4, 2, 3, 6, 6)],
    ),
    "pools of an image": (lambda x: F.max_pool2d(x, 3, 1, 1) + x, [reals(4, 3, 6, 6)]),
    "interpolate, pad": (
        lambda x: F.interpolate(F.pad(x, (1, 1)), scale_factor=2, mode="bilinear") + F.pad(x, (1, 1)).mean(),
        [reals(4, 2, 3, 4, 4)],
    ),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (2,), w, b), [reals(4, 3, 2), reals(4, 2), reals(4, 2)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [reals(4, 2, 6, 5), reals(4, 6), reals(4, 6)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (2,), w), [reals(4, 3, 2), reals(4, 2)]),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        [reals(4, 5, 3, 2), reals(4, 3), reals(4, 3)],
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [reals(4, 2, 3, 5, 4), reals(4, 2, 3, 5, 4), reals(4, 2, 3, 5, 4)],
    ),
    "attention of heads": (
        lambda q, k, m: F.scaled_dot_product_attention(q, k, k, attn_mask=m),
        [reals(4, 3, 5, 4), reals(4, 3, 5, 4), reals(4, 5, 5)],
    ),
    "cross_entropy": (
        lambda x, t: F.cross_entropy(x, t) + F.cross_entropy(x, t, reduction="sum", label_smoothing=0.1),
        [reals(4, 5, 3), places(4, 5)],
    ),
    "cross_entropy, weights": (
        lambda x, t: F.cross_entropy(x, t, fastdl.tensor([1.0, 2.0, 0.5]).double(), ignore_index=1),
        [reals(4, 5, 3), places(4, 5)],
    ),
    "cross_entropy of a row": (lambda x, t: F.cross_entropy(x, t), [reals(4, 3), places(4)]),
    "cross_entropy, images": (lambda x, t: F.cross_entropy(x, t), [reals(4, 2, 3, 5), places(4, 2, 5)]),
    "cross_entropy, probabilities": (
        lambda x, p: F.cross_entropy(x, p.softmax(-1)),
        [reals(4, 5, 3), reals(4, 5, 3)],
    ),
    "nll_loss": (lambda x, t: F.nll_loss(F.log_softmax(x, 1), t), [reals(4, 5, 3), places(4, 5)]),
    "losses": (
        lambda x, y: (
            F.mse_loss(x, y) + F.l1_loss(x, y, reduction="sum") + F.huber_loss(x, y, reduction="none")
        ),
        [reals(4, 3, 2), reals(4, 3, 2)],
    ),
    "binary losses": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, y) + F.binary_cross_entropy(x.sigmoid(), y),
        [reals(4, 3, 2), reals(4, 3, 2).sigmoid()],
    ),
    "linear algebra": (
        lambda x: fastdl.linalg.inv(x @ x.T + 2 * fastdl.eye(3).double()).sum() + fastdl.linalg.det(x),
        [reals(4, 3, 3)],
    ),
    "cholesky": (
        lambda x: fastdl.linalg.cholesky(x @ x.T + fastdl.eye(3).double()).tril().sum(0),
        [reals(4, 3, 3)],
    ),
    "cosine similarity": (lambda x, y: F.cosine_similarity(x, y, dim=0), [reals(4, 3, 2), reals(4, 3, 2)]),
    "shifted in place": (lambda x: (x * 1).add_(1).mul_(x), [reals(4, 3)]),
    "made beside it": (
        lambda x: x + fastdl.zeros_like(x) + x.new_ones(3) + fastdl.arange(3.0).double(),
        [reals(4, 3)],
    ),
}


def _dims(args):
    """Which arguments are sliced: all of them, or only one."""
    yield (0,) * len(args)
    for i in range(len(args) if len(args) > 1 else 0):
        yield tuple([0 if i == j else None for j in range(len(args))])


def _close(got, expected):
    for a, b in zip(*[v if isinstance(v, tuple) else (v,) for v in (got, expected)], strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.fixture
def no_loop(monkeypatch):
    """An error where the mapped function would be called for each slice."""

    def refuse(*_):
        raise AssertionError("the function was called for every slice")

    monkeypatch.setattr(at_once, "_one_after_another", refuse)


@pytest.mark.parametrize("name", CASES)
def test_all_slices_are_what_each_is(name, no_loop):
    f, given = CASES[name]
    for dims in _dims(given):
        args = [
            (a if d is not None else a[0]).detach().clone().requires_grad_(a.is_floating_point())
            for a, d in zip(given, dims, strict=True)
        ]
        got, expected = func.vmap(f, dims)(*args), _one_by_one(f, args, dims)
        _close(got, expected)
        if not got.requires_grad:
            assert not expected.requires_grad
            continue
        weights = reals(*got.shape)
        leaves = [a for a in args if a.requires_grad]
        of = [
            fastdl.autograd.grad((y * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
            for y in (got, expected)
        ]
        _close(*of)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_every_slice(name):
    """vmap(grad(f)): the arguments that are the same for all slices have a gradient for each of them."""
    f, given = CASES[name]
    dims = (0, *(None,) * (len(given) - 1)) if given[0].is_floating_point() else (0,) * len(given)
    args = [a if d is not None else a[0] for a, d in zip(given, dims, strict=True)]
    wanted = tuple([i for i, a in enumerate(args) if a.is_floating_point()])
    if not wanted:
        pytest.skip("there is nothing to differentiate by")
    derivative = func.grad(lambda *a: (f(*a) ** 2).sum(), wanted)
    _close(func.vmap(derivative, dims)(*args), _one_by_one(derivative, args, dims))


def _changed(v):
    v = v * 1
    v[0] = 2.0
    v[:, 1] *= 3
    v += v.sum()
    return v.masked_fill_(v > 4, 0.5)


IN_PLACE = {
    "parts and sums": _changed,
    "rows shifted": lambda v: v.clone().index_copy_(0, fastdl.tensor([0, 2]), v[:2]),
    "activations": lambda v: F.relu(v * 1, inplace=True) + (v * 1).relu_() + F.hardtanh(v * 1, inplace=True),
    "clamp_, add_": lambda v: (v * 1).clamp_(-0.5, 0.5).add_(v[0]).mul_(2),
    "out=": lambda v: fastdl.exp(v, out=fastdl.empty_like(v.detach())) if not v.requires_grad else v.exp(),
    "comparisons": lambda v: (v * 0 + 1).eq_(v[0]).add_(fastdl.ones(3, 5).double().lt_(v)) + v,
    "median": lambda v: v.median() + v.sort(1)[0],
    "filled from slices": lambda v: fastdl.zeros(3, 5).double().index_copy_(0, fastdl.tensor([1]), v[1:2]),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_changed_in_place(name):
    f, x = IN_PLACE[name], reals(4, 3, 5)
    _close(func.vmap(f)(x), _one_by_one(f, [x], [0]))
    slope = func.grad(lambda v: (f(v) ** 2).sum())
    _close(func.vmap(slope)(x), _one_by_one(slope, [x], [0]))


def test_activations_in_place_inside_models(no_loop):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.SiLU(True), nn.Flatten(0)
    )
    net = net.double()
    parameters, x = {k: v.detach() for k, v in net.named_parameters()}, reals(6, 1, 5, 5)
    slope = func.grad(lambda p, v: func.functional_call(net, p, (v,)).square().sum())
    together = func.vmap(slope, (None, 0))(parameters, x)
    for i in range(6):
        _close(tuple([g[i] for g in together.values()]), tuple(slope(parameters, x[i]).values()))


def test_slices_of_slices(no_loop):
    x, y = reals(3, 4, 2), reals(5, 2)
    f = func.vmap(func.vmap(lambda a, b: (a * b).sum() + fastdl.dot(a, b), (0, None)), (None, 0))
    _close(f(x[0], y), 2 * (y[:, None] * x[0]).sum(-1))
    g = func.vmap(func.vmap(lambda a: a @ a + a.max()))
    _close(g(x), (x * x).sum(-1) + x.amax(-1))


def test_axes_in_and_out(no_loop):
    x = reals(3, 4, 2)
    _close(func.vmap(lambda a: a * 2, in_dims=1, out_dims=-1)(x), (x * 2).permute(0, 2, 1))
    a, b = func.vmap(lambda v: (v, v.sum()), in_dims=2, out_dims=(1, 0))(x)
    _close((a, b), (x.permute(0, 2, 1), x.sum((0, 1))))


def test_what_depends_on_values_goes_slice_by_slice():
    x = reals(6, 3)
    _close(
        func.vmap(lambda a: a * 2 if a.sum() > 0 else -a)(x),
        _one_by_one(lambda a: a * 2 if a.sum() > 0 else -a, [x], [0]),
    )
    _close(func.vmap(lambda a: a * a.max().item())(x), x * x.amax(1, keepdim=True))
    with pytest.raises(RuntimeError, match="stack"):
        func.vmap(lambda a: a[a > 0])(x)


def test_decisions_that_are_the_same_for_all_slices(no_loop):
    x = reals(6, 3, positive=True)
    _close(func.vmap(lambda a: a * 2 if a.sum() > 0 else -a)(x), x * 2)


def test_random_numbers_differ_between_slices_unless_asked():
    x = reals(6, 50)
    fastdl.manual_seed(1)
    noise = func.vmap(lambda a: fastdl.randn(3) + a.sum() * 0)(x)
    assert len({float(v) for v in noise[:, 0]}) == 6
    same = func.vmap(lambda a: fastdl.randn(3) + a.sum() * 0, randomness="same")(x)
    assert (same == same[0]).all()


def test_running_statistics_follow_every_slice():
    x, m = reals(3, 5, 2).float(), nn.BatchNorm1d(2)
    func.vmap(m)(x)
    other = nn.BatchNorm1d(2)
    for part in x:
        other(part)
    assert fastdl.allclose(m.running_mean, other.running_mean)


def test_custom_functions_keep_their_gradient():
    class Double(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 7

    x = reals(4, 3).requires_grad_()
    func.vmap(Double.apply)(x).sum().backward()
    assert (x.grad == 7).all()


def test_errors_are_the_slices_own():
    with pytest.raises((RuntimeError, ValueError), match=r"3.*2|2.*3"):
        func.vmap(lambda a, b: a @ b)(reals(4, 3), reals(4, 2))


def test_modules_with_parameters_of_every_slice(no_loop):
    models = [nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2)) for _ in range(4)]
    parameters, buffers = func.stack_module_state(models)
    x = fastdl.randn(5, 3)
    got = func.vmap(lambda p, b: func.functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    for y, m in zip(got, models, strict=True):
        assert fastdl.allclose(y, m(x), atol=1e-6)


def test_chunks_give_the_same():
    x = reals(7, 3)
    _close(func.vmap(lambda a: a.cumsum(0), chunk_size=3)(x), x.cumsum(1))


def test_rows_of_a_jacobian_in_chunks():
    w, x = reals(6, 4), reals(4)
    whole = func.jacrev(lambda v: (w @ v).sin())(x)
    _close(func.jacrev(lambda v: (w @ v).sin(), chunk_size=4)(x), whole)
    _close(whole, (w @ x).cos().unsqueeze(1) * w)


def test_jacobians_of_several_outputs_and_inputs():
    w, x = reals(3, 2), reals(2)
    (aw, ax), (bw, bx) = func.jacrev(lambda v, u: (v @ u, (v * u).sum(0)), (0, 1))(w, x)
    expected = fastdl.zeros(3, 3, 2).double()
    for i in range(3):
        expected[i, i] = x
    _close((aw, ax), (expected, w))
    assert bw.shape == (2, 3, 2)
    _close(bx, w.sum(0).diag())


def test_second_derivatives_of_slices():
    x = reals(5, 3)
    f = lambda v: (v**3).sum() + v.prod()  # noqa: E731
    _close(func.vmap(func.hessian(f))(x), _one_by_one(func.hessian(f), [x], [0]))


def test_inner_gradients_in_an_outer_one():
    """MAML: a step for every task, differentiated by what all tasks began with."""
    w, x, y = reals(2), reals(6, 5, 2), reals(6, 5)

    def after(w, x, y):
        loss = lambda v: ((x @ v - y) ** 2).mean()  # noqa: E731
        return loss(w - 0.1 * func.grad(loss)(w))

    total = lambda w: func.vmap(after, (None, 0, 0))(w, x, y).mean()  # noqa: E731
    one_by_one = lambda w: fastdl.stack([after(w, a, b) for a, b in zip(x, y, strict=True)]).mean()  # noqa: E731
    _close(func.grad(total)(w), func.grad(one_by_one)(w))


def test_batched_seeds_are_rows_of_them(no_loop):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(144)
    ).double()
    x = reals(2, 1, 14, 14).requires_grad_()
    y, seeds = net(x), reals(7, 2, 144)
    wanted = [x, *net.parameters()]
    together = fastdl.autograd.grad(y, wanted, seeds, retain_graph=True, is_grads_batched=True)
    each = [fastdl.autograd.grad(y, wanted, s, retain_graph=True) for s in seeds]
    _close(together, tuple([fastdl.stack(list(c)) for c in zip(*each, strict=True)]))
    assert not together[0].requires_grad


def test_a_pullback_can_be_mapped(no_loop):
    w, x = reals(5, 4), reals(4)
    y, pull = func.vjp(lambda v: (w @ v).tanh(), x)
    (rows,) = func.vmap(pull)(fastdl.eye(5).double())
    _close(rows, (1 - y * y).unsqueeze(1) * w)


def test_jacobians_and_hessians_of_autograd_functional():
    w, x = reals(5, 4), reals(4)
    _close(fastdl.autograd.functional.jacobian(lambda v: (w @ v).sin(), x), (w @ x).cos().unsqueeze(1) * w)
    f = lambda v: (v**3).sum() + v.prod()  # noqa: E731
    expected = 6 * x.diag() + x.prod() / fastdl.outer(x, x) * (1 - fastdl.eye(4).double())
    _close(fastdl.autograd.functional.hessian(f, x), expected)
    _close(func.hessian(f)(x), expected)

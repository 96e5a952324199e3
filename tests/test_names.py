"""Names that programs expect at the top level: linear algebra, windows, vmap, mixed precision, checkpointing."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.utils.checkpoint import checkpoint, checkpoint_sequential

rng = np.random.default_rng(0)
SQUARE = rng.standard_normal((2, 3, 3))
POSITIVE = SQUARE @ SQUARE.transpose(0, 2, 1) + np.eye(3)


@pytest.mark.parametrize(
    "name", ["det", "inverse", "logdet", "slogdet", "matrix_exp", "pinverse", "cholesky", "cholesky_inverse"]
)
@pytest.mark.filterwarnings("ignore:.*deprecated.*:UserWarning")
def test_matrix_functions_and_methods_are_torch_s(name):
    torch = pytest.importorskip("torch")
    array = np.linalg.cholesky(POSITIVE) if name == "cholesky_inverse" else POSITIVE
    want, got = getattr(torch, name)(torch.from_numpy(array)), getattr(fastdl, name)(fastdl.from_numpy(array))
    again = getattr(fastdl.from_numpy(array), name)()
    for a, b, c in zip(*[v if isinstance(v, tuple) else (v,) for v in (got, want, again)], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(a.numpy(), c.numpy())


@pytest.mark.filterwarnings("ignore:.*deprecated.*:UserWarning")
def test_other_matrix_functions_are_torch_s():
    torch = pytest.importorskip("torch")
    assert np.isnan(fastdl.logdet(fastdl.tensor([[-1.0]])).item())
    a = rng.standard_normal((4, 3))
    for some in (True, False):
        u, s, v = fastdl.svd(fastdl.from_numpy(a), some=some)
        np.testing.assert_allclose((u[:, :3] * s @ v.T).numpy(), a, atol=1e-12)
        assert [tuple(t.shape) for t in torch.svd(torch.from_numpy(a), some=some)] == [
            u.shape,
            s.shape,
            v.shape,
        ]
    b, low = rng.standard_normal((2, 3, 2)), np.linalg.cholesky(POSITIVE)
    got = fastdl.cholesky_solve(fastdl.from_numpy(b), fastdl.from_numpy(low))
    np.testing.assert_allclose(got.numpy(), np.linalg.solve(POSITIVE, b), atol=1e-10)
    upper = fastdl.from_numpy(low.transpose(0, 2, 1).copy())
    np.testing.assert_allclose(
        fastdl.cholesky_solve(fastdl.from_numpy(b), upper, True).numpy(), got.numpy(), atol=1e-10
    )
    np.testing.assert_allclose(
        fastdl.cholesky_inverse(upper, True).numpy(), np.linalg.inv(POSITIVE), atol=1e-10
    )


@pytest.mark.parametrize(
    "name", ["hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"]
)
@pytest.mark.parametrize("length", [0, 1, 2, 7, 16])
def test_windows_are_torch_s(name, length):
    torch = pytest.importorskip("torch")
    for periodic in (True, False):
        want = getattr(torch, name)(length, periodic, dtype=torch.float64)
        got = getattr(fastdl, name)(length, periodic, dtype=fastdl.float64)
        np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-12)


def test_vmap_is_torch_s():
    torch = pytest.importorskip("torch")
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 3))
    for in_dims, out_dims in (((0, 1), 0), ((0, None), 1), ((None, 1), 0)):
        results = []
        for library in (fastdl, torch):
            f = library.func.vmap(lambda x, y: (x.sum() * y, y.sum() + x), in_dims, out_dims)
            arguments = [m if d is not None else a[0] for m, d in zip((a, b), in_dims, strict=True)]
            results.append(f(*[library.from_numpy(m) for m in arguments]))
        for x, y in zip(*results, strict=True):
            np.testing.assert_allclose(x.numpy(), y.numpy(), atol=1e-12)
        got, want = [
            library.func.vmap(lambda v: v["a"] @ v["b"][0] * v["b"][1], ({"a": 0, "b": (1, None)},))(
                {"a": library.from_numpy(a), "b": (library.from_numpy(b), 2)}
            )
            for library in (fastdl, torch)
        ]
        np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-12)
    with pytest.raises(ValueError, match="not the structure"):
        fastdl.vmap(fastdl.sum, ((0, 0),))(fastdl.ones(2))
    with pytest.raises(ValueError, match="one size"):
        fastdl.vmap(fastdl.dot)(fastdl.ones(2, 3), fastdl.ones(3, 3))


def block():
    fastdl.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh())


@pytest.mark.parametrize("run", ["checkpoint", "checkpoint_sequential"])
def test_checkpointing_gives_the_same_gradients(run):
    def grads(checkpointed):
        model = block()
        x = fastdl.from_numpy(np.ones((3, 4), np.float32)).requires_grad_()
        fastdl.manual_seed(3)
        if not checkpointed:
            y = model(x)
        elif run == "checkpoint":
            y = checkpoint(model, x, use_reentrant=False)
        else:
            y = checkpoint_sequential(model, 2, x, use_reentrant=False)
        loss, weight = y.pow(2).sum(), next(model.parameters())
        alone = [fastdl.autograd.grad(loss, t, retain_graph=True)[0].numpy() for t in (x, weight)]
        loss.backward()
        for t, grad in zip((x, weight), alone, strict=True):
            np.testing.assert_array_equal(t.grad.numpy(), grad)
        following = fastdl.rand(1).item()
        return [y.detach().numpy(), x.grad.numpy(), *[p.grad.numpy() for p in model.parameters()]], following

    (want, after), (got, ours) = grads(False), grads(True)
    assert after == ours
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_checkpoint_passes_other_arguments_and_works_without_gradients():
    x = fastdl.ones(2, requires_grad=True)
    assert checkpoint(lambda a, n, scale=1: a * n * scale, x, 3, scale=2).tolist() == [6.0, 6.0]
    with fastdl.no_grad():
        assert not checkpoint(lambda a: a * 2, x).requires_grad
    weight = nn.Parameter(np.ones(2, np.float32))
    checkpoint(lambda a: a * weight, fastdl.ones(2)).sum().backward()
    assert weight.grad.tolist() == [1.0, 1.0]


def _checkpoint_in_contexts(torch):
    """What happened in which order, and the gradient."""
    checkpoints = importlib.import_module(f"{torch.__name__}.utils.checkpoint")
    happened = []

    @contextlib.contextmanager
    def told(name):
        happened.append(f"enter {name}")
        yield
        happened.append(f"leave {name}")

    def part(x, scale=1.0):
        happened.append("part")
        return (x * scale).exp()

    options = {
        "context_fn": lambda: (told("first"), told("second")),
        "determinism_check": "none",
        "debug": False,
        "early_stop": False,
    }
    x = torch.ones(2, requires_grad=True)
    with checkpoints.set_checkpoint_early_stop(False):
        checkpoints.checkpoint(part, x, use_reentrant=False, scale=2.0, **options).sum().backward()
    with torch.no_grad():
        checkpoints.checkpoint(part, x, use_reentrant=False, **options)
    with pytest.raises(ValueError, match="context_fn"):
        checkpoints.checkpoint(part, x, use_reentrant=True, context_fn=options["context_fn"])
    return happened, [round(g, 4) for g in x.grad.tolist()]


def test_a_checkpoint_takes_torchs_options():
    torch = pytest.importorskip("torch")
    assert _checkpoint_in_contexts(fastdl) == _checkpoint_in_contexts(torch)


def test_gradients_pass_through_a_checkpoint_as_through_any_operation():
    """``autograd.grad`` of parameters, tensors that only the function knows, second derivatives, nothing in .grad."""
    x, w = [fastdl.tensor(v, requires_grad=True) for v in ([1.0, -2.0], [0.5, 3.0])]

    def derivatives(run):
        h = w * 2

        def part(a, scale=1.0):
            return {"y": (a * h * w).sin() * scale, "a": a, "parts": [a.exp(), 3]}

        out = run(part, x * 1, scale=2.0)
        loss = (out["y"] * out["a"] + out["parts"][0]).sum()
        first = fastdl.autograd.grad(loss, [x, w], create_graph=True)
        return [loss, *first, *fastdl.autograd.grad((first[0] * first[1]).sum(), [x, w])]

    for got, want in zip(derivatives(checkpoint), derivatives(lambda f, *a, **k: f(*a, **k)), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-5)
    assert (x.grad, w.grad) == (None, None)
    pair = checkpoint(lambda a, b: (a * b, a), x, x)
    (pair[0] + pair[1]).sum().backward()
    assert x.grad.tolist() == [3.0, -3.0]


def test_a_checkpoint_forgets_and_casts_as_the_first_time():
    layer, x = nn.Linear(2, 3), fastdl.ones(1, 2)
    calls = []

    def part(a):
        y = layer(a)
        calls.append(y.dtype)
        return y

    with fastdl.autocast("cpu", dtype=fastdl.float16):
        layer(x)  # its weight has been converted before
        y = checkpoint(part, x)
    assert [name for name, _ in [(type(n).__name__, n) for n, _ in y.grad_fn.next_functions]] == [
        "AccumulateGrad"
    ] * 2
    y.float().sum().backward()
    assert calls == [fastdl.float16] * 2
    assert layer.weight.grad.tolist() == [[1.0, 1.0]] * 3
    with pytest.raises(RuntimeError, match="second time"):
        y.float().sum().backward()


def test_a_checkpoint_s_arguments_and_results_must_stay():
    x = fastdl.ones(2, requires_grad=True)
    h = x * 1
    y = checkpoint(lambda a: a * a, h)
    h.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()
    results = [(x * 2, x * 3), (x * 2,)]
    y = checkpoint(lambda a: [r * a for r in results.pop(0)], x)
    with pytest.raises(RuntimeError, match="gave 2 results that need a gradient, and 1"):
        y[0].sum().backward()


def test_results_by_name():
    torch = pytest.importorskip("torch")
    a = rng.standard_normal((2, 3))
    for name, args in (("aminmax", ()), ("frexp", ()), ("max", (1,)), ("topk", (2,)), ("slogdet", ())):
        matrix = a @ a.T if name == "slogdet" else a
        got, want = [getattr(lib, name)(lib.from_numpy(matrix), *args) for lib in (fastdl, torch)]
        fields = [f for f in dir(want) if f[0] != "_" and not callable(getattr(want, f)) and f[:2] != "n_"]
        assert sorted(got._fields) == sorted(fields)
        for f in fields:
            np.testing.assert_allclose(getattr(got, f).numpy(), getattr(want, f).numpy())
        shown = repr(got).replace("fastdl.", "torch.")
        assert shown.split("(\n", 1)[1] == repr(want).split("(\n", 1)[1]


def test_data_parallel_and_variable():
    layer = nn.DataParallel(nn.Linear(2, 3))
    assert list(layer.state_dict()) == ["module.weight", "module.bias"]
    assert layer(fastdl.ones(4, 2)).shape == (4, 3)
    x = fastdl.autograd.Variable(fastdl.ones(2), requires_grad=True)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]
    assert isinstance(x, fastdl.autograd.Variable)
    assert isinstance(layer.module.weight, fastdl.autograd.Variable)
    assert not isinstance(x.numpy(force=True), fastdl.autograd.Variable)
    with pytest.raises(TypeError, match="data must be a Tensor, got list"):
        fastdl.autograd.Variable([1.0])


def test_a_size_holds_integers():
    size = fastdl.Size([fastdl.tensor(2), np.int64(3), 4])
    assert [type(extent) for extent in size] == [int] * 3
    assert (size.numel(), repr(size), fastdl.Size()) == (24, "(2, 3, 4)", ())
    assert type(size[1:]) is type(size + size) is fastdl.Size
    for wrong in ([2.0], [fastdl.tensor(1.5)], ["a"]):
        with pytest.raises(TypeError, match="Size: expected integers"):
            fastdl.Size(wrong)


def test_packages_of_the_library_load_when_they_are_named():
    names = ["datasets", "models", "types", "utils.plots", "utils.training"]
    program = f"""
import sys
import fastdl
assert not sys.modules.keys() & {{"fastdl." + name for name in {names}}}
for name in {names}:
    assert eval("fastdl." + name).__name__ == "fastdl." + name
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

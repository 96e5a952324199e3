"""Optimizers: parity of the update kernels, trajectories beside torch's, groups, state dicts, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import kernels, nn, optim
from parity import assert_close

# Every option of every optimizer, alone and together.
CASES = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.2},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.1, "maximize": True},
    ],
    "Adam": [
        {"lr": 0.01},
        {"lr": 0.01, "weight_decay": 0.2, "betas": (0.4, 0.6), "eps": 1e-3},
        {"lr": 0.01, "amsgrad": True, "maximize": True, "weight_decay": 0.1},
        {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1},
    ],
    "AdamW": [
        {"lr": 0.01},
        {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True},
        {"lr": 0.01, "maximize": True},
    ],
    "Adagrad": [
        {"lr": 0.1},
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True},
    ],
    "RMSprop": [
        {"lr": 0.01},
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.01, "centered": True, "maximize": True},
        {"lr": 0.01, "centered": True, "momentum": 0.5, "alpha": 0.8, "eps": 1e-3},
    ],
    "Adadelta": [{}, {"lr": 0.5, "rho": 0.7, "eps": 1e-4, "weight_decay": 0.1, "maximize": True}],
    "Adamax": [{"lr": 0.01}, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.5, 0.9), "maximize": True}],
    "NAdam": [
        {"lr": 0.01},
        {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "RAdam": [
        {"lr": 0.01},
        {"lr": 0.01, "weight_decay": 0.1, "betas": (0.5, 0.9), "maximize": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
}
ALL = [
    pytest.param(name, options, id=f"{name}-{i}")
    for name, cases in CASES.items()
    for i, options in enumerate(cases)
]
# Sizes around the vector width, none, one, and one large enough to be split over threads.
SHAPES = [(3,), (1,), (), (0, 4), (17, 5), (64,), (97, 113), (2, 3, 4)]


def parameters(dtype, rng, shapes=SHAPES):
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), ALL)
def test_trajectory_equals_torchs(name, options, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    start = parameters(dtype, rng)
    ours = [nn.Parameter(a.copy()) for a in start]
    theirs = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in start]
    our_optim = getattr(optim, name)(ours, **options)
    their_optim = getattr(torch.optim, name)(theirs, **options)
    for step in range(20):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            if i == 1 and step in (0, 7):  # a parameter that starts late and pauses
                p.grad = q.grad = None
                continue
            # A gradient that depends on the parameter, so that errors would grow.
            g = np.asarray(np.sin(3 * p.detach().numpy()) + rng.standard_normal(p.shape), dtype)
            p.grad = fastdl.from_numpy(g)
            q.grad = torch.from_numpy(g.copy())
        our_optim.step()
        their_optim.step()
        tolerance = 1e-6 if dtype is np.float32 else 1e-13
        for p, q in zip(ours, theirs, strict=True):
            want = q.detach().numpy()
            assert p.dtype == dtype
            np.testing.assert_allclose(
                p.detach().numpy(), want, rtol=0, atol=tolerance * max(1, np.abs(want).max(initial=0))
            )
    theirs_state, ours_state = their_optim.state_dict(), our_optim.state_dict()
    assert ours_state["param_groups"] == theirs_state["param_groups"]
    assert ours_state["state"].keys() == theirs_state["state"].keys()
    for i, values in theirs_state["state"].items():
        assert set(values) == set(ours_state["state"][i])
        for key, value in values.items():
            got = ours_state["state"][i][key]
            assert got.shape == tuple(value.shape)
            scale = max(1, np.abs(value.numpy()).max(initial=0))
            np.testing.assert_allclose(got.numpy(), value.numpy(), rtol=0, atol=2e-6 * scale, err_msg=key)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "options"), ALL)
def test_half_precision_is_float32s_step_rounded_once(name, options, dtype):
    pytest.importorskip("ml_dtypes")
    half, rng = getattr(fastdl, dtype), np.random.default_rng(2)
    narrow = [fastdl.from_numpy(a).to(half) for a in parameters(np.float32, rng)]
    ours = [nn.Parameter(p.clone()) for p in narrow] + [nn.Parameter(fastdl.ones(5))]
    wide = [nn.Parameter(p.float()) for p in narrow] + [nn.Parameter(fastdl.ones(5))]
    steps = getattr(optim, name)(ours, **options), getattr(optim, name)(wide, **options)
    for p, q in zip(ours, wide, strict=True):
        p.grad = fastdl.from_numpy(np.asarray(rng.standard_normal(p.shape), np.float32)).to(p.dtype)
        q.grad = p.grad.float()
    for optimizer in steps:
        optimizer.step()
    for p, q in zip(ours, wide, strict=True):
        assert p.dtype in (half, fastdl.float32)
        np.testing.assert_array_equal(p.detach().float().numpy(), q.detach().to(p.dtype).float().numpy())
    assert any(
        not np.array_equal(p.detach().float().numpy(), n.float().numpy())
        for p, n in zip(ours, narrow, strict=False)
    )


# The class --------------------------------------------------------------------------------------------


def with_gradients(*values, dtype=np.float32):
    params = [nn.Parameter(np.array(v, dtype)) for v in values]
    for p in params:
        p.grad = fastdl.from_numpy(np.ones(p.shape, p.dtype))
    return params


def test_defaults_signatures_and_repr_are_torchs():
    import inspect

    torch = pytest.importorskip("torch")
    for name in CASES:
        ours, theirs = getattr(optim, name), getattr(torch.optim, name)
        for (a, p), (b, q) in zip(
            inspect.signature(ours).parameters.items(),
            inspect.signature(theirs).parameters.items(),
            strict=True,
        ):
            assert (a, p.default, p.kind) == (b, q.default, q.kind), name
        assert repr(ours(with_gradients([1.0]))) == repr(theirs([torch.nn.Parameter(torch.ones(1))]))


def test_groups_have_their_options():
    a, b = with_gradients([1.0], [1.0])
    opt = optim.SGD([{"params": a}, {"params": [b], "lr": 0.5}], lr=0.1)
    opt.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.5], rtol=1e-6)
    (c,) = with_gradients([1.0])
    opt.add_param_group({"params": [c], "lr": 1.0})
    opt.step()
    np.testing.assert_allclose([a.item(), b.item(), c.item()], [0.8, 0, 0], rtol=1e-5, atol=1e-7)


def test_named_parameters():
    net = nn.ParameterDict(
        {"a": nn.Parameter(np.ones(1, np.float32)), "b": nn.Parameter(np.ones(1, np.float32))}
    )
    opt = optim.SGD(net.named_parameters())
    assert opt.param_groups[0]["param_names"] == ["a", "b"]
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]
    with pytest.raises(ValueError, match="with/without names"):
        opt.add_param_group({"params": with_gradients([1.0])})
    torch = pytest.importorskip("torch")
    groups = []
    for library, make in (
        (optim, nn.Parameter),
        (torch.optim, lambda a: torch.nn.Parameter(torch.from_numpy(a))),
    ):
        a, b = (make(np.ones(1, np.float32)) for _ in range(2))
        groups.append(library.Adam([{"params": [("a", a)], "lr": 0.5}, {"params": [("b", b)]}]))
    assert repr(groups[0]) == repr(groups[1])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.SGD([]), ValueError, "empty parameter list"),
        (lambda: optim.SGD(with_gradients([1.0])[0]), TypeError, "but got a single Tensor"),
        (lambda: optim.SGD([3]), TypeError, "can only optimize Tensors.*int"),
        (lambda: optim.SGD([{"params": set(with_gradients([1.0]))}]), TypeError, "ordered collections"),
        (lambda: optim.SGD(with_gradients([1.0]), lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda: optim.SGD(with_gradients([1.0]), lr=float("nan")), ValueError, "Invalid learning rate: nan"),
        (lambda: optim.SGD(with_gradients([1.0]), momentum=-1), ValueError, "Invalid momentum value: -1"),
        (lambda: optim.SGD(with_gradients([1.0]), nesterov=True), ValueError, "Nesterov momentum requires"),
        (
            lambda: optim.Adam(with_gradients([1.0]), betas=(0.9, 1.0)),
            ValueError,
            "beta parameter at index 1: 1.0",
        ),
        (lambda: optim.Adam(with_gradients([1.0]), eps=-1), ValueError, "Invalid epsilon value: -1"),
        (lambda: optim.Adam(with_gradients([1.0]), differentiable=True), ValueError, "not supported"),
        (lambda: optim.Adadelta(with_gradients([1.0]), rho=2), ValueError, "Invalid rho value: 2"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("optimizer", [fastdl.optim.Adafactor, fastdl.optim.Muon])
def test_real_parameters_only(optimizer):
    with pytest.raises(RuntimeError, match="does not support complex parameters"):
        optimizer([fastdl.ones(2, 2, dtype=fastdl.complex64)])


def test_more_errors():
    (p,) = with_gradients([1.0])
    opt = optim.SGD([p])
    with pytest.raises(ValueError, match="more than one parameter group"):
        opt.add_param_group({"params": [p]})
    with pytest.raises(TypeError, match="must be a dict"):
        opt.add_param_group([p])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optim.SGD([p, p])
    leafless = fastdl.nn.functional.relu(p)
    with pytest.raises(ValueError, match="non-leaf"):
        optim.SGD([leafless])
    wrong = [np.zeros(2, np.float16)]  # step() converts them
    with pytest.raises(TypeError, match=r"sgd_step: params\[0\] must be float32 or float64.*got float16"):
        kernels.cpu.sgd_step(wrong, wrong, None, 0.1, 0.0, 0.0, 0.0, False, False, False)


def test_step_without_gradients_and_zero_grad():
    params = with_gradients([1.0], [2.0])
    opt = optim.Adam(params)
    opt.zero_grad()
    assert params[0].grad is None
    opt.step()
    assert not opt.state
    assert params[1].detach().numpy()[0] == 2
    params[0].grad = fastdl.ones(1)
    opt.zero_grad(set_to_none=False)
    assert params[0].grad.numpy()[0] == 0
    assert params[1].grad is None


def test_closure_and_hooks():
    (p,) = with_gradients([1.0])
    opt = optim.SGD([p], lr=0.1)
    calls, given = [], []

    def closure():
        assert fastdl.is_grad_enabled()
        calls.append("closure")
        return "the loss"

    first = opt.register_step_pre_hook(lambda o, args, kwargs: calls.append("pre"))
    opt.register_step_pre_hook(lambda o, args, kwargs: given.append((*args, kwargs)))
    opt.register_step_post_hook(lambda o, args, kwargs: calls.append("post"))
    with fastdl.no_grad():
        assert opt.step(closure) == "the loss"
    first.remove()
    assert opt.step() is None
    assert calls == ["pre", "closure", "post", "post"]
    assert given == [(opt, closure, {}), (opt, {})]


class Counting(optim.Optimizer):
    """As users write them: options of later versions are filled in by ``__setstate__``."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("later", 1)

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["step"] = self.state[p].get("step", 0) + 1


def test_optimizers_of_users_are_copied_and_loaded():
    opt = Counting(with_gradients([1.0], [2.0]), lr=0.1)
    opt.step()
    assert "later" not in opt.param_groups[0]
    loaded = Counting(with_gradients([1.0], [2.0]), lr=0.2)
    loaded.load_state_dict(opt.state_dict())
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), loaded):
        assert other.param_groups[0]["later"] == 1
        assert other.param_groups[0]["lr"] == 0.1
        first = other.state[other.param_groups[0]["params"][0]]["step"]
        assert isinstance(first, int)
        assert first == 1
        other.step()
        assert other.state_dict()["state"] == {0: {"step": 2}, 1: {"step": 2}}


def test_version_counters_see_the_step():
    (p,) = with_gradients([1.0])
    y = fastdl.nn.functional.relu(p)
    version = p._version_cell()[0]
    optim.SGD([p], lr=0.1).step()
    assert p._version_cell()[0] == version + 1
    assert y.item() == 1


def train(opt, params, steps, rng):
    for _ in range(steps):
        for p in params:
            p.grad = fastdl.from_numpy(np.asarray(rng.standard_normal(p.shape), p.dtype))
        opt.step()


@pytest.mark.parametrize(("name", "options"), ALL)
def test_state_dict_continues_exactly(name, options):
    start = parameters(np.float32, np.random.default_rng(0))
    one = [nn.Parameter(a.copy()) for a in start]
    opt = getattr(optim, name)(one, **options)
    rng = np.random.default_rng(1)
    train(opt, one, 3, rng)
    state = copy.deepcopy(opt.state_dict())
    two = [nn.Parameter(p.detach().numpy().copy()) for p in one]
    resumed = getattr(optim, name)(two, lr=99)
    resumed.load_state_dict(state)
    assert resumed.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
    rng_two = copy.deepcopy(rng)
    train(opt, one, 3, rng)
    train(resumed, two, 3, rng_two)
    for p, q in zip(one, two, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    for values in state["state"].values():  # loading copied: training on did not touch the saved state
        assert "step" not in values or values["step"].numpy() == 3


def test_state_dicts_travel_to_and_from_torch():
    torch = pytest.importorskip("torch")
    start = parameters(np.float32, np.random.default_rng(0))
    ours = [nn.Parameter(a.copy()) for a in start]
    theirs = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in start]
    our_optim, their_optim = optim.AdamW(ours, lr=0.01), torch.optim.AdamW(theirs, lr=0.5)
    train(our_optim, ours, 2, np.random.default_rng(1))
    state = our_optim.state_dict()
    state["state"] = {
        i: {k: torch.from_numpy(np.array(v.numpy())) for k, v in values.items()}
        for i, values in state["state"].items()
    }
    their_optim.load_state_dict(state)
    back = optim.AdamW(ours)
    back.load_state_dict(their_optim.state_dict())
    for a, b in zip(
        back.state_dict()["state"].values(), our_optim.state_dict()["state"].values(), strict=True
    ):
        for key in b:
            np.testing.assert_array_equal(a[key].numpy(), b[key].numpy())


def test_load_state_dict_errors():
    params = with_gradients([1.0], [1.0])
    opt = optim.SGD(params)
    with pytest.raises(ValueError, match="different number of parameter groups: 2 instead of 1"):
        opt.load_state_dict(optim.SGD([{"params": [p]} for p in params]).state_dict())
    with pytest.raises(ValueError, match="group 0 has 1 instead of 2 parameters"):
        opt.load_state_dict(optim.SGD(params[:1]).state_dict())
    with pytest.raises(ValueError, match="'state' and 'param_groups'"):
        opt.load_state_dict({"state": {}})


def test_state_changes_from_outside_are_noticed():
    (p,) = with_gradients([0.0, 0.0])
    opt = optim.SGD([p], lr=1.0, momentum=0.5)
    opt.step()
    opt.state[p]["momentum_buffer"] = fastdl.from_numpy(np.array([10.0, 20.0], np.float32))
    opt.step()
    np.testing.assert_array_equal(p.detach().numpy(), [-1 - 6, -1 - 11])
    np.testing.assert_array_equal(opt.state[p]["momentum_buffer"].numpy(), [6, 11])
    p.data = fastdl.zeros(2)
    opt.state.clear()
    opt.step()
    np.testing.assert_array_equal(opt.state[p]["momentum_buffer"].numpy(), [1, 1])


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
def test_copies_of_model_and_optimizer_stay_together(clone):
    net = nn.ParameterList([nn.Parameter(np.ones(3, np.float32))])
    opt = optim.Adam(net.parameters(), lr=0.1)
    train(opt, list(net), 2, np.random.default_rng(0))
    net_two, opt_two = clone((net, opt))
    assert opt_two.param_groups[0]["params"][0] is net_two[0]
    train(opt, list(net), 2, np.random.default_rng(1))
    train(opt_two, list(net_two), 2, np.random.default_rng(1))
    np.testing.assert_array_equal(net[0].detach().numpy(), net_two[0].detach().numpy())


def test_own_optimizers_may_override_step():
    class Sign(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p._data -= group["lr"] * np.sign(p.grad.numpy())

    params = with_gradients([1.0, 2.0])
    Sign(params, 0.5).step()
    np.testing.assert_array_equal(params[0].detach().numpy(), [0.5, 1.5])


def test_reference_backend_trains_too():
    params = with_gradients([1.0, 2.0])
    with fastdl.use_backend("reference"):
        optim.AdamW(params, lr=0.1).step()
    other = with_gradients([1.0, 2.0])
    optim.AdamW(other, lr=0.1).step()
    assert_close(params[0].detach(), other[0].detach())


# Adafactor and Muon -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.3, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 2.0, "weight_decay": 0.1, "maximize": True},
    ],
)
def test_adafactor_equals_torchs(options, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    start = parameters(dtype, rng, [(3,), (), (17, 5), (2, 3, 4), (1, 6)])
    ours = [nn.Parameter(a.copy()) for a in start]
    theirs = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in start]
    a, b = optim.Adafactor(ours, **options), torch.optim.Adafactor(theirs, **options)
    for step in range(12):
        if step == 6:  # over a checkpoint
            state = a.state_dict()
            a = optim.Adafactor(ours, **options)
            a.load_state_dict(state)
        for p, q in zip(ours, theirs, strict=True):
            g = np.asarray(np.sin(3 * p.detach().numpy()) + rng.standard_normal(p.shape), dtype)
            p.grad, q.grad = fastdl.from_numpy(g), torch.from_numpy(g.copy())
        a.step()
        b.step()
    tolerance = 2e-6 if dtype is np.float32 else 1e-13
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=tolerance, atol=tolerance)
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for i, values in theirs["state"].items():
        assert set(ours["state"][i]) == set(values)
        for name, value in values.items():
            np.testing.assert_allclose(ours["state"][i][name].numpy(), value.numpy(), rtol=1e-4, err_msg=name)


def test_adafactor_leaves_empty_parameters_alone():
    (p,) = with_gradients(np.zeros((0, 4)))
    optim.Adafactor([p]).step()
    assert p.shape == (0, 4)


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5), (1, 4)])
def test_muon_steps_along_the_orthogonal_factor(shape):
    rng = np.random.default_rng(5)
    start, g = rng.standard_normal(shape), rng.standard_normal(shape)
    (p,) = with_gradients(start, dtype=np.float64)
    p.grad = fastdl.from_numpy(g)
    # Coefficients of the cubic iteration, which ends at 1 and not only near it.
    opt = optim.Muon([p], lr=0.1, ns_coefficients=(1.5, -0.5, 0.0), ns_steps=60)
    opt.step()
    u, _, v = np.linalg.svd(g, full_matrices=False)
    scale = max(1, shape[0] / shape[1]) ** 0.5
    np.testing.assert_allclose(p.detach().numpy(), start * (1 - 0.1 * 0.1) - 0.1 * scale * (u @ v), atol=1e-9)
    buffer = opt.state_dict()["state"][0]["momentum_buffer"]
    np.testing.assert_allclose(buffer.numpy(), 0.05 * g, rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False, "momentum": 0.5, "adjust_lr_fn": "match_rms_adamw"}]
)
def test_muon_is_torchs_up_to_bfloat16(options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    start = rng.standard_normal((8, 5)).astype(np.float32)
    p, q = nn.Parameter(start.copy()), torch.nn.Parameter(torch.from_numpy(start.copy()))
    a, b = optim.Muon([p], lr=0.1, **options), torch.optim.Muon([q], lr=0.1, **options)
    assert repr(a) == repr(b)
    for _ in range(3):
        g = rng.standard_normal((8, 5)).astype(np.float32)
        p.grad, q.grad = fastdl.from_numpy(g), torch.from_numpy(g.copy())
        a.step()
        b.step()
    moved = q.detach().numpy() - start
    assert np.linalg.norm(p.detach().numpy() - q.detach().numpy()) < 0.02 * np.linalg.norm(moved)
    assert a.state_dict()["state"][0].keys() == b.state_dict()["state"][0].keys()
    with pytest.raises(ValueError, match=r"only supports 2D parameters .* size: \(3,\)"):
        a.add_param_group({"params": with_gradients(np.ones(3))})
    assert len(a.param_groups) == 1

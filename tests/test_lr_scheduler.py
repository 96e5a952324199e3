"""Schedules, step by step beside torch's."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

import fastdl
from fastdl import nn, optim
from fastdl.optim import lr_scheduler

torch = pytest.importorskip("torch")


class Factor:
    """A callable object: its attributes are saved with the schedule."""

    def __init__(self, base):
        self.base = base

    def __call__(self, epoch):
        return self.base**epoch


CASES = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda e: 0.9**e),
    "lambdas": lambda s, o: s.LambdaLR(o, [lambda e: 1 / (e + 1), Factor(0.7)]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.95),
    "step": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 9]),
    "constant": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=4),
    "linear": lambda s, o: s.LinearLR(o, 0.1, 0.8, total_iters=6),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.8),
    "polynomial": lambda s, o: s.PolynomialLR(o, total_iters=7, power=2.0),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, T_max=5, eta_min=0.01),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2, eta_min=0.001),
    "restarts1": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=4),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.1, step_size_up=4, step_size_down=3),
    "cyclic2": lambda s, o: s.CyclicLR(o, [0.01, 0.02], [0.1, 0.3], step_size_up=3, mode="triangular2"),
    "cyclicexp": lambda s, o: s.CyclicLR(
        o, 0.01, 0.1, step_size_up=3, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "cyclicown": lambda s, o: s.CyclicLR(o, 0.01, 0.1, step_size_up=3, scale_fn=lambda x: 0.5 ** (x - 1)),
    "onecycle": lambda s, o: s.OneCycleLR(o, max_lr=0.5, total_steps=20),
    "onecycle3": lambda s, o: s.OneCycleLR(
        o,
        max_lr=[0.5, 0.2],
        epochs=4,
        steps_per_epoch=5,
        three_phase=True,
        anneal_strategy="linear",
        pct_start=0.4,
    ),
    "sequential": lambda s, o: s.SequentialLR(
        o,
        [s.ConstantLR(o, 0.1, total_iters=2), s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.5)],
        milestones=[3, 9],
    ),
    "warmup": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.01, total_iters=4), s.CosineAnnealingLR(o, T_max=12)], milestones=[4]
    ),
    "chained": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.1, total_iters=4), s.ExponentialLR(o, 0.9)], o
    ),
}
all_cases = pytest.mark.parametrize("case", CASES)
makers = pytest.mark.parametrize("maker", ["SGD", "Adam"])
OPTIONS = {"SGD": {"momentum": 0.9}, "Adam": {}}


def ours(maker="SGD"):
    params = [nn.Parameter(np.ones(1, np.float32)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.3}]
    return getattr(optim, maker)(groups, lr=0.1, **OPTIONS[maker])


def theirs(maker="SGD"):
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.3}]
    return getattr(torch.optim, maker)(groups, lr=0.1, **OPTIONS[maker])


def visible(optimizer):
    keys = ("lr", "momentum", "betas", "initial_lr")
    return [{k: g[k] for k in keys if k in g} for g in optimizer.param_groups]


@all_cases
@makers
def test_equal_to_torchs_step_by_step(case, maker):
    a, b = ours(maker), theirs(maker)
    mine, yours = CASES[case](lr_scheduler, a), CASES[case](torch.optim.lr_scheduler, b)
    for step in range(20):
        for got, want in zip(visible(a), visible(b), strict=True):
            assert got.keys() == want.keys()
            for key in want:
                np.testing.assert_allclose(
                    got[key], want[key], rtol=1e-12, atol=1e-17, err_msg=f"{key} at step {step}"
                )
        np.testing.assert_allclose(mine.get_last_lr(), yours.get_last_lr(), rtol=1e-12, atol=1e-17)
        a.step()
        b.step()
        mine.step()
        yours.step()


def test_schedules_written_for_torch():
    """They look at attributes of the base class, and have a closed form for ``step(epoch)``."""

    def written(base):
        class Warmup(base):
            def get_lr(self):
                asked.append(self._get_lr_called_within_step)
                rise = 0.0 if self._is_initial or self.last_epoch > 4 else 0.5
                return [group["lr"] + rise for group in self.optimizer.param_groups]

            def _get_closed_form_lr(self):
                return [start / (1 + self.last_epoch) for start in self.base_lrs]

        return Warmup

    rates, asked = [], []
    for lib, optimizer in ((lr_scheduler, ours()), (torch.optim.lr_scheduler, theirs())):
        schedule = written(lib.LRScheduler)(optimizer)
        for epoch in (None, None, 3, 1, None):
            optimizer.step()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                schedule.step(epoch)
            rates.append(schedule.get_last_lr())
        schedule.get_lr()
        schedule._initial_step()
        rates.append(schedule.get_last_lr())
    np.testing.assert_allclose(rates[:6], rates[6:])
    assert asked == 2 * [True, True, True, True, False, True]


@all_cases
def test_state_dict_continues(case, tmp_path):
    a, b = ours(), ours()
    first = CASES[case](lr_scheduler, a)
    for _ in range(6):
        a.step()
        first.step()
    # Through a file, so that nothing in a schedule's state needs pickle.
    fastdl.save({"scheduler": first.state_dict(), "optimizer": a.state_dict()}, tmp_path / "c")
    saved = fastdl.load(tmp_path / "c")
    second = CASES[case](lr_scheduler, b)
    second.load_state_dict(saved["scheduler"])
    b.load_state_dict(saved["optimizer"])
    for _ in range(10):
        assert visible(a) == visible(b)
        assert first.get_last_lr() == second.get_last_lr()
        a.step()
        b.step()
        first.step()
        second.step()


def test_resuming_with_last_epoch():
    for case in (
        lambda s, o, e: s.StepLR(o, 3, last_epoch=e),
        lambda s, o, e: s.ExponentialLR(o, 0.9, last_epoch=e),
        lambda s, o, e: s.CosineAnnealingLR(o, 10, last_epoch=e),
        lambda s, o, e: s.LinearLR(o, last_epoch=e),
        lambda s, o, e: s.LambdaLR(o, lambda x: 1 / (x + 1), last_epoch=e),
    ):
        a, b = ours(), theirs()
        with pytest.raises(KeyError, match=r"initial_lr.*is not specified in param_groups"):
            case(lr_scheduler, a, 3)
        for group in a.param_groups + b.param_groups:
            group["initial_lr"] = 0.2
        mine, yours = case(lr_scheduler, a, 3), case(torch.optim.lr_scheduler, b, 3)
        for _ in range(8):
            np.testing.assert_allclose(mine.get_last_lr(), yours.get_last_lr(), rtol=1e-12)
            a.step()
            b.step()
            mine.step()
            yours.step()


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 0, "cooldown": 2, "factor": 0.5},
        {"patience": 1, "mode": "max", "threshold": 0.1},
        {"patience": 1, "mode": "max", "threshold_mode": "abs", "threshold": 0.05},
        {"patience": 1, "mode": "min", "threshold_mode": "abs", "threshold": 0.05},
        {"patience": 0, "min_lr": [0.01, 0.25]},
    ],
)
def test_plateau(options):
    a, b = ours(), theirs()
    mine = lr_scheduler.ReduceLROnPlateau(a, **options)
    yours = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)
    metrics = np.random.default_rng(0).standard_normal(40).cumsum().tolist() + [float("nan")] * 3
    for i, metric in enumerate(metrics):
        mine.step(fastdl.tensor(metric, dtype=fastdl.float64) if i % 2 else metric)
        yours.step(metric)
        np.testing.assert_allclose(mine.get_last_lr(), yours.get_last_lr(), rtol=1e-12)
        if i == 20:
            again = lr_scheduler.ReduceLROnPlateau(a)
            again.load_state_dict(copy.deepcopy(mine.state_dict()))
            mine = again


def test_warm_restarts_take_fractions():
    a, b = ours(), theirs()
    mine = lr_scheduler.CosineAnnealingWarmRestarts(a, 2, 2)
    yours = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(b, 2, 2)
    for epoch in (0.0, 0.5, 1.9, 2.0, 3.3, 6.5, 13.9, 14.0, 1.0):
        mine.step(epoch)
        yours.step(epoch)
        np.testing.assert_allclose(mine.get_last_lr(), yours.get_last_lr(), rtol=1e-12)
    with pytest.raises(ValueError, match="non-negative epoch"):
        mine.step(-1)


def test_order_warning():
    scheduler = lr_scheduler.StepLR(ours(), 1)
    with pytest.warns(UserWarning, match=r"`lr_scheduler\.step\(\)` before `optimizer\.step\(\)`"):
        scheduler.step()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: lr_scheduler.StepLR("no", 1), TypeError, "str is not an Optimizer"),
        (
            lambda o: lr_scheduler.LambdaLR(o, [lambda e: 1]),
            ValueError,
            "same length as optimizer.param_groups: 1 != 2",
        ),
        (lambda o: lr_scheduler.ConstantLR(o, 2.0), ValueError, "between 0 and 1"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), ValueError, "greater than 0"),
        (lambda o: lr_scheduler.LinearLR(o, 0.5, 2.0), ValueError, "between 0 and 1"),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 0), ValueError, "positive integer T_0"),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1, 0), ValueError, "T_mult >= 1"),
        (lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2, mode="x"), ValueError, "mode is invalid"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1), ValueError, "either total_steps OR"),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=0),
            ValueError,
            "positive integer total_steps",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, 5, pct_start=2.0),
            ValueError,
            "between 0 and 1 pct_start",
        ),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 5, anneal_strategy="x"), ValueError, "'cos' or 'linear'"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor should be < 1"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, "x"), ValueError, "mode x is unknown"),
        (
            lambda o: lr_scheduler.ReduceLROnPlateau(o, threshold_mode="x"),
            ValueError,
            "threshold mode x is unknown",
        ),
        (lambda o: lr_scheduler.SequentialLR(o, [], []), ValueError, "at least one scheduler"),
        (
            lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 1)], [3]),
            ValueError,
            "one more than",
        ),
        (
            lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(ours(), 1)], []),
            ValueError,
            "same optimizer",
        ),
        (
            lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(o)]),
            ValueError,
            "needs a metric",
        ),
        (
            lambda o: lr_scheduler.ChainedScheduler([3]),
            TypeError,
            "at index 0 should be a scheduler, got int",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make(ours())


def test_one_cycle_ends_and_momentum_is_needed():
    a = ours()
    scheduler = lr_scheduler.OneCycleLR(a, 0.1, total_steps=2)
    a.step()
    scheduler.step()
    scheduler.step()
    with pytest.raises(ValueError, match="Tried to step 3 times"):
        scheduler.step()
    plain = optim.Adagrad([nn.Parameter(np.ones(1, np.float32))])
    with pytest.raises(ValueError, match="must support momentum or beta1"):
        lr_scheduler.OneCycleLR(plain, 0.1, total_steps=2)


@pytest.mark.parametrize("which", ["mean", "ema", "ema_one", "swa_one"])
def test_averaged_model(which):
    def make(nn, swa, state):
        net = nn.Linear(3, 2)
        net.load_state_dict(state)
        options = {
            "mean": {},
            "ema": {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.9)},
            "ema_one": {"avg_fn": swa.get_ema_avg_fn(0.9)},
            "swa_one": {"avg_fn": swa.get_swa_avg_fn()},
        }[which]
        return net, swa.AveragedModel(net, **options)

    start = {k: v.numpy() for k, v in nn.Linear(3, 2).state_dict().items()}
    mine, ours_average = make(nn, optim.swa_utils, start)
    yours, theirs_average = make(
        torch.nn, torch.optim.swa_utils, {k: torch.from_numpy(v.copy()) for k, v in start.items()}
    )
    rng = np.random.default_rng(0)
    for _ in range(5):
        for p, q in zip(mine.parameters(), yours.parameters(), strict=True):
            value = rng.standard_normal(p.shape).astype(np.float32)
            p.data = fastdl.tensor(value)
            q.data = torch.from_numpy(value.copy())
        ours_average.update_parameters(mine)
        theirs_average.update_parameters(yours)
    want = theirs_average.state_dict()
    assert list(ours_average.state_dict()) == list(want)
    for key, value in ours_average.state_dict().items():
        np.testing.assert_allclose(value.numpy(), want[key].numpy(), rtol=1e-5, atol=1e-6)
    x = fastdl.ones(1, 3)
    np.testing.assert_array_equal(ours_average(x).detach().numpy(), ours_average.module(x).detach().numpy())


@pytest.mark.parametrize("moving", [False, True])
def test_averages_of_counters(moving):
    averages = []
    for library in (fastdl, torch):
        swa = library.optim.swa_utils
        options = {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.9)} if moving else {}
        averages.append(swa.AveragedModel(library.nn.BatchNorm1d(1), use_buffers=True, **options))
    ours, theirs = averages
    for count in (3, 5, 12, 40, 41, 1000):
        for average, model in ((ours, nn.BatchNorm1d(1)), (theirs, torch.nn.BatchNorm1d(1))):
            model.num_batches_tracked.fill_(count)
            average.update_parameters(model)
        assert ours.module.num_batches_tracked.item() == theirs.module.num_batches_tracked.item()


@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_goes_on_from_pytorch_s_state(three_phase):
    def make(library, steps):
        optimizer = library.optim.SGD([library.zeros(1, requires_grad=True)], 0.1, momentum=0.9)
        options = {"anneal_strategy": "linear", "three_phase": three_phase}
        return optimizer, library.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, steps, **options)

    (optimizer, scheduler), (mine, ours) = make(torch, 12), make(fastdl, 30)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    ours.load_state_dict(scheduler.state_dict())
    for _ in range(6):
        for o, s in ((optimizer, scheduler), (mine, ours)):
            o.step()
            s.step()
        assert ours.get_last_lr() == pytest.approx(scheduler.get_last_lr())
        assert mine.param_groups[0]["momentum"] == pytest.approx(optimizer.param_groups[0]["momentum"])


def test_averaged_model_errors():
    with pytest.raises(ValueError, match="Invalid decay value 2"):
        optim.swa_utils.get_ema_avg_fn(2)
    with pytest.raises(AssertionError, match="Only one of"):
        optim.swa_utils.AveragedModel(nn.Linear(1, 1), avg_fn=1, multi_avg_fn=2)


def test_update_bn():
    class Norm(nn.Module):
        """The mean of all batches, as a batch norm with momentum None keeps it."""

        def __init__(self):
            super().__init__()
            self.momentum = 0.1
            self.register_buffer("running_mean", fastdl.full((2,), 9.0))
            self.register_buffer("running_var", fastdl.full((2,), 9.0))
            self.register_buffer("num_batches_tracked", fastdl.tensor(7))

        def forward(self, x):
            assert self.training
            assert self.momentum is None
            self.num_batches_tracked._data += 1
            mean = x.detach().numpy().mean(axis=0)
            self.running_mean._data += (mean - self.running_mean._data) / self.num_batches_tracked.item()
            return x

    net = nn.Sequential(Norm(), nn.Identity()).eval()
    batches = [fastdl.ones(4, 2), [fastdl.full((4, 2), 4.0), "label"]]
    optim.swa_utils.update_bn(batches, net)
    assert net[0].running_mean.tolist() == [2.5, 2.5]
    assert net[0].running_var.tolist() == [1, 1]
    assert net[0].momentum == 0.1
    assert not net.training


@pytest.mark.parametrize(
    "name", ["StepLR", "LambdaLR", "SequentialLR", "ReduceLROnPlateau", "CosineAnnealingWarmRestarts"]
)
def test_a_rate_that_is_a_tensor_stays_that_tensor(name):
    seen = []
    for lib in (fastdl, torch):
        rate = lib.tensor(0.5)
        optimizer = lib.optim.SGD([lib.nn.Parameter(lib.zeros(2))], lr=rate)
        schedules = lib.optim.lr_scheduler
        schedule = {
            "StepLR": lambda s=schedules, o=optimizer: s.StepLR(o, 1),
            "LambdaLR": lambda s=schedules, o=optimizer: s.LambdaLR(o, lambda epoch: 0.5**epoch),
            "SequentialLR": lambda s=schedules, o=optimizer: s.SequentialLR(
                o, [s.ConstantLR(o, 0.5), s.ExponentialLR(o, 0.9)], [2]
            ),
            "ReduceLROnPlateau": lambda s=schedules, o=optimizer: s.ReduceLROnPlateau(o, patience=0),
            "CosineAnnealingWarmRestarts": lambda s=schedules, o=optimizer: s.CosineAnnealingWarmRestarts(
                o, 3
            ),
        }[name]()
        rates = []
        for _ in range(4):
            optimizer.step()
            schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            assert optimizer.param_groups[0]["lr"] is rate
            rates.append(rate.item())
        seen.append(rates)
    assert seen[0] == pytest.approx(seen[1])

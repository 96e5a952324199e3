"""The profiler: what is recorded, when, and that nothing of it stays."""

from __future__ import annotations

import gc
import gzip
import json
import time
import warnings

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.autograd import engine
from fastdl.autograd.op import Op
from fastdl.profiler import (
    ProfilerAction,
    ProfilerActivity,
    profile,
    record_function,
    schedule,
    supported_activities,
    tensorboard_trace_handler,
)


def keys(prof):
    return {event.key: event for event in prof.key_averages()}


def test_operations_of_a_training_step_are_recorded():
    model = nn.Sequential(nn.Linear(8, 16), nn.Softplus(), nn.Linear(16, 4))
    optimizer = fastdl.optim.SGD(model.parameters(), 0.1)
    x, y = fastdl.randn(5, 8), fastdl.tensor([0, 1, 2, 3, 0])
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as prof:
        optimizer.zero_grad()
        with record_function("loss"):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    found = keys(prof)
    assert found["linear"].count == 2
    for name in (
        "softplus",
        "cross_entropy",
        "loss",
        "LinearBackward",
        "backward",
        "Optimizer.step#SGD.step",
    ):
        assert found[name].count >= 1, sorted(found)
    assert found["LinearBackward"].count == 2
    assert found["loss"].cpu_time_total >= found["linear"].cpu_time_total
    assert found["loss"].self_cpu_time_total < found["loss"].cpu_time_total
    linear = [e for e in prof.events() if e.key == "linear"]
    assert linear[0].input_shapes[:2] == [[5, 8], [16, 8]]
    grouped = prof.key_averages(group_by_input_shape=True)
    assert sum([e.key == "linear" for e in grouped]) == 2


def test_nothing_stays_behind():
    before = dict(vars(fastdl.Tensor))
    functions = dict(vars(fastdl))
    pop, run = engine.heappop, engine._run
    with profile():
        assert vars(fastdl.Tensor)["__add__"] is not before["__add__"]
        kept = fastdl.Tensor.exp
    assert dict(vars(fastdl.Tensor)) == before
    assert {n: functions[n] for n in functions} == {n: vars(fastdl)[n] for n in functions}
    assert "apply" not in vars(Op)
    assert engine.heappop is pop
    assert engine._run is run
    assert kept(fastdl.zeros(1)).item() == 1.0  # a function that somebody kept still works


def test_results_are_the_same_and_times_are_real():
    x = fastdl.randn(64, 64, requires_grad=True)
    (x @ x).exp().sum().backward()
    plain = x.grad.numpy().copy()
    x.grad = None
    with profile() as prof:
        (x @ x).exp().sum().backward()
        with record_function("rest"):
            time.sleep(0.02)
    np.testing.assert_array_equal(x.grad.numpy(), plain)
    rest = keys(prof)["rest"]
    assert 20_000 <= rest.cpu_time_total < 2_000_000
    assert rest.cpu_time == rest.cpu_time_total
    total = sum([e.self_cpu_time_total for e in prof.events()])
    outermost = sum([e.cpu_time_total for e in prof.events() if e.top_level])
    assert total == pytest.approx(outermost)


def test_views_and_functions_without_a_graph():
    x = fastdl.ones(4, 6)
    with profile() as prof:
        x.view(6, 4).t()
        x[1:3]
        _ = x > 0
        fastdl.zeros(3)
        x.argmax()
        x.add_(1)
    found = keys(prof)
    for name in ("view", "t", "getitem", "gt", "zeros", "argmax", "add_"):
        assert found[name].count == 1, sorted(found)


def test_autocast_and_functions_of_users_are_recorded():
    class Double(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = fastdl.ones(3, 3, requires_grad=True)
    with profile() as prof, fastdl.amp.autocast("cpu"):
        y = x @ x
    assert y.dtype is fastdl.bfloat16
    assert keys(prof)["matmul"].count == 1
    with profile() as prof:
        Double.apply(x).sum().backward()
    assert any(["Double" in name for name in keys(prof)])


def test_the_table():
    x = fastdl.ones(30, 30)
    with profile(record_shapes=True, profile_memory=True) as prof:
        kept = [x.exp() for _ in range(3)]
        (x + x).sum()
    averages = prof.key_averages()
    text = averages.table(sort_by="count", row_limit=1, header="title")
    assert text.splitlines()[1] == "title"
    assert "exp" in text
    assert "sum" not in text
    assert "# of Calls" in text
    assert "Self CPU time total:" in text
    row = next(line for line in text.splitlines() if line.lstrip().startswith("exp"))
    assert row.split()[-1] != ""
    assert keys(prof)["exp"].cpu_memory_usage >= 3 * 3600
    assert len(kept) == 3
    assert "[[30, 30]" in prof.key_averages(group_by_input_shape=True).table()
    for column in ("cpu_time_total", "self_cpu_time_total", "cuda_time_total", "cpu_time"):
        averages.table(sort_by=column, row_limit=10)
    with pytest.raises(ValueError, match="sort_by must be one of count, cpu_time"):
        averages.table(sort_by="speed")
    assert averages.total_average().count == sum([e.count for e in averages])
    assert "exp" in averages.table(max_name_column_width=3)


def test_traces_for_a_browser(tmp_path):
    with profile(on_trace_ready=tensorboard_trace_handler(str(tmp_path / "logs"), "me")) as prof:
        fastdl.ones(3).exp()
    (written,) = (tmp_path / "logs").iterdir()
    assert written.name.startswith("me.")
    assert written.name.endswith(".pt.trace.json")
    prof.export_chrome_trace(str(tmp_path / "trace.json.gz"))
    packed = gzip.decompress((tmp_path / "trace.json.gz").read_bytes()).decode()
    for text in (written.read_text(), packed):
        event = next(e for e in json.loads(text)["traceEvents"] if e["name"] == "exp")
        assert event["ph"] == "X"
        assert event["dur"] > 0


def test_schedules_are_torch_s():
    torch = pytest.importorskip("torch")
    for options in (
        {"wait": 1, "warmup": 1, "active": 2},
        {"wait": 0, "warmup": 1, "active": 1, "repeat": 2},
        {"wait": 2, "warmup": 1, "active": 3, "repeat": 1, "skip_first": 3},
        {"wait": 2, "warmup": 1, "active": 1, "skip_first": 2, "skip_first_wait": 1},
    ):
        ours, theirs = schedule(**options), torch.profiler.schedule(**options)
        assert [ours(i).name for i in range(15)] == [theirs(i).name for i in range(15)]
    with pytest.raises(ValueError, match="active must be at least 1"):
        schedule(wait=0, warmup=1, active=0)
    with pytest.warns(UserWarning, match="warmup"):
        schedule(wait=0, warmup=0, active=1)
    with pytest.raises(ValueError, match="non-negative"):
        schedule(wait=0, warmup=1, active=1)(-1)


def test_steps_follow_the_schedule():
    traces = []

    def ready(prof):
        traces.append((prof.step_num, sorted({e.key for e in prof.events()})))

    plan = schedule(wait=1, warmup=1, active=2, repeat=2)
    with profile(schedule=plan, on_trace_ready=ready) as prof:
        for _ in range(9):
            fastdl.ones(2).exp()
            prof.step()
    assert [step for step, _ in traces] == [4, 8]
    assert traces[0][1] == ["ProfilerStep#2", "ProfilerStep#3", "exp", "ones"]
    wrong = [ProfilerAction.RECORD, ProfilerAction.NONE, ProfilerAction.NONE]
    with pytest.warns(UserWarning, match="Incorrect schedule"), profile(schedule=lambda i: wrong[i]) as prof:
        prof.step()


def test_names_as_decorators_and_without_a_profiler():
    @record_function("mine")
    def mine(x):
        return x.exp()

    assert mine(fastdl.zeros(1)).item() == 1.0
    with profile() as prof:
        mine(fastdl.zeros(1))
        mine(fastdl.zeros(1))
    assert keys(prof)["mine"].count == 2


def test_errors_end_events():
    with pytest.raises(RuntimeError), profile() as prof, record_function("outer"):
        fastdl.ones(2, 3) @ fastdl.ones(2, 3)
    assert keys(prof)["outer"].count == 1
    assert keys(prof)["matmul"].count == 1
    with profile() as prof, warnings.catch_warnings():
        fastdl.ones(2)
    assert "ones" in keys(prof)


def test_batches_and_second_derivatives():
    data = fastdl.utils.data.DataLoader(list(range(4)), batch_size=2)
    x = fastdl.ones(3, requires_grad=True)
    with profile() as prof:
        assert len(list(data)) == 2
        (grad,) = fastdl.autograd.grad((x**3).sum(), x, create_graph=True)
        grad.sum().backward()
    assert keys(prof)["enumerate(DataLoader)#__next__"].count == 3
    np.testing.assert_array_equal(x.grad.numpy(), 6.0)


def test_mistakes_are_explained():
    with profile(), pytest.raises(RuntimeError, match="already enabled"):
        profile().start()
    with pytest.raises(RuntimeError, match="nothing was recorded yet"):
        profile().key_averages()
    with pytest.raises(ValueError, match="activities must be"):
        profile(activities=["cpu"])
    assert ProfilerActivity.CPU in supported_activities()
    assert "profiler" in dir(fastdl.autograd) or fastdl.autograd.profiler


def test_the_older_path():
    from fastdl.autograd import profiler

    with profiler.profile(record_shapes=True) as prof, profiler.record_function("name"):
        fastdl.ones(3).exp()
    assert "exp" in prof.table()
    assert "name" in [e.name for e in prof.function_events]
    assert prof.self_cpu_time_total > 0
    assert prof.total_average().count == len(prof.function_events)
    with profiler.profile(enabled=False) as prof:
        fastdl.ones(3)
    assert str(prof) == "<unfinished profiler>"


def test_functions_of_a_program_stay_what_they_are(monkeypatch):
    functional = fastdl.nn.functional
    with profile():
        pass
    monkeypatch.setattr(functional, "gelu", lambda x: "mine")
    with profile() as prof:
        assert functional.gelu(fastdl.ones(1)) == "mine"
        monkeypatch.setattr(functional, "relu", lambda x: "later")
    assert functional.relu(fastdl.ones(1)) == "later"
    assert [event.key for event in prof.key_averages()] == ["ones"]  # whose gelu is not fastdl's


def test_a_profile_that_was_dropped_records_no_longer():
    prof = profile()
    prof.start()
    del prof
    gc.collect()
    with profile() as other:
        fastdl.ones(2) + 1
    assert "add" in [event.key for event in other.key_averages()]

"""The benchmark's own logic: turns of instances, medians, crossings, going on, tables and plots, a day with a GPU."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import emulation
from fastdl import cli, kernels
from fastdl.bench import device, report, runner
from fastdl.bench.case import Case, Library, forward

ROOT = Path(__file__).resolve().parents[1]


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1.0

    def record(self) -> None:
        self.at = FakeCuda.now

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.at - self.at

    def query(self) -> bool:
        return self.at <= FakeCuda.passed


class FakeCuda:
    """A GPU whose clock moves when it is given something to do, and which has done so much of it."""

    Event = FakeEvent
    now = 0.0
    passed = -math.inf
    allocated = 0

    def synchronize(self) -> None:
        pass

    def memory_allocated(self) -> int:
        return FakeCuda.allocated


def test_copies_fill_the_cache_twice():
    assert device.copies(10, 50) == 10
    assert device.copies(11, 50) == 10
    assert device.copies(1000, 50) == 1
    assert device.copies(0, 50) == device.MOST_COPIES
    assert device.copies(10, 0) == 1


def test_instances_take_turns_and_a_training_step_has_one():
    made = []

    def make() -> Any:
        FakeCuda.allocated += 30
        made.append(len(made))
        return lambda: None

    assert len(device.instances(FakeCuda(), make, "f", 50)) == len(made) == 4
    made.clear()
    assert len(device.instances(FakeCuda(), make, "step", 50)) == len(made) == 1


def test_events_go_around_the_call_and_leave_out_the_hold():
    called = []

    def work(i: int) -> Any:
        def run() -> None:
            called.append(i)
            FakeCuda.now += 2.0 + i

        return run

    def read() -> None:
        FakeCuda.now += 50.0

    rotation = itertools.cycle([work(0), work(1), work(2)])
    seen, late = device.by_events(FakeCuda(), rotation, 4, device.Hold(read, 2))
    assert called == [0, 1, 2, 0]
    assert seen == pytest.approx([0.002, 0.003, 0.004, 0.002])
    assert late == []


def test_calls_that_found_the_gpu_idle_do_not_count(monkeypatch):
    """The host takes as long as three reads to submit a call: after fewer the GPU begins it before it is whole."""
    reads = []  # before the call at hand

    def read() -> None:
        reads.append(1)
        FakeCuda.now += 1.0

    def run() -> None:
        late = len(reads) < 3
        reads.clear()
        monkeypatch.setattr(FakeCuda, "passed", FakeCuda.now if late else -math.inf)
        FakeCuda.now += 7.0 if late else 2.0

    def timer() -> device.Timer:
        made = device.Timer.__new__(device.Timer)
        made.cuda, made.rotation, made.estimate = FakeCuda(), itertools.repeat(run), 1.0
        made.hold = device.Hold(read, 1)
        return made

    patient = timer()
    assert patient.sample(0.0)[0] == pytest.approx([0.002])
    assert patient.hold.times == 4
    monkeypatch.setattr(device.Hold, "MOST", 2)
    assert timer().sample(0.0)[0] == pytest.approx([0.007, 0.007]), "no hold is long enough"


class FakeCrew:
    """Answers as workers would."""

    def __init__(self, answers: dict[str, list[dict[str, Any]]]) -> None:
        self.answers = {label: iter(given) for label, given in answers.items()}

    def of(self, setting: runner.Setting) -> Any:
        crew = self

        class Worker:
            def ask(self, **request: Any) -> dict[str, Any]:
                answer = next(crew.answers[f"{setting.label} {setting.device}"])
                if answer.get("ended"):
                    raise runner.Ended("worker ended with status -6")
                return answer

        return Worker()


def measured(
    monkeypatch: Any, case: Case, chosen: list[runner.Setting], answers: dict[str, Any]
) -> runner.Result:
    monkeypatch.setattr(runner, "_all_cases", lambda family: [case])
    (result,) = runner.measure(
        FakeCrew(answers), chosen, "family", {"gflops": 1000.0, "gbs": 100.0}, [case], 0.1
    )
    return result


def rounds(*values: float, wall: float | None = None) -> list[dict[str, Any]]:
    samples = [{"seconds": [v * 1e-6], "wall": [(v if wall is None else wall) * 1e-6]} for v in values]
    return [{"ready": 1e-6}, *samples]


def case_of(**numbers: Any) -> Case:
    return Case("x", "f", lambda lib: lambda: None, **numbers)


def test_medians_ratios_and_further_ways(monkeypatch):
    chosen = runner.settings("attention", "torch", "cuda", "bfloat16", ["flash", "cudnn"])
    assert [s.label for s in chosen] == ["fastdl", "torch", "torch flash", "torch cudnn"]
    result = measured(
        monkeypatch,
        case_of(flops=1e9, bytes=4e6, target=3.0),
        chosen,
        {
            "fastdl cuda": rounds(9, 1, 2, 3, 2, wall=50),
            "torch cuda": rounds(4, 4, 4, 100, 4, wall=60),
            "torch flash cuda": [{"error": "RuntimeError: no kernel"}],
            "torch cudnn cuda": [*rounds(3, 3), {"ended": True}],
        },
    )
    assert (result.fastdl_us, result.peer_us, result.ratio) == pytest.approx((2.0, 4.0, 2.0))
    assert (result.fastdl_wall_us, result.peer_wall_us) == pytest.approx((50.0, 60.0))
    assert result.gflops == pytest.approx(1e9 / 2e-6 / 1e9)
    assert result.gbs == pytest.approx(4e6 / 2 / 2e-6 / 1e9), "half the bytes in 16 bits"
    assert result.target is None, "targets are the CPU's"
    assert result.more_us == {}
    assert result.errors == {
        "torch flash": "RuntimeError: no kernel",
        "torch cudnn": "worker ended with status -6",
    }


def test_against_the_cpu_the_wall_clock_counts(monkeypatch):
    chosen = runner.settings("crossover", "cpu", "cuda", "float32", [])
    result = measured(
        monkeypatch,
        case_of(series="add", size=8),
        chosen,
        {"fastdl cuda": rounds(*[2] * 5, wall=20), "fastdl cpu": rounds(*[10] * 5)},
    )
    assert result.ratio == pytest.approx(0.5)
    assert (result.series, result.size) == ("add", 8)


def test_settings_of_the_cpu_have_no_further_ways(monkeypatch):
    monkeypatch.setattr(runner, "tcmalloc", lambda: "libtcmalloc.so")
    chosen = runner.settings("attention", "torch", "cpu", "float32", list(device.HOWS))
    assert [(s.label, s.preload) for s in chosen] == [
        ("fastdl", None),
        ("torch", None),
        ("torch", "libtcmalloc.so"),
    ]


def test_cases_for_one_device():
    names = {where: {c.name for c in runner.cases_of("train", where)} for where in ("cpu", "cuda")}
    assert any("ResNet" in n for n in names["cuda"])
    assert not any("ResNet" in n for n in names["cpu"])
    for family in runner.families():
        cases = runner.cases_of(family, "cuda")
        assert len({(c.name, c.mode) for c in cases}) == len(cases), family


def test_crossing():
    sizes = [1, 10, 100, 1000]
    assert report.crossing(sizes, [1, 1, 10, 100], [10, 10, 10, 10]) == pytest.approx(100)
    # from 1/2 at 10 to 2 at 100: half way in logarithms
    assert report.crossing(sizes, [1, 5, 20, 100], [10, 10, 10, 10]) == pytest.approx(1000**0.5)
    assert report.crossing(sizes, [1, 1, 1, 1], [10, 10, 10, 10]) is None
    assert report.crossing(sizes, [20, 20, 20, 20], [10, 10, 10, 10]) == 1
    # the last crossing counts: small sizes may win by chance
    assert report.crossing(sizes, [20, 5, 20, 20], [10, 10, 10, 10]) == pytest.approx(1000**0.5)


def document(**machine: Any) -> dict[str, Any]:
    def result(size: int, cpu: float, gpu: float) -> dict[str, Any]:
        made = runner.Result(
            "crossover", f"add {size}", "f", gpu, cpu, None, cpu / gpu, None, None, None, None, None
        )
        made.fastdl_wall_us, made.peer_wall_us, made.series, made.size = gpu, cpu, "add", size
        return asdict(made)

    return {
        "machine": {
            "gpu": "GPU X",
            "driver": "1.2",
            "cpu": "CPU Y",
            "gflops": 1.0,
            "gbs": 1.0,
            "versions": {"fastdl": "0"},
            "date": "today",
        }
        | machine,
        "results": [result(10, 5.0, 10.0), result(1000, 20.0, 10.0)],
    }


def test_crossings_are_told_tabulated_and_drawn(tmp_path):
    (sentence,) = report.crossings(document())
    assert sentence == "add: the GPU is faster from about 100 elements on"
    table = report.markdown(document())
    assert sentence in table
    assert "GPU X, driver 1.2" in table
    assert "| add 10 | f | float32 | 10.0 | 5.0 | 0.50 |  | 10.0 | 5.0 |" in table
    report.plot(document(), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_documents_of_one_machine_join():
    first, second = document(), document()
    for d, way in ((first, "fastdl captured"), (second, "torch compiled")):
        d["results"] = d["results"][:1]
        d["results"][0] |= {
            "series": "",
            "more_us": {way: 3.0},
            "errors": {} if d is first else {"torch": "no"},
        }
    second["machine"]["versions"] = {"torch": "9"}
    joined = report.merged([first, second])
    (result,) = joined["results"]
    assert result["more_us"] == {"fastdl captured": 3.0, "torch compiled": 3.0}
    assert joined["machine"]["versions"] == {"fastdl": "0", "torch": "9"}
    table = report.markdown(joined)
    assert "| fastdl captured | torch compiled |" in table or "| torch compiled | fastdl captured |" in table
    assert "Not measured" in table
    assert "ratio 0.50" in report.summary(joined)


def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(crew: Any, chosen: Any, family: str, limits: Any, cases: Any, seconds: float) -> Any:
        for case in cases:
            asked.append(case.name)
            if len(asked) == 2:
                raise KeyboardInterrupt
            yield runner.Result(family, case.name, case.mode, *[1.0] * 9)

    monkeypatch.setattr(runner, "measure", measure)
    monkeypatch.setattr("fastdl.bench.machine.limits", lambda threads: {"gflops": 1.0, "gbs": 1.0})
    monkeypatch.setattr(
        runner, "cases_of", lambda family, where: [Case(n, "f", lambda lib: lambda: None) for n in "abc"]
    )
    command = ["bench", "--family", "overhead", "--json", str(tmp_path / "x.json"), "--resume"]
    assert cli.main(command) == 130
    kept = json.loads((tmp_path / "x.json").read_text())
    kept["machine"]["versions"]["torch"] = "9"
    (tmp_path / "x.json").write_text(json.dumps(kept))
    assert cli.main([*command, "--markdown", str(tmp_path / "x.md"), "--summary"]) == 0
    assert asked == ["a", "b", "b", "c"]
    assert json.loads((tmp_path / "x.json").read_text())["machine"]["versions"]["torch"] == "9"
    assert [r["case"] for r in json.loads((tmp_path / "x.json").read_text())["results"]] == ["a", "b", "c"]
    assert "overhead" in capsys.readouterr().out


def test_the_command_refuses_what_makes_no_sense(capsys):
    for arguments, words in (
        (["--against", "cpu"], "add --device cuda"),
        (["--dtype", "bfloat16"], "add --device cuda"),
        (["--device", "cuda"], "--device cuda: "),
    ):
        assert cli.main(["bench", "--family", "overhead", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_a_library_places_tensors_and_modules():
    import numpy as np

    lib = Library("fastdl", dtype="float64")
    assert str(lib.tensor(np.ones(2)).dtype) == "float64"
    assert str(lib.tensor(np.ones(2, np.int64)).dtype) == "int64"
    assert str(lib.place(lib.nn.Linear(2, 2)).weight.dtype) == "float64"


def day(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "bench" / "gpu_day.sh", "--dry-run", str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment | {"GPU_DAY_STATE": str(out / "state")},
    )


def test_a_day_survives_parts_that_fail(tmp_path):
    done = day(tmp_path, "losses", "sanitize", PYTHON="false")
    assert done.returncode == 1
    assert "FAILED: losses" in done.stdout
    assert "sanitize   ok" in done.stdout, "a later part goes on"
    assert (tmp_path / "losses.log").exists()
    late = day(tmp_path, "losses", GPU_DAY_SECONDS="20", PYTHON="false")
    assert late.returncode == 3
    assert "left for another call: losses" in late.stdout


@pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(),
    reason="needs the CUDA toolkit's headers, cmake and pybind11",
)
def test_a_day_builds_all_that_is_imported(tmp_path):
    """Of a fresh checkout, with the modules that are here in the compilers' place and emulated kernels on the GPU's."""
    emulation.extension()
    built = Path(kernels.cpu.__file__).parent
    sources = ("*.so*", "__pycache__")
    shutil.copytree(
        ROOT / "python" / "fastdl", tmp_path / "python/fastdl", ignore=shutil.ignore_patterns(*sources)
    )
    (tmp_path / "bench").mkdir()
    shutil.copy(ROOT / "bench" / "gpu_day.sh", tmp_path / "bench")
    tools = {
        "nvidia-smi": "echo 9.0",
        "nvcc": "true",
        "cmake": f'mkdir -p build/gpu; [ "$1" != --build ] || cp {built}/*.so* build/gpu',
    }
    for name, does in tools.items():
        tool = tmp_path / "tools" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{does}\n")
        tool.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'tools'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'tests/standin'}:{ROOT / 'tests'}",
        "FASTDL_CUDA_EMULATED": os.environ.get("FASTDL_CUDA_EMULATED") or str(ROOT / "build" / "emulation"),
    }
    done = subprocess.run(
        ["bash", tmp_path / "bench" / "gpu_day.sh", "--part", "build", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "level    " + kernels.cpu.level in done.stdout


def test_a_case_is_timed_on_a_gpu(gpu):
    import fastdl

    lib = Library("fastdl", "cuda")
    case = forward("exp", lambda lib: lib.module.exp, lambda rng: [rng.standard_normal(1000)])
    with device.prepare(lib):
        timer = device.Timer(lib, case)
        on_device, on_host = timer.sample(0.001)
        assert isinstance(timer.peak_memory(), int)
    fastdl.backends.cuda.matmul.allow_tf32 = fastdl.backends.cudnn.allow_tf32 = False
    assert len(on_device) >= 1
    assert set(on_device) == {0.0005}, "the stand-in's clock"
    assert min(on_host) > 0
    turns = list(map(id, itertools.islice(timer.rotation, 2 * device.MOST_COPIES)))
    assert len(set(turns)) == device.MOST_COPIES, "arrays copied to the stand-in are not counted"
    assert turns[: device.MOST_COPIES] == turns[device.MOST_COPIES :]


@pytest.mark.parametrize("case", runner.cases_of("order", "cuda"), ids=lambda case: case.name)
def test_a_case_keeps_to_its_device(gpu, case):
    case.make(Library("fastdl", "cuda"))()  # a tensor made elsewhere is refused


def test_a_call_is_recorded_and_replayed(gpu):
    import fastdl

    x, y = fastdl.ones(3, device="cuda"), fastdl.zeros(3, device="cuda")
    replay = device.captured(fastdl.cuda, lambda: y.copy_(x * 2))
    x.fill_(5)
    assert y.tolist() == [2.0] * 3
    replay()
    assert y.tolist() == [10.0] * 3

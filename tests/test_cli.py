"""The command line as a user calls it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

import fastdl
from fastdl import cli, demo
from test_datasets import write_mnist


def test_demo_learns_the_digits(tmp_path, capsys):
    accuracy = demo.run(None, str(tmp_path / "out"), epochs=None, seed=0)
    assert accuracy >= 0.985
    printed = capsys.readouterr().out
    assert "says" in printed
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "confusion.png",
        "lenet5.safetensors",
        "loss.png",
    ]
    for name in ("confusion.png", "loss.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert len(fastdl.load(tmp_path / "out" / "lenet5.safetensors")) == 10


def test_demo_on_idx_files(tmp_path, capsys):
    write_mnist(tmp_path, n=100)
    assert (
        cli.main(["demo", "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--epochs", "1"]) == 0
    )
    assert "100 images to learn from, 100 held out" in capsys.readouterr().out


def test_demo_names_a_missing_file(tmp_path, capsys):
    assert cli.main(["demo", "--data", str(tmp_path)]) == 1
    assert "no train-images-idx3-ubyte" in capsys.readouterr().err


def test_demo_refuses_images_of_another_kind(tmp_path, capsys):
    write_mnist(tmp_path, n=10, labels=26)
    assert cli.main(["demo", "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "labels must be 0 to 9" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_demo_asks_for_its_directory_before_it_trains(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "fit", None)
    assert cli.main(["demo", "--output", str(tmp_path / "file")]) == 1
    assert "file: File exists" in capsys.readouterr().err
    monkeypatch.setattr(demo.os, "access", lambda path, mode: False)  # root may write anywhere
    assert cli.main(["demo", "--output", str(tmp_path / "out")]) == 1
    assert "out: Permission denied" in capsys.readouterr().err


def test_demo_without_its_extra(tmp_path, capsys, monkeypatch):
    """No bar and no pictures, but a line per epoch, the checkpoint, and what to install."""
    for name in ("tqdm", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    write_mnist(tmp_path, n=64)
    out = tmp_path / "out"
    assert cli.main(["demo", "--data", str(tmp_path), "--output", str(out), "--epochs", "2"]) == 0
    printed = capsys.readouterr()
    assert "epoch 2/2: loss " in printed.err
    assert "pip install 'fastdl[demo]'" in printed.out
    assert [p.name for p in out.iterdir()] == ["lenet5.safetensors"]


def test_ctrl_c_ends_with_a_line(tmp_path):
    # Where a shell started the tests in the background, SIGINT is ignored, by their children too.
    command = [sys.executable, "-c", "import signal as s; s.signal(s.SIGINT, s.default_int_handler)\n"]
    command[-1] += "import runpy; runpy.run_module('fastdl', run_name='__main__', alter_sys=True)"
    command += ["demo", "--output", str(tmp_path), "--epochs", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("LeNet-5")  # it has begun
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("\nfastdl: interrupted\n")
    assert "Traceback" not in errors


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "fastdl", "bench", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_demo_refuses_zero_epochs(capsys):
    assert cli.main(["demo", "--epochs", "0"]) == 2
    assert "--epochs must be at least 1" in capsys.readouterr().err


def test_info(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("CPU", "level", "threads", "cache", "CUDA"):
        assert word in printed


def test_bench_lists_and_refuses(capsys):
    assert cli.main(["bench", "--family", "overhead", "--list"]) == 0
    assert "relu 16x16" in capsys.readouterr().out
    assert cli.main(["bench", "--family", "nothing"]) == 2
    assert "no family 'nothing'" in capsys.readouterr().err
    assert cli.main(["bench", "--plot", "x.png"]) == 2


def test_bench_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["bench", "--family", "overhead", "--against", "torch"]) == 2
    assert "pip install 'fastdl[compare]'" in capsys.readouterr().err


def test_without_a_command(capsys):
    assert cli.main([]) == 2
    assert "train LeNet-5" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fastdl {fastdl.__version__}\n"


def test_bench_measures(tmp_path, capsys):
    """A short run writes a file that the table and the plot can be made from."""
    pytest.importorskip("torch")
    out = tmp_path / "out.json"
    arguments = [
        "bench",
        "--family",
        "overhead",
        "--case",
        "relu 16x16",
        "--against",
        "torch",
        "--seconds",
        "0.01",
    ]
    assert cli.main([*arguments, "--json", str(out), "--plot", str(tmp_path / "out.png")]) == 0
    document = json.loads(out.read_text())
    assert document["machine"]["threads"] == 2
    assert document["machine"]["gflops"] > 1
    for result in document["results"]:
        assert result["fastdl_us"] > 0
        assert result["ratio"] == pytest.approx(result["peer_us"] / result["fastdl_us"])
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")

    # What was measured stays, the rest is added, the pictures are made anew.
    arguments[arguments.index("relu 16x16")] = "16x16"
    table = tmp_path / "out.md"
    assert cli.main([*arguments, "--json", str(out), "--resume", "--markdown", str(table)]) == 0
    resumed = json.loads(out.read_text())["results"]
    assert resumed[: len(document["results"])] == document["results"]
    assert len(resumed) > len(document["results"])
    assert "| relu 16x16 | fb |" in table.read_text()
    assert cli.main(["bench", "--resume"]) == 2
    assert "--json" in capsys.readouterr().err


def test_bench_measures_memory():
    """By the allocator's count, or the process's; a matrix of scores shows, the fused kernel holds none."""
    import numpy as np

    from fastdl.bench import runner, worker
    from fastdl.bench.case import Library

    x = fastdl.ones(1_000_000)
    held = worker.peak_memory(fastdl, lambda: (x + x) * x)
    assert 8 << 20 <= held < 9 << 20
    held = worker.peak_memory(np, lambda: np.ones(1 << 23).sum())
    assert held is None or 60 << 20 < held < 100 << 20
    library = Library("fastdl")
    cases = {case.name: case for case in runner.cases_of("attention") if case.memory}
    held = [
        worker.peak_memory(fastdl, cases[f"{name}B1 H2 L1024 D64"].make(library))
        for name in ("", "written out ")
    ]
    scores = 2 * 1024 * 1024 * 4
    assert held[0] < scores < 2 * scores < held[1]


def test_every_family_can_be_built_by_fastdl():
    """Each benchmark case runs once: a renamed function shows here, not on the day of the measurement."""
    from fastdl.bench import runner
    from fastdl.bench.case import Library

    library = Library("fastdl")
    for family in runner.families():
        for case in runner.cases_of(family):
            assert case.mode in ("f", "fb", "step")
            if max(case.flops / 1e9, case.bytes / 1e8) < 0.5:
                case.make(library)()

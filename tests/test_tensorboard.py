"""``utils.tensorboard``: files read back, and the same bytes as PyTorch writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdl

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from fastdl.utils.tensorboard import SummaryWriter
from fastdl.utils.tensorboard.summary import hparams

RNG = np.random.default_rng(0)
NUMBERS = RNG.standard_normal((50, 4)).astype(np.float32)
IMAGE = RNG.random((3, 5, 7)).astype(np.float32)
IMAGES = RNG.random((11, 1, 4, 6)).astype(np.float32)
LABELS, CHANCES = RNG.integers(0, 2, 40), RNG.random(40).astype(np.float32)


def events(folder):
    """All events below a folder but the first of each file, which names the program; in the order of files."""
    found = []
    for path in sorted(Path(folder).rglob("events*")):
        found += list(LegacyEventFileLoader(str(path)).Load())[1:]
    return found


def fill(writer, tensor):
    """The calls of one program; ``tensor`` makes tensors of the library that ``writer`` is of."""
    writer.add_scalar("loss/train", 0.25, 1, walltime=7.0)
    writer.add_scalar("loss/train", tensor(np.float32([0.125])), 2, walltime=8.0)
    writer.add_scalar("new", np.float64(1 / 3), 2, 8.0, new_style=True)
    writer.add_scalar("exact", 1 / 3, 2, 8.0, new_style=True, double_precision=True)
    writer.add_scalars("both/of", {"a": 1, "b": tensor(np.float32(2))}, 3, walltime=9.0)
    writer.add_histogram("weights", tensor(NUMBERS), 1, walltime=7.0)
    writer.add_histogram("constant", np.zeros(3), 1, walltime=7.0)
    writer.add_histogram("whole", tensor(np.arange(9)), 1, bins="auto", walltime=7.0)
    writer.add_histogram("few", tensor(NUMBERS), 1, bins=10, max_bins=3, walltime=7.0)
    writer.add_histogram_raw("raw", 0.0, 3.0, 3, 4.0, 6.0, [1.0, 3.0], [1, 2], 1, 7.0)
    writer.add_image("chw", tensor(IMAGE), 1, 7.0)
    writer.add_image("hwc", tensor(IMAGE.transpose(1, 2, 0).copy()), 1, 7.0, dataformats="HWC")
    writer.add_image("hw", tensor(IMAGE[0]), 1, 7.0, dataformats="HW")
    writer.add_image("bytes", tensor((IMAGE * 200).astype(np.uint8)), 1, 7.0)
    writer.add_image("bright", tensor(IMAGE * 3 - 1), 1, 7.0)
    writer.add_images("grid", tensor(IMAGES), 1, 7.0)
    writer.add_images("nhwc", tensor(IMAGES.transpose(0, 2, 3, 1).copy()), 1, 7.0, dataformats="NHWC")
    writer.add_audio("sound", tensor(IMAGE.reshape(1, -1)), 1, 8000, 7.0)
    writer.add_text("words", "**five** words für dich", 1, 7.0)
    writer.add_pr_curve("curve", tensor(LABELS), tensor(CHANCES), 1, walltime=7.0)
    writer.add_pr_curve("weighed", LABELS, CHANCES, 1, 33, np.arange(40.0), 7.0)
    writer.add_pr_curve_raw("counts", *np.arange(24.0).reshape(6, 4), 1, 4, walltime=7.0)


def test_files_are_pytorch_s(tmp_path):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch.utils.tensorboard")
    for name, writer, tensor in (
        ("ours", SummaryWriter, fastdl.tensor),
        ("theirs", theirs.SummaryWriter, torch.tensor),
    ):
        with writer(str(tmp_path / name), purge_step=1, filename_suffix=".end") as w:
            fill(w, tensor)
            assert w.get_logdir() == str(tmp_path / name)
    got, want = events(tmp_path / "ours"), events(tmp_path / "theirs")
    assert len(got) == len(want) == 25
    for a, b in zip(got, want, strict=True):
        if not a.HasField("summary"):
            a.wall_time = b.wall_time = 0
        assert a.SerializeToString() == b.SerializeToString(), b
    folders = [
        sorted(
            re.sub(r"\d{10}.*\.\d+$", "", str(p.relative_to(tmp_path / name).parent))
            for p in (tmp_path / name).rglob("*")
        )
        for name in ("ours", "theirs")
    ]
    assert folders[0] == folders[1]
    assert all(p.name.endswith(".end") for p in (tmp_path / "ours").glob("events*"))


def test_hparams_are_pytorch_s(tmp_path):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch.utils.tensorboard.summary")
    settings = {"lr": 0.1, "layers": 3, "name": "adam", "nesterov": True, "left": None}
    domains = {"lr": [0.1, 0.01], "name": ["adam", "sgd"]}
    for ours, other in zip(
        hparams({**settings, "t": fastdl.tensor(2.0)}, {"loss": 0}, domains),
        theirs.hparams({**settings, "t": torch.tensor([2.0])}, {"loss": 0}, domains),
        strict=True,
    ):
        assert ours == other
    with SummaryWriter(tmp_path) as writer:
        writer.add_hparams(settings, {"loss": 0.5}, run_name="first")
    assert (tmp_path / "first").is_dir()
    read = EventAccumulator(str(tmp_path / "first")).Reload()
    assert read.Scalars("loss")[0].value == 0.5
    for wrong in ([{"x": [1]}, {}], [{"x": 1}, {}, {"y": [1]}], [3, {}], [{}, None]):
        with pytest.raises((TypeError, ValueError), match="add_hparams"):
            hparams(*wrong)


def test_read_back(tmp_path):
    with SummaryWriter(log_dir=tmp_path, flush_secs=1) as writer:
        for step in range(5):
            writer.add_scalar("loss", fastdl.tensor(1.0 / (step + 1), requires_grad=True), step)
        writer.add_scalar("half", fastdl.tensor(0.5, dtype=fastdl.bfloat16))
        writer.add_tensor("all", fastdl.tensor([1.0, 2.0]))
        writer.flush()
        read = EventAccumulator(str(tmp_path)).Reload()
        assert [e.step for e in read.Scalars("loss")] == list(range(5))
        assert read.Scalars("loss")[3].value == 0.25
        assert read.Scalars("half")[0].value == 0.5
        assert "all" in read.Tags()["tensors"]
        writer.close()
        writer.add_scalar("later", 1.0)  # opens a new file
    assert EventAccumulator(str(tmp_path)).Reload().Scalars("later")[0].value == 1.0


def test_figures(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = [plt.figure(figsize=(1, 2), dpi=20) for _ in range(3)]
    figures[0].add_subplot().plot([1, 2])
    with SummaryWriter(tmp_path) as writer:
        writer.add_figure("one", figures[0], 1, close=False)
        assert plt.fignum_exists(figures[0].number)
        writer.add_figure("three", figures, 2)
    assert not any(plt.fignum_exists(figure.number) for figure in figures)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(read.Images(t)[0].height, read.Images(t)[0].width) for t in ("one", "three")] == [
        (40, 20),
        (40, 60),
    ]


def test_embedding_is_pytorch_s(tmp_path):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch.utils.tensorboard")
    images = RNG.random((5, 3, 2, 2)).astype(np.float32)
    for name, writer, tensor in (
        ("ours", SummaryWriter, fastdl.tensor),
        ("theirs", theirs.SummaryWriter, torch.tensor),
    ):
        with writer(str(tmp_path / name)) as w:
            w.add_embedding(tensor(NUMBERS[:5]), list("abcde"), tensor(images), 3, "a/b")
            w.add_embedding(tensor(NUMBERS[:2]), [["x", 1], ["y", 2]], metadata_header=["letter", "n"])
    other = tmp_path / "theirs"
    files = [p for p in sorted(other.rglob("*")) if p.is_file() and not p.name.startswith("events")]
    assert len(files) == 6
    for path in files:
        ours = tmp_path / "ours" / path.relative_to(other)
        if path.suffix == ".png":
            image = pytest.importorskip("PIL.Image")
            got, want = (np.asarray(image.open(p)) for p in (ours, path))
            np.testing.assert_array_equal(got, want)
        else:
            assert ours.read_text() == path.read_text()


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SummaryWriter(comment="_lr1") as writer:
        assert re.fullmatch(r"runs/\w{3}\d\d_\d\d-\d\d-\d\d_.+_lr1", writer.get_logdir())
        assert writer.log_dir == writer.get_logdir()
    assert len(list(tmp_path.glob("runs/*/events*"))) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda w: w.add_scalar("x", "high"),
            "add_scalar: scalar_value must be a Tensor, an array or numbers, got str",
        ),
        (
            lambda w: w.add_scalar("x", [1.0, 2.0]),
            r"add_scalar: scalar_value must be one number, got shape \(2,\)",
        ),
        (lambda w: w.add_histogram("x", []), "add_histogram: values must hold at least one"),
        (lambda w: w.add_histogram("x", [np.nan]), "add_histogram: values must be finite"),
        (lambda w: w.add_image("x", IMAGE, dataformats="NCHW"), "add_image: dataformats must name each axis"),
        (lambda w: w.add_image("x", IMAGE[:2]), "add_image: an image must have 1, 3 or 4 channels, got 2"),
        (lambda w: w.add_audio("x", np.ones((2, 3))), "add_audio: snd_tensor must be one channel"),
        (
            lambda w: w.add_pr_curve("x", [0, 1], [0.5]),
            "add_pr_curve: labels and predictions must be of one size",
        ),
        (lambda w: w.add_embedding(np.ones(3)), "add_embedding: mat must have a row per point"),
        (
            lambda w: w.add_embedding(np.ones((3, 2)), ["a"]),
            "add_embedding: metadata must have a label per point",
        ),
        (lambda w: w.add_embedding(np.ones((3, 2)), None, IMAGES), "add_embedding: label_img must be square"),
        (lambda w: w.add_histogram_raw("x", 0, 1, 1, 1, 1, [1], []), "add_histogram_raw: bucket_limits"),
        (lambda w: w.add_graph(None), "SummaryWriter.add_graph: models run as they are"),
    ],
)
def test_messages(call, message, tmp_path):
    with (
        SummaryWriter(tmp_path) as writer,
        pytest.raises((TypeError, ValueError, NotImplementedError), match=message),
    ):
        call(writer)


def test_without_the_package_the_import_says_what_to_install():
    program = (
        "import sys; sys.modules['tensorboard'] = None; import fastdl\n"
        "assert not [n for n in sys.modules if 'utils.tensorboard' in n]\n"
        "try: from fastdl.utils.tensorboard import SummaryWriter\n"
        "except ImportError as error: assert 'pip install tensorboard' in str(error)\n"
        "else: raise SystemExit('imported')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

"""The examples in a small size: they run, write what they say, and continue bit for bit."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fastdl

FOLDER = Path(__file__).parents[1] / "examples"
TEXT = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(300))
SMALL = {
    "char_rnn": "--size 16 --batch 4 --every 20 --dropout 0.1 --characters 80",
    "gpt": "--size 16 --layers 2 --heads 2 --length 24 --batch 4 --every 20 --dropout 0.1 --characters 80",
    "seq2seq": "--size 16 --batch 8 --every 20",
    "forecast": "--size 4",
}
PICTURES = {
    "char_rnn": ["loss.png"],
    "gpt": ["attention.png", "loss.png"],
    "seq2seq": ["alignment.png", "loss.png"],
    "forecast": ["forecast.png", "loss.png"],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call an example as the command line does: its name, then options; its folder is tmp_path / out."""
    monkeypatch.syspath_prepend(FOLDER)
    (tmp_path / "text.txt").write_text(TEXT)

    def call(name, options, out="out"):
        arguments = [*SMALL[name].split(), *options.split(), "--out", str(tmp_path / out)]
        if name in ("char_rnn", "gpt") and "--text" not in options:
            arguments += ["--text", str(tmp_path / "text.txt")]
        return import_module(name).main(arguments)

    yield call
    for name in ("common", *SMALL):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("char_rnn", "--cell LSTM --layers 2"),
        ("char_rnn", "--cell GRU --layers 3 --optimizer Adagrad"),
        ("char_rnn", "--cell RNN --layers 1 --length 80"),
        ("gpt", ""),
        ("seq2seq", "--score additive"),
        ("seq2seq", "--score multiplicative"),
    ],
    ids=lambda value: value.replace("--", "") or None,
)
def test_resume_continues_bit_for_bit(run, tmp_path, name, options):
    """40 steps at a stretch, and 20, and 20 more in what could be another process on another day.

    With pieces of 80 characters the text ends within these steps, and is begun again.
    """
    whole = run(name, f"{options} --steps 40", out="whole")
    run(name, f"{options} --steps 20")
    fastdl.manual_seed(99)  # whatever the library's state is by then
    parts = run(name, "--steps 40 --resume")
    assert len(whole["losses"]) == 40
    assert parts["losses"] == whole["losses"]
    assert whole["losses"][-1] < whole["losses"][0]
    weights, expected = parts["model"].state_dict(), whole["model"].state_dict()
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(weights[key].numpy(), value.numpy())
    a, b = (fastdl.load(tmp_path / out / "checkpoint.safetensors") for out in ("whole", "out"))
    assert a["optimizer"]["state"].keys() == b["optimizer"]["state"].keys()
    for number, state in a["optimizer"]["state"].items():
        for key, value in state.items():
            np.testing.assert_array_equal(b["optimizer"]["state"][number][key].numpy(), value.numpy())


@pytest.mark.parametrize("name", SMALL)
def test_outputs(run, tmp_path, capsys, name):
    """Every file that the last line names is there, pictures where matplotlib is."""
    run(name, "--steps 5")
    printed = capsys.readouterr().out
    named = printed.rstrip().splitlines()[-1].partition(": ")[2].split(", ")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(named)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert "pip install 'fastdl[demo]'" in printed
        return
    assert set(PICTURES[name]) <= set(named)
    for picture in PICTURES[name]:
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", SMALL)
def test_without_the_demo_extra(run, tmp_path, capsys, monkeypatch, name):
    """Neither bar nor pictures, but lines, the checkpoint, and what to install."""
    for package in ("tqdm", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    run(name, "--steps 100")
    printed = capsys.readouterr().out
    assert "step 100/100 " in printed
    assert "pip install 'fastdl[demo]'" in printed
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_log_has_lines_and_no_bar(run, capsys):
    """The tests' stderr is no terminal, so tqdm's bar, which is redrawn many times a second, stays away."""
    pytest.importorskip("tqdm")
    run("forecast", "--steps 200")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "step 200/200 validation" in printed.out


def test_pictures_show_means_in_the_middle_of_their_steps(run, tmp_path, monkeypatch):
    """The running mean of a straight line is the line itself; the held-out losses' dots are inside the frame."""
    plt = pytest.importorskip("matplotlib.pyplot")
    common = import_module("common")
    close = plt.close
    monkeypatch.setattr(plt, "close", lambda figure: None)
    losses = [5 - step / 100 for step in range(1, 401)]
    common.plot_losses(losses, [(200, 3.0), (400, 0.5)], tmp_path / "loss.png", "nats")
    axes = plt.gcf().axes[0]
    x, y = axes.lines[1].get_data()
    np.testing.assert_allclose(y, 5 - x / 100)
    assert axes.get_xlim()[1] > 400
    assert axes.get_ylim()[0] < 0.5
    close("all")


def test_unknown_characters_are_named(run, capsys):
    run("seq2seq", "--steps 2 --translate 2001-02-03 \u20ac5")
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("  2001-02-03 ", "  \u20ac5 "))
    ]
    assert "read without" not in lines[-2]
    assert lines[-1].endswith("(read without '\u20ac': no date of the training has it)")
    for name, option in (("gpt", "--prompt"), ("char_rnn", "--start")):
        run(name, f"--steps 2 --characters 3 {option} def\u20ac")
        assert f"{option}: '\u20ac' is not in the text" in capsys.readouterr().out


def test_a_finished_model_writes_without_training(run, capsys):
    run("gpt", "--steps 5")
    before = capsys.readouterr().out
    assert "held-out text" in before
    result = run("gpt", "--steps 5 --resume --temperature 0 --prompt def")
    first = capsys.readouterr().out
    assert len(result["losses"]) == 5
    assert "\ndef" in first
    assert "nothing left to train after step 5\n" in first
    run("gpt", "--steps 5 --resume --temperature 0 --prompt def")
    assert (
        first.split("\ndef")[1].split("80 characters")[0] in capsys.readouterr().out
    )  # the likeliest, always


def test_generation_with_the_cache_equals_generation_without(run):
    """What the cache returns is what the whole text gives; beyond the longest context the text is read again."""
    gpt = import_module("gpt")
    fastdl.manual_seed(0)
    model = gpt.GPT(11, 8, 12, 2, 3).eval()
    symbols = model.generate([1, 2, 3], temperature=0, top_k=0, seed=0)
    numbers = [1, 2, 3]
    with fastdl.no_grad():
        for _ in range(30):
            if len(numbers) > 8:
                numbers = numbers[-4:]
            numbers.append(int(model(fastdl.tensor([numbers]))[0, -1].argmax()))
            assert next(symbols) == numbers[-1]


def test_choice_of_symbols(run):
    common = import_module("common")
    generator = fastdl.Generator().manual_seed(1)
    logits = fastdl.tensor([0.0, 3.0, 2.0, 1.0])
    assert common.choose(logits, 0, 0, generator) == 1
    drawn = [common.choose(logits, 1.0, 2, generator) for _ in range(300)]
    assert set(drawn) == {1, 2}
    assert 0.55 < drawn.count(1) / 300 < 0.9  # e / (1 + e) = 0.73
    assert {common.choose(logits, 5.0, 0, generator) for _ in range(300)} == {0, 1, 2, 3}


def test_alphabet_and_text(run, tmp_path):
    common = import_module("common")
    alphabet = common.Alphabet.of("hello \u00e9")
    assert alphabet.decode(alphabet.encode("hello, \u00e9zo").tolist()) == "hello \u00e9o"
    assert alphabet.encode("").shape == (0,)
    text = common.read_text(None)
    assert text.isascii()
    assert len(text) > 1_000_000
    assert common.read_text(str(tmp_path / "text.txt")) == TEXT


def test_messages(run, tmp_path):
    with pytest.raises(SystemExit, match="train first"):
        run("char_rnn", "--resume")
    run("char_rnn", "--steps 2")
    (tmp_path / "text.txt").write_text(TEXT + "!")
    with pytest.raises(SystemExit, match="not the one that the checkpoint was trained on"):
        run("char_rnn", "--resume")
    with pytest.raises(SystemExit, match=r"--text .*nothing\.txt: No such file"):
        run("gpt", f"--text {tmp_path}/nothing.txt")
    with pytest.raises(SystemExit, match="2"):
        run("seq2seq", "--translate \u5e74")
    (tmp_path / "text.txt").write_text("def")
    for name in ("char_rnn", "gpt"):
        with pytest.raises(SystemExit, match="too short"):
            run(name, "")


def test_dates_are_right(run):
    """Spellings give the date back by independent rules, and the test's days are not in the training set."""
    seq2seq = import_module("seq2seq")
    rng = np.random.default_rng(0)
    train, test = seq2seq.pairs(300, rng, test=False), seq2seq.pairs(300, rng, test=True)
    assert not {iso for _, iso in train} & {iso for _, iso in test}
    for text, iso in train + test:
        assert seq2seq.ALPHABET.decode(seq2seq.ALPHABET.encode(text).tolist()) == text
        year, month, day = iso.split("-")
        assert year in text or year[2:] in text
        assert str(int(day)) in text
        assert seq2seq.MONTHS[int(month) - 1][:3].lower() in text.lower() or str(int(month)) in text


def test_forecast_knows_nothing_of_the_future(run):
    """Least squares and monthly means of the training years do not change when later values do."""
    forecast = import_module("forecast")
    dates, values = forecast.read_series()
    assert len(values) == 732
    assert dates[0] == 1950
    windows = np.lib.stride_tricks.sliding_window_view(values, 12)[:-1]
    known = dates[12:] < forecast.VALIDATION
    changed = np.where(dates < forecast.VALIDATION, values, values + 100)
    again = np.lib.stride_tricks.sliding_window_view(changed, 12)[:-1]
    np.testing.assert_array_equal(
        forecast.autoregression(windows, values[12:], known)[known],
        forecast.autoregression(again, changed[12:], known)[known],
    )
    training = dates < forecast.VALIDATION
    np.testing.assert_array_equal(
        forecast.monthly_means(values, dates, training), forecast.monthly_means(changed, dates, training)
    )


def test_forecast_beats_the_simple_rules(run):
    errors = run("forecast", "--size 32 --steps 400 --ahead 1")
    assert errors["LSTM"] < 0.7 * errors["the last value again"]
    assert errors["linear regression"] < 0.7 * errors["mean of the month"]


def test_seq2seq_learns(run, capsys):
    """In a small size it has not learned all by then, but the loss says that it is on its way."""
    result = run("seq2seq", "--size 48 --batch 32 --lr 0.005 --steps 120 --every 120 --translate 2001-02-03")
    assert np.mean(result["losses"][-10:]) < 0.5 * np.mean(result["losses"][:10])
    assert "  2001-02-03  " in capsys.readouterr().out

"""What the examples share: a text, a progress bar, checkpoints, the picture of a loss."""

from __future__ import annotations

import argparse
import math
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastdl

# ------------------------------------------------------------------------------------------ options


def parser(
    description: str | None, out: str, steps: int, every: int = 500, resume: bool = True
) -> argparse.ArgumentParser:
    """The options that the examples share; ``description`` is a module's docstring."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", metavar="DIR", default=out, help=f"where to write (default: {out})")
    made.add_argument("--steps", type=int, default=steps, help=f"train up to this step (default: {steps})")
    made.add_argument("--seed", type=int, default=0, help="of weights and random choices (default: 0)")
    if resume:
        made.add_argument(
            "--every", type=int, default=every, help=f"steps between reports (default: {every})"
        )
        made.add_argument(
            "--resume",
            action="store_true",
            help="go on from the checkpoint in DIR, with the model and the data that it was trained with",
        )
    return made


# --------------------------------------------------------------------------------------------- text


def read_text(file: str | None) -> str:
    """A file, or the source of Python's standard library: some megabytes that every machine with Python has.

    Of the library it is the modules that are no packages, in the order of their names, ASCII only, without the one
    that describes the machine.
    """
    if file is not None:
        try:
            return Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise SystemExit(f"--text {file}: {error.strerror}") from error
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = [m.read_text("ascii", "ignore") for m in modules if not m.name.startswith("_sysconfig")]
    text = "".join(parts)
    if len(text) < 100_000:
        raise SystemExit("this Python comes without the source of its library; give a text with --text FILE")
    return text


class Alphabet:
    """The characters of a text, numbered."""

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._codes = np.array([ord(c) for c in characters])

    @classmethod
    def of(cls, text: str) -> Alphabet:
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> fastdl.Tensor:
        """Numbers of the characters, int64 (length,); characters that are not in the alphabet are left out."""
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        places = np.searchsorted(self._codes, codes).clip(max=len(self) - 1)
        return fastdl.from_numpy(places[self._codes[places] == codes])

    def unknown(self, text: str) -> str:
        """The characters that ``encode`` leaves out."""
        return "".join(sorted(set(text) - set(self.characters)))

    def decode(self, numbers: Sequence[int]) -> str:
        return "".join(self.characters[i] for i in numbers)


def note_unknown(option: str, text: str, alphabet: Alphabet) -> None:
    """Say which characters of an option's text the network never saw: it does not read them."""
    unknown = alphabet.unknown(text)
    if unknown:
        print(f"{option}: {unknown!r} is not in the text that was learned from, and is left out")


def choose(logits: fastdl.Tensor, temperature: float, top_k: int, generator: fastdl.Generator) -> int:
    """A symbol drawn from softmax(logits / temperature), from the ``top_k`` likeliest only if that is not 0.

    A temperature below 1 prefers what is likely anyway; 0 always takes the likeliest.
    """
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        least = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < least, -math.inf)
    return int(fastdl.multinomial((logits / temperature).softmax(-1), 1, generator=generator))


# ----------------------------------------------------------------------------------------- progress


class Progress:
    """Iterates over step numbers behind tqdm's bar, or with a line now and then without a terminal or tqdm."""

    def __init__(self, start: int, stop: int) -> None:
        self._steps = range(start + 1, stop + 1)
        self._text = ""
        self._bar: Any = None
        if not self._steps:
            print(f"nothing left to train after step {start}")
        elif sys.stderr.isatty():  # in a file the bar's updates would be one long line
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(initial=start, total=stop, unit="step", dynamic_ncols=True)

    def __iter__(self) -> Iterator[int]:
        for step in self._steps:
            yield step
            if self._bar is not None:
                self._bar.update()
            elif step % 100 == 0:
                print(f"step {step}/{self._steps[-1]} {self._text}", flush=True)
        if self._bar is not None:
            self._bar.close()

    def show(self, text: str) -> None:
        """Put ``text`` beside the bar."""
        self._text = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def write(self, text: str) -> None:
        """Print above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)


# -------------------------------------------------------------------------------------- checkpoints

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(folder: Path, model: Any, optimizer: Any, **rest: Any) -> None:
    """All that the next step depends on: weights, the optimizer's memory, the random numbers' state, and ``rest``.

    The file is replaced as a whole: there is a good checkpoint at any time, whenever the run may be cut off.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": fastdl.get_rng_state(),
        **rest,
    }
    fastdl.save(state, folder / CHECKPOINT)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    path = folder / CHECKPOINT
    if not path.exists():
        raise SystemExit(f"--resume: there is no {path}; train first, or name its folder with --out")
    loaded: dict[str, Any] = fastdl.load(path)
    return loaded


def begin(given: argparse.Namespace) -> tuple[Path, dict[str, Any] | None, dict[str, Any]]:
    """The folder for results, the checkpoint to go on from (None: train anew), and the settings to train with."""
    folder = Path(given.out)
    checkpoint = load_checkpoint(folder) if given.resume else None
    folder.mkdir(parents=True, exist_ok=True)
    return folder, checkpoint, vars(given) if checkpoint is None else checkpoint["config"]


def restore(checkpoint: dict[str, Any], model: Any, optimizer: Any) -> None:
    """Put model, optimizer and random numbers into the state of ``checkpoint``."""
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    fastdl.set_rng_state(checkpoint["rng"])


# ----------------------------------------------------------------------------------------- pictures


def pyplot() -> Any:
    """matplotlib.pyplot for files, or None with a word about it where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print("(no pictures: they need matplotlib, pip install 'fastdl[demo]')")
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plot_losses(
    losses: Sequence[float],
    validation: Sequence[tuple[int, float]],
    path: Path,
    unit: str,
    held_out: str = "held-out text",
    log: bool = False,
) -> list[Path]:
    """Training loss of each step (pale), its running mean, and the loss on held-out data; returns what was written.

    ``log``: on a logarithmic axis, for losses that go to zero.
    """
    plt = pyplot()
    if plt is None or not losses:
        return []
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="tab:blue", alpha=0.2, linewidth=0.7)
    width = max(1, len(losses) // 50)
    if len(losses) >= 2 * width:
        mean = np.convolve(losses, np.full(width, 1 / width), "valid")
        middles = steps[: len(mean)] + (width - 1) / 2
        axes.plot(middles, mean, color="tab:blue", label=f"training (mean of {width} steps)")
        axes.legend(frameon=False)
    if validation:
        style = "o-" if len(validation) <= 30 else "-"
        axes.plot(*zip(*validation, strict=True), style, color="tab:orange", label=held_out)
        axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    if log:
        axes.set_yscale("log")
    else:
        low, high = np.quantile(losses, [0.0, 0.995])  # the first steps would leave the rest no room
        low = min([low, *(loss for _, loss in validation)])
        axes.set_ylim(max(0.0, low - 0.1 * (high - low)), high + 0.05 * (high - low))
    axes.set_xlim(0, 1.02 * len(losses))  # with room for the last dot
    bare_frame(axes)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return [path]


def bare_frame(axes: Any) -> None:
    """A light grid, and no lines at the top and the right."""
    axes.grid(color="0.92")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def report_written(folder: Path, paths: Sequence[Path]) -> None:
    print(f"written to {folder}/: {', '.join(p.name for p in paths)}")

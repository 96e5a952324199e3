"""Dates as people write them into ISO form: "the 3rd of March, 1999" -> 1999-03-03.

    python examples/seq2seq.py                                     under a minute: train, count, draw the alignment
    python examples/seq2seq.py --resume --translate "12 Sept 87"   translates yours, if the checkpoint is trained
    python examples/seq2seq.py --score multiplicative              Luong's attention instead of Bahdanau's
    python examples/seq2seq.py --resume --steps 1200               goes on where the last run ended, bit for bit

Sequence to sequence with attention: an encoder reads the characters of the date in both directions; a decoder writes
the characters of the answer, and before each one it looks at the encoder's states where its attention says. After
Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate" (2015), with the
decoder of Luong, Pham and Manning (2015): it attends with its state after a step, so that in training, where the right
characters are known, all steps are one call.

The dates are made by rule. Every tenth day of the calendar is kept for the test, in all spellings.
"""

from __future__ import annotations

import datetime
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import common
import fastdl
from fastdl import nn
from fastdl.nn import functional as F

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FIRST, LAST = datetime.date(1930, 1, 1).toordinal(), datetime.date(2029, 12, 31).toordinal()
LONGEST = 12  # no answer is longer

# Three control characters stand for padding, the beginning and the end of an answer; they are symbols 0, 1 and 2.
PAD, BEGIN, END = "\0", "\1", "\2"
ALPHABET = common.Alphabet.of(PAD + BEGIN + END + " ',-./0123456789" + string.ascii_letters)


# -------------------------------------------------------------------------------------------- dates


def spelling(date: datetime.date, rng: np.random.Generator) -> str:
    """One of many ways to write a date.

    Years of two digits are those of 1930 to 2029; 3/4/1999 is the 4th of March (American), 3.4.1999 the 3rd of April.
    """
    d, y = date.day, date.year
    month, name = date.month, MONTHS[date.month - 1]
    ending = "th" if 10 < d < 20 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    short = "Sept" if month == 9 and rng.random() < 0.5 else name[:3]
    word = name if rng.random() < 0.5 else short
    year = f"{y}" if rng.random() < 0.7 else f"{y % 100:02}"
    old = year if len(year) == 4 else f"'{year}"
    texts = [
        f"{d} {word} {old}",
        f"{d}{ending} {word} {old}",
        f"the {d}{ending} of {name} {y}",
        f"{d}{ending} of {word}, {y}",
        f"{word} {d}, {y}",
        f"{word} {d}{ending}, {y}",
        f"{short}. {d}, {old}",
        f"{month}/{d}/{year}",
        f"{month:02}/{d:02}/{year}",
        f"{d}.{month}.{year}",
        f"{d:02}.{month:02}.{year}",
        f"{d}. {word} {y}",
        f"{y}-{month:02}-{d:02}",
        f"{y}, {word} {d}",
        f"{d:02}-{short}-{year}",
        f"{d} {word} {year}",
    ]
    text = texts[rng.integers(len(texts))]
    if text[0].isalpha() or rng.random() < 0.2:
        weekday = DAYS[date.weekday()]
        if rng.random() < 0.3:
            text = f"{weekday if rng.random() < 0.5 else weekday[:3]}, {text}"
    return text.lower() if rng.random() < 0.3 else text


def pairs(count: int, rng: np.random.Generator, test: bool) -> list[tuple[str, str]]:
    """Dates as people write them and in ISO form, from the days kept for the test or from all others."""
    made = []
    while len(made) < count:
        day = int(rng.integers(FIRST, LAST + 1))
        if (day % 10 == 0) == test:
            date = datetime.date.fromordinal(day)
            made.append((spelling(date, rng), date.isoformat()))
    return made


def numbers(texts: Sequence[str]) -> tuple[fastdl.Tensor, fastdl.Tensor]:
    """Symbols (B, longest), short texts padded, and their lengths (B,)."""
    rows = [ALPHABET.encode(text) for text in texts]
    lengths = fastdl.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def targets_of(texts: Sequence[str]) -> tuple[fastdl.Tensor, fastdl.Tensor]:
    """What the decoder reads, from BEGIN on, and what it should say, up to END; (B, T), padded."""
    both, _ = numbers([BEGIN + text + END for text in texts])
    return both[:, :-1], both[:, 1:]


# -------------------------------------------------------------------------------------------- model


class Translator(nn.Module):
    """A GRU reads in both directions, another one writes, and attention connects them. Symbol 0 is padding."""

    def __init__(self, size: int, score: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), size, padding_idx=0)
        self.encoder = nn.GRU(size, size, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * size, size)
        self.decoder = nn.GRU(size, size, batch_first=True)
        if score == "additive":
            self.attention = nn.AdditiveAttention(size, 2 * size, size)
        else:
            self.attention = nn.MultiplicativeAttention(size, 2 * size)
        self.mix = nn.Linear(3 * size, size)
        self.head = nn.Linear(size, len(ALPHABET))

    def encode(self, sources: fastdl.Tensor, lengths: fastdl.Tensor) -> tuple[Any, Any]:
        """The encoder's states (B, S, 2 size) with the mask of their padding, and the decoder's first state."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(sources), lengths, batch_first=True, enforce_sorted=False
        )
        packed, last = self.encoder(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        # The forward direction's last state has read all, and so has the backward direction's.
        first = self.bridge(fastdl.cat([last[0], last[1]], dim=-1)).tanh().unsqueeze(0)
        return (states, sources == 0), first

    def decode(self, memory: Any, inputs: fastdl.Tensor, state: fastdl.Tensor) -> tuple[Any, Any, Any]:
        """Any number of steps: inputs (B, T) -> scores (B, T, symbols), attention (B, T, S), the state after them."""
        states, padding = memory
        outputs, state = self.decoder(self.embedding(inputs), state)
        context, weights = self.attention(outputs, states, key_padding_mask=padding)
        mixed = self.mix(fastdl.cat([outputs, context], dim=-1)).tanh()
        return self.head(mixed), weights, state

    def forward(self, sources: fastdl.Tensor, lengths: fastdl.Tensor, inputs: fastdl.Tensor) -> fastdl.Tensor:
        """Training: the decoder reads the right characters, whatever it would have said (teacher forcing)."""
        memory, state = self.encode(sources, lengths)
        return self.decode(memory, inputs, state)[0]


@fastdl.no_grad()
def translate(model: Translator, texts: Sequence[str]) -> tuple[list[str], fastdl.Tensor]:
    """Answers, each character the likeliest after those before it, and the attention (B, T, S) while writing them."""
    model.eval()
    memory, state = model.encode(*numbers(texts))
    inputs, _ = numbers([BEGIN] * len(texts))
    written, attention = [], []
    for _ in range(LONGEST):
        scores, weights, state = model.decode(memory, inputs, state)
        inputs = scores.argmax(-1)
        written.append(inputs)
        attention.append(weights)
    model.train()
    answers = [ALPHABET.decode(row).partition(END)[0] for row in fastdl.cat(written, dim=1).tolist()]
    return answers, fastdl.cat(attention, dim=1)


def accuracy(model: Translator, examples: list[tuple[str, str]]) -> float:
    """How many answers are right in every character."""
    right = 0
    for i in range(0, len(examples), 500):
        texts, wanted = zip(*examples[i : i + 500], strict=True)
        right += sum(map(str.__eq__, translate(model, texts)[0], wanted))
    return right / len(examples)


def plot_alignment(model: Translator, texts: list[str], path: Path) -> list[Path]:
    """Where the decoder looks (columns: the date as given) when it writes each character (rows: the answer)."""
    plt = common.pyplot()
    if plt is None:
        return []
    figure, panels = plt.subplots(2, 2, figsize=(12, 6.4), layout="constrained")
    answers, attention = translate(model, texts)
    for axes, text, answer, weights in zip(panels.flat, texts, answers, attention.numpy(), strict=True):
        shown = weights[: len(answer), : len(text)]
        image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(text)), list(text.replace(" ", "\u2423")), family="monospace")
        axes.set_yticks(range(len(answer)), list(answer), family="monospace")
        axes.tick_params(length=0)
        axes.set_title(f"{text}  \u2192  {answer}", fontsize=11)
    for axes in panels[-1]:
        axes.set_xlabel("the date as given")
    for axes in panels[:, 0]:
        axes.set_ylabel("the answer")
    figure.colorbar(image, ax=panels, label="attention", aspect=40)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return [path]


# --------------------------------------------------------------------------------------------- main


def options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__, "fastdl-seq2seq", steps=600, every=100)
    parser.add_argument(
        "--translate",
        metavar="DATE",
        nargs="+",
        default=[],
        help="dates to translate (whatever it reads, the answer is a date)",
    )
    parser.add_argument("--score", choices=("additive", "multiplicative"), default="additive")
    parser.add_argument("--size", type=int, default=128, help="hidden units (default: 128)")
    parser.add_argument("--batch", type=int, default=64, help="dates per step (default: 64)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: 0.002)")
    made = parser.parse_args(arguments)
    for date in made.translate:
        if len(ALPHABET.encode(date)) == 0:
            parser.error(f"--translate {date!r}: there is no letter or digit in it")
    return made


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train, count right answers, translate, draw; returns losses, model and accuracy."""
    given = options(arguments)
    folder, checkpoint, config = common.begin(given)

    fastdl.manual_seed(config["seed"])
    model = Translator(config["size"], config["score"])
    optimizer = fastdl.optim.Adam(model.parameters(), lr=config["lr"])
    test = pairs(1000, np.random.default_rng(1), test=True)
    step = 0
    losses: list[float] = []
    if checkpoint is not None:
        common.restore(checkpoint, model, optimizer)
        step, losses = checkpoint["step"], checkpoint["losses"]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {len(test)} dates held out, such as")
    print("\n".join(f"  {text:34}{iso}" for text, iso in test[:4]))

    progress = common.Progress(step, given.steps)
    for step in progress:
        # A step's dates depend on the seed and its number alone, so there is no generator to save and restore.
        rng = np.random.default_rng((config["seed"], step))
        texts, wanted = zip(*pairs(config["batch"], rng, test=False), strict=True)
        inputs, targets = targets_of(wanted)
        scores = model(*numbers(texts), inputs)
        loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        losses.append(loss.item())
        progress.show(f"loss {losses[-1]:.4f}")
        if step % given.every == 0 or step == given.steps:
            right = accuracy(model, test[:200])
            progress.write(f"step {step}: {right:.1%} of 200 held-out dates right in every character")
            common.save_checkpoint(folder, model, optimizer, config=config, step=step, losses=losses)

    right = accuracy(model, test)
    print(f"\nheld-out dates right in every character: {right:.1%} of {len(test)}")
    answers, _ = translate(model, [text for text, _ in test])
    wrong = [(t, a, w) for (t, w), a in zip(test, answers, strict=True) if a != w]
    for text, answer, iso in wrong[:3]:
        print(f"  wrong: {text:34}{answer}  should be {iso}")
    for text in given.translate:
        unknown = ALPHABET.unknown(text)
        note = f"  (read without {unknown!r}: no date of the training has it)" if unknown else ""
        print(f"  {text:41}{translate(model, [text])[0][0]}{note}")
    shown = ["the 3rd of March 1999", "Tuesday, Sept. 12, '87", "7/21/2016", "28.11.2011"]
    pictures = common.plot_losses(losses, [], folder / "loss.png", "nats per character", log=True)
    pictures += plot_alignment(model, shown, folder / "alignment.png")
    common.report_written(folder, [folder / common.CHECKPOINT, *pictures])
    return {"losses": losses, "model": model, "accuracy": right}


if __name__ == "__main__":
    main()

"""A recurrent network learns to write Python, one character after the other.

    python examples/char_rnn.py                       a minute or two: an LSTM reads Python's standard library
    python examples/char_rnn.py --cell GRU --layers 3 --optimizer Adagrad
    python examples/char_rnn.py --text novel.txt      reads something else
    python examples/char_rnn.py --resume --steps 9000 goes on where the last run ended, bit for bit

The network sees a character and says how likely each character is to come next; the loss is the cross entropy, in
nats per character. It writes a text by drawing from what it says and reading that as its next input. After Karpathy,
"The Unreasonable Effectiveness of Recurrent Neural Networks" (2015).
"""

from __future__ import annotations

import math
from typing import Any

import common
import fastdl
from fastdl import nn
from fastdl.nn import functional as F


class CharRNN(nn.Module):
    """Characters (T, B) -> scores of the next characters (T, B, symbols), and the state after the last."""

    def __init__(self, cell: str, symbols: int, size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, size)
        self.rnn = getattr(nn, cell)(size, size, layers, dropout=dropout if layers > 1 else 0.0)
        self.head = nn.Linear(size, symbols)

    def forward(self, characters: fastdl.Tensor, state: Any = None) -> tuple[fastdl.Tensor, Any]:
        outputs, state = self.rnn(self.embedding(characters), state)
        return self.head(outputs), state


def detach(state: Any) -> Any:
    """The state's numbers without their history; an LSTM's state is a pair (h, c)."""
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def streams_of(numbers: fastdl.Tensor, batch: int) -> fastdl.Tensor:
    """A text cut into ``batch`` long pieces side by side, (length, batch): each column is read from top to bottom."""
    length = len(numbers) // batch
    return numbers[: length * batch].reshape(batch, length).t().contiguous()


def loss_of(logits: fastdl.Tensor, targets: fastdl.Tensor) -> fastdl.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def validate(model: CharRNN, streams: fastdl.Tensor, length: int = 400) -> float:
    """Loss on the beginning of each column of a text that the network has not learned from."""
    model.eval()
    with fastdl.no_grad():
        part = streams[: length + 1]
        loss = float(loss_of(model(part[:-1])[0], part[1:]))
    model.train()
    return loss


def write(
    model: CharRNN, alphabet: common.Alphabet, start: str, count: int, temperature: float, seed: int
) -> str:
    """``start`` and ``count`` characters more.

    Random numbers come from a generator of its own, so that looking at samples does not change the training.
    """
    generator = fastdl.Generator().manual_seed(seed)
    model.eval()
    with fastdl.no_grad():
        numbers = alphabet.encode(start).tolist() or [0]
        logits, state = model(fastdl.tensor(numbers).unsqueeze(1))
        for _ in range(count):
            numbers.append(common.choose(logits[-1, 0], temperature, 0, generator))
            logits, state = model(fastdl.tensor([numbers[-1:]]), state)
    model.train()
    return alphabet.decode(numbers)


def options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__, "fastdl-char-rnn", steps=3000)
    parser.add_argument("--text", metavar="FILE", help="what to learn (default: Python's standard library)")
    parser.add_argument("--cell", choices=("RNN", "LSTM", "GRU"), default="LSTM", help="(default: LSTM)")
    parser.add_argument("--layers", type=int, choices=(1, 2, 3), default=2, help="(default: 2)")
    parser.add_argument("--size", type=int, default=256, help="hidden units per layer (default: 256)")
    parser.add_argument("--dropout", type=float, default=0.0, help="between layers (default: 0)")
    parser.add_argument("--length", type=int, default=25, help="characters per step (default: 25)")
    parser.add_argument("--batch", type=int, default=32, help="places read at the same time (default: 32)")
    parser.add_argument("--optimizer", choices=("Adam", "Adagrad"), default="Adam", help="(default: Adam)")
    parser.add_argument("--lr", type=float, help="learning rate (default: 0.002 for Adam, 0.02 for Adagrad)")
    parser.add_argument("--clip", type=float, default=5.0, help="largest norm of the gradient (default: 5)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the samples (default: 0.7)")
    parser.add_argument("--start", default="def ", help="beginning of the samples (default: 'def ')")
    parser.add_argument("--characters", type=int, default=2000, help="to write at the end (default: 2000)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train, write samples, a checkpoint and a picture; returns what the last checkpoint holds."""
    given = options(arguments)
    folder, checkpoint, config = common.begin(given)

    text = common.read_text(config["text"])
    alphabet = common.Alphabet.of(text)
    numbers = alphabet.encode(text)
    split = len(numbers) * 19 // 20  # the last twentieth is held out
    streams = streams_of(numbers[:split], config["batch"])
    held_out = streams_of(numbers[split:], config["batch"])
    length = config["length"]
    if len(streams) <= length or len(held_out) < 2:
        raise SystemExit(f"the text is too short for {config['batch']} places of {length} characters")

    fastdl.manual_seed(config["seed"])
    model = CharRNN(config["cell"], len(alphabet), config["size"], config["layers"], config["dropout"])
    lr = config["lr"] or {"Adam": 0.002, "Adagrad": 0.02}[config["optimizer"]]
    optimizer = getattr(fastdl.optim, config["optimizer"])(model.parameters(), lr=lr)

    # What a step needs beside model and optimizer. The first state is None, zeros.
    step, position, state = 0, 0, None
    losses: list[float] = []
    validation: list[tuple[int, float]] = []
    if checkpoint is not None:
        if checkpoint["alphabet"] != alphabet.characters or checkpoint["characters"] != len(text):
            raise SystemExit("--resume: the text is not the one that the checkpoint was trained on")
        common.restore(checkpoint, model, optimizer)
        step, position, state = checkpoint["step"], checkpoint["position"], checkpoint["state"]
        losses, validation = checkpoint["losses"], checkpoint["validation"]
    print(
        f"{config['cell']} of {config['layers']} x {config['size']}, {sum(p.numel() for p in model.parameters()):,} "
        f"parameters; {len(text):,} characters, {len(alphabet)} different"
    )

    common.note_unknown("--start", given.start, alphabet)
    progress = common.Progress(step, given.steps)
    for step in progress:
        # Truncated back-propagation through time: the text is one long sequence, read in pieces of ``length``. The
        # state at the end of a piece is where the next one begins, so the network remembers across pieces. But its
        # history is cut off (detached): a gradient flows through one piece only, and the graph of earlier pieces,
        # which would grow with every step, can be freed.
        if position + length + 1 > len(streams):
            position, state = 0, None  # the end: start again, remember nothing
        inputs = streams[position : position + length]
        targets = streams[position + 1 : position + length + 1]
        position += length

        logits, state = model(inputs, state)
        state = detach(state)
        loss = loss_of(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        # Through many steps gradients can grow exponentially; a rare huge one would undo what was learned.
        nn.utils.clip_grad_norm_(model.parameters(), config["clip"])
        optimizer.step()

        losses.append(loss.item())
        progress.show(f"loss {losses[-1]:.3f}")
        if step % given.every == 0 or step == given.steps:
            validation.append((step, validate(model, held_out)))
            sample = write(model, alphabet, config["start"], 300, config["temperature"], seed=step)
            progress.write(f"\n--- step {step}, held-out loss {validation[-1][1]:.3f} nats\n{sample}\n")
            common.save_checkpoint(
                folder,
                model,
                optimizer,
                config=config,
                alphabet=alphabet.characters,
                characters=len(text),
                step=step,
                position=position,
                state=state,
                losses=losses,
                validation=validation,
            )

    sample = write(model, alphabet, given.start, given.characters, given.temperature, seed=given.seed)
    (folder / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    pictures = common.plot_losses(losses, validation, folder / "loss.png", "nats per character")
    if validation:
        loss = validation[-1][1]
        print(f"held-out text: {loss:.3f} nats = {loss / math.log(2):.2f} bits per character")
    common.report_written(folder, [folder / common.CHECKPOINT, folder / "sample.txt", *pictures])
    return {"losses": losses, "model": model}


if __name__ == "__main__":
    main()

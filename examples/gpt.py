"""A small GPT learns to write Python, one character after the other.

    python examples/gpt.py                                   some minutes: train, write, draw what it attends to
    python examples/gpt.py --resume --steps 4000             goes on where the last run ended, bit for bit
    python examples/gpt.py --resume --prompt "class Tree"    only writes, if the checkpoint has reached --steps
    python examples/gpt.py --text novel.txt --top-k 20 --temperature 0.9

A decoder-only Transformer as GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019). Its
vocabulary are the characters of the text, not pairs of bytes: a hundred symbols keep embedding and softmax small, there
is no tokenizer to learn or to store, and the loss can be compared with char_rnn.py's, which reads the same text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import fastdl
from fastdl import nn
from fastdl.nn import functional as F


class SelfAttention(nn.Module):
    """Every position looks at itself and those before it, in ``heads`` different ways."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def split(self, x: fastdl.Tensor) -> tuple[fastdl.Tensor, ...]:
        """(B, T, size) -> queries, keys and values, each (B, heads, T, size / heads)."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: fastdl.Tensor, cache: nn.KVCache | None) -> fastdl.Tensor:
        q, k, v = self.split(x)
        if cache is None:
            # One kernel for softmax(q k^T / sqrt(d)) v; the T x T matrix of weights never exists in memory.
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = cache.attend(
                q, k, v
            )  # x are the newest positions only, the cache has keys and values of the others
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, x: fastdl.Tensor) -> fastdl.Tensor:
        """The matrix (B, heads, T, T) that ``forward`` does not make, to look at it."""
        q, k, _ = self.split(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = fastdl.ones(x.shape[1], x.shape[1], dtype=fastdl.bool).triu(1)
        return scores.masked_fill(future, -math.inf).softmax(-1)


class Block(nn.Module):
    """Attention, then a small network for each position; each adds to what is there."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size)
        self.attention = SelfAttention(size, heads)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: fastdl.Tensor, cache: nn.KVCache | None) -> fastdl.Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), cache))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    """Characters (B, T) -> scores of the next characters (B, T, symbols)."""

    def __init__(
        self, symbols: int, length: int, size: int, layers: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.length = length
        self.symbol = nn.Embedding(symbols, size)
        self.position = nn.Embedding(length, size)
        self.blocks = nn.ModuleList(Block(size, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, symbols, bias=False)
        self.head.weight = self.symbol.weight  # a symbol is read and written with the same vector
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                last = name.endswith(("out.weight", "mlp.2.weight"))  # of the 2 * layers parts that add to x
                nn.init.normal_(p, std=1 / math.sqrt(size * 2 * layers if last else size))

    def forward(self, symbols: fastdl.Tensor, caches: list[nn.KVCache] | None = None) -> fastdl.Tensor:
        """``caches``: one for each block; ``symbols`` then follow what went through them before."""
        before = len(caches[0]) if caches else 0
        x = self.symbol(symbols) + self.position(fastdl.arange(before, before + symbols.shape[1]))
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None)
        return self.head(self.norm(x))

    @fastdl.no_grad()
    def generate(self, numbers: list[int], temperature: float, top_k: int, seed: int) -> Iterator[int]:
        """Symbols after ``numbers``, without end.

        With the cache a new symbol costs one position's work, whatever went before. Positions are learned, and there
        are ``length`` of them; when they are used up, the second half of the text is read again as the beginning.
        Random numbers come from a generator of its own, so that looking at samples does not change the training.
        """
        generator = fastdl.Generator().manual_seed(seed)
        numbers = numbers[-self.length :]
        fresh, caches = numbers, [nn.KVCache(self.length) for _ in self.blocks]
        while True:
            logits = self(fastdl.tensor([fresh]), caches)[0, -1]
            symbol = common.choose(logits, temperature, top_k, generator)
            yield symbol
            numbers.append(symbol)
            fresh = [symbol]
            if len(numbers) > self.length:
                fresh = numbers = numbers[-self.length // 2 :]
                for cache in caches:
                    cache.reset()


def write(
    model: GPT, alphabet: common.Alphabet, prompt: str, count: int, config: dict[str, Any], seed: int
) -> str:
    """``prompt`` and ``count`` characters more."""
    model.eval()
    numbers = alphabet.encode(prompt).tolist() or [0]
    symbols = model.generate(numbers, config["temperature"], config["top_k"], seed)
    text = prompt + alphabet.decode([next(symbols) for _ in range(count)])
    model.train()
    return text


def crops(numbers: fastdl.Tensor, length: int, starts: fastdl.Tensor) -> tuple[fastdl.Tensor, fastdl.Tensor]:
    """Pieces of a text (B, length) from ``starts`` on, and what comes next at each place of them."""
    places = starts.unsqueeze(1) + fastdl.arange(length + 1)
    pieces = numbers[places]
    return pieces[:, :-1], pieces[:, 1:]


def loss_of(model: GPT, inputs: fastdl.Tensor, targets: fastdl.Tensor) -> fastdl.Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@fastdl.no_grad()
def validate(model: GPT, numbers: fastdl.Tensor, pieces: int = 64) -> float:
    """Loss on pieces spread over a text that the network has not learned from."""
    model.eval()
    starts = fastdl.linspace(0, len(numbers) - model.length - 1, pieces).long()
    loss = float(loss_of(model, *crops(numbers, model.length, starts)))
    model.train()
    return loss


@fastdl.no_grad()
def plot_attention(model: GPT, alphabet: common.Alphabet, text: str, path: Path) -> list[Path]:
    """Of every head of every block: how much each character (row) looks at those before it (columns)."""
    plt = common.pyplot()
    if plt is None:
        return []
    model.eval()
    numbers = alphabet.encode(text)[: model.length]
    labels = [{" ": "\u2423", "\n": "\u21b5"}.get(c, c) for c in alphabet.decode(numbers.tolist())]
    x = model.symbol(numbers.unsqueeze(0)) + model.position(fastdl.arange(len(numbers)))
    maps = []
    for block in model.blocks:
        maps.append(block.attention.weights(block.norm1(x))[0].numpy())
        x = block(x, None)
    rows, columns = len(maps), len(maps[0])
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    for i, heads in enumerate(maps):
        for j, weights in enumerate(heads):
            axes = panels[i, j]
            axes.imshow(weights**0.5, cmap="Blues", vmin=0, vmax=1)  # the root makes small weights visible
            axes.set_title(f"block {i + 1}, head {j + 1}", fontsize=11)
            axes.set_xticks(range(len(labels)), labels, fontsize=8, family="monospace")
            axes.set_yticks(range(len(labels)), labels, fontsize=8, family="monospace")
            axes.tick_params(length=0, pad=1)
    figure.suptitle("What each character (row) attends to (columns)", fontsize=14)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return [path]


def options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__, "fastdl-gpt", steps=2000)
    parser.add_argument("--text", metavar="FILE", help="what to learn (default: Python's standard library)")
    parser.add_argument("--size", type=int, default=128, help="numbers per position (default: 128)")
    parser.add_argument("--layers", type=int, default=4, help="blocks (default: 4)")
    parser.add_argument("--heads", type=int, default=4, help="per block (default: 4)")
    parser.add_argument("--length", type=int, default=128, help="longest context (default: 128)")
    parser.add_argument("--batch", type=int, default=16, help="pieces of text per step (default: 16)")
    parser.add_argument("--dropout", type=float, default=0.0, help="(default: 0)")
    parser.add_argument("--lr", type=float, default=4e-3, help="largest learning rate (default: 0.004)")
    parser.add_argument("--prompt", default="def ", help="beginning of what is written (default: 'def ')")
    parser.add_argument("--temperature", type=float, default=0.7, help="of what is written (default: 0.7)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest (default: 0, all)")
    parser.add_argument("--characters", type=int, default=2000, help="to write at the end (default: 2000)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train, write text, a checkpoint and two pictures; returns what the last checkpoint holds."""
    given = options(arguments)
    folder, checkpoint, config = common.begin(given)

    text = common.read_text(config["text"])
    alphabet = common.Alphabet.of(text)
    numbers = alphabet.encode(text)
    split = len(numbers) * 19 // 20  # the last twentieth is held out
    training, held_out = numbers[:split], numbers[split:]
    length = config["length"]
    if len(held_out) <= length:
        raise SystemExit(f"the text is too short for pieces of {length} characters")

    fastdl.manual_seed(config["seed"])
    model = GPT(len(alphabet), length, config["size"], config["layers"], config["heads"], config["dropout"])
    # Matrices are held small by weight decay, biases and normalisations are not.
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = fastdl.optim.AdamW(groups, lr=config["lr"], betas=(0.9, 0.95))
    # Linear warm-up, then down with the root of the step: a rule that need not know where the training ends.
    warm = 100
    scheduler = fastdl.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, math.sqrt(warm / (step + 1)))
    )

    step = 0
    losses: list[float] = []
    validation: list[tuple[int, float]] = []
    if checkpoint is not None:
        if checkpoint["alphabet"] != alphabet.characters or checkpoint["characters"] != len(text):
            raise SystemExit("--resume: the text is not the one that the checkpoint was trained on")
        common.restore(checkpoint, model, optimizer)
        scheduler.load_state_dict(checkpoint["scheduler"])
        step, losses, validation = checkpoint["step"], checkpoint["losses"], checkpoint["validation"]
    print(
        f"GPT of {config['layers']} x {config['size']}, {sum(p.numel() for p in model.parameters()):,} parameters; "
        f"{len(text):,} characters, {len(alphabet)} different"
    )

    begun = step
    common.note_unknown("--prompt", given.prompt, alphabet)
    progress = common.Progress(step, given.steps)
    for step in progress:
        starts = fastdl.randint(0, len(training) - length, (config["batch"],))
        loss = loss_of(model, *crops(training, length, starts))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()

        losses.append(loss.item())
        progress.show(f"loss {losses[-1]:.3f}")
        if step % given.every == 0 or step == given.steps:
            validation.append((step, validate(model, held_out)))
            sample = write(model, alphabet, config["prompt"], 300, config, seed=step)
            progress.write(f"\n--- step {step}, held-out loss {validation[-1][1]:.3f} nats\n{sample}\n")
            common.save_checkpoint(
                folder,
                model,
                optimizer,
                scheduler=scheduler.state_dict(),
                config=config,
                alphabet=alphabet.characters,
                characters=len(text),
                step=step,
                losses=losses,
                validation=validation,
            )

    begin = time.perf_counter()
    sample = write(model, alphabet, given.prompt, given.characters, vars(given), seed=given.seed)
    seconds = time.perf_counter() - begin
    (folder / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    if step == begun:  # nothing was left to train
        print(sample[:600])
    print(f"{given.characters} characters written in {seconds:.1f} s")
    if validation:
        loss = validation[-1][1]
        print(f"held-out text: {loss:.3f} nats = {loss / math.log(2):.2f} bits per character")
    pictures = common.plot_losses(losses, validation, folder / "loss.png", "nats per character")
    pictures += plot_attention(model, alphabet, "def f(self):\n    return", folder / "attention.png")
    common.report_written(folder, [folder / common.CHECKPOINT, folder / "sample.txt", *pictures])
    return {"losses": losses, "model": model}


if __name__ == "__main__":
    main()

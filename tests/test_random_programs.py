"""Calls drawn at random, with operands of every layout and dtype: values, gradients and dtypes as PyTorch's.

A program is one function of :class:`Draw`, run once with each library on the same numbers: all it draws comes from one
seed. Where PyTorch is absent (under sanitizers) it runs alone, so that its accesses to memory are watched. A failure
names family and seed; ``Draw(fastdl, seed)`` makes the same operands again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastdl

try:
    if "FASTDL_TESTS_WITHOUT_TORCH" in os.environ:
        raise ImportError
    import torch
except ImportError:
    torch = None

PROGRAMS = 100  # of each family
# Relative to the largest number of a result, and four times as much for gradients: programs chain two or three
# operations with sums of up to some 70 terms, whose intermediate results the libraries round at different places. In
# half precision that is several units of 2^-8 (bfloat16) and 2^-11 (float16).
TOLERANCE = {"float32": 3e-4, "float64": 1e-7, "bfloat16": 6e-2, "float16": 1e-2}
FLOATS = ["float32", "float32", "float64", "bfloat16", "float16"]
FAMILIES: dict[str, Callable[[Draw], Any]] = {}


def family(program: Callable[[Draw], Any]) -> Callable[[Draw], Any]:
    FAMILIES[program.__name__] = program
    return program


class Draw:
    """What a program draws: numbers, choices and tensors of one library, which it remembers as ``leaves``."""

    def __init__(self, library: Any, seed: list[int]) -> None:
        self.library, self.F = library, library.nn.functional
        self.rng = np.random.default_rng(seed)
        self.dtype = self.pick(*FLOATS)
        self.leaves: list[Any] = []

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def several(self, count: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(self.whole(low, high) for _ in range(count))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *choices: Any) -> Any:
        return choices[self.whole(0, len(choices) - 1)]

    def size(self) -> int:
        """Small, around the widths of vectors, or up to 70."""
        return self.pick(
            self.whole(1, 4), self.pick(7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65), self.whole(1, 70)
        )

    def shape(self, low: int = 0, high: int = 4, most: int = 20_000) -> list[int]:
        sizes = [self.size() for _ in range(self.whole(low, high))]
        while np.prod(sizes) > most:
            sizes[int(np.argmax(sizes))] = self.whole(1, 4)
        return sizes

    def tensor(self, *shape: int, dtype: str | None = None, grad: bool = True, repeated: bool = True) -> Any:
        """Normal numbers: contiguous, permuted, every second, a part, or ``repeated`` along some dims."""
        dtype = dtype or self.dtype
        layouts = ["contiguous", "permuted", "steps", "part", "repeated"][: None if repeated else -1]
        layout = self.pick(*layouts) if shape else "contiguous"
        stored, axis = list(shape), self.whole(0, len(shape) - 1) if shape else 0
        order = [int(i) for i in self.rng.permutation(len(shape))]
        if layout == "permuted":
            stored = [shape[i] for i in order]
        elif layout == "steps":
            stored[axis] = 2 * stored[axis] + 1
        elif layout == "part":
            stored[axis] += 3
        elif layout == "repeated":
            stored = [1 if self.chance(0.5) else n for n in shape]
        values = self.rng.standard_normal(stored)
        if not dtype.startswith(("float", "bfloat")):
            values = np.round(3 * values)
        x = self.library.tensor(values).to(getattr(self.library, dtype))
        if layout == "permuted":
            x = x.permute(*[order.index(i) for i in range(len(shape))])
        elif layout == "steps":
            x = x[(slice(None),) * axis + (slice(1, None, 2),)]
        elif layout == "part":
            x = x.narrow(axis, 2, shape[axis])
        elif layout == "repeated":
            x = x.expand(*shape)
        x = x.detach()
        if grad and x.is_floating_point():
            x.requires_grad_()
        self.leaves.append(x)
        return x

    def integers(self, high: int, *shape: int) -> Any:
        return self.library.tensor(self.rng.integers(0, high, shape))

    def window(self, rank: int, most: int = 5) -> tuple[Any, ...]:
        """Kernel, stride, padding and dilation, and the spatial sizes of an image that holds it."""
        kernel, stride, dilation = (
            self.several(rank, 1, most),
            self.several(rank, 1, 3),
            self.several(rank, 1, 2),
        )
        padding = tuple(self.whole(0, k // 2) for k in kernel)
        extra = self.several(rank, 0, (60, 16, 5)[rank - 1])
        image = tuple((k - 1) * d + 1 + n for k, d, n in zip(kernel, dilation, extra, strict=True))
        return kernel, stride, padding, dilation, image


@family
def convolution(d: Draw) -> Any:
    rank, groups = d.whole(1, 3), d.pick(1, 1, 2, 5)
    kernel, stride, padding, dilation, image = d.window(rank, 4)
    channels = groups * d.whole(1, 9)
    x = d.tensor(d.whole(1, 4), channels, *image)
    weight = d.tensor(groups * d.whole(1, 9), channels // groups, *kernel)
    bias = d.tensor(weight.shape[0]) if d.chance(0.5) else None
    return getattr(d.F, f"conv{rank}d")(x, weight, bias, stride, padding, dilation, groups)


@family
def transposed_convolution(d: Draw) -> Any:
    rank, groups = d.whole(1, 3), d.pick(1, 1, 2)
    kernel, stride, _, dilation, _ = d.window(rank, 4)
    channels = groups * d.whole(1, 7)
    x = d.tensor(d.whole(1, 3), channels, *d.several(rank, 1, (40, 9, 5)[rank - 1]))
    weight = d.tensor(channels, d.whole(1, 7), *kernel)
    return getattr(d.F, f"conv_transpose{rank}d")(x, weight, None, stride, 0, 0, groups, dilation)


@family
def pooling(d: Draw) -> Any:
    rank = d.whole(1, 3)
    kernel, stride, padding, dilation, image = d.window(rank)
    x, kind = d.tensor(*d.several(2, 1, 20), *image), d.pick("max", "avg", "adaptive_avg", "adaptive_max")
    pool = getattr(d.F, f"{kind}_pool{rank}d")
    if kind == "max":
        return pool(x, kernel, stride, padding, dilation, d.chance(0.5))
    if kind == "avg":
        return pool(x.float(), kernel, stride, padding, False, d.chance(0.5))
    return pool(x, tuple(d.whole(1, n) for n in image))


@family
def rearrangement(d: Draw) -> Any:
    kernel, stride, padding, dilation, image = d.window(2)
    columns = d.F.unfold(d.tensor(*d.several(2, 1, 6), *image), kernel, dilation, padding, stride)
    return columns, d.F.fold(columns, image, kernel, dilation, padding, stride)


@family
def padding(d: Draw) -> Any:
    rank = d.whole(1, 3)
    x, amounts = d.tensor(*d.several(2, 1, 5), *d.several(rank, 1, 12)), []
    mode = d.pick("constant", "reflect", "replicate", "circular")
    for n in reversed(x.shape[2:]):
        amounts += d.several(2, 0, n - 1 if mode == "reflect" else n)
    return d.F.pad(x, amounts, mode)


@family
def interpolation(d: Draw) -> Any:
    rank = d.whole(1, 3)
    x = d.tensor(*d.several(2, 1, 5), *d.several(rank, 2, (40, 15, 6)[rank - 1]))
    mode = d.pick("nearest", ("linear", "bilinear", "trilinear")[rank - 1])
    return d.F.interpolate(x, d.several(rank, 2, (60, 20, 8)[rank - 1]), mode=mode)


@family
def product(d: Draw) -> Any:
    batch, (m, k, n) = d.several(d.whole(0, 3), 1, 3), (d.size(), d.size(), d.size())
    kind = d.pick("batches", "one matrix", "linear", "vector", "baddbmm", "einsum")
    a = d.tensor(*batch, m, k)
    if kind == "batches":
        return a @ d.tensor(*batch, k, n)
    if kind == "one matrix":
        return a @ d.tensor(k, n)
    if kind == "linear":
        return d.F.linear(a, d.tensor(n, k), d.tensor(n))
    if kind == "vector":
        return a @ d.tensor(k)
    if kind == "baddbmm":
        return d.library.baddbmm(d.tensor(n), d.tensor(2, m, k), d.tensor(2, k, n), beta=0.5, alpha=2)
    return d.library.einsum("bij,bkj->bki", d.tensor(2, m, k), d.tensor(2, n, k))


@family
def attention(d: Draw) -> Any:
    batch, heads, queries, keys, size = d.whole(1, 3), d.whole(1, 3), d.size(), d.size(), d.size()
    query, key = d.tensor(batch, heads, queries, size), d.tensor(batch, heads, keys, size)
    value = d.tensor(batch, heads, keys, d.size())
    mask = d.library.tensor(d.rng.random((queries, keys)) < 0.7) if d.chance(0.3) else None
    causal = mask is None and d.chance(0.4)
    if mask is not None:
        mask[:, 0] = True
    return d.F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)


@family
def recurrence(d: Draw) -> Any:
    d.dtype = d.pick("float32", "float64")
    inputs, hidden, layers = d.size(), d.size(), d.whole(1, 2)
    layer = getattr(d.library.nn, d.pick("LSTM", "GRU", "RNN"))(
        inputs, hidden, layers, bias=d.chance(0.7), batch_first=True, bidirectional=d.chance(0.4)
    ).to(getattr(d.library, d.dtype))
    with d.library.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(d.library.tensor(d.rng.standard_normal(tuple(parameter.shape)) * 0.2))
    return layer(d.tensor(*d.several(2, 1, 9), inputs))[0]


@family
def normalisation(d: Draw) -> Any:
    d.dtype = d.pick(
        "float32", "float64"
    )  # where all numbers are the same, float32 leaves but rounding errors
    sizes = (d.whole(2, 5), 2 * d.whole(2, 9), *d.several(d.whole(1, 3), 2, 6))
    x = d.tensor(*sizes, repeated=d.dtype == "float64")
    channels, last = x.shape[1], x.shape[-1]
    kind = d.pick("layer", "batch", "group", "rms")
    if kind == "layer":
        return d.F.layer_norm(x, (last,), d.tensor(last), d.tensor(last))
    if kind == "batch":
        return d.F.batch_norm(x, None, None, d.tensor(channels), d.tensor(channels), training=True)
    if kind == "group":
        return d.F.group_norm(x, 2, d.tensor(channels), d.tensor(channels))
    return d.F.rms_norm(x, (last,), d.tensor(last))


@family
def softmax(d: Draw) -> Any:
    x = d.tensor(*d.shape(1))
    return getattr(d.library, d.pick("softmax", "log_softmax", "logsumexp"))(x, d.whole(0, x.dim() - 1))


@family
def loss(d: Draw) -> Any:
    n, classes, reduction = d.size(), d.whole(2, 40), d.pick("mean", "sum", "none")
    d.dtype = d.pick("float32", "float64")
    x, kind = (
        d.tensor(n, classes),
        d.pick("cross_entropy", "nll_loss", "mse_loss", "smooth_l1_loss", "bce", "kl_div"),
    )
    if kind == "cross_entropy":
        return d.F.cross_entropy(
            x, d.integers(classes, n), label_smoothing=d.pick(0.0, 0.1), reduction=reduction
        )
    if kind == "nll_loss":
        return d.F.nll_loss(d.F.log_softmax(x, 1), d.integers(classes, n), reduction=reduction)
    if kind == "bce":
        weight, target = d.tensor(classes, grad=False).abs(), d.library.sigmoid(d.tensor(n, classes))
        return d.F.binary_cross_entropy_with_logits(x, target, weight, reduction=reduction, pos_weight=weight)
    if kind == "kl_div":
        return d.F.kl_div(d.F.log_softmax(x, 1), d.F.softmax(d.tensor(n, classes), 1), reduction="sum")
    return getattr(d.F, kind)(x, d.tensor(n, classes), reduction=reduction)


@family
def reduction(d: Draw) -> Any:
    x = d.tensor(*d.shape(1))
    dims = [int(i) for i in d.rng.permutation(x.dim())[: d.whole(1, x.dim())]]
    kind = d.pick("sum", "mean", "amax", "amin", "logsumexp", "cumsum", "sort", "max", "prod", "var")
    if kind in ("cumsum", "prod", "max"):
        result = getattr(x, kind)(dims[0])
        return result[0] if kind == "max" else result
    if kind == "sort":
        return x.sort(dim=dims[0], stable=True)[0]
    if kind == "var":
        return x.var(dims, correction=0)
    return getattr(x, kind)(dims, keepdim=d.chance(0.5))


@family
def elementwise(d: Draw) -> Any:
    full = d.shape()
    shapes = [
        [1 if d.chance(0.3) else n for n in full][d.whole(0, len(full)) if d.chance(0.3) else 0 :]
        for _ in "ab"
    ]
    a, b = (
        d.tensor(*shape, dtype=d.pick(d.dtype, d.dtype, "int64", "int32", "uint8", "bool"))
        for shape in shapes
    )
    kind = d.pick(
        "add", "mul", "div", "maximum", "atan2", "lt", "where", "logaddexp", "tanh", "sigmoid", "gelu", "abs"
    )
    if kind == "where":
        return d.library.where(a > 0, a, b)
    if kind in ("maximum", "logaddexp", "gelu", "atan2"):
        a, b = a.float(), b.float()
    if kind == "div":
        return a / (b.float().abs() + 0.5)  # finite in half precision
    if kind == "gelu":
        return d.F.gelu(a)
    if kind in ("tanh", "sigmoid"):
        return getattr(d.library, kind)(a)
    return a.float().abs() if kind == "abs" else getattr(d.library, kind)(a, b)


@family
def lookup(d: Draw) -> Any:
    x = d.tensor(*d.shape(1))
    dim = d.whole(0, x.dim() - 1)
    n, extent = d.whole(1, 20), x.shape[dim]
    kind, at = (
        d.pick("index_select", "gather", "index_add", "scatter_add", "mask", "cat"),
        d.integers(extent, n),
    )
    if kind == "index_select":
        return x.index_select(dim, at)
    if kind == "gather":
        return x.gather(dim, d.integers(extent, *(n if i == dim else s for i, s in enumerate(x.shape))))
    values = d.tensor(*(n if i == dim else s for i, s in enumerate(x.shape)))
    if kind == "index_add":
        return x.index_add(dim, at, values)
    if kind == "scatter_add":  # by a vector, expanded: rows
        index = at.reshape([n if i == dim else 1 for i in range(x.dim())]).expand(values.shape)
        return x.scatter_add(dim, index, values)
    return (
        x[d.library.tensor(d.rng.random(tuple(x.shape)) < 0.5)]
        if kind == "mask"
        else d.library.cat([x, values], dim)
    )


@family
def writing(d: Draw) -> Any:
    """In place, through views of views."""
    y = d.tensor(*d.shape(1, 4)) * 1
    for _ in range(d.whole(1, 4)):
        view, dim = y, d.whole(0, y.dim() - 1)
        for _ in range(d.whole(0, 2)):
            view = d.pick(
                lambda v: v.transpose(0, -1),
                lambda v: v[..., ::2],
                lambda v: v.narrow(0, 0, 1),
                lambda v: v.unsqueeze(0),
            )(view)
        if d.chance(0.5):
            view.mul_(d.pick(2, -1, 0.5))
        elif d.chance(0.5):
            view.add_(d.tensor(*view.shape))
        else:
            y.index_fill_(dim, d.integers(y.shape[dim], 2), 3)
    return y


def run(library: Any, name: str, seed: int) -> tuple[list[Any], list[Any], str]:
    """Results and gradients of a program, and the dtype that its precision comes from."""
    draw = Draw(library, [zlib.crc32(name.encode()), seed])
    results = FAMILIES[name](draw)
    results = list(results) if isinstance(results, tuple) else [results]
    slopes = np.random.default_rng(seed)
    for y in results:
        if y.requires_grad:
            y.backward(library.tensor(slopes.standard_normal(tuple(y.shape))).to(y.dtype), retain_graph=True)
    kinds = [str(x.dtype).rpartition(".")[2] for x in draw.leaves + results]
    coarsest = max([draw.dtype, *kinds], key=lambda kind: TOLERANCE.get(kind, 0))
    return [y.detach() for y in results], [x.grad for x in draw.leaves], coarsest


@pytest.mark.parametrize("name", FAMILIES)
def test_programs(name: str) -> None:
    for seed in range(PROGRAMS):
        results, gradients, dtype = run(fastdl, name, seed)
        if torch is None:
            continue
        wanted, wanted_gradients, _ = run(torch, name, seed)
        for what, ours, theirs in (("result", results, wanted), ("gradient", gradients, wanted_gradients)):
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                where = f"{name}, seed {seed}: {what} {i}"
                assert (a is None) == (b is None), where
                if a is None:
                    continue
                assert str(a.dtype).rpartition(".")[2] == str(b.dtype).rpartition(".")[2], where
                got, want = a.double().numpy(), b.double().numpy()
                bound = TOLERANCE[dtype] * (4 if what == "gradient" else 1)
                scale = np.abs(want[np.isfinite(want)]).max(initial=0.1)
                np.testing.assert_allclose(got, want, rtol=bound, atol=bound * scale, err_msg=where)

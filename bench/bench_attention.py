"""Attention: lengths, head sizes, causal, masked, dropped, grouped, one query against a cache; the layers around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, Library, forward, forward_backward


def inputs(b: int, h: int, length: int, size: int, keys: int = 0, groups: int = 0) -> Any:
    groups, keys = groups or h, keys or length
    return lambda rng: [
        rng.standard_normal((b, n, rows, size)).astype(np.float32)
        for n, rows in ((h, length), (groups, keys), (groups, keys))
    ]


def mask_of(lib: Library, kind: str, b: int, length: int, keys: int) -> Any:
    rng = np.random.default_rng(2)
    if kind == "bool":
        return lib.tensor(rng.random((length, keys)) < 0.9)
    if kind == "additive":
        return lib.tensor(rng.standard_normal((length, keys)).astype(np.float32))
    return lib.tensor(np.arange(keys) < rng.integers(keys // 2, keys, (b, 1, 1, 1)))  # padding


def attention(
    b: int,
    h: int,
    length: int,
    size: int,
    kind: str = "",
    target: float = 0.0,
    groups: int = 0,
    mode: str = "fb",
    keys: int = 0,
) -> Case:
    """``kind``: empty, causal, dropout, or a mask's."""
    n = keys or length

    def function(lib: Library) -> Any:
        options: dict[str, Any] = {}
        if kind == "causal":
            options["is_causal"] = True
        elif kind == "dropout":
            options["dropout_p"] = 0.1
        elif kind:
            options["attn_mask"] = mask_of(lib, kind, b, length, n)
        if groups:
            options["enable_gqa"] = True
        call = lib.F.scaled_dot_product_attention
        return lambda q, k, v: call(q, k, v, **options)

    half = 0.5 if kind == "causal" else 1.0
    title = (
        f"B{b} H{h}{f'/{groups}' if groups else ''} L{length} {f'S{n} ' if n != length else ''}D{size} {kind}"
    )
    make = forward_backward if mode == "fb" else forward
    return make(
        title.strip(),
        function,
        inputs(b, h, length, size, n, groups),
        flops=(14.0 if mode == "fb" else 4.0) * half * b * h * length * n * size,
        bytes=8.0 * b * (groups or h) * n * size if length == 1 else 0.0,
        target=target,
        memory=True,
    )


def written_out(h: int, length: int, size: int) -> Case:
    """softmax(q k^T / sqrt(D)) v in three operations, which hold L x L numbers: what the fused kernel avoids."""

    def function(lib: Library) -> Any:
        return lambda q, k, v: (q @ k.transpose(-2, -1) * size**-0.5).softmax(-1) @ v

    return forward_backward(
        f"written out B1 H{h} L{length} D{size}", function, inputs(1, h, length, size), memory=True
    )


def layer(title: str, build: Any, *shape: int) -> Case:
    return forward_backward(title, build, lambda rng: [rng.standard_normal(shape).astype(np.float32)])


def self_attention(lib: Library, size: int, heads: int) -> Any:
    class SelfAttention(lib.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention = lib.nn.MultiheadAttention(size, heads, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.attention(x, x, x, need_weights=False)[0]

    return SelfAttention()


CASES = [
    attention(1, 12, 128, 64, target=1.5),
    attention(4, 12, 512, 64, "causal", target=1.7),
    attention(1, 16, 2048, 64, "causal", target=1.4),
    attention(1, 16, 2048, 128, target=1.15),
    attention(1, 12, 128, 64, mode="f"),
    attention(4, 12, 512, 64, "causal", mode="f"),
    attention(1, 16, 2048, 128, mode="f"),
    attention(4, 12, 512, 64),
    attention(4, 12, 512, 64, "additive"),
    attention(4, 12, 512, 64, "bool"),
    attention(4, 12, 512, 64, "padding"),
    attention(4, 12, 512, 64, "dropout"),
    attention(4, 12, 512, 64, "causal", groups=3),
    attention(8, 8, 256, 32, "causal"),
    attention(64, 4, 32, 16, "causal"),
    attention(256, 3, 49, 32),
    attention(16, 12, 197, 64),
    attention(1, 1, 4096, 64, "causal"),
    *[attention(1, 2, length, 64) for length in (512, 1024, 2048, 4096)],
    *[written_out(2, length, 64) for length in (512, 1024, 2048)],
    attention(2, 8, 300, 80),
    attention(1, 8, 4096, 256, mode="f"),
    attention(1, 16, 1, 64, mode="f", keys=4096),
    attention(1, 32, 1, 128, groups=8, mode="f", keys=2048),
    attention(8, 8, 1, 64, mode="f", keys=256),
    layer("MultiheadAttention B8 L256 E256 H4", lambda lib: self_attention(lib, 256, 4), 8, 256, 256),
    layer("MultiheadAttention B1 L16 E64 H4", lambda lib: self_attention(lib, 64, 4), 1, 16, 64),
    layer(
        "TransformerEncoderLayer B8 L256 d256 ff1024 H4",
        lambda lib: lib.nn.TransformerEncoderLayer(
            256, 4, 1024, 0.0, "gelu", batch_first=True, norm_first=True
        ),
        8,
        256,
        256,
    ),
    layer(
        "TransformerEncoderLayer B1 L16 d64 ff256 H4",
        lambda lib: lib.nn.TransformerEncoderLayer(64, 4, 256, 0.0, batch_first=True),
        1,
        16,
        64,
    ),
]

"""A small llama: RMSNorm, rotary positions, grouped-query attention with a key/value cache, SwiGLU; with sampling."""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Config:
    dim: int = 32
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 2
    vocab: int = 40
    max_len: int = 24


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)).type_as(
            x
        ) * self.weight


def rope_table(dim: int, length: int, theta: float = 10000.0):
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim))
    angles = torch.outer(torch.arange(length), freqs)
    return torch.cat([angles, angles], dim=-1)


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def apply_rope(x, angles):
    cos, sin = angles.cos()[None, :, None, :], angles.sin()[None, :, None, :]
    return x * cos + rotate_half(x) * sin


def repeat_kv(x: Tensor, n: int) -> Tensor:
    b, t, h, d = x.shape
    return x if n == 1 else x[:, :, :, None, :].expand(b, t, h, n, d).reshape(b, t, h * n, d)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c, self.head = c, c.dim // c.n_heads
        self.wq = nn.Linear(c.dim, c.n_heads * self.head, bias=False)
        self.wk = nn.Linear(c.dim, c.n_kv_heads * self.head, bias=False)
        self.wv = nn.Linear(c.dim, c.n_kv_heads * self.head, bias=False)
        self.wo = nn.Linear(c.dim, c.dim, bias=False)
        self.cache_k: Tensor | None = None
        self.cache_v: Tensor | None = None

    def forward(self, x, start, angles, mask, use_cache):
        b, t, _ = x.shape
        q = self.wq(x).view(b, t, self.c.n_heads, self.head)
        k = self.wk(x).view(b, t, self.c.n_kv_heads, self.head)
        v = self.wv(x).view(b, t, self.c.n_kv_heads, self.head)
        q, k = apply_rope(q, angles), apply_rope(k, angles)
        if use_cache:
            if self.cache_k is None:
                self.cache_k = torch.zeros(b, self.c.max_len, self.c.n_kv_heads, self.head).to(q)
                self.cache_v = torch.zeros_like(self.cache_k)
            self.cache_k[:b, start : start + t] = k
            self.cache_v[:b, start : start + t] = v
            k, v = self.cache_k[:b, : start + t], self.cache_v[:b, : start + t]
        n = self.c.n_heads // self.c.n_kv_heads
        k, v = repeat_kv(k, n).transpose(1, 2), repeat_kv(v, n).transpose(1, 2)
        q = q.transpose(1, 2)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head)
        if mask is not None:
            scores = scores + mask
        out = F.softmax(scores.float(), dim=-1).type_as(q) @ v
        return self.wo(out.transpose(1, 2).contiguous().view(b, t, -1))


class Block(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        hidden = 16 * ((int(8 * c.dim / 3) + 15) // 16)
        self.attention, self.norm1, self.norm2 = Attention(c), RMSNorm(c.dim), nn.RMSNorm(c.dim, eps=1e-6)
        self.w1 = nn.Linear(c.dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, c.dim, bias=False)
        self.w3 = nn.Linear(c.dim, hidden, bias=False)

    def forward(self, x, *rest):
        h = x + self.attention(self.norm1(x), *rest)
        y = self.norm2(h)
        return h + self.w2(F.silu(self.w1(y)) * self.w3(y))


class Llama(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.tok = nn.Embedding(c.vocab, c.dim)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.norm = RMSNorm(c.dim)
        self.out = nn.Linear(c.dim, c.vocab, bias=False)
        self.out.weight = self.tok.weight
        self.register_buffer("angles", rope_table(c.dim // c.n_heads, c.max_len), persistent=False)

    def forward(self, tokens, start=0, use_cache=False):
        t = tokens.shape[1]
        mask = None
        if t > 1:
            mask = torch.full((t, t), float("-inf"), device=tokens.device)
            mask = torch.triu(mask, diagonal=1)
            mask = torch.hstack([torch.zeros((t, start)), mask])
        h = self.tok(tokens)
        for layer in self.layers:
            h = layer(h, start, self.angles[start : start + t], mask, use_cache)
        return self.out(self.norm(h)).float()


def top_p(probs, p):
    sorted_p, index = torch.sort(probs, dim=-1, descending=True)
    total = torch.cumsum(sorted_p, dim=-1)
    sorted_p[total - sorted_p > p] = 0.0
    sorted_p.div_(sorted_p.sum(dim=-1, keepdim=True))
    return torch.gather(index, -1, sorted_p.argmax(-1, keepdim=True)), sorted_p


def main(log, prepare):
    c = Config()
    model = prepare(Llama(c))
    log(sum(p.numel() for p in model.parameters()), len(model.state_dict()))
    decay = [p for p in model.parameters() if p.dim() >= 2]
    other = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, (s + 1) / 4))
    data = torch.randint(0, c.vocab, (8, 17))
    for step in range(8):
        for x, y in zip(data[:, :-1].split(4), data[:, 1:].split(4)):
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1), ignore_index=3) / 2
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        opt.zero_grad()
        log(loss.item())
    model.eval()
    with torch.inference_mode():
        prompt = data[:2, :5]
        full = model(prompt)[:, -1]
        cached = model(prompt, 0, True)[:, -1]
        log(float(torch.allclose(full, cached, atol=1e-5)), full.std().item())
        token = None
        for pos in range(5, 12):
            probs = torch.softmax(cached / 0.8, dim=-1)
            token, kept = top_p(probs, 0.9)
            log(*token.flatten().tolist(), (kept > 0).sum().item())
            cached = model(token, pos, True)[:, -1]

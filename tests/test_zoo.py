"""Typical programs, written once and run with both libraries: the same weights, outputs, losses, gradients and updates.

Each function below is a model as courses and repositories write them, with ``torch`` standing for either library. It
returns the model, its inputs (arrays), a loss and an optimizer.
"""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest


def text_cnn(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 12, padding_idx=1)
            self.convs = nn.ModuleList([nn.Conv2d(1, 6, kernel_size=(k, 12)) for k in (2, 3, 4)])
            self.fc = nn.Linear(18, 3)

        def forward(self, text):
            x = self.embedding(text).unsqueeze(1)
            x = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
            return self.fc(torch.cat([F.max_pool1d(c, c.shape[2]).squeeze(2) for c in x], dim=1))

    inputs = {"x": rng.integers(0, 50, (4, 9)), "y": rng.integers(0, 3, 4)}
    return Model(), inputs, lambda m, x, y: F.cross_entropy(m(x), y), adam(torch)


def resnet(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(i, o // 2, 1, bias=False)
            self.conv2 = nn.Conv2d(o // 2, o // 2, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(o // 2, o, 1, bias=False)
            self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(o // 2), nn.BatchNorm2d(o // 2), nn.BatchNorm2d(o)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
            out += self.downsample(x)
            return self.relu(out)

    stem = [
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    head = [nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(16, 5)]
    model = nn.Sequential(*stem, Block(8, 16, 2), Block(16, 16, 1), *head)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    inputs = {"x": rng.standard_normal((4, 3, 32, 32)), "y": rng.integers(0, 5, 4)}
    return model, inputs, lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.1), sgd(torch)


def mobilenet(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Gate(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.fc1, self.fc2 = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)

        def forward(self, x):
            s = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)), inplace=True)
            # Not F.hardsigmoid: the slope of PyTorch's is 1/6 in float32, also in float64.
            return F.relu6(self.fc2(s) + 3) / 6 * x

    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            wide = [nn.Conv2d(c, 4 * c, 1, bias=False), nn.BatchNorm2d(4 * c), nn.Hardswish()]
            deep = [
                nn.Conv2d(4 * c, 4 * c, 5, 1, 2, groups=4 * c, bias=False),
                nn.BatchNorm2d(4 * c),
                Gate(4 * c),
            ]
            self.block = nn.Sequential(
                *wide, *deep, nn.ReLU6(), nn.Conv2d(4 * c, c, 1, bias=False), nn.BatchNorm2d(c)
            )

        def forward(self, x):
            return x + self.block(x)

    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Block(8), nn.Flatten(2), nn.Conv1d(8, 5, 1))
    inputs = {"x": rng.standard_normal((4, 3, 16, 16)), "y": rng.integers(0, 5, 4)}
    return model, inputs, lambda m, x, y: F.cross_entropy(m(x).mean(-1), y), adam(torch)


def unet(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU())
            self.b = nn.Sequential(
                nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.LeakyReLU(0.2)
            )
            self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
            self.out = nn.Conv2d(12, 2, 1)

        def forward(self, x):
            a = self.a(x)
            b = self.up(self.b(a))
            b = F.pad(b, [0, a.size(3) - b.size(3), 0, a.size(2) - b.size(2)])
            return F.interpolate(
                self.out(torch.cat([a, b], 1)), scale_factor=2, mode="bilinear", align_corners=True
            )

    def loss(m, x, y):
        out = m(x)
        p, t = out.softmax(1), F.one_hot(y, 2).permute(0, 3, 1, 2).to(out.dtype)
        dice = (2 * (p * t).sum((-1, -2)) + 1e-6) / (p.sum((-1, -2)) + t.sum((-1, -2)) + 1e-6)
        return F.cross_entropy(out, y, ignore_index=255) + 1 - dice.mean()

    inputs = {"x": rng.standard_normal((2, 3, 11, 9)), "y": rng.integers(0, 2, (2, 22, 18))}
    return Model(), inputs, loss, adam(torch)


def vae(torch, rng):
    nn, F = torch.nn, torch.nn.functional
    D = importlib.import_module(f"{torch.__name__}.distributions")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(20, 8), nn.Sequential(nn.Linear(4, 20), nn.Sigmoid())

        def forward(self, x, noise):
            mu, log_var = self.encoder(x).chunk(2, 1)
            return self.decoder(mu + noise * (0.5 * log_var).exp()), mu, log_var

    def loss(m, x, noise):
        y, mu, log_var = m(x, noise)
        q = D.Normal(mu, (0.5 * log_var).exp())
        kl = D.kl_divergence(q, D.Normal(torch.zeros_like(mu), 1.0)).sum()
        return F.binary_cross_entropy(y, x, reduction="sum") + kl

    return Model(), {"x": rng.random((6, 20)), "noise": rng.standard_normal((6, 4))}, loss, adam(torch)


def tagger(torch, rng):
    nn, F = torch.nn, torch.nn.functional
    rnn = importlib.import_module(f"{torch.__name__}.nn.utils.rnn")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(30, 8, padding_idx=0)
            self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
            self.fc, self.moves = nn.Linear(12, 4), nn.Parameter(torch.zeros(4, 4))

        def forward(self, x, lengths):
            packed = rnn.pack_padded_sequence(
                self.embedding(x), lengths, batch_first=True, enforce_sorted=False
            )
            out, (h, _) = self.lstm(packed)
            out, _ = rnn.pad_packed_sequence(out, batch_first=True)
            return self.fc(out), h

    def loss(m, x, lengths, y):
        e, h = m(x, lengths)
        alpha = e[:, 0]
        for i in range(1, e.size(1)):
            step = torch.logsumexp(alpha.unsqueeze(2) + m.moves + e[:, i].unsqueeze(1), dim=1)
            alpha = torch.where((lengths > i).unsqueeze(1), step, alpha)
        return alpha.logsumexp(1).mean() - e.gather(2, y.unsqueeze(2)).mean() + F.smooth_l1_loss(h, h * 0)

    inputs = {
        "x": rng.integers(1, 30, (3, 7)),
        "lengths": np.array([4, 7, 5]),
        "y": rng.integers(0, 4, (3, 7)),
    }
    return Model(), inputs, loss, adam(torch)


def gpt(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16, bias=False)
            self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
            self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 16))
            self.fused = fused
            self.register_buffer("mask", torch.tril(torch.ones(10, 10)).view(1, 1, 10, 10))

        def forward(self, x):
            b, t, c = x.size()
            q, k, v = [s.view(b, t, 4, 4).transpose(1, 2) for s in self.qkv(self.norm1(x)).split(c, dim=2)]
            if self.fused:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(4))
                scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
                y = F.softmax(scores, dim=-1) @ v
            x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
            return x + self.mlp(self.norm2(x))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tok, self.pos = nn.Embedding(20, 16), nn.Embedding(10, 16)
            self.blocks, self.norm = nn.ModuleList([Block(True), Block(False)]), nn.LayerNorm(16)
            self.head = nn.Linear(16, 20, bias=False)
            self.head.weight = self.tok.weight

        def forward(self, x):
            h = self.tok(x) + self.pos(torch.arange(x.size(1)))
            for block in self.blocks:
                h = block(h)
            return self.head(self.norm(h))

    def optimizer(m):
        groups = [[p for p in m.parameters() if (p.dim() >= 2) == decayed] for decayed in (True, False)]
        decays = [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}]
        return torch.optim.AdamW(decays, lr=3e-3, betas=(0.9, 0.95))

    inputs = {"x": rng.integers(0, 20, (3, 9)), "y": rng.integers(0, 20, (3, 9))}
    return Model(), inputs, lambda m, x, y: F.cross_entropy(m(x).view(-1, 20), y.view(-1)), optimizer


def translation(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.out = nn.Embedding(20, 16), nn.Linear(16, 20)
            self.core = nn.Transformer(16, 4, 1, 2, 24, dropout=0.0, batch_first=True)

        def forward(self, src, tgt):
            mask = torch.triu(torch.ones(tgt.size(1), tgt.size(1)), 1).bool()
            pad = src == 1
            s, t = self.emb(src), self.emb(tgt)
            h = self.core(s, t, tgt_mask=mask, src_key_padding_mask=pad, memory_key_padding_mask=pad)
            return self.out(h)

    src = rng.integers(2, 20, (3, 6))
    src[1, 4:] = 1

    def loss(m, src, tgt):
        return F.cross_entropy(m(src, tgt[:, :-1]).transpose(1, 2), tgt[:, 1:], label_smoothing=0.1)

    return Model(), {"src": src, "tgt": rng.integers(2, 20, (3, 6))}, loss, adam(torch)


def graph(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.att, self.out = (
                nn.Linear(6, 8, bias=False),
                nn.Parameter(torch.ones(16)),
                nn.Linear(8, 3),
            )

        def forward(self, x, src, dst):
            h = self.lin(x)
            e = F.leaky_relu((torch.cat([h[src], h[dst]], 1) * self.att).sum(1), 0.2)
            top = torch.full((len(x),), -1e9, dtype=x.dtype).scatter_reduce(0, dst, e, reduce="amax")
            w = (e - top[dst].detach()).exp()
            total = torch.zeros(len(x), dtype=x.dtype).scatter_add(0, dst, w)
            messages = h[src] * (w / (total[dst] + 1e-16)).unsqueeze(1)
            return F.log_softmax(self.out(F.elu(torch.zeros_like(h).index_add_(0, dst, messages))), dim=1)

    inputs = {"x": rng.standard_normal((9, 6)), "src": rng.integers(0, 9, 30), "dst": rng.integers(0, 9, 30)}
    inputs |= {"y": rng.integers(0, 3, 9), "seen": rng.random(9) < 0.6}
    return (
        Model(),
        inputs,
        lambda m, x, src, dst, y, seen: F.nll_loss(m(x, src, dst)[seen], y[seen]),
        adam(torch),
    )


def experts(torch, rng):
    nn, F = torch.nn, torch.nn.functional

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(8, 3, bias=False)
            self.parts = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, 8)) for _ in range(3)
            )

        def forward(self, x):
            share, chosen = torch.topk(F.softmax(self.gate(x), dim=1), 2, dim=-1)
            share = share / share.sum(dim=-1, keepdim=True)
            out = torch.zeros_like(x)
            for i, mask in enumerate(F.one_hot(chosen, num_classes=3).permute(2, 1, 0)):
                place, row = torch.where(mask.bool())
                out.index_add_(0, row, self.parts[i](x[row]) * share[row, place, None])
            return out

    inputs = {"x": rng.standard_normal((20, 8)), "y": rng.standard_normal((20, 8))}
    return Model(), inputs, lambda m, x, y: F.mse_loss(m(x), y), adam(torch)


def ppo(torch, rng):
    nn = torch.nn
    D = importlib.import_module(f"{torch.__name__}.distributions")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
            self.critic, self.log_std = nn.Linear(5, 1), nn.Parameter(torch.zeros(1, 3))

    def loss(m, s, a, u, old, gain):
        logits = m.actor(s)
        d, n = D.Categorical(logits=logits), D.Normal(logits, m.log_std.expand_as(logits).exp())
        ratio = (d.log_prob(a) + n.log_prob(u).sum(1) - old).exp()
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        policy = torch.max(-gain * ratio, -gain * torch.clamp(ratio, 0.8, 1.2)).mean()
        value = 0.5 * (m.critic(s).flatten() - gain).pow(2).mean()
        return policy - 0.01 * (d.entropy().mean() + n.entropy().mean()) + value

    inputs = {
        "s": rng.standard_normal((12, 5)),
        "a": rng.integers(0, 3, 12),
        "u": rng.standard_normal((12, 3)),
    }
    inputs |= {"old": rng.standard_normal(12) * 0.1 - 5, "gain": rng.standard_normal(12)}
    return Model(), inputs, loss, adam(torch)


def contrastive(torch, rng):
    nn, F = torch.nn, torch.nn.functional
    norm = torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Linear(10, 16)), nn.BatchNorm1d(16), nn.PReLU(), nn.Linear(16, 6))

    def loss(m, a, b):
        f = F.normalize(m(torch.cat([a, b])), dim=1)
        n = len(a)
        labels = torch.arange(n).repeat(2)
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        keep = ~torch.eye(2 * n, dtype=torch.bool)
        sim, same = (f @ f.T)[keep].view(2 * n, -1), same[keep].view(2 * n, -1)
        logits = torch.cat([sim[same].view(2 * n, -1), sim[~same].view(2 * n, -1)], dim=1) / 0.5
        triplet = F.triplet_margin_loss(f[:n], f[n:], f[:n].roll(1, 0), margin=0.3)
        return F.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long)) + triplet

    return model, {"a": rng.standard_normal((6, 10)), "b": rng.standard_normal((6, 10))}, loss, sgd(torch)


def adam(torch):
    return lambda m: torch.optim.Adam(m.parameters(), lr=1e-3)


def sgd(torch):
    return lambda m: torch.optim.SGD(m.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3, nesterov=True)


PROGRAMS = [
    text_cnn,
    resnet,
    mobilenet,
    unet,
    vae,
    tagger,
    gpt,
    translation,
    graph,
    experts,
    ppo,
    contrastive,
]


def train(library, program, dtype, weights):
    """Three steps; returns the first state, losses, first gradients, the last state and evaluation's loss."""
    library.manual_seed(0)
    model, inputs, loss, optimizer = program(library, np.random.default_rng(1))
    model = model.to(getattr(library, dtype))
    if weights is not None:
        model.load_state_dict({k: library.from_numpy(v.copy()) for k, v in weights.items()})
    arrays = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in inputs.items()}
    inputs = {k: library.from_numpy(v.copy()) for k, v in arrays.items()}

    def state():
        return {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}

    first, losses, grads = state(), [], {}
    update = optimizer(model)
    for _ in range(3):
        update.zero_grad()
        value = loss(model, **inputs)
        value.backward()
        grads = grads or {k: p.grad.numpy().copy() for k, p in model.named_parameters() if p.grad is not None}
        library.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        update.step()
        losses.append(value.item())
    last = state()
    model.eval()
    with library.no_grad():
        losses.append(loss(model, **inputs).item())
    return first, losses, grads, last


@pytest.mark.filterwarnings("ignore:.*nested.tensor.*:UserWarning")  # torch's fast path for padded batches
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_program_follows_torch(program, dtype):
    torch = pytest.importorskip("torch")
    import fastdl

    start, losses, grads, last = train(torch, program, dtype, None)
    _, our_losses, our_grads, our_last = train(fastdl, program, dtype, start)
    wide = dtype == "float64"
    # In float32 only what precedes the first update: Adam divides by gradients' sizes, also those of rounding.
    count = 4 if wide else 1
    np.testing.assert_allclose(our_losses[:count], losses[:count], rtol=1e-9 if wide else 1e-5)
    assert our_grads.keys() == grads.keys()
    for key, want in grads.items():
        bound = (1e-10 if wide else 1e-4) * max(1.0, np.abs(want).max())
        np.testing.assert_allclose(our_grads[key], want, rtol=0, atol=bound, err_msg=key)
    if wide:
        assert list(our_last) == list(last)
        for key, want in last.items():
            np.testing.assert_allclose(our_last[key], want, rtol=1e-8, atol=1e-8, err_msg=key)

"""Recurrences by hand: spiking neurons with a surrogate gradient, a transducer's loss by logcumsumexp, a tree LSTM over
nested tuples, a pointer network that masks what it took, Performer's causal sums, RWKV's decay in a Function."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        out = torch.zeros_like(x)
        out[x > 0] = 1.0
        return out

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad.clone() / (10 * torch.abs(x) + 1.0) ** 2


class Decay(torch.autograd.Function):
    """RWKV's weighted mean; backward differentiates the closed form."""

    @staticmethod
    def forward(ctx, w, u, k, v):
        ctx.save_for_backward(w, u, k, v)
        num, den, y = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), torch.empty_like(v)
        for t in range(k.size(1)):
            now = torch.exp(u + k[:, t])
            y[:, t] = (num + now * v[:, t]) / (den + now)
            num, den = (
                torch.exp(w) * num + torch.exp(k[:, t]) * v[:, t],
                torch.exp(w) * den + torch.exp(k[:, t]),
            )
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        with torch.enable_grad():
            w, u, k, v = inputs = [t.detach().requires_grad_(True) for t in ctx.saved_tensors]
            i = torch.arange(k.size(1))
            ago = (i[:, None] - i[None, :])[None, :, :, None]
            scores = torch.where(ago == 0, u + k[:, None], (ago - 1).clamp_min(0) * w + k[:, None])
            weights = F.softmax(scores.masked_fill(ago < 0, float("-inf")), dim=2)
            y = torch.einsum("btsc,bsc->btc", weights, v)
            return torch.autograd.grad(y, inputs, grad)


class Tree(nn.Module):
    def __init__(self, d=4):
        super().__init__()
        self.iou, self.leaves = nn.Linear(2 * d, 3 * d), nn.Embedding(6, 2 * d)
        self.forget = nn.ModuleList([nn.Linear(2 * d, d) for _ in range(2)])

    def forward(self, tree):
        if isinstance(tree, int):
            return self.leaves(torch.tensor([tree])).chunk(2, 1)
        (h1, c1), (h2, c2) = map(self, tree)
        h = torch.cat((h1, h2), 1)
        i, o, u = self.iou(h).split(4, 1)
        c = i.sigmoid() * u.tanh() + sum(f(h).sigmoid() * c for f, c in zip(self.forget, (c1, c2)))
        return o.sigmoid() * c.tanh(), c


class Pointer(nn.Module):
    def __init__(self, h=6):
        super().__init__()
        self.embed, self.encoder = nn.Linear(2, h), nn.LSTM(h, h, batch_first=True)
        self.cell, self.score, self.start = nn.LSTMCell(h, h), nn.Linear(h, 1), nn.Parameter(torch.zeros(h))

    def forward(self, x, order):
        e, rows, total = self.embed(x), torch.arange(len(x)), 0
        encoded, (h, c) = self.encoder(e)
        h, c, i = h[-1], c[0], self.start.expand(len(x), -1)
        taken = torch.zeros(x.shape[:2], dtype=torch.bool)
        for t in range(x.size(1)):
            h, c = self.cell(i, (h, c))
            scores = self.score(torch.tanh(encoded + h[:, None])).squeeze(2)
            scores = scores.masked_fill(taken.clone(), torch.finfo(torch.float32).min)
            total = total + F.cross_entropy(scores, order[:, t])
            taken.scatter_(1, order[:, t : t + 1], True)
            i = e[rows, order[:, t]]
        return total


def transducer(log_probs, targets, frames, labels):
    batch, steps = log_probs.shape[:2]
    blank, label = (
        log_probs[..., 0],
        log_probs[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, steps, -1, 1)),
    )
    label = label.squeeze(3)
    row = torch.cat([log_probs.new_zeros(batch, 1), label[:, 0].cumsum(-1)], -1)
    rows = [row]
    for t in range(1, steps):
        shift = F.pad(label[:, t].cumsum(-1), (1, 0))
        row = torch.logcumsumexp(row + blank[:, t - 1] - shift, dim=-1) + shift
        rows.append(row)
    i = torch.arange(batch)
    return -(torch.stack(rows, 1)[i, frames - 1, labels] + blank[i, frames - 1, labels])


def main(log, prepare):
    first, second = (torch.randn(10, 12) * 0.5).requires_grad_(), (torch.randn(12, 3) * 0.5).requires_grad_()
    spikes, y = (torch.rand(4, 12, 10) < 0.4).float(), torch.tensor([0, 2, 1, 1])
    optimizer = torch.optim.Adamax([first, second], lr=1e-2)
    for _ in range(3):
        current = torch.einsum("abc,cd->abd", (spikes, first))
        syn, mem, out = torch.zeros(4, 12), torch.zeros(4, 12), []
        for t in range(12):
            spike = Spike.apply(mem - 1.0)
            out.append(spike)
            syn, mem = 0.8 * syn + current[:, t], (0.9 * mem + syn) * (1.0 - spike.detach())
        best, _ = torch.max(torch.einsum("abc,cd->abd", (torch.stack(out, dim=1), second)).cumsum(1), 1)
        loss = nn.NLLLoss()(nn.LogSoftmax(dim=1)(best), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss, first.grad.norm(), second.grad.norm())

    logits = torch.randn(3, 6, 4, 5).requires_grad_()
    losses = transducer(
        logits.log_softmax(-1), torch.randint(1, 5, (3, 3)), torch.tensor([6, 5, 4]), torch.tensor([3, 2, 3])
    )
    losses.mean().backward()
    log(*losses, logits.grad.norm())

    tree = prepare(Tree())
    h = torch.cat([tree(t)[0] for t in (((1, 2), (3, (4, 5))), (0, (1, 1)))])
    h.pow(2).mean().backward()
    log(h.sum(), *[p.grad.norm() for p in tree.parameters()])

    pointer, x = prepare(Pointer()), torch.rand(3, 5, 2)
    loss = pointer(x, x[..., 0].argsort(1))
    loss.backward()
    log(loss, *[p.grad.norm() for p in pointer.parameters()])

    q, k, v = (torch.randn(2, 9, 4).requires_grad_() for _ in range(3))
    fq, fk = F.elu(q) + 1, F.elu(k) + 1
    sums = torch.einsum("...nd,...ne->...nde", fk, v).cumsum(dim=-3)
    scale = 1.0 / torch.einsum("...nd,...nd->...n", fq, fk.cumsum(dim=-2))
    linear = torch.einsum("...nde,...nd,...n->...ne", sums, fq, scale)
    w, u = -torch.rand(4).requires_grad_(), torch.randn(4).requires_grad_()
    decayed = Decay.apply(w, u, k, linear)
    grads = torch.autograd.grad(decayed.pow(2).sum(), (q, k, v, u))
    log(decayed.sum(), *[g.norm() for g in grads])

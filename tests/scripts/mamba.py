"""A language model of a selective state space layer, a TCN with weight norm and a projecting LSTM; tied weights."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations


class SSM(nn.Module):
    def __init__(self, d, n=4, k=3):
        super().__init__()
        self.d, self.n, self.rank = d, n, math.ceil(d / 4)
        self.inp = nn.Linear(d, 2 * d, bias=False)
        self.conv = nn.Conv1d(d, d, k, groups=d, padding=k - 1)
        self.x_proj = nn.Linear(d, self.rank + 2 * n, bias=False)
        self.dt = nn.Linear(self.rank, d)
        A = torch.arange(1, n + 1, dtype=torch.float32).repeat(d, 1)
        self.A_log, self.D = nn.Parameter(torch.log(A)), nn.Parameter(torch.ones(d))
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, u):
        b, steps, d = u.shape
        x, z = self.inp(u).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :steps].transpose(1, 2))
        delta, B, C = self.x_proj(x).split([self.rank, self.n, self.n], dim=-1)
        delta = F.softplus(self.dt(delta))
        A = -torch.exp(self.A_log.float())
        dA = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
        dBu = torch.einsum("bld,bln,bld->bldn", delta, B, x)
        h, ys = u.new_zeros(b, d, self.n), []
        for i in range(steps):
            h = dA[:, i] * h + dBu[:, i]
            ys.append(torch.einsum("bdn,bn->bd", h, C[:, i, :]))
        y = torch.stack(ys, dim=1) + x * self.D
        return self.out(y * F.silu(z))


class TCN(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.convs = nn.ModuleList(
            [parametrizations.weight_norm(nn.Conv1d(d, d, 2, dilation=2**k)) for k in range(2)]
        )
        self.drop = nn.Dropout1d(0.0)

    def forward(self, x):
        h = x.mT
        for k, conv in enumerate(self.convs):
            h = h + self.drop(F.glu(torch.cat([conv(F.pad(h, (2**k, 0)))] * 2, 1), 1))
        return h.mT


class LM(nn.Module):
    def __init__(self, v=20, d=8):
        super().__init__()
        self.emb = nn.Embedding(v, d)
        self.ssm, self.tcn = SSM(d), TCN(d)
        self.norm = nn.ModuleDict({"a": nn.LayerNorm(d), "b": nn.RMSNorm(d)})
        self.rnn = nn.LSTM(d, d, 1, proj_size=4)
        self.up = nn.Linear(4, d)
        self.dec = nn.Linear(d, v)
        self.dec.weight = self.emb.weight

    def forward(self, x, state=None):
        h = self.emb(x)
        h = h + self.ssm(self.norm["a"](h))
        h = h + self.tcn(self.norm["b"](h))
        o, state = self.rnn(h.transpose(0, 1), state)
        return self.dec(self.up(o).transpose(0, 1)), state


def main(log, prepare):
    lm = prepare(LM())
    text = torch.randint(0, 20, (3, 25))
    opt = torch.optim.RAdam(lm.parameters(), lr=0.02)
    for epoch in range(3):
        state = None
        for i in range(0, 24, 8):
            x, y = text[:, i : i + 8], text[:, i + 1 : i + 9]
            logits, state = lm(x, state)
            state = tuple(s.detach() for s in state)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
            loss = (loss * (y != 0)).sum() / (y != 0).sum()
            lm.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(lm.parameters(), 0.5)
            opt.step()
            log(loss.item())
    log(math.exp(loss.item()), len(lm.state_dict()), *[s.norm() for s in state])
    log(*sorted(len(k) for k in lm.state_dict()))

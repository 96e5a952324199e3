"""Fields by gradients: a Fourier operator with complex weights, Burgers' equation by L-BFGS, sliced score matching,
a Hamiltonian, Sinkhorn in logarithms, Kabsch's rotation by SVD."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class SpectralConv(nn.Module):
    def __init__(self, channels, modes):
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(
            torch.view_as_real(torch.zeros(channels, channels, modes, dtype=torch.cfloat))
        )

    def forward(self, x):
        spectrum, weight = torch.fft.rfft(x), torch.view_as_complex(self.weight)
        out = torch.zeros(*x.shape[:-1], x.size(-1) // 2 + 1, dtype=torch.cfloat)
        out[..., : self.modes] = torch.einsum("bix,iox->box", spectrum[..., : self.modes], weight)
        return torch.fft.irfft(out, n=x.size(-1))


class FourierOperator(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.lift = nn.Linear(2, width)
        self.spectral = nn.ModuleList([SpectralConv(width, 4) for _ in range(2)])
        self.local = nn.ModuleList([nn.Conv1d(width, width, 1) for _ in range(2)])
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        grid = torch.linspace(0, 1, x.size(1)).reshape(1, -1, 1).repeat([x.size(0), 1, 1])
        h = self.lift(torch.cat((x, grid), dim=-1)).permute(0, 2, 1)
        for spectral, local in zip(self.spectral, self.local):
            h = F.gelu(spectral(h) + local(h))
        return self.head(h.mT)[..., 0]


def main(log, prepare):
    model = prepare(FourierOperator())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
    x, y = torch.randn(4, 16, 1), torch.randn(4, 16)
    for _ in range(3):
        loss = (torch.norm(model(x) - y, 2, 1) / torch.norm(y, 2, 1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss, model.spectral[0].weight.grad.norm())

    # Burgers' equation: two derivatives in the loss.
    net = prepare(nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 1)))
    points = torch.rand(20, 2).requires_grad_()
    lbfgs = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=3)

    def closure():
        lbfgs.zero_grad()
        at, time = points[:, :1], points[:, 1:]
        u = net(torch.cat([at, time], 1))
        u_x, u_t = torch.autograd.grad(u, (at, time), torch.ones_like(u), create_graph=True)
        u_xx = torch.autograd.grad(u_x.sum(), at, create_graph=True)[0]
        start = net(torch.cat([at, torch.zeros_like(at)], 1)) + torch.sin(math.pi * at)
        loss = (u_t + u * u_x - 0.01 / math.pi * u_xx).pow(2).mean() + start.square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        log(lbfgs.step(closure))

    # Sliced score matching and a Hamiltonian's flow, both through a gradient.
    score = prepare(nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 2)))
    data, direction = torch.randn(32, 2).requires_grad_(), torch.sign(torch.randn(32, 2))
    slope = torch.autograd.grad((score(data) * direction).sum(), data, create_graph=True)[0]
    loss = ((slope * direction).sum(1) + 0.5 * score(data).pow(2).sum(1)).mean()
    loss.backward()
    log(loss, *[p.grad.norm() for p in score.parameters()])
    energy = prepare(nn.Sequential(nn.Linear(4, 8), nn.Softplus(beta=2), nn.Linear(8, 1)))
    state = torch.randn(6, 4).requires_grad_()
    force = torch.autograd.grad(energy(state).sum(), state, create_graph=True)[0]
    F.mse_loss(torch.cat([force[:, 2:], -force[:, :2]], 1), -state.detach()).backward()
    log(*[p.grad.norm() for p in energy.parameters() if p.grad is not None])

    # Transport between two clouds, and the rotation that lays one on the other.
    a, b = torch.randn(7, 3).requires_grad_(), torch.randn(7, 3)
    cost, f, g = torch.cdist(a, b) ** 2, torch.zeros(7), torch.zeros(7)
    for _ in range(8):
        f = -torch.logsumexp(g - cost - math.log(7), dim=1)
        g = -torch.logsumexp(f[:, None] - cost - math.log(7), dim=0)
    plan = torch.exp(f[:, None] + g - cost - 2 * math.log(7))
    (plan * cost).sum().backward()
    log(plan.sum(), plan.max(), a.grad.norm())
    moved, aim = a - a.mean(0, keepdim=True), b - b.mean(0)
    u, _, vh = torch.linalg.svd(moved.T @ aim)
    mirror = torch.diag_embed(torch.stack([torch.ones(()), torch.ones(()), torch.sign(torch.det(u @ vh))]))
    rotation = vh.mT @ mirror @ u.mT
    error = (moved @ rotation.T - aim).pow(2).sum(-1).mean().sqrt()
    a.grad = None
    error.backward()
    log(error, torch.det(rotation), a.grad.norm())

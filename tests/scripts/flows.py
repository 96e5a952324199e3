"""Densities: a conditional VAE, vector quantisation, RealNVP and its inverse, a masked autoencoder."""

import torch
from torch import distributions as D
from torch import nn
from torch.nn import functional as F


class ConditionalVAE(nn.Module):
    def __init__(self, size=64, hidden=8, classes=4):
        super().__init__()
        self.classes = classes
        self.encoder = nn.Sequential(nn.Linear(size + classes, 64), nn.ELU())
        self.mean, self.scale = nn.Linear(64, hidden), nn.Linear(64, hidden)
        self.decoder = nn.Sequential(nn.Linear(hidden + classes, 64), nn.ELU(), nn.Linear(64, size))

    def forward(self, x, y, noise):
        y = F.one_hot(y, self.classes).float()
        h = self.encoder(torch.cat([x, y], 1))
        q = D.Independent(D.Normal(self.mean(h), F.softplus(self.scale(h)) + 1e-3), 1)
        z = q.mean + q.stddev * noise
        return D.Independent(D.Bernoulli(logits=self.decoder(torch.cat([z, y], -1))), 1), q, z


class Quantiser(nn.Module):
    def __init__(self, count, size):
        super().__init__()
        self.book = nn.Embedding(count, size)
        self.register_buffer("usage", torch.zeros(count))

    def forward(self, z):
        book = self.book.weight
        index = (z.pow(2).sum(1, keepdim=True) - 2 * z @ book.t() + book.pow(2).sum(1)).argmin(1)
        q = self.book(index)
        loss = F.mse_loss(q.detach(), z) * 0.25 + F.mse_loss(q, z.detach())
        counts = F.one_hot(index, self.usage.numel()).sum(0)  # int64
        self.usage.mul_(0.9).add_(counts, alpha=0.1)
        return z + (q - z).detach(), loss, index


class Coupling(nn.Module):
    def __init__(self, size, flip):
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(size // 2, 32), nn.LeakyReLU(0.1), nn.Linear(32, size))

    def halves(self, x):
        a, b = x.chunk(2, -1)
        a, b = (b, a) if self.flip else (a, b)
        scale, shift = self.net(a).chunk(2, -1)
        return a, b, scale.tanh(), shift

    def forward(self, x):
        a, b, scale, shift = self.halves(x)
        b = b * scale.exp() + shift
        return torch.cat((b, a) if self.flip else (a, b), -1), scale.sum(-1)

    def inverse(self, y):
        a, b, scale, shift = self.halves(y)
        b = (b - shift) * (-scale).exp()
        return torch.cat((b, a) if self.flip else (a, b), -1)


class MaskedLinear(nn.Linear):
    def masked(self, mask):
        self.register_buffer("mask", mask)
        return self

    def forward(self, x):
        return F.linear(x, self.mask * self.weight, self.bias)


def main(log, prepare):
    x, y = torch.rand(128, 64), torch.randint(0, 4, (128,))
    binary = (x > 0.5).float()
    vae = prepare(ConditionalVAE())
    prior = D.Independent(D.Normal(torch.zeros(8), torch.ones(8)), 1)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    for _ in range(4):
        p, q, z = vae(binary, y, torch.randn(128, 8))
        kl = D.kl_divergence(q, prior)
        loss = (kl - p.log_prob(binary)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss, kl.mean(), (q.log_prob(z) - prior.log_prob(z)).mean())

    parts = nn.ModuleList([nn.Linear(64, 8), Quantiser(16, 8), nn.Linear(8, 64)])
    encoder, quantiser, decoder = prepare(parts)
    optimizer = torch.optim.Adam(parts.parameters(), 1e-2)
    for _ in range(4):
        code, loss, index = quantiser(encoder(x))
        loss = loss + F.mse_loss(decoder(code), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        share = quantiser.usage / quantiser.usage.sum()
        log(loss, index.unique().numel(), quantiser.usage.sum(), D.Categorical(share + 1e-9).entropy().exp())

    data = torch.randn(256, 4) * torch.tensor([1, 2, 0.5, 1]) + 1
    base = D.MultivariateNormal(torch.zeros(4), torch.eye(4))
    flow = prepare(nn.ModuleList([Coupling(4, i % 2) for i in range(4)]))
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(5):
        z, volume = data, 0
        for step in flow:
            z, change = step(z)
            volume = volume + change
        loss = -(base.log_prob(z) + volume).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    with torch.no_grad():
        z = data
        for step in flow:
            z = step(z)[0]
        for step in reversed(flow):
            z = step.inverse(z)
        log((z - data).abs().max() < 1e-4)

    degree, hidden = torch.arange(4), torch.arange(16) % 3
    made = nn.Sequential(
        MaskedLinear(4, 16).masked((hidden[:, None] >= degree[None]).float()),
        nn.ReLU(),
        MaskedLinear(16, 4).masked((degree[:, None] > hidden[None]).float()),
    )
    jacobian = torch.autograd.functional.jacobian(prepare(made), torch.randn(4))
    log(jacobian.triu().abs().sum(), jacobian.sum())
    squashed = [D.transforms.AffineTransform(1.0, 2.0), D.transforms.SigmoidTransform()]
    density = D.TransformedDistribution(D.Normal(torch.zeros(3), torch.ones(3)), squashed)
    log(*density.log_prob(torch.tensor([0.2, 0.5, 0.9])))

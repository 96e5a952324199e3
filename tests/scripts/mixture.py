"""Mixture density network: MixtureSameFamily, logsumexp by hand, Gaussian process with Cholesky, LBFGS."""

import math

import torch
import torch.nn as nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal


class MDN(nn.Module):
    def __init__(self, n_hidden=10, n_gaussians=3):
        super().__init__()
        self.z_h = nn.Sequential(nn.Linear(1, n_hidden), nn.Tanh())
        self.z_pi = nn.Linear(n_hidden, n_gaussians)
        self.z_mu = nn.Linear(n_hidden, n_gaussians)
        self.z_sigma = nn.Linear(n_hidden, n_gaussians)

    def forward(self, x):
        z_h = self.z_h(x)
        return torch.log_softmax(self.z_pi(z_h), -1), self.z_mu(z_h), torch.exp(self.z_sigma(z_h))


def mdn_loss(log_pi, mu, sigma, y):
    density = -0.5 * ((y.expand_as(mu) - mu) / sigma) ** 2 - torch.log(sigma) - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(log_pi + density, dim=1).mean()


def main(log, prepare):
    y = torch.linspace(-1, 1, 30).unsqueeze(1)
    x = 0.7 * torch.sin(0.75 * y) + y * 0.5 + 0.05 * torch.randn(30, 1)
    model = prepare(MDN())
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.05)
    for _ in range(3):
        log_pi, mu, sigma = model(x)
        loss = mdn_loss(log_pi, mu, sigma, y)
        mixture = MixtureSameFamily(Categorical(logits=log_pi), Normal(mu, sigma))
        assert torch.allclose(-mixture.log_prob(y.squeeze(1)).mean(), loss, atol=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    lbfgs = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")

    def closure():
        lbfgs.zero_grad()
        loss = mdn_loss(*model(x), y)
        loss.backward()
        return loss

    for _ in range(2):
        log(lbfgs.step(closure))
    log_length, log_noise = torch.zeros(1, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    optimizer = torch.optim.Adam([log_length, log_noise], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        k = torch.exp(-0.5 * (torch.cdist(x, x) / log_length.exp()) ** 2) + log_noise.exp() * torch.eye(30)
        low = torch.linalg.cholesky(k)
        alpha = torch.cholesky_solve(y, low)
        loss = 0.5 * (y.T @ alpha).squeeze() + low.diagonal().log().sum()
        direct = -MultivariateNormal(torch.zeros(30), k).log_prob(y.squeeze(1))
        assert torch.allclose(direct, loss + 15 * math.log(2 * math.pi), rtol=1e-3)
        loss.backward()
        optimizer.step()
        log(loss, log_length, log_noise)
    components = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    gmm = MixtureSameFamily(Categorical(torch.ones(3)), components)
    log(gmm.log_prob(torch.ones(2)), gmm.mean.sum())

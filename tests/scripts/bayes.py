"""Uncertainty: Bayes by backprop, a Gaussian process by Cholesky, an ensemble under vmap, the neural tangent kernel."""

import math

import torch
from torch import distributions as D
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn import functional as F


class BayesLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(outputs, inputs))
        self.rho = nn.Parameter(torch.full((outputs, inputs), -3.0))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        scale = F.softplus(self.rho)
        self.kl = D.kl_divergence(D.Normal(self.mean, scale), D.Normal(0.0, 0.5)).sum()
        return F.linear(x, self.mean + scale * torch.randn_like(scale), self.bias)


def kernel(a, b, length, amplitude):
    return amplitude**2 * torch.exp(-0.5 * torch.cdist(a, b) ** 2 / length**2)


def main(log, prepare):
    x = torch.rand(10, 1) * 10 - 5
    y = torch.sin(x)
    net = prepare(nn.Sequential(BayesLinear(1, 20), nn.Tanh(), BayesLinear(20, 1)))
    for p in net.parameters():
        if p.dim() == 2:
            p.data.sub_(1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(4):
        fit = F.mse_loss(net(x), y, reduction="sum")
        kl = sum(m.kl for m in net.modules() if hasattr(m, "kl"))
        optimizer.zero_grad()
        (fit + kl / 10).backward()
        optimizer.step()
        log(fit, kl)

    points = torch.rand(30, 2)
    values = torch.sin(points.sum(1) * 3) + 0.1 * torch.randn(30)
    length, amplitude, noise = hyper = [torch.tensor(v).log().requires_grad_() for v in (0.5, 1.0, 0.2)]
    optimizer = torch.optim.Adam(hyper, 0.05)
    for _ in range(5):
        covariance = kernel(points, points, length.exp(), amplitude.exp()) + noise.exp() ** 2 * torch.eye(30)
        lower = torch.linalg.cholesky(covariance)
        weights = torch.cholesky_solve(values[:, None], lower)
        loss = 0.5 * (values @ weights).squeeze() + lower.diagonal().log().sum() + 15 * math.log(2 * math.pi)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    normal = D.MultivariateNormal(torch.zeros(30), covariance_matrix=covariance.detach())
    log(normal.log_prob(values), normal.entropy(), *torch.linalg.slogdet(covariance))
    new = kernel(torch.rand(5, 2), points, length.exp(), amplitude.exp())
    half = torch.linalg.solve_triangular(lower, new.T, upper=False)
    log(*(new @ weights).flatten(), *(amplitude.exp() ** 2 - (half**2).sum(0)))

    nets = [prepare(nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))) for _ in range(3)]
    for i, member in enumerate(nets):
        member[0].bias.data.add_(0.1 * i)
    parameters, buffers = stack_module_state(nets)
    member = nets[0]
    out = vmap(lambda p, b, x: functional_call(member, (p, b), (x,)), in_dims=(0, 0, None))(
        parameters, buffers, x
    )
    log(out.sum(), out.std(0).mean(), (out[1] - nets[1](x)).abs().max() < 1e-6)

    def single(p, point):
        return functional_call(member, p, (point.unsqueeze(0),)).squeeze(0)

    def loss_of(p, point, value):
        return F.mse_loss(single(p, point), value.expand(2))

    own = {k: v.detach() for k, v in member.named_parameters()}
    per_sample = vmap(grad(loss_of), in_dims=(None, 0, 0))(own, x, y)
    log(*[g.pow(2).sum() for g in per_sample.values()])
    jacobians = vmap(jacrev(single), (None, 0))(own, x)
    tangent = sum(torch.einsum("naf,mbf->nmab", j.flatten(2), j.flatten(2)) for j in jacobians.values())
    log(tangent.sum(), *torch.linalg.eigvalsh(tangent[..., 0, 0])[-3:])

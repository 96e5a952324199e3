"""Optimizers of one's own: Lion, SAM around SGD, LARS with Lookahead; Newton and conjugate gradients."""

import torch
from torch import nn
from torch.autograd.functional import hessian, hvp
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts


class Lion(Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in filter(lambda p: p.grad is not None, group["params"]):
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"] = torch.zeros_like(p)
                m = state["exp_avg"]
                p.data.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(m.clone().mul_(b1).add(p.grad, alpha=1 - b1).sign_(), alpha=-group["lr"])
                m.mul_(b2).add_(p.grad, alpha=1 - b2)
        return loss


class SAM(Optimizer):
    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    @torch.no_grad()
    def climb(self):
        grads = [p.grad.norm(p=2) for g in self.param_groups for p in g["params"]]
        norm = torch.norm(torch.stack(grads), p=2)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * (group["rho"] / (norm + 1e-12)))
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base.step()
        self.zero_grad()


class LARS(Optimizer):
    def __init__(self, params, lr, momentum=0.9, trust=0.001):
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                d = p.grad
                if p.ndim > 1:
                    size, change = torch.norm(p), torch.norm(d)
                    one = torch.ones_like(size)
                    ratio = torch.where(change > 0, group["trust"] * size / change, one)
                    d = d.mul(torch.where(size > 0.0, ratio, one))
                mu = self.state[p].setdefault("mu", torch.zeros_like(p))
                mu.mul_(group["momentum"]).add_(d)
                p.add_(mu, alpha=-group["lr"])


def main(log, prepare):
    x, y = torch.randn(96, 10), torch.randint(0, 4, (96,))

    def network():
        layers = nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 4)
        return prepare(nn.Sequential(*layers))

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    model = network()
    optimizer = Lion(model.parameters(), 1e-3, weight_decay=0.1)
    schedule = CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
    for _ in range(5):
        log(optimizer.step(closure), optimizer.param_groups[0]["lr"])
        schedule.step()
    state = optimizer.state_dict()
    again = Lion(model.parameters())
    again.load_state_dict(state)
    log(len(state["state"]), state["state"][0]["exp_avg"].sum(), again.param_groups[0]["weight_decay"])

    model = network()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(4):
        log(closure())
        optimizer.climb()
        log(closure())
        optimizer.step()

    model = network()
    optimizer = LARS(model.parameters(), 1.0)
    slow = [p.detach().clone() for p in model.parameters()]
    for step in range(6):
        for part in range(0, 96, 32):
            (F.cross_entropy(model(x[part : part + 32]), y[part : part + 32]) / 3).backward()
        for p in model.parameters():
            if p.grad.ndim > 1:  # centralised
                p.grad.sub_(p.grad.mean(dim=tuple(range(1, p.grad.ndim)), keepdim=True))
        log(nn.utils.get_total_norm([p.grad for p in model.parameters()]))
        optimizer.step()
        optimizer.zero_grad()
        if step % 3 == 2:
            with torch.no_grad():
                for p, s in zip(model.parameters(), slow):
                    s += 0.5 * (p - s)
                    p.copy_(s)
    log(F.cross_entropy(model(x), y))

    inputs, target = torch.cat([x, torch.ones(96, 1)], 1), (y > 1).float()

    def logistic(w):
        return F.binary_cross_entropy_with_logits(inputs @ w, target) + 1e-2 * w @ w

    w = torch.zeros(11, requires_grad=True)
    for _ in range(3):
        (gradient,) = torch.autograd.grad(logistic(w), w)
        direction, size = torch.linalg.solve(hessian(logistic, w), gradient), 1.0
        while logistic(w.detach() - size * direction) > logistic(w) - 0.5 * size * gradient @ direction:
            size /= 2
        w = (w - size * direction).detach().requires_grad_()
        log(logistic(w), gradient.norm(), size)
    w = torch.ones(11)
    residual = -torch.autograd.functional.jacobian(logistic, w)
    p, steps = residual.clone(), torch.zeros(11)
    for _ in range(4):
        product = hvp(logistic, w, p)[1]
        length = residual @ residual / (p @ product)
        steps = steps + length * p
        following = residual - length * product
        p = following + (following @ following) / (residual @ residual) * p
        residual = following
        log(residual.norm(), steps.norm())

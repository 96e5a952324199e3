"""Functional transforms: MAML's inner loop, Jacobians, Hessians, a custom Function, a neural ODE, physics residuals."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.functional import hessian, hvp, jacobian
from torch.func import functional_call, grad, vmap


class StraightThrough(Function):
    @staticmethod
    def forward(ctx, input, levels):
        ctx.save_for_backward(input)
        return torch.round(input * levels) / levels

    @staticmethod
    def backward(ctx, grad_output):
        (input,) = ctx.saved_tensors
        grad_input = grad_output.clone()
        grad_input[input.abs() > 1] = 0
        return grad_input, None


def main(log, prepare):
    model = prepare(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))
    x = torch.linspace(-2, 2, 12).unsqueeze(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(3):
        outer = 0
        for phase in (0.0, 1.0):
            y = torch.sin(x + phase)
            params = dict(model.named_parameters())
            inner = F.mse_loss(functional_call(model, params, (x[::2],)), y[::2])
            grads = torch.autograd.grad(inner, params.values(), create_graph=True)
            fast = {k: p - 0.1 * g for (k, p), g in zip(params.items(), grads)}
            outer = outer + F.mse_loss(functional_call(model, fast, (x[1::2],)), y[1::2])
        optimizer.zero_grad()
        outer.backward()
        optimizer.step()
        log(outer)
    point = torch.tensor([0.5, -1.0])
    rosenbrock = lambda v: (1 - v[0]) ** 2 + 100 * (v[1] - v[0] ** 2) ** 2  # noqa: E731
    log(hessian(rosenbrock, point).sum(), jacobian(lambda v: v.exp() * v.sum(), point).sum())
    log(hvp(rosenbrock, point, torch.ones(2))[1].sum(), grad(rosenbrock)(point).sum())
    log(vmap(grad(rosenbrock))(torch.stack([point, point * 2])).sum())
    w = torch.tensor([0.26, -0.7, 1.4], requires_grad=True)
    (StraightThrough.apply(w, 4.0) * torch.arange(1.0, 4.0)).sum().backward()
    log(*w.grad)
    field = prepare(nn.Sequential(nn.Linear(2, 6), nn.Softplus(), nn.Linear(6, 2)))
    state, h = torch.tensor([[1.0, 0.0]]).requires_grad_(), 0.1
    z = state
    for _ in range(5):
        k1 = field(z)
        k2 = field(z + h / 2 * k1)
        k3 = field(z + h / 2 * k2)
        k4 = field(z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    z.pow(2).sum().backward()
    log(z.sum(), state.grad.sum(), field[0].weight.grad.norm())
    pinn_x = torch.linspace(0, 1, 5).reshape(-1, 1).requires_grad_(True)
    u = model(pinn_x)
    u_x = torch.autograd.grad(u, pinn_x, torch.ones_like(u), create_graph=True)[0]
    u_xx = torch.autograd.grad(u_x.sum(), pinn_x, create_graph=True)[0]
    residual = (u_xx + u).pow(2).mean()
    model.zero_grad()
    residual.backward()
    log(residual, model[0].weight.grad.sum())

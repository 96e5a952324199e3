"""Hooks everywhere: an optimizer's step inside backward, Grad-CAM, activations kept in half precision, a walk through
the graph, a wrapper that passes attributes on, versions of state dicts, a user's optimizer, decorators of jit."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks
from torch.jit import Final
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.pooling import AdaptiveAvgPool2d
from torch.optim.optimizer import Optimizer, ParamsT


class Net(nn.Module):
    channels: Final[int] = 4

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, self.channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(self.channels)
        self.conv2 = nn.Conv2d(self.channels, self.channels, 3, padding=1)
        self.pool = AdaptiveAvgPool2d(1)
        self.head = nn.Linear(self.channels, 3)

    @torch.jit.ignore
    def no_weight_decay(self):
        return {"head.bias"}

    def forward(self, x):
        if torch.jit.is_scripting():
            return x
        x = F.relu(self.norm(self.conv1(x)))
        return self.head(self.pool(F.silu(self.conv2(x))).flatten(1))


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def forward(self, *args):
        return self.module(*args)


class Lion(Optimizer):
    def __init__(self, params: ParamsT, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.data.mul_(1 - group["lr"] * group["weight_decay"])
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                average = state["exp_avg"]
                p.add_(average.clone().mul_(first).add_(p.grad, alpha=1 - first).tanh(), alpha=-group["lr"])
                average.mul_(second).add_(p.grad, alpha=1 - second)


def leaves(node, seen):
    if node is None or node in seen:
        return 0
    seen.add(node)
    if hasattr(node, "variable"):
        return node.variable.numel()
    return sum(leaves(after, seen) for after, _ in node.next_functions)


def main(log, prepare):
    net = Wrapper(prepare(Net()))
    x, y = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    log(net.channels, len(net.no_weight_decay()), isinstance(net.norm, _BatchNorm))

    # Grad-CAM, and gradients met on their way.
    kept = {}
    handles = [
        net.conv2.register_forward_hook(lambda module, args, out: kept.update(out=out.detach())),
        net.conv2.register_full_backward_hook(lambda module, grads, outs: kept.update(grad=outs[0].detach())),
    ]
    both = register_multi_grad_hook(
        (net.conv1.weight, net.head.weight), lambda grads: kept.update(norm=sum(g.norm() for g in grads))
    )
    out = net(x)
    log(leaves(out.grad_fn, set()))
    out.grad_fn.register_prehook(lambda grads: (grads[0] * 2,))
    out.grad_fn.register_hook(lambda grads, outs: kept.update(top=outs[0].sum()))
    out.gather(1, y[:, None]).sum().backward()
    cam = F.relu((kept["grad"].mean((2, 3), keepdim=True) * kept["out"]).sum(1))
    log(cam.sum(), kept["norm"], kept["top"])
    for handle in (*handles, both):
        handle.remove()
    net.zero_grad()

    # What backward needs, kept in half the memory.
    with saved_tensors_hooks(
        lambda t: t.to(torch.float16) if t.is_floating_point() else t,
        lambda t: t.float() if t.is_floating_point() else t,
    ):
        loss = torch.tanh(net.head(torch.ones(1, 4))).exp().sum()
    loss.backward()
    log(net.head.weight.grad.sum(), tolerance=5e-3)
    net.zero_grad()

    # An optimizer for every parameter, which steps as soon as its gradient is there.
    optimizers = {p: Lion([p], weight_decay=0.1) for p in net.parameters()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        log(loss, *[p._version > 0 for p in net.parameters()])
    log(*[p.grad is None for p in net.parameters()])

    # Versions of the layout.
    state = net.state_dict()
    log(state._metadata["module.norm"]["version"], state._metadata[""]["version"])
    del state["module.norm.num_batches_tracked"]
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        log("num_batches_tracked" in str(error))
    old = dict(state)
    net.load_state_dict(old)
    log(net.norm.num_batches_tracked)

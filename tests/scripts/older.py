"""Code of PyTorch's first years: Variable, FloatTensor, numbers before tensors, its own optimizer and schedule."""

import io
import math

import torch
import torch.backends.cudnn as cudnn
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Variable
from torch.nn.modules.utils import _pair
from torch.optim import Optimizer
from torch.optim.lr_scheduler import _LRScheduler

cudnn.benchmark = True
cuda = False
Tensor = torch.cuda.FloatTensor if cuda else torch.FloatTensor


class OldAdam(Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super(OldAdam, self).__init__(params, dict(lr=lr, betas=betas, eps=eps))

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad, state = p.grad.data, self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p.data)
                    state["exp_avg_sq"] = p.data.new(p.data.size()).zero_()
                beta1, beta2 = group["betas"]
                state["step"] += 1
                state["exp_avg"].mul_(beta1).add_(1 - beta1, grad)
                state["exp_avg_sq"].mul_(beta2).addcmul_(1 - beta2, grad, grad)
                denom = state["exp_avg_sq"].sqrt().add_(group["eps"])
                size = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                p.data.addcdiv_(-size, state["exp_avg"], denom)


class Poly(_LRScheduler):
    def __init__(self, optimizer, total, last_epoch=-1):
        self.total = total
        super(Poly, self).__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base * (1 - self.last_epoch / self.total) ** 0.9 for base in self.base_lrs]


class Window(nn.Module):
    def __init__(self, channels, kernel_size):
        super(Window, self).__init__()
        self.kernel_size = _pair(kernel_size)
        self.weight = nn.Parameter(torch.Tensor(channels, 1, *self.kernel_size))
        stdv = 1.0 / math.sqrt(self.weight.size()[1:].numel())
        self.weight.data.uniform_(-stdv, stdv)

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=tuple(k // 2 for k in self.kernel_size), groups=x.size(1))


def main(log, prepare):
    net = prepare(
        nn.Sequential(Window(2, 3), nn.ReLU(), nn.Conv2d(2, 3, (1, 4)), nn.Flatten(), nn.Linear(12, 3))
    )
    optimizer = OldAdam(net.parameters(), lr=0.01)
    schedule = Poly(optimizer, 10)
    inputs = Variable(torch.randn(5, 2, 4, 4).type(Tensor))
    labels = Variable(torch.LongTensor([0, 1, 2, 1, 0]), requires_grad=False)
    valid = Variable(Tensor(5, 1).fill_(1.0), requires_grad=False)
    assert isinstance(inputs, torch.FloatTensor) and not isinstance(labels, torch.FloatTensor)
    for _ in range(3):
        outputs = net(inputs)
        loss = F.cross_entropy(outputs, labels) + F.mse_loss(outputs[:, :1], valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        _, predicted = torch.max(outputs.data, 1)
        log(loss.item(), schedule.get_last_lr()[0], predicted.eq(labels.data).cpu().sum())
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "epoch": 3}, file)
    file.seek(0)
    checkpoint = torch.load(file, map_location=lambda storage, loc: storage)
    net.load_state_dict({k: v for k, v in checkpoint["net"].items() if k in net.state_dict()})
    log(checkpoint["epoch"], net(inputs).data.cpu().numpy().sum(), torch.finfo(torch.float32).eps * 2**20)

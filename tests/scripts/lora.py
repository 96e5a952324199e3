"""Low-rank adaptation by parametrisation and by a wrapper, merged and saved alone; pruning; soft targets; SWA."""

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class LowRank(nn.Module):
    def __init__(self, rows, columns, rank=2, alpha=4):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.zeros(rank, columns)), nn.Parameter(torch.zeros(rows, rank))
        self.scale, self.enabled = alpha / rank, True

    def forward(self, W):
        return W + (self.B @ self.A).view(W.shape) * self.scale if self.enabled else W


class LoRALinear(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def wrap(module):
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, LoRALinear(child))
        else:
            wrap(child)
    return module


def main(log, prepare):
    x, y = torch.randn(8, 6), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    teacher = prepare(nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 3))).eval()
    with torch.no_grad():
        soft = F.softmax(teacher(x) / 2, dim=1)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    for layer in (net[0], net[2]):
        parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape))
    prepare(net)
    for name, p in net.named_parameters():
        p.requires_grad = ".weight.0." in name
    optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, net.parameters()), lr=0.01)
    for _ in range(3):
        out = net(x)
        kl = F.kl_div(F.log_softmax(out / 2, dim=1), soft, reduction="batchmean") * 4
        loss = kl + F.cross_entropy(out, y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    with parametrize.cached():
        adapted = net(x)
    net[0].parametrizations.weight[0].enabled = False
    log(len(net.state_dict()), adapted.sum(), net(x).sum())
    parametrize.remove_parametrizations(net[2], "weight")
    log(len(net.state_dict()), net[2].weight.sum())

    model = wrap(prepare(nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 3)))))
    prepare(nn.ModuleList(m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        log(loss)
    own = {k: v for k, v in model.state_dict().items() if "base" not in k}
    missing = model.load_state_dict(own, strict=False).missing_keys
    log(len(own), len(missing), ema(x).sum(), sum(p.numel() for p in model.parameters() if p.requires_grad))
    layer = model[0].base
    prune.l1_unstructured(layer, name="weight", amount=0.4)
    log(layer.weight_mask.sum(), model(x).sum(), len(list(layer.named_buffers())))
    prune.remove(layer, "weight")
    log((layer.weight == 0).sum(), "weight_orig" in dict(layer.named_parameters()))

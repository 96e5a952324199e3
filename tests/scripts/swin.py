"""Shifted windows: relative position bias in a buffer, masks from slices, torch.roll, patches merged by strides."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def window_partition(x, size):
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows, size, H, W):
    B = int(windows.shape[0] / (H * W / size / size))
    x = windows.view(B, H // size, W // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class WindowAttention(nn.Module):
    def __init__(self, dim, size, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        coords = torch.stack(torch.meshgrid([torch.arange(size), torch.arange(size)], indexing="ij"))
        coords = torch.flatten(coords, 1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0).contiguous()
        relative[:, :, 0] += size - 1
        relative[:, :, 1] += size - 1
        relative[:, :, 0] *= 2 * size - 1
        self.register_buffer("index", relative.sum(-1))
        self.qkv, self.proj = nn.Linear(dim, dim * 3, bias=True), nn.Linear(dim, dim)

    def forward(self, x, mask):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(N, N, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        windows = mask.shape[0]
        attn = attn.view(B // windows, windows, self.heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
        attn = F.softmax(attn.view(-1, self.heads, N, N), dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class Swin(nn.Module):
    def __init__(self, dim=8, side=4, size=2):
        super().__init__()
        self.side, self.size, self.shift = side, size, size // 2
        self.embed, self.norm = nn.Conv2d(3, dim, kernel_size=2, stride=2), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, size, 2)
        self.reduction, self.head = nn.Linear(4 * dim, 2 * dim, bias=False), nn.Linear(2 * dim, 3)
        regions, count = torch.zeros((1, side, side, 1)), 0
        spans = (slice(0, -size), slice(-size, -self.shift), slice(-self.shift, None))
        for h in spans:
            for w in spans:
                regions[:, h, w, :] = count
                count += 1
        windows = window_partition(regions, size).view(-1, size * size)
        mask = windows.unsqueeze(1) - windows.unsqueeze(2)
        mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        B, L, C = x.shape
        shortcut, H = x, self.side
        x = torch.roll(self.norm(x).view(B, H, H, C), shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, self.size).view(-1, self.size**2, C)
        windows = self.attn(windows, self.mask).view(-1, self.size, self.size, C)
        x = torch.roll(window_reverse(windows, self.size, H, H), shifts=(self.shift, self.shift), dims=(1, 2))
        x = (shortcut + x.view(B, L, C)).view(B, H, H, C)
        x = torch.cat([x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)], -1).view(B, -1, 4 * C)
        return self.head(self.reduction(x).mean(dim=1))


def main(log, prepare):
    model = prepare(Swin())
    assert "mask" not in model.state_dict() and "attn.index" in model.state_dict()
    no_decay = [p for n, p in model.named_parameters() if p.ndim == 1 or n.endswith("table")]
    decay = [p for p in model.parameters() if all(p is not q for q in no_decay)]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": no_decay, "weight_decay": 0.0}], lr=1e-2)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4),
        ],
        milestones=[2],
    )
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 2, 1, 2])
    for _ in range(4):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log(loss, schedule.get_last_lr()[0], model.attn.table.grad.abs().sum())

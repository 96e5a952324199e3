"""Points and rays: farthest points, balls and grouping; a radiance field with importance sampling; correlation volumes
looked up by grid_sample, upsampled by a learned convex combination."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def pick(points, idx):
    batch = torch.arange(len(points)).view(-1, *[1] * (idx.dim() - 1)).expand_as(idx)
    return points[batch, idx, :]


def farthest(x, count):
    chosen = torch.zeros(len(x), count, dtype=torch.long)
    distance, last = torch.ones(x.shape[:2]) * 1e10, torch.zeros(len(x), dtype=torch.long)
    for i in range(count):
        chosen[:, i] = last
        d = torch.sum((x - x[torch.arange(len(x)), last].unsqueeze(1)) ** 2, -1)
        mask = d < distance
        distance[mask] = d[mask]
        last = torch.max(distance, -1)[1]
    return chosen


def ball(radius, count, x, centres):
    n = x.size(1)
    found = torch.arange(n, dtype=torch.long).repeat(len(x), centres.size(1), 1)
    found[torch.cdist(centres, x) > radius] = n
    found = found.sort(dim=-1)[0][:, :, :count]
    first = found[:, :, :1].expand_as(found)
    return torch.where(found == n, first, found)


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x):
        centres = pick(x, farthest(x, 6))
        groups = pick(x, ball(0.8, 5, x, centres)) - centres.unsqueeze(2)
        h = F.relu(self.norm(self.conv(groups.permute(0, 3, 2, 1))))
        return F.log_softmax(self.head(torch.max(h, 2)[0].amax(-1)), -1)


def sample_pdf(bins, weights, count):
    pdf = (weights + 1e-5) / (weights + 1e-5).sum(-1, keepdim=True)
    cdf = F.pad(torch.cumsum(pdf, -1), (1, 0))
    u = torch.linspace(0.02, 0.98, steps=count).expand([len(cdf), count]).contiguous()
    above = torch.searchsorted(cdf, u, right=True)
    ends = torch.stack(
        [(above - 1).clamp_min(0), torch.min((cdf.shape[-1] - 1) * torch.ones_like(above), above)], -1
    )
    shape = [*ends.shape[:2], cdf.shape[-1]]
    c, b = (torch.gather(t.unsqueeze(1).expand(shape), 2, ends) for t in (cdf, bins))
    width = c[..., 1] - c[..., 0]
    width = torch.where(width < 1e-5, torch.ones_like(width), width)
    return b[..., 0] + (u - c[..., 0]) / width * (b[..., 1] - b[..., 0])


def render(field, rays, z):
    out = field((rays[:, None] * z[..., None]).reshape(-1, 3)).view(*z.shape, 4)
    gaps = torch.cat([z[..., 1:] - z[..., :-1], torch.Tensor([1e10]).expand(z[..., :1].shape)], -1)
    alpha = 1.0 - torch.exp(-F.relu(out[..., 3]) * gaps)
    clear = torch.cumprod(torch.cat([torch.ones((len(z), 1)), 1.0 - alpha + 1e-10], -1), -1)[:, :-1]
    weights = alpha * clear
    return torch.sum(weights[..., None] * out[..., :3].sigmoid(), -2), weights


def main(log, prepare):
    model, x, y = prepare(PointNet()), torch.rand(3, 24, 3) * 2 - 1, torch.tensor([0, 2, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        loss = F.nll_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss, model.conv.weight.grad.norm())

    field = prepare(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4)))
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 4), indexing="xy")
    rays = torch.stack([rows, -columns, -torch.ones_like(rows)], -1).view(-1, 3)
    z = torch.linspace(0.5, 2.0, 6).expand(16, 6)
    coarse, weights = render(field, rays, z)
    fine = sample_pdf(0.5 * (z[..., 1:] + z[..., :-1]), weights[..., 1:-1], 4).detach()
    image, weights = render(field, rays, torch.sort(torch.cat([z, fine], -1), -1).values)
    loss = ((image - 0.3) ** 2).mean() + ((coarse - 0.3) ** 2).mean()
    loss.backward()
    log(loss, weights.sum(), fine.mean(), *[p.grad.norm() for p in field.parameters()])

    a, b = torch.randn(2, 4, 6, 5).requires_grad_(), torch.randn(2, 4, 6, 5)
    volume = torch.matmul(a.flatten(2).transpose(1, 2), b.flatten(2)).view(2 * 30, 1, 6, 5) / 2
    at = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")[::-1], -1).float()
    line = torch.linspace(-1, 1, 3)
    near = at.repeat(2, 1, 1, 1).reshape(60, 1, 1, 2) + torch.stack(
        torch.meshgrid(line, line, indexing="ij"), -1
    )
    found = F.grid_sample(volume, 2 * near / torch.tensor([4, 5]) - 1, align_corners=True)
    flow = found.view(2, 6, 5, 9).permute(0, 3, 1, 2)
    mask = torch.softmax(torch.randn(2, 1, 9, 2, 2, 6, 5), dim=2)
    parts = F.unfold(2 * flow[:, :2], [3, 3], padding=1).view(2, 2, 9, 1, 1, 6, 5)
    up = torch.sum(mask * parts, dim=2).permute(0, 1, 4, 2, 5, 3).reshape(2, 2, 12, 10)
    up.square().mean().backward()
    log(up.sum(), up.std(), a.grad.norm())

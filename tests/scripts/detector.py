"""One-stage detection: anchors on a grid, boxes decoded and assigned by index, IoU losses, suppression of overlaps."""

import torch
import torch.nn as nn


def box_iou(a, b):
    lt, rb = torch.max(a[:, None, :2], b[:, :2]), torch.min(a[:, None, 2:], b[:, 2:])
    wh = (rb - lt).clamp(min=0)
    inter = wh[..., 0] * wh[..., 1]
    area = lambda z: (z[:, 2] - z[:, 0]) * (z[:, 3] - z[:, 1])  # noqa: E731
    return inter / (area(a)[:, None] + area(b) - inter)


def nms(boxes, scores, threshold):
    keep, order = [], scores.argsort(descending=True)
    while order.numel() > 0:
        i = order[0].item()
        keep.append(i)
        if order.numel() == 1:
            break
        overlap = box_iou(boxes[i : i + 1], boxes[order[1:]]).squeeze(0)
        order = order[1:][overlap <= threshold]
    return torch.tensor(keep)


class Detect(nn.Module):
    stride = 8

    def __init__(self, classes=2, anchors=((10, 20), (20, 10), (24, 24))):
        super().__init__()
        self.no, self.na = classes + 5, len(anchors)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Conv2d(8, 8, 3, 4, 1)
        )
        self.m = nn.Conv2d(8, self.no * self.na, 1)
        self.register_buffer("anchors", torch.tensor(anchors).float())
        b = self.m.bias.view(self.na, -1)
        b.data[:, 4] += -2.0
        self.m.bias = torch.nn.Parameter(b.view(-1), requires_grad=True)

    def forward(self, x):
        x = self.m(self.backbone(x))
        bs, _, ny, nx = x.shape
        x = x.view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        if self.training:
            return x
        yv, xv = torch.meshgrid([torch.arange(ny), torch.arange(nx)], indexing="ij")
        grid = torch.stack((xv, yv), 2).view((1, 1, ny, nx, 2)).float()
        y = x.sigmoid()
        y[..., 0:2] = (y[..., 0:2] * 2.0 - 0.5 + grid) * self.stride
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors.view(1, self.na, 1, 1, 2)
        return y.view(bs, -1, self.no)


def main(log, prepare):
    model = prepare(Detect())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    images = torch.randn(2, 3, 32, 32)
    targets = torch.tensor([[0, 1, 0, 1.5, 2.5, 3.0, 1.0], [1, 0, 2, 3.2, 0.4, 1.5, 2.0]])
    b, c, a = targets[:, :3].long().T
    gxy, gwh = targets[:, 3:5], targets[:, 5:7]
    gij = gxy.long()
    gi, gj = gij.T
    bce, bce_objects = nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
    for _ in range(3):
        p = model(images)
        ps = p[b, a, gj, gi]
        pxy, pwh = ps[:, :2].sigmoid() * 2.0 - 0.5, (ps[:, 2:4].sigmoid() * 2) ** 2 * 2
        corners = lambda xy, wh: torch.cat((xy - wh / 2, xy + wh / 2), 1)  # noqa: E731
        iou = torch.diagonal(box_iou(corners(pxy, pwh), corners(gxy - gij, gwh)))
        objects = torch.zeros_like(p[..., 0])
        objects[b, a, gj, gi] = iou.detach().clamp(0).type(objects.dtype)
        t = torch.full_like(ps[:, 5:], 0.05)
        t[range(len(b)), c] = 0.95
        loss = (1.0 - iou).mean() + bce_objects(p[..., 4], objects) + bce(ps[:, 5:], t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss, iou.sum(), model.m.bias.grad.norm())
    model.eval()
    with torch.no_grad():
        y = model(images)
    scores, labels = (y[0, :, 5:] * y[0, :, 4:5]).max(1)
    xy, wh = y[0, :, :2], y[0, :, 2:4]
    kept = nms(torch.cat((xy - wh / 2, xy + wh / 2), 1), scores, 0.4)
    log(len(kept), *kept[:4].tolist(), scores[kept].sum(), labels[kept].sum())

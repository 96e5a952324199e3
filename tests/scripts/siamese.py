"""Siamese network with triplet loss and hard negative mining, contrastive loss, cosine retrieval."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Triplets(Dataset):
    def __init__(self, n=24):
        self.x = torch.randn(n, 1, 12, 12)
        self.y = torch.arange(n) % 3

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        anchor = self.x[i]
        positive = self.x[(self.y == self.y[i]).nonzero(as_tuple=True)[0][-1]]
        negative = self.x[(self.y != self.y[i]).nonzero()[i % 3].item()]
        return anchor, positive, negative, int(self.y[i])


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.PReLU(),
            nn.MaxPool2d(2, stride=2),
            nn.Conv2d(4, 8, 3),
            nn.PReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.features(x)
        x = torch.flatten(x, start_dim=1)
        return F.normalize(self.fc(x), p=2, dim=-1)


class ContrastiveLoss(torch.nn.Module):
    def __init__(self, margin=2.0):
        super(ContrastiveLoss, self).__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        d = F.pairwise_distance(output1, output2, keepdim=True)
        return torch.mean(
            (1 - label) * torch.pow(d, 2) + label * torch.pow(torch.clamp(self.margin - d, min=0.0), 2)
        )


def main(log, prepare):
    model = prepare(Embedder())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = nn.TripletMarginLoss(margin=1.0, p=2)
    custom = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: 1.0 - F.cosine_similarity(x, y))
    contrastive = ContrastiveLoss()
    loader = DataLoader(Triplets(), batch_size=8, drop_last=True)
    for anchor, positive, negative, label in loader:
        a, p, n = model(anchor), model(positive), model(negative)
        distances = torch.cdist(a, a) + 1e6 * (label[:, None] == label[None, :]).float()
        hardest = a[distances.argmin(dim=1)]
        loss = criterion(a, p, n) + criterion(a, p, hardest) + 0.1 * custom(a, p, n)
        loss = loss + contrastive(a, n, torch.ones(len(a), 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    gallery = model(loader.dataset.x).detach()
    similarity = gallery @ gallery.t()
    similarity.fill_diagonal_(-float("inf"))
    values, indices = similarity.topk(k=3, dim=1, largest=True, sorted=True)
    log(values.mean(), (loader.dataset.y[indices] == loader.dataset.y.unsqueeze(1)).float().mean())

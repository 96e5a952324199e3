"""Graph convolution by hand: index_add_, scatter, degree normalisation, masks, attention over edges."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import Parameter


class GCNConv(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.bias = Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self):
        self.lin.reset_parameters()
        self.bias.data.zero_()

    def forward(self, x, edge_index):
        n = x.size(0)
        loops = torch.arange(n, dtype=edge_index.dtype, device=edge_index.device).repeat(2, 1)
        row, col = torch.cat([edge_index, loops], dim=1)
        deg = torch.zeros(n, dtype=x.dtype).scatter_add_(0, col, torch.ones_like(col, dtype=x.dtype))
        deg_inv_sqrt = deg.pow(-0.5)
        deg_inv_sqrt[deg_inv_sqrt == float("inf")] = 0
        norm = deg_inv_sqrt[row] * deg_inv_sqrt[col]
        x = self.lin(x)
        out = torch.zeros(n, x.size(1)).index_add_(0, col, norm.view(-1, 1) * x[row])
        return out + self.bias


class GATLayer(nn.Module):
    def __init__(self, in_features, out_features, alpha=0.2):
        super().__init__()
        self.W = nn.Parameter(torch.empty(size=(in_features, out_features)))
        self.a = nn.Parameter(torch.empty(size=(2 * out_features, 1)))
        nn.init.xavier_uniform_(self.W.data, gain=1.414)
        nn.init.xavier_uniform_(self.a.data, gain=1.414)
        self.leakyrelu = nn.LeakyReLU(alpha)

    def forward(self, h, adj):
        Wh = torch.mm(h, self.W)
        half = Wh.shape[1]
        e = self.leakyrelu(torch.matmul(Wh, self.a[:half, :]) + torch.matmul(Wh, self.a[half:, :]).T)
        attention = torch.where(adj > 0, e, -9e15 * torch.ones_like(e))
        return F.elu(torch.matmul(F.softmax(attention, dim=1), Wh))


def pooled(x, batch, groups):
    """Sum, mean and maximum of the nodes of each graph."""
    index = batch.unsqueeze(-1).expand_as(x)
    total = x.new_zeros(groups, x.size(1)).scatter_add(0, index, x)
    mean = total / torch.bincount(batch, minlength=groups).clamp(min=1).unsqueeze(1)
    top = torch.full((groups, x.size(1)), -1e9).scatter_reduce(0, index, x, reduce="amax")
    return torch.cat([total, mean, top], dim=-1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(5, 8), GCNConv(8, 3)
        self.gat = GATLayer(5, 3)
        self.read = nn.Linear(9, 3)

    def forward(self, x, edge_index, batch):
        adj = torch.zeros(len(x), len(x))
        adj[edge_index[0], edge_index[1]] = 1.0
        adj.fill_diagonal_(1)
        h = F.dropout(self.conv1(x, edge_index).relu(), p=0.5, training=False)
        h = self.conv2(h, edge_index) + self.gat(x, adj)
        return F.log_softmax(h, dim=1), self.read(pooled(h, batch, 2))


def main(log, prepare):
    x = torch.eye(10)[:, :5] + torch.randn(10, 5) * 0.1
    edge_index = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2], [1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 1]])
    y, batch = torch.arange(10) % 3, torch.tensor([0] * 5 + [1] * 5)
    train_mask = torch.zeros(10, dtype=torch.bool)
    train_mask[[0, 1, 2, 5, 6]] = True
    model = prepare(Net())
    optimizer = torch.optim.Adam(
        [
            dict(params=model.conv1.parameters(), weight_decay=5e-4),
            dict(params=model.conv2.parameters()),
            dict(params=[*model.gat.parameters(), *model.read.parameters()]),
        ],
        lr=0.01,
    )
    for _ in range(4):
        model.train()
        optimizer.zero_grad()
        out, graphs = model(x, edge_index, batch)
        loss = F.nll_loss(out[train_mask], y[train_mask]) + F.cross_entropy(graphs, torch.tensor([0, 2]))
        loss.backward()
        optimizer.step()
        log(loss)
    pred = model(x, edge_index, batch)[0].argmax(dim=1)
    log(int((pred[~train_mask] == y[~train_mask]).sum()) / int((~train_mask).sum()))

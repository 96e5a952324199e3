"""Variational autoencoder with a Bernoulli decoder, reparametrised by hand and with distributions' KL."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import optim
from torch.distributions import Independent, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset


class VAE(nn.Module):
    def __init__(self, inputs=32, hidden=24, latent=4):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc21 = nn.Linear(hidden, latent)
        self.fc22 = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, inputs)
        )

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 32))
        z = self.reparameterize(mu, logvar)
        return torch.sigmoid(self.decoder(z)), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    bce = F.binary_cross_entropy(recon_x, x.view(-1, 32), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    posterior = Independent(Normal(mu, (0.5 * logvar).exp()), 1)
    assert torch.allclose(kl_divergence(posterior, prior).sum(), kld, rtol=1e-4)
    return bce + kld


def main(log, prepare):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = torch.rand(64, 1, 4, 8).round()
    loader = DataLoader(TensorDataset(data, torch.arange(64)), batch_size=16, shuffle=False)
    model = prepare(VAE()).to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    for _epoch in range(3):
        model.train()
        train_loss = 0
        for _batch_idx, (x, _) in enumerate(loader):
            x = x.to(device)
            optimizer.zero_grad()
            loss = loss_function(*(lambda r, m, lv, x=x: (r, x, m, lv))(*model(x)))
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
        log(train_loss / len(loader.dataset))
    model.eval()
    with torch.no_grad():
        sample = torch.randn(5, 4).to(device)
        sample = torch.sigmoid(model.decoder(sample)).cpu()
        log(sample.view(5, 1, 4, 8).mean())

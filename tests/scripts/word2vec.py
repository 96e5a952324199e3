"""Skip-gram with negative sampling, CBOW with EmbeddingBag, most similar words."""

import collections

import torch
import torch.nn as nn
import torch.nn.functional as F

TEXT = "the quick brown fox jumps over the lazy dog and the quick cat sleeps near the lazy dog".split()


class SkipGramNegSampling(nn.Module):
    def __init__(self, vocab_size, embd_size):
        super().__init__()
        self.in_embed = nn.Embedding(vocab_size, embd_size, sparse=False)
        self.out_embed = nn.Embedding(vocab_size, embd_size)
        self.in_embed.weight.data.uniform_(-1, 1)

    def forward(self, center, context, negatives):
        v = self.in_embed(center)
        u = self.out_embed(context)
        positive = F.logsigmoid(torch.sum(u * v, dim=1)).squeeze()
        u_hat = self.out_embed(negatives)
        negative = F.logsigmoid(torch.bmm(u_hat, v.unsqueeze(2)).squeeze(2).neg()).sum(1)
        return -(positive + negative).mean()


class CBOW(nn.Module):
    def __init__(self, vocab_size, dim):
        super().__init__()
        self.bag = nn.EmbeddingBag(vocab_size, dim, mode="mean", padding_idx=0)
        self.linear = nn.Linear(dim, vocab_size, bias=False)

    def forward(self, text, offsets):
        return self.linear(self.bag(text, offsets))


def main(log, prepare):
    counts = collections.Counter(TEXT)
    vocab = {w: i + 1 for i, w in enumerate(sorted(counts))}
    ids = torch.LongTensor([vocab[w] for w in TEXT])
    pairs = torch.tensor(
        [(ids[i], ids[j]) for i in range(len(ids)) for j in (i - 1, i + 1) if 0 <= j < len(ids)]
    )
    freq = torch.tensor([0.0] + [counts[w] ** 0.75 for w in sorted(counts)])
    freq /= freq.sum()
    model = prepare(SkipGramNegSampling(len(vocab) + 1, 6))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.5)
    for _ in range(3):
        negatives = torch.randint(1, len(vocab) + 1, (pairs.size(0), 4))
        loss = model(pairs[:, 0], pairs[:, 1], negatives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    assert torch.multinomial(freq, 50, replacement=True).min() > 0
    bag = prepare(CBOW(len(vocab) + 1, 5))
    optimizer = torch.optim.RMSprop(bag.parameters(), lr=0.05, momentum=0.5, centered=True)
    offsets = torch.arange(0, len(ids), 3)
    for _ in range(3):
        loss = F.cross_entropy(bag(ids, offsets), ids[offsets])
        bag.zero_grad()
        loss.backward()
        optimizer.step()
        log(loss)
    w = F.normalize(model.in_embed.weight.detach()[1:])
    best = torch.matmul(w, w[2]).argsort(descending=True)
    log(best[:3].float().sum(), torch.norm(w), freq.max())

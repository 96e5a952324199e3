"""Texts by length: a batch sampler, workers, collate with padding, bidirectional LSTM, a chain's partition."""

import random

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
)


class Sentences(Dataset):
    def __init__(self, n, seed):
        rng = random.Random(seed)
        self.items = [
            {
                "tokens": torch.tensor([rng.randrange(1, 15) for _ in range(rng.randrange(2, 9))]),
                "label": rng.randrange(2),
                "id": f"s{i}",
            }
            for i in range(n)
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class ByLength(Sampler):
    def __init__(self, data):
        self.order = sorted(range(len(data)), key=lambda i: (len(data[i]["tokens"]), i))

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


class Stream(IterableDataset):
    def __iter__(self):
        for i in range(7):
            yield torch.tensor(float(i)), {"square": i * i}


def collate(batch):
    tokens = pad_sequence([b["tokens"] for b in batch], batch_first=True)
    lengths = torch.tensor([len(b["tokens"]) for b in batch])
    return (
        tokens,
        lengths,
        torch.tensor([b["label"] for b in batch], dtype=torch.float32),
        [b["id"] for b in batch],
    )


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(15, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True, num_layers=2, dropout=0.0)
        self.attend = nn.MultiheadAttention(10, 2, batch_first=True)
        self.transitions = nn.Parameter(torch.randn(3, 3))
        self.emit, self.fc = nn.Linear(10, 3), nn.Linear(20, 1)

    def forward(self, tokens, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.emb(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        out, (h, _) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True)
        mixed, weights = self.attend(out, out, out, key_padding_mask=tokens == 0)
        pooled = torch.cat([mixed.mean(1), h[-2:].transpose(0, 1).flatten(1)], 1)
        return self.fc(pooled).squeeze(-1), self.partition(self.emit(out), tokens != 0), weights

    def partition(self, emissions, mask):
        score = emissions[:, 0]
        for t in range(1, emissions.size(1)):
            step = torch.logsumexp(
                score.unsqueeze(2) + self.transitions + emissions[:, t].unsqueeze(1), dim=1
            )
            score = torch.where(mask[:, t].unsqueeze(1), step, score)
        return torch.logsumexp(score, dim=1)


def main(log, prepare):
    data = ConcatDataset([Sentences(12, 0), Sentences(8, 1)])
    sampler = BatchSampler(ByLength(data), batch_size=4, drop_last=False)
    model = prepare(Tagger())
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.02)
    for workers in (0, 2):
        for tokens, lengths, label, ids in DataLoader(
            data, batch_sampler=sampler, collate_fn=collate, num_workers=workers
        ):
            logit, partition, weights = model(tokens, lengths)
            loss = (
                F.binary_cross_entropy_with_logits(logit, label, pos_weight=torch.tensor(1.5))
                + 0.01 * partition.mean()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        log(loss, weights.sum(), len(ids))
    for number, extra in DataLoader(Stream(), batch_size=3):
        log(number.sum(), extra["square"].sum())
    assert list(BatchSampler(SequentialSampler(range(5)), 2, True)) == [[0, 1], [2, 3]]
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    log(packed.data.sum(), packed.batch_sizes.float().sum())

"""Translation with additive attention: packed sequences, teacher forcing, greedy and beam search with masks."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PAD, BOS, EOS = 0, 1, 2


class Encoder(nn.Module):
    def __init__(self, words, dim=6, hidden=5):
        super().__init__()
        self.embedding = nn.Embedding(words, dim, padding_idx=PAD)
        self.rnn = nn.GRU(dim, hidden, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, hidden)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            self.embedding(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        out, h = self.rnn(packed)
        out, _ = pad_packed_sequence(out, batch_first=True, total_length=x.size(1))
        return out, torch.tanh(self.fc(torch.cat((h[-2, :, :], h[-1, :, :]), dim=1)))


class Decoder(nn.Module):
    def __init__(self, words, dim=6, hidden=5):
        super().__init__()
        self.embedding = nn.Embedding(words, dim)
        self.energy, self.v = nn.Linear(3 * hidden, hidden), nn.Parameter(torch.rand(hidden))
        self.rnn = nn.GRUCell(2 * hidden + dim, hidden)
        self.out = nn.Linear(3 * hidden + dim, words)

    def forward(self, token, h, memory, mask):
        steps = memory.size(1)
        energy = torch.tanh(self.energy(torch.cat([h.unsqueeze(1).repeat(1, steps, 1), memory], dim=2)))
        v = self.v.repeat(memory.size(0), 1).unsqueeze(1)
        scores = torch.bmm(v, energy.permute(0, 2, 1)).squeeze(1)
        weights = scores.masked_fill(mask == 0, -1e10).softmax(1)
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
        word = self.embedding(token)
        h = self.rnn(torch.cat((word, context), 1), h)
        return self.out(torch.cat((h, context, word), dim=1)), h, weights


@torch.no_grad()
def beam_search(encoder, decoder, sentence, width=3, steps=5):
    memory, h = encoder(sentence.unsqueeze(0), torch.tensor([len(sentence)]))
    mask = torch.ones(1, len(sentence), dtype=torch.bool)
    beams, done = [([BOS], 0.0, h)], []
    for _ in range(steps):
        candidates = []
        for words, score, h in beams:
            logits, new, _ = decoder(torch.tensor([words[-1]]), h, memory, mask)
            values, indices = F.log_softmax(logits, dim=-1).topk(width)
            for value, index in zip(values[0].tolist(), indices[0].tolist()):
                candidates.append(([*words, index], score + value, new))
        candidates.sort(key=lambda c: c[1], reverse=True)
        done += [c for c in candidates[:width] if c[0][-1] == EOS]
        beams = [c for c in candidates if c[0][-1] != EOS][:width]
    return max(done + beams, key=lambda c: c[1] / len(c[0]))


def main(log, prepare):
    encoder, decoder = prepare(Encoder(12)), prepare(Decoder(10))
    sources = [torch.tensor(s) for s in ([3, 4, 5, 6, 2], [7, 8, 2], [9, 10, 11, 2])]
    targets = [torch.tensor(s) for s in ([1, 4, 5, 2], [1, 6, 2], [1, 7, 8, 9, 2])]
    x, y = pad_sequence(sources, batch_first=True), pad_sequence(targets, batch_first=True, padding_value=PAD)
    lengths, mask = torch.tensor([len(s) for s in sources]), x != PAD
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.02)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    for epoch in range(4):
        memory, h = encoder(x, lengths)
        outputs, token = torch.zeros(y.size(1), len(x), 10), y[:, 0]
        for t in range(1, y.size(1)):
            outputs[t], h, weights = decoder(token, h, memory, mask)
            token = y[:, t] if (t + epoch) % 3 else outputs[t].argmax(1)
        loss = criterion(outputs[1:].view(-1, 10), y.t()[1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*encoder.parameters(), *decoder.parameters()], 1.0)
        optimizer.step()
        log(loss, weights[1, 3:].sum(), encoder.embedding.weight.grad[PAD].abs().sum())
    for source in sources:
        words, score, _ = beam_search(encoder, decoder, source)
        log(score, len(words), *words[:3])

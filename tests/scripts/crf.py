"""A BiLSTM with a conditional random field: forward algorithm, masks, Viterbi; packed sequences."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


class CRF(nn.Module):
    def __init__(self, tags):
        super().__init__()
        self.start = nn.Parameter(torch.empty(tags))
        self.end = nn.Parameter(torch.empty(tags))
        self.trans = nn.Parameter(torch.empty(tags, tags))
        for p in self.parameters():
            nn.init.uniform_(p, -0.1, 0.1)

    def forward(self, e, tags, mask):
        return (self.score(e, tags, mask) - self.partition(e, mask)).mean()

    def score(self, e, tags, mask):
        b, t = tags.shape
        rows = torch.arange(b)
        mask = mask.float()
        s = self.start[tags[:, 0]] + e[rows, 0, tags[:, 0]]
        for i in range(1, t):
            s += (self.trans[tags[:, i - 1], tags[:, i]] + e[rows, i, tags[:, i]]) * mask[:, i]
        last = mask.long().sum(1) - 1
        return s + self.end[tags.gather(1, last.unsqueeze(1)).squeeze(1)]

    def partition(self, e, mask):
        a = self.start + e[:, 0]
        for i in range(1, e.size(1)):
            nxt = torch.logsumexp(a.unsqueeze(2) + self.trans + e[:, i].unsqueeze(1), dim=1)
            a = torch.where(mask[:, i].unsqueeze(1), nxt, a)
        return torch.logsumexp(a + self.end, dim=1)

    @torch.no_grad()
    def decode(self, e, mask):
        a, back = self.start + e[:, 0], []
        for i in range(1, e.size(1)):
            best, idx = (a.unsqueeze(2) + self.trans + e[:, i].unsqueeze(1)).max(dim=1)
            a = torch.where(mask[:, i, None], best, a)
            back.append(idx)
        out = []
        for k in range(e.size(0)):
            tag = int((a[k] + self.end).argmax())
            path = [tag]
            for idx in reversed(back[: int(mask[k].sum()) - 1]):
                tag = idx[k][tag].item()
                path.append(tag)
            out.append(path[::-1])
        return out


class Tagger(nn.Module):
    def __init__(self, vocab=30, tags=5, dim=12, hidden=10):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=0)
        self.lstm = nn.LSTM(dim, hidden // 2, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(hidden, tags)
        self.crf = CRF(tags)

    def emissions(self, x, lengths):
        packed = pack_padded_sequence(self.emb(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.fc(out)


def main(log, prepare):
    model = prepare(Tagger())
    with torch.no_grad():
        model.emb.weight[0].zero_()
    lengths = torch.tensor([7, 3, 9, 1, 5])
    x = pad_sequence([torch.randint(1, 30, (int(n),)) for n in lengths], batch_first=True)
    y = pad_sequence([torch.randint(0, 5, (int(n),)) for n in lengths], batch_first=True, padding_value=0)
    mask = torch.arange(x.size(1))[None] < lengths[:, None]
    opt = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(12):
        model.zero_grad()
        loss = -model.crf(model.emissions(x, lengths), y, mask)
        loss.backward()
        opt.step()
        log(loss.item())
    paths = model.crf.decode(model.emissions(x, lengths), mask)
    log(*[t for p in paths for t in p])
    log(model.emb.weight.grad[0].abs().sum(), model.crf.trans.grad.norm())

"""GRU encoder and attention decoder on packed sequences, teacher forcing, masked loss, greedy decoding, LSTM cells."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SOS, EOS = 1, 2


class EncoderRNN(nn.Module):
    def __init__(self, vocab, hidden):
        super().__init__()
        self.hidden_size = hidden
        self.embedding = nn.Embedding(vocab, hidden)
        self.gru = nn.GRU(hidden, hidden, num_layers=2, bidirectional=True)

    def forward(self, input_seq, input_lengths, hidden=None):
        packed = pack_padded_sequence(self.embedding(input_seq), input_lengths)
        outputs, hidden = self.gru(packed, hidden)
        outputs, _ = pad_packed_sequence(outputs)
        return outputs[:, :, : self.hidden_size] + outputs[:, :, self.hidden_size :], hidden


class Attn(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.attn = nn.Linear(hidden * 2, hidden)
        self.v = nn.Parameter(torch.FloatTensor(hidden))

    def forward(self, hidden, encoder_outputs, mask):
        both = torch.cat((hidden.expand(encoder_outputs.size(0), -1, -1), encoder_outputs), 2)
        energies = torch.sum(self.v * self.attn(both).tanh(), dim=2).t()
        energies = energies.masked_fill(mask == 0, -1e10)
        return F.softmax(energies, dim=1).unsqueeze(1)


class Decoder(nn.Module):
    def __init__(self, vocab, hidden):
        super().__init__()
        self.embedding = nn.Embedding(vocab, hidden)
        self.gru = nn.GRU(hidden, hidden, 2)
        self.concat = nn.Linear(hidden * 2, hidden)
        self.out = nn.Linear(hidden, vocab)
        self.attn = Attn(hidden)

    def forward(self, step, last_hidden, encoder_outputs, mask):
        output, hidden = self.gru(self.embedding(step), last_hidden)
        weights = self.attn(output, encoder_outputs, mask)
        context = weights.bmm(encoder_outputs.transpose(0, 1))
        output = torch.tanh(self.concat(torch.cat((output.squeeze(0), context.squeeze(1)), 1)))
        return F.log_softmax(self.out(output), dim=1), hidden


def main(log, prepare):
    vocab, hidden, lengths = 12, 6, torch.tensor([5, 4, 2])
    src = torch.zeros(5, 3, dtype=torch.long)
    for i, n in enumerate(lengths.tolist()):
        src[:n, i] = torch.randint(3, vocab, (n,))
    target = torch.cat([src[1:], torch.full((1, 3), EOS)])
    mask = target > 0
    encoder, decoder = prepare(EncoderRNN(vocab, hidden)), prepare(Decoder(vocab, hidden))
    enc_opt = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    dec_opt = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    src_mask = (src != 0).t()
    for _ in range(3):
        enc_opt.zero_grad()
        dec_opt.zero_grad()
        outputs, hidden_state = encoder(src, lengths)
        state, step = hidden_state[:2].contiguous(), torch.LongTensor([[SOS] * 3])
        loss, total = 0, 0
        for t in range(5):
            logp, state = decoder(step, state, outputs, src_mask)
            step = target[t].view(1, -1)
            picked = -torch.gather(logp, 1, target[t].view(-1, 1)).squeeze(1)
            loss += picked.masked_select(mask[t]).mean() if mask[t].any() else 0
            total += mask[t].sum().item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 50.0)
        enc_opt.step()
        dec_opt.step()
        log(loss.item() / total)
    with torch.no_grad():
        outputs, hidden_state = encoder(src[:, :1], lengths[:1])
        state, word, words = hidden_state[:2], torch.ones(1, 1, dtype=torch.long) * SOS, []
        for _ in range(6):
            logp, state = decoder(word, state, outputs, src_mask[:1])
            _, topi = logp.data.topk(1)
            words.append(topi.item())
            word = topi.detach().view(1, 1)
        log(*words)
    cell = prepare(nn.LSTMCell(hidden, hidden))
    h = c = torch.zeros(3, hidden)
    for x in encoder.embedding(src):
        h, c = cell(x, (h, c))
    log(h.sum(), c.sum())

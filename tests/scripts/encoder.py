"""Transformer encoder classifier: CLS token, positions, padding masks, label smoothing, warm-up, parameter groups."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR


class PositionalEncoding(nn.Module):
    def __init__(self, d_model: int, dropout: float = 0.0, max_len: int = 50):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pe[: x.size(0)]
        return self.dropout(x)


class Classifier(nn.Module):
    def __init__(self, ntoken=20, d_model=8, nhead=2, classes=3):
        super().__init__()
        self.embedding = nn.Embedding(ntoken, d_model, padding_idx=0)
        self.cls = nn.Parameter(torch.zeros(1, 1, d_model))
        self.pos = PositionalEncoding(d_model)
        layer = nn.TransformerEncoderLayer(
            d_model, nhead, 16, dropout=0.0, activation="gelu", norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.head = nn.Linear(d_model, classes)
        self.d_model = d_model

    def forward(self, src):
        mask = src.eq(0)
        x = self.embedding(src).mul(math.sqrt(self.d_model)).transpose(0, 1)
        x = torch.cat([self.cls.expand(-1, x.shape[1], -1), x])
        mask = torch.cat([torch.zeros(src.size(0), 1, dtype=torch.bool), mask], dim=1)
        return self.head(self.encoder(self.pos(x), src_key_padding_mask=mask)[0])


def main(log, prepare):
    sentences = [torch.randint(1, 20, (n,)) for n in (7, 3, 5, 9, 4, 6)]
    src = pad_sequence(sentences, batch_first=True, padding_value=0)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    model = prepare(Classifier())
    decay, no_decay = [], []
    for name, p in model.named_parameters():
        (no_decay if p.ndim < 2 or "norm" in name or name.endswith(".bias") else decay).append(p)
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": no_decay, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.98),
        eps=1e-9,
    )
    scheduler = LambdaLR(optimizer, lambda step: min((step + 1) ** -0.5, (step + 1) * 3**-1.5))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 0.5]))
    for _ in range(5):
        model.train()
        optimizer.zero_grad()
        loss = criterion(model(src), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        scheduler.step()
        log(loss, scheduler.get_last_lr()[0])
    model.eval()
    with torch.inference_mode():
        out = model(src)
        pred = out.argmax(dim=-1, keepdim=True)
        log(out.sum(), pred.eq(y.view_as(pred)).sum().item())
    log(sum(p.numel() for p in model.parameters() if p.requires_grad))

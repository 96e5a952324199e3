"""Layers, optimizers and training as they are called, for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdl
import fastdl.nn.functional as F
from device_runs import ints, on
from fastdl import nn
from fastdl.optim.optimizer import COUNTS

MODULES: dict[str, Callable[[str], Any]] = {
    "Linear": lambda d: nn.Linear(4, 3, device=d)(on(d, 2, 4)),
    "Bilinear": lambda d: nn.Bilinear(4, 3, 2, device=d)(on(d, 5, 4), on(d, 5, 3)),
    "Conv2d": lambda d: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", device=d)(on(d, 2, 3, 5, 5)),
    "ConvTranspose1d": lambda d: nn.ConvTranspose1d(3, 4, 3, device=d)(on(d, 2, 3, 5)),
    "BatchNorm2d": lambda d: nn.BatchNorm2d(3, device=d)(on(d, 2, 3, 4, 4)),
    "BatchNorm2d in evaluation": lambda d: nn.BatchNorm2d(3, device=d).eval()(on(d, 2, 3, 4, 4)),
    "LayerNorm": lambda d: nn.LayerNorm(4, device=d)(on(d, 2, 4)),
    "GroupNorm": lambda d: nn.GroupNorm(2, 4, device=d)(on(d, 2, 4, 3)),
    "InstanceNorm2d": lambda d: nn.InstanceNorm2d(3, True, track_running_stats=True).to(d)(on(d, 2, 3, 4, 4)),
    "PReLU": lambda d: nn.PReLU(3, device=d)(on(d, 2, 3, 4)),
    "Embedding": lambda d: nn.Embedding(5, 3, padding_idx=0, device=d)(ints(d, 2, 4)),
    "EmbeddingBag": lambda d: nn.EmbeddingBag(5, 3, mode="max", device=d)(ints(d, 2, 4)),
    "LSTM": lambda d: nn.LSTM(3, 4, 2, bidirectional=True, dropout=0.3, device=d)(on(d, 5, 2, 3)),
    "GRU": lambda d: nn.GRU(3, 4, batch_first=True, device=d)(on(d, 2, 5, 3), on(d, 1, 2, 4)),
    "RNN": lambda d: nn.RNN(3, 4, nonlinearity="relu", device=d)(on(d, 5, 2, 3)),
    "LSTM with projection": lambda d: nn.LSTM(3, 4, proj_size=2, device=d)(on(d, 5, 2, 3)),
    "LSTMCell": lambda d: nn.LSTMCell(3, 4, device=d)(on(d, 2, 3)),
    "GRUCell": lambda d: nn.GRUCell(3, 4, device=d)(on(d, 2, 3), on(d, 2, 4)),
    "ConvLSTM2d": lambda d: nn.ConvLSTM2d(2, 3, 3, device=d)(on(d, 4, 2, 2, 5, 5)),
    "packed sequences": lambda d: packed(d),
    "MultiheadAttention": lambda d: nn.MultiheadAttention(8, 2, device=d)(*[on(d, 5, 2, 8)] * 3),
    "MultiheadAttention, causal, without weights": lambda d: nn.MultiheadAttention(
        8, 2, batch_first=True, device=d
    )(*[on(d, 2, 5, 8)] * 3, need_weights=False, is_causal=True, attn_mask=causal(d, 5))[0],
    "TransformerEncoderLayer": lambda d: nn.TransformerEncoderLayer(8, 2, 16, device=d)(on(d, 5, 2, 8)),
    "Transformer": lambda d: nn.Transformer(8, 2, 1, 1, 16, device=d)(on(d, 5, 2, 8), on(d, 4, 2, 8)),
    "position embeddings": lambda d: (
        nn.SinusoidalPositionEmbedding(9, 4).to(d)(on(d, 2, 5, 4)),
        nn.LearnedPositionEmbedding(9, 4).to(d)(on(d, 2, 5, 4)),
        nn.RotaryEmbedding(4)(on(d, 2, 3, 5, 4)),
    ),
    "MaxUnpool2d": lambda d: nn.MaxUnpool2d(2)(*nn.MaxPool2d(2, return_indices=True)(on(d, 1, 2, 4, 4))),
    "Fold": lambda d: nn.Fold((4, 4), 2)(nn.Unfold(2)(on(d, 1, 2, 4, 4))),
    "Dropout": lambda d: nn.Sequential(nn.Dropout(0.4), nn.Dropout1d(0.4), nn.AlphaDropout(0.2))(
        on(d, 3, 4, 5)
    ),
    "weight and spectral norm": lambda d: (
        nn.utils.weight_norm(nn.Linear(4, 3).to(d))(on(d, 2, 4)),
        nn.utils.spectral_norm(nn.Linear(4, 3).to(d))(on(d, 2, 4)),
    ),
    "lazy layers": lambda d: nn.Sequential(
        nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2)
    ).to(d)(on(d, 2, 2, 5, 5)),
    "CTCLoss": lambda d: nn.CTCLoss()(
        F.log_softmax(on(d, 6, 2, 4), 2), fastdl.tensor([[1, 2], [3, 1]], device=d), (6, 6), (2, 1)
    ),
    "AdaptiveLogSoftmaxWithLoss": lambda d: adaptive(d),
    "orthogonal weights": lambda d: orthogonal(d),
    "clipped gradients": lambda d: clipped(d),
}


def causal(device: str, n: int) -> Any:
    return nn.Transformer.generate_square_subsequent_mask(n, device=device)


def packed(device: str) -> Any:
    x = on(device, 5, 3, 2)
    sequences = nn.utils.rnn.pack_padded_sequence(x, fastdl.tensor([3, 5, 1]), enforce_sorted=False)
    y, h = nn.GRU(2, 4, device=device)(sequences)
    padded, lengths = nn.utils.rnn.pad_packed_sequence(y)
    assert lengths.device.type == "cpu"
    return padded, h


def adaptive(device: str) -> Any:
    layer = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2.0).to(device)
    x = on(device, 6, 8, low=-9, high=9)
    return *layer(x, fastdl.tensor([0, 6, 12, 19, 4, 7], device=device)), layer.log_prob(x), layer.predict(x)


def orthogonal(device: str) -> Any:
    """Of matrices that are not square, filled up with random columns."""
    layers = [nn.Linear(4, 6).to(device), nn.Linear(6, 4).to(device)]
    return [nn.utils.parametrizations.orthogonal(each)(on(device, 2, each.in_features)) for each in layers]


def clipped(device: str) -> Any:
    layer = nn.Linear(4, 3, device=device)
    layer(on(device, 2, 4)).square().sum().backward()
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
    nn.utils.clip_grad_value_(layer.parameters(), 0.1)
    flat = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(flat * 2, layer.parameters())
    return norm, layer.weight.grad, flat


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: fastdl.optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda p: fastdl.optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "Adam": lambda p: fastdl.optim.Adam(p, lr=0.1, amsgrad=True),
    "AdamW": lambda p: fastdl.optim.AdamW(p, lr=0.1),
    "Adamax": lambda p: fastdl.optim.Adamax(p, lr=0.1),
    "NAdam": lambda p: fastdl.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: fastdl.optim.RAdam(p, lr=0.1),
    "Adagrad": lambda p: fastdl.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: fastdl.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
    "Adadelta": lambda p: fastdl.optim.Adadelta(p, lr=1.0),
    "Rprop": lambda p: fastdl.optim.Rprop(p, lr=0.1),
    "ASGD": lambda p: fastdl.optim.ASGD(p, lr=0.1),
    "LBFGS": lambda p: fastdl.optim.LBFGS(p, lr=0.5, line_search_fn="strong_wolfe"),
}


def trained(device: str, make: Callable[[Any], Any]) -> Any:
    fastdl.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(device)
    optimizer = make(model.parameters())
    x, y = on(device, 6, 4, grad=False), ints(device, 6, high=3)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).detach() for _ in range(4)]
    for state in optimizer.state.values():
        for name, value in state.items():
            where = "cpu" if name in COUNTS else device  # counting on the GPU would wait for it
            assert not isinstance(value, fastdl.Tensor) or value.device.type == where
    again = make(model.parameters())
    again.load_state_dict(optimizer.state_dict())
    return [*losses, *[p.detach() for p in model.parameters()], again.step(closure).detach()]


def lenet(device: str) -> Any:
    fastdl.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 32), nn.Dropout(0.2), nn.Linear(32, 10),
    ).to(device)  # fmt: skip
    optimizer = fastdl.optim.Adam(model.parameters(), lr=1e-2)
    x, y = on("cpu", 8, 1, 28, 28, grad=False), ints("cpu", 8, high=10)
    loader = fastdl.utils.data.DataLoader(
        fastdl.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True, pin_memory=True
    )
    losses = []
    for _ in range(2):
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return losses, list(model.state_dict().values())


def characters(device: str) -> Any:
    fastdl.manual_seed(2)
    table, rnn, head = nn.Embedding(7, 5), nn.LSTM(5, 8), nn.Linear(8, 7)
    model = nn.ModuleList([table, rnn, head]).to(device)
    optimizer = fastdl.optim.RMSprop(model.parameters(), lr=1e-2)
    text = ints(device, 6, 3, high=7)
    losses, state = [], None
    for _ in range(3):
        y, state = rnn(table(text[:-1]), state)
        state = tuple(s.detach() for s in state)
        loss = F.cross_entropy(head(y).reshape(-1, 7), text[1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return losses


def language_model(device: str) -> Any:
    fastdl.manual_seed(3)
    table, layer, head = (
        nn.Embedding(7, 8),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.Linear(8, 7),
    )
    model = nn.ModuleList([table, layer, head]).to(device)
    optimizer = fastdl.optim.AdamW(model.parameters(), lr=1e-2)
    text = ints(device, 3, 6, high=7)
    losses = []
    for _ in range(3):
        hidden = layer(table(text[:, :-1]), src_mask=causal(device, 5), is_causal=True)
        loss = F.cross_entropy(head(hidden).reshape(-1, 7), text[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses

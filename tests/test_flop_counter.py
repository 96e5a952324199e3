"""``utils.flop_counter``: the totals are PyTorch's, and what is left behind is as it was."""

from __future__ import annotations

import pytest

import fastdl
from fastdl import kernels
from fastdl.autograd import engine
from fastdl.autograd.op import Op
from fastdl.utils.flop_counter import FlopCounterMode


def residual(nn):
    class Block(nn.Module):
        def __init__(self, channels, stride):
            super().__init__()
            self.first = nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False)
            self.norm = nn.BatchNorm2d(2 * channels)
            self.second = nn.Conv2d(2 * channels, 2 * channels, 3, padding=2, dilation=2)
            self.short = nn.Conv2d(channels, 2 * channels, 1, stride)

        def forward(self, x):
            return self.second(self.norm(self.first(x)).relu()) + self.short(x)

    return nn.Sequential(
        nn.Conv2d(3, 4, 7, 2, 3),
        Block(4, 1),
        Block(8, 2),
        nn.ConvTranspose2d(16, 6, 2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def attending(nn):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
            self.feed = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

        def forward(self, x):
            q, k, v = self.qkv(x).reshape(2, 7, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
            y = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
            y = x + self.out(y.transpose(1, 2).flatten(2))
            return y + self.feed(y)

    return nn.Sequential(Layer(), Layer())


MODELS = {
    "residual": (residual, (2, 3, 20, 18)),
    "attending": (attending, (2, 7, 16)),
    "sequence": (
        lambda nn: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 2, 3), nn.Linear(9, 3)),
        (2, 3, 9),
    ),
    "volume": (lambda nn: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU(), nn.Conv3d(3, 1, 2)), (2, 2, 5, 4, 4)),
    "one image": (lambda nn: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ConvTranspose2d(3, 2, 2)), (2, 5, 4)),
}


@pytest.mark.parametrize("train", [False, True, "inputs"])
@pytest.mark.parametrize("name", MODELS)
def test_totals_are_torch_s(name, train):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode as Theirs

    make, shape = MODELS[name]
    totals = []
    for lib, counter in ((fastdl, FlopCounterMode), (torch, Theirs)):
        model, x = make(lib.nn), lib.randn(*shape, requires_grad=train == "inputs")
        with counter(display=False) as counted:
            y = model(x)
        forward = {module: sum(kinds.values()) for module, kinds in counted.get_flop_counts().items()}
        with counter(display=False) as counted:
            y = model(x)
            if train:
                y.sum().backward()
        totals.append((counted.get_total_flops(), forward))
    assert totals[0] == totals[1]


def test_attention_and_recurrent_layers_by_their_formulas():
    q, k, v = (fastdl.randn(2, 4, n, e, requires_grad=True) for n, e in ((5, 8), (7, 8), (7, 6)))
    with FlopCounterMode(display=False) as counter:
        fastdl.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    pairs = 2 * 2 * 4 * 5 * 7
    counts = {"attention": pairs * (8 + 6), "attention_backward": pairs * (3 * 8 + 2 * 6)}
    assert counter.get_flop_counts() == {"Global": counts}
    layer, x = fastdl.nn.LSTM(5, 6, 2), fastdl.randn(7, 3, 5, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x)[0].sum().backward()
    once = 2 * 21 * 24 * (5 + 6 + 6 + 6)
    assert counter.get_flop_counts()["LSTM"] == {"rnn": once, "rnn_backward": 2 * once}


def test_second_derivatives_and_modules_in_backward():
    model = fastdl.nn.Sequential(fastdl.nn.Linear(3, 4, bias=False), fastdl.nn.Tanh(), fastdl.nn.Linear(4, 1))
    x = fastdl.randn(2, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (slope,) = fastdl.autograd.grad(model(x).sum(), x, create_graph=True)
        first = dict(counter.get_flop_counts()["Sequential.0"])
        slope.square().sum().backward()
    assert first == {"linear": 48, "matmul": 48}
    assert counter.get_flop_counts()["Sequential.0"]["matmul"] > 48
    assert set(counter.get_flop_counts()) == {"Global", "Sequential", "Sequential.0", "Sequential.2"}


def test_everything_is_put_back(capsys):
    before = kernels.cpu.matmul, engine.heappop, engine._run, vars(Op).get("apply")
    counter = FlopCounterMode(depth=1)
    with pytest.raises(RuntimeError, match="linear"), counter:
        fastdl.nn.Linear(3, 4)(fastdl.ones(2, 5))
    assert before == (kernels.cpu.matmul, engine.heappop, engine._run, vars(Op).get("apply"))
    assert counter.get_total_flops() == 0
    capsys.readouterr()
    with counter, counter_of_its_own() as inner:
        fastdl.nn.Sequential(fastdl.nn.Linear(3, 4))(fastdl.ones(2, 3)) @ fastdl.ones(4)
    assert counter.get_total_flops() == inner.get_total_flops() == 48 + 16
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Module", "FLOP", "%", "Total"]
    assert lines[2].split() == ["Global", "64", "100.00%"]
    assert not any("Sequential.0" in line for line in lines)
    assert before == (kernels.cpu.matmul, engine.heappop, engine._run, vars(Op).get("apply"))
    with pytest.raises(NotImplementedError, match="custom_mapping"):
        FlopCounterMode(custom_mapping={"mm": len})


def counter_of_its_own():
    return FlopCounterMode(display=False)

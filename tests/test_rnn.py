"""Recurrent layers: against torch, gradients, dropout, messages; ConvLSTM2d."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn.utils import rnn as sequences
from parity import assert_close, check_gradient

# ------------------------------------------------------------------------------------------ layers


OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "both directions": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "all": {"num_layers": 3, "bidirectional": True, "batch_first": True, "bias": False},
}
CASES = [(kind, name) for kind in ("RNN", "LSTM", "GRU") for name in OPTIONS]
OPTIONS |= {"relu": {"nonlinearity": "relu"}, "projected": {"proj_size": 3}}
OPTIONS |= {"projected, all": {"proj_size": 3, "num_layers": 2, "bidirectional": True, "batch_first": True}}
CASES += [("RNN", "relu"), ("LSTM", "projected"), ("LSTM", "projected, all")]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("form", ["batch", "packed", "unsorted", "unbatched"])
@pytest.mark.parametrize("states", [True, False])
def test_layers_against_torch(kind, name, form, states):
    torch = pytest.importorskip("torch")
    options = OPTIONS[name]
    rng = np.random.default_rng(0)
    t, b, i, h = 6, 4, 5, 9
    first = options.get("batch_first", False)
    theirs = getattr(torch.nn, kind)(i, h, dtype=torch.float64, **options)
    ours = getattr(nn, kind)(i, h, dtype=fastdl.float64, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: fastdl.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    x = rng.standard_normal((b, t, i) if first else (t, b, i))
    shape = (rows, b)
    if form == "unbatched":
        x, shape = x[0] if first else x[:, 0], (rows,)
    h0, c0 = rng.standard_normal((*shape, options.get("proj_size") or h)), rng.standard_normal((*shape, h))
    lengths = {"packed": [6, 4, 4, 1], "unsorted": [2, 6, 1, 6]}.get(form)

    def run(lib, layer, utils):
        leaves = [lib.tensor(v) for v in (x, h0, c0)]
        for leaf in leaves:
            leaf.requires_grad_(True)
        inputs, state = leaves[0], None
        if lengths:
            inputs = utils.pack_padded_sequence(inputs, lengths, first, enforce_sorted=form == "packed")
        if states:
            state = (leaves[1], leaves[2]) if kind == "LSTM" else leaves[1]
        y, last = layer(inputs, state)
        if lengths:
            y, _ = utils.pad_packed_sequence(y, first, total_length=7)
        outputs = [y, *(last if kind == "LSTM" else (last,))]
        draw = np.random.default_rng(1)
        sum((o * lib.tensor(draw.standard_normal(tuple(o.shape)))).sum() for o in outputs).backward()
        used = leaves[: 1 if not states else 3 if kind == "LSTM" else 2]
        return [v.detach().numpy() for v in [*outputs, *[p.grad for p in [*used, *layer.parameters()]]]]

    for a, b in zip(run(fastdl, ours, sequences), run(torch, theirs, torch.nn.utils.rnn), strict=True):
        assert_close(a, b, reduction=200)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_against_torch(kind, bias):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, f"{kind}Cell")(5, 7, bias=bias, dtype=torch.float64)
    ours = getattr(nn, f"{kind}Cell")(5, 7, bias=bias, dtype=fastdl.float64)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({k: fastdl.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    for shape in ((3,), ()):
        arrays = [rng.standard_normal((*shape, n)) for n in (5, 7, 7)]
        for states in (True, False):
            results = []
            for lib, cell in ((fastdl, ours), (torch, theirs)):
                cell.zero_grad()
                x, h, c = leaves = [lib.tensor(a) for a in arrays]
                for leaf in leaves:
                    leaf.requires_grad_(True)
                out = cell(x, ((h, c) if kind == "LSTM" else h) if states else None)
                out = out if isinstance(out, tuple) else (out,)
                sum((o * o).sum() * (k + 1) for k, o in enumerate(out)).backward()
                used = leaves[: 1 if not states else 3 if kind == "LSTM" else 2]
                results.append(
                    [v.detach().numpy() for v in [*out, *[p.grad for p in [*used, *cell.parameters()]]]]
                )
            for a, b in zip(*results, strict=True):
                assert_close(a, b, reduction=30)


def functional(layer, names, *tensors):
    """The layer's outputs, added up with weights of their own, as a function of input and parameters."""
    for name, tensor in zip(names, tensors[1:], strict=True):
        owner = layer
        owner.__dict__[name] = tensor
    y, last = layer(tensors[0])
    last = last if isinstance(last, tuple) else (last,)
    return fastdl.cat([y.reshape(-1), *[s.reshape(-1) for s in last]])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("RNN", {"bidirectional": True}),
        ("LSTM", {"num_layers": 2, "dropout": 0.4}),
        ("LSTM", {"recurrent_dropout": 0.4, "bidirectional": True}),
        ("LSTM", {"recurrent_dropout": 0.5, "dropout": 0.5, "num_layers": 2, "proj_size": 2}),
        ("GRU", {"num_layers": 2, "dropout": 0.4}),
        ("GRU", {"reset_after": False, "bidirectional": True}),
    ],
)
def test_gradients(kind, options):
    layer = getattr(nn, kind)(3, 5, dtype=fastdl.float64, **options)
    names = [name for name, _ in layer.named_parameters()]
    arrays = [p.detach().numpy().copy() for p in layer.parameters()]
    x = np.random.default_rng(0).standard_normal((4, 3, 3))

    def run(*tensors):
        fastdl.manual_seed(0)  # the same masks in every evaluation
        return functional(layer, names, *tensors)

    check_gradient(run, x, *arrays)


def test_gru_with_reset_before():
    gru = nn.GRU(3, 4, reset_after=False, dtype=fastdl.float64)
    assert repr(gru) == "GRU(3, 4, reset_after=False)"
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    w, u, b, c = (p.detach().numpy() for p in gru.parameters())
    h, want = np.zeros((2, 4)), []
    for step in x:
        a, k = step @ w.T + b + c, h @ u.T
        r, z = 1 / (1 + np.exp(-(a + k)[:, :4])), 1 / (1 + np.exp(-(a + k)[:, 4:8]))
        n = np.tanh(a[:, 8:] + (r * h) @ u[8:].T)
        h = (1 - z) * h + z * n
        want.append(h)
    assert_close(gru(fastdl.tensor(x))[0], np.stack(want), reduction=20)


def test_recurrent_dropout_is_one_mask_per_sequence():
    lstm = nn.LSTM(2, 400, recurrent_dropout=0.5)
    assert repr(lstm) == "LSTM(2, 400, recurrent_dropout=0.5)"
    for p in lstm.parameters():
        fastdl.nn.init.zeros_(p)
    with fastdl.no_grad():
        # Unit j hears only its own past, and only through W_hh: where the mask is 0, h stays as biases alone make it.
        hidden = np.zeros((1600, 400), np.float32)
        hidden[800:1200] = np.eye(400)
        lstm.weight_hh_l0.copy_(fastdl.tensor(hidden))
        lstm.bias_ih_l0.fill_(1.0)
    x = fastdl.zeros(6, 3, 2)
    fastdl.manual_seed(0)
    y = lstm(x)[0].detach().numpy()
    plain = lstm.eval()(x)[0].detach().numpy()
    alone = y[2] < plain[2] - 1e-4
    assert 0.4 < alone.mean() < 0.6
    for t in range(2, 6):
        low = np.min(y[t])
        assert np.array_equal(np.isclose(y[t], low, atol=1e-6), np.isclose(y[2], y[2].min(), atol=1e-6))
    fastdl.manual_seed(0)
    assert np.array_equal(lstm.train()(x)[0].detach().numpy(), y)


def test_dropout_between_layers_only():
    with pytest.warns(UserWarning, match="between layers"):
        lstm = nn.LSTM(3, 4, dropout=0.9)
    x = fastdl.randn(5, 2, 3)
    assert np.array_equal(lstm(x)[0].detach().numpy(), lstm.eval()(x)[0].detach().numpy())
    deep = nn.GRU(3, 4, num_layers=2, dropout=1.0)
    silent = deep(x)[0].detach().numpy()  # the second layer hears nothing: no sequence differs from another
    assert np.array_equal(silent[:, 0], silent[:, 1])
    assert not np.array_equal(deep.eval()(x)[0].detach().numpy(), silent)


def test_truncated_backpropagation():
    """Two pieces with detached states: values of the whole, gradients of the pieces."""
    lstm = nn.LSTM(3, 4, dtype=fastdl.float64)
    x = fastdl.tensor(np.random.default_rng(0).standard_normal((6, 2, 3)))
    whole, _ = lstm(x)
    first, state = lstm(x[:3])
    first.sum().backward()
    second, _ = lstm(x[3:], tuple(s.detach() for s in state))
    assert_close(fastdl.cat([first, second]), whole, reduction=10)
    second.sum().backward()  # reaches the second piece only: no error about freed values
    assert lstm.weight_hh_l0.grad is not None


def test_graph_may_be_walked_twice():
    gru = nn.GRU(3, 4, num_layers=2)
    y, _ = gru(fastdl.randn(5, 2, 3))
    loss = (y * y).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.numpy().copy() for p in gru.parameters()]
    loss.backward()
    for a, p in zip(once, gru.parameters(), strict=True):
        assert np.array_equal(2 * a, p.grad.numpy())


def test_values_that_backward_needs_are_guarded():
    gru = nn.GRU(3, 4)
    y, h = gru(fastdl.randn(5, 2, 3))
    with fastdl.no_grad():
        h.zero_()  # not needed
    y.sum().backward()
    y, _ = gru(fastdl.randn(5, 2, 3))
    with fastdl.no_grad():
        gru.weight_hh_l0.zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_two_python_threads():
    lstm = nn.LSTM(16, 64)
    x = fastdl.randn(30, 16, 16)
    want = lstm(x)[0].detach().numpy()
    results = []

    def run():
        for _ in range(20):
            results.append(np.array_equal(lstm(x)[0].detach().numpy(), want))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    assert all(results)


def test_parameters():
    lstm = nn.LSTM(3, 100, num_layers=2)
    assert [len(w) for w in lstm.all_weights] == [4, 4]
    assert all(w is lstm.weight_ih_l1 for w in lstm.all_weights[1][:1])
    for p in lstm.parameters():
        assert 0.05 < np.abs(p.detach().numpy()).max() <= 0.1
    lstm.flatten_parameters()


def test_reference_backend_trains_the_same():
    layer = nn.LSTM(3, 5, bidirectional=True)
    x = fastdl.randn(4, 2, 3)
    layer(x)[0].sum().backward()
    ours = [p.grad.numpy().copy() for p in layer.parameters()]
    layer.zero_grad()
    with fastdl.use_backend("reference"):
        layer(x)[0].sum().backward()
    for a, p in zip(ours, layer.parameters(), strict=True):
        assert_close(a, p.grad, reduction=50)


# ------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.LSTM(3, 0), ValueError, "hidden_size must be greater than zero"),
        (lambda: nn.LSTM(3.0, 4), TypeError, "input_size must be an int, got float"),
        (lambda: nn.LSTM(3, 4, num_layers=0), ValueError, "num_layers"),
        (lambda: nn.LSTM(3, 4, dropout=1.5), ValueError, "between 0 and 1, got 1.5"),
        (lambda: nn.LSTM(3, 4, recurrent_dropout=-1), ValueError, "recurrent_dropout"),
        (lambda: nn.LSTM(3, 4, proj_size=4), ValueError, "smaller than hidden_size=4"),
        (lambda: nn.GRU(3, 4, proj_size=2), ValueError, "LSTM only"),
        (lambda: nn.RNN(3, 4, nonlinearity="gelu"), ValueError, "'tanh' or 'relu', got 'gelu'"),
        (lambda: nn.RNN(3, 4, bias=1), TypeError, "bias must be a bool"),
        (lambda: nn.ConvLSTM2d(3, 4, 2), ValueError, "kernel_size must be odd"),
    ],
)
def test_constructor_messages(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_forward_messages():
    lstm, gru = nn.LSTM(3, 4, num_layers=2), nn.GRU(3, 4, batch_first=True)
    z = fastdl.zeros
    packed = sequences.pack_sequence([z(1, 3), z(3, 3)], enforce_sorted=False)
    for call, error, match in (
        (lambda: lstm(z(5, 2, 6)), RuntimeError, r"input_size=3, got shape \(5, 2, 6\)"),
        (lambda: lstm(z(5, 3, 2)), RuntimeError, "is the time or batch axis last"),
        (lambda: lstm(z(5)), ValueError, "2D or 3D, got 1D"),
        (lambda: lstm(z(5, 2, 3), z(2, 2, 4)), RuntimeError, r"pair \(h_0, c_0\)"),
        (
            lambda: lstm(z(5, 2, 3), (z(1, 2, 4), z(2, 2, 4))),
            RuntimeError,
            r"hx must be .*\(2, 2, 4\), got \(1, 2, 4\)",
        ),
        (lambda: lstm(z(5, 2, 3), (z(2, 2, 4), z(2, 3, 4))), RuntimeError, "cx must be"),
        (lambda: lstm(z(5, 2, 3), (z(2, 4), z(2, 4))), RuntimeError, "must be 3-D, got 2-D"),
        (
            lambda: lstm(z(5, 3), (z(2, 1, 4), z(2, 1, 4))),
            RuntimeError,
            "unbatched 2-D input, hx must be 2-D",
        ),
        (lambda: lstm(z(5, 2, 3).double()), ValueError, "input is float64, the weights are float32"),
        (lambda: gru(z(2, 5, 3), z(1, 2, 4).double()), ValueError, "hx is float64, input is float32"),
        (lambda: gru(z(2, 5, 3), z(2, 1, 4)), RuntimeError, "not batch-first"),
        (lambda: gru(packed, z(1, 3, 4)), RuntimeError, r"hx must be .*\(1, 2, 4\), got \(1, 3, 4\)"),
        (lambda: gru(packed, z(1, 1, 4)), RuntimeError, "hx must be"),
        (lambda: gru(packed._replace(data=z(4, 3, 1))), RuntimeError, "2 dimensions, got 3"),
        (lambda: gru(z(2, 0, 3)), RuntimeError, "no steps"),
        (lambda: gru(np.zeros((2, 5, 3), np.float32)), TypeError, "must be a tensor or PackedSequence"),
        (lambda: nn.GRUCell(3, 4)(z(2, 5)), RuntimeError, "input_size=3"),
        (lambda: nn.GRUCell(3, 4)(z(2, 3), z(3, 4)), RuntimeError, r"hx must have shape \(2, 4\)"),
        (lambda: nn.LSTMCell(3, 4)(z(2, 3), z(2, 4)), RuntimeError, "pair"),
        (lambda: nn.RNNCell(3, 4)(z(1, 2, 3)), ValueError, "1D or 2D, got 3D"),
        (lambda: nn.ConvLSTM2d(3, 4, 3)(z(2, 1, 2, 5, 5)), RuntimeError, "in_channels=3"),
    ):
        with pytest.raises(error, match=match):
            call()


# ------------------------------------------------------------------------------------------ ConvLSTM2d


@pytest.mark.parametrize("batch_first", [True, False])
def test_conv_lstm(batch_first):
    layer = nn.ConvLSTM2d(2, 3, (3, 5), batch_first=batch_first, dtype=fastdl.float64)
    assert repr(layer) == "ConvLSTM2d(2, 3, kernel_size=(3, 5)" + (
        ", batch_first=True)" if batch_first else ")"
    )
    assert list(layer.state_dict()) == ["weight_ih", "weight_hh", "bias"]
    rng = np.random.default_rng(0)
    x, h, c = (
        rng.standard_normal((4, 2, 2, 5, 6)),
        rng.standard_normal((2, 3, 5, 6)),
        rng.standard_normal((2, 3, 5, 6)),
    )
    if batch_first:
        x = x.swapaxes(0, 1).copy()

    def run(x, h, c, *weights):
        for name, value in zip(("weight_ih", "weight_hh", "bias"), weights, strict=True):
            layer.__dict__[name] = value
        y, last = layer(x, (h, c))
        return fastdl.cat([y.reshape(-1), last[0].reshape(-1), last[1].reshape(-1)])

    check_gradient(run, x, h, c, *[p.detach().numpy() for p in layer.parameters()])
    y, (last, _) = layer(fastdl.tensor(x), (fastdl.tensor(h), fastdl.tensor(c)))
    assert np.array_equal((y[:, -1] if batch_first else y[-1]).detach().numpy(), last.detach().numpy())


def test_conv_lstm_of_one_pixel_is_an_lstm():
    lstm, conv = nn.LSTM(3, 4, dtype=fastdl.float64), nn.ConvLSTM2d(3, 4, 1, dtype=fastdl.float64)
    with fastdl.no_grad():
        conv.weight_ih.copy_(lstm.weight_ih_l0.reshape(16, 3, 1, 1))
        conv.weight_hh.copy_(lstm.weight_hh_l0.reshape(16, 4, 1, 1))
        conv.bias.copy_(lstm.bias_ih_l0 + lstm.bias_hh_l0)
    x = fastdl.tensor(np.random.default_rng(0).standard_normal((5, 2, 3)))
    assert_close(conv(x.reshape(5, 2, 3, 1, 1))[0].reshape(5, 2, 4), lstm(x)[0], reduction=20)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("given", [False, True])
def test_a_batch_may_be_empty(name, given):
    """The result has no sequences, and gradients are zeros, as in PyTorch."""
    torch = pytest.importorskip("torch")
    cell = name.endswith("Cell")
    options = {} if cell else {"num_layers": 2, "bidirectional": True}
    results = []
    for lib in (fastdl, torch):
        layer = getattr(lib.nn, name)(3, 4, **options)
        x = lib.zeros(0, 3) if cell else lib.zeros(5, 0, 3)
        h = lib.zeros(0, 4) if cell else lib.zeros(4, 0, 4)
        state = [(h, h) if "LSTM" in name else h] if given else []
        out = layer(x, *state)
        flat = [*(out if isinstance(out, tuple) else (out,))]
        flat = [t for v in flat for t in (v if isinstance(v, tuple) else (v,))]
        flat[0].sum().backward()
        results.append(
            ([tuple(t.shape) for t in flat], [p.grad.abs().sum().item() for p in layer.parameters()])
        )
    assert results[0] == results[1]


def test_places_of_arguments_are_pytorchs():
    options = True, False, 0.0, False, 0, None, fastdl.float64
    for layer in (nn.LSTM(4, 5, 1, *options), nn.GRU(4, 5, 1, *options), nn.RNN(4, 5, 1, "tanh", *options)):
        assert layer.weight_ih_l0.dtype is fastdl.float64

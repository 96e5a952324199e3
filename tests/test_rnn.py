"""Recurrent layers: kernels against their definitions on every level, layers and utilities against torch."""

from __future__ import annotations

import copy
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


def wide_results(lib, layer, x, states, form):
    """Outputs, last states, gradients of inputs, states and parameters, as arrays of float64, and their dtypes."""
    leaves = [lib.tensor(a).to(next(layer.parameters()).dtype).requires_grad_(True) for a in (x, *states)]
    given = leaves[1:] if len(states) == 2 else leaves[1] if states else None
    inputs = leaves[0]
    if form == "packed":
        lengths = np.linspace(x.shape[0], 1, x.shape[1]).astype(int).tolist()
        inputs = lib.nn.utils.rnn.pack_padded_sequence(inputs, lengths)
    with lib.autocast("cpu", dtype=lib.bfloat16, enabled=form == "autocast"):
        out, last = layer(inputs, given)
    out = out.data if form == "packed" else out
    last = last if isinstance(last, tuple) else (last,)
    rng = np.random.default_rng(5)
    loss = 0.0
    for part in (out, *last):
        factors = rng.standard_normal(tuple(part.shape)).astype(np.float32)
        loss = loss + (part * lib.tensor(factors).to(part.dtype)).to(lib.float64).sum()
    loss.backward()
    results = [out, *last, *[leaf.grad for leaf in leaves], *[p.grad for p in layer.parameters()]]
    return [r.detach().to(lib.float64).numpy() for r in results], [
        str(r.dtype).split(".")[-1] for r in results
    ]


def root_mean_square(x):
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    ("t", "b", "i", "h", "options", "form", "given"),
    [
        (20, 16, 32, 64, {}, "plain", True),
        (20, 16, 32, 64, {}, "autocast", False),
        (30, 15, 33, 47, {"num_layers": 2}, "plain", False),
        (16, 7, 24, 51, {"bidirectional": True}, "plain", True),
        (16, 9, 24, 40, {"bidirectional": True, "num_layers": 2}, "packed", False),
        (40, 1, 48, 72, {}, "plain", True),
        (1, 33, 50, 40, {}, "plain", True),
        (6, 70, 20, 130, {"bias": False}, "plain", False),
    ],
)
def test_bfloat16_is_as_accurate_as_torchs(kind, t, b, i, h, options, form, given):
    """Errors beside the layer in float64 with the same (rounded) parameters and inputs; dtypes are torch's."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    if kind == "GRU" and form == "autocast":
        pytest.skip("PyTorch's GRU carries float32 states under autocast on the CPU")
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(i, h, **options).to(torch.bfloat16)
    truth = getattr(torch.nn, kind)(i, h, **options).double()
    truth.load_state_dict({k: v.double() for k, v in theirs.state_dict().items()})
    ours = getattr(nn, kind)(i, h, **options)
    ours.load_state_dict({k: fastdl.tensor(v.float().numpy()) for k, v in theirs.state_dict().items()})
    if form == "autocast":
        theirs = theirs.float()
    else:
        ours = ours.to(fastdl.bfloat16)
    rng = np.random.default_rng(0)
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    drawn = [
        rng.standard_normal(shape).astype(np.float32) for shape in ((t, b, i), (rows, b, h), (rows, b, h))
    ]
    drawn = [torch.tensor(a).bfloat16().float().numpy() for a in drawn]
    x, states = drawn[0], (drawn[1:] if kind == "LSTM" else drawn[1:2]) if given else []
    exact, _ = wide_results(torch, truth, x, states, "packed" if form == "packed" else "plain")
    their, their_dtypes = wide_results(torch, theirs, x, states, form)
    our, our_dtypes = wide_results(fastdl, ours, x, states, form)
    assert our_dtypes == their_dtypes
    for k, (a, p, q) in enumerate(zip(exact, our, their, strict=True)):
        mine, other = root_mean_square(p - a), root_mean_square(q - a)
        assert mine <= 1.5 * other + 1e-9, (k, mine, other, root_mean_square(a))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells_and_dropout_in_bfloat16(kind):
    """A cell's steps are the layer's; dropout between layers draws what it draws in float32; second derivatives."""
    pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    x = fastdl.tensor(rng.standard_normal((5, 4, 6)).astype(np.float32)).to(fastdl.bfloat16)
    layer = getattr(nn, kind)(6, 7).to(fastdl.bfloat16)
    cell = getattr(nn, f"{kind}Cell")(6, 7).to(fastdl.bfloat16)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    y, _ = layer(x)
    state = None
    for t in range(5):
        state = cell(x[t], state)
        h = state[0] if kind == "LSTM" else state
        assert h.dtype == fastdl.bfloat16
        # The layer carries states in float32, the cell's are rounded.
        np.testing.assert_allclose(h.float().detach().numpy(), y[t].float().detach().numpy(), atol=2.0**-6)

    options = {"num_layers": 2, "dropout": 0.5} | ({"recurrent_dropout": 0.3} if kind == "LSTM" else {})
    half = getattr(nn, kind)(6, 20, **options).to(fastdl.bfloat16)
    results = []
    for stack, inputs in ((half, x), (copy.deepcopy(half).float(), x.float())):
        inputs = inputs.detach().requires_grad_(True)
        fastdl.manual_seed(3)
        out, _ = stack(inputs)
        (grad,) = fastdl.autograd.grad(out.sum(), inputs, create_graph=True)
        (grad * grad).sum().backward()
        results.append([v.float().detach().numpy() for v in (out, grad, stack.weight_hh_l0.grad)])
    for got, want in zip(*results, strict=True):
        assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()


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


def test_packing_messages():
    x = fastdl.zeros(4, 3, 2)
    pack = sequences.pack_padded_sequence
    for call, error, match in (
        (lambda: pack(x, [4, 2]), RuntimeError, "one entry for each of the 3 sequences"),
        (lambda: pack(x, [4, 2, 2, 1]), RuntimeError, "batch_first=True"),
        (lambda: pack(x, [5, 2, 1]), RuntimeError, "sequence 0 is said to have 5 steps"),
        (lambda: pack(x, [3, 2, 0]), RuntimeError, "sequence 2 has 0"),
        (lambda: pack(x, [2, 3, 1]), RuntimeError, "enforce_sorted=False"),
        (lambda: pack(x, [2.0, 1.0, 1.0]), RuntimeError, "ints"),
        (lambda: pack(fastdl.zeros(4, 0, 2), np.zeros(0, np.int64)), RuntimeError, "empty batch"),
        (lambda: pack(fastdl.zeros(4), [4]), RuntimeError, "two axes"),
        (lambda: sequences.pad_sequence([]), RuntimeError, "at least one"),
        (lambda: sequences.pad_sequence([x, fastdl.zeros(2, 2)]), RuntimeError, "first axis only"),
        (lambda: sequences.pad_sequence(5), RuntimeError, "list of tensors"),
        (
            lambda: sequences.pad_packed_sequence(pack(x, [4, 2, 1]), total_length=3),
            ValueError,
            "longest sequence's 4",
        ),
    ):
        with pytest.raises(error, match=match):
            call()


# ------------------------------------------------------------------------------------------ packed sequences


@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [4, 4, 4, 4], [1, 5, 2, 5]])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packing_against_torch(lengths, batch_first):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((4, 5, 3) if batch_first else (5, 4, 3))
    in_order = lengths == sorted(lengths, reverse=True)
    packs = []
    for lib, utils in ((fastdl, sequences), (torch, torch.nn.utils.rnn)):
        leaf = lib.tensor(x)
        leaf.requires_grad_(True)
        pack = utils.pack_padded_sequence(leaf, lengths, batch_first, enforce_sorted=in_order)
        padded, back = utils.pad_packed_sequence(pack, batch_first, padding_value=-1.5, total_length=6)
        (padded * padded).sum().backward()
        packs.append(
            [pack.batch_sizes.numpy(), padded.detach().numpy(), back.numpy(), leaf.grad.numpy()]
            + [v.detach().numpy() for v in utils.unpack_sequence(pack)]
        )
        assert (pack.sorted_indices is None) == in_order
    for a, b in zip(*packs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_sequence_against_torch(side, batch_first):
    torch = pytest.importorskip("torch")
    arrays = [np.random.default_rng(0).standard_normal((n, 2)) for n in (3, 1, 4)]
    results = []
    for lib, utils in ((fastdl, sequences), (torch, torch.nn.utils.rnn)):
        leaves = [lib.tensor(a) for a in arrays]
        for leaf in leaves:
            leaf.requires_grad_(True)
        padded = utils.pad_sequence(leaves, batch_first, 7.0, side)
        (padded * padded).sum().backward()
        results.append([padded.detach().numpy(), *[leaf.grad.numpy() for leaf in leaves]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_packed_sequence():
    pack = sequences.pack_sequence([fastdl.ones(2), fastdl.ones(3)], enforce_sorted=False)
    assert pack.sorted_indices.tolist() == [1, 0]
    assert pack.unsorted_indices.tolist() == [1, 0]
    assert pack.double().data.dtype == fastdl.float64
    assert pack.to(fastdl.float32) is pack
    data, sizes, _, _ = pack
    again = sequences.PackedSequence((data, sizes), sorted_indices=pack.sorted_indices)
    assert again.unsorted_indices.tolist() == [1, 0]
    assert [s.tolist() for s in sequences.unpack_sequence(again)] == [[1, 1], [1, 1, 1]]


def test_padding_costs_no_steps():
    """What lies beyond a sequence's end is never read."""
    gru = nn.GRU(3, 4, bidirectional=True)
    x = np.random.default_rng(0).standard_normal((6, 3, 3)).astype(np.float32)
    x[4:, 1] = x[1:, 2] = np.nan
    y, h = gru(sequences.pack_padded_sequence(fastdl.tensor(x), [6, 4, 1]))
    assert np.isfinite(y.data.detach().numpy()).all()
    assert np.isfinite(h.detach().numpy()).all()
    assert y.data.shape[0] == 11


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

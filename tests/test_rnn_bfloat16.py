"""Recurrent layers in bfloat16: as accurate as PyTorch's."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastdl
from fastdl import nn


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
    if kind == "LSTM" and form == "autocast" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip(
            "PyTorch's LSTM fails under autocast where the processor has no instructions for bfloat16"
        )
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

"""Transformer layers and stacks against torch; decoding with caches; position embeddings."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastdl
from fastdl import nn
from parity import assert_close, check_gradient
from test_attention import arrays_of
from test_multihead_attention import run_both, twin

F64 = {"dtype": fastdl.float64}


def torch_options(torch, options):
    """The same options for torch: dtype and activation translated."""
    options = dict(options)
    if callable(options.get("activation")):
        options["activation"] = torch.nn.functional.silu
    return {**options, "dtype": torch.float64}


LAYERS = [
    {},
    {"norm_first": True},
    {"bias": False, "batch_first": True},
    {"activation": "gelu", "norm_first": True, "batch_first": True},
    {"activation": nn.functional.silu, "layer_norm_eps": 1e-3},
]


def quiet(build):
    with warnings.catch_warnings():  # torch tells when it cannot use nested tensors
        warnings.simplefilter("ignore")
        return build()


def named(options):
    """Names that are the same in every process: a function's own, not its address."""
    return ",".join(f"{k}={getattr(v, '__name__', v)}" for k, v in options.items()) or "defaults"


LEFT_OUT = {
    "padding": ({}, {}, {}),
    "gelu": ({"activation": "gelu"}, {}, {}),
    "a batch second": ({"batch_first": False}, {}, {}),
    "normalised first": ({"norm_first": True}, {}, {}),
    "one head": ({"nhead": 1}, {}, {}),
    "no biases": ({"bias": False}, {}, {}),
    "not asked for": ({}, {"enable_nested_tensor": False}, {}),
    "another mask": ({}, {}, {"mask": [[0.0, -float("inf"), -float("inf")]] + [[0.0] * 3] * 2}),
    "numbers": ({}, {}, {"src_key_padding_mask": [[0.0, 0.0, -float("inf")], [0.0, 0.0, 0.0]]}),
    "padding before": ({}, {}, {"src_key_padding_mask": [[True, False, False], [False] * 3]}),
    "nothing else": ({}, {}, {"src_key_padding_mask": [[True] * 3, [False] * 3]}),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_padding_is_zero_where_torch_leaves_it_out(name, grad):
    torch = pytest.importorskip("torch")
    layer, stack, call = LEFT_OUT[name]
    layer = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "dropout": 0.0, "batch_first": True, **layer}
    call = {"src_key_padding_mask": [[False, False, True], [False] * 3], **call}
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    if not layer["batch_first"]:
        x = x.transpose(1, 0, 2).copy()
    found, states = [], []
    for library in (torch, fastdl):
        encoder = quiet(
            lambda n=library.nn: n.TransformerEncoder(
                n.TransformerEncoderLayer(**layer), 2, n.LayerNorm(4), **stack
            )
        ).eval()
        states.append(encoder.state_dict())
        if library is fastdl:
            encoder.load_state_dict({k: fastdl.from_numpy(v.numpy().copy()) for k, v in states[0].items()})
        with library.set_grad_enabled(grad):
            y = quiet(
                lambda e=encoder, L=library: e(L.tensor(x), **{k: L.tensor(v) for k, v in call.items()})
            )
        found.append(y.detach().numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", LAYERS, ids=named)
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "padding", "both"])
def test_encoder_agrees_with_torch(options, kind):
    torch = pytest.importorskip("torch")
    ours = nn.TransformerEncoderLayer(8, 2, 12, 0.0, **options, **F64)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, **torch_options(torch, options))
    ours = nn.TransformerEncoder(ours, 2, nn.LayerNorm(8, **F64))
    theirs = quiet(lambda: torch.nn.TransformerEncoder(theirs, 2, torch.nn.LayerNorm(8, dtype=torch.float64)))
    if callable(options.get("activation")):
        ours.load_state_dict(
            {name: fastdl.from_numpy(t.detach().numpy().copy()) for name, t in theirs.state_dict().items()}
        )
    else:
        twin(ours, theirs)
    first = options.get("batch_first", False)
    arrays = arrays_of((3, 5, 8) if first else (5, 3, 8))
    padding = np.arange(5) >= np.array([5, 3, 2])[:, None]
    hidden = np.random.default_rng(0).random((5, 5)) < 0.3
    hidden[:, 0] = False

    def call(lib, module, tensors):
        masks = {}
        if kind == "causal":
            masks["mask"] = lib.nn.Transformer.generate_square_subsequent_mask(5, dtype=tensors[0].dtype)
        if kind in ("bool", "both"):
            masks["mask"] = lib.from_numpy(hidden)
        if kind in ("padding", "both"):
            masks["src_key_padding_mask"] = lib.from_numpy(padding)
        return module(*tensors, **masks)

    run_both(ours, theirs, arrays, call)
    if first:
        run_both(ours, theirs, arrays_of((5, 8)), lambda lib, m, t: m(*t))


@pytest.mark.parametrize("options", LAYERS, ids=named)
def test_decoder_layer_agrees_with_torch(options):
    torch = pytest.importorskip("torch")
    ours = nn.TransformerDecoderLayer(8, 2, 12, 0.0, **options, **F64)
    theirs = torch.nn.TransformerDecoderLayer(8, 2, 12, 0.0, **torch_options(torch, options))
    ours.load_state_dict(
        {name: fastdl.from_numpy(t.detach().numpy().copy()) for name, t in theirs.state_dict().items()}
    )
    first = options.get("batch_first", False)
    arrays = arrays_of(*[(3, n, 8) if first else (n, 3, 8) for n in (5, 7)])
    tgt = np.triu(np.ones((5, 5), bool), 1)
    memory = np.arange(7) >= np.array([7, 3, 2])[:, None]

    def call(lib, module, tensors):
        return module(
            *tensors,
            tgt_mask=lib.from_numpy(tgt),
            memory_key_padding_mask=lib.from_numpy(memory),
            tgt_is_causal=True,
        )

    run_both(ours, theirs, arrays, call)
    run_both(ours, theirs, arrays, lambda lib, m, t: m(*t))


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True, "norm_first": True, "activation": "gelu"}], ids=str
)
def test_transformer_agrees_with_torch(options):
    torch = pytest.importorskip("torch")
    sizes = (8, 2, 2, 2, 12, 0.0)
    theirs = quiet(lambda: torch.nn.Transformer(*sizes, **torch_options(torch, options)))
    ours, theirs = twin(nn.Transformer(*sizes, **options, **F64), theirs)
    first = options.get("batch_first", False)
    arrays = arrays_of(*[(3, n, 8) if first else (n, 3, 8) for n in (7, 5)])
    padding = np.arange(7) >= np.array([7, 4, 6])[:, None]

    def call(lib, module, tensors):
        mask = module.generate_square_subsequent_mask(5, dtype=tensors[0].dtype)
        pad = lib.from_numpy(padding)
        return module(
            *tensors,
            tgt_mask=mask,
            src_key_padding_mask=pad,
            memory_key_padding_mask=pad,
            memory_mask=lib.from_numpy(np.zeros((5, 7))) if lib is fastdl else None,
        )

    def plain(lib, module, tensors):
        return module(*tensors)

    run_both(ours, theirs, arrays, plain)
    with warnings.catch_warnings():  # a float mask beside bool padding is deprecated in torch
        warnings.simplefilter("ignore")
        run_both(ours, theirs, arrays, call)


def test_masks_that_are_causal_are_recognised():
    """Then they are not read: a layer that is given one gives the bits of the hint alone."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), 1)
    x = fastdl.from_numpy(arrays_of((2, 6, 8), dtype=np.float32)[0])
    want = encoder(x, is_causal=True).detach().numpy()
    future = np.triu(np.ones((6, 6), bool), 1)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    np.testing.assert_array_equal(mask.numpy(), np.where(future, -np.inf, 0))
    for m in (mask, fastdl.from_numpy(future)):
        np.testing.assert_array_equal(encoder(x, mask=m).detach().numpy(), want)
    future[0, 1] = False
    assert np.abs(encoder(x, mask=fastdl.from_numpy(future)).detach().numpy() - want).max() > 1e-4


def test_initial_values_and_custom_parts():
    model = nn.Transformer(8, 2, 2, 1, 12)
    layers = model.encoder.layers
    assert layers[0].linear1.weight is not layers[1].linear1.weight
    first, second = (layer.linear1.weight.detach().numpy() for layer in layers)
    assert not np.array_equal(first, second)  # drawn anew for each copy

    class Nothing(nn.Module):
        def forward(self, x, *args, **kwargs):
            return x

    x = fastdl.ones(4, 2, 8)
    custom = nn.Transformer(8, 2, custom_encoder=Nothing(), custom_decoder=Nothing())
    np.testing.assert_array_equal(custom(x, x).numpy(), x.numpy())


def test_dropout_only_in_training():
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.5, batch_first=True)
    x = fastdl.from_numpy(arrays_of((2, 6, 8), dtype=np.float32)[0])
    assert not np.array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())


@pytest.mark.parametrize("norm_first", [False, True])
def test_steps_with_caches_equal_the_full_pass(norm_first):
    options = {"batch_first": True, "norm_first": norm_first, **F64}
    x, memory = (fastdl.from_numpy(a) for a in arrays_of((2, 7, 8), (2, 5, 8)))
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, **options), 2).eval()
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, **options), 2).eval()
    with fastdl.no_grad():
        for run, want in (
            (lambda part, caches: encoder(part, caches=caches), encoder(x, is_causal=True)),
            (
                lambda part, caches: decoder(part, memory, caches=caches),
                decoder(x, memory, tgt_is_causal=True),
            ),
        ):
            caches = [nn.KVCache() for _ in range(2)]
            steps = [run(part, caches).numpy() for part in x.split([3, 1, 1, 2], 1)]
            assert_close(np.concatenate(steps, 1), want)
    with pytest.raises(ValueError, match="one cache per layer is needed, 2, got 1"):
        encoder(x, caches=[nn.KVCache()])


def test_messages():
    with pytest.raises(RuntimeError, match="activation should be relu/gelu, not tanh"):
        nn.TransformerEncoderLayer(8, 2, activation="tanh")
    model = nn.Transformer(8, 2, 1, 1, 12)
    with pytest.raises(RuntimeError, match=r"batch number .* got \(4, 2, 8\) and \(4, 3, 8\)"):
        model(fastdl.zeros(4, 2, 8), fastdl.zeros(4, 3, 8))
    with pytest.raises(RuntimeError, match=r"feature number .* d_model = 8"):
        model(fastdl.zeros(4, 2, 8), fastdl.zeros(4, 2, 6))


# Positions ---------------------------------------------------------------------------------------------


def test_sinusoidal_positions():
    layer = nn.SinusoidalPositionEmbedding(50, 6, **F64)
    x = arrays_of((2, 9, 6))[0]
    t, i = np.arange(4, 13)[:, None], np.arange(3)
    angle = t / 10000 ** (2 * i / 6)
    table = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(9, 6)
    assert_close(layer(fastdl.from_numpy(x), offset=4), x + table)
    other = nn.SinusoidalPositionEmbedding(50, 6, batch_first=False, **F64)
    swapped = np.ascontiguousarray(np.swapaxes(x, 0, 1))
    assert_close(other(fastdl.from_numpy(swapped), 4), np.swapaxes(x + table, 0, 1))
    assert_close(other(fastdl.from_numpy(x[0]), 4), x[0] + table)
    assert nn.SinusoidalPositionEmbedding(5, 3)(fastdl.zeros(2, 3)).shape == (2, 3)
    assert not list(layer.state_dict())


def test_learned_positions():
    layer = nn.LearnedPositionEmbedding(12, 4, **F64)
    x = arrays_of((2, 5, 4))[0]
    weight = layer.weight.detach().numpy()
    y = layer(fastdl.from_numpy(x), offset=3)
    assert_close(y, x + weight[3:8])
    y.sum().backward()
    grad = np.zeros((12, 4))
    grad[3:8] = 2
    np.testing.assert_array_equal(layer.weight.grad.numpy(), grad)
    for bad in (8, -1):
        with pytest.raises(ValueError, match="there are max_length=12"):
            layer(fastdl.from_numpy(x), offset=bad)
    with pytest.raises(ValueError, match="input must be"):
        layer(fastdl.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="at least 1"):
        nn.LearnedPositionEmbedding(0, 4)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_positions(interleaved):
    layer = nn.RotaryEmbedding(8, max_length=4, interleaved=interleaved)
    x = arrays_of((2, 3, 11, 8))[0]
    angle = np.arange(5, 16)[:, None] / 10000 ** (np.arange(4) / 4)
    pairs = x.reshape(2, 3, 11, 4, 2) if interleaved else np.stack([x[..., :4], x[..., 4:]], -1)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)
    want = np.stack([turned.real, turned.imag], -1 if interleaved else -2).reshape(x.shape)
    assert_close(layer(fastdl.from_numpy(x), offset=5), want)
    check_gradient(lambda t: layer(t, 2), x)
    # Products of queries and keys depend on the distance alone.
    q, k = (fastdl.from_numpy(a) for a in arrays_of((1, 1, 1, 8), (1, 1, 1, 8)))
    near = (layer(q, 7) * layer(k, 4)).sum().numpy()
    assert_close(near, (layer(q, 103) * layer(k, 100)).sum().numpy())
    assert layer(fastdl.zeros(2, 8)).dtype == fastdl.float32


def test_rotary_messages():
    with pytest.raises(ValueError, match="even and positive, got 5"):
        nn.RotaryEmbedding(5)
    layer = nn.RotaryEmbedding(4)
    with pytest.raises(ValueError, match=r"input must be \(..., L, 4\)"):
        layer(fastdl.zeros(3, 6))
    with pytest.raises(TypeError, match="float32 or float64"):
        layer(fastdl.zeros(3, 4, dtype=fastdl.int64))
    with pytest.raises(ValueError, match="offset must not be negative"):
        layer(fastdl.zeros(3, 4), -1)


def test_zeros_at_padding_can_be_switched_off_later():
    torch = pytest.importorskip("torch")
    padding = [[False, False, False], [False, True, True]]
    zeros = []
    for lib in (fastdl, torch):
        layer = lib.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        encoder = lib.nn.TransformerEncoder(layer, 1).eval()
        for name in ("enable_nested_tensor", "use_nested_tensor"):
            setattr(encoder, name, False)
            with lib.no_grad():
                y = encoder(lib.ones(2, 3, 4), src_key_padding_mask=lib.tensor(padding))
            zeros.append(bool((y[1, 1:] == 0).all()))
    assert zeros == [True, False] * 2


def _overridden(library):
    class Encoder(library.nn.TransformerEncoderLayer):
        def _sa_block(self, x, attn_mask, key_padding_mask, is_causal=False):
            y, weights = self.self_attn(
                x, x, x, attn_mask=attn_mask, key_padding_mask=key_padding_mask, is_causal=is_causal
            )
            self.weights = weights.detach()
            return self.dropout1(y)

        def _ff_block(self, x):
            return super()._ff_block(x) * 0.5

    class Decoder(library.nn.TransformerDecoderLayer):
        def _mha_block(self, x, mem, attn_mask, key_padding_mask, is_causal=False):
            assert (attn_mask, key_padding_mask, is_causal) == (None, None, False)
            return self.multihead_attn(x, mem, mem)[0] * 2

    return Encoder, Decoder


@pytest.mark.parametrize("norm_first", [False, True])
def test_users_override_the_blocks_of_layers(norm_first):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    state, results = None, []
    for library in (torch, fastdl):
        encoder, decoder = [
            kind(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first) for kind in _overridden(library)
        ]
        layers = library.nn.ModuleList(
            [library.nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False), decoder]
        )
        if state is None:
            state = {
                name: rng.standard_normal(tuple(p.shape)).astype(np.float32) * 0.3
                for name, p in layers.named_parameters()
            }
        layers.load_state_dict({name: library.tensor(p) for name, p in state.items()})
        mask = library.nn.Transformer.generate_square_subsequent_mask(5)
        memory = layers[0](library.tensor(x), mask)
        weights = [layer.weights.numpy() for layer in layers[0].layers]
        results.append([memory.detach().numpy(), layers[1](memory, memory).detach().numpy(), *weights])
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

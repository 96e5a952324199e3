"""Layers' constructors: whatever an argument is given, the error names it."""

from __future__ import annotations

import inspect

import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F
from fastdl.utils.data import default_collate

WRONG = {
    "None": None,
    "str": "xyz",
    "float": 2.5,
    "long": (2, 2, 2, 2, 2),
    "list": [1, 2],
    "dict": {},
    "nan": float("nan"),
    "negative": -1,
}
LAYERS = {
    "Linear": {"in_features": 4, "out_features": 4},
    "Bilinear": {"in1_features": 4, "in2_features": 4, "out_features": 4},
    **{f"Conv{n}d": {"in_channels": 4, "out_channels": 4, "kernel_size": 2} for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": {"in_channels": 4, "out_channels": 4, "kernel_size": 2} for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": {"num_features": 4} for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": {"num_features": 4, "affine": True} for n in (1, 2, 3)},
    "GroupNorm": {"num_groups": 2, "num_channels": 4},
    "LayerNorm": {"normalized_shape": 4},
    "RMSNorm": {"normalized_shape": 4},
    "Embedding": {"num_embeddings": 4, "embedding_dim": 4},
    "EmbeddingBag": {"num_embeddings": 4, "embedding_dim": 4},
    "AvgPool1d": {"kernel_size": 2},
    "FractionalMaxPool2d": {"kernel_size": 2, "output_size": 2},
    "ZeroPad2d": {"padding": 1},
    "PReLU": {},
    "Dropout": {},
    "MultiheadAttention": {"embed_dim": 4, "num_heads": 2},
    "Upsample": {"scale_factor": 2},
}


@pytest.mark.parametrize("layer", LAYERS)
def test_errors_of_constructors_name_the_argument(layer):
    """Whatever kind an argument has: taken, or an error with the layer's or the argument's name in it."""
    cls, good = getattr(nn, layer), LAYERS[layer]
    names = [n for n in inspect.signature(cls).parameters if n not in ("device", "dtype", "bias")]
    messages = []
    for name in names:
        for value in WRONG.values():
            try:
                cls(**{**good, name: value})
            except (TypeError, ValueError, RuntimeError, IndexError) as error:
                messages.append((name, str(error)))
    assert messages
    assert [(name, text) for name, text in messages if layer not in text and name not in text] == []


def test_errors_of_constructors_say_what_came():
    for make, text in (
        (lambda: nn.Linear(None, 3), "Linear: in_features must be an int, got None"),
        (
            lambda: nn.Linear(4.0, 3),
            r"Linear: in_features must be an int, got 4.0 \(float\); use in_features=int",
        ),
        (lambda: nn.BatchNorm2d("a"), r"BatchNorm2d: num_features must be an int, got 'a' \(str\)"),
        (lambda: nn.InstanceNorm1d([3], affine=True), "InstanceNorm1d: num_features must be an int"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=None),
            "Conv2d: groups must be an int, got None; leave it out for its .* 1",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3, padding=None),
            "Conv2d: padding must be an int or a tuple of ints, got None",
        ),
        (
            lambda: nn.Embedding(3, 4, _weight=[1.0]),
            r"Embedding: _weight must be a Tensor or None, got \[1.0\]",
        ),
    ):
        with pytest.raises(TypeError, match=text):
            make()
    with pytest.raises(ValueError, match="Linear: out_features is a size and must not be negative, got -1"):
        nn.Linear(3, -1)
    with pytest.raises(ValueError, match="ConvTranspose1d"):
        nn.ConvTranspose1d(3, 4, (2, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'bais'"):
        nn.Linear(3, 4, bais=True)

    class Mine(nn.Linear):
        def __init__(self, width):
            super().__init__(width, None)

    with pytest.raises(TypeError, match="Linear: out_features must be an int"):
        Mine(3)
    assert list(inspect.signature(nn.Linear).parameters)[:2] == ["in_features", "out_features"]


t, ones = fastdl.tensor, fastdl.ones


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nn.Linear(3, 2)(ones(4, 3, dtype=fastdl.float64)),
            TypeError,
            r"linear: input is float64 but weight is float32; give both the same dtype: x.to\(weight.dtype\), or model",
        ),
        (
            lambda: nn.Linear(3, 2)(ones(4, 3, dtype=fastdl.int64)),
            TypeError,
            "input is int64 but weight is float32",
        ),
        (
            lambda: nn.CrossEntropyLoss(ones(2, 3), t([0, 1])),
            TypeError,
            r"CrossEntropyLoss: size_average and reduce must be bools, got a Tensor; .* is made first, then called",
        ),
        (lambda: nn.MSELoss(ones(2), ones(2)), TypeError, "MSELoss: size_average and reduce must be bools"),
        (
            lambda: F.mse_loss(ones(2), ones(2), reduce=ones(1)),
            TypeError,
            "mse_loss: size_average and reduce",
        ),
        (
            lambda: nn.utils.rnn.pad_sequence([ones(2), [1, 2]]),
            TypeError,
            r"pad_sequence: sequences\[1\] must be a Tensor, got list; use fastdl.tensor",
        ),
        (lambda: nn.Parameter([1.0]), TypeError, r"Parameter: data must be a Tensor or an array, got list"),
        (
            lambda: nn.Sequential([nn.ReLU()]),
            TypeError,
            r"list is not a Module subclass; nn.Sequential\(\*layers\) makes one module of layers, which",
        ),
        (lambda: fastdl.full((2,), None), TypeError, "full: fill_value must be a number, got None"),
        (lambda: fastdl.ones(2.5), TypeError, "ones: the extents must be integers, got 2.5"),
        (lambda: fastdl.zeros(2, "3"), TypeError, r"zeros: the extents must be integers, got \(2, '3'\)"),
        (lambda: fastdl.from_numpy([1]), TypeError, r"got list; use fastdl.tensor\(x\)"),
        (lambda: fastdl.bernoulli(t([0.5, 2.0])), RuntimeError, r"must lie in \[0, 1\], got 2$"),
        (lambda: fastdl.bernoulli(t([float("nan")])), RuntimeError, r"must lie in \[0, 1\], got nan"),
        (
            lambda: fastdl.linalg.cholesky(-fastdl.eye(2)),
            fastdl.linalg.LinAlgError,
            r"cholesky: A of shape \(2, 2\) is not positive definite; .* eye\(n\)",
        ),
        (
            lambda: default_collate([(1, 2), (1,)]),
            RuntimeError,
            r"of equal size, got lengths \[2, 1\]; pass a collate_fn",
        ),
        (
            lambda: nn.Linear(2, 3).load_state_dict(
                {f"module.{k}": v for k, v in nn.Linear(2, 3).state_dict().items()}
            ),
            RuntimeError,
            r"(?s)Missing.*Unexpected.*the keys begin with 'module.': take it off with key.partition\('.'\)\[2\]",
        ),
    ],
)
def test_what_beginners_get_wrong_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_keys_without_a_common_prefix_are_only_listed():
    for state in ({"module.weight": ones(3, 2)}, {"a.weight": ones(3, 2), "b.bias": ones(3)}):
        with pytest.raises(RuntimeError) as caught:
            nn.Linear(2, 3).load_state_dict(state)
        assert "begin with" not in str(caught.value)

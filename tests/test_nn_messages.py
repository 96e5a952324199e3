"""Layers' constructors: whatever an argument is given, the error names it."""

from __future__ import annotations

import inspect

import pytest

from fastdl import nn

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

"""What errors, hints and prints say: the right function, the right numbers, and what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastdl
from fastdl import nn

X = fastdl.ones(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: X.unsqueeze(5), IndexError, r"dim must be in \[-3, 2\] for a tensor of 2 dimensions, got 5"),
        (lambda: fastdl.stack([X, X], 5), IndexError, r"in \[-3, 2\] for a tensor of 2 dimensions, got 5"),
        (lambda: X.diag_embed(dim1=5), IndexError, r"in \[-3, 2\] for a tensor of 2 dimensions, got 5"),
        (lambda: X.squeeze(5), IndexError, r"in \[-2, 1\] for a tensor of 2 dimensions, got 5"),
        (lambda: nn.ModuleList([[nn.ReLU()]]), TypeError, r"nn.Sequential\(\*layers\) makes one module of"),
        (
            lambda: nn.ModuleDict(["a"]),
            ValueError,
            "ModuleDict update sequence element #0 has length 1; 2 is",
        ),
        (
            lambda: nn.ParameterDict(["abc"]),
            ValueError,
            "ParameterDict update sequence element #0 has length",
        ),
        (
            lambda: nn.ModuleDict([1]),
            TypeError,
            "ModuleDict update sequence element #0 should be Iterable; is",
        ),
        (
            lambda: nn.Conv2d(1, 2, 3)(fastdl.rand(28, 28)),
            RuntimeError,
            r"must be 4-D \(batch, channels, height, width\) or 3-D \(channels, height, width\), got shape \(28",
        ),
        (lambda: fastdl.save([1, {"a": object()}], "x"), TypeError, "save: 1.a is of type object; only"),
        (
            lambda: fastdl.jit.script(nn.ReLU()).save("x"),
            AttributeError,
            "'ReLU' object has no attribute 'save': ",
        ),
        (
            lambda: fastdl.jit.save(nn.ReLU(), "x"),
            AttributeError,
            "models run as they are; save the state_dict",
        ),
        (
            lambda: fastdl.fake_quantize_per_tensor_affine,
            AttributeError,
            "straight-through autograd.Function",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_module_may_have_a_method_or_a_layer_of_the_name_save():
    class Own(nn.Module):
        def save(self):
            return 3

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.save = nn.ReLU()

    assert Own().save() == 3
    assert isinstance(Other().save, nn.ReLU)
    assert not hasattr(nn.ReLU(), "save")

    class Asked(nn.Module):
        def __getattr__(self, name):
            return super().__getattr__(name)

    with pytest.raises(AttributeError, match="models run as they are; save the state_dict"):
        Asked().save("x")


def test_nodes_of_indices_have_names_that_say_what_was_taken():
    x = fastdl.ones(3, 3, requires_grad=True)
    for y, name in ((x[0], "Select"), (x[1:], "Slice"), (x[:, 1:], "Slice"), (x[[0, 1]], "IndexSelect")):
        assert f"grad_fn=<{name}Backward>" in repr(y)


@pytest.mark.parametrize("name", ["spherical_bessel_j0", "modified_bessel_i0", "modified_bessel_i1"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bessel_functions_are_torchs(name, dtype):
    torch = pytest.importorskip("torch")
    values = np.array(
        [0, 0.01, 0.1, -0.3, 2, 50, -5, 1e-20] + [np.inf, -np.inf, np.nan] * (name[0] == "s"), dtype
    )
    got, want = [getattr(lib.special, name)(lib.from_numpy(values)).numpy() for lib in (fastdl, torch)]
    np.testing.assert_allclose(got, want, rtol=1e-5 if dtype == "float32" else 1e-12)
    out = fastdl.empty(len(values), dtype=getattr(fastdl, dtype))
    assert getattr(fastdl.special, name)(fastdl.from_numpy(values), out=out) is out


def test_deprecated_names_warn_as_torchs():
    torch = pytest.importorskip("torch")
    results = []
    for lib in (fastdl, torch):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loss = lib.nn.NLLLoss2d(ignore_index=1)
            holder = lib.nn.Container(a=lib.nn.ReLU())
        values = lib.arange(8.0).reshape(1, 2, 2, 2)
        labels = lib.tensor([[[0, 1], [0, 0]]])
        results.append(
            ([w.category for w in seen], list(dict(holder.named_children())), loss(values, labels).item())
        )
    assert results[0] == results[1]


def test_what_changes_nothing_is_taken():
    layer = nn.Conv2d(1, 1, 1)
    for convert in (
        nn.utils.convert_conv2d_weight_memory_format,
        nn.utils.convert_conv3d_weight_memory_format,
    ):
        assert convert(layer, fastdl.channels_last) is layer
    with fastdl.profiler.profile(post_processing_timeout_s=1.0):
        pass

"""NumPy arrays, lists and numbers where a tensor is expected: a TypeError that names function, argument and way out."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F

ARRAY = np.ones((3, 3), np.float32)
AXES = {"dim", "dim0", "axis", "start", "source", "axis0"}


def _argument(name):
    if name in ("shape", "size"):
        return (9,)
    if name in ("mask", "condition"):
        return fastdl.ones(3, 3).bool()
    if name in ("index", "indices", "target"):
        return fastdl.zeros(3, 3).long()
    return 0 if name in AXES else 1


def _calls():
    """Every public function, once for each of its parameters that is annotated as a tensor."""
    for module in (fastdl, F, fastdl.linalg, fastdl.special):
        for name in module.__all__:
            function = getattr(module, name)
            if not inspect.isroutine(function) or name == "set_rng_state":  # takes arrays
                continue
            parameters = inspect.signature(function).parameters.values()
            for wrong in parameters:
                if wrong.annotation == "Tensor" and wrong.name not in ("out", "self"):
                    yield f"{module.__name__}.{name}", function, wrong.name


def _options(function, wrong, value):
    options = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is p.empty:
            tensor = "Tensor" in str(p.annotation) or p.annotation == "Any"
            options[p.name] = _argument(p.name) if p.name in AXES or not tensor else fastdl.rand(3, 3)
    return {**options, wrong: value}


CALLS = list(_calls())


def test_there_are_many():
    assert len(CALLS) > 450


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "function", "wrong"), CALLS, ids=[f"{path}-{wrong}" for path, _, wrong in CALLS]
)
def test_every_function_says_what_it_needs(path, function, wrong):
    for value in (ARRAY, ARRAY.tolist()):
        with pytest.raises(TypeError, match=r"\w+: \w+ must be a Tensor.*, got .*fastdl\.tensor\(x\)"):
            function(**_options(function, wrong, value))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: fastdl.matmul(x, ARRAY),
            "matmul: other must be a Tensor, got numpy.ndarray of shape (3, 3)",
        ),
        (lambda x: fastdl.mul(x, ARRAY), "mul: other must be a Tensor or a number, got numpy.ndarray"),
        (lambda x: fastdl.sub(ARRAY, x), "sub: input must be a Tensor or a number"),
        (lambda x: fastdl.eq(x, [1.0]), "eq: other must be a Tensor or a number, got list"),
        (lambda x: fastdl.relu(3.0), "relu: input must be a Tensor, got float"),
        (lambda x: x.gather(0, [[1]]), "gather: index must be a Tensor, got list"),
        (lambda x: x.mm(ARRAY), "mm: mat2 must be a Tensor"),
        (lambda x: x.masked_fill(ARRAY > 0, 0), "masked_fill: mask must be a Tensor"),
        (lambda x: x.clamp(min=ARRAY), "clamp: min must be a Tensor or a number"),
        (lambda x: F.linear(x, ARRAY), "linear: weight must be a Tensor"),
        (lambda x: F.cross_entropy(x, np.zeros(3, np.int64)), "cross_entropy: target must be a Tensor"),
        (lambda x: nn.Linear(3, 3)(ARRAY), "Linear: input must be a Tensor"),
        (lambda x: nn.Sequential(nn.ReLU(), nn.Linear(3, 3))(ARRAY), "ReLU: input must be a Tensor"),
        (
            lambda x: nn.CrossEntropyLoss()(x, np.zeros(3, np.int64)),
            "CrossEntropyLoss: target must be a Tensor",
        ),
        (lambda x: nn.MSELoss()(x, ARRAY), "MSELoss: target must be a Tensor"),
        (lambda x: nn.LSTM(3, 4)(ARRAY), "LSTM: input must be a tensor or PackedSequence, got ndarray"),
        (lambda x: nn.Conv2d(3, 4, 1)(np.zeros((1, 3, 2, 2), np.float32)), "conv2d: input must be a Tensor"),
        (lambda x: nn.BatchNorm1d(3)(ARRAY), "BatchNorm1d: input must be a Tensor"),
        (lambda x: nn.Embedding(5, 2)([1, 2]), "embedding: input must be a Tensor"),
        (lambda x: nn.MultiheadAttention(3, 1)(x, x, ARRAY), "MultiheadAttention: value must be a Tensor"),
        (lambda x: fastdl.linalg.solve(x, ARRAY), "solve: B must be a Tensor"),
        (lambda x: fastdl.cat([x, ARRAY]), "cat: expects tensors, got ndarray at position 1"),
    ],
)
def test_messages(call, message):
    with pytest.raises(TypeError) as raised:
        call(fastdl.rand(3, 3))
    assert message in str(raised.value), raised.value


def test_a_forward_of_one_s_own():
    class Net(nn.Module):
        def forward(self, x):
            return x.relu()

    with pytest.raises(TypeError, match="Net: x must be a Tensor, got numpy"):
        Net()(ARRAY)

    class Missing(nn.Module):
        def forward(self, x):
            return self.relu(x)  # the module's own mistake stays what it is

    with pytest.raises(AttributeError, match="relu"):
        Missing()(ARRAY)


def test_other_errors_are_untouched():
    with pytest.raises(RuntimeError, match="matmul"):
        fastdl.matmul(fastdl.rand(2, 3), fastdl.rand(2, 3))
    with pytest.raises(TypeError, match="bogus"):
        F.cross_entropy(fastdl.rand(2, 3), fastdl.zeros(2).long(), bogus=1)


def test_operators_still_take_arrays():
    x = fastdl.ones(3, 3)
    for result in (x + ARRAY, ARRAY + x, x * ARRAY, ARRAY @ x, x @ ARRAY):
        assert isinstance(result, fastdl.Tensor)


def test_public_functions_are_pickled_by_name():
    for function in (F.gelu, F.cross_entropy, fastdl.sum, fastdl.linalg.solve, fastdl.special.i0, fastdl.det):
        assert pickle.loads(pickle.dumps(function)) is function


X, IMAGE = fastdl.rand(2, 4), fastdl.rand(2, 4, 6, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.lp_pool2d(IMAGE, "a", 2), r"lp_pool2d: norm_type must be a number, got 'a' \(str\)"),
        (
            lambda: F.interpolate(IMAGE, scale_factor="a"),
            "interpolate: scale_factor must be a number or a tuple of",
        ),
        (lambda: F.pad(X, 1), r"pad: pad must be a tuple of ints, got 1 \(int\)"),
        (lambda: F.pad(X, None), "pad: pad must be a tuple of ints, got None"),
        (lambda: F.pad(X, (1, 1), value="a"), "pad: value must be a number or None"),
        (lambda: F.one_hot(X.long(), 2.5), r"one_hot: num_classes must be an int, got 2.5 \(float\)"),
        (lambda: F.embedding(X.long(), X, max_norm="a"), "embedding: max_norm must be a number or None"),
        (lambda: F.embedding(X.long(), X, padding_idx=1.5), "embedding: padding_idx must be an int, got 1.5"),
        (
            lambda: F.cross_entropy(X, X, label_smoothing="a"),
            "cross_entropy: label_smoothing must be a number",
        ),
        (lambda: F.layer_norm(X, "a"), "layer_norm: normalized_shape must be an int or a tuple of ints"),
        (lambda: F.layer_norm(X, None), "layer_norm: normalized_shape must be an int or a tuple of ints"),
        (lambda: F.group_norm(X, "a"), "group_norm: num_groups must be an int"),
        (lambda: F.batch_norm(X, None, None, training=True, eps="a"), "batch_norm: eps must be a number"),
        (
            lambda: F.batch_norm(X, X[0].clone(), X[0].clone(), training=True, momentum="a"),
            "batch_norm: momentum must be a number",
        ),
        (lambda: F.local_response_norm(IMAGE, "a"), "local_response_norm: size must be an int"),
        (
            lambda: F.scaled_dot_product_attention(X, X, X, scale="a"),
            "attention: scale must be a number or None",
        ),
        (
            lambda: F.scaled_dot_product_attention(X, X, X, dropout_p="a"),
            "attention: dropout_p must be a number",
        ),
        (lambda: F.pixel_shuffle(IMAGE, 1.5), "pixel_shuffle: upscale_factor must be an int"),
        (lambda: F.dropout(X, "a"), "dropout: p must be a number"),
        (lambda: F.huber_loss(X, X, delta="a"), "huber_loss: delta must be a number"),
        (lambda: F.normalize(X, "a"), "normalize: p must be a number"),
        (lambda: F.gumbel_softmax(X, "a"), "gumbel_softmax: tau must be a number"),
        (lambda: F.max_pool2d(IMAGE > 0, 2), "^max_pool2d: input must be float32 or float64"),
        (lambda: F.avg_pool1d(IMAGE[0] > 0, 2), "^avg_pool1d: input must be float32 or float64"),
        (lambda: F.instance_norm(IMAGE.long()), "^instance_norm: input must be float32 or float64"),
        (
            lambda: F.affine_grid(fastdl.ones(2, 2, 3).long(), (2, 3, 4, 5)),
            "affine_grid: theta must be floating-point",
        ),
        (lambda: F.affine_grid(fastdl.ones(2, 2, 3), (2, 3, -1, 5)), "affine_grid: size must be positive"),
        (lambda: fastdl.topk(X, "a"), "topk: k must be an int"),
    ],
)
def test_arguments_of_another_kind_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_one_hot_by_name_as_in_torch():
    for lib in (fastdl, pytest.importorskip("torch")):
        assert lib.nn.functional.one_hot(input=lib.tensor([1, 0])).tolist() == [[0, 1], [1, 0]]

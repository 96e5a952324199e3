"""Warnings show the line that led to them, whichever way it did; NumPy's own do not come through."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastdl
from fastdl import errors, nn
from fastdl.nn import functional as F

COLUMN, ROW = fastdl.ones(3, 1), fastdl.ones(3)


class Own(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def _both(function, layer, *inputs):
    """A function and its layer; the layer in a container; both."""
    return [
        lambda: function(*inputs),
        lambda: layer()(*inputs),
        lambda: Own(function)(*inputs),
        *([lambda: nn.Sequential(layer())(*inputs)] if len(inputs) == 1 else []),
    ]


def _optimizer_steps():
    weight = nn.Parameter(fastdl.ones(2))
    schedule = fastdl.optim.lr_scheduler.StepLR(fastdl.optim.SGD([weight], lr=1.0), 1)
    schedule.step()


CALLS = [
    *_both(F.mse_loss, nn.MSELoss, ROW, COLUMN),
    *_both(F.l1_loss, nn.L1Loss, ROW, COLUMN),
    *_both(F.smooth_l1_loss, nn.SmoothL1Loss, ROW, COLUMN),
    *_both(F.huber_loss, nn.HuberLoss, ROW, COLUMN),
    *_both(lambda a, b: F.kl_div(a, b), nn.KLDivLoss, ROW, ROW),
    *_both(F.softmax, nn.Softmax, ROW),
    *_both(F.log_softmax, nn.LogSoftmax, ROW),
    *_both(F.softmin, nn.Softmin, ROW),
    *_both(F.dropout2d, nn.Dropout2d, ROW[None]),
    lambda: nn.MSELoss(size_average=False),
    lambda: F.mse_loss(ROW, ROW, reduce=False),
    lambda: F.upsample(fastdl.ones(1, 1, 2), 4),
    lambda: F.upsample_bilinear(fastdl.ones(1, 1, 2, 2), 4),
    lambda: nn.LSTM(1, 1, dropout=0.5),
    lambda: nn.init.kaiming_normal_(fastdl.empty(0, 3)),
    lambda: nn.init.uniform(fastdl.empty(3)),
    lambda: nn.utils.clip_grad_norm([], 1.0),
    lambda: fastdl.range(0, 3),
    lambda: fastdl.add(ROW, 2, ROW),
    lambda: ROW.clone().addcmul_(2, ROW, ROW),
    lambda: ROW.to(fastdl.complex64).to(fastdl.float32),
    lambda: ROW.to(fastdl.complex64).float(),
    lambda: nn.Linear(2, 2, dtype=fastdl.complex64).to(fastdl.float32),
    lambda: (ROW.clone().requires_grad_() * 2).grad,
    lambda: fastdl.stft(fastdl.ones(16), 8, return_complex=False),
    lambda: fastdl.optim.SGD([nn.Parameter(ROW)] * 2, lr=1.0),
    _optimizer_steps,
    lambda: fastdl.autograd.gradcheck(lambda x: x, (ROW.clone().requires_grad_(),), raise_exception=False),
    fastdl.autograd.detect_anomaly,
    lambda: fastdl.testing.assert_allclose(ROW, ROW),
    lambda: fastdl.utils.data.random_split([1], [0.5, 0.5]),
    lambda: fastdl.ones(1).var(),
    lambda: fastdl.std(fastdl.ones(1)),
    lambda: fastdl.ones(2, 1).cov(),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_warning_shows_the_callers_line(call):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    assert {w.filename for w in seen} == {__file__}


SPREAD = ["var", "std", "var_mean", "std_mean"]


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1,), {}),
        ((3, 1), {"dim": 1}),
        ((3,), {"correction": 3}),
        ((0,), {}),
        ((0, 3), {"dim": 1, "correction": 4}),
        ((3, 1), {"dim": 1, "unbiased": False}),
        ((3, 2), {"dim": 1}),
    ],
)
def test_no_degrees_of_freedom(name, shape, options):
    _same_warnings(lambda lib: getattr(lib, name)(lib.ones(shape), **options))


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.cov(lib.ones(3, 1)),
        lambda lib: lib.cov(lib.ones(3, 2), correction=5),
        lambda lib: lib.corrcoef(lib.ones(3, 1)),
        lambda lib: lib.cov(lib.ones(2, 2), fweights=lib.tensor([1, 0])),
        lambda lib: lib.cov(lib.ones(2, 2), aweights=lib.ones(2)),
        lambda lib: lib.cov(lib.ones(1, 2)),
    ],
)
def test_no_degrees_of_freedom_of_a_covariance(call):
    _same_warnings(call)


def _same_warnings(call):
    said, results = [], []
    for library in (fastdl, pytest.importorskip("torch")):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            result = call(library)
        said.append([str(w.message).split(" (Triggered")[0] for w in seen])
        results.append([v.numpy() for v in (result if isinstance(result, tuple) else (result,))])
    assert said[0] == said[1]
    for got, want in zip(*results, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("name", ["det", "svd", "qr", "pinverse", "matmul", "trapezoid", "cosine_similarity"])
@pytest.mark.parametrize("scale", [1e30, 1e-30, 3e37, float("inf"), float("nan"), 0.0])
def test_numpys_warnings_stay_inside(name, scale, dtype):
    matrix = np.diag(np.random.default_rng(0).standard_normal(9)) if scale < 1e31 else np.ones((9, 9))
    with np.errstate(all="ignore"):
        x, y = [fastdl.from_numpy((matrix * scale).astype(dtype)).requires_grad_() for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = getattr(fastdl, name)(*((x, y) if name in ("matmul", "cosine_similarity") else (x,)))
            result = result[1] if isinstance(result, tuple) else result
            result.real.sum().backward()
        except (np.linalg.LinAlgError, NotImplementedError, errors.DtypeError):
            pass


def test_a_determinant_beyond_float32_is_infinite():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastdl.det(fastdl.eye(300) * 10) == float("inf")

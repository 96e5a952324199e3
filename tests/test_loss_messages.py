"""What losses say about bad arguments, and about arguments that changed before backward."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F


def t(*shape: int) -> fastdl.Tensor:
    return fastdl.from_numpy(np.zeros(shape, np.float32))


def labels(*values: int) -> fastdl.Tensor:
    return fastdl.from_numpy(np.array(values))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: F.cross_entropy(t(4, 10), labels(1, 2, 3, 12)),
            IndexError,
            r"cross_entropy: target\[3\] = 12 is out of range for 10 classes",
        ),
        (
            lambda: F.cross_entropy(t(2, 10), labels(-1, 0)),
            IndexError,
            r"target\[0\] = -1 .* ignore_index is -100",
        ),
        (
            lambda: F.cross_entropy(t(10), fastdl.from_numpy(np.array(10))),
            IndexError,
            r"cross_entropy: target = 10 is out of range",
        ),
        (
            lambda: F.nll_loss(t(2, 3, 4), fastdl.from_numpy(np.full((2, 4), 3))),
            IndexError,
            r"nll_loss: target\[0, 0\] = 3 is out of range for 3 classes",
        ),
        (
            lambda: F.multi_margin_loss(t(2, 3), labels(0, 3)),
            IndexError,
            r"multi_margin_loss: target\[1\] = 3",
        ),
        (
            lambda: F.multilabel_margin_loss(t(1, 2), fastdl.from_numpy(np.array([[0, 2]]))),
            IndexError,
            r"multilabel_margin_loss: target\[0, 1\] = 2",
        ),
        (
            lambda: F.ctc_loss(t(5, 1, 3), fastdl.from_numpy(np.array([[1, 3]])), (5,), (2,)),
            IndexError,
            r"ctc_loss: targets\[0, 1\] = 3",
        ),
        (
            lambda: F.cross_entropy(t(4, 10), t(4)),
            TypeError,
            r"target of class indices must be an integer tensor, got float32. Use target.to\(fastdl.int64\)",
        ),
        (
            lambda: F.cross_entropy(t(4, 10), labels(1, 2)),
            ValueError,
            r"target must have shape \(4,\).*got \(2,\).*probabilities would have shape \(4, 10\)",
        ),
        (
            lambda: F.cross_entropy(t(4, 10), fastdl.from_numpy(np.zeros((4, 1), int))),
            ValueError,
            r"target.reshape\(4,\)",
        ),
        (
            lambda: F.cross_entropy(t(2, 2), fastdl.from_numpy(np.zeros((2, 2), int))),
            TypeError,
            r"class probabilities, so it must be floating point",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), labels(0, 0), weight=t(2)),
            ValueError,
            r"weight must have shape \(3,\)",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), labels(0, 0), label_smoothing=1.5),
            ValueError,
            r"label_smoothing must lie in \[0, 1\], got 1.5",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), labels(0, 0), reduction="avg"),
            ValueError,
            r"reduction must be 'none', 'mean' or 'sum', got 'avg'",
        ),
        (
            lambda: F.cross_entropy(labels(1, 2), labels(0)),
            TypeError,
            r"cross_entropy: input must be float32 or float64, got int64",
        ),
        (
            lambda: F.cross_entropy(t(), labels(0)),
            ValueError,
            r"cross_entropy: input must be \(C\), \(N, C\)",
        ),
        (
            lambda: F.binary_cross_entropy(t(2), t(2).double()),
            TypeError,
            r"binary_cross_entropy: target must have input's dtype float32, got float64. Use target.to\(input.dtype\)",
        ),
        (
            lambda: F.mse_loss(t(2), t(3)),
            ValueError,
            r"mse_loss: input of shape \(2,\) and target of shape \(3,\) do not broadcast",
        ),
        (
            lambda: F.binary_cross_entropy(fastdl.tensor([0.5, 1.5]), t(2)),
            ValueError,
            r"input must lie in \[0, 1\]; element 1 is 1.5",
        ),
        (
            lambda: F.binary_cross_entropy(t(2) * 0, fastdl.tensor([1.0, float("nan")])),
            ValueError,
            r"target must lie in \[0, 1\]; element 1 is nan",
        ),
        (
            lambda: F.binary_cross_entropy(t(40, 3) * 0, fastdl.tensor([[1.0, 0.5, -0.5]] * 40)),
            ValueError,
            r"target must lie in \[0, 1\]; element 2 is -0.5",
        ),
        (
            lambda: F.binary_cross_entropy(fastdl.tensor([0.5, float("nan")]), t(2)),
            ValueError,
            r"element 1 is nan",
        ),
        (
            lambda: F.binary_cross_entropy_with_logits(t(2, 1), t(2)),
            ValueError,
            r"target must have input's shape \(2, 1\), got \(2,\). Use target.reshape",
        ),
        (
            lambda: F.binary_cross_entropy_with_logits(t(2, 3), t(2, 3), pos_weight=t(2)),
            ValueError,
            r"pos_weight of shape \(2,\) must broadcast to input's shape \(2, 3\)",
        ),
        (lambda: F.huber_loss(t(2), t(2), delta=0), ValueError, r"huber_loss: delta must be positive"),
        (
            lambda: F.smooth_l1_loss(t(2), t(2), beta=-1),
            ValueError,
            r"smooth_l1_loss: beta must not be negative",
        ),
        (
            lambda: F.gaussian_nll_loss(t(2), t(2), fastdl.tensor([1.0, -1.0])),
            ValueError,
            r"var must not be negative, its smallest entry is -1",
        ),
        (
            lambda: F.gaussian_nll_loss(t(2, 3), t(2, 3), t(3)),
            ValueError,
            r"var must have input's shape \(2, 3\)",
        ),
        (
            lambda: F.gaussian_nll_loss(t(2, 3), t(2, 3), t(1, 1)),
            ValueError,
            r"var must have input's shape \(2, 3\), or one dimension 1",
        ),
        (lambda: nn.HuberLoss(delta=1j), TypeError, r"delta must be a float or int, got complex"),
        (
            lambda: F.cross_entropy(t(2, 3), t(2, 3), ignore_index=1),
            RuntimeError,
            r"ignore_index is for targets of class indices, got 1",
        ),
        (lambda: F.margin_ranking_loss(t(2), t(2, 1), t(2)), ValueError, r"as many dimensions"),
        (
            lambda: F.cosine_embedding_loss(t(2, 3), t(2, 3), t(3)),
            ValueError,
            r"inputs must be \(N, D\) with target \(N\)",
        ),
        (
            lambda: F.triplet_margin_loss(t(2, 3), t(2, 3), t(2, 3), margin=0),
            ValueError,
            r"margin must be positive",
        ),
        (lambda: F.multi_margin_loss(t(2, 3), labels(0, 0), p=3), ValueError, r"p must be 1 or 2, got 3"),
        (
            lambda: F.ctc_loss(t(5, 1, 3), labels(1), (6,), (1,)),
            ValueError,
            r"input_lengths must lie between 0 and the 5 frames",
        ),
        (
            lambda: F.ctc_loss(t(5, 2, 3), labels(1), (5,), (1, 0)),
            ValueError,
            r"input_lengths must have one entry per sequence of the batch of 2, got 1",
        ),
        (
            lambda: F.cosine_similarity(t(2, 3), t(2, 3), dim=2),
            IndexError,
            r"cosine_similarity: dim must be in",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w, t: F.linear_cross_entropy(x[None], w, t), "input must be"),
        (lambda x, w, t: F.linear_cross_entropy(x, w[:, 1:], t), r"linear_weight must be \(C, ..., 4\)"),
        (
            lambda x, w, t: F.linear_cross_entropy(x, w, t, linear_bias=w[0]),
            r"linear_bias must have shape \(5,\)",
        ),
        (lambda x, w, t: F.linear_cross_entropy(x[0], w[:, None], t), r"input must be \(N, 4\) with"),
        (lambda x, w, t: F.linear_cross_entropy(x, w, t, options=1), "options must be None or Linear"),
        (lambda x, w, t: nn.LinearCrossEntropyLoss(4, 5, weight=w[0]), r"weight must have shape \(5,\)"),
        (lambda x, w, t: nn.LinearCrossEntropyLoss(4, 5, label_smoothing=2.0), "label_smoothing must lie"),
    ],
)
def test_linear_cross_entropy_messages(call, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        call(fastdl.ones(3, 4), fastdl.ones(5, 4), fastdl.tensor([0, 1, 2]))


def test_an_in_place_change_of_what_backward_needs_is_noticed():
    x, target = t(2, 3).requires_grad_(), labels(0, 1)
    loss = F.cross_entropy(x, target)
    target[0] = 2
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize("function", [F.cross_entropy, F.nll_loss])
def test_reference_backend_raises_the_same(function):
    with (
        fastdl.use_backend("reference"),
        pytest.raises(IndexError, match=r"target\[1\] = 3 is out of range for 3 classes"),
    ):
        function(t(2, 3), labels(0, 3))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_margin_losses_name_a_label_out_of_range(backend):
    with fastdl.use_backend(backend):
        with pytest.raises(IndexError, match=r"multi_margin_loss: target\[1\] = 3 is out of range \[0, 3\)"):
            F.multi_margin_loss(t(2, 3), labels(0, 3))
        with pytest.raises(IndexError, match=r"multi_margin_loss: target\[0\] = -1 is out of range \[0, 3\)"):
            F.multi_margin_loss(t(3), labels(-1))
        with pytest.raises(
            IndexError, match=r"multilabel_margin_loss: target\[0, 2\] = -2 is out of range \[-1, 3\)"
        ):
            F.multilabel_margin_loss(t(2, 3), labels(0, 1, -2, 0, -1, -1).reshape(2, 3))

"""Losses that compare scores of classes with a margin: one for each row of scores (N, C)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.kernels.reference.layout import _check

Array = np.ndarray[Any, Any]

__all__ = [
    "multi_margin_loss_backward",
    "multi_margin_loss_forward",
    "multilabel_margin_loss_backward",
    "multilabel_margin_loss_forward",
]


def _positive(gaps: Array) -> Array:
    """max(0, gap), and 0 for NaN."""
    return np.where(gaps > 0, gaps, gaps.dtype.type(0))


def _gaps(x: Array, target: Array, margin: float) -> Array:
    """max(0, margin - x_t + x_i); 0 for the target t itself."""
    own = np.arange(len(x)), target
    gaps: Array = _positive(x - x[own][:, None] + x.dtype.type(margin))
    gaps[own] = 0
    return gaps


def multi_margin_loss_forward(x: Array, target: Array, weight: Array | None, p: int, margin: float) -> Array:
    """w_t / C sum over i != t of max(0, margin - x_t + x_i)^p, p = 1 or 2."""
    _check("multi_margin_loss", target, x.shape[1], "target")
    losses = (_gaps(x, target, margin).astype(np.float64) ** p).sum(1) / x.shape[1]
    return np.asarray(losses if weight is None else losses * weight[target], x.dtype)


def multi_margin_loss_backward(
    grad_loss: Array, x: Array, target: Array, weight: Array | None, p: int, margin: float
) -> Array:
    gaps = _gaps(x, target, margin)
    grad = (gaps > 0) * 1.0 if p == 1 else 2.0 * gaps
    grad *= (grad_loss / x.shape[1] if weight is None else grad_loss * weight[target] / x.shape[1])[:, None]
    grad[np.arange(len(x)), target] = -grad.sum(1)
    return np.asarray(grad, x.dtype)


def _open(x: Array, labels: Array) -> tuple[Array, Array]:
    """A row's labels, and for each max(0, 1 - x_label + x_i); 0 for i that a label names."""
    count = int(np.argmax(np.append(labels, -1) == -1))
    labels = labels[:count]
    gaps = _positive(1 - x[labels][:, None] + x).astype(np.float64)
    gaps[:, labels] = 0
    return labels, gaps


def multilabel_margin_loss_forward(x: Array, target: Array) -> Array:
    """1 / C sum over labels j, which end at a row's first -1, and other classes i of max(0, 1 - x_j + x_i)."""
    _check("multilabel_margin_loss", target, x.shape[1], "target", -1)
    return np.array([_open(*row)[1].sum() / x.shape[1] for row in zip(x, target, strict=True)], x.dtype)


def multilabel_margin_loss_backward(grad_loss: Array, x: Array, target: Array) -> Array:
    grad = np.zeros(x.shape)
    for to, g, scores, row in zip(grad, grad_loss, x, target, strict=True):
        labels, gaps = _open(scores, row)
        to += (gaps > 0).sum(0)
        np.subtract.at(to, labels, (gaps > 0).sum(1))
        to *= g / x.shape[1]
    return grad.astype(x.dtype)

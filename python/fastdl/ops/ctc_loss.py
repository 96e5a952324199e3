"""Connectionist temporal classification; see ``torch.nn.functional.ctc_loss``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.op import Op
from fastdl.devices import device_of, give_to_device, to_host
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import array as as_array
from fastdl.kernels import select
from fastdl.ops.reduction import REDUCTIONS, check_reduction
from fastdl.tensor import Tensor


class CtcLoss(Op):
    floats_only = True
    saves = (0,)

    def forward(
        self,
        log_probs: Any,
        *,
        targets: Any,
        input_lengths: Any,
        target_lengths: Any,
        blank: int,
        reduction: str,
        zero_infinity: bool,
    ) -> Any:
        self.arrays = (log_probs, targets, input_lengths, target_lengths)
        self.reduction = reduction
        losses, alpha = select(log_probs).ctc_loss_forward(*self.arrays, blank)
        self.saved = (losses, alpha, blank, zero_infinity)
        if zero_infinity:
            losses = np.where(losses == np.inf, 0, losses).astype(losses.dtype)
        if reduction == "none":
            return losses.copy()
        if reduction == "sum":
            return as_array(losses.sum(dtype=np.float64), losses, losses.dtype)
        # The mean of losses per label.
        labels = as_array(np.maximum(target_lengths, 1), losses)
        self.scale = (1 / (labels * max(len(losses), 1))).astype(losses.dtype)
        total = (losses.astype(np.float64) / labels).sum()
        return as_array(total / len(losses) if len(losses) else np.nan, losses, losses.dtype)

    def backward(self, grad_loss: Any) -> Any:
        losses = self.saved[0]
        g = grad_loss * self.scale if self.reduction == "mean" else np.broadcast_to(grad_loss, losses.shape)
        return select(grad_loss).ctc_loss_backward(
            as_array(g, losses, self.arrays[0].dtype), *self.arrays, *self.saved
        )

    def backward_graph(self, grad_loss: Tensor) -> Any:
        raise NotImplementedError(
            "ctc_loss: has no second derivative (create_graph=True), as in PyTorch: its gradient is that for the "
            "logits before log_softmax"
        )


def _lengths(name: str, value: Any, batch: int) -> Any:
    lengths = to_host(value._data) if isinstance(value, Tensor) else np.asarray(value)
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise DtypeError(f"ctc_loss: {name} must be integers, got {lengths.dtype}")
    lengths = lengths.reshape(-1).astype(np.int64)
    if len(lengths) != batch:
        raise ArgumentError(
            f"ctc_loss: {name} must have one entry per sequence of the batch of {batch}, got {len(lengths)}"
        )
    return lengths


def _padded(targets: Any, lengths: Any, batch: int) -> Any:
    """Targets as (batch, longest), from that form or from one row of concatenated labels."""
    longest = int(lengths.max(initial=0))
    if targets.ndim == 2:
        if targets.shape[0] != batch or targets.shape[1] < longest:
            raise ArgumentError(
                f"ctc_loss: targets must be (batch = {batch}, at least {longest}), got {targets.shape}"
            )
        return targets.astype(np.int64)
    if targets.ndim != 1 or targets.size < lengths.sum():
        raise ArgumentError(
            f"ctc_loss: targets must be (batch, longest) or the {lengths.sum()} labels of all sequences in "
            f"one row, got shape {targets.shape}"
        )
    targets = to_host(targets)
    padded = np.zeros((batch, longest), np.int64)
    ends = np.cumsum(lengths)
    for row, end, length in zip(padded, ends, lengths, strict=True):
        row[:length] = targets[end - length : end]
    return padded


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-probability of all alignments of a label sequence with the frames of a longer one.

    Args:
        log_probs: (T, N, C) or (T, C) log-probabilities (from :func:`log_softmax`), float32 or float64.
        targets: labels (N, S), or the labels of all sequences in one row; never ``blank``.
        input_lengths, target_lengths: frames and labels of every sequence; tensors or sequences of ints.
        blank: the class between labels.
        reduction: ``"mean"`` (of the losses divided by the target lengths), ``"sum"`` or ``"none"``.
        zero_infinity: impossible alignments (targets longer than inputs) give loss and gradient 0, not
            infinity.

    The gradient is that for the logits before the log_softmax, as in PyTorch. Labels out of range raise
    IndexError. Lengths are needed on the CPU: as tensors on a GPU they are waited for.
    See ``torch.nn.functional.ctc_loss``.
    """
    op = "ctc_loss"
    if reduction not in REDUCTIONS:
        reduction = check_reduction(op, None, None, reduction)
    x, labels = log_probs._data, targets._data
    if x.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: log_probs must be float32 or float64, got {x.dtype}")
    if labels.dtype.kind not in "iu":
        raise DtypeError(f"{op}: targets must be an integer tensor, got {labels.dtype}")
    if x.ndim not in (2, 3):
        raise ArgumentError(f"{op}: log_probs must be (T, N, C) or (T, C), got shape {x.shape}")
    frames, batch, classes = (x.shape[0], 1, x.shape[1]) if x.ndim == 2 else x.shape
    if not 0 <= blank < classes:
        raise ArgumentError(f"{op}: blank must be one of the {classes} classes, got {blank}")
    input_lengths = _lengths("input_lengths", input_lengths, batch)
    target_lengths = _lengths("target_lengths", target_lengths, batch)
    if batch and (input_lengths.min() < 0 or input_lengths.max() > frames):
        raise ArgumentError(
            f"{op}: input_lengths must lie between 0 and the {frames} frames, got {input_lengths.tolist()}"
        )
    if batch and target_lengths.min() < 0:
        raise ArgumentError(f"{op}: target_lengths must not be negative, got {target_lengths.tolist()}")
    options = {
        "targets": give_to_device(_padded(labels, target_lengths, batch), device_of(x)),
        "input_lengths": input_lengths,
        "target_lengths": target_lengths,
        "blank": blank,
        "reduction": reduction,
        "zero_infinity": zero_infinity,
    }
    if x.ndim == 3:
        return CtcLoss.apply(log_probs, **options)  # type: ignore[no-any-return]
    loss = CtcLoss.apply(log_probs.reshape(frames, 1, classes), **options)
    return loss.reshape(()) if reduction == "none" else loss  # type: ignore[no-any-return]

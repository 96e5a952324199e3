"""Connectionist temporal classification; see :mod:`fastdl.kernels.reference.ctc_loss`.

Lengths are read by the host, which needs the longest: NumPy arrays cost no waiting. Losses and alpha are float32 for
16-bit ``log_probs``. Labels are checked on the device, as in :mod:`fastdl.kernels.cuda.embedding`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

__all__ = ["ctc_loss_backward", "ctc_loss_forward"]


class _Problem:
    """A loss as the extension wants it, and the arrays that it points to (kept alive here)."""

    def __init__(
        self,
        op: str,
        log_probs: Array,
        targets: Array,
        input_lengths: Any,
        target_lengths: Any,
        blank: int,
    ) -> None:
        frames, batch, classes = log_probs.shape
        self.runtime = runtime = device.of(log_probs)
        lengths = [a.get() if hasattr(a, "get") else a for a in (input_lengths, target_lengths)]
        for name, array in (("targets", targets), ("lengths", lengths[0]), ("lengths", lengths[1])):
            if array.dtype != np.int64:
                raise DtypeError(f"{op}: {name} must be int64, got {array.dtype}")
        if any(a.shape != (batch,) for a in lengths) or targets.ndim != 2 or targets.shape[0] != batch:
            raise ArgumentError(
                f"{op}: {batch} sequences need as many lengths and rows of targets, got shapes "
                f"{lengths[0].shape}, {lengths[1].shape} and {targets.shape}"
            )
        for a, most in zip(lengths, (frames, targets.shape[1]), strict=True):
            if a.size and not 0 <= a.min() <= a.max() <= most:
                raise ArgumentError(f"{op}: lengths must lie between 0 and {most}, got {a.tolist()}")
        if not 0 <= blank < classes:
            raise ArgumentError(f"{op}: blank must lie in [0, {classes}), got {blank}")
        longest = int(lengths[1].max(initial=0))
        self.states = (batch, frames, 2 * longest + 1)
        self.targets = contiguous(targets[:, :longest])
        self.lengths = [runtime.from_host(np.ascontiguousarray(a)) for a in lengths]
        self.description = runtime.extension.Ctc(
            frames,
            batch,
            classes,
            longest,
            blank,
            *(runtime.pointer(a) for a in (self.targets, *self.lengths)),
        )


def ctc_loss_forward(
    log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int
) -> tuple[Array, Array]:
    op = "ctc_loss"
    number = device.code(op, log_probs)
    problem = _Problem(op, log_probs, targets, input_lengths, target_lengths, blank)
    runtime, log_probs = problem.runtime, contiguous(log_probs)
    wide = device.compute_dtype(log_probs.dtype)
    loss, alpha = runtime.empty(log_probs.shape[1:2], wide), runtime.empty(problem.states, wide)
    runtime.extension.ctc_loss_forward(
        number,
        runtime.pointer(loss),
        runtime.pointer(alpha),
        runtime.pointer(log_probs),
        problem.description,
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return loss, alpha


def ctc_loss_backward(
    grad_loss: Array,
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    loss: Array,
    alpha: Array,
    blank: int,
    zero_infinity: bool,
) -> Array:
    op = "ctc_loss_backward"
    number = device.code(op, log_probs, grad_loss)
    problem = _Problem(op, log_probs, targets, input_lengths, target_lengths, blank)
    if alpha.shape != problem.states or loss.shape != grad_loss.shape or loss.shape != log_probs.shape[1:2]:
        raise ArgumentError(f"{op}: loss and alpha do not belong to log_probs of shape {log_probs.shape}")
    runtime, log_probs, grad_loss = problem.runtime, contiguous(log_probs), contiguous(grad_loss)
    loss, alpha = contiguous(loss), contiguous(alpha)
    grad, beta = runtime.empty(log_probs.shape, log_probs.dtype), runtime.empty(alpha.shape, alpha.dtype)
    runtime.extension.ctc_loss_backward(
        number,
        runtime.pointer(grad),
        runtime.pointer(beta),
        runtime.pointer(grad_loss),
        runtime.pointer(log_probs),
        runtime.pointer(loss),
        runtime.pointer(alpha),
        zero_infinity,
        problem.description,
        runtime.stream(),
    )
    return grad

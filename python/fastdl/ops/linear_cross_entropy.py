"""The last layer of a classifier and its loss in one function; see ``torch.nn.functional.linear_cross_entropy``.

In pieces (``options``) the logits of all rows are never in memory together. For "sum" and "mean" every piece's
gradients are computed beside its loss and added up: two products more in forward, none in backward. For "none" backward
computes the pieces' logits again, since each row's upstream gradient is unknown before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np

from fastdl.autograd.gradients import grad
from fastdl.autograd.mode import enable_grad, is_grad_enabled
from fastdl.autograd.op import Op, needing
from fastdl.dtypes import float32, is_half
from fastdl.errors import ArgumentError, warn_caller
from fastdl.kernels import array
from fastdl.ops.arrays import cast
from fastdl.ops.cross_entropy import cross_entropy
from fastdl.ops.linear import linear
from fastdl.tensor import Tensor

# Adding up a piece's gradient of linear_weight costs about what 20 rows' products cost, so few rows do not pay.
_ROWS = 256


class LinearCrossEntropyOptions:
    """How :func:`linear_cross_entropy` computes in pieces of the batch. See ``torch.nn.LinearCrossEntropyOptions``.

    Args:
        allow_retain_graph: keep the gradients after backward, for ``retain_graph=True``. Reduction "none" always does.
        batch_chunk_size: rows per piece; None for what ``chunking_method`` says, or for all.
        chunking_method: ``"auto"`` (256 rows); ``"aspect_ratio"`` or ``"aspect_ratio:N"``: about as many logits as
            input elements, or an N-th of them; None for ``batch_chunk_size``.
        acc_policy: ``"auto"``, ``"accurate"``, ``"balanced"`` or ``"compact"``: one way here, sums in float32 or wider.
        acc_dtype: the same.

    Example:
        >>> import fastdl
        >>> fastdl.nn.LinearCrossEntropyOptions(batch_chunk_size=128).rows(1000, 64, 50000)
        128
    """

    def __init__(
        self,
        allow_retain_graph: bool = False,
        batch_chunk_size: int | None = None,
        chunking_method: str | None = "auto",
        acc_policy: str = "auto",
        acc_dtype: Any = None,
    ) -> None:
        self.allow_retain_graph = allow_retain_graph
        self.batch_chunk_size = batch_chunk_size
        self.chunking_method = chunking_method
        self.acc_policy = acc_policy
        self.acc_dtype = acc_dtype
        if self.acc_policy not in ("auto", "accurate", "balanced", "compact"):
            raise ValueError(
                f"acc_policy must be auto, accurate, balanced or compact, got {self.acc_policy!r}"
            )
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be a positive int or None, got {size!r}")
        if self.chunking_method not in (None, "auto"):
            self._ratio()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinearCrossEntropyOptions) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def _ratio(self) -> int:
        name, colon, factor = str(self.chunking_method).partition(":")
        if name != "aspect_ratio" or (colon and not (factor.isdigit() and int(factor))):
            raise ValueError(
                "chunking_method must be None, 'auto', 'aspect_ratio' or 'aspect_ratio:N', got "
                f"{self.chunking_method!r}"
            )
        return int(factor or 1)

    def rows(self, batch: int, features: int, classes: int) -> int:
        """How many rows a piece has."""
        given, method = self.batch_chunk_size, self.chunking_method
        if method is None or (method == "auto" and given is not None):
            return min(given or batch, batch)
        if method == "auto":
            return min(_ROWS, batch)
        ratio = -(-classes // max(features, 1))
        power = 1 << (max(-(-batch // max(ratio, 1)), 1) - 1).bit_length()
        found = max(min(power // self._ratio(), batch), 1)
        if given not in (None, found):
            raise ValueError(f"batch_chunk_size {given} and {method!r}, which gives {found}: pass only one")
        return found


class _Pieces(Op):
    """The loss of (N, F) rows and indices of classes; gradients for input, weight and bias where ``wanted``."""

    saves = (0, 1, 2)

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        *,
        target: Any,
        loss: dict[str, Any],
        rows: int,
        wanted: Any,
        retained: bool,
    ) -> Any:
        self.arrays, self.target, self.loss, self.rows, self.wanted = (
            (x, weight, bias),
            target,
            loss,
            rows,
            wanted,
        )
        self.sums: Any = None
        self.retained = retained
        self.reduction = loss["reduction"]
        if self.reduction == "none":
            return np.concatenate([piece._data for _, _, piece in self.pieces("none", False)])
        self.divisor = _total_weight(target, loss) if self.reduction == "mean" else 1.0
        total: Any = 0.0
        for part, leaves, piece in self.pieces("sum", any(wanted)):
            total = total + piece._data.astype(np.result_type(piece._data.dtype, float32))
            if any(wanted):
                self.add(
                    part,
                    leaves,
                    grad(piece, [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]),
                )
        with np.errstate(all="ignore"):  # no row counts: NaN
            return array(total / self.divisor, x, x.dtype)

    def pieces(self, reduction: str, recorded: bool) -> Iterator[tuple[slice, list[Tensor | None], Tensor]]:
        x, weight, bias = self.arrays
        for start in range(0, len(x), self.rows):
            part = slice(start, start + self.rows)
            leaves = [None if a is None else Tensor._wrap(a) for a in (x[part], weight, bias)]
            with enable_grad() if recorded else nullcontext():
                for leaf, wanted in zip(leaves, self.wanted, strict=True):
                    if recorded and wanted and leaf is not None:
                        leaf.requires_grad_()
                logits = linear(*leaves)  # type: ignore[arg-type]
                options = {**self.loss, "reduction": reduction}
                yield part, leaves, cross_entropy(logits, Tensor._wrap(self.target[part]), **options)

    def add(self, part: slice, leaves: list[Tensor | None], gradients: Any) -> None:
        """Add a piece's gradients to the sums, in float32 or wider."""
        found = iter(gradients)
        if self.sums is None:
            self.sums = [
                None
                if a is None or not wanted
                else np.zeros_like(a, float32 if i and is_half(a.dtype) else None)
                for i, (a, wanted) in enumerate(zip(self.arrays, self.wanted, strict=True))
            ]
        for i, leaf in enumerate(leaves):
            if leaf is not None and leaf.requires_grad:
                g = next(found)._data
                if i == 0:
                    self.sums[0][part] = g
                else:
                    self.sums[i] += g

    def backward(self, grad_loss: Any) -> Any:
        if self.reduction == "none":
            self.sums = None
            for part, leaves, piece in self.pieces("none", True):
                wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
                self.add(part, leaves, grad(piece, wanted, Tensor._wrap(grad_loss[part])))
            sums, scale, self.sums = self.sums, None, None
        else:
            if self.sums is None:
                raise RuntimeError(
                    "linear_cross_entropy: a second backward needs LinearCrossEntropyOptions(allow_retain_graph=True)"
                )
            with np.errstate(all="ignore"):
                sums, scale = self.sums, grad_loss / self.divisor
            if not self.retained:
                self.sums = None
        return tuple(
            [
                None if s is None else cast(s if scale is None else s * scale.astype(s.dtype), a.dtype)
                for s, a in zip(sums, self.arrays, strict=True)
            ]
        )

    def backward_graph(self, grad_loss: Tensor) -> Any:
        raise NotImplementedError(
            "linear_cross_entropy: in pieces it has no second derivative; leave options out for that"
        )


def _total_weight(target: Any, loss: dict[str, Any]) -> Any:
    """What "mean" divides by: the weights of the rows that count."""
    counted = target != loss["ignore_index"]
    weight = loss["weight"]
    return counted.sum() if weight is None else weight._data[np.where(counted, target, 0)][counted].sum()


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> Tensor:
    """``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)``.

    Args:
        input: (F) or (N, F).
        linear_weight: (C, F), or (C, d1, ..., F) for logits (N, C, d1, ...).
        target: class indices () or (N, d1, ...), or probabilities of the logits' shape.
        linear_bias: (C, d1, ...).
        ignore_index: as in :func:`cross_entropy`; None for its default.
        options: :class:`LinearCrossEntropyOptions` to compute in pieces, for (N, F), (C, F) and class indices; the
            logits of a language model need no memory then. Without a second derivative.

    Example:
        >>> import fastdl
        >>> F = fastdl.nn.functional
        >>> pieces = fastdl.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
        >>> F.linear_cross_entropy(fastdl.eye(3), fastdl.eye(3), fastdl.tensor([0, 1, 2]), options=pieces)
        tensor(0.5514)

    See ``torch.nn.functional.linear_cross_entropy``.
    """
    op = "linear_cross_entropy"
    if options is not None and not isinstance(options, LinearCrossEntropyOptions):
        raise TypeError(
            f"{op}: options must be None or LinearCrossEntropyOptions, got {type(options).__name__}"
        )
    if input.ndim not in (1, 2):
        raise ArgumentError(f"{op}: input must be (F) or (N, F), got shape {input.shape}")
    if linear_weight.ndim < 2 or linear_weight.shape[-1] != input.shape[-1]:
        raise ArgumentError(
            f"{op}: linear_weight must be (C, ..., {input.shape[-1]}) for an input of shape {input.shape}, got "
            f"{linear_weight.shape}"
        )
    *classes, features = linear_weight.shape
    if linear_bias is not None and list(linear_bias.shape) != classes:
        raise ArgumentError(f"{op}: linear_bias must have shape {tuple(classes)}, got {linear_bias.shape}")
    loss: dict[str, Any] = {
        "weight": weight,
        "ignore_index": -100 if ignore_index is None else ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    if options is not None:
        if input.ndim == 2 and len(input) and len(classes) == 1 and target.shape == input.shape[:1]:
            return _in_pieces(input, linear_weight, linear_bias, target, loss, options)
        warn_caller(
            f"{op}: pieces need input (N, F), linear_weight (C, F) and class indices (N); computed as a whole"
        )
    if len(classes) > 1:
        if input.ndim == 1:
            raise ArgumentError(
                f"{op}: input must be (N, {features}) with linear_weight of shape {linear_weight.shape}, got "
                f"{input.shape}"
            )
        linear_weight = linear_weight.reshape(prod(classes), features)
        linear_bias = None if linear_bias is None else linear_bias.reshape(prod(classes))
    logits = linear(input, linear_weight, linear_bias).reshape(*input.shape[:-1], *classes)
    return cross_entropy(logits, target, **loss)


def _in_pieces(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    loss: dict[str, Any],
    options: LinearCrossEntropyOptions,
) -> Tensor:
    rows = options.rows(input.shape[0], input.shape[1], linear_weight.shape[0])
    operands = (input, linear_weight, linear_bias)
    wanted = [is_grad_enabled() and t is not None and t.requires_grad for t in operands]
    losses = _Pieces.apply(
        *operands,
        target=target._data,
        loss=loss,
        rows=rows,
        wanted=wanted,
        retained=options.allow_retain_graph,
    )
    return needing(losses, target, *[t for t in (loss["weight"],) if t is not None])

"""Looking up rows of a table, one by one or in bags; see ``torch.nn.functional``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd.graph import linear_backward, replay
from fastdl.autograd.mode import mode as grad_mode
from fastdl.autograd.op import Op
from fastdl.devices import to_host
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, int64, is_half
from fastdl.errors import ArgumentError, DtypeError, not_a_tensor
from fastdl.kernels import on_device, select
from fastdl.kernels.sparse import Pattern, SparseArray
from fastdl.ops.arrays import added_to_rows, cast, full, zeros
from fastdl.ops.gather import IndexAdd, check_range
from fastdl.tensor import Tensor

MODES = ("sum", "mean", "max")


class Embedding(Op):
    saves = (1,)

    def forward(self, weight: Any, index: Any, *, padding_idx: int, scale_grad_by_freq: bool) -> Any:
        self.index = index = cast(index, int64)
        self.options = (weight.shape[0], padding_idx, scale_grad_by_freq)
        return select(weight).embedding_forward(weight, index)

    def backward(self, grad: Any) -> Any:
        rows = grad.reshape(self.index.size, grad.shape[-1])
        return select(grad).embedding_backward(rows, self.index.reshape(-1), None, None, *self.options), None

    def adds_into(self, have: Any, grad: Any) -> bool:
        index, (_, padding_idx, scale_grad_by_freq) = self.index.reshape(-1), self.options
        if scale_grad_by_freq:
            return False
        rows = grad.reshape(index.size, grad.shape[-1])
        if padding_idx >= 0:
            kept = index != padding_idx
            index, rows = index[kept], rows[kept]
        return added_to_rows(have, 0, index, rows)

    def linear(self, weight: Any, _: Any) -> Any:
        """What backward is the adjoint of: without the rows it passes over, and with the factors it puts in."""
        rows, padding_idx, scale_grad_by_freq = self.options
        y = select(weight).embedding_forward(weight, self.index)
        if padding_idx >= 0:
            y[self.index == padding_idx] = 0
        if scale_grad_by_freq:
            y /= np.bincount(self.index.reshape(-1), minlength=rows)[self.index][..., None].astype(y.dtype)
        return y

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


class SparseEmbedding(Embedding):
    """The same; the gradient of the table is sparse: the rows of the result's, in their places."""

    adds_into = None  # type: ignore[assignment]

    def backward(self, grad: Any) -> Any:
        rows = grad.reshape(self.index.size, grad.shape[-1])
        return sparse_rows(self.index.reshape(-1), rows, *self.options[:2]), None

    def backward_graph(self, grad: Tensor) -> Any:
        rows, padding_idx, _ = self.options
        return _dense_rows(self.index.reshape(-1), grad.reshape(-1, grad.shape[-1]), rows, padding_idx), None


def sparse_rows(index: Any, values: Any, rows: int, padding_idx: int) -> SparseArray:
    """A sparse gradient of a table of ``rows`` rows; entries with index ``padding_idx`` (-1: none) are left out."""
    if padding_idx >= 0:
        kept = index != padding_idx
        index, values = index[kept], values[kept]
    pattern = Pattern("sparse_coo", (rows,), pooled_copy(index).reshape(1, -1))
    return SparseArray(pattern, Tensor._wrap(pooled_copy(values)))


def _dense_rows(index: Any, values: Tensor, rows: int, padding_idx: int) -> Tensor:
    """The gradient of a table in operations, dense."""
    if padding_idx >= 0:
        kept = Tensor._wrap(index != padding_idx)
        index, values = index[kept._data], values[kept]
    table = Tensor._wrap(zeros((rows, values.shape[1]), values._data.dtype, values._data))
    return IndexAdd.apply(table, values, dim=0, index=index, alpha=1)  # type: ignore[no-any-return]


class EmbeddingBag(Op):
    floats_only = True
    saves: tuple[int, ...] = (1,)

    def forward(
        self,
        weight: Any,
        index: Any,
        scale: Any,
        *,
        offsets: Any,
        mode: str,
        padding_idx: int,
        scale_grad_by_freq: bool,
    ) -> Any:
        index = cast(index, int64)
        self.index = index.reshape(-1)
        self.scale = scale if scale is None else scale.reshape(-1)
        self.offsets, self.mode, self.padding_idx = offsets, mode, padding_idx
        self.options = (weight.shape[0], padding_idx, scale_grad_by_freq)
        if mode == "max":
            y, self.chosen = select(weight).embedding_bag_max_forward(weight, index, offsets, padding_idx)
            return y
        if scale is not None:
            self.scale_shape, self.saves = scale.shape, (1, 2)
            if self.needs[2]:
                self.weight, self.saves = weight, (0, 1, 2)
        return select(weight).embedding_bag_forward(
            weight, index, offsets, self.scale, padding_idx, mode == "mean"
        )

    def backward(self, grad: Any) -> Any:
        kernels = select(grad)
        if self.mode == "max":
            chosen, empty = self.chosen, self.chosen < 0
            if empty.any():
                grad, chosen = np.where(empty, 0, grad), np.where(empty, 0, chosen)
            return kernels.gather_backward(grad, 0, chosen, self.options[0]), None, None
        bag = self._bags()
        grad_weight = grad_scale = None
        if self.needs[0]:
            scale = self.scale
            if self.mode == "mean":
                counted = self.offsets
                if self.padding_idx >= 0:
                    counted = np.append(0, np.cumsum(self.index != self.padding_idx, dtype=int64))[counted]
                scale = (1 / np.maximum(np.diff(counted), 1)).astype(grad.dtype)[bag]
            grad_weight = self.to_table(kernels, grad, bag, scale)
        if self.needs[2]:
            rows = kernels.embedding_forward(self.weight, self.index)
            products = kernels.row_products_forward(rows, kernels.embedding_forward(grad, bag))[0]
            products[self.index == self.padding_idx] = 0
            grad_scale = products.reshape(self.scale_shape)
        return grad_weight, None, grad_scale

    def to_table(self, kernels: Any, grad: Any, bag: Any, scale: Any) -> Any:
        """The gradient of the table."""
        return kernels.embedding_backward(grad, self.index, bag, scale, *self.options)

    def backward_graph(self, grad: Tensor) -> Any:
        if self.mode == "max" or not (self.needs[0] and self.needs[2]):
            return linear_backward(self, grad)
        _rows, padding_idx, scale_grad_by_freq = self.options
        if scale_grad_by_freq:
            raise NotImplementedError(
                "embedding_bag: has no second derivative (create_graph=True) with per_sample_weights that require a "
                "gradient and scale_grad_by_freq"
            )
        index, bag = Tensor._wrap(self.index), Tensor._wrap(self._bags())
        kept = Tensor._wrap((self.index != padding_idx).astype(grad.dtype))

        def composed(weight: Tensor, _: Any, scale: Any) -> Tensor:
            taken = weight.index_select(0, index) * (scale.reshape(-1) * kept).unsqueeze(1)
            empty = Tensor._wrap(zeros(grad.shape, self.weight.dtype, self.weight))
            return empty.index_add(0, bag, taken)

        assert self.scale is not None
        return replay(self, grad, composed, self.weight, None, self.scale.reshape(self.scale_shape))

    def _bags(self) -> Any:
        """The bag of every entry."""
        offsets = self.offsets
        if on_device(offsets):  # how often, the host would have to know
            return np.searchsorted(offsets, np.arange(self.index.size, like=offsets), side="right") - 1
        return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def linear(self, weight: Any, _: Any, scale: Any) -> Any:
        """In the one of weight and scale that needs a gradient."""
        kernels = select(self.index)
        rows, padding_idx, scale_grad_by_freq = self.options
        if self.mode == "max":
            y = np.take_along_axis(weight, np.maximum(self.chosen, 0), 0)
            y[self.chosen < 0] = 0
            return y
        if scale is not None:
            weight, factors = self.weight, scale.reshape(-1)
        else:
            factors = full(self.index.shape, 1, weight.dtype, weight) if self.scale is None else self.scale
            if scale_grad_by_freq:
                factors = factors / np.bincount(self.index, minlength=rows)[self.index].astype(weight.dtype)
        return kernels.embedding_bag_forward(
            weight, self.index, self.offsets, factors, padding_idx, self.mode == "mean"
        )


class SparseEmbeddingBag(EmbeddingBag):
    """The same; the gradient of the table is sparse."""

    def to_table(self, kernels: Any, grad: Any, bag: Any, scale: Any) -> Any:
        values = kernels.embedding_forward(grad, bag)
        if scale is not None:
            values = kernels.mul_forward(values, scale[:, None])
        return sparse_rows(self.index, values, *self.options[:2])

    def backward_graph(self, grad: Tensor) -> Any:
        raise NotImplementedError(
            "embedding_bag: has no second derivative (create_graph=True) with sparse=True"
        )


# ------------------------------------------------------------------------------------------ checks


def _is_sparse(op: str, weight: Tensor, sparse: bool, scale_grad_by_freq: bool) -> bool:
    """Whether the table's gradient will be sparse: that of a leaf in full precision, which alone can hold one."""
    if not (sparse and grad_mode.enabled and weight._requires_grad):
        return False
    if scale_grad_by_freq:
        raise ArgumentError(f"{op}: scale_grad_by_freq not supported with sparse gradients")
    return weight._node is None and not is_half(weight._data.dtype) and weight._data.dtype.kind in FLOATING


def _check_table(op: str, input: Any, weight: Any) -> None:
    for name, tensor in (("input", input), ("weight", weight)):
        if not isinstance(tensor, Tensor):
            raise not_a_tensor(op, name, tensor)
    if input._data.dtype.kind not in "iu":
        hint = ""
        if weight._data.dtype.kind in "iu":
            hint = "; the order of arguments is (input, weight)"
        raise DtypeError(f"{op}: input must be integers (int64), got {input._data.dtype}{hint}")
    if weight._data.dtype.kind not in DIFFERENTIABLE:
        raise DtypeError(f"{op}: weight must be float32 or float64, got {weight._data.dtype}")
    if weight._data.ndim != 2:
        raise ArgumentError(
            f"{op}: weight must be (num_embeddings, embedding_dim), got shape {weight._data.shape}"
        )


def padding_row(op: str, padding_idx: int | None, rows: int) -> int:
    """``padding_idx`` counted from the front, -1 for None; checked."""
    if padding_idx is None:
        return -1
    if not hasattr(type(padding_idx), "__index__"):
        raise TypeError(f"{op}: padding_idx must be an int, got {padding_idx!r}")
    if not -rows <= padding_idx < rows:
        raise ArgumentError(
            f"{op}: padding_idx must be within num_embeddings, [{-rows}, {rows}), got {padding_idx}"
        )
    return padding_idx + rows if padding_idx < 0 else padding_idx


def _renormalise(op: str, weight: Tensor, index: Any, max_norm: float, norm_type: float) -> None:
    """Shorten in place the rows used whose norm is larger than ``max_norm``."""
    table = weight._data
    check_range(op, index, len(table))
    used = np.unique(index)
    norms = np.linalg.norm(table[used], norm_type, axis=1)
    long = norms > max_norm
    if long.any():
        table[used[long]] *= (max_norm / (norms[long] + 1e-7)).astype(table.dtype)[:, None]
        weight._bump_version()


# --------------------------------------------------------------------------------------- functions


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of ``weight`` at the indices ``input``: y[..., :] = weight[input[...], :].

    See ``torch.nn.functional.embedding``.

    Args:
        input: integers of any shape in [0, num_embeddings); any integer dtype.
        weight: (num_embeddings, embedding_dim), float32 or float64.
        padding_idx: this row receives no gradient; negative counts from the end.
        max_norm: rows used that are longer are shortened to this norm first, in ``weight`` itself.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide each row's gradient by how often ``input`` names it.
        sparse: the gradient of ``weight``, a leaf, is a sparse tensor: for SGD, Adagrad and SparseAdam.

    Shape: ``(*)`` and ``(V, D)`` -> ``(*, D)``.

    Raises:
        IndexError: an index out of range, with its position.

    Gradients of equal indices are added in the order of ``input``, for any number of threads.

    Example:
        >>> import fastdl
        >>> table = fastdl.tensor([[0.0, 1.0], [2.0, 3.0]])
        >>> fastdl.nn.functional.embedding(fastdl.tensor([1, 0]), table)
        tensor([[2., 3.],
                [0., 1.]])
    """
    op = "embedding"
    _check_table(op, input, weight)
    padding = -1 if padding_idx is None else padding_row(op, padding_idx, len(weight._data))
    if max_norm is not None:
        _renormalise(op, weight, input._data, max_norm, norm_type)
    lookup = SparseEmbedding if _is_sparse(op, weight, sparse, scale_grad_by_freq) else Embedding
    return lookup.apply(  # type: ignore[no-any-return]
        weight, input, padding_idx=padding, scale_grad_by_freq=scale_grad_by_freq
    )


def _bag_offsets(op: str, index: Any, offsets: Any, include_last_offset: bool) -> tuple[Any, int]:
    """Where bags begin and the last one ends, int64 (bags + 1,); the latter as a number, too."""
    if index.ndim == 2:
        if offsets is not None:
            raise ArgumentError(
                f"{op}: offsets must be None if input is 2-dimensional (each row is a bag), got input of "
                f"shape {index.shape}"
            )
        return np.arange(index.shape[0] + 1, dtype=int64, like=index) * index.shape[1], index.size
    if index.ndim != 1:
        raise ArgumentError(f"{op}: input must have 1 or 2 dimensions, got shape {index.shape}")
    if not isinstance(offsets, Tensor):
        raise ArgumentError(
            f"{op}: a 1-dimensional input needs offsets, a Tensor with the position where each bag begins; "
            f"got {type(offsets).__name__}"
        )
    begins = offsets._data
    if begins.dtype.kind not in "iu":
        raise DtypeError(f"{op}: offsets must be integers (int64), got {begins.dtype}")
    if begins.ndim != 1:
        raise ArgumentError(f"{op}: offsets must have one dimension, got shape {begins.shape}")
    begins = begins.astype(int64)
    known = to_host(begins)
    if include_last_offset and len(begins) == 0:
        raise ArgumentError(f"{op}: include_last_offset=True needs at least one offset")
    if len(known) and known[0] != 0:
        raise ArgumentError(f"{op}: offsets[0] must be 0, where the first bag begins; got {known[0]}")
    if len(known) and known[-1] > len(index):
        raise ArgumentError(
            f"{op}: offsets[-1] must not exceed the length of input, {len(index)}; got {known[-1]}"
        )
    fall = np.flatnonzero(known[1:] < known[:-1])
    if len(fall):
        i = int(fall[0])
        raise ArgumentError(
            f"{op}: offsets must not decrease, got offsets[{i}] = {known[i]} and "
            f"offsets[{i + 1}] = {known[i + 1]}"
        )
    if include_last_offset:
        return begins, int(known[-1])
    return np.append(begins, len(index)), len(index)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums, means or maxima of bags of rows of ``weight``, without the rows themselves in memory.

    See ``torch.nn.functional.embedding_bag``.

    Args:
        input: integers in [0, num_embeddings): (B, N), a bag per row, or (N,) with ``offsets``.
        weight: (num_embeddings, embedding_dim), float32 or float64.
        offsets: (B,), where each bag begins in a 1-dimensional ``input``; the first is 0.
        max_norm, norm_type: as for :func:`embedding`.
        scale_grad_by_freq: as for :func:`embedding`; not with ``mode="max"``.
        mode: ``"sum"``, ``"mean"`` (default) or ``"max"``. An empty bag gives zeros.
        sparse: the gradient of ``weight``, a leaf, is a sparse tensor; not with ``mode="max"``.
        per_sample_weights: factors of the rows, of ``input``'s shape, for ``mode="sum"``; with gradient.
        include_last_offset: ``offsets`` is (B + 1,) and ends with the end of the last bag.
        padding_idx: entries with this index are left out; negative counts from the end.

    Shape: ``(B, N)`` or ``(N,)`` -> ``(B, D)``.

    Example:
        >>> import fastdl
        >>> table = fastdl.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
        >>> fastdl.nn.functional.embedding_bag(fastdl.tensor([[0, 1], [2, 2]]), table, mode="sum")
        tensor([[ 2.,  4.],
                [ 8., 10.]])
    """
    op = "embedding_bag"
    _check_table(op, input, weight)
    if mode not in MODES:
        raise ArgumentError(f"{op}: mode must be one of {', '.join(MODES)}; got {mode!r}")
    if mode == "max" and sparse:
        raise ArgumentError("max mode does not support sparse weights")
    index = input._data
    ends, end = _bag_offsets(op, index, offsets, include_last_offset)
    if mode == "max" and scale_grad_by_freq:
        raise ArgumentError(f"{op}: scale_grad_by_freq=True is not defined for mode='max'")
    scale = per_sample_weights
    if scale is not None:
        if mode != "sum":
            raise ArgumentError(f"{op}: per_sample_weights need mode='sum', got mode={mode!r}")
        if scale._data.dtype != weight._data.dtype:
            raise DtypeError(
                f"{op}: per_sample_weights must have weight's dtype {weight._data.dtype}, got {scale._data.dtype}"
            )
        if scale._data.shape != index.shape:
            raise ArgumentError(
                f"{op}: per_sample_weights must have the shape of input, {index.shape}; got {scale._data.shape}"
            )
    if end < index.size:  # what lies behind the last bag takes no part
        input = input[:end]
        scale = scale if scale is None else scale[:end]
    padding = -1 if padding_idx is None else padding_row(op, padding_idx, len(weight._data))
    if max_norm is not None:
        _renormalise(op, weight, index, max_norm, norm_type)
    bags = SparseEmbeddingBag if _is_sparse(op, weight, sparse, scale_grad_by_freq) else EmbeddingBag
    return bags.apply(  # type: ignore[no-any-return]
        weight,
        input,
        scale,
        offsets=ends,
        mode=mode,
        padding_idx=padding,
        scale_grad_by_freq=scale_grad_by_freq,
    )

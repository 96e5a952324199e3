"""Sequences of different lengths for recurrent layers; see ``torch.nn.utils.rnn``.

A :class:`PackedSequence` holds the elements of all sequences step by step, longest sequence first, without padding:
recurrent layers compute exactly those.

Example:
    >>> import fastdl
    >>> from fastdl.nn.utils.rnn import pack_sequence, pad_packed_sequence
    >>> packed = pack_sequence([fastdl.tensor([1.0, 2.0, 3.0]), fastdl.tensor([4.0])])
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([1.0, 4.0, 2.0, 3.0], [2, 1, 1])
    >>> padded, lengths = pad_packed_sequence(packed, batch_first=True)
    >>> padded.tolist(), lengths.tolist()
    ([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]], [3, 1])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdl.devices import to_host
from fastdl.errors import not_a_tensor
from fastdl.ops.join import cat
from fastdl.ops.rnn import PlaceRows, TakeRows, packed_rows
from fastdl.tensor import Tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """Sequences of different lengths, packed; made by :func:`pack_sequence` and :func:`pack_padded_sequence`.

    Attributes:
        data: (N, *): the elements of step 0 of all sequences, then those of step 1, and so on.
        batch_sizes: int64 (T,): how many sequences have each step.
        sorted_indices: the order in which the sequences were put (longest first), None for that in which they came.
        unsorted_indices: the inverse of that order.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise TypeError("PackedSequence: expected data and batch_sizes, or a pair of both")
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    @property
    def is_cuda(self) -> bool:
        """Is ``data`` on a GPU? ``batch_sizes`` always is on the CPU."""
        return self.data.is_cuda

    def is_pinned(self) -> bool:
        """False: there is no pinned memory."""
        return False

    def pin_memory(self) -> PackedSequence:
        """Itself: there is no pinned memory."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same sequences with ``data`` converted, and the order with it on the device; see ``Tensor.to``."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        order, inverse = [i if i is None else i.to(data.device) for i in self[2:]]
        return self._replace(data=data, sorted_indices=order, unsorted_indices=inverse)

    def cpu(self) -> PackedSequence:
        """The same sequences in the CPU's memory."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        """The same sequences on a GPU."""
        return self.to("cuda" if device is None else device)

    def double(self) -> PackedSequence:
        """With ``data`` as float64."""
        return self.to(np.dtype(np.float64))

    def float(self) -> PackedSequence:
        """With ``data`` as float32."""
        return self.to(np.dtype(np.float32))

    def half(self) -> PackedSequence:
        """With ``data`` as float16."""
        return self.to(np.dtype(np.float16))


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes ``permutation``; None for None.

    Example:
        >>> import fastdl
        >>> invert_permutation(fastdl.tensor([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    if permutation is None:
        return None
    inverse = np.empty(permutation._data.size, np.int64, like=permutation._data)
    inverse[permutation._data] = np.arange(inverse.size, like=inverse)
    return Tensor._wrap(inverse)


def _lengths(op: str, lengths: Any) -> Any:
    array = to_host(lengths._data) if isinstance(lengths, Tensor) else np.asarray(lengths)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RuntimeError(
            f"{op}: lengths must be a one-dimensional list or tensor of ints, got {array.dtype} of shape {array.shape}"
        )
    if array.size == 0:
        raise RuntimeError(f"{op}: cannot pack an empty batch: lengths is empty")
    return array.astype(np.int64)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch of sequences. See ``torch.nn.utils.rnn.pack_padded_sequence``.

    Args:
        input: (T, B, *), or (B, T, *) if ``batch_first``; what lies beyond a sequence's length is ignored.
        lengths: the length of each sequence, a list or tensor of B ints from 1 to T.
        batch_first: whether the batch is the first axis (default False).
        enforce_sorted: whether lengths must not rise along the batch (default True). With False sequences are
            sorted, and :func:`pad_packed_sequence` and recurrent layers restore their order.

    Raises:
        RuntimeError: for lengths that are not sorted, not positive, larger than T, or not one per sequence.
    """
    op = "pack_padded_sequence"
    size = _lengths(op, lengths)
    shape = input._data.shape
    if len(shape) < 2:
        raise RuntimeError(f"{op}: input must have at least two axes, time and batch, got shape {shape}")
    batch, steps = (shape[0], shape[1]) if batch_first else (shape[1], shape[0])
    layout = "(B, T, *)" if batch_first else "(T, B, *)"
    if size.size != batch:
        raise RuntimeError(
            f"{op}: lengths must have one entry for each of the {batch} sequences of input {layout} of shape "
            f"{shape}, got {size.size}"
            + ("" if batch_first or size.size != shape[0] else "; batch_first=True?")
        )
    if size.min() <= 0:
        raise RuntimeError(
            f"{op}: lengths must be greater than zero, but sequence {int(np.argmin(size))} has {int(size.min())}; "
            "leave empty sequences out"
        )
    if size.max() > steps:
        raise RuntimeError(
            f"{op}: sequence {int(np.argmax(size))} is said to have {int(size.max())} steps, input {layout} of shape "
            f"{shape} has {steps}"
        )
    order = np.arange(batch)
    sorted_indices = None
    if not enforce_sorted:
        order = np.argsort(-size, kind="stable")
        size = size[order]
        sorted_indices = Tensor._wrap(order).to(input.device)
    elif (np.diff(size) > 0).any():
        raise RuntimeError(
            f"{op}: lengths must not rise along the batch, got {size.tolist()}; sort the sequences by length, longest "
            "first, or pass enforce_sorted=False"
        )
    batch_sizes = np.searchsorted(-size, -np.arange(1, size[0] + 1), side="right").astype(np.int64)
    rows = packed_rows(batch_sizes, order, batch, steps, batch_first)
    return PackedSequence(TakeRows.apply(input, index=rows), Tensor._wrap(batch_sizes), sorted_indices)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The padded batch (T, B, *) and each sequence's length. See ``torch.nn.utils.rnn.pad_packed_sequence``.

    Args:
        sequence: what was packed, or what a recurrent layer made of it.
        batch_first: return (B, T, *) (default False).
        padding_value: what fills the rest (default 0.0).
        total_length: T, at least the longest length, which is the default.

    Raises:
        ValueError: if ``total_length`` is too short.
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(
            f"pad_packed_sequence: sequence must be a PackedSequence, got {type(sequence).__name__}; a recurrent layer "
            "returns one if it was given one"
        )
    sizes = sequence.batch_sizes._data
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                f"pad_packed_sequence: total_length must be at least the longest sequence's {steps}, got {total_length}"
            )
        steps = total_length
    order = np.arange(batch)
    if sequence.sorted_indices is not None:
        order = to_host(sequence.sorted_indices._data)
    rows = packed_rows(sizes, order, batch, steps, batch_first)
    shape = ((batch, steps) if batch_first else (steps, batch)) + sequence.data._data.shape[1:]
    lengths = np.empty(batch, np.int64)
    lengths[order] = (sizes[None, :] > np.arange(batch)[:, None]).sum(1)
    padded = PlaceRows.apply(sequence.data, index=rows, shape=shape, value=padding_value)
    return padded, Tensor._wrap(lengths)


def pad_sequence(
    sequences: Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Sequences (L_i, *) as one batch (T, B, *), padded to the longest. See ``torch.nn.utils.rnn.pad_sequence``.

    Args:
        sequences: tensors that differ in their first axis only.
        batch_first: return (B, T, *) (default False).
        padding_value: what fills the rest (default 0.0).
        padding_side: ``"right"`` (default) or ``"left"``, where it goes.

    Example:
        >>> import fastdl
        >>> pad_sequence([fastdl.tensor([1, 2]), fastdl.tensor([3])], batch_first=True, padding_value=-1).tolist()
        [[1, 2], [3, -1]]
    """
    op = "pad_sequence"
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"{op}: sequences must be a list of tensors, got {type(sequences).__name__}")
    parts = list(sequences)
    if not parts:
        raise RuntimeError(f"{op}: at least one sequence is needed, got an empty list")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"{op}: padding_side must be 'left' or 'right', got {padding_side!r}")
    shapes = []
    for i, part in enumerate(parts):
        if not isinstance(part, Tensor):
            raise not_a_tensor(op, f"sequences[{i}]", part)
        shapes.append(part._data.shape)
        if not shapes[i] or shapes[i][1:] != shapes[0][1:]:
            raise RuntimeError(
                f"{op}: sequences may differ in their first axis only, but sequence 0 has shape "
                f"{shapes[0]} and sequence {i} {shapes[i]}"
            )
    lengths = np.array([shape[0] for shape in shapes])[:, None]
    steps, batch = int(lengths.max()), len(parts)
    step = np.arange(steps)
    b, t = np.nonzero(step >= steps - lengths if padding_side == "left" else step < lengths)
    shape = ((batch, steps) if batch_first else (steps, batch)) + shapes[0][1:]
    joined = parts[0] if batch == 1 else cat(parts)
    index = b * steps + t if batch_first else t * batch + b
    return PlaceRows.apply(joined, index=index, shape=shape, value=padding_value)  # type: ignore[no-any-return]


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded batch, each (L_i, *); what :func:`pad_sequence` undoes.

    Args:
        padded_sequences: (T, B, *), or (B, T, *) if ``batch_first``.
        lengths: the length of each sequence.
        batch_first: whether the batch is the first axis (default False).
    """
    if not batch_first:
        padded_sequences = padded_sequences.transpose(0, 1)
    numbers = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [padded_sequences[i, : int(n)].contiguous() for i, n in enumerate(numbers)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack tensors (L_i, *); see :func:`pack_padded_sequence` for ``enforce_sorted``."""
    lengths = [v.shape[0] for v in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences that were packed, in their own order, each (L_i, *).

    Example:
        >>> import fastdl
        >>> packed = pack_sequence([fastdl.tensor([1, 2]), fastdl.tensor([3])])
        >>> [s.tolist() for s in unpack_sequence(packed)]
        [[1, 2], [3]]
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)

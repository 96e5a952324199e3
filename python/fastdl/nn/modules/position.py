"""Position embeddings: sinusoidal, learned and rotary. Not in PyTorch, where every model brings its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.devices import to_device
from fastdl.dtypes import FLOATING
from fastdl.nn import init
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.ops.attention import rotate
from fastdl.tensor import Tensor

__all__ = ["LearnedPositionEmbedding", "RotaryEmbedding", "SinusoidalPositionEmbedding"]


class _AddedPosition(Module):
    """Adds row ``offset + i`` of a table to position i."""

    def __init__(self, max_length: int, embed_dim: int, batch_first: bool) -> None:
        super().__init__()
        if max_length < 1 or embed_dim < 1:
            raise ValueError(
                f"{type(self).__name__}: max_length and embed_dim must be at least 1, got {max_length} and {embed_dim}"
            )
        self.max_length = max_length
        self.embed_dim = embed_dim
        self.batch_first = batch_first

    def _table(self) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no _table")

    def forward(self, input: Tensor, offset: int = 0) -> Tensor:
        """``input`` plus its positions.

        Args:
            input: ``(N, L, embed_dim)``, ``(L, N, embed_dim)`` without batch_first, or ``(L, embed_dim)``.
            offset: position of the first entry: the number of steps decoded before.
        """
        shape = input._data.shape
        if len(shape) not in (2, 3) or shape[-1] != self.embed_dim:
            raise ValueError(
                f"{type(self).__name__}: input must be (N, L, {self.embed_dim}) or (L, {self.embed_dim}), got {shape}"
            )
        length = shape[1] if len(shape) == 3 and self.batch_first else shape[0]
        if not 0 <= offset <= self.max_length - length:
            raise ValueError(
                f"{type(self).__name__}: positions {offset} .. {offset + length - 1} are asked for, but there are "
                f"max_length={self.max_length}"
            )
        rows: Any = self._table().narrow(0, offset, length)
        if len(shape) == 3 and not self.batch_first:
            rows = rows.unsqueeze(1)
        return input + rows  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.max_length}, {self.embed_dim}, batch_first={self.batch_first}"


class SinusoidalPositionEmbedding(_AddedPosition):
    """Adds sin(t w_i) and cos(t w_i), w_i = 10000^(-2 i / embed_dim), at position t (Vaswani et al., 2017).

    Args:
        max_length: number of positions.
        embed_dim: size of an embedding; even entries are sines, odd ones cosines.
        batch_first: whether inputs are ``(N, L, E)`` (the default here) or ``(L, N, E)``.
        dtype: of the table, float32 by default.

    Example:
        >>> import fastdl
        >>> fastdl.nn.SinusoidalPositionEmbedding(100, 4)(fastdl.zeros(2, 4))
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
    """

    table: Tensor

    def __init__(self, max_length: int, embed_dim: int, batch_first: bool = True, dtype: Any = None) -> None:
        super().__init__(max_length, embed_dim, batch_first)
        angle = np.arange(max_length)[:, None] * 10000.0 ** (-np.arange(0, embed_dim, 2) / embed_dim)
        table = np.empty((max_length, embed_dim), np.float32 if dtype is None else dtype)
        table[:, 0::2] = np.sin(angle)
        table[:, 1::2] = np.cos(angle)[:, : embed_dim // 2]
        self.register_buffer("table", Tensor._wrap(table), persistent=False)

    def _table(self) -> Tensor:
        return self.table


class LearnedPositionEmbedding(_AddedPosition):
    """Adds a learned vector per position.

    Args:
        max_length: number of positions.
        embed_dim: size of an embedding.
        batch_first: whether inputs are ``(N, L, E)`` (the default here) or ``(L, N, E)``.
        std: standard deviation of the first values.
        dtype: of the parameter, float32 by default.

    Parameters: ``weight`` (max_length, embed_dim), drawn from N(0, std).

    Example:
        >>> import fastdl
        >>> fastdl.nn.LearnedPositionEmbedding(100, 8)(fastdl.zeros(3, 5, 8)).shape
        (3, 5, 8)
    """

    weight: Tensor

    def __init__(
        self,
        max_length: int,
        embed_dim: int,
        batch_first: bool = True,
        std: float = 0.02,
        dtype: Any = None,
    ) -> None:
        super().__init__(max_length, embed_dim, batch_first)
        self.weight = Parameter(empty((max_length, embed_dim), dtype=dtype))
        init.normal_(self.weight, std=std)

    def _table(self) -> Tensor:
        return self.weight


class RotaryEmbedding(Module):
    """Turns pairs of a query's or key's entries by an angle that grows with the position (Su et al., 2021).

    Pair i at position t turns by t * base^(-2 i / dim): the product of a query and a key then depends on the
    distance between them only. Apply it to queries and keys, not to values.

    Args:
        dim: size of a head, even.
        max_length: positions of the table kept; it grows when longer sequences come.
        base: of the angles.
        interleaved: True: pairs are entries (2 i, 2 i + 1), as in the paper; False: (i, i + dim / 2), as in GPT-NeoX
            and Llama checkpoints.

    Example:
        >>> import fastdl
        >>> rotary = fastdl.nn.RotaryEmbedding(8)
        >>> rotary(fastdl.ones(2, 4, 10, 8), offset=3).shape
        (2, 4, 10, 8)
    """

    def __init__(
        self, dim: int, max_length: int = 2048, base: float = 10000.0, interleaved: bool = False
    ) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"RotaryEmbedding: dim must be even and positive, got {dim}")
        self.dim = dim
        self.base = base
        self.interleaved = interleaved
        self._angles = self._angles_to(max_length)
        self._tables: dict[Any, Any] = {}

    def _angles_to(self, length: int) -> Any:
        return np.arange(length)[:, None] * self.base ** (-np.arange(0, self.dim, 2) / self.dim)

    def _table(self, dtype: Any, where: Any, end: int) -> Any:
        """cos and sin of positions 0 .. end on a device, as one array (2, positions, dim / 2)."""
        table = self._tables.get((dtype, where))
        if table is None or table.shape[1] < end:
            if len(self._angles) < end:
                self._angles = self._angles_to(max(end, 2 * len(self._angles)))
            table = to_device(np.stack([np.cos(self._angles), np.sin(self._angles)]).astype(dtype), where)
            self._tables[dtype, where] = table
        return table

    def forward(self, input: Tensor, offset: int = 0) -> Tensor:
        """``input`` ``(..., L, dim)`` turned; its first position is ``offset``."""
        shape = input._data.shape
        if len(shape) < 2 or shape[-1] != self.dim:
            raise ValueError(f"RotaryEmbedding: input must be (..., L, {self.dim}), got {shape}")
        if input._data.dtype.kind not in FLOATING:
            raise TypeError(f"RotaryEmbedding: input must be float32 or float64, got {input._data.dtype}")
        if offset < 0:
            raise ValueError(f"RotaryEmbedding: offset must not be negative, got {offset}")
        end = offset + shape[-2]
        cos, sin = self._table(input._data.dtype, input.device, end)[:, offset:end]
        return rotate(input, cos, sin, self.interleaved)

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.base}, interleaved={self.interleaved}"

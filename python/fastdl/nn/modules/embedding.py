"""Tables of learned vectors, looked up by index."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.mode import no_grad
from fastdl.errors import ArgumentError
from fastdl.nn import init
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.ops.embedding import embedding, embedding_bag, padding_row
from fastdl.tensor import Tensor

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """``weight`` (num_embeddings, embedding_dim) and the options of both layers."""

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool
    weight: Tensor

    def _build(
        self, weight: Tensor | None, padding_idx: int | None, freeze: bool, device: Any, dtype: Any
    ) -> None:
        name, shape = type(self).__name__, (self.num_embeddings, self.embedding_dim)
        self.padding_idx = None if padding_idx is None else padding_row(name, padding_idx, shape[0])
        if weight is None:
            self.weight = Parameter(empty(shape, device, dtype), requires_grad=not freeze)
            self.reset_parameters()
            return
        if tuple(weight.shape) != shape:
            raise ArgumentError(
                f"{name}: _weight must have the shape (num_embeddings, embedding_dim) = {shape}, got {weight.shape}"
            )
        self.weight = Parameter(weight, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw the table anew from N(0, 1); the row of ``padding_idx`` is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)

    def _norms_repr(self) -> str:
        text = ""
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        return text


def _check_pretrained(name: str, embeddings: Any) -> tuple[int, int]:
    if not isinstance(embeddings, Tensor) or embeddings.dim() != 2:
        got = f"shape {embeddings.shape}" if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise ArgumentError(f"{name}.from_pretrained: embeddings must be a 2-dimensional Tensor, got {got}")
    rows, width = embeddings.shape
    return rows, width


class Embedding(_Table):
    """The row of a learned table for each index. See ``torch.nn.Embedding``.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: length of a row.
        padding_idx: this row starts as zero and receives no gradient; negative counts from the end.
        max_norm: rows used that are longer are shortened to this norm, in place.
        norm_type: the p of that norm, 2 by default.
        scale_grad_by_freq: divide each row's gradient by how often the input names it.
        sparse: the gradient of ``weight`` is a sparse tensor: for SGD, Adagrad and SparseAdam.
        device: where the parameters are; the CPU by default.
        dtype: of the table, float32 by default.

    Shape: integers ``(*)`` -> ``(*, embedding_dim)``.

    Parameters: ``weight`` (num_embeddings, embedding_dim), drawn from N(0, 1).

    Example:
        >>> import fastdl
        >>> fastdl.nn.Embedding(10, 3)(fastdl.tensor([[1, 2, 4, 5], [4, 3, 2, 9]])).shape
        (2, 4, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self._build(_weight, padding_idx, _freeze, device, dtype)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A layer whose table is ``embeddings`` itself, not learned unless ``freeze=False``.

        Example:
            >>> import fastdl
            >>> layer = fastdl.nn.Embedding.from_pretrained(fastdl.tensor([[1.0, 2.3], [4.0, 5.1]]))
            >>> layer(fastdl.tensor([1]))
            tensor([[4.0000, 5.1000]])
        """
        rows, width = _check_pretrained(cls.__name__, embeddings)
        return cls(
            rows,
            width,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight=embeddings,
            _freeze=freeze,
        )

    def forward(self, input: Tensor) -> Tensor:
        return embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        text += self._norms_repr()
        return text + ", sparse=True" * self.sparse


class EmbeddingBag(_Table):
    """Sums, means or maxima of bags of rows of a learned table. See ``torch.nn.EmbeddingBag``.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: length of a row.
        max_norm, norm_type, scale_grad_by_freq: as for :class:`Embedding`.
        mode: ``"sum"``, ``"mean"`` (default) or ``"max"``. An empty bag gives zeros.
        sparse: the gradient of ``weight`` is a sparse tensor; not with ``mode="max"``.
        include_last_offset: offsets end with the end of the last bag.
        padding_idx: entries with this index are left out; the row starts as zero.
        device: where the parameters are; the CPU by default.
        dtype: of the table, float32 by default.

    Shape: integers ``(B, N)``, or ``(N,)`` with offsets ``(B,)`` -> ``(B, embedding_dim)``.

    Parameters: ``weight`` (num_embeddings, embedding_dim), drawn from N(0, 1).

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.EmbeddingBag(10, 3, mode="sum")
        >>> layer(fastdl.tensor([1, 2, 4, 5, 4]), fastdl.tensor([0, 2])).shape
        (2, 3)
    """

    mode: str
    include_last_offset: bool

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset
        self._build(_weight, padding_idx, False, device, dtype)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A layer whose table is ``embeddings`` itself, not learned unless ``freeze=False``."""
        rows, width = _check_pretrained(cls.__name__, embeddings)
        layer = cls(
            rows,
            width,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            embeddings,
            include_last_offset,
            padding_idx,
        )
        layer.weight.requires_grad = not freeze
        return layer

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        return embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        text += self._norms_repr()
        text += f", mode={self.mode!r}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text

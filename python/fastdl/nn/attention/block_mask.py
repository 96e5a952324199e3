"""Masks of attention that are functions of positions, and the blocks in which they hide anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from inspect import signature
from math import ceil, prod
from typing import Any

import numpy as np

from fastdl.creation import ones
from fastdl.dtypes import bool_, int32
from fastdl.errors import ArgumentError
from fastdl.functions import argsort
from fastdl.ops.elementwise import where
from fastdl.sequences import arange
from fastdl.tensor import Tensor

__all__ = ["BlockMask", "and_masks", "create_block_mask", "create_mask", "evaluated", "noop_mask", "or_masks"]

_DEFAULT_SPARSE_BLOCK_SIZE = 128
Mod = Callable[..., Any]


def evaluated(op: str, mod: Mod, shape: tuple[int, ...], device: Any, scores: Tensor | None = None) -> Tensor:
    """``mod`` of all positions at once: its indices are tensors that broadcast to ``shape``, (B, H, L, S).

    PyTorch calls it once per score, with tensors of one number. So one position is looked at in that way, too: a
    function that adds up what it is given would differ there.
    """
    indices = [
        arange(n, dtype=int32, device=device).reshape([n if i == axis else 1 for i in range(4)])
        for axis, n in enumerate(shape)
    ]
    result = mod(*(() if scores is None else (scores,)), *indices)
    if not isinstance(result, Tensor):
        raise TypeError(f"{op}: the function must return a Tensor, got {type(result).__name__}")
    try:
        result = result.expand(*shape)
    except (ValueError, RuntimeError):
        raise ArgumentError(
            f"{op}: the function's result must broadcast to (B, H, L, S) = {shape}, got {tuple(result.shape)}; its "
            "indices are tensors (B, 1, 1, 1), (1, H, 1, 1), (1, 1, L, 1) and (1, 1, 1, S)"
        ) from None
    if prod(shape):
        last = [index.reshape(-1)[-1] for index in indices]
        one = mod(*(() if scores is None else (scores.detach()[-1, -1, -1, -1],)), *last)
        a, b = (np.asarray(t.detach().cpu().double().numpy()) for t in (result[-1, -1, -1, -1], one))
        if b.size != 1 or not np.allclose(a, b, rtol=0.02, atol=1e-3, equal_nan=True):
            raise ArgumentError(
                f"{op}: the function gives one value for a position alone and another among all positions, which it "
                "gets at once; it must treat each position by itself (no sums or shapes of the indices)"
            )
    return result


def _sizes(op: str, mod: Mod, given: tuple[Any, ...]) -> tuple[int, ...]:
    if not callable(mod):
        raise TypeError(f"{op}: the first argument must be a function of positions, got {type(mod).__name__}")
    shape = tuple([1 if n is None else n for n in given])
    for name, n in zip(("B", "H", "Q_LEN", "KV_LEN"), shape, strict=True):
        if not isinstance(n, (int, np.integer)) or n < 0:
            raise ArgumentError(f"{op}: {name} must be an int, 0 or more, got {n!r}")
    return shape


def noop_mask(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    """The ``mask_mod`` that hides nothing."""
    return ones((), dtype=bool_, device=batch.device)


def and_masks(*mask_mods: Mod) -> Mod:
    """The ``mask_mod`` that shows what all of ``mask_mods`` show."""
    return _joined("and_masks", mask_mods, lambda a, b: a & b)


def or_masks(*mask_mods: Mod) -> Mod:
    """The ``mask_mod`` that shows what any of ``mask_mods`` shows."""
    return _joined("or_masks", mask_mods, lambda a, b: a | b)


def _joined(op: str, mods: tuple[Mod, ...], join: Callable[[Any, Any], Any]) -> Mod:
    for mod in mods:
        if not callable(mod):
            raise TypeError(
                f"{op}: mask_mods must be functions (b, h, q_idx, kv_idx), got {type(mod).__name__}"
            )

    def joined(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Any:
        result: Any = ones((), dtype=bool_, device=b.device) if op == "and_masks" else ~noop_mask(b, h, b, b)
        for mod in mods:
            result = join(result, mod(b, h, q_idx, kv_idx))
        return result

    return joined


def create_mask(
    mod_fn: Mod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None
) -> Tensor:
    """The mask of a ``mask_mod``, or of a ``score_mod`` that makes scores -inf: bool (B, H, Q_LEN, KV_LEN).

    Example:
        >>> from fastdl.nn.attention.flex_attention import create_mask
        >>> create_mask(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, None, 2, 3)[0, 0]
        tensor([[ True, False, False],
                [ True,  True, False]])
    """
    shape = _sizes("create_mask", mod_fn, (B, H, Q_LEN, KV_LEN))
    if len(signature(mod_fn).parameters) == 5:
        scores = ones(*shape, device=device) - 1
        return evaluated("create_mask", mod_fn, shape, device, scores) != -np.inf
    return evaluated("create_mask", mod_fn, shape, device).to(bool_)


def create_block_mask(
    mask_mod: Mod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = _DEFAULT_SPARSE_BLOCK_SIZE,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """The mask of ``mask_mod(b, h, q_idx, kv_idx)``, evaluated once, for :func:`flex_attention`.

    Args:
        mask_mod: gives True where a query may look at a key. Its arguments are integer tensors that broadcast, for all
            positions at once: it must treat each by itself.
        B: the batch size, or None where the mask is the same for all.
        H: the number of query heads, or None likewise.
        Q_LEN: how many queries.
        KV_LEN: how many keys.
        device: where the mask lies.
        BLOCK_SIZE: of the blocks that :class:`BlockMask` counts.
        separate_full_blocks: count blocks that hide nothing apart.

    Example:
        >>> from fastdl.nn.attention.flex_attention import create_block_mask
        >>> create_block_mask(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, None, 256, 256)
        BlockMask(shape=(1, 1, 256, 256), sparsity=25.00%)
    """
    mask = create_mask(mask_mod, B, H, Q_LEN, KV_LEN, device)
    block = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else tuple(BLOCK_SIZE)
    if len(block) != 2 or min(block) < 1:
        raise ArgumentError(
            f"create_block_mask: BLOCK_SIZE must be one or two sizes from 1, got {BLOCK_SIZE}"
        )
    b, h, rows, columns = mask.shape
    counts = [ceil(n / size) for n, size in zip((rows, columns), block, strict=True)]
    padded = np.zeros((b, h, counts[0] * block[0], counts[1] * block[1]), np.bool_, like=mask._data)
    padded[..., :rows, :columns] = mask._data
    shown = padded.reshape(b, h, counts[0], block[0], counts[1], block[1]).sum((3, 5))
    full = (shown == prod(block)) & separate_full_blocks
    made = BlockMask._of_blocks(
        (rows, columns),
        Tensor._wrap((shown > 0) & ~full),
        Tensor._wrap(full) if separate_full_blocks else None,
        block,
        mask_mod,
    )
    made._dense = mask
    return made


class BlockMask:
    """A mask of attention by blocks; made by :func:`create_block_mask` or :meth:`from_kv_blocks`.

    Blocks that hide nothing are full, those that hide a part are asked for by ``mask_mod``, others are hidden. Setting
    ``mask_mod`` or ``seq_lengths`` is allowed: the mask is then evaluated anew. See
    ``torch.nn.attention.flex_attention.BlockMask``.
    """

    _partial: Tensor
    _full: Tensor | None
    BLOCK_SIZE: tuple[int, int]
    _dense: Tensor | None = None

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("BlockMask: use create_block_mask or BlockMask.from_kv_blocks")

    @classmethod
    def _of_blocks(
        cls, lengths: tuple[int, int], partial: Tensor, full: Tensor | None, block: Any, mask_mod: Mod
    ) -> BlockMask:
        mask = object.__new__(cls)
        mask._lengths, mask._mask_mod = lengths, mask_mod
        mask._partial, mask._full, mask.BLOCK_SIZE = partial, full, block
        return mask

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None,
        BLOCK_SIZE: int | tuple[int, int] = _DEFAULT_SPARSE_BLOCK_SIZE,
        mask_mod: Mod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
        **_: Any,
    ) -> BlockMask:
        """From how many blocks of keys each block of queries sees (B, H, rows) and which (B, H, rows, columns)."""
        if kv_indices.ndim < 2 or kv_num_blocks.shape != kv_indices.shape[:-1]:
            raise ArgumentError(
                "BlockMask.from_kv_blocks: kv_indices must have one axis more than kv_num_blocks, got "
                f"{tuple(kv_num_blocks.shape)} and {tuple(kv_indices.shape)}"
            )
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise ArgumentError(
                "BlockMask.from_kv_blocks: full_kv_num_blocks and full_kv_indices must come together"
            )
        block = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else BLOCK_SIZE
        partial = _listed(kv_num_blocks, kv_indices)
        full = None if full_kv_num_blocks is None else _listed(full_kv_num_blocks, full_kv_indices)
        rows, columns = partial.shape[-2:]
        lengths = (rows * block[0], columns * block[1]) if seq_lengths is None else seq_lengths
        return cls._of_blocks(lengths, partial, full, block, mask_mod or noop_mask)

    @property
    def mask_mod(self) -> Mod:
        """What is asked in blocks that are not full."""
        return self._mask_mod

    @mask_mod.setter
    def mask_mod(self, mod: Mod) -> None:
        self._mask_mod, self._dense = mod, None

    @property
    def seq_lengths(self) -> tuple[int, int]:
        """How many queries and keys there are."""
        return self._lengths

    @seq_lengths.setter
    def seq_lengths(self, lengths: tuple[int, int]) -> None:
        self._lengths, self._dense = lengths, None

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, Q_LEN, KV_LEN)."""
        return (*self._partial.shape[:-2], *self._lengths)

    def numel(self) -> int:
        """How many scores the mask is for."""
        return prod(self.shape)

    def dense(self) -> Tensor:
        """The whole mask, bool (B, H, Q_LEN, KV_LEN)."""
        if self._dense is None:
            rows, columns = self._lengths

            def spread(blocks: Tensor) -> Any:
                wide = blocks._data.repeat(self.BLOCK_SIZE[0], -2).repeat(self.BLOCK_SIZE[1], -1)
                return Tensor._wrap(wide[..., :rows, :columns])

            shape = self.shape
            mask = evaluated("BlockMask", self._mask_mod, shape, self._partial.device).to(bool_)
            partial = spread(self._partial)
            if partial.shape != shape:
                raise ArgumentError(
                    f"BlockMask: {tuple(self._partial.shape[-2:])} blocks of {self.BLOCK_SIZE} are too few for "
                    f"{self._lengths} queries and keys"
                )
            mask = mask & partial
            if self._full is not None:
                mask = mask | spread(self._full)
            self._dense = mask
        return self._dense

    def sparsity(self) -> float:
        """How much is hidden in whole blocks, in percent."""
        shown = int(self.to_dense().sum()) * prod(self.BLOCK_SIZE)
        return 100 * (1 - shown / max(1, self.numel()))

    def to_dense(self) -> Tensor:
        """1 for every block that is not hidden, (B, H, blocks of queries, blocks of keys)."""
        shown = self._partial if self._full is None else self._partial | self._full
        return shown.to(int32)

    kv_num_blocks = cached_property(lambda self: _count(self._partial))
    kv_indices = cached_property(lambda self: _order(self._partial))
    full_kv_num_blocks = cached_property(lambda self: None if self._full is None else _count(self._full))
    full_kv_indices = cached_property(lambda self: None if self._full is None else _order(self._full))
    q_num_blocks = cached_property(lambda self: _count(self._partial.mT))
    q_indices = cached_property(lambda self: _order(self._partial.mT))
    full_q_num_blocks = cached_property(lambda self: None if self._full is None else _count(self._full.mT))
    full_q_indices = cached_property(lambda self: None if self._full is None else _order(self._full.mT))

    def __getitem__(self, index: Any) -> BlockMask:
        """Some of the batch, of the heads, of the blocks of queries. ``mask_mod`` must be set before it is used."""
        index = index if isinstance(index, tuple) else (index,)
        kept = tuple([slice(int(i), int(i) + 1 or None) if _is_number(i) else i for i in index])
        full = None if self._full is None else self._full[kept]
        return self._of_blocks(self._lengths, self._partial[kept], full, self.BLOCK_SIZE, _sliced)

    def to(self, device: Any) -> BlockMask:
        """The mask on another device."""
        full = None if self._full is None else self._full.to(device)
        made = self._of_blocks(self._lengths, self._partial.to(device), full, self.BLOCK_SIZE, self._mask_mod)
        made._dense = None if self._dense is None else self._dense.to(device)
        return made

    def __repr__(self) -> str:
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%)"


def _sliced(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    raise RuntimeError(
        "BlockMask: after mask[...] its positions begin elsewhere; set mask.mask_mod to a function that knows where"
    )


def _is_number(index: Any) -> bool:
    return isinstance(index, (int, np.integer)) or (isinstance(index, Tensor) and index.ndim == 0)


def _count(blocks: Tensor) -> Tensor:
    return blocks.sum(-1, dtype=int32)


def _order(blocks: Tensor) -> Tensor:
    """Which blocks of a row are in, in order, and then the others."""
    return argsort(blocks.to(int32), dim=-1, descending=True, stable=True).to(int32)


def _listed(counts: Tensor, indices: Any) -> Tensor:
    """The blocks that the first ``counts`` of ``indices`` name."""
    width = indices.shape[-1]
    listed = arange(width, device=counts.device) < counts.unsqueeze(-1)
    # What is not listed goes to a column of its own, which is cut off.
    where_to = where(listed, indices.long(), width)
    blocks = (listed.to(int32) * 0)[..., :1].expand(*listed.shape[:-1], width + 1).contiguous()
    return blocks.scatter(-1, where_to, listed.to(int32))[..., :width] > 0

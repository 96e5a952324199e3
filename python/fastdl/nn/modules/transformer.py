"""The Transformer of "Attention Is All You Need" (Vaswani et al., 2017); names, arguments and keys are ``torch.nn``'s.

Masks follow :class:`MultiheadAttention`: bool masks say True where a position is **not** to be looked at, float masks
are added. A mask that is found, or said, to be the causal one is never read: the kernel leaves out the hidden half.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdl.creation import tensor
from fastdl.dtypes import get_default_dtype
from fastdl.nn import init
from fastdl.nn.modules.attention import KVCache, MultiheadAttention
from fastdl.nn.modules.container import ModuleList
from fastdl.nn.modules.dropout import Dropout
from fastdl.nn.modules.left_out import left_out
from fastdl.nn.modules.linear import Linear
from fastdl.nn.modules.module import Module
from fastdl.nn.modules.norm import LayerNorm
from fastdl.ops.activation import gelu, relu
from fastdl.tensor import Tensor

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = str | Callable[[Tensor], Tensor]


def _get_activation_fn(activation: Activation) -> Callable[[Tensor], Tensor]:
    if not isinstance(activation, str):
        return activation
    if activation == "relu":
        return relu
    if activation == "gelu":
        return gelu
    raise RuntimeError(
        f"activation should be relu/gelu, not {activation}; any other function can be passed itself"
    )


def _is_causal(mask: Tensor | None, is_causal: bool | None, length: int) -> bool:
    """The hint if there is one; otherwise whether ``mask`` hides exactly the future."""
    if is_causal is not None or mask is None:
        return bool(is_causal)
    array = mask._data
    if array.shape != (length, length):
        return False
    at = np.arange(length, like=array)
    future = at > at[:, None]
    if array.dtype == bool:
        return bool((array == future).all())
    return bool((array == np.where(future, -np.inf, 0)).all())


def _get_clones(layer: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(layer) for _ in range(count)])


def _cache_of(caches: Sequence[KVCache] | None, layers: ModuleList, name: str) -> Sequence[KVCache | None]:
    if caches is None:
        return [None] * len(layers)
    if len(caches) != len(layers):
        raise ValueError(f"{name}: one cache per layer is needed, {len(layers)}, got {len(caches)}")
    return caches


def _options(is_causal: bool, cache: KVCache | None) -> dict[str, Any]:
    """Of self-attention; the blocks that users override know no cache."""
    return {"is_causal": is_causal} | ({} if cache is None else {"cache": cache})


class _Layer(Module):
    """What layers of encoder and decoder have in common: self-attention with dropout behind it."""

    self_attn: MultiheadAttention
    dropout1: Dropout

    def _sa_block(self, x: Tensor, attn_mask: Any, key_padding_mask: Any, **options: Any) -> Any:
        y = self.self_attn(
            x, x, x, attn_mask=attn_mask, key_padding_mask=key_padding_mask, need_weights=False, **options
        )[0]
        return self.dropout1(y)


class TransformerEncoderLayer(_Layer):
    """Self-attention and a two-layer perceptron, each with residual and layer norm.

    See ``torch.nn.TransformerEncoderLayer``. Also the block of a decoder-only model (GPT): causal, with a cache.

    Args:
        d_model: size of an embedding.
        nhead: number of heads.
        dim_feedforward: size of the perceptron's hidden layer.
        dropout: probability of dropping, everywhere.
        activation: ``"relu"``, ``"gelu"`` or a function.
        layer_norm_eps: eps of the layer norms.
        batch_first: True: ``(N, L, E)``; False: ``(L, N, E)``.
        norm_first: layer norm before attention and perceptron (pre-norm) instead of after the sum.
        bias: whether linear layers and layer norms have biases.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        >>> layer(fastdl.ones(2, 5, 16)).shape
        (2, 5, 16)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, device=device, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = _get_activation_fn(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Pass ``src`` through the layer; masks and cache as in :class:`MultiheadAttention`."""
        x: Any = src
        masks, options = (src_mask, src_key_padding_mask), _options(is_causal, cache)
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *masks, **options)
            return x + self._ff_block(self.norm2(x))  # type: ignore[no-any-return]
        x = self.norm1(x + self._sa_block(x, *masks, **options))
        return self.norm2(x + self._ff_block(x))  # type: ignore[no-any-return]

    def _ff_block(self, x: Tensor) -> Any:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """A stack of copies of an encoder layer. See ``torch.nn.TransformerEncoder``.

    Args:
        encoder_layer: is copied; all copies begin with the same values.
        num_layers: number of layers.
        norm: applied at the end, or None.
        enable_nested_tensor: whether padding at the end, in evaluation, becomes zeros, as PyTorch's nested tensors
            leave it (:mod:`fastdl.nn.modules.left_out` says when).
        mask_check: accepted for PyTorch's sake.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _get_clones(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.use_nested_tensor = enable_nested_tensor  # programs switch this one
        self.mask_check = mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
        *,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:
        """Pass ``src`` through all layers.

        Args:
            is_causal: whether ``mask`` is the causal one (or, without a mask, is meant); None: look.
            caches: one :class:`KVCache` per layer: ``src`` holds the newest positions only (not in PyTorch).
        """
        x = src
        if is_causal is None and mask is not None:
            is_causal = _is_causal(mask, None, mask.shape[-1])
        for layer, cache in zip(
            self.layers, _cache_of(caches, self.layers, "TransformerEncoder"), strict=True
        ):
            more = {} if cache is None else {"cache": cache}
            x = layer(
                x, src_mask=mask, is_causal=bool(is_causal), src_key_padding_mask=src_key_padding_mask, **more
            )
        if (padded := left_out(self, src, mask, src_key_padding_mask)) is not None:
            x = x.masked_fill(padded.unsqueeze(-1), 0.0)
        return x if self.norm is None else self.norm(x)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to an encoder's output, and a perceptron. See ``torch.nn.TransformerDecoderLayer``.

    Args: as :class:`TransformerEncoderLayer`.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
        >>> layer(fastdl.ones(2, 5, 16), fastdl.ones(2, 7, 16)).shape
        (2, 5, 16)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.multihead_attn = MultiheadAttention(
            d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, device=device, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _get_activation_fn(activation)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Pass ``tgt`` through the layer; ``memory`` is the encoder's output. Masks as in :class:`MultiheadAttention`;
        ``cache`` is that of the self-attention."""
        x: Any = tgt
        own, options = (tgt_mask, tgt_key_padding_mask), _options(tgt_is_causal, cache)
        other = (memory, memory_mask, memory_key_padding_mask, memory_is_causal)
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *own, **options)
            x = x + self._mha_block(self.norm2(x), *other)
            return x + self._ff_block(self.norm3(x))  # type: ignore[no-any-return]
        x = self.norm1(x + self._sa_block(x, *own, **options))
        x = self.norm2(x + self._mha_block(x, *other))
        return self.norm3(x + self._ff_block(x))  # type: ignore[no-any-return]

    def _mha_block(
        self, x: Tensor, mem: Tensor, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False
    ) -> Any:
        y = self.multihead_attn(
            x,
            mem,
            mem,
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
            need_weights=False,
            is_causal=is_causal,
        )[0]
        return self.dropout2(y)

    def _ff_block(self, x: Tensor) -> Any:
        return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerDecoder(Module):
    """A stack of copies of a decoder layer. See ``torch.nn.TransformerDecoder``.

    Args:
        decoder_layer: is copied; all copies begin with the same values.
        num_layers: number of layers.
        norm: applied at the end, or None.
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _get_clones(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        *,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:
        """Pass ``tgt`` through all layers; ``tgt_is_causal`` None: look at ``tgt_mask``. ``caches``: one
        :class:`KVCache` per layer: ``tgt`` holds the newest positions only (not in PyTorch)."""
        x = tgt
        if tgt_is_causal is None and tgt_mask is not None:
            tgt_is_causal = _is_causal(tgt_mask, None, tgt_mask.shape[-1])
        for layer, cache in zip(
            self.layers, _cache_of(caches, self.layers, "TransformerDecoder"), strict=True
        ):
            more = {} if cache is None else {"cache": cache}
            x = layer(
                x,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=bool(tgt_is_causal),
                memory_is_causal=memory_is_causal,
                **more,
            )
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """Encoder and decoder. See ``torch.nn.Transformer``.

    Args:
        d_model: size of an embedding.
        nhead: number of heads.
        num_encoder_layers, num_decoder_layers: sizes of the stacks.
        dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias: as
            :class:`TransformerEncoderLayer`.
        custom_encoder, custom_decoder: modules to use instead.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Example:
        >>> import fastdl
        >>> model = fastdl.nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
        >>> model(fastdl.ones(2, 7, 16), fastdl.ones(2, 5, 16)).shape
        (2, 5, 16)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "activation": activation,
            "layer_norm_eps": layer_norm_eps,
            "batch_first": batch_first,
            "norm_first": norm_first,
            "bias": bias,
            "device": device,
            "dtype": dtype,
        }

        def norm() -> LayerNorm:
            return LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = (
            TransformerEncoder(TransformerEncoderLayer(d_model, nhead, **options), num_encoder_layers, norm())
            if custom_encoder is None
            else custom_encoder
        )
        self.decoder = (
            TransformerDecoder(TransformerDecoderLayer(d_model, nhead, **options), num_decoder_layers, norm())
            if custom_decoder is None
            else custom_decoder
        )
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Encode ``src`` (S, N, E) and decode ``tgt`` (T, N, E) (batch first if so made): (T, N, E).

        Masks as in :class:`MultiheadAttention`; ``*_is_causal`` None: look whether the mask is the causal one.
        """
        a, b = src._data.shape, tgt._data.shape
        batch = 0 if self.batch_first else 1
        if len(a) != len(b) or (len(a) == 3 and a[batch] != b[batch]):
            raise RuntimeError(f"Transformer: the batch number of src and tgt must be equal, got {a} and {b}")
        if a[-1] != self.d_model or b[-1] != self.d_model:
            raise RuntimeError(
                f"Transformer: the feature number of src and tgt must be equal to d_model = {self.d_model}, got {a} "
                f"and {b}"
            )
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal
        )
        return self.decoder(  # type: ignore[no-any-return]
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """The causal mask (sz, sz): 0 where query i may look at key j <= i, -inf elsewhere."""
        future = np.arange(sz) > np.arange(sz)[:, None]
        return tensor(
            np.where(future, -np.inf, 0), dtype=get_default_dtype() if dtype is None else dtype, device=device
        )

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

"""Vision Transformer."""

from __future__ import annotations

import math
from typing import Any

import fastdl
from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["VisionTransformer", "vit_b_16", "vit_b_32", "vit_l_16"]


class _EncoderBlock(nn.Module):
    """Attention and a two-layer network, each normalised before and added to what came in."""

    def __init__(self, heads: int, dim: int, mlp_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(dim, heads, dropout=attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        first, second = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)
        self.mlp = nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), second, nn.Dropout(dropout))
        for layer in (first, second):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _Encoder(nn.Module):
    def __init__(
        self,
        length: int,
        layers: int,
        heads: int,
        dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(nn.init.normal_(fastdl.empty(1, length, dim), std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential()
        for i in range(layers):
            block = _EncoderBlock(heads, dim, mlp_dim, dropout, attention_dropout)
            self.layers.add_module(f"encoder_layer_{i}", block)
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ln(self.layers(self.dropout(x + self.pos_embedding)))
        return y


class VisionTransformer(nn.Module):
    """A Transformer over the patches of an image (Dosovitskiy et al., 2020), with torchvision's keys.

    Shapes:
        input (N, 3, image_size, image_size); output (N, num_classes), logits.

    Args:
        image_size: height and width of the images, a multiple of ``patch_size``.
        patch_size: height and width of a patch.
        num_layers, num_heads, hidden_dim, mlp_dim: blocks, heads, size of a token, of the hidden layer in a block.
        dropout, attention_dropout: probabilities after embedding and layers, and on attention's weights.
        num_classes: number of classes.

    Example:
        >>> import fastdl
        >>> model = VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10)
        >>> tuple(model(fastdl.zeros(2, 3, 32, 32)).shape)
        (2, 10)
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        if image_size % patch_size != 0:
            raise ValueError(
                f"VisionTransformer: image_size must be a multiple of patch_size, got {image_size} and {patch_size}"
            )
        self.image_size = image_size
        self.conv_proj = nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(fastdl.zeros(1, 1, hidden_dim))
        self.encoder = _Encoder(
            (image_size // patch_size) ** 2 + 1,
            num_layers,
            num_heads,
            hidden_dim,
            mlp_dim,
            dropout,
            attention_dropout,
        )
        head = nn.Linear(hidden_dim, num_classes)
        self.heads = nn.Sequential()
        self.heads.add_module("head", head)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch_size * patch_size)))
        nn.init.zeros_(head.weight)
        for layer in (self.conv_proj, head):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"VisionTransformer: images must be {self.image_size} x {self.image_size}, got {tuple(x.shape)}; "
                "resize them, or make the model with another image_size"
            )
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = fastdl.cat([self.class_token.expand(x.shape[0], -1, -1), patches], 1)
        logits: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits


def vit_b_16(image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-Base, patches of 16 x 16: 86.6 million parameters."""
    return VisionTransformer(image_size, 16, 12, 12, 768, 3072, **options)


def vit_b_32(image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-Base, patches of 32 x 32: 88.2 million parameters."""
    return VisionTransformer(image_size, 32, 12, 12, 768, 3072, **options)


def vit_l_16(image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-Large, patches of 16 x 16: 304.3 million parameters."""
    return VisionTransformer(image_size, 16, 24, 16, 1024, 4096, **options)

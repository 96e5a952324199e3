"""ConvNeXt: a convolutional network with what Transformers taught."""

from __future__ import annotations

from typing import Any

import fastdl
from fastdl import nn
from fastdl.tensor import Tensor

__all__ = ["ConvNeXt", "convnext_base", "convnext_small", "convnext_tiny"]


class _LayerNorm2d(nn.LayerNorm):
    """Layer normalisation of each pixel's channels."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class _Permute(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.dims)


class _Block(nn.Module):
    """Depthwise 7 x 7, then a two-layer network for each pixel; scaled, and left out at random for whole images."""

    def __init__(self, dim: int, layer_scale: float, drop: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, 7, padding=3, groups=dim),
            _Permute(0, 2, 3, 1),
            nn.LayerNorm(dim, eps=1e-6),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, dim),
            _Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(fastdl.ones(dim, 1, 1) * layer_scale)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_scale * self.block(x)
        if self.training and self.drop > 0:
            kept = fastdl.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.drop)
            y = y * (kept / max(1 - self.drop, 1e-9))  # at 1 nothing is kept, and nothing divided by
        out: Tensor = x + y
        return out


class ConvNeXt(nn.Module):
    """A ConvNeXt network (Liu et al., 2022), with torchvision's keys.

    Shapes:
        input (N, 3, H, W), 224 x 224 as published, at least 32; output (N, num_classes), logits.

    Args:
        dims, depths: channels and number of blocks of the four stages; between stages the image is halved.
        stochastic_depth_prob: with what probability the last block is left out for an image in training (Huang et al.,
            2016); earlier ones linearly less.
        layer_scale: what the blocks' results are multiplied by at the start.
        num_classes: number of classes.

    Example:
        >>> import fastdl
        >>> model = ConvNeXt((8, 16, 24, 32), (1, 1, 2, 1), num_classes=10)
        >>> tuple(model(fastdl.zeros(2, 3, 32, 32)).shape)
        (2, 10)
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        depths: tuple[int, ...],
        stochastic_depth_prob: float = 0.0,
        layer_scale: float = 1e-6,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), _LayerNorm2d(dims[0], eps=1e-6))
        ]
        done, last = 0, max(sum(depths) - 1, 1)
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            if i > 0:
                layers.append(
                    nn.Sequential(
                        _LayerNorm2d(dims[i - 1], eps=1e-6), nn.Conv2d(dims[i - 1], dim, 2, stride=2)
                    )
                )
            drops = [stochastic_depth_prob * (done + j) / last for j in range(depth)]
            layers.append(nn.Sequential(*(_Block(dim, layer_scale, drop) for drop in drops)))
            done += depth
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            _LayerNorm2d(dims[-1], eps=1e-6), nn.Flatten(1), nn.Linear(dims[-1], num_classes)
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


def convnext_tiny(stochastic_depth_prob: float = 0.1, **options: Any) -> ConvNeXt:
    """28.6 million parameters."""
    return ConvNeXt((96, 192, 384, 768), (3, 3, 9, 3), stochastic_depth_prob, **options)


def convnext_small(stochastic_depth_prob: float = 0.4, **options: Any) -> ConvNeXt:
    """50.2 million parameters."""
    return ConvNeXt((96, 192, 384, 768), (3, 3, 27, 3), stochastic_depth_prob, **options)


def convnext_base(stochastic_depth_prob: float = 0.5, **options: Any) -> ConvNeXt:
    """88.6 million parameters."""
    return ConvNeXt((128, 256, 512, 1024), (3, 3, 27, 3), stochastic_depth_prob, **options)

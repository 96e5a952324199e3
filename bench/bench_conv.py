"""Convolution: ResNet's 3x3 and 1x1, its stem, depthwise, LeNet, batch 1, one and three axes, transposed; and what else
people run: dilated, grouped, few channels, strides, patches."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Arrays, Case, forward, forward_backward

Shape = tuple[int, ...]


def arrays(x: Shape, weight: Shape, bias: int) -> Arrays:
    scale = float(np.prod(weight[1:])) ** -0.5

    def make(rng: np.random.Generator) -> list[Any]:
        return [
            rng.standard_normal(x).astype(np.float32),
            (scale * rng.standard_normal(weight)).astype(np.float32),
            rng.standard_normal(bias).astype(np.float32),
        ]

    return make


def cases(name: str, x: Shape, weight: Shape, fb: float = 1.0, f: float = 0.0, **options: int) -> list[Case]:
    """Forward, and forward with all gradients; ``f`` and ``fb`` are the ratios to reach."""
    stride, padding = options.get("stride", 1), options.get("padding", 0)
    reach = options.get("dilation", 1)
    positions = [
        (n + 2 * padding - reach * (k - 1) - 1) // stride + 1 for n, k in zip(x[2:], weight[2:], strict=True)
    ]
    outputs = x[0] * weight[0] * float(np.prod(positions))
    flops = 2.0 * outputs * float(np.prod(weight[1:]))
    moved = 4.0 * (outputs + float(np.prod(x)))
    operation = f"conv{len(x) - 2}d"

    def call(lib: Any) -> Any:
        function = getattr(lib.F, operation)
        return lambda a, w, b: function(a, w, b, **options)

    data = arrays(x, weight, weight[0])
    return [
        forward(name, call, data, flops=flops, bytes=moved, target=f),
        forward_backward(name, call, data, flops=3 * flops, bytes=3 * moved, target=fb),
    ]


def transposed(name: str, x: Shape, weight: Shape, **options: int) -> list[Case]:
    flops = 2.0 * float(np.prod(x)) * float(np.prod(weight[1:]))

    def call(lib: Any) -> Any:
        return lambda a, w, b: lib.F.conv_transpose2d(a, w, b, **options)

    data = arrays(x, weight, weight[1])
    return [
        forward(name, call, data, flops=flops),
        forward_backward(name, call, data, flops=3 * flops, target=1.0),
    ]


CASES = [
    *cases("3x3 N16 64ch 56x56", (16, 64, 56, 56), (64, 64, 3, 3), 1.1, 1.0, padding=1),
    *cases("3x3 N16 128ch 28x28", (16, 128, 28, 28), (128, 128, 3, 3), 1.1, 1.0, padding=1),
    *cases("3x3 N16 256ch 14x14", (16, 256, 14, 14), (256, 256, 3, 3), 1.1, 1.0, padding=1),
    *cases("3x3 N16 512ch 7x7", (16, 512, 7, 7), (512, 512, 3, 3), 1.1, 1.0, padding=1),
    *cases("1x1 N16 256->64 56x56", (16, 256, 56, 56), (64, 256, 1, 1), 1.3),
    *cases("7x7/2 N8 3->64 224x224", (8, 3, 224, 224), (64, 3, 7, 7), 1.8, stride=2, padding=3),
    *cases("3x3/2 N16 128->128 56x56", (16, 128, 56, 56), (128, 128, 3, 3), stride=2, padding=1),
    *cases("5x5 N16 32->64 28x28", (16, 32, 28, 28), (64, 32, 5, 5), padding=2),
    *cases("depthwise 3x3 N16 32ch 112x112", (16, 32, 112, 112), (32, 1, 3, 3), 1.3, padding=1, groups=32),
    *cases(
        "depthwise 3x3/2 N16 96ch 56x56", (16, 96, 56, 56), (96, 1, 3, 3), 1.3, padding=1, stride=2, groups=96
    ),
    *cases("depthwise 3x3 N16 384ch 14x14", (16, 384, 14, 14), (384, 1, 3, 3), 1.3, padding=1, groups=384),
    *cases("depthwise 3x3 N16 960ch 7x7", (16, 960, 7, 7), (960, 1, 3, 3), 1.3, padding=1, groups=960),
    *cases("LeNet 5x5 N1 1->6 28x28", (1, 1, 28, 28), (6, 1, 5, 5), 3.0, padding=2),
    *cases("LeNet 5x5 N1 6->16 14x14", (1, 6, 14, 14), (16, 6, 5, 5), 3.0),
    *cases("LeNet 5x5 N32 1->6 28x28", (32, 1, 28, 28), (6, 1, 5, 5), 3.0, padding=2),
    *cases("LeNet 5x5 N32 6->16 14x14", (32, 6, 14, 14), (16, 6, 5, 5), 3.0),
    *cases("LeNet 5x5 N256 1->6 28x28", (256, 1, 28, 28), (6, 1, 5, 5), 3.0, padding=2),
    *cases("LeNet 5x5 N256 6->16 14x14", (256, 6, 14, 14), (16, 6, 5, 5), 3.0),
    *cases("3x3 N1 256ch 14x14", (1, 256, 14, 14), (256, 256, 3, 3), padding=1),
    *cases("3x3 N1 512ch 7x7", (1, 512, 7, 7), (512, 512, 3, 3), padding=1),
    *cases("1d k5 N16 64->64 1000", (16, 64, 1000), (64, 64, 5), padding=2),
    *cases("3d 3x3x3 N2 16->32 16x28x28", (2, 16, 16, 28, 28), (32, 16, 3, 3, 3), padding=1),
    *cases("3x3 dilation 2 N4 128ch 28x28", (4, 128, 28, 28), (128, 128, 3, 3), padding=2, dilation=2),
    *cases("3x3 N64 3->16 32x32", (64, 3, 32, 32), (16, 3, 3, 3), padding=1),
    *cases("3x3/2 N8 3->32 224x224", (8, 3, 224, 224), (32, 3, 3, 3), stride=2, padding=1),
    *cases("3x3 N32 8->16 28x28", (32, 8, 28, 28), (16, 8, 3, 3), padding=1),
    *cases("3x3 N8 128ch 32 groups 56x56", (8, 128, 56, 56), (128, 4, 3, 3), padding=1, groups=32),
    *cases("5x5/2 N16 64->128 56x56", (16, 64, 56, 56), (128, 64, 5, 5), padding=2, stride=2),
    *cases("1x1/2 N16 256->512 56x56", (16, 256, 56, 56), (512, 256, 1, 1), stride=2),
    *cases("7x7/2 N1 3->64 224x224", (1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    *cases("patches 16x16 N4 3->768 224x224", (4, 3, 224, 224), (768, 3, 16, 16), stride=16),
    *cases("1d k3 N32 256ch 64", (32, 256, 64), (256, 256, 3), padding=1),
    *cases("1d k3 N4 64ch 16000", (4, 64, 16000), (64, 64, 3), padding=1),
    *cases("1d k3/2 N2 512ch 3199", (2, 512, 3199), (512, 512, 3), stride=2),
    *transposed("transposed 4x4/2 N8 128->64 14x14", (8, 128, 14, 14), (128, 64, 4, 4), stride=2, padding=1),
    *transposed("transposed 4x4/2 N16 512->256 4x4", (16, 512, 4, 4), (512, 256, 4, 4), stride=2, padding=1),
    *cases("3x3 N1 64ch 56x56", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    *cases("3x3 N1 128ch 28x28", (1, 128, 28, 28), (128, 128, 3, 3), padding=1),
    *cases("3x3 N4 512ch 7x7", (4, 512, 7, 7), (512, 512, 3, 3), padding=1),
    *cases("3x3 N1 512ch 28x28", (1, 512, 28, 28), (512, 512, 3, 3), padding=1),
    *cases("3x3 N8 96ch 13x13", (8, 96, 13, 13), (96, 96, 3, 3), padding=1),
    *cases("3x3 N8 32ch 10x10", (8, 32, 10, 10), (32, 32, 3, 3), padding=1),
    *cases("depthwise 3x3 N1 960ch 7x7", (1, 960, 7, 7), (960, 1, 3, 3), padding=1, groups=960),
    *cases("depthwise 5x5 N16 672ch 7x7", (16, 672, 7, 7), (672, 1, 5, 5), padding=2, groups=672),
    *cases("depthwise 5x5 N16 240ch 14x14", (16, 240, 14, 14), (240, 1, 5, 5), padding=2, groups=240),
]

"""Whole models of images, inference and training: what single kernels' speeds come to in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.bench.bench_train import step
from fastdl.bench.case import Case, Library


def inference(name: str, shape: tuple[int, ...], **options: Any) -> Case:
    """Scores of one fixed batch of images of ``shape``, in evaluation mode."""

    def make(lib: Library) -> Callable[[], Any]:
        images = lib.tensor(np.random.default_rng(0).standard_normal(shape))
        model = lib.place(getattr(lib.models, name)(**options)).eval()

        def run() -> Any:
            with lib.module.no_grad():
                return model(images)

        return run

    return Case(f"{name} B{shape[0]} {shape[2]}x{shape[3]}", "f", make)


def training(name: str, shape: tuple[int, ...], **options: Any) -> Case:
    return step(
        f"{name} {shape[2]}x{shape[3]}",
        lambda lib: getattr(lib.models, name)(num_classes=10, **options),
        shape,
        "SGD",
    )


CASES = [
    inference("resnet18", (1, 3, 224, 224)),
    inference("resnet50", (1, 3, 224, 224)),
    inference("mobilenet_v2", (1, 3, 224, 224)),
    inference("densenet121", (1, 3, 224, 224)),
    inference("vgg11", (1, 3, 224, 224)),
    inference("convnext_tiny", (1, 3, 224, 224)),
    inference("vit_b_32", (1, 3, 224, 224)),
    inference("UNet", (1, 3, 128, 128), in_channels=3, out_channels=2, width=16),
    training("resnet18", (8, 3, 64, 64)),
    training("resnet50", (4, 3, 64, 64)),
    training("mobilenet_v2", (8, 3, 96, 96)),
    training("densenet121", (4, 3, 64, 64)),
    training("convnext_tiny", (4, 3, 64, 64)),
    training("vit_b_32", (2, 3, 224, 224)),
]

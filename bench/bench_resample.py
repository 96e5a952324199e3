"""Interpolation, padding, unfold/fold and shuffling: data that moves, with little arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.bench.case import Case, forward, forward_backward


def move(name: str, function: str, shape: tuple[int, ...], *args: Any, **options: Any) -> list[Case]:
    """A function of one image, forward and forward+backward."""
    title = f"{name} {'x'.join(map(str, shape))}"

    def call(lib: Any) -> Any:
        apply = getattr(lib.F, function)
        return lambda x: apply(x, *args, **options)

    def arrays(rng: np.random.Generator) -> list[Any]:
        return [rng.standard_normal(shape).astype(np.float32)]

    size = 4 * int(np.prod(shape))
    return [
        forward(title, call, arrays, bytes=size),
        forward_backward(title, call, arrays, bytes=2 * size),
    ]


def sample(name: str, shape: tuple[int, ...], places: tuple[int, ...], **options: Any) -> list[Case]:
    """``grid_sample`` at random places."""

    def call(lib: Any) -> Any:
        return lambda x, grid: lib.F.grid_sample(x, grid, align_corners=False, **options)

    def arrays(rng: np.random.Generator) -> list[Any]:
        grid = rng.uniform(-1.1, 1.1, (shape[0], *places, len(places)))
        return [rng.standard_normal(shape).astype(np.float32), grid.astype(np.float32)]

    title = f"{name} {'x'.join(map(str, shape))}"
    return [forward(title, call, arrays), forward_backward(title, call, arrays)]


IMAGES = (8, 32, 64, 64)

CASES = [
    *move("nearest x2", "interpolate", IMAGES, scale_factor=2),
    *move("nearest to 100", "interpolate", IMAGES, 100),
    *move("bilinear x2", "interpolate", IMAGES, scale_factor=2, mode="bilinear"),
    *move("bilinear to 100", "interpolate", IMAGES, 100, mode="bilinear", align_corners=True),
    *move("bilinear to 32", "interpolate", IMAGES, 32, mode="bilinear"),
    *move("bicubic x2", "interpolate", IMAGES, scale_factor=2, mode="bicubic"),
    *move("antialias to 28", "interpolate", IMAGES, 28, mode="bilinear", antialias=True),
    *move("trilinear x2", "interpolate", (2, 8, 16, 32, 32), scale_factor=2, mode="trilinear"),
    *move("pad 1", "pad", IMAGES, (1, 1, 1, 1)),
    *move("pad reflect 3", "pad", IMAGES, (3, 3, 3, 3), "reflect"),
    *move("pad replicate 3", "pad", IMAGES, (3, 3, 3, 3), "replicate"),
    *move("pad circular 3", "pad", IMAGES, (3, 3, 3, 3), "circular"),
    *move("unfold 3x3 p1", "unfold", (4, 32, 64, 64), 3, 1, 1),
    *move("fold 3x3 p1", "fold", (4, 288, 4096), (64, 64), 3, 1, 1),
    *move("pixel_shuffle 2", "pixel_shuffle", (8, 64, 64, 64), 2),
    *move("pixel_unshuffle 2", "pixel_unshuffle", (8, 16, 128, 128), 2),
    *sample("grid_sample bilinear", IMAGES, (64, 64)),
    *sample("grid_sample nearest border", IMAGES, (64, 64), mode="nearest", padding_mode="border"),
    *sample("grid_sample bicubic", (4, 16, 32, 32), (32, 32), mode="bicubic"),
    *sample("grid_sample trilinear", (2, 8, 16, 32, 32), (16, 32, 32)),
    *move("channel_shuffle 4", "channel_shuffle", (8, 64, 64, 64), 4),
]

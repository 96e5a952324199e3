"""Points for TensorBoard's projector: tables of tabs, and a picture of all their labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig

from fastdl.errors import ArgumentError
from fastdl.utils.tensorboard.arrays import as_array, bytes_of_image, grid
from fastdl.utils.tensorboard.summary import encoded

NAMES = {letter: f"%{ord(letter):02x}" for letter in "%/\\"}  # no slash in the name of a folder


def write(
    folder: str,
    points: Any,
    labels: Sequence[Any] | None,
    images: Any,
    step: int,
    tag: str,
    header: Sequence[str] | None,
) -> None:
    """Tables under ``folder``, and an entry in its ``projector_config.pbtxt``."""
    op = "add_embedding"
    matrix = as_array(op, "mat", points)
    if matrix.ndim != 2:
        raise ArgumentError(f"{op}: mat must have a row per point, (N, D), got {matrix.shape}")
    below = f"{step:05d}/" + "".join([NAMES.get(letter, letter) for letter in tag])
    place = Path(folder, below)
    place.mkdir(parents=True, exist_ok=True)
    info = EmbeddingInfo(tensor_name=f"{tag}:{step:05d}", tensor_path=f"{below}/tensors.tsv")
    _table(place / "tensors.tsv", matrix.tolist())
    if labels is not None:
        if len(labels) != len(matrix):
            raise ArgumentError(
                f"{op}: metadata must have a label per point, got {len(labels)} of {len(matrix)}"
            )
        rows = [label if header else [label] for label in labels]
        _table(place / "metadata.tsv", [header, *rows] if header else rows)
        info.metadata_path = f"{below}/metadata.tsv"
    if images is not None:
        array = as_array(op, "label_img", images)
        if array.ndim != 4 or len(array) != len(matrix) or array.shape[2] != array.shape[3]:
            raise ArgumentError(
                f"{op}: label_img must be square images, one per point, ({len(matrix)}, C, S, S), got {array.shape}"
            )
        sprite = grid(array.transpose(0, 2, 3, 1), ceil(sqrt(len(array))))
        side = max(sprite.shape[:2])
        square = sprite[:side] if len(sprite) == side else _extended(sprite, side)
        (place / "sprite.png").write_bytes(encoded(bytes_of_image(square, "HWC", op)))
        info.sprite.image_path = f"{below}/sprite.png"
        info.sprite.single_image_dim.extend(array.shape[:1:-1])
    file = Path(folder, "projector_config.pbtxt")
    config = ProjectorConfig()
    if file.exists():
        text_format.Parse(file.read_text(), config)
    kept = [other for other in config.embeddings if other.tensor_path != info.tensor_path]
    file.write_text(text_format.MessageToString(ProjectorConfig(embeddings=[*kept, info])))


def _table(path: Path, rows: Sequence[Any]) -> None:
    lines = ["\t".join([str(cell) for cell in row]) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def _extended(sprite: Any, side: int) -> Any:
    """Rows of zeros below: the projector wants a square."""
    return np.pad(sprite, ((0, side - len(sprite)), (0, 0), (0, 0)))

"""Around models: data loading (``utils.data``), training helpers, plots."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``fastdl.utils.data`` without importing it first: loading it brings multiprocessing along, which takes time.

    ``fastdl.utils.checkpoint`` and the other modules likewise.
    """
    if name not in (
        "data",
        "checkpoint",
        "model_zoo",
        "benchmark",
        "dlpack",
        "collect_env",
        "flop_counter",
        "plots",
        "tensorboard",
        "training",
        "_pytree",
    ):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(f"fastdl.utils.{name}")

"""Helpers around modules and gradients; see ``torch.nn.utils``."""

from typing import Any

from fastdl.nn.utils import rnn as rnn
from fastdl.nn.utils.clip_grad import *
from fastdl.nn.utils.convert_parameters import *
from fastdl.nn.utils.fusion import *
from fastdl.nn.utils.init import *
from fastdl.nn.utils.spectral_norm import *
from fastdl.nn.utils.weight_norm import *


def __getattr__(name: str) -> Any:
    """Modules that few programs need are imported when somebody asks for them."""
    if name in ("parametrizations", "parametrize", "prune", "stateless"):
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""torchvision's arguments for weights, of which the package ships none."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from typing import Any

from fastdl.errors import ArgumentError


def untrained(names: dict[str, Any]) -> dict[str, Any]:
    """Those of ``names`` that are functions, taking these arguments where they ask for nothing."""
    return {name: _untrained(value) for name, value in names.items() if isfunction(value)}


def _untrained(build: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(build)
    def model(
        *args: Any, weights: Any = None, pretrained: bool = False, progress: bool = True, **options: Any
    ) -> Any:
        if weights is None and not pretrained:
            return build(*args, **options)
        name = build.__name__
        raise ArgumentError(
            f"{name}: no weights are shipped. Those of torchvision load: model = {name}(); "
            f'model.load_state_dict(fastdl.load("{name}.pth")), or the result of hub.load_state_dict_from_url(url)'
        )

    model.__module__ = "fastdl.models"  # where pickle finds it
    return model

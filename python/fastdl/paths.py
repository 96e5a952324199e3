"""PyTorch's paths to what lies elsewhere here: ``from torch.nn.modules.pooling import MaxPool2d``."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["lead_to"]


def lead_to(package: str, names: str, home: str | None = None) -> None:
    """Make every name of ``package`` known under ``home.NAME``, too, for the listed modules.

    Modules that are not there are made; of those that are, this is where they look last. ``home`` is the package.
    """
    source, home = sys.modules[package], home or package

    def look(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(source, name)

    for name in names.split():
        path = f"{home}.{name}"
        module = sys.modules.get(path)
        if module is None:
            sys.modules[path] = module = ModuleType(path, f"PyTorch's path to names of ``{package}``.")
            module.__spec__ = ModuleSpec(path, None)
            setattr(sys.modules[home], name, module)
        module.__getattr__ = look  # type: ignore[method-assign]

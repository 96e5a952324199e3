"""The handle that registering a hook returns."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from itertools import count
from types import TracebackType
from typing import Any

_next_id = count().__next__


class RemovableHandle:
    """Takes a hook out again: ``handle.remove()``, or as a context manager at the end of the block.

    It refers weakly to the registry of hooks: keeping a handle keeps no module alive.
    """

    def __init__(self, registry: OrderedDict[int, Any]) -> None:
        self.id = _next_id()
        while self.id in registry:  # of a module that another process stored
            self.id = _next_id()
        self._registry = weakref.ref(registry)

    def remove(self) -> None:
        """Remove the hook; removing twice does nothing."""
        registry = self._registry()
        if registry is not None:
            registry.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def add_hook(registry: OrderedDict[int, Any], hook: Any, prepend: bool = False) -> RemovableHandle:
    """Enter ``hook`` into ``registry``, last or first, and return its handle."""
    handle = RemovableHandle(registry)
    registry[handle.id] = hook
    if prepend:
        registry.move_to_end(handle.id, last=False)
    return handle

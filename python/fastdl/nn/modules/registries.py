"""``module._parameters`` and its like: live mappings made of a module's attributes and of the names it keeps."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, MutableSet
from typing import Any


class Registry(MutableMapping[str, Any]):
    """``module._parameters`` and its like: reads and writes go to the module."""

    def __init__(self, values: dict[str, Any], names: dict[str, Any], default: Any) -> None:
        self._values = values
        self._names = names
        self._default = default

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._names.setdefault(name, self._default)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._names[name]
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._names)

    def items(self) -> ItemsView[str, Any]:
        """As of now: unlike the views of a mapping these can be reversed."""
        return self.copy().items()

    def copy(self) -> dict[str, Any]:
        """A dict, to change without the module, as in ``clone._parameters = clone._parameters.copy()``."""
        return {name: self._values[name] for name in self._names}

    def __repr__(self) -> str:
        return repr(self.copy())


class NonPersistent(MutableSet[str]):
    """``module._non_persistent_buffers_set``: to add a buffer's name takes it out of ``state_dict``."""

    def __init__(self, names: dict[str, bool]) -> None:
        self._names = names

    def __contains__(self, name: Any) -> bool:
        return self._names.get(name) is False

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, persistent in self._names.items() if not persistent])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def add(self, value: str) -> None:
        """From now on the buffer is not part of ``state_dict``."""
        if value in self._names:
            self._names[value] = False

    def discard(self, value: str) -> None:
        """From now on the buffer is part of ``state_dict``."""
        if value in self._names:
            self._names[value] = True

    def copy(self) -> set[str]:
        """A set, to change without the module."""
        return set(self)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)  # of `a | b` and its siblings

    def __repr__(self) -> str:
        return repr(self.copy())


def replace(own: dict[str, Any], which: str, members: Mapping[str, Any], default: Any) -> None:
    """``module._parameters = members``: these and no others.

    The names go to a new dict. Programs make clones by ``clone.__dict__ = module.__dict__.copy()``, which has the
    module's dicts of names until it assigns its own, and the module must keep its members.
    """
    before = own.get(which, {})
    members = dict(members)  # `before` may be what it is a view of
    for name in before:
        if name not in members:
            own.pop(name, None)
    own[which] = {name: before.get(name, default) for name in members}
    own.update(members)

"""``Proxy``: a value of a program that is being traced. See ``torch.fx.Proxy``."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from fastdl.fx.node import Node

__all__ = ["Attribute", "Proxy", "TraceError"]


class TraceError(ValueError):
    """A decision by a value that is not known while tracing."""


class Proxy:
    """Records what is done with it; the value comes when the graph runs."""

    def __init__(self, node: Node, tracer: Any) -> None:
        self.node = node
        self.tracer = tracer

    def __repr__(self) -> str:
        return f"Proxy({self.node.name})"

    def __getattr__(self, k: str) -> Any:
        if k.startswith("_"):
            raise AttributeError(
                f"{k}: the value of {self.node} is not known while tracing", name=k, obj=self
            )
        return Attribute(self, k)

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        return self.tracer.create_proxy("call_method", "__call__", (self, *args), kwargs)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Proxy]:
        """Its parts where the caller says how many there are: ``a, b = x.shape``."""
        caller = sys._getframe(1)
        for step in dis.get_instructions(caller.f_code):
            if step.offset == caller.f_lasti and step.opname == "UNPACK_SEQUENCE":
                return iter([operator.getitem(self, i) for i in range(step.argval)])
        return self.tracer.iter(self)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return self.tracer.to_bool(self)  # type: ignore[no-any-return]

    def __len__(self) -> NoReturn:
        raise RuntimeError(
            "'len' is not supported in symbolic tracing by default. If you want this call to be recorded, please call "
            "torch.fx.wrap('len') at module scope"
        )

    def keys(self) -> Any:
        """The keys, where a dictionary is expected: as the tracer decides."""
        return self.tracer.keys(self)


class Attribute(Proxy):
    """``x.name``: recorded when it is used, and as a method when it is called."""

    def __init__(self, root: Proxy, attr: str) -> None:
        self.root, self.attr, self.tracer = root, attr, root.tracer
        self._node: Node | None = None

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The node that reads the attribute."""
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)  # type: ignore[no-any-return]


def _recording(function: Any, swap: bool = False) -> Any:
    def method(self: Proxy, *args: Any) -> Any:
        given = (args[0], self) if swap else (self, *args)
        return self.tracer.create_proxy("call_function", function, given, {})

    return method


_ALONE = "neg pos invert abs"
_COMPARED = "eq ne lt gt le ge getitem"
_BOTH_WAYS = "add sub mul floordiv truediv mod pow matmul lshift rshift and_ or_ xor"
for _name in f"{_ALONE} {_COMPARED} {_BOTH_WAYS}".split():
    setattr(Proxy, f"__{_name.strip('_')}__", _recording(getattr(operator, _name)))
for _name in _BOTH_WAYS.split():
    setattr(Proxy, f"__r{_name.strip('_')}__", _recording(getattr(operator, _name), swap=True))
Proxy.__hash__ = object.__hash__  # type: ignore[method-assign]

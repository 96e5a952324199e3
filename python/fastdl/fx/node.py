"""``Node``: one step of a graph. See ``torch.fx.Node``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastdl import dtypes, seldom
from fastdl.fx.names import BUILTINS, name_of

if TYPE_CHECKING:
    from fastdl.fx.graph import Graph

__all__ = ["Argument", "Node", "map_aggregate", "map_arg"]

Argument = Any
OPERATIONS = ("placeholder", "get_attr", "call_function", "call_module", "call_method", "output")


def map_aggregate(a: Any, fn: Callable[[Any], Any]) -> Any:
    """``fn`` of everything in a nest of tuples, lists, dictionaries and slices."""
    if isinstance(a, tuple):
        parts = [map_aggregate(x, fn) for x in a]
        return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)
    if isinstance(a, list):
        return [map_aggregate(x, fn) for x in a]
    if isinstance(a, dict):
        return {key: map_aggregate(x, fn) for key, x in a.items()}
    if isinstance(a, slice):
        return slice(*[map_aggregate(x, fn) for x in (a.start, a.stop, a.step)])
    return fn(a)


def map_arg(a: Any, fn: Callable[[Node], Any]) -> Any:
    """``fn`` of the nodes in a nest; what else there is stays."""
    return map_aggregate(a, lambda x: fn(x) if isinstance(x, Node) else x)


class Node:
    """What is called with what.

    Attributes:
        op: ``"placeholder"``, ``"get_attr"``, ``"call_function"``, ``"call_module"``, ``"call_method"`` or
            ``"output"``.
        target: the function, or the name of the input, attribute, module or method.
        args, kwargs: nests with nodes where values of others are meant. They can be assigned.
        users: the nodes that use this one (the keys of a dictionary).
        meta: for the program.
    """

    def __init__(self, graph: Graph, name: str, op: str, target: Any, args: Any, kwargs: Any) -> None:
        self.graph, self.name, self.op, self.target = graph, name, op, target
        self.users: dict[Node, None] = {}
        self.meta: dict[str, Any] = {}
        self.type: Any = None
        self._args: Any = ()
        self._kwargs: Any = {}
        self._set(args, kwargs)

    def _set(self, args: Any, kwargs: Any) -> None:
        for used in self.all_input_nodes:
            used.users.pop(self, None)
        self._args, self._kwargs = args, kwargs
        for used in self.all_input_nodes:
            used.users[self] = None

    @property
    def args(self) -> Any:
        """The arguments by place."""
        return self._args

    @args.setter
    def args(self, args: Any) -> None:
        self._set(tuple(args), self._kwargs)

    @property
    def kwargs(self) -> Any:
        """The arguments by name."""
        return self._kwargs

    @kwargs.setter
    def kwargs(self, kwargs: Any) -> None:
        self._set(self._args, dict(kwargs))

    @property
    def all_input_nodes(self) -> list[Node]:
        """The nodes among the arguments, each once."""
        found: dict[Node, None] = {}
        map_arg((self._args, self._kwargs), lambda node: found.setdefault(node))
        return list(found)

    @property
    def next(self) -> Node:
        """The node after this one."""
        return self.graph._neighbour(self, 1)

    @property
    def prev(self) -> Node:
        """The node before this one."""
        return self.graph._neighbour(self, -1)

    def prepend(self, x: Node) -> None:
        """Put the node ``x`` of the same graph in front of this one."""
        if x is not self:
            nodes = self.graph._nodes
            nodes.remove(x)
            nodes.insert(nodes.index(self), x)

    def append(self, x: Node) -> None:
        """Put the node ``x`` of the same graph behind this one."""
        if x is not self:
            nodes = self.graph._nodes
            nodes.remove(x)
            nodes.insert(nodes.index(self) + 1, x)

    def is_impure(self) -> bool:
        """Must it stay, used or not? So must inputs, the output and checks."""
        return self.op in ("placeholder", "output") or self.target in (seldom._assert, assert_is_none)

    def update_arg(self, idx: int, arg: Any) -> None:
        """Another argument in one place."""
        self.args = (*self.args[:idx], arg, *self.args[idx + 1 :])

    def update_kwarg(self, key: str, arg: Any) -> None:
        """Another argument of one name."""
        self.kwargs = {**self.kwargs, key: arg}

    def replace_input_with(self, old_input: Node, new_input: Any) -> None:
        """Use ``new_input`` where this node uses ``old_input``."""
        args, kwargs = map_arg(
            (self.args, self.kwargs), lambda node: new_input if node is old_input else node
        )
        self._set(args, kwargs)

    def replace_all_uses_with(
        self, replace_with: Node, delete_user_cb: Callable[[Node], bool] = lambda user: True
    ) -> list[Node]:
        """Use ``replace_with`` wherever this node is used (by users of which ``delete_user_cb`` is true)."""
        changed = [user for user in self.users if delete_user_cb(user)]
        for user in changed:
            user.replace_input_with(self, replace_with)
        return changed

    def __repr__(self) -> str:
        return self.name

    def format_node(self) -> str:
        """The node in a line: ``%add : [num_users=1] = call_function[target=add](args = (%x, 1), kwargs = {})``."""
        if self.op == "output":
            return f"return {self.args[0]}"
        head = f"%{self.name} : [num_users={len(self.users)}] = {self.op}[target={_target(self.target)}]"
        if self.op == "placeholder":
            return head + (f"(default={self.args[0]})" if self.args else "")
        if self.op == "get_attr":
            return head
        named = {_Shown(key): value for key, value in self.kwargs.items()}
        return f"{head}(args = {_shown(self.args)}, kwargs = {_shown(named)})"


def assert_is_none(value: Any, message: str) -> None:
    """A check in graphs of inputs that were None when traced."""
    assert value is None, message


def _target(target: Any) -> str:
    if isinstance(target, str):
        return target
    found = name_of(target)
    if found is None:
        found = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"
    return f"builtins.{found}" if id(target) in BUILTINS else found


class _Shown(str):
    __repr__ = str.__str__


def _shown(value: Any) -> str:
    def part(x: Any) -> Any:
        if isinstance(x, (Node, str)):
            return _Shown(f"%{x.name}" if isinstance(x, Node) else x)
        return _Shown(f"fastdl.{x.name}") if isinstance(x, dtypes.classes) else x

    return repr(map_aggregate(value, part))

"""``Graph``: nodes in the order in which they run, and the program that they are. See ``torch.fx.Graph``."""

from __future__ import annotations

import builtins
import keyword
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastdl.fx.node import Node, map_aggregate, map_arg

__all__ = ["Graph"]

_RESERVED = {*keyword.kwlist, *dir(builtins), "self"}


class Graph:
    """Nodes, which :class:`GraphModule` makes a function of.

    Example:
        >>> import operator
        >>> from fastdl import fx, nn, tensor
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> node = graph.output(graph.call_function(operator.mul, (x, 2)))
        >>> fx.GraphModule(nn.Module(), graph)(tensor(3))
        tensor(6)
    """

    def __init__(self, owning_module: Any = None, tracer_cls: Any = None) -> None:
        self.owning_module = owning_module
        self._nodes: list[Node] = []
        self._names: set[str] = set()
        self._at: Node | None = None  # new nodes go in front of it

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in a list of their own: the graph may change while it is walked."""
        return list(self._nodes)

    def _neighbour(self, node: Node, step: int) -> Node:
        return self._nodes[(self._nodes.index(node) + step) % len(self._nodes)]

    def _name(self, wish: str) -> str:
        base = re.sub(r"\W", "_", wish).lstrip("_") or "_node"
        base = f"_{base}" if base[0].isdigit() else base
        name, i = base, 0
        while name in self._names or name in _RESERVED:
            i += 1
            name = f"{base}_{i}"
        self._names.add(name)
        return name

    def create_node(
        self,
        op: str,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        name: str | None = None,
        type_expr: Any = None,
    ) -> Node:
        """Add a node at the end, or where :meth:`inserting_before` says."""
        if name is None:
            name = target if isinstance(target, str) else getattr(target, "__name__", "call")
        node = Node(self, self._name(name), op, target, tuple(args or ()), dict(kwargs or {}))
        node.type = type_expr
        at = len(self._nodes) if self._at is None else self._nodes.index(self._at)
        self._nodes.insert(at, node)
        return node

    def placeholder(self, name: str, type_expr: Any = None, default_value: Any = None) -> Node:
        """An input."""
        args = () if default_value is None else (default_value,)
        return self.create_node("placeholder", name, args, type_expr=type_expr)

    def get_attr(self, qualified_name: str, type_expr: Any = None) -> Node:
        """A parameter, buffer or other attribute of the module."""
        return self.create_node("get_attr", qualified_name, type_expr=type_expr)

    def call_function(self, the_function: Callable[..., Any], args: Any = None, kwargs: Any = None) -> Node:
        """``the_function(*args, **kwargs)``."""
        return self.create_node("call_function", the_function, args, kwargs)

    def call_method(self, method_name: str, args: Any = None, kwargs: Any = None) -> Node:
        """``args[0].method_name(*args[1:], **kwargs)``."""
        return self.create_node("call_method", method_name, args, kwargs)

    def call_module(self, module_name: str, args: Any = None, kwargs: Any = None) -> Node:
        """A call of a module below the one that owns the graph."""
        return self.create_node("call_module", module_name, args, kwargs)

    def output(self, result: Any, type_expr: Any = None) -> Node:
        """What is returned."""
        return self.create_node("output", "output", (result,), type_expr=type_expr)

    def output_node(self) -> Node:
        """The node of what is returned."""
        return next(node for node in reversed(self._nodes) if node.op == "output")

    def find_nodes(self, *, op: str, target: Any = None, sort: bool = True) -> list[Node]:
        """The nodes of a kind, and of a target if one is given."""
        return [n for n in self._nodes if n.op == op and (target is None or n.target == target)]

    @contextmanager
    def inserting_before(self, n: Node | None = None) -> Iterator[None]:
        """A block in which new nodes go in front of ``n``, or of all."""
        before, self._at = self._at, n or (self._nodes[0] if self._nodes else None)
        try:
            yield
        finally:
            self._at = before

    @contextmanager
    def inserting_after(self, n: Node | None = None) -> Iterator[None]:
        """A block in which new nodes go behind ``n``, or to the end."""
        at = len(self._nodes) if n is None else self._nodes.index(n) + 1
        before, self._at = self._at, self._nodes[at] if at < len(self._nodes) else None
        try:
            yield
        finally:
            self._at = before

    def erase_node(self, to_erase: Node) -> None:
        """Take a node out that is not used: a RuntimeError if it is."""
        if to_erase.users:
            raise RuntimeError(
                f"Tried to erase Node {to_erase} but it still had {len(to_erase.users)} users in the graph: "
                f"{to_erase.users}!"
            )
        to_erase._set((), {})
        self._nodes.remove(to_erase)

    def node_copy(self, node: Node, arg_transform: Callable[[Node], Any] = lambda x: x) -> Node:
        """Add a copy of another graph's node, its arguments through ``arg_transform``."""
        args, kwargs = map_arg((node.args, node.kwargs), arg_transform)
        copied = self.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        copied.meta = dict(node.meta)
        return copied

    def graph_copy(self, g: Graph, val_map: dict[Node, Node]) -> Any:
        """Add copies of ``g``'s nodes, kept in ``val_map``; returns what ``g`` returns, in terms of them."""
        for node in g.nodes:
            if node in val_map:
                continue
            if node.op == "output":
                return map_arg(node.args[0], lambda n: val_map[n])
            val_map[node] = self.node_copy(node, lambda n: val_map[n])
        return None

    def __deepcopy__(self, memo: Any) -> Graph:
        copied = Graph()
        made: dict[Node, Node] = {}
        for node in self._nodes:
            made[node] = copied.node_copy(node, lambda n: made[n])
        return copied

    def eliminate_dead_code(self, is_impure_node: Callable[[Node], bool] | None = None) -> bool:
        """Take out what is not used, but inputs and calls of modules in training. Were there such nodes?"""
        before = len(self._nodes)
        for node in reversed(self.nodes):
            impure = node.op in ("placeholder", "output") or (is_impure_node and is_impure_node(node))
            if not node.users and not impure:
                self.erase_node(node)
        return len(self._nodes) < before

    def lint(self) -> None:
        """A RuntimeError unless every node comes after those that it uses."""
        seen: set[Node] = set()
        for node in self._nodes:
            for used in node.all_input_nodes:
                if used not in seen:
                    raise RuntimeError(
                        f"Argument '{used}' of Node '{node}' was used before it has been defined!"
                    )
            seen.add(node)

    def print_tabular(self) -> None:
        """Print a line for every node."""
        for node in self._nodes:
            print(f"{node.op:<14} {node.name:<20} {node.target!s:<30} {node.args} {node.kwargs}")

    def __str__(self) -> str:
        inputs = ", ".join(f"%{n.name}" for n in self._nodes if n.op == "placeholder")
        lines = [f"    {n.format_node()}" for n in self._nodes if n.op != "placeholder"]
        return "\n".join([f"graph({inputs}):", *lines])

    def python_code(self, root: str = "self") -> tuple[str, dict[str, Any]]:
        """The function ``forward`` as text, and the names that it uses beside ``root``'s attributes."""
        names: dict[str, Any] = {}

        def known(value: Any, name: str) -> str:
            name, i = "_" + re.sub(r"\W", "_", name), 0
            while names.setdefault(name, value) is not value:
                i += 1
                name = f"{name.rstrip('0123456789')}{i}"
            return name

        def text(value: Any) -> Any:
            if isinstance(value, Node):
                return _Text(value.name)
            if value is None or value is Ellipsis or type(value) in (bool, int, str):
                return value
            if type(value) is float and math.isfinite(value):
                return value
            return _Text(known(value, getattr(value, "__name__", "value")))

        def written(value: Any) -> str:
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return f"{known(type(value), type(value).__name__)}({', '.join(map(written, value))})"
            return repr(map_aggregate(value, text))

        def call(function: str, args: Any, kwargs: Any) -> str:
            given = [*map(written, args), *(f"{key}={written(value)}" for key, value in kwargs.items())]
            return f"{function}({', '.join(given)})"

        inputs, lines = [root], []
        for node in self._nodes:
            if node.op == "placeholder":
                star = "*" * (len(node.target) - len(node.target.lstrip("*")))
                default = f"={written(node.args[0])}" if node.args and not star else ""
                inputs.append(f"{star}{node.name}{default}")
                continue
            if node.op == "output":
                lines.append(f"    return {written(node.args[0])}")
                continue
            if node.op == "get_attr":
                value = _attribute(root, node.target)
            elif node.op == "call_module":
                value = call(_attribute(root, node.target), node.args, node.kwargs)
            elif node.op == "call_method":
                value = call(f"{written(node.args[0])}.{node.target}", node.args[1:], node.kwargs)
            else:
                function = known(node.target, getattr(node.target, "__name__", "function"))
                value = call(function, node.args, node.kwargs)
            lines.append(f"    {node.name} = {value}")
        return "\n".join([f"def forward({', '.join(inputs)}):", *lines, ""]), names


class _Text(str):
    __repr__ = str.__str__


def _attribute(root: str, path: str) -> str:
    """``self.layers[0].weight`` needs getattr for names that are numbers."""
    text = root
    for part in path.split("."):
        text = f"{text}.{part}" if part.isidentifier() else f"getattr({text}, {part!r})"
    return text

"""``Graph``: nodes in the order in which they run, and the program that they are. See ``torch.fx.Graph``."""

from __future__ import annotations

import builtins
import keyword
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import fastdl
from fastdl import dtypes
from fastdl.fx.names import name_of
from fastdl.fx.node import OPERATIONS, Node, map_aggregate, map_arg

__all__ = ["Graph"]

_RESERVED = {
    *keyword.kwlist,
    *dir(builtins),
    "self",
    "fastdl",
    "torch",
    "math",
    "operator",
    "device",
    "inf",
    "nan",
}
_ONE = {"neg": "-", "pos": "+", "invert": "~"}
_TWO = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "floordiv": "//",
    "truediv": "/",
    "mod": "%",
    "pow": "**",
    "matmul": "@",
    "lshift": "<<",
    "rshift": ">>",
    "and_": "&",
    "or_": "|",
    "xor": "^",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "gt": ">",
    "le": "<=",
    "ge": ">=",
}


class _At:
    """A node in a pickle: its place."""

    def __init__(self, place: int) -> None:
        self.place = place


def last_uses(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """Node -> those whose values nothing after it needs, itself as well if nothing needs it."""
    last: dict[Node, list[Node]] = {node: [] for node in nodes}
    seen: set[Node] = set()
    for node in reversed(nodes):
        for used in node.all_input_nodes:
            if used not in seen:
                seen.add(used)
                last[node].append(used)
        if node not in seen and node.op not in ("placeholder", "output"):
            last[node].append(node)
    return last


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
        self._counts: dict[str, int] = {}
        self._at: Node | None = None  # new nodes go in front of it

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in a list of their own: the graph may change while it is walked."""
        return list(self._nodes)

    def _neighbour(self, node: Node, step: int) -> Node:
        return self._nodes[(self._nodes.index(node) + step) % len(self._nodes)]

    def _name(self, wish: str) -> str:
        """A name that no node has: with a number, if need be."""
        base = re.sub(r"\W+", "_", wish) or "_unnamed"
        base = f"_{base}" if base[0].isdigit() else base
        name, i = base, 0
        numbered = re.fullmatch(r"(.*)_(\d+)", base)
        if numbered:
            base, i = numbered[1], int(numbered[2])
            name = f"{base}_{i}"
        i = i or self._counts.get(base, 0)
        while name in self._names or name in _RESERVED:
            i += 1
            name = f"{base}_{i}"
        self._names.add(name)
        self._counts[base] = i
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
        if op not in OPERATIONS:
            raise ValueError(f"create_node: op must be one of {', '.join(OPERATIONS)}, got {op!r}")
        if callable(target) != (op == "call_function"):
            kind = "a function" if op == "call_function" else "a name"
            raise ValueError(f"create_node: the target of {op} must be {kind}, got {target!r}")
        if name is None:
            name = target if isinstance(target, str) else getattr(target, "__name__", "call")
            dunder = name[:2] == name[-2:] == "__"
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[2:-2] if dunder else name).lower()
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

    def inserting_before(self, n: Node | None = None) -> _InsertPoint:
        """New nodes go in front of ``n``, or of all: from now on, or in a ``with`` block."""
        return _InsertPoint(self, n or (self._nodes[0] if self._nodes else None))

    def inserting_after(self, n: Node | None = None) -> _InsertPoint:
        """New nodes go behind ``n``, or to the end: from now on, or in a ``with`` block."""
        at = len(self._nodes) if n is None else self._nodes.index(n) + 1
        return _InsertPoint(self, self._nodes[at] if at < len(self._nodes) else None)

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

    def __reduce__(self) -> Any:
        places = {node: _At(i) for i, node in enumerate(self._nodes)}
        rows = [
            (n.op, n.target, *map_arg((n.args, n.kwargs), lambda used: places[used]), n.name, n.type)
            for n in self._nodes
        ]
        return _from_rows, (rows,)

    def eliminate_dead_code(self, is_impure_node: Callable[[Node], bool] | None = None) -> bool:
        """Take out what is not used, but inputs and checks (:meth:`Node.is_impure`). Were there such nodes?"""
        before = len(self._nodes)
        for node in reversed(self.nodes):
            if not node.users and not (is_impure_node or Node.is_impure)(node):
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
        return "\n".join(["graph():", *(f"    {n.format_node()}" for n in self._nodes)])

    def python_code(self, root: str = "self") -> tuple[str, dict[str, Any]]:
        """The function ``forward`` as text, and the names that it uses beside ``root``'s attributes."""
        writer = _Writer(self._names)
        inputs, first, lines, taken = [root], [], [], {root}
        freed = last_uses(self._nodes)
        for node in self._nodes:
            if node.op == "placeholder":
                name = node.target.lstrip("*")
                star = node.target.removesuffix(name)
                if name in taken:
                    name = node.name
                taken.add(name)
                default = f" = {writer.written(node.args[0])}" if node.args and not star else ""
                inputs.append(f"{star}{name}{default}")
                if name != node.name:
                    first.append(f"    {node.name} = {name}")
            elif node.op == "output":
                lines.append(f"    return {writer.written(node.args[0])}")
            else:
                lines.append(f"    {node.name} = {writer.value(node, root)}")
                if freed[node]:
                    lines[-1] += f";  {' = '.join([n.name for n in freed[node]])} = None"
        head = f"def forward({', '.join(inputs)}):"
        return "\n\n\n" + "\n".join([head, *first, *lines, "    "]), writer.names


class _InsertPoint:
    """Where new nodes go; at the end of a block, where they went before."""

    def __init__(self, graph: Graph, at: Node | None) -> None:
        self._graph, self._before = graph, graph._at
        graph._at = at

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        self._graph._at = self._before


class _Writer:
    """Values as text, and the names that the text needs."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self.names: dict[str, Any] = {"fastdl": fastdl, "inf": math.inf, "nan": math.nan}

    def known(self, value: Any, name: str) -> str:
        """A name for a value that has none."""
        base, i = "_" + re.sub(r"\W", "_", name), 0
        name = base
        while name in self.taken or self.names.setdefault(name, value) is not value:
            i += 1
            name = f"{base}_{i}"
        return name

    def _text(self, value: Any) -> Any:
        if isinstance(value, Node):
            return _Text(value.name)
        if value is None or value is Ellipsis or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dtypes.classes) and getattr(fastdl, value.name, None) == value:
            return _Text(f"fastdl.{value.name}")
        return _Text(self.function(value) if callable(value) else self.known(value, "value"))

    def function(self, function: Any) -> str:
        """The name of a function: where the program looks it up, if it is a public one."""
        name = name_of(function) or str(getattr(function, "__name__", "value"))
        if name_of(function) is None or name.startswith(("operator.", "math.")):
            return self.known(function, name.replace(".", "_"))
        return name

    def written(self, value: Any) -> str:
        """A nest with nodes in it."""
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{self.known(type(value), type(value).__name__)}({', '.join(map(self.written, value))})"
        return repr(map_aggregate(value, self._text))

    def _call(self, function: str, args: Any, kwargs: Any) -> str:
        given = [
            *map(self.written, args),
            *(f"{key} = {self.written(value)}" for key, value in kwargs.items()),
        ]
        return f"{function}({', '.join(given)})"

    def value(self, node: Node, root: str) -> str:
        """What a node computes."""
        args, kwargs, target = node.args, node.kwargs, node.target
        if node.op == "get_attr":
            return _attribute(root, target)
        if node.op == "call_module":
            return self._call(_attribute(root, target), args, kwargs)
        if node.op == "call_method":
            return self._call(f"{self.written(args[0])}.{target}", args[1:], kwargs)
        own = (name_of(target) or "").removeprefix("operator.")
        if not kwargs and not all(type(a) in (int, float) for a in args):  # -1 ** x is another power
            operands = [self.written(a) for a in args]
            operands = [f"({a})" if a.startswith("-") else a for a in operands]
            if own in _ONE and len(args) == 1:
                return f"{_ONE[own]}{operands[0]}"
            if own in _TWO and len(args) == 2:
                return f"{operands[0]} {_TWO[own]} {operands[1]}"
            if own == "getitem" and len(args) == 2:
                return f"{operands[0]}[{operands[1]}]"
            if target is getattr and len(args) == 2 and isinstance(args[0], Node) and args[1].isidentifier():
                return f"{operands[0]}.{args[1]}"
        return self._call(self.function(target), args, kwargs)


class _Text(str):
    __repr__ = str.__str__


def _from_rows(rows: Any) -> Graph:
    graph = Graph()
    made: list[Node] = []

    def node_at(value: Any) -> Any:
        return made[value.place] if isinstance(value, _At) else value

    for op, target, args, kwargs, name, kind in rows:
        args, kwargs = map_aggregate((args, kwargs), node_at)
        made.append(graph.create_node(op, target, args, kwargs, name, kind))
    return graph


def _attribute(root: str, path: str) -> str:
    """``self.layers[0].weight`` needs getattr for names that are numbers."""
    text = root
    for part in path.split("."):
        text = f"{text}.{part}" if part.isidentifier() else f'getattr({text}, "{part}")'
    return text

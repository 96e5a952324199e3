"""Nests of lists, tuples and dictionaries as flat lists and back: what programs use of ``torch.utils._pytree``."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "LeafSpec",
    "MappingKey",
    "SequenceKey",
    "TreeSpec",
    "register_pytree_node",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_unflatten",
]

PyTree = Any
Context = Any


class NodeDef(NamedTuple):
    """A kind of container: how it is taken apart, into (children, context), and put together."""

    type: Any
    flatten_fn: Callable[[Any], tuple[list[Any], Any]]
    unflatten_fn: Callable[[Any, Any], Any]


SUPPORTED_NODES: dict[Any, NodeDef] = {}


def register_pytree_node(
    cls: type,
    flatten_fn: Callable[[Any], Any],
    unflatten_fn: Callable[[Any, Any], Any],
    *,
    serialized_type_name: str | None = None,
    to_dumpable_context: Any = None,
    from_dumpable_context: Any = None,
    flatten_with_keys_fn: Any = None,
) -> None:
    """Make a class a container: ``flatten_fn(x)`` gives (children, context), ``unflatten_fn(children, context)`` an x.

    What the other arguments are for (files, paths to leaves) there is not.

    Raises:
        ValueError: if the class is registered already.

    Example:
        >>> from fastdl.utils._pytree import register_pytree_node, tree_map
        >>> class Pair:
        ...     def __init__(self, a, b):
        ...         self.a, self.b = a, b
        >>> register_pytree_node(Pair, lambda p: ([p.a, p.b], None), lambda parts, _: Pair(*parts))
        >>> tree_map(lambda x: 10 * x, Pair(1, 2)).b
        20
    """
    if cls in SUPPORTED_NODES:
        raise ValueError(
            f"{cls} is already registered as pytree node. Overwriting the previous registration."
        )
    SUPPORTED_NODES[cls] = NodeDef(cls, flatten_fn, unflatten_fn)


_register_pytree_node = register_pytree_node  # the older name


@dataclass(frozen=True)
class SequenceKey:
    """A step on the way to a leaf: the position in a list or tuple."""

    idx: int


@dataclass(frozen=True)
class MappingKey:
    """A step on the way to a leaf: the key of a dictionary."""

    key: Any


def _dict_flatten(d: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    return list(d.values()), list(d)


def _dict_unflatten(values: Any, context: list[Any]) -> dict[Any, Any]:
    return dict(zip(context, values, strict=True))


def _dict_flatten_with_keys(d: dict[Any, Any]) -> tuple[list[tuple[MappingKey, Any]], list[Any]]:
    return [(MappingKey(key), value) for key, value in d.items()], list(d)


register_pytree_node(list, lambda nest: (nest, None), lambda parts, _: list(parts))
register_pytree_node(tuple, lambda nest: (list(nest), None), lambda parts, _: tuple(parts))
register_pytree_node(namedtuple, lambda nest: (list(nest), type(nest)), lambda parts, cls: cls(*parts))  # type: ignore[arg-type]
register_pytree_node(dict, _dict_flatten, _dict_unflatten)
register_pytree_node(
    OrderedDict, _dict_flatten, lambda parts, keys: OrderedDict(zip(keys, parts, strict=True))
)
register_pytree_node(
    defaultdict,
    lambda nest: (list(nest.values()), [nest.default_factory, list(nest)]),
    lambda parts, context: defaultdict(context[0], zip(context[1], parts, strict=True)),
)


def _get_node_type(tree: Any) -> Any:
    """The type by which the kind of container is known; every named tuple is a ``namedtuple``."""
    kind = type(tree)
    return (
        namedtuple
        if kind not in SUPPORTED_NODES and isinstance(tree, tuple) and hasattr(tree, "_fields")
        else kind
    )


@dataclass(frozen=True)
class TreeSpec:
    """The shape of a nest: what kind of container, what it needs beside its children, and these."""

    type: Any  # None for a leaf
    context: Any
    children: Sequence[TreeSpec]

    def __post_init__(self) -> None:
        object.__setattr__(self, "children", tuple(self.children))

    @property
    def num_leaves(self) -> int:
        """How many leaves a nest of this shape has."""
        return 1 if self.type is None else sum(child.num_leaves for child in self.children)


def LeafSpec() -> TreeSpec:
    """The shape of a leaf."""
    return TreeSpec(None, None, ())


def tree_flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeSpec]:
    """The leaves, from left to right, and the nest's shape.

    Example:
        >>> from fastdl.utils._pytree import tree_flatten
        >>> tree_flatten({"a": [1, 2], "b": (3,)})[0]
        [1, 2, 3]
    """
    kind = _get_node_type(tree)
    found = None if is_leaf is not None and is_leaf(tree) else SUPPORTED_NODES.get(kind)
    if found is None:
        return [tree], LeafSpec()
    parts, context = found.flatten_fn(tree)
    leaves: list[Any] = []
    specs = []
    for part in parts:
        below, spec = tree_flatten(part, is_leaf)
        leaves += below
        specs.append(spec)
    return leaves, TreeSpec(kind, context, specs)


def tree_unflatten(leaves: Any, treespec: TreeSpec) -> Any:
    """The nest of shape ``treespec`` with these leaves.

    Raises:
        ValueError: for another number of leaves.
    """
    leaves = list(leaves)
    if len(leaves) != treespec.num_leaves:
        raise ValueError(f"tree_unflatten: this nest has {treespec.num_leaves} leaves, got {len(leaves)}")
    if treespec.type is None:
        return leaves[0]
    parts, at = [], 0
    for child in treespec.children:
        parts.append(tree_unflatten(leaves[at : at + child.num_leaves], child))
        at += child.num_leaves
    return SUPPORTED_NODES[treespec.type].unflatten_fn(parts, treespec.context)


def tree_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves alone."""
    return tree_flatten(tree, is_leaf)[0]


def tree_map(
    func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """The nest with ``func`` applied to each leaf (and to those in the same places of ``rests``).

    Raises:
        ValueError: when a nest has another shape than the first.

    Example:
        >>> from fastdl.utils._pytree import tree_map
        >>> tree_map(lambda a, b: a + b, [1, (2,)], [10, (20,)])
        [11, (22,)]
    """
    leaves, spec = tree_flatten(tree, is_leaf)
    others = []
    for rest in rests:
        other, shape = tree_flatten(rest, is_leaf)
        if shape != spec:
            raise ValueError(f"tree_map: the nests differ in shape: {spec} and {shape}")
        others.append(other)
    return tree_unflatten([func(*values) for values in zip(leaves, *others, strict=True)], spec)


def tree_map_only(kind: Any, func: Callable[[Any], Any], tree: Any) -> Any:
    """:func:`tree_map` over leaves that are instances of ``kind`` (a type or a tuple of them); others stay."""
    return tree_map(lambda leaf: func(leaf) if isinstance(leaf, kind) else leaf, tree)

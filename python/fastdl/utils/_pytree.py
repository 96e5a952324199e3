"""Nests of lists, tuples and dictionaries as flat lists and back: what programs use of ``torch.utils._pytree``."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "GetAttrKey",
    "KeyPath",
    "LeafSpec",
    "MappingKey",
    "SequenceKey",
    "TreeSpec",
    "key_get",
    "keystr",
    "register_pytree_node",
    "tree_all",
    "tree_all_only",
    "tree_any",
    "tree_any_only",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_is_leaf",
    "tree_iter",
    "tree_leaves",
    "tree_leaves_with_path",
    "tree_map",
    "tree_map_",
    "tree_map_only",
    "tree_map_only_",
    "tree_map_with_path",
    "tree_structure",
    "tree_unflatten",
]

PyTree = Any
KeyPath = tuple[Any, ...]
Context = Any


class NodeDef(NamedTuple):
    """A kind of container: how it is taken apart, into (children, context), and put together."""

    type: Any
    flatten_fn: Callable[[Any], tuple[list[Any], Any]]
    unflatten_fn: Callable[[Any, Any], Any]
    flatten_with_keys_fn: Callable[[Any], tuple[list[tuple[Any, Any]], Any]] | None = None


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

    ``flatten_with_keys_fn(x)`` gives ([(key, child), ...], context), which paths to leaves need. The other arguments
    are for files, which are not there.

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
    SUPPORTED_NODES[cls] = NodeDef(cls, flatten_fn, unflatten_fn, flatten_with_keys_fn)


_register_pytree_node = register_pytree_node  # the older name


@dataclass(frozen=True)
class SequenceKey:
    """A step on the way to a leaf: the position in a list or tuple."""

    idx: int

    def __str__(self) -> str:
        return f"[{self.idx!r}]"

    def get(self, sequence: Any) -> Any:
        """The element there."""
        return sequence[self.idx]


@dataclass(frozen=True)
class MappingKey:
    """A step on the way to a leaf: the key of a dictionary."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"

    def get(self, mapping: Any) -> Any:
        """The value there."""
        return mapping[self.key]


@dataclass(frozen=True)
class GetAttrKey:
    """A step on the way to a leaf: the name of an attribute."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"

    def get(self, obj: Any) -> Any:
        """The attribute."""
        return getattr(obj, self.name)


def _dict_flatten(d: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    return list(d.values()), list(d)


def _dict_unflatten(values: Any, context: list[Any]) -> dict[Any, Any]:
    return dict(zip(context, values, strict=True))


def _dict_flatten_with_keys(d: dict[Any, Any]) -> tuple[list[tuple[MappingKey, Any]], list[Any]]:
    return [(MappingKey(key), value) for key, value in d.items()], list(d)


def _sequence_with_keys(nest: Any) -> tuple[list[tuple[SequenceKey, Any]], Any]:
    return [(SequenceKey(i), part) for i, part in enumerate(nest)], None


register_pytree_node(
    list,
    lambda nest: (nest, None),
    lambda parts, _: list(parts),
    flatten_with_keys_fn=_sequence_with_keys,
)
register_pytree_node(
    tuple,
    lambda nest: (list(nest), None),
    lambda parts, _: tuple(parts),
    flatten_with_keys_fn=_sequence_with_keys,
)
register_pytree_node(
    namedtuple,  # type: ignore[arg-type]
    lambda nest: (list(nest), type(nest)),
    lambda parts, cls: cls(*parts),
    flatten_with_keys_fn=lambda nest: (
        [(GetAttrKey(name), getattr(nest, name)) for name in nest._fields],
        type(nest),
    ),
)
register_pytree_node(
    deque,
    lambda nest: (list(nest), nest.maxlen),
    lambda parts, maxlen: deque(parts, maxlen=maxlen),
    flatten_with_keys_fn=lambda nest: (_sequence_with_keys(nest)[0], nest.maxlen),
)
register_pytree_node(dict, _dict_flatten, _dict_unflatten, flatten_with_keys_fn=_dict_flatten_with_keys)
register_pytree_node(
    OrderedDict,
    _dict_flatten,
    lambda parts, keys: OrderedDict(zip(keys, parts, strict=True)),
    flatten_with_keys_fn=_dict_flatten_with_keys,
)
register_pytree_node(
    defaultdict,
    lambda nest: (list(nest.values()), [nest.default_factory, list(nest)]),
    lambda parts, context: defaultdict(context[0], zip(context[1], parts, strict=True)),
    flatten_with_keys_fn=lambda nest: (_dict_flatten_with_keys(nest)[0], [nest.default_factory, list(nest)]),
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


def tree_map_only(kind: Any, func: Callable[[Any], Any], tree: Any, is_leaf: Any = None) -> Any:
    """:func:`tree_map` over leaves that are instances of ``kind`` (a type, a tuple of them, or a function that says
    which); others stay."""
    chosen = _chosen(kind)
    return tree_map(lambda leaf: func(leaf) if chosen(leaf) else leaf, tree, is_leaf=is_leaf)


def _chosen(kind: Any) -> Callable[[Any], bool]:
    if callable(kind) and not isinstance(kind, type):
        return kind  # type: ignore[no-any-return]
    return lambda leaf: isinstance(leaf, kind)


def tree_map_(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: Any = None) -> Any:
    """``func`` called for each leaf, for its effect; the nest itself is returned."""
    tree_map(func, tree, *rests, is_leaf=is_leaf)
    return tree


def tree_map_only_(kind: Any, func: Callable[[Any], Any], tree: Any, is_leaf: Any = None) -> Any:
    """:func:`tree_map_` over leaves of one kind."""
    tree_map_only(kind, func, tree, is_leaf)
    return tree


def tree_iter(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """The leaves, one after the other."""
    return iter(tree_leaves(tree, is_leaf))


def tree_structure(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> TreeSpec:
    """The nest's shape alone."""
    return tree_flatten(tree, is_leaf)[1]


def tree_is_leaf(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> bool:
    """Is this no container that is known here?"""
    return (is_leaf is not None and is_leaf(tree)) or _get_node_type(tree) not in SUPPORTED_NODES


def tree_all(pred: Callable[[Any], bool], tree: Any, is_leaf: Any = None) -> bool:
    """Is ``pred`` true of every leaf?"""
    return all(map(pred, tree_iter(tree, is_leaf)))


def tree_any(pred: Callable[[Any], bool], tree: Any, is_leaf: Any = None) -> bool:
    """Is ``pred`` true of any leaf?"""
    return any(map(pred, tree_iter(tree, is_leaf)))


def tree_all_only(kind: Any, pred: Callable[[Any], bool], tree: Any, is_leaf: Any = None) -> bool:
    """Is ``pred`` true of every leaf of one kind?"""
    return all(map(pred, filter(_chosen(kind), tree_iter(tree, is_leaf))))


def tree_any_only(kind: Any, pred: Callable[[Any], bool], tree: Any, is_leaf: Any = None) -> bool:
    """Is ``pred`` true of any leaf of one kind?"""
    return any(map(pred, filter(_chosen(kind), tree_iter(tree, is_leaf))))


def tree_leaves_with_path(tree: Any, is_leaf: Any = None) -> list[tuple[KeyPath, Any]]:
    """(path, leaf) for every leaf; a path is a tuple of keys from the outermost container on."""
    return list(_with_path((), tree, is_leaf))


def _with_path(path: KeyPath, tree: Any, is_leaf: Any) -> Iterator[tuple[KeyPath, Any]]:
    if tree_is_leaf(tree, is_leaf):
        yield path, tree
        return
    kind = _get_node_type(tree)
    flatten = SUPPORTED_NODES[kind].flatten_with_keys_fn
    if flatten is None:
        raise ValueError(
            f"{kind} was registered without flatten_with_keys_fn, which gives the keys of a path"
        )
    for key, part in flatten(tree)[0]:
        yield from _with_path((*path, key), part, is_leaf)


def tree_flatten_with_path(tree: Any, is_leaf: Any = None) -> tuple[list[tuple[KeyPath, Any]], TreeSpec]:
    """:func:`tree_flatten` with the path to each leaf.

    Example:
        >>> from fastdl.utils._pytree import keystr, tree_flatten_with_path
        >>> leaves, _ = tree_flatten_with_path({"a": [1, 2]})
        >>> [(keystr(path), leaf) for path, leaf in leaves]
        [("['a'][0]", 1), ("['a'][1]", 2)]
    """
    return tree_leaves_with_path(tree, is_leaf), tree_structure(tree, is_leaf)


def tree_map_with_path(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: Any = None) -> Any:
    """:func:`tree_map` of a function whose first argument is the path to the leaf."""
    paths = iter([path for path, _ in tree_leaves_with_path(tree, is_leaf)])
    return tree_map(lambda *values: func(next(paths), *values), tree, *rests, is_leaf=is_leaf)


def keystr(kp: KeyPath) -> str:
    """A path as Python writes it: ``['a'][0].b``."""
    return "".join(map(str, kp))


def key_get(obj: Any, kp: KeyPath) -> Any:
    """What lies at the end of a path."""
    for key in kp:
        obj = key.get(obj)
    return obj

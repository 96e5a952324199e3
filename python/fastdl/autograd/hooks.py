"""Hooks on the graph: on its nodes, on several gradients at once, on what operations keep for backward.

A node with hooks, or with values that were packed, has ``backward`` and ``backward_graph`` of its own in its
``__dict__``, which run the class's and what was asked for around it. All other nodes, and the walk, know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, local
from types import TracebackType
from typing import Any
from weakref import ref

from fastdl._graph import set_recorded
from fastdl.autograd.engine import watchers
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError, not_a_tensor
from fastdl.kernels import is_array
from fastdl.tensor import Tensor

__all__ = [
    "Node",
    "disable_saved_tensors_hooks",
    "increment_version",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]

Node = Op
"""What ``grad_fn`` is an instance of."""


class _Around:
    """What happens around one node's backward. It refers weakly to the node, which owns it."""

    def __init__(self, node: Op) -> None:
        self.node = ref(node)
        self.before: list[Callable[..., Any]] = []
        self.after: list[Callable[..., Any]] = []
        self.packed: dict[str, Any] = {}
        self.unpack: Any = None
        node.__dict__.update(around=self, backward=self.backward, backward_graph=self.backward_graph)

    def backward(self, *grads: Any) -> Any:
        return self._run("backward", grads, _tensor, _array)

    def backward_graph(self, *grads: Any) -> Any:
        return self._run("backward_graph", grads, _same, _same)

    def _run(self, name: str, grads: Any, tensor: Any, plain: Any) -> Any:
        node: Any = self.node()
        for hook in list(self.before):
            changed = hook(tuple([tensor(g) for g in grads]))
            if changed is not None:
                grads = tuple([plain(g) for g in _replacement("register_prehook", changed, len(grads))])
        kept = node.__dict__
        if self.packed:
            node.__dict__ = {**kept, **self._unpacked()}
        try:
            result = getattr(type(node), name)(node, *grads)
        finally:
            node.__dict__ = kept
        if not self.after:
            return result
        several = result.__class__ is tuple
        results = tuple([tensor(g) for g in (result if several else (result,))])
        outputs = tuple([tensor(g) for g in grads])
        for hook in list(self.after):
            changed = hook(results, outputs)
            if changed is not None:
                results = _replacement("register_hook", changed, len(results))
        given = tuple([plain(g) for g in results])
        return given if several else given[0]

    def pack(self, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
        """Give every array that the node keeps to ``pack``, and keep what that returns."""
        own = self.node().__dict__
        self.unpack = unpack
        for name, value in list(own.items()):
            if is_array(value):
                self.packed[name], own[name] = pack(Tensor._wrap(value)), None

    def _unpacked(self) -> dict[str, Any]:
        arrays = {}
        for name, value in self.packed.items():
            tensor = self.unpack(value)
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"saved_tensors_hooks: unpack_hook must return a Tensor, got {type(tensor).__name__}"
                )
            arrays[name] = tensor._data
        return arrays


def _tensor(array: Any) -> Tensor | None:
    return None if array is None else Tensor._wrap(array)


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor._data


def _same(tensor: Tensor | None) -> Tensor | None:
    return tensor


def _replacement(what: str, given: Any, count: int) -> tuple[Any, ...]:
    gradients = given if isinstance(given, tuple) else (given,)
    if len(gradients) != count:
        raise RuntimeError(
            f"{what}: the hook returned {len(gradients)} gradients, the node has {count} of them here; return None to "
            "change nothing"
        )
    return gradients


def around(node: Op) -> _Around:
    """The node's :class:`_Around`, made at the first call."""
    have = node.__dict__.get("around")
    if have is None:
        have = _Around(node)
        # Hooks may keep what they were given.
        node.aliases_grad, node.hands_on, node.adds_into = True, False, None  # type: ignore[misc]
    return have


# --------------------------------------------------------------------------------------------- several gradients


class Handles:
    """The handle of a hook on several tensors."""

    def __init__(self, removals: Sequence[Callable[[], Any]]) -> None:
        self._removals = removals

    def remove(self) -> None:
        """Take the hook out; a second call does nothing."""
        removals, self._removals = self._removals, ()
        for removal in removals:
            removal()

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class _Gathering:
    """Calls ``function`` once in every backward: with all gradients that will come, or with the first."""

    def __init__(self, tensors: Sequence[Tensor], function: Callable[..., Any], mode: str) -> None:
        self.places = [(ref(t), -1) if t._node is None else (ref(t._node), t._index) for t in tensors]
        self.function, self.mode = function, mode
        self.walks: list[
            tuple[list[Tensor | None], list[int]]
        ] = []  # gradients, and how many are still to come

    def begin(self, edges: set[tuple[Any, int]]) -> None:
        """A walk begins, and gradients will go along ``edges``."""
        alive = [(target(), index) for target, index in self.places]
        if all([target is None for target, _ in alive]):
            watchers.remove(self)
        self.walks.append(([None] * len(alive), [sum([place in edges for place in alive])]))

    def end(self) -> None:
        """The walk is over."""
        self.walks.pop()

    def arrived(self, i: int, grad: Tensor) -> None:
        """The gradient of tensor ``i``."""
        gradients, left = self.walks[-1]
        if self.mode == "any":
            if left[0]:
                left[0] = 0
                self.function(grad)
            return
        gradients[i] = grad
        left[0] -= 1
        if left[0] == 0:
            self.function(gradients)


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[..., Any], *, mode: str = "all"
) -> Handles:
    """Call ``fn(grads)`` in every backward when the gradients of all ``tensors`` that get one are there.

    ``grads`` has one entry for each tensor, None where none comes. With ``mode="any"`` it is ``fn(grad)``, with the
    first that comes. See ``torch.autograd.graph.register_multi_grad_hook``.

    Example:
        >>> import fastdl
        >>> a, b = fastdl.ones(1, requires_grad=True), fastdl.ones(1, requires_grad=True)
        >>> handle = fastdl.autograd.graph.register_multi_grad_hook((a, b), print)
        >>> (a * 2 + b * 3).sum().backward()
        [tensor([2.]), tensor([3.])]
    """
    if mode not in ("all", "any"):
        raise ArgumentError(f"register_multi_grad_hook: mode must be 'all' or 'any', got {mode!r}")
    gathering = _Gathering(tensors, fn, mode)
    removals: list[Callable[[], Any]] = [
        lambda: watchers.remove(gathering) if gathering in watchers else None
    ]
    for i, t in enumerate(tensors):
        removals.append(t.register_hook(lambda grad, i=i: gathering.arrived(i, grad)).remove)  # type: ignore[misc]
    watchers.append(gathering)
    return Handles(removals)


# ---------------------------------------------------------------------------------------------------- saved tensors


class _Packing(local):
    """A thread's hooks, the innermost last, and why there may be none."""

    def __init__(self) -> None:
        self.hooks: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = []
        self.refused: str | None = None


_packing = _Packing()
_blocks = 0  # of all threads; while there are any, nodes are looked at
_counting = Lock()


def _pack(node: Op) -> None:
    if _packing.hooks:
        around(node).pack(*_packing.hooks[-1])
        node.versions = None  # what was packed is the hooks' matter, as in PyTorch


def _count_blocks(change: int) -> None:
    global _blocks
    with _counting:
        _blocks += change
        set_recorded(_pack if _blocks else None)


class saved_tensors_hooks:
    """Inside the block ``pack_hook(tensor)`` is called on what operations keep for backward, and its result is kept.

    The hooks are the thread's that entered the block.

    Backward calls ``unpack_hook`` on that to have the tensor again. What a :class:`~fastdl.autograd.Function` saves
    stays as it is, and so does what a fused layer keeps in a form of its own (several arrays in a list). See
    ``torch.autograd.graph.saved_tensors_hooks``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([2.0, 3.0], requires_grad=True)
        >>> with fastdl.autograd.graph.saved_tensors_hooks(lambda t: t.half(), lambda t: t.float()):
        ...     y = (x * x).sum()
        >>> y.backward()
        >>> x.grad
        tensor([4., 6.])
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]) -> None:
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self) -> None:
        if _packing.refused is not None:
            raise RuntimeError(_packing.refused)
        _packing.hooks.append((self.pack_hook, self.unpack_hook))
        _count_blocks(1)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _packing.hooks.pop()
        _count_blocks(-1)


class save_on_cpu(saved_tensors_hooks):
    """Inside the block what operations keep for backward lies in the CPU's memory, also that of operations on a GPU.

    See ``torch.autograd.graph.save_on_cpu``.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(lambda t: (t.device, t.cpu()), lambda kept: kept[1].to(kept[0]))


@contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """Inside the block hooks on saved tensors are an error with this text, also those that are there already.

    See ``torch.autograd.graph.disable_saved_tensors_hooks``.
    """
    if _packing.hooks:
        raise RuntimeError(error_message)
    before, _packing.refused = _packing.refused, error_message
    try:
        yield
    finally:
        _packing.refused = before


def increment_version(tensor: Tensor | Iterable[Tensor]) -> None:
    """Say that a tensor, or several, were changed in place by other means: backward refuses what it kept of them.

    See ``torch.autograd.graph.increment_version``.

    Example:
        >>> import fastdl
        >>> x = fastdl.ones(2)
        >>> x.numpy()[0] = 5
        >>> fastdl.autograd.graph.increment_version(x)
        >>> x._version
        1
    """
    for each in (tensor,) if isinstance(tensor, Tensor) else tensor:
        if not isinstance(each, Tensor):
            raise not_a_tensor("increment_version", "tensor", each)
        each._bump_version()

"""Memory for time: what a part of a model computes is forgotten and computed again in backward.

See ``torch.utils.checkpoint``.

The part runs once with recording. Its graph is walked to find where it ends, in leaves (also parameters that only the
function knows) and in nodes that were there before, and is then replaced by one node with edges to these ends. Backward
runs the part again and gradients through that: they return by the edges as those of any operation, so
``autograd.grad``, hooks and second derivatives see a checkpointed part as they see others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from fastdl import cuda
from fastdl._graph import next_order
from fastdl.amp.autocast import restored
from fastdl.autograd.engine import run
from fastdl.autograd.graph import run_graph
from fastdl.autograd.mode import enable_grad, is_grad_enabled, mode
from fastdl.autograd.op import Link, Op
from fastdl.random import get_rng_state, set_rng_state
from fastdl.tensor import Tensor

__all__ = [
    "CheckpointError",
    "checkpoint",
    "checkpoint_sequential",
    "get_device_states",
    "noop_context_fn",
    "set_checkpoint_early_stop",
    "set_device_states",
]


class CheckpointError(RuntimeError):
    """The second run did not do what the first one did."""


def noop_context_fn() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts that do nothing, for both runs."""
    return nullcontext(), nullcontext()


def set_checkpoint_early_stop(enable: bool) -> AbstractContextManager[None]:
    """Accepted for compatibility: the second run always goes to the function's end."""
    return nullcontext()


class Checkpoint(Op):
    """The node in place of a part's graph."""

    aliases_grad = True
    takes_complex = True
    materialize = False

    part: Callable[[], Any]
    state: Any  # of the random numbers before the part, or None
    casts: Any  # the autocast that it ran in
    context: AbstractContextManager[Any]  # the user's, to run it in again

    def again(self) -> tuple[list[Tensor], list[Tensor]]:
        """The part's results, and its ends, as tensors of a graph of its own."""
        edges = self.edges or ()
        links: dict[Any, tuple[Link, int]] = {}
        for edge in edges:
            link = Link()
            link.needs, link.order, link.edges = (True,), next_order(), (edge,)
            links[edge] = link, 0
        born = next_order()
        after = get_rng_state()
        if self.state is not None:
            set_rng_state(self.state)
        with enable_grad(), _casts(self.casts), self.context:
            results = _made_since(born, self.part())
        set_rng_state(after)
        if len(results) != self.outputs:
            raise CheckpointError(
                f"checkpoint: the function gave {self.outputs} results that need a gradient, and {len(results)} when "
                "it was called again in backward; it must do the same every time"
            )
        for node in _nodes_since(born, results):
            node.edges = [links.get(edge, edge) for edge in node.edges or ()]
        ends = []
        for link, _ in links.values():
            end = Tensor._wrap(results[0]._data)  # of an end only the place in the graph is looked at
            end._requires_grad, end._node = True, link
            ends.append(end)
        return results, ends

    def backward(self, *grads: Any) -> Any:
        return self._through(run, False, grads)

    def backward_graph(self, *grads: Any) -> Any:
        return self._through(run_graph, True, grads)

    def _through(self, walk: Callable[..., list[Any]], retain_graph: bool, grads: tuple[Any, ...]) -> Any:
        results, ends = self.again()
        pairs = [(y, g) for y, g in zip(results, grads, strict=True) if g is not None]
        wanted = [end for end, need in zip(ends, self.needs, strict=True) if need]
        found = iter(walk([y for y, _ in pairs], [g for _, g in pairs], retain_graph, wanted))
        return tuple([next(found) if need else None for need in self.needs])


def _casts(settings: Any) -> Any:
    return nullcontext() if settings is None and mode.autocast is None else restored(settings)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it changed; what is in objects of other classes stays."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (dict, OrderedDict):
        return type(value)([(key, _mapped(item, change)) for key, item in value.items()])
    if type(value) in (list, tuple):
        return type(value)([_mapped(item, change) for item in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_mapped(item, change) for item in value])
    return value


def _made_since(born: int, value: Any) -> list[Tensor]:
    """The tensors in ``value`` that nodes younger than ``born`` made (orders count down)."""
    found: list[Tensor] = []

    def look(t: Tensor) -> Tensor:
        if t._node is not None and t._node.order < born:
            found.append(t)
        return t

    _mapped(value, look)
    return found


def _nodes_since(born: int, results: Sequence[Tensor]) -> Iterable[Op]:
    """The nodes younger than ``born`` that ``results`` were made by."""
    seen: dict[Op, None] = dict.fromkeys([t._node for t in results if t._node is not None])
    stack = list(seen)
    while stack:
        for edge in stack.pop().edges or ():
            if edge is not None and edge[1] >= 0 and edge[0].order < born and edge[0] not in seen:
                seen[edge[0]] = None
                stack.append(edge[0])
    return seen


def _kept(t: Tensor) -> Tensor:
    """``t`` at its place in the graph: a change in place of ``t`` itself may put it behind the node that keeps it."""
    if t._node is None:
        return t
    alias = Tensor._wrap(t._data)
    alias._requires_grad, alias._node, alias._index, alias._counter = (
        True,
        t._node,
        t._index,
        t._version_cell(),
    )
    return alias


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)``, of which only the arguments are kept; backward computes the rest a second time.

    Args:
        function: a module or function. Random numbers (dropout) are drawn the same the second time, and autocast is as
            it was the first time.
        args: its arguments; a tensor among them must not be changed in place before backward.
        use_reentrant: accepted for compatibility; the result is that of ``use_reentrant=False``.
        preserve_rng_state: whether the second run sees the random state of the first.
        context_fn: gives two context managers, for the first and for the second run.
        determinism_check, debug, early_stop: accepted for compatibility.
        kwargs: the function's other arguments.

    What the function returns may be a tensor or tuples, lists and dictionaries of tensors. See
    ``torch.utils.checkpoint.checkpoint``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
        >>> checkpoint(lambda t: t.exp() * t, x, use_reentrant=False).sum().backward()
        >>> [round(g, 4) for g in x.grad.tolist()]
        [5.4366, 22.1672]
    """
    if use_reentrant and (context_fn is not noop_context_fn or debug):
        raise ValueError("checkpoint: context_fn and debug are for use_reentrant=False")
    if not is_grad_enabled():
        return function(*args, **kwargs)
    node = Checkpoint()
    first, node.context = context_fn()
    node.state, node.casts = get_rng_state() if preserve_rng_state else None, mode.autocast
    args, kwargs = _mapped(args, _kept), _mapped(kwargs, _kept)
    node.part = partial(function, *args, **kwargs)
    born = next_order()
    with _casts(node.casts), first:
        value = node.part()
    results = _made_since(born, value)
    if not results:
        return value
    ends: dict[Any, None] = {}
    for inner in _nodes_since(born, results):
        for edge in inner.edges or ():
            if edge is not None and (edge[1] < 0 or edge[0].order > born):
                ends[edge] = None
    node.order, node.edges = next_order(), tuple(ends)
    node.needs, node.outputs = (True,) * len(ends), len(results)

    def watched(t: Tensor) -> Tensor:
        node.keep_tensor(t)
        return t

    _mapped((args, kwargs), watched)
    place = {id(t): i for i, t in reversed(list(enumerate(results)))}

    def replaced(t: Tensor) -> Tensor:
        if id(t) not in place:
            return t
        output = Tensor._wrap(t._data)
        output._requires_grad, output._node, output._index = True, node, place[id(t)]
        output._counter = t._version_cell()
        return output

    return _mapped(value, replaced)


def checkpoint_sequential(
    functions: Any, segments: int, input: Tensor, use_reentrant: bool | None = None, **kwargs: Any
) -> Tensor:
    """The modules of a Sequential in ``segments`` parts, all but the last checkpointed.

    See ``torch.utils.checkpoint.checkpoint_sequential``.
    """
    modules = list(functions)
    size = max(len(modules) // segments, 1)

    def part(first: int, last: int) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            for module in modules[first:last]:
                x = module(x)
            return x

        return run

    starts = [i * size for i in range(segments - 1)]
    for start in starts:
        input = checkpoint(part(start, start + size), input, use_reentrant=use_reentrant, **kwargs)
    return part(len(starts) * size, len(modules))(input)


def get_device_states(*args: Any) -> tuple[list[int], list[Tensor]]:
    """The GPU's number and its random numbers' state if there is a GPU tensor among the arguments; else empty lists.

    See ``torch.utils.checkpoint.get_device_states``.
    """
    if any(isinstance(a, Tensor) and a.is_cuda for a in args):
        return [0], [cuda.get_rng_state()]
    return [], []


def set_device_states(devices: Sequence[int], states: Sequence[Tensor], *, device_type: Any = None) -> None:
    """Put back what :func:`get_device_states` returned. See ``torch.utils.checkpoint.set_device_states``."""
    for _, state in zip(devices, states, strict=True):
        cuda.set_rng_state(state)

"""Backward: walk the graph from the newest node to the oldest, add up gradients, hand them to the leaves.

Nodes are taken from a heap by the order of their creation: a node is older than everything made from it, so all its
gradients have arrived when its turn comes. There is no recursion, so depth is no limit. A gradient array is changed in
place only when the engine made it itself; ``owned`` holds the slots for which that is so. A node that passes such an
array on to one input (``hands_on``: x + 1) passes this right on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from sys import getrefcount
from typing import Any

from fastdl.arrays import add_arrays
from fastdl.autograd import anomaly
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.kernels import select
from fastdl.kernels.sparse import SparseArray
from fastdl.tensor import Tensor
from fastdl.tensor_autograd import RetainGrad

watchers: list[Any] = []
"""Who wants to know before a walk where it will go: ``begin(edges)`` and ``end()`` are called."""


def run(
    roots: Sequence[Tensor],
    gradients: Sequence[Any],
    retain_graph: bool,
    wanted: Sequence[Tensor] | None = None,
) -> list[Any]:
    """Propagate ``gradients`` (arrays) of ``roots``.

    With ``wanted`` None the leaves' ``.grad`` is accumulated. Otherwise nothing is: the gradients that reach the
    wanted tensors are returned, None where none did; only nodes on the way to them run, and each is asked for the
    gradients of those of its inputs that lie there.
    """
    before = mode.enabled
    mode.enabled = False  # hooks and users' backward compute on tensors: not part of any graph
    try:
        if watchers:
            return watched(_run, roots, gradients, retain_graph, wanted)  # type: ignore[no-any-return]
        return _run(roots, gradients, retain_graph, wanted)
    except Exception as error:
        if anomaly.state.enabled:
            anomaly.tell(error)
        raise
    finally:
        mode.enabled = before


def watched(walk: Any, roots: Sequence[Tensor], gradients: Any, retain_graph: bool, wanted: Any) -> Any:
    """``walk``, with the ``watchers`` told of its edges."""
    edges = {edge_to(root) for root in roots}
    _, needed = destinations(roots, wanted)
    stack = list(edges)
    while stack:
        node = stack.pop()[0]
        for edge in () if isinstance(node, Tensor) else node.edges or ():
            if edge is not None and edge not in edges and (needed is None or edge[0] in needed):
                edges.add(edge)
                stack.append(edge)
    begun = list(watchers)
    for watcher in begun:
        watcher.begin(edges)
    try:
        return walk(roots, gradients, retain_graph, wanted)
    finally:
        for watcher in begun:
            watcher.end()


def _run(
    roots: Sequence[Tensor], gradients: Sequence[Any], retain_graph: bool, wanted: Sequence[Tensor] | None
) -> list[Any]:
    """:func:`run`, with recording switched off: seed the roots, walk from node to node, deliver to the leaves.

    One loop and few calls, as a small network's step is mostly this function.
    """
    # Gradients on their way: of a leaf or a node with one output the array itself, of other nodes a list.
    pending: dict[Any, Any] = {}
    owned: set[Any] = set()  # keys of `pending`, or (node, index), whose arrays the engine may change
    heap: list[tuple[int, Op]] = []  # nodes with a gradient, the newest first
    leaves: list[Tensor] = []  # leaves with a gradient
    wanted_at, needed = destinations(roots, wanted)
    results: list[Any] = [] if wanted is None else [None] * len(wanted)

    def send(target: Any, index: int, grad: Any, own: bool) -> None:
        if target not in pending:
            if needed is not None and target not in needed:
                return
            if index < 0:
                leaves.append(target)
            else:
                heappush(heap, (target.order, target))
                if target.outputs > 1:
                    pending[target] = [None] * target.outputs
                    pending[target][index] = grad
                    if own:
                        owned.add((target, index))
                    return
            pending[target] = grad
            if own:
                owned.add(target)
            return
        several = index >= 0 and target.outputs > 1
        slots: Any = pending[target] if several else pending
        key, place = ((target, index), index) if several else (target, target)
        have = slots[place]
        if have is None:
            slots[place] = grad
            if own:
                owned.add(key)
        elif key in owned and have.ndim:  # of 0 dimensions the reference's kernels give NumPy's scalars
            slots[place] = add_arrays(have, grad, have)
        else:
            slots[place] = add_arrays(have, grad, select(have).empty(have.shape, have.dtype))
            owned.add(key)

    for root, grad in zip(roots, gradients, strict=True):
        if root._node is None:
            send(root, -1, grad, False)
        else:
            send(root._node, root._index, grad, False)

    check_nan = anomaly.state.enabled and anomaly.state.check_nan
    while heap:
        node = heappop(heap)[1]
        grad = pending.pop(node)
        edges: Any = node.edges
        if node.hooks is not None:
            grad = _call_hooks(node.hooks, grad) if node.outputs > 1 else _call_hooks(node.hooks, [grad])[0]
        if needed is not None:
            for index in range(node.outputs):
                for i in wanted_at.get((node, index), ()):
                    results[i] = grad if node.outputs == 1 else grad[index]
            asked = leading_to(needed, edges)
            if True not in asked:
                continue
        for cell, version in node.versions or ():
            if cell[0] != version:
                node.check_versions()  # says so
        if node.adds_into is not None and not check_nan and _added_to_whole(node, grad, pending, owned):
            if not retain_graph:
                node.release()
            continue
        handed = None
        if node.hands_on and needed is None and node.hooks is None and node in owned:
            handed = grad
        if needed is None or asked == node.needs:
            result = (
                node.backward(grad) if node.outputs == 1 else node.backward(*filled(node, grad, stand_in))
            )
        else:
            with node.narrowed(asked):
                result = node.backward(*([grad] if node.outputs == 1 else filled(node, grad, stand_in)))
        if check_nan:
            anomaly.check(node, result)
        own = not node.aliases_grad
        if result.__class__ is tuple:
            pairs: Any = zip(edges, result, strict=True)
            if handed is not None and sum([given is handed for given in result]) > 1:
                handed = None
        else:
            pairs = ((edges[0], result),)
        for edge, grad in pairs:
            if edge is None or grad is None:
                continue
            target, index = edge
            if needed is None and target not in pending and (index < 0 or target.outputs == 1):
                # The most frequent case of `send`, without the call: a first gradient, and the only one of its kind.
                if index < 0 and target._grad is not None and adds_at_once(target):
                    target._accumulate(grad, own or grad is handed)
                    continue
                pending[target] = grad
                if own or grad is handed:
                    owned.add(target)
                if index < 0:
                    leaves.append(target)
                else:
                    heappush(heap, (target.order, target))
            else:
                send(target, index, grad, own or grad is handed)
        if not retain_graph:
            node.release()
        del result, pairs, grad, handed  # none of them is kept while the next node computes

    for leaf in leaves:
        grad = pending.pop(leaf)
        own = leaf in owned
        if leaf._hooks is not None:
            replaced = _call_hooks(leaf._hooks, [grad])[0]
            own = own and replaced is grad
            grad = replaced
        if wanted is not None:
            for i in wanted_at.get((leaf, -1), ()):
                results[i] = grad
        else:
            leaf._accumulate(grad, own)
            if leaf._post_hooks is not None:
                for hook in list(leaf._post_hooks):
                    hook(leaf)
    return results


def _added_to_whole(node: Op, grad: Any, pending: dict[Any, Any], owned: set[Any]) -> bool:
    """Was the gradient of a part of a tensor (``x[:, t]``) added to that of the whole?

    It can be if the whole's gradient has begun, in an array of the engine's own: then no array of zeros is made for
    every part.
    """
    edge = node.edges[0]  # type: ignore[index]
    if edge is None:
        return False
    if edge in owned:
        whole = pending[edge[0]][edge[1]]
    elif edge[0] in owned:
        whole = pending[edge[0]]
    else:
        return False
    return whole.__class__ is not SparseArray and whole.ndim and node.adds_into(whole, grad)


def adds_at_once(leaf: Tensor) -> bool:
    """May what arrives be added to a leaf's ``.grad`` at once, so that no second set of gradients is kept?

    Not where the leaf has hooks, which want to see the sum, nor where somebody else (the graph, too) refers to the
    array in ``.grad``, and counts on its values.
    """
    return leaf._hooks is leaf._post_hooks is None and getrefcount(leaf._grad._data) == 2  # type: ignore[union-attr]


def edge_to(t: Tensor) -> tuple[Any, int]:
    """Where the gradient of ``t`` goes: (the leaf itself, -1), or (the node that made it, which of its outputs)."""
    return (t, -1) if t._node is None else (t._node, t._index)


def destinations(
    roots: Sequence[Tensor], wanted: Sequence[Tensor] | None
) -> tuple[dict[tuple[Any, int], list[int]], set[Any] | None]:
    """Edge -> places in ``wanted`` of the tensors it leads to; and the nodes and leaves on the way there.

    Without ``wanted`` all leaves are meant: no edges, and None.
    """
    wanted_at: dict[tuple[Any, int], list[int]] = {}
    if wanted is None:
        return wanted_at, None
    for i, t in enumerate(wanted):
        wanted_at.setdefault(edge_to(t), []).append(i)
    return wanted_at, _on_the_way(roots, {target for target, _ in wanted_at})


def _on_the_way(roots: Sequence[Tensor], targets: set[Any]) -> set[Any]:
    """Nodes and leaves between the roots and the targets, both included."""
    needed = set(targets)
    seen: set[Any] = set()
    # What is older than every target (its number is greater) does not lead to one; a leaf has no age.
    oldest = max([t.order if isinstance(t, Op) else 1 for t in targets], default=1)
    # Edges lead to older nodes only: a node visited after all older ones knows whether it leads to a target.
    found: list[Op] = []
    stack = [root._node for root in roots if root._node is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        found.append(node)
        stack.extend(
            [
                e[0]
                for e in node.edges or ()
                if e is not None and isinstance(e[0], Op) and e[0].order <= oldest
            ]
        )
    found.sort(key=lambda node: node.order, reverse=True)  # oldest first
    for node in found:
        if True in leading_to(needed, node.edges or ()):
            needed.add(node)
    return needed


def leading_to(needed: set[Any], edges: Sequence[tuple[Any, int] | None]) -> tuple[bool, ...]:
    """Which of a node's edges stay among the ``needed`` nodes and leaves."""
    return tuple([edge is not None and edge[0] in needed for edge in edges])


def filled(node: Op, grads: list[Any], zeros: Callable[..., Any]) -> list[Any]:
    """``zeros(shape, dtype, like)`` in place of gradients that never came, for nodes that ask for them."""
    if not node.materialize:
        return grads
    like = next(grad for grad in grads if grad is not None)
    return [
        zeros(shape, dtype, like) if grad is None and dtype.kind in DIFFERENTIABLE else grad
        for grad, (shape, dtype) in zip(grads, node.shapes, strict=True)
    ]


def stand_in(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """Zeros where the array ``like`` lies, in place of an array that never came or whose values do not matter."""
    array = select(like).empty(shape, dtype)
    array.fill(0)
    return array


def _call_hooks(hooks: Sequence[tuple[int, Any]], grads: list[Any]) -> list[Any]:
    tensors = [None if grad is None else Tensor._wrap(grad) for grad in grads]
    return [None if grad is None else grad._data for grad in replaced_by_hooks(hooks, tensors)]


def replaced_by_hooks(
    hooks: Sequence[tuple[int, Any]], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of a node's outputs after its hooks, each called with what the one before left."""
    grads = list(grads)
    for index, hook in list(hooks):
        grad = grads[index]
        if grad is None:
            continue
        replacement = hook(grad)
        if replacement is None or isinstance(hook, RetainGrad):
            continue
        if not isinstance(replacement, Tensor):
            raise TypeError(f"hook: must return a Tensor or None, got {type(replacement).__name__}")
        if replacement.shape != grad.shape:
            raise RuntimeError(
                f"hook: the returned gradient has shape {tuple(replacement.shape)}, expected {grad.shape}"
            )
        grads[index] = replacement
    return grads

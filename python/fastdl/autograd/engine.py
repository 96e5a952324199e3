"""Backward: walk the graph from the newest node to the oldest, add up gradients, hand them to the leaves.

Nodes are taken from a heap by creation number: a node is older than everything made from it, so all its
gradients have arrived when it is taken. No recursion: depth is no limit. A gradient array is changed in place
only when the engine made it itself; `owned` holds the slots for which that is so.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from fastdl.autograd.op import Op
from fastdl.kernels import select
from fastdl.tensor import Tensor


def run(
    roots: Sequence[Tensor],
    gradients: Sequence[Any],
    retain_graph: bool,
    wanted: Sequence[Tensor] | None = None,
) -> list[Any]:
    """Propagate ``gradients`` (arrays) of ``roots``.

    With ``wanted`` None the leaves' ``.grad`` is accumulated. Otherwise nothing is: the gradients that reach the
    wanted tensors are returned, None where none did.
    """
    pending: dict[Any, list[Any]] = {}  # node or leaf -> one gradient per output
    owned: set[tuple[int, int]] = set()  # (id of node or leaf, output index)
    heap: list[tuple[int, Op]] = []
    leaves: list[Tensor] = []

    def send(target: Any, index: int, grad: Any, own: bool) -> None:
        slots = pending.get(target)
        if slots is None:
            if isinstance(target, Tensor):
                leaves.append(target)
                slots = [None]
            else:
                heappush(heap, (target.order, target))
                slots = [None] * target.outputs
            pending[target] = slots
        have = slots[index]
        if have is None:
            slots[index] = grad
            if own:
                owned.add((id(target), index))
        elif (id(target), index) in owned:
            have += grad
        else:
            slots[index] = _sum(have, grad)
            owned.add((id(target), index))

    for root, grad in zip(roots, gradients, strict=True):
        if root._node is None:
            send(root, 0, grad, False)
        else:
            send(root._node, root._index, grad, False)
    wanted_at: dict[tuple[int, int], list[int]] = {}
    results: list[Any] = []
    if wanted is not None:
        results = [None] * len(wanted)
        for i, t in enumerate(wanted):
            wanted_at.setdefault((id(t) if t._node is None else id(t._node), t._index), []).append(i)

    while heap:
        node = heappop(heap)[1]
        grads = pending.pop(node)
        edges = node.edges
        if edges is None:
            raise RuntimeError(
                f"{node.name}: trying to backward through the graph a second time (its saved values were freed by "
                "the first). Call backward(retain_graph=True) the first time if the graph is needed again"
            )
        if node.hooks is not None:
            grads = _call_hooks(node.hooks, grads)
        if wanted_at:
            for index in range(node.outputs):
                for i in wanted_at.get((id(node), index), ()):
                    results[i] = grads[index]
        if node.versions is not None:
            node.check_versions()
        if node.outputs == 1:
            result = node.backward(grads[0])
        else:
            result = node.backward(*_fill(grads, node.shapes))
        own = not node.aliases_grad
        if type(result) is not tuple:
            result = (result,)
        for edge, grad in zip(edges, result, strict=True):
            if edge is not None and grad is not None:
                send(edge[0], edge[1], grad, own)
        if not retain_graph:
            node.release()

    for leaf in leaves:
        (grad,) = pending[leaf]
        own = (id(leaf), 0) in owned
        if leaf._hooks is not None:
            (grad,) = _call_hooks(leaf._hooks, [grad])
            own = False
        if wanted is not None:
            for i in wanted_at.get((id(leaf), 0), ()):
                results[i] = grad
        else:
            leaf._accumulate(grad, own)
    return results


def _sum(a: Any, b: Any) -> Any:
    return np.add(a, b, out=select(a).empty(a.shape, a.dtype))


def _fill(grads: list[Any], shapes: Sequence[tuple[tuple[int, ...], Any]]) -> list[Any]:
    """Zeros in place of gradients that never came, so that backward of several outputs sees arrays only."""
    filled = []
    for grad, (shape, dtype) in zip(grads, shapes, strict=True):
        if grad is None and dtype.kind == "f":
            grad = select(None).empty(shape, dtype)
            grad.fill(0)
        filled.append(grad)
    return filled


def _call_hooks(hooks: Sequence[tuple[int, Any]], grads: list[Any]) -> list[Any]:
    grads = list(grads)
    for index, hook in hooks:
        if grads[index] is None:
            continue
        replacement = hook(Tensor._wrap(grads[index]))
        if replacement is not None:
            if replacement.shape != grads[index].shape:
                raise RuntimeError(
                    f"hook: the returned gradient has shape {tuple(replacement.shape)}, expected {grads[index].shape}"
                )
            grads[index] = replacement._data
    return grads

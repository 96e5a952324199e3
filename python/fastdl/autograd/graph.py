"""Backward that makes a graph itself: ``create_graph=True``, the way to second and higher derivatives.

The walk is the engine's, with tensors in the place of arrays: every node is asked for ``backward_graph``, its
backward in operations that record. What a node kept as arrays becomes tensors of the graph again
(:meth:`Op.saved_input`, :meth:`Op.saved_output`). A rule is written in one of three ways, each closed under
further differentiation:

- as a formula on tensors, for what is elementwise or a few products;
- by :func:`linear_backward`, for operations that are linear in their inputs: the derivative of the backward kernel is
  the forward one, and the other way round, for ever;
- by :func:`replay`, for fused operations: their forward once more, composed of others, and backward through that.

Programs know this module for its hooks (``torch.autograd.graph``), which ``hooks.py`` defines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.autograd import anomaly
from fastdl.autograd.edges import GradientEdge as GradientEdge
from fastdl.autograd.edges import get_gradient_edge as get_gradient_edge
from fastdl.autograd.engine import (
    destinations,
    edge_to,
    filled,
    leading_to,
    replaced_by_hooks,
    stand_in,
    watched,
    watchers,
)
from fastdl.autograd.hooks import Node as Node
from fastdl.autograd.hooks import disable_saved_tensors_hooks as disable_saved_tensors_hooks
from fastdl.autograd.hooks import increment_version as increment_version
from fastdl.autograd.hooks import register_multi_grad_hook as register_multi_grad_hook
from fastdl.autograd.hooks import save_on_cpu as save_on_cpu
from fastdl.autograd.hooks import saved_tensors_hooks as saved_tensors_hooks
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Link, Op
from fastdl.tensor import Tensor


def run_graph(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor],
    retain_graph: bool,
    wanted: Sequence[Tensor] | None = None,
) -> list[Tensor | None]:
    """:func:`fastdl.autograd.engine.run` on tensors, recorded: results can be differentiated."""
    before = mode.enabled
    mode.enabled = True
    try:
        if watchers:
            return watched(_run_graph, roots, gradients, retain_graph, wanted)  # type: ignore[no-any-return]
        return _run_graph(roots, gradients, retain_graph, wanted)
    except Exception as error:
        if anomaly.state.enabled:
            anomaly.tell(error)
        raise
    finally:
        mode.enabled = before


def _run_graph(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor],
    retain_graph: bool,
    wanted: Sequence[Tensor] | None,
) -> list[Tensor | None]:
    pending: dict[Any, list[Tensor | None]] = {}  # of a leaf or node: the gradients of its outputs so far
    heap: list[tuple[int, Op]] = []
    leaves: list[Tensor] = []
    wanted_at, needed = destinations(roots, wanted)
    results: list[Tensor | None] = [] if wanted is None else [None] * len(wanted)

    def send(target: Any, index: int, grad: Tensor) -> None:
        slots = pending.get(target)
        if slots is None:
            if needed is not None and target not in needed:
                return
            if index < 0:
                leaves.append(target)
            else:
                heappush(heap, (target.order, target))
            slots = pending[target] = [None] * (1 if index < 0 else target.outputs)
        place = max(index, 0)
        have = slots[place]
        slots[place] = grad if have is None else have + grad

    for root, grad in zip(roots, gradients, strict=True):
        send(*edge_to(root), grad)

    while heap:
        node = heappop(heap)[1]
        grads = pending.pop(node)
        edges: Any = node.edges
        if node.hooks is not None:
            grads = replaced_by_hooks(node.hooks, grads)
        if needed is not None:
            for index, grad_or_none in enumerate(grads):
                for i in wanted_at.get((node, index), ()):
                    results[i] = grad_or_none
        asked = node.needs if needed is None else leading_to(needed, edges)
        if True not in asked:
            continue
        if node.versions is not None:
            node.check_versions()
        with node.narrowed(asked):
            result = node.backward_graph(*(grads if node.outputs == 1 else filled(node, grads, zeros)))
        result = result if result.__class__ is tuple else (result,)
        if node.flat:
            result = _with_flat(node, edges, result)
        if anomaly.state.enabled and anomaly.state.check_nan:
            anomaly.check(node, tuple([None if g is None else g._data for g in result]))
        for edge, grad_or_none in zip(edges, result, strict=True):
            if edge is not None and grad_or_none is not None:
                send(edge[0], edge[1], grad_or_none)
        if not retain_graph:
            node.release()

    for leaf in leaves:
        (total,) = pending.pop(leaf)
        if leaf._hooks is not None:
            (total,) = replaced_by_hooks(leaf._hooks, [total])
        assert total is not None
        if wanted is not None:
            for i in wanted_at.get((leaf, -1), ()):
                results[i] = total
        else:
            leaf._accumulate_graph(total)
            for hook in list(leaf._post_hooks or ()):
                hook(leaf)
    return results


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Tensor:
    """A constant of zeros where an array or tensor lies: the gradient of what does not change."""
    return Tensor._wrap(stand_in(shape, dtype, like._data if isinstance(like, Tensor) else like))


def fitted(grad: Tensor, like: tuple[tuple[int, ...], Any]) -> Tensor:
    """The gradient for an input of shape and dtype ``like`` that was broadcast and converted."""
    shape, dtype = like
    if grad._data.shape != shape:
        grad = grad.sum_to_size(shape)
    return grad if grad._data.dtype is dtype else converted(grad, dtype)


def converted(grad: Tensor, dtype: Any) -> Tensor:
    """A gradient in another dtype; of a complex one for a real input its real part is what counts."""
    from fastdl.autograd.view import Cast

    return Cast.apply(grad, dtype=dtype)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------- second derivatives of zero


class Flat(Op):
    """The identity in its first input, and of derivative 0 in the others.

    Where a gradient hangs on an input in steps only (that of ``relu``), PyTorch's second derivative is a tensor of
    zeros, and None would say that there is no connection. Zeros are not sent through the graph, which would double the
    work of a gradient penalty: :func:`behind_flat` tells where they would arrive. It looks at the whole graph of every
    backward while any of these nodes is alive.
    """

    takes_complex = True
    aliases_grad = True
    alive: ClassVar[set[int]] = set()

    def forward(self, x: Any, *others: Any) -> Any:
        self.flat = {0: tuple(range(1, 1 + len(others)))}
        self.alive.add(id(self))
        return x

    def backward(self, grad: Any) -> Any:
        return (grad, *[None] * (len(self.needs) - 1))

    backward_graph = backward

    def __del__(self) -> None:
        self.alive.discard(id(self))  # by way of the instance: at the process's end the module is empty


def _with_flat(node: Op, edges: Sequence[Any], result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients that a node gave, tied to the inputs on which they hang in steps."""
    tied = list(result)
    for i, inputs in node.flat.items():
        grad = tied[i]
        if grad is not None:
            points = [_standing_at(edges[j], grad) for j in inputs if edges[j] is not None]
            tied[i] = Flat.apply(grad, *points) if points else grad
    return tuple(tied)


def _standing_at(edge: tuple[Any, int], like: Tensor) -> Tensor:
    """The leaf at an edge, or a tensor of whatever values with this edge."""
    if edge[1] < 0:
        return edge[0]  # type: ignore[no-any-return]
    point = Tensor._wrap(like._data)
    point._requires_grad, point._node, point._index = True, *edge
    return point


def behind_flat(roots: Sequence[Tensor]) -> set[tuple[Any, int]]:
    """The edges behind flat inputs of what led to ``roots``: zeros belong there if nothing else arrives."""
    seen: set[Any] = set()
    entries: list[Any] = []
    stack = [root._node for root in roots if root._node is not None]
    while stack:
        node = stack.pop()
        if node not in seen and node.edges is not None:
            seen.add(node)
            if node.__class__ is Flat:
                entries += node.edges[1:]
            stack += [edge[0] for edge in node.edges if edge is not None and edge[1] >= 0]
    found: set[tuple[Any, int]] = set()
    while entries:
        edge = entries.pop()
        if edge is not None and edge not in found:
            found.add(edge)
            entries += () if edge[1] < 0 else edge[0].edges or ()
    return found


# ------------------------------------------------------------------------------------------------ fused operations


def replay(node: Op, grads: Any, function: Callable[..., Any], *arrays: Any) -> tuple[Tensor | None, ...]:
    """The gradients of a fused operation by way of ``function``, its forward composed of other operations.

    ``arrays`` are the node's inputs, None where there was none; of an input that the result is linear in, shape and
    dtype suffice (``engine.stand_in``).
    """
    inputs: list[Tensor | None] = []
    wanted: list[Tensor] = []
    asked: list[bool] = []
    for i, (array, need) in enumerate(zip(arrays, node.needs, strict=True)):
        tensor = None if array is None else node.saved_input(i, array)
        asked.append(need and tensor is not None)
        if tensor is not None and need:
            # A node of its own: the walk back from the outputs ends here.
            version = tensor._version_cell()
            tensor = Link.apply(tensor)
            tensor._counter = version
            wanted.append(tensor)
        inputs.append(tensor)
    outputs = function(*inputs)
    if outputs.__class__ is not tuple:
        outputs, grads = (outputs,), (grads,)
    pairs = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None and y._requires_grad]
    found = iter(run_graph([y for y, _ in pairs], [g for _, g in pairs], True, wanted))
    return tuple([next(found) if yes else None for yes in asked])


# ----------------------------------------------------------------------------------------------- linear operations

_OF_HOOKS = ("around", "backward", "backward_graph")  # see hooks.py


def linear_backward(node: Op, grad: Tensor) -> Any:
    """``node.backward(grad)`` of an operation that is linear in its inputs, recorded.

    The node defines ``linear``: inputs to output, None standing for an input of zeros.
    """
    # The map keeps what the node knows, and lives on when the node is released; it is no part of the graph.
    map: Any = type(node)()
    map.__dict__.update({k: v for k, v in node.__dict__.items() if k not in _OF_HOOKS})
    map.needs, map.versions, map.shapes, map.outputs = node.needs, node.versions, node.shapes, node.outputs
    map.shape, map.options = node.shape, node.options
    return _transposed(map, grad)


def _transposed(map: Any, grad: Tensor) -> Any:
    result = Adjoint.apply(grad, map=map)
    if result.__class__ is not tuple:
        return result
    full: list[Tensor | None] = [None] * len(map.needs)
    for i, part in zip(map.places, result, strict=True):
        full[i] = part
    return tuple(full)


class Adjoint(Op):
    """The backward of a linear operation; its own backward is that operation."""

    takes_complex = True
    aliases_grad = True

    def forward(self, grad: Any, map: Any) -> Any:
        self.map = map
        if map.versions is not None:
            self.versions = list(map.versions)
        result = map.backward(grad)
        if result.__class__ is not tuple:
            return _own(result, grad)
        map.places = tuple([i for i, part in enumerate(result) if part is not None])
        return tuple([_own(result[i], grad) for i in map.places])

    def full(self, parts: Any) -> list[Any]:
        """One for every input of the operation."""
        if "places" not in self.map.__dict__:
            return list(parts)
        full: list[Any] = [None] * len(self.map.needs)
        for i, part in zip(self.map.places, parts, strict=True):
            full[i] = part
        return full

    def backward(self, *grads: Any) -> Any:
        return self.map.linear(*self.full(grads))

    def backward_graph(self, *grads: Any) -> Any:
        return Linear.apply(*self.full(grads), map=self.map)


class Linear(Op):
    """A linear operation once more, on what arrived at the outputs of its :class:`Adjoint`."""

    takes_complex = True
    aliases_grad = True

    def forward(self, *arrays: Any, map: Any) -> Any:
        self.map = map
        if map.versions is not None:
            self.versions = list(map.versions)
        result = map.linear(*arrays)
        for array in arrays:
            result = _own(result, array)
        return result

    def backward(self, grad: Any) -> Any:
        return self.map.backward(grad)

    def backward_graph(self, grad: Any) -> Any:
        return _transposed(self.map, grad)


def _own(result: Any, source: Any) -> Any:
    """A copy if ``result`` is on the memory of ``source``: outputs of operations that are no views have their own."""
    if result is not None and source is not None and np.may_share_memory(result, source):
        return pooled_copy(result)
    return result

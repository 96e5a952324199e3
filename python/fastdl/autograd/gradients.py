"""``backward`` and ``grad``: the two ways to ask for gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastdl.arrays import pooled_copy
from fastdl.autograd.edges import GradientEdge, tensor_at
from fastdl.autograd.engine import edge_to, run
from fastdl.autograd.graph import Flat, behind_flat, run_graph, zeros
from fastdl.autograd.mode import enable_grad
from fastdl.errors import not_a_tensor
from fastdl.kernels import array as as_array
from fastdl.kernels import is_array, select
from fastdl.kernels.batched import FAILURES
from fastdl.tensor import Tensor


def _sequence(value: Any) -> list[Any]:
    """One tensor or edge, or any iterable of them (also ``model.parameters()`` and a dictionary's values)."""
    if value.__class__ not in (list, tuple):
        single = (
            isinstance(value, (Tensor, GradientEdge)) or is_array(value) or not isinstance(value, Iterable)
        )
        value = (value,) if single else value
    return [each if each.__class__ is Tensor else tensor_at(each) for each in value]


def _seed(op: str, tensor: Tensor, gradient: Any) -> Any:
    """The array that backward starts from: the given gradient, or one for a tensor of one element."""
    if not tensor._requires_grad:
        raise RuntimeError(
            f"{op}: the tensor does not require a gradient and was not made from one that does. Was it computed "
            "under no_grad(), detached, or from data without requires_grad=True?"
        )
    array = tensor._data
    if gradient is None:
        if array.size != 1:
            raise RuntimeError(
                f"{op}: a gradient can be left out only for a tensor of one element, got shape {array.shape}. "
                "Reduce it first (loss.sum() or .mean()) or pass gradient="
            )
        if array.dtype.kind == "c":
            raise RuntimeError(
                f"{op}: grad can be implicitly created only for real scalar outputs, got {array.dtype}; a loss is "
                "real, e.g. y.abs().square().sum(), or pass gradient="
            )
        seed = select(array).empty(array.shape, array.dtype)
        seed.fill(1)
        return seed
    seed = gradient._data if isinstance(gradient, Tensor) else as_array(gradient, tensor._data)
    if seed.shape != array.shape:
        raise RuntimeError(
            f"{op}: gradient has shape {seed.shape}, the tensor {array.shape}; they must be equal"
        )
    return seed if seed.dtype is array.dtype else pooled_copy(seed, array.dtype)


def _seeds(op: str, tensors: Sequence[Tensor], gradients: Sequence[Any]) -> list[Any]:
    if len(tensors) != len(gradients):
        raise RuntimeError(
            f"{op}: got {len(tensors)} tensors but {len(gradients)} gradients; give one for each"
        )
    return [_seed(op, t, g) for t, g in zip(tensors, gradients, strict=True)]


def _arrived(
    op: str,
    roots: Sequence[Tensor],
    gradients: Sequence[Any],
    retain_graph: bool | None,
    create_graph: bool,
    wanted: Sequence[Tensor] | None,
) -> list[Tensor | None]:
    """Backward from ``roots``, on arrays or, to make a graph, on tensors; the wanted gradients as tensors."""
    seeds = _seeds(op, roots, gradients)
    if not create_graph:
        found = run(roots, seeds, bool(retain_graph), wanted)
        return [None if array is None else Tensor._wrap(array) for array in found]
    tensors = []
    for given, array in zip(gradients, seeds, strict=True):
        if isinstance(given, Tensor):  # the result depends on it, too
            tensors.append(given if given._data is array else given.to(array.dtype))
        else:
            tensors.append(Tensor._wrap(array))
    return run_graph(roots, tensors, True if retain_graph is None else retain_graph, wanted)


def _walk(
    op: str,
    roots: Sequence[Tensor],
    gradients: Sequence[Any],
    retain_graph: bool | None,
    create_graph: bool,
    wanted: Sequence[Tensor] | None,
) -> list[Tensor | None]:
    """:func:`_arrived`, then zeros where nothing did but would have from behind flat inputs (``graph.Flat``)."""
    behind = behind_flat(roots) if Flat.alive else None
    found = _arrived(op, roots, gradients, retain_graph, create_graph, wanted)
    if not behind:
        return found
    if wanted is None:
        for leaf, index in behind:
            if index < 0 and leaf._grad is None:
                leaf._grad = _zeros_like(leaf)
        return found
    for i, t in enumerate(wanted):
        if found[i] is None and edge_to(t) in behind:
            found[i] = _zeros_like(t)
            if create_graph:  # whose derivatives are zeros, too
                with enable_grad():
                    found[i] = Flat.apply(found[i], t)
    return found


def tensor_backward(
    self: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Accumulate the gradient of this tensor into ``.grad`` of the leaves it was made from.

    Args:
        gradient: of the result with respect to this tensor; may be left out for a tensor of one element.
        retain_graph: keep what backward needs, to call it again; by default as ``create_graph``.
        create_graph: make the gradients part of the graph, so that they can be differentiated. ``.grad`` then refers
            to the graph and the graph to its leaves: a cycle that lives until ``.grad`` is reset or the garbage
            collector comes. :func:`fastdl.autograd.grad` makes none.
        inputs: accumulate into these tensors only.
    """
    if create_graph or inputs is not None or Flat.alive:
        backward(self, gradient, retain_graph, create_graph, inputs)
    else:
        run((self,), (_seed("backward", self, gradient),), bool(retain_graph))


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Accumulate into ``.grad`` of the leaves the gradients of the sum of ``tensors``; see ``torch.autograd.backward``.

    With ``create_graph`` the gradients are part of the graph and can be differentiated (see ``Tensor.backward``). With
    ``inputs`` (a tensor or a sequence of tensors) only their ``.grad`` is accumulated.
    """
    roots = _sequence(tensors)
    gradients = [None] * len(roots) if grad_tensors is None else _sequence(grad_tensors)
    if inputs is None:
        _walk("backward", roots, gradients, retain_graph, create_graph, None)
        return
    wanted = _sequence(inputs)
    if not wanted:
        raise RuntimeError("backward: inputs must not be empty; leave it out to reach all leaves")
    for i, t in enumerate(wanted):
        if not t._requires_grad:
            raise RuntimeError(f"backward: inputs[{i}] does not require a gradient")
    hooked = [t._retains and t._node is not None and t._node.hooks is not None for t in wanted]
    found = _walk("backward", roots, gradients, retain_graph, create_graph, wanted)
    for t, grad, retained in zip(wanted, found, hooked, strict=True):
        if retained:
            continue  # a hook has added it
        if t._node is not None:
            t.retain_grad()  # from now on, as in PyTorch
        if grad is not None and create_graph:
            with enable_grad():
                t._accumulate_graph(grad)
        elif grad is not None:
            t._accumulate(grad._data, False)
        if grad is not None:
            for hook in list(t._post_hooks or ()):
                hook(t)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    only_inputs: bool = True,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``outputs`` with respect to ``inputs``, returned; no ``.grad`` changes. See ``torch.autograd.grad``.

    Inputs that were not used are an error, None with ``allow_unused``, zeros with ``materialize_grads``. With
    ``is_grads_batched`` each of ``grad_outputs`` has a new first axis, and so have the results: one backward for each.

    With ``create_graph`` the results are part of the graph: differentiate them for second derivatives, and those with
    ``create_graph`` again for third ones. The graph is kept for that (``retain_graph`` is True unless given).
    Operations without a second derivative raise NotImplementedError.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
        >>> fastdl.autograd.grad(fastdl.nn.functional.relu(x), x, fastdl.tensor([3.0, 4.0]))
        (tensor([3., 4.]),)
        >>> (slope,) = fastdl.autograd.grad((x**3).sum(), x, create_graph=True)
        >>> fastdl.autograd.grad(slope.sum(), x)
        (tensor([ 6., 12.]),)
    """
    roots, wanted = _sequence(outputs), _sequence(inputs)
    if not wanted:
        raise RuntimeError("grad: inputs must not be empty")
    if materialize_grads and allow_unused is False:
        raise ValueError(
            "grad: materialize_grads=True needs allow_unused=True, or none, got allow_unused=False"
        )
    for i, t in enumerate(wanted):
        if not isinstance(t, Tensor):
            raise not_a_tensor("grad", f"inputs[{i}]", t)
        if not t._requires_grad:
            raise RuntimeError(
                f"grad: inputs[{i}] does not require a gradient (set requires_grad=True before using it)"
            )
    gradients = [None] * len(roots) if grad_outputs is None else _sequence(grad_outputs)
    if is_grads_batched:
        return _batched_grad(
            roots, wanted, gradients, retain_graph, create_graph, allow_unused, materialize_grads
        )
    found = _walk("grad", roots, gradients, retain_graph, create_graph, wanted)
    if materialize_grads:
        found = [
            _zeros_like(t).requires_grad_(create_graph) if g is None else g
            for g, t in zip(found, wanted, strict=True)
        ]
    if not allow_unused:
        for i, g in enumerate(found):
            if g is None:
                raise RuntimeError(
                    f"grad: inputs[{i}] was not used to compute the outputs; pass allow_unused=True to get None"
                )
    return tuple(found)


def _zeros_like(t: Tensor) -> Tensor:
    return zeros(t._data.shape, t._data.dtype, t._data)


def _all_at_once(
    roots: Sequence[Tensor],
    wanted: Sequence[Tensor],
    gradients: Sequence[Any],
    count: int,
    create_graph: bool,
) -> tuple[Tensor | None, ...] | None:
    """One walk with all rows as slices of ``vmap``; None where something on the way takes them one by one."""
    from fastdl.batched.tensor import everywhere, made
    from fastdl.batched.vmap import mapping

    try:
        with mapping(count) as level:
            seeds = [None if g is None else made(level, g) for g in gradients]
            found = _walk("grad", roots, seeds, True, True, wanted)
            rows = [None if g is None else everywhere(level, count, g) for g in found]
    except FAILURES:
        return None
    return tuple([g if g is None or create_graph else g.detach() for g in rows])


def _batched_grad(
    roots: Sequence[Tensor],
    wanted: Sequence[Tensor],
    gradients: Sequence[Any],
    retain_graph: bool | None,
    create_graph: bool,
    allow_unused: bool | None,
    materialize_grads: bool,
) -> tuple[Tensor | None, ...]:
    from fastdl.ops.join import stack

    counts = {len(g) for g in gradients if g is not None}
    if len(counts) != 1:
        raise RuntimeError("grad: with is_grads_batched all grad_outputs need a first axis of one extent")
    (count,) = counts
    found = _all_at_once(roots, wanted, gradients, count, create_graph)
    if found is not None:
        return found
    keep_last = create_graph if retain_graph is None else retain_graph
    rows = []
    for i in range(count):
        seeds = [None if g is None else g[i] for g in gradients]
        keep = keep_last or i + 1 < count
        rows.append(
            grad(roots, wanted, seeds, keep, create_graph, allow_unused, materialize_grads=materialize_grads)
        )
    columns = []
    for column in zip(*rows, strict=True):
        given = [g for g in column if g is not None]
        columns.append(stack(given) if given else None)
    return tuple(columns)

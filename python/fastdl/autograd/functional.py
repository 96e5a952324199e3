"""``backward`` and ``grad``: the two ways to ask for gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdl.autograd.engine import run
from fastdl.autograd.mode import enable_grad
from fastdl.kernels import select
from fastdl.tensor import Tensor


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


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
        seed = select(array).empty(array.shape, array.dtype)
        seed.fill(1)
        return seed
    seed = gradient._data if isinstance(gradient, Tensor) else array(gradient)
    if seed.shape != array.shape:
        raise RuntimeError(
            f"{op}: gradient has shape {seed.shape}, the tensor {array.shape}; they must be equal"
        )
    return seed if seed.dtype is array.dtype else seed.astype(array.dtype)


def _seeds(op: str, tensors: Sequence[Tensor], gradients: Sequence[Any]) -> list[Any]:
    if len(tensors) != len(gradients):
        raise RuntimeError(
            f"{op}: got {len(tensors)} tensors but {len(gradients)} gradients; give one for each"
        )
    return [_seed(op, t, g) for t, g in zip(tensors, gradients, strict=True)]


def _refuse_create_graph(op: str, create_graph: bool) -> None:
    if create_graph:
        raise RuntimeError(
            f"{op}: create_graph=True (second derivatives) is not supported: kernels define first derivatives only"
        )


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
        retain_graph: keep what backward needs, to call it again.
        create_graph: second derivatives are not supported: must be False.
        inputs: accumulate into these tensors only.
    """
    if create_graph or inputs is not None:
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

    With ``inputs`` (a tensor or a sequence of tensors) only their ``.grad`` is accumulated.
    """
    _refuse_create_graph("backward", create_graph)
    roots = _sequence(tensors)
    gradients = [None] * len(roots) if grad_tensors is None else _sequence(grad_tensors)
    seeds = _seeds("backward", roots, gradients)
    if inputs is None:
        run(roots, seeds, bool(retain_graph))
        return
    wanted = _sequence(inputs)
    if not wanted:
        raise RuntimeError("backward: inputs must not be empty; leave it out to reach all leaves")
    for i, t in enumerate(wanted):
        if not t._requires_grad:
            raise RuntimeError(f"backward: inputs[{i}] does not require a gradient")
    for t, grad in zip(wanted, run(roots, seeds, bool(retain_graph), wanted), strict=True):
        if grad is not None:
            t._accumulate(grad, False)


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

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
        >>> fastdl.autograd.grad(fastdl.nn.functional.relu(x), x, fastdl.tensor([3.0, 4.0]))
        (tensor([3., 4.]),)
    """
    _refuse_create_graph("grad", create_graph)
    roots, wanted = _sequence(outputs), _sequence(inputs)
    for i, t in enumerate(wanted):
        if not t._requires_grad:
            raise RuntimeError(
                f"grad: inputs[{i}] does not require a gradient (set requires_grad=True before using it)"
            )
    gradients = [None] * len(roots) if grad_outputs is None else _sequence(grad_outputs)
    if is_grads_batched:
        return _batched_grad(roots, wanted, gradients, bool(retain_graph), allow_unused, materialize_grads)
    arrays = run(roots, _seeds("grad", roots, gradients), bool(retain_graph), wanted)
    if materialize_grads:
        arrays = [
            np.zeros(t.shape, t.dtype, like=t._data) if a is None else a
            for a, t in zip(arrays, wanted, strict=True)
        ]
    if not allow_unused:
        for i, array in enumerate(arrays):
            if array is None:
                raise RuntimeError(
                    f"grad: inputs[{i}] was not used to compute the outputs; pass allow_unused=True to get None"
                )
    return tuple(None if array is None else Tensor._wrap(array) for array in arrays)


def _batched_grad(
    roots: Sequence[Tensor],
    wanted: Sequence[Tensor],
    gradients: Sequence[Any],
    retain_graph: bool,
    allow_unused: bool | None,
    materialize_grads: bool,
) -> tuple[Tensor | None, ...]:
    counts = {len(g) for g in gradients if g is not None}
    if len(counts) != 1:
        raise RuntimeError("grad: with is_grads_batched all grad_outputs need a first axis of one extent")
    (count,) = counts
    rows = []
    for i in range(count):
        seeds = [None if g is None else g[i] for g in gradients]
        keep = retain_graph or i + 1 < count
        rows.append(
            grad(roots, wanted, seeds, keep, False, allow_unused, materialize_grads=materialize_grads)
        )
    columns = []
    for column in zip(*rows, strict=True):
        arrays = [g._data for g in column if g is not None]
        columns.append(Tensor._wrap(np.stack(arrays)) if arrays else None)
    return tuple(columns)


def _outputs_of(
    op: str, func: Callable[..., Any], inputs: Any
) -> tuple[list[Tensor], list[Tensor], bool, bool]:
    """Fresh leaves for the inputs, the outputs of ``func`` on them, and whether each was one tensor, not a tuple."""
    leaves = [t.detach().requires_grad_() for t in _sequence(inputs)]
    with enable_grad():
        result = func(*leaves)
    outputs = _sequence(result)
    if not all(isinstance(o, Tensor) for o in outputs):
        raise TypeError(f"{op}: func must return a tensor or a tuple of tensors")
    return leaves, outputs, not isinstance(inputs, (list, tuple)), not isinstance(result, (list, tuple))


def _gradients(output: Tensor, leaves: list[Tensor], seed: Any) -> list[Any]:
    if not output._requires_grad:
        return [np.zeros(leaf.shape, leaf.dtype, like=leaf._data) for leaf in leaves]
    arrays = run([output], [seed], True, leaves)
    return [
        np.zeros(t.shape, t.dtype, like=t._data) if a is None else a
        for a, t in zip(arrays, leaves, strict=True)
    ]


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``(func(*inputs), v @ Jacobian)``; see ``torch.autograd.functional.vjp``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0])
        >>> fastdl.autograd.functional.vjp(lambda x: x * x, x, fastdl.ones(2))[1]
        tensor([2., 4.])
    """
    _refuse_create_graph("vjp", create_graph)
    leaves, outputs, one_input, one_output = _outputs_of("vjp", func, inputs)
    seeds = [None] * len(outputs) if v is None else _sequence(v)
    arrays = run(outputs, _seeds("vjp", outputs, seeds), False, leaves)
    grads = [
        Tensor._wrap(np.zeros(t.shape, t.dtype, like=t._data) if a is None else a)
        for a, t in zip(arrays, leaves, strict=True)
    ]
    values = [o.detach() for o in outputs]
    return values[0] if one_output else tuple(values), grads[0] if one_input else tuple(grads)


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """All derivatives of all outputs: shape ``(*output.shape, *input.shape)``, nested in tuples for several tensors.

    One backward for each element of the outputs. See ``torch.autograd.functional.jacobian``.

    Example:
        >>> import fastdl
        >>> fastdl.autograd.functional.jacobian(lambda x: x * x, fastdl.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])
    """
    _refuse_create_graph("jacobian", create_graph)
    leaves, outputs, one_input, one_output = _outputs_of("jacobian", func, inputs)
    result = []
    for output in outputs:
        blocks = [select(t._data).empty((output.numel(), t.numel()), t.dtype) for t in leaves]
        for i in range(output.numel()):
            seed = np.zeros(output.shape, output.dtype, like=output._data)
            seed.reshape(-1)[i] = 1
            for block, grad in zip(blocks, _gradients(output, leaves, seed), strict=True):
                block[i] = grad.reshape(-1)
        row = [Tensor._wrap(b.reshape(output.shape + t.shape)) for b, t in zip(blocks, leaves, strict=True)]
        result.append(row[0] if one_input else tuple(row))
    return result[0] if one_output else tuple(result)

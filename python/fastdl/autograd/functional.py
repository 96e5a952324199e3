"""Derivatives of functions: products with Jacobians and Hessians, and these matrices themselves.

The functions of ``torch.autograd.functional``. Inputs and vectors are tensors or tuples of tensors; results are shaped
like them. ``strict`` makes it an error that an output (or derivative) does not depend on the inputs; without it zeros
stand for such derivatives. With ``create_graph`` results can be differentiated, also for the inputs themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastdl.autograd.gradients import grad
from fastdl.autograd.graph import zeros
from fastdl.autograd.mode import enable_grad
from fastdl.autograd.op import Link
from fastdl.kernels import select
from fastdl.tensor import Tensor

Function = Callable[..., Any]


def _tensors(op: str, name: str, value: Any) -> tuple[list[Tensor], bool]:
    """A list of tensors, and whether one was given that was no tuple."""
    several = isinstance(value, (list, tuple))
    tensors = list(value) if several else [value]
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{op}: {name} must be a tensor or a tuple of tensors, got {type(t).__name__}"
                + (f" at position {i}" if several else "")
            )
    return tensors, not several


def _shaped(tensors: Sequence[Tensor], one: bool) -> Any:
    return tensors[0] if one else tuple(tensors)


def _inputs(op: str, inputs: Any, create_graph: bool) -> tuple[list[Tensor], bool]:
    """The inputs as tensors to differentiate for: apart from the caller's graph, or linked to it."""
    given, one = _tensors(op, "inputs", inputs)
    fresh = []
    for t in given:
        if create_graph and t._requires_grad:
            version = t._version_cell()
            t = Link.apply(t)
            t._counter = version
            fresh.append(t)
        else:
            fresh.append(t.detach().requires_grad_())
    return fresh, one


def _call(op: str, func: Function, inputs: Sequence[Tensor], strict: bool) -> tuple[list[Tensor], bool]:
    outputs, one = _tensors(op, "what func returns", func(*inputs))
    if strict:
        for i, y in enumerate(outputs):
            if not y._requires_grad:
                raise RuntimeError(
                    f"{op}: output {i} of func does not depend on the inputs, which strict=True refuses"
                )
    return outputs, one


def _single(op: str, outputs: Sequence[Tensor], one: bool) -> Tensor:
    if not one or outputs[0].numel() != 1:
        what = f"shape {outputs[0].shape}" if one else f"{len(outputs)} outputs"
        raise RuntimeError(f"{op}: func must return one tensor with a single element, got {what}")
    return outputs[0]


def _vectors(op: str, v: Any, like: Sequence[Tensor], name: str) -> list[Tensor]:
    """``v``, checked against the tensors that it goes with; ones for a single number if it is None."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"{op}: v can be left out only if {name} is a single number")
        return [like[0].new_ones(like[0].shape)]
    vectors, _ = _tensors(op, "v", v)
    shapes, expected = [tuple(t.shape) for t in vectors], [tuple(t.shape) for t in like]
    if shapes != expected:
        raise RuntimeError(f"{op}: v must have the shapes of {name}, {expected}, got {shapes}")
    return vectors


def _gradients(
    op: str,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor],
    create_graph: bool,
    strict: bool,
    what: str = "an output",
) -> list[Tensor]:
    """d (sum of vector * output) / d input for every input; zeros where nothing depends on it."""
    pairs = [(y, v) for y, v in zip(outputs, vectors, strict=True) if y._requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if pairs:
        roots, seeds = zip(*pairs, strict=True)
        found = grad(roots, inputs, seeds, True, create_graph, allow_unused=True)
    result = []
    for i, (g, x) in enumerate(zip(found, inputs, strict=True)):
        if strict and (g is None or (create_graph and not g._requires_grad)):
            raise RuntimeError(f"{op}: {what} does not depend on input {i}, which strict=True refuses")
        result.append(zeros(x._data.shape, x._data.dtype, x._data) if g is None else g)
    return result


def _given(tensors: Sequence[Tensor], create_graph: bool) -> list[Tensor]:
    return list(tensors) if create_graph else [t.detach() for t in tensors]


def vjp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``(func(*inputs), v @ Jacobian)``; see ``torch.autograd.functional.vjp``.

    Args:
        func: of tensors, returns a tensor or a tuple of tensors.
        inputs: a tensor or a tuple of tensors.
        v: of the outputs' shapes; may be left out for a single number.
        create_graph: make results that can be differentiated.
        strict: refuse outputs that do not depend on the inputs.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0])
        >>> fastdl.autograd.functional.vjp(lambda x: x * x, x, fastdl.ones(2))[1]
        tensor([2., 4.])
    """
    with enable_grad():
        xs, one = _inputs("vjp", inputs, create_graph)
        ys, one_output = _call("vjp", func, xs, strict)
        vectors = _vectors("vjp", v, ys, "the outputs")
        products = _gradients("vjp", ys, xs, vectors, create_graph, strict)
    return _shaped(_given(ys, create_graph), one_output), _shaped(products, one)


def jvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``(func(*inputs), Jacobian @ v)``; see ``torch.autograd.functional.jvp`` and :func:`vjp`.

    ``u @ Jacobian`` is linear in u; its derivative in the direction v of the inputs is computed by a second backward.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0])
        >>> fastdl.autograd.functional.jvp(lambda x: (x * x).sum(), x, fastdl.tensor([1.0, 10.0]))[1]
        tensor(42.)
    """
    with enable_grad():
        xs, _ = _inputs("jvp", inputs, create_graph)
        vectors = _vectors("jvp", v, xs, "the inputs")
        ys, one_output = _call("jvp", func, xs, strict)
        us = [zeros(y._data.shape, y._data.dtype, y._data).requires_grad_() for y in ys]
        through = _gradients("jvp", ys, xs, us, True, strict)
        pairs = [(t, w) for t, w in zip(through, vectors, strict=True) if t._requires_grad]
        found: Sequence[Tensor | None] = [None] * len(us)
        if pairs:
            roots, seeds = zip(*pairs, strict=True)
            found = grad(roots, us, seeds, True, create_graph, allow_unused=True)
        products = [
            zeros(y._data.shape, y._data.dtype, y._data) if p is None else p
            for p, y in zip(found, ys, strict=True)
        ]
        if strict and create_graph:
            for i, p in enumerate(products):
                if not p._requires_grad:
                    raise RuntimeError(
                        f"jvp: the derivative of output {i} does not depend on the inputs, which strict=True refuses"
                    )
    return _shaped(_given(ys, create_graph), one_output), _shaped(products, one_output)


def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """All derivatives of all outputs: shape ``(*output.shape, *input.shape)``, nested in tuples for several tensors.

    One backward for each element of the outputs, or one for all of them. See ``torch.autograd.functional.jacobian``.

    Args:
        func, inputs, create_graph, strict: as for :func:`vjp`.
        vectorize: compute all rows at once, whatever memory that takes; without it only those of a small Jacobian.
        strategy: must be "reverse-mode".

    Example:
        >>> import fastdl
        >>> fastdl.autograd.functional.jacobian(lambda x: x * x, fastdl.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])
    """
    if strategy != "reverse-mode":
        raise NotImplementedError(f"jacobian: strategy must be 'reverse-mode', got {strategy!r}")
    with enable_grad():
        xs, one = _inputs("jacobian", inputs, create_graph)
        ys, one_output = _call("jacobian", func, xs, strict)
        blocks = [_shaped(_rows("jacobian", y, xs, create_graph, strict, vectorize), one) for y in ys]
    return _shaped(blocks, one_output)


_SMALL = 1 << 20  # elements of a Jacobian whose rows are computed at once without being asked


def _rows(
    op: str, y: Tensor, xs: Sequence[Tensor], create_graph: bool, strict: bool, at_once: bool
) -> list[Tensor]:
    """d y / d x for every x."""
    from fastdl.ops.join import stack

    size, shape = y.numel(), tuple(y.shape)
    if (
        (at_once or size * sum([x.numel() for x in xs]) <= _SMALL)
        and size > 3
        and y._requires_grad
        and not strict
    ):
        seeds = zeros((size, *shape), y._data.dtype, y._data)
        seeds._data.reshape(-1)[:: size + 1] = 1
        rows = grad(y, xs, seeds, True, create_graph, allow_unused=True, is_grads_batched=True)
        whole = [
            zeros((size, *x.shape), x._data.dtype, x._data) if g is None else g
            for g, x in zip(rows, xs, strict=True)
        ]
        return [g.reshape(shape + tuple(x.shape)) for g, x in zip(whole, xs, strict=True)]
    columns: list[list[Tensor]] = [[] for _ in xs]
    blocks = [select(x._data).empty((size, x.numel()), x._data.dtype) for x in xs]
    for i in range(size):
        seed = zeros(shape, y._data.dtype, y._data)
        seed._data.reshape(-1)[i] = 1
        row = _gradients(op, [y], xs, [seed], create_graph, strict)
        for block, column, g in zip(blocks, columns, row, strict=True):
            if create_graph:
                column.append(g)
            else:
                block[i] = g._data.reshape(-1)
    if create_graph and size:
        return [stack(c).reshape(shape + tuple(x.shape)) for c, x in zip(columns, xs, strict=True)]
    return [Tensor._wrap(b.reshape(shape + tuple(x.shape))) for b, x in zip(blocks, xs, strict=True)]


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """All second derivatives of a function with one number as result: shape ``(*input.shape, *input.shape)``.

    For several inputs a tuple of tuples: ``[i][j]`` is d^2 / (d input i, d input j). See
    ``torch.autograd.functional.hessian`` and, for the arguments, :func:`jacobian`.

    Example:
        >>> import fastdl
        >>> fastdl.autograd.functional.hessian(lambda x: (x**3).sum(), fastdl.tensor([1.0, 2.0]))
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    if outer_jacobian_strategy != "reverse-mode":
        raise NotImplementedError(
            f"hessian: outer_jacobian_strategy must be 'reverse-mode', got {outer_jacobian_strategy!r}"
        )
    _, one = _tensors("hessian", "inputs", inputs)

    def gradient(*xs: Tensor) -> Any:
        ys, one_output = _call("hessian", func, xs, strict)
        y = _single("hessian", ys, one_output)
        one_seed = _vectors("hessian", None, [y], "the output")
        return _shaped(_gradients("hessian", [y], xs, one_seed, True, strict, "the gradient"), one)

    return jacobian(gradient, inputs, create_graph, strict, vectorize)


def vhp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``(func(*inputs), v @ Hessian)`` of a function with one number as result, without the Hessian in memory.

    Two backwards. See ``torch.autograd.functional.vhp`` and :func:`vjp`.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0])
        >>> fastdl.autograd.functional.vhp(lambda x: (x**3).sum(), x, fastdl.ones(2))[1]
        tensor([ 6., 12.])
    """
    return _hessian_product("vhp", func, inputs, v, create_graph, strict)


def hvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``(func(*inputs), Hessian @ v)``: the same as :func:`vhp`, since a Hessian is symmetric.

    See ``torch.autograd.functional.hvp``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0])
        >>> fastdl.autograd.functional.hvp(lambda x: x[0] * x[1], x, fastdl.tensor([1.0, 0.0]))[1]
        tensor([0., 1.])
    """
    return _hessian_product("hvp", func, inputs, v, create_graph, strict)


def _hessian_product(
    op: str, func: Function, inputs: Any, v: Any, create_graph: bool, strict: bool
) -> tuple[Any, Any]:
    with enable_grad():
        xs, one = _inputs(op, inputs, create_graph)
        vectors = _vectors(op, v, xs, "the inputs")
        ys, one_output = _call(op, func, xs, strict)
        y = _single(op, ys, one_output)
        slopes = _gradients(op, [y], xs, _vectors(op, None, [y], "the output"), True, strict)
        products = _gradients(op, slopes, xs, vectors, create_graph, strict, "the gradient")
    return _given([y], create_graph)[0], _shaped(products, one)

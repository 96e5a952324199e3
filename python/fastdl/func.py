"""Functions of functions: derivatives, maps over slices, calls of modules with other parameters; see ``torch.func``.

All derivatives go by reverse mode and may be nested. Arguments are tensors, or dictionaries, lists and tuples of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastdl.autograd import enable_grad, no_grad
from fastdl.autograd import grad as _gradients
from fastdl.batched.tensor import everywhere, made, values_at
from fastdl.batched.vmap import innermost, mapping, rebuilt, tensors_in, vmap
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.errors import not_a_tensor
from fastdl.kernels.batched import FAILURES, BatchedArray, NotAtOnce
from fastdl.nn.modules.module import Module
from fastdl.ops.join import cat, stack
from fastdl.random import default_generator
from fastdl.tensor import Tensor

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "stack_module_state",
    "vjp",
    "vmap",
]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | tuple[Mapping[str, Any], ...],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """``module(*args, **kwargs)`` with other tensors in the places of its parameters and buffers.

    Args:
        parameter_and_buffer_dicts: name -> tensor (the names of ``state_dict``), or a tuple of such dictionaries.
        args: a tuple of arguments, or the only argument.
        tie_weights: a tensor that stands in several places of the module is replaced in all of them, under whichever of
            its names it is given. Two values for it are a ValueError. False: only in the places that are named.
        strict: refuse unless all parameters and buffers are given.

    See ``torch.func.functional_call``.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.Linear(1, 1, bias=False)
        >>> fastdl.func.functional_call(layer, {"weight": fastdl.tensor([[3.0]])}, fastdl.ones(1)).item()
        3.0
    """
    given = parameter_and_buffer_dicts
    values: dict[str, Any] = {}
    for part in (given,) if isinstance(given, Mapping) else given:
        values.update(part)
    members = _members(module) if tie_weights or strict else []
    tied: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for _, own, attribute in members if tie_weights else ():
        tied.setdefault(id(own[attribute]), []).append((own, attribute))
    new: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
    unexpected = []
    for name, value in values.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        if attribute not in owner._parameters and attribute not in owner._buffers:
            unexpected.append(name)
            continue
        here, original = (owner.__dict__, attribute), owner.__dict__[attribute]
        for own, its_name in tied.get(id(original), [here]):
            before = new.get((id(own), its_name))
            if tie_weights and before is not None and before[2] is not value:
                names = [n for n, place, last in members if place[last] is original and n in values]
                raise ValueError(
                    f"functional_call: several values for {names}, which are one tensor in {type(module).__name__}; "
                    "give one of them, or tie_weights=False"
                )
            new[id(own), its_name] = own, its_name, value
    if strict:
        missing = sorted([name for name, own, attribute in members if (id(own), attribute) not in new])
        if missing or unexpected:
            raise RuntimeError(
                f"functional_call: strict=True needs all names; missing {missing}, unexpected {sorted(unexpected)}"
            )
    if unexpected:
        raise RuntimeError(
            f"functional_call: {type(module).__name__} has no parameter or buffer {unexpected[0]!r}"
        )
    places = [(own, its_name, own[its_name]) for own, its_name, _ in new.values()]
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    try:
        for own, its_name, value in new.values():
            own[its_name] = value
        return module(*arguments, **(kwargs or {}))
    finally:
        for own, its_name, before in places:
            own[its_name] = before


def _members(module: Module) -> list[tuple[str, dict[str, Any], str]]:
    """Parameters and buffers by name, those that are one tensor as well: where each lies, and its name there."""
    return [
        (f"{prefix}.{name}" if prefix else name, own, name)
        for prefix, owner in module.named_modules()
        for own in (owner.__dict__,)
        for name in (*owner._parameters, *owner._buffers)
        if own[name] is not None
    ]


def _input(x: Tensor) -> Tensor:
    """``x`` as the variable of one derivative: another tensor, that an outer derivative still sees through.

    Where slices are computed at once, each has a variable of its own.
    """
    here = innermost()
    if here is not None:
        level, size = here
        x = made(level, everywhere(level, size, x))
    variable: Tensor = _variable(x)
    return variable


def _variable(x: Any) -> Any:
    if x._data.__class__ is BatchedArray:
        return made(x._data.level, _variable(x._data.values))
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def _whole(t: Tensor) -> Any:
    """The tensor with all slices of all levels."""
    return _whole(t._data.values) if t._data.__class__ is BatchedArray else t


def _depends_on_others(result: Tensor, inputs: list[Tensor]) -> bool:
    """Does the graph of ``result`` lead to leaves other than ``inputs``, for which somebody may differentiate it?"""
    seen = {id(_whole(x)) for x in inputs}
    todo: list[Any] = [result._node]
    for node in todo:  # which grows meanwhile
        for target, index in filter(None, (node and node.edges) or ()):
            if id(target) in seen or "_spent" in target.__dict__:
                continue
            if index < 0:
                return True
            seen.add(id(target))
            todo.append(target)
    return False


def _spend(inputs: list[Tensor]) -> None:
    """Mark the variables of a derivative that is done: nobody differentiates by them any more."""
    for x in inputs:
        _whole(x).__dict__["_spent"] = True


def _chosen(op: str, args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> tuple[Any, list[Tensor], Any]:
    """The arguments with new tensors at ``argnums``, those tensors, and what stood there."""
    many = argnums if isinstance(argnums, tuple) else (argnums,)
    for n in many:
        if not -len(args) <= n < len(args):
            raise ValueError(f"{op}: argnums {argnums} does not name one of {len(args)} arguments")
    places = [n % len(args) for n in many]
    wanted = tuple([args[n] for n in places])
    inputs = [_input(x) for x in tensors_in(wanted)]
    if not inputs:
        raise not_a_tensor(op, f"argument {places[0]}", wanted[0])
    return _placed(args, argnums, inputs), inputs, wanted if isinstance(argnums, tuple) else wanted[0]


def _placed(args: tuple[Any, ...], argnums: int | tuple[int, ...], tensors: list[Tensor]) -> list[Any]:
    """The arguments with these tensors at ``argnums``."""
    places = [n % len(args) for n in (argnums if isinstance(argnums, tuple) else (argnums,))]
    given = dict(zip(places, rebuilt(tuple([args[n] for n in places]), iter(tensors)), strict=True))
    return [given.get(i, a) for i, a in enumerate(args)]


def _with_aux(op: str, result: Any, has_aux: bool, inputs: list[Tensor]) -> tuple[Any, Any]:
    if not has_aux:
        return result, None
    if not (isinstance(result, tuple) and len(result) == 2):
        raise RuntimeError(f"{op}: with has_aux=True the function must return (output, aux)")
    return result[0], _settled_all(result[1], inputs)


def _check_tensors(op: str, output: Any) -> None:
    """Refuse results that cannot be differentiated: numbers among tensors."""
    if isinstance(output, (Mapping, list, tuple)):
        for part in output.values() if isinstance(output, Mapping) else output:
            _check_tensors(op, part)
    elif not isinstance(output, Tensor):
        raise RuntimeError(
            f"{op}: func must return tensors, in tuples, lists or dictionaries, got {type(output).__name__}; without "
            "item() and float()"
        )


def _settled(result: Tensor, inputs: list[Tensor]) -> Tensor:
    """A result without history, if only this derivative's own variables are in it."""
    return result if result.requires_grad and _depends_on_others(result, inputs) else result.detach()


def _settled_all(value: Any, inputs: list[Tensor]) -> Any:
    return rebuilt(value, iter([_settled(t, inputs) for t in tensors_in(value)]))


def _gradient(
    output: Tensor, inputs: list[Tensor], weights: Tensor | None = None, own: Sequence[Tensor] = ()
) -> list[Tensor]:
    """The gradients of one output, zeros where it does not depend on an input; others can differentiate them again.

    ``own``: variables of the same derivative, beside the inputs.
    """
    found: Any = [None] * len(inputs)
    arrays = [t._data for t in (output, *inputs)]
    level = max([a.level for a in arrays if a.__class__ is BatchedArray], default=-1)
    if level >= 0 and output.requires_grad:
        # No slice depends on another: the gradient of all results' sum is every slice's own.
        values = [values_at(level, t) for t in (output, *inputs)]
        if None in values:
            raise NotAtOnce("grad: one of several slices' results depends on what all slices share")
        if weights is not None:
            weights = everywhere(level, values[0]._data.shape[0], weights)
        elif values[0]._data.ndim:
            weights = values[0].detach().new_ones(values[0].shape)
        others = [t if v is None else v for t, v in zip(own, [values_at(level, t) for t in own], strict=True)]
        return [made(level, g) for g in _gradient(values[0], values[1:], weights, others)]
    if output.requires_grad:
        # Others ask for derivatives of the gradients only if their variables are in it.
        again = _depends_on_others(output, [*inputs, *own])
        if weights is not None:  # slices take operations on tensors
            again = again or weights.requires_grad or weights._data.__class__ is BatchedArray
        found = _gradients(output, inputs, weights, retain_graph=True, create_graph=again, allow_unused=True)
    return [x.new_zeros(x.shape) if g is None else g for g, x in zip(found, inputs, strict=True)]


def grad_and_value(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """As :func:`grad`; the function made returns (gradient, value), or (gradient, (value, aux)).

    See ``torch.func.grad_and_value``.
    """

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        with enable_grad():
            new, inputs, wanted = _chosen("grad", args, argnums)
            value, aux = _with_aux("grad", func(*new, **kwargs), has_aux, inputs)
            if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim > 0:
                shape = f"shape {value.shape}" if isinstance(value, Tensor) else type(value).__name__
                raise RuntimeError(f"grad: func must return a tensor of 0 dimensions, got {shape}")
            found = [_settled(g, inputs) for g in _gradient(value, inputs)]
            value = _settled(value, inputs)
            _spend(inputs)
        gradient = rebuilt(wanted, iter(found))
        return (gradient, (value, aux)) if has_aux else (gradient, value)

    return differentiated


def grad(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that computes the gradient of ``func``, which must return a tensor of 0 dimensions.

    Args:
        func: a function of tensors (or dictionaries, lists, tuples of tensors).
        argnums: the argument to differentiate by, or a tuple of several.
        has_aux: ``func`` returns (value, anything); the second is returned beside the gradient.

    See ``torch.func.grad``.

    Example:
        >>> import fastdl
        >>> cube = lambda x: x**3
        >>> fastdl.func.grad(cube)(fastdl.tensor(2.0)).item(), fastdl.func.grad(grad(cube))(fastdl.tensor(2.0)).item()
        (12.0, 12.0)
    """
    both = grad_and_value(func, argnums, has_aux)

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return differentiated


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(output, function of cotangents): the product of a vector, shaped as the output, with the Jacobian of ``func``.

    That function returns one gradient per primal, in a tuple. See ``torch.func.vjp``.

    Example:
        >>> import fastdl
        >>> y, pull = fastdl.func.vjp(fastdl.sin, fastdl.zeros(2))
        >>> pull(fastdl.ones(2))
        (tensor([1., 1.]),)
    """
    with enable_grad():
        new, inputs, wanted = _chosen("vjp", primals, tuple(range(len(primals))))
        output, aux = _with_aux("vjp", func(*new), has_aux, inputs)
        _check_tensors("vjp", output)
        _spend(inputs)

    def pull(cotangents: Any) -> Any:
        total = [x.new_zeros(x.shape) for x in inputs]
        with enable_grad():
            for y, v in zip(tensors_in(output), tensors_in(cotangents), strict=True):
                total = [a + b for a, b in zip(total, _gradient(y, inputs, v), strict=True)]
            return rebuilt(wanted, iter([_settled(g, inputs) for g in total]))

    result = (_settled_all(output, inputs), pull)
    return (*result, aux) if has_aux else result


def jvp(
    func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], *, has_aux: bool = False
) -> Any:
    """(output, the Jacobian of ``func`` times the tangents), by differentiating backward twice.

    See ``torch.func.jvp``.

    Example:
        >>> import fastdl
        >>> fastdl.func.jvp(fastdl.square, (fastdl.tensor(3.0),), (fastdl.tensor(1.0),))
        (tensor(9.), tensor(6.))
    """
    with enable_grad():
        new, inputs, _ = _chosen("jvp", primals, tuple(range(len(primals))))
        output, aux = _with_aux("jvp", func(*new), has_aux, inputs)
        _check_tensors("jvp", output)
        along = []
        for y in tensors_in(output):
            if y._data.dtype.kind not in DIFFERENTIABLE:  # indices and comparisons do not move
                along.append(y.detach().new_zeros(y.shape))
                continue
            # The gradient for weights is linear in them: its own gradient is the product wanted.
            weights = _input(y.detach().new_zeros(y.shape))
            pulled = _gradient(y, inputs, weights)
            total = weights.new_zeros(y.shape)
            for g, v in zip(pulled, tensors_in(tangents), strict=True):
                if g.requires_grad:
                    total = total + _gradient(g, [weights], v)[0]
            along.append(_settled(total, [*inputs, weights]))
            _spend([*inputs, weights])
    result = (_settled_all(output, inputs), rebuilt(output, iter(along)))
    return (*result, aux) if has_aux else result


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """(output, a function from tangents to the Jacobian's product with them) at ``primals``.

    See ``torch.func.linearize``; each product goes through ``func`` again.

    Example:
        >>> import fastdl
        >>> output, along = fastdl.func.linearize(fastdl.square, fastdl.tensor(3.0))
        >>> output.item(), along(fastdl.tensor(2.0)).item()
        (9.0, 12.0)
    """

    def along(*tangents: Any) -> Any:
        return jvp(func, primals, tangents)[1]

    with no_grad():
        output = func(*primals)
    return output, along


def _rows_at_once(
    again: Callable[[list[Tensor]], list[Tensor]],
    inputs: list[Tensor],
    counts: list[int],
    chunk_size: int | None,
) -> list[Tensor] | None:
    """For every input the gradients of all elements of the outputs, one after the other; None: not so.

    Copy i of the inputs is for element i: the gradient of the sum of those elements, each of its own copy, is all rows.
    """
    total = sum(counts)
    most = chunk_size or max(16, _NUMBERS // max(1, total + sum([x.numel() for x in inputs])))
    parts = []
    for start in range(0, total if total > 3 else 0, most):
        rows = range(start, min(start + most, total))
        try:
            with mapping(len(rows)) as level:
                copies = [_variable(everywhere(level, len(rows), x)) for x in inputs]
                outputs = again([made(level, c) for c in copies])
                whole = [everywhere(level, len(rows), y) for y in outputs]
        except FAILURES:
            return None
        summed: Any = 0.0
        first = 0
        for y, count in zip(whole, counts, strict=True):
            own = range(max(first, rows.start), min(first + count, rows.stop))
            if len(own):
                table = y.reshape(len(rows), count)[own.start - start : own.stop - start]
                summed = summed + table[:, own.start - first : own.stop - first].diagonal().sum()
            first += count
        parts.append(_gradient(summed, copies, None, inputs))
    return [cat(list(c)) for c in zip(*parts, strict=True)] if parts else None


_NUMBERS = 1 << 24  # in copies of inputs and outputs at a time


def jacrev(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: Any = None,
) -> Callable[..., Any]:
    """The function that computes the Jacobian of ``func``: of shape output's + input's, row by row.

    Args are those of :func:`grad`. Rows are computed at once, by ``func`` of that many copies of its arguments (as
    :func:`vmap` does it): ``chunk_size`` of them, or what makes copies and results some 16 million numbers. See
    ``torch.func.jacrev``.

    Example:
        >>> import fastdl
        >>> fastdl.func.jacrev(lambda x: x * x)(fastdl.tensor([1.0, 2.0])).tolist()
        [[2.0, 0.0], [0.0, 4.0]]
    """

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        state = default_generator.get_state().tolist()
        with enable_grad():
            new, inputs, wanted = _chosen("jacrev", args, argnums)
            output, aux = _with_aux("jacrev", func(*new, **kwargs), has_aux, inputs)
            _check_tensors("jacrev", output)
            outputs = tensors_in(output)
            rows: Any = None
            if default_generator.get_state().tolist() == state:

                def again(own: list[Tensor]) -> list[Tensor]:
                    result = func(*_placed(args, argnums, own), **kwargs)
                    return tensors_in(result[0] if has_aux else result)

                rows = _rows_at_once(again, inputs, [y.numel() for y in outputs], chunk_size)
            if rows is None:
                flat = [y.reshape(-1) for y in outputs]
                each = [_gradient(y[i], inputs) for y in flat for i in range(y.numel())]
                rows = [stack(list(c)) for c in zip(*each, strict=True)] or [
                    x.new_zeros((0, *x.shape)) for x in inputs
                ]
            tables, first = [], 0
            for y in outputs:
                parts = [
                    r[first : first + y.numel()].reshape(*y.shape, *x.shape)
                    for r, x in zip(rows, inputs, strict=True)
                ]
                first += y.numel()
                tables.append(rebuilt(wanted, iter([_settled(p, inputs) for p in parts])))
            _spend(inputs)
        result = rebuilt(output, iter(tables))
        return (result, aux) if has_aux else result

    return differentiated


def jacfwd(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
) -> Callable[..., Any]:
    """:func:`jacrev` under its other name: there is no forward mode. See ``torch.func.jacfwd``."""
    return jacrev(func, argnums, has_aux=has_aux)


def hessian(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that computes the Jacobian of the Jacobian of ``func``. See ``torch.func.hessian``.

    Example:
        >>> import fastdl
        >>> fastdl.func.hessian(lambda x: (x**3).sum())(fastdl.tensor([1.0, 2.0])).tolist()
        [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacrev(jacrev(func, argnums), argnums)


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and buffers of models of one architecture, stacked: an ensemble for :func:`vmap`.

    See ``torch.func.stack_module_state``.
    """
    if not models:
        raise RuntimeError("stack_module_state: expected at least one model, got 0")
    if any(m.training != models[0].training for m in models) or any(
        type(m) is not type(models[0]) for m in models
    ):
        raise RuntimeError(
            "stack_module_state: the models must be of one class, and all training or all evaluating"
        )
    with no_grad():
        parameters = {
            name: stack([dict(m.named_parameters())[name] for m in models]).requires_grad_(p.requires_grad)
            for name, p in models[0].named_parameters()
        }
        buffers = {
            name: stack([dict(m.named_buffers())[name] for m in models])
            for name, _ in models[0].named_buffers()
        }
    return parameters, buffers

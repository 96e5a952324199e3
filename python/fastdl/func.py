"""Functions of functions: derivatives, maps over slices, calls of modules with other parameters; see ``torch.func``.

All derivatives go by reverse mode and may be nested. Arguments are tensors, or dictionaries, lists and tuples of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastdl.autograd import enable_grad, no_grad
from fastdl.autograd import grad as _gradients
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.errors import not_a_tensor
from fastdl.nn.modules.module import Module
from fastdl.ops.join import stack
from fastdl.ops.parts import select_dim
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


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: Any = None,
) -> Callable[..., Any]:
    """``func`` for each slice of its arguments, the results stacked. It is called once per slice.

    Args:
        func: a function of tensors (or dictionaries, lists, tuples of them) that returns such.
        in_dims: which axis of each argument to slice; None: the argument is passed whole. One for all, or a tuple,
            in it dictionaries, lists and tuples as in the arguments.
        out_dims: where the results' new axis goes. One for all, or a tuple with one for each result.
        randomness, chunk_size: accepted for compatibility.

    See ``torch.func.vmap``.

    Example:
        >>> import fastdl
        >>> vmap(fastdl.dot)(fastdl.ones(2, 3), fastdl.ones(2, 3)).tolist()
        [3.0, 3.0]
    """

    def mapped(*args: Any, **kwargs: Any) -> Any:
        axes = in_dims if isinstance(in_dims, (tuple, list)) else (in_dims,) * len(args)
        if len(axes) != len(args):
            raise ValueError(f"vmap: in_dims has {len(axes)} entries for {len(args)} arguments")
        each = [_axes(a, d) for a, d in zip(args, axes, strict=True)]
        leaves = [
            pair for a, dims in zip(args, each, strict=True) for pair in zip(_tensors(a), dims, strict=True)
        ]
        for t, d in leaves:
            if d is not None and not -t.ndim <= d < t.ndim:
                raise ValueError(f"vmap: in_dims names axis {d} of a tensor of {t.ndim} dimensions")
        sizes = {t.shape[d] for t, d in leaves if d is not None}
        if len(sizes) != 1:
            raise ValueError(
                "vmap: the arguments must have one size along the mapped axes, got "
                + (", ".join(map(str, sorted(sizes))) or "no mapped tensor")
            )

        def sliced(value: Any, dims: list[int | None], i: int) -> Any:
            parts = zip(_tensors(value), dims, strict=True)
            return _rebuilt(value, iter([t if d is None else select_dim(t, d, i) for t, d in parts]))

        results = [
            func(*[sliced(a, dims, i) for a, dims in zip(args, each, strict=True)], **kwargs)
            for i in range(sizes.pop())
        ]
        first = results[0]
        if isinstance(out_dims, (tuple, list)):
            if not isinstance(first, (tuple, list)) or len(first) != len(out_dims):
                raise ValueError(f"vmap: out_dims has {len(out_dims)} entries, func returned {_count(first)}")
            dims = [d for part, d in zip(first, out_dims, strict=True) for _ in _tensors(part)]
        else:
            dims = [out_dims] * len(_tensors(first))
        parts = zip(*[_tensors(r) for r in results], strict=True)
        return _rebuilt(first, iter([stack(list(part), d) for part, d in zip(parts, dims, strict=True)]))

    return mapped


def _axes(value: Any, axes: Any) -> list[int | None]:
    """For every tensor in ``value`` its axis: one for all, or ``axes`` has the structure of ``value``."""
    if axes is None or isinstance(axes, int):
        return [axes] * len(_tensors(value))
    if isinstance(axes, Mapping) and isinstance(value, Mapping) and axes.keys() == value.keys():
        return [d for key, part in value.items() for d in _axes(part, axes[key])]
    if isinstance(axes, (list, tuple)) and isinstance(value, (list, tuple)) and len(axes) == len(value):
        return [d for part, own in zip(value, axes, strict=True) for d in _axes(part, own)]
    raise ValueError(
        f"vmap: in_dims {axes!r} has not the structure of the argument, a {type(value).__name__}"
    )


def _count(result: Any) -> str:
    return f"{len(result)} results" if isinstance(result, (tuple, list)) else f"one {type(result).__name__}"


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested dictionaries, lists and tuples, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [t for part in value for t in _tensors(part)]


def _rebuilt(value: Any, tensors: Iterator[Any]) -> Any:
    """``value`` with its tensors replaced, in the order of :func:`_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return type(value)((k, _rebuilt(v, tensors)) for k, v in value.items())  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        parts = [_rebuilt(v, tensors) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _input(x: Tensor) -> Tensor:
    """``x`` as the variable of one derivative: another tensor, that an outer derivative still sees through."""
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def _depends_on_others(result: Tensor, inputs: list[Tensor]) -> bool:
    """Does the graph of ``result`` lead to leaves other than ``inputs``, for which somebody may differentiate it?"""
    seen = {id(x) for x in inputs}
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
        x.__dict__["_spent"] = True


def _chosen(op: str, args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> tuple[Any, list[Tensor], Any]:
    """The arguments with new tensors at ``argnums``, those tensors, and what stood there."""
    many = argnums if isinstance(argnums, tuple) else (argnums,)
    for n in many:
        if not -len(args) <= n < len(args):
            raise ValueError(f"{op}: argnums {argnums} does not name one of {len(args)} arguments")
    places = [n % len(args) for n in many]
    wanted = tuple([args[n] for n in places])
    inputs = [_input(x) for x in _tensors(wanted)]
    if not inputs:
        raise not_a_tensor(op, f"argument {places[0]}", wanted[0])
    given = dict(zip(places, _rebuilt(wanted, iter(inputs)), strict=True))
    new = [given.get(i, a) for i, a in enumerate(args)]
    return new, inputs, wanted if isinstance(argnums, tuple) else wanted[0]


def _with_aux(op: str, result: Any, has_aux: bool, inputs: list[Tensor]) -> tuple[Any, Any]:
    if not has_aux:
        return result, None
    if not (isinstance(result, tuple) and len(result) == 2):
        raise RuntimeError(f"{op}: with has_aux=True the function must return (output, aux)")
    return result[0], _settled_all(result[1], inputs)


def _settled(result: Tensor, inputs: list[Tensor]) -> Tensor:
    """A result without history, if only this derivative's own variables are in it."""
    return result if result.requires_grad and _depends_on_others(result, inputs) else result.detach()


def _settled_all(value: Any, inputs: list[Tensor]) -> Any:
    return _rebuilt(value, iter([_settled(t, inputs) for t in _tensors(value)]))


def _gradient(output: Tensor, inputs: list[Tensor], weights: Any = None, graph: bool = True) -> list[Tensor]:
    """The gradients of one output, zeros where it does not depend on an input; ``graph``: differentiable again."""
    found: Any = [None] * len(inputs)
    if output.requires_grad:
        found = _gradients(output, inputs, weights, retain_graph=True, create_graph=graph, allow_unused=True)
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
            graph = _depends_on_others(value, inputs)
            found = [_settled(g, inputs) for g in _gradient(value, inputs, None, graph)]
            value = value if graph else value.detach()
            _spend(inputs)
        gradient = _rebuilt(wanted, iter(found))
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
        _spend(inputs)

    def pull(cotangents: Any) -> Any:
        total = [x.new_zeros(x.shape) for x in inputs]
        with enable_grad():
            for y, v in zip(_tensors(output), _tensors(cotangents), strict=True):
                graph = v.requires_grad or _depends_on_others(y, inputs)
                total = [a + b for a, b in zip(total, _gradient(y, inputs, v, graph), strict=True)]
            return _rebuilt(wanted, iter([_settled(g, inputs) for g in total]))

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
        along = []
        for y in _tensors(output):
            if y._data.dtype.kind not in DIFFERENTIABLE:  # indices and comparisons do not move
                along.append(y.detach().new_zeros(y.shape))
                continue
            # The gradient for weights is linear in them: its own gradient is the product wanted.
            weights = y.detach().new_zeros(y.shape).requires_grad_()
            pulled = _gradient(y, inputs, weights)
            total = weights.new_zeros(y.shape)
            for g, v in zip(pulled, _tensors(tangents), strict=True):
                if g.requires_grad:
                    total = total + _gradient(g, [weights], v)[0]
            along.append(_settled(total, [*inputs, weights]))
            _spend([*inputs, weights])
    result = (_settled_all(output, inputs), _rebuilt(output, iter(along)))
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


def jacrev(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: Any = None,
) -> Callable[..., Any]:
    """The function that computes the Jacobian of ``func``: of shape output's + input's, row by row.

    Args are those of :func:`grad`; ``chunk_size`` is accepted for compatibility. See ``torch.func.jacrev``.

    Example:
        >>> import fastdl
        >>> fastdl.func.jacrev(lambda x: x * x)(fastdl.tensor([1.0, 2.0])).tolist()
        [[2.0, 0.0], [0.0, 4.0]]
    """

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        with enable_grad():
            new, inputs, wanted = _chosen("jacrev", args, argnums)
            output, aux = _with_aux("jacrev", func(*new, **kwargs), has_aux, inputs)
            tables = []
            for y in _tensors(output):
                graph, flat = _depends_on_others(y, inputs), y.reshape(-1)
                rows = [_gradient(flat[i], inputs, None, graph) for i in range(y.numel())]
                columns: Any = zip(*rows, strict=True) if rows else [[]] * len(inputs)
                parts = [
                    stack(list(c)).reshape(*y.shape, *x.shape) if rows else x.new_zeros((*y.shape, *x.shape))
                    for c, x in zip(columns, inputs, strict=True)
                ]
                tables.append(_rebuilt(wanted, iter([_settled(p, inputs) for p in parts])))
            _spend(inputs)
        result = _rebuilt(output, iter(tables))
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

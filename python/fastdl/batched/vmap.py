"""``vmap``: a function for every slice of its arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastdl.batched import known_rules
from fastdl.batched.tensor import everywhere, leaves, made
from fastdl.kernels.batched import FAILURES
from fastdl.ops.join import stack
from fastdl.ops.parts import select_dim
from fastdl.ops.views import movedim
from fastdl.random import default_generator
from fastdl.tensor import Tensor


class _Here(threading.local):
    sizes: tuple[int, ...] = ()  # of the calls of vmap around what runs now


_here = _Here()


def innermost() -> tuple[int, int] | None:
    """Level and size of the innermost call of vmap that computes all slices at once; None outside of any."""
    return (len(_here.sizes) - 1, _here.sizes[-1]) if _here.sizes else None


@contextmanager
def mapping(size: int) -> Iterator[int]:
    """A block in which tensors may have ``size`` slices, of the level it gives."""
    known_rules()
    before = _here.sizes
    _here.sizes = (*before, size)
    try:
        yield len(before)
    finally:
        _here.sizes = before


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: Any = None,
) -> Callable[..., Any]:
    """``func`` for each slice of its arguments, the results stacked.

    All slices are computed at once, by a call of ``func`` with tensors that look like one slice. What cannot be done so
    (decisions that differ between the slices, ``.item()``, random numbers, running statistics, results of several
    shapes) is done by a call per slice.

    Args:
        func: a function of tensors (or dictionaries, lists, tuples of them) that returns such.
        in_dims: which axis of each argument to slice; None: the argument is passed whole. One for all, or a tuple,
            in it dictionaries, lists and tuples as in the arguments.
        out_dims: where the results' new axis goes. One for all, or a tuple with one for each result.
        randomness: ``"same"``: every slice draws the same random numbers. Else each draws its own.
        chunk_size: how many slices to compute at once; None: all.

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
        each = [d for a, own in zip(args, axes, strict=True) for d in _axes(a, own)]
        given = tensors_in(args)
        for t, d in zip(given, each, strict=True):
            if d is not None and not -t.ndim <= d < t.ndim:
                raise ValueError(f"vmap: in_dims names axis {d} of a tensor of {t.ndim} dimensions")
        sizes = {t.shape[d] for t, d in zip(given, each, strict=True) if d is not None}
        if len(sizes) != 1:
            raise ValueError(
                "vmap: the arguments must have one size along the mapped axes, got "
                + (", ".join(map(str, sorted(sizes))) or "no mapped tensor")
            )
        size = sizes.pop()
        given = [t if d is None else movedim(t, d, 0) for t, d in zip(given, each, strict=True)]

        def part(first: int, count: int) -> Any:
            here = [
                t if d is None else t[first : first + count] if count < size else t
                for t, d in zip(given, each, strict=True)
            ]
            whole = at_once(func, args, here, each, kwargs, count)
            if whole is None:
                whole = _one_after_another(func, args, here, each, kwargs, count, randomness == "same")
            return whole

        step = size if chunk_size is None else max(1, chunk_size)
        parts = [part(i, min(step, size - i)) for i in range(0, max(size, 1), max(step, 1))]
        structure = parts[0][0]
        columns = zip(*[results for _, results in parts], strict=True)
        results = [c[0] if len(c) == 1 else _chained(c) for c in columns]
        if isinstance(out_dims, (tuple, list)):
            if not isinstance(structure, (tuple, list)) or len(structure) != len(out_dims):
                raise ValueError(
                    f"vmap: out_dims has {len(out_dims)} entries, func returned {_count(structure)}"
                )
            dims = [d for p, d in zip(structure, out_dims, strict=True) for _ in tensors_in(p)]
        else:
            dims = [out_dims] * len(results)
        moved = [r if d == 0 else movedim(r, 0, d) for r, d in zip(results, dims, strict=True)]
        return rebuilt(structure, iter(moved))

    return mapped


def _chained(parts: Any) -> Tensor:
    from fastdl.ops.join import cat

    return cat(list(parts), 0)


def at_once(
    func: Callable[..., Any], args: Any, given: list[Tensor], each: Any, kwargs: dict[str, Any], size: int
) -> tuple[Any, list[Tensor]] | None:
    """What ``func`` returns, and its tensors with all slices; None where that cannot be computed at once.

    ``given`` are the tensors in ``args``, with slices along axis 0 where ``each`` has no None.
    """
    before = default_generator.get_state()
    try:
        with mapping(size) as level:
            own = [t if d is None else made(level, t) for t, d in zip(given, each, strict=True)]
            result = func(*rebuilt(args, iter(own)), **kwargs)
            found = [everywhere(level, size, t) for t in tensors_in(result)]
    except FAILURES:
        found = None
    if default_generator.get_state().tolist() != before.tolist():
        default_generator.set_state(before)
        found = None
    return None if found is None else (result, found)


def _one_after_another(
    func: Callable[..., Any],
    args: Any,
    given: list[Tensor],
    each: Any,
    kwargs: dict[str, Any],
    size: int,
    same: bool,
) -> tuple[Any, list[Tensor]]:
    """The same by a call for every slice."""
    state = default_generator.get_state()
    results = []
    for i in range(size):
        if same:
            default_generator.set_state(state)
        slices = [t if d is None else select_dim(t, 0, i) for t, d in zip(given, each, strict=True)]
        results.append(func(*rebuilt(args, iter(slices)), **kwargs))
    if not results:
        raise ValueError("vmap: there is no slice, and the function's result cannot be told without one")
    columns = zip(*[tensors_in(r) for r in results], strict=True)
    return results[0], [stack(list(c), 0) for c in columns]


def _axes(value: Any, axes: Any) -> list[int | None]:
    """For every tensor in ``value`` its axis: one for all, or ``axes`` has the structure of ``value``."""
    if axes is None or isinstance(axes, int):
        return [axes] * len(tensors_in(value))
    if isinstance(axes, Mapping) and isinstance(value, Mapping) and axes.keys() == value.keys():
        return [d for key, part in value.items() for d in _axes(part, axes[key])]
    if isinstance(axes, (list, tuple)) and isinstance(value, (list, tuple)) and len(axes) == len(value):
        return [d for part, own in zip(value, axes, strict=True) for d in _axes(part, own)]
    raise ValueError(
        f"vmap: in_dims {axes!r} has not the structure of the argument, a {type(value).__name__}"
    )


def _count(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"{len(result)} results"
    return f"one {'Tensor' if isinstance(result, Tensor) else type(result).__name__}"


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested dictionaries, lists and tuples, in order."""
    return list(leaves(value))


def rebuilt(value: Any, tensors: Iterator[Any]) -> Any:
    """``value`` with its tensors replaced, in the order of :func:`tensors_in`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return type(value)((k, rebuilt(v, tensors)) for k, v in value.items())  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        parts = [rebuilt(v, tensors) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value

"""Slice by slice: how everything is computed that has no rule for all slices at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from types import FunctionType
from typing import Any

from fastdl._graph import FunctionCall
from fastdl.autograd.mode import mode
from fastdl.batched.tensor import BatchedTensor, leaves, level_of, made, size_at, values_at
from fastdl.kernels.batched import REFUSALS, NotAtOnce
from fastdl.ops.join import stack
from fastdl.ops.parts import select_dim, unbind
from fastdl.stand_in import StandInTensor
from fastdl.tensor import Tensor


def _slices(level: int, value: Any, written: bool) -> Callable[[int], Any]:
    """Slice i of what ``value`` holds. Those of ``unbind`` have their gradients joined once, and are not written to."""
    values = values_at(level, value)
    if values is not None:
        is_tensor = isinstance(value, Tensor)
        parts = unbind(values, 0) if not written else None

        def part(i: int) -> Any:
            found = select_dim(values, 0, i) if parts is None else parts[i]
            return found if is_tensor else found._data

        return part
    if isinstance(value, Mapping):
        by_key = {k: _slices(level, v, written) for k, v in value.items()}
        return lambda i: type(value)((k, of(i)) for k, of in by_key.items())  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        each = [_slices(level, v, written) for v in value]
        if hasattr(value, "_fields"):
            return lambda i: type(value)(*[of(i) for of in each])
        return lambda i: type(value)([of(i) for of in each])
    return lambda i: value


def joined(level: int, results: list[Any]) -> Any:
    """The results of all slices as one. What is no tensor must be the same in all."""
    first = results[0]
    if isinstance(first, Tensor):
        shapes = {r._data.shape for r in results}
        if len(shapes) > 1:
            raise NotAtOnce(f"vmap: the slices' results have several shapes: {sorted(shapes)}")
        return made(level, stack(results, 0))
    if isinstance(first, (list, tuple)):
        if any([len(r) != len(first) for r in results]):
            raise NotAtOnce("vmap: the slices' results differ in length")
        parts = [joined(level, list(part)) for part in zip(*results, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, Mapping):
        return type(first)((k, joined(level, [r[k] for r in results])) for k in first)  # type: ignore[call-arg]
    if isinstance(first, (bool, int, float, complex, str, type(None))) and all([r == first for r in results]):
        return first
    raise NotAtOnce("vmap: a number of one slice is not that of the others")


def one_by_one(function: Callable[..., Any], args: Any, options: dict[str, Any], writes: bool = False) -> Any:
    """The results of ``function`` for every slice of the innermost level, joined. ``writes``: it changes the first."""
    level = level_of((args, options))
    size = size_at(level, (args, options))
    if size == 0:
        raise NotAtOnce("vmap: there is no slice to tell the result's shape")
    first, rest = _slices(level, args[:1], writes), _slices(level, args[1:], False)
    named = _slices(level, options, False)
    results = [function(*first(i), *rest(i), **named(i)) for i in range(size)]
    return joined(level, results)


_CHANGING = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
_IN_PLACE_OPERATORS = frozenset([f"__i{name}__" for name in _CHANGING.split()])
_OPERATORS = """add sub mul truediv floordiv mod pow matmul and or xor lshift rshift eq ne lt le gt ge neg pos abs
    invert radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul rand ror rxor getitem setitem bool int float index
    complex contains"""
_OWN = "detach requires_grad_ backward register_hook retain_grad"


def _guarded(name: str, function: Any, of_slice: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of a sliced tensor, or ``of_slice`` of one slice after the other."""
    in_place = name in _IN_PLACE_OPERATORS or name == "__setitem__" or (name[-1] == "_" != name[-2])

    def guarded(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return function(self, *args, **options)
        except REFUSALS:
            pass  # outside of the handler the slices' own errors have no other behind them
        if options.get("out") is not None or (in_place and level_of((args, options)) > self._data.level):
            raise NotAtOnce(f"vmap: {name} would write every slice into one tensor")
        if in_place and mode.enabled and any([t.requires_grad for t in leaves((self, args, options))]):
            # Views of one tensor, changed one after the other, would each make what the others keep for backward stale.
            raise NotAtOnce(f"vmap: {name} of slices has no gradient")
        result = one_by_one(of_slice, (self, *args), options, in_place)
        return self if in_place and result is not None else result

    return guarded


def attach(rules: Mapping[str, Any]) -> None:
    """Give sliced tensors all methods and properties of tensors, those that have a rule by that; called once."""
    names = [n for n in dir(Tensor) if n[0] != "_" and n not in _OWN.split()]
    own = {*vars(StandInTensor), *vars(BatchedTensor)}
    for name in (*names, *[f"__{n}__" for n in _OPERATORS.split()], *_IN_PLACE_OPERATORS):
        found: Any = getattr(Tensor, name, None)
        if name in own or found is None:
            continue
        if isinstance(found, property):
            get = _guarded(name, found.fget, attrgetter(name))
            setattr(BatchedTensor, name, property(get, found.fset))
        elif isinstance(found, (FunctionType, FunctionCall)):
            setattr(BatchedTensor, name, _guarded(name, rules.get(name, found), _caller(name)))


def _caller(name: str) -> Callable[..., Any]:
    return lambda x, *args, **options: getattr(x, name)(*args, **options)

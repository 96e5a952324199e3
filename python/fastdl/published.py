"""What all public functions share: errors that name a wrong argument, and ``out=``.

Looking at the type of every argument would slow every call down. So :func:`publish` replaces a function in its public
namespace by an object (``FunctionCall``, csrc/bindings/graph/view.cpp) that calls it, and looks at the arguments only
if the call raised: if one that should be a tensor is none, that becomes the error. Elementwise functions check their
operands themselves and stay as they are, and operations and modules call each other's functions directly.

The same object handles ``out=``: the result is computed, then stored there. (Elementwise functions write to it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import update_wrapper
from inspect import CO_VARKEYWORDS, Parameter, signature, unwrap
from typing import Any

from fastdl._graph import FunctionCall, set_explain
from fastdl.errors import DtypeError, not_a_tensor
from fastdl.kernels.batched import BatchedArray
from fastdl.kernels.sparse import SparseArray
from fastdl.tensor import Tensor

Function = Callable[..., Any]

_OUT = {
    "Tensor": "Tensor | None",
    "Any": "Any",
}  # the annotation of out, by that of the result; else several tensors
_OURS = {
    "axis": "dim",
    "keepdims": "keepdim",
    "axis0": "dim0",
    "axis1": "dim1",
    "tensor": "input",
    "train": "training",
    "split_size": "split_size_or_sections",
    "split_sizes": "split_size_or_sections",
    "tensor_indices_or_sections": "indices_or_sections",
    "from": "from_",
    "element": "elements",
    "test_element": "test_elements",
    "b": "B",
    "other": "B",
} | dict.fromkeys(("indices", "sections"), "indices_or_sections")  # by other names of PyTorch's, or NumPy's
_PLACES = {
    "input": 0,
    "input2": 1,
}  # what PyTorch calls the first tensors where its documentation says A, L or tau
_DENSE = ("layout", "pin_memory")  # options of all that makes tensors, which change nothing
_REFUSED = (AttributeError, TypeError, ValueError, IndexError, RuntimeError)
_done: dict[Function, Function] = {}
_done_out: dict[Function, Function] = {}
_wrapped: dict[Function, Function] = {}  # wrapper -> the function that it calls


def publish(namespace: dict[str, Any], names: Iterable[str], out: str = "") -> None:
    """Replace the functions ``names`` in a module's ``namespace`` by wrappers; those named in ``out`` take ``out=``."""
    takes_out = frozenset(out.split())
    for name in names:
        function = namespace[name]
        if isinstance(function, type) or not callable(function):
            continue
        function = _wrapped.get(function, function)
        if name in takes_out:
            namespace[name] = with_out(function, name, namespace["__name__"])
        else:
            namespace[name] = explaining(function, name, namespace["__name__"])


def method(function: Function) -> Function:
    """``function`` as a method: its first argument is always a tensor, so only the others are looked at."""
    function = _wrapped.get(function, function)
    code = unwrap(function).__code__
    others = code.co_varnames[1 : code.co_argcount]
    if any("Tensor" in str(unwrap(function).__annotations__.get(name)) for name in others):
        return explaining(function)
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    if not code.co_flags & CO_VARKEYWORDS and not set(_OURS.values()).isdisjoint((*others, *keywords)):
        return explaining(function)  # those with **names take NumPy's themselves
    return function


def _looks_itself(function: Function) -> bool:
    """Does the function check its operands itself, as the elementwise functions do?"""
    module = function.__module__
    return module in ("fastdl.ops.unary", "fastdl.ops.arithmetic") or (
        module == "fastdl.ops.compare" and function.__annotations__.get("input") == "Any"
    )


def explaining(function: Function, name: str = "", module: str = "") -> Function:
    """``function``, with an error that says so if an argument that must be a tensor is none."""
    if _looks_itself(function):
        return function
    if function in _done:
        return _named(_done[function], name, module)

    _done[function] = call = _published(function, None)
    return _named(call, name, module)


def _published(function: Function, into: Function | None) -> Any:
    own: Any = function if isinstance(function, FunctionCall) else FunctionCall(function)
    call = update_wrapper(own.published(into), function)
    _wrapped[call] = function
    return call


def with_out(function: Function, name: str, module: str) -> Function:
    """As :func:`explaining`, with the keyword ``out``."""
    if function in _done_out:
        return _done_out[function]

    def into(*args: Any, out: Any, **options: Any) -> Any:
        if out is None:
            return function(*args, **options)
        return call_into(call.__name__, function, args, options, out)

    call = _published(function, into)
    own = signature(function)
    parameters = list(own.parameters.values())
    at = len(parameters) - (bool(parameters) and parameters[-1].kind is Parameter.VAR_KEYWORD)
    kind = _OUT.get(str(own.return_annotation), "Sequence[Tensor] | None")
    out = Parameter("out", Parameter.KEYWORD_ONLY, default=None, annotation=kind)
    call.__signature__ = own.replace(parameters=[*parameters[:at], out, *parameters[at:]])
    _done_out[function] = call
    return _named(call, name, module)


def _named(call: Function, name: str, module: str) -> Function:
    """The wrapper, named after the first place where it is public: that is where pickle finds it."""
    if name and call.__module__ == _wrapped[call].__module__:
        call.__name__ = call.__qualname__ = name
        call.__module__ = module
    return call


def explain(
    op: str, function: Function, args: Any, options: dict[str, Any], error: Exception, skip: int = 0
) -> None:
    """Raise a better error than ``error`` if an argument of the call that raised it is not what it should be.

    Arguments that must be tensors are looked at first. If they are, and the error does not name the operation yet, the
    others are compared with their annotations. ``args`` begin after ``skip`` parameters of the function (1 for a
    method: self).
    """
    function = unwrap(function)
    code = function.__code__
    annotations = function.__annotations__
    names = ["input" if name == "self" else name for name in code.co_varnames[skip : code.co_argcount]]
    names += ["an argument"] * (len(args) - len(names))  # those that a *args took
    for name, value in (*zip(names, args, strict=False), *options.items()):
        if isinstance(value, Tensor):
            continue
        annotation = annotations.get(name)
        if annotation == "Tensor" or (annotation == "Tensor | None" and value is not None):
            raise not_a_tensor(op, name, value) from None
        if was_taken_for_tensor(value, error):
            raise not_a_tensor(op, name, value) from None
    text = str(error)
    if text.startswith(f"{op}:"):
        return
    from fastdl.arguments import explanation

    own = signature(function)
    call = {
        name: value
        for name, value in (*zip(names, args, strict=False), *options.items())
        if name in own.parameters
    }
    better = explanation(op, call, own, error)
    if better is not None:
        raise better from None
    kernel, _, rest = text.partition("_forward: ")
    if isinstance(error, DtypeError) and rest and kernel.isidentifier():
        raise DtypeError(f"{op}: {rest}") from None


def _by_our_names(op: str, function: Function, options: dict[str, Any]) -> dict[str, Any] | None:
    """``options`` by the function's own names where others were given; None if there are none."""
    function = unwrap(function)
    code = function.__code__
    if code.co_flags & CO_VARKEYWORDS:
        return None
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    tensors = {
        name: known[place]
        for name, place in _PLACES.items()
        if place < code.co_argcount and function.__annotations__.get(known[place]) == "Tensor"
    }
    renamed, kept = {}, 0
    for name, value in options.items():
        if name in _DENSE and name not in known and "device" in known:
            from fastdl.creation import ignore

            ignore(op, {name: value})
            continue
        kept += 1
        ours = tensors.get(name) or _OURS.get(name)
        renamed[ours if name not in known and ours in known else name] = value
    return renamed if len(renamed) == kept and renamed.keys() != options.keys() else None


def _answer(call: Any, args: Any, options: dict[str, Any], error: Exception) -> Any:
    """The result of a call that raised ``error``, if its arguments have NumPy's names or are sparse; else None.

    None lets the error pass, unless :func:`explain` has raised a better one.
    """
    if (
        isinstance(error, TypeError)
        and (renamed := _by_our_names(call.__name__, _wrapped[call], options)) is not None
    ):
        return call(*args, **renamed)
    if BatchedArray.made and isinstance(error, (TypeError, AttributeError, NotImplementedError)):
        from fastdl.batched import called_with_slices, has_slices

        if has_slices((args, options)):
            return called_with_slices(call, args, options)
    if SparseArray.made and options.get("out") is None:
        from fastdl.sparse import called, has_sparse

        rest = {name: value for name, value in options.items() if name != "out"}
        if has_sparse((*args, *rest.values())):
            op, module = call.__name__, call.__module__
            if module in ("fastdl.linalg", "fastdl.fft", "fastdl.special"):  # their norm is another one
                op = f"{module.removeprefix('fastdl.')}.{op}"
            return called(op, args, rest, error)
    explain(call.__name__, _wrapped[call], args, options, error)
    return None


set_explain(_answer, _REFUSED)


def was_taken_for_tensor(value: Any, error: Exception) -> bool:
    """Was ``error`` raised because ``value`` lacks an attribute that only tensors have?"""
    return (
        isinstance(error, AttributeError)
        and error.obj is value
        and (error.name == "_data" or hasattr(Tensor, str(error.name)))
    )


def call_into(op: str, function: Function, args: Any, options: dict[str, Any], out: Any) -> Any:
    """The result of a call stored in the tensor ``out``, or in several, which are returned."""
    from fastdl.ops.out import constant, store

    several = isinstance(out, (tuple, list))
    for i, tensor in enumerate(out if several else (out,)):
        if not isinstance(tensor, Tensor):
            raise not_a_tensor(op, f"out[{i}]" if several else "out", tensor)
        constant(tensor)
    if op in MADE or op in ("fftfreq", "rfftfreq"):
        options = {"dtype": out.dtype, "device": out.device, **options}
    result = function(*args, **options)
    if isinstance(result, Tensor) and not several:
        return store(op, out, result)
    if not several or isinstance(result, Tensor) or len(out) != len(result):
        count = 1 if isinstance(result, Tensor) else len(result)
        wanted = "a Tensor" if count == 1 else "a tuple of as many"
        raise TypeError(f"{op}: gives {count} tensor{'s' * (count > 1)}, so out must be {wanted}")
    stored = [store(op, into, part) for into, part in zip(out, result, strict=True)]
    return type(result)(*stored) if hasattr(result, "_fields") else tuple(stored)


# Functions that make a tensor from numbers: its dtype is that of out.
MADE = [
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "zeros",
]

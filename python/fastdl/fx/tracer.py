"""``Tracer``: runs a program with proxies in the place of its inputs and writes down what it does.

There is nothing in a call of a function that would ask its arguments' classes first. While a program is traced, the
public functions stand behind others that do: in the public modules, in those that imported one by its name, in the
attributes of the traced modules, and as methods of tensors. They are the process's, so one thread traces at a time;
what other threads compute meanwhile passes through them as it is.
"""

from __future__ import annotations

import builtins
import inspect
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from threading import RLock
from types import FunctionType
from typing import Any

from fastdl import seldom
from fastdl._graph import FunctionCall
from fastdl.fx.graph import Graph
from fastdl.fx.names import public
from fastdl.fx.node import Node, assert_is_none, map_aggregate
from fastdl.fx.proxy import Proxy, TraceError
from fastdl.nn.modules.calls import Calls
from fastdl.nn.modules.container import Sequential
from fastdl.nn.modules.global_hooks import register_module_forward_pre_hook
from fastdl.nn.modules.module import Module
from fastdl.tensor import Tensor

__all__ = ["Tracer", "is_fx_tracing", "wrap"]

_wrapped: list[tuple[dict[str, Any], str]] = []  # by wrap: namespaces and names
_lock = RLock()  # held by the thread that traces
CODE = "<fastdl.fx>"  # where the functions of graph modules are from


class _Here(threading.local):
    tracers: tuple[Tracer, ...] = ()


_here = _Here()


def is_fx_tracing() -> bool:
    """Is a program being traced in this thread?"""
    return bool(_here.tracers)


def wrap(fn_or_name: Any) -> Any:
    """Calls of this function of the calling module are recorded, not followed. See ``torch.fx.wrap``.

    Args:
        fn_or_name: the name, or the function itself, as a decorator.
    """
    if not (isinstance(fn_or_name, str) or callable(fn_or_name)):
        raise RuntimeError("Unsupported type for global function! Must be either a callable or string name")
    caller = sys._getframe(1)
    name = fn_or_name if isinstance(fn_or_name, str) else fn_or_name.__name__
    if caller.f_code.co_name != "<module>":
        raise NotImplementedError("wrap must be called at the top level of a module")
    _wrapped.append((caller.f_globals, name))
    return fn_or_name


def _proxy_in(values: Any) -> Proxy | None:
    for value in values:
        if isinstance(value, Proxy):
            return value
        if isinstance(value, (tuple, list)):
            found = _proxy_in(value)
            if found is not None:
                return found
    return None


def _asking(function: Any, op: str, target: Any) -> Any:
    """``function``, recorded where an argument is a proxy."""

    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        proxy = _proxy_in((*args, *kwargs.values())) if _here.tracers else None
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy(op, target, args, kwargs)

    return asked


@cache
def _doors() -> dict[int, tuple[Any, Any]]:
    """id -> public function, and what stands in its place while a program is traced."""
    functions = [*(f for _, f in public().values()), assert_is_none]
    return {id(f): (f, _asking(f, "call_function", f)) for f in functions}


_methods: dict[str, tuple[Any, Any]] = {}  # name -> method, and what stands in its place


def _method_door(name: str, method: Any) -> Any:
    known, door = _methods.get(name, (None, None))
    if known is not method:
        door = _asking(method, "call_method", name)
        _methods[name] = method, door
    return door


@contextmanager
def _asked_first(root: Any) -> Iterator[None]:
    """A block in which functions, methods of tensors and what :func:`wrap` names look for proxies first."""
    modules = list(root.modules()) if isinstance(root, Module) else []
    spaces = [vars(m) for m in modules if not m.__module__.startswith("fastdl.nn")]
    made = [f.__globals__ for m in modules if (f := type(m).forward).__code__.co_filename == CODE]
    with _lock, ExitStack() as undo:
        undo.callback(setattr, _here, "tracers", _here.tracers)
        doors = _doors()
        changed: list[tuple[dict[str, Any], str, Any]] = []
        if not _here.tracers:  # else it is done already
            undo.callback(_restore_late)
            spaces += _outside()
            methods = [
                (name, value)
                for name, value in vars(Tensor).items()
                if isinstance(value, (FunctionType, FunctionCall))
                and (name[0] != "_" or name == "__getitem__")
            ]
            undo.callback(_put_methods, methods)
            _put_methods([(name, _method_door(name, value)) for name, value in methods])
        undo.callback(_put_back, changed)
        if not _here.tracers:
            for space, name in _wrapped:
                value = _named(space, name)
                changed.append((space, name, value))
                space[name] = door = _asking(value, "call_function", value)
                doors = {**doors, id(value): (value, door)} if made else doors
        for space in spaces:
            _exchange(space, _doors(), changed)
        for space in made:  # of graph modules: each has what it calls in a namespace of its own
            _exchange(space, doors, changed)
        yield


def _put_methods(methods: list[tuple[str, Any]]) -> None:
    for name, method in methods:
        setattr(Tensor, name, method)


def _put_back(changed: list[tuple[dict[str, Any], str, Any]]) -> None:
    for space, name, value in reversed(changed):
        space[name] = value


def _exchange(
    space: dict[str, Any],
    doors: dict[int, tuple[Any, Any]],
    changed: list[tuple[dict[str, Any], str, Any]],
) -> None:
    """Put the door in the place of every public function of a namespace; ``changed``: what to put back."""
    if doors.keys().isdisjoint(map(id, space.values())):
        return
    for name, value in list(space.items()):
        function, door = doors.get(id(value), (None, None))
        if door is not None and function is value:
            changed.append((space, name, value))
            space[name] = door


def _restore_late() -> None:
    """Functions in the place of the doors that modules took while a program was traced."""
    behind = {id(door): (door, function) for function, door in _doors().values()}
    for space in _outside():
        _exchange(space, behind, [])


def _named(space: dict[str, Any], name: str) -> Any:
    return space[name] if name in space else getattr(builtins, name)


def _outside() -> list[dict[str, Any]]:
    """The namespaces of the public modules of functions, and of all that may have taken some by name.

    Those are none of fastdl's, of the standard library's and NumPy's, which are most of the modules.
    """
    public_ones = (
        "fastdl.linalg",
        "fastdl.seldom",
        "fastdl.special",
        "fastdl.fft",
        "fastdl.nn.functional",
        "math",
    )
    return [
        vars(module)
        for name, module in list(sys.modules.items())
        if module is not None
        and (
            name in public_ones
            or not (name.startswith(("fastdl.", "math", "numpy.")) or _is_standard(name, module))
        )
    ]


_STANDARD = os.path.dirname(os.__file__) + os.sep


def _is_standard(name: str, module: Any) -> bool:
    if name.partition(".")[0] not in sys.stdlib_module_names:
        return False
    file = getattr(module, "__file__", None)  # a program may have a module of such a name
    return file is None or file.startswith(_STANDARD)


class Tracer:
    """Writes programs down. Subclasses say which modules are single steps. See ``torch.fx.Tracer``.

    Example:
        >>> from fastdl import fx, nn
        >>> class All(fx.Tracer):
        ...     def is_leaf_module(self, m, module_qualified_name):
        ...         return True
        >>> model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
        >>> [node.target for node in All().trace(model).nodes]
        ['input', '0', '1', 'output']
    """

    def __init__(
        self,
        autowrap_modules: Any = (math,),
        autowrap_functions: Any = (),
        param_shapes_constant: bool = False,
    ) -> None:
        self.autowrap_functions = tuple(autowrap_functions)
        self.root: Any = None
        self.graph = Graph()

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        """Is a call of ``m`` one step? Here: fastdl's own modules, but Sequential."""
        return m.__module__.startswith("fastdl.nn") and not isinstance(m, Sequential)

    def path_of_module(self, mod: Module) -> str:
        """The name of a module below the root."""
        for name, module in self.root.named_modules(remove_duplicate=False):
            if module is mod:
                return name  # type: ignore[no-any-return]
        raise NameError("module is not installed as a submodule")

    def call_module(self, m: Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of ``m``: recorded, or followed by ``forward(*args, **kwargs)``."""
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        return forward(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        """``a`` as a node's argument: proxies as their nodes, tensors as attributes of the root."""
        return map_aggregate(a, self._argument)

    def _argument(self, a: Any) -> Any:
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, Tensor):
            name = self._home_of(a)
            if name is not None:
                return self.create_node("get_attr", name, (), {})
            i = 0
            while hasattr(self.root, f"_tensor_constant{i}"):
                i += 1
            setattr(self.root, f"_tensor_constant{i}", a)
            return self.create_node("get_attr", f"_tensor_constant{i}", (), {})
        if isinstance(a, range):
            return range(*[self._argument(v) for v in (a.start, a.stop, a.step)])
        return a

    def _home_of(self, a: Tensor) -> str | None:
        """The name of a parameter, buffer or other attribute of the root."""
        for name, tensor in (*self.root.named_parameters(), *self.root.named_buffers()):
            if tensor is a:
                return str(name)
        for path, module in self.root.named_modules():
            for name, value in vars(module).items():
                if value is a:
                    return f"{path}.{name}" if path else name
        return None

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> Node:
        """A node of the graph."""
        return self.graph.create_node(kind, target, args, kwargs, name, type_expr)

    def proxy(self, node: Node) -> Proxy:
        """What stands for a node's value."""
        return Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> Proxy:
        """Record a step; returns what stands for its value."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr)
        return self.proxy(node)

    def iter(self, obj: Proxy) -> Any:
        """Walking over a proxy: an error, as how far is not known."""
        raise TraceError(
            "Proxy object cannot be iterated. This can be attempted when the Proxy is used in a loop or as a *args or "
            "**kwargs function argument."
        )

    def to_bool(self, obj: Proxy) -> bool:
        """A decision by a proxy: an error."""
        raise TraceError("symbolically traced variables cannot be used as inputs to control flow")

    def keys(self, obj: Proxy) -> Any:
        """``x.keys()``."""
        return obj.tracer.create_proxy("call_method", "keys", (obj,), {})

    def _inputs(self, function: Any, concrete: dict[str, Any], skip: int) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        parameters = list(inspect.signature(function).parameters.values())[skip:]
        starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in sorted(
            parameters, key=lambda p: p.kind in starred
        ):  # as the graph's inputs are passed
            name, default = parameter.name, parameter.default
            if parameter.kind is parameter.VAR_POSITIONAL:
                star = self.create_proxy("placeholder", f"*{name}", (), {})
                args.append(star)
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs[name] = self.create_proxy("placeholder", f"**{name}", (), {})
            else:
                given = () if default is parameter.empty else (default,)
                value = self.create_proxy("placeholder", name, given, {})
                if name in concrete:
                    value = self._known(name, value, concrete[name])
                if parameter.kind is parameter.KEYWORD_ONLY:
                    kwargs[name] = value
                else:
                    args.append(value)
        return args, kwargs

    def _known(self, name: str, given: Proxy, value: Any) -> Any:
        """``value``, after a check that it is what is given for an input."""
        message = f"{name} has been specialized to have value {value} but got another value"
        if value is None:
            self.create_proxy("call_function", assert_is_none, (given, message), {})
        elif isinstance(value, (bool, int, float, str)):
            self.create_proxy("call_function", seldom._assert, (operator.eq(given, value), message), {})
        return value

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> Graph:
        """The graph of a module's ``forward``, or of a function.

        Args:
            concrete_args: values of inputs that are known now, by name. The graph checks that numbers, texts and None
                are given again.
        """
        concrete = concrete_args or {}
        function = type(root).forward if isinstance(root, Module) else root
        self.root = root if isinstance(root, Module) else Module()
        self.graph = Graph(tracer_cls=type(self))

        def called(module: Module, *args: Any, **kwargs: Any) -> Any:
            if not _here.tracers:  # another thread
                return original(module, *args, **kwargs)
            return self.call_module(module, lambda *a, **k: original(module, *a, **k), args, kwargs)

        with ExitStack() as stack:
            args, kwargs = self._inputs(function, concrete, int(isinstance(root, Module)))
            stack.enter_context(_asked_first(root))
            _here.tracers = (*_here.tracers, self)
            original = Calls.__call__
            stack.callback(setattr, Calls, "__call__", original)
            Calls.__call__ = called  # type: ignore[method-assign,assignment]
            # With a hook on every module no layer is fused into another without a call of it.
            stack.callback(register_module_forward_pre_hook(lambda module, args: None).remove)
            result = (
                function(root, *args, **kwargs) if isinstance(root, Module) else function(*args, **kwargs)
            )
            self.create_node("output", "output", (self.create_arg(result),), {})
        return self.graph

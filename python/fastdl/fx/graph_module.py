"""``GraphModule``, a module whose ``forward`` is a graph, and ``Interpreter``, which runs one step by step."""

from __future__ import annotations

import copy
from typing import Any

from fastdl.fx.graph import Graph, last_uses
from fastdl.fx.node import Node, map_arg
from fastdl.fx.tracer import CODE, Tracer
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter
from fastdl.tensor import Tensor

__all__ = ["GraphModule", "Interpreter", "symbolic_trace"]


def _fetch(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root


class GraphModule(Module):
    """A module made of a graph. See ``torch.fx.GraphModule``.

    Args:
        root: the module that has what the graph names, or a dictionary by those names.
        graph: its own from now on. After a change of it call :meth:`recompile`.

    Attributes:
        code: ``forward`` as Python.
    """

    code: str

    def __new__(cls, *args: Any, **options: Any) -> GraphModule:
        # Every object has a class of its own, whose forward is the graph.
        return object.__new__(type(cls.__name__, (cls,), {"__module__": cls.__module__}))

    def __init__(self, root: Any, graph: Graph, class_name: str = "GraphModule") -> None:
        super().__init__()
        type(self).__name__ = type(self).__qualname__ = class_name
        if isinstance(root, Module):
            self.training = root.training
        for node in graph.nodes:
            if node.op in ("get_attr", "call_module"):
                self._take(root, node.target)
        self.graph = graph

    def _take(self, root: Any, path: str) -> None:
        """Put what ``root`` has under ``path`` there."""
        *above, name = path.split(".")
        home: Any = self
        for part in above:
            if not hasattr(home, part):
                setattr(home, part, Module())
            home = getattr(home, part)
        of = (_fetch(root, ".".join(above)) if above else root) if isinstance(root, Module) else None
        value = root[path] if of is None else getattr(of, name)
        if hasattr(home, name) and getattr(home, name) is value:
            return
        if isinstance(value, Tensor) and not isinstance(value, Parameter):  # to move along with the module
            passing = name in getattr(of, "_non_persistent_buffers_set", ())
            home.register_buffer(name, value, persistent=not passing)
        else:
            setattr(home, name, value)

    @property
    def graph(self) -> Graph:
        """The graph."""
        return self._graph

    @graph.setter
    def graph(self, graph: Graph) -> None:
        graph.owning_module = self
        self._graph = graph
        self.recompile()

    def recompile(self) -> None:
        """Make ``forward`` of the graph as it is now."""
        self.code, names = self._graph.python_code()
        exec(compile(self.code, CODE, "exec"), names)
        type(self).forward = names["forward"]  # type: ignore[method-assign]

    def add_submodule(self, target: str, m: Module) -> bool:
        """Put a module under a path. False: what is above it is no module."""
        home: Any = self
        for part in target.split(".")[:-1]:
            home = getattr(home, part, self)  # or there will be one
            if not isinstance(home, Module):
                return False
        self._take({target: m}, target)
        return True

    def delete_submodule(self, target: str) -> bool:
        """Take the module under a path out. False: there is none."""
        above, _, name = target.rpartition(".")
        home = dict(self.named_modules(remove_duplicate=False)).get(above)
        if home is None or not isinstance(getattr(home, name, None), Module):
            return False
        delattr(home, name)
        return True

    def delete_all_unused_submodules(self) -> None:
        """Drop the modules that no node calls, nor anything above them."""
        used = {f"{node.target}." for node in self._graph.nodes if node.op in ("call_module", "get_attr")}
        unused = []
        for path, _ in self.named_modules():
            own = f"{path}."
            if path and not any(own.startswith(name) or name.startswith(own) for name in used):
                unused.append(path)
        for path in reversed(unused):  # what is above comes after
            above, _, name = path.rpartition(".")
            delattr(_fetch(self, above) if above else self, name)

    def print_readable(self, print_output: bool = True) -> str:
        """Print :attr:`code`, and return it."""
        if print_output:
            print(self.code)
        return self.code

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.code}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key not in ("_graph", "code")}
        return _made, (state, self._graph, type(self).__name__)

    def __copy__(self) -> GraphModule:
        return GraphModule(self, copy.deepcopy(self._graph), type(self).__name__)


def _made(state: dict[str, Any], graph: Graph, name: str) -> GraphModule:
    own = Module()
    own.__setstate__(state)
    made = GraphModule(own, graph, name)
    made.__setstate__(state)  # what no node uses, and hooks
    return made


def symbolic_trace(root: Any, concrete_args: dict[str, Any] | None = None) -> GraphModule:
    """A module or function as a :class:`GraphModule`. See ``torch.fx.symbolic_trace``.

    Example:
        >>> import fastdl
        >>> traced = fastdl.fx.symbolic_trace(lambda x: fastdl.relu(x) + 1)
        >>> print(traced.code.strip())
        def forward(self, x):
            relu = fastdl.relu(x);  x = None
            add = relu + 1;  relu = None
            return add
        >>> traced(fastdl.tensor([-1.0, 2.0]))
        tensor([1., 3.])
    """
    tracer = Tracer()
    graph = tracer.trace(root, concrete_args)
    return GraphModule(tracer.root, graph, type(root).__name__ if isinstance(root, Module) else root.__name__)


class Interpreter:
    """Runs a graph module step by step; subclasses look at the steps. See ``torch.fx.Interpreter``.

    Example:
        >>> import fastdl
        >>> class Counting(fastdl.fx.Interpreter):
        ...     def call_function(self, target, args, kwargs):
        ...         print(target.__name__)
        ...         return super().call_function(target, args, kwargs)
        >>> Counting(fastdl.fx.symbolic_trace(lambda x: fastdl.exp(x) * 2)).run(fastdl.tensor(0.0))
        exp
        mul
        tensor(2.)
    """

    def __init__(self, module: Any, garbage_collect_values: bool = True, graph: Graph | None = None) -> None:
        self.module = module
        self.graph = graph or module.graph
        self.garbage_collect_values = garbage_collect_values
        self.env: dict[Node, Any] = {}
        self.args_iter: Any = iter(())

    def run(self, *args: Any, initial_env: dict[Node, Any] | None = None) -> Any:
        """What the graph returns for these inputs."""
        self.env = dict(initial_env or {})
        self.args_iter = iter(args)
        nodes = self.graph.nodes
        freed = last_uses(nodes) if self.garbage_collect_values else {}
        for node in nodes:
            if node in self.env:
                continue
            self.env[node] = self.run_node(node)
            if node.op == "output":
                return self.env[node]
            for used in freed.get(node, ()):
                self.env.pop(used, None)
        return None

    def run_node(self, n: Node) -> Any:
        """The value of a node."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        """A node's arguments, with values in the place of nodes."""
        return map_arg(n.args, self.env.__getitem__), map_arg(n.kwargs, self.env.__getitem__)

    def fetch_attr(self, target: str) -> Any:
        """What the module has under a path."""
        return _fetch(self.module, target)

    def placeholder(self, target: str, args: Any, kwargs: Any) -> Any:
        """The next input."""
        if target.startswith("*"):
            return list(self.args_iter)
        try:
            return next(self.args_iter, *args[:1])
        except StopIteration:
            raise RuntimeError(
                f"Expected positional argument for parameter {target}, but one was not passed in!"
            ) from None

    def get_attr(self, target: str, args: Any, kwargs: Any) -> Any:
        """An attribute."""
        return self.fetch_attr(target)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A call of a function."""
        return target(*args, **kwargs)

    def call_method(self, target: str, args: Any, kwargs: Any) -> Any:
        """A call of a method of the first argument."""
        return getattr(args[0], target)(*args[1:], **kwargs)

    def call_module(self, target: str, args: Any, kwargs: Any) -> Any:
        """A call of a module."""
        return self.fetch_attr(target)(*args, **kwargs)

    def output(self, target: str, args: Any, kwargs: Any) -> Any:
        """What is returned."""
        return args[0]

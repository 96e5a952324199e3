"""``Op``: one differentiable operation on arrays. Its instance is the graph's node and holds what backward needs.

    class Square(Op):
        saves = (0,)                       # input 0 is kept: changing it in place before backward is an error

        def forward(self, x):              # arrays in, array (or tuple of arrays) out
            self.x = x
            return x * x

        def backward(self, grad_y):        # one gradient per output in, one per tensor input out
            return 2 * grad_y * self.x

        def backward_graph(self, grad_y):  # backward on tensors, in operations: for second derivatives
            return 2 * grad_y * self.saved_input(0, self.x)

    y = Square.apply(x)

``self.needs[i]`` tells whether input ``i`` needs a gradient (backward may return None for the others); where gradients
of some tensors only are asked for, whether it leads to one of them. A node holds
edges to the nodes that made its inputs, never to tensors it made itself: graphs have no reference cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from fastdl._graph import NodeFields, next_order
from fastdl.tensor import Tensor
from fastdl.tensor_autograd import RemovableHandle

OF_ITSELF: Mapping[int, tuple[int, ...]] = MappingProxyType({0: (0,)})
"""``Op.flat`` of ``relu``: the gradient of the input changes in steps with the input."""


class NoKernel(TypeError):
    """Raised by ``forward``: not on arrays of this dtype. Half precision is then computed in float32 (refused.py)."""


class ComplexOperand(NoKernel):
    """Raised by ``forward`` on real arrays: a number among the options makes the result complex."""


RELEASED: Any = (([0], 1),)
"""The ``versions`` of a node that has forgotten what it kept: one that no counter has."""


class Op(NodeFields):
    """Base of all operations; see the module's text. ``apply`` and ``record`` are NodeFields' (csrc/bindings/graph)."""

    saves: tuple[int, ...] = ()
    """Indices of inputs whose arrays are kept for backward; forward may set it on the instance."""
    saves_output: bool = False
    """Whether output arrays are kept for backward."""
    aliases_grad: ClassVar[bool] = False
    """Whether backward may return the incoming gradient, a view of it, or one array twice."""
    hands_on: ClassVar[bool] = False
    """Whether backward keeps no reference to the incoming gradient: whoever gets it alone may own it as the engine
    did."""

    flat: Mapping[int, tuple[int, ...]] = MappingProxyType({})
    """Input -> inputs on which its gradient depends in steps only, where PyTorch's second derivative is a tensor of
    zeros: see ``graph.Flat``."""

    adds_into: ClassVar[Any] = None
    """``adds_into(have, grad)`` adds the gradient of the first and only input to ``have``, what came to it from others,
    without an array of the whole; or returns False."""

    mixes_dtypes: ClassVar[bool] = False
    """Whether float32 inputs may stand beside a first one of half precision (normalisation: its weights)."""

    takes_complex: ClassVar[bool] = False
    """Whether it computes on complex numbers itself; others have a rule for them (``refused.complex_rules``), or
    refuse. Asked only where an input is complex."""

    complex_form: ClassVar[Any] = None
    """The operation that takes its place where an input is complex, with the same inputs and options."""

    floats_only: ClassVar[bool] = False
    """Whether no kernel of it on the CPU knows half precision, which is then computed in float32 without asking
    first. Others may know it for some of their arguments; their kernels are asked, and what they refuse takes the same
    way."""

    wide_integers: ClassVar[bool] = False
    """Whether integers, which kernels do not know, are computed in float64 and truncated (exact below 2^53)."""

    materialize: bool = True
    """Whether backward of several outputs gets zeros for outputs without a gradient, instead of None."""

    needs: tuple[bool, ...]
    order: int
    outputs: int
    # For every input: (node that made it, which of its outputs), (the leaf tensor itself, -1), or None
    # without gradient.
    edges: Sequence[tuple[Any, int] | None] | None
    versions: list[tuple[list[int], int]] | None
    shapes: tuple[
        tuple[tuple[int, ...], Any], ...
    ]  # of outputs, for gradients that never came (several outputs)
    hooks: list[tuple[int, Any]] | None
    shape: tuple[int, ...]  # free for an operation's own use; of a view: its input's
    options: Any  # the same; of a view: what ``of`` was called with

    def forward(self, *arrays: Any, **options: Any) -> Any:
        raise TypeError(f"{type(self).__name__} defines no forward")

    def backward(self, *grads: Any) -> Any:
        raise TypeError(f"{type(self).__name__} defines no backward")

    def backward_graph(self, *grads: Any) -> Any:
        """As ``backward``, on tensors, in operations that record: asked for with ``create_graph=True``."""
        raise NotImplementedError(
            f"{type(self).__name__}: has no second derivative (create_graph=True): its backward is defined on numbers "
            "only. Compute this part of the network with other operations, or detach() it"
        )

    def saved_input(self, i: int, array: Any) -> Tensor:
        """Input ``i``, whose value ``array`` was kept, as a tensor of the graph; for ``backward_graph``."""
        edge = None if self.edges is None else self.edges[i]
        if edge is not None and edge[1] < 0 and edge[0]._data is array:
            return edge[0]  # type: ignore[no-any-return]
        tensor = Tensor._wrap(array)
        if i in self.saves and self.versions is not None:
            tensor._counter = self.versions[self.saves.index(i)][0]
        if edge is not None:
            tensor._requires_grad = True
            if edge[1] >= 0:
                tensor._node, tensor._index = edge
            else:  # the leaf has been given another array since
                link = Link()
                link.needs, link.order, link.edges = (True,), next_order(), (edge,)
                tensor._node = link
        return tensor

    def saved_output(self, array: Any, index: int = 0) -> Tensor:
        """Output ``index``, whose value ``array`` was kept, as a tensor of the graph; for ``backward_graph``."""
        tensor = Tensor._wrap(array)
        tensor._requires_grad, tensor._node, tensor._index = True, self, index
        if self.saves_output and self.versions is not None:
            tensor._counter = self.versions[len(self.saves) + index][0]
        return tensor

    def name(self) -> str:
        """What prints as the graph's node: ``"AddBackward"``."""
        return f"{type(self).__name__}Backward"

    def register_hook(self, fn: Callable[..., Any]) -> Any:
        """Call ``fn(grad_inputs, grad_outputs)`` after this node's backward; a tuple it returns replaces the first.

        Both are tuples of tensors, ``grad_inputs`` with an entry for every one of ``next_functions``, None where no
        gradient goes on. Which inputs a node has is fastdl's own matter, as are the nodes.
        """
        from fastdl.autograd.hooks import around

        hooks = around(self).after
        hooks.append(fn)
        return RemovableHandle(hooks, fn)

    def register_prehook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn(grad_outputs)`` before this node's backward; a tuple it returns replaces them."""
        from fastdl.autograd.hooks import around

        hooks = around(self).before
        hooks.append(fn)
        return RemovableHandle(hooks, fn)

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """Where gradients go on, for every input: (node, which of its outputs); leaves are an AccumulateGrad."""
        steps: list[tuple[Any, int]] = []
        for edge in self.edges or ():
            if edge is None:
                steps.append((None, 0))
            else:
                steps.append((AccumulateGrad(edge[0]), 0) if edge[1] < 0 else edge)
        return tuple(steps)

    if TYPE_CHECKING:  # NodeFields' methods: csrc/bindings/graph/op.cpp

        @classmethod
        def apply(cls, *inputs: Tensor | None, **options: Any) -> Any:
            """Run the operation on tensors (None: not given) and enter it in the graph."""

        def record(self, inputs: tuple[Tensor | None, ...], result: Any) -> Any:
            """Enter the graph: edges to the inputs' makers, output tensors that point here."""

        def keep_tensor(self, tensor: Tensor) -> None:
            """The tensor, an output or an option (an index, a mask), may not be changed in place before backward."""

    @classmethod
    def apply_itself(cls, *inputs: Tensor | None, **options: Any) -> Any:
        """``apply`` as the class inherits it, whatever a ``with`` block has put in its place (autocast)."""
        return super().apply(*inputs, **options)  # type: ignore[misc]

    def check_versions(self) -> None:
        """Raise if a kept array was changed in place since forward, or freed."""
        if self.versions is RELEASED:
            raise RuntimeError(
                f"{self.name()}: trying to backward through the graph a second time (its saved values were freed by "
                "the first). Call backward(retain_graph=True) the first time if the graph is needed again"
            )
        for cell, version in self.versions or ():
            if cell[0] != version:
                raise RuntimeError(
                    f"{type(self).__name__}: a tensor that backward needs was changed in place after it was used "
                    f"(it is at version {cell[0]}, {version} was expected). Make the change on a copy "
                    "(x = x + 1 instead of x += 1), or after backward()"
                )

    @contextmanager
    def narrowed(self, needs: tuple[bool, ...]) -> Iterator[None]:
        """Inside the block backward is asked for these gradients only."""
        before, self.needs = self.needs, needs
        try:
            yield
        finally:
            self.needs = before

    def release(self) -> None:
        """Forget everything kept for backward. Walking through this node again is an error from now on.

        Where it leads stays known: gradients of what was made from it may still be asked for, if none of theirs is
        beyond it.
        """
        self.__dict__ = {}
        self.versions = RELEASED
        self.shape = self.options = None  # type: ignore[assignment]

    def stay(self) -> None:
        """The ``release`` of operations that keep no arrays: as in PyTorch, every step of a training loop may go
        through what they made before it (slices and conversions of the data)."""


def needing(result: Tensor, *tensors: Tensor) -> Tensor:
    """``result``, whose backward needs these tensors as they are: options of its operation, such as an index."""
    node = result._node
    if node is not None:
        for tensor in tensors:
            node.keep_tensor(tensor)
    return result


class AccumulateGrad(Op):
    """What stands for a leaf among ``next_functions``: two that stand for one leaf are equal."""

    next_functions = ()

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccumulateGrad) and other.variable is self.variable

    def __hash__(self) -> int:
        return hash(self.variable)

    def name(self) -> str:
        return "AccumulateGrad"

    def register_hook(self, fn: Callable[..., Any]) -> Any:
        """Call ``fn((), (gradient,))`` when backward has added to the leaf's ``.grad``."""
        from fastdl.autograd.hooks import Handles

        latest: list[Tensor] = []

        def on_gradient(grad: Tensor) -> None:
            latest[:] = [grad]

        def accumulated(_: Tensor) -> None:
            fn((), (latest.pop(),))

        handles = (
            self.variable.register_hook(on_gradient),
            self.variable.register_post_accumulate_grad_hook(accumulated),
        )
        return Handles([handle.remove for handle in handles])

    def register_prehook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn((gradient,))`` before backward adds to the leaf's ``.grad``; a tuple it returns replaces it."""

        def on_gradient(grad: Tensor) -> Tensor | None:
            changed: Any = fn((grad,))
            replacement: Tensor | None = changed[0] if isinstance(changed, tuple) else changed
            return replacement

        return self.variable.register_hook(on_gradient)


class Link(Op):
    """The identity, on the same memory: a new node in front of a tensor's own."""

    takes_complex = True
    aliases_grad = True
    release = Op.stay

    def forward(self, x: Any) -> Any:
        return x

    def backward(self, grad: Any) -> Any:
        return grad

    def backward_graph(self, grad: Any) -> Any:
        return grad

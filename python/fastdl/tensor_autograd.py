"""``Differentiable``: the part of ``Tensor`` that autograd knows. Its fields, gradients, hooks and versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import ref

from fastdl import _graph
from fastdl.arrays import add_arrays, pooled_copy
from fastdl.devices import device_of
from fastdl.dtypes import DIFFERENTIABLE, Size
from fastdl.errors import warn_caller
from fastdl.kernels.sparse import SparseArray

if TYPE_CHECKING:
    from fastdl.tensor import Tensor
    from fastdl.tensor_methods import TensorMethods
else:
    TensorMethods = _graph.TensorFields  # fastdl.methods attaches the methods


class RemovableHandle:
    """What ``register_hook`` returns: :meth:`remove` takes the hook out again; also a context manager."""

    __slots__ = ("_entry", "_hooks")

    def __init__(self, hooks: list[Any], entry: Any) -> None:
        self._hooks = hooks
        self._entry = entry

    def remove(self) -> None:
        """Take the hook out; a second call does nothing."""
        if self._entry in self._hooks:
            self._hooks.remove(self._entry)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class RetainGrad:
    """The hook behind ``retain_grad()``: it stores the gradient that passes in the tensor, if that still exists."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Differentiable) -> None:
        self.tensor = ref(tensor)

    def __call__(self, grad: Tensor) -> None:
        tensor = self.tensor()
        if tensor is None:
            return
        if grad._requires_grad:
            tensor._accumulate_graph(grad)
        else:
            tensor._accumulate(grad._data, False)


class Differentiable(TensorMethods):
    """The part of ``Tensor`` behind ``requires_grad``, ``grad``, ``backward`` and hooks."""

    # Fields of every instance, in a C struct (csrc/bindings/graph/fields.h); a new tensor's are None, False and 0.
    _data: Any
    _requires_grad: bool
    _node: Any  # the Op that made this tensor, None for a leaf
    _index: int  # which of the node's outputs
    _counter: list[int] | None  # counts in-place changes; shared by a base, its views and detached aliases
    _base: Tensor | None  # of a view: the tensor it looks at, itself no view
    _path: Any  # of a view: how to make it from the base (autograd/view.py)
    _views: list[Any] | None  # of a base: weak references to its views
    _hooks: list[tuple[int, Any]] | None
    _post_hooks: list[Any] | None
    _grad: Tensor | None

    _retains = False  # retain_grad() was called: in the instance's dictionary, as few tensors need it

    _wrap: ClassVar[Callable[[Any], Tensor]] = staticmethod(_graph.wrap)
    """A tensor around an array itself; for operations."""

    def _version_cell(self) -> list[int]:
        cell = self._counter
        if cell is None:
            self._counter = cell = [0]
        return cell

    if TYPE_CHECKING:  # TensorFields': csrc/bindings/graph/fields.cpp

        @property
        def shape(self) -> Size:
            """The extents of all axes."""

        def _bump_version(self) -> None:
            """Note an in-place change of the data: backward through operations that kept it becomes an error."""

    def _accumulate(self, grad: Any, own: bool) -> None:
        """Add an array to ``.grad``; ``own`` says that nobody else holds it.

        Not if ``requires_grad`` was switched off after the graph was made (frozen, ``detach_``).
        """
        if not self._requires_grad:
            return
        have = self._grad
        if have is not None:
            total = add_arrays(have._data, grad, have._data)
            if total is have._data:
                have._bump_version()
            else:  # a dense gradient has come to a sparse one
                self._grad = _graph.wrap(total)
            return
        if not own or not grad.flags.c_contiguous:
            grad = grad.copied() if grad.__class__ is SparseArray else pooled_copy(grad)
        self._grad = _graph.wrap(grad)

    def _accumulate_graph(self, grad: Tensor) -> None:
        """Add a gradient that is part of a graph to ``.grad``: a new tensor, nothing is changed in place."""
        if not self._requires_grad:
            return
        have = self._grad
        self._grad = grad.clone() if have is None else have + grad

    @property
    def requires_grad(self) -> bool:
        """Is a gradient computed for this tensor?"""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._node is not None:
            if not value:
                raise RuntimeError(
                    "requires_grad: only leaf tensors can be switched off, this one was computed from others; "
                    "use x.detach()"
                )
            return
        if value and self._data.dtype.kind not in DIFFERENTIABLE:
            raise RuntimeError(
                "requires_grad: only floating-point and complex tensors can require a gradient, got dtype "
                f"{self._data.dtype}"
            )
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set ``requires_grad``; returns the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``backward`` accumulated here; None before."""
        if self._grad is None and self._node is not None and not self._retains:
            warn_caller(
                "grad: this tensor was computed from others, and backward() fills .grad of leaf tensors only; call "
                "x.retain_grad() before backward() to have it here"
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Differentiable):
                raise TypeError(f"grad: must be a Tensor or None, got {type(value).__name__}")
            mine, other = self._data, value._data
            if other.shape != mine.shape or other.dtype != mine.dtype:
                raise RuntimeError(
                    f"grad: must have the tensor's shape {Size(mine.shape)} and dtype {mine.dtype}, got {value.shape} "
                    f"and {value.dtype}"
                )
            if value.device != device_of(mine):
                raise RuntimeError(
                    f"grad: must be on the tensor's device {device_of(mine)}, got {value.device}"
                )
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def grad_fn(self) -> Any:
        """The graph's node that made this tensor; None for a leaf."""
        return self._node

    @property
    def is_leaf(self) -> bool:
        """Was this tensor made by the user, not by a recorded operation?"""
        return self._node is None

    @property
    def _version(self) -> int:
        """How often the data was changed in place; views and detached tensors count with their base."""
        return 0 if self._counter is None else self._counter[0]

    @property
    def output_nr(self) -> int:
        """Which output of ``grad_fn`` this is."""
        return self._index

    @property
    def retains_grad(self) -> bool:
        """Was ``retain_grad`` called on this computed tensor?"""
        return self._retains

    @property
    def data(self) -> Tensor:
        """The same memory without history; in-place changes through it are not tracked."""
        return _graph.wrap(self._data)  # type: ignore[no-any-return]

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Differentiable):
            raise TypeError(f"data: must be a Tensor, got {type(value).__name__}")
        if self._requires_grad and value._data.dtype.kind not in DIFFERENTIABLE:
            raise RuntimeError(
                f"data: a tensor that requires a gradient cannot hold dtype {value._data.dtype}"
            )
        self._data = value._data
        base = self._base
        if base is not None:  # it sees other memory now
            base._views = [r for r in base._views or () if r() is not self]
            self._base = None

    def detach(self) -> Tensor:
        """A tensor on the same memory, outside the graph."""
        t: Tensor = _graph.wrap(self._data)
        t._counter = self._version_cell()
        return t

    def detach_(self) -> Self:
        """Take this tensor out of the graph: it becomes a leaf without gradient."""
        if self._base is not None:
            raise RuntimeError("detach_: views cannot be detached in place; use detach()")
        self._node = None
        self._index = 0
        self._requires_grad = False
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(grad)`` when this tensor's gradient is computed; what it returns (not None) replaces it.

        Example:
            >>> import fastdl
            >>> x = fastdl.tensor([1.0], requires_grad=True)
            >>> handle = x.register_hook(lambda grad: grad * 10)
            >>> (x * 2).sum().backward()
            >>> x.grad
            tensor([20.])
        """
        if not self._requires_grad:
            raise RuntimeError(
                "register_hook: this tensor does not require a gradient, the hook would never run"
            )
        holder: Any = self._node
        if holder is None:
            if self._hooks is None:
                self._hooks = []
            hooks = self._hooks
        else:
            if holder.hooks is None:
                holder.hooks = []
            hooks = holder.hooks
        entry = (self._index, hook)
        # The retained gradient is the one after all hooks.
        at = len(hooks)
        while at and isinstance(hooks[at - 1][1], RetainGrad) and not isinstance(hook, RetainGrad):
            at -= 1
        hooks.insert(at, entry)
        return RemovableHandle(hooks, entry)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook(tensor)`` whenever ``backward`` has added to this leaf's ``.grad``."""
        if self._node is not None or not self._requires_grad:
            raise RuntimeError(
                "register_post_accumulate_grad_hook: only leaf tensors that require a gradient have one"
            )
        if self._post_hooks is None:
            self._post_hooks = []
        self._post_hooks.append(hook)
        return RemovableHandle(self._post_hooks, hook)

    def retain_grad(self) -> None:
        """Keep ``.grad`` of this computed tensor in ``backward``, as for a leaf."""
        if not self._requires_grad:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        if self._node is not None and not self._retains:
            self._retains = True
            self.register_hook(RetainGrad(self))

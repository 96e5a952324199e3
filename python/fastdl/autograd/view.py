"""Views, and changes in place: how the graph follows writes into shared memory.

A view is a tensor on its base's memory. It knows its base (never itself a view) and its *path*: the view
operations that lead there. Replaying the path on any array of the base's shape finds the same elements, so a
gradient of the base, laid out in C order, can be split into the viewed region and the rest without knowing
addresses.

A write into a tensor gives it a new node (`rebase`). A write into a view gives the *base* a new node, `CopySlices`: the
gradient of the viewed region goes to what was written, the rest to what the base was before; then every living view
of that base is attached to the new history (`_refresh`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

from numpy import asarray, may_share_memory, ndarray

from fastdl._graph import FunctionCall, next_order, plainly_writable, register_view, share
from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.engine import edge_to
from fastdl.autograd.graph import linear_backward, zeros
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, bool_, can_store
from fastdl.kernels import is_writable
from fastdl.kernels.batched import BatchedArray
from fastdl.tensor import Tensor
from fastdl.tensor_autograd import RetainGrad


class View(Op):
    """An operation whose output shares its input's memory: ``of(array, **options)`` is all of its forward.

    ``attach`` (csrc/bindings/graph) makes the tensor; a node only where one is recorded, which knows the input's
    shape and the options.
    """

    aliases_grad = True
    shape: tuple[int, ...]
    options: dict[str, Any]
    release = Op.stay

    @staticmethod
    def of(x: Any, *_: Any, **options: Any) -> Any:
        """What is seen of the array ``x``."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @classmethod
        def attach(cls, input: Tensor, array: Any, options: dict[str, Any]) -> Tensor:
            """The tensor of ``array``, which is what ``of(input, **options)`` gives, and its place in the graph."""

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        (input,) = inputs
        return cls.attach(input, cls.of(input._data, **options), options)


class MultiView(Op):
    """An operation with several outputs that share its input's memory."""

    takes_complex = True
    aliases_grad = True
    release = Op.stay

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        (input,) = inputs
        return share(input, super().apply(input, **options))


def _steps(path: Any) -> list[tuple[type[View], dict[str, Any]]]:
    steps = []
    while path is not None:
        path, cls, options = path
        steps.append((cls, options))
    steps.reverse()
    return steps


def _refresh(base: Tensor) -> None:
    """Attach every living view of ``base`` to the base's present history."""
    views, base._views = base._views or [], None
    living = []
    for r in views:
        view = r()
        if view is None:
            continue
        living.append(r)
        if view._path.__class__ is str:
            stale = Stale()
            stale.why, stale.needs = view._path, (True,)
            stale.order, stale.edges = next_order(), (_edge(base),)
            view._node, view._index, view._requires_grad = stale, 0, True
            continue
        fresh, before = base, view._node
        for cls, options in _steps(view._path):
            fresh = cls.apply(fresh, **options)
        view._node, view._index, view._requires_grad = fresh._node, fresh._index, fresh._requires_grad
        if view._retains:
            _move_retained(view, before)
    base._views = living


class Stale(Op):
    """The history of a view whose base was changed in place, where no path leads to it from the base."""

    why: str

    def backward(self, grad: Any) -> Any:
        raise RuntimeError(
            f"backward: a tensor was used that {self.why}, after its base or another view of it was changed in place; "
            "use the view before that, or an operation that is not in place"
        )

    backward_graph = backward


class CopySlices(Op):
    """The base of a view that was written to: inputs are the base before the write, and what was written."""

    takes_complex = True
    aliases_grad = True

    steps: Any

    def region(self, array: Any) -> Any:
        """The part of an array like the base that was written to."""
        for cls, options in self.steps:
            array = cls.of(array, **options)
        return unlocked(array) if array.__class__ is ndarray else array

    def backward(self, grad: Any) -> Any:
        rest = pooled_copy(grad) if self.needs[0] else None
        region = self.region(grad if rest is None else rest)
        written = pooled_copy(region) if self.needs[1] else None
        if rest is not None:
            region[...] = 0
        return rest, written

    def linear(self, base: Any, written: Any) -> Any:
        whole = zeros(*self.like, written)._data if base is None else pooled_copy(base)
        self.region(whole)[...] = 0 if written is None else written
        return whole

    def backward_graph(self, grad: Tensor) -> Any:
        self.like = grad._data.shape, grad._data.dtype
        return linear_backward(self, grad)


def _edge(t: Tensor) -> Any:
    return edge_to(t) if t._requires_grad else None


class Cast(Op):
    """Another dtype; of a complex number that becomes a real one the real part."""

    takes_complex = True
    release = Op.stay

    def forward(self, x: Any, dtype: Any) -> Any:
        self.dtype = x.dtype
        return pooled_copy(x, dtype)

    def backward(self, grad: Any) -> Any:
        return pooled_copy(grad, self.dtype)

    def backward_graph(self, grad: Tensor) -> Any:
        return Cast.apply(grad, dtype=self.dtype)


class _Memory:
    """What NumPy asks for the memory of ``array``, to be written to or not."""

    def __init__(self, array: Any, locked: bool) -> None:
        self.array = array  # kept alive
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], locked)}


def on_memory(array: Any, locked: bool) -> Any:
    """Another array on the memory of ``array``, whose base is no array."""
    return asarray(_Memory(array, locked)).view(array.dtype)


def unlocked(view: Any) -> Any:
    """An array on the memory of a view that is read-only because it, or what it was made from, is expanded."""
    return view if view.flags.writeable else on_memory(view, False)


def is_locked(array: Any) -> bool:
    """Is it read-only? After :func:`check_writable` has let it pass it is an expanded view then."""
    return array.__class__ is ndarray and not array.flags.writeable


def repeats(array: Any) -> bool:
    """Have several elements of an expanded array one address?"""
    return bool(array.size) and any(
        [stride == 0 and extent > 1 for stride, extent in zip(array.strides, array.shape, strict=True)]
    )


def _unlock(t: Tensor, fills: bool) -> bool:
    """May the memory of a read-only view be written to? Where elements share addresses only if the order does not
    matter (``fills``), and nothing is recorded."""
    data = t._data
    if data.__class__ is not ndarray:
        return False
    source = owner = data if t._base is None else t._base._data
    while owner.base.__class__ is ndarray:
        owner = owner.base
    if not (owner.flags.writeable and (source.flags.writeable or not source.size or repeats(source))):
        return False
    if data.size and not may_share_memory(source, data):  # the base has other memory since
        return False
    if repeats(data):
        return fills and not (mode.enabled and t._requires_grad)
    t._data = unlocked(data)
    return True


def check_writable(op: str, t: Tensor, recorded: bool = True, fills: bool = False) -> None:
    """Refuse writes that would break memory's rules or, if the change is one that is recorded, autograd's.

    ``fills``: the same value comes to every place, so that an expanded view may be written to (as :func:`unlocked`).
    """
    if plainly_writable(t):
        return
    data = t._data
    writable = data.flags.writeable if data.__class__ is ndarray else is_writable(data)
    if not (writable or _unlock(t, fills)):
        raise RuntimeError(
            f"{op}: the tensor's memory cannot be written to: it is an expanded view (several elements share one "
            "address) or a read-only array; use x.clone() first"
        )
    if mode.enabled and recorded and t._requires_grad:
        refuse_leaves(op, t)


def refuse_leaves(op: str, t: Tensor) -> None:
    """Refuse a recorded change of a leaf, or of its memory by way of a view."""
    base = t._base
    if t._node is None or (base is not None and base._requires_grad and base._node is None):
        what = "a leaf tensor" if t._node is None else "a view of a leaf tensor"
        raise RuntimeError(
            f"{op}: {what} that requires a gradient cannot be changed in place while the graph is recorded; "
            "do it under fastdl.no_grad(), or on a copy"
        )


def refuse_without_path(op: str, t: Tensor) -> None:
    """Refuse a recorded change of a view to which no path leads."""
    if t._path.__class__ is str:
        raise RuntimeError(
            f"{op}: this tensor {t._path} and cannot be changed in place while the graph is recorded; "
            "use x.clone() or an operation that is not in place"
        )


def rebase(op: str, t: Tensor, result: Tensor) -> None:
    """Give ``t``, whose memory has just received ``result``'s values, the history of ``result``."""
    base = t._base
    if base is None:
        before = t._node
        t._node, t._index, t._requires_grad = result._node, result._index, True
        base = t
    else:
        node = CopySlices()
        node.needs = (base._requires_grad, True)
        node.order = next_order()
        node.edges = (_edge(base), (result._node, result._index))
        node.steps = _steps(t._path)
        before = base._node
        base._node, base._index, base._requires_grad = node, 0, True
    if base._retains:
        _move_retained(base, before)
    if base._views:
        _refresh(base)


def _move_retained(t: Tensor, before: Any) -> None:
    """After a change in place ``retain_grad`` means the gradient of the new values: its hook follows ``t``."""
    if before is None or before.hooks is None:
        return
    own = [entry for entry in before.hooks if isinstance(entry[1], RetainGrad) and entry[1].tensor() is t]
    for entry in own:
        before.hooks.remove(entry)
    if own and t._node is not None:
        t._node.hooks = [*(t._node.hooks or ()), *[(t._index, hook) for _, hook in own]]


def write(op: str, t: Tensor, result: Tensor) -> Tensor:
    """Store ``result``'s values in ``t``'s memory, and its history in the graph."""
    array, target = result._data, t._data
    if array.shape != target.shape:
        raise RuntimeError(
            f"{op}: the result has shape {array.shape} and does not fit in place into the tensor of "
            f"shape {target.shape}"
        )
    if array.dtype != target.dtype and not can_store(array.dtype, target.dtype):
        raise RuntimeError(
            f"{op}: the result has dtype {array.dtype} and cannot be stored in place in a tensor of "
            f"dtype {target.dtype}"
        )
    if result._requires_grad and mode.enabled:
        refuse_without_path(op, t)
        if array.dtype != target.dtype:
            result = Cast.apply(result, dtype=target.dtype)
        rebase(op, t, result)
    if array is not target:
        assign(target, array)
    t._bump_version()
    return t


def alias(t: Tensor) -> Tensor:
    """``t`` as it is now, on the same memory, with a version counter of its own."""
    now = Tensor._wrap(t._data)
    now._node, now._index, now._requires_grad = t._node, t._index, t._requires_grad
    return now


def in_place(
    function: Callable[..., Any],
    name: str,
    writes_out: bool = False,
    overwrite: Callable[..., Tensor] | None = None,
    fills: Callable[..., None] | None = None,
) -> Callable[..., Tensor]:
    """The in-place method made from a function: ``add_`` from ``add``.

    Where nothing is recorded, a function that takes ``out=`` writes straight into the tensor, called from C where the
    memory plainly may be written to (csrc/bindings/graph/view.cpp). Otherwise it runs on an alias of the tensor. If
    that needs the old values for backward (it then asks for the alias's version counter) it runs again on a copy of
    them, since their memory is about to be overwritten. ``overwrite``: the same function for floating numbers, computed
    in the memory of its argument, whose node keeps only its result or a copy of its own. ``fills``: the same for
    expanded tensors.
    """
    logical = name.startswith("logical_")  # PyTorch records these nowhere, and lets them change leaves

    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        if self._data.__class__ is BatchedArray:
            from fastdl.batched import changed

            return changed(name, self, args, options)  # type: ignore[no-any-return]
        check_writable(name, self, not logical, fills is not None)
        if fills is not None and is_locked(self._data):
            fills(self, *args, **options)
            return self
        if not mode.enabled or not (self._requires_grad or _any_requires_grad(args, options)):
            if writes_out and self._data.size:  # as out= an empty tensor would take the result's shape
                function(self, *args, out=self, **options)
                return self
            return write(name, self, function(self, *args, **options))
        before = alias(self)
        if overwrite is not None and self._path.__class__ is not str and self._data.dtype.kind in FLOATING:
            result = overwrite(before, *args, **options)
            node = result._node
            write(name, self, result)
            if node is not None and node.versions is not None:
                # What the node keeps is this tensor from now on.
                cell = self._version_cell()
                node.versions = [(cell, cell[0])]
            return self
        result = function(before, *args, **options)
        if before._counter is not None and result._node is not None:
            before = alias(self)
            before._data = pooled_copy(self._data)
            result = function(before, *args, **options)
        if result._data.dtype is bool_ and not logical:
            return self.copy_(result)  # a comparison has no gradient (PyTorch's logical ones pass it on)
        if result._node is None and self._requires_grad and result._data.dtype.kind in DIFFERENTIABLE:
            raise RuntimeError(f"{name}: the derivative of {name} is not implemented")
        return write(name, self, result)

    method.__name__ = name
    method.__qualname__ = f"Tensor.{name}"
    method.__doc__ = (
        f"``{function.__name__}``, with the result stored in this tensor; see ``torch.Tensor.{name}``."
    )
    call: Any = FunctionCall(method, "in_place", function, None if writes_out else partial(write, name))
    return update_wrapper(call, method)


def shape_in_place(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The in-place method made from a view function: ``unsqueeze_`` from ``unsqueeze``; the tensor becomes the view."""

    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        if self._data.__class__ is BatchedArray:  # all slices have their history in one tensor
            self._data = getattr(self, function.__name__)(*args, **options)._data
            return self
        if mode.enabled and self._requires_grad:
            refuse_leaves(name, self)
            refuse_without_path(name, self)
        for reference in self._views or ():
            view = reference()
            if view is not None:  # its path starts at the shape that was
                view._path = "is a view of a tensor whose shape was changed in place"
        before = alias(self)
        before._base, before._path, before._counter = self._base, self._path, self._version_cell()
        before_mode, mode.enabled = mode.enabled, mode.enabled or self._node is not None
        recording = mode.enabled
        try:
            after = function(before, *args, **options)
        finally:
            mode.enabled = before_mode
        self._data = after._data
        if recording:  # else a parameter keeps its flag
            self._node, self._index, self._requires_grad = after._node, after._index, after._requires_grad
        if self._base is not None:
            self._path = after._path
            register_view(self._base, self)
        return self

    method.__name__ = name
    method.__qualname__ = f"Tensor.{name}"
    method.__doc__ = f"``{function.__name__}``, applied to this tensor itself; see ``torch.Tensor.{name}``."
    return method


def _any_requires_grad(args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    for a in args:
        if isinstance(a, Tensor) and a._requires_grad:
            return True
    if options:
        return any([isinstance(a, Tensor) and a._requires_grad for a in options.values()])
    return False

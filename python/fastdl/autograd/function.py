"""``Function``: users' own differentiable operations, with PyTorch's interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from fastdl.autograd.mode import mode, no_grad
from fastdl.autograd.op import Op
from fastdl.autograd.view import check_writable, rebase
from fastdl.errors import DtypeError
from fastdl.kernels.batched import BatchedArray
from fastdl.kernels.sparse import SparseArray, is_sparse, not_for_sparse
from fastdl.tensor import Tensor


class FunctionCtx:
    """What ``forward`` and ``backward`` of a :class:`Function` share; any attribute may be set on it."""

    needs_input_grad: tuple[bool, ...] = ()
    """For every argument of ``forward``; in ``backward`` to some tensors only: whether it leads to one of them."""
    materialize_grads: bool = True
    _saved: tuple[Tensor | None, ...] = ()
    _saved_outputs: Mapping[int, int] = {}  # place in _saved -> which of the node's outputs it is
    _versions: tuple[Any, ...] = ()
    _released: bool = False
    _not_differentiable: tuple[Tensor, ...] = ()
    _dirty: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward; changing one in place before is then an error."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(
                    f"save_for_backward: expects tensors or None, got {type(t).__name__}; set other "
                    "values as attributes of ctx"
                )
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What ``save_for_backward`` kept."""
        if self._released:
            raise RuntimeError(
                "saved_tensors: the saved tensors were freed by an earlier backward; call "
                "backward(retain_graph=True) there"
            )
        for cell, version in self._versions:
            if cell[0] != version:
                raise RuntimeError(
                    "saved_tensors: a tensor that backward needs was changed in place after it was saved "
                    f"(it is at version {cell[0]}, {version} was expected)"
                )
        return self._saved

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Declare outputs that have no gradient."""
        self._not_differentiable = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Declare inputs that ``forward`` changes in place; they must be returned."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` gets zeros (True, the default) or None for outputs whose gradient never came."""
        self.materialize_grads = bool(value)


class _Node(Op):
    """The graph's node of a :class:`Function`."""

    aliases_grad = True  # nobody knows what the user returns
    takes_complex = True

    ctx: FunctionCtx
    function: type[Function]
    tensor_at: list[int]  # positions of tensors among the arguments
    tensors: list[bool]  # which outputs are tensors
    arguments: int
    likes: list[tuple[tuple[int, ...], Any]]  # shape and dtype of the tensor inputs

    def name(self) -> str:
        return f"{self.function.__name__}Backward" if "function" in self.__dict__ else "FunctionBackward"

    def backward(self, *grads: Any) -> Any:
        fitting = self._gradients([None if g is None else Tensor._wrap(g) for g in grads])
        return tuple([None if g is None else g._data for g in fitting])

    def backward_graph(self, *grads: Any) -> Any:
        # Saved inputs are the tensors that were given, saved outputs become this node's for the length of the call.
        ctx = self.ctx
        kept = ctx._saved
        ctx._saved = tuple(
            [
                self.saved_output(t._data, ctx._saved_outputs[i])
                if t is not None and i in ctx._saved_outputs
                else t
                for i, t in enumerate(kept)
            ]
        )
        try:
            return self._gradients(grads)
        finally:
            ctx._saved = kept

    def _gradients(self, arrived: Sequence[Any]) -> tuple[Tensor | None, ...]:
        """What the user's backward returns, checked: one gradient per tensor input, in its shape and dtype."""
        given = iter(arrived)  # None for outputs that are no tensors
        result: Any = self.function.backward(self.ctx, *[next(given) if t else None for t in self.tensors])
        if not isinstance(result, (tuple, list)):
            result = (result,)
        name = self.function.__name__
        if len(result) > self.arguments and all(r is None for r in result[self.arguments :]):
            result = result[: self.arguments]
        if len(result) != self.arguments:
            raise RuntimeError(
                f"{name}.backward: must return one gradient for each of the {self.arguments} "
                "arguments of forward (None "
                f"where there is none), returned {len(result)}"
            )
        for i, grad in enumerate(result):
            if grad is not None and i not in self.tensor_at:
                raise RuntimeError(
                    f"{name}.backward: gradient {i} must be None, as argument {i} of forward is no tensor; "
                    f"got {type(grad).__name__}"
                )
        grads: list[Tensor | None] = []
        for i, (shape, dtype), need in zip(self.tensor_at, self.likes, self.needs, strict=True):
            grad = result[i]
            if grad is None or not need:
                grads.append(None)
                continue
            if not isinstance(grad, Tensor):
                raise DtypeError(
                    f"{name}.backward: gradient {i} must be a Tensor or None, got {type(grad).__name__}"
                )
            if grad._data.shape != shape:
                try:
                    grad = grad.sum_to_size(shape)
                except (ValueError, RuntimeError):
                    raise RuntimeError(
                        f"{name}.backward: gradient {i} has shape {grad.shape}, argument {i} has {shape}"
                    ) from None
            grads.append(grad if grad._data.dtype == dtype else grad.to(dtype))
        return tuple(grads)

    @contextmanager
    def narrowed(self, needs: tuple[bool, ...]) -> Iterator[None]:
        ctx = self.ctx
        before, asked = ctx.needs_input_grad, dict(zip(self.tensor_at, needs, strict=True))
        ctx.needs_input_grad = tuple([asked.get(i, False) for i in range(self.arguments)])
        try:
            with super().narrowed(needs):
                yield
        finally:
            ctx.needs_input_grad = before

    def release(self) -> None:
        self.ctx._released = True
        self.ctx._saved = ()
        name = self.function
        super().release()
        self.function = name


class Function:
    """Base of users' own operations; see ``torch.autograd.Function``.

    ``forward(ctx, *args)`` computes on tensors (nothing is recorded), ``backward(ctx, *grads)`` returns one
    gradient for each argument of ``forward``, None for those that have none. Alternatively ``forward(*args)``
    and ``setup_context(ctx, inputs, output)``. Call it with :meth:`apply`.

    Example:
        >>> import fastdl
        >>> class Square(fastdl.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x * x
        ...     @staticmethod
        ...     def backward(ctx, grad):
        ...         (x,) = ctx.saved_tensors
        ...         return 2 * x * grad
        >>> x = fastdl.tensor([3.0], requires_grad=True)
        >>> Square.apply(x).backward()
        >>> x.grad
        tensor([6.])
    """

    def __init__(self) -> None:
        raise RuntimeError(
            f"{type(self).__name__}: a Function is not instantiated; call {type(self).__name__}.apply(...)"
        )

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the outputs."""
        raise NotImplementedError("Function: define a static method forward(ctx, *args)")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keep in ``ctx`` what backward needs, if ``forward`` takes no ``ctx``."""
        raise NotImplementedError("Function: define a static method setup_context(ctx, inputs, output)")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Compute the gradients of the inputs."""
        raise NotImplementedError(
            "Function: define a static method backward(ctx, *grad_outputs) to differentiate it"
        )

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` and enter the operation into the graph."""
        ctx = FunctionCtx()
        tensor_at = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        recording = mode.enabled
        ctx.needs_input_grad = tuple([recording and isinstance(a, Tensor) and a._requires_grad for a in args])
        if BatchedArray.made and any(ctx.needs_input_grad):
            from fastdl.batched import has_slices, one_by_one

            if has_slices(args):  # backward is defined on a slice
                return one_by_one(cls.apply, args, kwargs)
        mode.enabled = False
        try:
            if cls.setup_context is Function.setup_context:
                result = cls.forward(ctx, *args, **kwargs)
            else:
                result = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, result)
        finally:
            mode.enabled = recording
        several = isinstance(result, (tuple, list))
        outputs = list(result) if several else [result]
        dirty = {id(t) for t in ctx._dirty}
        for t in ctx._dirty:
            if not any(t is o for o in outputs):
                raise RuntimeError(f"{cls.__name__}.forward: a tensor marked dirty must be among the outputs")
            t._bump_version()
        if any(ctx.needs_input_grad):
            outputs = _record(cls, ctx, args, tensor_at, outputs, dirty)
        elif not several:
            return result
        return tuple(outputs) if several else outputs[0]


def _record(
    cls: type[Function],
    ctx: FunctionCtx,
    args: Any,
    tensor_at: list[int],
    outputs: list[Any],
    dirty: set[int],
) -> list[Any]:
    node = _Node()
    node.ctx, node.function, node.tensor_at, node.arguments = ctx, cls, tensor_at, len(args)
    node.materialize, node.tensors = ctx.materialize_grads, [isinstance(o, Tensor) for o in outputs]
    tensors = tuple([args[i] for i in tensor_at])
    if SparseArray.made and any(
        [is_sparse(t) for t in (*[t for t in tensors if t._requires_grad], *outputs)]
    ):
        raise not_for_sparse(
            f"{cls.__name__}.apply with the gradient of a sparse tensor, whose values it could take,"
        )
    node.likes = [(t._data.shape, t._data.dtype) for t in tensors]
    node.needs = tuple([ctx.needs_input_grad[i] for i in tensor_at])
    for t in ctx._dirty:
        check_writable(f"{cls.__name__}.forward", t)
    places = [i for i, o in enumerate(outputs) if isinstance(o, Tensor)]
    made = node.record(tensors, tuple([outputs[i]._data for i in places]))
    constant = {id(t) for t in ctx._not_differentiable}
    replaced: dict[int, Tensor] = {}
    for i, fresh in zip(places, made, strict=True):
        given = outputs[i]
        if id(given) in constant:
            outputs[i] = given
        elif id(given) in dirty:
            rebase(cls.__name__, given, fresh)
        elif any(given is t for t in tensors):
            # An input returned as it is shares its memory and counter; saved, it is the input.
            outputs[i] = fresh
            fresh._counter = given._version_cell()
        else:
            outputs[i] = replaced[id(given)] = fresh
    # A saved output must know its history, yet the node must not own a tensor that owns the node: keep an alias.
    ctx._saved_outputs = {
        i: replaced[id(t)]._index for i, t in enumerate(ctx._saved) if t is not None and id(t) in replaced
    }
    ctx._saved = tuple(
        [t if t is None or id(t) not in replaced else replaced[id(t)].detach() for t in ctx._saved]
    )
    ctx._versions = tuple([(c, c[0]) for c in [t._version_cell() for t in ctx._saved if t is not None]])
    return outputs


class _Once(Op):
    """The identity on the first ``count`` inputs, gradients that cannot be differentiated again: the error says so.

    The other inputs are what they were made from, so that the way back from them is found.
    """

    takes_complex = True
    function: str

    def forward(self, *arrays: Any, count: int, function: str) -> Any:
        self.function = function
        return arrays[:count]

    def backward(self, *grads: Any) -> Any:
        raise RuntimeError(
            f"{self.function}: trying to differentiate twice a function that was marked with @once_differentiable"
        )

    backward_graph = backward


def once_differentiable(function: Any) -> Any:
    """Decorator for a ``backward`` that does not describe second derivatives: asking for them is then an error.

    Without it ``backward`` itself is differentiated with ``create_graph=True``. See
    ``torch.autograd.function.once_differentiable``.
    """

    @wraps(function)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            result = function(ctx, *grads)
        if not mode.enabled:
            return result
        sources = [t for t in (*grads, *ctx._saved) if t is not None and t._requires_grad]
        several = isinstance(result, (tuple, list))
        results = list(result) if several else [result]
        places = [i for i, r in enumerate(results) if isinstance(r, Tensor) and r._data.dtype.kind == "f"]
        given = [results[i] for i in places]
        marked = _Once.apply(*given, *sources, count=len(given), function=function.__qualname__)
        for i, t in zip(places, marked, strict=True):
            results[i] = t
        return tuple(results) if several else results[0]

    return wrapper

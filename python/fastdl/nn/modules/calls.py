"""``Calls``: what happens when a module is called, with hooks on the way forward and back. See ``torch.nn.Module``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastdl.autograd.op import Op
from fastdl.errors import warn_caller
from fastdl.published import explain
from fastdl.tensor import Tensor
from fastdl.utils.hooks import RemovableHandle, add_hook

R = TypeVar("R", bound=OrderedDict[int, Any])


class CallHooks(OrderedDict[int, Callable[..., Any]]):
    """Forward hooks by the ids of their handles, and the ids of those that take keywords or are called after errors."""

    def __init__(self) -> None:
        super().__init__()
        self.with_kwargs: set[int] = set()
        self.always_call: set[int] = set()

    def enter(
        self, hook: Callable[..., Any], with_kwargs: bool, always_call: bool = False, prepend: bool = False
    ) -> RemovableHandle:
        """Add a hook, last or first."""
        # The ids of removed hooks may be another's where this is loaded.
        self.with_kwargs.intersection_update(self)
        self.always_call.intersection_update(self)
        handle = add_hook(self, hook, prepend)
        if with_kwargs:
            self.with_kwargs.add(handle.id)
        if always_call:
            self.always_call.add(handle.id)
        return handle


def _entries(every: CallHooks, own: CallHooks) -> list[tuple[CallHooks, int, Callable[..., Any]]]:
    """The hooks that are there when a call begins: calling them may register others."""
    entries = [(own, key, hook) for key, hook in own.items()] if own else []
    return [*[(every, key, hook) for key, hook in every.items()], *entries] if every else entries


# Hooks on every module (global_hooks.py registers them); they run before a module's own.
every_forward_pre = CallHooks()
every_forward = CallHooks()
every_backward_pre: OrderedDict[int, Callable[..., Any]] = OrderedDict()
every_backward: OrderedDict[int, Callable[..., Any]] = OrderedDict()
_EVERY = (every_forward_pre, every_forward, every_backward_pre, every_backward)


class _BackwardHooks:
    """One call's full backward hooks, those registered when it began: what the two gates below share."""

    def __init__(self, module: Calls) -> None:
        self.module = module
        self.before = [*every_backward_pre.values(), *module._backward_pre_hooks.values()]
        self.after = [*every_backward.values(), *module._backward_hooks.values()]
        self.grad_output: tuple[Tensor | None, ...] | None = None

    def outputs_arrived(self, grads: list[Any], positions: list[int], count: int) -> list[Any]:
        """Run the backward pre-hooks; returns the gradients to go on with."""
        full: list[Tensor | None] = [None] * count
        for position, grad in zip(positions, grads, strict=True):
            full[position] = grad
        grad_output = tuple(full)
        for hook in self.before:
            changed = hook(self.module, grad_output)
            if changed is not None:
                grad_output = changed if isinstance(changed, tuple) else (changed,)
                if len(grad_output) != count:
                    raise RuntimeError(
                        f"backward pre-hook of {self.module._get_name()}: returned {len(grad_output)} gradients, "
                        f"the module has {count} outputs"
                    )
        self.grad_output = grad_output
        return [grad_output[i] for i in positions]

    def inputs_arrived(self, grads: list[Any], positions: list[int], count: int) -> list[Any]:
        """Run the backward hooks; returns the gradients to go on with.

        No hook runs where the module's outputs had no gradient: a second derivative reaches its inputs otherwise.
        """
        grad_output, self.grad_output = self.grad_output, None
        if grad_output is None:
            return grads
        full: list[Tensor | None] = [None] * count
        for position, grad in zip(positions, grads, strict=True):
            full[position] = grad
        grad_input = tuple(full)
        for hook in self.after:
            changed = hook(self.module, grad_input, grad_output)
            if changed is not None:
                grad_input = changed if isinstance(changed, tuple) else (changed,)
                if len(grad_input) != count:
                    raise RuntimeError(
                        f"backward hook of {self.module._get_name()}: returned {len(grad_input)} gradients, "
                        f"the module has {count} inputs"
                    )
        return [grad_input[i] for i in positions]


class _Gate(Op):
    """The identity on several tensors; backward waits for all their gradients and passes them through ``arrived``."""

    aliases_grad = True
    takes_complex = True

    def forward(self, *arrays: Any, arrived: Callable[[list[Tensor]], list[Tensor | None]]) -> Any:
        self.arrived = arrived
        return arrays if len(arrays) > 1 else arrays[0]

    def backward(self, *grads: Any) -> Any:
        arrived = self.arrived([Tensor._wrap(g) for g in grads])
        return tuple([None if g is None else g._data for g in arrived])

    def backward_graph(self, *grads: Any) -> Any:
        return tuple(self.arrived(list(grads)))


def _gate(
    values: tuple[Any, ...], arrived: Callable[[list[Any], list[int], int], list[Any]]
) -> tuple[tuple[Any, ...], bool]:
    """Pass the differentiable tensors among ``values`` through one gate; also says whether there were any."""
    positions = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v._requires_grad]
    if not positions:
        return values, False
    tensors = [values[i] for i in positions]
    gated = _Gate.apply(*tensors, arrived=lambda grads: arrived(grads, positions, len(values)))
    result = list(values)
    for i, tensor, new in zip(
        positions, tensors, gated if isinstance(gated, tuple) else (gated,), strict=True
    ):
        new._counter = tensor._version_cell()
        result[i] = new
    return tuple(result), True


class Calls:
    """The part of ``Module`` that runs ``forward`` and its hooks."""

    # May a forward or backward hook be registered? False: the fast way through __call__. A module with hooks of its own
    # says True itself; while there are hooks on every module, the class does.
    _hooked: bool = False

    def _get_name(self) -> str:
        return type(self).__name__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; subclasses define it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooked:
            return self._call_with_hooks(args, kwargs)
        try:
            return self.forward(*args, **kwargs)
        except AttributeError as error:
            explain(self._get_name(), type(self).forward, args, kwargs, error, skip=1)
            raise

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if Calls._hooked and not any(_EVERY):
            Calls._hooked = False  # all have been removed
        if not Calls._hooked and not (
            self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        ):
            self.__dict__.pop("_hooked", None)
            return self.forward(*args, **kwargs)
        called: set[int] = set()
        try:
            return self._run_hooks(args, kwargs, called)
        except Exception:
            for registry, key, hook in _entries(every_forward, self._forward_hooks):
                if key in registry.always_call and key not in called:
                    try:
                        if key in registry.with_kwargs:
                            hook(self, args, kwargs, None)
                        else:
                            hook(self, args, None)
                    except Exception as error:  # the first error is the one to report
                        warn_caller(
                            f"forward hook with always_call=True of {self._get_name()} raised an error that was "
                            f"silenced because forward had raised another: {error}"
                        )
            raise

    def _run_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any], called: set[int]) -> Any:
        for registry, key, hook in _entries(every_forward_pre, self._forward_pre_hooks):
            if key in registry.with_kwargs:
                changed = hook(self, args, kwargs)
                if changed is not None:
                    if not (isinstance(changed, tuple) and len(changed) == 2):
                        raise RuntimeError(
                            "forward pre-hook with kwargs must return None or a tuple of (new_args, new_kwargs), "
                            f"got {changed!r}"
                        )
                    args, kwargs = changed
            else:
                changed = hook(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        backward: _BackwardHooks | None = None
        gated = False
        if self._backward_hooks or self._backward_pre_hooks or every_backward or every_backward_pre:
            backward = _BackwardHooks(self)
            args, gated = _gate(args, backward.inputs_arrived)
        result = self.forward(*args, **kwargs)
        for registry, key, hook in _entries(every_forward, self._forward_hooks):
            called.add(key)
            if key in registry.with_kwargs:
                changed = hook(self, args, kwargs, result)
            else:
                changed = hook(self, args, result)
            if changed is not None:
                result = changed
        if backward is not None:
            result = self._gate_result(backward, result, gated, len(args))
        return result

    def _gate_result(self, backward: _BackwardHooks, result: Any, inputs_gated: bool, inputs: int) -> Any:
        def arrived(grads: list[Any], positions: list[int], count: int) -> list[Any]:
            passed = backward.outputs_arrived(grads, positions, count)
            if not inputs_gated:  # no input needs a gradient: nothing else would call the hooks
                backward.inputs_arrived([], [], inputs)
            return passed

        if isinstance(result, tuple):
            return _gate(result, arrived)[0]
        return _gate((result,), arrived)[0][0]

    def _hook_registry(self, name: str, kind: Callable[[], R] = OrderedDict) -> R:  # type: ignore[assignment]
        registry = self.__dict__.get(name)
        if registry is None:
            self.__dict__[name] = registry = kind()
        return registry

    def _replace_hooks(self, name: str, registry: OrderedDict[int, Any], hooks: Mapping[int, Any]) -> None:
        """For ``module._forward_hooks = OrderedDict()``, by which programs drop hooks whose handles are lost."""
        registry.update(hooks)
        self.__dict__[name] = registry
        if registry:
            self._hooked = True

    @property
    def _forward_hooks(self) -> CallHooks:
        return self._hook_registry("_forward_hooks", CallHooks)

    @_forward_hooks.setter
    def _forward_hooks(self, hooks: Mapping[int, Any]) -> None:
        self._replace_hooks("_forward_hooks", CallHooks(), hooks)

    @property
    def _forward_pre_hooks(self) -> CallHooks:
        return self._hook_registry("_forward_pre_hooks", CallHooks)

    @_forward_pre_hooks.setter
    def _forward_pre_hooks(self, hooks: Mapping[int, Any]) -> None:
        self._replace_hooks("_forward_pre_hooks", CallHooks(), hooks)

    @property
    def _backward_hooks(self) -> OrderedDict[int, Callable[..., Any]]:
        return self._hook_registry("_backward_hooks")

    @_backward_hooks.setter
    def _backward_hooks(self, hooks: Mapping[int, Any]) -> None:
        self._replace_hooks("_backward_hooks", OrderedDict(), hooks)

    @property
    def _backward_pre_hooks(self) -> OrderedDict[int, Callable[..., Any]]:
        return self._hook_registry("_backward_pre_hooks")

    @_backward_pre_hooks.setter
    def _backward_pre_hooks(self, hooks: Mapping[int, Any]) -> None:
        self._replace_hooks("_backward_pre_hooks", OrderedDict(), hooks)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns (if anything) replaces the arguments.

        With ``with_kwargs`` it is ``hook(module, args, kwargs)`` and returns None or ``(args, kwargs)``.
        """
        self._hooked = True
        return self._forward_pre_hooks.enter(hook, with_kwargs, prepend=prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after ``forward``; what it returns (if anything) replaces the output.

        With ``with_kwargs`` it is ``hook(module, args, kwargs, output)``. With ``always_call`` it is called (with
        output None) even when ``forward`` raises.
        """
        self._hooked = True
        return self._forward_hooks.enter(hook, with_kwargs, always_call, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` when the gradients of the outputs are known; it may replace them."""
        self._hooked = True
        return add_hook(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the inputs are known.

        Both are tuples with one entry per positional argument and output, None where there is no gradient. What the
        hook returns (if anything) replaces ``grad_input``.
        """
        self._hooked = True
        return add_hook(self._backward_hooks, hook, prepend)

"""Hooks on all modules at once: on their calls, and on what becomes a member of one.

See ``torch.nn.modules.module``. They act on modules of the whole process, also inside of other libraries: for debugging
and measuring. A model's own hooks (``Module.register_forward_hook``, ...) run after them. While none is registered a
call of a module costs what it cost before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fastdl.nn.modules.calls import (
    Calls,
    every_backward,
    every_backward_pre,
    every_forward,
    every_forward_pre,
)
from fastdl.utils.hooks import RemovableHandle, add_hook

__all__ = [
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]

buffer_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
module_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
parameter_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()


def registered(hooks: OrderedDict[int, Callable[..., Any]], module: Any, name: str, value: Any) -> Any:
    """What ``module`` is to keep as ``name``: ``value``, or what a hook puts in its place."""
    for hook in list(hooks.values()) if hooks else ():
        changed = hook(module, name, value)
        if changed is not None:
            value = changed
    return value


def _check(op: str, hook: Any) -> None:
    if not callable(hook):
        raise TypeError(f"{op}: hook must be a function, got {type(hook).__name__}")


def _add(op: str, registry: OrderedDict[int, Any], hook: Any) -> RemovableHandle:
    _check(op, hook)
    return add_hook(registry, hook)


def _on_calls(handle: RemovableHandle) -> RemovableHandle:
    """Calls look for hooks from now on."""
    Calls._hooked = True
    return handle


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, args)`` before every module's ``forward``; what it returns replaces the arguments.

    See ``torch.nn.modules.module.register_module_forward_pre_hook``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_forward_pre_hook
        >>> with register_module_forward_pre_hook(lambda module, args: print(module, args[0].shape)):
        ...     _ = fastdl.nn.ReLU()(fastdl.ones(2, 3))
        ReLU() (2, 3)
    """
    _check("register_module_forward_pre_hook", hook)
    return _on_calls(every_forward_pre.enter(hook, with_kwargs=False))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, output)`` after every module's ``forward``; what it returns replaces the output.

    With ``with_kwargs`` it is ``hook(module, args, kwargs, output)``. With ``always_call`` it is called (with output
    None) even when ``forward`` raises. See ``torch.nn.modules.module.register_module_forward_hook``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_forward_hook
        >>> model = fastdl.nn.Sequential(fastdl.nn.ReLU(), fastdl.nn.Flatten())
        >>> with register_module_forward_hook(lambda module, args, y: print(type(module).__name__, y.shape)):
        ...     _ = model(fastdl.ones(1, 2, 3))
        ReLU (1, 2, 3)
        Flatten (1, 6)
        Sequential (1, 6)
    """
    _check("register_module_forward_hook", hook)
    return _on_calls(every_forward.enter(hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` when the gradients of a module's outputs are known; it may replace them.

    See ``torch.nn.modules.module.register_module_full_backward_pre_hook`` and
    :meth:`Module.register_full_backward_pre_hook`.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_full_backward_pre_hook
        >>> x = fastdl.ones(2, requires_grad=True)
        >>> with register_module_full_backward_pre_hook(lambda module, grad_output: print(module, grad_output)):
        ...     fastdl.nn.ReLU()(x).sum().backward()
        ReLU() (tensor([1., 1.]),)
    """
    return _on_calls(_add("register_module_full_backward_pre_hook", every_backward_pre, hook))


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` when the gradients of a module's inputs are known.

    What it returns (if anything) replaces ``grad_input``. A call of a module takes the hooks that are registered then.
    See ``torch.nn.modules.module.register_module_full_backward_hook`` and :meth:`Module.register_full_backward_hook`.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_full_backward_hook
        >>> x = fastdl.tensor([1.0, -1.0], requires_grad=True)
        >>> with register_module_full_backward_hook(lambda module, grad_input, grad_output: print(grad_input)):
        ...     fastdl.nn.ReLU()(x).sum().backward()
        (tensor([1., 0.]),)
    """
    return _on_calls(_add("register_module_full_backward_hook", every_backward, hook))


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, parameter)`` when a module gets a parameter; what it returns takes its place.

    See ``torch.nn.modules.module.register_module_parameter_registration_hook``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_parameter_registration_hook
        >>> with register_module_parameter_registration_hook(lambda module, name, p: print(name, p.shape)):
        ...     layer = fastdl.nn.Linear(2, 3)
        weight (3, 2)
        bias (3,)
    """
    return _add("register_module_parameter_registration_hook", parameter_hooks, hook)


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` when a module gets a buffer (or None); what it returns takes its place.

    See ``torch.nn.modules.module.register_module_buffer_registration_hook``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_buffer_registration_hook
        >>> with register_module_buffer_registration_hook(lambda module, name, buffer: print(name)):
        ...     layer = fastdl.nn.BatchNorm1d(2)
        running_mean
        running_var
        num_batches_tracked
    """
    return _add("register_module_buffer_registration_hook", buffer_hooks, hook)


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, submodule)`` when a module gets a submodule (or None); what it returns takes its place.

    See ``torch.nn.modules.module.register_module_module_registration_hook``.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.modules.module import register_module_module_registration_hook
        >>> with register_module_module_registration_hook(lambda module, name, child: print(name, child)):
        ...     model = fastdl.nn.Sequential(fastdl.nn.ReLU())
        0 ReLU()
    """
    return _add("register_module_module_registration_hook", module_hooks, hook)

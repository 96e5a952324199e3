"""``Module``: the base of every layer and model. See ``torch.nn.Module``.

Parameters, buffers and submodules live in the instance's ``__dict__`` like any attribute (reading ``self.weight`` costs
nothing extra); three dictionaries beside them hold only their names: ``_parameter_names``, ``_buffer_names`` (name ->
persistent) and ``_module_names``. ``_parameters``, ``_buffers`` and ``_modules``, known from PyTorch, are live mappings
made from both when somebody asks for them. Calling and hooks are in ``calls.py``, state dicts in ``state.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSet
from typing import Any, Self, TypeVar

import numpy as np

from fastdl.absent import NO_SCRIPT, Absent
from fastdl.arrays import pooled_copy
from fastdl.autograd.mode import no_grad
from fastdl.creation import empty_like
from fastdl.devices import to_device
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, as_dtype
from fastdl.errors import warn_caller
from fastdl.kernels import fill_with_zeros
from fastdl.kernels.sparse import is_sparse
from fastdl.nn.modules.arguments import explained
from fastdl.nn.modules.global_hooks import *  # noqa: F403 - register_module_*
from fastdl.nn.modules.global_hooks import buffer_hooks, module_hooks, parameter_hooks, registered
from fastdl.nn.modules.registries import NonPersistent, Registry, replace
from fastdl.nn.modules.state import _EXTRA_STATE_KEY_SUFFIX as _EXTRA_STATE_KEY_SUFFIX
from fastdl.nn.modules.state import State
from fastdl.nn.modules.state import _IncompatibleKeys as _IncompatibleKeys
from fastdl.nn.parameter import Buffer, Parameter
from fastdl.ops.cast import parse_to
from fastdl.tensor import Tensor

__all__ = ["Module"]

M = TypeVar("M", bound="Module")

_NAMES = ("_parameter_names", "_buffer_names", "_module_names")


def _convert(tensor: Tensor, dtype: Any, where: Any = None, kinds: str = FLOATING) -> Tensor:
    """The tensor itself, or a copy of it on another device and, if its own is of one of ``kinds``, in another dtype."""
    if is_sparse(tensor):
        wanted = dtype if tensor._data.dtype.kind in kinds else None
        return tensor.to(where, wanted)
    array = tensor._data
    if where is not None:
        array = to_device(array, where)
    if dtype is not None and array.dtype.kind in kinds and array.dtype != dtype:
        if array.dtype.kind == "c" != dtype.kind:
            warn_caller("Casting complex values to real discards the imaginary part")
        array = pooled_copy(array, dtype)
    return tensor if array is tensor._data else Tensor._wrap(array)


def indent_rest(text: str, spaces: int) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first] + [" " * spaces + line for line in rest])


class Module(State):
    """Base class of layers and models: assign parameters, buffers and submodules as attributes, define ``forward``.

    See ``torch.nn.Module``; names, order of parameters, keys of ``state_dict`` and ``repr`` are the same.

    Example:
        >>> from fastdl import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.flat = nn.Flatten()
        ...     def forward(self, x):
        ...         return self.flat(x)
        >>> Net()
        Net(
          (flat): Flatten(start_dim=1, end_dim=-1)
        )
    """

    training: bool

    def __init__(self) -> None:
        own = self.__dict__
        own["training"] = True
        own["_parameter_names"] = {}
        own["_buffer_names"] = {}
        own["_module_names"] = {}

    # Attributes -----------------------------------------------------------------------------------

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        init = vars(cls).get("__init__")
        if init is not None and cls.__module__.startswith("fastdl.nn.modules."):
            cls.__init__ = explained(init)  # type: ignore[method-assign]
        if "__getattr__" in vars(cls):
            # It will call super().__getattr__. Not before: a __getattr__ makes every attribute of all modules slow.
            Module.__getattr__ = _no_attribute  # type: ignore[attr-defined]
            if "__getattribute__" not in vars(cls):
                cls.__getattribute__ = _attribute  # type: ignore[method-assign,assignment]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not found on the class, it would be asked of a subclass's __getattr__, before there are any attributes.
        own = self.__dict__
        own.update(state)
        for names in _NAMES:  # by copy.copy they are the original's, and what the copy registers is not
            if names in own:
                own[names] = own[names].copy()

    @property
    def _parameters(self) -> MutableMapping[str, Parameter | None]:
        return Registry(self.__dict__, self._parameter_names, None)

    @_parameters.setter
    def _parameters(self, members: Mapping[str, Any]) -> None:
        replace(self.__dict__, "_parameter_names", members, None)

    @property
    def _buffers(self) -> MutableMapping[str, Tensor | None]:
        return Registry(self.__dict__, self._buffer_names, True)

    @_buffers.setter
    def _buffers(self, members: Mapping[str, Any]) -> None:
        replace(self.__dict__, "_buffer_names", members, True)

    @property
    def _non_persistent_buffers_set(self) -> MutableSet[str]:
        return NonPersistent(self._buffer_names)

    @_non_persistent_buffers_set.setter
    def _non_persistent_buffers_set(self, names: Iterable[str]) -> None:
        absent = set(names)
        self.__dict__["_buffer_names"] = {name: name not in absent for name in self._buffer_names}

    @property
    def _modules(self) -> MutableMapping[str, Module | None]:
        return Registry(self.__dict__, self._module_names, None)

    @_modules.setter
    def _modules(self, members: Mapping[str, Any]) -> None:
        replace(self.__dict__, "_module_names", members, None)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        parameters = own.get("_parameter_names")
        if parameters is None:  # before Module.__init__: plain values only
            for kind, noun in ((Parameter, "parameters"), (Module, "module"), (Buffer, "buffer")):
                if isinstance(value, kind):
                    raise AttributeError(f"cannot assign {noun} before Module.__init__() call")
            object.__setattr__(self, name, value)
        elif isinstance(value, Parameter):
            self._forget(name, parameters)
            self.register_parameter(name, value)
        elif name in parameters:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type_name(value)}' as parameter '{name}' (fastdl.nn.Parameter or None expected)"
                )
            own[name] = None
        elif isinstance(value, Module):
            names = self._module_names  # without add_module: its hasattr would ask a user's __getattr__
            self._forget(name, names)
            names[name] = None
            own[name] = registered(module_hooks, self, name, value)
        elif name in self._module_names:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type_name(value)}' as child module '{name}' "
                    "(fastdl.nn.Module or None expected)"
                )
            own[name] = registered(module_hooks, self, name, None)
        elif isinstance(value, Buffer):
            self._forget(name, self._buffer_names)
            self.register_buffer(name, value, value.persistent)
        elif name in self._buffer_names:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{_type_name(value)}' as buffer '{name}' (fastdl.Tensor, fastdl.nn.Buffer or "
                    "None expected)"
                )
            own[name] = registered(buffer_hooks, self, name, value)
        else:
            object.__setattr__(self, name, value)

    def _forget(self, name: str, keep: dict[str, Any]) -> None:
        """Make room for a new owner of ``name``; its place in ``keep`` (and so its order) stays."""
        names: dict[str, Any]
        for names in (self._parameter_names, self._buffer_names, self._module_names):
            if names is not keep:
                names.pop(name, None)
        if name not in keep:
            self.__dict__.pop(name, None)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._parameter_names.pop(name, None)
        self._buffer_names.pop(name, None)
        self._module_names.pop(name, None)

    def _check_name(self, what: str, name: str, known: dict[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string, got {_type_name(name)}")
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')
        if "." in name:
            raise KeyError(f'{what} name can\'t contain ".", got {name!r}')
        if name not in known and hasattr(self, name):
            raise KeyError(f"attribute '{name}' already exists")

    def _names(self, which: str, noun: str) -> dict[str, Any]:
        names = self.__dict__.get(which)
        if names is None:
            raise AttributeError(f"cannot assign {noun} before Module.__init__() call")
        return names  # type: ignore[no-any-return]

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None keeps the name for an absent one (as ``bias=False`` does)."""
        names = self._names("_parameter_names", "parameter")
        self._check_name("parameter", name, names)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{_type_name(param)}' object to parameter '{name}' "
                "(fastdl.nn.Parameter or None required)"
            )
        if param is not None and param._node is not None:
            raise ValueError(
                f"cannot assign a tensor that an operation made to parameter '{name}': parameters are leaves. "
                f"To compute '{name}' from another tensor, do it in forward()"
            )
        names[name] = None
        self.__dict__[name] = None if param is None else registered(parameter_hooks, self, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but no parameter; ``persistent`` says whether ``state_dict`` contains it."""
        names = self._names("_buffer_names", "buffer")
        self._check_name("buffer", name, names)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{_type_name(tensor)}' object to buffer '{name}' (fastdl.Tensor or None required)"
            )
        names[name] = bool(persistent)
        self.__dict__[name] = registered(buffer_hooks, self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under ``name``."""
        names = self._names("_module_names", "module")
        if module is not None and not isinstance(module, Module):
            hint = ""
            if isinstance(module, type) and issubclass(module, Module):
                hint = f"; {module.__name__} is the class, {module.__name__}() makes a layer"
            elif isinstance(module, (list, tuple)):
                hint = "; nn.Sequential(*layers) makes one module of layers, which it takes one by one"
            elif callable(module):
                hint = "; a function is called in forward, or has a layer: nn.ReLU() for relu"
            raise TypeError(f"add_module: {_type_name(module)} is not a Module subclass{hint}")
        self._check_name("module", name, names)
        names[name] = None
        self.__dict__[name] = registered(module_hooks, self, name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """The same as :meth:`add_module`."""
        self.add_module(name, module)

    # Looking up -----------------------------------------------------------------------------------

    def get_submodule(self, target: str) -> Module:
        """The submodule at a path such as ``"net_b.conv"``; ``""`` is the module itself. AttributeError if absent."""
        module: Module = self
        if target == "":
            return module
        for name in target.split("."):
            if not hasattr(module, name):
                raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put ``module`` at a path; with ``strict`` something must be there already."""
        if target == "":
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{parent._get_name()} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path such as ``"net_b.conv.weight"``. AttributeError if absent."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
        param = getattr(module, name)
        if not isinstance(param, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return param

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path such as ``"norm.running_mean"``. AttributeError if absent."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
        if name not in module._buffer_names:
            raise AttributeError(f"`{name}` is not a buffer")
        return getattr(module, name)  # type: ignore[no-any-return]

    # Walking --------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, with their paths; a shared module once unless ``remove_duplicate`` is False."""
        if memo is None:
            memo = set()
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name in self._module_names:
            child = self.__dict__[name]
            if child is not None:
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules with their names, a shared one once."""
        memo = set()
        for name in self._module_names:
            child = self.__dict__[name]
            if child is not None and child not in memo:
                memo.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The direct submodules."""
        for _, module in self.named_children():
            yield module

    def _named_members(
        self,
        names_of: Callable[[Module], Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        memo: set[int] = set()
        modules = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        for path, module in modules:
            for entry in names_of(module):  # names; programs may give pairs, as PyTorch's
                name, value = entry if entry.__class__ is tuple else (entry, module.__dict__[entry])
                if value is None or id(value) in memo:
                    continue
                if remove_duplicate:
                    memo.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their paths, a shared one once unless ``remove_duplicate`` is False."""
        return self._named_members(lambda m: m._parameter_names, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, for an optimizer."""
        for _, param in self.named_parameters(recurse=recurse):
            yield param

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their paths, a shared one once unless ``remove_duplicate`` is False."""
        return self._named_members(lambda m: m._buffer_names, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    # Changing everything below --------------------------------------------------------------------

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every module below this one, children first, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Replace the data of every parameter and its gradient, and every buffer, by ``fn`` of it."""
        if recurse:
            for module in self.children():
                module._apply(fn)
        with no_grad():
            for name in self._parameter_names:
                param = self.__dict__[name]
                if param is not None:
                    param._data = fn(param)._data
                    if param.grad is not None:
                        param.grad._data = fn(param.grad)._data
            for name in self._buffer_names:
                buffer = self.__dict__[name]
                if buffer is not None:
                    self.__dict__[name] = fn(buffer)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert parameters and buffers in place: ``to(dtype)``, ``to(device)``, ``to(tensor)``; returns the module.

        Only floating-point and complex ones change dtype (``float()`` and its siblings leave complex ones). Gradients
        go with their parameters. Move a module before its parameters are handed to an optimizer whose state exists
        already: state stays where it is.
        """
        dtype, where, _, _ = parse_to(args, kwargs)
        if dtype is not None and dtype.kind not in DIFFERENTIABLE:
            raise TypeError(f"to: a module converts to floating-point and complex dtypes only, got {dtype}")
        if dtype is None and where is None:
            return self
        return self._apply(lambda t: _convert(t, dtype, where, DIFFERENTIABLE))

    def type(self, dst_type: Any) -> Self:
        """Convert all parameters and buffers, integers too, to a dtype."""
        dtype = np.dtype(dst_type)
        return self._apply(lambda t: Tensor._wrap(t._data.astype(dtype, copy=False)))

    def float(self) -> Self:
        """Convert floating-point parameters and buffers to float32."""
        return self._apply(lambda t: _convert(t, np.dtype(np.float32)))

    def double(self) -> Self:
        """Convert floating-point parameters and buffers to float64."""
        return self._apply(lambda t: _convert(t, np.dtype(np.float64)))

    def half(self) -> Self:
        """Convert floating-point parameters and buffers to float16."""
        return self._apply(lambda t: _convert(t, np.dtype(np.float16)))

    def bfloat16(self) -> Self:
        """Convert floating-point parameters and buffers to bfloat16; needs the package ml_dtypes."""
        dtype = as_dtype("bfloat16", "bfloat16")
        return self._apply(lambda t: _convert(t, dtype))

    def cpu(self) -> Self:
        """Move parameters and buffers to the CPU's memory."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move parameters and buffers to a GPU: the current one, or a certain one."""
        return self.to("cuda" if device is None else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Uninitialised memory on a device for parameters and buffers, whose values are lost: off ``"meta"``.

        Example:
            >>> from fastdl import nn
            >>> nn.Linear(2, 3, device="meta").to_empty(device="cpu").weight.device
            device(type='cpu')
        """
        return self._apply(lambda t: empty_like(t, device=device), recurse=recurse)

    def share_memory(self) -> Self:
        """The module itself; child processes get copies of what they change."""
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: there is no compiler, and none is needed for the fused layers."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and below: dropout drops, batch norm uses the batch's statistics."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode; the same as ``train(False)``."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze all parameters."""
        for param in self.parameters():
            param.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients, or fill them with zeros if ``set_to_none`` is False."""
        kept = []
        for param in self.parameters():
            if param.grad is not None:
                if set_to_none:
                    param.grad = None
                else:
                    param.grad = param.grad.detach()
                    kept.append(param.grad._data)
        fill_with_zeros(kept)

    # Printing -------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What a layer shows of itself between the parentheses of its ``repr``."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {indent_rest(repr(self.__dict__[name]), 2)}" for name in self._module_names]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"


_LEFT_OUT = {"save": NO_SCRIPT}  # what jit.script(module) would have
for _name, _why in _LEFT_OUT.items():
    setattr(Module, _name, Absent(_name, _why))


def _no_attribute(self: Module, name: str) -> Any:
    """What PyTorch's ``Module.__getattr__`` answers; here parameters and submodules are attributes like any."""
    own = object.__getattribute__(self, "__dict__")  # not by _attribute below
    if name in own:
        return own[name]
    text = f"{type(self).__name__!r} object has no attribute {name!r}{_LEFT_OUT.get(name, '')}"
    raise AttributeError(text, name=name, obj=self)


def _attribute(self: Module, name: str) -> Any:
    """``__getattribute__`` of classes with a ``__getattr__``, which PyTorch asks for parameters and submodules, too."""
    own = object.__getattribute__(self, "__dict__")
    if name in own:
        nothing = ()  # before Module.__init__
        if (
            name in own.get("_parameter_names", nothing)
            or name in own.get("_module_names", nothing)
            or name in own.get("_buffer_names", nothing)
        ):
            return type(self).__getattr__(self, name)  # type: ignore[attr-defined]
    return object.__getattribute__(self, name)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"

"""Parameters computed from others before each use; see ``torch.nn.utils.parametrize``.

A parametrized tensor is a property of the module's class, made for this instance: reading ``module.weight`` computes it
from ``module.parametrizations.weight.original``, which is what is trained and saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from fastdl.autograd.mode import no_grad
from fastdl.nn.modules.container import ModuleDict, ModuleList
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter
from fastdl.tensor import Tensor

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]

M = TypeVar("M", bound=Module)

_cache_depth = 0
_cache: dict[tuple[int, str], Tensor] = {}


@contextmanager
def cached() -> Iterator[None]:
    """Inside the ``with`` block each parametrized tensor is computed once, when it is first read.

    For a recurrent network that uses one weight in every step; see ``torch.nn.utils.parametrize.cached``.
    """
    global _cache_depth
    _cache_depth += 1
    try:
        yield
    finally:
        _cache_depth -= 1
        if not _cache_depth:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, in order, and what it is computed from: ``original``.

    If the first parametrization's ``right_inverse`` returns several tensors they are ``original0``, ``original1``, ...
    """

    def __init__(self, modules: list[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            value: Any = original
            for module in reversed(modules):
                if hasattr(module, "right_inverse"):
                    with suppress(NotImplementedError):  # then the original is the value as it stands
                        value = module.right_inverse(value)
        self.is_tensor = isinstance(value, Tensor)
        trained = isinstance(original, Parameter)
        if self.is_tensor:
            if value.dtype != original.dtype and not unsafe:
                raise ValueError(
                    f"right_inverse must keep the dtype unless unsafe=True, got {value.dtype} for {original.dtype}"
                )
            original._data = (
                value._data
            )  # the very parameter stays, so that an optimizer that knows it goes on
            self._own("original", original, trained)
            return
        self.ntensors = len(value)
        for i, part in enumerate(value):
            if not isinstance(part, Tensor):
                raise ValueError(f"right_inverse must return tensors, got {type(part).__name__} at {i}")
            if trained:
                part = Parameter(part.detach(), original.requires_grad)
            self._own(f"original{i}", part, trained)

    def _own(self, name: str, value: Tensor, trained: bool) -> None:
        if trained:
            self.register_parameter(name, value)  # type: ignore[arg-type]
        else:
            self.register_buffer(name, value)

    def _originals(self) -> list[Tensor]:
        if self.is_tensor:
            return [getattr(self, "original")]  # noqa: B009
        return [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals such that the parametrized tensor becomes ``value``."""
        with no_grad():
            parts: Any = value
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"{type(module).__name__} has no right_inverse, so the parametrized tensor cannot be assigned"
                    )
                parts = module.right_inverse(parts)
            for own, part in zip(self._originals(), [parts] if self.is_tensor else parts, strict=True):
                if own.shape == part.shape:
                    own.copy_(part)
                else:
                    own._data = part._data

    def forward(self) -> Tensor:
        modules = iter(self)
        x: Tensor = next(modules)(*self._originals())
        for module in modules:
            x = module(x)
        return x


def _sources(module: Module) -> Any:
    """The ModuleDict of a module's parametrizations."""
    return module.__dict__["parametrizations"]


def _property(name: str) -> property:
    def get(self: Module) -> Tensor:
        source = _sources(self)[name]
        if not _cache_depth:
            return source()  # type: ignore[no-any-return]
        key = (id(source), name)
        if key not in _cache:
            _cache[key] = source()
        return _cache[key]

    def set(self: Module, value: Tensor) -> None:
        _sources(self)[name].right_inverse(value)

    return property(get, set)


def register_parametrization(
    module: M, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> M:
    """Compute a parameter or buffer as ``parametrization(original)`` from now on.

    Args:
        module: the layer.
        tensor_name: which of its tensors.
        parametrization: a module from the original to the tensor. If it has a method ``right_inverse``, the original
            is what that returns for the present tensor. Several registered for one tensor are chained: a later one is
            applied to what the others give, and the original stays as it is.
        unsafe: allow other shapes and dtypes than the original's.

    See ``torch.nn.utils.parametrize.register_parametrization``.

    Example:
        >>> import fastdl
        >>> from fastdl import nn
        >>> class Symmetric(nn.Module):
        ...     def forward(self, x):
        ...         return x.triu() + x.triu(1).mT
        >>> layer = register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
        >>> bool((layer.weight == layer.weight.mT).all())
        True
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        sources = _sources(module)[tensor_name]
        if not unsafe:
            _check_map(parametrization, getattr(module, tensor_name), tensor_name)
        sources.append(parametrization)
        sources.unsafe |= unsafe
        return module
    if tensor_name not in module._parameter_names and tensor_name not in module._buffer_names:
        raise ValueError(
            f"Module '{type(module).__name__}' does not have a parameter, a buffer, or a parametrized element with "
            f"name '{tensor_name}'"
        )
    original = getattr(module, tensor_name)
    shape, dtype = original.shape, original.dtype
    sources = ParametrizationList([parametrization], original, unsafe)
    if not unsafe:
        with no_grad():
            made = sources()
        _check_result(parametrization, made, shape, dtype, tensor_name)
    delattr(module, tensor_name)
    kind = type_before_parametrizations(module)
    if not is_parametrized(module):
        module.register_module("parametrizations", ModuleDict())
    _sources(module)[tensor_name] = sources
    _give_class(module, kind)
    return module


def _give_class(module: Module, kind: type) -> None:
    """A class of its own with a property per parametrized tensor; copies of the module keep theirs."""
    names = list(_sources(module)) if is_parametrized(module) else []
    if names:
        properties = {name: _property(name) for name in names}
        kind = type(f"Parametrized{kind.__name__}", (kind,), {"__module__": kind.__module__, **properties})
    module.__class__ = kind


def _check_map(parametrization: Module, value: Tensor, name: str) -> None:
    with no_grad():
        _check_result(parametrization, parametrization(value), value.shape, value.dtype, name)


def _check_result(parametrization: Module, made: Any, shape: Any, dtype: Any, name: str) -> None:
    kind = type(parametrization).__name__
    if not isinstance(made, Tensor):
        raise ValueError(f"A parametrization must return a tensor, {kind} returned {type(made).__name__}")
    if made.shape != shape or made.dtype != dtype:
        raise ValueError(
            f"Registering a parametrization may not change the shape or the dtype of the tensor, unless unsafe=True: "
            f"{kind} makes {made.dtype} {tuple(made.shape)} of '{name}', which is {dtype} {tuple(shape)}"
        )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module has a parametrized tensor (of that name)."""
    sources = module.__dict__.get("parametrizations")
    if not isinstance(sources, ModuleDict):
        return False
    return len(sources) > 0 if tensor_name is None else tensor_name in sources


def type_before_parametrizations(module: Module) -> type:
    """The class that the module had before tensors of it were parametrized."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Make the tensor an ordinary one again, with the computed value, or (``leave_parametrized=False``) the original.

    See ``torch.nn.utils.parametrize.remove_parametrizations``.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {type(module).__name__} does not have a parametrization on {tensor_name}")
    sources = _sources(module)[tensor_name]
    if not leave_parametrized and not sources.is_tensor:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
            "sequence of tensors."
        )
    trained = bool(sources._parameter_names)
    with no_grad():
        value = getattr(module, tensor_name).detach()
    result = sources._originals()[0]
    if sources.is_tensor:
        if leave_parametrized:
            result._data = value._data
    else:
        needs = any([t.requires_grad for t in sources._originals()])
        result = Parameter(value, needs) if trained else value
    kind = type_before_parametrizations(module)
    del _sources(module)[tensor_name]
    _give_class(module, kind)
    if not is_parametrized(module):
        delattr(module, "parametrizations")
    if trained:
        module.register_parameter(tensor_name, result)
    else:
        module.register_buffer(tensor_name, result)
    return module

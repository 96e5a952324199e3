"""Containers of modules and parameters; see ``torch.nn.Sequential``, ``ModuleList``, ``ModuleDict`` and so on."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Self, overload

from fastdl.dtypes import DIFFERENTIABLE
from fastdl.errors import warn_caller
from fastdl.nn.modules.linear import LINEAR, Linear, fusable_activation, is_called_as_usual
from fastdl.nn.modules.module import Module, indent_rest
from fastdl.nn.parameter import Parameter
from fastdl.ops.linear import linear
from fastdl.tensor import Tensor

__all__ = ["Container", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


class _NumberedModules(Module):
    """Submodules named "0", "1", ...: what Sequential and ModuleList share."""

    def _name_at(self, index: Any) -> str:
        names = list(self._module_names)
        try:
            i = operator.index(index)
        except TypeError:
            raise TypeError(
                f"{self._get_name()}: indices are integers or slices, got {type(index).__name__}"
            ) from None
        if not -len(names) <= i < len(names):
            raise IndexError(f"index {i} is out of range: {self._get_name()} has {len(names)} modules")
        return names[i]

    def _contents(self) -> list[Module]:
        own = self.__dict__
        return [own[name] for name in self._module_names]

    def _replace_contents(self, modules: Iterable[Module]) -> None:
        """Let ``modules`` be the contents, numbered anew."""
        modules = list(modules)
        for name in self._module_names:
            del self.__dict__[name]
        self._module_names.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._contents())

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        modules = self._contents()
        if not isinstance(index, slice):
            self._name_at(index)
        del modules[index]
        self._replace_contents(modules)

    def insert(self, index: int, module: Module) -> Any:
        """Insert a module before position ``index``."""
        modules = self._contents()
        if not -len(modules) <= index <= len(modules):
            raise IndexError(
                f"insert: index {index} is out of range: {self._get_name()} has {len(modules)} modules"
            )
        if not isinstance(module, Module):
            raise TypeError(f"insert: module must be a Module, got {type(module).__name__}")
        modules.insert(index, module)
        self._replace_contents(modules)
        return self

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{self._get_name()}.extend should be called with an iterable, got {type(modules).__name__}"
            )
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, index: int = -1) -> Module:
        """Take a module out and return it."""
        module: Module = getattr(self, self._name_at(index))
        del self[index]
        return module


class Sequential(_NumberedModules):
    """Modules called one after the other. See ``torch.nn.Sequential``.

    Args:
        *args: modules in order, or one ``dict`` of name -> module.

    Example:
        >>> from fastdl import nn
        >>> len(nn.Sequential(nn.Flatten(), nn.Identity()))
        2
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def forward(self, input: Any) -> Any:
        own = self.__dict__
        layer: Linear | None = None  # waits to see whether its successor can be fused into it
        for name in own["_module_names"]:
            module = own[name]
            if layer is not None:
                activation = fusable_activation(module)
                input = linear(input, layer.weight, layer.bias, activation)
                layer = None
                if activation is not None:
                    continue
            if type(module).forward is LINEAR and is_called_as_usual(module):
                layer = module
            else:
                input = module(input)
        return input if layer is None else layer(input)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            names = list(self._module_names)[index]
            return type(self)({name: self.__dict__[name] for name in names})
        module: Module = self.__dict__[self._name_at(index)]
        return module

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._module_names)
        for name in names[index] if isinstance(index, slice) else [self._name_at(index)]:
            delattr(self, name)
        self._replace_contents(self._contents())  # as in PyTorch, also where names had been given

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(
                f"add operator supports only objects of Sequential class, but {type(other)} is given."
            )
        return Sequential(*self, *other)

    def __iadd__(self, other: Sequential) -> Self:
        if not isinstance(other, Sequential):
            raise ValueError(
                f"add operator supports only objects of Sequential class, but {type(other)} is given."
            )
        return self.extend(other)

    def __mul__(self, times: int) -> Sequential:
        _check_times(times)
        return Sequential(*(self._contents() * times))

    def __rmul__(self, times: int) -> Sequential:
        return self * times

    def __imul__(self, times: int) -> Self:
        _check_times(times)
        return self.extend(self._contents() * (times - 1))


def _check_times(times: Any) -> None:
    if not isinstance(times, int):
        raise TypeError(f"unsupported operand type(s) for *: Sequential and {type(times).__name__}")
    if times <= 0:
        raise ValueError(f"Non-positive multiplication factor {times} for Sequential")


class Container(Module):
    """Modules by name, which :class:`Module` itself holds; deprecated. See ``torch.nn.Container``."""

    def __init__(self, **modules: Any) -> None:
        super().__init__()
        warn_caller("`nn.Container` is deprecated. Subclass `nn.Module` instead.", FutureWarning)
        for name, module in modules.items():
            self.add_module(name, module)


class ModuleList(_NumberedModules):
    """A list of modules whose parameters are registered. See ``torch.nn.ModuleList``.

    Example:
        >>> from fastdl import nn
        >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        >>> len(layers), len(list(layers.parameters()))
        (3, 6)
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return type(self)(self._contents()[index])
        module: Module = self.__dict__[self._name_at(index)]
        return module

    def insert(self, index: int, module: Module) -> None:
        """Insert a module before position ``index``."""
        super().insert(index, module)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """Like Module's, with runs of modules that look the same written once: ``(0-2): 3 x Linear(...)``."""
        runs: list[tuple[int, int, str]] = []
        for i, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], i, text)
            else:
                runs.append((i, i, text))
        if not runs:
            return f"{self._get_name()}()"
        lines = []
        for first, last, text in runs:
            if first == last:
                line = f"({first}): {text}"
            else:
                line = f"({first}-{last}): {last - first + 1} x {text}"
            lines.append(indent_rest(line, 2))
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


def _pairs(cls: str, items: Iterable[Any]) -> Iterator[Any]:
    for i, pair in enumerate(items):
        if not isinstance(pair, Collection):
            raise TypeError(
                f"{cls} update sequence element #{i} should be Iterable; is {type(pair).__name__}"
            )
        if len(pair) != 2:
            raise ValueError(f"{cls} update sequence element #{i} has length {len(pair)}; 2 is required")
        yield pair


class ModuleDict(Module):
    """A dictionary of modules whose parameters are registered; keeps insertion order. See ``torch.nn.ModuleDict``."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]  # type: ignore[return-value]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._module_names)

    def __contains__(self, key: str) -> bool:
        return key in self._module_names

    def clear(self) -> None:
        """Remove everything."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take the module at ``key`` out and return it."""
        return self._modules.pop(key)  # type: ignore[return-value]

    def keys(self) -> Iterable[str]:
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Module]]:
        return self._modules.items()  # type: ignore[return-value]

    def values(self) -> Iterable[Module]:
        return self._modules.values()  # type: ignore[return-value]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add the pairs of a mapping or an iterable of (key, module); existing keys are overwritten."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                "ModuleDict.update should be called with an iterable of key/value pairs, but got "
                + type(modules).__name__
            )
        pairs = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for key, module in _pairs("ModuleDict", pairs):
            self[key] = module


def _as_parameter(value: Any) -> Any:
    """Tensors become parameters when they enter a parameter container; other values stay what they are."""
    if isinstance(value, Tensor) and not isinstance(value, Parameter):
        return Parameter(value, value._data.dtype.kind in DIFFERENTIABLE)
    return value


def _describe(key: Any, value: Any, notation: Callable[[Tensor], Any]) -> str:
    if isinstance(value, Tensor):
        kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
        size = "x".join(str(extent) for extent in value.shape)
        return f"  ({key}): {kind} containing: [{notation(value)} of size {size}]"
    return f"  ({key}): Object of type: {type(value).__name__}"


class ParameterList(Module):
    """A list of parameters that are registered; tensors put in become parameters. See ``torch.nn.ParameterList``."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _name_at(self, index: Any) -> str:
        i = operator.index(index)
        if not -self._size <= i < self._size:
            raise IndexError(f"index {i} is out of range: the ParameterList has {self._size} items")
        return str(i % self._size)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, self._name_at(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._name_at(index), _as_parameter(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, str(i)) for i in range(self._size)])

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Add a parameter (or any value) at the end."""
        setattr(self, str(self._size), _as_parameter(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add parameters (or any values) at the end."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(
                f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}"
            )
        for value in list(values):
            self.append(value)
        return self

    def pop(self, index: int = -1) -> Any:
        """Take an item out and return it."""
        values = list(self)
        value = values.pop(int(self._name_at(index)))
        for i in range(self._size):
            delattr(self, str(i))
        self._size = 0
        self.extend(values)
        return value

    def extra_repr(self) -> str:
        return "\n".join(_describe(i, value, lambda t: t.dtype) for i, value in enumerate(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


class ParameterDict(Module):
    """A dictionary of parameters that are registered; keeps insertion order, but sorts the keys of a plain mapping that
    it is made of or updated with, as PyTorch does. See ``torch.nn.ParameterDict``.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"ParameterDict: keys are strings, got {type(key).__name__}")
        if key not in self._keys and hasattr(self, key):
            raise KeyError(f"attribute '{key}' already exists")
        setattr(self, key, _as_parameter(value))
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def copy(self) -> ParameterDict:
        """A new ParameterDict with the same parameters."""
        return ParameterDict(self.items())

    def clear(self) -> None:
        """Remove everything."""
        for key in list(self._keys):
            del self[key]

    def pop(self, key: str) -> Any:
        """Take the item at ``key`` out and return it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the last item out and return it with its key."""
        if not self._keys:
            raise KeyError("popitem(): the ParameterDict is empty")
        key = next(reversed(self._keys))
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The item at ``key``, or ``default``."""
        return self[key] if key in self._keys else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The item at ``key``; it is set to ``default`` first if there is none."""
        if key not in self._keys:
            self[key] = default
        return self[key]

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new ParameterDict with these keys, all mapped to ``default``."""
        return ParameterDict([(key, default) for key in keys])

    def keys(self) -> Iterable[str]:
        return self._keys.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        return [(key, self[key]) for key in self._keys]

    def values(self) -> Iterable[Any]:
        return [self[key] for key in self._keys]

    def update(self, parameters: Any) -> None:
        """Add (key, parameter) pairs, those of a mapping in the order of its keys; existing keys are overwritten."""
        if not isinstance(parameters, Iterable):
            raise TypeError(
                "ParameterDict.update should be called with an iterable of key/value pairs, but got "
                + type(parameters).__name__
            )
        if isinstance(parameters, (OrderedDict, ParameterDict)):
            parameters = parameters.items()
        elif isinstance(parameters, Mapping):
            parameters = [(key, parameters[key]) for key in sorted(parameters)]
        for key, value in _pairs("ParameterDict", parameters):
            self[key] = value

    def extra_repr(self) -> str:
        return "\n".join(_describe(key, value, lambda t: t.type()) for key, value in self.items())

    def __or__(self, other: ParameterDict) -> ParameterDict:
        result = self.copy()
        result.update(other)
        return result

    def __ior__(self, other: ParameterDict) -> Self:
        self.update(other)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")

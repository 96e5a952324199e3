"""``State``: saving a module's tensors by path and loading them back. See ``torch.nn.Module.state_dict``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastdl.devices import to_device
from fastdl.kernels import array as as_array
from fastdl.kernels.sparse import SparseArray
from fastdl.nn.modules.calls import Calls
from fastdl.nn.parameter import Parameter
from fastdl.tensor import Tensor
from fastdl.utils.hooks import RemovableHandle, add_hook

_EXTRA_STATE_KEY_SUFFIX = "_extra_state"


class _IncompatibleKeys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class _Older:
    """A hook that does not take the module."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, module: Any, *args: Any) -> Any:
        return self.hook(*args)


class _Replacing:
    """A hook of ``state_dict`` that may return another dictionary."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any) -> Any:
        return self.hook(*args)


class State(Calls):
    """The part of ``Module`` behind ``state_dict`` and ``load_state_dict``."""

    _version: int = 1
    """Of the layout of this module's part of a state dict; ``state_dict()._metadata`` notes it."""
    _parameter_names: dict[str, None]
    _buffer_names: dict[str, bool]
    _module_names: dict[str, None]

    def get_extra_state(self) -> Any:
        """What a subclass wants in the state dict beside its tensors; see :meth:`set_extra_state`."""
        raise RuntimeError(f"{self._get_name()}: get_extra_state is not defined")

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` returned; subclasses define both or neither."""
        raise RuntimeError(f"{self._get_name()}: set_extra_state is not defined")

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before ``state_dict``."""
        return add_hook(self._hook_registry("_state_dict_pre_hooks"), hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` after ``state_dict``; it may change it in place."""
        return add_hook(self._hook_registry("_state_dict_hooks"), hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)``
        before this module loads its part."""
        return add_hook(self._hook_registry("_load_state_dict_pre_hooks"), hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` after loading; it may change the lists of keys in place."""
        return add_hook(self._hook_registry("_load_state_dict_post_hooks"), hook)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """The older :meth:`register_state_dict_post_hook`: what the hook returns, if not None, is the result."""
        return self.register_state_dict_post_hook(_Replacing(hook))

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        """The older form of :meth:`register_load_state_dict_pre_hook`: ``hook(state_dict, prefix, ...)``."""
        return self.register_load_state_dict_pre_hook(hook if with_module else _Older(hook))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        own = self.__dict__
        persistent = [name for name, keep in self._buffer_names.items() if keep]
        for name in [*self._parameter_names, *persistent]:
            tensor = own[name]
            if tensor is not None:
                destination[prefix + name] = tensor if keep_vars else tensor.detach()
        if type(self).get_extra_state is not State.get_extra_state:
            destination[prefix + _EXTRA_STATE_KEY_SUFFIX] = self.get_extra_state()

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """All parameters and persistent buffers by path. The tensors share the module's memory."""
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in self.__dict__.get("_state_dict_pre_hooks", {}).values():
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._module_names:
            child = self.__dict__[name]
            if child is not None:
                child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self.__dict__.get("_state_dict_hooks", {}).values():
            replacement = hook(self, destination, prefix, local_metadata)
            if replacement is None:
                continue
            if not isinstance(hook, _Replacing):
                raise RuntimeError("state_dict post-hook must return None")
            destination = replacement
        return destination  # type: ignore[no-any-return]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load this module's own tensors (not those below it); collects errors instead of raising."""
        for hook in self.__dict__.get("_load_state_dict_pre_hooks", {}).values():
            hook(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        own = self.__dict__
        assign = local_metadata.get("assign_to_params_buffers", False)
        persistent = [name for name, keep in self._buffer_names.items() if keep]
        names = [name for name in [*self._parameter_names, *persistent] if own[name] is not None]
        for name in names:
            key = prefix + name
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            value, tensor = state_dict[key], own[name]
            if not (isinstance(value, Tensor) or hasattr(value, "__array__")):
                error_msgs.append(
                    f'While copying the parameter named "{key}", expected a tensor or array from the checkpoint but '
                    f"received {type(value)}"
                )
                continue
            array = value._data if isinstance(value, Tensor) else as_array(value)
            sparse = tensor._data.__class__ is SparseArray
            if sparse != (array.__class__ is SparseArray):
                error_msgs.append(
                    f"layout mismatch for {key}: one of checkpoint and current model is sparse, the other dense."
                )
                continue
            if tensor._data.ndim == 0 and array.shape == (1,):
                array = array[0]
            if array.shape != tensor._data.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a param with shape {array.shape} from checkpoint, the shape in "
                    f"current model is {tensor._data.shape}."
                )
            elif array.dtype.kind in "OSUMm":
                error_msgs.append(
                    f"dtype mismatch for {key}: the checkpoint has {array.dtype}, which holds no numbers."
                )
            elif assign:
                if not isinstance(value, Tensor):
                    value = Tensor._wrap(array)
                if isinstance(tensor, Parameter) and not isinstance(value, Parameter):
                    value = Parameter(value, tensor._requires_grad)
                setattr(self, name, value)
            elif sparse:
                tensor.copy_(value)
            else:
                with np.errstate(invalid="ignore"):  # NaN in an integer is any number, as in PyTorch
                    tensor._data[...] = to_device(array, tensor.device)
                tensor._bump_version()

        extra = prefix + _EXTRA_STATE_KEY_SUFFIX
        if type(self).set_extra_state is not State.set_extra_state:
            if extra in state_dict:
                self.set_extra_state(state_dict[extra])
            elif strict:
                missing_keys.append(extra)
        elif strict and extra in state_dict:
            unexpected_keys.append(extra)
        if strict:
            for key in state_dict:
                if not key.startswith(prefix) or key == extra:
                    continue
                name, dot, _ = key[len(prefix) :].partition(".")
                if name not in (self._module_names if dot else names):
                    unexpected_keys.append(key)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copy tensors by path into this module and those below it.

        Args:
            state_dict: path -> tensor, NumPy array, or anything with ``__array__`` (a torch tensor on the CPU too).
            strict: whether missing and unexpected keys are errors (default True). Wrong shapes always are.
            assign: put the given tensors themselves in place (their dtype too) instead of copying their values.

        Returns:
            a named tuple with ``missing_keys`` and ``unexpected_keys``.

        Raises:
            RuntimeError: lists every missing key, unexpected key and wrong shape at once. What did fit is loaded.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []

        def load(module: State, state: dict[str, Any], prefix: str) -> None:
            metadata = dict(versions.get(prefix[:-1], {}))
            if assign:
                metadata["assign_to_params_buffers"] = True
            module._load_from_state_dict(state, prefix, metadata, True, missing, unexpected, errors)
            for name in module._module_names:
                child = module.__dict__[name]
                if child is not None:
                    below = f"{prefix}{name}."
                    load(child, {k: v for k, v in state.items() if k.startswith(below)}, below)
            for hook in module.__dict__.get("_load_state_dict_post_hooks", {}).values():
                if hook(module, _IncompatibleKeys(missing, unexpected)) is not None:
                    raise RuntimeError(
                        "load_state_dict post-hook must return None; change the lists of keys in place instead"
                    )

        versions = getattr(state_dict, "_metadata", None) or {}
        load(self, dict(state_dict), "")
        if strict:
            for title, keys in (("Unexpected", unexpected), ("Missing", missing)):
                if keys:
                    listed = ", ".join(f'"{key}"' for key in keys)
                    errors.insert(0, f"{title} key(s) in state_dict: {listed}. ")
            prefixes = {key.partition(".")[0] for key in unexpected}
            if (
                missing
                and len(prefixes) == 1
                and {f"{p}.{k}" for p in prefixes for k in missing} <= {*unexpected}
            ):
                errors.append(
                    f"the keys begin with '{prefixes.pop()}.': take it off with key.partition('.')[2]"
                )
        if errors:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {self._get_name()}:\n\t" + "\n\t".join(errors)
            )
        return _IncompatibleKeys(missing, unexpected)

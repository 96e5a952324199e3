"""``Optimizer``: parameter groups, state, and one kernel call per group and step. See ``torch.optim.Optimizer``."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from operator import is_
from typing import Any

import numpy as np

from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.mode import enable_grad
from fastdl.devices import to_device
from fastdl.dtypes import CPU, float32, float64, is_half
from fastdl.errors import warn_caller
from fastdl.kernels import Remembered, capture, fill_with_zeros, on_device, select
from fastdl.kernels import array as as_array
from fastdl.kernels.sparse import SparseArray, is_sparse
from fastdl.ops.arrays import cast, zeros
from fastdl.ops.complex import as_real
from fastdl.tensor import Tensor
from fastdl.utils.hooks import RemovableHandle, add_hook

Group = dict[str, Any]
ParamsT = Iterable[Tensor] | Iterable[Group] | Iterable[tuple[str, Tensor]]
"""What an optimizer takes, for the annotations of programs."""
COUNTS = ("step", "mu_product", "eta", "mu")  # state that is one number, which depends on the count of steps


class _Required:
    """Stands in ``defaults`` for an option that every parameter group has to give."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


def _widened(array: Any) -> Any:
    return pooled_copy(array, float32) if is_half(array.dtype) else array


class GroupCache:
    """What one group's last step worked on: rebuilt only when the parameters with gradients change."""

    def __init__(self, params: list[Tensor], names: tuple[str, ...]) -> None:
        self.params = params
        self.names = names
        self.columns: list[list[Tensor]] = []  # one list of state tensors per name
        self.fresh: list[bool] = []  # which parameters' state has just been made; empty if none
        self._arrays = Remembered([])

    def remembered(self, arrays: list[Any]) -> list[Any]:
        """The parameters' arrays, in the same list as before if they are the same."""
        if len(self._arrays) != len(arrays) or not all(map(is_, self._arrays, arrays)):
            self._arrays = Remembered(arrays)
        return self._arrays


class Optimizer:
    """Base class: holds the parameters in groups, each with its options, and the state of every parameter.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts with ``"params"`` and the options of that group.
        defaults: options of groups that do not set them.

    A subclass lists the state it keeps per parameter (``_state_names``) and updates a group with one call
    (``_update``); or, like a PyTorch optimizer, it overrides ``step``.
    """

    takes_complex = True
    """Whether parameters may be complex."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                "but got a single Tensor; pass [tensor]"
            )
        if not isinstance(params, Iterable):
            hint = "; pass its parameters()" if hasattr(params, "parameters") else ""
            raise TypeError(
                f"params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {type(params).__name__}{hint}"
            )
        if defaults.get("differentiable"):
            raise ValueError(f"{type(self).__name__}: differentiable=True is not supported")
        if defaults.get("foreach") and defaults.get("fused"):
            raise RuntimeError(f"{type(self).__name__}: foreach and fused cannot be True together")
        self.defaults = defaults
        self._state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self._cache: dict[int, GroupCache] = {}
        self._step_pre_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._step_post_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._state_dict_pre_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._state_dict_post_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._load_pre_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._load_post_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._stepped = False  # for learning-rate schedulers
        self.param_groups: list[Group] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def state(self) -> defaultdict[Any, dict[str, Any]]:
        """Parameter -> name -> value. To replace entries, come through this property again: it is where the
        optimizer notices that they may have changed."""
        self._cache.clear()
        return self._state

    @state.setter
    def state(self, value: dict[Any, dict[str, Any]]) -> None:
        self._cache = {}  # also for wrappers of optimizers that never call __init__
        self._state = defaultdict(dict, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by copies and :meth:`load_state_dict`, too: subclasses fill in options here."""
        for name, value in state.items():
            setattr(self, name, value)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: a dict with ``"params"`` and any options that differ from the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in "
                "sets will change between runs. Please use a list instead."
            )
        params = list(params)
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) != len(params):
                raise ValueError(
                    "all optimizer params should be with/without names. Some param names are missing"
                )
            param_group["param_names"] = names
            params = [p[1] for p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(
                    f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}"
                )
            if not self.takes_complex and p._data.dtype.kind == "c":
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
            if p._node is not None:
                raise ValueError("can't optimize a non-leaf Tensor")
        param_group["params"] = params
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise ValueError(
                    f"parameter group didn't specify a value of required optimization parameter {name}"
                )
            param_group.setdefault(name, default)
        ids = {id(p) for p in params}
        if len(ids) != len(params):
            warn_caller("optimizer contains a parameter group with duplicate parameters")
        for group in self.param_groups:
            if ("param_names" in group) != ("param_names" in param_group):
                named = "with names" if "param_names" in param_group else "without names"
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param group "
                    f"{named} to the optimizer"
                )
            if not ids.isdisjoint(id(p) for p in group["params"]):
                raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    # Stepping ----------------------------------------------------------------------------------

    def _state_names(self, group: Group) -> tuple[str, ...]:
        """Names of the state tensors that each parameter of the group has."""
        raise NotImplementedError(f"{type(self).__name__} defines neither step nor _state_names")

    def _new_state(self, name: str, param: Tensor, group: Group) -> Tensor:
        """The first value of a parameter's state: 0 for what is counted, else zeros like the parameter.

        Counts are in the CPU's memory, so that no step waits for a GPU, unless the group is ``capturable``.
        """
        if name in COUNTS:
            return Tensor._wrap(zeros((), float32, param._data if group.get("capturable") else None))
        return Tensor._wrap(zeros(param._data.shape, param._data.dtype, param._data))

    def _update(
        self,
        kernels: Any,
        group: Group,
        arrays: list[Any],
        grads: list[Any],
        state: list[Any],
        cached: GroupCache,
    ) -> None:
        """Update the arrays in place. ``state`` has a list of arrays for each of ``_state_names``."""
        raise NotImplementedError

    def _fill_cache(self, group: Group, params: list[Tensor], names: tuple[str, ...]) -> GroupCache:
        cached = GroupCache(params, names)
        if names:
            fresh = []
            for p in params:
                state = self._state[p]
                fresh.append(any(name not in state for name in names))
                for name in names:
                    if name not in state:
                        state[name] = self._new_state(name, p, group)
            cached.fresh = fresh if True in fresh else []
            cached.columns = [[self._state[p][name] for p in params] for name in names]
        return cached

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient; ``closure`` (if given) computes the loss, which is returned."""
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        for hook in list(self._step_pre_hooks.values()):
            changed = hook(self, args, {})
            if changed is not None:
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(
                        f"step pre-hook must return None or a tuple of (new_args, new_kwargs), got {changed!r}"
                    )
                args = changed[0]
                closure = args[1] if len(args) > 1 else changed[1].get("closure")
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._stepped = True
        for index, group in enumerate(self.param_groups):
            self._step_group(index, group)
        for hook in list(self._step_post_hooks.values()):
            hook(self, args, {})
        return loss

    def _step_group(self, index: int, group: Group) -> None:
        """Update the parameters of one group that have a gradient, all with one call of :meth:`_update`."""
        params = group["params"]
        try:
            grads = [p._grad._data for p in params]
        except AttributeError:  # some have no gradient
            params = [p for p in params if p._grad is not None]
            grads = [p._grad._data for p in params]
        if SparseArray.made and SparseArray in [grad.__class__ for grad in grads]:
            params = self._dense_after_sparse(group, params)
            grads = [p._grad._data for p in params]  # type: ignore[union-attr]
        if not params:
            return
        names = self._state_names(group)
        if capture.active and "step" in names and not group.get("capturable"):
            self._refuse_recording(group)
        cached = self._cache.get(index)
        if (
            cached is None
            or cached.names != names
            or len(cached.params) != len(params)
            or not all(map(is_, cached.params, params))
        ):
            self._cache[index] = cached = self._fill_cache(group, list(params), names)
        state = [[t._data for t in column] for column in cached.columns]
        arrays = [p._data for p in params]
        other = [a for a in arrays if a.dtype is not float32 and a.dtype is not float64]
        if "c" in [array.dtype.kind for array in other]:  # steps see real and imaginary parts
            arrays, grads, *state = [[as_real(a) for a in column] for column in (arrays, grads, *state)]
        there = on_device(arrays[0])
        if there:
            arrays = cached.remembered(arrays)
        if 2 in [array.itemsize for array in other] and not there:
            self._update_in_float32(group, arrays, grads, state, cached)
        else:
            self._update(select(grads[0]), group, arrays, grads, state, cached)
        if cached.fresh:
            cached.fresh = []
        for p in params:
            cell = p._counter
            if cell is None:
                p._counter = [1]
            else:
                cell[0] += 1

    def _refuse_recording(self, group: Group) -> None:
        remedy = "Pass capturable=True" if "capturable" in group else "Use Adam(capturable=True) or SGD"
        raise RuntimeError(
            f"{type(self).__name__}: a step cannot be recorded in a CUDA graph as long as its count is in the CPU's "
            f"memory: every replay would be the same step. {remedy}"
        )

    def _dense_after_sparse(self, group: Group, params: list[Tensor]) -> list[Tensor]:
        """The parameters with dense gradients, after a step of the others."""
        for p in params:
            if p._grad._data.__class__ is SparseArray:  # type: ignore[union-attr]
                self._update_sparse(group, p, p._grad)  # type: ignore[arg-type]
        return [p for p in params if p._grad._data.__class__ is not SparseArray]  # type: ignore[union-attr]

    def _update_sparse(self, group: Group, param: Tensor, grad: Tensor) -> None:
        """Update one parameter by a sparse gradient."""
        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")

    def _update_in_float32(
        self, group: Group, arrays: list[Any], grads: list[Any], state: list[list[Any]], cached: GroupCache
    ) -> None:
        """Half precision on the CPU: parameters and state are converted, updated and rounded once."""
        kept = [arrays, *state]
        wide = [[_widened(array) for array in column] for column in kept]
        gradients = [_widened(grad) for grad in grads]
        self._update(select(grads[0]), group, wide[0], gradients, wide[1:], cached)
        for column, results in zip(kept, wide, strict=True):
            for array, result in zip(column, results, strict=True):
                if result is not array:
                    assign(array, cast(result, array.dtype))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros if ``set_to_none`` is False."""
        kept = []
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p._grad = None
                elif p._grad is not None:
                    p.grad = p.grad.detach()
                    kept.append(p.grad._data)
        fill_with_zeros(kept)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; it may return replaced ``(args, kwargs)``."""
        return add_hook(self._step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return add_hook(self._step_post_hooks, hook)

    def register_state_dict_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` before :meth:`state_dict`."""
        return add_hook(self._state_dict_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` after :meth:`state_dict`; it may return another one."""
        return add_hook(self._state_dict_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before :meth:`load_state_dict`; it may return another one."""
        return add_hook(self._load_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` after :meth:`load_state_dict`."""
        return add_hook(self._load_post_hooks, hook, prepend)

    # Saving and loading ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {index: {name: value}}, "param_groups": [...]}``, parameters numbered in order.

        The tensors share the optimizer's memory.
        """
        for hook in list(self._state_dict_pre_hooks.values()):
            hook(self)
        numbers: dict[int, int] = {}
        for group in self.param_groups:
            for p in group["params"]:
                numbers.setdefault(id(p), len(numbers))
        groups = [
            {
                **{k: v for k, v in group.items() if k != "params"},
                "params": [numbers[id(p)] for p in group["params"]],
            }
            for group in self.param_groups
        ]
        state = {numbers[id(k)] if isinstance(k, Tensor) else k: dict(v) for k, v in self._state.items()}
        result = {"state": state, "param_groups": groups}
        for hook in list(self._state_dict_post_hooks.values()):
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; tensors are copied, to the dtype of their parameter.

        Raises:
            ValueError: if the number of groups, or of parameters in one, differs.
        """
        for hook in list(self._load_pre_hooks.values()):
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise ValueError(
                "load_state_dict: expected an optimizer's state dict with 'state' and 'param_groups'"
            )
        saved = [
            {k: deepcopy(v) for k, v in group.items() if k != "params"}
            for group in state_dict["param_groups"]
        ]
        saved_params = [list(group["params"]) for group in state_dict["param_groups"]]
        if len(saved) != len(self.param_groups):
            raise ValueError(
                f"loaded state dict has a different number of parameter groups: {len(saved)} instead of "
                f"{len(self.param_groups)}"
            )
        params: dict[Any, Tensor] = {}
        for i, (group, numbers) in enumerate(zip(self.param_groups, saved_params, strict=True)):
            if len(group["params"]) != len(numbers):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                    f"group {i} has {len(numbers)} instead of {len(group['params'])} parameters"
                )
            params.update(zip(numbers, group["params"], strict=True))
        capturable = {
            p
            for options, group in zip(saved, self.param_groups, strict=True)
            if options.get("capturable", group.get("capturable"))
            for p in group["params"]
        }
        own = type(self).step is Optimizer.step
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for number, values in state_dict["state"].items():
            p = params.get(number)
            if p is None:
                state[number] = values
            else:
                where = CPU if p not in capturable else p.device
                state[p] = {name: _load_value(name, v, p, where, own) for name, v in values.items()}
        for group, options in zip(self.param_groups, saved, strict=True):
            names = group.get("param_names")
            kept = group["params"]
            group.clear()
            group["params"] = kept
            if names is not None:
                group["param_names"] = names
            group.update(options)
            for name, default in self.defaults.items():
                group.setdefault(name, default)
        self.__setstate__({"state": state, "param_groups": self.param_groups})
        for hook in list(self._load_post_hooks.values()):
            hook(self)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines += ["", f"Parameter Group {i}"] if i else [f"Parameter Group {i}"]
            lines.extend(f"    {key}: {group[key]}" for key in sorted(group) if key != "params")
        return "\n".join([*lines, ")"])


def _load_value(name: str, value: Any, param: Tensor, where: Any, own: bool) -> Any:
    """A copy of a saved value: counts as they are but on ``where``, other tensors like the parameter."""
    if is_sparse(value):
        return value.to(param.device, param._data.dtype, copy=True)
    if isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape")):
        count = name in COUNTS
        array = to_device(
            value._data if isinstance(value, Tensor) else as_array(value), where if count else param.device
        )
        kept = None if where is CPU else float32
        return Tensor._wrap(pooled_copy(array, kept if count else param._data.dtype))
    if own and name == "step" and isinstance(value, (int, float)):  # checkpoints of older versions of PyTorch
        return Tensor._wrap(to_device(np.full((), value, float32), where))
    return deepcopy(value)


def check_lr(lr: Any) -> None:
    """Raise ValueError for a rate that is negative, NaN or several."""
    if isinstance(lr, Tensor) and lr._data.size != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not float(lr) >= 0:
        raise ValueError(f"Learning rate should be >= 0 but is: {lr}")


def check_options(**values: Any) -> None:
    """Raise ValueError for options that no optimizer accepts: negative or NaN ones, betas outside [0, 1)."""
    for name, value in values.items():
        if isinstance(value, str):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if name == "betas":
            if len({isinstance(beta, Tensor) for beta in value}) > 1:
                raise ValueError(f"betas must be either both floats or both Tensors, got {value}")
            for i, beta in enumerate(value):
                if not 0.0 <= float(beta) < 1.0:
                    raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
            continue
        if isinstance(value, Tensor) and value._data.size != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        if not float(value) >= 0.0:
            label = {"lr": "learning rate", "eps": "epsilon value"}.get(name, f"{name} value")
            raise ValueError(f"Invalid {label}: {value}")

"""Pruning: weights multiplied by a mask of zeros and ones; see ``torch.nn.utils.prune``.

The parameter is kept as ``name_orig``, the mask as the buffer ``name_mask``; before each forward ``name`` becomes their
product. Pruning again removes from what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.nn.modules.module import Module
from fastdl.ops.sampling import randperm
from fastdl.tensor import Tensor

__all__ = [
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

M = TypeVar("M", bound=Module)


class _Hook:
    """Computes the pruned tensor before each forward."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: Module, args: Any) -> None:
        original, mask = getattr(module, f"{self.name}_orig"), getattr(module, f"{self.name}_mask")
        setattr(module, self.name, original * mask)


def _count(amount: float, size: int) -> int:
    """How many of ``size``: a fraction, or a number of them."""
    if isinstance(amount, float):
        if not 0 <= amount <= 1:
            raise ValueError(
                f"amount={amount} should be a float between 0.0 and 1.0 or a non-negative integer"
            )
        return round(amount * size)
    if amount < 0 or amount > size:
        raise ValueError(f"amount={amount} should be between 0 and the number of parameters to prune, {size}")
    return amount


def _mask(module: Module, name: str) -> Any:
    """The present mask, all ones before the first pruning."""
    if f"{name}_mask" in module._buffer_names:
        return getattr(module, f"{name}_mask")._data.copy()
    return np.ones_like(module.get_parameter(name)._data)


def _importance(module: Module, name: str, scores: Tensor | None) -> Any:
    value = getattr(module, name) if scores is None else scores
    return value._data


def _apply(module: M, name: str, mask: Any) -> M:
    mask = Tensor._wrap(pooled_copy(mask))
    if f"{name}_mask" in module._buffer_names:
        setattr(module, f"{name}_mask", mask)
    else:
        original = module.get_parameter(name)
        if mask.shape != original.shape:
            raise ValueError(
                f"prune: the mask must have the parameter's shape {original.shape}, got {mask.shape}"
            )
        delattr(module, name)
        module.register_parameter(f"{name}_orig", original)
        module.register_buffer(f"{name}_mask", mask)
        module.register_forward_pre_hook(_Hook(name))
    _Hook(name)(module, ())
    return module


def identity(module: M, name: str) -> M:
    """Put the mask in place, all ones. See ``torch.nn.utils.prune.identity``."""
    return _apply(module, name, _mask(module, name))


def custom_from_mask(module: M, name: str, mask: Tensor) -> M:
    """Prune where ``mask`` is 0. See ``torch.nn.utils.prune.custom_from_mask``."""
    before = _mask(module, name)
    return _apply(module, name, before * mask._data.astype(before.dtype))


def _unstructured(module: M, name: str, amount: float, order: Callable[[Any], Any]) -> M:
    mask = _mask(module, name).reshape(-1)
    left = np.flatnonzero(mask)
    count = _count(amount, left.size)
    mask[left[order(left)[:count]]] = 0
    return _apply(module, name, mask.reshape(_mask(module, name).shape))


def l1_unstructured(module: M, name: str, amount: float, importance_scores: Tensor | None = None) -> M:
    """Prune the elements of the smallest absolute values.

    Args:
        module: the layer.
        name: which of its parameters.
        amount: how many: a number, or a fraction of those left.
        importance_scores: values to rank by, in place of the parameter's.

    See ``torch.nn.utils.prune.l1_unstructured``.

    Example:
        >>> import fastdl
        >>> layer = l1_unstructured(fastdl.nn.Linear(4, 5), "weight", amount=0.5)
        >>> int((layer.weight == 0).sum()), list(layer.state_dict())
        (10, ['bias', 'weight_orig', 'weight_mask'])
    """
    scores = np.abs(_importance(module, name, importance_scores)).reshape(-1)
    return _unstructured(module, name, amount, lambda left: np.argsort(scores[left], kind="stable"))


def random_unstructured(module: M, name: str, amount: float) -> M:
    """Prune elements drawn at random. See ``torch.nn.utils.prune.random_unstructured``."""
    return _unstructured(module, name, amount, lambda left: randperm(left.size)._data)


def _structured(module: M, name: str, amount: float, dim: int, order: Callable[[Any, Any], Any]) -> M:
    mask = _mask(module, name)
    if mask.ndim < 2:
        raise ValueError(f"prune: structured pruning needs at least two dimensions, got shape {mask.shape}")
    slices = np.moveaxis(mask, dim, 0)
    left = np.flatnonzero(slices.reshape(slices.shape[0], -1).any(axis=1))
    slices[left[order(left, dim)[: _count(amount, left.size)]]] = 0
    return _apply(module, name, mask)


def ln_structured(
    module: M, name: str, amount: float, n: float, dim: int, importance_scores: Tensor | None = None
) -> M:
    """Prune the slices along ``dim`` of the smallest n-norms. See ``torch.nn.utils.prune.ln_structured``."""
    scores = np.abs(_importance(module, name, importance_scores))

    def order(left: Any, dim: int) -> Any:
        rows = np.moveaxis(scores, dim, 0)[left].reshape(left.size, -1)
        return np.argsort(np.linalg.norm(rows, ord=n, axis=1), kind="stable")

    return _structured(module, name, amount, dim, order)


def random_structured(module: M, name: str, amount: float, dim: int) -> M:
    """Prune slices along ``dim`` drawn at random. See ``torch.nn.utils.prune.random_structured``."""
    return _structured(module, name, amount, dim, lambda left, _: randperm(left.size)._data)


def global_unstructured(
    parameters: Iterable[tuple[Module, str]], pruning_method: Any, **options: Any
) -> None:
    """Prune the smallest (:func:`l1_unstructured`) or random elements of several parameters, ranked together.

    Args:
        parameters: pairs of a module and a parameter's name.
        pruning_method: :func:`l1_unstructured` or :func:`random_unstructured`, or torch's classes' names
            (``L1Unstructured``, ``RandomUnstructured``).
        options: ``amount``.

    See ``torch.nn.utils.prune.global_unstructured``.
    """
    pairs = list(parameters)
    masks = [_mask(module, name) for module, name in pairs]
    whole = np.concatenate([m.reshape(-1) for m in masks])
    left = np.flatnonzero(whole)
    count = _count(options["amount"], left.size)
    if pruning_method is l1_unstructured:
        values = np.concatenate([np.abs(getattr(m, n)._data).reshape(-1) for m, n in pairs])
        order = np.argsort(values[left], kind="stable")
    elif pruning_method is random_unstructured:
        order = randperm(left.size)._data
    else:
        raise TypeError("global_unstructured: pruning_method must be L1Unstructured or RandomUnstructured")
    whole[left[order[:count]]] = 0
    parts = np.split(whole, np.cumsum([m.size for m in masks])[:-1])
    for (module, name), mask, part in zip(pairs, masks, parts, strict=True):
        _apply(module, name, part.reshape(mask.shape))


L1Unstructured, RandomUnstructured = l1_unstructured, random_unstructured


def is_pruned(module: Module) -> bool:
    """Whether the module, or one below it, is pruned. See ``torch.nn.utils.prune.is_pruned``."""
    return any(
        [isinstance(e.function, _Hook) for m in module.modules() for e in m._forward_pre_hooks.values()]
    )


def remove(module: M, name: str) -> M:
    """Make the pruned tensor the parameter; the zeros stay, the mask goes. See ``torch.nn.utils.prune.remove``."""
    for key, entry in list(module._forward_pre_hooks.items()):
        hook = entry.function
        if isinstance(hook, _Hook) and hook.name == name:
            original = getattr(module, f"{name}_orig")
            original._data = original._data * getattr(module, f"{name}_mask")._data
            for attribute in (name, f"{name}_orig", f"{name}_mask"):
                delattr(module, attribute)
            module.register_parameter(name, original)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")

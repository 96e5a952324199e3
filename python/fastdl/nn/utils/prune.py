"""Pruning: weights multiplied by a mask of zeros and ones; see ``torch.nn.utils.prune``.

The parameter is kept as ``name_orig``, the mask as the buffer ``name_mask``; before each forward ``name`` becomes their
product. Pruning again removes from what is left. What is removed is a method's choice: a subclass of
:class:`BasePruningMethod` with ``compute_mask``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from fastdl.autograd.mode import no_grad
from fastdl.creation import ones_like
from fastdl.matrices import norm
from fastdl.nn.modules.module import Module
from fastdl.ops.join import cat
from fastdl.ops.order import topk
from fastdl.ops.sampling import rand, rand_like
from fastdl.tensor import Tensor

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
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


class BasePruningMethod(ABC):
    """A way to choose what is pruned; a hook of the pruned module that computes the tensor before each forward.

    Subclasses say by ``PRUNING_TYPE`` what they choose from after an earlier pruning: ``"unstructured"`` from the
    elements left, in one dimension; ``"structured"`` from the slices along ``self.dim`` of which something is left;
    ``"global"`` from all.

    See ``torch.nn.utils.prune.BasePruningMethod``.

    Example:
        >>> import fastdl
        >>> class EverySecond(BasePruningMethod):
        ...     PRUNING_TYPE = "unstructured"
        ...     def compute_mask(self, t, default_mask):
        ...         mask = default_mask.clone()
        ...         mask.view(-1)[::2] = 0
        ...         return mask
        >>> layer = fastdl.nn.Linear(4, 5)
        >>> method = EverySecond.apply(layer, "weight")
        >>> int((layer.weight == 0).sum())
        10
    """

    PRUNING_TYPE: ClassVar[str]
    _tensor_name: str

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask, of ``t``'s shape, after this pruning.

        Args:
            t: what to rank by: the parameter or importance scores.
            default_mask: the mask before.
        """

    def apply_mask(self, module: Module) -> Tensor:
        """The pruned tensor: mask times original."""
        name = self._tensor_name
        original: Tensor = getattr(module, f"{name}_orig")
        mask: Tensor = getattr(module, f"{name}_mask")
        return mask.to(original.dtype) * original

    @classmethod
    def apply(
        cls, module: Module, name: str, *args: Any, importance_scores: Tensor | None = None, **kwargs: Any
    ) -> BasePruningMethod:
        """Prune a parameter, once more where it is pruned already, and keep it so before each forward.

        Returns the hook: the method, or the :class:`PruningContainer` of it and those before.

        Args:
            module: the layer.
            name: which of its parameters.
            args, kwargs: what the method is made of.
            importance_scores: values to rank by, of the parameter's shape, in place of the parameter's.
        """
        method = cls(*args, **kwargs)
        method._tensor_name = name
        value = getattr(module, name)
        if importance_scores is not None and importance_scores.shape != value.shape:
            raise ValueError(
                f"prune: importance_scores must have the shape of {name}, {tuple(value.shape)}, "
                f"got {tuple(importance_scores.shape)}"
            )
        key = _find(module, name)
        if key is None:
            hook: BasePruningMethod = method
            before = ones_like(value)
        else:
            earlier: Any = module._forward_pre_hooks[key]
            hook = earlier if isinstance(earlier, PruningContainer) else PruningContainer(earlier)
            before = getattr(module, f"{name}_mask").detach().clone()
        with no_grad():
            scores = value if importance_scores is None else importance_scores
            if isinstance(hook, PruningContainer):
                mask = hook.combine(method, scores.detach(), before)
                hook.add_pruning_method(method)
            else:
                mask = method.compute_mask(scores.detach(), default_mask=before)
        if mask.shape != value.shape:
            raise ValueError(
                f"prune: the mask must have the shape of {name}, {tuple(value.shape)}, got {tuple(mask.shape)}"
            )
        if key is None:
            delattr(module, name)
            module.register_parameter(f"{name}_orig", value)
        else:
            del module._forward_pre_hooks[key]
        module.register_buffer(f"{name}_mask", mask)
        hook(module, ())
        module.register_forward_pre_hook(hook)
        return hook

    def prune(
        self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None
    ) -> Tensor:
        """``t`` pruned, without a module: mask times ``t``."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise ValueError(
                f"prune: importance_scores must have t's shape {tuple(t.shape)}, got {tuple(scores.shape)}"
            )
        return t * self.compute_mask(
            scores, default_mask=ones_like(t) if default_mask is None else default_mask
        )

    def remove(self, module: Module) -> None:
        """Make the pruned tensor the parameter; the zeros stay, the mask goes."""
        name = self._tensor_name
        with no_grad():
            pruned = self.apply_mask(module)
        original = module.get_parameter(f"{name}_orig")
        original.data = pruned
        for attribute in (name, f"{name}_orig", f"{name}_mask"):
            delattr(module, attribute)
        module.register_parameter(name, original)


class PruningContainer(BasePruningMethod):
    """Several prunings of one tensor, the hook of a module that was pruned more than once.

    See ``torch.nn.utils.prune.PruningContainer``.
    """

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        methods = args[0] if len(args) == 1 and isinstance(args[0], Iterable) else args
        for method in methods:
            if not hasattr(self, "_tensor_name"):
                self._tensor_name = method._tensor_name
            self.add_pruning_method(method)

    def add_pruning_method(self, method: Any) -> None:
        """Put one more at the end; it must be a method for the same tensor."""
        if not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if self._tensor_name != method._tensor_name:
            raise ValueError(
                f"PruningContainer: prunes {self._tensor_name!r}, the method that was added {method._tensor_name!r}"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Any:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask after the last method, which chooses from what ``default_mask`` left."""
        return self.combine(self._pruning_methods[-1], t, default_mask)

    @staticmethod
    def combine(method: BasePruningMethod, t: Tensor, mask: Tensor) -> Tensor:
        """``mask`` after a pruning by ``method``, which is shown what its ``PRUNING_TYPE`` says."""
        left: Any
        if method.PRUNING_TYPE == "unstructured":
            left = mask == 1
        elif method.PRUNING_TYPE == "structured":
            dim = method.dim % t.dim()  # type: ignore[attr-defined]  # structured methods have it
            others = [d for d in range(t.dim()) if d != dim]
            left = (slice(None),) * dim + ((mask != 0).sum(others) != 0,)
        elif method.PRUNING_TYPE == "global":
            left = ...
        else:
            raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")
        after = mask.clone()
        after[left] = method.compute_mask(t[left], default_mask=mask[left]).to(mask.dtype)
        return after


def _find(module: Module, name: str) -> int | None:
    """The key of the hook that prunes a tensor of ``module``."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return key
    return None


class _Amount(BasePruningMethod):
    """What the methods share that prune a number, or a fraction, of what they are shown."""

    def __init__(self, amount: float) -> None:
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
        if amount < 0 or (isinstance(amount, float) and amount > 1):
            raise ValueError(
                f"amount={amount} should be a float between 0.0 and 1.0 or a non-negative integer"
            )
        self.amount = amount

    def _count(self, size: int) -> int:
        """How many of ``size``."""
        if isinstance(self.amount, float):
            return round(self.amount * size)
        if self.amount > size:
            raise ValueError(
                f"amount={self.amount} should be between 0 and the number of parameters to prune, {size}"
            )
        return self.amount


class _Unstructured(_Amount):
    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask, count = default_mask.clone(), self._count(t.numel())
        if count:
            mask.view(-1)[topk(self._ranks(t).reshape(-1), count, largest=False).indices] = 0
        return mask

    def _ranks(self, t: Tensor) -> Tensor:
        """The elements with the least of these go."""
        raise NotImplementedError


class RandomUnstructured(_Unstructured):
    """Elements drawn at random. ``amount``: a number of them or a fraction of those left."""

    def _ranks(self, t: Tensor) -> Tensor:
        return rand_like(t)


class L1Unstructured(_Unstructured):
    """The elements of the smallest absolute values. ``amount``: a number of them or a fraction of those left."""

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: Module, name: str, amount: float, importance_scores: Tensor | None = None
    ) -> BasePruningMethod:
        """:meth:`BasePruningMethod.apply` with what this method is made of."""
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)

    def _ranks(self, t: Tensor) -> Tensor:
        return t.abs()


class _Structured(_Amount):
    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if t.dim() < 2:
            raise ValueError(
                f"prune: structured pruning needs at least two dimensions, got shape {tuple(t.shape)}"
            )
        dim, size = self.dim % t.dim(), t.shape[self.dim]
        mask, count = default_mask.clone(), self._count(size)
        if count:
            mask.transpose(0, dim)[topk(self._ranks(t, dim), count, largest=False).indices] = 0
        return mask

    def _ranks(self, t: Tensor, dim: int) -> Tensor:
        """The slices with the least of these go."""
        raise NotImplementedError


class RandomStructured(_Structured):
    """Slices along ``dim`` drawn at random. ``amount``: a number of them or a fraction of those left."""

    def _ranks(self, t: Tensor, dim: int) -> Tensor:
        return rand(t.shape[dim], device=t.device)


class LnStructured(_Structured):
    """The slices along ``dim`` of the smallest ``n``-norms. ``amount``: a number or a fraction of those left."""

    def __init__(self, amount: float, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: Module,
        name: str,
        amount: float,
        n: Any,
        dim: int,
        importance_scores: Tensor | None = None,
    ) -> BasePruningMethod:
        """:meth:`BasePruningMethod.apply` with what this method is made of."""
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)

    def _ranks(self, t: Tensor, dim: int) -> Tensor:
        return norm(t, self.n, [d for d in range(t.dim()) if d != dim])  # "nuc" needs two, else an error


class Identity(BasePruningMethod):
    """Nothing: the mask is put in place, all ones."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


class CustomFromMask(BasePruningMethod):
    """Where ``mask`` is 0."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if default_mask.shape != self.mask.shape:
            raise ValueError(
                f"prune: the mask must have the parameter's shape {tuple(default_mask.shape)}, "
                f"got {tuple(self.mask.shape)}"
            )
        return default_mask * self.mask.to(dtype=default_mask.dtype)


def identity(module: M, name: str) -> M:
    """Put the mask in place, all ones. See ``torch.nn.utils.prune.identity``."""
    Identity.apply(module, name)
    return module


def custom_from_mask(module: M, name: str, mask: Tensor) -> M:
    """Prune where ``mask`` is 0. See ``torch.nn.utils.prune.custom_from_mask``."""
    CustomFromMask.apply(module, name, mask)
    return module


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
    L1Unstructured.apply(module, name, amount, importance_scores)
    return module


def random_unstructured(module: M, name: str, amount: float) -> M:
    """Prune elements drawn at random. See ``torch.nn.utils.prune.random_unstructured``."""
    RandomUnstructured.apply(module, name, amount)
    return module


def ln_structured(
    module: M,
    name: str,
    amount: float,
    n: float | Literal["fro", "nuc"],
    dim: int,
    importance_scores: Tensor | None = None,
) -> M:
    """Prune the slices along ``dim`` of the smallest n-norms. See ``torch.nn.utils.prune.ln_structured``."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores)
    return module


def random_structured(module: M, name: str, amount: float, dim: int) -> M:
    """Prune slices along ``dim`` drawn at random. See ``torch.nn.utils.prune.random_structured``."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: Mapping[tuple[Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune elements of several parameters, chosen from all of them together.

    Args:
        parameters: pairs of a module and a parameter's name.
        pruning_method: a class of the unstructured methods, such as :class:`L1Unstructured`.
        importance_scores: values to rank by, for some of the pairs.
        kwargs: what the method is made of: ``amount``.

    See ``torch.nn.utils.prune.global_unstructured``.
    """
    pairs, given = list(parameters), importance_scores or {}
    if not (isinstance(pruning_method, type) and issubclass(pruning_method, BasePruningMethod)):
        raise TypeError(
            f"global_unstructured: pruning_method must be a class such as L1Unstructured, got {pruning_method!r}"
        )
    if not isinstance(given, Mapping):
        raise TypeError(f"global_unstructured: importance_scores must be a dict, got {type(given).__name__}")
    if pruning_method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method '
            f"{pruning_method} of type {pruning_method.PRUNING_TYPE}"
        )
    with no_grad():
        values = [getattr(module, name) for module, name in pairs]
        scores = [given.get(pair, value) for pair, value in zip(pairs, values, strict=True)]
        masks = [getattr(m, f"{n}_mask", ones_like(v)) for (m, n), v in zip(pairs, values, strict=True)]
        mask = PruningContainer.combine(
            pruning_method(**kwargs),
            cat([score.detach().reshape(-1) for score in scores]),
            cat([mask.reshape(-1) for mask in masks]),
        )
        parts = mask.split([value.numel() for value in values])
    for (module, name), part, value in zip(pairs, parts, values, strict=True):
        custom_from_mask(module, name, part.view(value.shape))


def is_pruned(module: Module) -> bool:
    """Whether the module, or one below it, is pruned. See ``torch.nn.utils.prune.is_pruned``."""
    hooks = [hook for m in module.modules() for hook in m._forward_pre_hooks.values()]
    return any([isinstance(hook, BasePruningMethod) for hook in hooks])


def remove(module: M, name: str) -> M:
    """Make the pruned tensor the parameter; the zeros stay, the mask goes. See ``torch.nn.utils.prune.remove``."""
    key = _find(module, name)
    if key is None:
        raise ValueError(
            f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed"
        )
    hook: Any = module._forward_pre_hooks.pop(key)
    hook.remove(module)
    return module

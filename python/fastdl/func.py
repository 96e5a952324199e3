"""Functions of modules; see ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastdl.nn.modules.module import Module
from fastdl.ops.parts import select_dim
from fastdl.ops.shape import stack
from fastdl.tensor import Tensor

__all__ = ["functional_call", "vmap"]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | tuple[Mapping[str, Any], ...],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    strict: bool = False,
) -> Any:
    """``module(*args, **kwargs)`` with other tensors in the places of its parameters and buffers.

    Args:
        parameter_and_buffer_dicts: name -> tensor (the names of ``state_dict``), or a tuple of such dictionaries.
        args: a tuple of arguments, or the only argument.
        strict: refuse unless all parameters and buffers are given.

    See ``torch.func.functional_call``.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.Linear(1, 1, bias=False)
        >>> fastdl.func.functional_call(layer, {"weight": fastdl.tensor([[3.0]])}, fastdl.ones(1)).item()
        3.0
    """
    given = parameter_and_buffer_dicts
    values: dict[str, Any] = {}
    for part in (given,) if isinstance(given, Mapping) else given:
        values.update(part)
    names = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    if strict and names != values.keys():
        raise RuntimeError(
            f"functional_call: strict=True needs all names; missing {sorted(names - values.keys())}, unexpected "
            f"{sorted(values.keys() - names)}"
        )
    places = []
    for name in values:
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        if attribute not in owner._parameters and attribute not in owner._buffers:
            raise RuntimeError(
                f"functional_call: {type(module).__name__} has no parameter or buffer {name!r}"
            )
        places.append((owner.__dict__, attribute, owner.__dict__[attribute]))
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    try:
        for (own, attribute, _), value in zip(places, values.values(), strict=True):
            own[attribute] = value
        return module(*arguments, **(kwargs or {}))
    finally:
        for own, attribute, before in places:
            own[attribute] = before


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: int = 0,
    randomness: str = "error",
    *,
    chunk_size: Any = None,
) -> Callable[..., Any]:
    """``func`` for each slice of its arguments, the results stacked. It is called once per slice.

    Args:
        func: a function of tensors that returns a tensor or a tuple of tensors.
        in_dims: which axis of each argument to slice; None: the argument is passed whole. One for all, or a tuple.
        out_dims: where the results' new axis goes.
        randomness, chunk_size: accepted for compatibility.

    See ``torch.func.vmap``.

    Example:
        >>> import fastdl
        >>> vmap(fastdl.dot)(fastdl.ones(2, 3), fastdl.ones(2, 3)).tolist()
        [3.0, 3.0]
    """

    def mapped(*args: Any, **kwargs: Any) -> Any:
        axes = in_dims if isinstance(in_dims, (tuple, list)) else (in_dims,) * len(args)
        if len(axes) != len(args):
            raise ValueError(f"vmap: in_dims has {len(axes)} entries for {len(args)} arguments")
        pairs = [(a, None if not isinstance(a, Tensor) else d) for a, d in zip(args, axes, strict=True)]
        sizes = {a.shape[d] for a, d in pairs if d is not None}
        if len(sizes) != 1:
            raise ValueError(
                "vmap: the arguments must have one size along the mapped axes, got "
                + (", ".join(map(str, sorted(sizes))) or "no mapped tensor")
            )
        results = [
            func(*[a if d is None else select_dim(a, d, i) for a, d in pairs], **kwargs)
            for i in range(sizes.pop())
        ]
        if isinstance(results[0], tuple):
            return tuple([stack(list(part), out_dims) for part in zip(*results, strict=True)])
        return stack(results, out_dims)

    return mapped

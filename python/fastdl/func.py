"""Functions of modules; see ``torch.func``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdl.nn.modules.module import Module

__all__ = ["functional_call"]


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

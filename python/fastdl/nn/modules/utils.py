"""Sizes given as one number or one for each axis, and state dicts of wrapped modules: names that programs import."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["consume_prefix_in_state_dict_if_present"]


def _ntuple(n: int, name: str = "parse") -> Callable[[Any], tuple[Any, ...]]:
    def parse(x: Any) -> tuple[Any, ...]:
        return tuple(x) if isinstance(x, Iterable) else (x,) * n

    parse.__name__ = parse.__qualname__ = name
    return parse


_single, _pair = _ntuple(1, "_single"), _ntuple(2, "_pair")
_triple, _quadruple = _ntuple(3, "_triple"), _ntuple(4, "_quadruple")


def consume_prefix_in_state_dict_if_present(state_dict: dict[str, Any], prefix: str) -> None:
    """Take ``prefix`` (``"module."``, which ``DataParallel`` puts there) off the keys that have it, in place.

    See ``torch.nn.modules.utils.consume_prefix_in_state_dict_if_present``.

    Example:
        >>> from fastdl.nn.modules.utils import consume_prefix_in_state_dict_if_present
        >>> state = {"module.weight": 1, "module.bias": 2}
        >>> consume_prefix_in_state_dict_if_present(state, "module.")
        >>> state
        {'weight': 1, 'bias': 2}
    """
    for key in [k for k in state_dict if k.startswith(prefix)]:
        state_dict[key[len(prefix) :]] = state_dict.pop(key)
    # By modules: "module" stands for what has the prefix "module."
    versions = getattr(state_dict, "_metadata", {})
    for key in [k for k in versions if f"{k}.".startswith(prefix)]:
        versions[key[len(prefix) :]] = versions.pop(key)

"""Functions of functions on tensors, beside :mod:`fastdl.func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.errors import ArgumentError
from fastdl.functions import cat, flip
from fastdl.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["associative_scan"]


def associative_scan(
    combine_fn: Callable[[Any, Any], Any],
    xs: Any,
    dim: int,
    reverse: bool = False,
    combine_mode: str = "pointwise",
) -> Any:
    """All prefixes of a sequence combined along axis ``dim``: ``y[0] = x[0]``, ``y[i] = combine_fn(y[i - 1], x[i])``.

    ``combine_fn`` takes and returns what ``xs`` is, a tensor or a nest of tensors, of any extent along the axis, and
    must be associative: it is called about log2(n) times, on parts twice as far apart each time (Hillis and Steele,
    "Data Parallel Algorithms", 1986). ``reverse=True`` goes from the end. See PyTorch's prototype of this name.

    Raises:
        ValueError: for another ``combine_mode`` than ``"pointwise"`` and ``"generic"``, which are the same here.

    Example:
        >>> import fastdl
        >>> from fastdl.higher_order import associative_scan
        >>> associative_scan(lambda x, y: x + y, fastdl.tensor([1, 2, 3, 4]), 0)
        tensor([ 1,  3,  6, 10])
    """
    if combine_mode not in ("pointwise", "generic"):
        raise ArgumentError(
            f"associative_scan: combine_mode must be 'pointwise' or 'generic', got {combine_mode!r}"
        )
    leaves, spec = tree_flatten(xs)
    if reverse:
        leaves = [flip(x, (dim,)) for x in leaves]
    extent, step = leaves[0].shape[dim], 1
    while step < extent:
        before = tree_unflatten([x.narrow(dim, 0, extent - step) for x in leaves], spec)
        behind = tree_unflatten([x.narrow(dim, step, extent - step) for x in leaves], spec)
        combined = tree_flatten(combine_fn(before, behind))[0]
        leaves = [cat([x.narrow(dim, 0, step), y], dim) for x, y in zip(leaves, combined, strict=True)]
        step *= 2
    return tree_unflatten([flip(x, (dim,)) for x in leaves] if reverse else leaves, spec)

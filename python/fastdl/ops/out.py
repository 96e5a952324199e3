"""Results in an array or a tensor that is there: ``out=`` and operations in place."""

from __future__ import annotations

from typing import Any

from fastdl.arrays import assign
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op, needing
from fastdl.autograd.view import check_writable
from fastdl.errors import ArgumentError, not_a_tensor
from fastdl.ops.arrays import check_kind, empty
from fastdl.tensor import Tensor


def into(op: str, out: Any, result: Any) -> Any:
    """Store a result of another dtype in place, if PyTorch's rules allow it: a kind may not be lost."""
    check_kind(op, result.dtype, out)
    if result.shape != out.shape:
        raise ArgumentError(
            f"{op}: the result has shape {result.shape}, but the tensor changed in place has {out.shape}"
        )
    assign(out, result)
    return out


def constant(value: Any) -> Any:
    """``value``, after a check that nothing will be recorded for it."""
    if isinstance(value, Tensor) and value._requires_grad and mode.enabled:
        raise RuntimeError("out=: cannot be differentiated; leave it out, or detach() the inputs")
    return value


def store(op: str, out: Tensor, result: Tensor) -> Tensor:
    """``result`` written into the tensor ``out``, where it may be already, and which is returned.

    An empty ``out`` takes the result's shape.
    """
    if not isinstance(out, Tensor):
        raise not_a_tensor(op, "out", out)
    constant(result)
    array = result._data
    if out._data.size == 0:
        out._data = empty(array.shape, out._data.dtype, array)
    if out._data.shape != array.shape:
        raise ArgumentError(f"{op}: the result has shape {array.shape}, but out has shape {out._data.shape}")
    if array is not out._data:
        check_writable(op, out, recorded=False)
        into(op, out._data, array)
    out._bump_version()
    return out


def apply_into(
    out: Tensor | None, op: type[Op], *inputs: Tensor | None, keeps: Tensor | None = None, **options: Any
) -> Tensor:
    """``op.apply``; the result goes to ``out`` if there is one, without a copy where that is the first input.

    ``keeps``: the tensor among the options, an index or a mask, that backward needs as it is.
    """
    if out is None:
        result: Tensor = op.apply(*inputs, **options)
        return result if keeps is None else needing(result, keeps)
    constant(out)
    recorded = False
    if mode.enabled:
        for t in inputs:
            if t is not None and t._requires_grad:
                recorded = True
    if recorded or out is not inputs[0]:
        return store(op.__name__.lower(), out, op.apply(*inputs, **options))
    op.apply(*inputs, **options, out=out._data)
    out._bump_version()
    return out

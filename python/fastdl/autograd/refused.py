"""What becomes of an operation whose kernel refused its arrays: moved, computed in float32, or explained.

Operations do not look at devices and half precision beforehand, which would cost every call. They run, and only when
kernels, NumPy or CuPy raise is it asked why:

- Slices of ``vmap`` are computed all at once (fastdl.batched).
- Sparse tensors have operations of their own (fastdl.sparse), or are refused.
- Complex inputs never reach an operation that does not say that it takes them: one of :data:`complex_rules` computes
  it, or it is an error.
- Inputs on several devices: tensors of 0 dimensions on the CPU go to the GPU of the others, as in PyTorch; anything
  else is an error that names operation, arguments and devices.
- Half precision (float16, bfloat16) where a kernel has none, as most of the CPU's: computed in float32, with inputs,
  results and gradients converted (in_float32.py).
- Integers, where PyTorch takes them too (``Op.wide_integers``): computed in float64, results truncated to their dtype.
- Tensors of the device ``meta``, which have no values: zeros in their place tell the result's shape and dtype.
- An operation that the ``cuda`` backend has no kernel for (NotImplementedError): computed on the CPU, with a warning
  the first time, results and gradients copied back.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from fastdl._graph import set_otherwise
from fastdl.autograd.in_float32 import InFloat32, compute
from fastdl.autograd.op import ComplexOperand, NoKernel, Op
from fastdl.devices import device_of, to_host
from fastdl.dtypes import CPU, FLOATING, META, float64, int64, is_half
from fastdl.errors import not_a_tensor, not_for_complex, warn_caller
from fastdl.kernels import MetaArray, is_array
from fastdl.kernels.batched import BatchedArray
from fastdl.kernels.meta import NoValues, zeros
from fastdl.kernels.sparse import SparseArray, is_sparse
from fastdl.tensor import Tensor

complex_rules: dict[Any, Callable[[Any, tuple[Tensor | None, ...], dict[str, Any]], Any]] = {}
"""Operation -> rule(operation, inputs, options): its result where an input is complex. See ops/complex_rules.py."""


def apply_otherwise(
    cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any], error: Exception | None
) -> Any:
    """The result of ``cls.apply``, which raised ``error``, computed in another way; or a better error, or ``error``.

    ``error`` is None where nothing was tried: an input is sparse, or complex, and the operation does not take it.
    """
    if BatchedArray.made:
        from fastdl.batched import applied_to_slices

        if (result := applied_to_slices(cls, inputs, options)) is not NotImplemented:
            return result
    if SparseArray.made and any([t.__class__ is not Tensor and is_sparse(t) for t in inputs]):
        from fastdl.sparse import applied

        return applied(cls, inputs, options)
    if error is None or isinstance(error, ComplexOperand):
        rule = complex_rules.get(cls)
        if rule is None:
            raise not_for_complex(getattr(cls, "label", cls.__name__.lower())) from None
        return rule(cls, inputs, options)
    if issubclass(cls, InFloat32):
        raise error
    given = [t for t in inputs if t is not None]
    for t in given:
        if not isinstance(t, Tensor):
            raise not_a_tensor(*_called(cls.__name__.lower(), t), t) from None
    devices = {device_of(t._data) for t in given}
    if len(devices) > 1:
        return cls.apply_itself(*_together(cls, inputs, devices), **options)
    if devices == {META} and not isinstance(error, NoValues):
        return _without_values(cls, inputs, options)
    if isinstance(error, NotImplementedError):
        if devices in ({CPU}, {META}):
            raise error
        return _on_cpu(cls, inputs, options, devices.pop(), error)
    floating = [t._data.dtype for t in given if t._data.dtype.kind in FLOATING]
    if floating and is_half(floating[0]) and (cls.mixes_dtypes or len(set(floating)) == 1):
        return compute(cls, inputs, options, floating[0])
    if isinstance(error, NoKernel):  # half precision beside a float32 number of 0 dimensions
        return compute(cls, inputs, options, next(filter(is_half, floating)))
    if cls.wide_integers and not floating and len({t._data.dtype for t in given}) == 1:
        return _in_float64(cls, inputs, options, given[0]._data.dtype, error)
    raise error


def _called(op: str, value: Any) -> tuple[str, str]:
    """The function that applied an operation to ``value``, and its name for that."""
    frame: Any = sys._getframe(3)  # of whoever called Op.apply
    for name in frame.f_code.co_varnames[: frame.f_code.co_argcount]:
        if frame.f_locals.get(name) is value:
            return frame.f_code.co_name, name
    return op, "input"


class _Exchange(Op):
    """Zeros for an array without values, and the other way around."""

    takes_complex = True

    def forward(self, x: Any) -> Any:
        return zeros(x) if x.__class__ is MetaArray else MetaArray.like(x)

    backward = forward

    def backward_graph(self, grad: Tensor) -> Any:
        return _Exchange.apply(grad)


def _without_values(cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    with_zeros = [None if t is None else _Exchange.apply(t) for t in inputs]
    result = cls.apply_itself(*with_zeros, **{name: zeros(value) for name, value in options.items()})
    return (
        tuple([_Exchange.apply(r) for r in result]) if isinstance(result, tuple) else _Exchange.apply(result)
    )


def _on_cpu(
    cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any], where: Any, error: Exception
) -> Any:
    if cls not in _told:
        _told.add(cls)
        warn_caller(f"{error}: computed on the CPU, with copies there and back")
    moved = [None if t is None else t.to(CPU) for t in inputs]
    result = cls.apply_itself(*moved, **{name: _hosted(value) for name, value in options.items()})
    return tuple([r.to(where) for r in result]) if isinstance(result, tuple) else result.to(where)


_told: set[Any] = set()


def _hosted(value: Any) -> Any:
    """An option with its arrays on the CPU."""
    if isinstance(value, tuple):
        return tuple([_hosted(v) for v in value])
    return to_host(value) if is_array(value) else value


def _together(cls: Any, inputs: tuple[Tensor | None, ...], devices: set[Any]) -> list[Tensor | None]:
    """The inputs on one device, if only tensors of 0 dimensions have to move there from the CPU."""
    targets = devices - {CPU}
    if len(targets) == 1:
        (where,) = targets
        moved = [
            t.to(where) if t is not None and t._data.ndim == 0 and device_of(t._data) is CPU else t
            for t in inputs
        ]
        if all(t is None or device_of(t._data) is where for t in moved):
            return moved
    names = list(inspect.signature(cls.forward).parameters)[1:]
    told = [
        f"{name} {t._data.shape} on {device_of(t._data)}"
        for name, t in zip([*names, *["input"] * len(inputs)], inputs, strict=False)
        if t is not None
    ]
    raise RuntimeError(
        f"{cls.__name__.lower()}: Expected all tensors to be on the same device, but found {', '.join(told)}; move "
        "them with .to(device)"
    ) from None


def _in_float64(
    cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any], dtype: Any, error: Exception
) -> Any:
    if dtype.kind not in "iu":
        raise error
    result = cls.apply_itself(*[None if t is None else t.to(float64) for t in inputs], **options)
    results = [
        r.to(int64).to(dtype) if r._data.dtype is float64 else r  # a sum too large wraps as integers do
        for r in (result if isinstance(result, tuple) else (result,))
    ]
    return tuple(results) if isinstance(result, tuple) else results[0]


set_otherwise(apply_otherwise)

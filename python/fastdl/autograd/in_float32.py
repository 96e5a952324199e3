"""One node that computes an operation on half precision in float32, for those that have no kernel for it.

It is of a subclass of the operation, whose ``forward`` converts what comes and what goes, and whose ``backward``
does the same with gradients: the graph has one node with half precision on all sides, instead of one for the operation
and one for every conversion, which cost more than small operations themselves.

Inside, the operation sees floats only. Its second derivatives, which are made of tensors, begin and end at a
:class:`Cast`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fastdl._graph import next_order, set_in_float32
from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.op import Op
from fastdl.autograd.view import Cast
from fastdl.dtypes import FLOATING, float32, is_half
from fastdl.errors import ArgumentError
from fastdl.kernels import is_array, select
from fastdl.tensor import Tensor


class InFloat32(Op):
    """What stands before the operation's own class in :func:`_in_float32`."""

    floats_only = False  # it takes half precision
    half: Any = None  # the dtype outside
    converted: tuple[bool, ...]  # which inputs have it

    def forward(self, *arrays: Any, half: Any, out: Any = None, **options: Any) -> Any:
        self.half = half
        wide = [_converted(x, float32) if x is not None and x.dtype is half else x for x in arrays]
        for name, value in options.items():
            if value.__class__ not in _NO_ARRAYS and (value.__class__ is tuple or is_array(value)):
                options[name] = _widened(value)
        result = super().forward(*wide, **options)
        if out is None and True not in self.needs and result.__class__ is not tuple:  # nothing is kept
            return _converted(result, half) if result.dtype is float32 else result
        self.converted = tuple([x is not y for x, y in zip(arrays, wide, strict=True)])
        # What is kept are conversions, which nobody can change in place.
        if self.saves:
            self.saves = tuple([i for i in self.saves if not self.converted[i]])
        if result.__class__ is tuple:
            self.saves_output = self.saves_output and any([r.dtype is not float32 for r in result])
            return tuple([pooled_copy(r, half) if r.dtype is float32 else r for r in result])
        if result.dtype is float32:
            self.saves_output = False
        if out is not None:
            return self.stored(out, result)
        return pooled_copy(result, half) if result.dtype is float32 else result

    def stored(self, out: Any, result: Any) -> Any:
        """The result in the array ``out``."""
        name = type(self).__name__.lower()
        if out.shape != result.shape:
            raise ArgumentError(
                f"{name}: the result has shape {result.shape}, but the tensor has {out.shape}"
            )
        if out.dtype.kind not in FLOATING:
            raise RuntimeError(
                f"{name}: the result has dtype {self.half} and cannot be stored in place in a tensor of dtype "
                f"{out.dtype}"
            )
        assign(out, result)
        return out

    def backward(self, *grads: Any) -> Any:
        half = self.half
        if not any([g is not None and g.dtype is half for g in grads]):
            return super().backward(*grads)  # asked by the second derivative, inside
        result = super().backward(
            *[pooled_copy(g, float32) if g is not None and g.dtype is half else g for g in grads]
        )
        if result.__class__ is not tuple:
            return pooled_copy(result, half) if self.converted[0] and result is not None else result
        return tuple(
            [
                pooled_copy(g, half) if yes and g is not None else g
                for g, yes in zip(result, self.converted, strict=True)
            ]
        )

    def backward_graph(self, *grads: Any) -> Any:
        result = super().backward_graph(*[None if g is None else _to(g, self.half, float32) for g in grads])
        if result.__class__ is not tuple:
            return _to(result, float32, self.half) if self.converted[0] and result is not None else result
        return tuple(
            [
                _to(g, float32, self.half) if yes and g is not None else g
                for g, yes in zip(result, self.converted, strict=True)
            ]
        )

    def saved_input(self, i: int, array: Any) -> Tensor:
        if not self.converted[i]:
            return super().saved_input(i, array)
        return self.inside(array, None if self.edges is None else self.edges[i])

    def saved_output(self, array: Any, index: int = 0) -> Tensor:
        if array.dtype is not float32:
            return super().saved_output(array, index)
        return self.inside(array, (self, index))

    def inside(self, array: Any, edge: Any) -> Tensor:
        """A tensor of floats whose gradient goes to ``edge``, in half precision."""
        tensor = Tensor._wrap(array)
        if edge is not None:
            link = Cast()
            link.needs, link.order, link.edges, link.dtype = (True,), next_order(), (edge,), self.half
            tensor._requires_grad, tensor._node = True, link
        return tensor


_NO_ARRAYS = frozenset((int, float, bool, str, type(None)))


def _converted(array: Any, dtype: Any) -> Any:
    """``pooled_copy`` from or to half precision, without a look into tables."""
    if array.__class__ is np.ndarray:
        copy = select(array).convert(array, dtype)
        if copy is not None:
            return copy
    return pooled_copy(array, dtype)


def _to(grad: Tensor, have: Any, dtype: Any) -> Tensor:
    return Cast.apply(grad, dtype=dtype) if grad._data.dtype is have else grad


def _widened(value: Any) -> Any:
    """An option with its arrays in float32."""
    if value.__class__ is tuple:
        return tuple([_widened(v) for v in value])
    return pooled_copy(value, float32) if is_array(value) and is_half(value.dtype) else value


def compute(cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any], half: Any) -> Any:
    """``cls.apply`` in float32, of inputs in the dtype ``half``."""
    # Not apply: autocast would convert the inputs back.
    return _in_float32(cls).apply_itself(*inputs, half=half, **options)


set_in_float32(compute)


@cache
def _in_float32(cls: Any) -> Any:
    return type(cls.__name__, (InFloat32, cls), {"__doc__": cls.__doc__, "__module__": cls.__module__})

"""Reductions: sums, means, products and norms over any axes; the other ones are gathered here by name.

``dim`` is an axis, a tuple of axes or None for all; ``keepdim`` leaves axes of one element in their place.
"""

from __future__ import annotations

import builtins
from math import inf
from typing import Any, ClassVar

import numpy as np

from fastdl import dtypes
from fastdl.arrays import pooled_copy
from fastdl.autograd.graph import replay
from fastdl.autograd.op import OF_ITSELF, Op
from fastdl.dtypes import DIFFERENTIABLE, FLOATING, as_dtype, bool_, float32, float64, int32, int64, uint8
from fastdl.errors import not_a_tensor
from fastdl.kernels import array, on_device, select
from fastdl.ops.arrays import any_true, as_bool, cast, count_true, empty, full, zeros
from fastdl.ops.axes import kept_shape, normal_axes, numpy_names, one_by_one, reduced_count, reduced_shape
from fastdl.ops.extreme import *
from fastdl.ops.join import cat
from fastdl.ops.order import *
from fastdl.tensor import Tensor


class Reduction(Op):
    """A float kernel over some axes; NumPy for other dtypes."""

    label: ClassVar[str]

    def remember(self, x: Any, axes: Any, keepdim: bool) -> None:
        self.shape = x.shape
        self.axes = axes
        self.kept = keepdim

    def spread(self, grad: Any) -> Any:
        """The gradient of the result as a view in the input's shape."""
        if not self.kept and grad.ndim != len(self.shape):
            grad = grad.reshape(kept_shape(self.shape, self.axes))
        return select(grad).broadcast_to(grad, self.shape)

    def spread_graph(self, grad: Tensor) -> Any:
        return self.with_axes(grad).expand(self.shape)

    def with_axes(self, array: Any) -> Any:
        """A result or its gradient with axes of one element where the input was reduced."""
        return array.reshape(kept_shape(self.shape, self.axes))


def _has_zero(x: Any) -> Any:
    """Is there a zero, besides NaN or not? Of floats by the smallest absolute value, where that is a number."""
    if (x.dtype is float32 or x.dtype is float64) and x.size and x.__class__ is np.ndarray:
        smallest = float(select(x).norm_forward(x, -inf, None, False))
        if smallest == smallest:
            return smallest == 0
    return any_true(x == 0)


def numpy_reduce(reduce: Any, x: Any, axes: Any, keepdim: bool, dtype: Any) -> Any:
    """``numpy.sum`` or ``numpy.prod`` in ``dtype``, into pooled memory."""
    out = empty(reduced_shape(x.shape, axes, keepdim), dtype, x)
    if x.__class__ is np.ndarray and x.dtype.kind in "iu":  # nothing to warn of
        ufunc: Any = np.add if reduce is np.sum else np.multiply
        ufunc.reduce(x, axes, dtype, out, keepdim)
        return out
    with np.errstate(all="ignore"):
        reduce(x, axis=axes, dtype=dtype, keepdims=keepdim, out=out)
    return out


class Sum(Reduction):
    release = Op.stay
    aliases_grad = True
    takes_complex = True

    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        dtype = x.dtype
        if dtype is float32 or dtype is float64:
            return select(x).sum_forward(x, axes, keepdim)
        if x.__class__ is np.ndarray and x.ndim == 2 and axes is not None and len(axes) == 1:
            flags = x.flags
            if flags.f_contiguous and not flags.c_contiguous:  # as it lies, without a copy
                total = self.sums(x.T, (1 - axes[0],), False)
                return total.reshape(kept_shape(x.shape, axes)) if keepdim else total
        return self.sums(x, axes, keepdim)

    def sums(self, x: Any, axes: Any, keepdim: bool) -> Any:
        """Of half precision, integers, bools and complex numbers."""
        dtype = x.dtype
        if dtype.kind in FLOATING:
            return select(x).sum_forward(x, axes, keepdim)
        if dtype.kind == "b":
            return count_true(x, axes, keepdim)
        if (
            (dtype is int64 or dtype is int32 or (dtype is uint8 and x.flags.c_contiguous))
            and (axes is None or len(axes) == 1)
            and not on_device(x)
        ):
            x = cast(x, int32) if dtype is uint8 else x
            return select(x).sum_integers(x, None if axes is None else axes[0], keepdim)
        if dtype.kind == "c":
            if on_device(x) or not x.size:
                return numpy_reduce(np.sum, x, axes, keepdim, dtype)
            pairs = x[..., None].view(x.real.dtype)  # real and imaginary parts as a last axis
            extent = x.shape[-1] if x.ndim else 0
            if axes == (x.ndim - 1,) and x.size >= 1 << 15 and extent % 16 == 0 and x.flags.c_contiguous:
                # Many at a time first: sums of two columns alone would leave vectors nearly empty.
                pairs = pairs.reshape(*x.shape[:-1], extent // 16, 32)
                pairs = select(x).sum_forward(pairs, axes, False).reshape(*x.shape[:-1], 16, 2)
            total = select(x).sum_forward(pairs, tuple(range(x.ndim)) if axes is None else axes, keepdim)
            return total.view(dtype)[..., 0]
        return numpy_reduce(np.sum, x, axes, keepdim, int64)

    def backward(self, grad: Any) -> Any:
        return self.spread(grad)

    def backward_graph(self, grad: Tensor) -> Any:
        return self.spread_graph(grad)


class Mean(Reduction):
    release = Op.stay

    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        return select(x).mean_forward(x, axes, keepdim)

    aliases_grad = True

    def backward(self, grad: Any) -> Any:
        share = 1.0 / builtins.max(reduced_count(self.shape, self.axes), 1)
        if on_device(grad) and reduced_count(self.shape, None) <= 1 << 18:
            # One launch, not one for the share and one more for a copy.
            self.aliases_grad = False  # type: ignore[misc]
            return select(grad).mul_forward(self.spread(grad), share)
        return self.spread(select(grad).mul_forward(grad, share))

    def backward_graph(self, grad: Tensor) -> Any:
        return self.spread_graph(grad * (1.0 / builtins.max(reduced_count(self.shape, self.axes), 1)))


class Prod(Reduction):
    saves, saves_output = (0,), True

    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        if x.dtype.kind not in FLOATING:
            return self.of_integers(x, axes, keepdim)
        self.x, self.y = x, select(x).prod_forward(x, axes, keepdim)
        return self.y

    def of_integers(self, x: Any, axes: Any, keepdim: bool) -> Any:
        dtype = x.dtype
        if dtype is uint8 and x.flags.c_contiguous:
            x, dtype = cast(x, int32), int32
        if on_device(x) or not (dtype is int64 or dtype is int32 or dtype is bool_):
            return numpy_reduce(np.prod, x, axes, keepdim, int64)
        if dtype is bool_:  # 1 where all are
            all_of = reduced_count(x.shape, axes)
            return cast(np.equal(count_true(x, axes, keepdim), all_of), int64)
        if axes is None or len(axes) == 1:
            return select(x).sum_integers(x, None if axes is None else axes[0], keepdim, True)
        return numpy_reduce(np.prod, x, axes, keepdim, int64)

    def backward(self, grad: Any) -> Any:
        x, kernels = self.x, select(grad)
        if not _has_zero(x):  # grad y / x
            whole = kernels.mul_forward(self.with_axes(grad), self.with_axes(self.y))
            return kernels.div_forward(whole, x)
        if (x.dtype is float32 or x.dtype is float64) and not (self.y != self.y).any():
            return self._beside_zeros(kernels, grad)
        # Zeros: the product of the others, those before times those after.
        axes = tuple(range(x.ndim)) if self.axes is None else self.axes
        rest = tuple([i for i in range(x.ndim) if i not in axes])
        moved = x.transpose(rest + axes)
        rows = moved.reshape(*[x.shape[i] for i in rest], -1)
        if x.dtype.itemsize == 2:  # CuPy has no running products of bfloat16
            rows = rows.astype(float32)
        ones = np.ones_like(rows[..., :1])
        before = np.cumprod(np.concatenate([ones, rows[..., :-1]], -1), -1)
        after = np.cumprod(np.concatenate([ones, rows[..., :0:-1]], -1), -1)[..., ::-1]
        others = (before * after).astype(x.dtype, copy=False).reshape(moved.shape)
        others = others.transpose(sorted(range(x.ndim), key=(rest + axes).__getitem__))
        return kernels.mul_forward(others, self.with_axes(grad))

    def _beside_zeros(self, k: Any, grad: Any) -> Any:
        """The only zero of a product gets the product of the others; two of them get nothing."""
        x, g = self.x, self.with_axes(grad)
        zero = k.eq_forward(x, 0.0)
        others = k.prod_forward(k.where_forward(zero, 1.0, x), self.axes, True)
        alone = array(count_true(zero, self.axes, True) == 1, x)
        at_zero = k.where_forward(alone, k.mul_forward(g, others), 0.0)
        rest = k.div_forward(k.mul_forward(g, self.with_axes(self.y)), x)
        return k.where_forward(zero, at_zero, rest)

    def backward_graph(self, grad: Tensor) -> Any:
        if not self.x.size:
            return Tensor._wrap(zeros(self.x.shape, self.x.dtype, self.x))
        if not _has_zero(self.x):
            whole = self.with_axes(grad) * self.with_axes(self.saved_output(self.y))
            return whole / self.saved_input(0, self.x)
        axes = tuple(range(self.x.ndim)) if self.axes is None else self.axes

        def composed(x: Any) -> Any:
            # Halves multiplied until one element is left: right for zeros, too.
            rows = x.movedim(axes, tuple(range(len(axes)))) if axes else x.unsqueeze(0)
            rows = rows.flatten(0, builtins.max(len(axes), 1) - 1)
            while len(rows) > 1:
                half = len(rows) // 2
                product = rows[:half] * rows[half : 2 * half]
                rows = product if len(rows) % 2 == 0 else cat([product, rows[2 * half :]])
            return rows[0].reshape(grad.shape)

        return replay(self, grad, composed, self.x)


class LogSumExp(Reduction):
    floats_only = True
    saves, saves_output = (0,), True

    def forward(self, x: Any, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        self.x, self.y = x, select(x).logsumexp_forward(x, axes, keepdim)
        return self.y

    def backward(self, grad: Any) -> Any:
        kernels = select(grad)
        result = kernels.sub_forward(self.x, self.with_axes(self.y))
        kernels.exp_forward(result, result)
        return kernels.mul_forward(result, self.with_axes(grad), result)

    def backward_graph(self, grad: Tensor) -> Any:
        y = self.with_axes(self.saved_output(self.y))
        return (self.saved_input(0, self.x) - y).exp() * self.with_axes(grad)


class Norm(Reduction):
    """(sum |x|^p)^(1/p), and its limits max |x|, min |x| and the count of what is not zero."""

    saves, saves_output = (0,), True

    def forward(self, x: Any, p: float, axes: Any, keepdim: bool) -> Any:
        self.remember(x, axes, keepdim)
        self.x, self.p, self.y = x, p, select(x).norm_forward(x, p, axes, keepdim)
        return self.y

    def backward(self, grad: Any) -> Any:
        if self.p == 0:  # a count
            return None
        x, y = self.x, self.y
        dtype = x.dtype
        if dtype.itemsize == 2:  # in float32, with a norm that is not rounded
            x, grad = cast(x, float32), cast(grad, float32)
            y = select(x).norm_forward(x, self.p, self.axes, self.kept)
            return cast(self.slope(grad, x, y), dtype)
        return self.slope(grad, x, y)

    def slope(self, grad: Any, x: Any, y: Any) -> Any:
        k, p = select(grad), self.p
        grad, y = self.with_axes(grad), self.with_axes(y)
        if p == 1:
            return k.mul_forward(k.sign_forward(x), grad)
        if p in (float("inf"), float("-inf")):
            ties = k.eq_forward(k.abs_forward(x), y)
            share = k.div_forward(grad, count_true(ties, self.axes, True).astype(grad.dtype))
            return k.where_forward(ties, k.mul_forward(k.sign_forward(x), share), 0.0)
        if p == 2:
            factor = k.where_forward(k.eq_forward(y, 0.0), 0.0, k.div_forward(grad, y))
            return k.mul_forward(x, factor)
        # x |x|^(p-2) grad / y^(p-1)
        factor = k.where_forward(
            k.eq_forward(y, 0.0), 0.0, k.div_forward(grad, k.pow_scalar_forward(y, p - 1))
        )
        slope = k.mul_forward(k.sign_forward(x), k.pow_scalar_forward(k.abs_forward(x), p - 1))
        if p < 1:
            slope = k.where_forward(k.eq_forward(x, 0.0), 0.0, slope)
        return k.mul_forward(slope, factor)

    def backward_graph(self, grad: Tensor) -> Any:
        p = self.p
        if p == 0:
            return None
        if p in (1, float("inf"), float("-inf")):  # the slope is constant
            self.flat = OF_ITSELF
            whole = full(grad.shape, 1, self.x.dtype, self.x)
            return self.with_axes(grad) * Tensor._wrap(self.backward(whole))
        if self.x.dtype.itemsize == 2:
            options = {"p": p, "axes": self.axes, "keepdim": self.kept}
            return replay(self, grad, lambda x: Norm.apply(x.float(), **options).to(x.dtype), self.x)
        x, y = self.saved_input(0, self.x), self.with_axes(self.saved_output(self.y))
        nothing: Any = y == 0
        y = y.masked_fill(nothing, 1.0)  # so that no infinity meets a zero
        factor: Any = (self.with_axes(grad) / (y if p == 2 else y ** (p - 1))).masked_fill(nothing, 0.0)
        if p == 2:
            return x * factor
        at_zero: Any = x == 0
        size = x.masked_fill(at_zero, 1.0).abs() ** (p - 1)
        return (x.sign() * size).masked_fill(at_zero, 0.0) * factor


# ------------------------------------------------------------------------------------------- public functions


def _input(op: str, input: Any, dtype: Any = None) -> Any:
    if not isinstance(input, Tensor):
        raise not_a_tensor(op, "input", input)
    if dtype is not None and input._data.dtype != dtype:
        return input.to(as_dtype(op, dtype))
    return input


def floating_input(op: str, input: Any, dtype: Any = None) -> Any:
    input = _input(op, input, dtype)
    if input._data.dtype.kind not in DIFFERENTIABLE:
        hint = "pass dtype= or convert it first" if op in ("mean", "vector_norm") else "convert it first"
        raise RuntimeError(
            f"{op}: defined for floating-point tensors, got {input._data.dtype}; {hint}, e.g. x.float()"
        )
    return input


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **names: Any) -> Tensor:
    """The sum over ``dim``. Integers and bools add up in int64. See ``torch.sum``.

    float32 is accumulated in double: the result is right to its last bit, whatever the length.

    Example:
        >>> import fastdl
        >>> fastdl.sum(fastdl.Tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1).tolist()
        [3.0, 7.0]
    """
    if names:
        dim, keepdim = numpy_names("sum", names, dim, keepdim)
    input = _input("sum", input, dtype)
    result = Sum.apply(input, axes=normal_axes("sum", dim, input._data.ndim, keepdim), keepdim=keepdim)
    return result if dtype is None else _input("sum", result, dtype)  # type: ignore[no-any-return]


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **names: Any) -> Tensor:
    """The mean over ``dim`` of a floating-point tensor; NaN over nothing. See ``torch.mean``."""
    if names:
        dim, keepdim = numpy_names("mean", names, dim, keepdim)
    input = floating_input("mean", input, dtype)
    return Mean.apply(input, axes=normal_axes("mean", dim, input._data.ndim, keepdim), keepdim=keepdim)  # type: ignore[no-any-return]


def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **names: Any) -> Tensor:
    """The product over ``dim``; integers and bools multiply in int64. See ``torch.prod``."""
    if names:
        dim, keepdim = numpy_names("prod", names, dim, keepdim)
    input = _input("prod", input, dtype)
    result = Prod.apply(input, axes=normal_axes("prod", dim, input._data.ndim, keepdim), keepdim=keepdim)
    return result if dtype is None else _input("prod", result, dtype)  # type: ignore[no-any-return]


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over ``dim``, without overflow. See ``torch.logsumexp``."""
    input = _input("logsumexp", input)
    if input._data.dtype.kind not in DIFFERENTIABLE:
        input = input.to(dtypes.get_default_dtype())
    axes = normal_axes("logsumexp", dim, input._data.ndim, keepdim)
    return LogSumExp.apply(input, axes=axes, keepdim=keepdim)  # type: ignore[no-any-return]


def vector_norm(
    x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """(sum |x|^ord)^(1/ord) over ``dim``; ord inf: max |x|, -inf: min |x|, 0: how many are not zero. See
    ``torch.linalg.vector_norm``.
    """
    x = floating_input("vector_norm", x, dtype)
    axes = normal_axes("vector_norm", dim, x._data.ndim, keepdim)
    if ord in (float("inf"), float("-inf")) and reduced_count(x._data.shape, axes) == 0:
        raise RuntimeError(f"vector_norm: ord {ord} of no elements is not defined, got shape {x._data.shape}")
    return Norm.apply(x, p=float(ord), axes=axes, keepdim=keepdim)  # type: ignore[no-any-return]


def _truth(op: str, input: Any, dim: Any, keepdim: bool) -> Tensor:
    x = _input(op, input)._data
    # uint8 stays uint8, as in PyTorch; no axes (not None) reduce nothing.
    if dim.__class__ in (tuple, list) and not dim:
        return Tensor._wrap(cast(as_bool(x), uint8) if x.dtype is uint8 else as_bool(pooled_copy(x)))
    axes = normal_axes(op, dim, x.ndim, keepdim)
    out = empty(reduced_shape(x.shape, axes, keepdim), bool_, x)
    # All of them: NumPy stops at the first that decides.
    if (axes is None or 1 < len(axes) == x.ndim) and not on_device(x):
        getattr(x, op)(axis=None, keepdims=keepdim, out=out)
    else:
        counts = count_true(x, axes, keepdim)
        np.greater_equal(counts, 1 if op == "any" else reduced_count(x.shape, axes), out=out)
    return Tensor._wrap(cast(out, uint8 if x.dtype is uint8 else bool_))


def all(input: Tensor, dim: Any = None, keepdim: bool = False, **names: Any) -> Tensor:
    """Is every element over ``dim`` not zero? See ``torch.all``."""
    if names:
        dim, keepdim = numpy_names("all", names, dim, keepdim)
    return _truth("all", input, dim, keepdim)


def any(input: Tensor, dim: Any = None, keepdim: bool = False, **names: Any) -> Tensor:
    """Is any element over ``dim`` not zero? See ``torch.any``."""
    if names:
        dim, keepdim = numpy_names("any", names, dim, keepdim)
    return _truth("any", input, dim, keepdim)


def count_nonzero(input: Tensor, *dims: Any, dim: Any = None, **names: Any) -> Tensor:
    """How many elements over ``dim`` are not zero; int64. See ``torch.count_nonzero``."""
    dim = one_by_one("count_nonzero", "dim", dims, dim)
    if names:
        dim, _ = numpy_names("count_nonzero", names, dim)
    x = _input("count_nonzero", input)._data
    return Tensor._wrap(count_true(x, normal_axes("count_nonzero", dim, x.ndim)))

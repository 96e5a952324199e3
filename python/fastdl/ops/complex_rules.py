"""What each operation becomes where an input is complex: :data:`fastdl.autograd.refused.complex_rules` is filled here.

Operations that only move numbers, and those that are linear with real coefficients, are done to real and imaginary
parts apart, gradients included (:func:`by_parts`). Products, functions and norms have operations or formulas of their
own. What is not named here, orders and rounding above all, refuses complex tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.autograd.refused import complex_rules
from fastdl.dtypes import FLOATING
from fastdl.errors import not_for_complex
from fastdl.kernels import is_array
from fastdl.ops import (
    activation_rules,
    adaptive_pool,
    bilinear,
    binary,
    conv,
    einsum,
    elementwise,
    embedding,
    evaluated,
    gather,
    indexing,
    linear,
    masks,
    order,
    pool,
    rearrange,
    reduce,
    resample,
    special,
    statistics,
    unary,
    unfold,
)
from fastdl.ops import (
    norm as normalisation,
)
from fastdl.ops.complex import ComplexAbs, Join, ViewAsComplex, ViewAsReal, imag, real, real_zeros
from fastdl.ops.complex_arithmetic import (
    HOLOMORPHIC,
    ComplexAdd,
    ComplexDiv,
    ComplexMul,
    ComplexPow,
    ComplexSub,
    Holomorphic,
)
from fastdl.ops.complex_products import (
    ComplexAddMatMul,
    ComplexBilinear,
    ComplexCumprod,
    ComplexEinsum,
    ComplexLogCumSumExp,
    ComplexMatMul,
    ComplexOuter,
    ComplexProd,
    in_parts,
    logsumexp,
    mean,
    norm,
    spread,
    variance,
)
from fastdl.ops.complex_products import linear as linear_layer
from fastdl.ops.index_keys import FULL
from fastdl.ops.out import into
from fastdl.ops.variance import Std, Var, VarMean
from fastdl.tensor import Tensor

Rule = Callable[[Any, Any, Any], Any]


def by_parts(cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """A linear operation on the real parts, the same on the imaginary ones, and both joined.

    Numbers that it writes (``number``, ``value``) have parts as well; integers and masks say where, for both.
    """
    out = options.pop("out", None)
    found = []
    for part in (real, _imaginary):
        parts = [None if t is None or t._data.dtype.kind in "biu" else part(t) for t in inputs]
        arguments = [t if p is None else p for t, p in zip(inputs, parts, strict=True)]
        numbers = {
            k: _part_of(v, part is real) if k in ("number", "value") else v for k, v in options.items()
        }
        found.append(cls.apply(*arguments, **numbers))
    re, im = found
    if re.__class__ is tuple:
        return tuple(
            [Join.apply(r, i) if r._data.dtype.kind in FLOATING else r for r, i in zip(re, im, strict=True)]
        )
    result = Join.apply(re, im)
    if out is None:
        return result
    into(cls.__name__.lower(), out, result._data)
    return Tensor._wrap(out)


def by_pairs(cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """An operation along named axes on real and imaginary parts as one more axis, the last; else :func:`by_parts`."""
    (x, *others) = inputs
    changed = _PAIRS[cls](dict(options), x._data.ndim)  # type: ignore[union-attr]
    if changed is None or any([t is None or t._data.dtype is not x._data.dtype for t in others]):  # type: ignore[union-attr]
        return by_parts(cls, inputs, options)
    return ViewAsComplex.apply(cls.apply(*[ViewAsReal.apply(t) for t in inputs], **changed))


def _along(options: dict[str, Any], ndim: int) -> Any:
    return options if ndim and options.get("out") is None else None


def _gathered(options: dict[str, Any], ndim: int) -> Any:
    key = options["key"]
    count = sum([k.ndim if getattr(k, "dtype", None) == np.bool_ else 1 for k in key])
    return options | {"key": (*key, *[FULL] * (ndim + 1 - count))}


def _padded(options: dict[str, Any], ndim: int) -> Any:
    if options["mode"] != "constant" or options["value"]:
        return None
    return options | {"padding": [*options["padding"], (0, 0)]}


_PAIRS: dict[Any, Callable[[dict[str, Any], int], Any]] = {
    gather.IndexAdd: _along,
    gather.IndexCopy: _along,
    indexing.Gather: _gathered,
    indexing.IndexSelect: _along,
    order.Cumsum: _along,
    resample.Pad: _padded,
    rearrange.RepeatInterleave: _along,
}
"""What becomes of the options, or None where the operation needs its parts apart."""


def _imaginary(t: Tensor) -> Tensor:
    return imag(t) if t._data.dtype.kind == "c" else real_zeros(t)


def _part_of(value: Any, of_real: bool) -> Any:
    if is_array(value) or not hasattr(value, "imag"):
        return value
    return value.real if of_real else value.imag


def _instead(target: Any) -> Rule:
    """Another operation with the same inputs and options."""
    return lambda cls, inputs, options: target.apply(*inputs, **options)


def _formula(function: Callable[..., Any]) -> Rule:
    """A function of tensors with the same arguments."""
    return lambda cls, inputs, options: function(*inputs, **options)


def _named(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    if cls.label not in HOLOMORPHIC:
        raise not_for_complex(cls.label, "x.sgn() is z / |z|" if cls.label == "sign" else "")
    return Holomorphic.apply(*inputs, name=cls.label, **options)


def _absolute(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    if options.get("out") is inputs[0]._data:
        raise not_for_complex("abs_", "the result is real; use x.abs()")
    return ComplexAbs.apply(*inputs, **options)


def _convolution(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    return in_parts(lambda x, w, b: cls.apply(x, w, b, **options), *inputs)


def _spread(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    return spread(cls, *inputs, **options)


def _addcmul(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    x, y, z = inputs
    part = y * z if cls is elementwise.Addcmul else y / z
    result = x + (part if options["value"] == 1 else part * options["value"])
    return _stored(cls, result, options)


def _lerp(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    x, y, w = inputs
    return _stored(cls, x + (y - x) * (options["value"] if w is None else w), options)


def _stored(cls: Any, result: Tensor, options: dict[str, Any]) -> Tensor:
    out = options.get("out")
    if out is None:
        return result
    return Tensor._wrap(into(cls.__name__.lower(), out, result._data))


def _logaddexp(x: Tensor, y: Tensor) -> Any:
    first = real(x).detach() >= real(y).detach()
    large, small = elementwise.where(first, x, y), elementwise.where(first, y, x)
    return large + (small - large).exp().log1p()


def _silu(x: Tensor, parameters: Any = ()) -> Any:
    return x * x.sigmoid()


def _special(cls: Any, inputs: Any, options: dict[str, Any]) -> Any:
    if options["label"] != "sinc":
        raise not_for_complex(options["label"])
    (x,) = inputs
    zero = x == 0
    angle = x.masked_fill(zero, 1.0) * np.pi
    return (angle.sin() / angle).masked_fill(zero, 1.0)


def _activation(name: str) -> Rule:
    return lambda cls, inputs, options: Holomorphic.apply(*inputs, name=name)


_PARTS = (
    adaptive_pool.AdaptiveAvgPool,
    embedding.Embedding,
    gather.Scatter,
    gather.TakeAlong,
    masks.MaskedScatter,
    masks.MaskedSelect,
    pool.AvgPool,
    unfold.ChannelShuffle,
    unfold.Fold,
    resample.Interpolate,
    resample.InterpolateNearest,
    unfold.PixelShuffle,
    unfold.PixelUnshuffle,
    resample.Repeat,
    unfold.Unfold,
)

_FORMS: dict[Any, Any] = {
    binary.Add: ComplexAdd,
    binary.Sub: ComplexSub,
    binary.Mul: ComplexMul,
    binary.Div: ComplexDiv,
    binary.Pow: ComplexPow,
    einsum.Einsum: ComplexEinsum,
    linear.MatMul: ComplexMatMul,
    linear.AddMatMul: ComplexAddMatMul,
    linear.Outer: ComplexOuter,
    bilinear.Bilinear: ComplexBilinear,
    reduce.Prod: ComplexProd,
    order.Cumprod: ComplexCumprod,
    statistics.LogCumSumExp: ComplexLogCumSumExp,
}

complex_rules.update(dict.fromkeys(_PARTS, by_parts))
complex_rules.update(dict.fromkeys(_PAIRS, by_pairs))
complex_rules.update(
    {
        linear.Linear: _formula(linear_layer),
        normalisation.RMSNorm: _formula(normalisation.rms_normalised),
        reduce.Mean: _formula(mean),
        reduce.Norm: _formula(norm),
        Var: _formula(variance),
        Std: _spread,
        VarMean: _spread,
        reduce.LogSumExp: _formula(logsumexp),
        elementwise.Addcmul: _addcmul,
        elementwise.Addcdiv: _addcmul,
        elementwise.Lerp: _lerp,
        evaluated.Special: _special,
        special.LogAddExp: _formula(_logaddexp),
        activation_rules.Softsign: _formula(lambda x, parameters=(): x / (x.abs() + 1)),
        activation_rules.Tanhshrink: _formula(lambda x, parameters=(): x - x.tanh()),
        activation_rules.Sigmoid: _activation("sigmoid"),
        activation_rules.Tanh: _activation("tanh"),
        activation_rules.Silu: _formula(_silu),
        conv.Conv: _convolution,
        conv.ConvTranspose: _convolution,
    }
)


for _real, _form in _FORMS.items():
    _real.complex_form = _form
    complex_rules[_real] = _instead(_form)  # for a complex number beside a real tensor


def _unary_classes(base: Any) -> list[Any]:
    found = [base]
    for cls in base.__subclasses__():
        found += _unary_classes(cls)
    return found


for _cls in _unary_classes(unary.Unary):
    if hasattr(_cls, "label"):
        complex_rules[_cls] = _absolute if _cls.label == "abs" else _named

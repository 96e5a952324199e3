"""What a tensor can do: functions of :mod:`fastdl.ops` become methods and operators of ``Tensor``.

One function serves both ``fastdl.add(x, y)`` and ``x.add(y)``: its first argument is the tensor. In-place variants
come from one mechanism, :func:`fastdl.autograd.view.in_place`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from fastdl import creation, matrices, sparse, typed
from fastdl._graph import wrap
from fastdl.absent import mark_absent
from fastdl.autograd import gradients
from fastdl.autograd.mode import mode
from fastdl.autograd.view import in_place, shape_in_place
from fastdl.dtypes import FLOATING, float32, float64, int64, is_common_integer
from fastdl.kernels import is_array, select
from fastdl.ops import (
    activation,
    binary,
    calculus,
    cast,
    counting,
    diagonals,
    elementwise,
    extreme,
    fill,
    gamma,
    gather,
    histogram,
    indexing,
    linear,
    masks,
    order,
    parts,
    placement,
    products,
    query,
    rare,
    rearrange,
    reduce,
    sampling,
    softmax,
    special,
    spectrogram,
    statistics,
    strided,
    variance,
    views,
)
from fastdl.ops import complex as complex_numbers
from fastdl.ops.arrays import WORD
from fastdl.ops.binary import Binary
from fastdl.published import method
from fastdl.sparse import conversion
from fastdl.tensor import Tensor

# Elementwise functions that can write their result into memory that is there (out=), by number of operands.
_UNARY = """abs absolute neg negative sign floor ceil trunc fix round square sqrt rsqrt reciprocal exp expm1
    log log1p log2 log10 sin cos tan asin acos atan arcsin arccos arctan sinh cosh asinh acosh atanh arcsinh arccosh
    arctanh erf"""
_BINARY = """add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow atan2 arctan2 hypot"""
_COMPARE = """eq ne lt le gt ge not_equal less less_equal greater greater_equal logical_and logical_or logical_xor
    logical_not bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift"""

# Module -> names of functions that are methods, under the same name.
_METHODS: dict[Any, str] = {
    elementwise: f"""{_UNARY} {_BINARY} {_COMPARE} frac positive maximum minimum isnan isinf isfinite isposinf isneginf
        signbit isclose allclose equal clamp clamp_min clamp_max clip addcmul addcdiv lerp""",
    reduce: "sum mean prod logsumexp all any count_nonzero",
    variance: "var std",
    extreme: "amax amin aminmax max min argmax argmin median",
    order: "sort argsort topk kthvalue cumsum cumprod unique",
    views: """clone contiguous reshape view view_as reshape_as flatten ravel unflatten squeeze unsqueeze permute
        transpose swapaxes swapdims t movedim moveaxis expand expand_as broadcast_to adjoint""",
    parts: """narrow diagonal unbind split_with_sizes chunk tensor_split hsplit vsplit dsplit unsafe_chunk
        unsafe_split unfold""",
    strided: "as_strided",
    rearrange: "repeat tile repeat_interleave flip fliplr flipud roll rot90",
    diagonals: "tril triu diag diag_embed diagflat",
    cast: "to type_as double half bfloat16 cfloat cdouble long short char byte",
    fill: "copy_ fill_ zero_",
    creation: "new_tensor new_empty new_empty_strided new_zeros new_ones new_full",
    typed: "new",
    gather: """index_select index_add index_copy index_fill gather take_along_dim scatter scatter_add take""",
    counting: "nonzero nonzero_static argwhere bincount",
    masks: "masked_fill masked_select masked_scatter",
    sampling: """bernoulli multinomial uniform_ normal_ bernoulli_ random_ exponential_ log_normal_ cauchy_
        geometric_""",
    linear: "matmul mm bmm mv dot outer ger addbmm addmm addmv baddbmm",
    activation: "relu sigmoid tanh prelu hardshrink",
    special: """exp2 erfc erfinv lgamma digamma igamma igammac mvlgamma sinc logit deg2rad rad2deg
        logaddexp logaddexp2 xlogy copysign fmax fmin
        heaviside float_power ldexp frexp nextafter i0 gcd lcm nan_to_num isreal""",
    statistics: """nansum nanmean nanmedian quantile nanquantile mode cummax cummin logcumsumexp cov corrcoef
        unique_consecutive msort trace dist renorm""",
    histogram: "histc histogram",
    spectrogram: "istft stft",
    calculus: "diff",
    products: "inner vdot addr cross kron",
    placement: """scatter_reduce index_reduce index_put index_put_ put put_ select_scatter slice_scatter
        diagonal_scatter as_strided_scatter fill_diagonal_""",
    matrices: """cholesky cholesky_inverse cholesky_solve det inverse logdet matrix_exp matrix_power norm pinverse qr
        slogdet svd lu lu_solve orgqr triangular_solve""",
    complex_numbers: "angle conj conj_physical resolve_conj resolve_neg sgn",
    conversion: conversion.METHODS,
    rare: "apply_ map_ map2_ resize_ resize_as_ set_ narrow_copy",
    query: """is_conj is_inference is_neg is_nonzero is_same_size is_signed
        sum_to_size""",
}


_RENAMED: dict[str, Callable[..., Any]] = {
    "select": parts.select_dim,
    "split": parts.split_method,
    "float": cast.float_,
    "int": cast.int_,
    "bool": cast.to_bool,
    "type": cast.type_,
    "where": elementwise.where_method,
    "polygamma": gamma.polygamma_method,
    "backward": gradients.tensor_backward,
    "softmax": method(softmax.softmax_method),
    "log_softmax": method(softmax.log_softmax_method),
    "__getitem__": indexing.getitem,
    "__setitem__": indexing.setitem,
    "__abs__": elementwise.abs,
    "__neg__": elementwise.neg,
    "__pos__": elementwise.positive,
    "__invert__": elementwise.bitwise_not,
}
_PROPERTIES = {
    "T": views._T,
    "mT": views._mT,
    "H": views._H,
    "mH": views.adjoint,
    "real": complex_numbers.real,
    "imag": complex_numbers.imag,
}
# Others that take out=: in place they need no second pass.
_IN_PLACE_OUT = """bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift
    clamp clamp_min clamp_max clip addcmul addcdiv lerp sgn index_add index_copy index_fill scatter
    scatter_add masked_fill logical_and logical_or logical_xor logical_not tril triu nan_to_num eq ne lt le gt ge
    not_equal less less_equal greater greater_equal"""
_IN_PLACE = """sigmoid tanh bitwise_not relu frac index_reduce scatter_reduce masked_scatter addmm addmv addr
    addbmm baddbmm cumsum cumprod exp2 erfc erfinv lgamma digamma polygamma sinc logit deg2rad rad2deg xlogy
    copysign conj_physical float_power heaviside igamma igammac mvlgamma ldexp nextafter gcd lcm i0 renorm"""
_SHAPE_IN_PLACE = "squeeze unsqueeze transpose swapaxes swapdims t"

# Python's operators: dunder name without underscores -> function of two operands.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": elementwise.add,
    "sub": elementwise.sub,
    "mul": elementwise.mul,
    "truediv": elementwise.div,
    "floordiv": elementwise.floor_divide,
    "mod": elementwise.remainder,
    "pow": elementwise.pow,
    "matmul": linear.matmul,
    "and": elementwise.bitwise_and,
    "or": elementwise.bitwise_or,
    "xor": elementwise.bitwise_xor,
    "lshift": elementwise.bitwise_left_shift,
    "rshift": elementwise.bitwise_right_shift,
}
_COMPARISONS = {name: getattr(elementwise, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_OPERANDS = (Tensor, int, float, complex, np.number, np.bool_)

# NumPy's functions on tensors that have a counterpart here: numpy_array + tensor is a Tensor, with a gradient.
_UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: elementwise.add,
    np.subtract: elementwise.sub,
    np.multiply: elementwise.mul,
    np.true_divide: elementwise.div,
    np.floor_divide: elementwise.floor_divide,
    np.remainder: elementwise.remainder,
    np.power: elementwise.pow,
    np.matmul: linear.matmul,
    np.maximum: elementwise.maximum,
    np.minimum: elementwise.minimum,
    np.equal: elementwise.eq,
    np.not_equal: elementwise.ne,
    np.less: elementwise.lt,
    np.less_equal: elementwise.le,
    np.greater: elementwise.gt,
    np.greater_equal: elementwise.ge,
    np.negative: elementwise.neg,
    np.absolute: elementwise.abs,
    np.exp: elementwise.exp,
    np.log: elementwise.log,
    np.sqrt: elementwise.sqrt,
    np.sin: elementwise.sin,
    np.cos: elementwise.cos,
}


def _other(value: Any) -> Any:
    """An array as the other operand: on the same memory, without gradient."""
    if isinstance(value, np.ndarray):
        return creation.from_numpy(value)
    return Tensor._wrap(value) if is_array(value) else value


def on_ufunc(ufunc: Any, inputs: Any) -> Any:
    """``ufunc(*inputs)`` by fastdl, or None if it has no such function."""
    function = _UFUNCS.get(ufunc)
    return None if function is None else function(*[_other(x) for x in inputs])


def _operator(function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    """A binary operator: an operand of a type unknown here gets its turn (NotImplemented)."""

    def operator(self: Tensor, other: Any) -> Any:
        try:
            return function(other, self) if swapped else function(self, other)
        except (TypeError, AttributeError):
            if is_array(other):
                return operator(self, _other(other))
            if isinstance(other, _OPERANDS) and function is not linear.matmul:
                raise
            if isinstance(other, Tensor):
                raise
            return NotImplemented

    return wraps(function)(operator)


def _direct(
    general: Callable[..., Any], kernel: str, op: type[Binary] | None = None, integers: bool = True
) -> Callable[..., Any]:
    """An operator that goes straight to its kernel where no graph and no conversion asks for more: half of the time.

    Else straight to ``op``, if other is a tensor.
    """

    def operator(self: Tensor, other: Any) -> Any:
        x = self._data
        y = _plain_operand(self, x, other, integers)
        if y is None:
            if op is not None and isinstance(other, Tensor):
                return op.apply(self, other)
            return general(self, other)
        return wrap(getattr(select(x), kernel)(x, y))

    return wraps(general)(operator)


def _direct_method(
    general: Callable[..., Any], kernel: str, integers: bool, stores: bool
) -> Callable[..., Any]:
    """The same for a method, which may have options, or store the result in its tensor."""

    def method(self: Tensor, *args: Any, **options: Any) -> Any:
        x = self._data
        if len(args) == 1 and not options:
            y = _plain_operand(self, x, args[0], integers)
            if y is not None:
                if not stores:
                    return wrap(getattr(select(x), kernel)(x, y))
                if x.flags.writeable:
                    getattr(select(x), kernel)(x, y, x)
                    cell = self._counter
                    if cell is None:
                        self._counter = [1]
                    else:
                        cell[0] += 1
                    return self
        return general(self, *args, **options)

    return wraps(general)(method)


def _plain_operand(self: Tensor, x: Any, other: Any, integers: bool) -> Any:
    """What a kernel takes beside ``x``, the tensor's array, if nothing is recorded and nothing converted; else None."""
    dtype = x.dtype
    if x.__class__ is not np.ndarray:
        return None
    if dtype is float32 or dtype is float64:
        if other.__class__ is float or other.__class__ is int:
            return None if self._requires_grad and mode.enabled else other
    elif dtype.kind in FLOATING:
        pass  # half precision; numbers beside it are rounded first where they are compared
    elif not (integers and is_common_integer(dtype)):
        return None
    elif other.__class__ is int:
        return other if 0 <= other < 128 or (dtype is int64 and -WORD <= other < WORD) else None
    if isinstance(other, Tensor):
        y = other._data
        if y.dtype is dtype and y.__class__ is np.ndarray:
            return None if (self._requires_grad or other._requires_grad) and mode.enabled else y
    return None


def _setter(part: Callable[..., Any]) -> Callable[..., None] | None:
    """``x.real = y`` and ``x.imag = y``: written into the view."""
    if part not in (complex_numbers.real, complex_numbers.imag):
        return None

    def write(self: Tensor, value: Any) -> None:
        fill.copy_(part(self), value)

    return write


_FILLS: dict[str, Callable[..., None]] = {
    "masked_fill": indexing.fill_by_mask,
    "index_fill": indexing.fill_by_index,
}


def attach() -> None:
    """Give ``Tensor`` its methods; called once, at import."""
    for module, names in _METHODS.items():
        for name in names.split():
            setattr(Tensor, name, method(getattr(module, name)))
    for name, function in _RENAMED.items():
        setattr(Tensor, name, function)
    for name, function in _PROPERTIES.items():
        setattr(Tensor, name, property(function, _setter(function), doc=function.__doc__))
    for name in f"{_UNARY} {_BINARY}".split():
        setattr(Tensor, name + "_", in_place(getattr(elementwise, name), name + "_", writes_out=True))
    for name in _IN_PLACE_OUT.split():
        fills = _FILLS.get(name)
        setattr(Tensor, name + "_", in_place(getattr(Tensor, name), name + "_", writes_out=True, fills=fills))
    for name in _IN_PLACE.split():
        made = getattr(activation, name + "_", None)
        setattr(Tensor, name + "_", made or in_place(getattr(Tensor, name), name + "_"))
    for name in _SHAPE_IN_PLACE.split():
        setattr(Tensor, name + "_", shape_in_place(getattr(views, name), name + "_"))
    for name, function in _OPERATORS.items():
        setattr(Tensor, f"__{name}__", _operator(function))
        setattr(Tensor, f"__r{name}__", _operator(function, swapped=True))
        if name != "matmul":  # torch has none either: x @= y makes a new tensor
            writes_out = function.__name__ in f"{_BINARY} {_IN_PLACE_OUT}".split()
            setattr(Tensor, f"__i{name}__", in_place(function, f"__i{name}__", writes_out))
    mark_absent(Tensor)
    for name, function in _COMPARISONS.items():
        setattr(Tensor, f"__{name}__", _direct(_operator(function), name + "_forward"))
    for name in ("add", "sub", "mul", "div"):
        kernel, integers = name + "_forward", name != "div"
        operator = name if integers else "truediv"
        own = f"__{operator}__"
        op = getattr(binary, name.capitalize())
        setattr(Tensor, own, _direct(getattr(Tensor, own), kernel, op, integers))
        for own, stores in ((name, False), (name + "_", True), (f"__i{operator}__", True)):
            setattr(Tensor, own, _direct_method(getattr(Tensor, own), kernel, integers, stores))
    sparse.attach()


attach()

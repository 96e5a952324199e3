"""Activation functions; see ``torch.nn.functional``.

All work elementwise on floating-point tensors of any shape and return a tensor of the same shape (``glu``
halves an axis). ``inplace=True`` stores the result in the input, as the functions with a trailing underscore
do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastdl.arrays import pooled_copy
from fastdl.autograd.view import in_place, write
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError
from fastdl.kernels import on_device, select
from fastdl.ops.activation_rules import (
    Elementwise,
    Elu,
    Gelu,
    GeluTanh,
    Glu,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyRelu,
    LeakyReluInPlace,
    Logsigmoid,
    MaximumZero,
    Mish,
    Prelu,
    Relu,
    ReluInPlace,
    Rrelu,
    Sigmoid,
    Silu,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from fastdl.ops.arrays import WORD, has_integer_kernels
from fastdl.ops.common import axis, floating
from fastdl.ops.elementwise import clamp, clamp_min, gt, where
from fastdl.random import Generator, default_generator
from fastdl.tensor import Tensor


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); integers stay integers. See ``torch.nn.functional.relu``.

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.relu(fastdl.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if inplace:
        return relu_(input)
    if input._data.dtype.kind in "iu":
        return MaximumZero.apply(input)  # type: ignore[no-any-return]
    return Relu.apply(input)  # type: ignore[no-any-return]


def _relu_into(input: Tensor, out: Tensor | None = None) -> Tensor:
    """``relu``; with ``out``, which is the input then, in its memory: nothing is recorded."""
    if out is None:
        return relu(input)
    x = input._data
    if x.dtype.kind not in FLOATING:
        return clamp_min(input, 0, out=out)
    select(x).clamp_forward(x, 0.0, math.inf, x)
    out._bump_version()
    return out


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x)). See ``torch.sigmoid``."""
    return Sigmoid.apply(floating(input))  # type: ignore[no-any-return]


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent. See ``torch.tanh``."""
    return Tanh.apply(floating(input))  # type: ignore[no-any-return]


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope * x. See ``torch.nn.functional.leaky_relu``."""
    if inplace:
        return leaky_relu_(input, negative_slope)
    return LeakyRelu.apply(input, parameters=(negative_slope,))  # type: ignore[no-any-return]


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), Phi the normal distribution function. See ``torch.nn.functional.gelu``.

    Args:
        input: any shape.
        approximate: ``"none"``, or ``"tanh"`` for x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).
    """
    if approximate == "none":
        return Gelu.apply(input)  # type: ignore[no-any-return]
    if approximate == "tanh":
        return GeluTanh.apply(input)  # type: ignore[no-any-return]
    raise ArgumentError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x), also known as swish. See ``torch.nn.functional.silu``."""
    if inplace:
        return silu_(input)
    return Silu.apply(input)  # type: ignore[no-any-return]


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(log(1 + exp(x))). See ``torch.nn.functional.mish``."""
    if inplace:
        return mish_(input)
    return Mish.apply(input)  # type: ignore[no-any-return]


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1). See ``torch.nn.functional.elu``."""
    if inplace:
        return elu_(input, alpha)
    return Elu.apply(input, parameters=(alpha, 1.0, 1.0))  # type: ignore[no-any-return]


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha * (exp(x / alpha) - 1). See ``torch.nn.functional.celu``."""
    if inplace:
        return celu_(input, alpha)
    return Elu.apply(input, parameters=_celu_parameters(input, alpha))  # type: ignore[no-any-return]


_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale * (x where x > 0, else alpha * (exp(x) - 1)), the constants of self-normalizing networks.

    See ``torch.nn.functional.selu``.
    """
    if inplace:
        return selu_(input)
    return Elu.apply(input, parameters=_SELU)  # type: ignore[no-any-return]


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold.

    See ``torch.nn.functional.softplus``.
    """
    return Softplus.apply(input, parameters=(beta, threshold))  # type: ignore[no-any-return]


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]. See ``torch.nn.functional.hardtanh``."""
    if inplace:
        return hardtanh_(input, min_val, max_val)
    limits = _limits(input, min_val, max_val)
    x = input._data
    if x.dtype.kind in "iu" and has_integer_kernels(x) and -WORD <= min_val <= max_val < WORD:
        return clamp(input, int(min_val), int(max_val))
    return Hardtanh.apply(input, parameters=limits)  # type: ignore[no-any-return]


def _limits(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> tuple[float, ...]:
    if min_val > max_val:
        raise ArgumentError(
            f"hardtanh: min_val must not exceed max_val, got min_val={min_val}, max_val={max_val}"
        )
    return min_val, max_val


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]. See ``torch.nn.functional.relu6``."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """x + 3, limited to [0, 6], over 6. See ``torch.nn.functional.hardsigmoid``."""
    if inplace:
        return hardsigmoid_(input)
    return Hardsigmoid.apply(input)  # type: ignore[no-any-return]


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x). See ``torch.nn.functional.hardswish``."""
    if inplace:
        return hardswish_(input)
    return Hardswish.apply(input)  # type: ignore[no-any-return]


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """0 where |x| <= lambd, else x. See ``torch.nn.functional.hardshrink``."""
    return Hardshrink.apply(input, parameters=(lambd,))  # type: ignore[no-any-return]


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved by lambd towards 0, and 0 where |x| <= lambd. See ``torch.nn.functional.softshrink``."""
    if lambd < 0:
        raise ArgumentError(f"softshrink: lambd must not be negative, got {lambd}")
    return Softshrink.apply(input, parameters=(lambd,))  # type: ignore[no-any-return]


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x). See ``torch.nn.functional.tanhshrink``."""
    return Tanhshrink.apply(floating(input))  # type: ignore[no-any-return]


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|). See ``torch.nn.functional.softsign``."""
    return Softsign.apply(floating(input))  # type: ignore[no-any-return]


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)). See ``torch.nn.functional.logsigmoid``."""
    return Logsigmoid.apply(input)  # type: ignore[no-any-return]


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else value. See ``torch.nn.functional.threshold``."""
    if inplace:
        return threshold_(input, threshold, value)
    if has_integer_kernels(input._data) and threshold.__class__ is int is value.__class__:
        return where(gt(input, threshold), input, value)  # type: ignore[no-any-return]
    return Threshold.apply(input, parameters=(threshold, value))  # type: ignore[no-any-return]


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight * x, the weight learned. See ``torch.nn.functional.prelu``.

    Args:
        input: (N, C, ...), or any shape with a single weight.
        weight: one number for all elements, or a vector with one for each channel (axis 1).
    """
    channels = input.shape[1] if input.ndim >= 2 else 1
    if weight.ndim > 1:
        raise ArgumentError(f"prelu: weight must be a number or a vector, got shape {tuple(weight.shape)}")
    if weight.numel() not in (1, channels):
        raise ArgumentError(
            "prelu: weight must have 1 element or one per channel (axis 1 of input): "
            f"{channels} for an input of shape {tuple(input.shape)}, got {weight.numel()}"
        )
    return Prelu.apply(input, weight)  # type: ignore[no-any-return]


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """x where x > 0, else a * x: a drawn from U(lower, upper) for each element, or their mean outside
    training.

    See ``torch.nn.functional.rrelu``.
    """
    if inplace:
        return rrelu_(input, lower, upper, training, generator=generator)
    if not lower <= upper:
        raise ArgumentError(f"rrelu: lower must not exceed upper, got lower={lower}, upper={upper}")
    if not training:
        return LeakyRelu.apply(input, parameters=((lower + upper) / 2,))  # type: ignore[no-any-return]
    drawn = (default_generator if generator is None else generator).draw(on_device(input._data))
    return Rrelu.apply(input, parameters=(lower, upper, *drawn))  # type: ignore[no-any-return]


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of the input along ``dim``.

    See ``torch.nn.functional.glu``.
    """
    if input.ndim == 0:
        raise ArgumentError("glu: input must have at least one dimension, got a scalar")
    d = axis("glu", dim, input.ndim)
    if input.shape[d] % 2:
        raise ArgumentError(
            f"glu: the size of input along dim must be even to be halved, got {tuple(input.shape)}, dim={dim}"
        )
    return Glu.apply(input, dim=d)  # type: ignore[no-any-return]


def _changing(
    function: Callable[..., Tensor],
    op: type[Elementwise],
    parameters: Callable[..., tuple[float, ...]] | None = None,
    from_result: Callable[..., type[Elementwise] | None] = lambda *parameters: None,
) -> Callable[..., Tensor]:
    """The activation with a trailing underscore, whose kernel writes over what it reads.

    ``parameters``: of the kernel, from the function's arguments; none if absent. ``from_result`` gives for these the
    operation whose slope follows from its result; without one backward keeps a copy of what was there.
    """
    name = f"{function.__name__}_"
    numbers: Callable[..., tuple[float, ...]] = parameters or (lambda input: ())
    numbers.__qualname__ = name  # which Python's errors about arguments name

    def into(input: Tensor, *args: Any, out: Tensor | None = None, **options: Any) -> Tensor:
        if out is None:
            return function(input, *args, **options)
        x = out._data
        if x.dtype.kind not in FLOATING or not x.flags.c_contiguous:
            return write(name, out, function(input, *args, **options))
        getattr(select(x), op._forward)(x, *numbers(input, *args, **options), x)
        out._bump_version()
        return out

    def over(before: Tensor, *args: Any, **options: Any) -> Tensor:
        given, x = numbers(before, *args, **options), before._data
        into = x if x.flags.c_contiguous else None
        if into is not None and (shorter := from_result(*given)) is not None:
            return shorter.apply(before, parameters=given, into=into)  # type: ignore[no-any-return]
        before._data = pooled_copy(x)
        result: Tensor = op.apply(before, parameters=given, into=into)
        if result._node is not None:
            result._node.versions = None  # the copy is its own
        return result

    into.__name__, into.__qualname__ = function.__name__, name
    return in_place(into, name, writes_out=True, overwrite=over)


def _celu_parameters(input: Tensor, alpha: float = 1.0) -> tuple[float, ...]:
    if alpha == 0:
        raise ArgumentError("celu: alpha must not be 0 (x is divided by it)")
    return alpha, 1.0, 1.0 / alpha


_relu_into.__name__ = "relu"  # which relu_ has in its docstring
relu_ = in_place(_relu_into, "relu_", writes_out=True, overwrite=ReluInPlace.apply)
sigmoid_ = _changing(sigmoid, Sigmoid, from_result=lambda: Sigmoid)
tanh_ = _changing(tanh, Tanh, from_result=lambda: Tanh)
leaky_relu_ = _changing(
    leaky_relu,
    LeakyRelu,
    lambda input, negative_slope=0.01: (negative_slope,),
    from_result=lambda slope: LeakyReluInPlace if slope > 0 else None,
)
silu_ = _changing(silu, Silu)
mish_ = _changing(mish, Mish)
elu_ = _changing(elu, Elu, lambda input, alpha=1.0: (alpha, 1.0, 1.0))
celu_ = _changing(celu, Elu, _celu_parameters)
selu_ = _changing(selu, Elu, lambda input: _SELU)
hardtanh_ = _changing(hardtanh, Hardtanh, _limits)
hardsigmoid_ = _changing(hardsigmoid, Hardsigmoid)
hardswish_ = _changing(hardswish, Hardswish)
threshold_ = _changing(threshold, Threshold, lambda input, threshold, value: (threshold, value))


def _rrelu_once(input: Tensor, lower: float, upper: float, training: bool, drawn: Generator) -> Tensor:
    # in_place may run its function twice: the same slopes must come out.
    return rrelu(input, lower, upper, training, generator=drawn.clone_state())


def rrelu_(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """:func:`rrelu`, with the result stored in the input."""
    generator = default_generator if generator is None else generator
    drawn = generator.clone_state()
    if training:
        generator.draw()
    return _rrelu_in_place(input, lower, upper, training, drawn=drawn)


_rrelu_in_place = in_place(_rrelu_once, "rrelu_")

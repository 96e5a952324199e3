"""Functions and products of complex numbers from the kernels of real ones.

    exp(x + iy) = e^x (cos y + i sin y)        log z = log |z| + i atan2(y, x), with log1p beside |z| = 1
    sin z = sin x cosh y + i cos x sinh y      and likewise cos, sinh, cosh, which have these real functions
    tanh z = (b c s + i t) / (1 + b s^2)       with s = sinh x, c = cosh x, t = tan y, b = 1 + t^2
    sqrt z = s + i y / 2s                      with s = sqrt((|z| + |x|) / 2), for x >= 0

NumPy's are right for infinities and to the last bit, on one thread and number by number. Where all parts are small
enough that nothing on the way overflows, these are within a few units of the last place of the larger part, and ten
times as fast. (Kahan, Branch Cuts for Complex Elementary Functions, 1987, has the last two.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.dtypes import complex64, float32
from fastdl.kernels import array as as_array
from fastdl.kernels import cpu as k
from fastdl.kernels import select
from fastdl.ops.arrays import empty, empty_as_it_lies

_FEW = 128  # numbers that NumPy is done with before several kernels are called

Parts = Callable[[Any, Any, Any, Any], None]
"""f(x, y, re, im): the parts of the result from those of the argument."""


def _exp(x: Any, y: Any, re: Any, im: Any) -> None:
    size = k.exp_forward(x)
    k.mul_forward(size, k.cos_forward(y), re)
    k.mul_forward(size, k.sin_forward(y), im)


def _log(x: Any, y: Any, re: Any, im: Any, scale: float = 1.0) -> None:
    # |z|^2 - 1, from whose small values log |z| is as exact; |z| itself would round them away.
    rest = k.mul_forward(k.sub_forward(x, 1.0), k.add_forward(x, 1.0))
    k.add_forward(rest, k.mul_forward(y, y), rest)
    far = k.log_forward(k.hypot_forward(x, y))
    near = k.lt_forward(k.abs_forward(rest), 0.5)
    size = k.where_forward(near, k.mul_forward(k.log1p_forward(rest), 0.5), far)
    k.mul_forward(size, scale, re)
    k.mul_forward(k.atan2_forward(y, x), scale, im)


def _sqrt(x: Any, y: Any, re: Any, im: Any) -> None:
    size = k.hypot_forward(x, y)
    large = k.sqrt_forward(k.mul_forward(k.add_forward(size, k.abs_forward(x)), 0.5))
    small = k.div_forward(k.mul_forward(y, 0.5), k.where_forward(k.eq_forward(large, 0.0), 1.0, large))
    right = k.ge_forward(x, 0.0)
    re[...] = k.where_forward(right, large, k.abs_forward(small))
    im[...] = k.where_forward(right, small, k.copysign_forward(large, y))


def _of_products(first: str, second: str, third: str, fourth: str, sign: float = 1.0) -> Parts:
    """re = first(x) second(y), im = +-third(x) fourth(y)"""

    def parts(x: Any, y: Any, re: Any, im: Any) -> None:
        of = {n: getattr(k, f"{n}_forward") for n in (first, second, third, fourth)}
        k.mul_forward(of[first](x), of[second](y), re)
        last = of[third](x)
        k.mul_forward(last if sign == 1 else k.neg_forward(last), of[fourth](y), im)

    return parts


def _tanh(x: Any, y: Any, re: Any, im: Any) -> None:
    s, t = k.sinh_forward(x), k.tan_forward(y)
    b = k.add_forward(k.mul_forward(t, t), 1.0)
    whole = k.add_forward(k.mul_forward(b, k.mul_forward(s, s)), 1.0)
    k.div_forward(k.mul_forward(k.mul_forward(b, s), k.cosh_forward(x)), whole, re)
    k.div_forward(t, whole, im)


def _tan(x: Any, y: Any, re: Any, im: Any) -> None:
    _tanh(y, x, im, re)  # tan z = -i tanh(iz), and tanh is odd in its real part


_ANY = 3.4e38
_COMPOSED: dict[str, tuple[Parts, float, float]] = {
    "exp": (_exp, 80.0, _ANY),
    "log": (_log, 1e37, 1e37),
    "log2": (lambda x, y, re, im: _log(x, y, re, im, 1 / math.log(2)), 1e37, 1e37),
    "log10": (lambda x, y, re, im: _log(x, y, re, im, 1 / math.log(10)), 1e37, 1e37),
    "sqrt": (_sqrt, 1e37, 1e37),
    "sin": (_of_products("sin", "cosh", "cos", "sinh"), _ANY, 80.0),
    "cos": (_of_products("cos", "cosh", "sin", "sinh", -1.0), _ANY, 80.0),
    "sinh": (_of_products("sinh", "cos", "cosh", "sin"), 80.0, _ANY),
    "cosh": (_of_products("cosh", "cos", "sinh", "sin"), 80.0, _ANY),
    "tanh": (_tanh, 15.0, 15.0),
    "tan": (_tan, 15.0, 15.0),
}
"""Name -> the function, and up to which absolute values of x and of y it is right in single precision.

Only what grows exponentially has to stay small: the kernels' sine and cosine are exact for every finite angle."""


def composed(name: str, z: Any) -> Any:
    """The function of a complex array of NumPy's in memory of its own, or None: NumPy's own is wanted."""
    if not z.size:
        return None
    if name == "neg":
        return k.neg_forward(_pairs(z)).view(z.dtype)[..., 0]
    if z.dtype is complex64 and name in ("square", "reciprocal", "sigmoid"):
        return _by_arithmetic(name, z)
    found = _COMPOSED.get(name)
    if found is None or z.size < _FEW or not _within(z, *found[1:]):
        return None
    result = empty_as_it_lies(z)
    found[0](z.real, z.imag, result.real, result.imag)
    return result


def _within(z: Any, x: float, y: float) -> bool:
    """Are all real parts of an absolute value of at most ``x``, the imaginary ones of ``y``? No, if there is a NaN."""
    largest = _largest(_pairs(z))
    return largest <= min(x, y) or (
        largest <= max(x, y) and x != y and _largest(z.real if x < y else z.imag) <= min(x, y)
    )


def _largest(a: Any) -> float:
    return float(k.norm_forward(a, math.inf, None, False))


def _pairs(z: Any) -> Any:
    return z[..., None].view(z.real.dtype)


_ONE = np.asarray(1, complex64)


def _by_arithmetic(name: str, z: Any) -> Any:
    if name == "square":
        return k.complex_multiply(z, z)
    if name == "reciprocal":
        return k.complex_divide(_ONE, z)
    e = composed("exp", composed("neg", z))
    return None if e is None else k.complex_divide(_ONE, k.complex_add(e, _ONE, e))


_WORTH = 1 << 10  # multiplications; smaller products are NumPy's


def product(a: Any, b: Any) -> Any:
    """a @ b of matrices, or vectors if they are complex; a batch on the left of one matrix is one long product.

    Of complex64 on the CPU by the real kernel: pairs times a matrix of twice the rows and columns. Others are NumPy's.
    """
    if a.dtype.kind != "c":
        return select(a).matmul(a, b)
    if a.ndim > 2 and b.ndim == 2:
        y = product(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b)
        return y.reshape(*a.shape[:-1], b.shape[-1])
    if a.__class__ is np.ndarray and a.ndim > 1 and b.ndim > 1 and a.dtype is complex64 is b.dtype:
        m, (n, p) = a.shape[-2], b.shape[-2:]
        if min(m, p) > 2 and a.shape[-1] == n and max(a.size * p, b.size * m) >= _WORTH:
            pairs = (a if a.flags.c_contiguous else pooled_copy(a)).view(float32)
            return k.matmul(pairs, k.complex_rows(b)).view(complex64)
    with np.errstate(all="ignore"):
        if a.ndim == 2 and b.ndim == 2:
            return np.matmul(a, b, out=empty((a.shape[0], b.shape[1]), a.dtype, a))
        return as_array(np.matmul(a, b), a)

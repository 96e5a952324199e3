"""Methods that are functions, too, by the names of ``torch.*``: ``fastdl.exp_(x)`` is ``x.exp_()``."""

from collections.abc import Callable
from typing import Any

from fastdl import methods  # noqa: F401 -- gives Tensor its methods
from fastdl.published import publish
from fastdl.tensor import Tensor

_NAMES = """
abs_ acos_ acosh_ addmv_ arccos_ arccosh_ arcsin_ arcsinh_ arctan_ arctanh_ asin_ asinh_ atan_
atanh_ ceil_ clamp_ clamp_max_ clamp_min_ clip_ conj_physical_ cos_ cosh_ deg2rad_ detach detach_
erf_ erfc_ exp2_ exp_ expm1_ fill_ fix_ floor_ frac_ gcd_ i0_ index_put_ lcm_ ldexp_ log10_ log1p_
log2_ log_ logit_ nan_to_num_ neg_ negative_ rad2deg_ reciprocal_ round_ rsqrt_ sigmoid_ sin_ sinc_
sinh_ sqrt_ square_ tan_ tanh_ trunc_ xlogy_ zero_
"""
__all__ = _NAMES.split()


def _function(name: str) -> Callable[..., Tensor]:
    method = getattr(Tensor, name)

    def function(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return method(input, *args, **options)  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = method.__doc__
    return function


globals().update({name: _function(name) for name in __all__})
publish(globals(), __all__)

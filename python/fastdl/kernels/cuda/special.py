"""Special functions; see :mod:`fastdl.kernels.reference.special`. 16-bit types are computed in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, operand
from fastdl.kernels.cuda.elementwise import prepare, result_array

__all__ = [
    "digamma_forward",
    "entr_forward",
    "erfc_forward",
    "erfcx_forward",
    "erfinv_forward",
    "i0_forward",
    "i0e_forward",
    "i1_forward",
    "i1e_forward",
    "igamma_forward",
    "igammac_forward",
    "lgamma_forward",
    "log_ndtr_forward",
    "logit_forward",
    "ndtr_forward",
    "ndtri_forward",
    "sinc_forward",
    "special_backward",
    "trigamma_forward",
    "zeta_forward",
]


def _named(op: str) -> Callable[..., Array]:
    def forward(x: Array, out: Array | None = None) -> Array:
        runtime, number, dtype, shape = prepare(op, x)
        y = result_array(op, runtime, shape, dtype, out)
        runtime.extension.special(
            op, number, shape, operand(runtime, y, shape), operand(runtime, x, shape), runtime.stream()
        )
        return y

    return forward


lgamma_forward = _named("lgamma")
digamma_forward = _named("digamma")
trigamma_forward = _named("trigamma")
erfc_forward = _named("erfc")
erfcx_forward = _named("erfcx")
erfinv_forward = _named("erfinv")
ndtr_forward = _named("ndtr")
log_ndtr_forward = _named("log_ndtr")
ndtri_forward = _named("ndtri")
i0_forward = _named("i0")
i0e_forward = _named("i0e")
i1_forward = _named("i1")
i1e_forward = _named("i1e")
logit_forward = _named("logit")
entr_forward = _named("entr")
sinc_forward = _named("sinc")


def _of_two(op: str) -> Callable[[Any, Any], Array]:
    def forward(x: Any, y: Any) -> Array:
        runtime, number, dtype, shape = prepare(op, x, y)
        z = runtime.empty(shape, dtype)
        runtime.extension.special_pair(
            op,
            number,
            shape,
            operand(runtime, z, shape),
            operand(runtime, x, shape),
            operand(runtime, y, shape),
            runtime.stream(),
        )
        return z

    return forward


igamma_forward = _of_two("igamma")
igammac_forward = _of_two("igammac")
zeta_forward = _of_two("zeta")


def special_backward(op: str, grad_y: Array, x: Array) -> Array:
    """grad_y f'(x), in one pass; for all but trigamma, whose derivative is not among these functions."""
    runtime, shape = device.of(x), x.shape
    number = device.code(f"{op}_backward", x, grad_y)
    grad_x = runtime.empty(shape, x.dtype)
    runtime.extension.special_gradient(
        op,
        number,
        shape,
        operand(runtime, grad_x, shape),
        operand(runtime, grad_y, shape),
        operand(runtime, x, shape),
        runtime.stream(),
    )
    return grad_x

"""Optimizer updates; see :mod:`fastdl.kernels.reference.optim`. All parameters of a dtype go in few launches.

``steps`` (and ``mu_products``) lie in the CPU's memory, as NumPy arrays: then the host computes what depends on them.
Or they lie on the device, as float32, and the device computes it, which a CUDA graph can record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.reduce import norm_forward

Arrays = list[Array]

__all__ = [
    "adadelta_step",
    "adagrad_step",
    "adam_step",
    "adamax_step",
    "nadam_step",
    "radam_step",
    "rmsprop_step",
    "scale_arrays",
    "sgd_step",
    "total_norm",
]


def _run(
    rule: str,
    params: Arrays,
    grads: Arrays,
    states: Sequence[Arrays | None],
    factors: Callable[[int], tuple[float, ...]],
    *,
    lr: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled: bool = False,
    nesterov: bool = False,
    first: bool = False,
    a: float = 0.0,
    b: float = 0.0,
    eps: float = 0.0,
    steps: Arrays | None = None,
    mu_products: Arrays | None = None,
    beta1: float = 0.0,
    momentum_decay: float = 0.0,
) -> None:
    for group in (grads, *states, steps, mu_products):
        if group is not None and len(group) != len(params):
            raise ArgumentError(f"{rule}: {len(params)} parameters, but a list of {len(group)} arrays")
    counted = _on_device(rule, steps, mu_products)
    by_dtype: dict[int, list[Any]] = {}
    strided: list[tuple[Array, Array]] = []  # arrays updated through a copy in C order
    gradients = [device.contiguous(grad) for grad in grads]

    def dense(array: Array) -> Array:
        if array.flags.c_contiguous:
            return array
        copy = device.contiguous(array)
        strided.append((array, copy))
        return copy

    for i, param in enumerate(params):
        mine = [state[i] for state in states if state is not None]
        number = device.code(rule, param, grads[i], *mine)
        for other in (grads[i], *mine):
            device.same_shape(rule, param, other, "a parameter and its gradient or state")
        runtime = device.of(param)
        pointers = tuple(0 if state is None else runtime.pointer(dense(state[i])) for state in states)
        entry = (
            runtime.pointer(dense(param)),
            runtime.pointer(gradients[i]),
            pointers,
            param.size,
            () if counted else factors(i),
            runtime.pointer(steps[i]) if counted and steps is not None else 0,
            runtime.pointer(mu_products[i]) if counted and mu_products is not None else 0,
        )
        by_dtype.setdefault(number, []).append(entry)
    for number, entries in by_dtype.items():
        kind = np.dtype(np.float64 if number == device.DTYPES["float64"] else np.float32)
        scratch = runtime.empty((len(entries), 3), kind) if counted else None
        runtime.extension.optimizer_step(
            rule,
            number,
            entries,
            lr,
            weight_decay,
            maximize,
            decoupled,
            nesterov,
            first,
            a,
            b,
            eps,
            beta1,
            momentum_decay,
            runtime.pointer(scratch),
            runtime.stream(),
        )
    for array, copy in strided:
        array[...] = copy


def _on_device(rule: str, *counts: Arrays | None) -> bool:
    """Do the counts lie on the device? All of them, as float32, or none."""
    found = [c for group in counts if group is not None for c in group]
    on_device = [c for c in found if not isinstance(c, np.ndarray)]
    if on_device and (len(on_device) < len(found) or any(c.dtype != np.float32 for c in found)):
        raise ArgumentError(f"{rule}: counts of steps on the device must all be there, as float32")
    return bool(on_device)


def _advance(step: Array) -> float:
    step += 1
    return float(step)


def _none(i: int) -> tuple[float, ...]:
    return ()


def sgd_step(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> None:
    _run(
        "sgd",
        params,
        grads,
        [momentum_buffers],
        _none,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        nesterov=nesterov,
        first=first,
        a=momentum,
        b=1 - dampening,
    )


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None,
    steps: Arrays,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    decoupled: bool,
) -> None:
    def factors(i: int) -> tuple[float, ...]:
        t = _advance(steps[i])
        return lr / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)

    _run(
        "adam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs, max_exp_avg_sqs],
        factors,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        decoupled=decoupled,
        a=1 - beta1,
        b=beta2,
        eps=eps,
        steps=steps,
        beta1=beta1,
    )


def adagrad_step(
    params: Arrays,
    grads: Arrays,
    sums: Arrays,
    steps: Arrays,
    lr: float,
    lr_decay: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    def factors(i: int) -> tuple[float, ...]:
        return (lr / (1 + (_advance(steps[i]) - 1) * lr_decay),)

    _run("adagrad", params, grads, [sums], factors, weight_decay=weight_decay, maximize=maximize, eps=eps)


def rmsprop_step(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    momentum_buffers: Arrays | None,
    grad_avgs: Arrays | None,
    steps: Arrays,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
) -> None:
    def factors(i: int) -> tuple[float, ...]:
        _advance(steps[i])
        return (1 - alpha,)

    _run(
        "rmsprop",
        params,
        grads,
        [square_avgs, momentum_buffers, grad_avgs],
        factors,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        a=alpha,
        b=momentum,
        eps=eps,
        steps=steps,
    )


def adadelta_step(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    acc_deltas: Arrays,
    steps: Arrays,
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    def factors(i: int) -> tuple[float, ...]:
        _advance(steps[i])
        return (1 - rho,)

    _run(
        "adadelta",
        params,
        grads,
        [square_avgs, acc_deltas],
        factors,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        a=rho,
        eps=eps,
        steps=steps,
    )


def adamax_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_infs: Arrays,
    steps: Arrays,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    def factors(i: int) -> tuple[float, ...]:
        return (lr / (1 - beta1 ** _advance(steps[i])),)

    _run(
        "adamax",
        params,
        grads,
        [exp_avgs, exp_infs],
        factors,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        a=1 - beta1,
        b=beta2,
        eps=eps,
        steps=steps,
        beta1=beta1,
    )


def nadam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    mu_products: Arrays,
    steps: Arrays,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    momentum_decay: float,
    maximize: bool,
    decoupled: bool,
) -> None:
    def factors(i: int) -> tuple[float, ...]:
        t = _advance(steps[i])
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
        mu_products[i] *= mu
        product = float(mu_products[i])
        return lr * (1 - mu) / (1 - product), lr * mu_next / (1 - product * mu_next), 1 / (1 - beta2**t)

    _run(
        "nadam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs],
        factors,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        decoupled=decoupled,
        a=1 - beta1,
        b=beta2,
        eps=eps,
        steps=steps,
        mu_products=mu_products,
        beta1=beta1,
        momentum_decay=momentum_decay,
    )


def radam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    steps: Arrays,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    decoupled: bool,
) -> None:
    limit = 2 / (1 - beta2) - 1

    def factors(i: int) -> tuple[float, ...]:
        t = _advance(steps[i])
        rho = limit - 2 * t * beta2**t / (1 - beta2**t)
        rectified = 0.0
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            rectified = r * math.sqrt(1 - beta2**t)
        return lr / (1 - beta1**t), rectified

    _run(
        "radam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs],
        factors,
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        decoupled=decoupled,
        a=1 - beta1,
        b=beta2,
        eps=eps,
        steps=steps,
        beta1=beta1,
    )


def total_norm(arrays: Arrays, p: float) -> float:
    """Waits for the device: the result is a Python number."""
    if not arrays:
        return 0.0
    by_dtype: dict[str, list[Array]] = {}
    for array in arrays:
        if array.size:
            by_dtype.setdefault(array.dtype.name, []).append(norm_forward(array, p))
    norms = np.empty(0)
    for group in by_dtype.values():  # the host waits once for each
        stacked = np.stack(group)
        host = stacked.get() if hasattr(stacked, "get") else stacked
        norms = np.append(norms, host.astype(np.float64))
    if math.isinf(p):
        return float(norms.max(initial=0) if p > 0 else norms.min(initial=math.inf))
    return float(norms.sum() if p == 0 else (norms**p).sum() ** (1 / p))


def scale_arrays(arrays: Arrays, factor: float) -> None:
    _run("scale", arrays, arrays, [], _none, a=factor)

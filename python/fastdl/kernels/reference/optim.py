"""Optimizer updates, in place, over lists of arrays with one entry per parameter.

``steps`` are arrays of one number that count the updates; they are incremented first. g is the gradient as the formulas
use it: negated to maximize, plus weight_decay * p unless the decay is decoupled (p shrinks by lr * weight_decay first).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
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


def _effective(g: Array, p: Array, weight_decay: float, maximize: bool) -> Array:
    g = -g if maximize else g
    return g + weight_decay * p if weight_decay != 0 else g


def _effective_or_decoupled(
    g: Array, p: Array, lr: float, weight_decay: float, maximize: bool, decoupled: bool
) -> Array:
    if not decoupled:
        return _effective(g, p, weight_decay, maximize)
    p *= 1 - lr * weight_decay
    return -g if maximize else g


def _advance(step: Array) -> float:
    step += 1
    return float(step)


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
    """b = momentum * b + (1 - dampening) * g (g alone if ``first``); p -= lr * (nesterov ? g + momentum * b : b)."""
    for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
        g = _effective(grad, p, weight_decay, maximize)
        if momentum_buffers is not None:
            b = momentum_buffers[i]
            b[...] = g if first else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p -= lr * g


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
    """m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2, or its maximum over time (amsgrad);
    p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)."""
    for i, (p, grad, m, v, step) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)):
        t = _advance(step)
        g = _effective_or_decoupled(grad, p, lr, weight_decay, maximize, decoupled)
        m += (1 - beta1) * (g - m)
        v[...] = beta2 * v + (1 - beta2) * g * g
        if max_exp_avg_sqs is not None:
            v = np.maximum(max_exp_avg_sqs[i], v, out=max_exp_avg_sqs[i])
        p -= lr / (1 - beta1**t) * m / (np.sqrt(v) / math.sqrt(1 - beta2**t) + eps)


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
    """s += g^2; p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)."""
    for p, grad, s, step in zip(params, grads, sums, steps, strict=True):
        t = _advance(step)
        g = _effective(grad, p, weight_decay, maximize)
        s += g * g
        p -= lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)


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
    """v = alpha v + (1 - alpha) g^2; with ``grad_avgs`` (centered) a += (1 - alpha)(g - a) and v - a^2 below;
    b = momentum b + g / (sqrt(v) + eps); p -= lr b."""
    for i, (p, grad, v, step) in enumerate(zip(params, grads, square_avgs, steps, strict=True)):
        _advance(step)
        g = _effective(grad, p, weight_decay, maximize)
        v[...] = alpha * v + (1 - alpha) * g * g
        if grad_avgs is not None:
            a = grad_avgs[i]
            a += (1 - alpha) * (g - a)
            v = v - a * a
        change = g / (np.sqrt(v) + eps)
        if momentum_buffers is not None:
            change = np.add(momentum * momentum_buffers[i], change, out=momentum_buffers[i])
        p -= lr * change


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
    """v = rho v + (1 - rho) g^2; d = sqrt(a + eps) / sqrt(v + eps) * g; a = rho a + (1 - rho) d^2; p -= lr d."""
    for p, grad, v, a, step in zip(params, grads, square_avgs, acc_deltas, steps, strict=True):
        _advance(step)
        g = _effective(grad, p, weight_decay, maximize)
        v[...] = rho * v + (1 - rho) * g * g
        d = np.sqrt(a + eps) / np.sqrt(v + eps) * g
        a[...] = rho * a + (1 - rho) * d * d
        p -= lr * d


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
    """m += (1 - beta1)(g - m); u = max(beta2 u, |g| + eps); p -= lr / (1 - beta1^t) * m / u."""
    for p, grad, m, u, step in zip(params, grads, exp_avgs, exp_infs, steps, strict=True):
        t = _advance(step)
        g = _effective(grad, p, weight_decay, maximize)
        m += (1 - beta1) * (g - m)
        np.maximum(beta2 * u, np.abs(g) + eps, out=u)
        p -= lr / (1 - beta1**t) * m / u


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
    """m, v as in Adam; d = sqrt(v / (1 - beta2^t)) + eps; mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2);
    P the product of mu; p -= lr (1 - mu_t) / (1 - P_t) * g / d + lr mu_(t+1) / (1 - P_(t+1)) * m / d."""
    for p, grad, m, v, product, step in zip(
        params, grads, exp_avgs, exp_avg_sqs, mu_products, steps, strict=True
    ):
        t = _advance(step)
        g = _effective_or_decoupled(grad, p, lr, weight_decay, maximize, decoupled)
        m += (1 - beta1) * (g - m)
        v[...] = beta2 * v + (1 - beta2) * g * g
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
        product *= mu
        d = np.sqrt(v / (1 - beta2**t)) + eps
        p -= lr * (1 - mu) / (1 - float(product)) * g / d
        p -= lr * mu_next / (1 - float(product) * mu_next) * m / d


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
    """m, v as in Adam; rho_inf = 2 / (1 - beta2) - 1; rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t);
    p -= lr m / (1 - beta1^t), and once rho_t > 5 times r_t sqrt(1 - beta2^t) / (sqrt(v) + eps)."""
    for p, grad, m, v, step in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        t = _advance(step)
        g = _effective_or_decoupled(grad, p, lr, weight_decay, maximize, decoupled)
        m += (1 - beta1) * (g - m)
        v[...] = beta2 * v + (1 - beta2) * g * g
        change = lr * m / (1 - beta1**t)
        limit = 2 / (1 - beta2) - 1
        rho = limit - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            change = change * r * math.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
        p -= change


def total_norm(arrays: Arrays, p: float) -> float:
    """The p-norm of all elements of all arrays together; p may be 0 (count of nonzeros), inf or -inf."""
    if not arrays:
        return 0.0
    values = np.abs(np.concatenate([a.reshape(-1).astype(np.float64) for a in arrays]))
    if math.isinf(p):
        return float(values.max(initial=0) if p > 0 else values.min(initial=math.inf))
    if p == 0:
        return float((values != 0).sum())
    return float((values**p).sum() ** (1 / p))


def scale_arrays(arrays: Arrays, factor: float) -> None:
    """Multiply every array by ``factor``, in place."""
    for a in arrays:
        a *= factor

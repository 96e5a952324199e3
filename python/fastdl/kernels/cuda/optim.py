"""Optimizer updates; see :mod:`fastdl.kernels.reference.optim`. All parameters of a dtype go in few launches.

``steps`` (and ``mu_products``) lie in the CPU's memory, as NumPy arrays: then the host computes what depends on them.
Or they lie on the device, as float32, and the device computes it, which a CUDA graph can record. Addresses are gathered
once where an optimizer says that it keeps its arrays (:class:`fastdl.kernels.Remembered`); a step then looks at the
gradients alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import is_

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import Remembered
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


class _Plan:
    """Parameters, their states and counts as the extension's lists, one for each dtype.

    Arrays that are not dense, and counts on the host that are not float32, take part as copies; such a plan serves
    one step.
    """

    def __init__(
        self, rule: str, params: Arrays, states: Sequence[Arrays | None], counts: Sequence[Arrays | None]
    ) -> None:
        for group in (*states, *counts):
            if group is not None and len(group) != len(params):
                raise ArgumentError(f"{rule}: {len(params)} parameters, but a list of {len(group)} arrays")
        self.rule, self.given = rule, [*states, *counts]
        self.runtime = runtime = device.of(params[0])
        self.copies: list[tuple[Array, Array]] = []
        self.shapes = [param.shape for param in params]
        self.strides = [param.strides for param in params]
        self.dtypes = [param.dtype for param in params]
        self.counted = _on_device(rule, *counts)
        by_dtype: dict[int, list[int]] = {}
        entries = []
        for i, param in enumerate(params):
            mine = [None if state is None else state[i] for state in states]
            present = [state for state in mine if state is not None]
            by_dtype.setdefault(device.code(rule, param, *present), []).append(i)
            for other in present:
                device.same_shape(rule, param, other, "a parameter and its state")
            entries.append(
                (
                    self._dense(param),
                    tuple([0 if state is None else self._dense(state) for state in mine]),
                    param.size,
                    *[0 if group is None else self._count(group[i]) for group in counts],
                )
            )
        self.groups = [
            (number, places, runtime.extension.OptimizedParameters(number, [entries[i] for i in places]))
            for number, places in by_dtype.items()
        ]

    def _dense(self, array: Array) -> int:
        """The address of an array in C order."""
        if not array.flags.c_contiguous:
            self.copies.append((array, device.contiguous(array)))
            array = self.copies[-1][1]
        return self.runtime.pointer(array)  # type: ignore[no-any-return]

    def _count(self, count: Array) -> int:
        if self.counted:
            return self.runtime.pointer(count)  # type: ignore[no-any-return]
        if count.dtype != np.float32 or not (count.flags.writeable and count.flags.aligned):
            self.copies.append((count, count.astype(np.float32)))
            count = self.copies[-1][1]
        return int(count.__array_interface__["data"][0])

    def serves(self, rule: str, given: Sequence[Arrays | None]) -> bool:
        """Are the states and counts still the same arrays?"""
        return rule == self.rule and all(
            [
                (mine is None) == (theirs is None) and (mine is None or all(map(is_, mine, theirs)))
                for mine, theirs in zip(self.given, given, strict=True)
            ]
        )

    def gradients(self, grads: Arrays) -> Arrays:
        """The gradients, checked, dense."""
        if (
            [g.shape for g in grads] == self.shapes
            and [g.strides for g in grads] == self.strides  # dense as the parameters are
            and [g.dtype for g in grads] == self.dtypes
            and not self.copies
        ):
            return grads
        if len(grads) != len(self.shapes):
            raise ArgumentError(
                f"{self.rule}: {len(self.shapes)} parameters, but a list of {len(grads)} arrays"
            )
        for grad, shape, dtype in zip(grads, self.shapes, self.dtypes, strict=True):
            if grad.shape != shape:
                raise ArgumentError(
                    f"{self.rule}: a parameter and its gradient differ in shape: {shape} and {grad.shape}"
                )
            if grad.dtype != dtype:
                raise DtypeError(
                    f"{self.rule}: arrays must have one dtype, got {dtype.name} and {grad.dtype.name}"
                )
        return [device.contiguous(grad) for grad in grads]


def _run(
    rule: str,
    params: Arrays,
    grads: Arrays,
    states: Sequence[Arrays | None],
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
    if not params:
        return
    counts = steps, mu_products
    plan = params.plan if isinstance(params, Remembered) else None
    if plan is None or not plan.serves(rule, [*states, *counts]):
        plan = _Plan(rule, params, states, counts)
        if isinstance(params, Remembered) and not plan.copies:
            params.plan = plan
    runtime = plan.runtime
    dense = plan.gradients(grads)
    addresses = runtime.pointers(dense)
    for number, places, parameters in plan.groups:
        kind = np.dtype(np.float64 if number == device.DTYPES["float64"] else np.float32)
        scratch = runtime.empty((len(places), 3), kind) if plan.counted else None
        runtime.extension.optimizer_step(
            rule,
            parameters,
            addresses if len(places) == len(addresses) else [addresses[i] for i in places],
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
    for array, copy in plan.copies:
        array[...] = copy


def _on_device(rule: str, *counts: Arrays | None) -> bool:
    """Do the counts lie on the device? All of them, as float32, or none."""
    found = [c for group in counts if group is not None for c in group]
    on_device = [c for c in found if not isinstance(c, np.ndarray)]
    if on_device and (len(on_device) < len(found) or any(c.dtype != np.float32 for c in found)):
        raise ArgumentError(f"{rule}: counts of steps on the device must all be there, as float32")
    return bool(on_device)


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
    _run(
        "adam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs, max_exp_avg_sqs],
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
    _run(
        "adagrad",
        params,
        grads,
        [sums],
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
        a=lr_decay,
        eps=eps,
        steps=steps,
    )


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
    _run(
        "rmsprop",
        params,
        grads,
        [square_avgs, momentum_buffers, grad_avgs],
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
    _run(
        "adadelta",
        params,
        grads,
        [square_avgs, acc_deltas],
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
    _run(
        "adamax",
        params,
        grads,
        [exp_avgs, exp_infs],
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
    _run(
        "nadam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs],
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
    _run(
        "radam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs],
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
    _run("scale", arrays, arrays, [], a=factor)

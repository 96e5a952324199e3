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
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import Remembered
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import convert

Arrays = list[Array]

__all__ = [
    "adadelta_step",
    "adagrad_step",
    "adam_step",
    "adamax_step",
    "clamp_arrays",
    "nadam_step",
    "radam_step",
    "rmsprop_step",
    "scale_arrays",
    "sgd_step",
    "total_norm",
    "zero_arrays",
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
        if rule != self.rule:
            return False
        for mine, theirs in zip(self.given, given, strict=True):
            if mine is None or theirs is None:
                if mine is not theirs:
                    return False
            elif len(mine) != len(theirs) or not all(map(is_, mine, theirs)):
                return False
        return True

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
    factor: Array | None = None,
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
        if factor is not None:
            scratch = convert(factor, kind)
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


def total_norm(arrays: Arrays, p: float) -> Any:
    """On the device, as an array without axes, float32 or float64: nothing waits for it."""
    if not arrays:
        return 0.0
    runtime = device.of(arrays[0])
    extension, stream = runtime.extension, runtime.stream()
    by_dtype: dict[int, Arrays] = {}
    for array in arrays:
        by_dtype.setdefault(device.code("total_norm", array), []).append(device.contiguous(array))
    lists = [(number, runtime.pointers(g), [a.size for a in g]) for number, g in by_dtype.items()]
    counts = [extension.norm_parts_count(addresses, sizes) for _, addresses, sizes in lists]
    partials = runtime.empty(sum(counts), np.dtype(np.float64))
    place = runtime.pointer(partials)
    for (number, addresses, sizes), count in zip(lists, counts, strict=True):
        extension.norm_parts(number, place, addresses, sizes, p, stream)
        place += 8 * count
    norm = runtime.empty((), device.compute_dtype(arrays[0].dtype))
    extension.finish_norm(
        runtime.pointer(norm), norm.itemsize == 8, runtime.pointer(partials), sum(counts), p, stream
    )
    return norm


def scale_arrays(arrays: Arrays, factor: Any) -> None:
    """``factor`` may be an array without axes, on the device: nothing waits for it."""
    if arrays and isinstance(factor, device.of(arrays[0]).ndarray):
        _run("scale", arrays, arrays, [], a=1.0, b=math.inf, factor=factor)
    else:
        _run("scale", arrays, arrays, [], a=float(factor), b=math.inf)


def clamp_arrays(arrays: Arrays, limit: float) -> None:
    """Every element within ``-limit .. limit``; no function of the contract, elsewhere NumPy does that."""
    _run("scale", arrays, arrays, [], a=1.0, b=limit)


def zero_arrays(arrays: Arrays) -> None:
    """Every element 0; no function of the contract, elsewhere NumPy does that."""
    _run("scale", arrays, arrays, [], first=True)

"""PyTorch's own database of operations with sample inputs, run on fastdl: samples, functions and results translated.

A sample's callables (``lambda`` around an operation, say) run with ``torch`` replaced by ``fastdl`` among their names.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.testing._internal import common_utils
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo import core

import fastdl
from fastdl.autograd.op import Op

# The import above forbids the process to set flags of torch.backends; other tests do.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
# Its test cases are none of ours: it would look for one on the stack, of pytest's depth, for every few samples.
common_utils.extract_test_fn = core.extract_test_fn = lambda: None

NAMESPACES = [
    (torch, fastdl),
    (torch.Tensor, fastdl.Tensor),
    (torch.nn.functional, fastdl.nn.functional),
    (torch.linalg, fastdl.linalg),
    (torch.special, fastdl.special),
    (torch.fft, fastdl.fft),
    (torch.signal.windows, fastdl.signal.windows),
]
# Relative, and as a part of the greatest value.
TOLERANCE = {"float32": 2e-4, "complex64": 3e-4}


class Absent(Exception):
    """There is no such function in fastdl."""


class Untranslatable(Exception):
    """A sample that holds what fastdl has no word for."""


def operations() -> dict[str, Any]:
    return {f"{op.name}.{op.variant_test_name}".rstrip("."): op for op in op_db}


def function(op: Any) -> Any:
    """fastdl's function for an entry of the database."""
    try:
        return twin_of_callable(op.op)
    except Absent:
        found: Any = fastdl
        for name in op.name.split("."):
            if not hasattr(found, name):
                raise Absent(op.name) from None
            found = getattr(found, name)
        return found


def twin_of_callable(f: Any) -> Any:
    if isinstance(f, partial):
        return partial(twin_of_callable(f.func), *f.args, **f.keywords)
    if isinstance(f, types.FunctionType) and f.__module__.startswith("torch.testing"):
        cells = tuple(types.CellType(_twin_of_cell(c.cell_contents)) for c in f.__closure__ or ())
        twin = types.FunctionType(
            f.__code__, {**f.__globals__, "torch": fastdl}, f.__name__, f.__defaults__, cells
        )
        twin.__kwdefaults__ = f.__kwdefaults__
        return twin
    name = getattr(f, "__name__", None)
    for theirs, ours in NAMESPACES:
        if name and getattr(theirs, name, None) is f and hasattr(ours, name):
            return getattr(ours, name)
    raise Absent(str(f))


def _twin_of_cell(value: Any) -> Any:
    return twin_of_callable(value) if callable(value) and not isinstance(value, type) else value


def twin(value: Any, made: dict[int, tuple[Any, Any]]) -> Any:
    """The same in fastdl; ``made`` maps every tensor's id to the tensor and its twin."""
    if isinstance(value, torch.Tensor):
        if id(value) not in made:
            if value.layout != torch.strided:
                raise Untranslatable("a sparse tensor")
            plain = value.detach().resolve_conj().resolve_neg().clone()
            if value.dtype is torch.bfloat16:
                ours = fastdl.from_numpy(plain.float().numpy()).bfloat16()
            else:
                ours = fastdl.from_numpy(plain.numpy())
            made[id(value)] = value, ours.requires_grad_(value.requires_grad)
        return made[id(value)][1]
    if isinstance(value, torch.Size) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return tuple(twin(v, made) for v in value)
    if isinstance(value, (list, tuple)):
        return type(value)(twin(v, made) for v in value)
    if isinstance(value, dict):
        return {k: twin(v, made) for k, v in value.items()}
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        name = str(value).removeprefix("torch.")
        if not hasattr(fastdl, name):
            raise Untranslatable(name)
        return getattr(fastdl, name)
    if isinstance(value, torch.device):
        return fastdl.device(value.type)
    if dataclasses.is_dataclass(value) and hasattr(fastdl.nn, type(value).__name__):
        fields = {f.name: twin(getattr(value, f.name), made) for f in dataclasses.fields(value)}
        return getattr(fastdl.nn, type(value).__name__)(**fields)
    if isinstance(value, torch.nn.Module):
        return getattr(fastdl.nn, type(value).__name__)()
    if callable(value) and not isinstance(value, type):
        return twin_of_callable(value)
    return value


def samples(op: Any, dtype: torch.dtype, most: int) -> Any:
    torch.manual_seed(7)
    return islice(op.sample_inputs("cpu", dtype, requires_grad=has_gradient(op, dtype)), most)


def has_gradient(op: Any, dtype: torch.dtype) -> bool:
    differentiable = dtype.is_floating_point or dtype.is_complex
    return differentiable and op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")


def leaves(value: Any) -> list[Any]:
    """All tensors and numbers of nested results."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for v in value for leaf in leaves(v)]
    return [value]


def differences(theirs: Any, ours: Any, values: bool = True) -> list[str]:
    """What distinguishes two results; without ``values`` only kinds, dtypes and shapes are compared."""
    expected, got = leaves(theirs), leaves(ours)
    if len(expected) != len(got):
        return [f"{len(got)} results, not {len(expected)}"]
    return [d for pair in zip(expected, got, strict=True) for d in _difference(*pair, values)]


def _difference(theirs: Any, ours: Any, values: bool) -> list[str]:
    if not isinstance(theirs, torch.Tensor):
        same = not values or np.allclose(theirs, ours, rtol=1e-4, equal_nan=True)
        return [] if same else [f"{ours} instead of {theirs}"]
    if not isinstance(ours, fastdl.Tensor):
        return [f"a {type(ours).__name__} instead of a tensor"]
    dtype = str(theirs.dtype).removeprefix("torch.")
    kind = dtype, tuple(theirs.shape)
    if kind != (str(ours.dtype), tuple(ours.shape)):
        return [f"{ours.dtype} {tuple(ours.shape)} instead of {kind}"]
    if not values:
        return []
    if theirs.layout != torch.strided:
        theirs, ours = theirs.to_dense(), ours.to_dense()
    if dtype == "bfloat16":
        theirs, ours = theirs.float(), ours.float()
    want, got = theirs.numpy(force=True), ours.detach().numpy()
    if want.dtype.kind not in "fc":
        return [] if np.array_equal(want, got) else [f"{got} instead of {want}"]
    tolerance = TOLERANCE.get(dtype, 1e-7)
    finite = np.abs(want[np.isfinite(want)])
    atol = tolerance / 10 * max(1.0, float(finite.max(initial=0.0)))
    wrong = ~np.isclose(want, got, rtol=tolerance, atol=atol, equal_nan=True)
    if not wrong.any():
        return []
    return [f"{wrong.sum()} of {wrong.size} values, such as {got[wrong][:3]} instead of {want[wrong][:3]}"]


def gradients(library: Any, result: Any, inputs: list[Any]) -> list[Any] | None:
    """Of the inputs, with the same upstream gradients in both libraries; None where no output has a graph."""
    outputs = [t for t in leaves(result) if isinstance(t, library.Tensor) and t.requires_grad]
    if not outputs or not inputs:
        return None
    draw = np.random.default_rng(3)
    upstream = []
    for t in outputs:
        u = draw.uniform(0.5, 1.5, tuple(t.shape)) + (
            1j * draw.uniform(0.5, 1.5, tuple(t.shape)) if t.is_complex() else 0
        )
        upstream.append(library.as_tensor(np.asarray(u)).to(t.device, t.dtype))
    found = library.autograd.grad(outputs, inputs, upstream, allow_unused=True)
    return [library.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


@contextmanager
def owners_watched() -> Iterator[list[str]]:
    """What nodes hand on in backward though they say that it is theirs: the engine adds other gradients to it.

    Backward gives arrays of its own, unless its class (or it) says ``aliases_grad``: neither those that it got, nor
    what it saved, nor one array twice.
    """
    found: list[str] = []
    classes = [Op]
    for cls in classes:
        classes += [c for c in cls.__subclasses__() if c not in classes]
    before = [(cls, cls.__dict__["backward"]) for cls in classes if "backward" in cls.__dict__]
    for cls, backward in before:
        cls.backward = _watched(backward, found)
    try:
        yield found
    finally:
        for cls, backward in before:
            cls.backward = backward


def _watched(backward: Any, found: list[str]) -> Any:
    def watched(node: Any, *grads: Any) -> Any:
        saved = [a for a in leaves(list(vars(node).values())) if isinstance(a, np.ndarray)]
        result = backward(node, *grads)
        if not node.aliases_grad:
            given = [a for a in leaves(result) if isinstance(a, np.ndarray) and a.size]
            others = [a for a in [*leaves(grads), *saved] if isinstance(a, np.ndarray)]
            for i, a in enumerate(given):
                if any(np.may_share_memory(a, b) for b in [*others, *given[:i]]) or not a.flags.writeable:
                    found.append(f"{type(node).__name__} hands on an array that is not its own")
        return result

    return watched


def check(op: Any, dtype: torch.dtype, most: int, random: bool) -> tuple[int, list[str]]:
    """How many samples PyTorch computes, and where fastdl differs."""
    ours = function(op)
    found: list[str] = []
    count = 0
    for sample in samples(op, dtype, most):
        made: dict[int, tuple[Any, Any]] = {}
        try:
            arguments = [twin(a, made) for a in (sample.input, sample.args, sample.kwargs)]
        except Untranslatable:
            continue
        try:
            want = op.op(sample.input, *sample.args, **sample.kwargs)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            continue
        count += 1
        what = f"{sample.summary()}: "
        try:
            got = ours(arguments[0], *arguments[1], **arguments[2])
        except (
            RuntimeError,
            ValueError,
            TypeError,
            NotImplementedError,
            IndexError,
            AttributeError,
        ) as error:
            found.append(f"{what}{type(error).__name__}: {error}")
            continue
        wrong = differences(want, got, values=not random)
        if not wrong and not random and has_gradient(op, dtype):
            pairs = [pair for pair in made.values() if pair[0].requires_grad]
            process = sample.output_process_fn_grad or (lambda result: result)
            expected = gradients(torch, process(want), [theirs for theirs, _ in pairs])
            if expected is not None:
                mine = gradients(fastdl, process(got), [own for _, own in pairs])
                wrong = [f"gradient: {d}" for d in differences(expected, mine)]
        found += [what + d for d in wrong]
    return count, found

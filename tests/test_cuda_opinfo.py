"""Every operation of PyTorch's test database on a GPU, beside the CPU: values, gradients, and where they lie.

Other tests of a device call what somebody thought of. Here everything is called, from top to bottom
(``test_cuda_stack`` says how), so that what has no kernel, what CuPy refuses, and what is made on another device than
its inputs shows: once as it is, and once with the GPU as the default device, where what computes on the CPU has to say
so.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import emulation
import fastdl

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")
if not torch.__version__.startswith("2.13."):
    pytest.skip("the lists here are those of PyTorch 2.13's database", allow_module_level=True)

import opinfo  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
    ),
    pytest.mark.usefixtures("computing_gpu"),
    pytest.mark.filterwarnings("ignore"),
]

OPERATIONS = opinfo.operations()
MOST = int(os.environ.get("OPINFO_SAMPLES", "3"))
SLOW = {"nn.functional.conv_transpose3d"}  # a sample is enough
# Relative, and a part of the greatest value: those between the libraries, and four roundings of half precision.
TOLERANCE = {dtype: (t, t / 10) for dtype, t in opinfo.TOLERANCE.items()} | {
    "float64": (1e-7, 1e-8),
    "complex128": (1e-7, 1e-8),
    "float16": (2**-9, 2**-9),
    "bfloat16": (2**-6, 2**-6),
}
UNINITIALISED = set("empty empty_like empty_permuted empty_strided new_empty new_empty_strided".split())
# Whose vectors' signs or phases are each library's choice, which shows on a GPU only.
SIGNS = set("linalg.eig linalg.eigh linalg.qr linalg.svd pca_lowrank qr svd svd_lowrank".split())
DIFFERENT = {
    "nn.functional.layer_norm float32": "rows of one element: a gradient of 1e-4 of its terms instead of 0",
    "nn.functional.scaled_dot_product_attention float32 float16 bfloat16": "scores of hundreds, whose last bits count",
}


DIFFERENT = {(name, dtype) for name, *dtypes in map(str.split, DIFFERENT) for dtype in dtypes}


def moved(value: Any, made: dict[int, Any]) -> Any:
    """The same on the GPU; ``made`` maps every tensor's id to its twin there, and what names a device to that."""
    if isinstance(value, fastdl.Tensor):
        twin = value.detach().cuda().requires_grad_(value.requires_grad)
        return made.setdefault(id(value), twin)
    if isinstance(value, (list, tuple)):
        return type(value)([moved(v, made) for v in value])
    if isinstance(value, dict):
        return {k: moved(v, made) for k, v in value.items()}
    if isinstance(value, fastdl.device) or value == "cpu":
        return made.setdefault(-1, fastdl.device("cuda"))
    return value


def results(function: Any, process: Any, arguments: Any, inputs: list[Any]) -> list[Any]:
    """What the operation gives, and the gradients of its inputs, with the same gradients of results everywhere."""
    fastdl.manual_seed(1)
    found = function(arguments[0], *arguments[1], **arguments[2])
    return [*opinfo.leaves(found), *(opinfo.gradients(fastdl, process(found), inputs) or [])]


def array(t: Any) -> Any:
    dense = t.detach().to_dense() if t.layout != fastdl.strided else t.detach()
    return (dense.float() if dense.dtype == fastdl.bfloat16 else dense).cpu().numpy()


def compare(expected: list[Any], actual: list[Any], device: str, values: bool) -> None:
    assert len(actual) == len(expected)
    for e, a in zip(expected, actual, strict=True):
        if not isinstance(e, fastdl.Tensor):
            np.testing.assert_allclose(a, e, 1e-4)
            continue
        assert (a.dtype, a.shape, a.device.type) == (e.dtype, e.shape, device)
        if not values:
            continue
        want, got, (relative, part) = array(e), array(a), TOLERANCE.get(str(e.dtype), (0, 0))
        most = np.max(np.abs(want[np.isfinite(want)]), initial=1.0) if want.dtype.kind in "fc" else 1
        np.testing.assert_allclose(got, want, relative, part * most)


@pytest.mark.parametrize("name", OPERATIONS)
def test_samples_on_the_device(name: str) -> None:
    op = OPERATIONS[name]
    try:
        function = opinfo.function(op)
    except opinfo.Absent:
        return
    values = name not in UNINITIALISED and not (emulation.on_gpu() and name in SIGNS)
    for dtype in ("float32", "float16", "bfloat16", "complex64", "int64", "bool"):
        if getattr(torch, dtype) not in op.dtypes or (name, dtype) in DIFFERENT:
            continue
        for sample in opinfo.samples(op, getattr(torch, dtype), 1 if name in SLOW else MOST):
            check(function, sample, values)


def check(function: Any, sample: Any, values: bool) -> None:
    process = sample.output_process_fn_grad or (lambda result: result)
    translated: dict[int, Any] = {}
    try:
        arguments = opinfo.twin([sample.input, sample.args, sample.kwargs], translated)
    except opinfo.Untranslatable:
        return
    twins: list[dict[int, Any]] = [{}, {}]
    there = [moved(arguments, made) for made in twins]
    leaves = [ours for _, ours in translated.values() if ours.requires_grad]
    try:
        expected = results(function, process, arguments, leaves)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, AttributeError):
        return  # not for this dtype
    for made, given, default in zip(twins, there, (None, "cuda"), strict=True):
        with fastdl.device(default) if default else nullcontext():
            actual = results(function, process, given, [made[id(t)] for t in leaves])
        compare(expected, actual, "cuda" if made or default else "cpu", values)

"""Launches of recurrent layers on CUDA: which the problem chooses, clusters, specialised warps, tensor cores."""

from __future__ import annotations

import numpy as np
import pytest

import emulation
import parity
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.kernels.cuda import rnn as cuda_rnn
from rnn_cases import (
    CELLS,
    LAUNCHES,
    PROBLEMS,
    as_the_problem_chooses,
    compute,
    exact,
    flat,
    load,
    narrow,
    problem,
)

needs_kernels = pytest.mark.skipif(
    "cuda" not in parity.backends(cuda=True), reason="needs the emulated CUDA kernels"
)
about_emulation = pytest.mark.skipif(
    "cuda" not in parity.backends(cuda=True) or emulation.on_gpu(), reason="about the emulation"
)


@pytest.fixture(autouse=True)
def unchosen():
    yield
    as_the_problem_chooses()


@about_emulation
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("way", "launches"),
    [
        ("resident", {"wide": 0, "lengths": 0}),
        ("grid", {"wide": 2, "deep": 0, "one step": 0, "lengths": 1}),
        ("auto", {"wide": 0, "lengths": 0, "one step": 0}),
    ],
)
def test_launches_are_chosen_by_the_problem(way, launches, cell):
    """Launches of blocks that meet, forward and backward each: where weights do not fit into registers or these are
    not wanted, but into all blocks, and there is more than one step; for each direction, or for both if there are
    blocks enough."""
    module = load(f"cuda-{way}")
    count = emulation.extension().cooperative_launches
    for name, times in launches.items():
        arguments, grads = problem(name, cell, np.float32, directions=2)
        before = count()
        compute(module, arguments, grads)
        assert count() - before == 2 * times, name


@about_emulation
@pytest.mark.parametrize("name", ["wide", "wide lengths", "deep", "cluster"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", ["specialised", "resident"])
def test_clusters_in_any_order(monkeypatch, way, cell, name):
    """Blocks that give each other their results, sequences that begin late and end early: the same bits whichever
    thread or block comes first."""
    monkeypatch.setitem(PROBLEMS, "cluster", ([9, 9, 5, 2, 1], 3, 110))
    module = load(f"cuda-{way}")
    arguments, grads = problem(name, cell, np.float32, directions=2)
    results = []
    for order in ("ascending", "descending", "random"):
        emulation.extension().set_order(order, 5)
        results.append(compute(module, arguments, grads))
    emulation.extension().set_order("ascending", 0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@about_emulation
@pytest.mark.parametrize("way", ["resident", "auto"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_no_clusters_where_the_module_has_no_code_for_them(monkeypatch, cell, way):
    """On a device of 9.0, of a module built for 8.0 alone. (What a device says is remembered, hence other memory.)"""
    monkeypatch.setitem(PROBLEMS, "cluster", ([5, 5, 3], 3, 150))
    module, (arguments, grads) = load(f"cuda-{way}"), problem("cluster", cell, np.float32, directions=2)
    count = emulation.extension().launches
    before = count()
    want = compute(module, arguments, grads)
    in_clusters = count() - before
    emulation.extension().set_device(90, 226 << 10, compiled_for=80)
    try:
        before = count()
        got = compute(module, arguments, grads)
        assert count() - before > in_clusters
    finally:
        emulation.extension().set_device(90, 227 << 10)
    for g, w in zip(got, want, strict=True):
        if w is not None:
            np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())


@needs_kernels
@pytest.mark.parametrize(
    ("sizes", "hidden"),
    [
        ([1] * 25, 128),
        ([2] * 6, 128),
        ([4, 4, 3, 1, 1], 128),
        ([9, 9, 5, 2, 1], 110),
        ([16] * 3, 300),
        ([1], 60),
    ],
)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_specialised_warps_give_the_same_bits(monkeypatch, cell, sizes, hidden):
    """A block, clusters, rows of several lengths; and with more results than finishing threads the same kernels."""
    monkeypatch.setitem(PROBLEMS, "bits", (sizes, 5, hidden))
    arguments, grads = problem("bits", cell, np.float32, directions=2)
    results = {}
    for way in ("specialised", "resident"):
        module = load(f"cuda-{way}")
        results[way] = compute(module, arguments, grads)
        few = sizes[0] == 1 or (sizes[0] == 4 and cell != "rnn_tanh")  # the latter in clusters
        if few and not emulation.on_gpu():
            wanted = [way == "specialised"] * 2
            y, _, _, gates, cells = module.rnn_forward(*arguments, True)
            launched = [emulation.extension().last_launch() == "rnn_specialised"]
            module.rnn_backward(cell, *grads, *arguments[1:], y, gates, cells, False, False, False)
            assert [*launched, emulation.extension().last_launch() == "rnn_specialised"] == wanted
    for a, b in zip(results["specialised"], results["resident"], strict=True):
        np.testing.assert_array_equal(a, b)


@needs_kernels
def test_trust_is_asked_for_where_it_matters(monkeypatch):
    """Nobody waits for the trial of kernels that cannot compute the layer."""
    asked = []
    monkeypatch.setattr(cuda_rnn, "hopper_trusted", lambda name, runtime: bool(asked.append(name)))
    for way, dtype, names in (
        ("resident", np.float32, ["rnn_forward", "rnn_backward"]),
        ("resident", np.float64, []),
        ("grid", np.float32, []),
        ("steps", np.float32, []),
    ):
        asked.clear()
        compute(load(f"cuda-{way}"), *problem("block", "gru", dtype))
        assert asked == names


@about_emulation
def test_the_trial_is_of_the_specialised_kernels():
    """The widest layer takes a cluster of eight blocks, which only a device has."""
    load("cuda-specialised")
    cuda_rnn.LAUNCHES = "auto"
    launched = set()
    for layer in cuda_rnn._layers(cuda_rnn.device.default()):
        cuda_rnn.rnn_forward(*layer)
        launched.add((layer[3].shape[2], emulation.extension().last_launch()))
    assert launched >= {(hidden, "rnn_specialised") for hidden in (40, 100, 125)}
    assert {hidden for hidden, name in launched if name != "rnn_specialised"} == {250}


@needs_kernels
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "tf32"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["one row", "block", "deep", "lengths, tall"])
@pytest.mark.parametrize("way", LAUNCHES)
def test_tensor_cores(monkeypatch, kind, cell, name, way):
    """16-bit types and TF32: each step rounds the state, and errors add up over the steps."""
    module = load(f"cuda-{way}")
    dtype = np.float32 if kind == "tf32" else np.float16
    if kind == "tf32":
        monkeypatch.setattr(kernels.precisions, "matmul", "high")
    if kind == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16

    rounding = 2.0**-8 if kind == "bfloat16" else 2.0**-11
    projection = {"proj": PROBLEMS[name][2] // 2} if cell == "lstm" else {}
    for options in ({"directions": 2}, {"states": False, "bias": False, **projection}):
        arguments, grads = problem(name, cell, np.float64, **options)
        arguments = [a if isinstance(a, str) or i == 2 else narrow(a, dtype) for i, a in enumerate(arguments)]
        grads = narrow(grads, dtype)
        y, h_n, c_n, gates, cells = module.rnn_forward(*arguments, True)
        got = [
            y,
            h_n,
            c_n,
            module.rnn_backward(cell, *grads, *arguments[1:], y, gates, cells, True, True, True),
        ]
        wide_arguments, wide_grads = exact(arguments), exact(grads)
        forward = reference.rnn_forward(*wide_arguments, True)
        kept = [forward[0], *forward[3:]]
        if cell == "rnn_relu":  # the same side of the kink as the rounded state
            kept[0] = exact(y)
        want = [
            *forward[:3],
            reference.rnn_backward(cell, *wide_grads, *wide_arguments[1:], *kept, True, True, True),
        ]
        for a, b in zip(flat(got), flat(want), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                bound = 8 * rounding * max(1.0, np.abs(b).max())
                assert np.abs(a.astype(np.float64) - b).max() <= bound

"""The kernels for compute capability 9.0 under emulation: against the definition and the other kernels, and the trial
by which a device earns them."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import emulation
from fastdl.kernels import reference
from fastdl.kernels.cuda import device, hopper
from test_cuda_kernels import HALVES, against_reference, numbers

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(), reason="needs the emulation of the CUDA kernels"
)


@pytest.fixture(scope="module")
def cuda() -> Any:
    return emulation.backend()


@pytest.fixture(params=emulation.ORDERS, ids=lambda o: f"{o[0]}-{o[1]}")
def order(request: Any) -> Iterator[Any]:
    emulation.extension().set_order(*request.param)
    yield request.param
    emulation.extension().set_order("random", 0)


# heads, groups, queries, keys, size, causal
ATTENTION = [
    (2, 1, 200, 150, 64, False),
    (1, 1, 200, 300, 64, True),
    (2, 2, 130, 257, 128, False),
    (4, 2, 140, 129, 128, True),
    (1, 1, 385, 40, 64, True),  # queries beyond the last key
    (3, 3, 129, 640, 64, False),  # rings go around
]


def attention_arguments(heads, groups, queries, keys, size, causal, dtype) -> tuple[Any, ...]:
    shapes = ((2, heads, queries), (2, groups, keys), (2, groups, keys))
    arrays = (numbers((*shape, size), dtype, seed) for seed, shape in enumerate(shapes))
    return (*arrays, None, causal, 0.9 * size**-0.5, 0.0, 0, 0)


def calls(dtype: Any) -> list[tuple[Any, ...]]:
    """For the sanitizers (cuda_sanitizer.py), inside ``hopper.choose(True)``."""
    return [("attention_forward", *attention_arguments(*case, dtype)) for case in ATTENTION[:4]]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention_forward(cuda, case, dtype):
    arguments = attention_arguments(*case, dtype)
    with hopper.choose(True):
        y, lse = against_reference(cuda, "attention_forward", *arguments, factor=64.0)
    want = reference.attention_forward(*(a.astype(np.float64) for a in arguments[:3]), *arguments[3:])[1]
    np.testing.assert_allclose(lse, want, atol=1e-5)
    with hopper.choose(False):
        other = cuda.attention_forward(*arguments)
    assert not np.array_equal(lse, other[1]), "the sums are rounded differently: both kernels were at work"
    assert np.isfinite(y.astype(np.float32)).all()


def test_attention_forward_in_every_order_of_threads(cuda, order):
    for case in ATTENTION[1:4]:
        arguments = attention_arguments(*case, np.float16)
        with hopper.choose(True):
            got = cuda.attention_forward(*arguments)
            emulation.extension().set_order("ascending", 0)
            want = cuda.attention_forward(*arguments)
        emulation.extension().set_order(*order)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_attention_forward_of_any_strides(cuda):
    """Sequence first, a slice of a packed array; and rows that the copy engine cannot take go another way."""
    for size, make in [
        (64, lambda n: numbers((2, 150, n, 64), np.float16, n).transpose(0, 2, 1, 3)),
        (128, lambda n: numbers((150, 2, n, 128), np.float16, n).transpose(1, 2, 0, 3)),
        (64, lambda n: numbers((2, n, 150, 192), np.float16, n)[..., 64:128]),
        (64, lambda n: numbers((2, n, 150, 65), np.float16, n)[..., 1:]),  # 130 bytes from row to row
        (64, lambda n: np.broadcast_to(numbers((1, n, 150, 64), np.float16, n), (2, n, 150, 64))),
    ]:
        arguments = (make(4), make(2), make(2), None, True, size**-0.5, 0.0, 0, 0)
        with hopper.choose(True):
            y, _ = against_reference(cuda, "attention_forward", *arguments, factor=64.0)
            dense = cuda.attention_forward(*(np.ascontiguousarray(x) for x in arguments[:3]), *arguments[3:])
        if arguments[0].strides[2] % 16 == 0 and 0 not in arguments[0].strides:
            np.testing.assert_array_equal(y, dense[0])


def test_attention_forward_of_scores_that_are_infinite(cuda):
    """A row whose scores are all -infinity sees nothing; a NaN stays in its row."""
    q, k, v, *rest = attention_arguments(1, 1, 140, 150, 64, False, np.float16)
    q[0, 0, 3], k[..., 0], q[1, 0, 5, 1] = 0, 60000, np.nan
    q[0, 0, 3, :2] = -60000, -60000
    k[..., 1] = 60000
    arguments = (q, k, v, *rest)
    with hopper.choose(True):
        y, lse = cuda.attention_forward(*arguments)
    with np.errstate(all="ignore"):
        want, want_lse = reference.attention_forward(*(a.astype(np.float64) for a in arguments[:3]), *rest)
    assert np.isnan(y[1, 0, 5]).all()
    assert np.isnan(lse[1, 0, 5])
    keep = np.ones((2, 1, 140), bool)
    keep[1, 0, 5] = False
    np.testing.assert_allclose(y[keep].astype(float), want[keep], atol=0.01)
    np.testing.assert_allclose(lse[keep], want_lse[keep], rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"scale": -0.1}, {"scale": 0.0}, {"p": 0.5}, {"size": 80}, {"keys": 0}],
    ids=str,
)
def test_what_the_kernels_cannot_do_goes_another_way(cuda, change):
    q, k, v, *_ = attention_arguments(
        2, 2, 150, change.get("keys", 150), change.get("size", 64), False, np.float16
    )
    options = (None, False, change.get("scale", 0.1), change.get("p", 0.0), 3, 4)
    results = []
    for chosen in (True, False):
        with hopper.choose(chosen):
            results.append(cuda.attention_forward(q, k, v, *options))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


class Device:
    """A runtime that is no emulation as far as the trial can see, with an extension to tamper with."""

    emulated = False

    def __init__(self, **changed: Any) -> None:
        self.runtime = device._Emulated(emulation.extension())
        own = {
            name: getattr(emulation.extension(), name)
            for name in dir(emulation.extension())
            if "__" not in name
        }
        self.extension = types.SimpleNamespace(**(own | changed))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)


@pytest.fixture(autouse=True)
def undecided(monkeypatch: Any) -> None:
    monkeypatch.setattr(hopper, "_verdicts", {})
    monkeypatch.delenv("FASTDL_HOPPER", raising=False)


FAMILIES = sorted(hopper._families)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trial_passes(cuda, family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hopper.hopper_trusted(family, Device())
    assert not hopper.hopper_trusted(family, device._Emulated(emulation.extension())), (
        "emulation: chosen by tests"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_failing_trial_warns_once_and_decides(cuda, monkeypatch, family):
    """Wrong numbers, a wait in vain, an error of a launch."""

    def refuses() -> None:
        raise RuntimeError("CUDA: no such thing")

    def spoils(runtime: Any) -> list[Any]:
        results = problem(runtime)
        if hopper._choice.get():
            results[-1] = results[-1].copy()
            results[-1].reshape(-1)[-1] = np.nan
        return results

    problem = hopper._families[family]
    fast = {family: lambda runtime: [np.ones(3, np.float16)]}
    for tampered, families, objection in [
        (Device(), {family: spoils}, r"result \d+ differs by nan"),
        (Device(**{f"{family}_trial_end": lambda stream: False}), fast, "a kernel waited in vain"),
        (Device(**{f"{family}_trial_begin": refuses}), fast, "CUDA: no such thing"),
    ]:
        monkeypatch.setattr(hopper, "_verdicts", {})
        monkeypatch.setattr(hopper, "_families", families)
        with pytest.warns(RuntimeWarning, match=f"{family}: .* failed their trial .*{objection}"):
            assert not hopper.hopper_trusted(family, tampered)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not hopper.hopper_trusted(family, tampered)


def test_the_environment_decides(monkeypatch):
    never = Device(attention_forward_trial_begin=None)  # whose trial would raise TypeError
    monkeypatch.setenv("FASTDL_HOPPER", "0")
    assert not hopper.hopper_trusted("attention_forward", never)
    monkeypatch.setattr(hopper, "_verdicts", {})
    monkeypatch.setenv("FASTDL_HOPPER", "1")
    assert hopper.hopper_trusted("attention_forward", never)
    monkeypatch.setattr(hopper, "_verdicts", {})
    assert not hopper.hopper_trusted("attention_forward", Device(capability=lambda: 80)), (
        "no such instructions"
    )
    monkeypatch.setattr(hopper, "_verdicts", {})
    monkeypatch.setenv("FASTDL_HOPPER", "yes")
    with pytest.raises(ValueError, match=r"FASTDL_HOPPER must be 0 .* got 'yes'"):
        hopper.hopper_trusted("attention_forward", never)


def test_nothing_is_decided_while_a_graph_is_recorded(cuda):
    recording = Device()
    recording.capturing = lambda: True
    assert not hopper.hopper_trusted("attention_forward", recording)
    assert hopper._verdicts == {}

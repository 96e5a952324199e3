"""The kernels for compute capability 9.0 under emulation: against the definition and the other kernels, and the trial
by which a device earns them."""

from __future__ import annotations

import types
import warnings
from typing import Any

import numpy as np
import pytest

import emulation
from fastdl.kernels import reference
from fastdl.kernels.cuda import attention, device, hopper
from test_cuda_kernels import HALVES, against_reference, check, numbers, wide

pytestmark = pytest.mark.skipif(
    not emulation.available() or emulation.on_gpu(), reason="needs the emulation of the CUDA kernels"
)


# heads, groups, queries, keys, size, causal
ATTENTION = [
    (2, 1, 200, 150, 64, False),
    (1, 1, 200, 300, 64, True),
    (2, 2, 130, 257, 128, False),
    (4, 2, 140, 129, 128, True),
    (1, 1, 385, 40, 64, True),  # queries beyond the last key
    (3, 3, 129, 640, 64, False),  # rings go around
    (3, 3, 250, 150, 64, False),  # two tiles either way: those of 128 rows
    (2, 1, 140, 150, 256, False),
    (3, 3, 300, 200, 256, True),  # blocks store and load in the same place
]


def attention_arguments(heads, groups, queries, keys, size, causal, dtype) -> tuple[Any, ...]:
    shapes = ((2, heads, queries), (2, groups, keys), (2, groups, keys))
    arrays = (numbers((*shape, size), dtype, seed) for seed, shape in enumerate(shapes))
    return (*arrays, None, causal, 0.9 * size**-0.5, 0.0, 0, 0)


def calls(dtype: Any) -> list[tuple[Any, ...]]:
    """For the sanitizers (cuda_sanitizer.py), inside ``hopper.choose(True)``."""
    made = [
        ("attention_forward", *attention_arguments(*case, dtype))
        for case in (*ATTENTION[:4], *ATTENTION[6:8])
    ]
    for case, kind in ((ATTENTION[0], "added"), (ATTENTION[3], "allowed")):
        q, k, v, _, causal, scale, *_ = attention_arguments(*case, dtype)
        mask = mask_of(kind, (2, 1, q.shape[2], k.shape[2]), dtype)
        made.append(("attention_forward", q, k, v, mask, causal, scale, 0.2, 5, 7))
    return made


def mask_of(kind: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """Of that shape: numbers to be added, some of them -infinity, or which keys are visible."""
    rng = np.random.default_rng(11)
    visible = rng.random(shape) < 0.7
    if kind == "allowed":
        return visible
    return np.where(visible, rng.standard_normal(shape), -np.inf).astype(np.float32).astype(dtype)


def compare(y: Any, lse: Any, *arguments: Any) -> None:
    """With the definition; rows that see nothing have an infinite lse."""
    want, want_lse = reference.attention_forward(*(wide(a) for a in arguments))
    check(y, want, factor=64.0)
    np.testing.assert_allclose(lse, want_lse, atol=1e-5)


BROADCAST = [
    (2, 4, 140, 150),
    (1, 1, 140, 150),
    (2, 1, 1, 150),
    (1, 4, 140, 150),
    (2, 1, 140, 1),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("kind", ["added", "allowed"])
@pytest.mark.parametrize("shape", BROADCAST, ids=str)
def test_attention_forward_masks(cuda, size, kind, shape):
    """Of each kind of broadcasting, causal or not, with dropout or not; the same weights are dropped."""
    number = BROADCAST.index(shape)
    q, k, v, _, causal, scale, *_ = attention_arguments(4, 2, 140, 150, size, number % 2 == 1, np.float16)
    arguments = (q, k, v, mask_of(kind, shape, np.float16), causal, scale, 0.3 * (number % 3), 5, 7)
    with hopper.choose(True):
        y, lse = cuda.attention_forward(*arguments)
    assert emulation.extension().last_launch() == "attention_hopper"
    compare(y, lse, *arguments)
    with hopper.choose(False):
        other_y, other_lse = cuda.attention_forward(*arguments)
    assert emulation.extension().last_launch() != "attention_hopper"
    np.testing.assert_allclose(lse, other_lse, atol=1e-5)
    np.testing.assert_allclose(y.astype(float), other_y.astype(float), atol=0.02)


@pytest.mark.parametrize("kind", ["added", "allowed"])
def test_attention_forward_masks_of_any_strides(cuda, kind):
    """Dense rows of a multiple of 16 bytes are taken as they are, others by way of a copy."""
    q, k, v, *_ = attention_arguments(2, 2, 140, 160, 64, False, np.float16)
    mask = mask_of(kind, (2, 2, 140, 160), np.float16)
    mask[0, 1, 7] = 0 if kind == "allowed" else -np.inf  # a row that sees nothing
    options = (False, 0.1, 0.0, 0, 0)
    part = np.zeros((2, 2, 141, 192), mask.dtype)[:, :, 1:, 16:176]
    part[...] = mask
    turned = np.ascontiguousarray(mask.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    with hopper.choose(True):
        y, lse = cuda.attention_forward(q, k, v, mask, *options)
        for other in (part, turned, mask[::-1][::-1]):
            for a, b in zip((y, lse), cuda.attention_forward(q, k, v, other, *options), strict=True):
                np.testing.assert_array_equal(a, b)
    assert (y[0, 1, 7] == 0).all()
    assert np.isposinf(lse[0, 1, 7])
    compare(y, lse, q, k, v, mask, *options)


def test_attention_forward_takes_items_in_every_order(cuda, order):
    """Causal, with many more items than multiprocessors: a counter says who works on what."""
    heads = 2 * emulation.extension().multiprocessors() + 2
    q, k, v, *rest = attention_arguments(heads, heads, 300, 300, 64, True, np.float16)
    with hopper.choose(True):
        y, lse = cuda.attention_forward(q[:1], k[:1], v[:1], *rest)
        for head in (0, heads // 2, heads - 1):
            one = slice(head, head + 1)
            few = [np.repeat(x[:1, one], 3, axis=1) for x in (q, k, v)]
            for a, b in zip((y, lse), cuda.attention_forward(*few, *rest), strict=True):
                np.testing.assert_array_equal(a[:, one], b[:, 1:2])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention_forward(cuda, case, dtype):
    arguments = attention_arguments(*case, dtype)
    with hopper.choose(True):
        y, lse = against_reference(cuda, "attention_forward", *arguments, factor=64.0)
    assert emulation.extension().last_launch() == "attention_hopper"
    want = reference.attention_forward(*(a.astype(np.float64) for a in arguments[:3]), *arguments[3:])[1]
    np.testing.assert_allclose(lse, want, atol=1e-5)
    with hopper.choose(False):
        cuda.attention_forward(*arguments)
    assert emulation.extension().last_launch() != "attention_hopper"
    assert np.isfinite(y.astype(np.float32)).all()


def test_attention_forward_in_every_order_of_threads(cuda, order):
    for case, p in zip(ATTENTION[1:4], (0.0, 0.2, 0.0), strict=True):
        q, k, v, *rest = attention_arguments(*case, np.float16)
        rest[3] = p
        mask = None if case[1] == 1 else mask_of("added", (2, 1, q.shape[2], k.shape[2]), np.float16)
        arguments = (q, k, v, mask, *rest[1:])
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
    [{"scale": -0.1}, {"scale": 0.0}, {"size": 80}, {"keys": 0}],
    ids=str,
)
def test_what_the_kernels_cannot_do_goes_another_way(cuda, change):
    q, k, v, *_ = attention_arguments(
        2, 2, 150, change.get("keys", 150), change.get("size", 64), False, np.float16
    )
    options = (None, False, change.get("scale", 0.1), 0.0, 3, 4)
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


def test_what_differs_has_a_trial_of_its_own(cuda, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(attention, "hopper_trusted", lambda name, runtime: bool(asked.append(name)))
    for case in (ATTENTION[0], ATTENTION[7]):
        q, k, v, *options = attention_arguments(*case, np.float16)
        cuda.attention_forward(q, k, v, *options)
    mask = mask_of("allowed", (2, 1, 1, k.shape[2]), np.float16)
    cuda.attention_forward(q[..., :64], k[..., :64], v[..., :64], mask, *options[1:])
    assert asked == ["attention_forward", "attention_forward of 256", "attention_forward with masks"]
    assert set(asked) <= set(FAMILIES)


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

    problem, kernel = hopper._families[family], family.split()[0]
    fast = {family: lambda runtime: [np.ones(3, np.float16)]}
    for tampered, families, objection in [
        (Device(), {family: spoils}, r"result \d+ differs by nan"),
        (Device(**{f"{kernel}_trial_end": lambda stream: False}), fast, "a kernel waited in vain"),
        (Device(**{f"{kernel}_trial_begin": refuses}), fast, "CUDA: no such thing"),
    ]:
        monkeypatch.setattr(hopper, "_verdicts", {})
        monkeypatch.setattr(hopper, "_families", families)
        with pytest.warns(RuntimeWarning, match=f"{family}: .* failed their trial .*{objection}"):
            assert not hopper.hopper_trusted(family, tampered)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not hopper.hopper_trusted(family, tampered)


@pytest.mark.parametrize("error", [RuntimeError("CUDA: out of registers"), MemoryError("none is left")])
def test_a_trial_that_breaks_off_has_ended(cuda, monkeypatch, error):
    """Else the kernels of its file, of which others may be trusted already, would give up waits without an error."""
    told: list[str] = []
    watched = Device(
        attention_forward_trial_begin=lambda: told.append("begin"),
        attention_forward_trial_end=lambda stream: not told.append("end"),
    )

    def breaks_off(runtime: Any) -> list[Any]:
        if hopper._choice.get():
            raise error
        return []

    monkeypatch.setattr(hopper, "_families", {"attention_forward of 256": breaks_off})
    if isinstance(error, RuntimeError):
        with pytest.warns(RuntimeWarning, match="failed their trial .*out of registers"):
            assert not hopper.hopper_trusted("attention_forward of 256", watched)
    else:
        with pytest.raises(MemoryError):
            hopper.hopper_trusted("attention_forward of 256", watched)
    assert told == ["begin", "end"]


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


def test_nothing_is_decided_while_a_graph_is_recorded(cuda, monkeypatch):
    recording = Device()
    recording.capturing = lambda: True
    assert not hopper.hopper_trusted("attention_forward", recording)
    assert hopper._verdicts == {}

    def another_stream() -> None:
        raise RuntimeError("CUDA: hopper_trial_begin: .. (cudaErrorStreamCaptureImplicit)")

    monkeypatch.setattr(hopper, "_families", {"attention_forward": lambda runtime: []})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hopper.hopper_trusted(
            "attention_forward", Device(attention_forward_trial_begin=another_stream)
        )
        monkeypatch.setattr(hopper, "_families", {"rnn_forward": lambda runtime: another_stream()})
        assert not hopper.hopper_trusted("rnn_forward", Device())  # whose problem is the first to meet it
    assert hopper._verdicts == {}


def test_a_device_that_failed_cannot_go_on(cuda, monkeypatch):
    """An illegal access stays for the rest of the process: every call after it fails."""

    def fails(*_: Any) -> Any:
        raise RuntimeError("CUDA: an illegal memory access was encountered (cudaErrorIllegalAddress)")

    broken = Device(attention_forward_trial_end=fails)
    broken.zeros = fails
    monkeypatch.setattr(hopper, "_families", {"attention_forward": lambda runtime: []})
    with pytest.raises(RuntimeError, match=r"attention_forward: .*IllegalAddress.* FASTDL_HOPPER=0"):
        hopper.hopper_trusted("attention_forward", broken)

    copies = (
        Device()
    )  # a family without a trial of its waits: the results' copies are the first to hear of it
    copies.to_host = lambda array: array if array is slow else fails()
    slow, fast = np.zeros(2), np.zeros(2)
    monkeypatch.setattr(
        hopper, "_families", {"rnn_forward": lambda runtime: [fast if hopper._choice.get() else slow]}
    )
    with pytest.raises(RuntimeError, match=r"rnn_forward: .*IllegalAddress.* FASTDL_HOPPER=0"):
        hopper.hopper_trusted("rnn_forward", copies)


def test_a_kernel_that_hangs_is_not_waited_for(cuda, monkeypatch):
    """Its barriers have no bound, and what follows in the stream never comes."""

    def waits(stream: int) -> bool:
        raise AssertionError("for ever")

    asked: list[float] = []
    hanging = Device(attention_forward_trial_end=waits)
    hanging.finishes_within = lambda seconds: bool(asked.append(seconds))
    hanging.to_host = lambda array: asked.append(0.0)  # what was queued before has all the time it takes
    monkeypatch.setattr(hopper, "_families", {"attention_forward": lambda runtime: [None]})
    with pytest.raises(TimeoutError, match=r"attention_forward: .* hang in their trial .* FASTDL_HOPPER=0"):
        hopper.hopper_trusted("attention_forward", hanging)
    assert asked == [0.0, hopper._PATIENCE]


def test_a_stream_is_asked_until_it_is_done(monkeypatch):
    answers = iter([600, 600, 700])  # not ready, not ready, an error: whoever waits next will raise it
    runtime = types.SimpleNamespace(streamQuery=lambda stream: next(answers))
    cupy = types.SimpleNamespace(cupy=types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime)))
    cupy.stream = lambda: 5
    assert device._CuPy.finishes_within(cupy, 60.0)
    assert list(answers) == []
    runtime.streamQuery = lambda stream: 600
    assert not device._CuPy.finishes_within(cupy, 0.01)

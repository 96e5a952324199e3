"""What every family's test uses: the backends to compare, tolerances with reasons, gradient checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import emulation
import fastdl
from fastdl import kernels

THREADS = (1, 2, 5)
DTYPES = (np.float32, np.float64)


def backends(cuda: bool = False) -> list[str]:
    """Names of the levels that this machine runs, for ``pytest.mark.parametrize``; with the CUDA kernels under
    emulation, too, where that can be built."""
    return kernels.levels() + ([emulation.NAME] if cuda and emulation.available() else [])


@contextmanager
def on_threads(backend: Any, threads: int | None) -> Iterator[None]:
    """That many threads for the length of a block; as many as there are where none can be set (CUDA)."""
    if not hasattr(backend, "num_threads"):
        yield
        return
    before = backend.num_threads()
    backend.set_num_threads(threads)
    try:
        yield
    finally:
        backend.set_num_threads(before)


def thread_counts(backend: Any, counts: Sequence[int] = THREADS) -> Iterator[int | None]:
    """Goes through the numbers of threads, set on the backend; once where there are none to set (CUDA)."""
    for threads in counts if hasattr(backend, "num_threads") else (None,):
        with on_threads(backend, threads):
            yield threads


def with_threads(names: list[str]) -> list[Any]:
    """Each of ``backends()`` with each of ``THREADS``, the CUDA kernels once: parameters of a fixture."""
    pairs = [(name, n) for name in names for n in (THREADS if name != emulation.NAME else (1,))]
    return [pytest.param(pair, id=f"{pair[0]}-{pair[1]}") for pair in pairs]


def load(name: str) -> Any:
    """The backend of that name: a level's, or the CUDA kernels under emulation."""
    return emulation.backend() if name == emulation.NAME else kernels.load(name)


# Error of a sum of n rounded terms grows like eps * sqrt(n) for random signs. The factor covers what surrounds the
# sum: an exp or a division (2-4 ulp), a blocked order that differs from the reference's, results near zero.
DEFAULT_FACTOR = 16.0


def tolerance(dtype: Any, reduction: int = 1, factor: float = DEFAULT_FACTOR) -> float:
    return float(factor * np.finfo(dtype).eps * np.sqrt(max(reduction, 1)))


def assert_close(
    got: Any, want: Any, reduction: int = 1, factor: float = DEFAULT_FACTOR, scale: float | None = None
) -> None:
    """|got - want| <= c * eps * sqrt(reduction) * max(1, scale), NaN and infinities in the same places.

    ``want`` may have a higher precision than ``got``; the tolerance is that of ``got``'s dtype. ``scale`` defaults to
    the larger of 1 and the largest finite |want|.
    """
    got = got.detach().numpy() if isinstance(got, fastdl.Tensor) else np.asarray(got)
    want = want.detach().numpy() if isinstance(want, fastdl.Tensor) else np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape} instead of {want.shape}"
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    finite = want[np.isfinite(want)]
    if scale is None:
        scale = max(1.0, float(np.max(np.abs(finite), initial=0.0)))
    np.testing.assert_allclose(
        got.astype(np.float64),
        want.astype(np.float64),
        rtol=0,
        atol=tolerance(got.dtype, reduction, factor) * scale,
    )


def leaf(values: Any, **options: Any) -> fastdl.Tensor:
    """A tensor that requires a gradient."""
    return fastdl.tensor(values, requires_grad=True, **options)


def check_gradient(
    function: Callable[..., Any],
    *arrays: np.ndarray[Any, Any],
    needs: Sequence[int] | None = None,
    seed: int = 0,
) -> None:
    """Compare backward with central differences along one random direction, in float64.

    ``function`` maps tensors to a tensor; its output is weighted with fixed random numbers and summed.
    """
    rng = np.random.default_rng(seed)
    needs = range(len(arrays)) if needs is None else needs
    tensors = [fastdl.from_numpy(np.array(a)) for a in arrays]
    for i in needs:
        assert arrays[i].dtype == np.float64, "gradients are checked in float64"
        tensors[i].requires_grad = True
    output = function(*tensors)
    weights = rng.standard_normal(output.shape)
    output.backward(fastdl.from_numpy(weights))

    directions = {i: rng.standard_normal(arrays[i].shape) for i in needs}

    def along(t: float) -> float:
        with fastdl.no_grad():
            moved = [
                fastdl.from_numpy(np.asarray(a + t * directions[i] if i in directions else a))
                for i, a in enumerate(arrays)
            ]
            return float(np.sum(function(*moved).numpy() * weights))

    step = 1e-6
    numeric = (along(step) - along(-step)) / (2 * step)
    analytic = 0.0
    for i in needs:
        grad = tensors[i].grad
        assert grad is not None, f"input {i} received no gradient"
        assert grad.shape == arrays[i].shape
        analytic += float(np.sum(grad.numpy() * directions[i]))
    # Central differences in float64 with step 1e-6: about 1e-10 of rounding over the step, relative to the values.
    scale = max(1.0, abs(numeric), abs(along(0.0)))
    assert abs(numeric - analytic) <= 1e-7 * scale, f"numeric {numeric}, analytic {analytic}"


def assert_like_torch(
    name: str,
    x: np.ndarray[Any, Any],
    *args: Any,
    reduction: int = 64,
    gradient: bool = True,
    **options: Any,
) -> None:
    """Output, indices and gradient of a function of ``nn.functional`` are torch's."""
    torch = pytest.importorskip("torch")
    theirs, ours = torch.tensor(x, requires_grad=True), leaf(x)
    want = getattr(torch.nn.functional, name)(theirs, *args, **options)
    got = getattr(fastdl.nn.functional, name)(ours, *args, **options)
    if isinstance(want, tuple):
        np.testing.assert_array_equal(got[1].numpy(), want[1].numpy())
        got, want = got[0], want[0]
    assert_close(got, want.detach().numpy(), reduction)
    if not gradient:
        return
    grad = np.random.default_rng(7).standard_normal(want.shape).astype(x.dtype)
    want.backward(torch.tensor(grad))
    got.backward(fastdl.tensor(grad))
    assert_close(ours.grad, theirs.grad.numpy(), reduction)


def assert_same_sums(backend: Any, got: Any, want: Any, index: Any, dim: int = 0) -> None:
    """Places along ``dim`` are sums of the entries that ``index`` names, added in its order: the same bits.

    On CUDA those of more than 256 entries are added in pieces.
    """
    entries = np.bincount(index.ravel(), minlength=got.shape[dim])
    in_order = (
        np.flatnonzero(entries <= 256) if backend.__name__.endswith("cuda") else np.arange(len(entries))
    )
    np.testing.assert_array_equal(got.take(in_order, dim), want.take(in_order, dim))
    assert_close(got, want, reduction=max(1, index.size))

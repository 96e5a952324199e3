"""Everything above the CUDA kernels, and the kernels: tensors in the stand-in for CuPy, operations by
``fastdl.kernels.cuda``, kernels compiled for the CPU. What is missing between the layers shows here, not on a GPU.

On a machine with a GPU (and ``FASTDL_TEST_GPU=1``, see ``emulation.py``) the same cases run there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import device_cases
import device_modules
import emulation
import fake_cupy
import fastdl
import fastdl.nn.functional as F
import test_cuda_graphs
from device_runs import ints, on, run
from fastdl import nn

pytestmark = [
    pytest.mark.skipif(
        not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
    ),
    pytest.mark.usefixtures("computing_gpu"),
    pytest.mark.filterwarnings("ignore:.*computed on the CPU"),  # what has no kernel yet
]


def check(case: Callable[[str], Any]) -> None:
    """The device's results and gradients are the CPU's, but for the rounding of different orders of sums."""
    with np.errstate(all="ignore"):
        with fastdl.use_backend("reference"):
            expected = run(case, "cpu")
        actual = run(case, "cuda")
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, e)
            continue
        scale = np.max(np.abs(e[np.isfinite(e)]), initial=1.0)
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", device_cases.CASES)
def test_an_operation(name: str) -> None:
    check(device_cases.CASES[name])


@pytest.mark.parametrize("name", device_modules.MODULES)
def test_a_layer(name: str) -> None:
    check(device_modules.MODULES[name])


# The line search of LBFGS branches on rounding.
@pytest.mark.parametrize("name", [n for n in device_modules.OPTIMIZERS if n != "LBFGS"])
def test_an_optimizer(name: str) -> None:
    check(lambda device: device_modules.trained(device, device_modules.OPTIMIZERS[name]))


@pytest.mark.parametrize(
    "train",
    [
        # Its losses only: Adam makes steps of noise for a bias before batch norm, whose gradient is 0 but for rounding.
        lambda device: device_modules.lenet(device)[0],
        device_modules.characters,
        device_modules.language_model,
    ],
    ids=["lenet", "characters", "language_model"],
)
def test_training(train: Any) -> None:
    check(train)


CAPTURABLE: dict[str, Callable[..., Any]] = {
    "Adam": lambda p, **o: fastdl.optim.Adam(p, lr=0.1, amsgrad=True, **o),
    "AdamW": lambda p, **o: fastdl.optim.AdamW(p, lr=0.1, **o),
    "Adamax": lambda p, **o: fastdl.optim.Adamax(p, lr=0.1, **o),
    "NAdam": lambda p, **o: fastdl.optim.NAdam(p, lr=0.1, **o),
    "RAdam": lambda p, **o: fastdl.optim.RAdam(p, lr=0.1, **o),
    "RMSprop": lambda p, **o: fastdl.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5, **o),
    "Adadelta": lambda p, **o: fastdl.optim.Adadelta(p, lr=1.0, **o),
    "ASGD": lambda p, **o: fastdl.optim.ASGD(p, lr=0.1, t0=2, **o),
    "Rprop": lambda p, **o: fastdl.optim.Rprop(p, lr=0.1, **o),
}


@pytest.mark.parametrize("name", CAPTURABLE)
def test_counts_on_the_device_give_the_same_steps(name: str) -> None:
    def steps(device: str, **options: Any) -> list[Any]:
        fastdl.manual_seed(0)
        layer = nn.Linear(4, 3, device=device)
        optimizer = CAPTURABLE[name](layer.parameters(), **options)
        x, y = on(device, 6, 4, grad=False), ints(device, 6, high=3)
        found = []
        for i in range(7):  # past RAdam's rectification
            optimizer.zero_grad()
            loss = F.cross_entropy(layer(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
            if i == 3:
                state = optimizer.state_dict()
                optimizer = CAPTURABLE[name](layer.parameters(), **options)
                optimizer.load_state_dict(state)
        counts = {
            v.device.type
            for s in optimizer.state.values()
            for k, v in s.items()
            if k in ("step", "mu_product")
        }
        assert counts == {device if options else "cpu"}
        return found

    expected = steps("cuda")
    np.testing.assert_allclose(steps("cuda", capturable=True), expected, rtol=1e-5)
    np.testing.assert_allclose(steps("cpu"), expected, rtol=1e-4)


def test_a_bad_label_is_raised_where_the_host_waits() -> None:
    x = on("cuda", 3, 4)
    for wait in (
        lambda loss: loss.item(),
        lambda loss: loss.cpu(),
        lambda loss: loss.detach().numpy(force=True),
        lambda loss: loss.tolist(),
        lambda loss: bool(loss),
        lambda loss: repr(loss),
        lambda loss: fastdl.cuda.synchronize(),
        lambda loss: fastdl.cuda.current_stream().synchronize(),
    ):
        loss = F.cross_entropy(x, fastdl.tensor([0, 7, 1], device="cuda"))
        with pytest.raises(IndexError, match=r"cross_entropy: target\[1\] .* = 7 is out of range \[0, 4\)"):
            wait(loss)
        assert F.cross_entropy(x, fastdl.tensor([0, 3, 1], device="cuda")).item() > 0  # reported once


def test_new_tensors() -> None:
    assert fastdl.zeros(2, 3, device="cuda").tolist() == [[0.0] * 3] * 2
    assert fastdl.empty(4, device="cuda").shape == (4,)
    assert fastdl.ones(3, dtype=fastdl.float16, device="cuda").tolist() == [1.0] * 3


@pytest.mark.skipif(emulation.on_gpu(), reason="looks at the stand-in")
def test_products_in_tf32_only_where_they_are_allowed() -> None:
    x, float32, tf32 = fastdl.ones(2, 2, device="cuda"), 68, 77  # as cuBLAS numbers them
    fake_cupy.multiplied_in.clear()
    x @ x
    try:
        fastdl.set_float32_matmul_precision("high")
        F.linear(x, x)
        x.double() @ x.double()
    finally:
        fastdl.set_float32_matmul_precision("highest")
    x @ x
    assert fake_cupy.multiplied_in == [float32, tf32, 70, float32]


@pytest.mark.parametrize(
    "test",
    [
        test_cuda_graphs.test_a_replay_draws_what_the_operations_would_draw,
        test_cuda_graphs.test_dropout_in_attention_is_the_same_forward_and_backward_of_a_replay,
        test_cuda_graphs.test_generators_of_a_graph_are_their_own,
        test_cuda_graphs.test_a_checkpoint_in_a_graph_drops_the_same_again,
    ],
)
def test_random_numbers_in_a_graph(test: Any) -> None:
    test(None)

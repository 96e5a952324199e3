"""The contract: reference and extension offer the same functions with the same parameters."""

from __future__ import annotations

import inspect
import re

import pytest

from fastdl import kernels
from fastdl.kernels import reference
from parity import backends

# Controls of the runtime, which a definition in NumPy has no use for.
RUNTIME = {
    "conv_algorithm",
    "conv_algorithms",
    "conv_choice",
    "empty_cache",
    "machine_copy",
    "machine_fma",
    "memory_stats",
    "num_threads",
    "reset_peak_memory_stats",
    "set_cache_limit",
    "set_conv_algorithm",
    "set_memory_guard",
    "set_num_threads",
    "workers_started",
    "has_pair_products",
    "use_pair_products",
}


def bound(level: str) -> dict[str, list[str]]:
    """Functions of an extension module and their parameter names, from pybind11's signature line."""
    module = kernels.load(level)
    found = {}
    for name in dir(module):
        function = getattr(module, name)
        if name.startswith("_") or not callable(function) or name in RUNTIME:
            continue
        arguments = re.match(r"\w+\((.*)\) ->", function.__doc__.splitlines()[0]).group(1)
        found[name] = re.findall(r"(?:^|, )(\w+):", re.sub(r"\[[^\]]*\]", "", arguments))
    return found


def defined() -> dict[str, list[str]]:
    """Functions of the reference and their parameter names."""
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in vars(reference).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }


@pytest.mark.parametrize("level", backends())
def test_every_definition_has_a_kernel(level):
    missing = set(defined()) - set(bound(level))
    assert not missing, f"defined in reference, not in the extension: {sorted(missing)}"


@pytest.mark.parametrize("level", backends())
def test_every_kernel_has_a_definition(level):
    # np.empty and np.zeros stand in for the allocator and are no Python functions.
    missing = set(bound(level)) - set(defined()) - {"empty", "zeros"}
    assert not missing, f"in the extension, not defined in reference: {sorted(missing)}"


@pytest.mark.parametrize("level", backends())
def test_parameters_agree(level):
    ours = bound(level)
    for name, parameters in defined().items():
        if name in ours:
            assert ours[name] == parameters, name


def test_cuda_lacks_nothing_silently():
    """Every function of the contract has a CUDA kernel with the same parameters, or a line in ABSENT."""
    from fastdl.kernels import cuda

    for name, parameters in defined().items():
        if name in cuda.ABSENT:
            assert name not in vars(cuda)
            with pytest.raises(NotImplementedError, match="has no CUDA kernel"):
                getattr(cuda, name)
        else:
            assert list(inspect.signature(getattr(cuda, name)).parameters) == parameters, name
    assert set(cuda.ABSENT) <= set(defined())
    assert not {"add_forward", "softmax_backward", "adam_step"} & set(cuda.ABSENT)

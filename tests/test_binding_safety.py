"""No call into the extension can crash the interpreter: every function with thousands of senseless arguments.

Some functions run in a process of their own, guard bytes around every array. They may raise what Python code can catch;
they may not end the process, write beyond an array, or change an argument.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from fastdl import kernels
from test_contract import RUNTIME

CALLS = 1000

PROGRAM = """
import re, resource, sys
import numpy as np
from fastdl import kernels

LARGE = 2**31
if "libasan" in open("/proc/self/maps").read():
    LARGE = 2**44  # its shadow memory forbids a limit: so large that it fails at once all the same
else:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # absurd sizes fail at once instead of filling memory
module = kernels.cpu
module.set_num_threads(2)
module.set_memory_guard(True)
DTYPES = [np.float32, np.float32, np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64]

def shape(common):
    if rng.random() < 0.85:
        return common
    return tuple(rng.integers(0, 6, rng.integers(0, 6)))

def array(common, dtype):
    extents = shape(common)
    if rng.random() < 0.1:
        dtype = DTYPES[rng.integers(len(DTYPES))]
    values = np.array(rng.standard_normal(extents) * rng.choice([1, 1, 1e30, np.inf])).astype(dtype)
    choice = rng.random()
    if choice < 0.1:
        values = values.T
    elif choice < 0.15 and values.ndim:
        values = values[::-1]
    elif choice < 0.2:
        values = values.astype(values.dtype.newbyteorder())
    return values

def integer():
    if rng.random() < 0.1:
        return int(rng.choice([-1, -2, 7, 64, LARGE, -(2**62)]))
    return int(rng.choice([0, 1, 1, 1, 2, 3, 5]))

def several(spatial):
    count = spatial if rng.random() < 0.9 else int(rng.integers(0, 7))
    if rng.random() < 0.8:
        return [int(rng.choice([1, 1, 0, 2, 3])) for _ in range(count)]
    return [integer() for _ in range(count)]

def value(kind, common, dtype):
    spatial = max(len(common) - 2, 0)
    if "None" in kind and rng.random() < 0.3:
        return None
    if "equence[numpy.ndarray" in kind or kind == "list":
        return [array(common, dtype) for _ in range(rng.integers(0, 4))]
    if "equence[bool" in kind:
        return [bool(rng.integers(2)) for _ in range(rng.integers(2, 4))]
    if "equence[" in kind:
        return several(spatial)
    if "ndarray" in kind:
        return array(common, dtype)
    if kind.startswith("object"):  # an array, a number, or an output that may be left out
        choice = rng.random()
        if choice < 0.2 or ("= None" in kind and choice < 0.6):
            return None if "= None" in kind else float(rng.choice([0.5, np.nan, 1e300]))
        mask = "condition" in name or (name.startswith("where") and rng.random() < 0.4)
        return array(common, np.bool_ if mask else dtype)
    if "dtype" in kind:
        return np.dtype(DTYPES[rng.integers(len(DTYPES))])
    if "Int" in kind or kind == "int":
        return integer()
    if "Float" in kind or kind == "float":
        return float(rng.choice([0.0, 1.0, -1.0, 0.5, np.nan, np.inf, 1e-30]))
    if "bool" in kind:
        return bool(rng.integers(2))
    if "str" in kind:
        return str(rng.choice(["", "none", "mean", "sum", "zeros", "relu", "x" * 50]))
    return None

import warnings
warnings.simplefilter("ignore")
for name in sys.argv[2:]:
    print("calling", name, flush=True)
    function = getattr(module, name)
    head = re.match(r"\\w+\\((.*)\\) ->", function.__doc__.splitlines()[0]).group(1)
    kinds = re.findall(r"(?:^|, )\\w+: (.*?)(?=, \\w+: |$)", head)
    rng = np.random.default_rng(sum(map(ord, name)))
    with np.errstate(all="ignore"):
        for _ in range(int(sys.argv[1])):
            # Mostly one shape of small extents for all arrays: then sizes often fit, and kernels run.
            common = tuple(rng.choice([1, 2, 3, 4], rng.integers(0, 6), p=[0.4, 0.4, 0.1, 0.1]))
            dtype = DTYPES[rng.integers(4)]
            arguments = [value(kind, common, dtype) for kind in kinds]
            try:
                function(*arguments)
            except (TypeError, ValueError, RuntimeError, IndexError, MemoryError, OverflowError):
                pass
    assert module.memory_stats()["guard_errors"] == 0, "wrote beyond the end of an array"
"""


def functions() -> list[str]:
    module = kernels.cpu
    found = [
        n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n)) and n not in RUNTIME
    ]
    return sorted(n for n in found if re.match(r"\w+\(.+\) ->", getattr(module, n).__doc__ or ""))


# A process takes longer to start than to run.
FUNCTIONS = functions()
TOGETHER = [FUNCTIONS[i : i + 8] for i in range(0, len(FUNCTIONS), 8)]


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
def test_senseless_arguments_do_no_harm(names):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(CALLS), *names], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (
        f"status {done.returncode} while {done.stdout.splitlines()[-1:]}\n{done.stderr[-2000:]}"
    )

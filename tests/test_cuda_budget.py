"""What nvcc makes of each CUDA kernel: no more registers, stack or spills than tests/cuda_budget.json allows.

``python tests/test_cuda_budget.py`` measures and writes the file anew: do that when a change is meant, and look at the
difference. Kernels are grouped by name (and, for elementwise maps, by function); the largest instantiation counts.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emulation

ROOT = Path(__file__).resolve().parents[1]
BUDGET = Path(__file__).with_name("cuda_budget.json")
BUILD = ROOT / "build" / "cuda"


LAUNCH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.softmax_forward(False, 0, 0, 0, 0, 1, 1, 0)  # nothing to do
    module.random_uniform(0, 0, 1, 0.0, 1.0, 0, 0, 0)
    print("launched")
except RuntimeError as error:
    print(error)
"""


def build() -> str:
    """The log of building ``_cuda`` for one architecture, with what ptxas says about each kernel."""
    options = ["-DFASTDL_CUDA=ON", "-DFASTDL_CUDA_ARCHITECTURES=90a-real", "-DFASTDL_LEVELS=baseline"]
    options += ["-DCMAKE_CUDA_FLAGS=-Xptxas=-v", "-DSKBUILD_PROJECT_VERSION=0.0.0"]
    configure = ["cmake", "-S", ROOT, "-B", BUILD, f"-DPython_EXECUTABLE={sys.executable}", *options]
    for command in (configure, ["cmake", "--build", BUILD, "--clean-first", "--target", "_cuda", "-j", "2"]):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def resources(log: str) -> list[tuple[str, int, int, int]]:
    """Of each kernel: mangled name, registers, bytes of stack, bytes spilled."""
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill "
        r"loads.*?Used (\d+) registers",
        log,
        re.DOTALL,
    )
    return [
        (name, int(regs), int(stack), int(stores) + int(loads)) for name, stack, stores, loads, regs in found
    ]


def group(demangled: str) -> str:
    name = re.sub(
        r"_GLOBAL__N__\w+?_cu_\w{8}::|\(anonymous namespace\)::|fastdl::cuda::|^void ", "", demangled
    )
    kernel = re.split(r"[<(]", name)[0]
    function = re.match(r"map_kernel<\(?(?:int\))?\d+, (\w+)", name)
    return f"{kernel} {function[1]}" if function else kernel


def measure() -> dict[str, dict[str, int]]:
    """Per group the registers, and the bytes of stack and of spills."""
    kernels = resources(build())
    names = subprocess.run(
        ["c++filt"], input="\n".join(k[0] for k in kernels), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    groups: dict[str, dict[str, int]] = {}
    for name, (_, *used) in zip(names, kernels, strict=True):
        entry = groups.setdefault(group(name), {"registers": 0, "stack": 0, "spilled": 0})
        for what, amount in zip(entry, used, strict=True):
            entry[what] = max(entry[what], amount)
    return dict(sorted(groups.items()))


@pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("c++filt") is None or not emulation.tools(),
    reason="needs nvcc, c++filt, cmake, ninja and pybind11",
)
def test_registers_spills_and_import():
    measured = measure()
    budget = json.loads(BUDGET.read_text())
    assert set(measured) == set(budget), "run python tests/test_cuda_budget.py and look at the difference"
    over = {
        name: (used, budget[name])
        for name, used in measured.items()
        if any(used[what] > budget[name][what] for what in used)
    }
    assert over == {}, "more registers, stack or spills than budgeted: (measured, budget)"
    # The module just built imports without a driver; a launch there says what is missing.
    (module,) = BUILD.glob("_cuda.*.so")
    done = subprocess.run([sys.executable, "-c", LAUNCH, module], capture_output=True, text=True, check=True)
    assert "CUDA: " in done.stdout or "launched" in done.stdout


def test_groups():
    hidden = "fastdl::cuda::_GLOBAL__N__1a2b3c4d_9_reduce_cu_d63100a1::"
    assert group(f"void {hidden}f<int>(int)") == "f"
    assert group(f"void fastdl::cuda::map_kernel<4, {hidden}Pair<float>, float>(X)") == "map_kernel Pair"


if __name__ == "__main__":
    groups = measure()
    BUDGET.write_text(
        "{\n" + ",\n".join(f"  {json.dumps(n)}: {json.dumps(g)}" for n, g in groups.items()) + "\n}\n"
    )
    spilling = [name for name, used in groups.items() if used["spilled"]]
    print(f"wrote {BUDGET}: {len(groups)} groups; spilling: {', '.join(spilling) or 'none'}")

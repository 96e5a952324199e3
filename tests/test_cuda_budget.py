"""What nvcc makes of each CUDA kernel, against tests/cuda_budget.json: registers, stack and opcodes.

``python tests/test_cuda_budget.py`` measures and writes the file anew: do that when a change is meant, and look at the
difference. Kernels are grouped by name (and, for elementwise maps, by function). Measured is the module as it is
shipped, for 8.0 and 9.0a: the installed one, or where that is older than its sources, one built for the test. Of a
group the file holds:

- registers: the most of an instantiation for 9.0a; stack: the most bytes for either architecture, spills among them.
- waits: the most waits for products of wgmma in an instantiation. ptxas adds one to each product where it cannot see
  that they may run together ("Potential Performance Loss").
- alone: the most loads of 16 bytes in an instantiation that are used at once, before another load: what should be on
  its way together comes one after the other (elements of 16 bits taken apart in a branch, see Loaded in numeric.h).
- opcodes: how many instantiations for 9.0a have them. Fewer means that an access or a product has fallen apart:
  products on tensor cores (HMMA, HGMMA), their operands (LDSM), copies to shared memory that pass registers by
  (LDGSTS, UTMALDG), and accesses of 16 bytes to global memory (LDG.128, STG.128).
- code: the kB of the longest instantiation for 9.0a, in steps of four. Code comes from memory before it runs: a path of
  some ten kB costs a short call microseconds, so what few calls need belongs into an instantiation of its own.
- local: how many of them touch memory of a thread's own (LDL, STL), spills or arrays that are indexed; none if absent.

The machine code is read with the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import emulation

ROOT = Path(__file__).resolve().parents[1]
BUDGET = Path(__file__).with_name("cuda_budget.json")
BUILD = ROOT / "build" / "budget"
LIMITS = ("registers", "stack", "waits", "alone", "local", "code")  # no more than these; of opcodes no fewer
ACCESS = re.compile(r"(LDG|STG)\.E(?:\.\w+)*\.128\b")
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)([^;]*)")
AT_ONCE = 12  # instructions
NOTED = re.compile(r"HMMA|HGMMA|LDSM|LDGSTS|UTMALDG|LDL|STL")


LAUNCH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.softmax_forward(False, 0, 0, 0, 0, 1, 1, 0)  # nothing to do
    module.random_uniform(0, 0, 1, 0.0, 1.0, 0, 0, 0, 0)
    print("launched")
except RuntimeError as error:
    print(error)
"""


def module() -> Path:
    """The installed ``_cuda`` if it is newer than its sources, else one built here."""
    sources = [
        p for folder in ("cuda", "bindings") for p in (ROOT / "csrc" / folder).rglob("*") if p.is_file()
    ]
    installed = importlib.util.find_spec("fastdl._cuda")
    if installed is not None and installed.origin is not None:
        path = Path(installed.origin)
        if path.stat().st_mtime > max(source.stat().st_mtime for source in sources):
            return path
    options = ["-DFASTDL_CUDA=ON", "-DFASTDL_LEVELS=baseline", "-DFASTDL_CUDA_COMPRESS=balance"]
    options += ["-DFASTDL_CUDA_WERROR=ON", "-DSKBUILD_PROJECT_VERSION=0.0.0"]
    for command in (
        ["cmake", "-G", "Ninja", "-S", ROOT, "-B", BUILD, f"-DPython_EXECUTABLE={sys.executable}", *options],
        ["cmake", "--build", BUILD, "--target", "_cuda", "-j", "2"],
    ):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:]
    (path,) = BUILD.glob("_cuda.*.so")
    return path


def resources(report: str) -> dict[str, Counter[str]]:
    """Of each kernel, by its mangled name: registers, bytes of stack."""
    kernels: dict[str, Counter[str]] = {}
    for architecture, functions in re.findall(
        r"Fatbin elf code:.*?arch = (\w+)(.*?)(?=Fatbin|\Z)", report, re.S
    ):
        for name, registers, stack in re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)", functions):
            kernel = kernels.setdefault(name, Counter())
            kernel |= Counter({"stack": int(stack)})
            if architecture == "sm_90a":
                kernel["registers"] = int(registers)
    return kernels


def disassembler() -> dict[str, str] | None:
    """cuobjdump's path and the environment in which it finds nvdisasm; None if either is missing."""
    try:
        files = [
            file
            for tool in ("cuobjdump", "nvdisasm")
            for file in importlib.metadata.files(f"nvidia-cuda-{tool}") or []
            if file.stem == tool
        ]
    except importlib.metadata.PackageNotFoundError:
        return None
    return {file.stem: str(file.locate()) for file in files}


def noted(instruction: str) -> str | None:
    """The name under which the budget counts an instruction of the disassembly, or None."""
    found = INSTRUCTION.match(instruction)
    if found is None:
        return None
    if access := ACCESS.match(found[1]):
        return f"{access[1]}.128"
    if found[1].startswith("WARPGROUP.DEPBAR"):
        return "waits"
    base = found[1].split(".")[0]
    return None if NOTED.fullmatch(base) is None else "local" if base in ("LDL", "STL") else base


class Loads:
    """Finds loads of 16 bytes that are used within the next instructions, before another one and before a branch."""

    def __init__(self) -> None:
        self.registers: set[str] = set()
        self.left = 0

    def used_at_once(self, instruction: str) -> bool:
        """Does this instruction, the next one, use the last load?"""
        found = INSTRUCTION.match(instruction)
        if found is None:
            return False
        opcode, operands = found.groups()
        registers = re.findall(r"\bR\d+\b", operands)
        if ACCESS.match(opcode) and opcode.startswith("LDG"):
            first = int(registers[0][1:])
            self.registers, self.left = {f"R{first + i}" for i in range(4)}, AT_ONCE
            return False
        self.left -= 1
        sources = registers if opcode.startswith("ST") else registers[1:]
        used = self.left >= 0 and not self.registers.isdisjoint(sources)
        if used or opcode.startswith(("B", "EXIT", "RET")):
            self.left = 0
        return used


def opcodes(tools: dict[str, str], module: Path) -> dict[str, Counter[str]]:
    """Of each kernel's machine code for 9.0a the opcodes that the budget counts, and how often."""
    found: dict[str, Counter[str]] = {}
    here: Counter[str] = Counter()
    loads = Loads()
    with subprocess.Popen(
        [tools["cuobjdump"], "--dump-sass", "--gpu-architecture", "sm_90a", module],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": str(Path(tools["nvdisasm"]).parent)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if kernel := re.match(r"\s+Function : (\w+)", line):
                here, loads = found.setdefault(kernel[1], Counter()), Loads()
                continue
            here["code"] += INSTRUCTION.match(line) is not None
            if name := noted(line):
                here[name] += 1
            if loads.used_at_once(line):
                here["alone"] += 1
    assert process.returncode == 0
    return found


def group(demangled: str) -> str:
    name = re.sub(
        r"_GLOBAL__N__\w+?_cu_\w{8}::|\(anonymous namespace\)::|fastdl::cuda::|^void ", "", demangled
    )
    kernel = re.split(r"[<(]", name)[0]
    function = re.match(r"(?:map_kernel|dense_map)<(?:(?:\(int\))?\d+, )+(\w+)", name)
    return f"{kernel} {function[1]}" if function else kernel


def measure(tools: dict[str, str], module: Path) -> dict[str, dict[str, Any]]:
    """The budget that the module would just keep."""
    report = subprocess.run(
        [tools["cuobjdump"], "--dump-resource-usage", module], capture_output=True, text=True, check=True
    ).stdout
    kernels, code = resources(report), opcodes(tools, module)
    assert set(code) == set(kernels)
    names = subprocess.run(
        ["c++filt"], input="\n".join(kernels), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    groups: dict[str, dict[str, Any]] = {}
    for (mangled, used), name in zip(kernels.items(), names, strict=True):
        entry = groups.setdefault(group(name), {"registers": 0, "stack": 0})
        for what in ("registers", "stack"):
            entry[what] = max(entry[what], used[what])
        for opcode, count in code[mangled].items():
            if opcode in ("waits", "alone"):
                entry[opcode] = max(entry.get(opcode, 0), count)
            elif opcode == "code":  # instructions of 16 bytes
                entry[opcode] = max(entry.get(opcode, 0), -(-count // 256) * 4)
            else:
                counts = entry if opcode == "local" else entry.setdefault("opcodes", {})
                counts[opcode] = counts.get(opcode, 0) + 1
    for entry in groups.values():
        if "opcodes" in entry:
            entry["opcodes"] = dict(sorted(entry.pop("opcodes").items()))
    return dict(sorted(groups.items()))


def beyond(measured: dict[str, Any], budget: dict[str, Any]) -> bool:
    """Does a group use more than it may, or lack what it should have?"""
    return any(measured.get(what, 0) > budget.get(what, 0) for what in LIMITS) or any(
        measured.get("opcodes", {}).get(o, 0) < n for o, n in budget.get("opcodes", {}).items()
    )


@pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("c++filt") is None or not emulation.tools(),
    reason="needs nvcc, c++filt, cmake, ninja and pybind11",
)
def test_registers_stack_opcodes_and_import():
    tools = disassembler()
    if tools is None:
        pytest.skip("needs nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm")
    path = module()
    measured = measure(tools, path)
    budget = json.loads(BUDGET.read_text())
    assert set(measured) == set(budget), "run python tests/test_cuda_budget.py and look at the difference"
    over = {name: (used, budget[name]) for name, used in measured.items() if beyond(used, budget[name])}
    assert over == {}, (
        "more registers, stack, waits, loads alone or local memory, or fewer opcodes: (measured, budget)"
    )
    # The module imports without a driver; a launch there says what is missing.
    done = subprocess.run([sys.executable, "-c", LAUNCH, path], capture_output=True, text=True, check=True)
    assert "CUDA: " in done.stdout or "launched" in done.stdout


def test_groups():
    hidden = "fastdl::cuda::_GLOBAL__N__1a2b3c4d_9_reduce_cu_d63100a1::"
    assert group(f"void {hidden}f<int>(int)") == "f"
    assert group(f"void fastdl::cuda::map_kernel<4, {hidden}Pair<float>, float>(X)") == "map_kernel Pair"


def test_report():
    report = """
Fatbin ptx code:
================
arch = sm_80

Fatbin elf code:
================
arch = sm_80

Resource usage:
 Common:
  GLOBAL:0
 Function f:
  REG:99 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:652 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Function f:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:652 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
    assert resources(report) == {"f": {"registers": 40, "stack": 8}}


@pytest.mark.parametrize(
    ("instruction", "name"),
    [
        (
            "        /*0080*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;  /* 0x1 */",
            "LDG.128",
        ),
        ("        /*1a080*/             @!P0 STG.E.128 desc[UR4][R2.64], R4 ;  /* 0x1 */", "STG.128"),
        ("        /*0080*/                   LDG.E.64 R4, desc[UR4][R2.64] ;", None),
        ("        /*0080*/               @P1 LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64] ;", "LDGSTS"),
        ("        /*0080*/                   HMMA.16816.F32 R4, R8, R12, R4 ;", "HMMA"),
        ("        /*0080*/             @UP0 UTMALDG.3D [UR8], [UR4] ;", "UTMALDG"),
        ("        /*0080*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;", "waits"),
        ("        /*0080*/                   STL.64 [R1], R2 ;", "local"),
        ("                                                    /* 0x000fe20000000800 */", None),
    ],
)
def test_opcodes(instruction, name):
    assert noted(instruction) == name


@pytest.mark.parametrize(
    ("after", "alone"),
    [
        (["PRMT R22, R11, 0x7632, R22"], 1),
        (["VIADD R3, R19, 0x100", "@!P0 PRMT R22, RZ, 0x5410, R8"], 1),
        (["STG.E.128 desc[UR4][R2.64], R8"], 1),
        (["LDG.E.128 R12, desc[UR4][R4.64]", "PRMT R22, R11, 0x7632, R22"], 0),
        (["BRA `(.L_x_7115)", "PRMT R22, R11, 0x7632, R22"], 0),
        (["IMAD.MOV.U32 R8, RZ, RZ, R5"], 0),  # written, not read
        (["VIADD R3, R19, 0x100"] * 20 + ["PRMT R22, R11, 0x7632, R22"], 0),
    ],
)
def test_loads_used_at_once(after, alone):
    loads = Loads()
    lines = ["@P0 LDG.E.128 R8, desc[UR4][R8.64]", *after]
    assert sum(loads.used_at_once(f"        /*0080*/                   {line} ;") for line in lines) == alone


def test_what_breaks_a_budget():
    budget = {"registers": 40, "stack": 0, "waits": 2, "opcodes": {"HMMA": 2}}
    fine = {**budget, "waits": 1, "opcodes": {"HMMA": 3, "LDSM": 1}}
    assert not beyond(fine, budget)
    for change in (
        {"registers": 41},
        {"stack": 8},
        {"waits": 3},
        {"alone": 1},
        {"local": 1},
        {"opcodes": {"HMMA": 1}},
        {"opcodes": {}},
    ):
        assert beyond({**fine, **change}, budget)


if __name__ == "__main__":
    tools = disassembler()
    if tools is None:
        sys.exit("needs the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm")
    groups = measure(tools, module())
    BUDGET.write_text(
        "{\n" + ",\n".join(f"  {json.dumps(n)}: {json.dumps(g)}" for n, g in groups.items()) + "\n}\n"
    )
    local = [name for name, used in groups.items() if used.get("local")]
    print(
        f"wrote {BUDGET}: {len(groups)} groups; with memory of a thread's own: {', '.join(local) or 'none'}"
    )

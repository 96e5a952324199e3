"""Write the seam between `_cpu` and the levels: ``python seam.py NM FOLDER --cpu OBJECT... --level OBJECT...``.

Bindings and runtime are in the extension module, kernels in a shared library per instruction-set level. Each side
calls functions of the other by their ordinary C++ names. Here those names are found in the object files, and two
assembler sources are written, ``cpu.cpp`` and ``level.cpp``, which hold for one side each:

- for every function called of the other side, its name, with a jump through the other side's table;
- the table of the functions that the other side calls, in the order of their names;
- what `seam.h` describes: this table, where the other one goes, and a hash of all names, which tells builds apart.

A jump costs two loads and clobbers %r11, which belongs to nobody at a call (System V ABI, x86-64). Only functions
cross the seam: a variable is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
from pathlib import Path

NAMESPACE = "6fastdl"  # as it stands in mangled names
JUMP = """\
.globl {name}
.hidden {name}
.type {name}, @function
{name}:
  movq calls(%rip), %r11
  jmp *{offset}(%r11)
.size {name}, .-{name}
"""
SOURCE = """\
// Written by csrc/levels/seam.py.
asm(R"(
.text
{jumps}.local calls
.comm calls, 8, 8
.section .data.rel.ro, "aw"
.balign 8
offers:
{table}.globl {side}
{visibility}.type {side}, @object
.size {side}, 24
{side}:
  .quad 0x{names_hash}, offers, calls
.text
)");
"""


def symbols(nm: str, objects: list[str]) -> tuple[set[str], set[str], set[str]]:
    """The project's names in these object files: of functions, of variables, and undefined ones."""
    listing = subprocess.run([nm, "-g", "-P", *objects], capture_output=True, text=True, check=True).stdout
    functions, variables, undefined = set[str](), set[str](), set[str]()
    for line in listing.splitlines():
        name, _, rest = line.partition(" ")
        if NAMESPACE in name:
            kind = rest[:1]
            (functions if kind in "TW" else undefined if kind == "U" else variables).add(name)
    return functions, variables, undefined - functions - variables


def source(side: str, calls: list[str], offers: list[str], names_hash: str) -> str:
    return SOURCE.format(
        side=side,
        jumps="".join(JUMP.format(name=name, offset=8 * i) for i, name in enumerate(calls)),
        table="".join(f"  .quad {name}\n" for name in offers),
        visibility="" if side == "fastdl_level" else f".hidden {side}\n",
        names_hash=names_hash,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nm")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", nargs="+", required=True)
    parser.add_argument("--level", nargs="+", required=True)
    arguments = parser.parse_args()
    cpu, cpu_variables, cpu_wants = symbols(arguments.nm, arguments.cpu)
    level, level_variables, level_wants = symbols(arguments.nm, arguments.level)
    if not cpu_wants or not level_wants:
        raise SystemExit(
            "seam.py: no calls between bindings and kernels; are these objects for link-time optimisation?"
        )
    if nowhere := sorted((cpu_wants - level) | (level_wants - cpu)):
        variables = sorted((cpu_wants & level_variables) | (level_wants & cpu_variables))
        raise SystemExit(
            f"seam.py: no function of the other side: {nowhere}, of these variables: {variables}"
        )
    kernels, runtime = sorted(cpu_wants), sorted(level_wants)
    names_hash = hashlib.sha256("\n".join([*kernels, "", *runtime]).encode()).hexdigest()[:16]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "cpu.cpp").write_text(source("fastdl_cpu", kernels, runtime, names_hash))
    (arguments.folder / "level.cpp").write_text(source("fastdl_level", runtime, kernels, names_hash))


if __name__ == "__main__":
    main()

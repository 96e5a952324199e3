"""Write the extension modules' type stubs from their own signatures: ``python tools/make_stubs.py [--check]``.

``--check`` writes nothing and fails if a stub in the tree is stale. The CUDA module's stub is written where that module
was built.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from fastdl import _cpu, _cpuid, _graph, kernels

HEADER = '"""{doc} Written by tools/make_stubs.py."""\n\n'
CLASS = "class {name}:\n    def __init__(self, *arguments: Any) -> None: ...\n\n"
ARRAY = "Array = np.ndarray[Any, Any]\n\n"


def signature(function: object) -> str:
    """The stub's line for a bound function, from the first line of its docstring."""
    text = str(function.__doc__).splitlines()[0]
    for pattern, replacement in (
        (r"(?:typing\.)?Annotated\[(.*?\]), \"FixedSize\(\d+\)\"\]", r"\1"),
        (r"numpy\.ndarray", "Array"),
        (r"\bfastdl\.(?:\w+\.)*(\w+)", r"\1"),  # classes of the module itself
        (r"numpy\.dtype", "np.dtype[Any]"),
        (r"(typing|collections\.abc|fastdl\._cuda)\.", ""),
        (r"SupportsInt \| SupportsIndex|SupportsInt", "int"),
        (r"SupportsFloat \| SupportsIndex|SupportsFloat", "float"),
        (r"\bdict\b(?!\[)", "dict[str, Any]"),
        (r"\blist\b(?!\[)", "list[Any]"),
        (r"\btuple\b(?!\[)", "tuple[Any, ...]"),
        (r"\bobject\b", "Any"),
    ):
        text = re.sub(pattern, replacement, text)
    return f"def {text}: ...\n"


def stub(module: ModuleType, doc: str, variables: str = "") -> str:
    members = [getattr(module, name) for name in sorted(dir(module)) if not name.startswith("_")]
    lines = "".join(CLASS.format(name=m.__name__) for m in members if isinstance(m, type))
    lines += "".join(signature(m) for m in members if callable(m) and not isinstance(m, type))
    array = ARRAY if "Array" in lines else ""
    imports = "".join(
        line
        for line, used in (
            ("from collections.abc import Sequence\n", "Sequence" in lines),
            ("from typing import Any\n", "Any" in lines or array),
            ("\nimport numpy as np\n", "np." in lines or array),
        )
        if used
    )
    return HEADER.format(doc=doc) + (imports + "\n" if imports else "") + array + variables + lines


def main() -> int:
    package = Path(kernels.__file__).resolve().parent.parent
    tree = Path(__file__).resolve().parent.parent / "python" / "fastdl"
    files = {
        "_cpuid.pyi": stub(_cpuid, "Instruction-set levels of this machine."),
        "_graph.pyi": stub(_graph, "Fields of tensors and nodes, and the calls that make them."),
        "_cpu.pyi": stub(_cpu, "The CPU kernels.", "level: str\nnames_hash: int\n"),
    }
    if importlib.util.find_spec("fastdl._cuda") is not None:  # where nvcc was found
        cuda = importlib.import_module("fastdl._cuda")
        files["_cuda.pyi"] = stub(cuda, "The CUDA kernels' launches, by address.")
    stale = [
        name
        for name, text in files.items()
        if not (tree / name).exists() or (tree / name).read_text() != text
    ]
    if "--check" in sys.argv:
        for name in stale:
            print(f"python/fastdl/{name} is stale: run python tools/make_stubs.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (tree / name).write_text(files[name])
        print(f"wrote python/fastdl/{name} (from {package})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

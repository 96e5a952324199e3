"""Write the stubs of public functions that take ``out=``: ``python tools/make_function_stubs.py``.

The wrapper of :mod:`fastdl.published` gives them that argument when they become public, which no type checker sees. So
the namespaces that consist of them have a stub, made from the functions' own signatures.
"""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import re
import typing
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parents[1] / "python" / "fastdl"
MODULES = "fft", "functions", "linalg", "special"
HEADER = '"""Public names of fastdl.{name}, with out=. Written by tools/make_function_stubs.py."""\n\n'


def stub(module: ModuleType) -> str:
    """The text of the stub file of ``module``."""
    imports: set[str] = set()
    lines = []
    for name in sorted(set(module.__all__)):
        value = getattr(module, name)
        origin = inspect.unwrap(value) if callable(value) else value
        if "out" in str(getattr(value, "__signature__", "")):
            lines.append(_definition(name, value, origin, imports))
        else:
            imports.add(f"from {_home(name, origin, module)}")
    names = "".join(f"    {name!r},\n" for name in module.__all__)
    body = "\n".join([*sorted(imports), "", f"__all__ = [\n{names}]", "", *lines])
    return HEADER.format(name=module.__name__.rpartition(".")[2]) + body + "\n"


def _home(name: str, value: Any, module: ModuleType) -> str:
    """Where a name can be imported from, as the rest of an import statement."""
    own, home = getattr(value, "__name__", name), getattr(value, "__module__", "")
    for path in [home, *(f"fastdl.ops.{file.stem}" for file in sorted((PACKAGE / "ops").glob("*.py")))]:
        for held_as in (own, name):
            if inspect.unwrap(getattr(import_module(path), held_as, None)) is value:
                return f"{path} import {held_as} as {name}"
    raise LookupError(f"{module.__name__}.{name} is found in no module of fastdl.ops")


def _definition(name: str, function: Callable[..., Any], origin: Any, imports: set[str]) -> str:
    signature = inspect.signature(function)
    parameters = [
        p.replace(default=... if p.default is not p.empty else p.empty) for p in signature.parameters.values()
    ]
    text = re.sub(r"'([^']*)'", r"\1", str(signature.replace(parameters=parameters)))
    text = text.replace("Ellipsis", "...")
    annotations = [str(p.annotation) for p in parameters] + [str(signature.return_annotation)]
    for word in set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", " ".join(annotations))):
        if not hasattr(builtins, word):
            imports.add(_import_of(word, origin))
    return f"def {name}{text}: ..."


def unbound_stub() -> str:
    """The text of the stub file of the methods that are functions, too."""
    from fastdl import unbound

    lines = [
        f"def {name}(input: Tensor, *args: Any, **options: Any) -> Tensor: ..." for name in unbound.__all__
    ]
    names = "".join(f"    {name!r},\n" for name in unbound.__all__)
    head = '"""Public names of fastdl.unbound. Written by tools/make_function_stubs.py."""\n'
    imports = ["from typing import Any\n", "from fastdl.tensor import Tensor\n"]
    return "\n".join([head, *imports, f"__all__ = [\n{names}]\n", *lines, ""])


def _import_of(word: str, origin: Any) -> str:
    """The statement that imports what an annotation of ``origin`` calls ``word``."""
    homes = [import_module(f"fastdl.{name}") for name in ("random", "tensor")] + [collections.abc, typing]
    home = getattr(origin.__globals__.get(word), "__module__", None)
    return f"from {home or next(m.__name__ for m in homes if hasattr(m, word))} import {word}"


if __name__ == "__main__":
    for name in MODULES:
        (PACKAGE / f"{name}.pyi").write_text(stub(import_module(f"fastdl.{name}")))
    (PACKAGE / "unbound.pyi").write_text(unbound_stub())

"""fastdl under PyTorch's name, for programs and packages that say ``import torch``.

A program as it is::

    python -m fastdl.as_torch train.py --epochs 3
    python -m fastdl.as_torch -m package.train

or :func:`install` before anything imports PyTorch. ``torch`` is then fastdl with the ``__version__`` of the PyTorch
that it is compared with, and ``torch.nn.functional`` is ``fastdl.nn.functional`` itself; what fastdl does not have is
missing (docs/differences.md). PyTorch need not be installed, and is not imported if it is.

Example:
    >>> import subprocess, sys
    >>> program = "from fastdl.as_torch import install; install(); import torch; print(torch.eye(2)[0])"
    >>> subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    'tensor([1., 0.])\\n'
"""

from __future__ import annotations

import runpy
import sys
import typing
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fastdl

__all__ = ["TORCH_VERSION", "install", "main"]

TORCH_VERSION = "2.13.0+fastdl"


class _Torch(ModuleType):
    """The top of the package: fastdl's names and a version of its own, since packages ask for 2.0 or later."""

    __version__ = TORCH_VERSION
    _C = SimpleNamespace(_log_api_usage_once=lambda *event: None)  # packages count their uses by it

    @property
    def torch(self) -> ModuleType:
        """Itself: some packages say ``torch.torch.Tensor``."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(fastdl, name)

    def __dir__(self) -> list[str]:
        return dir(fastdl)


class _Names(MetaPathFinder, Loader):
    """Finds ``torch`` and ``torch.a.b``, which is the module ``fastdl.a.b``."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "torch":
            return ModuleSpec(fullname, self, is_package=True)
        if fullname.startswith("torch.") and _counterpart(fullname) is not None:
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Torch("torch", fastdl.__doc__) if spec.name == "torch" else ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        # What the import leaves in sys.modules is what it gives: fastdl's module, whose own spec stays as it is.
        if module.__name__ != "torch":
            sys.modules[module.__name__] = _counterpart(module.__name__) or module


def _counterpart(name: str) -> ModuleType | None:
    ours = "fastdl" + name.removeprefix("torch")
    try:
        return import_module(ours)
    except ModuleNotFoundError as error:
        if error.name is None or not ours.startswith(error.name):
            raise  # a module of fastdl's that needs a package which is missing
        return None


def install() -> None:
    """Make ``import torch`` give fastdl in this process.

    Raises:
        ImportError: PyTorch itself was imported before.
    """
    if any(isinstance(finder, _Names) for finder in sys.meta_path):
        return
    if "torch" in sys.modules:
        raise ImportError("fastdl.as_torch: PyTorch is imported already; call install() before")
    sys.meta_path.insert(0, _Names())
    sys.modules["torch.jit.annotations"] = typing  # where old programs find the types of their annotations


def main(arguments: Sequence[str]) -> None:
    """Run a program, ``FILE ARGUMENTS...`` or ``-m MODULE ARGUMENTS...``, with fastdl as its PyTorch."""
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        sys.exit("usage: python -m fastdl.as_torch FILE ... | -m MODULE ...")
    install()
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])

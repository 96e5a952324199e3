"""fastdl under PyTorch's name, for programs and packages that say ``import torch``.

A program as it is::

    python -m fastdl.as_torch train.py --epochs 3
    python -m fastdl.as_torch -m package.train
    python -m fastdl.as_torch -c "import torch; print(torch.eye(2))"

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

import functools
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastdl
from fastdl import dtypes, private_names
from fastdl.dtypes import FLOATING, complex_dtype, known_dtype, real_dtype

__all__ = ["TORCH_VERSION", "install", "main"]

TORCH_VERSION = "2.13.0+fastdl"


class Dtype:
    """A dtype with ``torch.dtype``'s attributes and print; equal to NumPy's, which everything takes in its place."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype  # by which NumPy knows it
        self.itemsize: int = dtype.itemsize
        self.is_floating_point: bool = dtype.kind in FLOATING
        self.is_complex: bool = dtype.kind == "c"
        self.is_signed: bool = dtype.kind not in "ub"

    def to_real(self) -> Any:
        """The dtype of a complex number's parts."""
        return _named(real_dtype(self.dtype))

    def to_complex(self) -> Any:
        """The complex dtype of such parts."""
        return _named(complex_dtype(self.dtype))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dtype, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.dtype == (other.dtype if isinstance(other, Dtype) else other))

    def __hash__(self) -> int:
        return hash(self.dtype)

    def __repr__(self) -> str:
        return f"torch.{self.dtype.name}"

    def __reduce__(self) -> Any:
        return _named, (self.dtype,)


_dtypes: dict[Any, Dtype] = {}
_private: dict[str, ModuleType] = {}


def _named(dtype: Any) -> Dtype:
    """The one ``Dtype`` of a NumPy dtype."""
    found = _dtypes.get(dtype)
    if found is None:
        found = _dtypes[dtype] = Dtype(known_dtype(dtype) or dtype)
    return found


class _Torch(ModuleType):
    """The top of the package: fastdl's names and a version of its own, since packages ask for 2.0 or later."""

    __version__ = TORCH_VERSION

    dtype = Dtype

    @property
    def torch(self) -> ModuleType:
        """Itself: some packages say ``torch.torch.Tensor``."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _private:
            return _private[name]
        value = None if name in _FLOAT8 or name in _COMPLEX32 else getattr(fastdl, name)
        if isinstance(value, np.dtype):
            return _named(value)
        if name in _FLOAT8:
            value = Dtype(np.dtype(getattr(import_module("ml_dtypes"), name)))
        elif name in _COMPLEX32:
            value = _complex32
        elif name in _GIVE_DTYPES:
            value = _naming(value)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return dir(fastdl)


# Packages compare dtypes with ml_dtypes' float8. No tensor has one, and what is asked to make one says so.
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
# Nor one of 2 x 16 bits, which NumPy does not have; packages ask whether a tensor's dtype is that.
_COMPLEX32 = ("complex32", "chalf")


class _Complex32(Dtype):
    def __repr__(self) -> str:
        return "torch.complex32"


_complex32 = _Complex32(np.dtype([("real", np.float16), ("imag", np.float16)]))
_complex32.is_complex = True
_GIVE_DTYPES = ("get_default_dtype", "get_autocast_dtype", "promote_types", "result_type")


def _naming(function: Any) -> Any:
    @functools.wraps(function)
    def named(*arguments: Any, **options: Any) -> Any:
        return _named(function(*arguments, **options))

    return named


class _Installed(Distribution):
    """What ``importlib.metadata`` says of the package ``torch``, which other packages ask for its version."""

    def read_text(self, filename: str) -> str | None:
        texts = {
            "METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH_VERSION}\n",
            "top_level.txt": "torch\n",
        }
        return texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(fastdl.__file__).parent / path


class _Names(DistributionFinder, Loader):
    """Finds ``torch`` and ``torch.a.b``, which is the module ``fastdl.a.b``; and ``torch`` among what is installed."""

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        name = None if context is None else context.name
        return iter([_Installed()] if name in (None, "torch") else [])

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
    dtypes.package, dtypes.classes = "torch", (np.dtype, Dtype)
    type.__setattr__(
        fastdl.Tensor, "dtype", property(lambda t: _named(t._data.dtype), doc="The element type.")
    )
    _private.update(private_names.install())


_ON_THE_WAY = (__file__, runpy.run_path.__code__.co_filename)
_USAGE = "usage: python -m fastdl.as_torch FILE ... | -m MODULE ... | -c PROGRAM ..."


def main(arguments: Sequence[str]) -> None:
    """Run a program, ``FILE``, ``-m MODULE`` or ``-c PROGRAM`` and its arguments, with fastdl as its PyTorch."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(_USAGE, (__doc__ or "").partition("Example:")[0], sep="\n\n")
        return
    if not first or (first[0] == "-" and (first not in ("-m", "-c") or len(arguments) < 2)):
        sys.exit(_USAGE)
    if first[0] != "-" and not os.path.exists(first):
        print(f"python -m fastdl.as_torch: can't open file {first!r}: no such file", file=sys.stderr)
        sys.exit(2)
    install()
    sys.excepthook = functools.partial(_report, sys.excepthook)
    if first == "-m":
        sys.argv = list(arguments[1:])
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(program))
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def _report(hook: Any, kind: Any, error: BaseException, trace: Any) -> None:
    """``sys.excepthook`` without the frames that lead to the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _ON_THE_WAY:
        trace = trace.tb_next
    hook(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    # Not this module's own: what pickle looks for by name is in fastdl.as_torch.
    import_module("fastdl.as_torch").main(sys.argv[1:])

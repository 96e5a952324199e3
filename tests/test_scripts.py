"""Training scripts as people write them, run by torch and by fastdl after a change of the import: the same numbers.

Each script in ``scripts/`` has ``main(log, prepare)``: ``prepare`` gives a model's parameters values that do not
depend on the library, ``log`` notes numbers. What scripts draw (``torch.randn`` and its siblings) is NumPy's in both.
"""

from __future__ import annotations

import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))


class Log:
    """Numbers, with the tolerance that they are compared with."""

    def __init__(self):
        self.values, self.tolerances = [], []

    def __call__(self, *values, tolerance=2e-3):
        for value in values:
            self.values.append(float(value))
            self.tolerances.append(tolerance)

    def roughly(self, *values):
        self(*values, tolerance=0.05)


def _prepare(library):
    def prepare(model, keep=()):
        rng = np.random.default_rng(len(list(model.parameters())))
        with library.no_grad():
            for p in model.parameters():
                values = rng.uniform(-1, 1, tuple(p.shape)) / np.sqrt(max(p.shape[-1:], default=1))
                p.copy_(library.tensor(values, dtype=p.dtype))
            for name, b in model.named_buffers():
                if keep and name.endswith(keep):
                    b.copy_(library.tensor(np.full(b.shape, b.numel() ** -0.5), dtype=b.dtype))
        return model

    return prepare


def _drawing(library, monkeypatch):
    """The library's random functions, drawing from NumPy."""
    rng = np.random.default_rng(0)

    def shape(size):
        return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size

    def normal(*size, **options):
        return library.tensor(rng.standard_normal(shape(size)), dtype=library.float32)

    def uniform(*size, **options):
        return library.tensor(rng.random(shape(size)), dtype=library.float32)

    def integers(low, high, size, **options):
        return library.tensor(rng.integers(low, high, tuple(size)))

    monkeypatch.setattr(library, "randn", normal)
    monkeypatch.setattr(library, "rand", uniform)
    monkeypatch.setattr(library, "randint", integers)
    monkeypatch.setattr(library, "randn_like", lambda x: normal(*x.shape))
    monkeypatch.setattr(library, "rand_like", lambda x: uniform(*x.shape))


def run(path, library, monkeypatch):
    source = path.read_text()
    if library is fastdl:
        source = re.sub(r"^import torch$", "import fastdl as torch", source, flags=re.MULTILINE)
        source = re.sub(r"^(import|from) torch\b", r"\1 fastdl", source, flags=re.MULTILINE)
    name = f"script_{path.stem}_{library.__name__}"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    log = Log()
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        library.manual_seed(0)
        _drawing(library, patch)
        exec(compile(source, str(path), "exec"), module.__dict__)
        module.main(log, _prepare(library))
    return log


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_script_gives_torch_s_numbers(path, monkeypatch):
    expected, got = run(path, torch, monkeypatch), run(path, fastdl, monkeypatch)
    assert len(got.values) == len(expected.values) > 3
    for i, (a, b, tolerance) in enumerate(zip(got.values, expected.values, expected.tolerances, strict=True)):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance / 10), (
            f"number {i}: {got.values}, {expected.values}"
        )

"""Every example in a docstring runs and prints what it says; so do the pages for readers."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import fastdl

SKIPPED = {"fastdl.__main__"}  # runs the command line


def modules():
    for info in pkgutil.walk_packages(fastdl.__path__, "fastdl."):
        if info.name not in SKIPPED and not info.name.rpartition(".")[2].startswith("_"):
            yield info.name


def examples(name):
    """Examples of a module, those of functions made by factories (``fastdl.ops.unary``) included."""
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    seen = set()
    for test in finder.find(module, name):
        seen.add(test.name)
        function = inspect.unwrap(getattr(module, test.name.rpartition(".")[2], None))
        if getattr(function, "__globals__", vars(module)) is vars(module):  # no wrapper of another module's
            yield test
    for attribute, value in vars(module).items():
        made_here = callable(value) and getattr(value, "__module__", None) == name
        if made_here and f"{name}.{attribute}" not in seen and "Example:" in (value.__doc__ or ""):
            yield from finder.find(value, f"{name}.{attribute}", module=module)


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name):
    if name.startswith("fastdl.utils.tensorboard"):
        pytest.importorskip("tensorboard")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in examples(name):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def test_examples_are_found():
    assert (
        sum(len(test.examples) for name in modules() if "tensorboard" not in name for test in examples(name))
        > 200
    )


def test_public_names_have_docstrings():
    missing = []
    for name in fastdl.__all__:
        value = getattr(fastdl, name)
        if callable(value) and not (getattr(value, "__doc__", None) or "").strip():
            missing.append(name)
    assert not missing


def test_docstrings_show_no_private_names():
    """Except an argument of PyTorch's, names of parameters, and what an optimizer's subclass has to define."""
    documented = {"_random_samples", "_reverse", "_state_names", "_update"}
    public = [fastdl, fastdl.nn, fastdl.nn.functional, fastdl.optim, fastdl.optim.lr_scheduler, fastdl.Tensor]
    shown = {
        f"{place.__name__}.{name}": private
        for place in public
        for name in dir(place)
        if not name.startswith("_") and callable(getattr(place, name, None))
        for private in re.findall(
            r"``(_[a-z]\w*)", getattr(getattr(place, name, None), "__doc__", None) or ""
        )
        if private not in documented
    }
    assert not shown


@pytest.mark.parametrize("name", [n for n in fastdl.optim.lr_scheduler.__all__ if n != "LRScheduler"])
def test_schedulers_have_an_example(name):
    assert ">>> schedule = " in getattr(fastdl.optim.lr_scheduler, name).__doc__


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_signatures_of_recurrent_layers(name):
    names = list(inspect.signature(getattr(fastdl.nn, name)).parameters)
    assert names[:3] == ["input_size", "hidden_size", "num_layers"]
    assert {"batch_first", "bidirectional", "device"} < set(names)
    assert not {"args", "options"} & set(names)


def test_method_stubs_are_current(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    stubs = importlib.import_module("make_method_stubs")
    assert stubs.TARGET.read_text() == stubs.stubs(), "run python tools/make_method_stubs.py"


@pytest.mark.parametrize("name", ["functions", "linalg", "special"])
def test_function_stubs_are_current(name, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    stubs = importlib.import_module("make_function_stubs")
    expected = stubs.stub(importlib.import_module(f"fastdl.{name}"))
    assert (stubs.PACKAGE / f"{name}.pyi").read_text() == expected, "run python tools/make_function_stubs.py"


def test_stub_of_unbound_methods_is_current(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    stubs = importlib.import_module("make_function_stubs")
    assert (stubs.PACKAGE / "unbound.pyi").read_text() == stubs.unbound_stub()


@pytest.mark.parametrize("page", ["README.md", "docs/tour.md", "docs/devices.md"])
def test_pages_run(page, tmp_path, monkeypatch):
    """The Python blocks of a page, one after the other in one namespace, as a reader types them."""
    text = (Path(__file__).parents[1] / page).read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert blocks
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks:
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], page, "exec"), scope)

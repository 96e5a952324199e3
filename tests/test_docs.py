"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
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
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in examples(name):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def test_examples_are_found():
    assert sum(len(test.examples) for name in modules() for test in examples(name)) > 200


def test_public_names_have_docstrings():
    missing = []
    for name in fastdl.__all__:
        value = getattr(fastdl, name)
        if callable(value) and not (getattr(value, "__doc__", None) or "").strip():
            missing.append(name)
    assert not missing


def test_method_stubs_are_current(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    stubs = importlib.import_module("make_method_stubs")
    assert stubs.TARGET.read_text() == stubs.stubs(), "run python tools/make_method_stubs.py"

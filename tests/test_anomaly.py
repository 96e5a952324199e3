"""Anomaly mode says where: the lines of the program that made the node whose backward failed, as PyTorch's does."""

from __future__ import annotations

import importlib
import re
import warnings

import pytest

import fastdl


def root_of_zero(torch, x):
    y = x.sqrt()
    (y * 0).sum().backward()


def of_a_gradient(torch, x):
    (slope,) = torch.autograd.grad((x**1.5).sum(), x, create_graph=True)
    (slope * 0).sum().backward()


def of_a_graph_being_made(torch, x):
    torch.autograd.grad((x / x).sum(), x, create_graph=True)


def of_a_view(torch, x):
    y = x.view(1, 2)
    y.backward(torch.full((1, 2), float("nan")))


def changed_in_place(torch, x):
    y = x.exp()
    y.add_(1)
    y.sum().backward()


def a_second_time(torch, x):
    y = x.exp()
    y.sum().backward()
    y.sum().backward()


def of_the_programs_own(torch, x):
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("its own")

    y = Own.apply(x)
    y.sum().backward()


def made_before(torch, x):
    torch.autograd.set_detect_anomaly(False)
    y = x.sqrt() * 0
    torch.autograd.set_detect_anomaly(True)
    y.sum().backward()


def of_a_leafs_hook(torch, x):
    def hook(grad):
        raise ValueError("a hook's")

    x.register_hook(hook)
    y = x * 2
    (y * x).sum().backward()


def after_a_leaf_used_before(torch, x):
    def hook(leaf):
        raise ValueError("a hook's")

    x.register_post_accumulate_grad_hook(hook)
    torch.autograd.set_detect_anomaly(False)
    y = x * 2
    torch.autograd.set_detect_anomaly(True)
    (y * x).sum().backward()


def of_a_leafs_hook_in_a_graph_being_made(torch, x):
    def hook(grad):
        raise ValueError("a hook's")

    x.register_hook(hook)
    y = x * 2
    torch.autograd.grad((y * x).sum(), x, create_graph=True)


def complaints(torch, program):
    """The warnings, without names and frames that are not of this file."""
    x = torch.zeros(2, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autograd.set_detect_anomaly(True), pytest.raises((RuntimeError, ValueError)):
            program(torch, x)
    said = []
    for warning in caught:
        text = re.sub(
            r"(in|by) (\w+Backward0?|(torch::autograd::)?AccumulateGrad)\. ", "in it. ", str(warning.message)
        )
        for line in text.splitlines():
            frame = re.fullmatch(r'  File "(.*)", line (\d+), in (\w+)', line)
            if frame and frame[1] == __file__:
                said.append((frame[2], frame[3]))
            elif not frame and line[:1] not in ("", " "):
                said.append(line)
    return said


PROGRAMS = [
    root_of_zero,
    of_a_gradient,
    of_a_graph_being_made,
    of_a_view,
    changed_in_place,
    a_second_time,
    of_the_programs_own,
    made_before,
    of_a_leafs_hook,
    after_a_leaf_used_before,
    of_a_leafs_hook_in_a_graph_being_made,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_lines_are_torchs(program):
    torch = pytest.importorskip("torch")
    said, want = [complaints(library, program) for library in (fastdl, torch)]
    assert said == [re.sub(r" \(Triggered.*", "", line) if isinstance(line, str) else line for line in want]
    assert said  # a comparison of nothing would hold as well


def test_a_warning_points_to_the_program_and_shows_its_lines_only():
    x = fastdl.zeros(2, requires_grad=True)
    with (
        fastdl.autograd.set_detect_anomaly(True),
        pytest.warns(UserWarning, match=r"y = x\.sqrt\(\)") as caught,
        pytest.raises(RuntimeError, match="its 0th output"),
    ):
        root_of_zero(fastdl, x)
    assert caught[0].filename == __file__
    assert str(fastdl.__file__).rpartition("/")[0] not in str(caught[0].message)


def test_outputs_are_counted_in_english():
    x = fastdl.zeros(24, requires_grad=True)
    for place, ending in ((0, "0th"), (1, "1st"), (2, "2nd"), (3, "3rd"), (11, "11th"), (21, "21st")):
        grad = fastdl.zeros(24)
        grad[place] = float("nan")
        with (
            fastdl.autograd.set_detect_anomaly(True),
            pytest.warns(UserWarning, match="StackBackward"),
            pytest.raises(RuntimeError, match=f"in its {ending} output"),
        ):
            fastdl.stack([x[i] for i in range(24)]).backward(grad)


def test_the_error_comes_also_where_warnings_are_errors():
    x = fastdl.zeros(2, requires_grad=True)
    with warnings.catch_warnings(), fastdl.autograd.set_detect_anomaly(True):
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="its 0th output") as caught:
            root_of_zero(fastdl, x)
    assert "y = x.sqrt()" in caught.value.__notes__[0]


def test_nothing_stays_when_it_is_off():
    op = importlib.import_module("fastdl.autograd.op").Op
    made_at = importlib.import_module("fastdl.autograd.anomaly")._made_at
    x = fastdl.ones(2, requires_grad=True)
    with fastdl.autograd.set_detect_anomaly(True), fastdl.autograd.set_detect_anomaly(False):
        assert (x * 2).grad_fn not in made_at
    assert "__init__" not in vars(op)
    before = len(made_at)
    with fastdl.autograd.set_detect_anomaly(True):
        y = x * 2
        assert y.grad_fn in made_at
    del y
    assert len(made_at) == before


def test_a_hook_of_a_leaf_that_nothing_used_has_no_place():
    def hook(grad):
        raise ValueError("a hook's")

    x = fastdl.ones((), requires_grad=True)
    x.register_hook(hook)
    with fastdl.autograd.set_detect_anomaly(True), pytest.raises(ValueError, match="a hook's") as error:
        x.backward()
    assert not hasattr(error.value, "__notes__")  # a warning would be one: all are errors in these tests

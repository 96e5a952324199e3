"""Finding where NaN comes from: ``detect_anomaly`` makes backward check every gradient.

While it is on every node of the graph keeps the lines of the program that made it, and an error in its backward says
them. Nothing asks whether it is: it gives ``Op`` an ``__init__``, and takes that away again.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.errors import warn_caller
from fastdl.kernels.sparse import SparseArray

__all__ = ["detect_anomaly", "is_anomaly_enabled", "set_detect_anomaly"]


class _State:
    enabled: bool = False
    check_nan: bool = True


state = _State()


def _switch(enabled: bool, check_nan: bool) -> None:
    state.enabled, state.check_nan = enabled, check_nan
    if enabled:
        Op.__init__ = _remember  # type: ignore[method-assign, assignment]
    elif "__init__" in vars(Op):
        del Op.__init__


def is_anomaly_enabled() -> bool:
    """Does backward check gradients for NaN?"""
    return state.enabled


class set_detect_anomaly:
    """Switch the check on or off: as a function or a context manager. See ``torch.autograd.set_detect_anomaly``."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = state.enabled, state.check_nan
        _switch(bool(mode), bool(check_nan))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _switch(*self._before)


class detect_anomaly:
    """Inside the block backward stops with an error at the first operation whose gradient has a NaN.

    Before any error in backward a warning shows where the operation was called, if that was inside the block, too; for
    an error in a leaf's hook, where the leaf was used first. Where warnings are errors it is a note of the error.
    See ``torch.autograd.detect_anomaly``.

    Example:
        >>> import fastdl, warnings
        >>> warnings.simplefilter("ignore")
        >>> x = fastdl.zeros(1, requires_grad=True)
        >>> with fastdl.autograd.detect_anomaly():
        ...     (x / x).sum().backward()
        Traceback (most recent call last):
        ...
        RuntimeError: Function 'DivBackward' returned nan values in its 1st output.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self._check_nan = check_nan
        self._before: list[tuple[bool, bool]] = []
        warn_caller("Anomaly Detection has been enabled: backward is slower; use it to debug only")

    def __enter__(self) -> None:
        self._before.append((state.enabled, state.check_nan))
        _switch(True, self._check_nan)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _switch(*self._before.pop())


def check(node: Any, result: Any) -> None:
    """Raise if a gradient that ``node`` returned has a NaN."""
    for i, grad in enumerate(result if isinstance(result, tuple) else (result,)):
        if grad.__class__ is SparseArray:
            grad = grad.values._data
        if grad is not None and grad.dtype.kind in DIFFERENTIABLE and np.isnan(grad).any():
            ending = "th" if 10 < i % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(i % 10, "th")
            raise RuntimeError(f"Function '{node.name()}' returned nan values in its {i}{ending} output.")


_HIDDEN = (__file__.rpartition("autograd")[0], "<frozen ")
"""How files begin whose frames are not the program's."""


_made_at: WeakKeyDictionary[Op, Any] = WeakKeyDictionary()
"""Where nodes were made; beside them, since those that backward has freed forget all they had."""


def _remember(node: Op) -> None:
    """``Op.__init__`` that keeps the program's frames and, of a node made in backward, whose backward that was."""
    if not mode.enabled:
        return
    frames: list[Any] = []
    outer = None
    frame: Any = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_HIDDEN):
            frames.append((code.co_filename, frame.f_lineno, code.co_name, None))
        elif outer is None:
            outer = _at_work(frame)
        frame = frame.f_back
    made_in = None if outer is None else (outer.name(), _made_at.get(outer))
    _made_at[node] = frames[::-1], made_in


_WALKS = ("_run", "_run_graph")  # of engine and graph


def _at_work(frame: Any) -> Any:
    """The node whose backward a frame computes, if it is a walk's that has not come to the leaves."""
    names = frame.f_locals if frame.f_code.co_name in _WALKS else {"leaf": None}
    return None if "leaf" in names else names.get("node")


def _first_use(leaf: Any, roots: Any) -> Any:
    """The oldest node between the roots and a leaf; None if nothing was made from it."""
    from fastdl.autograd.engine import destinations

    users = [
        node
        for node in destinations(roots, [leaf])[1] or ()
        if isinstance(node, Op) and any(edge is not None and edge[0] is leaf for edge in node.edges or ())
    ]
    return max(users, key=lambda node: node.order, default=None)


def tell(error: Exception) -> None:
    """Warn where the node was made in whose backward ``error`` was raised; of a leaf, where it was used first."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_name not in _WALKS:
        trace = trace.tb_next
    names = {} if trace is None else trace.tb_frame.f_locals
    leaf = names.get("leaf")
    node = names.get("node") if leaf is None else _first_use(leaf, names["roots"])
    if node is None:
        return
    from traceback import StackSummary

    text = f"Error detected in {node.name() if leaf is None else 'AccumulateGrad'}. "
    made_at = _made_at.get(node)
    if made_at is None:
        text += "No forward pass information available. Enable detect anomaly during forward pass for more information."
    what = "caused the error"
    while made_at is not None:
        frames, made_in = made_at
        text += f"Traceback of forward call that {what}:\n{''.join(StackSummary.from_list(frames).format())}"
        outer, made_at = made_in or (None, None)
        if made_at is not None:
            text += f"\n\nPrevious calculation was induced by {outer}. "
            what = "induced the previous calculation"
    try:
        warn_caller(text)
    except UserWarning:  # warnings are errors here: this one is about an error that has to be seen
        error.add_note(text)

"""How tensors print: torch's notation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastdl import dtypes
from fastdl.devices import device_of, to_host
from fastdl.dtypes import CPU, FLOATING, META, bool_, complex_dtype, get_default_dtype, int64

_options: dict[str, Any] = {
    "precision": 4,
    "threshold": 1000,
    "edgeitems": 3,
    "linewidth": 80,
    "sci_mode": None,
}
_PROFILES: dict[str, dict[str, Any]] = {
    "default": {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80},
    "short": {"precision": 2, "threshold": 1000, "edgeitems": 2, "linewidth": 80},
    "full": {"precision": 4, "threshold": math.inf, "edgeitems": 3, "linewidth": 80},
}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors print; see ``torch.set_printoptions``.

    Args:
        precision: digits after the point (4).
        threshold: elements from which a tensor is summarised (1000).
        edgeitems: items shown at each end of a summarised axis (3).
        linewidth: characters in a line (80).
        profile: ``"default"``, ``"short"`` or ``"full"``: all of the above at once.
        sci_mode: scientific notation always (True), never (False), or where it helps (None).
    """
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(
                f"set_printoptions: profile must be one of {', '.join(_PROFILES)}, got {profile!r}"
            )
        _options.update(_PROFILES[profile])
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    _options.update({k: v for k, v in given.items() if v is not None})
    _options["sci_mode"] = sci_mode


@contextmanager
def printoptions(**options: Any) -> Iterator[None]:
    """A block in which tensors print as :func:`set_printoptions` says."""
    before = dict(_options)
    set_printoptions(**options)
    try:
        yield
    finally:
        _options.update(before)


def named_lines(value: Any) -> str:
    """A named tuple of tensors as torch prints it: one field below the other, so that matrices stay aligned."""
    fields = ",\n".join([f"{name}={item!r}" for name, item in zip(value._fields, value, strict=True)])
    return f"{type(value).__name__}(\n{fields})"


class _Pairs:
    """Complex elements: real and imaginary parts, each in its own notation and width."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.re, self.im = _Formatter(values.real), _Formatter(values.imag)
        self.width = self.re.width + self.im.width + 1

    def __call__(self, value: complex) -> str:
        imaginary = self.im(value.imag).lstrip()
        if imaginary[0] in "+-":
            return f"{self.re(value.real)}{imaginary}j"
        return f"{self.re(value.real)}+{imaginary}j"


class _Formatter:
    """One notation and one width for all elements of a tensor."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.is_float = values.dtype.kind in FLOATING
        self.whole = self.scientific = False
        self.width = 1
        if not self.is_float:
            self.width = max((len(str(v)) for v in values.ravel().tolist()), default=1)
            return
        flat = values.ravel().astype(np.float64)
        shown = flat[np.isfinite(flat) & (flat != 0)]  # as in torch, only these decide notation and width
        if shown.size:
            size = np.abs(shown)
            self.whole = bool(np.all(size == np.ceil(size)))
            low, high = float(size.min()), float(size.max())
            self.scientific = high / low > 1000 or high > 1e8 or (not self.whole and low < 1e-4)
        else:
            self.whole = flat.size > 0
        if _options["sci_mode"] is not None:
            self.scientific = _options["sci_mode"]
        self.width = max((len(self.text(v)) for v in shown.tolist()), default=1)

    def text(self, value: Any) -> str:
        if not self.is_float:
            return str(value)
        digits = _options["precision"]
        if self.scientific:
            return f"{value:.{digits}e}"
        if self.whole:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{digits}f}"

    def __call__(self, value: Any) -> str:
        return self.text(value).rjust(self.width)


def _formatter(values: np.ndarray[Any, Any]) -> Any:
    return _Pairs(values) if values.dtype.kind == "c" else _Formatter(values)


def _edges(array: Any) -> Any:
    """The parts of a summarised tensor that are shown."""
    keep = _options["edgeitems"]
    for axis, extent in enumerate(array.shape):
        if extent > 2 * keep:
            array = np.take(array, [*range(keep), *range(extent - keep, extent)], axis)
    return array


def _rows(array: Any, indent: int, summarise: bool, fmt: Any) -> str:
    if array.ndim == 0:
        return fmt(array.item())  # type: ignore[no-any-return]
    keep = _options["edgeitems"]
    short = summarise and len(array) > 2 * keep
    if array.ndim > 1:
        parts = list(array[:keep]) + list(array[-keep:]) if short else list(array)
        rows = [_rows(a, indent + 1, summarise, fmt) for a in parts]
        if short:
            rows.insert(keep, "...")
        break_: str = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
        return "[" + break_.join(rows) + "]"
    values = array.tolist()
    items = [fmt(v) for v in values[:keep] + values[-keep:]] if short else [fmt(v) for v in values]
    if short:
        items.insert(keep, " ...")
    per_line = max(1, (_options["linewidth"] - indent) // (fmt.width + 2))
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def dtype_note(dtype: Any) -> list[str]:
    """What is printed of a dtype that the elements do not show."""
    usual = (get_default_dtype(), complex_dtype(get_default_dtype()), int64, bool_)
    return [] if dtype in usual else [f"dtype={_dtype_name(dtype)}"]


def tensor_repr(tensor: Any, prefix: str = "tensor(", plain: bool = False) -> str:
    """``repr`` of a tensor; ``plain``: without the notes of one that stands by itself."""
    where = device_of(tensor._data)
    array = np.zeros(0, tensor._data.dtype) if where is META else to_host(tensor._data)
    indent = len(prefix)
    notes = []
    dtype = array.dtype
    if array.size == 0:
        body = "..." if where is META else "[]"
        if where is META or array.ndim != 1 or plain:
            notes.append(f"size={tuple(tensor.shape)}")
        if dtype != get_default_dtype():
            notes.append(f"dtype={_dtype_name(dtype)}")
    else:
        body = _body(array, indent)
        notes += dtype_note(dtype)
    if plain:
        notes = [note for note in notes if note.startswith("size")]
    elif where is not CPU:
        notes.insert(0, f"device='{where}'")
    if tensor._node is not None:
        notes.append(f"grad_fn=<{tensor._node.name()}>")
    elif tensor._requires_grad:
        notes.append("requires_grad=True")
    return with_notes(prefix + body, notes, indent)


def _body(array: Any, indent: int) -> str:
    summarise = array.size > _options["threshold"]
    return _rows(array, indent, summarise, _formatter(_edges(array) if summarise else array))


def contents(tensor: Any, indent: int) -> str:
    """The elements between their brackets, as they print after ``indent`` characters."""
    array = to_host(tensor._data)
    return "[]" if array.size == 0 else _body(array, indent)


def with_notes(text: str, notes: list[str], indent: int, force_newline: bool = False) -> str:
    """``text`` and the notes, in lines that are not too long, and a closing parenthesis."""
    line = len(text) - text.rfind("\n") + 1
    for note in notes:
        if force_newline or line + len(note) + 2 > _options["linewidth"]:
            force_newline = False
            text += ",\n" + " " * indent + note
            line = indent + len(note)
        else:
            text += ", " + note
            line += len(note) + 2
    return text + ")"


def _dtype_name(dtype: Any) -> str:
    return f"{dtypes.package}.{dtype.name}"

"""What PyTorch has and fastdl has not: the sentence that the error of a missing name ends with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from inspect import isfunction, signature
from typing import Any

from fastdl.errors import ArgumentError

_BLOCKS = "sparse layouts are sparse_coo, sparse_csr and sparse_csc"
_QUANTISED = "there are no quantised tensors; float16 and bfloat16 halve the memory"
_FAKE = "round with a straight-through autograd.Function: its forward rounds, its backward returns grad"
NO_SCRIPT = ": models run as they are; save the state_dict, and make the model where it is loaded (docs/differences.md)"
_COMPLEX = "complex numbers have parts of 32 and 64 bits: complex64 and complex128"
_STORAGE = "a tensor lies in a NumPy array: x.numpy() is that memory, x.data_ptr() its address"
_WHY = {
    _BLOCKS: "sparse_bsr sparse_bsc sparse_bsr_tensor sparse_bsc_tensor .to_sparse_bsr .to_sparse_bsc",
    _QUANTISED: """quantization ao quantize_per_tensor quantize_per_channel .dequantize qint8 quint8 qint32
        .q_scale .q_zero_point .int_repr float8_e4m3fn float8_e5m2""",
    _FAKE: "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine",
    _COMPLEX: "complex32 .chalf",
    _STORAGE: ".storage .is_shared",
    "models run as they are; fastdl.compile returns its argument": "export",
    "pass padded tensors and masks": "nested masked",
    "axes go by number": ".names .rename .rename_ .refine_names .align_to",
    "fastdl.save keeps a model's state_dict; its program is a Python module like any other": "package",
    "fastdl.from_numpy(scipy.stats.qmc.Sobol(d).random(n)) are such points": "quasirandom",
}
"""Why -> names; those with a dot PyTorch's tensors have, too."""
_HINTS = {name.removeprefix("."): why for why, names in _WHY.items() for name in names.split()}
_TORCHVISION = (
    "it is made for PyTorch's own core. fastdl.datasets.load_mnist reads MNIST, fastdl.models has its models; "
    "nn.functional.pad and slices, x.flip(-1), and affine_grid with grid_sample augment batches"
)


class Absent:
    """In a class: a name that PyTorch's has and this one has not. Reading it is the error that says why.

    A ``__getattr__`` would say it, too, but with one the interpreter looks up every attribute the slow way.
    """

    def __init__(self, name: str, why: str = "") -> None:
        self.name, self.why = name, why

    def __get__(self, instance: Any, owner: type) -> Any:
        whose = f"type object {owner.__name__!r}" if instance is None else f"{owner.__name__!r} object"
        text = f"{whose} has no attribute {self.name!r}{self.why or hint(self.name)}"
        raise AttributeError(text, name=self.name, obj=instance)


def mark_absent(cls: type) -> None:
    """Put an :class:`Absent` into ``cls`` for every name of PyTorch's tensors that it has not."""
    for name in " ".join(_WHY.values()).split():
        if name[0] == ".":
            setattr(cls, name[1:], Absent(name[1:]))


def hint(name: str) -> str:
    """Why there is no ``name``, and what to use; empty where it is no name of PyTorch's that was left out."""
    from fastdl.tensor import Tensor

    why = _HINTS.get(name)
    if why is None and name.endswith("_") and callable(getattr(Tensor, name, None)):
        why = f"what works in place is a method, x.{name}()"
    return "" if why is None else f": {why} (docs/differences.md)"


class Finder:
    """Asked for a module when nobody else has found it: an import that fails says why, as a missing attribute does.

    Whether there is such a module (``importlib.util.find_spec``) is answered as ever.
    """

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> None:
        parent, _, name = fullname.partition(".")
        dtypes = sys.modules.get("fastdl.dtypes")  # whose package is "torch" under fastdl.as_torch
        if parent not in ("fastdl", "torch", "torchvision") or dtypes is None:
            return
        if parent in ("fastdl", dtypes.package):
            why = hint(name)
        elif fullname == "torchvision" and dtypes.package == "torch":
            why = f": {_TORCHVISION} (docs/differences.md)"
        else:
            return
        frame: Any = sys._getframe(1)
        callers = set()
        while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            callers.add(frame.f_code.co_name)
            frame = frame.f_back
        if not why or "_find_and_load" not in callers:
            return
        if "_handle_fromlist" in callers:
            raise ImportError(f"cannot import name {name!r} from {parent!r}{why}", name=parent)
        raise ModuleNotFoundError(f"No module named {fullname!r}{why}", name=fullname)


def explain_imports() -> None:
    """Let imports that fail say why."""
    sys.meta_path.append(Finder)


def untrained(models: dict[str, Any]) -> dict[str, Any]:
    """The functions among ``models``, with torchvision's arguments for weights, of which none are shipped."""
    return {name: _untrained(value) for name, value in models.items() if isfunction(value)}


def _untrained(build: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(build)
    def model(
        *args: Any, weights: Any = None, pretrained: bool = False, progress: bool = True, **options: Any
    ) -> Any:
        if weights is None and not pretrained:
            return build(*args, **options)
        name = build.__name__
        raise ArgumentError(
            f"{name}: no weights are shipped. Those of torchvision load: model = {name}(); "
            f'model.load_state_dict(fastdl.load("{name}.pth")), or the result of hub.load_state_dict_from_url(url)'
        )

    own, added = signature(build), signature(model, follow_wrapped=False).parameters.values()
    named = [p for p in added if p.kind is p.KEYWORD_ONLY]
    parameters = sorted([*own.parameters.values(), *named], key=lambda p: p.kind)  # **options last
    model.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    model.__module__ = "fastdl.models"  # where pickle finds it
    return model

"""What packages take from PyTorch's private modules, under :mod:`fastdl.as_torch`."""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterable
from contextlib import nullcontext
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import fastdl
from fastdl import printing
from fastdl.devices import device_of
from fastdl.ops.cast import parse_to
from fastdl.tensor import Tensor

__all__ = ["install"]


def _module(name: str, doc: str, **names: Any) -> ModuleType:
    module = ModuleType(name, doc)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(names)
    sys.modules[name] = module
    return module


def _flatten_dense_tensors(tensors: Iterable[Tensor]) -> Tensor:
    """All elements, one tensor after the other."""
    return fastdl.cat([tensor.reshape(-1) for tensor in tensors])


def _unflatten_dense_tensors(flat: Tensor, tensors: Any) -> tuple[Tensor, ...]:
    """``flat`` in the shapes of ``tensors``."""
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return tuple(piece.reshape(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True))


def _group_tensors_by_device_and_dtype(lists: Any, with_indices: bool = False) -> dict[Any, Any]:
    """Lists of as many tensors each, cut up by the first one's: (device, dtype) -> (lists, positions)."""
    places: dict[Any, list[int]] = {}
    for i, tensor in enumerate(lists[0]):
        array = tensor._data
        places.setdefault((device_of(array), array.dtype), []).append(i)
    return {
        (lists[0][at[0]].device, lists[0][at[0]].dtype): (
            [list(values) if len(places) == 1 else [values[i] for i in at] for values in lists],
            at if with_indices else [],
        )
        for at in places.values()
    }


class _Operation:
    """A name below ``torch.ops.aten``: packages keep what they do in an operation's place by it.

    Called, it is the function of ``torch`` by that name.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> _Operation:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Operation(f"{self._path}.{name}")
        setattr(self, name, made)
        return made

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(fastdl, self._path.split(".")[1])(*args, **options)

    def __repr__(self) -> str:
        return self._path


def _parse_to(*args: Any, **options: Any) -> tuple[Any, Any, bool, Any]:
    """Device, dtype, ``non_blocking`` and ``memory_format`` from the arguments of ``to``."""
    memory_format = options.pop("memory_format", None)
    dtype, where, non_blocking, _ = parse_to(args, options)
    return where, dtype, non_blocking, memory_format


def _core() -> ModuleType:
    """``torch._C``: questions to which there is one answer."""
    return _module(
        "torch._C",
        "Questions that packages ask of PyTorch's core.",
        DisableTorchFunctionSubclass=nullcontext,
        _TensorMeta=type(Tensor),
        _are_functorch_transforms_active=lambda: False,
        _disabled_torch_function_impl=None,
        _get_privateuse1_backend_name=lambda: "privateuseone",
        _nn=SimpleNamespace(_parse_to=_parse_to),
        _get_tracing_state=lambda: None,
        _log_api_usage_once=lambda *event: None,  # packages count their uses by it
    )


def _dynamo() -> None:
    compiler = fastdl.compiler
    optimized = type("OptimizedModule", (), {})  # no module is one
    _module(
        "torch._dynamo",
        "Remarks to a compiler, of which there is none.",
        __path__=[],
        allow_in_graph=compiler.allow_in_graph,
        assume_constant_result=compiler.assume_constant_result,
        config=SimpleNamespace(),
        disable=compiler.disable,
        eval_frame=SimpleNamespace(OptimizedModule=optimized),
        is_compiling=compiler.is_compiling,
        mark_dynamic=lambda *where: None,
        mark_static_address=lambda tensor, guard=False: None,
        OptimizedModule=optimized,
        reset=compiler.reset,
    )
    # PyTorch's vmap does not take x[i] for a tensor i of one number, which this mends. Here it is a usual index.
    _module("torch._dynamo._trace_wrapped_higher_order_op", "", TransformGetItemToIndex=nullcontext)


def _data() -> None:
    """``torch.utils.data._utils``."""
    collate = _module(
        "torch.utils.data._utils.collate",
        "",
        collate=fastdl.utils.data.collate.collate,
        default_collate=fastdl.utils.data.default_collate,
        default_convert=fastdl.utils.data.default_convert,
        default_collate_fn_map=fastdl.utils.data.collate.default_collate_fn_map,
        np_str_obj_array_pattern=re.compile(r"[SaUO]"),
    )
    worker = _module("torch.utils.data._utils.worker", "", get_worker_info=fastdl.utils.data.get_worker_info)
    fastdl.utils.data._utils = _module(
        "torch.utils.data._utils",
        "",
        __path__=[],
        collate=collate,
        worker=worker,
        MP_STATUS_CHECK_INTERVAL=5.0,
    )


class _PrintOptions:
    """The options of printing as attributes."""

    def __init__(self) -> None:
        self.__dict__ = printing._options


def _printing() -> ModuleType:
    """``torch._tensor_str``."""
    return _module(
        "torch._tensor_str",
        "",
        PRINT_OPTS=_PrintOptions(),
        _add_suffixes=printing.with_notes,
        _str_intern=lambda inp, *, tensor_contents=None: printing.tensor_repr(inp),
        _tensor_str=printing.contents,
        printoptions=printing.printoptions,
    )


def _subclasses() -> ModuleType:
    """``torch._subclasses``: tensors without values, of which there are none."""
    fake = _module(
        "torch._subclasses.fake_tensor",
        "",
        FakeTensor=type("FakeTensor", (), {}),
        FakeTensorMode=type("FakeTensorMode", (), {}),
        is_fake=lambda x: False,
    )
    return _module("torch._subclasses", "", __path__=[], fake_tensor=fake, FakeTensor=fake.FakeTensor)


def install() -> dict[str, ModuleType]:
    """Put the private modules where ``import`` finds them; those to be found as attributes of ``torch``, too."""
    _dynamo()
    _data()
    _module(
        "torch.utils._foreach_utils",
        "",
        _group_tensors_by_device_and_dtype=_group_tensors_by_device_and_dtype,
    )
    import_module("fastdl.ops").aten = _Operation("aten")  # type: ignore[attr-defined]
    sys.modules["torch._higher_order_ops.associative_scan"] = import_module("fastdl.higher_order")
    sys.modules["torch._higher_order_ops"] = sys.modules["torch._higher_order_ops.associative_scan"]
    sys.modules["torch.functional"] = fastdl
    sys.modules["torch.jit.annotations"] = typing  # where old programs find the types of their annotations
    # As PyTorch's own imports leave them: programs that exchange functions look for the modules they are in.
    import_module("fastdl.distributed")
    for name, loaded in list(sys.modules.items()):
        if name.startswith(("fastdl.distributed", "fastdl.nn", "fastdl.optim", "fastdl.utils")):
            sys.modules["torch" + name.removeprefix("fastdl")] = loaded
    return {
        "_C": _core(),
        "_dynamo": sys.modules["torch._dynamo"],
        "_jit_internal": _module("torch._jit_internal", "", _copy_to_script_wrapper=fastdl.jit.export),
        "_subclasses": _subclasses(),
        "_tensor_str": _printing(),
        "functional": fastdl,
        "_utils": _module(
            "torch._utils",
            "",
            _element_size=lambda dtype: np.dtype(dtype).itemsize,
            _flatten_dense_tensors=_flatten_dense_tensors,
            _unflatten_dense_tensors=_unflatten_dense_tensors,
        ),
    }

"""A stand-in for CuPy on machines without a GPU: its arrays, held in NumPy's memory behind a wall.

``install()`` puts it in place of ``cupy``, and puts the reference kernels, working behind the wall, in place of
``fastdl.kernels.cuda``; ``uninstall()`` takes both away. What is imitated is what matters to a library above CuPy 14:

- An array never turns into NumPy's by itself (``np.asarray(x)`` raises); ``.get()`` copies it to the host.
- NumPy's ufuncs (called, with ``out``, ``dtype`` and ``casting`` only) and functions (those CuPy has, with the
  arguments it has) work on it through ``__array_ufunc__`` and ``__array_function__``; a NumPy array among the operands
  is a TypeError, numbers and NumPy scalars are not.
- Reductions and indexing return arrays of 0 dimensions, never scalars; ``flags`` has no ``writeable``; there is no
  ``__index__``; an index that is out of bounds wraps around.
- What adds floating-point numbers in any order is an error, as fastdl promises the same bits in every run.
- Streams, events, devices, the memory pool and graph capture have CuPy's names. What is captured is not executed, and
  a launch does it again on the same arrays.

Transfers are counted (``transfers``), so that a test can say that a step makes none.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import inspect
import sys
import types
from typing import Any

import numpy as np

import fake_cupy_arrays as arrays
from fake_cublas import _library, multiplied_in, streams, workspaces
from fake_cuda import (
    CUDARuntimeError,
    Device,
    Event,
    MemoryHook,
    MemoryPool,
    PinnedMemory,
    Stream,
    _get_elapsed_time,
    _properties,
    pool,
    waits,
)
from fake_cupy_arrays import (
    _ABSENT,
    _CREATION,
    _create,
    _function,
    _host,
    _run,
    _Ufunc,
    _wrap,
    ndarray,
    transfers,
)

__all__ = [
    "CUDARuntimeError",
    "_library",
    "install",
    "multiplied_in",
    "streams",
    "transfers",
    "uninstall",
    "workspaces",
]

# Arguments of kernels that may be NumPy arrays: the host reads them.
_HOST_ARGUMENTS = ("batch_sizes", "steps", "mu_products", "input_lengths", "target_lengths")
# The real wrappers' device module and what it emulated, while installed.
_replaced: list[tuple[Any, Any]] = []


def _backend() -> types.ModuleType:
    """The reference kernels behind the wall."""
    import fastdl
    from fastdl.kernels import RecordedSeed, reference

    module = types.ModuleType("fastdl.kernels.cuda")

    def behind(function: Any) -> Any:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            def enter(name: str, value: Any) -> Any:
                if isinstance(value, (list, tuple)):
                    return type(value)([enter(name, v) for v in value])
                on_host = name in _HOST_ARGUMENTS and isinstance(value, np.ndarray)
                return value if on_host else _host(value)

            given = dict(zip(names, args, strict=False)) | kwargs
            entered = {name: enter(name, value) for name, value in given.items()}

            def run() -> Any:
                seed = entered.get("seed")
                if not isinstance(seed, RecordedSeed):
                    return function(**entered)
                words = seed.state._host.tolist()
                drawn = {"seed": words[0], "offset": words[1] + entered["offset"]}
                return function(**(entered | drawn))

            result = _run(run, *entered.values())
            for value in given.values():  # a result written to `out` is that array itself
                if isinstance(value, ndarray) and result is value._host:
                    return value
            return _wrap(result)

        return call

    for name in dir(reference):
        function = getattr(reference, name)
        if inspect.isfunction(function) and not name.startswith("_"):
            setattr(module, name, behind(function))
    module.empty = arrays.empty  # type: ignore[attr-defined]
    module.raise_reports = lambda: None  # type: ignore[attr-defined]

    def clamp_arrays(arrays: list[ndarray], limit: float) -> None:
        for a in arrays:
            np.clip(a, -limit, limit, out=a)

    def zero_arrays(arrays: list[ndarray]) -> None:
        for a in arrays:
            a.fill(0)

    module.clamp_arrays, module.zero_arrays = clamp_arrays, zero_arrays  # type: ignore[attr-defined]

    def special_backward(op: str, grad_y: ndarray, x: ndarray) -> ndarray:
        leaf = fastdl.from_numpy(x._host).requires_grad_()
        with fastdl.enable_grad():
            getattr(fastdl if hasattr(fastdl, op) else fastdl.special, op)(leaf).backward(
                fastdl.from_numpy(grad_y._host)
            )
        return ndarray._of(leaf.grad._data)

    module.special_backward = special_backward  # type: ignore[attr-defined]

    def set_random_state(state: ndarray, seed: int, offset: int) -> None:
        state._host[...] = seed, offset

    module.set_random_state = set_random_state  # type: ignore[attr-defined]
    return module


class _Taped:
    """The emulated extension; what is called while a graph is captured runs at once, and again when it is launched."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._extension, name)
        if name == "Blas":
            return lambda *addresses: _Taped(function(*addresses))
        if isinstance(function, type):
            return function

        def call(*args: Any) -> Any:
            result = function(*args)
            if Stream.capturing and (result is None or result is True):
                Stream.tape.append(lambda: function(*args))
            return result

        return call


def install(emulated: bool = False) -> types.ModuleType:
    """Make ``import cupy`` find this module, and fastdl its kernels; before the first tensor on a GPU.

    Args:
        emulated: use ``fastdl.kernels.cuda`` itself, with the kernels compiled for the CPU (``emulation.py``).
    """
    cupy = types.ModuleType("cupy")
    ndarray.__module__ = "cupy"
    for name in ("ndarray", "array", "asarray", "asnumpy", "empty", "from_dlpack"):
        setattr(cupy, name, getattr(arrays, name))
    for name in dir(np):
        if isinstance(getattr(np, name), np.ufunc) and name not in _ABSENT and name != "matmul":
            setattr(cupy, name, _Ufunc(getattr(np, name)))

    def module_attribute(name: str) -> Any:
        function = getattr(np, name, None)
        if function is None or name in _ABSENT or name.startswith("_"):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        return functools.partial(_create if name in _CREATION else _function, function)

    cupy.__getattr__ = module_attribute  # type: ignore[method-assign]
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        Event=Event,
        get_current_stream=lambda device_id=-1: Stream.stack[-1] if Stream.stack else Stream.null,
        get_elapsed_time=_get_elapsed_time,
        is_available=lambda: True,
        alloc_pinned_memory=lambda size: np.zeros(size, np.uint8).view(PinnedMemory),
        MemoryPool=MemoryPool,
        memory_hook=types.SimpleNamespace(MemoryHook=MemoryHook),
        cublas=types.SimpleNamespace(getVersion=lambda handle: 130002),
        get_cublas_handle=lambda: 1,
        using_allocator=lambda allocator: contextlib.nullcontext(),
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: Device.count,
            getDevice=lambda: Device.current,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            getDeviceProperties=_properties,
            deviceSynchronize=waits,
            CUDARuntimeError=CUDARuntimeError,
        ),
    )
    cupy.get_default_memory_pool = lambda: pool
    cupy.lib = types.SimpleNamespace(
        stride_tricks=types.SimpleNamespace(
            as_strided=lambda x, shape=None, strides=None: _wrap(
                np.lib.stride_tricks.as_strided(x._host, shape, strides), x._device_id
            )
        )
    )
    cupy.linalg = types.SimpleNamespace(
        **{
            name: functools.partial(_function, getattr(np.linalg, name))
            for name in ("norm", "inv", "solve", "qr")
        }
    )
    cupy.__version__ = "14.0.0"
    extension, cupyx = types.ModuleType("fastdl._cuda"), types.ModuleType("cupyx")
    cupyx.errstate = arrays.errstate  # type: ignore[attr-defined]
    for module in (cupy, cupyx, extension):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
    if emulated:
        import emulation
        from fastdl.kernels.cuda import device

        _replaced.append((device, device._emulated))
        device.CDLL = _library  # type: ignore[misc, assignment]
        device.emulate(_Taped(emulation.extension()), numpy=False)  # type: ignore[arg-type]
    else:
        sys.modules["fastdl.kernels.cuda"] = _backend()
    return cupy


def uninstall() -> None:
    """Undo :func:`install`: no GPU can be used any more."""
    from fastdl import devices, kernels

    if _replaced:  # NumPy arrays go where they went before
        device, before = _replaced.pop()
        device.CDLL = ctypes.CDLL
        device.emulate(None if before is None else before.extension)
    else:
        sys.modules.pop("fastdl.kernels.cuda", None)
    for name in ("cupy", "cupyx", "fastdl._cuda"):
        sys.modules.pop(name, None)
    kernels.set_device_backend(kernels.NoDeviceArray, None)
    devices._cupy = None
    Device.current, Stream.capturing = 0, False
    MemoryHook.active.clear()

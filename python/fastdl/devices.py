"""Where arrays lie, and moving them: NumPy's on the CPU, CuPy's on a GPU.

Nothing here or elsewhere imports CuPy before a GPU is asked for, or an array of CuPy's is handed in. Above this module
and :mod:`fastdl.kernels` code does not ask for the device: NumPy's functions work on CuPy's arrays through NumPy's own
protocols (``np.zeros(3, like=x)`` makes an array where x lies), and ``select(x)`` finds the kernels.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

import numpy as np

from fastdl import kernels
from fastdl.dtypes import CPU, META, defaults, device
from fastdl.kernels import MetaArray, cpu, on_device, select
from fastdl.kernels.meta import no_values
from fastdl.kernels.several_gpus import on_their_gpu

_cupy: Any = None
_devices: dict[int, device] = {}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module without a spec
        return module in sys.modules


def is_built() -> bool:
    """Does this build of fastdl contain CUDA kernels?"""
    return _is_installed("fastdl._cuda")


def missing() -> str | None:
    """What is missing to use a GPU, in one sentence with the remedy; None if nothing is."""
    if not is_built():
        return (
            "this build of fastdl contains no CUDA kernels; build it on a machine with a CUDA compiler: "
            "pip install . -C cmake.define.FASTDL_CUDA=ON"
        )
    if not _is_installed("cupy"):
        return "CuPy, whose arrays hold tensors on a GPU, is not installed: pip install 'fastdl[cuda13]'"
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        return f"CuPy is installed but cannot be imported: {error}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CUDARuntimeError: no driver, or one too old
        return (
            f"the NVIDIA driver is missing or too old for this CuPy ({error}); CUDA 13 takes version 580 or newer, "
            "nvidia-smi shows which one is installed"
        )
    return _too_old(cupy, count) if count else "no NVIDIA GPU is visible (see CUDA_VISIBLE_DEVICES)"


@functools.cache
def _too_old(cupy: Any, count: int) -> str | None:
    """That the kernels run on none of the GPUs, if so: there is no code for capabilities below 8.0."""
    properties = [cupy.cuda.runtime.getDeviceProperties(i) for i in range(count)]
    if any(found["major"] >= 8 for found in properties):
        return None
    first = properties[0]
    name = first["name"].decode() if isinstance(first["name"], bytes) else first["name"]
    return (
        f"the kernels need compute capability 8.0 (Ampere) or newer, but this machine's GPU, {name}, has "
        f"{first['major']}.{first['minor']}"
    )


def cupy() -> Any:
    """The module CuPy, with fastdl's kernels ready to compute on its arrays; RuntimeError if no GPU can be used."""
    global _cupy
    if _cupy is None:
        reason = missing()
        if reason is not None:
            raise RuntimeError(f"cuda: {reason}")
        module = importlib.import_module("cupy")
        backend: Any = importlib.import_module("fastdl.kernels.cuda")
        if module.cuda.runtime.getDeviceCount() > 1:
            backend = on_their_gpu(backend, module)
        kernels.set_device_backend(module.ndarray, backend)
        _cupy = module
    return _cupy


def is_device_array(value: Any) -> bool:
    """Is this an array in a GPU's memory, of CuPy or of another library that shares it (PyTorch, Numba, JAX)?

    If it is, a GPU can be used from now on.
    """
    if on_device(value):
        return True
    if isinstance(value, type) or not hasattr(value, "__cuda_array_interface__"):
        return False
    cupy()
    return True


def device_of(array: Any) -> device:
    """The device of an array."""
    if on_device(array):
        return _device(array.device.id)
    return META if array.__class__ is MetaArray else CPU


def _device(index: int) -> device:
    known = _devices.get(index)
    if known is None:
        known = _devices[index] = device("cuda", index)
    return known


def set_default_device(device: Any, /) -> None:
    """Where tensors and modules are made from now on if no device is given; None: the CPU. Also ``with device:``.

    See ``torch.set_default_device``.

    Example:
        >>> import fastdl
        >>> fastdl.set_default_device("cuda" if fastdl.cuda.is_available() else "cpu")
        >>> fastdl.set_default_device(None)
    """
    defaults[0] = CPU if device is None else resolve("set_default_device", device)


def get_default_device() -> device:
    """Where tensors are made if no device is given; the CPU at first."""
    return defaults[-1]


def get_device_module(device: Any = None) -> Any:
    """``fastdl.cuda`` or ``fastdl.cpu``, whichever a device (None: a GPU if there is one) belongs to.

    See ``torch.get_device_module``.

    Example:
        >>> import fastdl
        >>> fastdl.get_device_module("cpu").device_count()
        1
    """
    kind = ("cpu" if missing() else "cuda") if device is None else resolve("get_device_module", device).type
    if kind == "meta":
        raise RuntimeError("get_device_module: the device 'meta' has no module")
    return importlib.import_module(f"fastdl.{kind}")


def resolve(op: str, where: Any) -> device:
    """``where`` (None, a string, a number or a device) as a device that can be used, GPUs with their index."""
    if where is None:
        return defaults[-1]
    wanted = where if isinstance(where, device) else device(where)
    if wanted.type == "cpu":
        return CPU
    if wanted.type == "meta":
        return META
    if wanted.type != "cuda":
        raise RuntimeError(f"{op}: device {str(wanted)!r} is not available: tensors live on 'cpu' and 'cuda'")
    try:
        xp = cupy()
    except RuntimeError as error:
        reason = str(error).removeprefix("cuda: ")
        raise RuntimeError(f"{op}: device {str(wanted)!r} is not available: {reason}") from None
    index = xp.cuda.Device().id if wanted.index is None else wanted.index
    count = xp.cuda.runtime.getDeviceCount()
    if index >= count:
        raise RuntimeError(
            f"{op}: device 'cuda:{index}' does not exist; this machine has {count}: "
            + ", ".join(f"cuda:{i}" for i in range(count))
        )
    return _device(index)


def to_host(array: Any) -> Any:
    """The values as a NumPy array: the array itself, or a copy in pooled memory if it lies on a GPU."""
    if not on_device(array):
        if array.__class__ is MetaArray:
            raise no_values()
        return array
    copy = array.get(out=cpu.empty(array.shape, array.dtype))
    raise_reports()
    return copy


def raise_reports() -> None:
    """Raise what kernels on GPUs reported (a label out of range); to be called where the host has just waited."""
    kernels.device_backend().raise_reports()


def to_device(array: Any, where: device, non_blocking: bool = False) -> Any:
    """The values on a resolved device; the array itself if it lies there, else a copy in C order."""
    if where is CPU:
        return to_host(array)
    if device_of(array) is where:
        return array
    if where is META:
        return MetaArray.like(array)
    if array.__class__ is MetaArray:
        raise no_values()
    xp = cupy()
    with xp.cuda.Device(where.index):
        if on_device(array):
            return xp.array(array, order="C")
        return xp.asarray(np.ascontiguousarray(array).reshape(array.shape), blocking=not non_blocking)


def give_to_device(array: Any, where: device) -> Any:
    """:func:`to_device` of an array that nobody changes any more: the host does not wait for the GPU to have it.

    (A graph would read the host's memory again in every replay: while one is recorded the wait stays, an error.)
    """
    return to_device(array, where, not kernels.capture.active)


def make(where: device, function: str, *arguments: Any) -> Any:
    """What a kernel function without array arguments (``empty``, ``random_uniform``) makes on a resolved device."""
    if where is CPU:
        return getattr(select(None), function)(*arguments)
    if where is META:  # nothing is drawn from a generator, and nothing filled
        shape, dtype = arguments[:2]
        return MetaArray(np.zeros(shape, dtype if isinstance(dtype, np.dtype) else np.int64))
    with cupy().cuda.Device(where.index):
        return getattr(kernels.device_backend(), function)(*arguments)


def index(op: str, where: Any) -> int:
    """The number of the GPU that ``where`` (None: the current one; a number, string or device) means."""
    if where is None:
        return cupy().cuda.Device().id  # type: ignore[no-any-return]
    found = resolve(op, where)
    if found.index is None:
        raise ValueError(f"{op}: expected a GPU such as 0 or 'cuda:0', got {str(found)!r}")
    return found.index


def is_initialized() -> bool:
    """Has a GPU been used?"""
    return _cupy is not None

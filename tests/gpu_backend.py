"""The CUDA kernels on a real GPU, called with NumPy arrays like the emulated ones, so that the parity tests run there
unchanged: arrays are copied to the GPU with their strides, and what a kernel changed in place is copied back."""

from __future__ import annotations

import ctypes
import inspect
from typing import Any

import numpy as np

ON_HOST = (
    "steps",
    "mu_products",
    "batch_sizes",
    "input_lengths",
    "target_lengths",
)  # parameters that are read by the host


def device_is_lost() -> bool:
    """Does the device refuse everything after a mistake of a kernel (not only report it once)?"""
    from fastdl import devices

    cupy = devices.cupy()
    for _ in range(2):
        try:
            cupy.cuda.runtime.deviceSynchronize()
            return False
        except cupy.cuda.runtime.CUDARuntimeError:
            pass
    return True


class Backend:
    """``fastdl.kernels.cuda`` with copies around every call."""

    def __init__(self) -> None:
        from fastdl import devices
        from fastdl.kernels import cuda

        self._cupy, self._cuda = devices.cupy(), cuda

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._cuda, name)
        if not inspect.isfunction(function):
            return function
        names = list(inspect.signature(function).parameters)

        def call(*arguments: Any, **named: Any) -> Any:
            given = dict(zip(names, arguments, strict=False)) | named
            moved: list[tuple[Any, Any]] = []
            for parameter, value in given.items():
                if parameter not in ON_HOST:
                    given[parameter] = self._moved(value, moved)
            result = function(**given)
            self._cupy.cuda.runtime.deviceSynchronize()
            for host, device in moved:
                if host.flags.writeable:
                    host[...] = device.get()
            return self._back(result, moved)

        return call

    def _moved(self, value: Any, moved: list[tuple[Any, Any]]) -> Any:
        if isinstance(value, np.ndarray):
            device = self._copy(value)
            moved.append((value, device))
            return device
        if isinstance(value, (list, tuple)):
            return type(value)([self._moved(v, moved) for v in value])
        return value

    def _copy(self, array: Any) -> Any:
        """A copy on the GPU with the same strides: of all the bytes that the array spans."""
        if array.flags.c_contiguous or array.size == 0:
            return self._cupy.array(array, order="C")
        reach = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + array.itemsize
        start = array.__array_interface__["data"][0] + low
        span = np.frombuffer((ctypes.c_ubyte * (high - low)).from_address(start), np.uint8)
        memory = self._cupy.array(span)
        return self._cupy.ndarray(array.shape, array.dtype, memory.data + -low, array.strides)

    def _back(self, value: Any, moved: list[tuple[Any, Any]]) -> Any:
        for host, device in moved:
            if value is device:
                return host
        if isinstance(value, self._cupy.ndarray):
            return value.get()
        if isinstance(value, (list, tuple)):
            return type(value)([self._back(v, moved) for v in value])
        return value

"""The kernels of CUDA where a machine has more than one GPU: each call runs on the GPU that has its arrays.

A launch goes to the current GPU, and its kernel cannot read another one's memory: the process would lose its context.
Looking at the arrays costs more than some operations, so machines with one GPU use the kernels as they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


def on_their_gpu(backend: Any, cupy: Any) -> ModuleType:
    """The functions of ``backend``, each of which makes current the GPU where its arrays are.

    They raise RuntimeError where arrays lie on different GPUs.
    """
    module = ModuleType(backend.__name__, backend.__doc__)
    for name, value in vars(backend).items():
        public = inspect.isfunction(value) and not name.startswith("_")
        if public or not hasattr(module, name):
            setattr(module, name, _switching(name, value, cupy) if public else value)
    return module


def _switching(name: str, function: Callable[..., Any], cupy: Any) -> Callable[..., Any]:
    array_class, device, current = cupy.ndarray, cupy.cuda.Device, cupy.cuda.runtime.getDevice

    def arrays(values: Any) -> Iterator[Any]:
        for value in values:
            if value.__class__ is array_class:
                if value.size:  # others have no memory
                    yield value
            elif value.__class__ in (list, tuple):
                yield from arrays(value)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        where = None
        for array in arrays((*args, *options.values())):
            index = array.data.device_id
            if where is None:
                where = index
            elif index != where:
                raise RuntimeError(
                    f"{name}: Expected all tensors to be on the same device, but found some on cuda:{where} and some "
                    f"on cuda:{index}; move them with .to(device), and work on a GPU's tensors while it is current "
                    "(fastdl.cuda.set_device)"
                )
        if where is None or where == current():
            return function(*args, **options)
        with device(where):
            return function(*args, **options)

    return call

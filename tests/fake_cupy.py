"""A stand-in for CuPy on machines without a GPU: its arrays, held in NumPy's memory behind a wall.

``install()`` puts it in place of ``cupy``, and puts the reference kernels, working behind the wall, in place of
``fastdl.kernels.cuda``; ``uninstall()`` takes both away. What is imitated is what matters to a library above CuPy 14:

- An array never turns into NumPy's by itself (``np.asarray(x)`` raises); ``.get()`` copies it to the host.
- NumPy's ufuncs (called, with ``out``, ``dtype`` and ``casting`` only) and functions (those CuPy has, with the
  arguments it has) work on it through ``__array_ufunc__`` and ``__array_function__``; a NumPy array among the operands
  is a TypeError, numbers and NumPy scalars are not.
- Reductions and indexing return arrays of 0 dimensions, never scalars; ``flags`` has no ``writeable``; there is no
  ``__index__``; an index that is out of bounds wraps around.
- Streams, events, devices, the memory pool and graph capture have CuPy's names. What is captured is not executed, and
  a launch does it again on the same arrays.

Transfers are counted (``transfers``), so that a test can say that a step makes none.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.machinery
import inspect
import sys
import types
from typing import Any, ClassVar

import numpy as np

transfers = {"to_device": 0, "to_host": 0}
_replaced: list[
    tuple[Any, Any]
] = []  # the real wrappers' device module and what it emulated, while installed
multiplied_in: list[int] = []  # cuBLAS's numbers of what products were computed in

_ABSENT = set(
    """asmatrix block bmat einsum_path frompyfunc geomspace histogram_bin_edges insert isnat matvec nanpercentile
    nanquantile nested_iters polyder polydiv polyint spacing unstack vecdot vecmat""".split()
)
_MISSING_ARGUMENTS: dict[str, set[str]] = {
    **{
        name: {"where", "initial"}
        for name in "sum prod amax amin max min nansum nanprod nanmax nanmin".split()
    },
    **{name: {"where"} for name in "all any mean nanmean".split()},
    **{name: {"where", "correction", "mean"} for name in "std var nanstd nanvar".split()},
    "clip": {"min", "max", "casting", "dtype", "where"},
    "percentile": {"weights"},
    "quantile": {"weights"},
    "unique": {"sorted"},
    "count_nonzero": {"keepdims"},
    "argsort": {"order", "stable"},
    "sort": {"order", "stable"},
    "argpartition": {"kind", "order"},
    "partition": {"kind", "order"},
    "broadcast_to": {"subok"},
    "broadcast_arrays": {"subok"},
    "copy": {"subok"},
    "take": {"mode"},
    "isin": {"kind"},
    "empty_like": {"device"},
    "zeros_like": {"device"},
    "ones_like": {"device"},
    "full_like": {"device"},
}
# Arguments of kernels that may be NumPy arrays: the host reads them.
_HOST_ARGUMENTS = ("batch_sizes", "steps", "mu_products", "input_lengths", "target_lengths")
_NUMBERS = (bool, int, float, complex, np.generic)
_CREATION = "array asarray ascontiguousarray empty zeros ones full arange eye identity tri frombuffer".split()


class CUDARuntimeError(RuntimeError):
    pass


class MemoryPointer:
    def __init__(self, host: Any, device_id: int) -> None:
        self._host, self.device_id = host, device_id

    @property
    def ptr(self) -> int:
        return self._host.__array_interface__["data"][0]  # type: ignore[no-any-return]

    @property
    def device(self) -> Device:
        return Device(self.device_id)


class Flags:
    def __init__(self, host: Any) -> None:
        self.c_contiguous, self.f_contiguous = host.flags.c_contiguous, host.flags.f_contiguous
        self.owndata = host.flags.owndata
        self.forc, self.fnc = host.flags.forc, host.flags.fnc


def _host(value: Any) -> Any:
    """What a function computes on: the wall's other side. NumPy arrays are refused."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (list, tuple)):
        return type(value)([_host(v) for v in value]) if type(value) in (list, tuple) else value
    return value


def _key(value: Any) -> Any:
    """An index: NumPy's arrays and lists are copied to the device, as CuPy does."""
    if isinstance(value, tuple):
        if sum(getattr(v, "dtype", None) == np.bool_ and v.ndim > 0 for v in value if hasattr(v, "ndim")) > 1:
            raise ValueError("Currently, CuPy only supports slices that consist of one boolean array.")
        return tuple([_key(v) for v in value])
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, (np.ndarray, list)):
        transfers["to_device"] += 1
    return value


def _wrap(result: Any, device_id: int | None = None) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return ndarray._of(np.asarray(result), device_id)
    if isinstance(result, tuple):
        parts = [_wrap(r, device_id) for r in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return [_wrap(r, device_id) for r in result] if isinstance(result, list) else result


def _run(compute: Any, *given: Any) -> Any:
    """``compute()`` on the other side of the wall, as arrays; while a graph is captured, for the graph only."""
    if not Stream.capturing:
        return _as_arrays(compute())
    before = [(a, a.copy()) for a in _flat(given)]
    result = _as_arrays(compute())
    for a, old in before:
        if a.flags.writeable:
            a[...] = old

    def again() -> None:
        for place, value in zip(_flat(result), _flat(_as_arrays(compute())), strict=True):
            if place is not value and place.flags.writeable:
                place[...] = value

    Stream.tape.append(again)
    return result


def _as_arrays(result: Any) -> Any:
    if isinstance(result, np.generic):
        return np.asarray(result)
    if isinstance(result, tuple):
        parts = [_as_arrays(r) for r in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return [_as_arrays(r) for r in result] if isinstance(result, list) else result


def _flat(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, ndarray):
        return [value._host]
    return [a for v in value for a in _flat(v)] if isinstance(value, (list, tuple)) else []


def _check_arguments(name: str, kwargs: dict[str, Any]) -> None:
    unknown = _MISSING_ARGUMENTS.get(name, set()) & set(kwargs)
    if unknown:
        raise TypeError(f"{name}() got an unexpected keyword argument {unknown.pop()!r}")


class ndarray:
    __slots__ = ("__weakref__", "_device_id", "_host")

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, order: str = "C") -> None:
        self._host = np.empty(shape, dtype, order)
        self._device_id = Device().id
        if Stream.capturing:  # a graph's memory is its own
            Stream.tape.append(functools.partial(id, self))
        pool.used += self._host.nbytes
        for hook in MemoryHook.active:
            hook.malloc_postprocess(mem_size=self._host.nbytes)

    @classmethod
    def _of(cls, host: Any, device_id: int | None = None) -> ndarray:
        array = object.__new__(cls)
        array._host = host
        array._device_id = Device().id if device_id is None else device_id
        return array

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    strides = property(lambda self: self._host.strides)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: Flags(self._host))
    T = property(lambda self: _wrap(self._host.T, self._device_id))
    mT = property(lambda self: _wrap(self._host.mT, self._device_id))
    data = property(lambda self: MemoryPointer(self._host, self._device_id))
    device = property(lambda self: Device(self._device_id))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None if self.flags.c_contiguous else self.strides,
            "data": (self.data.ptr, False),
            "version": 3,
            "stream": 1,
        }

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        if Stream.capturing:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )
        transfers["to_host"] += 1
        if out is None:
            return self._host.copy(order)
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype or out.shape != self.shape:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        out[...] = self._host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        transfers["to_device"] += 1
        self._host[...] = arr

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self) -> bytes:
        return self.get().tobytes()

    def fill(self, value: Any) -> None:
        if isinstance(value, ndarray):
            value = value._host
        if isinstance(value, np.ndarray):
            if value.shape != ():
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
            value = value.item()
        _run(lambda: self._host.fill(value), self)

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        with np.errstate(all="ignore"):
            return _wrap(_run(lambda: self._host.astype(dtype, order)), self._device_id)  # type: ignore[no-any-return]

    def __copy__(self) -> ndarray:
        return self.copy()  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()  # type: ignore[no-any-return]

    def __reduce__(self) -> Any:
        return array, (self.get(),)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        place = _wrapped(_key(key), self.shape)
        return _wrap(_run(lambda: self._host[place]), self._device_id)

    def __setitem__(self, key: Any, value: Any) -> None:
        place, given = _wrapped(_key(key), self.shape), _host(value)
        _run(lambda: self._host.__setitem__(place, given), self)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.get())

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            if len(kwargs["out"]) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            kwargs["out"] = kwargs["out"][0]
        if method != "__call__" or ufunc.__name__ in _ABSENT:
            return NotImplemented
        for x in (*inputs, *([kwargs["out"]] if "out" in kwargs else [])):
            if not isinstance(x, (ndarray, np.ndarray, *_NUMBERS)):
                return NotImplemented
        return _ufunc(ufunc, *inputs, **kwargs)

    def __array_function__(self, func: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ in _ABSENT or not all(issubclass(t, (ndarray, np.ndarray)) for t in kinds):
            return NotImplemented
        if func.__name__ in _CREATION:
            return _create(func, *args, **kwargs)
        return _function(func, *args, **kwargs)

    def __dlpack__(self, **options: Any) -> Any:
        return _Capsule(self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device_id


class _Capsule:
    def __init__(self, array: ndarray) -> None:
        self.array = array


def _wrapped(key: Any, shape: Any) -> Any:
    """Indices that are out of bounds wrap around, as CuPy documents."""
    if isinstance(key, np.ndarray) and key.dtype.kind in "iu" and shape and shape[0]:
        return key % shape[0]
    return key


def _operator(name: str, ufunc: Any, swapped: bool = False, in_place: bool = False) -> Any:
    def method(self: ndarray, *other: Any) -> Any:
        if other and not isinstance(other[0], (ndarray, np.ndarray, *_NUMBERS)):
            return NotImplemented
        operands = (*other, self) if swapped else (self, *other)
        if ufunc is np.matmul:
            return _function(np.matmul, *operands)
        return _ufunc(ufunc, *operands, **({"out": self} if in_place else {}))

    method.__name__ = name
    return method


for _name, _f in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift, "matmul": np.matmul,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__", _f))
    setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__", _f, swapped=True))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _operator(f"__i{_name}__", _f, in_place=True))
for _name, _f in {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "neg": np.negative, "invert": np.invert, "abs": np.absolute, "pos": np.positive,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__", _f))


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        _check_arguments(name, kwargs)
        kwargs = {k: _host(v) for k, v in kwargs.items()}
        given = [_host(a) for a in args]
        result = _run(lambda: getattr(self._host, name)(*given, **kwargs), self, *kwargs.values())
        return _wrap(result, self._device_id)

    method.__name__ = name
    return method


for (
    _name
) in """all any argmax argmin argpartition argsort clip copy cumprod cumsum diagonal dot flatten max mean min
    nonzero partition prod ravel repeat reshape round sort squeeze std sum swapaxes take trace transpose var view
    searchsorted""".split():
    setattr(ndarray, _name, _method(_name))


def _result_device(args: Any) -> int | None:
    for a in args:
        if isinstance(a, ndarray):
            return a._device_id
        if isinstance(a, (list, tuple)) and (found := _result_device(a)) is not None:
            return found
    return None


def _ufunc(ufunc: Any, *inputs: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
    if out is not None and not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    if ufunc.__name__ in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"):
        inputs = tuple([x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs])
    options = {"casting": casting} | ({} if dtype is None else {"dtype": dtype})
    given, place = [_host(x) for x in inputs], None if out is None else out._host

    def compute() -> Any:
        with np.errstate(all="ignore"):
            return ufunc(*given, out=place, **options)

    result = _run(compute, *given, place)
    return out if out is not None else _wrap(result, _result_device(inputs))


def _function(func: Any, *args: Any, **kwargs: Any) -> Any:
    _check_arguments(func.__name__, kwargs)
    if func.__name__ == "copyto":
        destination, source, *_ = args
        if not isinstance(destination, ndarray):
            raise AttributeError("'numpy.ndarray' object has no attribute '_c_contiguous'")
        if isinstance(source, np.ndarray) and source.size == 1:
            args = (destination, source.item(), *args[2:])
    given, options = [_host(a) for a in args], {k: _host(v) for k, v in kwargs.items()}

    def compute() -> Any:
        with np.errstate(all="ignore"):
            return func(*given, **options)

    result = _run(compute, *given, *options.values())
    if kwargs.get("out") is not None:
        return kwargs["out"]
    return _wrap(result, _result_device((*args, *kwargs.values())))


def _create(func: Any, *args: Any, **kwargs: Any) -> Any:
    if (
        func.__name__ in ("ones", "full", "eye", "identity") and "device" in kwargs
    ):  # as NumPy calls them for like=
        raise TypeError(f"{func.__name__}() got an unexpected keyword argument 'device'")
    if isinstance(args[0], np.ndarray):
        transfers["to_device"] += 1
    given = [a._host if isinstance(a, ndarray) else a for a in args]
    result = func(*given, **kwargs)
    if isinstance(args[0], ndarray) and result is args[0]._host:
        return args[0]
    return ndarray._of(result)


def array(
    obj: Any, dtype: Any = None, copy: Any = True, order: str = "K", *, blocking: bool = False
) -> ndarray:
    if isinstance(obj, np.ndarray):
        transfers["to_device"] += 1
    if isinstance(obj, (list, tuple)) and any(isinstance(o, ndarray) for o in obj):
        obj = [_host(o) for o in obj]
    return ndarray._of(
        np.array(_host(obj) if isinstance(obj, ndarray) else obj, dtype, copy=copy, order=order)
    )


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    if isinstance(a, ndarray) and (dtype is None or a.dtype == dtype):
        return a
    return array(a, dtype, True, order or "K")


def asnumpy(a: Any) -> Any:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    capsule = array.__dlpack__()
    if not isinstance(capsule, _Capsule):
        raise TypeError(
            "CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))` instead."
        )
    return ndarray._of(capsule.array._host, capsule.array._device_id)


class _Ufunc:
    """``cupy.add``: callable, and ``at``, which NumPy's own ufunc does not pass on."""

    def __init__(self, ufunc: Any) -> None:
        self._ufunc = ufunc

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _ufunc(self._ufunc, *args, **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        place, values = _key(indices), _host(b)
        _run(lambda: self._ufunc.at(a._host, place, values), a)


# ----------------------------------------------------------------------------------------------------------- cuda


class Device:
    current = 0
    count = 2

    def __init__(self, device: Any = None) -> None:
        self.id = Device.current if device is None else int(getattr(device, "id", device))
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *exception: object) -> None:
        Device.current = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def use(self) -> None:
        Device.current = self.id

    def synchronize(self) -> None:
        pass

    mem_info = (3 << 30, 4 << 30)
    compute_capability = "90"


class Graph:
    def __init__(self, tape: list[Any]) -> None:
        self.tape = tape

    def launch(self, stream: Any = None) -> None:
        for step in self.tape:
            step()

    def upload(self, stream: Any = None) -> None:
        pass


class Stream:
    capturing = False
    stack: ClassVar[list[Any]] = []
    tape: ClassVar[list[Any]] = []

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.ptr = 0 if null else id(self)
        self.device_id = Device.current

    def __enter__(self) -> Stream:
        Stream.stack.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        Stream.stack.pop()

    def use(self) -> Stream:
        Stream.stack[:] = [self]
        return self

    def synchronize(self) -> None:
        pass

    done = True

    def record(self, event: Any = None) -> Any:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        pass

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream cannot be captured")
        Stream.capturing = True
        Stream.tape = []  # type: ignore[misc]

    def end_capture(self) -> Graph:
        Stream.capturing = False
        return Graph(Stream.tape)

    def is_capturing(self) -> bool:
        return Stream.capturing


Stream.null = Stream(null=True)  # type: ignore[attr-defined]


class ExternalStream(Stream):
    def __init__(self, ptr: int, device_id: int = -1) -> None:
        self.ptr, self.device_id = ptr, device_id


class Event:
    clock = 0.0

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.at: float | None = None
        self.timed = not disable_timing

    def record(self, stream: Any = None) -> None:
        Event.clock += 0.5
        self.at = Event.clock

    def synchronize(self) -> None:
        pass

    done = True


class MemoryPool:
    def __init__(self) -> None:
        self.used = 0

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return 2 * self.used

    def free_bytes(self) -> int:
        return self.used

    def free_all_blocks(self) -> None:
        self.used = 0

    def malloc(self, size: int) -> Any:
        raise AssertionError("the stand-in does not allocate by itself")


class PinnedMemory(np.ndarray):
    """What ``alloc_pinned_memory`` returns: a buffer with an address."""

    @property
    def ptr(self) -> int:
        return self.__array_interface__["data"][0]  # type: ignore[no-any-return]


class MemoryHook:
    def __enter__(self) -> Any:
        MemoryHook.active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        MemoryHook.active.remove(self)

    active: ClassVar[list[Any]] = []


pool = MemoryPool()


def _get_elapsed_time(start: Event, end: Event) -> float:
    return end.at - start.at  # type: ignore[operator]


def _properties(device_id: int) -> dict[str, Any]:
    return {
        "name": b"Stand-in GPU",
        "major": 9,
        "minor": 0,
        "totalGlobalMem": 4 << 30,
        "multiProcessorCount": 132,
        "l2CacheSize": 64 << 10,
    }


def _backend() -> types.ModuleType:
    """The reference kernels behind the wall."""
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
    module.empty = empty  # type: ignore[attr-defined]
    module.raise_reports = lambda: None  # type: ignore[attr-defined]

    def clamp_arrays(arrays: list[ndarray], limit: float) -> None:
        for a in arrays:
            np.clip(a, -limit, limit, out=a)

    def zero_arrays(arrays: list[ndarray]) -> None:
        for a in arrays:
            a.fill(0)

    module.clamp_arrays, module.zero_arrays = clamp_arrays, zero_arrays  # type: ignore[attr-defined]

    def set_random_state(state: ndarray, seed: int, offset: int) -> None:
        state._host[...] = seed, offset

    module.set_random_state = set_random_state  # type: ignore[attr-defined]
    return module


# --------------------------------------------------------------------------------------------------------- cuBLAS


def _gemm_batched(
    handle: int, turn_a: int, turn_b: int, m: int, n: int, k: int, alpha: int,
    a: int, a_type: int, a_ld: int, a_step: int, b: int, b_type: int, b_ld: int, b_step: int, beta: int,
    c: int, c_type: int, c_ld: int, c_step: int, count: int, compute: int, algorithm: int,
) -> None:  # fmt: skip
    """``c = alpha op(a) op(b) + beta c`` of ``count`` matrices, all as columns, in the host's memory."""
    scalar = ctypes.c_double if compute == 70 else ctypes.c_float
    wide = np.float64 if compute == 70 else np.float32
    factors = scalar.from_address(alpha).value, scalar.from_address(beta).value

    def matrices(start: int, kind: int, ld: int, step: int, rows: int, columns: int) -> Any:
        if ld < max(1, rows):
            raise CUDARuntimeError("CUBLAS_STATUS_INVALID_VALUE")
        dtype = np.dtype(
            {0: "f4", 1: "f8", 2: "f2"}.get(kind) or importlib.import_module("ml_dtypes").bfloat16
        )
        reach = ((count - 1) * step + (columns - 1) * ld + rows) * dtype.itemsize
        flat = np.frombuffer((ctypes.c_ubyte * reach).from_address(start), dtype)
        steps = [s * dtype.itemsize for s in (step, 1, ld)]
        return np.lib.stride_tricks.as_strided(flat, (count, rows, columns), steps)

    def run() -> None:
        left = matrices(a, a_type, a_ld, a_step, *((k, m) if turn_a else (m, k))).astype(wide)
        right = matrices(b, b_type, b_ld, b_step, *((n, k) if turn_b else (k, n))).astype(wide)
        to = matrices(c, c_type, c_ld, c_step, m, n)
        with np.errstate(all="ignore"):
            product = np.matmul(left.mT if turn_a else left, right.mT if turn_b else right)
            to[...] = factors[0] * product + (factors[1] * to.astype(wide) if factors[1] else 0)

    multiplied_in.append(compute)
    run()


def _gemm(
    handle: int, turn_a: int, turn_b: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, a_ld: int,
    b: int, b_type: int, b_ld: int, beta: int, c: int, c_type: int, c_ld: int, compute: int, algorithm: int,
) -> None:  # fmt: skip
    _gemm_batched(
        handle, turn_a, turn_b, m, n, k, alpha, a, a_type, a_ld, 0, b, b_type, b_ld, 0, beta, c, c_type, c_ld, 0, 1,
        compute, algorithm,
    )  # fmt: skip


def _library(name: str) -> types.SimpleNamespace:
    """cuBLAS as a shared library: functions with addresses. Streams and workspaces change nothing."""
    assert name == "libcublas.so.13"
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong

    def function(run: Any, *kinds: Any) -> Any:
        def call(*arguments: Any) -> int:
            run(*arguments)
            return 0

        made = ctypes.CFUNCTYPE(integer, *kinds)(call)
        _functions.append(made)
        return made

    matrix, one = [pointer, integer, integer], [pointer, *[integer] * 5, pointer]
    many = [pointer, integer, integer, long]
    return types.SimpleNamespace(
        cublasSetStream_v2=function(lambda handle, stream: streams.append(stream or 0), pointer, pointer),
        cublasSetWorkspace_v2=function(
            lambda handle, memory, size: workspaces.append(size), pointer, pointer, ctypes.c_size_t
        ),
        cublasGemmEx=function(_gemm, *one, *matrix, *matrix, pointer, *matrix, integer, integer),
        cublasGemmStridedBatchedEx=function(
            _gemm_batched, *one, *many, *many, pointer, *many, integer, integer, integer
        ),
    )


streams: list[int] = []  # that products were computed in
workspaces: list[int] = []  # bytes that cuBLAS was given for products
_functions: list[Any] = []  # that live as long as their addresses are known


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
    this = sys.modules[__name__]
    cupy = types.ModuleType("cupy")
    ndarray.__module__ = "cupy"
    for name in ("ndarray", "array", "asarray", "asnumpy", "empty", "from_dlpack"):
        setattr(cupy, name, getattr(this, name))
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
        ExternalStream=ExternalStream,
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
            deviceSynchronize=lambda: None,
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
    extension = types.ModuleType("fastdl._cuda")
    for module in (cupy, extension):
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
    for name in ("cupy", "fastdl._cuda"):
        sys.modules.pop(name, None)
    kernels.set_device_backend(kernels.NoDeviceArray, None)
    devices._cupy = None
    Device.current, Stream.capturing = 0, False
    MemoryHook.active.clear()

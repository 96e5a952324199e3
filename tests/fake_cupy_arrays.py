"""Arrays of the stand-in for CuPy (``fake_cupy.py``): NumPy's, behind a wall.

What NumPy's functions and ufuncs are asked to do with them is done on the wall's other side; where a graph is captured
it is done, undone and noted down.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from typing import Any

import numpy as np

from fake_cuda import Device, MemoryHook, Stream, pool, waits

transfers = {"to_device": 0, "to_host": 0}
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
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like")
_SORTING = ("sort", "argsort", "partition", "argpartition", "unique", "lexsort", "isin", "cumsum", "cumprod")
_WRAPPING = ("take", "take_along_axis", "put_along_axis")
_ADDED = "int32 int64 float16 float32 float64 uint32 uint64"
_ANY_ORDER = ("bincount", "histogram", "histogram2d", "histogramdd")
_OF_UNKNOWN_SIZE = ("nonzero", "flatnonzero", "argwhere", "unique", "extract", "compress", "bincount")
_NUMBERS = (bool, int, float, complex, np.generic)
_CREATION = "array asarray ascontiguousarray empty zeros ones full arange eye identity tri frombuffer".split()


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


def _sends(value: Any) -> None:
    """A copy from the host: CuPy asks at once whether its event is done, which a capture forbids; a number is an
    argument of a kernel."""
    if np.ndim(value):
        waits()
        transfers["to_device"] += 1


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
        _sends(value)
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


class OrderError(AssertionError):
    """CuPy would add floating-point numbers in any order, and every run would give other ones."""


class Solver:
    """What ``cupyx.errstate`` sets: whether it is an error that cuSOLVER has no result."""

    raises = False


_DECOMPOSITIONS = {"cholesky", "eigh", "eigvalsh", "qr", "svd"}


@contextmanager
def errstate(linalg: str) -> Any:
    before, Solver.raises = Solver.raises, linalg == "raise"
    try:
        yield
    finally:
        Solver.raises = before


class ndarray:
    __slots__ = ("__weakref__", "_device_id", "_host")

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, order: str = "C") -> None:
        self._host = np.empty(shape, dtype, order)
        self._host.reshape(-1, order="A").view(np.uint8).fill(255)  # NaN: a kernel writes it, or it shows
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
    real = property(
        lambda self: _wrap(self._host.real, self._device_id),
        lambda self, value: self.real.__setitem__(..., value),
    )
    imag = property(
        lambda self: _wrap(self._host.imag, self._device_id),
        lambda self, value: self.imag.__setitem__(..., value),
    )
    data = property(lambda self: MemoryPointer(self._host, self._device_id))
    device = property(lambda self: Device(self._device_id))

    @property
    def base(self) -> Any:
        """The array whose memory this is a view of."""
        whole = self._host.base
        return ndarray._of(whole, self._device_id) if isinstance(whole, np.ndarray) else None

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
        waits()
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
        waits()
        transfers["to_device"] += 1
        self._host[...] = arr

    def conj(self) -> Any:
        return _wrap(self._host.conj(), self._device_id)

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
        if _is_mask(place):  # how many there are
            waits()
        return _wrap(_run(lambda: self._host[place]), self._device_id)

    def __setitem__(self, key: Any, value: Any) -> None:
        place = _wrapped(_key(key), self.shape)
        parts = place if isinstance(place, tuple) else (place,)
        if isinstance(value, np.ndarray):
            if not any(isinstance(p, np.ndarray) for p in parts):
                if value.ndim:
                    raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
            else:  # copied
                _sends(value)
            given = value
        else:
            given = _host(value)
        if _is_mask(place) and np.size(given) != 1:
            waits()
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
        if func.__name__ in _DECOMPOSITIONS:
            assert Solver.raises, "CuPy would ignore that a decomposition failed"
            waits()
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
    if not isinstance(key, tuple):
        return _around(key, shape[0]) if shape else key
    if any(k is Ellipsis for k in key):
        return key
    places, dim = [], 0
    for k in key:
        places.append(_around(k, shape[dim]) if dim < len(shape) else k)
        dim += k.ndim if getattr(k, "dtype", None) == np.bool_ else k is not None
    return tuple(places)


def _is_mask(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(isinstance(k, np.ndarray) and k.dtype == np.bool_ for k in parts)


def _around(index: Any, extent: int) -> Any:
    wraps = isinstance(index, np.ndarray) and index.dtype.kind in "iu" and extent
    return index % extent if wraps else index


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
        if name in _OF_UNKNOWN_SIZE:
            waits()
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
    options: dict[str, Any] = {"casting": casting} | ({} if dtype is None else {"dtype": dtype})
    given, place = [_host(x) for x in inputs], None if out is None else out._host
    if place is not None:
        options["out"] = place

    def compute() -> Any:
        with np.errstate(all="ignore"):
            return ufunc(*given, **options)

    result = _run(compute, *given, place)
    return out if out is not None else _wrap(result, _result_device(inputs))


def _function(func: Any, *args: Any, **kwargs: Any) -> Any:
    _check_arguments(func.__name__, kwargs)
    if (
        func.__name__ in _ANY_ORDER
        and inspect.signature(func).bind(*args, **kwargs).arguments.get("weights") is not None
    ):
        raise OrderError(f"{func.__name__} with weights")
    if func.__name__ in _OF_UNKNOWN_SIZE:
        waits()
    if func.__name__ == "copyto":
        destination, source, *_ = args
        if not isinstance(destination, ndarray):
            raise AttributeError("'numpy.ndarray' object has no attribute '_c_contiguous'")
        if isinstance(source, np.ndarray) and source.size == 1:
            args = (destination, source.item(), *args[2:])
    if func.__name__ in _LIKE and kwargs.get("shape") == ():  # CuPy takes it for none
        kwargs = kwargs | {"shape": None}
    if func.__name__ in _SORTING and any(getattr(a, "dtype", np.dtype(bool)).kind == "V" for a in args):
        raise NotImplementedError(f"{func.__name__}: arrays with dtype 'bfloat16' are not supported")
    if func.__name__ in _WRAPPING and kwargs.get("mode") is None:
        args, kwargs = _wrapped_places(func, args, kwargs)
    given, options = [_host(a) for a in args], {k: _host(v) for k, v in kwargs.items()}

    def compute() -> Any:
        with np.errstate(all="ignore"):
            return func(*given, **options)

    result = _run(compute, *given, *options.values())
    if kwargs.get("out") is not None:
        return kwargs["out"]
    if func.__name__ in ("array_equal", "array_equiv", "allclose"):  # not a bool
        result = np.asarray(result)
    return _wrap(result, _result_device((*args, *kwargs.values())))


def _wrapped_places(func: Any, args: Any, kwargs: Any) -> Any:
    """``take`` and its siblings with their indices wrapped around where they are beyond the axis."""
    names = list(inspect.signature(func).parameters)
    given = dict(zip(names, args, strict=False)) | kwargs
    array, indices, axis = given[names[0]], given["indices"], given.get("axis")
    if isinstance(indices, ndarray) and indices.size:
        extent = array.size if axis is None else array.shape[axis]
        if extent:
            given["indices"] = _wrap(indices._host % extent, indices._device_id)
    return (), given


def _create(func: Any, *args: Any, **kwargs: Any) -> Any:
    if (
        func.__name__ in ("ones", "full", "eye", "identity") and "device" in kwargs
    ):  # as NumPy calls them for like=
        raise TypeError(f"{func.__name__}() got an unexpected keyword argument 'device'")
    if isinstance(args[0], np.ndarray):
        _sends(args[0])
    given = [a._host if isinstance(a, ndarray) else a for a in args]
    result = func(*given, **kwargs)
    if isinstance(args[0], ndarray) and result is args[0]._host:
        return args[0]
    return ndarray._of(result)


def array(
    obj: Any, dtype: Any = None, copy: Any = True, order: str = "K", *, blocking: bool = False
) -> ndarray:
    if isinstance(obj, (list, tuple)) and any(isinstance(o, ndarray) for o in obj):
        obj = [_host(o) for o in obj]
    elif not isinstance(obj, ndarray):
        _sends(obj)
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
        if a.dtype.name not in _ADDED.split() or (self._ufunc is not np.add and a.dtype == np.float16):
            raise TypeError(f"cupy.{self._ufunc.__name__}.at only supports {_ADDED}, not {a.dtype}")
        if self._ufunc is np.add and a.dtype.kind == "f":
            raise OrderError("add.at of floating-point numbers")
        _run(lambda: self._ufunc.at(a._host, place, values), a)

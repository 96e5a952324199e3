"""Making tensors: from values, from other libraries' memory, and filled."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from fastdl.arrays import check_array, pooled_copy
from fastdl.autograd.view import on_memory
from fastdl.compat import strided as strided_layout
from fastdl.devices import cupy, device_of, is_device_array, make, resolve, to_device, to_host
from fastdl.dtypes import (
    CPU,
    DIFFERENTIABLE,
    as_dtype,
    complex_dtype,
    get_default_dtype,
)
from fastdl.errors import ArgumentError, DtypeError, not_a_tensor
from fastdl.kernels import array as as_array
from fastdl.kernels import is_array, select, strided
from fastdl.kernels.sparse import SparseArray, SparseOperand, is_sparse, not_for_sparse
from fastdl.ops.arrays import fill, filler
from fastdl.ops.common import ints
from fastdl.ops.promotion import number_dtype, promote_types
from fastdl.tensor import Tensor
from fastdl.untyped_storage import UntypedStorage


def finish(op: str, array: Any, where: Any, requires_grad: bool) -> Tensor:
    """A tensor on a resolved device around a new array, after the checks that all creation functions share."""
    if where is not CPU or array.__class__ is not np.ndarray:
        array = to_device(array, where)
    t = Tensor._wrap(array)
    if requires_grad:
        if array.dtype.kind not in DIFFERENTIABLE:
            raise RuntimeError(
                f"{op}: only floating-point and complex tensors can require a gradient, got dtype {array.dtype}; pass "
                "dtype=fastdl.float32"
            )
        t._requires_grad = True
    return t


def _from_values(op: str, data: Any, dtype: Any) -> tuple[Any, Any]:
    """An array from numbers and nested sequences of numbers, arrays and tensors, and the dtype it should have."""
    if is_array(data) or isinstance(data, np.generic):
        array = as_array(data)
        check_array(op, array.astype(array.dtype.newbyteorder("="), copy=False))
        return array, dtype
    types = _types(data)
    typed = [t for t in types if issubclass(t, (Tensor, np.ndarray, np.generic))]
    if typed:
        tensors = any([issubclass(t, Tensor) for t in typed])
        if dtype is None and (tensors or len(types) > 1):
            dtype = _common_dtype(data)
        if tensors:
            data = _plain(data)
    try:
        array = np.asarray(data)
    except ValueError:
        raise ValueError(
            f"{op}: the nested sequences differ in length; every row must be as long as its neighbours"
        ) from None
    if array.dtype.kind == "O" and dtype is not None and dtype.kind not in "iu" and not _odd_type(array):
        array = array.astype(np.float64)  # integers beyond 64 bits
    if array.dtype.kind == "O":
        what = _odd_type(array) or "an integer too large for 64 bits"
        raise DtypeError(f"{op}: expected numbers, bools or nested sequences of them, got {what}")
    check_array(op, array)
    if dtype is not None and array.dtype.kind == "c" and dtype.kind not in "cb":
        raise DtypeError(
            f"{op}: complex numbers cannot become {dtype}; give their real parts, or a complex dtype"
        )
    if dtype is not None and dtype.kind in "iu" and array.dtype.kind in "iuf" and array.dtype != dtype:
        limits = np.iinfo(dtype)
        low = limits.min or -limits.max  # as in C and PyTorch, -1 is the largest of the unsigned
        beyond = array[~((array >= low) & (array < limits.max + 1))]  # NaN, too
        if beyond.size:
            raise ArgumentError(
                f"{op}: numbers of dtype {dtype} are in [{limits.min}, {limits.max}], got {beyond[0]}"
            )
    if dtype is None and array.dtype.kind in DIFFERENTIABLE and not typed:
        dtype = get_default_dtype()
        if array.dtype.kind == "c":
            dtype = complex_dtype(dtype)
    return array, dtype


def _types(data: Any) -> set[type]:
    """The types that occur in the nesting, sequences included."""
    if not isinstance(data, (list, tuple)):
        return {type(data)}
    types = set(map(type, data))
    for nested in [t for t in types if issubclass(t, (list, tuple))]:
        types.update(*[_types(d) for d in data if type(d) is nested])
    return types


def _common_dtype(data: Any) -> Any:
    """The dtype of a nested sequence that contains tensors: theirs, and those that Python numbers stand for."""
    if isinstance(data, (list, tuple)):
        return reduce(
            promote_types, {d._data.dtype if isinstance(d, Tensor) else _common_dtype(d) for d in data}
        )
    return data.dtype if isinstance(data, (Tensor, np.ndarray, np.generic)) else number_dtype(data)


def _plain(data: Any) -> Any:
    if isinstance(data, (list, tuple)):
        return [
            d.item() if isinstance(d, Tensor) and d._data.size == 1 else _plain(d) for d in data
        ]  # one element is a number, whatever its shape
    return to_host(data._data) if isinstance(data, Tensor) else data


def _odd_type(array: Any) -> str:
    odd = [type(v).__name__ for v in array.ravel() if not isinstance(v, (bool, int, float, complex))]
    return f"an element of type {odd[0]}" if odd else ""


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A new tensor holding a copy of ``data``; see ``torch.tensor``.

    Args:
        data: a number, a nested sequence, a NumPy array or a Tensor.
        device: where; by default where ``data`` is.
        dtype: by default float32 (:func:`set_default_dtype`) for Python floats (complex64 for complex numbers), int64
            for ints, bool for bools, and the array's own for NumPy arrays and tensors.
        requires_grad: record operations on it; floating-point and complex dtypes only.

    Raises:
        ValueError: rows of different lengths. TypeError: values that are no numbers.

    Example:
        >>> import fastdl
        >>> fastdl.tensor([[1.0, 2.0], [3.0, 4.5]])
        tensor([[1.0000, 2.0000],
                [3.0000, 4.5000]])
        >>> fastdl.tensor([1, 2]).dtype
        dtype('int64')
    """
    wanted = None if dtype is None else as_dtype("tensor", dtype)
    if isinstance(data, Tensor):
        if SparseArray.made and is_sparse(data):
            return data.detach().to(device, wanted, copy=True).requires_grad_(requires_grad)
        array = data._data
    else:
        if not isinstance(data, (np.ndarray, list, tuple, int, float, complex, np.generic)) and hasattr(
            data, "__dlpack__"
        ):
            data = from_dlpack(data)._data
        array, wanted = _from_values("tensor", data, wanted)
    where = device_of(array) if is_array(data) or isinstance(data, Tensor) else CPU
    if device is not None or (where is CPU and not isinstance(data, Tensor)):
        where = resolve("tensor", device)
    return finish("tensor", pooled_copy(array, wanted), where, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``data`` as a tensor, sharing memory where it can (Tensor or NumPy array of the right dtype).

    See ``torch.as_tensor``.
    """
    wanted = None if dtype is None else as_dtype("as_tensor", dtype)
    if isinstance(data, Tensor):
        return data if wanted is None and device is None else data.to(device, wanted)
    if isinstance(data, np.ndarray) and (wanted is None or data.dtype == wanted) and data.dtype.isnative:
        t = from_numpy(data)
        return t if device is None else t.to(device)
    if not isinstance(data, np.ndarray) and is_device_array(data):
        return from_dlpack(data).to(device, wanted)
    return tensor(data, dtype=wanted, device=device)


def asarray(
    obj: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """``obj`` as a tensor, copied only if needed, or always (``copy=True``) or never; see ``torch.asarray``.

    It requires a gradient if ``obj`` does; ``requires_grad=False`` detaches it.
    """
    if isinstance(obj, UntypedStorage):
        d = get_default_dtype() if dtype is None else as_dtype("asarray", dtype)
        obj = Tensor._wrap(obj._bytes().view(d))
    if requires_grad is None:
        requires_grad = isinstance(obj, Tensor) and obj._requires_grad
    if copy and isinstance(obj, Tensor):
        result = obj.to(device, None if dtype is None else as_dtype("asarray", dtype), copy=True)
    elif copy:
        result = tensor(obj, dtype=dtype, device=device)
    else:
        if not isinstance(obj, (Tensor, np.ndarray)) and hasattr(obj, "__dlpack__"):
            obj = from_dlpack(obj)
        result = as_tensor(obj, dtype, device)
        given = obj._data if isinstance(obj, Tensor) else obj
        if copy is False and not (
            is_array(given)
            and device_of(given) is device_of(result._data)
            and np.may_share_memory(result._data, given)
        ):
            raise ValueError("asarray: copy=False, but this conversion needs a copy")
    if requires_grad and result._node is None:
        result.requires_grad = True
    elif not requires_grad and result._requires_grad:
        result = result.detach()
    return result


def from_numpy(ndarray: Any, /) -> Tensor:
    """A tensor on the memory of a NumPy array: changes to one are seen in the other; see ``torch.from_numpy``.

    Strided and Fortran-order arrays are fine. A read-only array gives a tensor that cannot be changed in place.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(
            f"from_numpy: expected a numpy.ndarray, got {type(ndarray).__name__}; use fastdl.tensor(x)"
        )
    if isinstance(ndarray, np.ma.MaskedArray):
        raise TypeError("from_numpy: a masked array would lose its mask; pass array.filled(value)")
    array = check_array("from_numpy", np.asarray(ndarray))
    if any([s % array.itemsize for s in array.strides]) or not array.flags.aligned:
        raise ValueError(
            "from_numpy: the array's elements are not aligned (a field of a structured array?); use array.copy()"
        )
    return Tensor._wrap(_bounded(array))


def _bounded(array: Any) -> Any:
    """An array on a user's memory, and no more of it than that array has: a tensor's memory (``storage_offset``,
    ``as_strided``) goes as far as the arrays that it is a view of."""
    return on_memory(array, not array.flags.writeable) if isinstance(array.base, np.ndarray) else array


def from_dlpack(ext_tensor: Any, /) -> Tensor:
    """A tensor on the memory of another library's tensor (NumPy, CuPy, PyTorch, JAX, ..), without a copy.

    A capsule (``to_dlpack``) must hold memory of the CPU, and is used up.

    Example:
        >>> import fastdl, numpy
        >>> a = numpy.zeros(3)
        >>> fastdl.from_dlpack(a)[0] = 1
        >>> a
        array([1., 0., 0.])
    """
    if type(ext_tensor).__name__ == "PyCapsule":
        ext_tensor = _Exporter(ext_tensor)
    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(f"from_dlpack: {type(ext_tensor).__name__} has no __dlpack__ method")
    if isinstance(ext_tensor, np.ndarray):
        return from_numpy(ext_tensor)
    if ext_tensor.__dlpack_device__()[0] == _DLPACK_CUDA:
        array = ext_tensor._data if isinstance(ext_tensor, Tensor) else cupy().from_dlpack(ext_tensor)
        return Tensor._wrap(check_array("from_dlpack", array))
    array = np.from_dlpack(ext_tensor)
    if not array.flags.writeable:
        # NumPy marks imports read-only where the exporter speaks an old protocol version, which cannot say.
        array = on_memory(array, False)
    return Tensor._wrap(check_array("from_dlpack", array))


_DLPACK_CPU, _DLPACK_CUDA = 1, 2  # kDLCPU, kDLCUDA


class _Exporter:
    """A capsule as an object that gives it, which is what NumPy takes."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU, 0


def from_buffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A one-dimensional tensor on a buffer's memory; see ``torch.frombuffer``."""
    array = np.frombuffer(buffer, as_dtype("frombuffer", dtype), count, offset)
    return finish("frombuffer", _bounded(array), CPU, requires_grad)


frombuffer = from_buffer


# --------------------------------------------------------------------------------------------------------- filled


def shape_of(op: str, size: Any) -> tuple[int, ...]:
    """The shape given as ``f(2, 3)`` or ``f((2, 3))``, checked."""
    try:
        shape = ints(size)
    except TypeError as error:
        given = size[0] if len(size) == 1 else size
        raise TypeError(f"{op}: the extents must be integers, got {given!r}: {error}") from None
    if shape and min(shape) < 0:
        raise RuntimeError(f"{op}: extents must not be negative, got {shape}")
    return shape


def empty(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **ignored: Any
) -> Tensor:
    """An uninitialised tensor; see ``torch.empty``."""
    if ignored:
        size = ignored.pop("size", size)
        ignore("empty", ignored)
    d = get_default_dtype() if dtype is None else as_dtype("empty", dtype)
    where = resolve("empty", device)
    return finish("empty", make(where, "empty", shape_of("empty", size), d), where, requires_grad)


def empty_strided(
    size: Any,
    stride: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **ignored: Any,
) -> Tensor:
    """An uninitialised tensor of the given extents and strides (in elements); see ``torch.empty_strided``."""
    op = "empty_strided"
    ignore(op, ignored)
    extents, steps = ints((size,)), ints((stride,))
    if len(extents) != len(steps):
        raise RuntimeError(f"{op}: size {extents} and stride {steps} differ in length")
    if min(steps, default=0) < 0 or min(extents, default=0) < 0:
        raise RuntimeError(f"{op}: size and stride must not be negative, got {extents} and {steps}")
    d = get_default_dtype() if dtype is None else as_dtype(op, dtype)
    where = resolve(op, device)
    length = 0 if 0 in extents else 1 + sum([(n - 1) * s for n, s in zip(extents, steps, strict=True)])
    memory = make(where, "empty", (length,), d)
    return finish(op, strided(memory, extents, [s * d.itemsize for s in steps]), where, requires_grad)


def ignore(op: str, options: dict[str, Any]) -> None:
    """Options of PyTorch that change nothing here."""
    for name in options:
        if name not in ("layout", "pin_memory", "memory_format", "out"):
            raise TypeError(f"{op}: unexpected argument {name!r}")
    if options.get("out") is not None:
        raise TypeError(f"{op}: out= is not supported")
    if options.get("layout") not in (None, strided_layout):
        raise TypeError(f"{op}: makes dense tensors; sparse_coo_tensor(size=...) makes one without entries")


def _filled(
    op: str, shape: tuple[int, ...], value: Any, dtype: Any, device: Any, requires_grad: bool
) -> Tensor:
    where = resolve(op, device)
    if value.__class__ is int and value == 0 and where is CPU:
        array = select(None).zeros(shape, dtype)
        if not requires_grad:
            return Tensor._wrap(array)
    else:
        array = select(None).empty(shape, dtype) if where is CPU else make(where, "empty", shape, dtype)
        fill(array, filler(op, value, dtype))
    return finish(op, array, where, requires_grad)


def zeros(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **ignored: Any
) -> Tensor:
    """A tensor of zeros; ``zeros(2, 3)`` or ``zeros((2, 3))``. See ``torch.zeros``."""
    if ignored:
        size = ignored.pop("size", size)
        ignore("zeros", ignored)
    d = get_default_dtype() if dtype is None else as_dtype("zeros", dtype)
    return _filled("zeros", shape_of("zeros", size), 0, d, device, requires_grad)


def ones(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **ignored: Any
) -> Tensor:
    """A tensor of ones; see ``torch.ones``."""
    if ignored:
        size = ignored.pop("size", size)
        ignore("ones", ignored)
    d = get_default_dtype() if dtype is None else as_dtype("ones", dtype)
    return _filled("ones", shape_of("ones", size), 1, d, device, requires_grad)


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor filled with one value, which decides the dtype unless it is given; see ``torch.full``."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    elif not isinstance(fill_value, (int, float, complex, np.generic)):
        raise TypeError(f"full: fill_value must be a number, got {fill_value!r}")
    if dtype is None:
        d = number_dtype(fill_value)
    else:
        d = as_dtype("full", dtype)
    return _filled("full", shape_of("full", (size,)), fill_value, d, device, requires_grad)


def dtype_and_device(op: str, input: Tensor, dtype: Any, device: Any) -> Any:
    """Those given, else those of the tensor ``input``."""
    if not isinstance(input, Tensor):
        raise not_a_tensor(op, "input", input)
    if SparseArray.made and is_sparse(input):
        raise not_for_sparse(op)
    return (
        input._data.dtype if dtype is None else as_dtype(op, dtype),
        device_of(input._data) if device is None else resolve(op, device),
    )


def sparse_like(input: Tensor, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    """A sparse tensor without entries, of the shape and layout of ``input``."""
    from fastdl.sparse.creation import empty_like

    return empty_like(input, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uninitialised, with the shape and dtype of ``input``; see ``torch.empty_like``."""
    try:
        d, where = dtype_and_device("empty_like", input, dtype, device)
    except SparseOperand:
        return sparse_like(input, dtype, device, requires_grad)
    return finish("empty_like", make(where, "empty", input._data.shape, d), where, requires_grad)


def zeros_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Zeros, with the shape and dtype of ``input``; see ``torch.zeros_like``."""
    try:
        d, where = dtype_and_device("zeros_like", input, dtype, device)
    except SparseOperand:
        return sparse_like(input, dtype, device, requires_grad)
    return _filled("zeros_like", input._data.shape, 0, d, where, requires_grad)


def ones_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Ones, with the shape and dtype of ``input``; see ``torch.ones_like``."""
    d, where = dtype_and_device("ones_like", input, dtype, device)
    return _filled("ones_like", input._data.shape, 1, d, where, requires_grad)


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """One value, with the shape and dtype of ``input``; see ``torch.full_like``."""
    d, where = dtype_and_device("full_like", input, dtype, device)
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    return _filled("full_like", input._data.shape, value, d, where, requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix of zeros; see ``torch.eye``."""
    columns = n if m is None else m
    if n < 0 or columns < 0:
        raise RuntimeError(f"eye: n and m must not be negative, got {n} and {columns}")
    d = get_default_dtype() if dtype is None else as_dtype("eye", dtype)
    t = _filled("eye", (n, columns), 0, d, device, requires_grad)
    t._data.reshape(-1)[: n * columns : columns + 1][:columns] = 1
    return t


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of 0 dimensions; see ``torch.scalar_tensor``."""
    return tensor(
        s, dtype=get_default_dtype() if dtype is None else dtype, device=device, requires_grad=requires_grad
    )


# ------------------------------------------------------------------------------------------------- like a tensor


def same(self: Tensor, dtype: Any, device: Any) -> dict[str, Any]:
    """``dtype`` and ``device`` as options of a creation function; by default this tensor's."""
    return {
        "dtype": self.dtype if dtype is None else dtype,
        "device": self.device if device is None else device,
    }


def new_tensor(
    self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """:func:`tensor` with this tensor's dtype and device."""
    return tensor(data, **same(self, dtype, device), requires_grad=requires_grad)


def new_empty(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """:func:`empty` with this tensor's dtype and device."""
    return empty(*size, **same(self, dtype, device), **options)


def new_empty_strided(
    self: Tensor, size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **options: Any
) -> Tensor:
    """:func:`empty_strided` with this tensor's dtype and device."""
    return empty_strided(size, stride, **same(self, dtype, device), **options)


def new_zeros(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """:func:`zeros` with this tensor's dtype and device."""
    if dtype is None and device is None and not options and self._data.__class__ is np.ndarray:
        return Tensor._wrap(select(None).zeros(shape_of("zeros", size), self._data.dtype))
    return zeros(*size, **same(self, dtype, device), **options)


def new_ones(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """:func:`ones` with this tensor's dtype and device."""
    return ones(*size, **same(self, dtype, device), **options)


def new_full(
    self: Tensor, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, **options: Any
) -> Tensor:
    """:func:`full` with this tensor's dtype and device."""
    return full(size, fill_value, **same(self, dtype, device), **options)

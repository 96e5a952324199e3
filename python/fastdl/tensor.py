"""``Tensor``: an array, its gradient, and the node that made it.

Here is what a tensor *is*: properties, conversions and Python's protocols. What autograd knows of it (its fields,
gradients and hooks) is :mod:`fastdl.tensor_autograd`; what can be done with it (arithmetic, views, reductions) are
functions of :mod:`fastdl.ops`, attached by :mod:`fastdl.methods`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MemberDescriptorType
from typing import Any

import numpy as np

from fastdl import _graph
from fastdl.absent import Absent
from fastdl.arrays import pooled_copy
from fastdl.devices import device_of, resolve, to_device, to_host
from fastdl.dtypes import (
    FLOATING,
    Size,
    device,
    get_default_dtype,
)
from fastdl.errors import ArgumentError
from fastdl.kernels import MetaArray, on_device
from fastdl.kernels import array as as_array
from fastdl.kernels.meta import no_values
from fastdl.printing import tensor_repr
from fastdl.tensor_autograd import Differentiable


class Tensor(Differentiable):
    """A multi-dimensional array that operations can differentiate; see ``torch.Tensor``.

    Made by :func:`fastdl.tensor` (copies), :func:`fastdl.from_numpy` (shares memory), creation functions and
    operations. Calling the class itself copies an array or a (nested) list as the default dtype;
    ``Tensor(2, 3)`` is uninitialised, of that shape.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([2., 4.])
    """

    __array_priority__ = 1000.0  # numpy_array + tensor asks the tensor first

    def __init__(self, *data: Any) -> None:
        if len(data) == 1 and isinstance(data[0], Tensor):
            self._data = data[0]._data
            return
        from fastdl.typed import made

        self._data = made(data, get_default_dtype())

    # -------------------------------------------------------------------------------------- shape and storage

    @property
    def dtype(self) -> Any:
        """The element type, a NumPy dtype."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._data.ndim  # type: ignore[no-any-return]

    @property
    def device(self) -> device:
        """Where the data is: ``cpu``, or ``cuda`` with the number of the GPU."""
        return device_of(self._data)

    @property
    def is_cuda(self) -> bool:
        """Is the data on a GPU?"""
        return on_device(self._data)

    @property
    def is_cpu(self) -> bool:
        """Is the data in the CPU's memory?"""
        return isinstance(self._data, np.ndarray)

    @property
    def layout(self) -> Any:
        """``fastdl.strided``; sparse tensors have others."""
        from fastdl.compat import strided

        return strided

    @property
    def is_meta(self) -> bool:
        """Has the tensor no values (device ``meta``)?"""
        return self._data.__class__ is MetaArray

    is_sparse = is_sparse_csr = is_quantized = is_mps = is_nested = False

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._data.itemsize  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._data.nbytes  # type: ignore[no-any-return]

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the extent of one axis."""
        shape = self._data.shape
        if dim is None:
            return Size(shape)
        if not -len(shape) <= dim < len(shape):
            raise IndexError(f"size: dim {dim} is out of range for a tensor of {len(shape)} dimensions")
        return shape[dim]

    def dim(self) -> int:
        """The number of axes."""
        return self._data.ndim  # type: ignore[no-any-return]

    ndimension = dim

    def numel(self) -> int:
        """The number of elements."""
        return self._data.size  # type: ignore[no-any-return]

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self._data.itemsize  # type: ignore[no-any-return]

    def stride(self, dim: int | None = None) -> Any:
        """Distances, in elements, between neighbours along every axis, or along one."""
        item = self._data.itemsize
        strides = tuple([s // item for s in self._data.strides])
        return strides if dim is None else strides[dim]

    def storage_offset(self) -> int:
        """Elements between the start of the memory that this tensor shares with others and its first element."""
        whole = self._data if self._base is None else self._base._data
        while whole.base.__class__ is whole.__class__:  # detached, a view has no base
            whole = whole.base
        return (_address(self._data) - _address(whole)) // self._data.itemsize  # type: ignore[no-any-return]

    def data_ptr(self) -> int:
        """The address of the first element; 0 on the device ``meta``."""
        return 0 if self._data.__class__ is MetaArray else _address(self._data)

    def untyped_storage(self) -> Any:
        """The memory that this tensor shares with those it is a view of: ``nbytes()``, ``data_ptr()``, comparable."""
        from fastdl.untyped_storage import UntypedStorage

        return UntypedStorage(self)

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Do the elements lie in C order without gaps? That is fastdl's only order, whatever ``memory_format`` says."""
        return self._data.flags.c_contiguous  # type: ignore[no-any-return]

    def is_floating_point(self) -> bool:
        """Is the dtype one of the floating-point types?"""
        return self._data.dtype.kind in FLOATING

    def is_complex(self) -> bool:
        """Is the dtype complex?"""
        return self._data.dtype.kind == "c"  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------- conversions

    def numpy(self, *, force: bool = False) -> Any:
        """The NumPy array under this tensor: the same memory.

        A tensor that requires a gradient refuses (changes to the array would escape autograd), and one on a GPU does
        (the array is a copy), unless ``force`` is True.
        """
        if force:
            return to_host(self._data)
        if on_device(self._data):
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                "memory first."
            )
        if self._data.__class__ is MetaArray:
            raise no_values()
        if self._requires_grad:
            raise RuntimeError("numpy: this tensor requires a gradient; use x.detach().numpy()")
        return self._data

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        if self._data.size != 1:
            raise ArgumentError(f"item: only a tensor of one element has a value, got shape {self.shape}")
        if self._data.__class__ is MetaArray:
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return to_host(self._data).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return to_host(self._data).tolist()

    def cpu(self, memory_format: Any = None) -> Tensor:
        """This tensor in the CPU's memory; itself if it is there."""
        return self if isinstance(self._data, np.ndarray) else self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
        """This tensor on a GPU (the current one, or a certain one); itself if it is there.

        RuntimeError where no GPU can be used, with the reason.
        """
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def pin_memory(self, device: Any = None) -> Tensor:
        """This tensor: copies to a GPU go through CuPy's own pinned buffers, so there is nothing to prepare."""
        return self

    def is_pinned(self, device: Any = None) -> bool:
        """Always False."""
        return False

    def share_memory_(self) -> Tensor:
        """This tensor; child processes get copies of what they change."""
        return self

    def get_device(self) -> int:
        """The number of the GPU that the data is on; -1 on the CPU."""
        index = self.device.index
        return -1 if index is None else index

    @property
    def __cuda_array_interface__(self) -> Any:
        """How CuPy, Numba and PyTorch see this tensor's memory on a GPU, without a copy."""
        if not on_device(self._data):
            raise AttributeError(
                "__cuda_array_interface__: this tensor is on the CPU; only one on a GPU has it"
            )
        if self._requires_grad:
            raise RuntimeError("__cuda_array_interface__: this tensor requires a gradient; use x.detach()")
        return self._data.__cuda_array_interface__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(
                    f"__array__: a conversion from {array.dtype} to {np.dtype(dtype)} needs a copy"
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's functions on tensors give tensors.

        By fastdl, with a gradient, where it has the function, else by NumPy.
        """
        from fastdl.methods import on_ufunc

        if method == "__call__" and not options:
            result = on_ufunc(ufunc, inputs)
            if result is not None:
                return result
        arrays = [_for_numpy(x) for x in inputs]
        if "out" in options:
            options["out"] = tuple([_for_numpy(x) for x in options["out"]])
        result = getattr(ufunc, method)(*arrays, **options)
        if isinstance(result, tuple):
            return tuple([Tensor._wrap(as_array(r)) for r in result])
        return None if result is None else Tensor._wrap(as_array(result))

    def __dlpack__(self, **options: Any) -> Any:
        if self._requires_grad:
            raise BufferError("__dlpack__: this tensor requires a gradient; use x.detach()")
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()  # type: ignore[no-any-return]

    # ---------------------------------------------------------------------------------------------- protocols

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len: a tensor of 0 dimensions has no length")
        return len(self._data)

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iter: a tensor of 0 dimensions cannot be iterated over")
        from fastdl.ops.parts import unbind

        return iter(unbind(self, 0))

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise RuntimeError(
                f"bool: the truth value of a tensor of shape {self.shape} is ambiguous; use x.any() or x.all()"
            )
        return bool(to_host(self._data).item())

    def __int__(self) -> int:
        return int(_real_item(self))

    def __float__(self) -> float:
        return float(_real_item(self))

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iub" or self._data.size != 1:
            raise TypeError("index: only an integer tensor of one element can be an index")
        return int(to_host(self._data).item())

    def __reversed__(self) -> Tensor:
        from fastdl.ops.rearrange import flip

        return flip(self, (0,)) if self._data.ndim else self

    def __contains__(self, value: Any) -> bool:
        other = value._data if isinstance(value, Tensor) else value
        return bool((self._data == other).any())

    __hash__ = object.__hash__

    def __dir__(self) -> list[str]:
        return [name for name in object.__dir__(self) if not isinstance(vars(Tensor).get(name), Absent)]

    def __format__(self, spec: str) -> str:
        if self._data.ndim == 0:
            return format(self.item(), spec)
        if spec:
            raise TypeError(
                f"format: a tensor of shape {self.shape} takes no format specification, got {spec!r}"
            )
        return repr(self)

    def __repr__(self) -> str:
        return tensor_repr(self)

    def __copy__(self) -> Tensor:
        copy = Differentiable.__new__(type(self))
        for name in _FIELDS:
            setattr(copy, name, getattr(self, name))
        copy.__dict__.update(self.__dict__)
        copy._counter = self._version_cell()
        copy._views = copy._hooks = copy._post_hooks = None
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError(
                "deepcopy: only leaf tensors can be deep-copied, this one was computed from others; "
                "use x.detach().clone()"
            )
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        copy = Differentiable.__new__(type(self))
        memo[id(self)] = copy
        copy._data = pooled_copy(self._data)
        copy._requires_grad = self._requires_grad
        if self._grad is not None:
            copy._grad = self._grad.__deepcopy__(memo)
        copy.__dict__.update(self.__dict__)
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (
            type(self),
            np.ascontiguousarray(to_host(self._data)).reshape(self.shape),
            self._requires_grad,
            self.__dict__.copy(),
            *([] if not on_device(self._data) else [self.device]),
        )


_graph.set_tensor(Tensor)
_graph.set_size(Size)
_FIELDS = tuple(
    [name for name, field in vars(_graph.TensorFields).items() if isinstance(field, MemberDescriptorType)]
)


def _real_item(t: Tensor) -> Any:
    value = t.item()
    if value.__class__ is not complex:
        return value
    if value.imag:
        raise RuntimeError(
            f"value cannot be converted to a real number without overflow: {value}; use x.real.item()"
        )
    return value.real


def _address(array: Any) -> int:
    if on_device(array):
        return array.data.ptr  # type: ignore[no-any-return]
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _for_numpy(value: Any) -> Any:
    """What NumPy's functions may work on: a tensor's array, wherever it is; tensors with a gradient refuse."""
    if not isinstance(value, Tensor):
        return value
    return value.detach()._data if on_device(value._data) and not value._requires_grad else value.numpy()


def _rebuild(
    cls: type[Tensor], array: Any, requires_grad: bool, extra: dict[str, Any], where: Any = None
) -> Tensor:
    t = Differentiable.__new__(cls)
    t._data = pooled_copy(array) if where is None else to_device(array, resolve("unpickling a tensor", where))
    t._requires_grad = requires_grad
    t.__dict__.update(extra)
    return t

"""``Tensor``: an array, its gradient, and the node that made it.

Here is what a tensor *is*: fields, properties, autograd's handles, conversions and Python's protocols. What can be
done with it (arithmetic, views, reductions) are functions of :mod:`fastdl.ops`, attached by :mod:`fastdl.methods`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

import numpy as np

from fastdl import _graph
from fastdl.absent import Absent
from fastdl.devices import device_of, resolve, to_device, to_host
from fastdl.dtypes import (
    DIFFERENTIABLE,
    FLOATING,
    SUPPORTED,
    Size,
    as_dtype,
    canonical,
    device,
    float32,
    float64,
    get_default_dtype,
    known_dtype,
)
from fastdl.errors import ArgumentError
from fastdl.kernels import array as as_array
from fastdl.kernels import on_device, select
from fastdl.printing import tensor_repr

_uint16 = np.dtype(np.uint16)


def pooled_copy(array: Any, dtype: Any = None) -> Any:
    """A C-order copy in pooled memory, native byte order, ``dtype`` or the array's own."""
    own = canonical.get(array.dtype)
    if dtype is None:
        dtype = own or canonical[array.dtype.newbyteorder("=")]
    if own is dtype:
        if array.dtype.kind == "V":  # bfloat16: its bits
            return select(array).contiguous(array.view(_uint16)).view(dtype)
        return select(array).contiguous(array if array.dtype is own else array.view(own))
    if array.dtype.kind == "c" and dtype.kind not in "cb":
        return pooled_copy(array.real, dtype)
    if array.__class__ is np.ndarray and dtype.kind != "c":
        converted = select(array).convert(array, dtype)
        if converted is not None:
            return converted
    copy = select(array).empty(array.shape, dtype)
    with np.errstate(all="ignore"):  # float to int out of range: what C gives
        np.copyto(copy, array, casting="unsafe")
    return copy


def assign(to: Any, array: Any) -> None:
    """``to[...] = array``, with any broadcasting and conversion. Large ones are worth every thread."""
    dtype = to.dtype
    if to.size >= 4096 and dtype is array.dtype and not (on_device(to) or on_device(array)):
        kernels = select(to)
        if kernels.copy_into(to, array if array.shape == to.shape else np.broadcast_to(array, to.shape)):
            return
        if to.size >= 32768 and (dtype is float32 or dtype is float64):
            kernels.mul_forward(array, 1.0, to)
            return
    if dtype == array.dtype:
        to[...] = array
        return
    if array.dtype.kind == "c" and dtype.kind not in "cb":
        array = array.real
    with np.errstate(all="ignore"):  # float to int out of range: what C gives
        np.copyto(to, array, casting="unsafe")


def add_arrays(x: Any, y: Any, out: Any) -> Any:
    """x + y of one shape, written to ``out``: gradients that meet. Large ones are worth every thread."""
    dtype = out.dtype
    if out.size >= 32768 and (dtype is float32 or dtype is float64) and x.dtype is dtype and y.dtype is dtype:
        return select(out).add_forward(x, y, out)
    if (on_device(out) or dtype.itemsize == 2) and x.dtype == dtype == y.dtype and dtype.kind in FLOATING:
        return select(out).add_forward(x, y, out)  # a launch takes CuPy longer, as half precision takes NumPy
    return np.add(x, y, out=out)


def check_array(op: str, array: Any) -> Any:
    """The array, if a tensor can hold it: no objects, strings, dates, foreign byte order."""
    dtype = known_dtype(array.dtype)
    if dtype is not None:
        return array if dtype is array.dtype else array.view(dtype)
    if array.dtype.newbyteorder("=") in canonical:
        raise TypeError(
            f"{op}: the array's byte order ({array.dtype.str}) is not this machine's; convert it with "
            "array.astype(array.dtype.newbyteorder('='))"
        )
    hint = " (is it a ragged list?)" if array.dtype.kind == "O" else ""
    raise TypeError(
        f"{op}: an array of dtype {array.dtype} cannot be a tensor{hint}; supported: {', '.join(map(str, SUPPORTED))}"
    )


if TYPE_CHECKING:
    from fastdl.tensor_methods import TensorMethods
else:
    TensorMethods = _graph.TensorFields  # fastdl.methods attaches the methods


class RemovableHandle:
    """What ``register_hook`` returns: :meth:`remove` takes the hook out again; also a context manager."""

    __slots__ = ("_entry", "_hooks")

    def __init__(self, hooks: list[Any], entry: Any) -> None:
        self._hooks = hooks
        self._entry = entry

    def remove(self) -> None:
        """Take the hook out; a second call does nothing."""
        if self._entry in self._hooks:
            self._hooks.remove(self._entry)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class RetainGrad:
    """The hook behind ``retain_grad()``: it stores the gradient that passes in the tensor, if that still exists."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = ref(tensor)

    def __call__(self, grad: Tensor) -> None:
        tensor = self.tensor()
        if tensor is None:
            return
        if grad._requires_grad:
            tensor._accumulate_graph(grad)
        else:
            tensor._accumulate(grad._data, False)


class Tensor(TensorMethods):
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

    # Fields of every instance, in a C struct (csrc/bindings/graph/fields.h); a new tensor's are None, False and 0.
    _data: Any
    _requires_grad: bool
    _node: Any  # the Op that made this tensor, None for a leaf
    _index: int  # which of the node's outputs
    _counter: list[int] | None  # counts in-place changes; shared by a base, its views and detached aliases
    _base: Tensor | None  # of a view: the tensor it looks at, itself no view
    _path: Any  # of a view: how to make it from the base (autograd/view.py)
    _views: list[Any] | None  # of a base: weak references to its views
    _hooks: list[tuple[int, Any]] | None
    _post_hooks: list[Any] | None
    _grad: Tensor | None

    __array_priority__ = 1000.0  # numpy_array + tensor asks the tensor first

    def __init__(self, *data: Any) -> None:
        if len(data) == 1 and isinstance(data[0], Tensor):
            self._data = data[0]._data
            return
        from fastdl.typed import made

        self._data = made(data, get_default_dtype())

    _wrap: ClassVar[Callable[[Any], Tensor]] = staticmethod(_graph.wrap)
    """A tensor around an array itself; for operations."""

    def _version_cell(self) -> list[int]:
        cell = self._counter
        if cell is None:
            self._counter = cell = [0]
        return cell

    def _bump_version(self) -> None:
        """Note an in-place change of the data: backward through operations that kept it becomes an error."""
        cell = self._counter
        if cell is None:
            self._counter = [1]
        else:
            cell[0] += 1

    def _accumulate(self, grad: Any, own: bool) -> None:
        """Add an array to ``.grad``; ``own`` says that nobody else holds it."""
        have = self._grad
        if have is not None:
            add_arrays(have._data, grad, have._data)
            have._bump_version()
            return
        if not own or not grad.flags.c_contiguous:
            grad = pooled_copy(grad)
        self._grad = Tensor._wrap(grad)

    def _accumulate_graph(self, grad: Tensor) -> None:
        """Add a gradient that is part of a graph to ``.grad``: a new tensor, nothing is changed in place."""
        have = self._grad
        self._grad = grad.clone() if have is None else have + grad

    # ---------------------------------------------------------------------------------------------- autograd

    @property
    def requires_grad(self) -> bool:
        """Is a gradient computed for this tensor?"""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._node is not None:
            if not value:
                raise RuntimeError(
                    "requires_grad: only leaf tensors can be switched off, this one was computed from others; "
                    "use x.detach()"
                )
            return
        if value and self._data.dtype.kind not in DIFFERENTIABLE:
            raise RuntimeError(
                "requires_grad: only floating-point and complex tensors can require a gradient, got dtype "
                f"{self._data.dtype}"
            )
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad``; returns the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``backward`` accumulated here; None before."""
        if self._grad is None and self._node is not None:
            warnings.warn(
                "grad: this tensor was computed from others, and backward() fills .grad of leaf tensors only; call "
                "x.retain_grad() before backward() to have it here",
                UserWarning,
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad: must be a Tensor or None, got {type(value).__name__}")
            if value._data.shape != self._data.shape or value._data.dtype != self._data.dtype:
                raise RuntimeError(
                    f"grad: must have the tensor's shape {self.shape} and dtype {self.dtype}, got {value.shape} and "
                    f"{value.dtype}"
                )
            if value.device != self.device:
                raise RuntimeError(f"grad: must be on the tensor's device {self.device}, got {value.device}")
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def grad_fn(self) -> Any:
        """The graph's node that made this tensor; None for a leaf."""
        return self._node

    @property
    def is_leaf(self) -> bool:
        """Was this tensor made by the user, not by a recorded operation?"""
        return self._node is None

    @property
    def _version(self) -> int:
        """How often the data was changed in place; views and detached tensors count with their base."""
        return 0 if self._counter is None else self._counter[0]

    @property
    def output_nr(self) -> int:
        """Which output of ``grad_fn`` this is."""
        return self._index

    @property
    def retains_grad(self) -> bool:
        """Was ``retain_grad`` called on this computed tensor?"""
        if self._node is None or self._node.hooks is None:
            return False
        return any(isinstance(h, RetainGrad) and h.tensor() is self for _, h in self._node.hooks)

    @property
    def data(self) -> Tensor:
        """The same memory without history; in-place changes through it are not tracked."""
        return Tensor._wrap(self._data)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data: must be a Tensor, got {type(value).__name__}")
        if self._requires_grad and value._data.dtype.kind not in DIFFERENTIABLE:
            raise RuntimeError(
                f"data: a tensor that requires a gradient cannot hold dtype {value._data.dtype}"
            )
        self._data = value._data

    def detach(self) -> Tensor:
        """A tensor on the same memory, outside the graph."""
        t = Tensor._wrap(self._data)
        t._counter = self._version_cell()
        return t

    def detach_(self) -> Tensor:
        """Take this tensor out of the graph: it becomes a leaf without gradient."""
        if self._base is not None:
            raise RuntimeError("detach_: views cannot be detached in place; use detach()")
        self._node = None
        self._index = 0
        self._requires_grad = False
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(grad)`` when this tensor's gradient is computed; what it returns (not None) replaces it.

        Example:
            >>> import fastdl
            >>> x = fastdl.tensor([1.0], requires_grad=True)
            >>> handle = x.register_hook(lambda grad: grad * 10)
            >>> (x * 2).sum().backward()
            >>> x.grad
            tensor([20.])
        """
        if not self._requires_grad:
            raise RuntimeError(
                "register_hook: this tensor does not require a gradient, the hook would never run"
            )
        holder: Any = self._node
        if holder is None:
            if self._hooks is None:
                self._hooks = []
            hooks = self._hooks
        else:
            if holder.hooks is None:
                holder.hooks = []
            hooks = holder.hooks
        entry = (self._index, hook)
        # The retained gradient is the one after all hooks.
        at = len(hooks)
        while at and isinstance(hooks[at - 1][1], RetainGrad) and not isinstance(hook, RetainGrad):
            at -= 1
        hooks.insert(at, entry)
        return RemovableHandle(hooks, entry)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook(tensor)`` whenever ``backward`` has added to this leaf's ``.grad``."""
        if self._node is not None or not self._requires_grad:
            raise RuntimeError(
                "register_post_accumulate_grad_hook: only leaf tensors that require a gradient have one"
            )
        if self._post_hooks is None:
            self._post_hooks = []
        self._post_hooks.append(hook)
        return RemovableHandle(self._post_hooks, hook)

    def retain_grad(self) -> None:
        """Keep ``.grad`` of this computed tensor in ``backward``, as for a leaf."""
        if not self._requires_grad:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        if self._node is not None and not self.retains_grad:
            self.register_hook(RetainGrad(self))

    # -------------------------------------------------------------------------------------- shape and storage

    @property
    def shape(self) -> Size:
        """The extents of all axes."""
        return Size(self._data.shape)

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
        return not on_device(self._data)

    @property
    def layout(self) -> Any:
        """``fastdl.strided``, the only layout."""
        from fastdl.compat import strided

        return strided

    is_sparse = is_quantized = is_meta = is_mps = is_nested = False

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
        """Elements between the start of the base's memory and this view's first element."""
        base = self._data if self._base is None else self._base._data
        return (self.data_ptr() - _address(base)) // self._data.itemsize  # type: ignore[no-any-return]

    def data_ptr(self) -> int:
        """The address of the first element."""
        return _address(self._data)

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
        if self._requires_grad:
            raise RuntimeError("numpy: this tensor requires a gradient; use x.detach().numpy()")
        return self._data

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        if self._data.size != 1:
            raise ArgumentError(f"item: only a tensor of one element has a value, got shape {self.shape}")
        return to_host(self._data).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return to_host(self._data).tolist()

    def cpu(self, memory_format: Any = None) -> Tensor:
        """This tensor in the CPU's memory; itself if it is there."""
        return self.to("cpu")

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
        from fastdl.ops.shape import flip

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
        copy = type(self).__new__(type(self))
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
        copy = type(self).__new__(type(self))
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
_FIELDS = tuple([name for name in vars(_graph.TensorFields) if name.startswith("_") and name[1] != "_"])


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
    t = cls.__new__(cls)
    t._data = pooled_copy(array) if where is None else to_device(array, resolve("unpickling a tensor", where))
    t._requires_grad = requires_grad
    t.__dict__.update(extra)
    return t


__all__ = ["RemovableHandle", "Tensor", "as_dtype", "check_array", "pooled_copy"]

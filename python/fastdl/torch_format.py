"""Writing PyTorch's own format, which :mod:`fastdl.pickled` reads, without PyTorch.

A file is a zip archive of uncompressed members: ``data.pkl``, a pickle of the object that refers to the memory of
tensors by number, and that memory, one member for all tensors that share it, at a multiple of 64 bytes: such a file can
be mapped. The pickle is written here, one instruction after the other, since the module ``pickle`` imports every name
that it writes down, and these are PyTorch's. They are those that ``torch.load`` takes with its defaults, but for NumPy
arrays and frozen sets, which PyTorch writes like this and then reads with ``weights_only=False``.
"""

from __future__ import annotations

import collections
import functools
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from struct import pack
from typing import IO, Any, NamedTuple

import numpy as np

from fastdl import dtypes
from fastdl.devices import to_host
from fastdl.dtypes import Size, device
from fastdl.kernels import is_array
from fastdl.kernels.sparse import is_sparse
from fastdl.nn.parameter import Parameter
from fastdl.serialization import Writer, bytes_of, check_depth, code_of, refusal
from fastdl.sparse.tensor import places_of
from fastdl.tensor import Tensor

__all__ = ["pickled"]

_ALIGNMENT = 64
_LARGE = 1 << 30  # bytes from which the sizes may need 64 bits, which take 20 bytes behind the padding
_STORAGES = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
    "C64": "ComplexFloatStorage",
    "C128": "ComplexDoubleStorage",
}


class _Name(str):
    """A global name, as ``module name``."""


@functools.cache
def _name(text: str) -> _Name:
    """The one such name, so that it is written once."""
    return _Name(text)


class _Call(NamedTuple):
    """What a reader calls to make a value, and the state that it then gives to it."""

    function: _Name
    arguments: tuple[Any, ...] = ()
    state: Any = None


class _Storage(tuple[Any, ...]):
    """A reference to the memory of tensors: ("storage", a type, the member's name, where it lay, its elements)."""


def pickled(obj: Any) -> Writer:
    """What writes ``obj`` to a file. All that can be said against ``obj`` is said here."""
    pickler = _Pickler()
    pickler.put(obj, "", 0)
    text = pickle.PROTO + b"\x02" + bytes(pickler.text) + pickle.STOP

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, "data.pkl", text)
            _add(archive, "byteorder", b"little")
            for key, array in pickler.storages.values():
                _add(archive, f"data/{key}", bytes_of(to_host(array)))
            _add(archive, "version", b"3\n")

    return write


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """A member of the archive, padded like PyTorch's to begin at a multiple of 64 bytes."""
    info = zipfile.ZipInfo(f"archive/{name}")
    info.file_size = len(data)
    large = len(data) >= _LARGE
    header = 30 + len(info.filename) + 4 + 20 * large
    padding = -(archive.fp.tell() + header) % _ALIGNMENT  # type: ignore[union-attr]
    info.extra = b"FB" + pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as member:
        member.write(data)


class _Pickler:
    """The text of a pickle, and what it refers to."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.storages: dict[Any, tuple[str, Any]] = {}
        self._known: dict[int, tuple[int, Any]] = {}  # by address: kept, so that no other value gets it

    def put(self, value: Any, path: str, depth: int) -> None:
        """Add the instructions that make ``value``, or that take it from where it was made before."""
        check_depth(path, depth)
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (int, float)):
            exact: Any = next((kind for kind in (bool, int, float) if isinstance(value, kind)), None)
            number = exact and exact(value)  # not of a class that is derived from it
            self.text += pickle.dumps(number, 2)[2:-1]  # without the protocol and the stop
        elif id(value) in self._known:
            self.text += pickle.LONG_BINGET + pack("<I", self._known[id(value)][0])
        else:
            self._make(value, path, depth)

    def _make(self, value: Any, path: str, depth: int) -> None:
        if isinstance(value, _Name):
            module, name = value.split()
            self.text += f"c{module}\n{name}\n".encode()
        elif isinstance(value, str):
            letters = value.encode("utf-8", "surrogatepass")
            self.text += pickle.BINUNICODE + pack("<I", len(letters)) + letters
        elif isinstance(value, _Storage):
            self.put(tuple(value), path, depth)
            self.text += pickle.BINPERSID
        elif isinstance(value, _Call):
            self.put(value.function, path, depth)
            self.text += pickle.MARK
            for argument in value.arguments:
                self.put(argument, path, depth)
            self.text += pickle.TUPLE + pickle.REDUCE
            if value.state is not None:
                self.put(value.state, path, depth)
                self.text += pickle.BUILD
        elif isinstance(value, list):
            self.text += pickle.EMPTY_LIST
            self._keep(value)
            self._items(enumerate(value), pickle.APPENDS, path, depth)
            return
        elif isinstance(value, Mapping):
            self._mapping(value, path, depth)
            return
        elif type(value) is not Size and isinstance(value, tuple):
            self._items(enumerate(value), pickle.TUPLE, path, depth)
        else:
            self.put(self._made(value, path), path, depth)
        self._keep(value)

    def _keep(self, value: Any) -> None:
        """Let it be known under a number from now on."""
        self.text += pickle.LONG_BINPUT + pack("<I", len(self._known))
        self._known[id(value)] = len(self._known), value

    def _items(self, items: Iterable[tuple[Any, Any]], end: bytes, path: str, depth: int) -> None:
        self.text += pickle.MARK
        for key, item in items:
            if end == pickle.SETITEMS:
                self.put(key, f"a key of {path or 'obj'}", depth + 1)
            self.put(item, f"{path}.{key}" if path else str(key), depth + 1)
        self.text += end

    def _mapping(self, value: Any, path: str, depth: int) -> None:
        kind = next((k for k in (collections.OrderedDict, collections.Counter) if isinstance(value, k)), None)
        if kind is None:
            self.text += pickle.EMPTY_DICT
        else:
            self.put(_Call(_name(f"collections {kind.__name__}")), path, depth)
        self._keep(value)
        self._items(value.items(), pickle.SETITEMS, path, depth)
        if kind is collections.OrderedDict and hasattr(
            value, "_metadata"
        ):  # versions of a state dict's modules
            self.put({"_metadata": value._metadata}, path, depth)
            self.text += pickle.BUILD

    def _made(self, value: Any, path: str) -> Any:
        """What makes a value that is no container."""
        if is_sparse(value):
            pattern, values = value._data.pattern, value._data.values
            parts: tuple[Any, ...] = (
                *map(Tensor._wrap, places_of(pattern)),
                values,
                Size((*pattern.shape, *values.shape[1:])),
            )
            if pattern.layout == "sparse_coo":
                parts += (pattern.coalesced,)
            layout = _Call(_name("torch.serialization _get_layout"), (f"torch.{pattern.layout}",))
            return _Call(_name("torch._utils _rebuild_sparse_tensor"), (layout, parts))
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if is_array(value):
            return _array(to_host(value), path)
        if isinstance(value, Size):
            return _Call(_name("torch Size"), (tuple(value),))
        if isinstance(value, complex):
            return _Call(_name("builtins complex"), (value.real, value.imag))
        if isinstance(value, (bytes, bytearray)):
            return _Call(_name("_codecs encode"), (value.decode("latin1"), "latin1"))
        if isinstance(value, (set, frozenset)):
            name = "set" if isinstance(value, set) else "frozenset"
            return _Call(_name(f"builtins {name}"), (sorted(value, key=repr),))
        if isinstance(value, device):
            return _Call(_name("torch device"), (value.type, *([] if value.index is None else [value.index])))
        if isinstance(value, dtypes.classes) and code_of(value, path):
            return _name(f"torch {value.name}")
        raise refusal(value, path)

    def _tensor(self, tensor: Tensor, path: str) -> _Call:
        code, array = code_of(tensor.dtype, path), tensor._data
        whole, offset, strides = _memory(array)
        address, size = Tensor._wrap(whole).data_ptr(), whole.size * whole.itemsize
        key, _ = self.storages.setdefault((address, size, code), (str(len(self.storages)), whole))
        is_parameter, hooks = isinstance(tensor, Parameter), _Call(_name("collections OrderedDict"))
        layout = offset, tuple(tensor.shape), strides, tensor.requires_grad and not is_parameter, hooks
        if code in _STORAGES:
            kind = _name(f"torch {_STORAGES[code]}")
            function, rest, count = "_rebuild_tensor_v2", [], size // array.itemsize
        else:  # newer than storages with types: bytes, with the dtype beside them
            kind = _name("torch.storage UntypedStorage")
            function, rest, count = "_rebuild_tensor_v3", [_name(f"torch {tensor.dtype.name}")], size
        storage = _Storage(("storage", kind, key, "cpu", count))
        made = _Call(_name(f"torch._utils {function}"), (storage, *layout, *rest))
        if is_parameter:
            return _Call(_name("torch._utils _rebuild_parameter"), (made, tensor.requires_grad, hooks))
        return made


def _memory(array: Any) -> tuple[Any, int, tuple[int, ...]]:
    """The array that ``array`` is a view of, without gaps; where it begins there, and its strides, in elements.

    A copy of its own where that cannot be said: PyTorch knows no strides below 0, and one dtype for a memory.
    """
    whole, item = array, array.itemsize
    while whole.base.__class__ is array.__class__:
        whole = whole.base
    whole = whole.transpose(sorted(range(whole.ndim), key=lambda axis: -whole.strides[axis]))
    offset = Tensor._wrap(array).data_ptr() - Tensor._wrap(whole).data_ptr()
    bytes_between = offset, whole.size * whole.itemsize, *array.strides
    if not whole.flags.c_contiguous or any(n % item for n in bytes_between) or min(bytes_between) < 0:
        whole, offset = np.ascontiguousarray(to_host(array)), 0
        array = whole.reshape(array.shape)
    return whole, offset // item, tuple(stride // item for stride in array.strides)


def _array(array: Any, path: str) -> _Call:
    """A NumPy array as it pickles itself."""
    dtype = array.dtype
    if code_of(dtype, path) == "BF16":
        raise TypeError(
            f"save: {path or 'obj'} is a NumPy array of bfloat16, which the format holds in tensors only"
        )
    order = 3, dtype.str[0], None, None, None, -1, -1, 0
    kind = _Call(_name("numpy dtype"), (dtype.str[1:], False, True), order)
    empty = _name("numpy ndarray"), (0,), b"b"
    state = 1, array.shape, kind, False, array.tobytes()
    return _Call(_name("numpy.core.multiarray _reconstruct"), empty, state)

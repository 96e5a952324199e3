"""Writing what ``torch.load`` reads, without PyTorch: the newer of the layouts that ``pickled`` describes.

Instruction by instruction, since the module ``pickle`` imports the names that it writes. Only NumPy arrays and frozen
sets make ``torch.load`` ask for ``weights_only=False``, as those in PyTorch's own files do.
"""

from __future__ import annotations

import collections
import functools
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from struct import pack
from typing import IO, Any, NamedTuple

import numpy as np

from fastdl import dtypes
from fastdl.devices import to_host
from fastdl.dtypes import Size, device
from fastdl.kernels import is_array
from fastdl.kernels.sparse import is_sparse
from fastdl.nn.parameter import Parameter
from fastdl.pickled import STORAGES
from fastdl.serialization import Writer, bytes_of, code_of, refusal, refuse_depth, refuse_meta
from fastdl.sparse.tensor import places_of
from fastdl.tensor import Tensor

__all__ = ["pickled"]

_NUMBERS: Any = bool, int, float, complex
_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]  # without the protocol and the stop


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return pickle.BININT1 + pack("B", value)
    return pickle.BININT + pack("<i", value) if -(2**31) <= value < 2**31 else _pickled(value)


def _text(value: str) -> bytes:
    letters = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + pack("<I", len(letters)) + letters


# Values without parts: ``pickle`` would take two microseconds for each.
_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: pickle.NONE,
    bool: lambda value: pickle.NEWTRUE if value else pickle.NEWFALSE,
    int: _integer,
    float: lambda value: pickle.BINFLOAT + pack(">d", value),
    complex: _pickled,
    str: _text,
}


class _Name(bytes):
    """The instruction that looks up a name."""


@functools.cache  # one object for one name: written once
def _name(text: str) -> _Name:
    return _Name(f"c{text}\n".replace(" ", "\n"), "ascii")


class _Call(NamedTuple):
    """What a reader calls to make a value, and the state that it then gives to it."""

    function: _Name
    arguments: tuple[Any, ...] = ()
    state: Any = None


class _Reference(tuple[Any, ...]):
    """A reference to memory: ("storage", its type, the archive's member, where it lay, its elements)."""


def pickled(obj: Any) -> Writer:
    """What writes ``obj`` to a file. All that can be said against ``obj`` is said here."""
    pickler = _Pickler()
    pickler.put(obj, "")

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, "data.pkl", pickle.PROTO + b"\x02" + pickler.text + pickle.STOP)
            _add(archive, "byteorder", b"little")
            for key, array in pickler.storages.values():
                _add(archive, f"data/{key}", bytes_of(to_host(array)))
            _add(archive, "version", b"3\n")

    return write


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """A member, padded like PyTorch's to begin at a multiple of 64 bytes, so that it can be mapped."""
    info = zipfile.ZipInfo(f"archive/{name}")
    header = 34 + len(info.filename)
    if len(data) * 1.05 > zipfile.ZIP64_LIMIT:  # zipfile's rule
        header += 20
    padding = -(archive.fp.tell() + header) % 64  # type: ignore[union-attr]
    info.extra = b"FB" + pack("<H", padding) + bytes(padding)
    archive.writestr(info, data)


class _Pickler:
    def __init__(self) -> None:
        self.text = bytearray()
        self.storages: dict[Any, tuple[str, Any]] = {}
        self._depth = 0
        self._known: dict[int, tuple[int, Any]] = {}  # by address: kept, so that no other value gets it

    def put(self, value: Any, path: str) -> None:
        """Add the instructions that make ``value``, or that take it from where it was made before."""
        if self._is_leaf(value):
            return
        known = self._known.get(id(value))
        if known is not None:
            self.text += pickle.LONG_BINGET + pack("<I", known[0])
        elif isinstance(value, list):
            self.text += pickle.EMPTY_LIST
            self._keep(value)
            self._items(enumerate(value), pickle.APPENDS, path)
        elif isinstance(value, Mapping):
            self._mapping(value, path)
        else:
            self._make(value, path)
            self._keep(value)

    def _is_leaf(self, value: Any) -> bool:
        """Add a value that has no parts; False if it has some."""
        instructions = _LEAVES.get(type(value))
        if instructions:
            self.text += instructions(value)
        return instructions is not None

    def _keep(self, value: Any) -> None:
        number = 256 + len(self._known)  # pickled leaves number their parts from 0
        self.text += pickle.LONG_BINPUT + pack("<I", number)
        self._known[id(value)] = number, value

    def _items(self, items: Iterable[tuple[Any, Any]], end: bytes, path: str) -> None:
        self.text += pickle.MARK
        self._depth += 1
        refuse_depth(self._depth, path)
        for key, item in items:
            if end == pickle.SETITEMS and not self._is_leaf(key):
                self.put(key, f"a key of {path or 'obj'}")
            if not self._is_leaf(item):
                self.put(item, f"{path}.{key}" if path else str(key))
        self._depth -= 1
        self.text += end

    def _mapping(self, value: Any, path: str) -> None:
        kind = next((k for k in (collections.OrderedDict, collections.Counter) if isinstance(value, k)), None)
        if kind is None:
            self.text += pickle.EMPTY_DICT
        else:
            self.put(_Call(_name(f"collections {kind.__name__}")), path)
        self._keep(value)
        self._items(value.items(), pickle.SETITEMS, path)
        if hasattr(value, "_metadata") and kind is collections.OrderedDict:  # a state dict's
            self.put({"_metadata": value._metadata}, path)
            self.text += pickle.BUILD

    def _make(self, value: Any, path: str) -> None:
        if isinstance(value, _Name):
            self.text += value
        elif isinstance(value, _Reference):
            self.put(tuple(value), path)
            self.text += pickle.BINPERSID
        elif isinstance(value, _Call):
            self.put(value.function, path)
            self.text += pickle.MARK
            for argument in value.arguments:
                self.put(argument, path)
            self.text += pickle.TUPLE + pickle.REDUCE
            if value.state is not None:
                self.put(value.state, path)
                self.text += pickle.BUILD
        elif isinstance(value, tuple) and type(value) is not Size:
            self._items(enumerate(value), pickle.TUPLE, path)
        elif is_array(value):
            refuse_meta(value, path)
            code_of(np.dtype(value.dtype.str), path)  # bfloat16 is none of NumPy's own
            self.text += _pickled(np.asarray(to_host(value)))
        else:
            self.put(self._made(value, path), path)

    def _made(self, value: Any, path: str) -> Any:
        """What makes a value that is no container."""
        if isinstance(value, np.generic) and type(value.item()) is not type(value):
            return value.item()
        for number in _NUMBERS:
            if isinstance(value, number):
                return number(value)
        if isinstance(value, str):
            return str.__str__(value)
        if is_sparse(value):
            pattern, values = value._data.pattern, value._data.values
            layout = _Call(_name("torch.serialization _get_layout"), (f"torch.{pattern.layout}",))
            places, size = map(Tensor._wrap, places_of(pattern)), Size((*pattern.shape, *values.shape[1:]))
            coalesced = [pattern.coalesced] if pattern.layout == "sparse_coo" else []
            parts = *places, values, size, *coalesced
            return _Call(_name("torch._utils _rebuild_sparse_tensor"), (layout, parts))
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, Size):
            return _Call(_name("torch Size"), (tuple(value),))
        if isinstance(value, (bytes, bytearray)):
            return _Call(_name("_codecs encode"), (value.decode("latin1"), "latin1"))
        if isinstance(value, (set, frozenset)):
            kind = "set" if isinstance(value, set) else "frozenset"
            return _Call(_name(f"builtins {kind}"), (sorted(value, key=repr),))
        if isinstance(value, device):
            return _Call(_name("torch device"), (str(value),))
        if isinstance(value, dtypes.classes) and code_of(value, path):
            return _name(f"torch {value.name}")
        raise refusal(value, path)

    def _tensor(self, tensor: Tensor, path: str) -> _Call:
        refuse_meta(tensor._data, path)
        code_of(tensor.dtype, path)
        whole, offset, strides = _memory(tensor._data)
        address, size, dtype = Tensor._wrap(whole).data_ptr(), whole.size * whole.itemsize, tensor.dtype.name
        key, _ = self.storages.setdefault((address, size, dtype), (str(len(self.storages)), whole))
        is_parameter, hooks = isinstance(tensor, Parameter), _Call(_name("collections OrderedDict"))
        layout = offset, tuple(tensor.shape), strides, tensor.requires_grad and not is_parameter, hooks
        if dtype in _STORAGE_OF:
            kind, count = _name(f"torch {_STORAGE_OF[dtype]}"), size // tensor.itemsize
            function, rest = "_rebuild_tensor_v2", []
        else:  # newer than storages with types: bytes, with the dtype beside them
            kind, count = _name("torch.storage UntypedStorage"), size
            function, rest = "_rebuild_tensor_v3", [_name(f"torch {dtype}")]
        storage = _Reference(("storage", kind, key, "cpu", count))
        made = _Call(_name(f"torch._utils {function}"), (storage, *layout, *rest))
        if is_parameter:
            return _Call(_name("torch._utils _rebuild_parameter"), (made, tensor.requires_grad, hooks))
        return made


def _memory(array: Any) -> tuple[Any, int, tuple[int, ...]]:
    """The memory that ``array`` is a view of, as an array; where it begins there, and its strides, in elements.

    A copy of its own where PyTorch cannot say that: it knows no strides below 0, and one dtype for a memory.
    """
    whole, item = array, array.itemsize
    while whole.base.__class__ is array.__class__:
        whole = whole.base
    whole = whole.transpose(sorted(range(whole.ndim), key=lambda axis: -whole.strides[axis]))
    offset = Tensor._wrap(array).data_ptr() - Tensor._wrap(whole).data_ptr()
    spans = offset, whole.size * whole.itemsize, *array.strides
    if not whole.flags.c_contiguous or any(n % item or n < 0 for n in spans):
        whole, offset = np.ascontiguousarray(to_host(array)), 0
        array = whole.reshape(array.shape)
    return whole, offset // item, tuple(stride // item for stride in array.strides)

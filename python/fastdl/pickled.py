"""Reading what ``torch.save`` wrote, and writing that, without PyTorch and without running anything the file says.

Two layouts exist. Since PyTorch 1.6 a file is a zip archive: ``data.pkl`` describes the object and refers to storages,
each an uncompressed member ``data/<key>``. Before, it was a row of pickles (a magic number, the format's version, a
description of the machine, the object, the storages' keys) with the storages' bytes behind it.

A pickle is a program, and its instructions can call whatever names can be looked up. So the reader looks up nothing
but what tensors, dicts and numbers need: functions of this file in place of PyTorch's. Any other name is an error, and
every tensor is checked to lie within its storage.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from struct import pack
from typing import IO, Any, NamedTuple

import numpy as np

from fastdl import dtypes
from fastdl.devices import to_device, to_host
from fastdl.dtypes import CPU, Size, as_dtype, canonical, device
from fastdl.kernels import is_array
from fastdl.kernels.sparse import is_sparse
from fastdl.nn.parameter import Parameter
from fastdl.serialization import Writer, bytes_of, code_of, refusal
from fastdl.sparse.tensor import places_of
from fastdl.tensor import Tensor

__all__ = ["pickled", "read_pickled"]

Array = np.ndarray[Any, Any]

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_STORAGES = {
    "UntypedStorage": "uint8",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_DTYPES = {*_STORAGES.values(), "uint16", "uint32", "uint64"}


class _Refused(ValueError):
    """A sentence about the file, for the error that :func:`fastdl.load` raises."""


class _Storage:
    """A storage of a known type: its bytes, once they have been read."""

    def __init__(self, dtype: str, count: int, raw: Any) -> None:
        self.dtype, self.count, self.raw = dtype, count, raw

    def array(self, dtype: str) -> Array:
        stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
        values: Array = np.frombuffer(self.raw, stored.newbyteorder("<"))
        return values


class _Class:
    """What a name of a storage's class or dtype stands for in a pickle."""

    def __init__(self, name: str) -> None:
        self.name = name


def read_pickled(file: IO[bytes], where: Any) -> Any:
    """The object in ``file``, its tensors on ``where``.

    Raises:
        ValueError: the file is damaged, or holds more than data; without the file's name.
    """
    start = file.tell()
    try:
        if file.read(4) == b"PK\x03\x04":
            file.seek(start)
            return _read_archive(file, where)
        file.seek(start)
        return _read_legacy(file, where)
    except _Refused:
        raise
    except (  # what pickle, zipfile and NumPy say about damaged files
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        ImportError,
        IndexError,
        KeyError,
        AttributeError,
        TypeError,
        UnicodeDecodeError,
        ValueError,
        OverflowError,
        RecursionError,
        NotImplementedError,
    ) as error:
        raise ValueError(f"written by torch.save, and damaged ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    """Data only; ``storage(dtype, key, count)`` makes or finds a storage."""

    def __init__(self, file: IO[bytes], storage: Callable[[str, str, int], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name in (
            "OrderedDict",
            "Counter",
        ):  # Counter: MultiStepLR's milestones
            return getattr(collections, name)
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return set if name == "set" else frozenset
        if module in ("builtins", "__builtin__") and name == "complex":
            return complex
        if (module, name) in (("_codecs", "encode"), ("__builtin__", "bytes")):
            return _bytes
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct",
            "scalar",
        ):
            return _Array if name == "_reconstruct" else _number
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Class(name) if name == "ndarray" else _Dtype
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Class(name)
        if module == "torch" and name in _DTYPES:
            return _Class(name)
        if (module, name) == ("torch", "Size"):
            return Size
        if (module, name) == ("torch", "device"):
            return _device
        if module == "torch._utils":
            if name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
                return self._tensor
            if name == "_rebuild_parameter":
                return _parameter
            if name == "_rebuild_sparse_tensor":
                return _Sparse
        if (module, name) == ("torch.serialization", "_get_layout"):
            return str
        raise _Refused(
            f"written by torch.save, and holds {module}.{name}, which is more than data: only tensors, arrays, "
            "numbers, text, lists and dicts are read, since anything else can run code. "
            "Save model.state_dict() instead of the model"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if (
            not isinstance(pid, tuple)
            or len(pid) < 5
            or pid[0] != "storage"
            or not isinstance(pid[1], _Class)
        ):
            raise _Refused("written by torch.save, and refers to something that is no storage")
        _, kind, key, _, count, *view = pid
        if any(v is not None for v in view):
            raise _Refused(
                "written by torch.save before version 0.4 with views of storages, which are not read"
            )
        if kind.name not in _STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
            raise _Refused(f"written by torch.save, with a damaged storage {key!r}")
        return self._storage(_STORAGES[kind.name], key, count)

    def _tensor(
        self, storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool, hooks: Any, *rest: Any
    ) -> Any:
        """The second version's metadata may follow; the third version's dtype, and its metadata, do."""
        dtype = rest[0].name if rest and isinstance(rest[0], _Class) else storage.dtype
        return _Tensor(storage, dtype, offset, size, stride, requires_grad)


class _Tensor:
    """A tensor's description. Storages of old files come after all descriptions."""

    def __init__(
        self, storage: Any, dtype: str, offset: int, size: Any, stride: Any, requires_grad: bool
    ) -> None:
        if not isinstance(storage, _Storage) or dtype not in _DTYPES:
            raise _Refused("written by torch.save, with a damaged tensor")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
            raise _Refused(f"written by torch.save, with a tensor of size {size} and stride {stride}")
        self.storage, self.dtype, self.offset = storage, dtype, offset
        self.size, self.stride, self.requires_grad = tuple(size), tuple(stride), bool(requires_grad)

    def build(self, where: Any) -> Tensor:
        values = self.storage.array(self.dtype)
        if 0 in self.size:
            array: Array = np.empty(self.size, values.dtype)
        else:
            last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
            if last >= values.size:
                raise _Refused(
                    f"written by torch.save, with a tensor of size {self.size}, stride {self.stride} beyond its storage"
                )
            strides = tuple(s * values.itemsize for s in self.stride)
            array = np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides)
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
        array = array.view(canonical[array.dtype])  # an equal dtype would be another object: not the kernels'
        if self.dtype == "bfloat16":
            try:
                array = array.view(as_dtype("load", "bfloat16"))
            except TypeError:  # no ml_dtypes: the upper half of a float32
                array = (array.astype(np.uint32) << 16).view(np.float32)
        tensor: Tensor = Tensor._wrap(to_device(array, where))
        return tensor.requires_grad_() if self.requires_grad else tensor


class _Sparse:
    """A sparse tensor's description: its layout, and the tensors and numbers that make it up."""

    def __init__(self, layout: str, parts: Any) -> None:
        *places, values, size = parts[:-1] if isinstance(parts[-1], bool) else parts
        known = {"torch.sparse_coo": 1, "torch.sparse_csr": 2, "torch.sparse_csc": 2}
        if known.get(layout) != len(places) or not all(isinstance(t, _Tensor) for t in (*places, values)):
            raise _Refused(
                f"written by torch.save, with a sparse tensor of layout {layout!r}, which is not read"
            )
        self.layout, self.places, self.values = layout.removeprefix("torch."), places, values
        self.size, self.coalesced = tuple(size), parts[-1] is True

    def build(self, where: Any) -> Any:
        from fastdl.sparse.creation import restored

        values = self.values.build(where)
        shape = self.size[: len(self.size) - values.ndim + 1]
        return restored(self.layout, [t.build(CPU) for t in self.places], values, shape, self.coalesced)


class _Dtype:
    """The dtype of NumPy's numbers. Of its state only the order of bytes is taken: NumPy's own takes much more."""

    def __init__(self, code: str, *flags: Any) -> None:
        if code[0] not in "biufc" or not code[1:].isdigit():
            raise _Refused(f"written by torch.save, with a NumPy array of dtype {code!r}, which is not read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def build(self, where: Any) -> Any:
        return self.dtype


class _Array:
    """A NumPy array's description."""

    def __init__(self, *kind: Any) -> None:
        self.array: Array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, raw = state
        self.array = _numbers(dtype, raw).reshape(shape, order="F" if columns_first else "C").copy()

    def build(self, where: Any) -> Any:
        return self.array


def _numbers(dtype: Any, raw: Any) -> Array:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
        raise _Refused("written by torch.save, with a damaged NumPy array")
    return np.frombuffer(raw, dtype.dtype)


def _number(dtype: Any, raw: Any) -> Any:
    return _numbers(dtype, raw)[0]


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Bytes as old pickles hold them: a text of as many letters."""
    return text.encode("latin1")


_DESCRIPTIONS = (_Tensor, _Sparse, _Array, _Dtype)


def _parameter(data: Any, requires_grad: bool, hooks: Any) -> Any:
    if not isinstance(data, _Tensor):
        raise _Refused("written by torch.save, with a damaged parameter")
    data.requires_grad = bool(requires_grad)
    return data


def _device(*description: Any) -> Any:
    text = ":".join(str(part) for part in description)
    try:
        return device(text)
    except RuntimeError:  # of a kind that there is only in PyTorch
        return text


def _build(value: Any, where: Any, made: dict[int, Any]) -> Any:
    """``value`` with tensors in place of descriptions; what occurs twice stays one object."""
    if isinstance(value, _Class) and value.name in _DTYPES:
        return as_dtype("load", value.name)
    if isinstance(value, (_Storage, _Class)) or callable(value):
        raise _Refused("written by torch.save, and holds a bare storage or function; only tensors are read")
    if not isinstance(value, (*_DESCRIPTIONS, dict, list, tuple, set, frozenset)):
        return value
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, _DESCRIPTIONS):
        result: Any = value.build(where)
    elif isinstance(value, dict):
        result = made[id(value)] = type(value)()
        for k, v in value.items():
            result[_build(k, where, made)] = _build(v, where, made)
        if isinstance(value, collections.OrderedDict) and vars(value):
            vars(result).update(vars(value))  # a state dict's _metadata
    elif isinstance(value, list):
        result = made[id(value)] = []
        result += [_build(v, where, made) for v in value]
    else:
        result = type(value)(_build(v, where, made) for v in value)
    made[id(value)] = result
    return result


def _read_archive(file: IO[bytes], where: Any) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        described = [n for n in names if n.endswith("/data.pkl")]
        if len(described) != 1:
            raise _Refused(
                "a zip archive that torch.save did not write (TorchScript and exported programs are not read)"
                if any(n.endswith("/constants.pkl") for n in names) or not described
                else "a zip archive with several objects"
            )
        folder = described[0][: -len("data.pkl")]
        if folder + "constants.pkl" in names:
            raise _Refused("a TorchScript archive, which is a program; save model.state_dict() instead")

        def member(name: str) -> bytes:
            info = archive.getinfo(folder + name)
            if info.compress_type != zipfile.ZIP_STORED:
                raise _Refused(f"a zip archive that torch.save did not write: {info.filename} is compressed")
            return archive.read(info)

        if folder + "byteorder" in names and member("byteorder") != b"little":
            raise _Refused("written by torch.save on a big-endian machine, which is not read")
        storages: dict[str, _Storage] = {}

        def storage(dtype: str, key: str, count: int) -> _Storage:
            if key not in storages:
                raw = member(f"data/{key}")
                if len(raw) < count * _itemsize(dtype):
                    raise _Refused(f"written by torch.save, with storage {key!r} cut off")
                storages[key] = _Storage(dtype, count, raw)
            return storages[key]

        value = _Unpickler(io.BytesIO(member("data.pkl")), storage).load()
    return _build(value, where, {})


def _read_legacy(file: IO[bytes], where: Any) -> Any:
    def nothing(dtype: str, key: str, count: int) -> _Storage:
        raise _Refused("a pickle that torch.save did not write")

    if _Unpickler(file, nothing).load() != _MAGIC:
        raise _Refused(
            "a pickle that torch.save did not write; pickles are not read, since they can run code"
        )
    version = _Unpickler(file, nothing).load()
    if version != _LEGACY_VERSION:
        raise _Refused(f"written by torch.save in version {version!r} of its format, where 1001 is read")
    machine = _Unpickler(file, nothing).load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _Refused("written by torch.save on a big-endian machine, which is not read")
    storages: dict[str, _Storage] = {}

    def storage(dtype: str, key: str, count: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, count, None))

    value = _Unpickler(file, storage).load()
    for key in _Unpickler(file, nothing).load():
        described = storages[key]
        count = int.from_bytes(file.read(8), "little")
        size = count * _itemsize(described.dtype)
        if count != described.count:
            raise _Refused(f"written by torch.save, with storage {key!r} damaged")
        described.raw = file.read(size)
        if len(described.raw) != size:
            raise _Refused(f"written by torch.save, with storage {key!r} cut off")
    return _build(value, where, {})


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


# Writing ---------------------------------------------------------------------------------------
#
# Instruction by instruction, since the module ``pickle`` imports the names that it writes. Only NumPy arrays and frozen
# sets make ``torch.load`` ask for ``weights_only=False``, as those in PyTorch's own files do.

_NUMBERS: Any = bool, int, float, complex
_STORAGE_OF = {dtype: name for name, dtype in _STORAGES.items()}


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
        self._known: dict[int, tuple[int, Any]] = {}  # by address: kept, so that no other value gets it

    def put(self, value: Any, path: str) -> None:
        """Add the instructions that make ``value``, or that take it from where it was made before."""
        if isinstance(value, np.generic):
            value = value.item()
        number = next((kind(value) for kind in _NUMBERS if isinstance(value, kind)), None)
        if value is None or number is not None:
            self._leaf(number)
        elif isinstance(value, str):
            self._leaf(value[:])
        elif id(value) in self._known:
            self.text += pickle.LONG_BINGET + pack("<I", self._known[id(value)][0])
        elif isinstance(value, list):
            self.text += pickle.EMPTY_LIST
            self._keep(value)
            self._items(enumerate(value), pickle.APPENDS, path)
        elif isinstance(value, Mapping):
            self._mapping(value, path)
        else:
            self._make(value, path)
            self._keep(value)

    def _leaf(self, value: Any) -> None:
        self.text += pickle.dumps(value, 2)[2:-1]  # without the protocol and the stop

    def _keep(self, value: Any) -> None:
        number = 256 + len(self._known)  # leaves number their parts from 0
        self.text += pickle.LONG_BINPUT + pack("<I", number)
        self._known[id(value)] = number, value

    def _items(self, items: Iterable[tuple[Any, Any]], end: bytes, path: str) -> None:
        self.text += pickle.MARK
        for key, item in items:
            if end == pickle.SETITEMS:
                self.put(key, f"a key of {path or 'obj'}")
            self.put(item, f"{path}.{key}" if path else str(key))
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
            code_of(np.dtype(value.dtype.str), path)  # bfloat16 is none of NumPy's own
            self._leaf(np.asarray(to_host(value)))
        else:
            self.put(self._made(value, path), path)

    def _made(self, value: Any, path: str) -> Any:
        """What makes a value that is no container."""
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

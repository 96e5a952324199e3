"""Reading what ``torch.save`` wrote, without PyTorch and without running anything the file says.

Two layouts exist. Since PyTorch 1.6 a file is a zip archive: ``data.pkl`` describes the object and refers to storages,
each an uncompressed member ``data/<key>``. Before, it was a row of pickles (a magic number, the format's version, a
description of the machine, the object, the storages' keys) with the storages' bytes behind it.

A pickle is a program, and its instructions can call whatever names can be looked up. So the reader looks up nothing
but what tensors, dicts and numbers need: functions of this file in place of PyTorch's. Any other name is an error, and
every tensor is checked to lie within its storage.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from fastdl.devices import to_device
from fastdl.dtypes import CPU, Size, as_dtype, canonical, device
from fastdl.tensor import Tensor

__all__ = ["STORAGES", "read_pickled"]

Array = np.ndarray[Any, Any]

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
STORAGES = {
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
_DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64"}


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
        if module in ("torch", "torch.storage") and name in STORAGES:
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
        if kind.name not in STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
            raise _Refused(f"written by torch.save, with a damaged storage {key!r}")
        return self._storage(STORAGES[kind.name], key, count)

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

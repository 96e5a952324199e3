"""``save`` and ``load``: tensors in the safetensors format, written atomically, read without trusting the file.

Names of PyTorch's files get PyTorch's format instead (``pickled``); ``load`` looks at the content.

A safetensors file is eight bytes with the length of the header, the header (JSON: name -> dtype, shape, data_offsets),
and the tensors' bytes, little-endian, one after the other. A ``state_dict`` is stored as just that, for any program
that reads safetensors. Anything else (nested dicts, lists, numbers, text: a checkpoint) keeps its shape as JSON in the
header's metadata under ``fastdl.structure``, where tensors are referred to by name. No code is ever run by loading.
"""

from __future__ import annotations

import argparse
import base64
import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from fastdl import dtypes
from fastdl.devices import resolve, to_device, to_host
from fastdl.dtypes import CPU, as_dtype, canonical, device
from fastdl.kernels import cpu, is_array
from fastdl.kernels.meta import MetaArray
from fastdl.kernels.sparse import is_sparse
from fastdl.sparse.tensor import places_of
from fastdl.tensor import Tensor

__all__ = ["load", "save"]

# Names of ``torch.serialization`` that packages import.
DEFAULT_PROTOCOL = 2
MAP_LOCATION = Any

Array = np.ndarray[Any, Any]
Path = str | os.PathLike[str]
Writer = Callable[[IO[bytes]], None]

_STRUCTURE = "fastdl.structure"
_MAX_HEADER = 100_000_000  # bytes, the format's limit
_MAX_DEPTH = 100
# The endings that PyTorch's documentation (.pt, .pth, .tar), Hugging Face (.bin) and Lightning (.ckpt) give its files.
_PYTORCH = (".pt", ".pth", ".tar", ".bin", ".ckpt")
_CODES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "C128": "complex128",
}
_CODE_OF = {np.dtype(name): code for code, name in _CODES.items()}


# Saving ----------------------------------------------------------------------------------------


def save(
    obj: Any,
    f: Path | IO[bytes],
    pickle_module: Any = None,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
) -> None:
    """Write a state dict or a nested checkpoint to a file.

    Names that end in .pt, .pth, .tar, .bin or .ckpt get PyTorch's format, for ``torch.load`` with its defaults (a view
    brings all the memory that it is a part of: ``clone()`` it). All others, and files without a name (``io.BytesIO``),
    get the safetensors format. :func:`load` reads both.

    Tensors on a GPU are stored like those on the CPU: a file does not know where its tensors were.

    Args:
        obj: a dict of name -> tensor; or dicts, lists and tuples, nested, of tensors, NumPy arrays (PyTorch reads
            these only with ``weights_only=False``), numbers, text, bytes, dtypes and None.
        f: a path, or a file open for writing in binary mode.
        pickle_module, pickle_protocol, _use_new_zipfile_serialization: accepted for compatibility: no class or
            function is pickled, and the protocol is 2.

    A path is written atomically: to a temporary file in the same directory, which takes the name when it is complete
    and on the disk. Whatever happens in between, the old file stays whole.

    Raises:
        TypeError: names the entry that cannot be stored.

    Example:
        >>> import fastdl, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fastdl.save({"model": {"w": fastdl.ones(2)}, "epoch": 3}, folder + "/checkpoint.safetensors")
        ...     fastdl.load(folder + "/checkpoint.safetensors")
        {'model': {'w': tensor([1., 1.])}, 'epoch': 3}
    """
    named = isinstance(f, (str, os.PathLike))
    if not named and not hasattr(f, "write"):
        raise TypeError(f"save: f must be a path or a file open for writing, got {type(f).__name__}")
    path = os.fspath(f) if named else getattr(f, "name", "")  # type: ignore[arg-type]
    if isinstance(path, str) and path.lower().endswith(_PYTORCH):
        from fastdl.pickled_writer import pickled  # not at import: zipfile and pickle take time

        write = pickled(obj)
    else:
        write = _laid_out(obj)
    if named:
        _write_atomically(path, write)
    else:
        # Nothing that lets zipfile go back to complete its headers: not every file that can tell its place can (gzip).
        # It then puts sizes and sums behind the members, as PyTorch does.
        write(SimpleNamespace(write=f.write, flush=getattr(f, "flush", lambda: None)))  # type: ignore


def _laid_out(obj: Any) -> Writer:
    """What writes ``obj`` in the safetensors format."""
    arrays: dict[str, Array] = {}
    metadata = {}
    if _is_flat(obj):
        for name, value in obj.items():
            arrays[name] = _checked(value._data if isinstance(value, Tensor) else value, name)
    else:
        structure = _flatten(obj, "", arrays, 0)
        metadata[_STRUCTURE] = json.dumps(structure, allow_nan=False, separators=(",", ":"))
    return lambda file: _write(file, arrays, metadata)


def _is_flat(obj: Any) -> bool:
    return (
        isinstance(obj, Mapping)
        and len(obj) > 0
        and all(
            isinstance(k, str)
            and k != "__metadata__"
            and (is_array(v) or (isinstance(v, Tensor) and not is_sparse(v)))
            for k, v in obj.items()
        )
    )


def _checked(array: Any, path: str) -> Array:
    """The array in the CPU's memory, of a dtype that the format can hold."""
    refuse_meta(array, path)
    code_of(array.dtype, path)
    return to_host(array)  # type: ignore[no-any-return]


def refuse_meta(array: Any, path: str) -> None:
    if array.__class__ is MetaArray:
        raise TypeError(f"save: {path or 'obj'} lies on the device 'meta' and has no values")


def code_of(dtype: Any, path: str) -> str:
    """A dtype's name in the safetensors format; an error if no file can hold what is at ``path``."""
    code = "BF16" if dtype.name == "bfloat16" else _CODE_OF.get(dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"save: {path or 'obj'} has dtype {dtype}, which the format cannot hold")
    return code


def _flatten(value: Any, path: str, arrays: dict[str, Array], depth: int) -> Any:
    """``value`` as JSON; its arrays go to ``arrays``. Objects whose only key begins with $ stand for other types."""
    refuse_depth(depth, path)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if is_sparse(value):
        pattern = value._data.pattern
        places = dict(zip(("places", "inner"), places_of(pattern), strict=False))
        parts = {"values": value._data.values._data, **places}
        stored = {
            name: _flatten(part, f"{path or 'tensor'}.{name}", arrays, depth + 1)["$array"]
            for name, part in parts.items()
        }
        about = {"layout": pattern.layout, "shape": list(pattern.shape), "coalesced": pattern.coalesced}
        return {"$sparse": {**about, **stored}}
    if isinstance(value, Tensor) or is_array(value):
        array = _checked(value._data if isinstance(value, Tensor) else value, path)
        name = path or "tensor"
        while name in arrays or name == "__metadata__":
            name += "'"
        arrays[name] = array
        return {"$tensor" if isinstance(value, Tensor) else "$array": name}

    def below(key: Any, item: Any) -> Any:
        return _flatten(item, f"{path}.{key}" if path else str(key), arrays, depth + 1)

    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value) and not any(k.startswith("$") for k in value):
            return {k: below(k, v) for k, v in value.items()}
        for key in value:
            if not isinstance(key, (str, int, float, bool)) and key is not None:
                raise TypeError(
                    f"save: {path or 'obj'} has a key of type {type(key).__name__}; keys may be text and numbers"
                )
        return {"$dict": [[_flatten(k, path, arrays, depth + 1), below(k, v)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [below(i, v) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [below(i, v) for i, v in enumerate(value)]
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dtypes.classes):
        return {"$dtype": value.name}
    if isinstance(value, (set, frozenset)):
        kind = "$set" if isinstance(value, set) else "$frozenset"
        return {kind: [below(i, v) for i, v in enumerate(sorted(value, key=repr))]}
    if isinstance(value, device):
        return {"$device": str(value)}
    raise refusal(value, path)


def refuse_depth(depth: int, path: str) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(
            f"save: {path} is nested more than {_MAX_DEPTH} levels deep (does obj contain itself?)"
        )


def refusal(value: Any, path: str) -> TypeError:
    """The error of a value that no file holds."""
    hint = "; pass its state_dict()" if hasattr(value, "state_dict") else ""
    if isinstance(value, (argparse.Namespace, os.PathLike)):
        hint = "; pass vars() of it" if isinstance(value, argparse.Namespace) else "; pass str() of it"
    return TypeError(
        f"save: {path or 'obj'} is of type {type(value).__name__}; only tensors, arrays, numbers, text, bytes, dtypes, "
        f"None, and dicts, lists and tuples of them can be stored{hint}"
    )


def _write(file: IO[bytes], arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    # Wide elements first: every tensor then starts at a multiple of its element size.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    offsets, end = {}, 0
    for name in order:
        begin, end = end, end + arrays[name].size * arrays[name].itemsize
        offsets[name] = [begin, end]
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for name, array in arrays.items():
        code = code_of(array.dtype, name)
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"save: the header would have {len(text)} bytes, the format allows {_MAX_HEADER}")
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        file.write(bytes_of(arrays[name]))


def bytes_of(array: Array) -> memoryview:
    """The elements' bytes in C order, little-endian: the array's own memory where it is that."""
    if array.dtype.kind == "V":  # bfloat16, whose bytes NumPy knows nothing of
        array = array.view(np.uint16)
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def _write_atomically(path: str, write: Writer) -> None:
    path = os.path.realpath(path)  # a link stays a link
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            errno.ENOENT, "save: this folder does not exist; make it before (os.makedirs)", folder
        )
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if os.name == "posix":  # the new name, too, has to reach the disk
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


# Loading ---------------------------------------------------------------------------------------


def load(
    f: Path | IO[bytes],
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
) -> Any:
    """Read what :func:`save`, or another program, wrote in the safetensors format, or what ``torch.save`` wrote.

    Of PyTorch's format (.pt, .pth) tensors, numbers, text, lists and dicts are read, without PyTorch; what could
    run code is refused, so that no file has to be trusted.

    Args:
        f: a path, or a file open for reading in binary mode.
        map_location: the device for all tensors; None: the CPU. A function of (tensor, "cpu") or a dictionary of
            devices is understood as the device that it leads to: files do not say where their tensors were.
        pickle_module, weights_only, mmap: accepted for compatibility: a file never contains anything but data, and
            is read at once.

    Returns:
        the object that was saved; a dict of name -> tensor for files of other programs. bfloat16 becomes float32
        (which holds all its values) unless the package ml_dtypes is installed.

    Raises:
        ValueError: the file is damaged, of another format, or holds more than data; the message says where.
    """
    where = CPU if map_location is None else resolve("load", _target(map_location))
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            return _read(file, os.fspath(f), where)
    if hasattr(f, "read"):
        return _read(f, getattr(f, "name", "the file"), where)
    raise TypeError(f"load: f must be a path or a file open for reading, got {type(f).__name__}")


def _target(map_location: Any) -> Any:
    """The device that ``map_location`` leads to."""
    if isinstance(map_location, Mapping):
        targets = set(map_location.values())
        if len(targets) != 1:
            raise ValueError(
                "load: a file does not say where its tensors were, so map_location must name one device, got "
                f"{map_location!r}"
            )
        return targets.pop()
    if callable(map_location):
        moved = map_location(Tensor._wrap(np.empty(0, np.float32)), "cpu")
        return moved.device if isinstance(moved, Tensor) else moved
    return map_location


def _read(file: IO[bytes], path: Any, where: Any) -> Any:
    def damaged(reason: str) -> ValueError:
        return ValueError(f"load: {path!s}: {reason}")

    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    if size < 8:
        raise damaged(f"not a safetensors file: {size} bytes, at least 8 are needed")
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if length > min(_MAX_HEADER, size - 8):
        if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":  # a zip archive or a pickle
            from fastdl.pickled import read_pickled  # not at import: zipfile and pickle take time

            file.seek(start)
            try:
                return read_pickled(file, where)
            except ValueError as error:
                raise damaged(str(error)) from error
        raise damaged(
            f"not a safetensors file, or truncated: the header should have {length} bytes, the file has {size}"
        )
    header = _parse(file.read(length), damaged)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged("__metadata__ must map text to text")
    entries = _checked_entries(header, size - 8 - length, damaged)
    tensors = {}
    for name, (code, shape, begin, end) in entries.items():
        file.seek(start + 8 + length + begin)
        tensors[name] = _read_array(file, code, shape, end - begin, damaged)
    if _STRUCTURE not in metadata:
        return {name: Tensor._wrap(to_device(array, where)) for name, array in tensors.items()}
    try:
        return _restore(json.loads(metadata[_STRUCTURE]), tensors, where)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(f"{_STRUCTURE} in the metadata is damaged ({error!r})") from error


def _parse(text: bytes, damaged: Any) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(f"the header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged("the header must be a JSON object")
    return header


def _checked_entries(header: dict[str, Any], size: int, damaged: Any) -> dict[str, Any]:
    """name -> (code, shape, begin, end), after checking that the tensors fill ``size`` bytes without overlap."""
    entries = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise damaged(f"tensor {name!r} must have dtype, shape and data_offsets")
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if code != "BF16" and (not isinstance(code, str) or code not in _CODES):
            raise damaged(f"tensor {name!r} has dtype {code!r}; readable are {', '.join(_CODES)} and BF16")
        if not _are_sizes(shape) or len(shape) > 64:
            raise damaged(f"tensor {name!r}: shape must be a list of up to 64 sizes, got {str(shape)[:200]}")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise damaged(f"tensor {name!r}: data_offsets must be two numbers, got {str(offsets)[:200]}")
        begin, end = offsets
        itemsize = 2 if code == "BF16" else np.dtype(_CODES[code]).itemsize
        if math.prod(max(extent, 1) for extent in shape) * itemsize >= 2**63:
            raise damaged(f"tensor {name!r}: shape {shape} is too large")
        if not begin <= end <= size:
            raise damaged(
                f"tensor {name!r}: data_offsets {offsets} do not lie within the {size} bytes of data (truncated?)"
            )
        if math.prod(shape) * itemsize != end - begin:
            raise damaged(f"tensor {name!r}: shape {shape} of {code} does not fill data_offsets {offsets}")
        entries[name] = (code, tuple(shape), begin, end)
    at = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise damaged(
                f"tensor {name!r} begins at byte {begin} of the data, where byte {at} is next: overlap or hole"
            )
        at = end
    if at != size:
        raise damaged(f"the tensors end at byte {at} of the data, which has {size}")
    return entries


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _read_array(file: IO[bytes], code: str, shape: tuple[int, ...], size: int, damaged: Any) -> Array:
    stored = np.dtype(np.uint16 if code == "BF16" else _CODES[code])
    raw = cpu.empty((size,), np.dtype(np.uint8))
    view, have = memoryview(raw), 0
    while have < size:
        part = file.readinto(view[have:]) if hasattr(file, "readinto") else None
        if part is None:
            data = file.read(size - have)
            part = len(data)
            view[have : have + part] = data
        if part == 0:
            raise damaged("the file ended while it was read")
        have += part
    array: Array = raw.view(stored.newbyteorder("<")).reshape(shape)
    if code == "BF16":
        try:
            return array.astype(np.uint16, copy=False).view(as_dtype("load", "bfloat16"))
        except TypeError:  # no ml_dtypes: the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
    if code == "BOOL":
        array = raw.reshape(shape) != 0
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="))
    return array.view(canonical[array.dtype])


def _sparse(content: dict[str, Any], tensors: dict[str, Array], where: Any) -> Any:
    from fastdl.sparse.creation import restored

    places = [tensors[content[name]] for name in ("places", "inner") if name in content]
    values = Tensor._wrap(to_device(tensors[content["values"]], where))
    return restored(content["layout"], places, values, content["shape"], content["coalesced"])


def _restore(value: Any, tensors: dict[str, Array], where: Any) -> Any:
    if isinstance(value, list):
        return [_restore(v, tensors, where) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "$tensor":
            return Tensor._wrap(to_device(tensors[content], where))
        if kind == "$sparse":
            return _sparse(content, tensors, where)
        if kind == "$array":
            return tensors[content]
        if kind == "$float":
            return float(content)
        if kind == "$tuple":
            return tuple(_restore(v, tensors, where) for v in content)
        if kind == "$dict":
            return {_restore(k, tensors, where): _restore(v, tensors, where) for k, v in content}
        if kind == "$set":
            return {_restore(item, tensors, where) for item in content}
        if kind == "$frozenset":
            return frozenset(_restore(item, tensors, where) for item in content)
        if kind == "$device":
            return device(content)
        if kind == "$bytes":
            return base64.b64decode(content, validate=True)
        if kind == "$dtype":
            return as_dtype("load", content)
    return {k: _restore(v, tensors, where) for k, v in value.items()}


class safe_globals:
    """A block in which ``load`` would trust classes. Accepted: a file holds values, and no class is ever called."""

    def __init__(self, safe_globals: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


def add_safe_globals(safe_globals: Any) -> None:
    """Accepted, see :class:`safe_globals`."""


def get_safe_globals() -> list[Any]:
    """None are trusted: the empty list."""
    return []


def clear_safe_globals() -> None:
    """Nothing to do, see :class:`safe_globals`."""

"""Files that save writes in PyTorch's format: PyTorch reads them with its defaults, and sees the same memory shared."""

from __future__ import annotations

import collections
import enum
import gzip
import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import nn, pickled_writer

torch = pytest.importorskip("torch")
MMAP = pytest.mark.parametrize("mmap", [False, True])
DTYPES = """float64 float32 float16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64 complex64
    complex128""".split()
LAYOUTS = {
    "plain": lambda a: a,
    "transposed": lambda a: a.T,
    "columns first": np.asfortranarray,
    "channels last": lambda a: np.array(a.reshape(2, 2, 3, 2), order="C").transpose(0, 3, 1, 2),
    "steps": lambda a: a[1:, ::2],
    "backward": lambda a: a[::-1],
    "expanded": lambda a: np.broadcast_to(a[:1, :1], (3, 4)),
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a[0], 3),
    "odd bytes": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "number": lambda a: a[0, 0].reshape(()),
    "empty": lambda a: a[4:],
    "nothing": lambda a: np.empty((0, 3), a.dtype),
}


def through_torch(value, path, **options):
    fastdl.save(value, path)
    return torch.load(path, **options)


class Named(io.BytesIO):
    """A file in memory that was opened under PyTorch's name."""

    name = "memory.pt"


def in_memory(value):
    file = Named()
    fastdl.save(value, file)
    file.seek(0)
    return file


@MMAP
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(tmp_path, dtype, mmap):
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (4, 6)).astype(dtype)
    arrays = {name: make(numbers) for name, make in LAYOUTS.items()}
    tensors = {name: fastdl.Tensor._wrap(array) for name, array in arrays.items()}
    there = through_torch(tensors, tmp_path / "t.pt", mmap=mmap)
    here = fastdl.load(tmp_path / "t.pt")
    for name, array in arrays.items():
        assert str(there[name].dtype) == f"torch.{dtype}", name
        assert there[name].shape == here[name].shape == array.shape, name
        assert not there[name].requires_grad
        np.testing.assert_array_equal(there[name].numpy(), array, name)
        np.testing.assert_array_equal(here[name].numpy(), array, name)
        assert here[name].dtype == tensors[name].dtype


@MMAP
def test_bfloat16(tmp_path, mmap):
    pytest.importorskip("ml_dtypes")
    x = fastdl.tensor([[1.0, -2.5, float("inf")], [3.140625, 0.0, -0.0]]).bfloat16()
    there = through_torch([x, x.T, x[1]], tmp_path / "b.bin", mmap=mmap)
    assert [t.dtype for t in there] == [torch.bfloat16] * 3
    for t, want in zip(there, (x, x.T, x[1]), strict=True):
        assert t.tolist() == want.tolist()
    with pytest.raises(TypeError, match=r"save: a has dtype \|?<?V2"):
        fastdl.save({"a": x.numpy()}, tmp_path / "b.bin")


@MMAP
def test_what_shares_memory_shares_it_again(tmp_path, mmap):
    base = fastdl.arange(24.0).reshape(4, 6)
    tied = nn.Parameter(fastdl.ones(3))
    value = {"row": base[1], "base": base, "turned": base.T, "copy": base.clone(), "tied": [tied, tied]}
    there = through_torch(value, tmp_path / "t.pt", mmap=mmap)
    names = zipfile.ZipFile(tmp_path / "t.pt").namelist()
    assert [n for n in names if "/data/" in n] == ["archive/data/0", "archive/data/1", "archive/data/2"]
    there["base"][1, 0] = -1
    assert there["row"][0] == there["turned"][0, 1] == -1
    assert there["copy"][1, 0] == 6
    assert there["row"].storage_offset() == 6
    assert there["turned"].stride() == (1, 6)
    assert there["tied"][0] is there["tied"][1]
    here = fastdl.load(tmp_path / "t.pt")
    assert here["tied"][0] is here["tied"][1]
    columns = fastdl.from_numpy(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    there = through_torch([columns[0], columns], tmp_path / "t.pt", mmap=mmap)
    there[1][0, 1] = -1
    assert there[0].tolist() == [0, -1, 2]
    # One memory under two dtypes, which PyTorch does not know, comes twice.
    numbers = fastdl.ones(4, dtype=fastdl.int32)
    both = through_torch([numbers, numbers.view(fastdl.uint8)], tmp_path / "t.pt")
    assert both[1].tolist() == numbers.view(fastdl.uint8).tolist()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")  # PyTorch's own
def test_parameters_gradients_and_sparse_tensors(tmp_path):
    x = fastdl.ones(2, requires_grad=True)
    dense = fastdl.tensor([[0, 1.0, 0], [2, 0, 3]])
    value = [nn.Parameter(x), nn.Parameter(fastdl.ones(2), requires_grad=False), x, x * 2, x.detach()]
    value += [
        dense.to_sparse(),
        dense.to_sparse_csr(),
        dense.to_sparse_csc(),
        fastdl.eye(3)[:, :, None].to_sparse(2),
    ]
    there = through_torch(value, tmp_path / "p.ckpt")
    assert [type(t) for t in there[:3]] == [torch.nn.Parameter, torch.nn.Parameter, torch.Tensor]
    assert [t.requires_grad for t in there[:5]] == [True, False, True, True, False]
    assert there[0]._backward_hooks is not there[2]._backward_hooks
    here = fastdl.load(tmp_path / "p.ckpt")
    for ours, theirs, want in zip(here[5:], there[5:], value[5:], strict=True):
        assert str(theirs.layout).removeprefix("torch.") == str(want.layout).removeprefix("fastdl.")
        assert str(ours.layout) == str(want.layout)
        assert theirs.to_dense().tolist() == ours.to_dense().tolist() == want.to_dense().tolist()
    assert there[5].is_coalesced()


def test_every_kind_of_value(tmp_path):
    shared = [1]
    value = {
        "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**31, 10**40, 1.5, -0.0, float("inf"), 1 + 2j],
        "none": None,
        "flags": (True, False),
        "text": ["", "día", "\ud800"],
        "name": enum.Enum("Name", {"red": "dark red"}, type=str).red,
        "bytes": [b"", b"a\xff"],
        "scalars": [np.float32(1.5), np.int8(3), np.bool_(True)],
        "keys": {1: "a", (1, ("b",)): "b", None: "c", 2.5: "d", b"x": "e", "": "f"},
        "ordered": collections.OrderedDict(b=1, a=2),
        "count": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[]),
        "set": {1, "two", (3, 4)},
        "size": fastdl.ones(2, 3).shape,
        "devices": [fastdl.device("cpu"), fastdl.device("cuda:1")],
        "dtypes": [getattr(fastdl, name) for name in DTYPES],
        "same": [shared, shared],
    }
    there = through_torch(value, tmp_path / "v.pt")
    here = fastdl.load(tmp_path / "v.pt")
    kinds = {"size": torch.Size([2, 3]), "dtypes": [getattr(torch, name) for name in DTYPES]}
    kinds["devices"] = [torch.device("cpu"), torch.device("cuda:1")]
    assert there == {**value, **kinds}
    assert here == value
    for got in (there, here):
        assert [type(v) for v in got["numbers"]] == [type(v) for v in value["numbers"]]
        assert [type(v) for v in got["scalars"]] == [float, int, bool]
        assert (type(got["ordered"]), type(got["count"])) == (collections.OrderedDict, collections.Counter)
        assert type(got["default"]) is dict
        assert got["same"][0] is got["same"][1]
    assert type(here["size"]) is fastdl.Size
    # What torch.load refuses by default, it refuses here, too.
    unusual = {"frozen": frozenset([1]), "arrays": [np.arange(6.0).reshape(2, 3).T, np.array([1], ">i2")]}
    unusual["arrays"].append(np.arange(3).view(np.recarray))  # a subclass comes as an array
    there = through_torch(unusual, tmp_path / "v.pt", weights_only=False)
    for got in (there, fastdl.load(tmp_path / "v.pt")):
        assert got["frozen"] == frozenset([1])
        assert type(got["frozen"]) is frozenset
        for a, b in zip(got["arrays"], unusual["arrays"], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=")


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.recursive(
    leaves, lambda inner: st.tuples(inner) | st.tuples(inner, inner, inner, inner), max_leaves=4
)
nested = st.recursive(
    leaves | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(nested)
def test_any_nesting_comes_back(value):
    file = in_memory(value)
    assert repr(torch.load(file)) == repr(value)
    file.seek(0)
    assert repr(fastdl.load(file)) == repr(value)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_random_views_of_random_memory(seed):
    rng = np.random.default_rng(seed)
    tensors = []
    for _ in range(rng.integers(1, 6)):
        shape = rng.integers(0, 5, rng.integers(0, 4))
        x = fastdl.from_numpy(rng.integers(0, 9, shape).astype(rng.choice(["f4", "i8", "u2", "?"])))
        for _ in range(rng.integers(0, 4)):
            axis = int(rng.integers(x.ndim)) if x.ndim else 0
            if x.ndim and x.shape[axis]:
                x = [
                    lambda x=x, axis=axis: x.select(axis, 0),
                    lambda x=x, axis=axis: x.transpose(axis, 0),
                    lambda x=x, axis=axis: x.narrow(axis, x.shape[axis] // 2, 1),
                    lambda x=x: x[::2],
                    lambda x=x: x.unsqueeze(0).expand(2, *x.shape),
                    lambda x=x: x.flatten(),
                ][rng.integers(6)]()
            tensors.append(x)
        tensors.append(x)
    file = in_memory(tensors)
    there = torch.load(file)
    file.seek(0)
    for ours, theirs, want in zip(fastdl.load(file), there, tensors, strict=True):
        assert ours.shape == theirs.shape == want.shape
        np.testing.assert_array_equal(theirs.numpy(), want.numpy())
        np.testing.assert_array_equal(ours.numpy(), want.numpy())


def test_lists_that_contain_themselves():
    value: list = [{}]
    value[0]["list"] = value
    file = in_memory(value)
    for load in (torch.load, fastdl.load):
        file.seek(0)
        got = load(file)
        assert got[0]["list"] is got


def test_what_is_deep_but_not_too_deep():
    value: list = [1.5]
    for _ in range(99):
        value = [value]
    for load in (torch.load, fastdl.load):
        assert load(in_memory(value)) == value


class Derived:
    class Integer(int):
        pass

    class Float(float):
        pass

    class Text(str):
        def __str__(self):
            return "other"

        __getitem__ = None


def test_integers_at_the_borders_of_their_sizes_and_leaves_of_derived_classes():
    numbers = [
        sign * (2**bits + d)
        for bits in (7, 8, 15, 16, 31, 32, 63, 64)
        for d in (-1, 0, 1)
        for sign in (1, -1)
    ]
    derived = [Derived.Integer(7), Derived.Float(0.5), Derived.Text("text"), np.float64(2), np.str_("x")]
    plain = [7, 0.5, "text", 2.0, "x"]
    value = {"numbers": numbers, "derived": derived, "twice": derived * 2, "long": "ü" * 70_000}
    for load in (torch.load, fastdl.load):
        got = load(in_memory(value))
        assert got["numbers"] == numbers
        assert got["twice"] == plain * 2
        assert [type(v) for v in got["derived"]] == [type(v) for v in plain]
        assert got["derived"] == plain
        assert got["long"] == value["long"]


def test_classes_become_those_that_they_derive_from(tmp_path):
    point = collections.namedtuple("point", "x y")
    level = enum.IntEnum("level", {"low": 3})
    value = [collections.defaultdict(list, a=[]), point(1, 2), bytearray(b"a"), level.low]
    there = through_torch(value, tmp_path / "c.pt")
    for got in (there, fastdl.load(tmp_path / "c.pt")):
        assert got == [{"a": []}, (1, 2), b"a", 3]
        assert [type(v) for v in got] == [dict, tuple, bytes, int]


@MMAP
def test_files_that_only_go_forward(tmp_path, mmap):
    """A compressed file tells where it is, but cannot go back."""
    value = {"x": fastdl.arange(5.0), "y": fastdl.ones(70, 3, dtype=fastdl.int64)}
    with gzip.open(tmp_path / "z.pt", "wb") as file:
        fastdl.save(value, file)
    (tmp_path / "plain.pt").write_bytes(gzip.decompress((tmp_path / "z.pt").read_bytes()))
    assert zipfile.ZipFile(tmp_path / "plain.pt").testzip() is None
    there = torch.load(tmp_path / "plain.pt", mmap=mmap)
    here = fastdl.load(tmp_path / "plain.pt")
    for got in (there, here):
        assert got["x"].tolist() == [0, 1, 2, 3, 4]
        assert got["y"].tolist() == [[1] * 3] * 70


def test_frozen_sets_in_both_formats(tmp_path):
    value = [{(1, 2), frozenset({3})}, frozenset({frozenset(), "a"}), set()]
    fastdl.save(value, tmp_path / "s.safetensors")
    fastdl.save(value, tmp_path / "s.pt")
    for got in (fastdl.load(tmp_path / "s.safetensors"), fastdl.load(tmp_path / "s.pt")):
        assert got == value
        assert [type(v) for v in got] == [set, frozenset, set]


def test_state_dicts_keep_their_versions(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    there = through_torch(model.state_dict(), tmp_path / "m.pth")
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    other.load_state_dict(there)
    assert type(there) is collections.OrderedDict
    assert there._metadata == other.state_dict()._metadata
    assert fastdl.load(tmp_path / "m.pth")._metadata == there._metadata


def test_archives_can_be_mapped_and_checked(tmp_path, monkeypatch):
    tensors = {f"{'x' * i}": fastdl.arange(i + 1.0) for i in range(70)}
    for limit in (zipfile.ZIP64_LIMIT, 100):  # with sizes of 64 bits, too
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        there = through_torch(tensors, tmp_path / "a.pt", mmap=True)
        assert all(there[name].tolist() == t.tolist() for name, t in tensors.items())
        assert fastdl.load(tmp_path / "a.pt")["xxx"].tolist() == [0, 1, 2, 3]
        data = (tmp_path / "a.pt").read_bytes()
        with zipfile.ZipFile(tmp_path / "a.pt") as archive:
            assert archive.testzip() is None
            for info in archive.infolist():
                header = data[info.header_offset :][:30]
                begin = (
                    info.header_offset + 30 + header[26] + 256 * header[27] + header[28] + 256 * header[29]
                )
                assert begin % 64 == 0
                assert data[begin : begin + info.file_size] == archive.read(info)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "a.pt") == []


def test_the_name_chooses_the_format(tmp_path):
    value = {"x": fastdl.ones(2)}
    for name in ("a.pt", "a.PTH", "a.pth.tar", "pytorch_model.bin", "last.ckpt"):
        assert through_torch(value, tmp_path / name)["x"].tolist() == [1, 1]
        assert fastdl.load(str(tmp_path / name))["x"].tolist() == [1, 1]
    for name in ("a", "a.safetensors", "a.pt.safetensors", "pt"):
        fastdl.save(value, tmp_path / name)
        assert (tmp_path / name).read_bytes()[8:9] == b"{"
        assert fastdl.load(tmp_path / name)["x"].tolist() == [1, 1]
    (tmp_path / "a").replace(tmp_path / "old.pt")  # as it was written under any name before
    assert fastdl.load(tmp_path / "old.pt")["x"].tolist() == [1, 1]
    with open(tmp_path / "b.pt", "wb") as file:
        fastdl.save(value, file)
    assert torch.load(tmp_path / "b.pt")["x"].tolist() == [1, 1]
    file = io.BytesIO()
    fastdl.save(value, file)
    assert file.getvalue()[8:9] == b"{"
    file = Named(b"before")
    file.seek(6)
    fastdl.save(value, file)
    file.seek(6)
    assert fastdl.load(file)["x"].tolist() == [1, 1]


def test_errors_leave_no_file(tmp_path, monkeypatch):
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    for obj, error, message in (
        ({"a": {"b": object()}}, TypeError, r"save: a\.b is of type object"),
        ({"a": nn.Linear(1, 1)}, TypeError, r"a is of type Linear.*pass its state_dict\(\)"),
        ({"a": {3, object}}, TypeError, r"a\.\d is of type type"),
        ({"a": {(1, object): 3}}, TypeError, r"save: a key of a\.1 is of type type"),
        ({"a": np.zeros(2, np.clongdouble)}, TypeError, "a has dtype complex256"),
        ({"a": np.array(["x"])}, TypeError, "a has dtype <U1"),
        ({"a": np.dtype("U3")}, TypeError, "a has dtype <U3"),
        ({"a": np.longdouble(1)}, TypeError, "a is of type longdouble"),
        ({"a": fastdl.ones(2, device="meta")}, TypeError, "a lies on the device 'meta'"),
        ([fastdl.ones(2, device="meta")._data], TypeError, "0 lies on the device 'meta'"),
        ({"a": deep}, ValueError, r"a\.0\.0.* is nested more than 100 levels deep"),
    ):
        file = Named()
        for target in (tmp_path / "x.pt", file):
            with pytest.raises(error, match=message):
                fastdl.save(obj, target)
        assert file.getvalue() == b""
    with pytest.raises(TypeError, match=r"a\.0 lies on the device 'meta'"):
        fastdl.save({"a": [fastdl.ones(2, device="meta")]}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
    fastdl.save([1], tmp_path / "x.pt")

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(pickled_writer, "bytes_of", full)
    with pytest.raises(OSError, match="no space"):
        fastdl.save([fastdl.ones(2)], tmp_path / "x.pt")
    assert fastdl.load(tmp_path / "x.pt") == [1]
    assert len(list(tmp_path.iterdir())) == 1


def test_under_the_name_of_pytorch(tmp_path):
    """``import torch`` is fastdl there; what it saves, PyTorch reads here."""
    program = """
import io, sys, torch
value = {"w": torch.ones(2), "dtype": torch.float16, "size": torch.Size([1]), "device": torch.device("cpu")}
file = io.BytesIO()
torch.save(value, file)
file.seek(0)
assert torch.load(file)["w"].tolist() == [1, 1]
torch.save(value, sys.argv[1], pickle_protocol=4)
assert torch.load(sys.argv[1], weights_only=True, mmap=True)["dtype"] == torch.float16
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "fastdl.as_torch", tmp_path / "program.py", tmp_path / "w.pt"]
    subprocess.run(command, check=True, env=os.environ, timeout=120)
    there = torch.load(tmp_path / "w.pt")
    assert there.pop("w").tolist() == [1, 1]
    assert there == {"dtype": torch.float16, "size": torch.Size([1]), "device": torch.device("cpu")}

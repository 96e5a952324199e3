"""save and load: round trips, interchange, damaged files, crashes in the middle."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections import OrderedDict
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import nn, optim

DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


def values(dtype, shape=(3, 5)):
    rng = np.random.default_rng(0)
    return np.asarray(rng.integers(0, 2 if dtype == "bool" else 100, shape)).astype(dtype)


def all_kinds():
    tensors = {
        f"{d}.{i}": fastdl.from_numpy(values(d, s))
        for d in DTYPES
        for i, s in enumerate([(3, 5), (), (0, 4), (1,)])
    }
    tensors["strided"] = fastdl.from_numpy(values("float32", (6, 8))[::-2, 1::3])
    tensors["transposed"] = fastdl.from_numpy(values("int16", (4, 3)).T)
    tensors["leaf"] = nn.Parameter(values("float32"))
    return tensors


def assert_equal(got, want):
    assert list(got) == list(want)
    for name, tensor in want.items():
        assert type(got[name]) is fastdl.Tensor
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        np.testing.assert_array_equal(got[name].numpy(), tensor.detach().numpy())


def test_state_dict_round_trip(tmp_path):
    tensors = all_kinds()
    fastdl.save(tensors, tmp_path / "t.safetensors")
    got = fastdl.load(tmp_path / "t.safetensors")
    assert_equal(got, tensors)
    got["float32.0"].numpy()[0, 0] = 5  # loaded tensors can be changed
    buffer = io.BytesIO()
    buffer.write(b"before")
    fastdl.save(tensors, buffer)
    buffer.seek(6)
    assert_equal(fastdl.load(buffer), tensors)


def test_layout_is_aligned(tmp_path):
    path = tmp_path / "t.safetensors"
    fastdl.save(all_kinds(), path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    for entry in header.values():
        item = {"F": 8, "I": 8, "U": 8, "B": 8}[entry["dtype"][0]]
        width = int(entry["dtype"][1:]) // item if entry["dtype"] != "BOOL" else 1
        assert entry["data_offsets"][0] % width == 0


def test_safetensors_reads_ours_and_we_read_theirs(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {name: t for name, t in all_kinds().items() if not name.startswith("uint16")}
    fastdl.save(tensors, tmp_path / "ours.safetensors")
    for name, array in safetensors.load_file(tmp_path / "ours.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name].detach().numpy())
        assert array.dtype == tensors[name].dtype
    arrays = {name: np.ascontiguousarray(t.detach().numpy()).reshape(t.shape) for name, t in tensors.items()}
    safetensors.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    got = fastdl.load(tmp_path / "theirs.safetensors")
    assert set(got) == set(tensors)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name].numpy(), array)
    fastdl.save({"model": tensors, "epoch": 3}, tmp_path / "nested.safetensors")
    assert len(safetensors.load_file(tmp_path / "nested.safetensors")) == len(tensors)


def test_bfloat16_stays_where_there_is_such_a_dtype(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, -2.5, float("inf"), 3.14159, 0.0]).to(torch.bfloat16)
    raw = x.view(torch.int16).numpy().tobytes()
    path = write(tmp_path, {"x": {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}}, raw)
    got = fastdl.load(path)["x"]
    assert got.dtype == (np.float32 if find_spec("ml_dtypes") is None else fastdl.bfloat16)
    np.testing.assert_array_equal(got.float().numpy(), x.float().numpy())


def test_nested_checkpoint(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    opt = optim.Adam(net.parameters(), lr=0.1, betas=(0.8, 0.9))
    x = fastdl.ones(5, 3)

    def step():
        opt.zero_grad()
        y = net(x)
        y.backward(fastdl.ones(*y.shape))
        opt.step()

    step()
    odd = {
        "epoch": 3,
        "done": {1, "two", (3, 4)},
        "device": fastdl.device("cuda:1"),
        "best": float("inf"),
        "worst": float("nan"),
        "name": "día",
        "none": None,
        "flags": [True, False],
        "pair": (1, 2.5, ("x",)),
        "bytes": b"\x00\xff",
        "array": np.arange(3),
        "scalar": np.float32(1.5),
        "dtype": fastdl.float64,
        "keys": {1: "int", 2.5: "float", None: "none", "1": "text"},
        "$tensor": "a key that looks like ours",
        "nested": {"$dict": [1]},
        "empty": {},
        "list": [],
        "rng": fastdl.get_rng_state(),
        "a.b": {"c": fastdl.ones(1)},
        "a": {"b.c": fastdl.zeros(1)},
    }
    path = tmp_path / "checkpoint.safetensors"
    fastdl.save({"model": net.state_dict(), "optimizer": opt.state_dict(), "odd": odd}, path)
    loaded = fastdl.load(path)
    got = loaded["odd"]
    assert list(got) == list(odd)
    assert np.isnan(got["worst"])
    np.testing.assert_array_equal(got["array"], odd["array"])
    assert isinstance(got["array"], np.ndarray)
    assert got["a.b"]["c"].item() == 1
    assert got["a"]["b.c"].item() == 0
    np.testing.assert_array_equal(got["rng"].numpy(), odd["rng"].numpy())
    for key in (
        "epoch",
        "best",
        "name",
        "none",
        "flags",
        "pair",
        "bytes",
        "scalar",
        "dtype",
        "done",
        "device",
        "keys",
        "$tensor",
        "nested",
    ):
        assert got[key] == odd[key], key
        assert got[key].__class__ is odd[key].__class__ or key == "scalar"
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other_opt = optim.Adam(other.parameters())
    other.load_state_dict(loaded["model"])
    other_opt.load_state_dict(loaded["optimizer"])
    assert other_opt.param_groups[0]["betas"] == (0.8, 0.9)
    step()
    net, opt = other, other_opt
    expected = [p.detach().numpy().copy() for p in net.parameters()]
    step()
    assert all((p.detach().numpy() != e).any() for p, e in zip(net.parameters(), expected, strict=True))


def test_resumed_training_is_the_same_training(tmp_path):
    def make():
        net = nn.Linear(3, 2)
        return net, optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(net, opt):
        opt.zero_grad()
        y = net(fastdl.ones(4, 3))
        y.backward(y.detach())
        opt.step()

    net, opt = make()
    step(net, opt)
    fastdl.save({"net": net.state_dict(), "opt": opt.state_dict()}, tmp_path / "c")
    step(net, opt)
    net_two, opt_two = make()
    saved = fastdl.load(tmp_path / "c")
    net_two.load_state_dict(saved["net"])
    opt_two.load_state_dict(saved["opt"])
    step(net_two, opt_two)
    for p, q in zip(net.parameters(), net_two.parameters(), strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(nested)
def test_any_nesting_comes_back(value):
    buffer = io.BytesIO()
    try:
        fastdl.save(value, buffer)
    except UnicodeEncodeError:  # lone surrogates are no text
        return
    buffer.seek(0)
    assert repr(fastdl.load(buffer)) == repr(value)


def test_save_errors(tmp_path):
    cyclic: list = []
    cyclic.append(cyclic)
    for obj, error, message in (
        ({"a": {"b": object()}}, TypeError, r"save: a\.b is of type object"),
        ({"a": nn.Linear(1, 1)}, TypeError, r"a is of type Linear.*pass its state_dict\(\)"),
        ({"a": {3, object}}, TypeError, r"a\.\d is of type type"),
        ({(1, 2): 3}, TypeError, "key of type tuple"),
        ({"a": np.zeros(2, np.clongdouble)}, TypeError, "a has dtype complex256"),
        ({"a": np.array(["x"])}, TypeError, "a has dtype <U1"),
        (cyclic, ValueError, "more than 100 levels"),
    ):
        with pytest.raises(error, match=message):
            fastdl.save(obj, tmp_path / "x")
    with pytest.raises(TypeError, match="must be a path or a file"):
        fastdl.save({}, 3)
    with pytest.raises(FileNotFoundError, match=r"save: this folder does not exist.*missing"):
        fastdl.save({}, tmp_path / "missing" / "x")
    assert not list(tmp_path.iterdir())


# Atomic writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_killed_while_writing_leaves_the_old_file(tmp_path, moment):
    path = tmp_path / "c.safetensors"
    fastdl.save({"x": fastdl.ones(3)}, path)
    before = path.read_bytes()
    script = f"""
import os, signal, sys
import numpy as np, fastdl
from fastdl import serialization
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "fsync":
    os.fsync = die
elif {moment!r} == "replace":
    os.replace = die
else:
    class Deadly(np.ndarray):  # dies when the second tensor's bytes are asked for, after the first were written
        def reshape(self, *args):
            die()
    tensors = {{"a": fastdl.ones(1 << 20), "b": fastdl.from_numpy(np.zeros(4, np.int8))}}
    tensors["b"]._data = tensors["b"]._data.view(Deadly)
    serialization.np = type(np)("np"); serialization.np.__dict__.update(np.__dict__)
    serialization.np.ascontiguousarray = lambda a, dtype: a
    fastdl.save(tensors, {str(path)!r})
fastdl.save({{"x": fastdl.zeros(1 << 20)}}, {str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    np.testing.assert_array_equal(fastdl.load(path)["x"].numpy(), 1)


def test_failing_write_removes_its_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    fastdl.save({"x": fastdl.ones(3)}, path)

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        fastdl.save({"x": fastdl.zeros(3)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    np.testing.assert_array_equal(fastdl.load(path)["x"].numpy(), 1)


def test_modes_and_links(tmp_path):
    path, link = tmp_path / "real", tmp_path / "link"
    fastdl.save({"x": fastdl.ones(1)}, path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    link.symlink_to(path)
    fastdl.save({"x": fastdl.zeros(1)}, link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert fastdl.load(path)["x"].item() == 0


# Damaged files ----------------------------------------------------------------------------------------


def write(tmp_path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "damaged"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "not valid JSON"),
        (b"\xff\xfe", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "not valid JSON"),
        (b"[1]", b"", "must be a JSON object"),
        (b'{"a": 1, "a": 2}', b"", "a name occurs twice"),
        ({"a": 3}, b"", "'a' must have dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32"}}, b"", "'a' must have dtype, shape and data_offsets"),
        ({"__metadata__": {"a": 3}}, b"", "text to text"),
        ({"a": entry("F8_E4M3")}, b"x" * 8, "dtype 'F8_E4M3'; readable are"),
        ({"a": entry(["F32"])}, b"x" * 8, "dtype"),
        ({"a": entry(shape=[-2])}, b"x" * 8, "list of up to 64 sizes"),
        ({"a": entry(shape=[2.0])}, b"x" * 8, "list of up to 64 sizes"),
        ({"a": entry(shape=[True, 2])}, b"x" * 8, "list of up to 64 sizes"),
        ({"a": entry(shape=[1] * 64 + [2])}, b"x" * 8, "list of up to 64 sizes"),
        ({"a": {**entry(), "shape": "2"}}, b"x" * 8, "list of up to 64 sizes"),
        ({"a": entry(offsets=[0])}, b"x" * 8, "two numbers"),
        ({"a": entry(offsets=[8, 0])}, b"x" * 8, "do not lie within"),
        ({"a": entry(offsets=[0, 8])}, b"x" * 7, "truncated"),
        ({"a": entry(shape=[3])}, b"x" * 8, "does not fill"),
        ({"a": entry(shape=[2**62, 2**62], offsets=[0, 8])}, b"x" * 8, "too large"),
        ({"a": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}, b"", "too large"),
        ({"a": entry(shape=[2**62], offsets=[0, 2**62 + 5])}, b"x" * 8, "too large"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, b"x" * 12, "'b' begins at byte 4.*overlap or hole"),
        ({"a": entry(), "b": entry(offsets=[0, 8])}, b"x" * 8, "overlap or hole"),
        ({"a": entry(offsets=[4, 12])}, b"x" * 12, "'a' begins at byte 4.*overlap or hole"),
        ({"a": entry()}, b"x" * 9, "end at byte 8 of the data, which has 9"),
        ({"__metadata__": {"fastdl.structure": "{"}}, b"", "fastdl.structure in the metadata is damaged"),
        ({"__metadata__": {"fastdl.structure": '{"$tensor": "no"}'}}, b"", "is damaged.*'no'"),
        ({"__metadata__": {"fastdl.structure": '{"$tuple": 3}'}}, b"", "is damaged"),
        ({"__metadata__": {"fastdl.structure": '{"$dict": [[[1], 2]]}'}}, b"", "is damaged"),
        ({"__metadata__": {"fastdl.structure": '{"$bytes": "!"}'}}, b"", "is damaged"),
        ({"__metadata__": {"fastdl.structure": '{"$dtype": "x"}'}}, b"", "is damaged"),
        ({"__metadata__": {"fastdl.structure": "[" * 100_000}}, b"", "is damaged"),
    ],
)
def test_damaged_headers(tmp_path, header, data, message):
    with pytest.raises(ValueError, match=message):
        fastdl.load(write(tmp_path, header, data))


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "t"
    fastdl.save({"a": fastdl.ones(5), "b": fastdl.from_numpy(np.arange(3))}, path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="load: "):
            fastdl.load(path)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_flipped_bytes_never_do_worse_than_an_error(position, value):
    buffer = io.BytesIO()
    fastdl.save({"model": {"w": fastdl.ones(2, 2)}, "epoch": (3, None)}, buffer)
    data = bytearray(buffer.getvalue())
    data[position % len(data)] = value
    with contextlib.suppress(ValueError):
        fastdl.load(io.BytesIO(bytes(data)))


def test_other_files_are_refused_with_a_hint(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes, at least 8"):
        fastdl.load(path)
    with pytest.raises(FileNotFoundError):
        fastdl.load(tmp_path / "nothing")
    with pytest.raises(TypeError, match="path or a file"):
        fastdl.load(3)
    with pytest.raises(RuntimeError, match="is not available"):
        fastdl.load(path, map_location="cuda")


def test_odd_booleans_are_true(tmp_path):
    path = write(tmp_path, {"a": entry("BOOL", [3], [0, 3])}, b"\x00\x01\x07")
    assert fastdl.load(path)["a"].numpy().view(np.uint8).tolist() == [0, 1, 1]


def test_empty_and_ordered(tmp_path):
    fastdl.save({}, tmp_path / "x")
    assert fastdl.load(tmp_path / "x") == {}
    fastdl.save(OrderedDict(b=fastdl.ones(1), a=fastdl.ones(1, dtype=fastdl.float64)), tmp_path / "x")
    assert list(fastdl.load(tmp_path / "x")) == ["b", "a"]


def test_options_of_the_pickling_kind_are_accepted(tmp_path):
    path = tmp_path / "file"
    fastdl.save({"x": fastdl.ones(2)}, path, _use_new_zipfile_serialization=False, pickle_protocol=4)
    loaded = fastdl.load(path, "cpu", pickle, mmap=True, weights_only=False)
    assert loaded["x"].tolist() == [1, 1]

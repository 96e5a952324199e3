"""Files of ``torch.save``: both layouts, dtypes, views, shared storages; nothing in them is run; damage is found."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
LAYOUTS = pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])


def saved(value, archive=True) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=archive)
    file.seek(0)
    return file


def same(ours, theirs) -> None:
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, fastdl.Tensor)
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        assert ours.requires_grad == theirs.requires_grad
        wide = theirs.detach().double() if theirs.dtype.is_floating_point else theirs
        np.testing.assert_array_equal(ours.detach().numpy().astype(wide.numpy().dtype), wide.numpy())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            same(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is (fastdl.Size if isinstance(theirs, torch.Size) else type(theirs))
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs


@LAYOUTS
@pytest.mark.parametrize(
    "dtype",
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64".split(),
)
def test_dtypes(dtype, archive):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    values = torch.tensor([[0, 1, 2], [3, 100, 1]]).to(getattr(torch, dtype))
    same(
        fastdl.load(saved({"x": values, "scalar": values[1, 1]}, archive)),
        {"x": values, "scalar": values[1, 1]},
    )


@LAYOUTS
def test_views_and_shared_storages(archive):
    base = torch.arange(24.0).reshape(4, 6)
    value = [base, base.T, base[1:3, ::2], base[0, 0].expand(3, 2), base[:0], torch.empty(0, 3), base.clone()]
    same(fastdl.load(saved(value, archive)), value)


@LAYOUTS
def test_checkpoint(archive):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": 0.5,
        "name": "größe",
        "shape": torch.Size([1, 2]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nothing": None,
        "seen": {1, 2},
        "big": 10**30,
    }
    loaded = fastdl.load(saved(checkpoint, archive))
    same(loaded, checkpoint)
    assert type(loaded["model"]) is collections.OrderedDict
    ours = fastdl.nn.Sequential(fastdl.nn.Conv2d(3, 4, 3), fastdl.nn.BatchNorm2d(4), fastdl.nn.Linear(2, 2))
    ours.load_state_dict(loaded["model"])
    update = fastdl.optim.Adam(ours.parameters())
    update.load_state_dict(loaded["optimizer"])
    same(ours.state_dict(), model.state_dict())


OPTIMIZERS = ("SGD", "Adam", "NAdam", "RAdam", "Adagrad", "RMSprop", "Rprop", "Adadelta")
SCHEDULES = (
    lambda s, o: s.MultiStepLR(o, [2, 4]),
    lambda s, o: s.CyclicLR(o, 1e-3, 1e-1, 3, cycle_momentum=False),
    lambda s, o: s.OneCycleLR(o, 0.1, 8, cycle_momentum=False),
    lambda s, o: s.StepLR(o, 2),
)


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_training_goes_on_in_the_other_library(number, tmp_path):
    """Model, optimizer and schedule from torch's file here, and from here there, step by step the same."""
    x = np.random.default_rng(0).standard_normal((8, 5, 4)).astype(np.float32)

    def build(library):
        model = library.nn.Linear(4, 2)
        optimizer = getattr(library.optim, OPTIMIZERS[number])(model.parameters(), lr=0.01)
        return model, optimizer, SCHEDULES[number % 4](library.optim.lr_scheduler, optimizer)

    def step(library, model, optimizer, schedule, i):
        optimizer.zero_grad()
        loss = model(library.tensor(x[i])).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        return [loss.item(), optimizer.param_groups[0]["lr"]]

    def carried(parts, there):
        state = [part.state_dict() for part in parts]
        if there is fastdl:
            return fastdl.load(saved(state))
        fastdl.save(state, tmp_path / "state.pt")
        return torch.load(tmp_path / "state.pt")

    for here, there in ((torch, fastdl), (fastdl, torch)):
        parts, others = build(here), build(there)
        for i in range(4):
            step(here, *parts, i)
        for part, state in zip(others, carried(parts, there), strict=True):
            part.load_state_dict(state)
        for i in range(4, 8):
            np.testing.assert_allclose(step(there, *others, i), step(here, *parts, i), rtol=1e-4)


def test_loaded_dtypes_are_the_kernels_own():
    loaded = fastdl.load(saved([torch.tensor(3.0), torch.ones(2, dtype=torch.int64)]))
    assert loaded[0]._data.dtype is fastdl.float32
    assert loaded[1]._data.dtype is fastdl.int64
    file = io.BytesIO()
    fastdl.save([fastdl.ones(2)], file)
    file.seek(0)
    assert fastdl.load(file)[0]._data.dtype is fastdl.float32


def test_values_that_name_things_of_pytorch():
    value = [
        torch.float32,
        torch.bool,
        1 + 2j,
        torch.device("cuda", 1),
        torch.device("cpu"),
        torch.device("xpu"),
    ]
    want = [fastdl.float32, fastdl.bool, 1 + 2j, fastdl.device("cuda:1"), fastdl.device("cpu"), "xpu"]
    assert fastdl.load(saved(value)) == want


def test_one_object_in_two_places_stays_one():
    x = torch.ones(2)
    loaded = fastdl.load(saved([x, x, {"x": x}]))
    assert loaded[0] is loaded[1] is loaded[2]["x"]


def test_from_a_path(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    assert fastdl.load(tmp_path / "a.pth")["w"].tolist() == [1, 1]
    torch.save(torch.nn.Linear(1, 1), tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth: .*holds torch\.nn\.modules\.linear\.Linear.*state_dict"):
        fastdl.load(tmp_path / "b.pth")


class Malice:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@LAYOUTS
def test_code_is_not_run(archive, tmp_path):
    malice = Malice(tmp_path / "made by a file")
    for value in (malice, {"a": malice}, [torch.ones(1), malice]):
        with pytest.raises(ValueError, match="more than data"):
            fastdl.load(saved(value, archive))
    assert not list(tmp_path.iterdir())
    pickle.loads(pickle.dumps(malice))  # what a reader that trusts would have done
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [torch.ones(2).untyped_storage(), np.array([None]), np.array(["a"]), len],
)
def test_other_objects_are_refused(value):
    with pytest.raises(ValueError, match=r"torch\.save|bare storage"):
        fastdl.load(saved({"x": value}))


@LAYOUTS
def test_numbers_arrays_and_bytes_of_numpy(archive):
    """A best accuracy that is NumPy's, its random state, and bytes, as training scripts keep them."""
    value = {
        "best": np.float64(0.75),
        "step": np.int64(3),
        "done": np.bool_(True),
        "state": np.random.RandomState(3).get_state(),
        "dtype": np.dtype("int16"),
        "id": b"a\xff",
        "none": b"",
    }
    got = fastdl.load(saved(value, archive))
    assert [type(v) for v in got.values()] == [type(v) for v in value.values()]
    np.testing.assert_array_equal(got["state"][1], value["state"][1])
    assert {k: v for k, v in got.items() if k != "state"} == {k: v for k, v in value.items() if k != "state"}
    for array in (
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 2)),
        np.array(1.5),
        np.arange(3, dtype=">i2"),
        np.array([1j]),
    ):
        again = fastdl.load(saved([array], archive))[0]
        np.testing.assert_array_equal(again, array)
        assert (again.dtype, again.flags.writeable) == (array.dtype, True)


def test_a_dtype_takes_no_state_but_the_order_of_bytes():
    class Fields:
        def __reduce__(self):
            return np.dtype, ("f8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("f4"), 0)}, 8, 8, 0)

    assert fastdl.load(saved([Fields()]))[0] == np.dtype("f8")


def test_plain_pickles_and_archives_are_refused():
    with pytest.raises(ValueError, match=r"torch\.save did not write"):
        fastdl.load(io.BytesIO(pickle.dumps({"a": 1})))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ValueError, match=r"zip archive that torch\.save did not write"):
        fastdl.load(io.BytesIO(file.getvalue()))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:  # as TorchScript's
        archive.writestr("model/data.pkl", pickle.dumps({}, 2))
        archive.writestr("model/constants.pkl", pickle.dumps((), 2))
    with pytest.raises(ValueError, match="TorchScript"):
        fastdl.load(io.BytesIO(file.getvalue()))


def changed(file: io.BytesIO, change) -> io.BytesIO:
    """The archive with its description or storages changed."""
    result = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(result, "w") as new:
        for info in old.infolist():
            name, data = change(info.filename, old.read(info))
            new.writestr(name, data)
    return io.BytesIO(result.getvalue())


def test_tensors_beyond_their_storage_are_refused():
    cut = changed(saved(torch.arange(100.0)), lambda n, d: (n, d[:-4] if "/data/" in n else d))
    with pytest.raises(ValueError, match="cut off"):
        fastdl.load(cut)
    strides = changed(
        saved(torch.arange(6.0).reshape(2, 3)),
        lambda n, d: (n, d.replace(b"K\x02K\x03\x86", b"K\x03K\x03\x86")),
    )
    with pytest.raises(ValueError, match="beyond its storage"):
        fastdl.load(strides)


@LAYOUTS
def test_damage_is_a_value_error(archive):
    """Every cut, and every byte of the description changed: an error that says so, or data; never anything else."""
    whole = saved({"a": torch.arange(3.0), "b": [1, "x", None]}, archive).getvalue()
    rng = np.random.default_rng(0)
    for end in range(8, len(whole), 7):
        with contextlib.suppress(ValueError):
            fastdl.load(io.BytesIO(whole[:end]))
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] = rng.integers(256)
        with contextlib.suppress(ValueError, MemoryError):
            fastdl.load(io.BytesIO(bytes(data)))
